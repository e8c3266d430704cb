"""A server for an ASGI app over HTTP/2, on the running loop: TLS with ALPN, or cleartext with prior knowledge.

It stands on the `h2` library, which checks every frame of the client against the protocol: what it complains of is
kept in `errors` and fails the test that leaves the server. Flow control is real: the client gets credit for a stream
when the app reads, and the app's `send()` waits for the client's windows and for the transport.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections import deque
from typing import Any, NamedTuple, Self

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import trustme

_NO_BODY = frozenset({204, 304})


class H2TLS(NamedTuple):
    """A certificate for 127.0.0.1 and localhost, and who vouches for it."""

    leaf: trustme.LeafCert
    authority: trustme.CA

    def server_context(self, *alpn: str) -> ssl.SSLContext:
        """A server's context that speaks these protocols, its own favourite first; without any, no ALPN at all."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.leaf.configure_cert(context)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    def client_context(self, *alpn: str) -> ssl.SSLContext:
        """A client's context that trusts the certificate and offers these protocols."""
        # Not create_default_context(): it would read the system's authorities, which takes 25 ms.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.authority.configure_trust(context)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context


@functools.cache
def h2_tls() -> H2TLS:
    """The certificate of this process's tests: a key takes time to make."""
    authority = trustme.CA()
    return H2TLS(authority.issue_cert("127.0.0.1", "localhost"), authority)


@functools.cache
def h2_connect() -> dict[str, Any]:
    """`connect=` for a client of `H2AsgiServer(tls=True)`."""
    return {"ssl_context": h2_tls().client_context("http/1.1", "h2")}


class H2AsgiServer:
    """The server. `settings` are SETTINGS by their codes, over those of `h2`.

    Leaving the context raises AssertionError if a client broke the protocol.
    """

    def __init__(self, app: Any, *, tls: bool = False, settings: dict[int, int] | None = None) -> None:
        self.app = app
        self.settings = settings or {}
        self.connections: list[_Connection] = []
        """All of them, in the order of their coming."""
        self.requests = 0
        self.errors: list[str] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self._tls = h2_tls().server_context("h2") if tls else None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self), "127.0.0.1", 0, ssl=self._tls, backlog=1024
        )
        port = self._server.sockets[0].getsockname()[1]
        self.origin = f"{'https' if self._tls else 'http'}://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in self.connections:
            connection.transport.abort()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await asyncio.gather(*(connection.closed for connection in self.connections))
        await self._server.wait_closed()
        assert not self.errors, f"the client broke the protocol: {'; '.join(self.errors)}"


class _Connection(asyncio.Protocol):
    def __init__(self, server: H2AsgiServer) -> None:
        self.server = server
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding=None)
        )
        self.h2.local_settings = h2.settings.Settings(
            client=False,
            initial_values={h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 100, **server.settings},
        )
        self.exchanges: dict[int, _Exchange] = {}
        self.lost = False
        self.writing = True
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.server.connections.append(self)
        self.h2.initiate_connection()
        self.flush()

    def data_received(self, data: bytes) -> None:
        try:
            for event in self.h2.receive_data(data):
                self.on_event(event)
        except h2.exceptions.ProtocolError as error:
            self.server.errors.append(f"{type(error).__name__}: {error}")
            self.flush()
            self.transport.close()
            return
        self.flush()

    def flush(self) -> None:
        data = self.h2.data_to_send()
        if data and not self.lost:
            self.transport.write(data)

    def on_event(self, event: Any) -> None:
        match event:
            case h2.events.RequestReceived():
                self.server.requests += 1
                exchange = self.exchanges[event.stream_id] = _Exchange(self, event.stream_id, event.headers)
                task = asyncio.get_running_loop().create_task(exchange.run())
                self.server.tasks.add(task)
                task.add_done_callback(self.server.tasks.discard)
            case h2.events.DataReceived():
                if event.flow_controlled_length:
                    # One body that is not read must hold up no other: only the stream's credit waits for the app.
                    self.h2.increment_flow_control_window(event.flow_controlled_length)
                exchange = self.exchanges.get(event.stream_id)
                if exchange is not None:
                    exchange.inbox.append((event.data, event.flow_controlled_length))
                    exchange.changed.set()
            case h2.events.StreamEnded():
                exchange = self.exchanges.get(event.stream_id)
                if exchange is not None:
                    exchange.read_all = True
                    exchange.changed.set()
            case h2.events.StreamReset():
                exchange = self.exchanges.pop(event.stream_id, None)
                if exchange is not None:
                    exchange.reset_code = event.error_code
                    exchange.leave()
            case h2.events.WindowUpdated() | h2.events.RemoteSettingsChanged():
                self.wake()

    def wake(self) -> None:
        for exchange in self.exchanges.values():
            exchange.changed.set()

    def pause_writing(self) -> None:
        self.writing = False

    def resume_writing(self) -> None:
        self.writing = True
        self.wake()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        for exchange in self.exchanges.values():
            exchange.leave()
        self.exchanges.clear()
        self.closed.set_result(None)


class _Exchange:
    def __init__(self, connection: _Connection, stream_id: int, fields: Any) -> None:
        self.connection = connection
        self.h2 = connection.h2
        self.id = stream_id
        self.inbox: deque[tuple[bytes, int]] = deque()
        self.changed = asyncio.Event()
        self.read_all = False
        self.read_told = False
        self.gone = False
        self.answered = False
        self.started = False
        self.reset_code: int | None = None
        self.head: Any = None
        pseudo = {name: value for name, value in fields if name[:1] == b":"}
        plain = [(bytes(name), bytes(value)) for name, value in fields if name[:1] != b":"]
        self.expects = (b"expect", b"100-continue") in plain
        self.bodiless = pseudo[b":method"] == b"HEAD"
        path, _, query = pseudo.get(b":path", b"").partition(b"?")
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "2",
            "method": pseudo[b":method"].decode(),
            "scheme": pseudo.get(b":scheme", b"http").decode(),
            "path": path.decode("latin-1"),
            "raw_path": path,
            "query_string": query,
            "headers": [(b"host", pseudo.get(b":authority", b"")), *plain],
            "extensions": {"http.response.trailers": {}, "http.response.early_hint": {}},
        }

    def leave(self) -> None:
        self.gone = True
        self.changed.set()

    async def run(self) -> None:
        try:
            await self.connection.server.app(self.scope, self.receive, self.send)
        except OSError:
            pass  # the client went
        except Exception:
            if self.started:
                self.reset(h2.errors.ErrorCodes.INTERNAL_ERROR)
            else:
                await self.send(
                    {"type": "http.response.start", "status": 500, "headers": [(b"content-length", b"5")]}
                )
                await self.send({"type": "http.response.body", "body": b"error"})
        if not self.gone and not self.read_all:
            # Answered before it was read: the client may stop (RFC 9113 section 8.1).
            self.reset(h2.errors.ErrorCodes.NO_ERROR)
        self.connection.exchanges.pop(self.id, None)

    def reset(self, code: int) -> None:
        if not self.gone:
            self.gone = True
            self.h2.reset_stream(self.id, code)
            self.connection.flush()

    async def wait(self) -> None:
        self.changed.clear()
        await self.changed.wait()

    async def receive(self) -> dict[str, Any]:
        while True:
            if self.gone or self.answered:
                return {"type": "http.disconnect"}
            if self.inbox:
                data, credit = self.inbox.popleft()
                if credit and not self.read_all:
                    self.h2.increment_flow_control_window(credit, self.id)
                    self.connection.flush()
                return {"type": "http.request", "body": data, "more_body": True}
            if self.read_all and not self.read_told:
                self.read_told = True
                return {"type": "http.request", "body": b"", "more_body": False}
            if self.expects and not self.read_all:
                self.expects = False
                self.fields(100)
            await self.wait()

    async def send(self, message: dict[str, Any]) -> None:
        if self.gone:
            raise ConnectionResetError("the client has left")
        match message["type"]:
            case "http.response.early_hint":
                self.fields(103, [(b"link", link) for link in message["links"]])
            case "http.response.start":
                self.head = message
                self.bodiless = self.bodiless or message["status"] in _NO_BODY
            case "http.response.body":
                body = b"" if self.bodiless else message.get("body", b"")
                last = not message.get("more_body") and not (self.head.get("trailers") and not self.bodiless)
                if not self.started:
                    self.started = True
                    headers = [(bytes(name).lower(), bytes(value)) for name, value in self.head["headers"]]
                    self.fields(self.head["status"], headers, end=last and not body)
                    if last and not body:
                        self.answered = True
                        return
                elif self.bodiless and not last:
                    return
                await self.data(body, last)
            case "http.response.trailers":
                if not self.bodiless:
                    self.h2.send_headers(self.id, list(message["headers"]), end_stream=True)
                    self.connection.flush()
                self.answered = True

    def fields(
        self, status: int, headers: list[tuple[bytes, bytes]] | None = None, end: bool = False
    ) -> None:
        self.h2.send_headers(self.id, [(b":status", b"%d" % status), *(headers or [])], end_stream=end)
        self.connection.flush()

    async def data(self, body: bytes, last: bool) -> None:
        while body or last:
            if self.gone:
                raise ConnectionResetError("the client has left")
            room = min(self.h2.local_flow_control_window(self.id), self.h2.max_outbound_frame_size)
            if not self.connection.writing or (body and room <= 0):
                await self.wait()
                continue
            piece, body = body[:room], body[room:]
            self.h2.send_data(self.id, piece, end_stream=last and not body)
            self.connection.flush()
            if last and not body:
                self.answered = True
                return

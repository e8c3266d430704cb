"""The HTTP server that runs the gateway: uvicorn, in this process and on this loop.

uvicorn parses with httptools (llhttp), which is strict, and leaves some things to whoever runs it. `Connection` adds
limits: for a request's head and for the time that it may take to arrive, and for the number of connections. It also
settles what uvicorn does otherwise than RFC 9112:

    trailers                        are dropped (uvicorn: among the fields of the head, past what checked those)
    http://host/path as target      its host counts, not the Host field's (3.2.2)
    HTTP/1.0                        is sent no chunks: the end of the connection ends the body (6.1)
    what is no HTTP, behind a       closes the connection; a 400 would be taken for the answer to that request
    request that is being answered
    a client that leaves            ends all that it asked for, also what was pipelined before its last request

Signals are the application's, and uvicorn's own handlers are not installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import Iterator
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .address import Address
from .config import GatewayConfig
from .delivery import ON_GONE

_TOO_MANY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n"
    b"content-type: text/plain; charset=utf-8\r\ncontent-length: 26\r\n\r\n503: too many connections\n"
)
_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n"
    b"content-type: text/plain; charset=utf-8\r\ncontent-length: 33\r\n\r\n431: the request's head is large\n"
)
_TOO_LATE: Final = (
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n"
    b"content-type: text/plain; charset=utf-8\r\ncontent-length: 34\r\n\r\n408: the request's head came late\n"
)
_LOOK_SECONDS: Final = 1.0
_GATHERED: Final = 64 * 1024
_LINGER_SECONDS: Final = 2.0
_LINGER_BYTES: Final = 1024 * 1024
_NO_LENGTH: Final = 1 << 62
_RESET: Final = struct.pack("ii", 1, 0)
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)").match


class Limits:
    """What the connections of one server share."""

    def __init__(self, config: GatewayConfig) -> None:
        self.header_size = config.header_size
        self.header_timeout = config.header_timeout
        self.max_connections = config.max_connections
        self.waiting: dict[Connection, float] = {}
        """Connections that owe a request's head, and since when."""

    def look(self, now: float) -> None:
        """End those that have owed it for too long."""
        for connection, since in list(self.waiting.items()):
            if now - since < self.header_timeout:
                break  # they are in the order of their beginning
            connection.refuse(_TOO_LATE)


class GatheringTransport:
    """A transport that writes once in a loop turn what was written to it in pieces.

    uvicorn writes a response's head and its body apart, and uvloop hands each to the kernel at once. One system call
    instead of two answers half as many small requests again in the same time.
    """

    __slots__ = ("_loop", "_pieces", "_size", "_transport")

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._pieces: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)
        self._size += len(data)
        if self._size >= _GATHERED:
            self._flush()  # so that the transport can say when it has enough

    def _flush(self) -> None:
        pieces = self._pieces
        if pieces:
            self._pieces = []
            self._size = 0
            if self._transport.is_closing():
                return
            self._transport.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def write_eof(self) -> None:
        self._flush()
        self._transport.write_eof()

    def close(self) -> None:
        self._flush()
        self._transport.close()


class Connection(HttpToolsProtocol):
    """One client's connection, with limits. Those of its server are a class attribute of a subclass."""

    limits: Limits

    def connection_made(self, transport: Any) -> None:
        super().connection_made(GatheringTransport(transport, self.loop))  # type: ignore[arg-type]
        self._head = 0  # bytes of a head that is not whole yet; -1 when there is none
        self._fields = 0
        self._lingering = 0
        self._before: list[Any] = []  # requests whose answer the last one's waits for
        limits = self.limits
        if limits.max_connections and len(self.connections) > limits.max_connections:
            self.refuse(_TOO_MANY)
        elif limits.header_timeout:
            limits.waiting[self] = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        self.limits.waiting.pop(self, None)
        super().connection_lost(exc)
        for cycle in (*self._before, self.cycle):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
                if (on_gone := cycle.scope.get(ON_GONE)) is not None:
                    on_gone()

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            self._lingering += len(data)
            if self._lingering > _LINGER_BYTES:
                self.transport.abort()
            return
        if self._head >= 0:
            # What is counted here is what the parser keeps to itself until a field is whole.
            self._head += len(data)
            if self._head - len(data) > self.limits.header_size:
                self.refuse(_TOO_LARGE)
                return
        idle = self.timeout_keep_alive_task
        super().data_received(data)
        if idle is not None and self._head < 0 and self.cycle.response_complete and self.parser is not None:
            # Empty lines, or the rest of a body that nobody wants: the connection is as idle as before.
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_at(idle.when(), self.timeout_keep_alive_handler)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._fields = 0
        self._head = max(self._head, 0)
        if self.limits.header_timeout and self not in self.limits.waiting:
            self.limits.waiting[self] = self.loop.time()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        if self._head >= 0:  # or it is a trailer
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head = -1
        self.limits.waiting.pop(self, None)
        if not self.url.startswith(b"/") and (absolute := _ABSOLUTE(self.url)):
            self._use_target(absolute)
        before = self.cycle
        if before is not None and not before.response_complete:
            self._before = [*(each for each in self._before if not each.response_complete), before]
        super().on_headers_complete()

    def _use_target(self, absolute: re.Match[bytes]) -> None:
        rest = self.url[absolute.end() :]
        self.url = rest if rest.startswith(b"/") else b"/" + rest
        self.headers[:] = [(name, absolute[1] if name == b"host" else value) for name, value in self.headers]

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if cycle.scope["http_version"] == "1.0":
            app = CloseDelimited(app, cycle, self.transport)
        super()._start_asgi_task(cycle, app)

    def _count(self, size: int) -> None:
        self._fields += size
        if self._fields > self.limits.header_size:
            self.refuse(_TOO_LARGE)
            raise ValueError("the request's head is too large")  # ends the parser's work

    def send_400_response(self, msg: str) -> None:
        cycle = self.cycle
        if self._lingering:
            return
        if any(not each.response_complete for each in self._before) or (
            cycle is not None
            and not cycle.response_complete
            and (cycle.response_started or not cycle.more_body)
        ):
            self.transport.close()
        else:
            super().send_400_response(msg)

    def refuse(self, answer: bytes) -> None:
        """Answer without the app, and close."""
        self.limits.waiting.pop(self, None)
        if self._lingering or self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.close()  # there is an answer under way that this would be taken for
            return
        # To close while the client sends would reset the connection, and the answer with it (RFC 9112 9.6).
        self._lingering = 1
        self.transport.write(answer)
        self.transport.write_eof()
        self.loop.call_later(_LINGER_SECONDS, self.transport.close)


class CloseDelimited:
    """An app, for a client of HTTP/1.0: a body without a length ends with the connection.

    When the app fails in its middle, the connection is reset: a part would look like the whole.
    """

    def __init__(self, app: Any, cycle: Any, transport: Any) -> None:
        self._app = app
        self._cycle = cycle
        self._transport = transport
        self._delimited = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        cycle = self._cycle

        async def send_plain(message: Any) -> None:
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                if b"content-length" not in names and message["status"] not in {204, 304}:
                    self._delimited = True
                    cycle.chunked_encoding = False
                    cycle.expected_content_length = _NO_LENGTH
            elif self._delimited and not message.get("more_body"):
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, send_plain)
        except BaseException:
            if self._delimited and not cycle.response_complete:
                self._reset()
            raise

    def _reset(self) -> None:
        with contextlib.suppress(OSError):
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()


class Frontend:
    """Serves an ASGI app at sockets that are open already.

    Args:
        app: the gateway.
        config: its limits.
        drain_timeout: seconds that running requests have when it stops.
    """

    def __init__(self, app: Any, config: GatewayConfig, drain_timeout: float) -> None:
        self._limits = Limits(config)
        protocol = type("Connection", (Connection,), {"limits": self._limits})
        self._server = _Server(
            uvicorn.Config(
                app,
                http=protocol,
                ws="websockets-sansio",
                ws_max_size=config.websocket_size or 2**62,
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                backlog=config.backlog,
                timeout_keep_alive=config.keep_alive,  # type: ignore[arg-type]  # a float does
                timeout_graceful_shutdown=drain_timeout,  # type: ignore[arg-type]
            )
        )
        self._task: asyncio.Task[None] | None = None
        self._looking: asyncio.TimerHandle | None = None

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._server.server_state.connections)

    async def start(self, sockets: list[socket.socket]) -> None:
        """Begin to accept connections."""
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._server.serve(sockets))
        ready = loop.create_task(self._server.ready.wait())
        await asyncio.wait((self._task, ready), return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self._task.done():
            await self._task
        self._look()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._limits.look(loop.time())
        self._looking = loop.call_later(min(_LOOK_SECONDS, self._limits.header_timeout or 60.0), self._look)

    def refuse(self) -> None:
        """Accept nothing more from now on."""
        self._server.should_exit = True
        for server in self._server.servers:
            server.close()  # now, and not when uvicorn looks next

    async def stop(self) -> None:
        """Accept nothing more, and return when what is running has been answered, or `drain_timeout` is over.

        Connections without a request are closed at once, the others after their response.
        """
        self.refuse()
        if self._looking is not None:
            self._looking.cancel()
        if self._task is not None:
            await self._task

    def cut(self) -> None:
        """End now what `stop()` is waiting for."""
        self._server.should_exit = self._server.force_exit = True
        for task in list(self._server.server_state.tasks):
            task.cancel()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.servers = []
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def open_sockets(addresses: tuple[Address, ...], backlog: int) -> list[tuple[Address, socket.socket]]:
    """Listen at every address, or at none.

    Raises:
        OSError: an address is in use, or not ours.
    """
    opened: list[tuple[Address, socket.socket]] = []
    try:
        for address in addresses:
            listener = address.listen(backlog)
            opened.append((address.bound(listener), listener))
    except BaseException:
        for address, listener in opened:
            listener.close()
            address.release()
        raise
    return opened

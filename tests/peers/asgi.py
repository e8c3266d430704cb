"""Servers for an ASGI app: one of our own on h11 (trailers, 103, in the test's loop), and uvicorn in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import Any, Self

import h11

_NO_BODY = frozenset({204, 304})


class AsgiServer:
    """A small, correct HTTP/1.1 server on the running loop: what the big ones lack is what it is for."""

    def __init__(self, app: Any, *, ssl: Any = None) -> None:
        self.app = app
        self.connections = 0
        self.requests = 0
        self._ssl = ssl
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._connected, "127.0.0.1", 0, ssl=self._ssl, backlog=1024
        )
        port = self._server.sockets[0].getsockname()[1]
        self.origin = f"{'https' if self._ssl else 'http'}://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            await _Connection(self, reader, writer).run()
        except (OSError, h11.ProtocolError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()


class _Connection:
    def __init__(
        self, server: AsgiServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.server = server
        self.reader = reader
        self.writer = writer
        self.h11 = h11.Connection(h11.SERVER)
        self.eof = False

    async def fill(self) -> bool:
        """Feed h11 from the socket; False at the end."""
        if self.eof:
            return False
        data = await self.reader.read(65536)
        self.eof = not data
        self.h11.receive_data(data)
        return not self.eof

    async def event(self) -> Any:
        while True:
            event = self.h11.next_event()
            if event is not h11.NEED_DATA:
                return event
            if self.h11.they_are_waiting_for_100_continue:
                self.writer.write(
                    self.h11.send(h11.InformationalResponse(status_code=100, headers=[])) or b""
                )
            await self.fill()

    async def run(self) -> None:
        while True:
            event = await self.event()
            if not isinstance(event, h11.Request):
                return
            self.server.requests += 1
            await self.exchange(event)
            if self.h11.our_state is h11.DONE and self.h11.their_state is h11.DONE:
                self.h11.start_next_cycle()
                continue
            # What was answered before it was read: let the answer arrive before the reset that unread bytes cause.
            if self.h11.our_state is not h11.ERROR and self.writer.can_write_eof():
                self.writer.write_eof()
                async with asyncio.timeout(2):
                    while await self.reader.read(65536):
                        pass
            return

    async def exchange(self, request: h11.Request) -> None:
        target = request.target.decode("latin-1")
        path, _, query = target.partition("?")
        self.read_all = False
        self.answered = False
        self.head: Any = None
        self.started = False
        self.trailers: list[Any] | None = None
        self.bodiless = request.method == b"HEAD"
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": request.http_version.decode(),
            "method": request.method.decode(),
            "scheme": "http",
            "path": path,
            "raw_path": path.encode("latin-1"),
            "query_string": query.encode("latin-1"),
            "headers": list(request.headers),
            "extensions": {"http.response.trailers": {}, "http.response.early_hint": {}},
        }
        try:
            await self.server.app(scope, self.receive, self.send)
        except Exception:
            if self.started:
                self.writer.close()
                raise ConnectionAbortedError from None
            await self.send(
                {"type": "http.response.start", "status": 500, "headers": [(b"content-length", b"5")]}
            )
            await self.send({"type": "http.response.body", "body": b"error"})
        await self.writer.drain()

    async def receive(self) -> dict[str, Any]:
        while True:
            if self.answered:
                return {"type": "http.disconnect"}
            if self.read_all or self.h11.their_state is not h11.SEND_BODY:
                if not self.read_all:
                    self.read_all = True
                    return {"type": "http.request", "body": b"", "more_body": False}
                while await self.fill():
                    pass
                return {"type": "http.disconnect"}
            event = await self.event()
            if isinstance(event, h11.Data):
                return {"type": "http.request", "body": bytes(event.data), "more_body": True}
            if isinstance(event, h11.EndOfMessage):
                self.read_all = True
                return {"type": "http.request", "body": b"", "more_body": False}
            return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "http.response.early_hint":
            links = [(b"link", link) for link in message["links"]]
            self.write(h11.InformationalResponse(status_code=103, headers=links, reason=b"Early Hints"))
        elif kind == "http.response.start":
            self.head = message
        elif kind == "http.response.body":
            if not self.started:
                self.started = True
                status = self.head["status"]
                self.bodiless = self.bodiless or status in _NO_BODY
                self.write(
                    h11.Response(status_code=status, headers=list(self.head["headers"]), reason=b"Fine")
                )
            if message.get("body") and not self.bodiless:
                self.write(h11.Data(data=message["body"]))
            if not message.get("more_body") and not self.head.get("trailers"):
                self.write(h11.EndOfMessage())
                self.answered = True
        elif kind == "http.response.trailers":
            self.write(h11.EndOfMessage(headers=list(message["headers"])))
            self.answered = True
        await self.writer.drain()

    def write(self, event: Any) -> None:
        self.writer.write(self.h11.send(event) or b"")


class UvicornServer:
    """uvicorn, in a thread with a loop of its own."""

    def __init__(self, app: Any, **config: Any) -> None:
        import uvicorn

        self.socket = socket.create_server(("127.0.0.1", 0), backlog=1024)
        # asyncio sets it only where a socket says that its protocol is TCP, which those accepted here do not.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        scheme = "https" if "ssl_certfile" in config else "http"
        self.origin = f"{scheme}://127.0.0.1:{self.socket.getsockname()[1]}"
        settings = {
            "lifespan": "off",
            "log_level": "critical",
            "access_log": False,
            "ws": "none",
            "loop": "asyncio",
        }
        self.server = uvicorn.Server(
            uvicorn.Config(app, **{**settings, "timeout_graceful_shutdown": 1, **config})
        )
        self.server.install_signal_handlers = lambda: None  # type: ignore[method-assign]  # not in the main thread
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        asyncio.run(self.server.serve(sockets=[self.socket]))

    def __enter__(self) -> Self:
        # The socket listens already: a client may connect before uvicorn accepts.
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(10)
        self.socket.close()

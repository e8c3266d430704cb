"""The HTTP server that runs the gateway: uvicorn, in this process and on this loop.

uvicorn parses with httptools (llhttp), which is strict, and leaves three things to whoever runs it. `Connection`
adds them: a limit for a request's head and for the time that it may take to arrive, and one for the number of
connections. Signals are the application's, and uvicorn's own handlers are not installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .address import Address
from .config import GatewayConfig

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
        limits = self.limits
        if limits.max_connections and len(self.connections) > limits.max_connections:
            self.refuse(_TOO_MANY)
        elif limits.header_timeout:
            limits.waiting[self] = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        self.limits.waiting.pop(self, None)
        super().connection_lost(exc)

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
        super().data_received(data)

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
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head = -1
        self.limits.waiting.pop(self, None)
        super().on_headers_complete()

    def _count(self, size: int) -> None:
        self._fields += size
        if self._fields > self.limits.header_size:
            self.refuse(_TOO_LARGE)
            raise ValueError("the request's head is too large")  # ends the parser's work

    def send_400_response(self, msg: str) -> None:
        if not self._lingering:
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

    async def stop(self) -> None:
        """Accept nothing more, and return when what is running has been answered, or `drain_timeout` is over.

        Connections without a request are closed at once, the others after their response.
        """
        self._server.should_exit = True
        for server in self._server.servers:
            server.close()  # now, and not when uvicorn looks next
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

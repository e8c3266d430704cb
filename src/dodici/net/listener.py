"""Listening: sockets, the handshakes of those who come, and one task for each of them.

Each connection has its handshake by itself, with a context that is asked for then: so certificates may change while it
listens, and whoever shakes hands slowly keeps nobody else.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from ..core.errors import SocketError

_log = logging.getLogger("dodici.net")
_P = TypeVar("_P", bound=asyncio.Protocol)
_BACKLOG = 128
_HANDSHAKE = 5.0
"""Seconds for a TLS handshake."""
_SHUTDOWN = 1.0
"""Seconds for the other end's last word of TLS."""
_NO_ROOM = 0.1
"""Seconds until another try where the system has no descriptor left."""


class Listener(Generic[_P]):
    """Takes connections on one port.

    Args:
        factory: makes the protocol of a connection.
        serve: awaited for each connection, which is aborted when it returns.
        context: gives the TLS context for a connection that begins; None: plaintext.
        most: connections at a time; those beyond are closed at once.
    """

    def __init__(
        self,
        factory: Callable[[], _P],
        serve: Callable[[_P, asyncio.Transport], Awaitable[None]],
        *,
        context: Callable[[], ssl.SSLContext] | None = None,
        most: int = 4096,
    ) -> None:
        self._factory = factory
        self._serve = serve
        self._context = context
        self._most = most
        self._sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._connections: set[asyncio.Task[None]] = set()

    async def open(self, host: str, port: int) -> int:
        """Listen at all addresses of a host; returns the port.

        Args:
            host: a name or an IP address, without brackets.
            port: 0 for any that is free.

        Raises:
            SocketError: it cannot be listened there.
        """
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, *_, address in dict.fromkeys(found):
                self._listen(family, str(address[0]), port)
                port = self._sockets[0].getsockname()[1]
        except OSError as error:
            self._close_sockets()
            raise SocketError(f"cannot listen on {host}, port {port}: {error}") from error
        self._accepting = [asyncio.create_task(self._accept(each, loop)) for each in self._sockets]
        return port

    def _listen(self, family: int, host: str, port: int) -> None:
        both = host == "::" and socket.has_dualstack_ipv6()
        try:
            sock = socket.create_server((host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=both)
        except OSError:
            if not self._sockets:
                raise
            return  # "localhost" on a machine whose ::1 is no address, or has that port in use
        sock.setblocking(False)
        self._sockets.append(sock)

    async def close(self, grace: float) -> None:
        """Take no more connections, and end those that there are after `grace` seconds."""
        for accepting in self._accepting:
            accepting.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        self._close_sockets()
        if self._connections:
            await asyncio.wait(self._connections, timeout=grace)
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _close_sockets(self) -> None:
        while self._sockets:
            self._sockets.pop().close()

    async def _accept(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            try:
                arrived, _ = await loop.sock_accept(sock)
            except ConnectionError:
                continue  # gone before it was accepted
            except OSError as error:
                _log.warning("cannot accept a connection: %s", error)
                await asyncio.sleep(_NO_ROOM)
                continue
            if len(self._connections) >= self._most:
                arrived.close()
                continue
            connection = asyncio.create_task(self._attend(arrived, loop))
            self._connections.add(connection)
            connection.add_done_callback(self._connections.discard)

    async def _attend(self, arrived: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        try:
            context = None if self._context is None else self._context()
            # What is returned as the protocol is uvloop's own where there is TLS.
            protocol = self._factory()
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol,
                arrived,
                ssl=context,
                ssl_handshake_timeout=None if context is None else _HANDSHAKE,
                ssl_shutdown_timeout=None if context is None else _SHUTDOWN,
            )
        except OSError as error:
            arrived.close()
            _log.debug("a connection came to nothing: %s", error)
            return
        except BaseException:
            arrived.close()
            raise
        try:
            await self._serve(protocol, transport)
        except Exception:
            _log.exception("a connection could not be served")
        finally:
            transport.abort()

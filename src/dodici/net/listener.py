"""Listening: sockets, the handshakes of those who come, and one task for each of them.

Each connection has its handshake by itself, with a context that is asked for then: so certificates may change while it
listens, and whoever shakes hands slowly keeps nobody else.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from ..core.errors import SocketError

_log = logging.getLogger("dodici.net")
_P = TypeVar("_P", bound=asyncio.Protocol)
_BACKLOG = 1024
_AT_ONCE = 64
"""Connections that are accepted before other things have their turn."""
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
        self._path: tuple[Path, int] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._told = -math.inf

    @property
    def addresses(self) -> list[tuple[int, str, int]]:
        """Families, hosts and ports that it listens at."""
        return [(each.family, *each.getsockname()[:2]) for each in self._sockets]

    async def open(self, host: str, port: int) -> int:
        """`bind` and `start`."""
        port = await self.bind(host, port)
        self.start()
        return port

    async def bind(self, host: str, port: int, *, named: str | None = None) -> int:
        """Take all addresses of a host; returns the port. Who connects waits until `start`.

        Args:
            host: a name or an IP address, without brackets.
            port: 0 for any that is free.
            named: how an error calls it.

        Raises:
            SocketError: it cannot be listened there.
        """
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, *_, address in dict.fromkeys(found):
                self._listen(family, str(address[0]), port)
                port = self._sockets[0].getsockname()[1]
        except (OSError, UnicodeError) as error:
            self._close_sockets()
            raise _refused(named or f"{host}, port {port}", error) from error
        return port

    def bind_unix(self, path: str, *, named: str | None = None) -> None:
        """Take the path of a unix socket, which is removed in the end. One that nobody listens at is replaced.

        Raises:
            SocketError: it cannot be listened there.
        """
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.setblocking(False)
            if _is_left_behind(path):
                Path(path).unlink()
            sock.bind(path)
            sock.listen(_BACKLOG)
            self._path = Path(path).absolute(), Path(path).stat().st_ino
        except (OSError, ValueError) as error:
            sock.close()
            raise _refused(named or path, error) from error
        self._sockets.append(sock)

    def start(self) -> None:
        """Take connections."""
        self._loop = asyncio.get_running_loop()
        for each in self._sockets:
            self._loop.add_reader(each, self._accept, each, self._loop)

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

    async def stop(self) -> None:
        """Take no more connections."""
        self._close_sockets()

    async def close(self, grace: float) -> None:
        """Take no more connections, and end those that there are after `grace` seconds."""
        await self.stop()
        if self._connections:
            await asyncio.wait(self._connections, timeout=grace)
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await asyncio.sleep(0)  # for `_ended`: what is done already is not waited for

    def _close_sockets(self) -> None:
        while self._sockets:
            sock = self._sockets.pop()
            if self._loop is not None:
                self._loop.remove_reader(sock)
            sock.close()
        if self._path is not None:
            path, inode = self._path
            self._path = None
            with suppress(OSError):
                if path.stat().st_ino == inode:
                    path.unlink()

    def _accept(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        for _ in range(_AT_ONCE):
            try:
                arrived, peer = sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:
                continue  # gone before it was accepted
            except OSError as error:
                _log.warning("cannot accept a connection: %s", error)
                loop.remove_reader(sock)
                loop.call_later(_NO_ROOM, self._go_on, sock, loop)
                return
            if len(self._connections) >= self._most:
                arrived.close()
                continue
            arrived.setblocking(False)
            connection = loop.create_task(self._attend(arrived, peer, loop))
            self._connections.add(connection)
            connection.add_done_callback(partial(self._ended, arrived))

    def _go_on(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        if sock in self._sockets:
            loop.add_reader(sock, self._accept, sock, loop)

    def _ended(self, arrived: socket.socket, connection: asyncio.Task[None]) -> None:
        self._connections.discard(connection)
        arrived.close()  # of one that was cancelled before it began, nobody else knows

    async def _attend(self, arrived: socket.socket, peer: object, loop: asyncio.AbstractEventLoop) -> None:
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
        except ssl.SSLError as error:
            self._tell_of_refusal(peer, error)
            return
        except OSError as error:
            _log.debug("a connection came to nothing: %s", error)
            return
        except Exception as error:
            _log.warning("a connection cannot be taken: %s", error)
            return
        try:
            await self._serve(protocol, transport)
        except Exception:
            _log.exception("a connection could not be served")
        finally:
            transport.abort()

    def _tell_of_refusal(self, peer: object, error: ssl.SSLError) -> None:
        """Whoever was refused is not told why; whoever keeps this end has to be. At most once a second."""
        now = time.monotonic()
        level = logging.INFO if now - self._told >= 1.0 else logging.DEBUG
        if level == logging.INFO:
            self._told = now
        _log.log(level, "no TLS connection from %s: %s", _shown(peer), error)


def _shown(peer: object) -> str:
    """The address of a socket, for people."""
    return f"{peer[0]} port {peer[1]}" if isinstance(peer, tuple) else "a unix socket"


def _is_left_behind(path: str) -> bool:
    """Whether there is a unix socket of that name, and nobody takes connections at it."""
    try:
        if not Path(path).is_socket():
            return False
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            probe.connect(path)
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def _refused(where: str, error: Exception) -> SocketError:
    if isinstance(error, UnicodeError):
        reason = "that is no host name"
    elif isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        reason = "the address is in use"
    else:
        reason = getattr(error, "strerror", None) or str(error)
    return SocketError(f"cannot listen on {where}: {reason}")

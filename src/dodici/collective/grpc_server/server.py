"""Listening for gRPC, and stopping so that no call is lost that need not be."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol

from ...net.listener import Listener
from ...wire.h2.requests import RequestSection
from ...wire.h2.settings import LocalSettings
from ..addresses import split_address
from ..contracts import Identity, ServerSecurity
from ..identity import identity_of
from .connection import Connection
from .handler import Handler
from .head import RequestHead

if TYPE_CHECKING:
    import ssl

_STREAM_WINDOW: Final = 1024 * 1024
_CONNECTION_WINDOW: Final = 16 * 1024 * 1024
_MOST_CALLS: Final = 16_384
"""Of one connection at a time: a client has the others wait. Watches and links stay open, so these are not few."""
_MOST_CONNECTIONS: Final = 65_536
_METADATA: Final = 16 * 1024
"""Bytes of metadata in a call, as gRPC's own servers take."""
_ALPN: Final = ("h2",)
_LAST_WORDS: Final = 1.0
"""Seconds in which clients read the status of calls that are ended, and handlers end that were cancelled."""


class ServerFace(Protocol):
    """Takes what arrives at a server."""

    def method(self, head: RequestHead) -> Handler | None:
        """The handler of an arriving call; None: UNIMPLEMENTED.

        Called once per call, before anything of its input was read.
        """


class Server:
    """A gRPC server: plaintext HTTP/2 with prior knowledge, or TLS with ALPN.

    Args:
        face: takes the calls.
        address: ``"host:port"``, port 0 for any that is free; or ``"unix:/path"``.
        security: certificates; None: plaintext.
        message: bytes that a message may have, in either direction.
        keepalive: seconds of silence after which a client is asked whether it lives, and seconds for its answer.

    Raises:
        InvalidArgumentError: the address is none.
    """

    def __init__(
        self,
        face: ServerFace,
        address: str,
        *,
        security: ServerSecurity | None = None,
        message: int = 16 * 1024 * 1024,
        keepalive: tuple[float, float] = (10.0, 5.0),
    ) -> None:
        self._host, self._port = split_address(address)
        self.address = address
        """Where it listens; with its port once `listen` has returned."""
        self.face = face
        self.message = message
        self.metadata = _METADATA
        self.keepalive = keepalive
        self.settings = LocalSettings(
            stream_window=_STREAM_WINDOW,
            connection_window=_CONNECTION_WINDOW,
            max_header_list_size=_METADATA,
            max_concurrent_streams=_MOST_CALLS,
        )
        self.heads: dict[bytes, RequestSection] = {}
        """Heads that any connection may have sent."""
        self.max_age: tuple[float, float] | None = None if security is None else security.connection_age()
        """Seconds after which a client is asked for another connection, and for the calls that still run then."""
        self.tasks: set[asyncio.Task[None]] = set()
        """Handlers that run."""
        self._security = security
        self._listening = self._stopping = False
        self._connections: set[Connection] = set()
        self._listener: Listener[Connection] = Listener(
            lambda: Connection(self),
            self._serve,
            context=None if security is None else self._context,
            most=_MOST_CONNECTIONS,
        )

    async def listen(self) -> None:
        """Take the address; connections wait until `start`.

        Raises:
            SocketError: it cannot be listened on.
        """
        if self._security is not None:
            self._context()  # what it begins with serves until the files hold another pair
        listener, address = self._listener, self.address
        if self._host is None:
            listener.bind_unix(address.removeprefix("unix:").removeprefix("//"), named=address)
        else:
            port = await listener.bind(self._host.strip("[]"), self._port, named=address)
            self.address = f"{self._host}:{port}"
        self._listening = True

    async def start(self) -> None:
        """Begin to serve; `listen` first, if that was not done."""
        if not self._listening:
            await self.listen()
        self._listener.start()

    async def stop(self, grace: float | None) -> None:
        """Take no more connections, ask for no more calls; end those that still run after `grace` seconds, with UNAVAILABLE.

        Calls that last as long as their clients are ended at once.
        """
        self._stopping = True
        await self._listener.stop()
        for connection in list(self._connections):
            connection.retire(at_once=not grace)
            for call in connection.calls:
                if call.lasting:
                    call.shut()
        await self._gone(grace or 0.0)
        for connection in list(self._connections):
            for call in connection.calls:
                call.shut()
        await self._gone(_LAST_WORDS)
        for connection in list(self._connections):
            connection.lose()
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=_LAST_WORDS)
        await self._listener.close(0.0)
        await self._gone(_LAST_WORDS)  # what was cut is closed a turn of the loop later

    async def _gone(self, seconds: float) -> None:
        """Wait until there are no connections, but no longer than that."""
        end = asyncio.get_running_loop().time() + seconds
        while self._connections and (left := end - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait([connection.gone for connection in self._connections], timeout=left)

    def arrived(self, connection: Connection) -> None:
        """A connection stands."""
        self._connections.add(connection)
        connection.gone.add_done_callback(lambda _: self._connections.discard(connection))
        if self._stopping:  # it came before, and has shaken hands since
            connection.retire(at_once=True)

    def identity(self, transport: asyncio.BaseTransport) -> Identity:
        """Whose certificate the other end of a connection has shown."""
        if self._security is None:
            return Identity()
        return identity_of(transport.get_extra_info("peercert") or {})

    def _context(self) -> ssl.SSLContext:
        assert self._security is not None
        return self._security.server_context(_ALPN)

    async def _serve(self, connection: Connection, transport: Any) -> None:
        try:
            await connection.gone
        finally:
            connection.lose()

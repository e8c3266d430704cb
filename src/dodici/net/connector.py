"""The connector: from an origin to a connected transport.

Names are resolved off the loop, addresses are tried as RFC 8305 (Happy Eyeballs) says, and one timeout
covers DNS, TCP and TLS. Instances are callables of the shape that `connect=` of a dispatcher takes, so that
anybody's own can stand in.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import aiohappyeyeballs

from ..core import diagnostics
from ..core.errors import (
    ConnectTimeoutError,
    DodiciError,
    InvalidArgumentError,
    NotSupportedError,
    connect_error,
)
from ..core.options import check_count, check_seconds
from .tls import tls_context
from .transport import TLS, check_kind, open_transport

ProtocolFactory: TypeAlias = Callable[[], asyncio.Protocol]
Connect: TypeAlias = "Callable[[ConnectTarget, ProtocolFactory], Awaitable[tuple[asyncio.Transport, Any]]]"


@dataclass(frozen=True, slots=True)
class ConnectTarget:
    """Where to connect to.

    `server_name` is what TLS asks for and checks; None for an origin without TLS. `alpn` names the protocols
    to offer there, the preferred first (RFC 7301); which was chosen is what `negotiated` says.
    """

    origin: str
    scheme: str
    host: str
    port: int
    server_name: str | None = None
    alpn: tuple[str, ...] = ("http/1.1",)


class Connector:
    """Connects over TCP or a unix socket, with TLS for `https`.

    Args:
        timeout: seconds for DNS, TCP and TLS together; 0 for no limit.
        ssl_context: a context to use as it is, for every connection. It must set its own ALPN protocols: h2 is
            spoken if it negotiates it. Otherwise contexts are made of the four below, see `tls_context`.
        verify, ca, cert, max_cached_sessions: see `tls_context`.
        server_name: the name for TLS, instead of the origin's host.
        socket_path: a unix socket to connect to, instead of the origin's host; Host stays the origin's.
        local_address: the IP address to connect from.
        happy_eyeballs_delay: seconds to wait for one address before the next is tried beside it.
        keep_alive: seconds of silence before TCP probes begin; 0 for none.
        transport: who encrypts: "auto" for what was measured to be the fastest, "loop" for the event loop's own
            TLS. The environment variable DODICI_TRANSPORT says what "auto" means.

    Raises (when called): ConnectTimeoutError, ConnectError or its subclasses.
    """

    def __init__(
        self,
        *,
        timeout: float = 10.0,
        ssl_context: ssl.SSLContext | None = None,
        verify: bool = True,
        ca: str | os.PathLike[str] | None = None,
        cert: str | tuple[str, str] | tuple[str, str, str] | None = None,
        server_name: str | None = None,
        socket_path: str | os.PathLike[str] | None = None,
        local_address: str | None = None,
        happy_eyeballs_delay: float = 0.25,
        keep_alive: float = 60.0,
        max_cached_sessions: int = 100,
        transport: str = "auto",
    ) -> None:
        self.timeout = check_seconds("connect timeout", timeout)
        if ssl_context is not None and not isinstance(ssl_context, ssl.SSLContext):
            raise InvalidArgumentError(f"ssl_context must be an ssl.SSLContext, not {ssl_context!r}")
        if ssl_context is not None and (not verify or ca is not None or cert is not None):
            raise InvalidArgumentError("ssl_context excludes verify, ca and cert: set them on the context")
        self._ssl_context = ssl_context
        self._tls: dict[str, Any] = {
            "verify": bool(verify),
            "ca": os.fspath(ca) if ca is not None else None,
            "cert": cert,
            "max_cached_sessions": check_count("max_cached_sessions", max_cached_sessions),
        }
        self.server_name = server_name
        self.socket_path = os.fspath(socket_path) if socket_path is not None else None
        if self.socket_path is not None and not hasattr(socket, "AF_UNIX"):
            raise NotSupportedError(
                "this platform has no unix sockets: connect over TCP instead of socket_path"
            )
        if local_address is not None:
            try:
                ipaddress.ip_address(local_address)
            except ValueError:
                raise InvalidArgumentError(
                    f"local_address must be an IP address, not {local_address!r}"
                ) from None
        self.local_address = local_address
        self.happy_eyeballs_delay = check_seconds("happy_eyeballs_delay", happy_eyeballs_delay)
        self.keep_alive = check_seconds("keep_alive", keep_alive)
        self.transport = check_kind(transport)
        self._lookups: dict[tuple[str, int], asyncio.Future[list[Any]]] = {}

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """The context that the next connection for HTTP/1.1 would use."""
        return self.context_for(("http/1.1",))

    def context_for(self, alpn: tuple[str, ...]) -> ssl.SSLContext:
        """The context for a connection that offers these protocols: the caller's own, or a shared one.

        Ask for each connection: files that have changed since make another one.
        """
        return self._ssl_context or tls_context(**self._tls, alpn=alpn)

    async def __call__(
        self, target: ConnectTarget, protocol_factory: ProtocolFactory
    ) -> tuple[asyncio.Transport, Any]:
        where = self.socket_path or f"{target.host}:{target.port}"
        message = {"connect_params": target, "connector": self}
        if diagnostics.CLIENT_BEFORE_CONNECT.subscribers:
            diagnostics.CLIENT_BEFORE_CONNECT.publish(message)
        try:
            async with asyncio.timeout(self.timeout or None):
                transport, protocol = await self._connect(target, protocol_factory)
        except (DodiciError, OSError, UnicodeError) as cause:
            if type(cause) is TimeoutError and cause.errno is None:
                cause = ConnectTimeoutError(f"connect to {where} timed out after {self.timeout:g} s")
            error = connect_error(cause, where, origin=target.origin)
        else:
            if diagnostics.CLIENT_CONNECTED.subscribers:
                diagnostics.CLIENT_CONNECTED.publish({**message, "socket": transport})
            return transport, protocol
        if diagnostics.CLIENT_CONNECT_ERROR.subscribers:
            diagnostics.CLIENT_CONNECT_ERROR.publish({**message, "error": error})
        raise error

    async def _connect(
        self, target: ConnectTarget, factory: ProtocolFactory
    ) -> tuple[asyncio.Transport, Any]:
        loop = asyncio.get_running_loop()
        tls = None
        if target.scheme == "https":
            name = target.server_name or self.server_name or target.host
            tls = TLS(self.context_for(target.alpn), name)
        sock = await self._open(target, loop)
        return await open_transport(loop, factory, sock, tls, kind=self.transport)

    async def _open(self, target: ConnectTarget, loop: asyncio.AbstractEventLoop) -> socket.socket:
        if self.socket_path is not None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.setblocking(False)
            try:
                await loop.sock_connect(sock, self.socket_path)
            except BaseException:
                sock.close()
                raise
            return sock
        infos = await self._resolve(target.host, target.port, loop)
        local = None
        if self.local_address is not None:
            family = socket.AF_INET6 if ":" in self.local_address else socket.AF_INET
            local = [(family, socket.SOCK_STREAM, 0, "", (self.local_address, 0))]
            infos = [info for info in infos if info[0] == family]
            if not infos:
                raise OSError(
                    f"no address of {target.host} has the family of local_address {self.local_address}"
                )
        sock = await aiohappyeyeballs.start_connection(
            infos,
            local_addr_infos=local,
            happy_eyeballs_delay=self.happy_eyeballs_delay,
            interleave=1,
            loop=loop,
        )
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.keep_alive:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            option = getattr(socket, "TCP_KEEPIDLE", None) or getattr(socket, "TCP_KEEPALIVE", None)
            if option is not None:
                sock.setsockopt(socket.IPPROTO_TCP, option, max(1, int(self.keep_alive)))
        return sock

    async def _resolve(self, host: str, port: int, loop: asyncio.AbstractEventLoop) -> list[Any]:
        try:
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except socket.gaierror:
            pass
        # A burst of connections to one host asks once.
        lookup = self._lookups.get((host, port))
        if lookup is None or lookup.get_loop() is not loop:
            lookup = asyncio.ensure_future(loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))
            self._lookups[host, port] = lookup
            lookup.add_done_callback(lambda done: self._looked_up((host, port), done))
        return await asyncio.shield(lookup)

    def _looked_up(self, key: tuple[str, int], lookup: asyncio.Future[list[Any]]) -> None:
        if self._lookups.get(key) is lookup:
            del self._lookups[key]
        if not lookup.cancelled():
            lookup.exception()  # whoever waited has been told; nobody need have


def as_connect(connect: Any, defaults: Mapping[str, Any]) -> Connect:
    """What `connect=` of a dispatcher means: a callable as it is, or options for a `Connector`.

    Raises:
        InvalidArgumentError: neither, or an option that a `Connector` does not have.
    """
    if callable(connect):
        return connect  # type: ignore[no-any-return]
    if connect is not None and not isinstance(connect, Mapping):
        raise InvalidArgumentError(
            f"connect must be a mapping of connector options or a callable, not {connect!r}"
        )
    try:
        return Connector(**{**defaults, **(connect or {})})
    except TypeError as error:
        raise InvalidArgumentError(f"connect: {error}") from None

"""Where trunks begin and end: the port that a collector takes them on, and dialling that of another.

The port has the credentials of the collector's address, and is found by who has called Connect there: its number is in
the answer, its host is the one that was dialled. Who comes says the id that Connect has given to its connection, and,
with TLS, shows the certificate that goes with it: else the connection is closed.

Datagrams to the same number are answered with signs of life (`life.py`).

Nothing needs the port to be reached. Where a firewall, or something that shares one address among many, is in between,
links go as calls to the collector's address.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from ..core.errors import InvalidArgumentError
from ..core.grpc_status import GrpcStatus
from ..net.connector import Connector, ConnectTarget
from ..net.listener import Listener
from ..net.tls import negotiated
from .addresses import split_address
from .contracts import Identity, TransportSecurity
from .errors import CollectiveError, call_error
from .identity import identity_of
from .life import LifeSign
from .protos import link_pb2
from .tls import TLS
from .trunk import ROOM, Trunk, goodbye_of

log = logging.getLogger("dodici.collective")

ALPN: Final = "dodici-link"
_FIRST: Final = 5.0
"""Seconds in which who comes has to say who it is."""
_STRANGERS: Final = 256
"""Connections that have not said it yet."""
_MOST: Final = 4096
_DIAL: Final = 2.0
_NOBODY = Identity()


def carries(security: TransportSecurity | None) -> bool:
    """Whether there can be trunks with these credentials: of files, for both ends, or none at all."""
    return security is None or (isinstance(security, TLS) and security.require_client_cert)


class TrunkPort:
    """The port of a collector for trunks.

    Args:
        accept: takes a connection over, with its hello and its identity, and returns when it has ended.
        port: its number; 0: any that is free, None: there is no such port.
        security: credentials; None: plaintext.
        message: bytes that a message may have.
    """

    def __init__(
        self,
        accept: Callable[[link_pb2.Hello, Identity, Trunk], Awaitable[None]],
        port: int | None,
        *,
        security: TransportSecurity | None,
        message: int,
    ) -> None:
        self._accept = accept
        self._port = port if carries(security) else None
        self._tls = security if isinstance(security, TLS) else None
        self._strangers = 0
        self._life = LifeSign()
        self._listener: Listener[Trunk] = Listener(
            lambda: Trunk(message + ROOM),
            self._serve,
            context=None if self._tls is None else self._current,
            most=_MOST,
        )

    async def open(self, address: str) -> int:
        """Listen on the host of the collector's address; returns the port, or 0: there is none, as beside unix sockets.

        Raises:
            SocketError: it cannot be listened there.
        """
        host, _ = split_address(address)
        if host is None or self._port is None:
            return 0
        if self._tls is not None:
            self._current()
        port = await self._listener.open(host.strip("[]"), self._port)
        self._life.open(self._listener.addresses)
        return port

    async def close(self, grace: float) -> None:
        """Take no more connections; those that there are end by themselves, or after `grace` seconds."""
        await self._listener.close(grace)
        await self._life.close()

    def _current(self) -> Any:
        assert self._tls is not None
        return self._tls.server_context((ALPN,))

    async def _serve(self, trunk: Trunk, transport: asyncio.Transport) -> None:
        if self._strangers >= _STRANGERS:
            return
        self._strangers += 1
        try:
            async with asyncio.timeout(_FIRST):
                first = await trunk.first()
        except (CollectiveError, TimeoutError) as error:
            log.debug("a connection has said nothing of use: %s", error)
            return
        finally:
            self._strangers -= 1
        try:
            if not first.HasField("hello"):
                raise call_error(GrpcStatus.INVALID_ARGUMENT, "the first frame is no hello")
            if self._tls is not None and negotiated(transport) != ALPN:
                raise call_error(GrpcStatus.UNAUTHENTICATED, f"this is a port for {ALPN}")
            await self._accept(first.hello, self._identity(transport), trunk)
        except CollectiveError as error:
            trunk.close(goodbye_of(error))
        except asyncio.CancelledError:
            trunk.abort()
            raise
        finally:
            await trunk.gone()

    def _identity(self, transport: asyncio.Transport) -> Identity:
        return _NOBODY if self._tls is None else identity_of(transport.get_extra_info("peercert") or {})


async def dial(address: str, port: int, *, security: TransportSecurity | None, message: int) -> Trunk:
    """Connect to the port for trunks on the host of an address.

    Raises:
        DodiciError: it cannot be reached, or its certificate is not what it should be.
    """
    host, _ = split_address(address)
    if host is None:
        raise InvalidArgumentError(f"{address} has no ports")
    host = host.strip("[]")
    options: dict[str, Any] = {}
    if isinstance(security, TLS):
        options = {
            "ca": security.ca,
            "cert": (security.cert, security.key),
            "server_name": security.server_name,
            "max_cached_sessions": 0,
        }
    connector = Connector(timeout=_DIAL, **options)
    target = ConnectTarget(f"{ALPN}://{address}", "https" if options else ALPN, host, port, alpn=(ALPN,))
    _, trunk = await connector(target, lambda: Trunk(message + ROOM))
    assert isinstance(trunk, Trunk)
    return trunk

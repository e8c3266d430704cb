"""Which protocol a new connection speaks: what ALPN chose, once TLS has been agreed on (RFC 7301, RFC 9113 3.2)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .connection import Connection
from .tls import negotiated


class Negotiation(asyncio.Protocol):
    """Stands in for the connection until the transport knows what was negotiated, then hands over.

    Args:
        make: gives the connection for the protocol's name, None where there was nothing to negotiate.
    """

    def __init__(self, make: Callable[[str | None], Connection]) -> None:
        self._make = make

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        connection = self._make(negotiated(transport))
        transport.set_protocol(connection)  # type: ignore[arg-type]
        connection.connection_made(transport)

"""The one place that knows what makes a transport.

Plain TCP and unix sockets are the event loop's own: nothing that was measured beside them is faster. TLS is
`TLSTransport` on top of them: a request costs a twentieth less than with uvloop's own TLS and a quarter less than
with asyncio's, an idle connection 30 KiB instead of 43 and 290. `"loop"` chooses the loop's TLS all the same.
docs/dependencies.md says why it is no library.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..core.errors import InvalidArgumentError
from .tls_transport import TLSTransport

KINDS = ("auto", "loop")
VARIABLE = "DODICI_TRANSPORT"
"""The environment variable that says what `"auto"` means, for operators who cannot change the program."""
_SHUTDOWN_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class TLS:
    """What a connection needs to know for its handshake."""

    context: ssl.SSLContext
    server_name: str


def check_kind(kind: str) -> str:
    """What a connector's `transport` means: `"auto"` or `"loop"`.

    Raises:
        InvalidArgumentError: neither, in the argument or in the environment.
    """
    source, value = "transport", kind
    if kind == "auto":
        source, value = f"the environment's {VARIABLE}", os.environ.get(VARIABLE) or kind
    if value not in KINDS:
        raise InvalidArgumentError(f"{source} must be one of {', '.join(KINDS)}, not {value!r}")
    return value


async def open_transport(
    loop: asyncio.AbstractEventLoop,
    factory: Callable[[], asyncio.BaseProtocol],
    sock: socket.socket,
    tls: TLS | None,
    *,
    kind: str = "auto",
) -> tuple[asyncio.Transport, Any]:
    """Turn a connected socket into a transport with its protocol, the TLS handshake included.

    The socket is the transport's from here on, however this ends: if it is cancelled in the middle of a
    handshake, the transport still holds the descriptor for a turn of the loop, and closes it then.

    Raises: OSError, ssl.SSLError among them: the handshake failed. InvalidArgumentError: a bad server name.
    """
    if tls is None:
        return await loop.create_connection(factory, sock=sock)
    if kind == "loop":
        return await loop.create_connection(
            factory,
            sock=sock,
            ssl=tls.context,
            server_hostname=tls.server_name,
            ssl_shutdown_timeout=_SHUTDOWN_SECONDS,
        )
    try:
        transport, protocol = _over(loop, factory, tls)
    except BaseException:
        sock.close()
        raise
    try:
        await loop.create_connection(lambda: transport, sock=sock)
        await transport.handshake
    except BaseException:
        transport.abort()
        raise
    return transport, protocol


async def start_tls(
    loop: asyncio.AbstractEventLoop,
    raw: asyncio.Transport,
    factory: Callable[[], asyncio.BaseProtocol],
    tls: TLS,
) -> tuple[asyncio.Transport, Any]:
    """Begin TLS on a transport that is in use, such as a tunnel through a proxy, itself with TLS or without.

    `loop.start_tls()` knows the loop's own transports only. The raw transport is closed if this fails.

    Raises: as `open_transport`.
    """
    try:
        transport, protocol = _over(loop, factory, tls)
        raw.set_protocol(transport)
        transport.connection_made(raw)
    except BaseException:
        raw.abort()
        raise
    try:
        raw.resume_reading()
        await transport.handshake
    except BaseException:
        transport.abort()
        raise
    return transport, protocol


def _over(
    loop: asyncio.AbstractEventLoop, factory: Callable[[], asyncio.BaseProtocol], tls: TLS
) -> tuple[TLSTransport, asyncio.BaseProtocol]:
    try:
        transport = TLSTransport(loop, tls.context, tls.server_name, _SHUTDOWN_SECONDS)
    except ValueError as error:
        raise InvalidArgumentError(f"{tls.server_name!r} cannot be a TLS server name: {error}") from error
    protocol = factory()
    transport.set_protocol(protocol)
    return transport, protocol

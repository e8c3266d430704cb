"""Requests as an HTTP/2 connection needs them: encoded, remembered with their options, and told of."""

from __future__ import annotations

from typing import Any, TypeAlias

from ..core import diagnostics
from ..core.controller import Exchange
from ..core.errors import HeadersOverflowError, NotSupportedError
from ..core.options import BYTES, FILE, DispatchOptions
from ..wire.body import CHUNKED, body_length
from ..wire.h2.hpack import Decoder
from ..wire.h2.sections import encode_request
from ..wire.h2.settings import PeerSettings
from .body import file_length
from .connection import ConnectionSettings

Encoded: TypeAlias = tuple[Any, bytes, int]
"""For whom it was encoded, the header block, and its size as SETTINGS_MAX_HEADER_LIST_SIZE counts."""


def upgrades(protocol: str, settings: ConnectionSettings, peer: PeerSettings) -> bool:
    """Whether an upgrade may go over this connection. One without TLS is all that there is: it says why not."""
    return (peer.connect_protocol and protocol.lower() == "websocket") or settings.scheme == b"http"


def encode(options: DispatchOptions, settings: ConnectionSettings, peer: PeerSettings) -> bytes:
    """The header block of a request, remembered with its options as `Encoded`.

    Raises:
        NotSupportedError: an upgrade that the server does not do. InvalidArgumentError: a field that HTTP/2 does
        not allow. HeadersOverflowError: more than the server takes.
    """
    if options.upgrade is not None:
        if options.upgrade.lower() != "websocket":
            raise NotSupportedError(
                f"HTTP/2 cannot upgrade to {options.upgrade!r}, only to 'websocket' (RFC 8441)"
            )
        if not peer.connect_protocol:
            raise NotSupportedError("the server does not offer WebSocket over HTTP/2 (RFC 8441)")
    length = body_length(options)
    if options.body_kind == FILE and length == CHUNKED:
        length = file_length(options.body)
    block, size = encode_request(options, settings.scheme, settings.host, length)
    if options.body_kind <= BYTES:
        encoded: Encoded = (settings.h2_origin, block, size)
        object.__setattr__(options, "wire_cache", encoded)
    if size > peer.max_header_list_size:
        raise HeadersOverflowError(
            f"the request's head has {size} bytes, and the server takes "
            f"{peer.max_header_list_size} (SETTINGS_MAX_HEADER_LIST_SIZE)",
            request_not_processed=True,
        )
    return block


def publish_sent(exchange: Exchange, block: bytes, transport: Any) -> None:
    """Tell those who watch what the server will read: the block's fields, with the request line that they stand for."""
    options = exchange.options
    fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in Decoder().decode(block)]
    said = dict(fields)
    target = said.get(":path", said[":authority"])
    lines = [f"{said[':method']} {target} HTTP/2"]
    lines += [f"{name}: {value}" for name, value in fields if name not in (":method", ":path")]
    diagnostics.CLIENT_SEND_HEADERS.publish(
        {"request": exchange, "headers": "\r\n".join([*lines, "", ""]), "socket": transport}
    )
    if options.plain:
        if options.payload is not None:
            diagnostics.REQUEST_BODY_CHUNK_SENT.publish({"request": exchange, "chunk": options.payload})
        diagnostics.REQUEST_BODY_SENT.publish({"request": exchange})

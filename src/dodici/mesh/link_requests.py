"""Requests as a link needs them: encoded, remembered with their options, and told of."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from ..core import diagnostics
from ..core.controller import Exchange
from ..core.errors import NotSupportedError
from ..core.options import BYTES, FILE, DispatchOptions
from ..core.trace import FIELDS
from ..net.body import file_length
from ..wire.body import CHUNKED, body_length
from ..wire.mesh.engine import request_frame
from ..wire.mesh.frames import INLINE, read_trace
from ..wire.mesh.heads import NONE, encode_request
from .tracing import told_beside

_KEPT = 2048
"""Bytes of the longest frame that is remembered with its options."""

OURS: Final = object()
"""What says in `DispatchOptions.wire_cache` that it is a link that remembers."""

Encoded: TypeAlias = tuple[Any, bytes, bytes, bool, bytes | None]
"""`OURS`, the frame before and behind its number, whether it is the whole request, and what of its fields a TRACE
says."""


def encode(options: DispatchOptions) -> Encoded:
    """The frame of a request, remembered with its options.

    Raises:
        NotSupportedError: CONNECT, or an upgrade to anything but WebSocket. And as `encode_request`.
    """
    upgrade = options.upgrade
    if options.method == "CONNECT":
        raise NotSupportedError("CONNECT leads out of the mesh: a worker is no proxy")
    if upgrade is not None and upgrade.lower() != "websocket":
        raise NotSupportedError(f"a request into the mesh can be upgraded to 'websocket', not to {upgrade!r}")
    length = body_length(options)
    if options.body_kind == FILE and length == CHUNKED:
        length = file_length(options.body)
    told = told_beside(options.headers.raw)
    block = encode_request(options, length, FIELDS if told is not None else NONE)
    payload = options.payload
    whole = options.plain and (payload is None or len(payload) <= INLINE)
    prefix, rest = request_frame(block, (payload or b"") if whole else None, websocket=upgrade is not None)
    encoded = (OURS, prefix, rest, whole, told)
    if options.body_kind <= BYTES and len(rest) <= _KEPT:
        object.__setattr__(options, "wire_cache", encoded)
    return encoded


def publish_sent(exchange: Exchange, rest: bytes, told: bytes | None, transport: Any) -> None:
    """Tell those who watch what the app will see."""
    options = exchange.options
    size = int.from_bytes(rest[:4], "little")
    method, target, _, _, *fields = rest[4 : 4 + size].decode("latin-1").split("\n")
    lines = [f"{method} {target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in zip(fields[::2], fields[1::2], strict=True)]
    if told is not None:
        trace = read_trace(told)
        lines.append(f"traceparent: {trace.traceparent}")
        if trace.tracestate:
            lines.append(f"tracestate: {trace.tracestate}")
    diagnostics.CLIENT_SEND_HEADERS.publish(
        {"request": exchange, "headers": "\r\n".join([*lines, "", ""]), "socket": transport}
    )
    if options.plain:
        if options.payload is not None:
            diagnostics.REQUEST_BODY_CHUNK_SENT.publish({"request": exchange, "chunk": options.payload})
        diagnostics.REQUEST_BODY_SENT.publish({"request": exchange})

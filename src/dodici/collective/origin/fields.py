"""Metadata of calls as fields of HTTP, and back.

What the application has put into a call's metadata goes to the origin under the same names, binary values as base64
(names in ``-bin``), as gRPC itself has them on the wire. Beside it:

    grpc-timeout          what is left of the deadline, in the form of gRPC's protocol
    traceparent, tracestate   the call's place in its trace; `baggage` is metadata like any other
    x-dodici-caller       the first name in the end caller's certificate, percent-encoded, where there is one

Fields of the response become initial metadata, its trailers trailing metadata; of a failure all become trailing. What
belongs to one connection, describes the body, or stands in no one's name but the server's stays behind, and so does
what is more than `MOST_FIELDS` bytes: gRPC's clients refuse more than 8 KiB at a time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from ...core.errors import InvalidArgumentError
from ...core.grpc_status import GrpcStatus
from ...core.headers import Headers, RawHeaders, checked_pairs
from ...wire.grpc.metadata import decode_binary, encode_binary
from ...wire.grpc.timeout import format_timeout
from ..errors import call_error
from ..metadata import PREFIX
from ..trace import named

if TYPE_CHECKING:
    from ..context import CallContext
    from ..contracts import Pairs

MOST_FIELDS: Final = 4096
"""Bytes of a response's fields that become metadata, as HTTP/2 counts them: 32 for each beside its name and value."""
CALLER: Final = "x-dodici-caller"

_BODY: Final = frozenset({"content-encoding", "content-length", "content-type"})
_CONNECTION: Final = frozenset(
    {
        "connection",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_NOT_SENT: Final = (
    _BODY
    | _CONNECTION
    | {"accept", "accept-encoding", "expect", "forwarded", "host", "traceparent", "tracestate"}
)
_NOT_TAKEN: Final = _BODY | _CONNECTION | {"alt-svc", "date", "server", "traceparent", "tracestate"}
_NAME: Final = re.compile(r"[0-9a-z_.\-]+").fullmatch
_VALUE: Final = re.compile(r"[\x20-\x7e]*").fullmatch


def request_fields(context: CallContext, own: RawHeaders) -> Headers:
    """The fields of the request that is made for a call, after those of `own`.

    Raises:
        CollectiveError: INVALID_ARGUMENT: the metadata has what no field can hold.
    """
    fields = list(own)
    remaining = context.time_remaining()
    if remaining is not None:
        fields.append((b"grpc-timeout", _timeout(remaining)))
    # The caller's own goes on as it came: what records it elsewhere has never heard of this collector's span.
    trace = named(context._call) or context.trace
    fields.append((b"traceparent", trace.traceparent.encode("ascii")))
    given: list[tuple[str, str | bytes]] = []
    if trace.tracestate:
        given.append(("tracestate", trace.tracestate))
    if context.identity is not None:
        given.append((CALLER, quote(context.identity, safe="/:@.-_~")))
    for name, value in context._call.metadata:
        # What a proxy says of a client is for proxies to say.
        if name not in _NOT_SENT and not name.startswith(("grpc-", "x-forwarded-")):
            given.append((name, encode_binary(value) if isinstance(value, bytes) else value))
    if given:
        try:
            fields += checked_pairs(given)
        except InvalidArgumentError as error:
            raise call_error(GrpcStatus.INVALID_ARGUMENT, f"metadata: {error.message}") from error
    return Headers.from_raw(tuple(fields))


def _timeout(seconds: float) -> bytes:
    # Whole milliseconds, rounded up; nobody reads more, and to write what is exact takes four times as long.
    milliseconds = math.ceil(seconds * 1000) or 1
    return b"%dm" % milliseconds if milliseconds < 10**8 else format_timeout(seconds)


def metadata_of(*fields: Headers) -> Pairs:
    """What of a response's fields, or of its trailers, is metadata."""
    found: list[tuple[str, str | bytes]] = []
    size = 0
    for headers in fields:
        if not headers:
            continue
        named: Collection[str] = ()
        if "connection" in headers:
            named = {token.strip().lower() for token in headers["connection"].split(",")}
        for name, value in headers.multi_items():
            if name in _NOT_TAKEN or name in named or name.startswith(("grpc-", PREFIX)):
                continue
            size += len(name) + len(value) + 32
            if size > MOST_FIELDS:
                return tuple(found)
            if _NAME(name) is None:
                continue
            if name.endswith("-bin"):
                found.extend((name, each) for each in decode_binary(value.encode("latin-1")))
            elif _VALUE(value) is not None:
                found.append((name, value))
    return tuple(found)

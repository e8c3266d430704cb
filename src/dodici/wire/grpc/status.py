"""How a call ended, from whatever the peer or the transport said.

A status is looked for in this order: `grpc-status` in the trailers; in the head, if nothing followed it (a
"trailers-only" response); else one is made up from the HTTP status, from the error code of HTTP/2, or from
the transport's error. A status that was sent is never replaced by one that was made up.

Sources: grpc/doc/PROTOCOL-HTTP2.md ("Responses", "Errors"), grpc/doc/http-grpc-status-mapping.md.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from ...core.errors import (
    AbortError,
    BodyTimeoutError,
    BodyUnusableError,
    ClientDestroyedError,
    ConnectTimeoutError,
    DodiciError,
    HeadersOverflowError,
    HeadersTimeoutError,
    InvalidArgumentError,
    InvalidReturnValueError,
    NotSupportedError,
    RequestRetryError,
    RequestTimeoutError,
    ResponseError,
    ResponseExceededMaxSizeError,
    StreamResetError,
)
from ...core.grpc_status import GrpcStatus
from ...core.headers import Headers
from .metadata import decode_binary

__all__ = [
    "SUCCESS",
    "GrpcStatus",
    "Verdict",
    "decode_message",
    "encode_message",
    "read_verdict",
    "status_of_error",
    "status_of_h2_code",
    "status_of_http",
]

_BY_HTTP_STATUS = {
    400: GrpcStatus.INTERNAL,
    401: GrpcStatus.UNAUTHENTICATED,
    403: GrpcStatus.PERMISSION_DENIED,
    404: GrpcStatus.UNIMPLEMENTED,
    429: GrpcStatus.UNAVAILABLE,
    431: GrpcStatus.INTERNAL,
    502: GrpcStatus.UNAVAILABLE,
    503: GrpcStatus.UNAVAILABLE,
    504: GrpcStatus.UNAVAILABLE,
}
_BY_H2_CODE = {
    0x7: GrpcStatus.UNAVAILABLE,  # REFUSED_STREAM
    0x8: GrpcStatus.CANCELLED,  # CANCEL
    0xB: GrpcStatus.RESOURCE_EXHAUSTED,  # ENHANCE_YOUR_CALM
    0xC: GrpcStatus.PERMISSION_DENIED,  # INADEQUATE_SECURITY
}
_STATUSES = {b"%d" % status: status for status in GrpcStatus}


class Verdict(NamedTuple):
    """What a peer said about the end of a call."""

    status: GrpcStatus
    message: str = ""
    details: bytes | None = None


SUCCESS = Verdict(GrpcStatus.OK)


def read_verdict(headers: Headers) -> Verdict | None:
    """The verdict in trailers, or in the head of a trailers-only response; None if there is none.

    A `grpc-status` that is no known number is UNKNOWN.
    """
    status = message = details = None
    for name, value in headers.raw:
        name = name.lower()
        if name == b"grpc-status" and status is None:
            status = value
        elif name == b"grpc-message" and message is None:
            message = value
        elif name == b"grpc-status-details-bin" and details is None:
            details = value
    if status is None:
        return None
    if status == b"0" and message is None and details is None:
        return SUCCESS
    known = _STATUSES.get(status)
    text = "" if message is None else decode_message(message)
    if known is None:
        known = GrpcStatus.UNKNOWN
        shown = status[:20].decode("latin-1")
        text = f"unknown grpc-status {shown!r}: {text}" if text else f"unknown grpc-status {shown!r}"
    binary = decode_binary(details) if details is not None else ()
    return Verdict(known, text, binary[0] if binary else None)


def status_of_http(status_code: int) -> GrpcStatus:
    """The status of a response that has an HTTP status and no `grpc-status`."""
    return _BY_HTTP_STATUS.get(status_code, GrpcStatus.UNKNOWN)


def status_of_h2_code(code: int) -> GrpcStatus:
    """The status of a call whose stream was reset with an HTTP/2 error code.

    Codes that the table does not name are treated like INTERNAL_ERROR (RFC 9113 §7).
    """
    return _BY_H2_CODE.get(code, GrpcStatus.INTERNAL)


_OF_THE_CALLER = (InvalidArgumentError, InvalidReturnValueError, NotSupportedError, BodyUnusableError)
_UNAVAILABLE = (
    ConnectionError,
    ConnectTimeoutError,
    HeadersTimeoutError,
    BodyTimeoutError,
    ClientDestroyedError,
)


def status_of_error(error: BaseException) -> GrpcStatus | None:
    """The status of a call whose exchange failed with `error`.

    None for what is no failure of the call but of its caller: wrong arguments, and whatever is not an error
    of dodici, such as what the source of the requests raised. Those are raised as they are.
    """
    if not isinstance(error, DodiciError) or isinstance(error, _OF_THE_CALLER):
        return None
    if isinstance(error, StreamResetError):
        return status_of_h2_code(error.error_code)
    if isinstance(error, RequestTimeoutError):
        return GrpcStatus.DEADLINE_EXCEEDED
    if isinstance(error, AbortError):
        return GrpcStatus.CANCELLED
    if isinstance(error, ResponseError | RequestRetryError) and error.status_code is not None:
        return status_of_http(error.status_code)
    if isinstance(error, ResponseExceededMaxSizeError | HeadersOverflowError):
        return GrpcStatus.RESOURCE_EXHAUSTED
    if isinstance(error, _UNAVAILABLE) or error.request_not_processed:
        return GrpcStatus.UNAVAILABLE
    if isinstance(error, RequestRetryError) and error.__cause__ is not None:
        return status_of_error(error.__cause__)
    return GrpcStatus.INTERNAL


def encode_message(text: str) -> bytes:
    """Percent-encode a status message: UTF-8, of which printable ASCII but ``%`` stays."""
    return b"".join(
        b"%c" % byte if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte
        for byte in text.encode("utf-8", "replace")
    )


def decode_message(value: bytes) -> str:
    """The text of `grpc-message`. Never fails: broken escapes stay, what is not UTF-8 becomes U+FFFD."""
    return unquote_to_bytes(value).decode("utf-8", "replace")

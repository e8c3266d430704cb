"""The one table of failures between HTTP and the collective.

An origin that answers with an error status has run the call, and its status is translated. An exchange that failed is
translated by what went wrong; where the origin can certainly not have seen the request, the failure says so, and the
collector at which the call came in sends it elsewhere.

| HTTP | gRPC | | HTTP | gRPC |
|---|---|---|---|---|
| 400 406 415 422 | INVALID_ARGUMENT | | 412 423 424 426 428, 3xx | FAILED_PRECONDITION |
| 401 407 | UNAUTHENTICATED | | 413 429 431 | RESOURCE_EXHAUSTED |
| 403 451 | PERMISSION_DENIED | | 416 | OUT_OF_RANGE |
| 404 410 | NOT_FOUND | | 499 | CANCELLED |
| 405 501 | UNIMPLEMENTED | | 425 502 503 | UNAVAILABLE |
| 408 504 | DEADLINE_EXCEEDED | | other 4xx | FAILED_PRECONDITION |
| 409 | ALREADY_EXISTS | | other 5xx | INTERNAL |

409 is ALREADY_EXISTS as in the envelope (see `codes.py`). A body that names a gRPC status of its own, as
``"grpc-status": "ABORTED"``, decides where the two agree on the number.

Sources: google/rpc/code.proto, RFC 9110 section 15, RFC 9457; grpc's own http-grpc-status-mapping.md is for what
stands between two ends of gRPC, and says of a 404 that there is no such method: here it is mostly no such thing.
"""

from __future__ import annotations

import email.utils
import json
import math
import re
import time
from collections.abc import Mapping
from typing import Any, Final

from ...core.errors import (
    AbortError,
    ClientDestroyedError,
    DodiciError,
    GrpcError,
    HeadersOverflowError,
    RemoteAppError,
    RequestRetryError,
    ResponseError,
    ResponseExceededMaxSizeError,
    SocketError,
)
from ...core.grpc_status import GrpcStatus
from ...core.headers import Headers
from ..codes import http_status
from ..contracts import Pairs
from ..errors import CallAbortedError, CollectiveError

GRPC_OF_HTTP: Final[Mapping[int, GrpcStatus]] = {
    400: GrpcStatus.INVALID_ARGUMENT,
    401: GrpcStatus.UNAUTHENTICATED,
    403: GrpcStatus.PERMISSION_DENIED,
    404: GrpcStatus.NOT_FOUND,
    405: GrpcStatus.UNIMPLEMENTED,
    406: GrpcStatus.INVALID_ARGUMENT,
    407: GrpcStatus.UNAUTHENTICATED,
    408: GrpcStatus.DEADLINE_EXCEEDED,
    409: GrpcStatus.ALREADY_EXISTS,
    410: GrpcStatus.NOT_FOUND,
    413: GrpcStatus.RESOURCE_EXHAUSTED,
    415: GrpcStatus.INVALID_ARGUMENT,
    416: GrpcStatus.OUT_OF_RANGE,
    422: GrpcStatus.INVALID_ARGUMENT,
    425: GrpcStatus.UNAVAILABLE,
    429: GrpcStatus.RESOURCE_EXHAUSTED,
    431: GrpcStatus.RESOURCE_EXHAUSTED,
    451: GrpcStatus.PERMISSION_DENIED,
    499: GrpcStatus.CANCELLED,
    501: GrpcStatus.UNIMPLEMENTED,
    502: GrpcStatus.UNAVAILABLE,
    503: GrpcStatus.UNAVAILABLE,
    504: GrpcStatus.DEADLINE_EXCEEDED,
}
"""Those that are not like the others of their hundred; see `grpc_of_http`."""

_OF_ERRORS: Final[tuple[tuple[type[BaseException], GrpcStatus], ...]] = (
    (AbortError, GrpcStatus.CANCELLED),
    (TimeoutError, GrpcStatus.DEADLINE_EXCEEDED),
    (ResponseExceededMaxSizeError, GrpcStatus.RESOURCE_EXHAUSTED),
    (HeadersOverflowError, GrpcStatus.RESOURCE_EXHAUSTED),
    (SocketError, GrpcStatus.UNAVAILABLE),
    (ClientDestroyedError, GrpcStatus.UNAVAILABLE),
    (RemoteAppError, GrpcStatus.INTERNAL),
)
"""What an exchange failed with after the request had left; the first that fits. All else is INTERNAL."""

PUSHBACK: Final = "grpc-retry-pushback-ms"
_MOST_PUSHBACK: Final = 3600.0
_MOST_TEXT: Final = 512
"""Bytes of a message or of one detail. Together with what is below, and with the fields that become metadata, a failure
stays within the 8 KiB that gRPC's clients take, percent-encoded and in base64 as it then is."""
_MOST_DETAILS: Final = 1024
"""Bytes of all details."""
_TEXTS: Final = ("detail", "message", "error", "title", "error_description")
"""Members of a problem body that hold its message, the most telling first. RFC 9457; FastAPI; and what is usual."""
_NO_DETAILS: Final = frozenset({"status", "grpc-status", *_TEXTS[:3]})
_PER_DETAIL: Final = 8
_MARKUP: Final = re.compile(r"\s*<")


def grpc_of_http(status_code: int) -> GrpcStatus:
    """What an HTTP status means as a status of gRPC; 200 to 299 are OK."""
    found = GRPC_OF_HTTP.get(status_code)
    if found is not None:
        return found
    if 200 <= status_code < 300:
        return GrpcStatus.OK
    return GrpcStatus.FAILED_PRECONDITION if 300 <= status_code < 500 else GrpcStatus.INTERNAL


def from_response(status_code: int, headers: Headers, body: bytes, where: str) -> CallAbortedError:
    """The failure that a response other than 2xx means.

    Its message is that of a problem body (RFC 9457, or JSON with ``detail``, ``message`` or ``error``) or of plain
    text; its details are the status (``"http-status"``), a redirect's ``"location"``, and the other plain members of the body.

    Args:
        status_code: of the response.
        headers: of the response.
        body: as much of it as was read.
        where: who has answered, for the message where the body has none.
    """
    status = grpc_of_http(status_code)
    details: dict[str, str] = {"http-status": str(status_code)}
    message = ""
    location = headers.get("location")
    if 300 <= status_code < 400 and location is not None:
        details["location"] = _cut(location)
        message = _cut(f"{where} redirects to {location}: call what it points to")
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if body and (kind == "application/json" or kind.endswith("+json")):
        problem = _json(body)
        if isinstance(problem, dict):
            named = problem.get("grpc-status")
            own = GrpcStatus.__members__.get(named) if isinstance(named, str) else None
            if own is not None and http_status(own) == http_status(status):
                status = own
            message = message or _message(problem)
            details |= _details(problem)
        elif problem is not None:
            message = message or _text(problem)
    elif body and kind in {"text/plain", ""}:
        text = body[:_MOST_TEXT].decode("utf-8", "ignore").strip()
        message = message or ("" if _MARKUP.match(text) else text)
    error = CallAbortedError(message or f"{where} answered with {status_code}", grpc_status=status)
    error.details = details
    return error


def pushback(status_code: int, headers: Headers) -> Pairs:
    """The trailing metadata that a Retry-After stands for (RFC 9110 section 10.2.3), with 429 and 503."""
    stated = headers.get("retry-after") if status_code in {429, 503} else None
    if stated is None:
        return ()
    stated = stated.strip()
    if stated.isascii() and stated.isdigit():
        seconds = float(stated[:9])
    else:
        try:
            seconds = email.utils.parsedate_to_datetime(stated).timestamp() - time.time()
        except (ValueError, OverflowError):
            return ()
    milliseconds = math.ceil(min(_MOST_PUSHBACK, max(0.0, seconds)) * 1000)
    return ((PUSHBACK, str(milliseconds)),)


def from_error(error: DodiciError, where: str) -> CollectiveError:
    """The failure that a failed exchange means. A failure of the collective's own stays what it is.

    Args:
        error: what the exchange failed with.
        where: whom it was to reach.
    """
    if isinstance(error, CollectiveError):
        return error
    if isinstance(error, ResponseError | RequestRetryError) and error.status_code is not None:
        headers = Headers() if error.headers is None else error.headers
        found = from_response(error.status_code, headers, _raw(getattr(error, "body", None)), where)
    elif isinstance(error, GrpcError):
        found = CallAbortedError(error.message, grpc_status=error.status)
    else:
        found = CallAbortedError(f"{where}: {error.message}", grpc_status=_status_of(error))
        found.request_not_processed = error.request_not_processed
        found.behind = True
    found.__cause__ = error
    return found


def _status_of(error: DodiciError) -> GrpcStatus:
    if error.request_not_processed:
        # Nobody takes it here. Elsewhere somebody may, and that is what UNAVAILABLE says.
        return GrpcStatus.UNAVAILABLE
    for kind, status in _OF_ERRORS:
        if isinstance(error, kind):
            return status
    return GrpcStatus.INTERNAL


# -- bodies of failures -----------------------------------------------------------------------------------


def _raw(body: Any) -> bytes:
    """What `ResponseError` has decoded, as it was."""
    if isinstance(body, bytes):
        return body
    if body is None:
        return b""
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _message(problem: dict[str, Any]) -> str:
    for name in _TEXTS:
        if problem.get(name):
            return _text(problem[name])
    return ""


def _text(value: Any) -> str:
    if isinstance(value, dict) and isinstance(value.get("message"), str):
        value = value["message"]
    if isinstance(value, list) and all(isinstance(each, dict) and "msg" in each for each in value):
        # FastAPI's and pydantic's account of what does not fit: where, and why.
        value = "; ".join(
            f"{'.'.join(str(part) for part in _parts(each.get('loc')))}: {each['msg']}" for each in value
        )
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return _cut(text)


def _cut(text: str) -> str:
    """The text in no more than so many bytes. A surrogate, which has no encoding, becomes a question mark."""
    return text[:_MOST_TEXT].encode("utf-8", "replace")[:_MOST_TEXT].decode("utf-8", "ignore")


def _parts(place: Any) -> list[Any]:
    return place if isinstance(place, list) else []


def _details(problem: dict[str, Any]) -> dict[str, str]:
    """The members of a problem that are plain values, as texts."""
    found: dict[str, str] = {}
    left = _MOST_DETAILS
    for name, value in problem.items():
        if not isinstance(value, str | int | float) or isinstance(value, bool) or name in _NO_DETAILS:
            continue
        key, text = _cut(name), _cut(value if isinstance(value, str) else repr(value))
        left -= len(key.encode()) + len(text.encode()) + _PER_DETAIL
        if left < 0:
            break
        found[key] = text
    return found

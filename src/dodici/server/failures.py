"""What goes wrong at the gateway, and what its clients are told of it."""

from __future__ import annotations

from ..core.errors import (
    BodyTimeoutError,
    DodiciError,
    HeadersTimeoutError,
    InvalidArgumentError,
    NoTargetError,
    NotSupportedError,
    RequestTimeoutError,
    TargetChangedError,
)


class ClientGoneError(DodiciError, ConnectionError):
    """The client closed its connection before the request was answered."""

    code = "DODICI_ERR_CLIENT_GONE"


class RequestTooLargeError(DodiciError):
    """The request's body is larger than the gateway allows."""

    code = "DODICI_ERR_REQUEST_TOO_LARGE"


class RequestLateError(DodiciError):
    """The request's body did not arrive in time."""

    code = "DODICI_ERR_REQUEST_LATE"


def explain(error: DodiciError) -> tuple[int, str]:
    """The status and the text that a client gets of an error."""
    if isinstance(error, RequestTooLargeError):
        return 413, error.message
    if isinstance(error, NoTargetError | TargetChangedError):
        return 503, "no worker of this service takes requests at the moment"
    if isinstance(error, HeadersTimeoutError | BodyTimeoutError | RequestTimeoutError):
        return 504, "the service did not answer in time"
    if isinstance(error, NotSupportedError):
        return 501, error.message
    if isinstance(error, InvalidArgumentError):
        return 400, error.message
    return 502, "the service failed to answer"

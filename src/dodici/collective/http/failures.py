"""What goes wrong with a carried exchange: told at the origin as the failure of a call, heard at the caller's end as what
it would be without a collective between them.

The gRPC status is for the collectors on the way: whether another may have a try, and what is thought of the one that
failed. The code and the phase of the error travel in its details.
"""

from __future__ import annotations

from typing import Final

from ...core import errors
from ...core.errors import BodyAbortedError, DodiciError, NoTargetError, RequestTimeoutError, SocketError
from ...core.grpc_status import GrpcStatus
from ..errors import CallAbortedError, CollectiveError
from ..origin.failures import from_error

CODE: Final = "dodici-code"
PHASE: Final = "dodici-phase"
_KNOWN: Final[dict[str, type[DodiciError]]] = {
    kind.code: kind
    for kind in (
        errors.BodyAbortedError,
        errors.BodyTimeoutError,
        errors.ConnectError,
        errors.ConnectTimeoutError,
        errors.ConnectionRefused,
        errors.HTTP2Error,
        errors.HeadersOverflowError,
        errors.HeadersTimeoutError,
        errors.InvalidArgumentError,
        errors.LinkError,
        errors.MaxOriginsReachedError,
        errors.NameResolutionError,
        errors.NoTargetError,
        errors.NotSupportedError,
        errors.RemoteAppError,
        errors.RequestContentLengthMismatchError,
        errors.ResponseContentLengthMismatchError,
        errors.ResponseExceededMaxSizeError,
        errors.SocketError,
        errors.StreamResetError,
        errors.TLSError,
        errors.TargetChangedError,
        errors.WorkerExitedError,
    )
}
"""What an origin's dispatcher fails with, as far as it says something to a caller elsewhere."""


def told(error: BaseException, origin: str) -> CollectiveError:
    """The failure of the call, of what the dispatch to the origin has failed with."""
    if not isinstance(error, DodiciError):
        return CallAbortedError(f"{origin} failed", grpc_status=GrpcStatus.INTERNAL)
    failure = from_error(error, origin)
    details = {**failure.details, CODE: error.code}
    if error.phase is not None:
        details[PHASE] = error.phase
    found = CallAbortedError(
        failure.message,
        grpc_status=failure.grpc_status,
        details=details,
        request_not_processed=error.request_not_processed,
    )
    found.behind = failure.behind
    return found


def heard(error: CollectiveError, *, begun: bool) -> DodiciError:
    """What the caller's handler is told. `begun`: it has the head of the response.

    `__cause__` is the failure of the call, with its gRPC status and the path that it has gone.
    """
    kind = _KNOWN.get(error.details.get(CODE, ""))
    facts = {"request_not_processed": True} if error.request_not_processed and not begun else {}
    found: DodiciError
    if kind is not None:
        found = kind(error.message, **facts)
        phase = error.details.get(PHASE)
        if phase is not None:
            found.phase = phase
    elif error.grpc_status is GrpcStatus.DEADLINE_EXCEEDED:
        found = RequestTimeoutError(error.message, **facts)
    elif begun:
        found = BodyAbortedError(f"the response was broken off: {error.message}")
    elif error.grpc_status is GrpcStatus.UNAVAILABLE:
        found = NoTargetError(error.message) if error.request_not_processed else SocketError(error.message)
    else:
        return error
    found.__cause__ = error
    return found

"""gRPC's status codes, and the HTTP-like numbers that stand for them in the envelope."""

from __future__ import annotations

from typing import Any

from ..core.errors import InvalidArgumentError
from ..core.grpc_status import GrpcStatus

HTTP_STATUS: dict[GrpcStatus, int] = {
    GrpcStatus.OK: 200,
    GrpcStatus.CANCELLED: 499,
    GrpcStatus.UNKNOWN: 500,
    GrpcStatus.INVALID_ARGUMENT: 400,
    GrpcStatus.DEADLINE_EXCEEDED: 504,
    GrpcStatus.NOT_FOUND: 404,
    GrpcStatus.ALREADY_EXISTS: 409,
    GrpcStatus.PERMISSION_DENIED: 403,
    GrpcStatus.RESOURCE_EXHAUSTED: 429,
    GrpcStatus.FAILED_PRECONDITION: 400,
    GrpcStatus.ABORTED: 409,
    GrpcStatus.OUT_OF_RANGE: 400,
    GrpcStatus.UNIMPLEMENTED: 404,
    GrpcStatus.INTERNAL: 500,
    GrpcStatus.UNAVAILABLE: 503,
    GrpcStatus.DATA_LOSS: 500,
    GrpcStatus.UNAUTHENTICATED: 403,
}

GRPC_STATUS: dict[int, GrpcStatus] = {
    200: GrpcStatus.OK,
    400: GrpcStatus.INVALID_ARGUMENT,
    403: GrpcStatus.PERMISSION_DENIED,
    404: GrpcStatus.NOT_FOUND,
    409: GrpcStatus.ALREADY_EXISTS,
    429: GrpcStatus.RESOURCE_EXHAUSTED,
    499: GrpcStatus.CANCELLED,
    500: GrpcStatus.INTERNAL,
    503: GrpcStatus.UNAVAILABLE,
    504: GrpcStatus.DEADLINE_EXCEEDED,
}
"""What a number stands for when no name of a gRPC code comes with it."""


def http_status(status: GrpcStatus) -> int:
    """The envelope's number for a gRPC status."""
    return HTTP_STATUS[status]


def from_envelope(code: int, name: str | None) -> GrpcStatus:
    """The gRPC status of an envelope: by `details["grpc-status"]` if it is one, else by the number."""
    if name is not None and name in GrpcStatus.__members__:
        return GrpcStatus[name]
    return GRPC_STATUS.get(code, GrpcStatus.UNKNOWN)


def from_wire(number: int) -> GrpcStatus:
    """The status of a number on the wire. A number that gRPC does not define is UNKNOWN."""
    return GrpcStatus(number) if 0 <= number <= 16 else GrpcStatus.UNKNOWN


def chosen(code: Any) -> GrpcStatus:
    """The status that a handler names: a `grpc.StatusCode`, a `GrpcStatus`, or a number of the envelope.

    Raises:
        InvalidArgumentError: it is none of them, or it is OK.
    """
    status = None
    if isinstance(code, GrpcStatus):
        status = code
    elif isinstance(code, int) and not isinstance(code, bool):
        status = GRPC_STATUS.get(code)
    else:
        # grpc.StatusCode, without importing grpc: an enum with the same names, whose value is (number, text).
        value, name = getattr(code, "value", None), getattr(code, "name", None)
        if isinstance(value, tuple) and isinstance(name, str):
            status = GrpcStatus.__members__.get(name)
    if status is None:
        numbers = ", ".join(str(number) for number in GRPC_STATUS if number != 200)
        raise InvalidArgumentError(f"not a status: {code!r}; give a grpc.StatusCode or one of {numbers}")
    if status is GrpcStatus.OK:
        raise InvalidArgumentError("a call is not aborted with OK: return from the handler")
    return status

"""The status codes of gRPC, with which `GrpcError` says how a call ended."""

from __future__ import annotations

from enum import IntEnum


class GrpcStatus(IntEnum):
    """How a gRPC call ended. Source: grpc/doc/statuscodes.md."""

    OK = 0
    CANCELLED = 1
    """Cancelled, mostly by the caller."""
    UNKNOWN = 2
    """No better status is known; a handler that raised, or a response without a status."""
    INVALID_ARGUMENT = 3
    """The argument is wrong whatever the system's state."""
    DEADLINE_EXCEEDED = 4
    """The deadline passed before the call ended; it may have taken effect."""
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    """The caller is known and may not do this."""
    RESOURCE_EXHAUSTED = 8
    """A quota or limit is reached; a message is larger than allowed."""
    FAILED_PRECONDITION = 9
    """The system is not in the state that the call needs; repeating it as it is will not help."""
    ABORTED = 10
    """A conflict with another call; repeat what led to this call."""
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    """The server has no such method."""
    INTERNAL = 13
    """The protocol was violated, or an invariant of the server."""
    UNAVAILABLE = 14
    """The server cannot be reached now; the call may be repeated if it is safe to."""
    DATA_LOSS = 15
    UNAUTHENTICATED = 16
    """The credentials are missing or wrong."""

"""What the end of a call says about the peer that it was sent to."""

from __future__ import annotations

from enum import Enum

from ...core.grpc_status import GrpcStatus


class Outcome(Enum):
    """What the end of a call says about the peer that it was sent to."""

    SUCCESS = "success"
    """It answered. A refusal for which the caller is to blame (NOT_FOUND, INVALID_ARGUMENT and kin) is an answer."""
    FAILURE = "failure"
    """It answered that it had failed: INTERNAL, UNKNOWN, DATA_LOSS. Counts as slow, and for outlier detection."""
    BEHIND = "behind"
    """It answered for another: an origin of its own, or a collector that it had sent the call to, has failed or was lost.
    Counts as slow, for there may be a better way; of itself it says nothing."""
    UNREACHABLE = "unreachable"
    """It did not answer: UNAVAILABLE, DEADLINE_EXCEEDED, a reset. Counts for the breaker, too."""
    REJECTED = "rejected"
    """It has too much to do: RESOURCE_EXHAUSTED. It is given less, and nothing else."""
    CANCELLED = "cancelled"
    """Nobody waited for the answer. It says nothing."""


_OUTCOMES = {
    GrpcStatus.CANCELLED: Outcome.CANCELLED,
    GrpcStatus.UNKNOWN: Outcome.FAILURE,
    GrpcStatus.INTERNAL: Outcome.FAILURE,
    GrpcStatus.DATA_LOSS: Outcome.FAILURE,
    GrpcStatus.UNAVAILABLE: Outcome.UNREACHABLE,
    GrpcStatus.DEADLINE_EXCEEDED: Outcome.UNREACHABLE,
    GrpcStatus.RESOURCE_EXHAUSTED: Outcome.REJECTED,
}


def outcome_of(status: GrpcStatus) -> Outcome:
    """What a call's status says about the peer."""
    return _OUTCOMES.get(status, Outcome.SUCCESS)

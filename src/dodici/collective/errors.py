"""What a call through the collective fails with.

CollectiveError (DodiciError)                     a call failed, or a collector could not do what it was told
├── DeadlineExceededError (TimeoutError)          DEADLINE_EXCEEDED
├── PeerUnavailableError (ConnectionError)        UNAVAILABLE
└── CallAbortedError                              a handler chose the code: `context.abort()`
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..core.errors import DodiciError
from ..core.grpc_status import GrpcStatus
from .codes import http_status

if TYPE_CHECKING:
    from ..wire.grpc.metadata import GrpcMetadata


class CollectiveError(DodiciError):
    """A call through the collective failed.

    Raised by a handler, its type and text reach the caller, as INTERNAL (500): what other exceptions say stays in
    the log.

    Attributes:
        grpc_status: the gRPC status code.
        status: the HTTP-like number of the same, such as 404.
        details: texts by name; ``"grpc-status"`` is added in an envelope.
        binary_details: `grpc-status-details-bin`, mostly a `google.rpc.Status`; None if there are none.
        metadata: the trailing metadata that came with the failure.
        path: ids of the collectors that the call had passed.
        peer: id or address of the collector that failed, where it was another.
        refused: another collector has answered that it has not begun the call.
        silent: the other end has said nothing for so long that nothing on its connections will end by itself.
        behind: what failed is behind the collector that says so: its origin (a worker that was killed, say), or the next
            collector on the way.
    """

    code = "DODICI_ERR_COLLECTIVE"
    grpc_status: GrpcStatus = GrpcStatus.INTERNAL
    details: Mapping[str, str] = {}
    binary_details: bytes | None = None
    metadata: GrpcMetadata | None = None
    path: tuple[str, ...] = ()
    refused: bool = False
    silent: bool = False
    behind: bool = False

    def __init__(self, message: str = "", *, grpc_status: GrpcStatus | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        if grpc_status is not None:
            self.grpc_status = grpc_status

    @property
    def status(self) -> int:
        """The HTTP-like number, such as 404."""
        return http_status(self.grpc_status)


class DeadlineExceededError(CollectiveError, TimeoutError):
    """The call's deadline passed before it ended. It may have taken effect."""

    grpc_status = GrpcStatus.DEADLINE_EXCEEDED


class PeerUnavailableError(CollectiveError, ConnectionError):
    """The collector that was to serve the call cannot be reached, or none of those that could."""

    grpc_status = GrpcStatus.UNAVAILABLE


class CallAbortedError(CollectiveError):
    """A handler ended its call with a code of its choice."""


_KINDS: dict[GrpcStatus, type[CollectiveError]] = {
    GrpcStatus.DEADLINE_EXCEEDED: DeadlineExceededError,
    GrpcStatus.UNAVAILABLE: PeerUnavailableError,
}


def call_error(grpc_status: GrpcStatus, message: str, **facts: Any) -> CollectiveError:
    """The error of that status: `DeadlineExceededError` and `PeerUnavailableError` for theirs."""
    error = _KINDS.get(grpc_status, CollectiveError)(message, grpc_status=grpc_status, **facts)
    if not message:
        error.args = ("",)  # who failed without a word is not given any on the way
    return error

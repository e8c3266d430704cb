"""Calling Connect: what the other end answers, and what of it cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from ..core.grpc_status import GrpcStatus
from .codes import from_envelope
from .errors import CollectiveError, call_error
from .protos import collector_pb2

if TYPE_CHECKING:
    from .data_plane import Channel

_CONNECT: Final = "/collector.CollectiveDispatcher/Connect"


class ItselfError(CollectiveError):
    """The collector that was dialled is the one that dials."""

    grpc_status = GrpcStatus.INVALID_ARGUMENT


async def greet(
    channel: Channel, request: collector_pb2.ConnectRequest, timeout: float
) -> collector_pb2.ConnectResponse:
    """Introduce the collector of the request to whoever is at the other end; waits for a connection.

    Args:
        channel: to the other end.
        request: who calls, where that can be dialled, and what is offered.
        timeout: seconds.

    Raises:
        ItselfError: it is the collector that calls.
        CollectiveError: what the other end says, if it refuses; UNAVAILABLE, DEADLINE_EXCEEDED: it does not answer.
            INTERNAL: it answers what is none. ALREADY_EXISTS: it has the same id.
    """
    data = await channel.unary(_CONNECT, request.SerializeToString(), timeout=timeout, wait_for_ready=True)
    try:
        answer = collector_pb2.ConnectResponse.FromString(data)
    except DecodeError as error:
        raise call_error(
            GrpcStatus.INTERNAL, f"{channel.address} has answered with no ConnectResponse: {error}"
        ) from error
    if (answer.target_collector_id, answer.address, answer.epoch) == (
        request.collector_id,
        request.address,
        request.epoch,
    ):
        raise ItselfError(f"{channel.address} is {request.collector_id} itself")
    status = answer.status
    if status.code != 200:
        details = dict(status.details)
        found = from_envelope(status.code, details.pop("grpc-status", None))
        raise call_error(found, status.message, details=details, peer=channel.address)
    if not answer.target_collector_id:
        raise call_error(GrpcStatus.INTERNAL, f"{channel.address} does not say its id")
    if answer.target_collector_id == request.collector_id:
        raise call_error(
            GrpcStatus.ALREADY_EXISTS, f"{channel.address} has the same id: {request.collector_id}"
        )
    return answer

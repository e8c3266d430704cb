"""Calling Connect: what the other end answers, and what of it cannot be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from ..core.grpc_status import GrpcStatus
from .codes import from_envelope
from .errors import CollectiveError, call_error
from .protos import collector_pb2

if TYPE_CHECKING:
    from .data_plane import Channel

_CONNECT: Final = "/collector.CollectiveDispatcher/Connect"
_PATIENCE: Final = 0.2
"""Seconds after which it is asked why there is no connection."""


class ItselfError(CollectiveError):
    """The collector that was dialled is the one that dials."""

    grpc_status = GrpcStatus.INVALID_ARGUMENT


async def _why_not(channel: Channel, timeout: float, on_cause: Callable[[str], None] | None) -> str | None:
    """Why there is no connection; None if there is one.

    A call that waits for a connection is not told of the attempts that have failed. One that does not wait is.
    """
    await asyncio.sleep(_PATIENCE)
    if channel.connected():
        return None
    try:
        await channel.unary(_CONNECT, b"", timeout=timeout)
    except CollectiveError as error:
        if channel.connected() or error.grpc_status is not GrpcStatus.UNAVAILABLE:
            return None
        if on_cause is not None:
            on_cause(error.message)
        return error.message
    return None


async def greet(
    channel: Channel,
    request: collector_pb2.ConnectRequest,
    timeout: float,
    on_cause: Callable[[str], None] | None = None,
) -> collector_pb2.ConnectResponse:
    """Introduce the collector of the request to whoever is at the other end; waits for a connection.

    Args:
        channel: to the other end.
        request: who calls, where that can be dialled, and what is offered.
        timeout: seconds.
        on_cause: called once, if there is no connection at first, with the reason; it is waited for all the same.

    Raises:
        ItselfError: it is the collector that calls.
        CollectiveError: what the other end says, if it refuses; UNAVAILABLE: it cannot be reached, or does not answer.
            INTERNAL: it answers what is none. ALREADY_EXISTS: it has the same id.
    """
    asking = asyncio.ensure_future(_why_not(channel, timeout, on_cause))
    try:
        data = await channel.unary(
            _CONNECT, request.SerializeToString(), timeout=timeout, wait_for_ready=True
        )
    except CollectiveError as error:
        if error.grpc_status is not GrpcStatus.DEADLINE_EXCEEDED:
            raise
        cause = asking.result() if asking.done() else None
        raise call_error(
            GrpcStatus.UNAVAILABLE,
            f"no collector has answered at {channel.address} for {timeout:.2g} s"
            + ("" if cause is None else f": {cause}"),
            peer=channel.address,
        ) from error
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
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

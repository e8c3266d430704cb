"""What `dodici trace --collector` asks, over gRPC: a path of `Trace`, a list of the calls that `Inspect` tells."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message
from google.protobuf.struct_pb2 import Struct

from ..collective import inspection, tracing
from ..collective.errors import call_error
from ..collective.history import record_from
from ..collective.values import from_message, to_message
from ..core.grpc_status import GrpcStatus
from ..server.tracing import chosen
from .collector_client import channel_to, security_of

_MORE: Final = 3.0
"""Seconds beyond those that a collector takes to ask others."""


def asking(address: str, tls: dict[str, str | None]) -> Callable[..., dict[str, Any]]:
    """What asks the collector at an address as the control socket of a `dodici up` is asked.

    Its result raises `CollectiveError` where the collector does not tell.
    """

    def ask(
        *, trace_id: str | None = None, count: int = 20, slow: bool = False, failed: bool = False
    ) -> dict[str, Any]:
        try:
            if trace_id is not None:
                request = to_message({"trace_id": trace_id, "timeout": tracing.TIMEOUT})
                told = asyncio.run(_call(address, tls, tracing.PATH, request))
                return tracing.path_json(tracing.path_from(told))
            told = asyncio.run(_call(address, tls, inspection.PATH, Empty()))
            records = [record_from(record) for record in told["history"]]
            spans = [tracing.span_of(record) for record in records if record.trace_id]
        except (DecodeError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise call_error(GrpcStatus.INTERNAL, f"the answer of {address} is malformed") from error
        return {"traces": chosen(spans, count, slow=slow, failed=failed), "silent": []}

    return ask


async def _call(address: str, tls: dict[str, str | None], path: str, request: Message) -> dict[str, Any]:
    channel = channel_to(address, security_of(**tls))
    try:
        answer = await channel.unary(path, request.SerializeToString(), timeout=tracing.TIMEOUT + _MORE)
        told: dict[str, Any] = from_message(Struct.FromString(answer))
        return told
    finally:
        await channel.close()

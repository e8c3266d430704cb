"""Collectors with certificates, and clients of them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from dodici.collective import CallContext, CollectiveError, Collector
from dodici.collective.data_plane import Channel
from dodici.collective.protos import collector_pb2 as pb
from dodici.core.grpc_status import GrpcStatus

ORDERS = (("x-dodici-namespace", "orders"),)


async def whoami(context: CallContext, given: Any) -> bytes:
    return f"{context.identity} {'>'.join(context.path)}".encode()


def collector(name: str, tls: Any, **options: Any) -> Collector:
    """A collector in "orders" that tells who calls it; not started."""
    made = Collector(name, "127.0.0.1:0", namespaces=["orders"], tls=tls, **options)
    made.register_service("orders", f"Who-{name}", "Ask", whoami, idempotent=True)
    return made


@contextlib.asynccontextmanager
async def channel(address: str, security: Any) -> AsyncIterator[Channel]:
    made = Channel(address, security=security)
    try:
        yield made
    finally:
        await made.close()


async def ask(
    channel: Channel, name: str = "a", metadata: Any = (), timeout: float = 5.0
) -> str | GrpcStatus:
    """Who the collector thinks is calling, and the path; or the status of the failure."""
    try:
        answer = await channel.unary(f"/Who-{name}/Ask", b"", metadata=(*ORDERS, *metadata), timeout=timeout)
    except CollectiveError as error:
        return error.grpc_status
    return answer.decode()


async def connect(channel: Channel, name: str, address: str, *namespaces: str) -> pb.ConnectResponse:
    """Call Connect as whoever."""
    request = pb.ConnectRequest(collector_id=name, address=address, namespaces=namespaces)
    answer = await channel.unary(
        "/collector.CollectiveDispatcher/Connect", request.SerializeToString(), timeout=5
    )
    return pb.ConnectResponse.FromString(answer)

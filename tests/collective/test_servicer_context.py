"""What servicers of protoc's use of grpc's context, and what a stock stub then sees: at the collector, and beyond a hop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc import aio
from tests.collective.kit import NAMESPACE, SERVICE, OrderServicer, descriptor, order, order_class

from dodici.collective import Collector


class Servicer(OrderServicer):
    async def Create(self, request: Any, context: Any) -> Any:  # noqa: N802
        await context.send_initial_metadata((("x-first", "1"), ("x-first-bin", b"\x00")))
        return request

    async def List(self, request: Any, context: Any) -> Any:  # noqa: N802
        context.send_initial_metadata((("x-first", "1"),))
        yield request

    async def Fail(self, request: Any, context: Any) -> Any:  # noqa: N802
        await context.abort(grpc.StatusCode.NOT_FOUND)


@pytest_asyncio.fixture(params=["direct", "hop"])
async def channel(request: pytest.FixtureRequest) -> AsyncIterator[aio.Channel]:
    async with Collector("far", "127.0.0.1:0", namespaces=["shop"]) as far:
        far.add_service("shop", Servicer(), descriptor())
        async with Collector("near", "127.0.0.1:0", namespaces=["shop"]) as near:
            await near.connect_to(far.address)
            address = far.address if request.param == "direct" else near.address
            async with aio.insecure_channel(address) as opened:
                yield opened


def stub(channel: aio.Channel, method: str, kind: str = "unary_unary") -> Any:
    return getattr(channel, kind)(
        f"/{SERVICE}/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=order_class().FromString,
    )


async def test_initial_metadata(channel: aio.Channel) -> None:
    call = stub(channel, "Create")(order("a", 1), metadata=NAMESPACE)
    assert (await call).sku == "a"
    assert {("x-first", "1"), ("x-first-bin", b"\x00")} <= set(await call.initial_metadata())

    streamed = stub(channel, "List", "unary_stream")(order("a", 1), metadata=NAMESPACE)
    assert [each.sku async for each in streamed] == ["a"]
    assert ("x-first", "1") in set(await streamed.initial_metadata())


async def test_a_failure_without_a_word_has_none_beyond_a_hop_either(channel: aio.Channel) -> None:
    with pytest.raises(aio.AioRpcError) as raised:
        await stub(channel, "Fail")(order("a", 1), metadata=NAMESPACE)
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.NOT_FOUND, "")

"""What servicers of protoc's use of grpc's context, and what a stock stub then sees: at the collector, and beyond a hop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import grpc
import pytest
import pytest_asyncio
from grpc import aio
from tests.collective.kit import NAMESPACE, SERVICE, OrderServicer, descriptor, order, order_class

from dodici.collective import Collector
from dodici.collective.protos.status_pb2 import RpcStatus


class Servicer(OrderServicer):
    async def Create(self, request: Any, context: Any) -> Any:  # noqa: N802
        await context.send_initial_metadata((("x-first", "1"), ("x-first-bin", b"\x00")))
        return request

    async def List(self, request: Any, context: Any) -> Any:  # noqa: N802
        context.send_initial_metadata((("x-first", "1"),))
        yield request

    async def Fail(self, request: Any, context: Any) -> Any:  # noqa: N802
        await context.abort(grpc.StatusCode.NOT_FOUND)


class Writing(OrderServicer):
    """Reads and writes where others iterate and yield, and asks its context whatever grpc's can be asked."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []
        self.ended = asyncio.Event()

    async def Create(self, request: Any, context: Any) -> Any:  # noqa: N802
        def heard(of: Any) -> None:
            assert of is context
            self.told.append(f"done {of.done()} {of.cancelled()} {of.is_active()}")
            self.ended.set()

        def broken() -> None:
            raise ValueError("a callback of the application's")

        assert context.add_callback(broken)
        context.add_done_callback(heard)
        context.set_trailing_metadata((("x-t", "1"),))
        context.set_compression(None)
        context.disable_next_message_compression()
        facts = [
            context.code(),
            context.details(),
            context.trailing_metadata(),
            context.done(),
            context.cancelled(),
            context.is_active(),
            context.auth_context(),
            context.peer_identities(),
            context.peer_identity_key(),
        ]
        if request.sku == "hold":
            self.told.append("holds")
            self.note("holds").set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.told.append(f"within {context.cancelled()} {context.is_active()}")
                raise
        return order(repr(facts))

    async def Fail(self, request: Any, context: Any) -> Any:  # noqa: N802
        match request.sku:
            case "number":
                context.set_code(5)
                context.set_details("by its number")
                assert (context.code(), context.details()) == (5, "by its number")
            case "ok":
                context.set_code(5)
                context.set_code(0)
            case "status":
                rich = RpcStatus(code=9, message="rich")
                trailing = (("x-t", "1"), ("grpc-status-details-bin", rich.SerializeToString()))
                context.abort_with_status(_Status(grpc.StatusCode.FAILED_PRECONDITION, "rich", trailing))
            case "cancel":
                context.cancel()
            case "write":
                await context.write(request)
            case "read":
                await context.read()
        return request

    async def List(self, request: Any, context: Any) -> None:  # noqa: N802
        try:
            for number in range(request.count):
                await context.write(order(request.sku, number))
                self.told.append(f"written {number}")
            if request.sku == "fails":
                context.abort(404, "after all")
        finally:
            self.ended.set()

    async def Sum(self, requests: Any, context: Any) -> Any:  # noqa: N802
        total = 0
        while (each := await context.read()) is not aio.EOF:
            total += each.count
        return order("sum", total)

    async def Chat(self, requests: Any, context: Any) -> None:  # noqa: N802
        while (each := await context.read()) is not aio.EOF:
            await context.write(order(each.sku, -each.count))


class _Status(NamedTuple):
    """What grpc_status.rpc_status.to_status makes."""

    code: Any
    details: str
    trailing_metadata: Any


@pytest.fixture
def servicer() -> OrderServicer:
    return Servicer()


@pytest.fixture
def writing() -> Writing:
    return Writing()


@pytest_asyncio.fixture(params=["direct", "hop"])
async def channel(
    request: pytest.FixtureRequest, servicer: Servicer, writing: Writing
) -> AsyncIterator[aio.Channel]:
    async with Collector("far", "127.0.0.1:0", namespaces=["shop", "writing"]) as far:
        far.add_service("shop", servicer, descriptor())
        far.add_service("writing", writing, descriptor())
        async with Collector("near", "127.0.0.1:0", namespaces=["shop", "writing"]) as near:
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


WRITING = (("x-dodici-namespace", "writing"),)


async def test_what_a_method_asks_its_context(
    channel: aio.Channel, writing: Writing, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await stub(channel, "Create")(order("a"), metadata=WRITING)
    facts = [None, "", (("x-t", "1"),), False, False, True, {}, None, None]
    assert answer.sku == repr(facts)
    assert writing.told == ["done True False False"]
    assert [each.message for each in caplog.records] == [f"a callback of writing/{SERVICE}.Create failed"]


async def test_callbacks_are_called_when_the_caller_gives_up(channel: aio.Channel, writing: Writing) -> None:
    call = stub(channel, "Create")(order("hold"), metadata=WRITING)
    waiting = asyncio.ensure_future(_outcome(call))
    await writing.note("holds").wait()
    call.cancel()
    await asyncio.wait_for(writing.ended.wait(), 5)
    await waiting
    assert writing.told == ["holds", "within True False", "done True True False"]


@pytest.mark.parametrize(
    ("sku", "code", "text"),
    [
        ("number", "NOT_FOUND", "by its number"),
        ("ok", "OK", ""),
        ("status", "FAILED_PRECONDITION", "rich"),
        ("cancel", "CANCELLED", ""),
        ("write", "INTERNAL", "failed"),
        ("read", "INTERNAL", "failed"),
    ],
)
async def test_statuses_that_a_method_sets(channel: aio.Channel, sku: str, code: str, text: str) -> None:
    call = stub(channel, "Fail")(order(sku), metadata=WRITING)
    await _outcome(call)
    assert (await call.code()).name == code
    assert text in await call.details()
    if sku == "status":
        trailing = dict(await call.trailing_metadata())
        assert RpcStatus.FromString(trailing["grpc-status-details-bin"]).message == "rich"
        assert trailing["x-t"] == "1"


async def _outcome(call: Any) -> None:
    try:
        await call
    except (aio.AioRpcError, asyncio.CancelledError):
        pass


async def test_methods_that_read_and_write(channel: aio.Channel) -> None:
    listed = stub(channel, "List", "unary_stream")(order("a", 3), metadata=WRITING)
    assert [each.count async for each in listed] == [0, 1, 2]
    given = [order("a", number) for number in (1, 2, 3)]
    assert (await stub(channel, "Sum", "stream_unary")(iter(given), metadata=WRITING)).count == 6
    chat = stub(channel, "Chat", "stream_stream")(iter(given), metadata=WRITING)
    assert [each.count async for each in chat] == [-1, -2, -3]


async def test_a_method_that_writes_and_fails(channel: aio.Channel) -> None:
    listed = stub(channel, "List", "unary_stream")(order("fails", 2), metadata=WRITING)
    seen = []
    with pytest.raises(aio.AioRpcError) as raised:
        async for each in listed:
            seen.append(each.count)
    assert (seen, raised.value.code(), raised.value.details()) == (
        [0, 1],
        grpc.StatusCode.NOT_FOUND,
        "after all",
    )


async def test_a_method_that_writes_is_not_ahead_of_its_reader_and_ends_with_it(writing: Writing) -> None:
    async with Collector("far", "127.0.0.1:0", namespaces=["writing"]) as far:
        far.add_service("writing", writing, descriptor())
        stream = far.dispatch_stream("writing", SERVICE, "List", order("a", 100_000))
        assert [(await anext(stream)).count for _ in range(3)] == [0, 1, 2]
        assert len(writing.told) <= 5
        await stream.aclose()
        await asyncio.wait_for(writing.ended.wait(), 5)
        assert far.stats().in_flight == 0

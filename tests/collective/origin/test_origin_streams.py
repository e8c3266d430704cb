"""Streams to an origin and back: order, ends, early answers, and who waits for whom."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import pytest
from grpc import aio
from tests.collective.fleet import until
from tests.collective.kit import SERVICE as KIT_SERVICE, descriptor, order, order_class
from tests.collective.origin.origin_app import PROTOBUF, Shop
from tests.collective.origin.origin_kit import NS, ORIGIN, SERVICE, origin

import dodici
from dodici.collective import CollectiveError, Collector, Limits
from dodici.collective.origin.bodies import DELIMITED, Items, body_type, encode_item
from dodici.core.grpc_status import GrpcStatus
from dodici.core.headers import Headers
from dodici.testing import ScriptedPeer

WHERE = ("near", "far")
METADATA = (("x-dodici-namespace", NS),)
KINDS = {
    "Count": {"kind": "unary_stream"},
    "Sum": {"kind": "stream_unary"},
    "Chat": {"kind": "stream_stream"},
}


async def numbers(most: int) -> AsyncIterator[int]:
    for number in range(most):
        yield number


# -- all kinds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("methods", [None, KINDS], ids=["wildcard", "exact"])
async def test_all_kinds_of_values(where: str, methods: Any) -> None:
    async with origin(methods=methods) as made:
        by = made.by(where)
        kinds = dict.fromkeys(KINDS) if methods else {name: kind["kind"] for name, kind in KINDS.items()}
        counted = by.dispatch_stream(NS, SERVICE, "Count", 5, kind=kinds["Count"])
        assert [number async for number in counted] == [0, 1, 2, 3, 4]
        assert (await counted.result()).initial_metadata["x-one"] == "1"
        none = by.dispatch_stream(NS, SERVICE, "Count", 0, kind=kinds["Count"])
        assert [number async for number in none] == []
        total = await by.dispatch_stream(NS, SERVICE, "Sum", numbers(5), kind=kinds["Sum"])
        assert (total.status, total.output) == (200, 10)
        assert (await by.dispatch_stream(NS, SERVICE, "Sum", [], kind=kinds["Sum"])).output == 0
        said = by.dispatch_stream(NS, SERVICE, "Chat", iter(["a", {"b": [None]}, None]), kind=kinds["Chat"])
        assert [each async for each in said] == [{"said": "a"}, {"said": {"b": [None]}}, {"said": None}]
        assert made.shop.seen[-1].headers["content-type"] == "application/x-ndjson"


@pytest.mark.parametrize("where", WHERE)
async def test_a_conversation_takes_turns(where: str) -> None:
    async with origin() as made:
        questions: asyncio.Queue[Any] = asyncio.Queue()

        async def asking() -> AsyncIterator[Any]:
            while (question := await questions.get()) is not None:
                yield question

        chat = made.by(where).dispatch_stream(NS, SERVICE, "Chat", asking(), kind="stream_stream")
        for number in range(20):
            questions.put_nowait(number)
            assert await anext(chat) == {"said": number}
        questions.put_nowait(None)
        assert (await chat.result()).status == 200


@pytest.mark.parametrize("where", WHERE)
async def test_a_stub_need_not_say_what_kind_a_wildcards_call_is(where: str) -> None:
    class Typed(Shop):
        async def read(self, request: Any) -> list[Any]:
            body = await request.body()
            kind = request.headers["content-type"]
            if kind == PROTOBUF:
                return [order_class().FromString(body)]
            items = Items(body_type(Headers({"content-type": kind}), False, ""), 1000, "")
            return [order_class().FromString(item) for item in [*items.feed(body), *items.end()]]

        async def do_One(self, request: Any, answer: Any) -> None:  # noqa: N802
            total = sum(each.count for each in await self.read(request))
            await answer.whole(order("one", total).SerializeToString(), PROTOBUF)

        async def do_Many(self, request: Any, answer: Any) -> None:  # noqa: N802
            given = await self.read(request)
            body = b"".join(encode_item(order(each.sku, -each.count), DELIMITED) for each in given * 2)
            await answer.whole(body, DELIMITED.decode())

    async with origin(Typed()) as made, aio.insecure_channel(made.by(where).address) as channel:
        write, read = order_class().SerializeToString, order_class().FromString

        def stub(kind: str, name: str) -> Any:
            return getattr(channel, kind)(f"/{SERVICE}/{name}", write, read)

        given = [order("a", 1), order("b", 2), order("c", 3)]
        assert await stub("unary_unary", "One")(given[0], metadata=METADATA) == order("one", 1)
        assert await stub("stream_unary", "One")(iter(given), metadata=METADATA) == order("one", 6)
        assert [each async for each in stub("unary_stream", "Many")(given[0], metadata=METADATA)] == [
            order("a", -1), order("a", -1),
        ]  # fmt: skip
        both = stub("stream_stream", "Many")(iter(given), metadata=METADATA)
        assert [each.count async for each in both] == [-1, -2, -3, -1, -2, -3]
        nothing = stub("stream_stream", "Many")(iter(()), metadata=METADATA)
        assert [each async for each in nothing] == []


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("codec", ["json", "protobuf"])
async def test_streams_of_messages(where: str, codec: str) -> None:
    class Typed(Shop):
        async def do_Chat(self, request: Any, answer: Any) -> None:  # noqa: N802
            body = await request.body()
            await answer.whole(body, request.headers["content-type"])

        do_Sum = do_Chat  # noqa: N815 - what comes first is the answer

    async with origin(Typed(), methods=descriptor(), service="OrderService", codec=codec) as made:
        given = [order("a", 1), order("b\n", 2), order()]
        async with aio.insecure_channel(made.by(where).address) as channel:
            write, read = order_class().SerializeToString, order_class().FromString
            chat = channel.stream_stream(f"/{KIT_SERVICE}/Chat", write, read)(iter(given), metadata=METADATA)
            assert [each async for each in chat] == given
        due = "application/x-ndjson" if codec == "json" else "application/x-protobuf; delimited=true"
        assert made.shop.seen[-1].headers["content-type"] == due
        said = made.by(where).dispatch_stream(NS, "OrderService", "Chat", iter(given))
        assert [each async for each in said] == given


# -- ends ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", WHERE)
async def test_an_answer_before_the_input_has_ended_ends_the_call(where: str) -> None:
    async with origin() as made:
        closed = asyncio.Event()

        async def endless() -> AsyncIterator[Any]:
            try:
                yield 1
                await asyncio.Event().wait()
            finally:
                closed.set()

        async with asyncio.timeout(10):
            result = await made.by(where).dispatch_stream(
                NS, SERVICE, "Early", endless(), kind="stream_unary"
            )
            assert (result.status, result.output) == (200, "enough")
            await closed.wait()
            await until(lambda: made.near._local.in_flight == 0)


async def test_an_answer_before_the_input_has_ended_ends_the_call_on_the_network_too() -> None:
    async def early(connection: Any) -> None:
        await connection.read_head()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
        await connection.send(head + b'content-length: 8\r\n\r\n"enough"')
        await connection.closed()

    async def endless() -> AsyncIterator[Any]:
        yield 1
        await asyncio.Event().wait()

    async with ScriptedPeer(early) as peer, dodici.Agent() as agent, Collector("one", "127.0.0.1:0") as one:
        one.register_origin(NS, SERVICE, peer.origin, dispatcher=agent, http=False)
        async with asyncio.timeout(10):
            result = await one.dispatch_stream(NS, SERVICE, "Early", endless(), kind="stream_unary")
        assert (result.status, result.output) == (200, "enough")


@pytest.mark.parametrize("where", WHERE)
async def test_an_input_that_fails_fails_the_call(where: str) -> None:
    async def failing() -> AsyncIterator[Any]:
        yield 1
        raise ValueError("no more")

    async with origin() as made:
        stream = made.by(where).dispatch_stream(NS, SERVICE, "Sum", failing(), kind="stream_unary", timeout=5)
        if where == "near":
            with pytest.raises(ValueError, match="no more"):
                await stream.result()
        else:
            with pytest.raises((ValueError, CollectiveError)):
                await stream.result()
        await until(lambda: all(request.disconnected for request in made.shop.seen))
        await until(lambda: made.near._local.in_flight == 0)


@pytest.mark.parametrize("where", WHERE)
async def test_what_has_no_place_in_a_stream_is_said(where: str) -> None:
    async with origin() as made:
        result = await made.by(where).dispatch_stream(NS, SERVICE, "Sum", [1, b"x"], kind="stream_unary")
        assert (result.status, result.status.message) == (
            400, "bytes cannot be written as JSON: streams to this origin are of JSON values",
        )  # fmt: skip


@pytest.mark.parametrize("where", WHERE)
async def test_an_app_that_breaks_off_fails_the_call_after_what_it_has_said(where: str) -> None:
    async with origin() as made:
        stream = made.by(where).dispatch_stream(NS, SERVICE, "Break", None, kind="unary_stream")
        assert await anext(stream) == 1
        with pytest.raises(CollectiveError) as caught:
            await anext(stream)
        assert caught.value.grpc_status is GrpcStatus.UNAVAILABLE


@pytest.mark.parametrize("where", WHERE)
async def test_a_line_beyond_the_limit_is_refused(where: str) -> None:
    async with origin(near={"limits": Limits(message=100_000)}) as made:
        told = {"kind": "application/x-ndjson", "body": "1", "times": 100_001}
        result = await made.by(where).dispatch_stream(NS, SERVICE, "Answer", told, kind="unary_stream")
        assert result.status.grpc_status is GrpcStatus.RESOURCE_EXHAUSTED
        assert result.status.message == f"{ORIGIN} sent a message of more than 100000 bytes (limits.message)"


# -- who waits for whom --------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", WHERE)
async def test_a_reader_that_stops_stops_the_app(where: str) -> None:
    async with origin() as made:
        stream = made.by(where).dispatch_stream(NS, SERVICE, "Flood", None, kind="unary_stream", timeout=60)
        assert await anext(stream) == "x" * 1021
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            await still(lambda: made.shop.sent)
            for _ in range(200):
                await anext(stream)
            await still(lambda: made.shop.sent)
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # It has come to rest: what is under way is what grpc's window and the kernel's buffers hold.
        assert made.shop.sent < 64_000_000
        assert after - before < 4_000_000
        await stream.aclose()
        await made.shop.note("gone").wait()


@pytest.mark.parametrize("where", WHERE)
async def test_an_app_that_stops_reading_stops_the_writer(where: str) -> None:
    given = 0

    async def lines() -> AsyncIterator[str]:
        nonlocal given
        for _ in range(1500):
            given += 16384
            yield "x" * 16381

    async with origin() as made:
        stream = made.by(where).dispatch_stream(
            NS, SERVICE, "Swallow", lines(), kind="stream_unary", timeout=60
        )
        result = asyncio.ensure_future(stream.result())
        await made.shop.note("full").wait()
        await still(lambda: given)
        assert given < 20_000_000
        made.shop.note("swallow").set()
        assert (await result).output == 1500 * 16384


async def still(figure: Any) -> None:
    """Return when a figure does not move any more."""
    last, calm = None, 0
    while calm < 10:
        await asyncio.sleep(0.01)
        last, calm = (last, calm + 1) if figure() == last else (figure(), 0)

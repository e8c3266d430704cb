"""gRPC calls with streams: order, flow control both ways, and every way to end one."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from tests.peers.kit import virtual
from tests.unit.api_kit import HOLD, START, FakeDispatcher, Step, data, end, fail, head, turns

import dodici
from dodici import GrpcChannel, GrpcDeadlineError, GrpcError, GrpcMetadata, GrpcStatus
from dodici.api.grpc_handler import HIGH_WATER
from dodici.wire.grpc.framing import encode_message

GRPC = {"content-type": "application/grpc", "a": "1"}
METHOD = "/pkg.Service/Method"
OK = end({"grpc-status": "0", "b": "2"})


def messages(*payloads: bytes) -> list[Step]:
    return [data(encode_message(payload)) for payload in payloads]


def channel(script: list[Step], **options: Any) -> tuple[FakeDispatcher, GrpcChannel]:
    dispatcher = FakeDispatcher(script)
    return dispatcher, GrpcChannel(dispatcher, "http://127.0.0.1:50051", **options)


# -- responses -----------------------------------------------------------------------------------------


async def test_messages_in_order_then_the_end() -> None:
    _, calls = channel([START, head(200, GRPC), *messages(b"1", b"", b"3"), OK])
    call = calls.unary_stream(METHOD, b"")
    assert (call.status, call.trailing_metadata) == (None, None)
    assert repr(call) == f"<GrpcCall {METHOD} running>"
    assert [message async for message in call] == [b"1", b"", b"3"]
    assert call.status is GrpcStatus.OK
    assert call.trailing_metadata == GrpcMetadata({"b": "2"})
    assert await call.initial_metadata() == GrpcMetadata({"a": "1"})
    assert repr(call) == f"<GrpcCall {METHOD} OK>"
    with pytest.raises(StopAsyncIteration):
        await anext(call)


async def test_an_empty_stream() -> None:
    _, calls = channel([START, head(200, GRPC), OK])
    assert [message async for message in calls.unary_stream(METHOD, b"")] == []


async def test_a_stream_may_end_with_a_trailers_only_ok() -> None:
    _, calls = channel([START, head(200, {**GRPC, "grpc-status": "0"}), end()])
    call = calls.unary_stream(METHOD, b"")
    assert await call.initial_metadata() == GrpcMetadata()
    assert [message async for message in call] == []
    assert call.trailing_metadata == GrpcMetadata({"a": "1"})


async def test_the_call_begins_at_once() -> None:
    dispatcher, calls = channel([START, HOLD])
    call = calls.unary_stream(METHOD, b"x")
    assert len(dispatcher.plays) == 1
    call.cancel()


async def test_initial_metadata_come_before_messages() -> None:
    dispatcher, calls = channel([START, head(200, GRPC), HOLD])
    call = calls.unary_stream(METHOD, b"")
    assert (await call.initial_metadata())["a"] == "1"
    dispatcher.plays[0].go(*messages(b"x"), OK)
    assert [message async for message in call] == [b"x"]


async def test_several_may_wait_for_the_metadata_while_another_reads() -> None:
    dispatcher, calls = channel([START, HOLD])
    call = calls.unary_stream(METHOD, b"")
    waiting = [asyncio.ensure_future(call.initial_metadata()) for _ in range(2)]
    reading = asyncio.ensure_future(anext(call))
    await turns()
    dispatcher.plays[0].go(head(200, GRPC), HOLD)
    assert await asyncio.gather(*waiting) == [GrpcMetadata({"a": "1"})] * 2
    assert not reading.done()
    dispatcher.plays[0].go(*messages(b"x"), OK)
    assert await reading == b"x"
    assert [message async for message in call] == []


async def test_metadata_that_never_come() -> None:
    _, calls = channel([START, fail(dodici.SocketError("gone"))])
    call = calls.unary_stream(METHOD, b"")
    for _ in range(2):
        with pytest.raises(GrpcError, match="gone") as caught:
            await call.initial_metadata()
        assert caught.value.status is GrpcStatus.UNAVAILABLE


async def test_messages_before_a_failure_are_delivered() -> None:
    _, calls = channel([START, head(200, GRPC), *messages(b"1", b"2"), end({"grpc-status": "10"})])
    call = calls.unary_stream(METHOD, b"")
    await turns()
    assert call.status is GrpcStatus.ABORTED
    assert (await anext(call), await anext(call)) == (b"1", b"2")
    for _ in range(2):
        with pytest.raises(GrpcError) as caught:
            await anext(call)
        assert caught.value.status is GrpcStatus.ABORTED
        assert caught.value.initial_metadata == GrpcMetadata({"a": "1"})


async def test_a_lost_connection_in_the_middle() -> None:
    _, calls = channel([START, head(200, GRPC), *messages(b"1"), fail(dodici.SocketError("gone"))])
    got = []
    with pytest.raises(GrpcError, match="gone") as caught:
        async for message in calls.unary_stream(METHOD, b""):
            got.append(message)
    assert got == [b"1"]
    assert caught.value.status is GrpcStatus.UNAVAILABLE


async def test_messages_before_a_refused_one_are_delivered() -> None:
    dispatcher, calls = channel(
        [START, head(200, GRPC), *messages(b"1", bytes(20)), HOLD], max_message_size=10
    )
    call = calls.unary_stream(METHOD, b"")
    await turns()
    assert dispatcher.plays[0].exchange.done
    assert await anext(call) == b"1"
    with pytest.raises(GrpcError, match="larger than max"):
        await anext(call)


@pytest.mark.parametrize("ended", [True, False])
async def test_a_message_that_cannot_be_read_ends_the_call(ended: bool) -> None:
    dispatcher, calls = channel([START, head(200, GRPC), *messages(b"1", b"x", b"3"), OK if ended else HOLD])
    call = calls.unary_stream(METHOD, b"", deserializer=int)
    await turns()
    assert await anext(call) == 1
    for _ in range(2):
        with pytest.raises(GrpcError, match="deserializer raised ValueError") as caught:
            await anext(call)
        assert caught.value.status is GrpcStatus.INTERNAL
        assert isinstance(caught.value.__cause__, ValueError)
    assert (dispatcher.plays[0].aborted_with is None) == ended


async def test_compressed_messages_beside_plain_ones() -> None:
    parts = [data(encode_message(b"1", "gzip")), *messages(b"2"), data(encode_message(b"3", "gzip"))]
    _, calls = channel([START, head(200, {**GRPC, "grpc-encoding": "gzip"}), *parts, OK])
    assert [message async for message in calls.unary_stream(METHOD, b"")] == [b"1", b"2", b"3"]


async def test_one_reader_at_a_time() -> None:
    dispatcher, calls = channel([START, HOLD])
    call = calls.unary_stream(METHOD, b"")
    first = asyncio.ensure_future(anext(call))
    await turns()
    with pytest.raises(dodici.BodyUnusableError, match="another task"):
        await anext(call)
    dispatcher.plays[0].go(head(200, GRPC), *messages(b"x"), HOLD)
    assert await first == b"x"
    call.cancel()


# -- flow control --------------------------------------------------------------------------------------


async def test_a_slow_reader_holds_the_server_back() -> None:
    payload = bytes(HIGH_WATER // 4)
    dispatcher, calls = channel([START, head(200, GRPC), *messages(*[payload] * 20), OK])
    call = calls.unary_stream(METHOD, b"")
    await turns(50)
    play = dispatcher.plays[0]
    assert play.exchange.paused
    assert play.exchange.bytes_read <= HIGH_WATER + len(payload)
    assert await anext(call) == payload
    assert not play.exchange.paused
    count = 1
    async for message in call:
        assert message == payload
        count += 1
        await turns()
        assert play.exchange.bytes_read <= (count + 5) * (len(payload) + 5)
    assert count == 20
    assert play.pauses == play.resumes > 1


async def test_a_flood_of_empty_messages_is_bounded() -> None:
    flood = data(encode_message(b"") * 1000)
    dispatcher, calls = channel([START, head(200, GRPC), *[flood] * 100, OK])
    call = calls.unary_stream(METHOD, b"")
    await turns(200)
    assert dispatcher.plays[0].exchange.paused
    assert dispatcher.plays[0].exchange.bytes_read < HIGH_WATER + 5000
    assert len([message async for message in call]) == 100_000


async def test_a_large_message_is_not_paused_before_it_is_whole() -> None:
    payload = bytes(HIGH_WATER * 4)
    wire = encode_message(payload)
    pieces = [data(wire[at : at + 16384]) for at in range(0, len(wire), 16384)]
    dispatcher, calls = channel([START, head(200, GRPC), *pieces, *pieces, OK])
    call = calls.unary_stream(METHOD, b"")
    await turns(100)
    play = dispatcher.plays[0]
    assert play.exchange.paused
    assert play.exchange.bytes_read == len(wire)
    assert [len(message) async for message in call] == [len(payload)] * 2


async def test_a_unary_response_is_not_paused() -> None:
    payload = bytes(HIGH_WATER * 4)
    wire = encode_message(payload)
    dispatcher, calls = channel([START, head(200, GRPC), data(wire[:100_000]), data(wire[100_000:]), OK])
    assert (await calls.unary_unary(METHOD, b"")).message == payload
    assert dispatcher.plays[0].pauses == 0


# -- the ways to end -----------------------------------------------------------------------------------


def cancelled(dispatcher: FakeDispatcher) -> str:
    """The text with which the exchange was aborted."""
    reason = dispatcher.plays[0].aborted_with
    assert isinstance(reason, GrpcError)
    assert reason.status is GrpcStatus.CANCELLED
    return reason.message


async def test_cancel() -> None:
    dispatcher, calls = channel([START, head(200, GRPC), *messages(b"1"), HOLD])
    call = calls.unary_stream(METHOD, b"")
    await turns()
    call.cancel()
    call.cancel()
    assert cancelled(dispatcher) == "cancelled by the caller"
    assert call.status is GrpcStatus.CANCELLED
    with pytest.raises(GrpcError) as caught:
        await anext(call)
    assert caught.value.status is GrpcStatus.CANCELLED


async def test_cancel_while_another_task_reads() -> None:
    _, calls = channel([START, HOLD])
    call = calls.unary_stream(METHOD, b"")
    reading = asyncio.ensure_future(anext(call))
    waiting = asyncio.ensure_future(call.initial_metadata())
    await turns()
    await call.aclose()
    for task in (reading, waiting):
        with pytest.raises(GrpcError, match="cancelled by the caller"):
            await task


async def test_cancelled_after_the_end_with_messages_left() -> None:
    _, calls = channel([START, head(200, GRPC), *messages(b"1"), OK])
    call = calls.unary_stream(METHOD, b"")
    await turns()
    assert call.status is GrpcStatus.OK
    call.cancel()
    with pytest.raises(GrpcError, match="cancelled by the caller"):
        await anext(call)


async def test_cancelled_after_everything_was_read() -> None:
    _, calls = channel([START, head(200, GRPC), *messages(b"1"), OK])
    call = calls.unary_stream(METHOD, b"")
    assert [message async for message in call] == [b"1"]
    call.cancel()
    assert call.status is GrpcStatus.OK


async def test_leaving_the_block() -> None:
    dispatcher, calls = channel([START, head(200, GRPC), *messages(b"1"), HOLD])
    async with calls.unary_stream(METHOD, b"") as call:
        async for message in call:
            assert message == b"1"
            break
    assert cancelled(dispatcher) == "cancelled by the caller"


@pytest.mark.parametrize("what", ["anext", "initial_metadata"])
async def test_cancelling_the_task_that_waits(what: str) -> None:
    dispatcher, calls = channel([START, HOLD])
    call = calls.unary_stream(METHOD, b"")
    task = asyncio.ensure_future(anext(call) if what == "anext" else call.initial_metadata())
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled(dispatcher) == "cancelled by the caller"


async def test_a_call_that_is_dropped() -> None:
    dispatcher, calls = channel([START, head(200, GRPC), *messages(b"1"), HOLD])
    gc.disable()
    try:
        async for message in calls.unary_stream(METHOD, b""):
            assert message == b"1"
            break
        await turns()
    finally:
        gc.enable()
    assert cancelled(dispatcher) == "the call was dropped before its end"


@virtual
async def test_a_deadline_in_the_middle() -> None:
    dispatcher, calls = channel([START, head(200, GRPC), *messages(b"1"), HOLD])
    got = []
    with pytest.raises(GrpcDeadlineError):
        async for message in calls.unary_stream(METHOD, b"", timeout=3600):
            got.append(message)
    assert got == [b"1"]
    assert isinstance(dispatcher.plays[0].aborted_with, GrpcDeadlineError)


# -- requests ------------------------------------------------------------------------------------------


class Source:
    """Counts what is asked of it."""

    def __init__(self, *items: Any) -> None:
        self.items = list(items)
        self.asked = 0
        self.closed = 0

    def __aiter__(self) -> Source:
        return self

    async def __anext__(self) -> Any:
        self.asked += 1
        if not self.items:
            raise StopAsyncIteration
        return self.items.pop(0)

    async def aclose(self) -> None:
        self.closed += 1


async def sent(dispatcher: FakeDispatcher) -> list[bytes]:
    """The request body, as a transport would pull it."""
    return [bytes(chunk) async for chunk in dispatcher.options.body]


async def test_requests_are_pulled_one_by_one() -> None:
    dispatcher, calls = channel([START, HOLD, head(200, GRPC), OK])
    source = Source(b"1", b"22", b"")
    call = calls.stream_stream(METHOD, source)
    await turns()
    body = dispatcher.options.body
    assert source.asked == 0
    assert await anext(body) == encode_message(b"1")
    assert source.asked == 1
    assert [chunk async for chunk in body] == [encode_message(b"22"), encode_message(b"")]
    dispatcher.plays[0].go()
    assert [message async for message in call] == []


async def _generated() -> AsyncIterator[bytes]:
    yield b"1"
    yield b"2"


def _plainly_generated() -> Iterator[bytes]:
    yield b"1"
    yield b"2"


@pytest.mark.parametrize("source", [[b"1", b"2"], (b"1", b"2"), _generated, _plainly_generated])
async def test_kinds_of_sources(source: Any) -> None:
    dispatcher, calls = channel([START, head(200, GRPC), *messages(b"reply"), OK])
    response = await calls.stream_unary(METHOD, source() if callable(source) else source)
    assert response.message == b"reply"
    assert await sent(dispatcher) == [encode_message(b"1"), encode_message(b"2")]


@pytest.mark.parametrize("source", [b"bytes", "text", 5, None])
async def test_what_is_no_source(source: Any) -> None:
    dispatcher, calls = channel([START])
    with pytest.raises(dodici.InvalidArgumentError, match="messages must be an iterable"):
        await calls.stream_unary(METHOD, source)
    with pytest.raises(dodici.InvalidArgumentError, match="messages must be an iterable"):
        calls.stream_stream(METHOD, source)
    assert dispatcher.plays == []


async def test_requests_are_serialized_and_compressed() -> None:
    dispatcher, calls = channel([START, head(200, GRPC), *messages(b"3"), OK], compression="gzip")
    response = await calls.stream_unary(
        METHOD, [1, 2], serializer=lambda number: b"%d" % number, deserializer=int
    )
    assert response.message == 3
    assert await sent(dispatcher) == [encode_message(b"1", "gzip"), encode_message(b"2", "gzip")]


async def test_a_request_that_is_not_bytes_fails_where_it_is_asked_for() -> None:
    dispatcher, calls = channel([START, HOLD])
    call = calls.stream_stream(METHOD, ["text"])
    with pytest.raises(dodici.InvalidArgumentError, match="must be bytes, not str"):
        await sent(dispatcher)
    call.cancel()


async def test_closing_the_body_closes_the_source_even_if_nothing_was_asked() -> None:
    source = Source(b"1")
    _, calls = channel([START, HOLD])
    call = calls.stream_stream(METHOD, source)
    await turns()
    call.cancel()
    await turns()
    assert (source.asked, source.closed) == (0, 1)


async def test_a_deadline_that_has_passed_closes_the_source() -> None:
    source = Source(b"1")
    dispatcher, calls = channel([START])
    call = calls.stream_stream(METHOD, source, timeout=0)
    with pytest.raises(GrpcDeadlineError):
        await anext(call)
    await turns()
    assert dispatcher.plays == []
    assert (source.asked, source.closed) == (0, 1)

"""Calls on a link: what travels there and what does not, what becomes of it when the link ends, and its limits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.collective.fleet import fleet, serve, until

from dodici.collective.batch import LARGEST, BatchCaller, BatchRunner, Outbox
from dodici.collective.errors import CollectiveError, DeadlineExceededError, PeerUnavailableError
from dodici.collective.protos import link_pb2 as pb
from dodici.core.grpc_status import GrpcStatus


def ignore(*_: Any) -> None:
    pass


async def next_frame(outbox: Outbox) -> pb.LinkFrame:
    return pb.LinkFrame.FromString(await asyncio.wait_for(anext(outbox), 2))


def begin(caller: BatchCaller, payload: bytes = b"x", **more: Any) -> asyncio.Task[bytes]:
    fields: dict[str, Any] = {"timeout": 5.0, "metadata": (), "on_metadata": ignore, **more}
    return asyncio.ensure_future(caller.unary("/S/M", payload, **fields))


# -- the caller's end ------------------------------------------------------------------------------------------------


async def test_what_waits_leaves_in_one_message() -> None:
    outbox = Outbox()
    caller = BatchCaller(outbox, "b", 100)
    tasks = [
        begin(caller, bytes([n]), metadata=(("x", "y"), ("z-bin", b"\xff")), timeout=1.5) for n in range(20)
    ]
    await asyncio.sleep(0)
    frame = await next_frame(outbox)
    assert [call.payload for call in frame.calls] == [bytes([n]) for n in range(20)]
    first = frame.calls[0]
    assert (first.path, first.timeout_us) == ("/S/M", 1_500_000)
    assert [(entry.key, entry.value) for entry in first.metadata] == [("x", b"y"), ("z-bin", b"\xff")]
    assert len({call.id for call in frame.calls}) == 20
    for call in reversed(frame.calls):
        caller.answered(pb.LinkAnswer(id=call.id, payload=call.payload * 2))
    assert await asyncio.gather(*tasks) == [bytes([n]) * 2 for n in range(20)]


async def test_a_message_is_closed_when_it_is_large() -> None:
    outbox = Outbox()
    caller = BatchCaller(outbox, "b", 100)
    tasks = [begin(caller, bytes(LARGEST)) for _ in range(10)]
    await asyncio.sleep(0)
    frames = [await next_frame(outbox) for _ in range(3)]
    assert [len(frame.calls) for frame in frames] == [4, 4, 2]
    caller.fail("done")
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_does_not_belong_on_a_link() -> None:
    caller = BatchCaller(Outbox(), "b", 2)
    assert caller.takes(LARGEST)
    assert not caller.takes(LARGEST + 1)
    tasks = [begin(caller) for _ in range(2)]
    await asyncio.sleep(0)
    assert not caller.takes(1)  # as many as the other end lets run
    caller.fail("done")
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not caller.takes(1)


async def test_bytes_under_way_are_limited() -> None:
    caller = BatchCaller(Outbox(), "b", 1000)
    tasks = []
    while caller.takes(LARGEST):
        tasks.append(begin(caller, bytes(LARGEST)))
        await asyncio.sleep(0)
    assert len(tasks) * LARGEST == 4 * 1024 * 1024
    caller.fail("done")
    await asyncio.gather(*tasks, return_exceptions=True)
    assert caller._bytes == 0


async def test_when_the_link_ends_what_never_left_says_so() -> None:
    outbox = Outbox()
    caller = BatchCaller(outbox, "b", 100)
    sent = begin(caller)
    await asyncio.sleep(0)
    await next_frame(outbox)
    unsent = begin(caller)
    await asyncio.sleep(0)
    caller.fail("the link was lost")
    with pytest.raises(PeerUnavailableError, match="the link was lost") as caught:
        await sent
    assert not caught.value.request_not_processed
    with pytest.raises(PeerUnavailableError) as caught:
        await unsent
    assert caught.value.request_not_processed


async def test_a_call_that_is_cancelled_before_it_left_leaves_no_trace() -> None:
    outbox = Outbox()
    caller = BatchCaller(outbox, "b", 100)
    early, late = begin(caller, b"early"), begin(caller, b"late")
    await asyncio.sleep(0)
    early.cancel()
    await asyncio.gather(early, return_exceptions=True)
    frame = await next_frame(outbox)
    assert [call.payload for call in frame.calls] == [b"late"]
    assert list(frame.cancelled) == []
    late.cancel()
    await asyncio.gather(late, return_exceptions=True)
    assert list((await next_frame(outbox)).cancelled) == [frame.calls[0].id]
    # Its answer may be under way already.
    caller.answered(pb.LinkAnswer(id=frame.calls[0].id))


async def test_a_deadline_ends_a_call_whatever_the_other_end_does() -> None:
    outbox = Outbox()
    caller = BatchCaller(outbox, "b", 100)
    call = begin(caller, timeout=0.05)
    await asyncio.sleep(0)
    number = (await next_frame(outbox)).calls[0].id
    with pytest.raises(DeadlineExceededError):
        await call
    assert list((await next_frame(outbox)).cancelled) == [number]
    assert caller.takes(1)


async def test_a_failure_comes_with_its_metadata() -> None:
    outbox = Outbox()
    caller = BatchCaller(outbox, "b", 100)
    got: dict[str, Any] = {}
    call = begin(caller, on_metadata=got.__setitem__)
    await asyncio.sleep(0)
    number = (await next_frame(outbox)).calls[0].id
    answer = pb.LinkAnswer(id=number, code=5, message="gone")
    answer.trailing.add(key="x-why", value=b"sold")
    caller.answered(answer)
    with pytest.raises(CollectiveError, match="gone") as caught:
        await call
    assert caught.value.grpc_status is GrpcStatus.NOT_FOUND
    assert got["trailing"] == (("x-why", "sold"),)


async def test_control_frames_and_calls_share_messages() -> None:
    outbox = Outbox()
    caller = BatchCaller(outbox, "b", 100)
    call = begin(caller)
    await asyncio.sleep(0)
    outbox.control(pb.LinkFrame(acknowledgement=pb.Acknowledgement(version=3)))
    outbox.latest(lambda: pb.LinkFrame(announcement=pb.Announcement(version=1)))
    outbox.latest(lambda: pb.LinkFrame(announcement=pb.Announcement(version=2)))
    first, second = await next_frame(outbox), await next_frame(outbox)
    assert (first.acknowledgement.version, len(first.calls)) == (3, 1)
    assert second.announcement.version == 2
    outbox.close()
    with pytest.raises(StopAsyncIteration):
        await anext(outbox)
    caller.fail("done")
    await asyncio.gather(call, return_exceptions=True)


# -- the other end -----------------------------------------------------------------------------------------------------


async def test_what_is_refused_at_the_end_says_that_it_was_not_run() -> None:
    async def run(call: Any, answer: Any) -> None:
        raise AssertionError

    outbox = Outbox()
    runner = BatchRunner(outbox, run, 1 << 20)
    await runner.finish()
    runner.received(pb.LinkCall(id=1, path="/S/M"))
    answer = (await next_frame(outbox)).answers[0]
    assert (answer.id, answer.code) == (1, int(GrpcStatus.UNAVAILABLE))
    assert [(entry.key, entry.value) for entry in answer.trailing] == [("x-dodici-unsent", b"1")]


async def test_an_answer_beyond_a_message_is_a_failure_and_not_the_end_of_the_link() -> None:
    async def run(call: Any, answer: Any) -> None:
        answer.payload = bytes(int(call.payload))

    outbox = Outbox()
    runner = BatchRunner(outbox, run, 1 << 20)
    runner.received(pb.LinkCall(id=1, payload=str(1 << 20).encode()))
    runner.received(pb.LinkCall(id=2, payload=b"3"))
    await runner.finish()
    frame = await next_frame(outbox)
    assert [(a.id, a.code, a.payload) for a in frame.answers] == [
        (1, int(GrpcStatus.RESOURCE_EXHAUSTED), b""),
        (2, 0, bytes(3)),
    ]


async def test_a_bug_is_an_internal_error_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    async def run(call: Any, answer: Any) -> None:
        raise ValueError("a secret")

    outbox = Outbox()
    runner = BatchRunner(outbox, run, 1 << 20)
    runner.received(pb.LinkCall(id=1))
    answer = (await next_frame(outbox)).answers[0]
    assert (answer.code, "secret" in answer.message) == (int(GrpcStatus.INTERNAL), False)
    assert "a secret" in caplog.text
    await runner.close()


async def test_a_task_that_is_cancelled_before_its_first_step_is_forgotten() -> None:
    async def run(call: Any, answer: Any) -> None:
        raise AssertionError

    runner = BatchRunner(Outbox(), run, 1 << 20)
    runner.received(pb.LinkCall(id=1))
    runner.cancel(1)
    runner.cancel(2)
    await asyncio.wait_for(runner.finish(), 1)


async def test_reading_stops_while_too_many_bytes_of_answers_wait() -> None:
    outbox = Outbox()
    for number in range(5):
        outbox.answer(pb.LinkAnswer(id=number, payload=bytes(1_000_000)))
    room = asyncio.ensure_future(outbox.room())
    await asyncio.sleep(0)
    assert not room.done()
    await next_frame(outbox)
    await asyncio.wait_for(room, 1)


# -- together --------------------------------------------------------------------------------------------------------


async def test_small_calls_go_on_the_link_and_large_ones_do_not() -> None:
    async with fleet(a={}, b={}) as (a, b):

        async def echo(context: Any, given: Any) -> Any:
            return given

        b.register_service("shop", "Echo", "Say", echo)
        await a.connect_to(b.address)
        batch: Any = a._peers.get("b").batch  # type: ignore[union-attr]
        assert (await a.dispatch("shop", "Echo", "Say", b"small")).output == b"small"
        assert batch._last == 1
        large = bytes(LARGEST)
        assert (await a.dispatch("shop", "Echo", "Say", large)).output == large
        assert batch._last == 1


async def test_an_answer_of_any_size_comes_on_the_link() -> None:
    async with fleet(a={}, b={}) as (a, b):

        async def make(context: Any, given: Any) -> Any:
            return bytes(given)

        b.register_service("shop", "Make", "Do", make)
        await a.connect_to(b.address)
        answers = await asyncio.gather(*(a.dispatch("shop", "Make", "Do", 3_000_000) for _ in range(8)))
        assert [len(answer.output) for answer in answers] == [3_000_000] * 8
        assert (await a.dispatch("shop", "Make", "Do", 17_000_000)).status == 429
        assert (await a.dispatch("shop", "Make", "Do", 1)).output == b"\0"


async def test_calls_on_a_link_end_before_the_collector_does() -> None:
    async with fleet(a={}, b={}) as (a, b):
        work = serve(b)
        await a.connect_to(b.address)
        call = asyncio.create_task(a.dispatch("shop", "Work", "Hold"))
        await until(lambda: work.running == 1)
        stopping = asyncio.create_task(b.stop())
        await until(lambda: a.connections[0].state != "connected")
        assert not stopping.done()
        work.released.set()
        assert (await call).output == "b"
        await stopping


async def test_a_link_that_is_cut_fails_its_calls_once() -> None:
    async with fleet(a={}, b={}) as (a, b):
        work = serve(b)
        await a.connect_to(b.address)
        calls = [asyncio.create_task(a.dispatch("shop", "Work", "Hold")) for _ in range(5)]
        await until(lambda: work.running == 5)
        b._peers.get("a").session.end()  # type: ignore[union-attr]
        assert [int((await call).status) for call in calls] == [503] * 5
        await until(lambda: (work.running, work.cancelled) == (0, 5))
        await until(lambda: a.connections[0].state == "connected")
        assert (await a.dispatch("shop", "Work", "Who")).output == "b"

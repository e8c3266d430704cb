"""Running local methods: kinds, deadlines, cancellation, failures, room."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dodici.collective import CallKind, CollectiveError, DeadlineExceededError, Limits
from dodici.collective.context import current
from dodici.collective.contracts import Call
from dodici.collective.local import LocalExecutor
from dodici.collective.names import LocalServices, MethodSpec, RouteKey
from dodici.core.grpc_status import GrpcStatus


def setup(
    handler: Any, kind: str = "unary_unary", limits: Limits | None = None
) -> tuple[LocalExecutor, MethodSpec]:
    services = LocalServices()
    spec = MethodSpec("n", "S", "m", handler, CallKind(kind))
    services.add([spec])
    return LocalExecutor("me", services, limits or Limits()), spec


def call(timeout: float | None = None) -> Call:
    deadline = None if timeout is None else time.monotonic() + timeout
    return Call(RouteKey("n", "S", "m"), deadline=deadline, peer="test")


async def stream_of(*values: Any) -> AsyncIterator[Any]:
    for value in values:
        yield value


async def test_async_and_plain_handlers() -> None:
    async def coroutine(context: Any, given: Any) -> Any:
        return given + 1

    for handler in (
        coroutine,
        lambda context, given: given + 1,
        lambda context, given: coroutine(context, given),
    ):
        local, spec = setup(handler)
        held = call()
        assert await local.run_unary(spec, held, 1) == 2
        assert held.handled_by == "me"
        assert local.in_flight == 0


async def test_streaming_handlers_of_every_shape() -> None:
    async def generator(context: Any, given: Any) -> AsyncIterator[int]:
        for number in range(given):
            yield number

    async def returning(context: Any, given: Any) -> Any:
        return range(given)

    def plain(context: Any, given: Any) -> Any:
        yield from range(given)

    for handler in (generator, returning, plain):
        local, spec = setup(handler, "unary_stream")
        assert [one async for one in local.run_stream(spec, call(), 3)] == [0, 1, 2]

    async def total(context: Any, given: Any) -> int:
        return sum([one async for one in given])

    local, spec = setup(total, "stream_unary")
    assert [one async for one in local.run_stream(spec, call(), stream_of(1, 2))] == [3]


async def test_a_streaming_handler_that_does_not_stream_is_a_clear_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    local, spec = setup(lambda context, given: 5, "unary_stream")
    with pytest.raises(CollectiveError) as caught:
        await anext(local.run_stream(spec, call(), None))
    assert caught.value.grpc_status is GrpcStatus.INTERNAL
    assert "must be an async generator" in caplog.text


# -- failures ------------------------------------------------------------------------------------------------


async def test_only_the_text_of_a_collective_error_is_told(caplog: pytest.LogCaptureFixture) -> None:
    class OutOfStockError(CollectiveError):
        """No more of it."""

    async def raising(context: Any, given: Any) -> Any:
        raise given

    local, spec = setup(raising)
    for given, told in (
        (ValueError("a secret"), "n/S.m failed"),
        (OutOfStockError("sku 5"), "OutOfStockError: sku 5"),
    ):
        with pytest.raises(CollectiveError) as caught:
            await local.run_unary(spec, call(), given)
        assert (caught.value.status, str(caught.value)) == (500, told)
    assert "a secret" in caplog.text
    assert "Traceback" in caplog.text
    assert local.in_flight == 0


async def test_the_log_carries_the_trace(caplog: pytest.LogCaptureFixture) -> None:
    def raising(context: Any, given: Any) -> Any:
        raise ValueError

    local, spec = setup(raising)
    held = call()
    held.metadata = (("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),)
    with pytest.raises(CollectiveError), caplog.at_level(logging.ERROR):
        await local.run_unary(spec, held, None)
    assert "0af7651916cd43dd8448eb211c80319c" in caplog.text


async def test_a_timeout_of_the_handlers_own_is_no_deadline() -> None:
    async def raising(context: Any, given: Any) -> Any:
        raise TimeoutError("of my own")

    local, spec = setup(raising)
    with pytest.raises(CollectiveError) as caught:
        await local.run_unary(spec, call(5.0), None)
    assert caught.value.grpc_status is GrpcStatus.INTERNAL


async def test_abort_passes_with_its_code_and_trailing_metadata() -> None:
    async def aborting(context: Any, given: Any) -> Any:
        context.set_trailing_metadata({"a": "b"})
        context.abort(409, "taken")

    local, spec = setup(aborting)
    held = call()
    with pytest.raises(CollectiveError, match="taken") as caught:
        await local.run_unary(spec, held, None)
    assert caught.value.status == 409
    assert held.trailing == (("a", "b"),)


# -- deadlines and cancellation ------------------------------------------------------------------------------


async def test_an_expired_call_is_not_run() -> None:
    ran = []
    local, spec = setup(lambda context, given: ran.append(given))
    with pytest.raises(DeadlineExceededError):
        await local.run_unary(spec, call(-1.0), None)
    stream, streaming = setup(lambda context, given: ran.append(given), "unary_stream")
    with pytest.raises(DeadlineExceededError):
        await anext(stream.run_stream(streaming, call(-1.0), None))
    assert ran == []
    assert local.in_flight == stream.in_flight == 0


async def test_the_deadline_cancels_the_handler() -> None:
    seen: list[str] = []

    async def waiting(context: Any, given: Any) -> Any:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    local, spec = setup(waiting)
    with pytest.raises(DeadlineExceededError):
        await local.run_unary(spec, call(0.02), None)
    assert seen == ["cancelled"]


async def test_the_deadline_is_of_the_whole_stream() -> None:
    async def generator(context: Any, given: Any) -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()

    local, spec = setup(generator, "unary_stream")
    got = []
    with pytest.raises(DeadlineExceededError):
        async for one in local.run_stream(spec, call(0.02), None):
            got.append(one)
    assert got == [1]
    assert local.in_flight == 0


async def test_cancelling_the_caller_cancels_the_handler() -> None:
    began, seen = asyncio.Event(), []

    async def waiting(context: Any, given: Any) -> Any:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    local, spec = setup(waiting)
    task = asyncio.create_task(local.run_unary(spec, call(5.0), None))
    await began.wait()
    assert local.in_flight == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["cancelled"]
    assert local.in_flight == 0


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "at the yield"])
async def test_a_stream_that_nobody_reads_any_more_is_cancelled(inside: bool) -> None:
    seen: list[str] = []
    began = asyncio.Event()

    async def generator(context: Any, given: Any) -> AsyncIterator[int]:
        try:
            yield 1
            began.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    local, spec = setup(generator, "unary_stream")
    answers = local.run_stream(spec, call(5.0), None)
    assert await anext(answers) == 1
    if inside:
        task = asyncio.ensure_future(anext(answers))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        await answers.aclose()  # type: ignore[attr-defined]
    assert seen == ["cancelled"]
    assert local.in_flight == 0


async def test_the_running_call_is_known_while_it_runs() -> None:
    local, spec = setup(lambda context, given: current.get() is context)
    assert await local.run_unary(spec, call(), None)
    assert current.get() is None


# -- room ----------------------------------------------------------------------------------------------------


async def test_calls_beyond_the_limit_wait_and_beyond_the_queue_are_refused() -> None:
    gate = asyncio.Event()

    async def waiting(context: Any, given: Any) -> Any:
        await gate.wait()
        return given

    local, spec = setup(waiting, limits=Limits(in_flight=1, queued=1))
    first = asyncio.create_task(local.run_unary(spec, call(5.0), 1))
    second = asyncio.create_task(local.run_unary(spec, call(5.0), 2))
    await asyncio.sleep(0)
    assert (local.in_flight, local.limiter.queued) == (1, 1)
    third = call(5.0)
    with pytest.raises(CollectiveError) as caught:
        await local.run_unary(spec, third, 3)
    assert caught.value.status == 429
    assert third.trailing[0][0] == "grpc-retry-pushback-ms"
    gate.set()
    assert await asyncio.gather(first, second) == [1, 2]
    assert (local.in_flight, local.limiter.queued) == (0, 0)


async def test_who_waits_for_room_gives_up_at_its_deadline_or_when_cancelled() -> None:
    gate = asyncio.Event()

    async def waiting(context: Any, given: Any) -> Any:
        await gate.wait()

    local, spec = setup(waiting, limits=Limits(in_flight=1, queued=5))
    first = asyncio.create_task(local.run_unary(spec, call(5.0), None))
    await asyncio.sleep(0)
    with pytest.raises(DeadlineExceededError, match="room"):
        await local.run_unary(spec, call(0.01), None)
    cancelled = asyncio.create_task(local.run_unary(spec, call(5.0), None))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert local.limiter.queued == 0
    idle = asyncio.create_task(local.idle())
    await asyncio.sleep(0)
    assert not idle.done()
    gate.set()
    await first
    await idle


async def test_a_call_within_a_call_does_not_wait_for_the_one_around_it() -> None:
    async def outer(context: Any, given: Any) -> Any:
        if not given:
            return "inner"
        inside = call(5.0)
        inside.peer = ""
        return await local.run_unary(spec, inside, given - 1)

    local, spec = setup(outer, limits=Limits(in_flight=1, queued=0))
    assert await local.run_unary(spec, call(5.0), 3) == "inner"
    assert local.in_flight == 0

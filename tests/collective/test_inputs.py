"""Inputs of streams that fail, and streams that are given up: the same here and at a peer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from dodici import InvalidArgumentError
from dodici.collective import CollectiveError, Collector


@pytest_asyncio.fixture(params=["here", "at a peer"])
async def caller(request: pytest.FixtureRequest) -> AsyncIterator[Collector]:
    async with Collector("far", "127.0.0.1:0", namespaces=["n"]) as far:

        async def total(context: Any, items: AsyncIterator[int]) -> int:
            return sum([item async for item in items])

        async def echo(context: Any, items: AsyncIterator[int]) -> AsyncIterator[int]:
            async for item in items:
                yield item

        async def first(context: Any, items: AsyncIterator[int]) -> int:
            return await anext(items)

        async def given_up(context: Any, given: Any) -> None:
            asyncio.get_running_loop().call_soon(other.cancel)
            await other

        async def given_up_later(context: Any, given: Any) -> AsyncIterator[int]:
            yield 1
            await given_up(context, given)

        other: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        far.register_service("n", "S", "GivenUp", given_up)
        far.register_service("n", "S", "GivenUpLater", given_up_later, kind="unary_stream")
        far.register_service("n", "S", "Say", lambda context, given: given)
        far.register_service("n", "S", "First", first, kind="stream_unary")
        far.register_service("n", "S", "Sum", total, kind="stream_unary")
        far.register_service("n", "S", "Echo", echo, kind="stream_stream")
        if request.param == "here":
            yield far
            return
        async with Collector("near", "127.0.0.1:0", namespaces=["n"]) as near:
            await near.connect_to(far.address)
            yield near


async def failing(error: BaseException) -> AsyncIterator[int]:
    yield 1
    raise error


@pytest.mark.parametrize("method", ["Sum", "Echo"])
async def test_what_the_input_raises_is_the_callers(
    caller: Collector, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    mistake = ValueError("mine")
    stream = caller.dispatch_stream("n", "S", method, failing(mistake))
    with (
        caplog.at_level(logging.ERROR, "dodici.collective"),
        pytest.raises(ValueError, match="mine") as raised,
    ):
        async for _ in stream:
            pass
    assert raised.value is mistake
    assert (await stream.result()).status.code == 499
    assert not [record for record in caplog.records if "failed in trace" in record.getMessage()]


async def test_an_item_without_a_form_on_the_wire_is_an_invalid_argument(caller: Collector) -> None:
    with pytest.raises(InvalidArgumentError, match="no value for the wire"):
        await caller.dispatch_stream("n", "S", "Sum", [1, object()])


async def test_an_input_that_is_cancelled_is_not_at_its_end(caller: Collector) -> None:
    """By itself: a task that it waited for, say."""
    stream = caller.dispatch_stream("n", "S", "Sum", failing(asyncio.CancelledError()))
    with pytest.raises((CollectiveError, asyncio.CancelledError)):
        async for _ in stream:
            pass
    assert (await stream.result()).status.code == 499


async def test_a_stream_that_was_given_up_has_not_succeeded(caller: Collector) -> None:
    async def endless() -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()

    async with caller.dispatch_stream("n", "S", "Echo", endless()) as stream:
        assert await anext(stream) == 1
        reading = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)  # it waits
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert (await stream.result()).status.code == 499


async def test_a_call_that_is_cancelled_in_its_last_moment_is_counted_as_ended(caller: Collector) -> None:
    closing = asyncio.Event()

    async def slow_to_close() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            closing.set()
            await asyncio.Event().wait()

    call = asyncio.ensure_future(caller.dispatch_stream("n", "S", "First", slow_to_close()).result())
    await closing.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert caller.stats().in_flight == 0
    assert all(peer.in_flight == 0 for peer in caller.stats().peers.values())
    async with asyncio.timeout(5):
        await caller.drain()


@pytest.mark.parametrize("timeout", [1e18, 1e300, 10**400], ids=["1e18", "1e300", "an int"])
async def test_a_timeout_of_ages_is_one_that_does_not_pass(caller: Collector, timeout: float) -> None:
    said = await caller.dispatch("n", "S", "Say", "x", timeout=timeout)
    assert (said.status, said.output) == (200, "x")
    stream = caller.dispatch_stream("n", "S", "Echo", [1, 2], timeout=timeout)
    assert [each async for each in stream] == [1, 2]


async def test_a_handler_whose_own_task_was_cancelled_has_failed(caller: Collector) -> None:
    """Nobody has cancelled the call, so somebody waits for its end."""
    async with asyncio.timeout(5):
        failed = await caller.dispatch("n", "S", "GivenUp")
        assert (failed.status, failed.status.message) == (500, "n/S.GivenUp failed")
        stream = caller.dispatch_stream("n", "S", "GivenUpLater")
        assert await anext(stream) == 1
        with pytest.raises(CollectiveError, match=r"n/S\.GivenUpLater failed"):
            await anext(stream)
    assert caller.stats().in_flight == 0


class _Odd(BaseException):
    """Nothing that anybody catches."""


@pytest.mark.parametrize("caller", ["at a peer"], indirect=True)
async def test_whatever_a_handler_raises_its_caller_hears_of_it(
    caller: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    async with Collector("odd", "127.0.0.1:0", namespaces=["n"]) as odd:

        async def raising(context: Any, given: Any) -> None:
            raise _Odd

        odd.register_service("n", "Odd", "Raise", raising)
        await caller.connect_to(odd.address)
        async with asyncio.timeout(5):
            assert (await caller.dispatch("n", "Odd", "Raise")).status == 500
    assert "a call on a link failed" in [record.message for record in caplog.records]

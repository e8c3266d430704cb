"""Collectors in processes of their own: killed, stopped, started again, drained, while calls go on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.collective.fleet import fleet, processes, serve, settled, until

from dodici.core.errors import MeshTimeoutError

RATE = 200.0


@pytest.fixture
async def launch() -> AsyncIterator[Any]:
    async with processes() as made:
        yield made


async def trio(launch: Any, **settings: Any) -> tuple[Any, Any, Any]:
    """a, which serves nothing, connected to b and c, which serve the same."""
    a, b, c = await asyncio.gather(launch("a", serves=["Other"], **settings), launch("b"), launch("c"))
    await a.ask("connect", address=b.address)
    await a.ask("connect", address=c.address)
    return a, b, c


async def calls(process: Any, more: int) -> None:
    """Return when so many calls more have ended."""
    before = await process.ask("seen")
    async with asyncio.timeout(20):
        while await process.ask("seen") < before + more:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("method", ["Once", "Who"])
async def test_killing_one_of_two_fails_only_what_is_in_flight_there(launch: Any, method: str) -> None:
    a, b, _ = await trio(launch)
    await a.ask("load", method=method, rate=RATE)
    await calls(a, 100)
    killed = time.time()
    b.kill()
    await b.gone()
    await calls(a, 200)
    ended = await a.ask("finish")
    assert {by for _, _, by in ended if by} == {"b", "c"}
    failed = [(began - killed, status) for began, status, _ in ended if status != 200]
    if method == "Who":
        assert failed == []  # idempotent: repeated at c
    # 200 calls/s that take a few ms: a handful are in flight at any moment, more where the machine is busy.
    assert len(failed) <= 50
    assert all(-0.5 < began < 0.5 for began, _ in failed)
    assert {by for began, _, by in ended if began > killed + 0.5} == {"c"}


@pytest.mark.perf
@pytest.mark.weak_spot(14)
async def test_a_stopped_peer_is_out_within_two_seconds(launch: Any) -> None:
    a, b, _ = await trio(launch)
    await a.ask("load", method="Who", rate=RATE)
    await calls(a, 50)
    b.stop()
    stopped = time.time()
    try:
        took = await a.ask("settle", peers=["c"])
        assert took < 2.0
        await calls(a, 200)
        ended = await a.ask("finish")
    finally:
        b.go_on()
    # What was sent to b is repeated at c, since the method is idempotent, or it has failed: none is left hanging.
    assert {by for began, status, by in ended if began > stopped + 2.0} <= {"c"}
    assert all(status == 200 for _, status, _ in ended)
    assert await a.ask("settle", peers=["b", "c"]) < 3.0


@pytest.mark.perf
@pytest.mark.weak_spot(14)
async def test_a_call_at_a_stopped_peer_ends_long_before_its_deadline(launch: Any) -> None:
    a, b = await asyncio.gather(launch("a", serves=["Other"]), launch("b"))
    await a.ask("connect", address=b.address)
    b.stop()
    try:
        answer = await a.ask("dispatch", method="Once")
    finally:
        b.go_on()
    assert answer["status"] == 503
    assert answer["took"] < 2.0


@pytest.mark.perf
@pytest.mark.weak_spot(13)
async def test_a_restarted_peer_is_back_within_three_seconds(launch: Any) -> None:
    a, b, _ = await trio(launch)
    await a.ask("load", method="Who", rate=RATE)
    await calls(a, 50)
    b.kill()
    await b.gone()
    await a.ask("settle", peers=["c"])
    # Long enough for waits between attempts to have grown.
    await calls(a, 400)
    again = await launch("b", address=b.address)
    # It listens; nobody tells anybody to connect.
    assert await a.ask("settle", peers=["b", "c"]) < 3.0
    await calls(a, 100)
    ended = await a.ask("finish")
    assert all(status == 200 for _, status, _ in ended)
    assert (await again.ask("counts"))["Who"] > 0
    # Connect is mutual: by a it knows the way to c, too.
    assert await again.ask("settle", peers=["a"]) < 3.0
    assert (await again.ask("dispatch", method="Who", target="c"))["by"] == "c"


@pytest.mark.perf
@pytest.mark.weak_spot(13)
async def test_who_was_called_finds_the_caller_again(launch: Any) -> None:
    """b called a. a is killed and comes back: it is b that connects, and both route to each other."""
    a, b = await asyncio.gather(launch("a"), launch("b", serves=["Other"]))
    await a.ask("connect", address=b.address)
    assert (await b.ask("dispatch", method="Who"))["by"] == "a"
    a.kill()
    await a.gone()
    await b.ask("settle", peers=[])
    await launch("a", address=a.address)
    assert await b.ask("settle", peers=["a"]) < 3.0
    assert (await b.ask("dispatch", method="Who"))["by"] == "a"


async def test_draining_under_load_fails_nothing(launch: Any) -> None:
    a, b, _ = await trio(launch)
    await a.ask("load", method="Once", rate=RATE)
    await calls(a, 100)
    await b.ask("drain")
    drained = await b.ask("counts")
    # From now on none arrives; and b may end at once.
    await b.ask("end")
    await calls(a, 100)
    assert await b.ask("counts") == drained
    ended = await a.ask("finish")
    assert [call for call in ended if call[1] != 200] == []
    assert {by for _, _, by in ended} == {"b", "c"}


async def test_stopping_without_draining_fails_nothing_either(launch: Any) -> None:
    a, b, _ = await trio(launch)
    await a.ask("load", method="Once", rate=RATE)
    await calls(a, 100)
    await b.ask("end")
    await calls(a, 100)
    ended = await a.ask("finish")
    assert [call for call in ended if call[1] != 200] == []


@pytest.mark.weak_spot(4)
async def test_a_killed_target_is_unavailable(launch: Any) -> None:
    a, b, c = await trio(launch)
    assert (await a.ask("dispatch", method="Who", target="b"))["by"] == "b"
    b.kill()
    await b.gone()
    answer = await a.ask("dispatch", method="Who", target="b")
    assert answer["status"] == 503
    assert "'b'" in answer["message"] or "b " in answer["message"]
    assert await c.ask("counts") == {}


async def test_a_killed_caller_is_a_cancellation_at_the_handler(launch: Any) -> None:
    a, b, _ = await trio(launch)
    calling = asyncio.create_task(a.ask("dispatch", method="Hold", target="b"))

    async def running(expected: list[int]) -> None:
        async with asyncio.timeout(5):
            while await b.ask("running") != expected:
                await asyncio.sleep(0.01)

    await running([1, 0])
    a.kill()
    await running([0, 1])
    with pytest.raises(ConnectionError):
        await calling
    await until(lambda: a.process.returncode is not None)


async def test_nobody_waits_long_for_what_a_stopped_peer_acknowledges(launch: Any) -> None:
    async with fleet(trunk={}, stream={"link_port": None}) as collectors:
        b = await launch("b")
        for each in collectors:
            serve(each, f"Of-{each.id}")
            await each.connect_to(b.address)
            await settled(each, "b")
        b.stop()
        try:
            async with asyncio.timeout(3.5):  # pings find it within 2 s
                results = await asyncio.gather(
                    *(each.join("more") for each in collectors), return_exceptions=True
                )
            # Where it is certain that the link is gone, there is nobody who has not applied it.
            assert results[0] is None
            assert isinstance(results[1], MeshTimeoutError)
            assert results[1].members == (("b", b.address, 0),)
            async with asyncio.timeout(0.5):  # and now that it is known, at once
                await collectors[0].leave("more")
        finally:
            b.go_on()
        for each in collectors:
            await settled(each, "b")

"""All peers refuse, and everybody goes on calling: retries stay within their budget, and it is over when they serve again."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from tests.collective.fleet import NAMESPACE, fleet

from dodici.collective import Breaker, Budget, Collector, Retry

CALLS = 1000
CALLERS = 25


class Refusing:
    """A method that says UNAVAILABLE while it is told to."""

    def __init__(self, *collectors: Collector) -> None:
        self.refuses = True
        self.asked = 0
        for collector in collectors:
            collector.register_service(NAMESPACE, "Storm", "Do", self.do, idempotent=True)

    async def do(self, context: Any, given: Any) -> str:
        self.asked += 1
        if self.refuses:
            context.abort(503, "not now")
        return "done"


async def storm(by: Collector, calls: int) -> tuple[list[int], list[float]]:
    """So many calls, of several callers who wait for nothing; their statuses, and how long each took."""
    statuses: list[int] = []
    took: list[float] = []

    async def caller() -> None:
        for _ in range(calls // CALLERS):
            began = time.monotonic()
            result = await by.dispatch(NAMESPACE, "Storm", "Do", timeout=10)
            took.append(time.monotonic() - began)
            statuses.append(int(result.status))

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return statuses, sorted(took)


@pytest.mark.perf
async def test_retries_stay_within_the_budget_and_it_is_over_at_once() -> None:
    retry = Retry(attempts=3, budget=Budget(ratio=0.2, min_per_second=10))
    options = {"retry": retry, "breaker": Breaker(failures=0)}
    async with fleet(a=options, b={}, c={}) as (a, b, c):
        method = Refusing(b, c)
        await a.connect_to(b.address)
        await a.connect_to(c.address)
        began = time.monotonic()
        statuses, took = await storm(a, CALLS)
        seconds = time.monotonic() - began
        assert set(statuses) == {503}
        assert CALLS < method.asked <= 1.2 * CALLS + 10 * (seconds + 1)
        # Nobody waited for long: what is not repeated fails at once.
        assert took[len(took) // 2] < 0.5
        assert a.stats().in_flight == 0
        method.refuses = False
        assert set((await storm(a, 100))[0]) == {200}


@pytest.mark.perf
async def test_open_breakers_spare_the_peers_and_close_when_they_serve_again() -> None:
    async with fleet(a={"breaker": Breaker(failures=5, open_for=0.3)}, b={}, c={}) as (a, b, c):
        method = Refusing(b, c)
        await a.connect_to(b.address)
        await a.connect_to(c.address)
        began = time.monotonic()
        statuses, _ = await storm(a, CALLS)
        seconds = time.monotonic() - began
        assert set(statuses) == {503}
        # Until they open, and a probe each time that one is half open; what was under way when they opened beside.
        assert method.asked <= 4 * CALLERS + 2 * (seconds / 0.3 + 1) * 2
        method.refuses = False
        async with asyncio.timeout(2.0):
            while (await a.dispatch(NAMESPACE, "Storm", "Do")).status != 200:
                await asyncio.sleep(0.02)
        assert set((await storm(a, 100))[0]) == {200}

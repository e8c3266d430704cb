"""A clock that is moved by hand, and peers whose answers take simulated time."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from dodici.collective.balance import Candidates, Outcome, Picker, Ticket
from dodici.collective.policies import SlowStart

START = 1000.0


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


BALANCES = ["p2c", "round_robin", "least_request", "weighted", "hash"]
FAST = SlowStart(window=0)
DOWN = Outcome.UNREACHABLE


def made(clock: Clock, balance: str = "p2c", **values: Any) -> Picker:
    return Picker(balance, **{"clock": clock, "rng": random.Random(12), "slow_start": FAST, **values})


def picks(
    picker: Picker,
    group: Candidates,
    count: int,
    *,
    excluded: Collection[str] = (),
    key: str | None = None,
    step: float = 0.0,
) -> Counter[str | None]:
    """How often each was picked, in calls that end at once."""
    seen: Counter[str | None] = Counter()
    for number in range(count):
        candidate = picker.pick(group, excluded=excluded, key=key if key is None else f"{key}{number}")
        seen[candidate and candidate.peer] += 1
        if candidate is not None:
            ticket = picker.started(candidate)
            if step:
                picker._clock.advance(step)  # type: ignore[attr-defined]
            picker.finished(ticket, Outcome.SUCCESS, 0.001)
    return seen


def fail(picker: Picker, group: Candidates, peer: str, times: int = 5, outcome: Outcome = DOWN) -> None:
    candidate = group.get(peer)
    assert candidate is not None
    for _ in range(times):
        picker.finished(picker.started(candidate), outcome, 0.001)


@dataclass
class Served:
    """What came of a simulation."""

    latencies: list[float] = field(default_factory=list)
    shares: Counter[str] = field(default_factory=Counter)

    def percentile(self, share: float) -> float:
        return sorted(self.latencies)[int(len(self.latencies) * share)]

    def share(self, peer: str) -> float:
        return self.shares[peer] / self.shares.total()


Answer = Callable[[random.Random, float], tuple[Outcome, float]]
"""How a peer answers a call at a time: what, and after how many seconds."""


def takes(mean: float) -> Answer:
    """Answers after `mean` seconds, more or less (log-normal, so that a few take three times as long)."""
    return lambda rng, now: (Outcome.SUCCESS, mean * rng.lognormvariate(0.0, 0.4))


def simulate(
    picker: Picker,
    group: Candidates,
    clock: Clock,
    peers: dict[str, Answer],
    *,
    rate: float,
    calls: int,
    seed: int = 5,
) -> Served:
    """Calls that come at random, `rate` a second, and end when their peer has answered."""
    rng = random.Random(seed)
    served = Served()
    numbers = itertools.count()
    running: list[tuple[float, int, Ticket, Outcome, float]] = []

    def finish_until(now: float) -> None:
        while running and running[0][0] <= now:
            clock.now, _, ticket, outcome, seconds = heapq.heappop(running)
            picker.finished(ticket, outcome, seconds)
        clock.now = now

    for _ in range(calls):
        finish_until(clock.now + rng.expovariate(rate))
        candidate = picker.pick(group)
        assert candidate is not None
        ticket = picker.started(candidate)
        outcome, seconds = peers[candidate.peer](rng, clock.now)
        heapq.heappush(running, (clock.now + seconds, next(numbers), ticket, outcome, seconds))
        served.shares[candidate.peer] += 1
        served.latencies.append(seconds)
    finish_until(float(max((end for end, *_ in running), default=clock.now)))
    return served

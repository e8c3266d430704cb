"""Coarse timers under a clock that is moved by hand."""

from __future__ import annotations

import heapq
import itertools
import random
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from dodici.core.timers import NEVER, SLACK, TICK, Timers


class Handle:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """The part of a loop that timers use."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.queue: list[Any] = []
        self.order = itertools.count()

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> Handle:
        handle = Handle()
        heapq.heappush(self.queue, (self.now + delay, next(self.order), handle, callback, args))
        return handle

    def run(self, seconds: float) -> None:
        """Let time pass, everything in its turn."""
        end = self.now + seconds
        while self.queue and self.queue[0][0] <= end:
            when, _, handle, callback, args = heapq.heappop(self.queue)
            self.now = max(self.now, when)
            if not handle.cancelled:
                callback(*args)
        self.now = end

    def block(self, seconds: float) -> None:
        """Let time pass while the loop does something else."""
        self.now += seconds


class Fired:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.at: list[float] = []

    def __call__(self) -> None:
        self.at.append(self.clock.now)


LATEST = 2 * TICK + SLACK


@pytest.mark.parametrize("offset", [0.0, 0.1, 0.25, 0.49, 0.5, 0.7])
@pytest.mark.parametrize("seconds", [1.0, 1.2, 1.5, 4.0, 300.0])
def test_never_early_and_at_most_two_ticks_late(offset: float, seconds: float) -> None:
    clock = Clock()
    timers = Timers(clock)
    keeps_ticking = timers.timer(lambda: None)
    clock.run(offset)
    fired = Fired(clock)
    timer = timers.timer(fired)
    timer.arm(seconds)
    armed = clock.now
    clock.run(seconds + 5)
    assert len(fired.at) == 1
    assert armed + seconds <= fired.at[0] <= armed + seconds + LATEST + 1e-6
    assert keeps_ticking.deadline == NEVER


@pytest.mark.parametrize("seconds", [0.01, 0.2, 0.999])
def test_below_a_second_timers_are_precise(seconds: float) -> None:
    clock = Clock()
    fired = Fired(clock)
    timer = Timers(clock).timer(fired)
    clock.run(0.3)
    timer.arm(seconds)
    assert timer.precise
    clock.run(3)
    assert fired.at == [pytest.approx(1000.3 + seconds, abs=0.002)]


def test_arming_again_moves_the_deadline() -> None:
    clock = Clock()
    fired = Fired(clock)
    timer = Timers(clock).timer(fired)
    for _ in range(20):
        timer.arm(2)
        clock.run(1)
    assert fired.at == []
    for _ in range(20):
        timer.arm(0.5)
        clock.run(0.4)
    assert fired.at == []
    handles = [entry for entry in clock.queue if not entry[2].cancelled]
    assert len(handles) <= 2, "re-arming must not pile up timers of the loop"
    clock.run(1)
    assert len(fired.at) == 1


def test_a_mutated_deadline_counts() -> None:
    clock = Clock()
    timers = Timers(clock)
    fired = Fired(clock)
    timer = timers.timer(fired)
    clock.run(0.2)
    timer.deadline = timers.base + 3
    clock.run(2.9)
    assert fired.at == []
    clock.run(1.2)
    assert len(fired.at) == 1
    timer.deadline = timers.base + 3
    timer.deadline = NEVER
    clock.run(10)
    assert len(fired.at) == 1


def test_a_shorter_time_after_a_longer_one() -> None:
    clock = Clock()
    fired = Fired(clock)
    timer = Timers(clock).timer(fired)
    timer.arm(0.9)
    timer.arm(0.1)
    clock.run(0.2)
    assert fired.at == [pytest.approx(1000.1)]
    timer.arm(0.1)
    timer.arm(0.9)
    clock.run(0.8)
    assert len(fired.at) == 1
    clock.run(0.2)
    assert len(fired.at) == 2
    timer.arm(0.5)
    timer.arm(60)
    clock.run(30)
    assert len(fired.at) == 2


def test_zero_and_disarm() -> None:
    clock = Clock()
    fired = Fired(clock)
    timer = Timers(clock).timer(fired)
    for seconds in (0.5, 5):
        timer.arm(seconds)
        timer.arm(0)
        clock.run(10)
        timer.arm(seconds)
        timer.disarm()
        clock.run(10)
    assert fired.at == []


def test_closing_stops_the_tick() -> None:
    clock = Clock()
    timers = Timers(clock)
    assert len(timers) == 0
    assert clock.queue == []
    one, two = timers.timer(lambda: None), timers.timer(lambda: None)
    two.arm(0.5)
    one.close()
    one.close()
    assert len(timers) == 1
    clock.run(5)
    assert len([entry for entry in clock.queue if not entry[2].cancelled]) == 1
    two.close()
    assert len(timers) == 0
    assert all(entry[2].cancelled for entry in clock.queue)
    clock.run(100)
    fired = Fired(clock)
    again = timers.timer(fired)
    again.arm(1)
    armed = clock.now
    clock.run(3)
    assert armed + 1 <= fired.at[0] <= armed + 1 + LATEST


def test_callbacks_may_close_and_arm_others() -> None:
    clock = Clock()
    timers = Timers(clock)
    others: list[Any] = []
    fired: list[int] = []

    def close_all(number: int) -> None:
        fired.append(number)
        for other in others:
            other.close()

    for number in range(3):
        others.append(timers.timer(lambda number=number: close_all(number)))  # type: ignore[misc]
        others[-1].arm(1)
    clock.run(5)
    assert len(fired) == 1
    again = timers.timer(lambda: (fired.append(9), again.arm(1)))  # type: ignore[func-returns-value]
    again.arm(1)
    clock.run(20)
    assert 9 <= fired.count(9) <= 20


def test_a_callback_that_raises_does_not_stop_the_others() -> None:
    clock = Clock()
    timers = Timers(clock)
    fired = Fired(clock)

    def fail() -> None:
        raise ValueError("oops")

    for callback in (fail, fired, fail):
        timers.timer(callback).arm(1)
    for _ in range(10):
        try:
            clock.run(1)
        except ValueError:
            pass
    assert len(fired.at) == 1


@pytest.mark.parametrize("blocked", [0.01, 0.04, 0.3, 0.6, 5.0, 60.0])
def test_never_early_while_the_loop_is_blocked(blocked: float) -> None:
    clock = Clock()
    timers = Timers(clock)
    timers.timer(lambda: None)
    clock.run(0.49)
    clock.block(blocked)
    fired = Fired(clock)
    timer = timers.timer(fired)
    timer.arm(1.5)
    armed = clock.now
    clock.run(5)
    assert armed + 1.5 <= fired.at[0] <= armed + 1.5 + LATEST + 1e-6


def test_a_tick_of_grace_after_the_loop_was_blocked() -> None:
    clock = Clock()
    timers = Timers(clock)
    fired = Fired(clock)
    timers.timer(fired).arm(2)
    clock.run(1)
    clock.block(30)
    clock.run(0)
    assert fired.at == [], "what waits in the sockets comes first"
    clock.run(3)
    assert len(fired.at) == 1


def test_precise_timers_do_not_wait_for_a_blocked_loop() -> None:
    clock = Clock()
    timers = Timers(clock)
    fired = Fired(clock)
    clock.run(0.3)
    timers.timer(fired).arm(0.9)
    clock.block(0.7)
    clock.run(0.3)
    assert fired.at == [pytest.approx(1001.2, abs=0.002)]


def test_random_lives() -> None:
    chance = random.Random(12)
    clock = Clock()
    timers = Timers(clock)
    early: list[bool] = []
    due = 0.0

    def fire() -> None:
        early.append(clock.now < due - 0.0011)

    for _ in range(100):
        timer = timers.timer(fire)
        for _ in range(chance.randrange(1, 4)):
            seconds = chance.choice([0.05, 0.5, 1.0, 1.3, 4.0])
            timer.arm(seconds)
            due = clock.now + seconds
            if chance.random() < 0.3:
                clock.block(chance.random() * 2)
            else:
                clock.run(chance.random() * 2)
        clock.run(8)
        timer.close()
    assert len(early) >= 100
    assert not any(early)


def test_a_closed_timer_keeps_nothing_alive() -> None:
    """Whoever owns a timer that calls it back is freed without the garbage collector."""

    class Owner:
        def __init__(self, timers: Timers) -> None:
            self.timer = timers.timer(self.due)

        def due(self) -> None: ...

    timers = Timers(Clock())
    owner = Owner(timers)
    owner.timer.arm(0.5)
    owner.timer.arm(5.0)
    gone = weakref.ref(owner)
    owner.timer.close()
    del owner
    assert gone() is None
    assert len(timers) == 0

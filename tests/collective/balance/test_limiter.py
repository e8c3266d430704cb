from __future__ import annotations

from collections import deque

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from tests.collective.balance.balance_kit import Clock

from dodici.collective.balance import Limiter, Permit
from dodici.collective.policies import Limits


def made(clock: Clock, in_flight: int = 2, queued: int = 2) -> Limiter:
    return Limiter(Limits(in_flight=in_flight, queued=queued), clock)


def test_grants_then_queues_then_refuses(clock: Clock) -> None:
    limiter = made(clock)
    permits = [limiter.acquire() for _ in range(6)]
    assert [permit.state for permit in permits] == [
        "granted",
        "granted",
        "queued",
        "queued",
        "refused",
        "refused",
    ]
    assert (limiter.in_flight, limiter.queued, limiter.refused) == (2, 2, 2)
    assert limiter.full()


def test_a_place_goes_to_the_oldest_in_the_queue(clock: Clock) -> None:
    limiter = made(clock, in_flight=1)
    running, first, second = (limiter.acquire() for _ in range(3))
    first.waiter = "wake me"
    following = limiter.release(running)
    assert following is first
    assert following.granted
    assert following.waiter == "wake me"
    assert limiter.in_flight == 1
    assert limiter.release(first) is second
    assert limiter.release(second) is None
    assert limiter.in_flight == 0
    assert not limiter.full()


def test_giving_up_waiting_leaves_the_queue(clock: Clock) -> None:
    limiter = made(clock, in_flight=1)
    running, first, second = (limiter.acquire() for _ in range(3))
    assert limiter.release(first) is None
    assert limiter.queued == 1
    assert limiter.release(running) is second


def test_releasing_again_does_nothing(clock: Clock) -> None:
    limiter = made(clock, in_flight=1, queued=0)
    running, refused = limiter.acquire(), limiter.acquire()
    for permit in (running, running, refused, refused):
        assert limiter.release(permit) is None
    assert limiter.in_flight == 0


def test_a_permit_granted_and_then_given_up_hands_its_place_on(clock: Clock) -> None:
    limiter = made(clock, in_flight=1)
    running, first, second = (limiter.acquire() for _ in range(3))
    limiter.release(running)
    assert limiter.release(first) is second, "its holder was cancelled before it could run"


def test_pushback_is_as_long_as_the_queue_takes(clock: Clock) -> None:
    limiter = made(clock, in_flight=2, queued=9)
    assert limiter.pushback() == 0.05
    permits = [limiter.acquire() for _ in range(11)]
    clock.advance(0.4)
    limiter.release(permits[0])
    limiter.release(permits[1])
    assert limiter.queued == 7
    assert limiter.pushback() == pytest.approx(0.4 * 8 / 2)


def test_waiting_in_the_queue_is_not_running(clock: Clock) -> None:
    limiter = made(clock, in_flight=1, queued=1)
    first, second = limiter.acquire(), limiter.acquire()
    clock.advance(0.2)
    limiter.release(first)
    clock.advance(0.2)
    limiter.release(second)
    assert limiter.pushback() == pytest.approx(0.2)


def test_pushback_is_five_seconds_at_most(clock: Clock) -> None:
    limiter = made(clock, in_flight=1, queued=0)
    permit = limiter.acquire()
    clock.advance(3600)
    limiter.release(permit)
    assert limiter.pushback() == 5.0


class LimiterModel(RuleBasedStateMachine):
    """Against a list of those that run and a list of those that wait."""

    permits = Bundle("permits")

    def __init__(self) -> None:
        super().__init__()
        self.limiter = made(Clock(), in_flight=3, queued=4)
        self.running: list[Permit] = []
        self.waiting: deque[Permit] = deque()

    @rule(target=permits)
    def acquire(self) -> Permit:
        permit = self.limiter.acquire()
        if len(self.running) < 3:
            assert permit.state == "granted"
            self.running.append(permit)
        elif len(self.waiting) < 4:
            assert permit.state == "queued"
            self.waiting.append(permit)
        else:
            assert permit.state == "refused"
        return permit

    @rule(permit=permits)
    def release(self, permit: Permit) -> None:
        following = self.limiter.release(permit)
        expected = None
        if permit in self.running:
            self.running.remove(permit)
            if self.waiting:
                expected = self.waiting.popleft()
                self.running.append(expected)
        elif permit in self.waiting:
            self.waiting.remove(permit)
        assert following is expected

    @rule(count=st.integers(1, 3))
    def release_oldest(self, count: int) -> None:
        for permit in self.running[:count]:
            self.release(permit)

    @invariant()
    def agrees(self) -> None:
        assert self.limiter.in_flight == len(self.running)
        assert self.limiter.queued == len(self.waiting)
        assert all(permit.granted for permit in self.running)
        assert not self.waiting or len(self.running) == 3, "nobody waits while there is room"


TestLimiterModel = LimiterModel.TestCase


def test_a_namespace_has_no_more_than_its_share() -> None:
    limiter = Limiter(Limits(in_flight=2, queued=4, per_namespace=3), Clock())
    first, second, third, fourth = (limiter.acquire("a") for _ in range(4))
    assert [each.state for each in (first, second, third, fourth)] == [
        "granted",
        "granted",
        "queued",
        "refused",
    ]
    assert (limiter.full("a"), limiter.refused) == (True, 1)
    other = limiter.acquire("b")
    assert other.state == "queued"
    # A place is free as soon as any of its three is given back, the waiting one included.
    assert limiter.release(third) is None
    assert limiter.acquire("a").state == "queued"
    assert limiter.release(first) is other
    assert limiter.release(fourth) is None
    assert limiter.acquire("a").state == "queued"
    assert limiter.acquire("a").state == "refused"


def test_a_namespace_that_is_idle_is_forgotten() -> None:
    limiter = Limiter(Limits(per_namespace=1), Clock())
    for number in range(100):
        permit = limiter.acquire(f"n{number}")
        assert limiter.full(f"n{number}")
        limiter.release(permit)
        limiter.release(permit)
    assert limiter._taken == {}

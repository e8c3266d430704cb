from __future__ import annotations

import random
from math import ceil

import hypothesis.strategies as st
import pytest
from hypothesis import given
from tests.collective.balance.balance_kit import Clock

from dodici.collective.balance import Attempts, RetryBudget
from dodici.collective.policies import Budget, Retry
from dodici.core.grpc_status import GrpcStatus


def spend_all(budget: RetryBudget) -> int:
    spent = 0
    while budget.spend():
        spent += 1
    return spent


def test_an_idle_collector_may_repeat_a_few(clock: Clock) -> None:
    budget = RetryBudget(Budget(), clock)
    assert budget.available == 10
    assert spend_all(budget) == 10
    clock.advance(0.999)
    assert spend_all(budget) == 0
    clock.advance(0.001)
    assert spend_all(budget) == 10


def test_calls_earn_a_share(clock: Clock) -> None:
    budget = RetryBudget(Budget(ratio=0.2, min_per_second=0), clock)
    for earned in (0, 0, 0, 0, 0, 1):
        assert budget.available == earned
        budget.called()
    assert spend_all(budget) == 1
    for _ in range(95):
        budget.called()
    assert spend_all(budget) == 19


def test_what_calls_earned_goes_with_the_window(clock: Clock) -> None:
    budget = RetryBudget(Budget(ratio=0.5, min_per_second=0, window=10.0), clock)
    for _ in range(10):
        budget.called()
    clock.advance(8.0)
    assert budget.available == 5
    clock.advance(2.0)
    assert budget.available == 0


def test_what_was_spent_goes_with_the_window(clock: Clock) -> None:
    budget = RetryBudget(Budget(ratio=0.5, min_per_second=0, window=10.0), clock)
    for _ in range(3):
        for _ in range(10):
            budget.called()
        assert spend_all(budget) == 5
        clock.advance(10.0)


def test_less_than_one_a_second(clock: Clock) -> None:
    budget = RetryBudget(Budget(ratio=0, min_per_second=0.25), clock)
    allowed = []
    for second in range(13):
        if budget.spend():
            allowed.append(second)
        clock.advance(1.0)
    assert allowed == [0, 4, 8, 12]


def test_nothing_at_all(clock: Clock) -> None:
    budget = RetryBudget(Budget(ratio=0, min_per_second=0), clock)
    budget.called()
    assert budget.available == 0
    assert not budget.spend()


@pytest.mark.parametrize("idle", [0.0, 3600.0])
def test_attempts_are_bounded_while_every_peer_is_down(clock: Clock, idle: float) -> None:
    budget = RetryBudget(Budget(ratio=0.2, min_per_second=10, window=10.0), clock)
    clock.advance(idle)
    policy = Retry(attempts=3, on=[GrpcStatus.UNAVAILABLE])
    rng = random.Random(3)
    seen = 0
    for _ in range(5 * 1000):
        budget.called()
        attempts = Attempts(policy, budget, idempotent=True, rng=rng)
        seen += 1
        while attempts.failed(GrpcStatus.UNAVAILABLE, sent=True) is not None:
            seen += 1
        clock.advance(0.001)
    assert seen <= 1.2 * 5000 + 10 * 5
    assert seen >= 1.2 * 5000, "the budget is there to be used"


STEPS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.01, 0.3, 1.0, 7.0]), st.integers(0, 8), st.integers(0, 12)), max_size=60
)


@given(STEPS, st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.sampled_from([0, 0.5, 1, 2.5, 10]))
def test_what_it_promises_whatever_happens(
    steps: list[tuple[float, int, int]], ratio: float, few: float
) -> None:
    clock = Clock()
    policy = Budget(ratio=ratio, min_per_second=few, window=5.0)
    budget = RetryBudget(policy, clock)
    began = clock.now
    calls: list[float] = []
    retries: list[float] = []
    for wait, called, wanted in steps:
        clock.advance(wait)
        for _ in range(called):
            budget.called()
            calls.append(clock.now)
        for _ in range(wanted):
            available = budget.available
            allowed = budget.spend()
            assert allowed == (available > 0)
            if not allowed:
                break
            retries.append(clock.now)
            assert budget.available == available - 1
        seconds = clock.now - began
        # In all of the time, and in the last two seconds: what these and the window before them have paid for.
        for span in (seconds, 2.0):
            since = clock.now - span
            paid = ratio * sum(then > since - policy.window for then in calls)
            beside = (ceil(few * span / max(1, int(few))) + 1) * max(1, int(few)) if few else 0
            assert sum(then > since for then in retries) <= paid + beside + 1e-6

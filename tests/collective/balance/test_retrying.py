from __future__ import annotations

import random

import pytest
from tests.collective.balance.balance_kit import Clock

from dodici.collective.balance import NEVER, Attempts, Backoff, RetryBudget, parse_pushback
from dodici.collective.policies import Budget, Reconnect, Retry
from dodici.core.grpc_status import GrpcStatus

UNAVAILABLE = GrpcStatus.UNAVAILABLE


@pytest.fixture
def budget(clock: Clock) -> RetryBudget:
    return RetryBudget(Budget(ratio=0, min_per_second=100), clock)


def attempts(
    budget: RetryBudget, *, idempotent: bool = True, entry: bool = True, **values: object
) -> Attempts:
    return Attempts(Retry(**values), budget, idempotent=idempotent, entry=entry, rng=random.Random(1))  # type: ignore[arg-type]


@pytest.mark.parametrize("idempotent", [False, True])
@pytest.mark.parametrize("entry", [False, True])
def test_what_was_never_sent_goes_elsewhere_at_once_and_free(
    budget: RetryBudget, idempotent: bool, entry: bool
) -> None:
    call = attempts(budget, idempotent=idempotent, entry=entry)
    before = budget.available
    assert [call.failed(UNAVAILABLE, sent=False) for _ in range(20)] == [0.0] * 20
    assert budget.available == before
    assert call.sent == 0


def test_what_was_sent_is_repeated_only_if_idempotent(budget: RetryBudget) -> None:
    assert attempts(budget, idempotent=False).failed(UNAVAILABLE, sent=True) is None
    assert attempts(budget, entry=False).failed(UNAVAILABLE, sent=True) is None
    assert budget.available == 100, "and what is not repeated is not charged"
    assert attempts(budget).failed(UNAVAILABLE, sent=True) is not None
    assert budget.available == 99


@pytest.mark.parametrize("status", [s for s in GrpcStatus if s], ids=lambda status: status.name)
def test_answers_are_final_unless_the_policy_lists_them(budget: RetryBudget, status: GrpcStatus) -> None:
    assert (attempts(budget).failed(status, sent=True) is None) == (status is not UNAVAILABLE)
    if status is not GrpcStatus.CANCELLED:
        assert attempts(budget, on=[status]).failed(status, sent=True) is not None


@pytest.mark.parametrize("tries", [1, 2, 3, 7])
def test_so_many_attempts(budget: RetryBudget, tries: int) -> None:
    call = attempts(budget, attempts=tries)
    retries = 0
    while call.failed(UNAVAILABLE, sent=True) is not None:
        retries += 1
    assert retries == tries - 1
    assert call.sent == tries


def test_waits_double_up_to_the_cap(budget: RetryBudget) -> None:
    longest = [0.0] * 5
    for seed in range(300):
        budget._few.clear()
        call = Attempts(
            Retry(attempts=6, initial=0.1, cap=0.5), budget, idempotent=True, rng=random.Random(seed)
        )
        for number in range(5):
            wait = call.failed(UNAVAILABLE, sent=True)
            assert wait is not None
            assert 0 <= wait <= 0.5
            longest[number] = max(longest[number], wait)
    for seen, bound in zip(longest, [0.1, 0.2, 0.4, 0.5, 0.5], strict=True):
        assert bound * 0.9 < seen <= bound


def test_a_thousand_attempts_do_not_overflow(budget: RetryBudget) -> None:
    call = attempts(budget, attempts=2000)
    call.sent = 1500
    wait = call.failed(UNAVAILABLE, sent=True)
    assert wait is not None
    assert wait <= 1.0


def test_the_server_says_when(budget: RetryBudget) -> None:
    assert attempts(budget).failed(UNAVAILABLE, sent=True, pushback=3.5) == 3.5
    assert attempts(budget).failed(UNAVAILABLE, sent=True, pushback=0.0) == 0.0
    assert attempts(budget).failed(UNAVAILABLE, sent=True, pushback=NEVER) is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("1500", 1.5),
        (" 20 ", 0.02),
        ("-1", NEVER),
        ("", NEVER),
        ("soon", NEVER),
        ("1.5", NEVER),
        ("\u0663", NEVER),
        ("9" * 11, NEVER),
    ],
    ids=repr,
)
def test_pushback_is_milliseconds_or_never(value: str | None, seconds: float | None) -> None:
    assert parse_pushback(value) == seconds


def test_an_exhausted_budget_ends_retries_but_not_failover(clock: Clock) -> None:
    budget = RetryBudget(Budget(ratio=0, min_per_second=1), clock)
    assert attempts(budget).failed(UNAVAILABLE, sent=True) is not None
    call = attempts(budget)
    assert call.failed(UNAVAILABLE, sent=False) == 0.0
    assert call.failed(UNAVAILABLE, sent=True) is None


def test_reconnecting_without_jitter_doubles_to_the_cap() -> None:
    backoff = Backoff(Reconnect(initial=0.1, cap=5.0, jitter="none"))
    assert [backoff.next() for _ in range(8)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])
    assert backoff.failures == 8
    backoff.reset()
    assert backoff.failures == 0
    assert backoff.next() == 0.1


@pytest.mark.parametrize("jitter", ["full", "decorrelated"])
def test_jitter_keeps_within_its_bounds_and_spreads(jitter: str) -> None:
    policy = Reconnect(initial=0.1, cap=5.0, jitter=jitter)  # type: ignore[arg-type]
    late = []
    for seed in range(300):
        backoff = Backoff(policy, random.Random(seed))
        last, ceiling = 0.1, 0.1
        for _ in range(12):
            wait = backoff.next()
            if jitter == "full":
                assert 0 <= wait <= ceiling
                ceiling = min(5.0, ceiling * 2)
            else:
                assert 0.1 <= wait <= min(5.0, last * 3)
                last = wait
        late.append(wait)
    assert len(set(late)) > 100
    assert min(late) < 1.0
    assert max(late) > 4.5


def test_a_seed_repeats_the_waits() -> None:
    one, other = (Backoff(Reconnect(), random.Random(7)) for _ in range(2))
    assert [one.next() for _ in range(10)] == [other.next() for _ in range(10)]


def test_ten_thousand_failures_do_not_overflow() -> None:
    backoff = Backoff(Reconnect(jitter="none"))
    for _ in range(10_000):
        wait = backoff.next()
    assert wait == 5.0

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from tests.collective.balance.balance_kit import Clock

from dodici.collective.balance import CircuitBreaker, Outcome, outcome_of
from dodici.collective.policies import Breaker
from dodici.core.grpc_status import GrpcStatus

DOWN = Outcome.UNREACHABLE
ANSWERS = [Outcome.SUCCESS, Outcome.FAILURE, Outcome.REJECTED, Outcome.BEHIND]


def made(clock: Clock, **values: float) -> CircuitBreaker:
    return CircuitBreaker(Breaker(failures=3, open_for=10.0).replace(**values), clock)


def call(breaker: CircuitBreaker, outcome: Outcome) -> bool:
    return breaker.finished(breaker.started(), outcome)


def trip(breaker: CircuitBreaker) -> None:
    while breaker.state == "closed":
        call(breaker, DOWN)


@pytest.mark.parametrize("status", list(GrpcStatus), ids=lambda status: status.name)
def test_only_what_the_transport_says_counts(clock: Clock, status: GrpcStatus) -> None:
    breaker = made(clock)
    for _ in range(10):
        call(breaker, outcome_of(status))
    unreachable = status in {GrpcStatus.UNAVAILABLE, GrpcStatus.DEADLINE_EXCEEDED}
    assert breaker.state == ("open" if unreachable else "closed")


def test_opens_at_the_last_of_the_failures_in_a_row(clock: Clock) -> None:
    breaker = made(clock)
    assert [call(breaker, DOWN) for _ in range(3)] == [False, False, True]
    assert breaker.state == "open"
    assert not breaker.allows()
    assert breaker.retry_after() == 10.0


@pytest.mark.parametrize("answer", ANSWERS)
def test_any_answer_ends_the_row(clock: Clock, answer: Outcome) -> None:
    breaker = made(clock)
    for outcome in [DOWN, DOWN, answer, DOWN, DOWN]:
        call(breaker, outcome)
    assert breaker.state == "closed"


def test_a_cancelled_call_neither_ends_the_row_nor_adds_to_it(clock: Clock) -> None:
    breaker = made(clock)
    for outcome in [DOWN, Outcome.CANCELLED, DOWN, Outcome.CANCELLED]:
        call(breaker, outcome)
    assert breaker.state == "closed"
    assert call(breaker, DOWN)


def test_without_a_number_of_failures_it_never_opens(clock: Clock) -> None:
    breaker = made(clock, failures=0)
    for _ in range(100):
        call(breaker, DOWN)
    assert breaker.state == "closed"


def test_half_open_lets_so_many_probes_through(clock: Clock) -> None:
    breaker = made(clock, half_open=2)
    trip(breaker)
    clock.advance(9.999)
    assert breaker.state == "open"
    clock.advance(0.001)
    assert breaker.state == "half_open"
    assert breaker.retry_after() == 0.0
    probes = []
    while breaker.allows():
        probes.append(breaker.started())
    assert len(probes) == 2
    assert not breaker.finished(probes[0], Outcome.CANCELLED)
    assert breaker.allows(), "a probe that said nothing leaves its place to another"
    assert breaker.finished(probes[1], Outcome.SUCCESS)
    assert breaker.state == "closed"


def test_a_failed_probe_opens_it_anew(clock: Clock) -> None:
    breaker = made(clock)
    trip(breaker)
    clock.advance(10.0)
    probe = breaker.started()
    clock.advance(1.0)
    assert breaker.finished(probe, DOWN)
    assert breaker.state == "open"
    assert breaker.retry_after() == 10.0


@pytest.mark.parametrize("late", [*ANSWERS, DOWN, Outcome.CANCELLED])
def test_a_call_from_before_it_opened_says_nothing(clock: Clock, late: Outcome) -> None:
    breaker = made(clock)
    early = [breaker.started() for _ in range(3)]
    trip(breaker)
    assert not breaker.finished(early[0], late)
    assert breaker.state == "open"
    clock.advance(10.0)
    probe = breaker.started()
    assert not breaker.finished(early[1], late)
    assert breaker.state == "half_open"
    assert not breaker.allows(), "the probe's place is still taken"
    breaker.finished(probe, Outcome.SUCCESS)
    assert not breaker.finished(early[2], late)
    assert breaker.state == "closed"


def test_a_call_forced_through_while_open_says_nothing(clock: Clock) -> None:
    breaker = made(clock)
    trip(breaker)
    assert not call(breaker, Outcome.SUCCESS)
    assert breaker.state == "open"


def test_reset_closes_it(clock: Clock) -> None:
    breaker = made(clock)
    trip(breaker)
    breaker.reset()
    assert breaker.state == "closed"
    assert [call(breaker, DOWN) for _ in range(3)] == [False, False, True]


class BreakerModel(RuleBasedStateMachine):
    """Against a breaker that remembers, for each call, in which period it began."""

    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = made(self.clock, half_open=2)
        self.period = 0
        self.opened: float | None = None
        self.row = 0
        self.probes: set[int] = set()
        self.numbers = 0

    def state(self) -> str:
        if self.opened is None:
            return "closed"
        return "half_open" if self.clock.now - self.opened >= 10.0 else "open"

    def turn(self, opened: float | None) -> None:
        self.opened = opened
        self.period += 1
        self.row = 0
        self.probes = set()

    @rule(target=calls)
    def start(self) -> tuple[int, int, int]:
        self.numbers += 1
        period = self.period
        if self.state() == "open":
            period = -1
        elif self.state() == "half_open":
            self.probes.add(self.numbers)
        return self.numbers, period, self.breaker.started()

    @rule(call=consumes(calls), outcome=st.sampled_from(Outcome))
    def finish(self, call: tuple[int, int, int], outcome: Outcome) -> None:
        number, period, mark = call
        before = self.state()
        period_before = self.period
        if period == self.period:
            self.probes.discard(number)
            if outcome is DOWN:
                self.row += 1
                if before != "closed" or self.row == 3:
                    self.turn(self.clock.now)
            elif outcome is not Outcome.CANCELLED:
                self.row = 0
                if before != "closed":
                    self.turn(None)
        assert self.breaker.finished(mark, outcome) == (self.period != period_before)

    @rule(seconds=st.sampled_from([0.5, 4.0, 10.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def agrees(self) -> None:
        assert self.breaker.state == self.state()
        allowed = self.state() == "closed" or (self.state() == "half_open" and len(self.probes) < 2)
        assert self.breaker.allows() == allowed


TestBreakerModel = BreakerModel.TestCase

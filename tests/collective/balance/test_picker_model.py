from __future__ import annotations

from collections import Counter
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from tests.collective.balance.balance_kit import Clock, fail, made

from dodici.collective.balance import Outcome, Ticket
from dodici.collective.policies import Breaker, Outlier, SlowStart


class PickerModel(RuleBasedStateMachine):
    """A pick is None exactly when nobody may be chosen; else it is somebody who may."""

    tickets = Bundle("tickets")
    balance = "p2c"

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.picker = made(
            self.clock,
            self.balance,
            breaker=Breaker(failures=2, open_for=5.0, half_open=1),
            outlier=Outlier(consecutive=3, base=8.0),
            slow_start=SlowStart(window=4.0),
        )
        self.weights = {"a": 1.0, "b": 1.0, "c": 0.5}
        self.group = self.picker.candidates("ns", self.weights)
        self.running: Counter[str] = Counter()

    def ejected(self, peer: str) -> bool:
        return self.picker.outliers.is_ejected(peer)

    @rule(
        target=tickets, excluded=st.sets(st.sampled_from("abcd"), max_size=2), key=st.sampled_from("uvwxyz")
    )
    def pick(self, excluded: set[str], key: str) -> Ticket | None:
        allowed = {
            candidate.peer for candidate in self.group if candidate.weight and candidate.lane.breaker.allows()
        }
        reachable = {c.peer for c in self.group if c.weight and c.lane.breaker.state != "open"}
        present = sum(candidate.weight > 0 for candidate in self.group)
        healthy = {peer for peer in reachable if not self.ejected(peer)}
        if len(healthy) >= 0.5 * present and healthy:
            allowed &= healthy
        allowed -= excluded
        candidate = self.picker.pick(self.group, excluded=excluded, key=key)
        if candidate is None:
            assert not allowed
            return None
        assert candidate.peer in allowed
        ticket = self.picker.started(candidate)
        self.running[candidate.peer] += 1
        return ticket

    @rule(ticket=consumes(tickets), outcome=st.sampled_from(Outcome), seconds=st.sampled_from([0.001, 0.4]))
    def finish(self, ticket: Ticket | None, outcome: Outcome, seconds: float) -> None:
        if ticket is not None:
            self.picker.finished(ticket, outcome, seconds)
            self.running[ticket.candidate.peer] -= 1

    @rule(peer=st.sampled_from("abcd"), times=st.integers(1, 3), outcome=st.sampled_from(Outcome))
    def row(self, peer: str, times: int, outcome: Outcome) -> None:
        if self.group.get(peer) is not None:
            fail(self.picker, self.group, peer, times, outcome)

    @rule(seconds=st.sampled_from([0.01, 1.0, 5.0, 8.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(peer=st.sampled_from("abcd"), weight=st.sampled_from([0.0, 0.25, 1.0]))
    def weigh(self, peer: str, weight: float) -> None:
        self.weights[peer] = weight
        self.group.update(self.weights)

    @rule(peer=st.sampled_from("abc"))
    def back(self, peer: str) -> None:
        self.picker.joined(peer)

    @invariant()
    def counts(self) -> None:
        for peer, figures in self.picker.stats().items():
            assert figures.in_flight == self.running[peer]
            assert figures.latency > 0


def _model(balance: str) -> Any:
    case = type(f"PickerModel_{balance}", (PickerModel,), {"balance": balance}).TestCase
    # One of five: together they make as many examples as two others.
    case.settings = settings(max_examples=settings.default.max_examples // 2, stateful_step_count=40)
    return case


TestP2c = _model("p2c")
TestRoundRobin = _model("round_robin")
TestLeastRequest = _model("least_request")
TestWeighted = _model("weighted")
TestHash = _model("hash")

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given
from tests.collective.balance.balance_kit import Clock

from dodici.collective.balance import Outcome, OutlierDetector
from dodici.collective.policies import Outlier

BAD = Outcome.FAILURE


def made(clock: Clock, peers: str = "abcd", **values: float) -> OutlierDetector:
    detector = OutlierDetector(Outlier(consecutive=3).replace(**values), clock)
    for peer in peers:
        detector.add(peer)
    return detector


def fail(detector: OutlierDetector, peer: str, times: int = 3, outcome: Outcome = BAD) -> bool:
    return [detector.finished(peer, outcome) for _ in range(times)][-1]


@pytest.mark.parametrize("outcome", [Outcome.FAILURE, Outcome.UNREACHABLE])
def test_ejects_at_the_last_of_the_failures_in_a_row(clock: Clock, outcome: Outcome) -> None:
    detector = made(clock)
    assert not fail(detector, "a", 2, outcome)
    assert not detector.is_ejected("a")
    assert fail(detector, "a", 1, outcome)
    assert detector.is_ejected("a")
    assert not detector.is_ejected("b")


def test_a_success_ends_the_row_and_a_rejection_does_not_count(clock: Clock) -> None:
    detector = made(clock)
    for outcome in [BAD, BAD, Outcome.SUCCESS, BAD, Outcome.REJECTED, Outcome.CANCELLED, Outcome.BEHIND, BAD]:
        detector.finished("a", outcome)
    assert not detector.is_ejected("a")
    assert fail(detector, "a", 1)


def test_ejections_end_and_grow_up_to_the_cap(clock: Clock) -> None:
    detector = made(clock, base=30.0, cap=70.0, sweep=1000.0)
    lasted = []
    for _ in range(4):
        assert fail(detector, "a")
        lasted.append(detector.ejected_until("a") - clock.now)
        clock.now = detector.ejected_until("a")
        assert not detector.is_ejected("a")
    assert lasted == [30.0, 60.0, 70.0, 70.0]


@pytest.mark.parametrize(("steady", "lasts"), [(9.9, 120.0), (10.0, 90.0), (25.0, 60.0), (500.0, 30.0)])
def test_time_in_rotation_forgives_earlier_ejections(clock: Clock, steady: float, lasts: float) -> None:
    detector = made(clock, base=30.0, sweep=10.0)
    for _ in range(3):
        assert fail(detector, "a")
        clock.now = detector.ejected_until("a")
    clock.advance(steady)
    assert fail(detector, "a")
    assert detector.ejected_until("a") - clock.now == pytest.approx(lasts)


def test_what_an_ejected_peer_answers_changes_nothing(clock: Clock) -> None:
    detector = made(clock)
    fail(detector, "a")
    until = detector.ejected_until("a")
    assert not fail(detector, "a", 10)
    detector.finished("a", Outcome.SUCCESS)
    assert detector.ejected_until("a") == until
    clock.now = until
    assert not fail(detector, "a", 2), "failures while it was ejected are not carried over"


def test_no_more_than_the_share_is_out(clock: Clock) -> None:
    detector = made(clock, "abcde")
    assert [fail(detector, peer) for peer in "abcde"] == [True, True, False, False, False]
    clock.now = detector.ejected_until("a")
    assert fail(detector, "c", 1), "as soon as there is room, one more failure is enough"


def test_the_only_peer_is_never_ejected(clock: Clock) -> None:
    assert not fail(made(clock, "a"), "a", 50)


def test_coming_back_ends_an_ejection_and_leaving_forgets_it(clock: Clock) -> None:
    detector = made(clock)
    fail(detector, "a")
    detector.add("a")
    assert not detector.is_ejected("a")
    assert fail(detector, "a")
    assert detector.ejected_until("a") - clock.now == 60.0, "the earlier one is remembered"
    detector.remove("a")
    assert not detector.is_ejected("a")
    assert not fail(detector, "a", 10), "nobody knows it any more"


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdef"), st.sampled_from(Outcome), st.sampled_from([0.0, 0.0, 3.0, 20.0]))
    ),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)
def test_the_share_holds_whatever_happens(calls: list[tuple[str, Outcome, float]], share: float) -> None:
    clock = Clock()
    detector = made(clock, "abcdef", consecutive=2, max_ejected=share)
    for peer, outcome, wait in calls:
        clock.advance(wait)
        detector.finished(peer, outcome)
        assert sum(detector.is_ejected(peer) for peer in "abcdef") <= share * 6

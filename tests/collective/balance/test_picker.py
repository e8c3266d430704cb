from __future__ import annotations

import gc
import weakref
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from tests.collective.balance.balance_kit import BALANCES, DOWN, FAST, Clock, fail, made, picks

from dodici.collective.balance import Outcome, Picker, Ticket
from dodici.collective.policies import Outlier, SlowStart
from dodici.core.errors import InvalidArgumentError


@pytest.fixture(params=BALANCES)
def balance(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# -- shares ------------------------------------------------------------------------------------------------


def test_equal_peers_get_equal_shares(clock: Clock, balance: str) -> None:
    picker = made(clock, balance)
    group = picker.candidates("ns", ["a", "b", "c"])
    seen = picks(picker, group, 3000, key="k")
    for peer in "abc":
        assert seen[peer] / 3000 == pytest.approx(1 / 3, abs=0.05 if balance != "hash" else 0.08)


def test_round_robin_is_exact(clock: Clock) -> None:
    picker = made(clock, "round_robin")
    group = picker.candidates("ns", {"a": 1.0, "b": 0.5, "c": 1.0})
    order = [next(iter(picks(picker, group, 1))) for _ in range(12)]
    assert set(order[:3]) == {"a", "b", "c"}
    assert order == order[:3] * 4


@pytest.mark.parametrize("balance", ["p2c", "least_request", "weighted"])
@pytest.mark.parametrize("held", [1, 40])
def test_a_quarter_weighs_a_quarter(clock: Clock, balance: str, held: int) -> None:
    picker = made(clock, balance, slow_start=FAST)
    group = picker.candidates("ns", {"a": 1.0, "b": 0.25, "c": 1.0})
    seen: Counter[str] = Counter()
    running: list[Ticket] = []
    for _ in range(9000):
        candidate = picker.pick(group)
        assert candidate is not None
        seen[candidate.peer] += 1
        running.append(picker.started(candidate))
        if len(running) == held:
            picker.finished(running.pop(0), Outcome.SUCCESS, 0.001)
    assert seen["b"] / 9000 == pytest.approx(1 / 9, abs=0.02)
    assert seen["a"] / 9000 == pytest.approx(4 / 9, abs=0.03)


def test_turns_by_weight_are_exact_and_smooth(clock: Clock) -> None:
    picker = made(clock, "weighted")
    group = picker.candidates("ns", {"a": 1.0, "b": 0.25})
    order = [next(iter(picks(picker, group, 1))) for _ in range(50)]
    assert order.count("b") == 10
    at = [index for index, peer in enumerate(order) if peer == "b"]
    assert {later - earlier for earlier, later in pairwise(at)} == {5}


def test_weight_zero_is_never_chosen(clock: Clock, balance: str) -> None:
    picker = made(clock, balance)
    group = picker.candidates("ns", {"a": 1.0, "b": 0.0})
    assert picks(picker, group, 50, key="k") == {"a": 50}
    group.update({"a": 0.0, "b": 0.0})
    assert picker.pick(group, key="k") is None
    assert picker.retry_after(group) is None
    group.update({"a": 0.0, "b": 0.1})
    assert picks(picker, group, 50, key="k") == {"b": 50}


@pytest.mark.parametrize("weight", [5e-324, 1e-300, 1e6])
def test_extreme_weights_do_no_harm(clock: Clock, balance: str, weight: float) -> None:
    picker = made(clock, balance, slow_start=SlowStart())
    group = picker.candidates("ns", {"a": weight, "b": weight})
    assert set(picks(picker, group, 100, key="k")) <= {"a", "b"}


# -- what all of them respect ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3, 30])
def test_excluded_peers_are_not_chosen(clock: Clock, balance: str, size: int) -> None:
    picker = made(clock, balance)
    names = [f"peer-{number}" for number in range(size)]
    group = picker.candidates("ns", {name: (0.5, 1.0)[name[-1] in "02468"] for name in names})
    for gone in range(size):
        seen = picks(picker, group, 60, excluded=set(names[:gone]), key="k")
        assert not set(names[:gone]) & set(seen)
        assert None not in seen
    assert picker.pick(group, excluded=names, key="k") is None


def test_nobody_to_choose_from(clock: Clock, balance: str) -> None:
    picker = made(clock, balance)
    group = picker.candidates("ns", [])
    assert picker.pick(group, key="k") is None
    assert picker.retry_after(group) is None


@pytest.mark.parametrize("others", [1, 12])
def test_an_open_breaker_is_left_alone_then_probed(clock: Clock, balance: str, others: int) -> None:
    picker = made(clock, balance, outlier=Outlier(max_ejected=0))
    group = picker.candidates("ns", ["a", *(f"b-{number}" for number in range(others))])
    fail(picker, group, "a")
    assert picker.stats()["a"].breakers == {"ns": "open"}
    assert "a" not in picks(picker, group, 100, key="k")
    clock.advance(10.0)
    probes = []
    for number in range(200):
        candidate = picker.pick(group, key=str(number))
        assert candidate is not None
        if candidate.peer == "a":
            probes.append(picker.started(candidate))
    assert len(probes) == 1
    picker.finished(probes[0], Outcome.SUCCESS, 0.001)
    assert picker.stats()["a"].breakers == {"ns": "closed"}
    assert picks(picker, group, 300, key="k")["a"] > 150 / (others + 1)


def test_a_breaker_is_one_namespaces(clock: Clock, balance: str) -> None:
    picker = made(clock, balance, outlier=Outlier(max_ejected=0), failure_penalty=0.0)
    orders, users = (picker.candidates(namespace, ["a", "b"]) for namespace in ("orders", "users"))
    fail(picker, orders, "a")
    assert picks(picker, orders, 50, key="k") == {"b": 50}
    assert picks(picker, users, 200, key="k")["a"] > 0


def test_with_every_breaker_open_a_pick_fails_at_once_and_says_when(clock: Clock, balance: str) -> None:
    picker = made(clock, balance)
    group = picker.candidates("ns", ["a", "b"])
    fail(picker, group, "a")
    clock.advance(4.0)
    fail(picker, group, "b")
    assert picker.pick(group, key="k") is None
    assert picker.retry_after(group) == 6.0
    clock.advance(6.0)
    candidate = picker.pick(group, key="k")
    assert candidate is not None
    assert candidate.peer == "a"
    picker.started(candidate)
    assert picker.pick(group, key="k") is None
    assert picker.retry_after(group) == 0.0


def test_an_ejected_peer_is_out_until_its_time_is_over(clock: Clock, balance: str) -> None:
    picker = made(clock, balance)
    group = picker.candidates("ns", ["a", "b", "c"])
    fail(picker, group, "a", outcome=Outcome.FAILURE)
    assert picker.stats()["a"].ejected_for == 30.0
    assert "a" not in picks(picker, group, 100, key="k")
    clock.advance(29.9)
    assert "a" not in picks(picker, group, 100, key="k")
    clock.advance(60.0)
    assert picks(picker, group, 300, key="k")["a"] > 50


def test_panic_uses_the_ejected_but_not_those_that_do_not_answer(clock: Clock, balance: str) -> None:
    picker = made(clock, balance, failure_penalty=0.0)
    group = picker.candidates("ns", ["a", "b", "c", "d", "e"])
    for peer in "ab":
        fail(picker, group, peer, outcome=Outcome.FAILURE)
    assert set(picks(picker, group, 200, key="k")) == {"c", "d", "e"}
    assert not group.panicking
    fail(picker, group, "c")
    assert set(picks(picker, group, 300, key="k")) == {"a", "b", "d", "e"}
    assert group.panicking


def test_without_panic_ejected_peers_are_still_better_than_none(clock: Clock, balance: str) -> None:
    picker = made(clock, balance, panic_below=0.0, outlier=Outlier(max_ejected=1.0))
    group = picker.candidates("ns", ["a", "b"])
    fail(picker, group, "a", outcome=Outcome.FAILURE)
    assert picks(picker, group, 20, key="k") == {"b": 20}
    fail(picker, group, "b", outcome=Outcome.FAILURE)
    assert None not in picks(picker, group, 20, key="k")


@pytest.mark.parametrize("balance", ["p2c", "round_robin", "least_request", "weighted"])
def test_rejections_lower_the_share_for_a_while_and_open_nothing(clock: Clock, balance: str) -> None:
    picker = made(clock, balance)
    group = picker.candidates("ns", ["a", "b"])
    picks(picker, group, 1)
    fail(picker, group, "a", times=20, outcome=Outcome.REJECTED)
    assert picker.stats()["a"].breakers == {"ns": "closed"}
    assert picker.stats()["a"].ejected_for == 0.0
    assert 20 <= picks(picker, group, 1000)["a"] <= 80
    clock.advance(60.0)
    assert picks(picker, group, 1000)["a"] == pytest.approx(500, abs=60)


@pytest.mark.parametrize("balance", ["p2c", "round_robin", "least_request", "weighted"])
def test_who_joins_or_comes_back_starts_slowly(clock: Clock, balance: str) -> None:
    picker = made(clock, balance, slow_start=SlowStart(window=10.0, floor=0.1), decay=1000.0)
    group = picker.candidates("ns", ["a", "b"])
    clock.advance(10.0)
    fail(picker, group, "a")
    assert picks(picker, group, 20) == {"b": 20}
    picker.joined("a")
    shares = []
    for _ in range(3):
        shares.append(picks(picker, group, 1000)["a"] / 1000)
        clock.advance(5.0)
    assert shares == pytest.approx([0.1 / 1.1, 0.55 / 1.55, 0.5], abs=0.04)


# -- two choices -------------------------------------------------------------------------------------------


def test_of_two_the_one_with_less_to_do_is_chosen(clock: Clock) -> None:
    for balance in ("p2c", "least_request"):
        picker = made(clock, balance)
        group = picker.candidates("ns", ["a", "b"])
        picker.started(group.get("a"))  # type: ignore[arg-type]
        assert {picker.pick(group).peer for _ in range(50)} == {"b"}  # type: ignore[union-attr]


@pytest.mark.parametrize("size", [4, 12])
@pytest.mark.parametrize("excluded", [(), ("peer-1",)], ids=["all", "but one"])
def test_the_busiest_is_never_the_better_of_two(clock: Clock, size: int, excluded: tuple[str, ...]) -> None:
    picker = made(clock, "least_request")
    group = picker.candidates("ns", [f"peer-{number}" for number in range(size)])
    picker.started(group.get("peer-0"))  # type: ignore[arg-type]
    seen = {picker.pick(group, excluded=excluded).peer for _ in range(1000)}  # type: ignore[union-attr]
    assert seen == {f"peer-{number}" for number in range(1, size)} - set(excluded)


def test_fast_failures_do_not_attract_calls(clock: Clock) -> None:
    picker = made(clock, outlier=Outlier(max_ejected=0))
    group = picker.candidates("ns", ["a", "b"])
    fail(picker, group, "a", times=1, outcome=Outcome.FAILURE)
    assert picks(picker, group, 100) == {"b": 100}


def test_what_was_slow_is_tried_again_in_time(clock: Clock) -> None:
    picker = made(clock, decay=5.0)
    group = picker.candidates("ns", ["a", "b"])
    fail(picker, group, "a", times=1, outcome=Outcome.FAILURE)
    # 5 s decay to the 1 ms of the other after 5 x ln(5000) = 42.6 s.
    assert "a" not in picks(picker, group, 420, step=0.1)
    assert "a" in picks(picker, group, 20, step=0.1)


def test_a_stream_is_judged_by_its_first_message(clock: Clock) -> None:
    picker = made(clock)
    group = picker.candidates("ns", ["a"])
    fail(picker, group, "a")
    clock.advance(10.0)
    ticket = picker.started(picker.pick(group))  # type: ignore[arg-type]
    picker.answered(ticket, 0.002)
    assert picker.stats()["a"].breakers == {"ns": "closed"}
    assert picker.stats()["a"].in_flight == 1
    before = picker.stats()["a"].latency
    picker.finished(ticket, Outcome.SUCCESS, 3600.0)
    assert picker.stats()["a"].in_flight == 0
    assert picker.stats()["a"].latency == before


def test_a_ticket_ends_once(clock: Clock) -> None:
    picker = made(clock)
    group = picker.candidates("ns", ["a", "b"])
    ticket = picker.started(group.get("a"))  # type: ignore[arg-type]
    for _ in range(10):
        picker.finished(ticket, DOWN, 0.001)
        picker.answered(ticket, 0.001)
    assert picker.stats()["a"].in_flight == 0
    assert picker.stats()["a"].breakers == {"ns": "closed"}


@pytest.mark.parametrize("forgotten", [False, True])
def test_calls_of_an_earlier_life_say_nothing(clock: Clock, forgotten: bool) -> None:
    picker = made(clock)
    group = picker.candidates("ns", ["a", "b"])
    early = [picker.started(group.get("a")) for _ in range(20)]  # type: ignore[arg-type]
    if forgotten:
        picker.left("a")
    picker.joined("a")
    group.update(["a", "b"])
    before = picker.stats()["a"].latency
    for ticket in early:
        picker.finished(ticket, DOWN, 0.001)
    figures = picker.stats()["a"]
    assert (figures.in_flight, figures.ejected_for, figures.breakers["ns"]) == (0, 0.0, "closed")
    assert figures.latency == before


# -- making and growing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"balance": "random"},
        {"failure_penalty": -1},
        {"decay": 0},
        {"panic_below": 1.5},
    ],
    ids=lambda values: next(iter(values)),
)
def test_bad_settings_are_refused_by_name(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match=next(iter(values))):
        Picker(**values)


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf"), True, "1", None], ids=repr)
def test_bad_weights_are_refused_and_change_nothing(clock: Clock, weight: Any) -> None:
    picker = made(clock)
    group = picker.candidates("ns", ["a"])
    with pytest.raises(InvalidArgumentError, match="the weight of 'b' must be a number from 0"):
        group.update({"a": 1.0, "b": weight})
    assert [candidate.peer for candidate in group] == ["a"]
    assert set(picker.stats()) == {"a"}
    with pytest.raises(InvalidArgumentError, match="named by its id"):
        group.update([1])  # type: ignore[list-item]


def test_update_keeps_the_turns_of_those_that_stay(clock: Clock) -> None:
    picker = made(clock, "round_robin")
    group = picker.candidates("ns", ["a", "b", "c"])
    seen: Counter[str | None] = Counter()
    for number in range(300):
        group.update(["a", "b", "c"] if number % 2 else {"c": 0.5, "b": 1.0, "a": 1.0})
        seen += picks(picker, group, 1)
    assert set(seen.values()) == {100}


def test_who_was_away_gets_no_more_than_its_turns(clock: Clock) -> None:
    picker = made(clock, "round_robin")
    group = picker.candidates("ns", ["a", "b"])
    picks(picker, group, 4)
    group.update({"a": 0.0, "b": 1.0})
    picks(picker, group, 100)
    group.update(["a", "b"])
    assert picks(picker, group, 10)["a"] in {5, 6}, "it is due now, and not for the hundred that it missed"


@pytest.mark.parametrize("how", ["left", "group dropped"])
def test_memory_is_flat_when_peers_come_and_go(clock: Clock, balance: str, how: str) -> None:
    picker = made(clock, balance)
    group = picker.candidates("ns", ["stays"])
    refs = []
    for number in range(1000):
        peer = f"peer-{number}"
        picker.joined(peer)
        group.update(["stays", peer])
        other = picker.candidates("other", [peer])
        picks(picker, group, 3, key="k")
        picks(picker, other, 1, key="k")
        fail(picker, group, peer)
        if how == "left":
            group.update(["stays"])
            picker.left(peer)
        else:
            picker.left(peer)
            group.update(["stays"])
        refs.append(weakref.ref(other))
        del other
    picks(picker, group, 3, key="k")
    gc.collect()
    assert [ref for ref in refs if ref() is not None] == []
    assert list(picker.stats()) == ["stays"]
    assert len(picker.outliers._records) == 1
    assert len(group) == len(group.live) == 1
    assert list(picker.stats()["stays"].breakers) == ["ns"]
    strategy: Any = group.strategy
    assert len(getattr(strategy, "_queue", ())) <= 1
    assert len(getattr(strategy, "_owners", ())) <= 128


def test_a_namespace_that_is_left_is_forgotten(clock: Clock) -> None:
    picker = made(clock)
    for number in range(100):
        group = picker.candidates(f"ns-{number}", ["a"])
        fail(picker, group, "a", times=1)
        picker.left("a", f"ns-{number}")
    assert picker.stats()["a"].breakers == {}
    picker.left("nobody")
    picker.left("nobody", "ns")

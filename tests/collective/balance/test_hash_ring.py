from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from tests.collective.balance.balance_kit import DOWN, Clock, fail, made

from dodici.collective.balance import Candidates, Outcome, Picker


def owners(picker: Picker, group: Candidates, **values: Any) -> dict[str, str]:
    return {key: picker.pick(group, key=key, **values).peer for key in map(str, range(2000))}  # type: ignore[union-attr]


def test_a_key_stays_where_it_is(clock: Clock) -> None:
    first = made(clock, "hash", rng=random.Random(1))
    second = made(clock, "hash", rng=random.Random(2))
    names = [f"peer-{number}" for number in range(10)]
    group = first.candidates("ns", names)
    there = owners(first, group)
    assert there == owners(first, group)
    assert there == owners(second, second.candidates("other", reversed(names))), "every collector agrees"


@pytest.mark.parametrize("how", ["left", "excluded", "breaker", "ejected", "weight"])
def test_only_the_keys_of_who_goes_move(clock: Clock, how: str) -> None:
    picker = made(clock, "hash")
    names = [f"peer-{number}" for number in range(10)]
    group = picker.candidates("ns", names)
    before = owners(picker, group)
    excluded: tuple[str, ...] = ()
    if how == "left":
        picker.left("peer-3")
    elif how == "excluded":
        excluded = ("peer-3",)
    elif how == "weight":
        group.update({name: float(name != "peer-3") for name in names})
    else:
        fail(picker, group, "peer-3", outcome=DOWN if how == "breaker" else Outcome.FAILURE)
    after = owners(picker, group, excluded=excluded)
    moved = {key for key, peer in before.items() if after[key] != peer}
    assert moved == {key for key, peer in before.items() if peer == "peer-3"}
    assert len({after[key] for key in moved}) > 5, "and they spread over the others"
    picker.joined("peer-3")
    group.update(names)
    assert owners(picker, group) == before


def test_a_newcomer_takes_its_share_and_nothing_else_moves(clock: Clock) -> None:
    picker = made(clock, "hash")
    group = picker.candidates("ns", [f"peer-{number}" for number in range(9)])
    before = owners(picker, group)
    group.update([f"peer-{number}" for number in range(10)])
    after = owners(picker, group)
    moved = {key for key in before if before[key] != after[key]}
    assert {after[key] for key in moved} == {"peer-9"}
    assert 0.05 < len(moved) / 2000 < 0.16


def test_weight_takes_its_share_of_the_ring(clock: Clock) -> None:
    picker = made(clock, "hash")
    group = picker.candidates("ns", {"a": 1.0, "b": 1.0, "c": 0.25})
    shares = Counter(owners(picker, group).values())
    assert shares["c"] / 2000 == pytest.approx(1 / 9, abs=0.05)


def test_without_a_key_the_load_decides(clock: Clock) -> None:
    picker = made(clock, "hash")
    group = picker.candidates("ns", ["a", "b"])
    picker.started(group.get("a"))  # type: ignore[arg-type]
    assert picker.pick(group).peer == "b"  # type: ignore[union-attr]


def test_keys_may_be_any_text_or_bytes(clock: Clock) -> None:
    picker = made(clock, "hash")
    group = picker.candidates("ns", ["a", "b"])
    for key in ("", b"", "\ud800", b"\xff\x00", "k" * 10_000):
        assert picker.pick(group, key=key) is picker.pick(group, key=key)
    assert picker.pick(group, key="same") is picker.pick(group, key=b"same")

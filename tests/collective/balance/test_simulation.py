"""What the choice of a peer does to callers, in simulated time."""

from __future__ import annotations

import random

import pytest
from tests.collective.balance.balance_kit import Answer, Clock, Served, simulate, takes

from dodici.collective.balance import Outcome, Picker
from dodici.collective.policies import Breaker, Outlier, SlowStart


def run(
    balance: str, peers: dict[str, Answer], *, rate: float = 500, calls: int = 6000, **values: object
) -> Served:
    clock = Clock()
    settings = {"slow_start": SlowStart(window=0), **values}
    picker = Picker(balance, clock=clock, rng=random.Random(4), **settings)  # type: ignore[arg-type]
    return simulate(picker, picker.candidates("ns", list(peers)), clock, peers, rate=rate, calls=calls)


@pytest.mark.parametrize("others", [1, 3])
def test_one_slow_peer_does_not_set_the_99th_percentile(others: int) -> None:
    peers = {"slow": takes(0.2), **{f"fast-{number}": takes(0.005) for number in range(others)}}
    p2c, turns = run("p2c", peers), run("round_robin", peers)
    assert turns.percentile(0.99) > 0.2
    assert p2c.percentile(0.99) < turns.percentile(0.99) / 10
    assert p2c.share("slow") < 0.01


@pytest.mark.parametrize("balance", ["p2c", "least_request", "round_robin"])
@pytest.mark.parametrize("rate", [20, 1000])
def test_equally_fast_peers_share_equally(balance: str, rate: float) -> None:
    served = run(balance, {peer: takes(0.005) for peer in "abc"}, rate=rate, calls=3000)
    for peer in "abc":
        assert served.share(peer) == pytest.approx(1 / 3, abs=0.05)


def test_a_peer_that_hangs_for_a_while_is_avoided_and_comes_back() -> None:
    def hangs(rng: random.Random, now: float) -> tuple[Outcome, float]:
        if 1005 <= now < 1010:
            return Outcome.UNREACHABLE, 1.0
        return takes(0.005)(rng, now)

    clock = Clock()
    picker = Picker(
        clock=clock,
        rng=random.Random(4),
        slow_start=SlowStart(window=0),
        breaker=Breaker(open_for=2.0),
        outlier=Outlier(base=4.0),
    )
    group = picker.candidates("ns", ["a", "b"])
    peers: dict[str, Answer] = {"a": hangs, "b": takes(0.005)}
    assert simulate(picker, group, clock, peers, rate=200, calls=1000).share("a") > 0.4
    clock.now = 1005.0
    during = simulate(picker, group, clock, peers, rate=200, calls=1000)
    assert during.shares["a"] < 30, (
        "of the calls of five seconds, a hanging one got what it held before it was known"
    )
    clock.now += 15.0
    assert simulate(picker, group, clock, peers, rate=200, calls=1000).share("a") > 0.3


def test_a_peer_that_rejects_at_once_does_not_attract_calls() -> None:
    def rejects(rng: random.Random, now: float) -> tuple[Outcome, float]:
        return Outcome.REJECTED, 0.0001

    served = run("p2c", {"full": rejects, "b": takes(0.005), "c": takes(0.005)})
    assert served.share("full") < 0.1

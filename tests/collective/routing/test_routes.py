"""Who runs a call: here, a peer, the way to another; and what is said when nobody can."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from tests.collective.fleet import fleet, routed, serve, settled, until

from dodici.collective import Collector, Limits
from dodici.collective.names import RouteKey

WHO = ("shop", "Work", "Who")


async def line(*members: Collector) -> None:
    """Connect each to the next."""
    for one, other in pairwise(members):
        await one.connect_to(other.address)


def paths(of: Collector, method: str = "Who") -> set[tuple[str, ...]]:
    """The ways that a collector knows to Work.Who."""
    group = of._router.table.group(RouteKey("shop", "Work", method))  # type: ignore[attr-defined]
    return {way.path for ways in group.ways.values() for way in ways} if group else set()


# -- here, and the target ------------------------------------------------------------------------------------


async def test_local_first() -> None:
    async with fleet(a={}, b={}) as (a, b):
        serve(a)
        work = serve(b)
        await a.connect_to(b.address)
        for _ in range(20):
            assert (await a.dispatch(*WHO)).output == "a"
        assert not work.counts


@pytest.mark.weak_spot(3)
async def test_the_collector_itself_is_a_target() -> None:
    async with fleet(a={}, b={}) as (a, b):
        serve(a)
        serve(b)
        await a.connect_to(b.address)
        for _ in range(10):
            assert (await a.dispatch(*WHO, target="a")).output == "a"
            assert (await a.dispatch(*WHO, target="b")).output == "b"
            assert (await b.dispatch(*WHO, target="a")).output == "a"


async def test_a_target_that_lacks_the_method_is_not_replaced() -> None:
    async with fleet(a={}, b={}) as (a, b):
        serve(a)
        await a.connect_to(b.address)
        answer = await a.dispatch(*WHO, target="b")
        assert answer.status == 404
        answer = await b.dispatch("shop", "Other", "Who", target="b")
        assert answer.status == 404


@pytest.mark.weak_spot(4)
async def test_a_target_that_is_down_is_unavailable_and_nobody_else() -> None:
    async with fleet(a={}, b={}, c={}) as (a, b, c):
        serve(b)
        work = serve(c)
        await a.connect_to(b.address)
        await a.connect_to(c.address)
        await b.stop()
        answer = await a.dispatch(*WHO, target="b")
        assert answer.status == 503
        assert "'b'" in answer.status.message
        assert not work.counts
        assert (await a.dispatch(*WHO)).output == "c"


async def test_an_unknown_target_is_not_found() -> None:
    async with fleet(a={}, b={}) as (a, b):
        serve(a)
        await a.connect_to(b.address)
        answer = await a.dispatch(*WHO, target="nobody")
        assert (answer.status, answer.status.message) == (404, "no such collector: 'nobody'")


# -- what is unknown, and what was lost --------------------------------------------------------------------------


@pytest.mark.weak_spot(11)
async def test_what_is_missing_is_named() -> None:
    async with fleet(a={}, b={}) as (a, b):
        serve(b)
        await a.connect_to(b.address)
        texts = []
        for name, status in (
            (("", "Work", "Who"), 400),
            (("shop", "", "Who"), 400),
            (("shop", "Work", ""), 400),
            (("else", "Work", "Who"), 404),
            (("shop", "Other", "Who"), 404),
            (("shop", "Work", "Other"), 404),
        ):
            answer = await a.dispatch(*name)
            assert answer.status == status
            texts.append(answer.status.message)
        assert "no such namespace: 'else'" in texts[3]
        assert "no such service in namespace 'shop': 'Other'" in texts[4]
        assert "no such method of 'Work' in namespace 'shop': 'Other'" in texts[5]
        await b.stop()
        answer = await a.dispatch(*WHO)
        assert (answer.status, answer.status.message) == (503, "no healthy collector for shop/Work.Who")


async def test_a_lost_route_is_remembered_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fleet(a={}, b={}) as (a, b):
        serve(b)
        await a.connect_to(b.address)
        table = a._router.table  # type: ignore[attr-defined]
        await b.stop()
        await settled(a)
        assert (await a.dispatch(*WHO)).status == 503
        real = table._clock
        monkeypatch.setattr(table, "_clock", lambda: real() + 29)
        assert (await a.dispatch(*WHO)).status == 503
        monkeypatch.setattr(table, "_clock", lambda: real() + 31)
        assert (await a.dispatch(*WHO)).status == 404


async def test_a_route_that_was_taken_back_is_gone_at_once() -> None:
    async with fleet(a={}, b={}) as (a, b):
        serve(b)
        await a.connect_to(b.address)
        await b.leave("shop")
        assert (await a.dispatch(*WHO)).status == 404
        await b.join("shop")
        assert (await a.dispatch(*WHO)).output == "b"


async def test_what_is_registered_later_is_announced() -> None:
    async with fleet(a={}, b={}) as (a, b):
        await a.connect_to(b.address)
        assert (await a.dispatch(*WHO)).status == 404
        serve(b)
        await settled(a, "b")
        assert (await a.dispatch(*WHO)).output == "b"


async def test_a_namespace_that_is_joined_is_routed_when_join_returns() -> None:
    async with fleet(a={"namespaces": ["one"]}, b={"namespaces": ["one"]}) as (a, b):
        serve(b)  # joins "shop"
        await a.connect_to(b.address)
        assert "no such namespace" in (await a.dispatch(*WHO)).status.message
        await a.join("shop")
        assert (await a.dispatch(*WHO)).output == "b"
        await a.leave("shop")
        assert (await a.dispatch(*WHO)).status == 404


# -- over several collectors ------------------------------------------------------------------------------------


@pytest.mark.weak_spot(26)
async def test_a_line() -> None:
    async with fleet(a={}, b={}, c={}) as (a, b, c):
        serve(c)
        await line(a, b, c)
        await settled(a, "b")
        answer = await a.dispatch("shop", "Work", "See")
        assert answer.output["path"] == ["a", "b"]
        assert answer.handled_by_collector_id == "c"
        assert (await a.dispatch(*WHO, target="c")).output == "c"
        assert (await a.dispatch("shop", "Work", "Nope", target="c")).status == 404
        assert paths(a) == {("b", "c")}
        await c.stop()
        await until(lambda: not paths(a))
        assert (await a.dispatch(*WHO)).status == 503
        answer = await a.dispatch(*WHO, target="c")
        assert (answer.status, "'c'" in answer.status.message) == (503, True)


async def test_the_nearest_come_first() -> None:
    async with fleet(a={}, b={}, c={}, d={}) as (a, b, c, d):
        far = serve(c)
        serve(d)
        await line(a, b, c)
        await a.connect_to(d.address)
        await until(lambda: paths(a) == {("b", "c"), ("d",)})
        for _ in range(20):
            assert (await a.dispatch(*WHO)).output == "d"
        assert not far.counts
        await d.stop()
        await settled(a, "b")
        assert (await a.dispatch(*WHO)).output == "c"


@pytest.mark.weak_spot(26)
async def test_no_further_than_max_hops() -> None:
    hops = {"max_hops": 2}
    async with fleet(a=hops, b=hops, c=hops, d=hops) as (a, b, c, d):
        serve(d)
        await line(a, b, c, d)
        await until(lambda: paths(b) == {("c", "d")})
        assert (await b.dispatch(*WHO)).output == "d"
        assert not paths(a)
        assert (await a.dispatch(*WHO)).status == 404


@pytest.mark.weak_spot(26)
async def test_in_a_ring_a_call_that_nobody_serves_is_seen_once_by_each_at_most() -> None:
    async with fleet(a={}, b={}, c={}) as (a, b, c):
        seen: list[str] = []
        for one in (a, b, c):
            one.set_registry_validator(lambda *_, name=one.id: seen.append(name))
        await line(a, b, c, a)
        for one in (a, b, c):
            assert (await one.dispatch(*WHO)).status == 404
        assert seen == ["a", "b", "c"]


async def test_in_a_ring_a_call_takes_the_short_way_and_the_other_when_that_breaks() -> None:
    async with fleet(a={}, b={}, c={}, d={}) as (a, b, c, d):
        serve(c)
        await line(a, b, c, d, a)
        await until(lambda: paths(a) == {("b", "c"), ("d", "c")})
        path = (await a.dispatch("shop", "Work", "See")).output["path"]
        assert path in (["a", "b"], ["a", "d"])
        await b.stop()
        await until(lambda: paths(a) == {("d", "c")})
        assert (await a.dispatch("shop", "Work", "See")).output["path"] == ["a", "d"]
        await d.disconnect("c")
        await until(lambda: not paths(a))
        assert (await a.dispatch(*WHO)).status == 503


async def test_a_call_is_not_sent_back_to_where_it_has_been() -> None:
    """A route that has just turned round: b has lost its own way to c, and a is told a moment later."""
    async with fleet(a={}, b={}, c={}) as (a, b, c):
        serve(c)
        await line(a, b, c)
        await settled(a, "b")
        await a.connect_to(c.address)
        await until(lambda: paths(b) == {("c",)})
        from dodici.collective.contracts import Call
        from dodici.collective.errors import CollectiveError

        await b.disconnect("c")
        await until(lambda: paths(b) == {("a", "c")})
        router: Any = b._router
        call = Call(RouteKey(*WHO), path=("a",), from_collector="a")
        with pytest.raises(CollectiveError) as caught:
            await router.route(call)
        assert caught.value.grpc_status.name == "FAILED_PRECONDITION"
        assert caught.value.details["path"] == "a,b"
        elsewhere = Call(RouteKey(*WHO), path=("x",), from_collector="x")
        assert await router.route(elsewhere)


# -- too much ----------------------------------------------------------------------------------------------------


@pytest.mark.weak_spot(28)
async def test_peers_take_what_is_too_much_here() -> None:
    async with fleet(a={"limits": Limits(in_flight=2, queued=5)}, b={}) as (a, b):
        here, there = serve(a), serve(b)
        await a.connect_to(b.address)
        calls = [asyncio.create_task(a.dispatch("shop", "Work", "Hold")) for _ in range(5)]
        await until(lambda: (here.running, there.running) == (2, 3))
        here.released.set()
        there.released.set()
        assert sorted(one.output for one in await asyncio.gather(*calls)) == ["a", "a", "b", "b", "b"]


@pytest.mark.weak_spot(28)
async def test_with_local_first_off_this_collector_is_one_of_them() -> None:
    async with fleet(a={"local_first": False, "balance": "round_robin"}, b={}, c={}) as (a, b, c):
        works = [serve(one) for one in (a, b, c)]
        await line(b, a, c)
        await settled(a, "b", "c")
        ran = [(await a.dispatch(*WHO)).output for _ in range(300)]
        assert [work.counts["Who"] for work in works] == [ran.count(name) for name in "abc"]
        assert min(ran.count(name) for name in "abc") >= 80
        assert (await a.dispatch(*WHO, target="a")).output == "a"


async def test_who_has_no_room_says_so_and_another_takes_the_call() -> None:
    full = {"limits": Limits(in_flight=1, queued=0)}
    async with fleet(a={}, b=full, c=full) as (a, b, c):
        first, second = serve(b), serve(c)
        await a.connect_to(b.address)
        await a.connect_to(c.address)
        held = [asyncio.create_task(a.dispatch("shop", "Work", "Hold")) for _ in range(2)]
        await until(lambda: first.running == second.running == 1)
        refused = await a.dispatch("shop", "Work", "Once")
        assert refused.status == 429
        assert refused.metadata["grpc-retry-pushback-ms"].isdecimal()
        assert (first.counts, second.counts) == ({}, {})
        first.released.set()
        await until(lambda: not first.running)
        # Not idempotent, and refused by the one that is full if that is asked first.
        for _ in range(5):
            assert (await a.dispatch("shop", "Work", "Once")).output == "b"
        second.released.set()
        await asyncio.gather(*held)


@pytest.mark.weak_spot(29)
@pytest.mark.parametrize("balance", ["p2c", "round_robin", "least_request"])
async def test_equal_peers_get_equal_shares(balance: str) -> None:
    async with fleet(a={"balance": balance}, b={}, c={}, d={}) as (a, b, c, d):
        works = [serve(one) for one in (b, c, d)]
        for one in (b, c, d):
            await a.connect_to(one.address)
        calls = 3000

        async def some() -> None:
            for _ in range(calls // 30):
                assert (await a.dispatch(*WHO)).status == 200

        await asyncio.gather(*(some() for _ in range(30)))
        for work in works:
            assert abs(work.counts["Who"] / calls - 1 / 3) <= 0.05


async def test_with_hash_a_key_keeps_to_its_peer() -> None:
    async with fleet(a={"balance": "hash"}, b={}, c={}, d={}) as (a, b, c, d):
        for one in (b, c, d):
            serve(one)
            await a.connect_to(one.address)
        owners = {}
        for number in range(30):
            ran = {(await a.dispatch(*WHO, metadata={"x-hash-key": f"k{number}"})).output for _ in range(3)}
            assert len(ran) == 1
            owners[number] = ran.pop()
        assert set(owners.values()) == {"b", "c", "d"}
        await b.stop()
        await settled(a, "c", "d")
        for number, owner in owners.items():
            if owner != "b":
                assert (await a.dispatch(*WHO, metadata={"x-hash-key": f"k{number}"})).output == owner


async def test_only_peers_of_the_namespace_are_candidates() -> None:
    async with fleet(a={}, b={}, c={"namespaces": ["else"]}) as (a, b, c):
        serve(b)
        serve(c, namespace="else")
        await a.connect_to(b.address)
        await a.connect_to(c.address)
        assert routed(a) == {"b"}
        assert (await a.dispatch(*WHO, target="c")).status == 404

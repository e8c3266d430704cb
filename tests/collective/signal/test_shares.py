"""What a share does: at the collector whose origin it is, at its peers, behind them, and for whoever looks on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from grpc_health.v1 import health_pb2
from tests.collective.fleet import fleet, routed, until
from tests.collective.signal.kit import NAMESPACE, SERVICE, Behind, Valve, ask, asked

from dodici.collective import Breaker, Collector
from dodici.collective.names import MethodSpec, RouteKey
from dodici.collective.xds.members import Members
from dodici.core.errors import MeshTimeoutError

KEY = RouteKey(NAMESPACE, SERVICE, "Who")
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def join(*collectors: Collector) -> None:
    """Connect each to each."""
    for number, one in enumerate(collectors):
        for other in collectors[number + 1 :]:
            await one.connect_to(other.address)


def routes(by: Collector, method: str = "Who") -> set[str]:
    return routed(by, SERVICE, method)


# -- among peers -------------------------------------------------------------------------------------------


async def test_peers_have_applied_it_when_it_is_acknowledged() -> None:
    async with fleet(a={}, b={}, c={}) as (a, b, c):
        at_b, at_c = Behind(b, Valve()), Behind(c, Valve())
        await join(a, b, c)
        assert routes(a) == {"b", "c"}
        await at_b.valve.turn(0.0)
        assert routes(a) == routes(a, "Chat") == {"c"}
        assert await asked(a, 20) == {"c": 20}
        await at_c.valve.turn(0.0)
        result = await a.dispatch(NAMESPACE, SERVICE, "Who")
        assert (result.status, result.error.request_not_processed) == (503, True)  # type: ignore[union-attr]
        await at_b.valve.turn(0.5)
        assert await asked(a, 5) == {"b": 5}
        await asyncio.gather(at_b.valve.turn(1.0), at_c.valve.turn(1.0))
        assert routes(a) == {"b", "c"}


async def test_a_quarter_of_the_workers_weighs_a_quarter() -> None:
    async with fleet(a={"balance": "weighted"}, b={}, c={}) as (a, b, c):
        at_b = Behind(b, Valve())
        Behind(c, Valve())
        await join(a, b, c)
        a._routing.picker._slow_start = type(a._routing.picker._slow_start)(window=0.0)
        await at_b.valve.turn(0.25)
        assert await asked(a, 50) == {"b": 10, "c": 40}
        await at_b.valve.turn(1.0)
        # b's turn is still due when it was for a quarter: up to four turns later than now.
        assert await asked(a, 50) == pytest.approx({"b": 25, "c": 25}, abs=2)


@pytest.mark.parametrize("balance", ["p2c", "least_request", "hash"])
async def test_a_share_weighs_whatever_the_balance(balance: str) -> None:
    async with fleet(a={"balance": balance}, b={}, c={}) as (a, b, c):
        at_b = Behind(b, Valve(0.25))
        Behind(c, Valve())
        await join(a, b, c)
        group = a._table.group(KEY)
        assert group is not None
        weights = {each.peer: each.weight for each in group.tiers[0].candidates}
        assert weights == {"b": 0.25, "c": 1.0}
        await at_b.valve.turn(0.0)
        assert routes(a) == {"c"}


async def test_names_of_a_service_and_methods_that_are_its_own() -> None:
    """A short name has the share of the full one; a handler beside the origin has all of its own."""
    async with fleet(a={}, b={}) as (a, b):
        at_b = Behind(b, Valve(), "shop.v1.Orders")
        b._services._short.setdefault(NAMESPACE, {})["Orders"] = "shop.v1.Orders"
        b._services._changed()
        b.register_service(NAMESPACE, "shop.v1.Orders", "Apart", lambda context, given: "apart")
        await join(a, b)
        await at_b.valve.turn(0.0)
        assert routed(a, "Orders") == routed(a, "shop.v1.Orders") == set()
        assert await ask(a, "Apart", "shop.v1.Orders") == "apart"
        assert await ask(a, "Apart", "Orders") == "apart"


async def test_it_travels_through_collectors_in_between() -> None:
    async with fleet(a={"max_hops": 3}, b={}, c={}) as (a, b, c):
        at_c = Behind(c, Valve())
        await a.connect_to(b.address)
        await b.connect_to(c.address)
        await until(lambda: routes(a) == {"b"})
        await at_c.valve.turn(0.25)

        def weight() -> float | None:
            group = a._table.group(KEY)
            return group.tiers[0].candidates.get("b").weight if group and group.tiers else None  # type: ignore[union-attr]

        await until(lambda: weight() == 0.25)
        await at_c.valve.turn(0.0)
        # b knows; a may not yet, and its call is told so.
        result = await a.dispatch(NAMESPACE, SERVICE, "Who")
        assert (result.status, result.error.request_not_processed) == (503, True)  # type: ignore[union-attr]
        await until(lambda: weight() is None)
        await at_c.valve.turn(1.0)
        await until(lambda: weight() == 1.0)
        assert await ask(a) == "c"


async def test_one_that_accepts_nothing_is_the_way_to_one_that_does() -> None:
    async with fleet(a={}, b={}, c={}) as (a, b, c):
        at_b, at_c = Behind(b, Valve()), Behind(c, Valve())
        await a.connect_to(b.address)
        await b.connect_to(c.address)
        await until(lambda: len(a._table.group(KEY).ways.get("b", ())) == 2)  # type: ignore[union-attr]
        await at_b.valve.turn(0.0)
        assert await asked(a, 5) == {"c": 5}
        await at_c.valve.turn(0.0)
        result = await a.dispatch(NAMESPACE, SERVICE, "Who")
        assert (result.status, result.error.request_not_processed) == (503, True)  # type: ignore[union-attr]
        assert (at_b.served, at_c.served) == (0, 5)


# -- at home -----------------------------------------------------------------------------------------------


async def test_what_accepts_nothing_is_not_local_first() -> None:
    async with fleet(a={}, b={}) as (a, b):
        at_a, at_b = Behind(a, Valve()), Behind(b, Valve())
        await join(a, b)
        assert await asked(a, 5) == {"a": 5}
        turning = at_a.valve.turn(0.0)
        assert await asked(a, 5) == {"b": 5}  # at once, whatever the peers have acknowledged
        await turning
        await at_b.valve.turn(0.0)
        result = await a.dispatch(NAMESPACE, SERVICE, "Who")
        assert (result.status, result.error.request_not_processed) == (503, True)  # type: ignore[union-attr]
        await at_a.valve.turn(0.25)
        assert await asked(a, 5) == {"a": 5}


async def test_one_that_is_alone() -> None:
    async with fleet(a={}) as (a,):
        at_a = Behind(a, Valve(0.0))
        for result in (await a.dispatch(NAMESPACE, SERVICE, "Who"),):
            assert (result.status, result.error.request_not_processed) == (503, True)  # type: ignore[union-attr]
            assert "no healthy collector for shop/Orders.Who" in result.status.message
        assert at_a.served == 0
        at_a.valve.turn(1.0)
        assert await ask(a) == "a"


async def test_who_asks_for_this_collector_gets_its_own_answer() -> None:
    async with fleet(a={}, b={}) as (a, b):
        at_a = Behind(a, Valve())
        Behind(b, Valve())
        await join(a, b)
        await at_a.valve.turn(0.0)
        at_a.shut = True
        for result in (
            await a.dispatch(NAMESPACE, SERVICE, "Who", target="a"),
            await a.serve(NAMESPACE, SERVICE, "Who"),
        ):
            assert (result.status, result.status.message) == (503, "no target at a")


async def test_without_local_first_it_weighs_as_its_workers_do() -> None:
    async with fleet(a={"local_first": False, "balance": "weighted"}, b={}) as (a, b):
        at_a = Behind(a, Valve())
        Behind(b, Valve())
        await join(a, b)
        a._routing.picker._slow_start = type(a._routing.picker._slow_start)(window=0.0)
        for share, counts in ((0.25, {"a": 10, "b": 40}), (0.0, {"b": 50}), (1.0, {"a": 25, "b": 25})):
            await at_a.valve.turn(share)
            assert await asked(a, 50) == pytest.approx(counts, abs=3 if share else 0)


# -- calls that come late ----------------------------------------------------------------------------------


async def all_kinds(by: Collector) -> list[Any]:
    async def numbers() -> Any:
        for number in (1, 2, 3):
            yield number

    total = await by.dispatch_stream(NAMESPACE, SERVICE, "Total", numbers())
    chat = [each async for each in by.dispatch_stream(NAMESPACE, SERVICE, "Chat", numbers())]
    return [await ask(by), await ask(by, "Once"), total.output, chat]


async def test_what_its_own_origin_refuses_goes_to_a_peer() -> None:
    async with fleet(a={}, b={}) as (a, b):
        at_a = Behind(a, Valve())
        Behind(b, Valve())
        await join(a, b)
        at_a.shut = True
        assert await all_kinds(a) == ["b", "b", ["b", 6.0], ["b:1", "b:2", "b:3"]]
        assert at_a.served == 0
        assert a.stats().in_flight == 0


@pytest.mark.parametrize(("pieces", "served"), [(10, True), (30, False)])
async def test_of_a_long_stream_a_limited_part_is_kept(pieces: int, served: bool) -> None:
    """It is repeated while all of what was read of it is there: up to 1 MiB, and 16 MiB for all streams together."""

    async def long() -> Any:
        for _ in range(pieces):
            yield "x" * 50_000

    async with fleet(a={}, b={}) as (a, b):
        at_a, at_b = Behind(a, Valve()), Behind(b, Valve())
        await join(a, b)
        at_a.shut = True
        at_a.reads = True
        result = await a.dispatch_stream(NAMESPACE, SERVICE, "Chat", long())
        assert (result.status == 200, at_b.served) == (served, int(served))
        assert a._routing.room.left == 16 * 1024 * 1024
        a._routing.room.left = 100_000
        result = await a.dispatch_stream(NAMESPACE, SERVICE, "Chat", long())
        assert result.status == 503
        assert a._routing.room.left == 100_000


async def test_what_everybody_refuses_is_the_callers_to_know() -> None:
    async with fleet(a={}, b={}, c={}) as (a, b, c):
        behind = [Behind(each, Valve()) for each in (a, b, c)]
        await join(a, b, c)
        for each in behind:
            each.shut = True
        result = await a.dispatch(NAMESPACE, SERVICE, "Once")
        assert (result.status, result.error.request_not_processed) == (503, True)  # type: ignore[union-attr]
        assert result.status.message.startswith("no target at ")
        assert [each.served for each in behind] == [0, 0, 0]
        assert [each._routing.in_flight for each in (a, b, c)] == [0, 0, 0]


@pytest.mark.parametrize("large", [0, 200_000], ids=["on the link", "beside it"])
async def test_a_call_that_comes_late_is_served_by_another(large: int, monkeypatch: Any) -> None:
    """The peer refuses it, and neither counts that as a fault nor gives up for it."""
    async with fleet(a={"breaker": Breaker(failures=2)}, b={}, c={}) as (a, b, c):
        at_b = Behind(b, Valve())
        Behind(c, Valve())
        await a.connect_to(b.address)
        await a.connect_to(c.address)
        source = a._peers.get("b").source  # type: ignore[union-attr]
        apply = a._table.apply
        held: list[Any] = []
        monkeypatch.setattr(
            a._table, "apply", lambda to, news: held.append(news) if to is source else apply(to, news)
        )
        turning = at_b.valve.turn(0.0)
        results = await asyncio.gather(
            *(a.dispatch(NAMESPACE, SERVICE, "Once", "x" * large, timeout=5) for _ in range(40))
        )
        assert {(int(each.status), each.output) for each in results} == {(200, "c")}
        assert routes(a) == {"b", "c"}
        monkeypatch.undo()
        for news in held:
            a._table.apply(source, news)
        await turning
        assert routes(a) == {"c"}
        await at_b.valve.turn(1.0)
        assert a._routing.picker.stats()["b"].breakers == {NAMESPACE: "closed"}
        await until(lambda: routes(a) == {"b", "c"})
        assert set(await asked(a, 60)) == {"b", "c"}


async def test_many_that_refuse_late_do_not_exhaust_the_attempts() -> None:
    members: dict[str, Any] = {name: {} for name in "abcdef"}
    async with fleet(**members) as collectors:
        behind = {each.id: Behind(each, Valve()) for each in collectors}
        a, *others = collectors
        for other in others:
            await a.connect_to(other.address)
        for name in "abcde":
            behind[name].shut = True
            # Its peers hear of it when its next call is refused, and not before.
            behind[name].capacity.share = 0.0
        behind["a"].capacity.share = 1.0
        for _ in range(5):
            result = await a.dispatch(NAMESPACE, SERVICE, "Once")
            assert result.status == 503 or result.output == "f"
        for name in "bcde":
            await behind[name].valve.turn(0.5)
            await behind[name].valve.turn(0.0)
        assert await asked(a, 10, "Once") == {"f": 10}


async def test_what_was_lost_at_its_own_origin_is_repeated_only_if_that_is_safe() -> None:
    async with fleet(a={}, b={}) as (a, b):
        at_a = Behind(a, Valve())
        Behind(b, Valve())
        await join(a, b)
        at_a.lost = 1
        assert await ask(a, "Who") == "b"
        at_a.lost = 1
        result = await a.dispatch(NAMESPACE, SERVICE, "Once")
        assert (result.status, result.status.message) == (503, "lost at a")


# -- acknowledgements --------------------------------------------------------------------------------------


async def test_changes_wait_for_nothing_of_each_other(monkeypatch: Any) -> None:
    """Many changes at once, of several origins, are few announcements, and the last state counts."""
    async with fleet(a={}, b={}) as (a, b):
        services = [Behind(b, Valve(), f"Orders{number}") for number in range(5)]
        await join(a, b)
        applied = 0
        apply = a._table.apply

        def count(*arguments: Any) -> None:
            nonlocal applied
            applied += 1
            apply(*arguments)

        monkeypatch.setattr(a._table, "apply", count)
        changes = [each.valve.turn(share) for share in (0.0, 0.5, 1.0, 0.0) for each in services]
        await asyncio.gather(*changes)
        assert applied <= 4
        assert [routed(a, f"Orders{number}") for number in range(5)] == [set()] * 5


async def test_a_change_that_is_taken_back_is_acknowledged() -> None:
    async with fleet(a={}, b={}) as (a, b):
        at_b = Behind(b, Valve())
        await join(a, b)
        for _ in range(20):
            await asyncio.gather(at_b.valve.turn(0.0), at_b.valve.turn(1.0))
            assert routes(a) == {"b"}


async def test_the_silent_are_named_when_the_time_is_over(monkeypatch: Any) -> None:
    async with fleet(a={}, b={}, c={}) as (a, b, c):
        at_b = Behind(b, Valve())
        await join(a, b, c)
        session: Any = b._peers.get("a").session  # type: ignore[union-attr]
        monkeypatch.setattr(session, "_announcement", lambda: None)
        with pytest.raises(MeshTimeoutError) as caught:
            await at_b.valve.turn(0.0, timeout=0.2)
        assert caught.value.members == (("a", a.address, 0),)
        assert routes(c) == set()


async def test_a_peer_that_is_gone_is_not_waited_for() -> None:
    async with fleet(a={}, b={}, c={}) as (a, b, c):
        at_b = Behind(b, Valve())
        await join(a, b, c)
        session: Any = b._peers.get("a").session  # type: ignore[union-attr]
        session._announcement = lambda: None
        turning = at_b.valve.turn(0.0)
        await until(lambda: routes(c) == set())
        assert not turning.done()
        await a.stop()
        await turning


async def test_one_without_peers_waits_for_nothing() -> None:
    async with fleet(a={}) as (a,):
        at_a = Behind(a, Valve())
        turning = at_a.valve.turn(0.0)
        await asyncio.sleep(0)
        assert turning.done()
        await turning


async def test_a_peer_that_comes_later_learns_of_it_first() -> None:
    async with fleet(a={}, b={}) as (a, b):
        at_b = Behind(b, Valve(0.0))
        await a.connect_to(b.address)
        assert routes(a) == set()
        await at_b.valve.turn(1.0)
        assert routes(a) == {"b"}


async def test_watching_begins_and_ends() -> None:
    async with fleet(a={}) as (a,):
        at_a = Behind(a, Valve(0.5))
        assert (at_a.capacity.share, at_a.valve.watchers, at_a.valve.watched) == (
            0.5,
            1,
            ["http://orders.local"],
        )
        at_a.capacity.watch(at_a.valve)  # type: ignore[arg-type]
        assert at_a.valve.watchers == 1
        at_a.capacity.unwatch()
        at_a.capacity.unwatch()
        assert (at_a.capacity.share, at_a.valve.watchers) == (1.0, 0)


# -- whoever looks on --------------------------------------------------------------------------------------


async def test_health_of_a_service_and_of_its_namespace() -> None:
    async with fleet(a={}) as (a,):
        at_a = Behind(a, Valve())
        health = a._health
        names = ("", NAMESPACE, f"{NAMESPACE}/{SERVICE}")
        assert [health.status(name) for name in names] == [SERVING] * 3
        at_a.valve.turn(0.25)
        assert [health.status(name) for name in names] == [SERVING] * 3
        at_a.valve.turn(0.0)
        assert [health.status(name) for name in names] == [SERVING, NOT_SERVING, NOT_SERVING]
        a.register_service(NAMESPACE, "Other", "Do", lambda context, given: None)
        assert [health.status(name) for name in names] == [SERVING, SERVING, NOT_SERVING]
        at_a.valve.turn(1.0)
        assert [health.status(name) for name in names] == [SERVING] * 3


async def test_a_method_of_its_own_keeps_a_service_healthy() -> None:
    async with fleet(a={}) as (a,):
        at_a = Behind(a, Valve())
        a._services.add([MethodSpec(NAMESPACE, SERVICE, "Apart", lambda context, given: None)])
        at_a.valve.turn(0.0)
        assert a._health.status(f"{NAMESPACE}/{SERVICE}") == SERVING


async def test_endpoints_of_a_namespace() -> None:
    """An endpoint is one while any of its methods there accepts calls, and weighs as the one that accepts most."""
    async with fleet(a={}, b={}) as (a, b):
        at_a, at_b = Behind(a, Valve()), Behind(b, Valve())
        await join(a, b)
        members = Members(a._services, a._table, a._peers, lambda: a.address)
        told: list[int] = []
        members.on_change(lambda: told.append(1))

        def weights() -> dict[str, int]:
            return {each.address: each.weight for each in members.offers()[NAMESPACE].endpoints}

        await asyncio.gather(at_a.valve.turn(0.25), at_b.valve.turn(0.5))
        assert weights() == {a.address: 25, b.address: 50}
        assert told
        await at_a.valve.turn(0.0)
        await at_b.valve.turn(0.0)
        await until(lambda: weights() == {})
        a.register_service(NAMESPACE, "Other", "Do", lambda context, given: None)
        assert weights() == {a.address: 100}

"""Announcements: acknowledged, path-vector, and nothing in them trusted."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from tests.collective.fleet import fleet, routed, serve, settled, until

from dodici.collective import balance
from dodici.collective.announce import MOST_ROUTES, RouteTable, Source
from dodici.collective.names import CallKind, LocalServices, MethodSpec, RouteKey
from dodici.collective.protos import link_pb2 as pb
from dodici.core.errors import MeshTimeoutError

KEY = RouteKey("shop", "Work", "Who")


def table(own: str = "me", max_hops: int = 4) -> RouteTable:
    services = LocalServices(["shop"])
    services.add([MethodSpec("shop", "Own", "Do", print, CallKind.UNARY_STREAM, True)])
    return RouteTable(own, services, balance.Picker(), max_hops)


def peer(of: RouteTable, name: str) -> Source:
    source = Source(name, up=True)
    of.add(source)
    return source


def route(*path: str, key: RouteKey = KEY, **more: Any) -> pb.Route:
    fields = {"weight": 1.0, "idempotent": False, **more}
    return pb.Route(
        namespace=key.namespace, service=key.service, method=key.method, hops=len(path), path=path, **fields
    )


def announcement(*routes: pb.Route, **more: Any) -> pb.Announcement:
    return pb.Announcement(namespaces=["shop"], routes=routes, **more)


def chosen(of: RouteTable, key: RouteKey = KEY) -> list[tuple[int, set[str]]]:
    group = of.group(key)
    return [(tier.hops, {c.peer for c in tier.candidates}) for tier in group.tiers] if group else []


def told(by: RouteTable, to: Source) -> list[tuple[str, tuple[str, ...]]]:
    return sorted((r.service, tuple(r.path)) for r in by.export(to))


# -- the table -----------------------------------------------------------------------------------------------------


def test_the_nearest_are_a_tier_of_their_own() -> None:
    routes = table()
    routes.apply(peer(routes, "b"), announcement(route("x")))
    routes.apply(peer(routes, "c"), announcement(route()))
    routes.apply(peer(routes, "d"), announcement(route(), route("y")))
    assert chosen(routes) == [(1, {"c", "d"}), (2, {"b"})]


def test_who_drains_or_is_lost_is_not_chosen_and_the_route_is_known() -> None:
    routes = table()
    b, c = peer(routes, "b"), peer(routes, "c")
    routes.apply(b, announcement(route()))
    routes.apply(c, announcement(route()))
    routes.apply(b, announcement(route(), draining=True))
    assert chosen(routes) == [(1, {"c"})]
    routes.lost(c)
    assert chosen(routes) == []
    assert routes.announced(KEY)  # b has it still
    assert routes.remembers("c")
    routes.lost(b)
    assert not routes.announced(KEY)
    assert routes.remembers(KEY)


def test_a_weight_of_nothing_is_not_chosen() -> None:
    routes = table()
    routes.apply(peer(routes, "b"), announcement(route(weight=0.0)))
    assert chosen(routes) == []
    assert routes.announced(KEY)


def test_what_is_told_has_the_path_and_goes_to_nobody_on_it() -> None:
    routes = table()
    b, c, d = (peer(routes, name) for name in "bcd")
    routes.apply(b, announcement(route("x"), route("c", "y")))
    own = ("Own", ())
    assert told(routes, b) == [own]
    assert told(routes, c) == [own, ("Work", ("b", "x"))]
    assert told(routes, d) == [own, ("Work", ("b", "c", "y")), ("Work", ("b", "x"))]


def test_what_a_peer_reaches_by_itself_it_is_not_told() -> None:
    routes = table()
    b, c = peer(routes, "b"), peer(routes, "c")
    routes.apply(b, announcement(route("x")))
    routes.apply(c, announcement(route("x")))
    assert told(routes, b) == [("Own", ())]
    routes.apply(c, announcement())
    assert told(routes, c) == [("Own", ()), ("Work", ("b", "x"))]


def test_nothing_is_told_beyond_max_hops() -> None:
    routes = table(max_hops=2)
    b, c = peer(routes, "b"), peer(routes, "c")
    routes.apply(b, announcement(route("x"), route("y", "z")))
    assert told(routes, c) == [("Own", ())]
    assert chosen(routes) == [(2, {"b"})]


def test_only_offered_namespaces_are_told() -> None:
    routes = table()
    b = peer(routes, "b")
    b.offer = frozenset({"else"})
    assert told(routes, b) == []


@pytest.mark.parametrize(
    "bad",
    [
        route("me"),
        route("x", "me", "y"),
        route("x", "x"),
        route("b"),
        route(*map(str, range(40))),
        route(key=RouteKey("shop", "", "Who")),
        route(key=RouteKey("shop", "a/b", "Who")),
        route(key=RouteKey("shop", "Work", "\n")),
        route(kind=9),
    ],
    ids=["ends here", "passes here", "twice", "itself", "long", "empty", "slash", "control", "kind"],
)
def test_what_is_no_route_is_not_taken(bad: pb.Route) -> None:
    routes = table()
    b = peer(routes, "b")
    good = RouteKey("shop", "Good", "Do")
    routes.apply(b, announcement(bad, route(key=good)))
    assert list(b.routes) == [good]


@pytest.mark.parametrize(("weight", "taken"), [(-1.0, 0.0), (7.0, 1.0), (float("nan"), 0.0), (0.25, 0.25)])
def test_weights_are_cut_to_size(weight: float, taken: float) -> None:
    routes = table()
    b = peer(routes, "b")
    routes.apply(b, announcement(route(weight=weight)))
    assert b.routes[KEY][0].weight == taken


def test_routes_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_ROUTES == 50_000
    monkeypatch.setattr("dodici.collective.announce.MOST_ROUTES", 3)
    routes = table()
    b = peer(routes, "b")
    routes.apply(b, announcement(*(route(key=RouteKey("shop", "Work", f"M{n}")) for n in range(9))))
    assert len(b.routes) == 3


def test_what_is_remembered_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dodici.collective.announce._MOST_REMEMBERED", 5)
    routes = table()
    b = peer(routes, "b")
    routes.apply(b, announcement(*(route(key=RouteKey("shop", "Work", f"M{n}")) for n in range(9))))
    routes.lost(b)
    assert len(routes._lost) == 5


def test_asking_for_what_nobody_has_leaves_nothing_behind() -> None:
    routes = table()
    routes.apply(peer(routes, "b"), announcement(route()))
    for number in range(100):
        assert routes.group(RouteKey("shop", "Work", f"Nope{number}")) is None
        assert routes.kind_of(RouteKey(f"n{number}", "Work", "Who")) is None
    assert (len(routes._groups), len(routes._open)) == (0, 0)


def test_a_method_is_idempotent_if_all_who_serve_it_say_so() -> None:
    routes = table()
    routes.apply(peer(routes, "b"), announcement(route(idempotent=True)))
    group = routes.group(KEY)
    assert group is not None
    assert group.idempotent
    routes.apply(peer(routes, "c"), announcement(route(idempotent=False)))
    group = routes.group(KEY)
    assert group is not None
    assert not group.idempotent


# -- acknowledged ----------------------------------------------------------------------------------------------------


async def test_join_and_leave_return_when_peers_have_applied_them() -> None:
    async with fleet(a={"namespaces": ["shop", "more"]}, b={"namespaces": ["shop"]}) as (a, b):
        serve(b, namespace="more")
        await b.leave("more")
        await a.connect_to(b.address)
        assert routed(a, namespace="more") == set()
        await b.join("more")
        assert routed(a, namespace="more") == {"b"}
        await b.leave("more")
        assert routed(a, namespace="more") == set()


async def test_drain_returns_when_peers_choose_it_no_more_and_late_arrivals_are_served() -> None:
    async with fleet(a={}, b={}, c={}) as (a, b, c):
        work = serve(b)
        serve(c)
        await a.connect_to(b.address)
        await a.connect_to(c.address)
        held = asyncio.create_task(a.dispatch("shop", "Work", "Hold", target="b"))
        await until(lambda: work.running == 1)
        draining = asyncio.create_task(b.drain())
        await settled(a, "c")
        assert [x.state for x in a.connections if x.collector_id == "b"] == ["draining"]
        assert not draining.done()
        # Whoever insists, or does not know yet, is served.
        assert (await a.dispatch("shop", "Work", "Who", target="b")).output == "b"
        assert (await a.dispatch("shop", "Work", "Who")).output == "c"
        work.released.set()
        await draining
        assert (await held).output == "b"


async def test_drain_waits_for_what_passes_through() -> None:
    async with fleet(a={}, b={}, c={}) as (a, b, c):
        work = serve(c)
        await a.connect_to(b.address)
        await b.connect_to(c.address)
        await settled(a, "b")
        calls = [
            asyncio.create_task(a.dispatch("shop", "Work", "Hold")),
            asyncio.create_task(a.dispatch_stream("shop", "Work", "Chat", _until(work.released)).result()),
        ]
        await until(lambda: work.running == 1 and b._router.in_flight == 2)  # type: ignore[attr-defined]
        draining = asyncio.create_task(b.drain())
        await settled(a)
        assert not draining.done()
        assert (await a.dispatch("shop", "Work", "Who")).status == 503
        work.released.set()
        await draining
        assert [int((await call).status) for call in calls] == [200, 200]


async def _until(event: asyncio.Event) -> Any:
    yield "x"
    await event.wait()


async def test_the_silent_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fleet(a={"namespaces": ["shop", "more"]}, b={}, c={"namespaces": ["shop", "more"]}) as (
        a,
        b,
        c,
    ):
        serve(b, namespace="more")
        await a.connect_to(b.address)
        await c.connect_to(b.address)
        monkeypatch.setattr(type(b._peers).announce, "__kwdefaults__", {"draining": False, "timeout": 0.3})
        session = b._peers.get("a").session  # type: ignore[union-attr]
        # a is never told, and so never acknowledges.
        monkeypatch.setattr(session, "_announcement", lambda: None)
        began = time.monotonic()
        with pytest.raises(MeshTimeoutError, match=f"by a \\({a.address}\\)") as caught:
            await b.leave("more")
        assert 0.25 < time.monotonic() - began < 2.0
        assert caught.value.members == (("a", a.address, 0),)
        assert routed(c, namespace="more") == set()  # applied everywhere else


async def test_a_peer_that_goes_is_waited_for_no_longer() -> None:
    async with fleet(a={}, b={}) as (a, b):
        await a.connect_to(b.address)
        session: Any = b._peers.get("a").session  # type: ignore[union-attr]
        session._announcement = lambda: None
        joining = asyncio.create_task(b.join("more"))
        await asyncio.sleep(0)
        assert not joining.done()
        await a.stop()
        await asyncio.wait_for(joining, 2)


async def test_many_changes_are_told_as_few() -> None:
    async with fleet(a={}, b={}) as (a, b):
        await a.connect_to(b.address)
        applied = 0
        real = a._peers._table.apply

        def count(source: Any, news: Any) -> None:
            nonlocal applied
            applied += 1
            real(source, news)

        a._peers._table.apply = count  # type: ignore[method-assign]

        async def nothing(context: Any, given: Any) -> Any:
            return None

        for number in range(300):
            b.register_service("shop", "Many", f"M{number}", nothing)
        await until(lambda: len(a._peers.get("b").source.routes) == 300)  # type: ignore[union-attr]
        assert applied <= 3


KEYS = [RouteKey("shop", "Work", name) for name in ("Who", "See", "*")] + [RouteKey("bad/name", "S", "M")]
some_route = st.builds(
    lambda key, path, weight, idempotent: route(*path, key=key, weight=weight, idempotent=idempotent),
    st.sampled_from(KEYS),
    st.lists(st.sampled_from(["me", "c", "d", "e", "f"]), max_size=5),
    st.sampled_from([0.0, 0.5, 1.0, float("nan")]),
    st.booleans(),
)


@settings(max_examples=50, deadline=None)  # the pace of the machine is not what is tested
@given(st.lists(st.lists(some_route, max_size=6) | st.none(), max_size=6))
def test_what_was_read_before_means_the_same_as_what_is_read_anew(news: list[list[pb.Route] | None]) -> None:
    of = table()
    sources = [peer(of, "b"), peer(of, "x")]
    of.apply(sources[1], announcement(route(), route(key=KEYS[1])))
    for routes in news:
        if routes is None:  # the link was lost, and is back
            of.lost(sources[0])
            sources[0].up = True
            continue
        of.apply(sources[0], announcement(*routes))
        anew = table()
        fresh = [peer(anew, "b"), peer(anew, "x")]
        anew.apply(fresh[1], announcement(route(), route(key=KEYS[1])))
        anew.apply(fresh[0], announcement(*routes))
        assert sources[0].routes == fresh[0].routes
        assert dict(of.learned()) == dict(anew.learned())
        for key in KEYS:
            tiers = [
                [
                    (tier.hops, {each.peer: each.weight for each in tier.candidates})
                    for tier in (group.tiers if group else ())
                ]
                for group in (of.group(key), anew.group(key))
            ]
            assert tiers[0] == tiers[1]
        one, other = (sorted(str(each) for each in t.export(Source("y"))) for t in (of, anew))
        assert one == other

"""What a collector counts: calls once, failures by code and peer, rates, and that nothing grows without limit."""

from __future__ import annotations

import asyncio
import json

from tests.collective.kit import make

from dodici.collective import Collector
from dodici.collective.contracts import Call
from dodici.collective.data_plane import Channel
from dodici.collective.inspection import PATH, fitting
from dodici.collective.names import RouteKey
from dodici.collective.policies import Limits
from dodici.collective.stats import OTHERS, UNKNOWN, Figures, Passing, Tally, status_after
from dodici.collective.values import from_message
from dodici.core.grpc_status import GrpcStatus

KEY = RouteKey("ns", "Service", "Method")


class Clock:
    now = 100.5

    def __call__(self) -> float:
        return self.now


def figures(**options: object) -> Figures:
    return Figures("me", lambda key: key == KEY, known, **options)  # type: ignore[arg-type]


def known(key: RouteKey) -> RouteKey | None:
    if key.method.startswith("Any"):
        return key._replace(method="*")
    return key if key == KEY or key.method == "Known" else None


def call(key: RouteKey = KEY, **fields: object) -> Call:
    return Call(key, **fields)  # type: ignore[arg-type]


# -- counting ------------------------------------------------------------------------------------------------


def test_what_came_in_and_was_run_here_counts_once() -> None:
    seen = figures()
    one = call()
    seen.ended(one, "serve", GrpcStatus.OK, 0.1)
    assert seen.calls == 0
    seen.ended(one, "entry", GrpcStatus.OK, 0.1)
    assert (seen.calls, seen.failures) == (1, 0)
    seen.ended(call(from_collector="b"), "serve", GrpcStatus.INTERNAL, 0.1)
    assert (seen.calls, seen.failures) == (2, 1)
    assert seen.of_route(KEY) == (2, 1)


def test_role_of_what_passes() -> None:
    seen = figures()
    mine = call(from_collector="b")
    mine.handled_by = "me"
    seen.passed(mine, GrpcStatus.OK, 0.0)
    assert not seen.history  # whoever ran it has told
    seen.passed(call(), GrpcStatus.OK, 0.0)
    seen.passed(call(from_collector="b"), GrpcStatus.PERMISSION_DENIED, 0.0)
    other = call(RouteKey("ns", "Service", "Known"), from_collector="b")
    seen.passed(other, GrpcStatus.OK, 0.0)
    assert [record.role for record in seen.history] == ["entry", "serve", "forward"]


def test_failures_by_peer_and_code() -> None:
    seen = figures()
    for peer, status in (("b", GrpcStatus.OK), ("b", GrpcStatus.UNAVAILABLE), ("c", GrpcStatus.OK)):
        one = call()
        one.via = peer
        seen.ended(one, "entry", status, 0.001)
    assert seen.by_peer() == {"b": (2, 1), "c": (1, 0)}
    tally = seen.tallies["entry", KEY]
    assert (tally.calls, tally.failures) == (3, 1)
    assert tally.codes["b", GrpcStatus.UNAVAILABLE] == 1


def test_rate_is_of_the_last_ten_whole_seconds() -> None:
    clock = Clock()
    seen = figures(clock=clock)
    assert seen.rate() == 0.0
    for _ in range(30):
        seen.ended(call(), "entry", GrpcStatus.OK, 0.0)
    assert seen.rate() == 0.0  # this second is not over
    clock.now = 103.5
    assert seen.rate() == 10.0
    clock.now = 110.9
    assert seen.rate() == 3.0
    clock.now = 111.1
    assert seen.rate() == 0.0
    clock.now = 5000.0
    assert seen.rate() == 0.0


def test_names_that_nobody_has_are_counted_as_one() -> None:
    seen = figures()
    for number in range(100):
        seen.ended(call(RouteKey("ns", "Service", f"m{number}")), "entry", GrpcStatus.UNIMPLEMENTED, 0.0)
    seen.ended(call(RouteKey("ns", "Service", "Known")), "entry", GrpcStatus.OK, 0.0)
    assert set(seen.tallies) == {("entry", UNKNOWN), ("entry", RouteKey("ns", "Service", "Known"))}
    assert seen.tallies["entry", UNKNOWN].calls == 100


def test_names_that_a_wildcard_answers_to_are_counted_as_one() -> None:
    seen = figures()
    for number in range(100):
        seen.ended(call(RouteKey("ns", "Service", f"Any{number}")), "entry", GrpcStatus.OK, 0.0)
    assert set(seen.tallies) == {("entry", RouteKey("ns", "Service", "*"))}
    assert seen.of_route(RouteKey("ns", "Service", "*")) == (100, 0)


def test_methods_and_peers_are_bounded() -> None:
    seen = Figures("me", lambda key: True, lambda key: key)
    for number in range(6000):
        seen.ended(call(RouteKey("ns", "Service", f"m{number}")), "entry", GrpcStatus.OK, 0.0)
    assert len(seen.tallies) == 5001
    assert seen.tallies["entry", UNKNOWN].calls == 1000
    assert len(seen.history) == 1000
    tally = Tally()
    for number in range(300):
        tally.add(f"p{number}", GrpcStatus.OK, 0.0)
        tally.add(f"p{number}", GrpcStatus.INTERNAL, 0.0)
    assert tally.calls == 600
    assert tally.codes[OTHERS, GrpcStatus.OK] == 44
    assert tally.codes[OTHERS, GrpcStatus.INTERNAL] == 44
    assert tally.codes["p255", GrpcStatus.INTERNAL] == 1


def test_status_of_an_end() -> None:
    assert status_after(None) is GrpcStatus.OK
    assert status_after(asyncio.CancelledError()) is GrpcStatus.CANCELLED
    assert status_after(GeneratorExit()) is GrpcStatus.CANCELLED
    assert status_after(ValueError()) is GrpcStatus.INTERNAL
    seen = figures()
    with Passing(seen, call()):
        pass
    assert seen.history[0].status == 200


# -- of a collector ------------------------------------------------------------------------------------------


async def test_figures_of_a_collector() -> None:
    collector, servicer = make()
    assert collector.stats().state == "stopped"
    async with collector:
        stats = collector.stats()
        assert (stats.id, stats.address, stats.state) == ("kit-1", collector.address, "serving")
        assert (stats.in_flight, stats.calls, stats.failures) == (0, 0, 0)
        assert stats.namespaces == ("shop", "plain")
        assert stats.started > 1e9
        route = stats.routes["plain", "Echo", "Count"]  # type: ignore[index]
        assert (route.kind, route.local, route.hops, route.peers) == ("unary_stream", True, 0, ())
        held = asyncio.ensure_future(collector.dispatch("shop", "OrderService", "Hold", {"sku": "h"}))
        await servicer.note("h started").wait()
        assert collector.stats().in_flight == 1
        held.cancel()
        await asyncio.gather(held, return_exceptions=True)
        await collector.dispatch("plain", "Echo", "Say", "bug")
        await collector.serve("plain", "Echo", "Say", "fine")
        stats = collector.stats()
        assert (stats.in_flight, stats.calls, stats.failures) == (0, 3, 2)
        route = stats.routes[RouteKey("plain", "Echo", "Say")]
        assert (route.calls, route.failures) == (2, 1)
        await collector.drain()
        assert collector.stats().state == "draining"


async def test_figures_of_peers_and_routes() -> None:
    a = Collector("a", "127.0.0.1:0", namespaces=["plain"])
    b, _ = make()
    async with a, b:
        await a.connect_to(b.address)
        for given in ("x", "abort"):
            await a.dispatch("plain", "Echo", "Say", given)
        stats = a.stats()
        peer = stats.peers["kit-1"]
        assert (peer.id, peer.address, peer.state, peer.linked) == ("kit-1", b.address, "connected", True)
        assert (peer.calls, peer.failures, peer.in_flight, peer.ejected_for) == (2, 1, 0, 0.0)
        assert peer.namespaces == ("plain",)
        assert peer.breakers == {"plain": "closed"}
        assert 0 < peer.latency < 5
        route = stats.routes[RouteKey("plain", "Echo", "Say")]
        assert (route.local, route.hops, route.peers) == (False, 1, ("kit-1",))
        assert (route.calls, route.failures) == (2, 1)
        assert not any(key.namespace == "shop" for key in stats.routes)
        served = b.stats()
        assert (served.calls, served.failures) == (2, 1)
        assert served.routes[RouteKey("plain", "Echo", "Say")].calls == 2


async def test_refusals_are_counted() -> None:
    collector, servicer = make(limits=Limits(in_flight=1, queued=0))
    async with collector:
        held = asyncio.ensure_future(collector.dispatch("shop", "OrderService", "Hold", {"sku": "h"}))
        await servicer.note("h started").wait()
        assert (await collector.dispatch("plain", "Echo", "Say", 1)).status == 429
        held.cancel()
        await asyncio.gather(held, return_exceptions=True)
        collector.set_registry_validator(lambda *_: False)
        assert (await collector.dispatch("plain", "Echo", "Say", 1)).status == 404
        codes = collector._figures.tallies["entry", RouteKey("plain", "Echo", "Say")].codes
        assert codes == {("", GrpcStatus.RESOURCE_EXHAUSTED): 1, ("", GrpcStatus.NOT_FOUND): 1}


async def test_inspect_tells_the_same_over_the_wire() -> None:
    from google.protobuf.struct_pb2 import Struct

    collector, _ = make()
    async with collector:
        await collector.dispatch("plain", "Echo", "Say", "x")
        channel = Channel(collector.address)
        try:
            told = from_message(Struct.FromString(await channel.unary(PATH, b"", timeout=5)))
        finally:
            await channel.close()
        history = told.pop("history")
        expected = json.loads(json.dumps(collector.stats().as_dict()))
        assert told == expected
        assert [record["role"] for record in history] == ["serve", "entry"]
        assert history[0]["status"] == 200
        assert collector.stats().calls == 1  # to be asked is no call


async def test_inspect_tells_as_much_as_a_message_may_have() -> None:
    from google.protobuf.struct_pb2 import Struct

    async with Collector("a", "127.0.0.1:0", namespaces=["n"], limits=Limits(message=30_000)) as collector:
        for number in range(300):
            collector.register_service("n", "Service", f"M{number}", lambda context, given: given)
        for _ in range(60):
            await collector.dispatch("n", "Service", "M0")
        channel = Channel(collector.address)
        try:
            data = await channel.unary(PATH, b"", timeout=5)
        finally:
            await channel.close()
    told = from_message(Struct.FromString(data))
    assert 10_000 < len(data) <= 30_000
    assert len(told["routes"]) + told["routes_left_out"] == 300
    assert len(told["routes"]) > 10
    assert told["history"][-1]["started"] == collector.history[-1].started


def test_what_does_not_fit_at_all_is_told_without_routes() -> None:
    told = from_message(fitting({"id": "a", "routes": [{"n": "x" * 100}], "history": [{}]}, 20))
    assert told == {"id": "a", "routes": [], "history": [], "routes_left_out": 1}

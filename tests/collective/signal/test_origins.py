"""Origins of collectors in front of real meshes, on one loop: what begins and ends when, and who waits for whom."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.collective.fleet import collector, fleet, routed, until
from tests.collective.signal.kit import NAMESPACE, SERVICE, ask, asked

from dodici import Agent, MeshTimeoutError, interceptors, set_global_dispatcher
from dodici.collective import Breaker, Collector
from dodici.collective.names import LocalServices, RouteKey
from dodici.collective.origin.capacity import OriginCapacity
from dodici.mesh import Worker, WorkerInterceptor, current

ORIGIN = "http://orders.local"
KEY = RouteKey(NAMESPACE, SERVICE, "Who")


class Mesh:
    """A mesh of loop workers, each of which answers with the node's name and obeys `/Close` and `/Leave`."""

    def __init__(self, name: str, **options: Any) -> None:
        self.name = name
        self.interceptor = WorkerInterceptor(**options)
        self.agent = Agent().compose(self.interceptor)
        self.workers: list[Worker] = []
        self.served = 0

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.served += 1
        if scope["path"] == "/Close":
            await current().set_accepting(False)
        elif scope["path"] == "/Wait":
            while (await receive())["type"] != "http.disconnect":
                pass
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"application/json")],
            }
        )
        await send({"type": "http.response.body", "body": json.dumps(self.name).encode()})

    async def start(self, count: int = 1, name: str = "orders") -> Mesh:
        added = [Worker(self.app, kind="loop", lifespan="off") for _ in range(count)]
        await self.interceptor.route(name, added)
        self.workers += added
        return self

    def offer(self, by: Collector, service: str = SERVICE, **options: Any) -> None:
        by.register_origin(NAMESPACE, service, ORIGIN, dispatcher=self.agent, **options)


@contextlib.asynccontextmanager
async def meshes(*names: str, **options: Any) -> AsyncIterator[Any]:
    """Meshes by name, without workers."""
    made = [Mesh(name, **options) for name in names]
    try:
        yield made if len(made) > 1 else made[0]
    finally:
        for each in made:
            await each.interceptor.close(0.5)
            await each.agent.close()


def weight(by: Collector, of: str, service: str = SERVICE) -> float:
    """What a collector gives to a peer that serves it itself."""
    group = by._table.group(RouteKey(NAMESPACE, service, "Who"))
    nearest = [tier for tier in group.tiers if tier.hops == 1] if group else []
    return next((each.weight for tier in nearest for each in tier.candidates if each.peer == of), 0.0)


async def test_every_change_of_a_mesh_is_known_to_the_peers_when_it_returns() -> None:
    async with meshes("b") as mesh, fleet(a={}, b={}) as (a, b):
        await mesh.start(4)
        mesh.offer(b)
        await a.connect_to(b.address)
        hub, workers = mesh.interceptor, mesh.workers
        for change, arguments, share in (
            (hub.pause_worker, (workers[0],), 0.75),
            (hub.pause_worker, (workers[1],), 0.5),
            (hub.pause_worker, (workers[2],), 0.25),
            (hub.pause_worker, (workers[3],), 0.0),
            (hub.resume_worker, (workers[0],), 0.25),
            (hub.unroute, ("orders", workers[3]), 1 / 3),
            (hub.unroute, ("orders",), 0.0),
            (hub.route, ("orders", workers), 0.25),
            (hub.route, ("other", workers), 0.25),
        ):
            await change(*arguments)
            assert weight(a, "b") == pytest.approx(share)
        assert await ask(a) == "b"


async def test_a_name_without_workers_and_workers_that_come() -> None:
    async with meshes("b") as mesh, fleet(a={}, b={}) as (a, b):
        mesh.offer(b)
        await a.connect_to(b.address)
        result = await a.dispatch(NAMESPACE, SERVICE, "Who")
        assert (result.status, result.error.request_not_processed) == (503, True)  # type: ignore[union-attr]
        await mesh.start(1)
        assert await ask(a) == "b"


async def test_the_end_of_a_mesh() -> None:
    async with meshes("a", "b") as (mine, other), fleet(a={}, b={}) as (a, b):
        for mesh, by in ((mine, a), (other, b)):
            await mesh.start(2)
            mesh.offer(by)
        await a.connect_to(b.address)
        await other.interceptor.close(0)
        assert weight(a, "b") == 0.0
        assert await asked(b, 5) == {"a": 5}
        other.interceptor.restart()
        other.workers.clear()
        await other.start(1)
        assert weight(a, "b") == 1.0
        await other.agent.close()
        await until(lambda: weight(a, "b") == 0.0)
        assert await asked(b, 5) == {"a": 5}


async def test_services_of_one_route_and_one_that_is_taken_back() -> None:
    async with meshes("b") as mesh, fleet(a={}, b={}) as (a, b):
        await mesh.start(2)
        mesh.offer(b)
        mesh.offer(b, "Returns", methods=["Who"])
        await a.connect_to(b.address)
        await mesh.interceptor.pause_worker(mesh.workers[0])
        assert [weight(a, "b", each) for each in (SERVICE, "Returns")] == [0.5, 0.5]
        b.unregister_service(NAMESPACE, "Returns")
        await mesh.interceptor.pause_worker(mesh.workers[1])
        assert [weight(a, "b", each) for each in (SERVICE, "Returns")] == [0.0, 0.0]
        assert (await a.dispatch(NAMESPACE, "Returns", "Who")).status == 404
        mesh.offer(b, "Returns")  # registered anew, it begins with the share of now
        await until(lambda: routed(a, "Returns") == set())
        await mesh.interceptor.resume_worker(mesh.workers[1])
        assert [weight(a, "b", each) for each in (SERVICE, "Returns")] == [0.5, 0.5]


async def test_a_collector_that_starts_later_stops_and_starts_again() -> None:
    async with meshes("b") as mesh, fleet(a={}) as (a,):
        await mesh.start(2)
        await mesh.interceptor.pause_worker(mesh.workers[0])
        b = collector("b")
        mesh.offer(b)
        for share, change in ((0.5, mesh.interceptor.resume_worker), (1.0, mesh.interceptor.pause_worker)):
            async with b:
                await b.connect_to(a.address)
                await until(lambda: weight(a, "b") == share)  # noqa: B023
            await change(mesh.workers[0])  # nobody watches, and nobody is waited for
        assert not mesh.interceptor._client.watches.of("orders")


async def test_origins_of_which_nothing_is_known() -> None:
    async with fleet(a={}, b={}) as (a, b):
        b.register_origin(NAMESPACE, SERVICE, "http://127.0.0.1:9")
        await a.connect_to(b.address)
        assert weight(a, "b") == 1.0
        result = await a.dispatch(NAMESPACE, SERVICE, "Who")  # nobody listens there
        assert (result.status, result.error.request_not_processed) == (503, True)  # type: ignore[union-attr]


async def test_an_origin_that_cannot_be_reached_is_served_by_a_peer() -> None:
    async with meshes("b") as mesh, fleet(a={}, b={}) as (a, b):
        await mesh.start(1)
        mesh.offer(b)
        a.register_origin(NAMESPACE, SERVICE, "http://127.0.0.1:9")
        await a.connect_to(b.address)
        assert await ask(a) == "b"


async def test_whatever_is_composed_with_the_mesh() -> None:
    async with meshes("b") as mesh, fleet(a={}, b={}) as (a, b):
        await mesh.start(2)
        composed = mesh.agent.compose(interceptors.retry()).compose([interceptors.redirect()])
        b.register_origin(NAMESPACE, SERVICE, ORIGIN, dispatcher=composed)
        await a.connect_to(b.address)
        await mesh.interceptor.pause_worker(mesh.workers[0])
        assert weight(a, "b") == 0.5


async def test_the_global_dispatcher_is_watched() -> None:
    async with meshes("b") as mesh, fleet(a={}) as (a,):
        await mesh.start(2)
        set_global_dispatcher(mesh.agent)
        try:
            async with collector("b") as b:
                b.register_origin(NAMESPACE, SERVICE, ORIGIN)
                await a.connect_to(b.address)
                await mesh.interceptor.pause_worker(mesh.workers[0])
                assert weight(a, "b") == 0.5
                assert await ask(a) == "b"
        finally:
            set_global_dispatcher(None)


async def test_a_worker_that_closes_while_it_serves_a_call_of_the_collective() -> None:
    """The change waits for the peers, the peers for nothing: the call that makes it ends."""
    async with meshes("a", "b") as (mine, other), fleet(a={}, b={}) as (a, b):
        for mesh, by in ((mine, a), (other, b)):
            await mesh.start(1)
            mesh.offer(by)
        await a.connect_to(b.address)
        async with asyncio.timeout(5):
            assert await ask(a, "Close", target="b") == "b"
            assert weight(a, "b") == 0.0
            assert await ask(a, "Close") == "a"
        result = await b.dispatch(NAMESPACE, SERVICE, "Who")
        assert (result.status, result.error.request_not_processed) == (503, True)  # type: ignore[union-attr]


async def test_what_a_killed_worker_fails_is_not_held_against_its_collector() -> None:
    """Its other worker goes on: neither breaker nor ejection may close the way to it."""
    async with meshes("b") as mesh, fleet(a={"breaker": Breaker(failures=2)}, b={}) as (a, b):
        await mesh.start(2)
        mesh.offer(b)
        await a.connect_to(b.address)
        waiting = [asyncio.create_task(a.dispatch(NAMESPACE, SERVICE, "Wait")) for _ in range(20)]
        await until(lambda: mesh.served == 20)
        mesh.workers[0].kill()
        await until(lambda: sum(each.done() for each in waiting) == 10)
        assert {each.result().status.code for each in waiting if each.done()} == {503}
        assert await asked(a, 5) == {"b": 5}
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_drain_while_calls_run() -> None:
    """What runs is waited for, and what comes meanwhile goes elsewhere."""
    async with meshes("a", "b") as (mine, other), fleet(a={}, b={}) as (a, b):
        for mesh, by in ((mine, a), (other, b)):
            await mesh.start(1)
            mesh.offer(by)
        await a.connect_to(b.address)
        waiting = asyncio.create_task(a.dispatch(NAMESPACE, SERVICE, "Wait", target="b"))
        await until(lambda: other.served == 1)
        unrouting = asyncio.create_task(other.interceptor.unroute("orders"))
        await until(lambda: weight(a, "b") == 0.0)
        assert await asked(b, 5) == {"a": 5}
        assert not unrouting.done()
        waiting.cancel()
        await unrouting
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_a_peer_that_is_silent_is_named_to_whoever_made_the_change(monkeypatch: Any) -> None:
    async with meshes("b", propagation_timeout=0.5) as mesh, fleet(a={}, b={}) as (a, b):
        await mesh.start(1)
        mesh.offer(b)
        await a.connect_to(b.address)
        session: Any = b._peers.get("a").session  # type: ignore[union-attr]
        with monkeypatch.context() as patch:
            patch.setattr(session, "_announcement", lambda: None)
            with pytest.raises(MeshTimeoutError, match=r"within 0\.5 s by a ") as caught:
                await mesh.interceptor.pause_worker(mesh.workers[0])
            assert caught.value.members == (("a", a.address, 0),)
            # Its calls come all the same, and are refused unseen.
            result = await a.dispatch(NAMESPACE, SERVICE, "Who")
            assert (result.status, result.error.request_not_processed) == (503, True)  # type: ignore[union-attr]
            assert mesh.served == 0
        await mesh.interceptor.resume_worker(mesh.workers[0])
        assert await ask(a) == "b"


async def test_pausing_back_and_forth_under_calls_from_everywhere() -> None:
    """Every order of changes and calls: nothing fails as long as one worker anywhere accepts."""
    async with (
        meshes("a", "b", "c") as made,
        fleet(a={}, b={"local_first": False}, c={"local_first": False}) as collectors,
    ):
        for mesh, by in zip(made, collectors, strict=True):
            await mesh.start(2)
            mesh.offer(by)
        a, b, c = collectors
        await a.connect_to(b.address)
        await a.connect_to(c.address)
        await b.connect_to(c.address)
        over = False
        statuses: dict[str, int] = {}

        async def call(by: Collector) -> None:
            while not over:
                result = await by.dispatch(NAMESPACE, SERVICE, "Who")
                text = f"{int(result.status)} {result.status.message}"
                statuses[text] = statuses.get(text, 0) + 1
                await asyncio.sleep(0)

        calls = [asyncio.create_task(call(each)) for each in collectors for _ in range(3)]

        async def flip(mesh: Mesh) -> None:
            for _ in range(6):
                pauses = [mesh.interceptor.pause_worker(each) for each in mesh.workers]
                await asyncio.gather(*pauses)
                await asyncio.gather(*(mesh.interceptor.resume_worker(each) for each in mesh.workers))

        await asyncio.gather(*(flip(each) for each in made[:2]))
        over = True
        await asyncio.gather(*calls)
        assert list(statuses) == ["200 "]


@pytest.mark.parametrize("draining", [False, True])
def test_peers_that_were_told_of_the_drain_are_not_waited_for(draining: bool) -> None:
    class Silent:
        def publish(self) -> int:
            return 1

        def silent(self, version: int) -> tuple[tuple[str, str, int], ...]:
            return (("b", "127.0.0.1:1", 0),)

        async def acknowledged(self, version: int) -> None:
            raise AssertionError("not awaited")

    peers: Any = Silent()
    peers.draining = draining
    capacity = OriginCapacity(LocalServices(), peers, ORIGIN)
    waited = capacity._changed(0.0)
    assert (waited is None) is draining
    if waited is not None:
        waited.close()

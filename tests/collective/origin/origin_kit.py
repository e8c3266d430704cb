"""A collector with an origin, another one beside it, and the app that the origin is."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from tests.collective.fleet import until
from tests.collective.origin.origin_app import Shop

from dodici import Agent
from dodici.collective import Collector
from dodici.collective.names import RouteKey
from dodici.mesh import Worker, WorkerInterceptor

NS, SERVICE, ORIGIN = "shop", "Orders", "http://orders.local"


class Set(NamedTuple):
    """`near` has the origin, `far` reaches it over a hop."""

    near: Collector
    far: Collector
    shop: Any
    agent: Any
    mesh: WorkerInterceptor

    def by(self, where: str) -> Collector:
        return self.near if where == "near" else self.far


@contextlib.asynccontextmanager
async def reached(app: Any, kind: str = "loop") -> AsyncIterator[tuple[Any, WorkerInterceptor]]:
    """An agent that reaches the app as `ORIGIN`."""
    mesh = WorkerInterceptor()
    agent = Agent().compose(mesh)
    try:
        await mesh.route("orders", Worker(app, kind=kind))
        yield agent, mesh
    finally:
        await mesh.close(0.5)
        await agent.close()


@contextlib.asynccontextmanager
async def origin(
    app: Any = None, *, kind: str = "loop", near: Any = None, far: Any = None, **registered: Any
) -> AsyncIterator[Set]:
    """Both collectors, connected; `registered` are arguments of `register_origin`."""
    app = Shop() if app is None else app
    async with contextlib.AsyncExitStack() as stack:
        agent, mesh = await stack.enter_async_context(reached(app, kind))
        one = Collector("near", "127.0.0.1:0", **{"namespaces": [NS], **(near or {})})
        registered = {"dispatcher": agent, "http": False, **registered}
        service = registered.pop("service", SERVICE)
        one.register_origin(NS, service, ORIGIN, **registered)
        other = Collector("far", "127.0.0.1:0", **{"namespaces": [NS], **(far or {})})
        await stack.enter_async_context(one)
        await stack.enter_async_context(other)
        await other.connect_to(one.address)
        await until(lambda: told(other, service))
        yield Set(one, other, app, agent, mesh)


def told(collector: Collector, service: str) -> bool:
    """Whether a collector has been told of the service."""
    return any(key[:2] == (NS, service) for key in collector.stats().routes if isinstance(key, RouteKey))

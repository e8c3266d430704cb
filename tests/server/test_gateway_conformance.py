"""The contract of dispatch, end to end: a client, the gateway behind its HTTP server, the mesh, an app in a thread.

What a caller sees of an app through `dodici up` is what it would see of it directly, back pressure, disconnects and
aborts included.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import pytest_asyncio
from tests.server.server_kit import router, service

import dodici
from dodici.mesh import Worker, WorkerInterceptor
from dodici.server.address import Address
from dodici.server.config import GatewayConfig
from dodici.server.gateway import Gateway
from dodici.testing import FEATURES, DispatcherConformance, Target, conformance_app

pytest.importorskip("uvicorn")
pytest.importorskip("httptools")

# The HTTP server has no trailers and no 103 for HTTP/1.1, and adds a length where there is none.
MISSING = {"trailers", "informational", "bodiless-length"}


async def serve(started: Future[str], stop: Future[None]) -> None:
    from dodici.server.frontend import Frontend, open_sockets

    mesh = WorkerInterceptor()
    await mesh.route("app", Worker(conformance_app, kind="thread"))
    agent: Any = dodici.Agent().compose(mesh)
    gateway = Gateway(agent, router(service("app", path=("/",), request_timeout=300.0)))
    [(address, listener)] = open_sockets((Address("127.0.0.1", 0),), 128)
    frontend = Frontend(gateway, GatewayConfig(), 1.0)
    await frontend.start([listener])
    started.set_result(address.url)
    await asyncio.wrap_future(stop)
    await frontend.stop()
    await mesh.close(0.0)
    await agent.destroy()
    assert not gateway._running
    assert all(tally.running == 0 for tally in gateway.tallies.values())


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    started: Future[str] = Future()
    stop: Future[None] = Future()
    with ThreadPoolExecutor(1) as executor:
        running = executor.submit(lambda: asyncio.run(serve(started, stop)))
        running.add_done_callback(
            lambda done: started.done() or started.set_exception(RuntimeError(str(done)))
        )
        try:
            yield started.result(20)
        finally:
            stop.set_result(None)
            running.result(20)


class TestThroughTheGateway(DispatcherConformance):
    @pytest_asyncio.fixture
    async def target(self, origin: str) -> AsyncIterator[Target]:
        agent = dodici.Agent()
        yield Target(agent, origin, features=FEATURES - MISSING)
        async with asyncio.timeout(10):
            await agent.destroy()

"""The contract through the collective: an origin of the collector itself, and one hop away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest_asyncio
from tests.collective.fleet import fleet
from tests.collective.http.http_kit import ORIGIN, announced, register

from dodici import Agent
from dodici.collective.http.interceptor import CollectiveInterceptor
from dodici.mesh import Worker, WorkerInterceptor
from dodici.testing import ConformanceApp, DispatcherConformance, Target
from dodici.testing.app import BoardControl


class _ThroughTheCollective(DispatcherConformance):
    kind = "loop"
    hop = True

    def interceptors(self) -> list[Any]:
        return []

    @pytest_asyncio.fixture
    async def target(self) -> AsyncIterator[Target]:
        async with AsyncExitStack() as stack:
            mesh = WorkerInterceptor()
            app = ConformanceApp()
            async with asyncio.timeout(20):
                await mesh.route("api", Worker(app, kind=self.kind))  # type: ignore[arg-type]
            stack.push_async_callback(mesh.close, drain_timeout=0.1)
            agent = Agent().compose(mesh)
            stack.push_async_callback(agent.destroy)
            a, b = await stack.enter_async_context(fleet(a={}, b={}))
            register(b, "api", "http://api.local", agent)
            entry = b
            if self.hop:
                await a.connect_to(b.address)
                await announced(a, "b")
                entry = a
            dispatcher = Agent().compose(CollectiveInterceptor(entry), *self.interceptors())
            try:
                yield Target(dispatcher, ORIGIN, control=BoardControl(app.board))
            finally:
                async with asyncio.timeout(10):
                    await dispatcher.destroy()


class TestOneHop(_ThroughTheCollective):
    pass


class TestWithoutAHop(_ThroughTheCollective):
    hop = False

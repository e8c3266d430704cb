"""The contract of `dispatch()` through the mesh: to workers in a process, in a thread, and in the same loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import pytest_asyncio

from dodici import Agent
from dodici.mesh import Worker, WorkerInterceptor
from dodici.testing import ConformanceApp, DispatcherConformance, DispatcherControl, Target
from dodici.testing.app import BoardControl

ORIGIN = "http://api.local"


class _InThisProcess(DispatcherConformance):
    """Each test has a mesh and a worker of its own."""

    kind: Literal["thread", "loop"] = "loop"

    @pytest_asyncio.fixture
    async def target(self) -> AsyncIterator[Target]:
        interceptor = WorkerInterceptor()
        dispatcher: Any = Agent().compose(interceptor)
        app = ConformanceApp()
        async with asyncio.timeout(20):
            await interceptor.route("api", Worker(app, kind=self.kind))
        try:
            yield Target(dispatcher, ORIGIN, control=BoardControl(app.board))
        finally:
            async with asyncio.timeout(10):
                await dispatcher.destroy()
                await interceptor.close(drain_timeout=0.1)


class TestThread(_InThisProcess):
    kind = "thread"


class TestLoop(_InThisProcess):
    kind = "loop"


@pytest_asyncio.fixture(scope="class", loop_scope="class")
async def routed() -> AsyncIterator[WorkerInterceptor]:
    interceptor = WorkerInterceptor()
    worker = Worker("dodici.testing.app:conformance_app", cwd=str(Path(__file__).parents[2]))
    async with asyncio.timeout(20):
        await interceptor.route("api", worker)
    try:
        yield interceptor
    finally:
        async with asyncio.timeout(10):
            await interceptor.close(drain_timeout=0.1)


class TestProcess(DispatcherConformance):
    """One process serves all tests, whatever they have done to their dispatchers: starting one takes long."""

    loop_scope = "class"

    @pytest_asyncio.fixture(loop_scope="class")
    async def target(self, routed: WorkerInterceptor) -> AsyncIterator[Target]:
        dispatcher: Any = Agent().compose(routed)
        # The tests end the dispatcher that they test, and have to reach the app all the same.
        aside: Any = Agent().compose(routed)
        try:
            yield Target(dispatcher, ORIGIN, control=DispatcherControl(aside, ORIGIN))
        finally:
            async with asyncio.timeout(10):
                await dispatcher.destroy()
                await aside.destroy()


class TestWithHooks(DispatcherConformance):
    """Hooks stand between the mesh and the handler, and change none of the promises."""

    @pytest_asyncio.fixture
    async def target(self) -> AsyncIterator[Target]:
        def nothing(*_: Any) -> None:
            pass

        hooks: dict[str, Any] = dict.fromkeys(
            ("on_request", "allow_target", "on_response", "on_response_end", "on_error"), nothing
        )
        interceptor = WorkerInterceptor(**hooks)
        dispatcher = Agent().compose(interceptor)
        app = ConformanceApp()
        await interceptor.route("api", Worker(app, kind="loop"))
        try:
            yield Target(dispatcher, ORIGIN, control=BoardControl(app.board))
        finally:
            async with asyncio.timeout(10):
                await dispatcher.destroy()
                await interceptor.close(drain_timeout=0.1)

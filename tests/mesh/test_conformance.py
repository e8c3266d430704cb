"""The contract of `dispatch()` through the mesh: to workers in a process, in a thread, and in the same loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio

from dodici import Agent
from dodici.mesh import Worker, WorkerInterceptor
from dodici.testing import ConformanceApp, DispatcherConformance, DispatcherControl, Target
from dodici.testing.app import BoardControl

ORIGIN = "http://api.local"


class _ThroughTheMesh(DispatcherConformance):
    kind = ""

    def make(self, interceptor: WorkerInterceptor) -> Any:
        return Agent().compose(interceptor)

    @pytest_asyncio.fixture
    async def target(self) -> AsyncIterator[Target]:
        interceptor = WorkerInterceptor()
        dispatcher = self.make(interceptor)
        # The tests end the dispatcher that they test, and have to reach the app all the same.
        aside = Agent().compose(interceptor)
        if self.kind == "process":
            worker = Worker("dodici.testing.app:conformance_app", cwd=str(Path(__file__).parents[2]))
            control: Any = DispatcherControl(aside, ORIGIN)
        else:
            app = ConformanceApp()
            worker = Worker(app, kind=self.kind)
            control = BoardControl(app.board)
        async with asyncio.timeout(20):
            await interceptor.route("api", worker)
        try:
            yield Target(dispatcher, ORIGIN, control=control)
        finally:
            async with asyncio.timeout(10):
                await dispatcher.destroy()
                await aside.destroy()
                await interceptor.close(drain_timeout=0.1)


class TestProcess(_ThroughTheMesh):
    kind = "process"


class TestThread(_ThroughTheMesh):
    kind = "thread"


class TestLoop(_ThroughTheMesh):
    kind = "loop"


class TestWithHooks(_ThroughTheMesh):
    """Hooks stand between the mesh and the handler, and change none of the promises."""

    kind = "loop"

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

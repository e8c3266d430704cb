"""The contract over HTTP/1.1: every dispatcher of the pool layer against two servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from tests.peers.asgi import AsgiServer, UvicornServer

import dodici
from dodici.testing import FEATURES, DispatcherConformance, Target, conformance_app


@pytest.fixture(scope="module")
def uvicorn_origin() -> Iterator[str]:
    with UvicornServer(conformance_app) as server:
        yield server.origin


class _OverOurServer(DispatcherConformance):
    def make(self, origin: str) -> Any:
        raise NotImplementedError

    @pytest_asyncio.fixture
    async def target(self) -> AsyncIterator[Target]:
        async with AsgiServer(conformance_app) as server:
            dispatcher = self.make(server.origin)
            yield Target(dispatcher, server.origin)
            async with asyncio.timeout(10):
                await dispatcher.destroy()


class TestClient(_OverOurServer):
    def make(self, origin: str) -> Any:
        return dodici.Client(origin)


class TestPipeliningClient(_OverOurServer):
    def make(self, origin: str) -> Any:
        return dodici.Client(origin, pipelining=10)


class TestPool(_OverOurServer):
    def make(self, origin: str) -> Any:
        return dodici.Pool(origin)


class TestSmallPool(_OverOurServer):
    def make(self, origin: str) -> Any:
        return dodici.Pool(origin, connections=2)


class TestRoundRobinPool(_OverOurServer):
    def make(self, origin: str) -> Any:
        return dodici.RoundRobinPool(origin, connections=8)


class TestBalancedPool(_OverOurServer):
    def make(self, origin: str) -> Any:
        return dodici.BalancedPool([origin])


class TestComposedAgent(_OverOurServer):
    def make(self, origin: str) -> Any:
        return dodici.Agent().compose(lambda dispatch: lambda options, handler: dispatch(options, handler))


class TestAgentOverUvicorn(DispatcherConformance):
    @pytest_asyncio.fixture
    async def target(self, uvicorn_origin: str) -> AsyncIterator[Target]:
        dispatcher = dodici.Agent()
        yield Target(
            dispatcher,
            uvicorn_origin,
            features=FEATURES - {"trailers", "informational", "bodiless-length"},
        )
        async with asyncio.timeout(10):
            await dispatcher.destroy()

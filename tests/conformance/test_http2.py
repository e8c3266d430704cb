"""The contract over HTTP/2: every dispatcher of the pool layer, over TLS and with prior knowledge."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio
from tests.peers.h2_asgi import H2AsgiServer, h2_connect

import dodici
from dodici.interceptors import decompress, redirect, retry
from dodici.testing import DispatcherConformance, Target, conformance_app


class _OverTLS(DispatcherConformance):
    tls = True

    def make(self, origin: str, **options: Any) -> Any:
        raise NotImplementedError

    @pytest_asyncio.fixture
    async def target(self) -> AsyncIterator[Target]:
        async with H2AsgiServer(conformance_app, tls=self.tls) as server:
            options = {"connect": h2_connect()} if self.tls else {"use_h2c": True}
            dispatcher = self.make(server.origin, **options)
            yield Target(dispatcher, server.origin)
            async with asyncio.timeout(10):
                await dispatcher.destroy()


class _OverCleartext(_OverTLS):
    tls = False


class TestClient(_OverTLS):
    def make(self, origin: str, **options: Any) -> Any:
        return dodici.Client(origin, **options)


class TestH2CClient(_OverCleartext):
    def make(self, origin: str, **options: Any) -> Any:
        return dodici.H2CClient(origin)


class TestPool(_OverTLS):
    def make(self, origin: str, **options: Any) -> Any:
        return dodici.Pool(origin, **options)


class TestCleartextPool(_OverCleartext):
    def make(self, origin: str, **options: Any) -> Any:
        return dodici.Pool(origin, **options)


class TestSmallPool(_OverCleartext):
    def make(self, origin: str, **options: Any) -> Any:
        return dodici.Pool(origin, connections=2, max_concurrent_streams=2, **options)


class TestRoundRobinPool(_OverCleartext):
    def make(self, origin: str, **options: Any) -> Any:
        return dodici.RoundRobinPool(origin, connections=8, **options)


class TestBalancedPool(_OverTLS):
    def make(self, origin: str, **options: Any) -> Any:
        return dodici.BalancedPool([origin], **options)


class TestComposedAgent(_OverTLS):
    def make(self, origin: str, **options: Any) -> Any:
        return dodici.Agent(**options).compose(
            lambda dispatch: lambda options, handler: dispatch(options, handler),
            retry(max_retries=0, throw_on_error=False),
            redirect(),
            decompress(),
        )


class TestCleartextAgent(_OverCleartext):
    def make(self, origin: str, **options: Any) -> Any:
        return dodici.Agent(**options)

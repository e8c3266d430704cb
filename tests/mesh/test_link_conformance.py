"""The contract over one link: sockets and queues, the app in the same loop and in another thread's."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from tests.mesh.link_kit import link_pair, threaded_dispatcher

from dodici.testing import DispatcherConformance, Target, conformance_app

ORIGIN = "http://api.local"


class _SameLoop(DispatcherConformance):
    kind = "socket"

    @pytest_asyncio.fixture
    async def target(self) -> AsyncIterator[Target]:
        async with link_pair(conformance_app, self.kind) as pair:
            yield Target(pair.dispatcher, ORIGIN)
            await pair.dispatcher.destroy()


class _OtherThread(DispatcherConformance):
    kind = "socket"

    @pytest_asyncio.fixture
    async def target(self) -> AsyncIterator[Target]:
        async with threaded_dispatcher(conformance_app, self.kind) as dispatcher:
            yield Target(dispatcher, ORIGIN)
            await dispatcher.destroy()


class TestSocketInOneLoop(_SameLoop):
    pass


class TestQueueInOneLoop(_SameLoop):
    kind = "queue"


class TestSocketToAThread(_OtherThread):
    pass


class TestQueueToAThread(_OtherThread):
    kind = "queue"

"""What the tests of upgrades through the collective share: a way to an app, and senders that do not stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from tests.collective.http.http_kit import (
    ORIGIN,
    TIMEOUT,
    Node,
    at_rest,
    entrance,
)
from tests.mesh.test_link_websocket import Opening

import dodici
from dodici import Agent, WebSocketClosedError
from dodici.collective import Collector
from dodici.collective.http.interceptor import CollectiveInterceptor

URL = "ws://api.shop.collective/"
WAYS = pytest.mark.parametrize("hop", [True, False], ids=["hop", "here"])


class Path:
    """A dispatcher, the collectors on the way, and what is at its end."""

    def __init__(self, node: Node, entry: Collector, agent: Any) -> None:
        self.node = node
        self.entry = entry
        self.agent = agent

    @property
    def branch(self) -> Any:
        return self.agent._branches[0]

    @property
    def lasting(self) -> set[asyncio.Task[None]]:
        return self.branch._interceptor.lasting  # type: ignore[no-any-return]

    def open(self, path: str = "", **options: Any) -> Any:
        return dodici.websocket(URL + path, dispatcher=self.agent, **options)

    def begin(self, path: str = "/", **options: Any) -> Opening:
        opening = Opening()
        options = {"origin": ORIGIN, "path": path, "upgrade": "websocket", **options}
        self.agent.dispatch(options, opening)
        return opening

    async def rest(self) -> None:
        """Return when nothing is left of any call."""
        await at_rest(self.entry, self.node.collector)
        async with asyncio.timeout(TIMEOUT):
            while self.lasting or self.branch._tasks or self.node.collector._origins._lasting:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def path(app: Any, *, hop: bool = True) -> AsyncIterator[Path]:
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(Node("b", app))
        if hop:
            entry, agent = await stack.enter_async_context(entrance(node))
        else:
            entry, agent = node.collector, Agent().compose(CollectiveInterceptor(node.collector))
            stack.push_async_callback(agent.destroy)
        yield Path(node, entry, agent)


async def closed(ws: Any) -> WebSocketClosedError:
    """How receiving ends."""
    async with asyncio.timeout(TIMEOUT):
        with pytest.raises(WebSocketClosedError) as raised:
            while True:
                await ws.receive()
    return raised.value


async def flood(send: Any, progress: Any, size: int = 10_000) -> None:
    while True:
        await send(bytes(size))
        progress.sent += 1


async def at_a_standstill(progress: Any) -> None:
    async with asyncio.timeout(TIMEOUT):
        seen = -1
        while not progress.sent or progress.sent != seen:
            seen = progress.sent
            await asyncio.sleep(0.1)

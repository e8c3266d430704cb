"""Trying again at once, and again, leaves the loop to others: to those who connect anew, too."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from dodici import Agent, Dispatcher, DodiciError, GrpcChannel
from dodici.collective import CollectiveInterceptor, Collector
from dodici.mesh import WorkerInterceptor

NAMESPACE = "shop"
NOBODY = "http://nobody.local/"


async def _piped(agent: Dispatcher) -> Any:
    async with agent.pipeline(NOBODY) as duplex:
        return await duplex.response


async def _streamed(agent: Dispatcher) -> Any:
    async with agent.stream("GET", NOBODY) as response:
        return response


async def _messages(agent: Dispatcher) -> Any:
    call = GrpcChannel(agent, "http://nobody.local").unary_stream("/a.B/C", b"")
    return [each async for each in call]


REQUESTS: dict[str, Callable[[Dispatcher], Awaitable[Any]]] = {
    "plain": lambda agent: agent.request(NOBODY),
    "with options": lambda agent: agent.request(NOBODY, method="POST", body=b"x"),
    "stream": _streamed,
    "pipeline": _piped,
    "upgrade": lambda agent: agent.upgrade(NOBODY),
    "websocket": lambda agent: agent.websocket("ws://nobody.local/"),
    "grpc": lambda agent: GrpcChannel(agent, "http://nobody.local").unary_unary("/a.B/C", b""),
    "grpc stream": _messages,
    "collective": lambda agent: agent.request("http://Nobody.shop.collective/"),
}
CALLS: dict[str, Callable[[Collector], Awaitable[Any]]] = {
    "dispatch": lambda collector: collector.dispatch(NAMESPACE, "Nobody", "Call"),
    "serve": lambda collector: collector.serve(NAMESPACE, "Nobody", "Call"),
    "stream": lambda collector: collector.dispatch_stream(NAMESPACE, "Nobody", "Call").result(),
}


async def turns_during(attempt: Callable[[], Awaitable[Any]], times: int) -> int:
    """How often the loop turns while something fails so many times."""
    turned = 0

    async def other() -> None:
        nonlocal turned
        while True:
            turned += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    try:
        for _ in range(times):
            try:
                await attempt()
            except DodiciError:
                pass
    finally:
        task.cancel()
    return turned


@pytest.mark.parametrize("way", REQUESTS)
async def test_requests_that_fail_at_once(way: str) -> None:
    async with Collector("a", "127.0.0.1:0", namespaces=[NAMESPACE]) as collector:
        interceptors = [WorkerInterceptor(), CollectiveInterceptor(collector)]
        async with Agent().compose(*interceptors) as agent:
            assert await turns_during(lambda: REQUESTS[way](agent), 20) >= 20


@pytest.mark.parametrize("way", CALLS)
async def test_calls_that_fail_at_once(way: str) -> None:
    async with Collector("a", "127.0.0.1:0", namespaces=[NAMESPACE]) as collector:
        assert await turns_during(lambda: CALLS[way](collector), 20) >= 20


async def test_a_peer_that_is_back_is_found_by_who_never_pauses() -> None:
    async with Collector("a", "127.0.0.1:0", namespaces=[NAMESPACE]) as collector:
        first = Collector("b", "127.0.0.1:0", namespaces=[NAMESPACE])
        await first.start()
        address = first.address
        await collector.connect_to(address)
        await first.stop(0.0)
        assert (await collector.dispatch(NAMESPACE, "Echo", "Say", 1)).status.code != 200
        second = Collector("b", address, namespaces=[NAMESPACE])
        second.register_service(NAMESPACE, "Echo", "Say", lambda context, given: given)
        async with second, asyncio.timeout(20):
            while (result := await collector.dispatch(NAMESPACE, "Echo", "Say", 1)).status.code != 200:
                pass
            assert result.output == 1

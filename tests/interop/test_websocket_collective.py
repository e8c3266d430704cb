"""The tests of `test_websocket`, through the collective: one hop to the collector of an origin that is such a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from tests.interop.test_websocket import (
    handle,
    servers,
    test_a_server_that_aborts,
    test_asgi,
    test_asgi_refuses,
    test_back_pressure,
    test_close_codes,
    test_echo,
    test_fields,
    test_many_at_once,
    test_pings_of_the_server_are_answered_unasked,
    test_senders_in_several_tasks,
    test_too_long,
)
from websockets.asyncio.server import serve

import dodici
from dodici.collective import Collector
from dodici.collective.http.framing import HTTP
from dodici.collective.http.interceptor import CollectiveInterceptor
from dodici.collective.names import RouteKey
from dodici.testing import pattern

pytestmark = pytest.mark.interop

__all__ = [
    "servers",
    "test_a_server_that_aborts",
    "test_asgi",
    "test_asgi_refuses",
    "test_back_pressure",
    "test_close_codes",
    "test_echo",
    "test_fields",
    "test_many_at_once",
    "test_pings_of_the_server_are_answered_unasked",
    "test_senders_in_several_tasks",
    "test_too_long",
]

HOST = "api.shop.collective"


@asynccontextmanager
async def through_the_collective(origin: str, onward: Any) -> AsyncIterator[dodici.Dispatcher]:
    """A dispatcher of `HOST`, whose requests go over two collectors to an origin."""
    async with (
        Collector("a", "127.0.0.1:0", namespaces=["shop"]) as a,
        Collector("b", "127.0.0.1:0", namespaces=["shop"]) as b,
    ):
        b.register_origin("shop", "api", origin, dispatcher=onward)
        await a.connect_to(b.address)
        async with asyncio.timeout(10):
            while a._table.group(RouteKey("shop", "api", HTTP)) is None:
                await asyncio.sleep(0.005)
        made = dodici.Client(f"http://{HOST}").compose(CollectiveInterceptor(a))
        try:
            yield made
        finally:
            async with asyncio.timeout(10):
                await made.destroy()


@pytest.fixture
def server() -> str:
    return f"ws://{HOST}"


@pytest_asyncio.fixture
async def agent() -> AsyncIterator[Any]:
    async with (
        serve(handle, "127.0.0.1", 0, max_size=None, subprotocols=["b", "c"]) as running,  # type: ignore[list-item]
        dodici.Agent() as onward,
        through_the_collective(f"http://127.0.0.1:{running.sockets[0].getsockname()[1]}", onward) as made,
    ):
        yield made


@pytest_asyncio.fixture(params=["uvicorn-websockets", "uvicorn-tls", "hypercorn-h2", "hypercorn-h2c"])
async def client(request: pytest.FixtureRequest, servers: dict[str, str], ca: str) -> AsyncIterator[Any]:
    kind = request.param
    onward = (
        dodici.H2CClient(servers[kind])
        if kind == "hypercorn-h2c"
        else dodici.Client(servers[kind], allow_h2=kind == "hypercorn-h2", connect={"ca": ca})
    )
    try:
        async with through_the_collective(servers[kind], onward) as made:
            yield made
    finally:
        async with asyncio.timeout(10):
            await onward.destroy()


@pytest.mark.parametrize("compression", ["deflate", None])
async def test_4_mib(agent: Any, server: str, compression: Any) -> None:
    data = pattern(4 << 20)
    async with agent.websocket(
        f"{server}/fragments", subprotocols=["b"], max_message_size=None, compression=compression
    ) as ws:
        await ws.send(data)
        async with asyncio.timeout(30):
            assert await ws.receive() == data

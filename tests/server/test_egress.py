"""The app of a service that is elsewhere: nothing of an exchange is lost or added on its way through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from tests.server.server_kit import service

import dodici
from dodici import Agent
from dodici.mesh import Worker, WorkerInterceptor
from dodici.server.collector.egress import Egress
from dodici.server.config import GatewayConfig
from dodici.testing import FEATURES, ConformanceApp, DispatcherConformance, Target
from dodici.testing.app import BoardControl

pytest.importorskip("uvicorn")

ORIGIN = "http://stock.local"


def egress(agent: Any, **keys: Any) -> Worker:
    """The worker of a service whose requests are for `api`."""
    app = Egress(agent, replace(service("stock", **keys), app="http://api.local"), GatewayConfig())
    return Worker(app, kind="loop", lifespan="off", interface="asgi")


class TestThroughTheEgress(DispatcherConformance):
    @pytest_asyncio.fixture
    async def target(self) -> AsyncIterator[Target]:
        mesh = WorkerInterceptor()
        dispatcher, onward = Agent().compose(mesh), Agent().compose(mesh)
        app = ConformanceApp()
        await mesh.route("api", Worker(app, kind="loop"))
        await mesh.route("stock", egress(onward))
        try:
            yield Target(dispatcher, ORIGIN, features=FEATURES, control=BoardControl(app.board))
        finally:
            async with asyncio.timeout(10):
                await dispatcher.destroy()
                await mesh.close(drain_timeout=0.1)
                await onward.destroy()


@pytest_asyncio.fixture
async def passing() -> AsyncIterator[tuple[Any, list[dict[str, Any]]]]:
    """A dispatcher that reaches the egress, and the scopes that arrive beyond it, each with its first message."""
    arrived: list[dict[str, Any]] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            while (message := await receive())["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": message["text"]})
            return
        arrived.append({**scope, "first": await receive()})
        body = arrived[-1]["first"]["body"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-here", b"1")]})
        await send({"type": "http.response.body", "body": body})

    mesh = WorkerInterceptor()
    dispatcher = Agent().compose(mesh)
    await mesh.route("api", Worker(app, kind="loop", lifespan="off"))
    await mesh.route("stock", egress(dispatcher, request_timeout=5.0))
    try:
        yield dispatcher, arrived
    finally:
        async with asyncio.timeout(10):
            await mesh.close(drain_timeout=0.1)
            await dispatcher.destroy()


async def test_fields_pass_as_they_are(passing: tuple[Any, list[dict[str, Any]]]) -> None:
    dispatcher, arrived = passing
    response = await dispatcher.request(
        f"{ORIGIN}/a%20b?c=%64",
        method="POST",
        body=b"abc",
        headers={"x-forwarded-for": "10.0.0.1", "x-request-id": "7", "content-type": "text/x"},
    )
    assert (response.status_code, response.headers["x-here"], await response.bytes()) == (200, "1", b"abc")
    [scope] = arrived
    assert (scope["raw_path"], scope["query_string"]) == (b"/a%20b", b"c=%64")
    fields = dict(scope["headers"])
    assert fields[b"host"] == b"api.local"
    assert fields[b"x-forwarded-for"] == b"10.0.0.1"
    assert fields[b"x-request-id"] == b"7"
    assert not {b"x-forwarded-proto", b"x-forwarded-host", b"forwarded"} & fields.keys()


async def test_small_body_travels_with_its_head(passing: tuple[Any, list[dict[str, Any]]]) -> None:
    dispatcher, arrived = passing
    await (await dispatcher.request(f"{ORIGIN}/", method="POST", body=b"abc")).bytes()
    await (await dispatcher.request(f"{ORIGIN}/")).bytes()
    assert [scope["first"] for scope in arrived] == [
        {"type": "http.request", "body": b"abc", "more_body": False},
        {"type": "http.request", "body": b"", "more_body": False},
    ]


async def test_what_is_remembered_of_a_request_has_no_body(
    passing: tuple[Any, list[dict[str, Any]]],
) -> None:
    """Requests whose heads are alike, and which have a body or none."""
    dispatcher, _ = passing

    async def pieces() -> AsyncIterator[bytes]:
        yield b"streamed"

    for _ in range(2):
        for body, seen in ((None, b""), (pieces(), b"streamed"), (None, b"")):
            response = await dispatcher.request(f"{ORIGIN}/", method="QUERY", body=body)
            assert (response.status_code, await response.bytes()) == (200, seen)


async def test_exchange_begins_before_its_body(passing: tuple[Any, list[dict[str, Any]]]) -> None:
    dispatcher, arrived = passing
    async with dispatcher.pipeline(f"{ORIGIN}/", method="POST") as duplex:
        await duplex.write(b"first")
        response = await duplex.response
        assert await response.bytes() == b"first"
        await duplex.end()
    assert arrived[0]["first"]["more_body"]


async def test_websocket_where_the_other_end_can(passing: tuple[Any, list[dict[str, Any]]]) -> None:
    dispatcher, _ = passing
    async with dodici.websocket("ws://stock.local/", dispatcher=dispatcher) as socket:
        await socket.send("hello")
        assert await socket.receive() == "hello"

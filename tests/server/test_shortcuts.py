"""The gateway's way into the collective: taken while the service takes requests, and only then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from tests.server.server_kit import service

from dodici import Agent, DispatchOptions
from dodici.core.errors import NoTargetError
from dodici.mesh import Worker, WorkerInterceptor
from dodici.server.collector.shortcuts import Shortcuts
from dodici.testing import RecordingHandler

pytest.importorskip("uvicorn")

STOCK = "http://stock.local"


def named(name: bytes) -> Any:
    """An app that answers with its name and what it was sent."""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": name + body})

    return app


class Place:
    """A mesh with an egress and what stands for the collective, and the gateway's dispatcher."""

    def __init__(self) -> None:
        self.mesh = WorkerInterceptor()
        self.worker = Worker(named(b"mesh "), kind="loop", lifespan="off")
        self.seen: list[DispatchOptions] = []
        agent = Agent().compose(self.mesh, self._collective)
        self.shortcuts = Shortcuts(agent, ".local")
        self.front = agent.compose(self.shortcuts)

    def _collective(self, dispatch: Any) -> Any:
        def carry(options: DispatchOptions, handler: Any) -> bool:
            if options.origin is not None and options.origin.endswith(".collective"):
                self.seen.append(options)
                options = options.replace(origin=options.origin.replace(".test.collective", ".local").lower())
            return bool(dispatch(options, handler))

        return carry

    async def get(self, **options: Any) -> bytes:
        response = await self.front.request(f"{STOCK}/", **options)
        return await response.bytes()


def elsewhere(name: str, target: str) -> Any:
    return replace(service(name), app=f"http://{target}.test.collective")


@pytest_asyncio.fixture
async def place() -> AsyncIterator[Place]:
    made = Place()
    await made.mesh.route("stock", made.worker)
    await made.mesh.route("far", Worker(named(b"far "), kind="loop", lifespan="off"))
    await made.mesh.route("further", Worker(named(b"further "), kind="loop", lifespan="off"))
    made.shortcuts.follow([elsewhere("stock", "Far"), service("local")])
    try:
        yield made
    finally:
        async with asyncio.timeout(10):
            await made.mesh.close(drain_timeout=0.1)
            await made.front.destroy()


async def test_it_goes_past_the_mesh_with_all_that_it_has(place: Place) -> None:
    assert await place.get() == b"far "
    assert await place.get(method="POST", body=b"x" * 100_000) == b"far " + b"x" * 100_000

    async def pieces() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    assert await place.get(method="POST", body=pieces()) == b"far ab"
    assert {options.origin for options in place.seen} == {"http://Far.test.collective"}


async def test_a_pause_holds_from_its_acknowledgement_until_it_ends(place: Place) -> None:
    for _ in range(3):
        await place.mesh.pause_worker(place.worker)
        with pytest.raises(NoTargetError, match="paused"):
            await place.get()
        await place.mesh.resume_worker(place.worker)
        assert await place.get() == b"far "
    assert len(place.seen) == 3


async def test_it_follows_the_services(place: Place) -> None:
    place.shortcuts.follow([elsewhere("stock", "Further")])
    assert await place.get() == b"further "
    place.shortcuts.follow([service("stock")])
    assert await place.get() == b"mesh "
    await place.mesh.pause_worker(place.worker)
    place.shortcuts.follow([elsewhere("stock", "Far")])
    with pytest.raises(NoTargetError, match="paused"):
        await place.get()
    await place.mesh.resume_worker(place.worker)
    assert await place.get() == b"far "


async def test_a_service_without_a_worker_is_not_reached(place: Place) -> None:
    place.shortcuts.follow([elsewhere("none", "Far")])
    with pytest.raises(NoTargetError):
        await place.front.request("http://none.local/")
    await place.mesh.unroute("stock")
    place.shortcuts.follow([elsewhere("stock", "Far")])
    with pytest.raises(NoTargetError):
        await place.get()


async def test_options_that_come_again_are_turned_once(place: Place) -> None:
    options = DispatchOptions(origin=STOCK, path="/")
    for number in range(3):
        recorder = RecordingHandler()
        recorder.dispatch(place.front, options)
        await recorder.wait(5)
        assert recorder.body == b"far "
        assert place.seen[number] is place.seen[0]
    for _ in range(600):
        recorder = RecordingHandler()
        recorder.dispatch(place.front, DispatchOptions(origin=STOCK, path="/"))
        await recorder.wait(5)
        assert recorder.body == b"far "

"""Uploads that come late: what refuses them unseen has been sent no more than can be sent again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from tests.collective.http.http_kit import NAMESPACE, TIMEOUT, Node, announced, at_rest, entrance

from dodici import DispatchOptions, NoTargetError
from dodici.collective import Collector, router
from dodici.core.controller import refuse

MIB = 1024 * 1024
METHODS = {"Add": {"kind": "stream_unary", "path": "/"}}


async def measured(scope: Any, receive: Any, send: Any) -> None:
    """An app that says how much it was sent."""
    if scope["type"] != "http":
        return
    size = 0
    while (message := await receive())["type"] == "http.request":
        size += len(message["body"])
        if not message.get("more_body"):
            break
    head = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
    await send(head)
    await send({"type": "http.response.body", "body": json.dumps(size).encode()})


class Uploads:
    """What was sent, and an interceptor of origins that refuses the first request once its sender sends no more."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.sent = 0
        self.refused_at = 0
        self._tasks: set[asyncio.Task[bool]] = set()

    async def pieces(self) -> AsyncIterator[bytes]:
        for _ in range(0, self.size, 32 * 1024):
            self.sent += 32 * 1024
            yield bytes(32 * 1024)

    def __call__(self, dispatch: Any) -> Any:
        def refusing(options: DispatchOptions, handler: Any) -> bool:
            if self._tasks:
                return bool(dispatch(options, handler))
            self._tasks.add(asyncio.create_task(self._refuse(handler)))
            return True

        return refusing

    async def _refuse(self, handler: Any) -> bool:
        quiet = seen = 0
        while quiet < 10:
            quiet = quiet + 1 if self.sent == seen else 0
            seen = self.sent
            await asyncio.sleep(0.01)
        self.refused_at = self.sent
        return refuse(handler, NoTargetError("paused a moment ago"))


@asynccontextmanager
async def between(uploads: Uploads) -> AsyncIterator[tuple[Collector, Any]]:
    """An entrance to two nodes of whom either refuses the first request."""
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(Node(name, measured)) for name in ("b", "c")]
        for node in nodes:
            dispatcher = node.agent.compose(uploads)
            node.collector.register_origin(
                NAMESPACE, "late", "http://api.local", dispatcher=dispatcher, methods=METHODS
            )
        entry, agent = await stack.enter_async_context(entrance(*nodes))
        await announced(entry, "b", "c", service="late")
        yield entry, agent


async def test_a_large_upload_that_comes_late_goes_elsewhere() -> None:
    uploads = Uploads(3 * MIB)
    async with between(uploads) as (_, agent), asyncio.timeout(TIMEOUT):
        response = await agent.request(
            f"http://late.{NAMESPACE}.collective/", method="POST", body=uploads.pieces()
        )
        assert await response.json() == 3 * MIB
    assert uploads.refused_at < MIB // 2  # some of it in the buffers on the way


async def test_a_large_stream_of_a_method_goes_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    # A refusal takes longer on a machine that is busy.
    monkeypatch.setattr(router, "OF_ORIGINS", router.OF_ORIGINS._replace(seconds=1.0))
    uploads = Uploads(3 * MIB)

    async def values() -> AsyncIterator[str]:
        async for piece in uploads.pieces():
            yield "x" * (len(piece) - 3)  # with its quotes and its end of line

    async with between(uploads) as (entry, _), asyncio.timeout(TIMEOUT):
        result = await entry.dispatch_stream(NAMESPACE, "late", "Add", values()).result()
        assert (result.status.message, result.output) == ("", 3 * MIB)
    assert MIB <= uploads.refused_at < 2 * MIB


async def test_an_upload_that_is_read_is_not_held_back() -> None:
    """Where nothing may be kept, either: that it is read is told, and not waited for in vain."""
    uploads = Uploads(MIB)
    async with Node("b", measured) as b, entrance(b) as (entry, agent):
        entry._routing.room.left = 0
        async with asyncio.timeout(router.CARRIED.seconds - 1):
            url = "http://api.shop.collective/"
            response = await agent.request(url, method="POST", body=uploads.pieces())
            assert await response.json() == MIB


@pytest.mark.parametrize("path", ["/early", "/status/413"])
async def test_an_answer_before_the_end_of_the_upload_is_not_lost(path: str) -> None:
    """Nor is it held against who gave it, however much of the upload was on its way."""
    async with Node("b") as b, entrance(b) as (entry, agent), asyncio.timeout(TIMEOUT):
        for number in range(12):
            uploads = Uploads(number * 128 * 1024)
            response = await agent.request(
                f"http://api.shop.collective{path}", method="POST", body=uploads.pieces()
            )
            assert response.status_code == 413
            await response.bytes()
        await at_rest(entry, b.collector)
        assert entry.stats().peers["b"].failures == 0

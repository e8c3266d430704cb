"""WebSockets through the collective: what may wait, how long a message may be, and that nothing is left."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import Any

import pytest
from tests.collective.http.http_kit import (
    TIMEOUT,
)
from tests.collective.http.websocket_kit import WAYS, Path, at_a_standstill, closed, flood, path
from tests.mesh.test_link_websocket import Scripted

import dodici
from dodici import WebSocketClosedError
from dodici.collective.http.parts import HIGH_WATER


@WAYS
async def test_a_reader_that_stops_holds_up_the_app(hop: bool) -> None:
    app = Scripted()
    async with path(app, hop=hop) as way:
        ws = await way.open()
        await app.begun.wait()
        progress = SimpleNamespace(sent=0)
        flooding = asyncio.create_task(
            flood(lambda data: app.send({"type": "websocket.send", "bytes": data}), progress)
        )
        await at_a_standstill(progress)
        # Windows of the link and of the call, which grow with what it carries, and what may wait at each end.
        assert progress.sent * 10_000 < (16_000_000 if hop else 1_000_000)
        assert ws._channel._unread < 2 * HIGH_WATER
        for _ in range(progress.sent + 100):
            assert await ws.receive() == bytes(10_000)
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
        app.done.set()
        ws.abort()
        await way.rest()


@WAYS
async def test_an_app_that_stops_reading_holds_up_the_sender(hop: bool) -> None:
    app = Scripted()
    async with path(app, hop=hop) as way:
        ws = await way.open()
        await app.begun.wait()
        progress = SimpleNamespace(sent=0)
        flooding = asyncio.create_task(flood(ws.send, progress))
        await at_a_standstill(progress)
        assert progress.sent * 10_000 < (16_000_000 if hop else 1_000_000)
        assert ws._channel._out.waiting < 2 * HIGH_WATER
        for _ in range(progress.sent + 100):
            assert await app.receive() == {"type": "websocket.receive", "bytes": bytes(10_000)}
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
        ws.abort()
        app.done.set()
        await way.rest()


async def test_a_sender_that_is_held_up_can_be_cancelled_and_learns_of_the_end() -> None:
    app = Scripted()
    async with path(app) as way:
        ws = await way.open()
        await app.begun.wait()
        progress = SimpleNamespace(sent=0)
        flooding = asyncio.create_task(flood(ws.send, progress))
        await at_a_standstill(progress)
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
        sent = progress.sent
        waiting = asyncio.create_task(ws.send(b"never"))
        await asyncio.sleep(0)
        for _ in range(sent):
            assert await app.receive() == {"type": "websocket.receive", "bytes": bytes(10_000)}
        await waiting
        assert await app.receive() == {"type": "websocket.receive", "bytes": b"never"}
        flooding = asyncio.create_task(flood(ws.send, progress))
        await at_a_standstill(progress)
        ws.abort()
        with pytest.raises(WebSocketClosedError):
            await flooding
        app.done.set()
        await way.rest()


@pytest.mark.parametrize("size", [70_001, 10])
async def test_a_message_beyond_the_limit_is_answered_with_1009(size: int) -> None:
    app = Scripted()
    async with path(app) as way:
        ws = await way.open(max_message_size=size)
        await app.begun.wait()
        await app.send({"type": "websocket.send", "bytes": bytes(size)})
        assert len(await ws.receive()) == size
        await app.send({"type": "websocket.send", "bytes": bytes(size + 1)})
        assert (await closed(ws)).close_code == 1009
        assert (await app.receive())["code"] == 1009
        app.done.set()
        await way.rest()


async def test_the_app_takes_16_mib_and_no_more() -> None:
    app = Scripted()
    async with path(app) as way:
        ws = await way.open()
        await app.begun.wait()
        sending = asyncio.create_task(ws.send(bytes(16 << 20)))
        assert len((await app.receive())["bytes"]) == 16 << 20
        await sending
        sending = asyncio.create_task(ws.send(bytes((16 << 20) + 1)))
        assert (await app.receive())["code"] == 1009
        assert (await closed(ws)).close_code == 1009
        await asyncio.gather(sending, return_exceptions=True)
        app.done.set()
        await way.rest()


@pytest.mark.parametrize("seed", [1, 2])
async def test_websockets_that_end_at_any_moment_leave_nothing(seed: int) -> None:
    chance = random.Random(seed)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
        way = chance.randrange(6)
        if way == 0:
            return
        await send({"type": "websocket.accept"})
        if way == 1:
            raise ValueError("no")
        try:
            for _ in range(chance.randrange(20)):
                await send({"type": "websocket.send", "bytes": bytes(chance.randrange(50_000))})
            if way == 2:
                await send({"type": "websocket.close", "code": 4000})
        except OSError:
            return
        while (await receive())["type"] == "websocket.receive":
            pass

    async def talk(way: Path) -> None:
        patience = chance.choice((0.001, 0.01, 0.1, 0.4))
        try:
            async with asyncio.timeout(patience):
                ws = await way.open()
        except (TimeoutError, dodici.DodiciError):
            return
        try:
            async with asyncio.timeout(patience):
                for _ in range(chance.randrange(20)):
                    if chance.random() < 0.5:
                        await ws.send(bytes(chance.randrange(50_000)))
                    else:
                        await ws.receive()
        except (TimeoutError, WebSocketClosedError):
            pass
        if chance.random() < 0.5:
            ws.abort()
        else:
            await ws.close()

    async with path(app) as way:
        async with asyncio.timeout(TIMEOUT):
            await asyncio.gather(*(talk(way) for _ in range(40)))
        await way.rest()

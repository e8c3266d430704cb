"""Pings: asked for, and those that see whether anybody is there."""

from __future__ import annotations

import asyncio

import pytest
from tests.peers.kit import now, virtual
from tests.unit.websocket_kit import BINARY, CLOSE, PING, PONG, channel, close, frame, make, text

from dodici import WebSocketClosedError
from dodici.api._websocket_frames import HIGH_WATER


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@virtual
async def test_ping() -> None:
    ws, transport = make()
    first, second, third = (asyncio.create_task(ws.ping()) for _ in range(3))
    await turns()
    sent = transport.frames()
    assert [each.opcode for each in sent] == [PING] * 3
    assert len({each.data for each in sent}) == 3
    transport.feed(frame(PONG, b"unknown"))
    await asyncio.sleep(2)
    transport.feed(frame(PONG, sent[1].data))
    assert [await first, await second] == pytest.approx([2, 2], abs=0.01)
    await turns()
    assert not third.done()
    transport.feed(close())
    with pytest.raises(WebSocketClosedError):
        await third
    with pytest.raises(WebSocketClosedError):
        await ws.ping()
    ws.abort()
    await turns()


async def test_a_cancelled_ping_is_forgotten() -> None:
    async with channel() as (ws, transport):
        task = asyncio.create_task(ws.ping())
        await turns()
        task.cancel()
        await asyncio.wait([task])
        assert not ws._channel._pings  # type: ignore[attr-defined]
        transport.feed(frame(PONG, transport.frames()[0].data))
        assert ws.close_code is None


@virtual
async def test_keepalive() -> None:
    ws, transport = make(ping_interval=20, ping_timeout=15)
    began = now()
    for number in range(1, 6):
        await asyncio.sleep(began + 20 * number - 0.1 - now())
        assert transport.frames() == []
        await asyncio.sleep(0.2)
        (ping,) = transport.frames()
        assert ping.opcode == PING
        await asyncio.sleep(5)
        transport.feed(frame(PONG, ping.data) if number % 2 else text("that counts, too"))
    assert ws.close_code is None
    ws.abort()
    await turns()


@virtual
async def test_a_peer_that_is_dead() -> None:
    ws, transport = make(ping_interval=20, ping_timeout=5, close_timeout=3)
    began = now()
    with pytest.raises(WebSocketClosedError, match="failed: 1011 keepalive ping timeout") as caught:
        await ws.receive()
    assert now() - began == pytest.approx(25, abs=0.1)
    assert caught.value.close_code == 1011
    assert [each.opcode for each in transport.frames()] == [PING, CLOSE]
    await asyncio.sleep(3.1)
    assert transport.aborted


@virtual
async def test_nobody_is_dead_while_messages_wait() -> None:
    ws, transport = make(ping_interval=20, ping_timeout=5)
    transport.feed(frame(BINARY, bytes(HIGH_WATER)))
    await asyncio.sleep(1000)
    assert ws.close_code is None
    transport.frames()
    await ws.receive()
    await asyncio.sleep(4.9)
    assert ws.close_code is None
    await asyncio.sleep(30)
    assert ws.close_code == 1011


@virtual
async def test_keepalive_without_a_timeout() -> None:
    ws, transport = make(ping_interval=20, ping_timeout=None)
    await asyncio.sleep(101)
    assert [each.opcode for each in transport.frames()] == [PING] * 5
    transport.protocol.pause_writing()
    await asyncio.sleep(100)
    assert transport.frames() == []
    assert ws.close_code is None
    ws.abort()
    await turns()

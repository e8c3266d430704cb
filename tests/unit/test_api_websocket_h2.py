"""A WebSocket on a stream of HTTP/2 (RFC 8441): how it begins and ends beside everything else on the connection."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.peers.h2_kit import CANCEL, CONNECT_PROTOCOL, DATA, RST_STREAM, H2Peer, h2_script
from tests.peers.kit import fetch
from tests.unit.websocket_kit import BINARY, CLOSE, PONG, close, frame, parse, text

from dodici import H2CClient, NotSupportedError, WebSocketClosedError, WebSocketError
from dodici.testing import ScriptedPeer

OFFERED = {CONNECT_PROTOCOL: 1}


async def opened(peer: H2Peer, **fields: str) -> int:
    """Accept the next WebSocket; its stream."""
    request = await peer.request()
    assert request.fields[":protocol"] == "websocket"
    assert "sec-websocket-key" not in request.fields
    assert not request.ends
    await peer.head(request.stream, **fields)
    return request.stream


async def frames(peer: H2Peer, stream: int, count: int) -> Any:
    """So many frames of the client's."""
    data = b""
    while len(parse(data)[0]) < count:
        data += (await peer.next(DATA, stream=stream)).payload
    return parse(data)[0]


async def test_the_server_closes_first() -> None:
    async def play(peer: H2Peer) -> None:
        stream = await opened(peer)
        await peer.data(stream, text("hi") + close(4001, b"bye"), end=True)
        (got,), _ = parse(await peer.body(stream))
        assert (got.opcode, got.data) == (CLOSE, (4001).to_bytes(2) + b"bye")
        await peer.serve()
        assert peer.count(RST_STREAM) == 0

    async with ScriptedPeer(h2_script(play, OFFERED)) as peer, H2CClient(peer.origin) as client:
        async with client.websocket("/") as ws:
            assert await ws.receive() == "hi"
            with pytest.raises(WebSocketClosedError) as caught:
                await ws.receive()
            assert (caught.value.close_code, caught.value.close_reason) == (4001, "bye")
        assert (await fetch(client)).body == b"ok"
        assert len(peer.connections) == 1


async def test_the_client_closes_first() -> None:
    async def play(peer: H2Peer) -> None:
        for orderly in (True, False):
            stream = await opened(peer)
            await frames(peer, stream, 1)
            await peer.data(stream, close(), end=orderly)
            if orderly:
                assert (await peer.next(DATA, stream=stream)).ends
            else:
                assert (await peer.next(RST_STREAM, stream=stream)).number == CANCEL
        await peer.serve()
        assert peer.count(RST_STREAM) == 1

    async with ScriptedPeer(h2_script(play, OFFERED)) as peer, H2CClient(peer.origin) as client:
        for _ in range(2):
            async with client.websocket("/") as ws:
                pass
            assert ws.close_code == 1000
        assert (await fetch(client)).body == b"ok"
        assert len(peer.connections) == 1
        assert client.stats.size == 0


async def test_a_stream_that_is_reset_or_ends() -> None:
    async def play(peer: H2Peer) -> None:
        await peer.reset(await opened(peer), CANCEL)
        await peer.data(await opened(peer), frame(BINARY, b"cut")[:3], end=True)
        await peer.serve()

    async with ScriptedPeer(h2_script(play, OFFERED)) as peer, H2CClient(peer.origin) as client:
        for _ in range(2):
            async with client.websocket("/") as ws:
                with pytest.raises(WebSocketClosedError) as caught:
                    await ws.receive()
                assert caught.value.close_code == 1006
        assert (await fetch(client)).body == b"ok"


async def test_back_pressure_is_the_stream_s() -> None:
    done = asyncio.Event()
    piece = frame(BINARY, bytes(16_000))

    async def play(peer: H2Peer) -> None:
        stream = await opened(peer)
        for _ in range(10):
            await peer.data(stream, piece)
        other = await peer.request()
        await peer.respond(other.stream)
        await done.wait()
        await peer.data(stream, close(), end=True)
        await peer.serve()

    async with ScriptedPeer(h2_script(play, OFFERED)) as peer, H2CClient(peer.origin) as client:
        async with client.websocket("/") as ws:
            assert len(await ws.receive()) == 16_000
            assert (await fetch(client)).body == b"ok"
            assert ws._channel._unread < 100_000  # type: ignore[attr-defined]
            done.set()
            assert [len(message) async for message in ws] == [16_000] * 9


async def test_pings() -> None:
    async def play(peer: H2Peer) -> None:
        stream = await opened(peer)
        ((_, payload, _, _),) = await frames(peer, stream, 1)
        await peer.data(stream, frame(PONG, payload) + close(), end=True)
        await peer.serve()

    async with ScriptedPeer(h2_script(play, OFFERED)) as peer, H2CClient(peer.origin) as client:
        async with client.websocket("/") as ws:
            assert await ws.ping() > 0


async def test_refused() -> None:
    async def play(peer: H2Peer) -> None:
        await peer.respond((await peer.request()).stream, b"not here", 404)
        await opened(peer, **{"sec-websocket-protocol": "other"})
        await peer.serve()

    async with ScriptedPeer(h2_script(play, OFFERED)) as peer, H2CClient(peer.origin) as client:
        with pytest.raises(WebSocketError, match="404") as caught:
            await client.websocket("/")
        assert (caught.value.status_code, caught.value.body) == (404, "not here")
        with pytest.raises(WebSocketError, match="'other'"):
            await client.websocket("/")
        assert (await fetch(client)).body == b"ok"
        assert len(peer.connections) == 1


async def test_not_offered() -> None:
    async def play(peer: H2Peer) -> None:
        await peer.serve()

    async with ScriptedPeer(h2_script(play)) as peer, H2CClient(peer.origin) as client:
        with pytest.raises(NotSupportedError, match="RFC 8441"):
            await client.websocket("/")

"""HTTP/2 connections that are hardly made before they end, and those that are not kept: no request pays for it.

With TLS a server's first frames may come in the same read as the end of the handshake, and so before whoever asked
for the connection has it. A `connect=` that returns late makes that certain.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from tests.peers.h2_kit import SETTINGS, H2Peer, h2_script, h2c_pool, serving
from tests.peers.kit import fetch, send

from dodici import Connector, SocketError
from dodici.testing import PeerConnection, RecordingHandler, ScriptedPeer, pattern

SIZE = 40_000


def late(seen: asyncio.Event) -> Callable[..., Coroutine[Any, Any, Any]]:
    """Connects, and returns when the peer says that its first frames were taken in."""
    connector = Connector()

    async def connect(target: Any, make: Any) -> Any:
        made = await connector(target, make)
        await seen.wait()
        return made

    return connect


async def leaving(peer: H2Peer) -> None:
    """Say GOAWAY to a connection that was just accepted."""
    await peer.goaway(0)
    await peer.rest()


async def test_settings_that_come_early_do_not_end_a_connection_that_is_not_kept() -> None:
    seen = asyncio.Event()

    async def play(peer: H2Peer) -> None:
        try:
            for _ in range(2):
                await peer.next(SETTINGS)  # the client's own, and that it has taken ours
        finally:
            seen.set()
        await peer.serve()

    async with ScriptedPeer(h2_script(play)) as peer:
        async with h2c_pool(peer.origin, keep_alive_timeout=0, connect=late(seen)) as pool:
            recorder = await fetch(pool)
            assert recorder.error is None, recorder.summary()
            assert recorder.body == b"ok"
            assert len(peer.connections) == 1
            assert pool.stats.size == 0


async def test_a_connection_that_is_given_up_before_its_use_is_made_again() -> None:
    seen = asyncio.Event()

    async def play(peer: H2Peer) -> None:
        await leaving(peer)
        seen.set()

    async with ScriptedPeer([h2_script(play), serving()]) as peer:
        async with h2c_pool(peer.origin, connections=1, connect=late(seen)) as pool:
            recorders = [send(pool, f"/{number}") for number in range(5)]
            for recorder in recorders:
                await recorder.wait()
                assert recorder.error is None, recorder.summary()
                assert recorder.body == b"ok"
            assert len(peer.connections) == 2
            assert pool.stats.size == 0


async def test_a_server_that_gives_up_every_connection_is_not_asked_for_ever() -> None:
    seen = asyncio.Event()

    async def script(connection: PeerConnection) -> None:
        seen.clear()
        await h2_script(leaving)(connection)
        seen.set()

    async with ScriptedPeer(script) as peer:
        async with h2c_pool(peer.origin, connections=1, connect=late(seen)) as pool:
            recorders = [send(pool, f"/{number}") for number in range(5)]
            for recorder in recorders:
                await recorder.wait()
                assert isinstance(recorder.error, SocketError)
                assert recorder.error.request_not_processed
            assert len(peer.connections) == 2
            assert pool.stats.size == 0


@pytest.mark.parametrize("options", [{"keep_alive_timeout": 0}, {"max_requests_per_client": 2}])
async def test_a_response_that_is_held_outlives_a_connection_that_is_not_kept(options: Any) -> None:
    closed = asyncio.Event()

    async def play(peer: H2Peer) -> None:
        held, other = await peer.requests(2)
        await peer.head(held.stream)
        await peer.data(held.stream, pattern(SIZE), end=True)
        await peer.respond(other.stream)
        assert await peer.next_request() is None
        closed.set()

    async with ScriptedPeer(h2_script(play)) as peer, h2c_pool(peer.origin, connections=1, **options) as pool:
        recorder = RecordingHandler(
            on_response_data=lambda controller, _: None if closed.is_set() else controller.pause()
        )
        send(pool, "/", recorder)
        assert (await fetch(pool)).body == b"ok"
        await closed.wait()
        assert 0 < recorder.body_size < SIZE
        assert pool.stats.size == 1
        recorder.controller.resume()
        await recorder.wait()
        assert recorder.error is None, recorder.summary()
        assert recorder.body == pattern(SIZE)
        assert pool.stats.size == 0
        assert len(peer.connections) == 1


async def test_a_tunnel_that_has_ended_is_read_to_its_end_after_its_connection() -> None:
    closed = asyncio.Event()

    async def play(peer: H2Peer) -> None:
        tunnel = await peer.request()
        await peer.head(tunnel.stream)
        await peer.data(tunnel.stream, pattern(SIZE), end=True)
        other = await peer.request()
        await peer.respond(other.stream)
        assert await peer.next_request() is None
        closed.set()

    async with ScriptedPeer(h2_script(play)) as peer:
        async with h2c_pool(peer.origin, connections=1, keep_alive_timeout=0) as pool:
            recorder = await send(pool, "example.com:443", method="CONNECT").wait()
            assert recorder.error is None, recorder.summary()
            recorder.socket.write_eof()
            assert (await fetch(pool)).body == b"ok"
            await closed.wait()
            assert await recorder.socket.read() == pattern(SIZE)
            recorder.socket.close()
            await recorder.socket.wait_closed()

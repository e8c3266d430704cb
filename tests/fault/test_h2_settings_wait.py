"""A body that cannot be sent twice waits for the server's SETTINGS, but not for ever."""

from __future__ import annotations

import asyncio

from tests.peers.h2_kit import H2Peer
from tests.peers.kit import send

from dodici import H2CClient, HeadersTimeoutError
from dodici.testing import PeerConnection, ScriptedPeer


async def source():
    yield b"once"


async def test_a_streamed_body_waits_for_settings() -> None:
    told = asyncio.Event()

    async def script(connection: PeerConnection) -> None:
        peer = H2Peer(connection)
        await connection.read_exactly(24)
        await told.wait()
        assert b"/late" not in connection.buffered
        await peer.settings({})
        request = await peer.request()
        await peer.respond(request.stream, b"ok")
        await peer.rest()

    async with ScriptedPeer(script) as peer, H2CClient(peer.origin) as client:
        recorder = send(client, "/late", method="POST", body=source())
        await peer.accepted(1)
        for _ in range(20):
            await asyncio.sleep(0)
        assert recorder.starts == 0
        told.set()
        await recorder.wait()
        assert recorder.body == b"ok"


async def test_a_server_without_settings_is_given_up() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_exactly(24)
        await connection.closed()

    async with ScriptedPeer(script) as peer, H2CClient(peer.origin) as client:
        recorder = send(client, "/", method="POST", body=source(), headers_timeout=0.05)
        await recorder.wait()
        assert isinstance(recorder.error, HeadersTimeoutError)
        assert recorder.error.request_not_processed
        assert "no SETTINGS within 0.05 s" in str(recorder.error)
        assert client.stats.size == 0
        await peer.all_closed()

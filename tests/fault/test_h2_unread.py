"""A peer that makes us answer, and does not read the answers."""

from __future__ import annotations

from tests.peers.h2_kit import H2Peer
from tests.peers.kit import send

from dodici import H2CClient, SocketError
from dodici.net import h2_conn
from dodici.testing import PeerConnection, ScriptedPeer

PING = b"\x00\x00\x08\x06\x00" + bytes(4) + b"unread!!"
DATA = b"\x00\x00\x01\x00\x00\x00\x00\x00\x01x"


async def test_answers_that_nobody_reads_are_bounded(monkeypatch) -> None:
    monkeypatch.setattr(h2_conn, "_UNREAD", 256 * 1024)

    async def script(connection: PeerConnection) -> None:
        peer = H2Peer(connection)
        await peer.start()
        request = await peer.request()
        await peer.head(request.stream)
        connection.transport.pause_reading()
        # Something useful between, so that it is no flood of frames that carry nothing.
        while not connection.lost:
            await connection.send((PING + DATA) * 1000)

    async with ScriptedPeer(script) as peer, H2CClient(peer.origin) as client:
        recorder = await send(client).wait(30)
        assert isinstance(recorder.error, SocketError)
        assert "does not read" in str(recorder.error)
        assert client.stats.size == 0

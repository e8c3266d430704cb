"""`client_ttl` where connections are never idle: a busy one is replaced, too, and finishes what it has begun."""

from __future__ import annotations

import asyncio

from tests.peers.h2_kit import H2Peer
from tests.peers.kit import Events, send

from dodici import Pool
from dodici.testing import PeerConnection, ScriptedPeer


async def test_a_busy_connection_is_replaced() -> None:
    go = asyncio.Event()

    async def script(connection: PeerConnection) -> None:
        peer = H2Peer(connection)
        await peer.start()
        while (request := await peer.next_request()) is not None:
            if request.path == "/slow":
                await go.wait()
            await peer.respond(request.stream, b"%d" % connection.index)

    async with ScriptedPeer(script) as peer, Pool(peer.origin, use_h2c=True, client_ttl=0.001) as pool:
        events = Events(pool)
        slow = send(pool, "/slow")
        await slow.reached("on_request_start")
        await asyncio.sleep(0.002)  # the time to live itself
        quick = await send(pool, "/quick").wait()
        assert quick.body == b"1"
        assert events.count("disconnect") == 1
        go.set()
        await slow.wait()
        assert slow.body == b"0"
        assert slow.starts == 1
        assert pool.stats.size == 0

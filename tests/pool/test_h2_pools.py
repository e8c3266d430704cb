"""Pools over HTTP/2: how many connections there are, and who waits where."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.peers.h2_asgi import h2_tls
from tests.peers.h2_kit import HEADERS, MAX_STREAMS, H2Peer, h2_script, h2c_pool, serving, warm
from tests.peers.kit import Events, fetch, send

from dodici import Agent, BalancedPool, HTTP2Error, Pool, RoundRobinPool
from dodici.testing import PeerConnection, RecordingHandler, ScriptedPeer, settle

# -- how many connections ----------------------------------------------------------------------------------


def holding(go_on: asyncio.Event, settings: dict[int, int] | None = None) -> Any:
    """Answers everything once `go_on` is set."""

    async def play(peer: H2Peer) -> None:
        waiting: list[int] = []
        reader = asyncio.ensure_future(peer.next_request())
        gate = asyncio.ensure_future(go_on.wait())
        try:
            while not go_on.is_set():
                await asyncio.wait((reader, gate), return_when=asyncio.FIRST_COMPLETED)
                if reader.done():
                    request = reader.result()
                    if request is None:
                        return
                    waiting.append(request.stream)
                    reader = asyncio.ensure_future(peer.next_request())
            for stream in waiting:
                await peer.respond(stream)
            while (request := await reader) is not None:
                await peer.respond(request.stream)
                reader = asyncio.ensure_future(peer.next_request())
        finally:
            for task in (reader, gate):
                task.cancel()
            await asyncio.gather(reader, gate, return_exceptions=True)

    return h2_script(play, settings)


async def test_one_connection_carries_a_burst() -> None:
    go_on = asyncio.Event()
    async with ScriptedPeer(holding(go_on)) as peer, h2c_pool(peer.origin) as pool:
        recorders = [send(pool, f"/{number}") for number in range(100)]
        await recorders[-1].reached("on_request_start")
        assert len(peer.connections) == 1
        assert pool.stats.running == 100
        go_on.set()
        for recorder in recorders:
            assert (await recorder.wait()).body == b"ok"
        assert pool.stats.size == 0


@pytest.mark.parametrize("kind", [Pool, RoundRobinPool])
async def test_more_connections_beyond_the_limit_of_streams(kind: Any) -> None:
    go_on = asyncio.Event()
    async with ScriptedPeer(holding(go_on)) as peer:
        async with kind(peer.origin, use_h2c=True, max_concurrent_streams=10, connections=4) as pool:
            recorders = [send(pool, f"/{number}") for number in range(50)]
            for recorder in recorders[:40]:
                await recorder.reached("on_request_start")
            await settle(50)
            assert [recorder.starts for recorder in recorders[40:]] == [0] * 10
            stats = pool.stats
            assert (len(peer.connections), stats.running, stats.queued) == (4, 40, 10)
            assert recorders[-1].accepted is False
            go_on.set()
            for recorder in recorders:
                assert (await recorder.wait()).body == b"ok"
            assert pool.stats.size == 0


async def test_what_a_client_had_taken_goes_back_when_the_server_takes_less() -> None:
    go_on = asyncio.Event()
    async with ScriptedPeer(holding(go_on, {MAX_STREAMS: 5})) as peer:
        async with h2c_pool(peer.origin, connections=3) as pool:
            recorders = [send(pool, f"/{number}") for number in range(40)]
            for recorder in recorders[:15]:
                await recorder.reached("on_request_start")
            await settle(50)
            assert sum(recorder.starts for recorder in recorders) == 15
            stats = pool.stats
            assert (len(peer.connections), stats.running, stats.pending) == (3, 15, 25)
            go_on.set()
            for recorder in recorders:
                assert (await recorder.wait()).body == b"ok"
            assert pool.stats.size == pool.stats.retries == 0


async def test_burst_over_tls_to_a_server_of_http1_spreads() -> None:
    # Until ALPN has answered one connection is expected to carry a hundred; then it carries one.
    running = asyncio.Semaphore(0)
    go_on = asyncio.Event()

    async def script(connection: PeerConnection) -> None:
        while await connection.next_request() is not None:
            running.release()
            await go_on.wait()
            await connection.respond(b"ok")

    tls = h2_tls()
    connect = {"ssl_context": tls.client_context("http/1.1", "h2")}
    async with ScriptedPeer(script, tls=tls.server_context("http/1.1")) as peer:
        async with Pool(peer.origin, connect=connect, connections=20) as pool:
            recorders = [send(pool, f"/{number}") for number in range(30)]
            for _ in range(20):
                await running.acquire()
            assert len(peer.connections) == 20
            assert pool.stats.running == 20
            go_on.set()
            for recorder in recorders:
                assert (await recorder.wait()).body == b"ok"
            assert pool.stats.size == 0


async def test_balanced_pool_over_h2() -> None:
    async with ScriptedPeer(serving()) as first, ScriptedPeer(serving()) as second:
        async with BalancedPool([first.origin, second.origin], use_h2c=True) as pool:
            for recorder in [send(pool) for _ in range(20)]:
                assert (await recorder.wait()).body == b"ok"
        counts = [
            sum(connection.h2.count(HEADERS) for connection in peer.connections)  # type: ignore[attr-defined]
            for peer in (first, second)
        ]
        assert counts == [10, 10]


async def test_drain_follows_false() -> None:
    go_on = asyncio.Event()
    async with ScriptedPeer(holding(go_on)) as peer:
        async with h2c_pool(peer.origin, connections=1, max_concurrent_streams=2) as pool:
            events = Events(pool)
            recorders = [send(pool) for _ in range(3)]
            assert [recorder.accepted for recorder in recorders] == [True, False, False]
            await recorders[1].reached("on_request_start")
            assert events.count("drain") == 0
            go_on.set()
            await events.wait("drain")
            for recorder in recorders:
                await recorder.wait()


async def test_agent_lets_go_of_a_pool_whose_last_exchange_outlived_its_connection() -> None:
    arrived = asyncio.Event()

    async def play(peer: H2Peer) -> None:
        stream = (await peer.request()).stream
        await peer.head(stream)
        await peer.data(stream, b"held", end=True)
        await peer.ping()
        arrived.set()
        peer.connection.close()

    async with ScriptedPeer([h2_script(play), serving()]) as peer, Agent(use_h2c=True) as agent:
        events = Events(agent)
        recorder = RecordingHandler(on_response_start=lambda controller, *_: controller.pause())
        send(agent, "/", recorder, origin=peer.origin)
        await arrived.wait()
        await events.wait("disconnect")
        assert len(agent.stats) == 1
        recorder.controller.resume()
        assert (await recorder.wait()).body == b"held"
        await settle()
        assert len(agent.stats) == 0
        assert (await fetch(agent, origin=peer.origin)).body == b"ok"


async def test_queue_of_a_pool_moves_on_when_what_outlived_its_connection_ends() -> None:
    arrived = asyncio.Event()

    async def play(peer: H2Peer) -> None:
        stream = (await peer.request()).stream
        await peer.head(stream)
        await peer.data(stream, b"held", end=True)
        await peer.ping()
        peer.connection.close()

    async with ScriptedPeer([h2_script(play), serving()]) as peer:
        async with h2c_pool(peer.origin, connections=1, max_concurrent_streams=1) as pool:
            pool.on("disconnect", lambda *_: arrived.set())
            recorder = RecordingHandler(on_response_start=lambda controller, *_: controller.pause())
            send(pool, "/", recorder)
            queued = [send(pool) for _ in range(3)]
            await arrived.wait()
            recorder.controller.abort()
            await recorder.wait()
            for each in queued:
                assert (await each.wait()).body == b"ok"
            assert pool.stats.size == 0


async def test_goaway_that_denies_what_was_answered() -> None:
    # A server that takes back what it has begun to answer is wrong, and nothing is begun twice for it.
    async def play(peer: H2Peer) -> None:
        stream = (await peer.request()).stream
        await peer.head(stream)
        await peer.data(stream, b"begun")
        await peer.goaway(0)

    async with ScriptedPeer([h2_script(play), serving()]) as peer, h2c_pool(peer.origin) as pool:
        recorder = await fetch(pool)
        assert isinstance(recorder.error, HTTP2Error)
        assert not recorder.error.request_not_processed
        assert (recorder.starts, recorder.body) == (1, b"begun")
        assert (await fetch(pool)).body == b"ok"
        assert pool.stats.size == 0


async def test_client_ttl_over_h2() -> None:
    async with ScriptedPeer(serving()) as peer, h2c_pool(peer.origin, client_ttl=0.01) as pool:
        await warm(pool)
        await asyncio.sleep(0.02)  # as long as a connection may live
        await warm(pool)
        assert len(peer.connections) == 2

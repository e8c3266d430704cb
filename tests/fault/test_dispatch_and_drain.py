"""undici.md 2.1: what dispatch() returns, drain, and connections that cannot be made."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest
from tests.peers.kit import Events, answering, fetch, ok, send

from dodici import Client, ConnectionRefused, Pool, SocketError
from dodici.testing import PeerConnection, RecordingHandler, ScriptedPeer, settle


def dead_origin() -> str:
    """An origin where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"http://127.0.0.1:{free.getsockname()[1]}"


async def test_s2_1_first_dispatch_is_accepted_and_returns_false() -> None:
    async with ScriptedPeer(answering) as peer, Client(peer.origin) as client:
        recorder = send(client)
        assert recorder.accepted is False
        await recorder.wait()
        assert recorder.body == b"ok"


async def test_s2_1_one_drain_follows_the_end() -> None:
    async with ScriptedPeer(answering) as peer, Client(peer.origin) as client:
        events = Events(client)
        seen: list[list[str]] = []
        client.on("drain", lambda *_: seen.append(recorder.names))
        recorder = send(client)
        await recorder.wait()
        assert events.count("drain") == 1
        assert seen[0][-1] == "response_end"
        await fetch(client)
        assert events.count("drain") == 2


async def test_s2_1_drain_follows_the_disconnect_of_a_reset_connection() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(ok(headers="connection: close\r\n"))
        await connection.closed()

    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        events = Events(client)
        await fetch(client)
        await events.wait("drain")
        assert events.names == ["connect", "disconnect", "drain"]


async def test_s2_1_pipelining_client_is_busy_at_its_limit() -> None:
    async with ScriptedPeer(answering) as peer, Client(peer.origin, pipelining=3) as client:
        recorders = [send(client) for _ in range(4)]
        assert [recorder.accepted for recorder in recorders] == [True, True, False, False]
        for recorder in recorders:
            await recorder.wait()


async def test_s2_1_pool_without_a_limit_takes_all() -> None:
    async with ScriptedPeer(answering) as peer, Pool(peer.origin, connections=None) as pool:
        recorders = [send(pool) for _ in range(5)]
        assert all(recorder.accepted for recorder in recorders)
        await peer.accepted(5)
        for recorder in recorders:
            await recorder.wait()
        assert pool.stats.connected == 5


async def test_s2_1_pool_at_its_limit_queues_and_drains_once() -> None:
    async with ScriptedPeer(answering) as peer, Pool(peer.origin, connections=2) as pool:
        events = Events(pool)
        recorders = [send(pool) for _ in range(4)]
        assert [recorder.accepted for recorder in recorders] == [True, False, False, False]
        assert pool.stats.queued == 2
        assert pool.stats.size == 4
        for recorder in recorders:
            await recorder.wait()
            assert recorder.error is None
        await events.wait("drain")
        await settle()
        assert events.count("drain") == 1
        assert len(peer.connections) == 2
        assert pool.stats.size == 0


async def test_s2_1_failed_connect_fails_everything_that_waits_once() -> None:
    client = Client(dead_origin())
    events = Events(client)
    recorders = [send(client) for _ in range(3)]
    for recorder in recorders:
        await recorder.wait()
        assert recorder.names == ["response_error"]
        assert isinstance(recorder.error, ConnectionRefused)
        assert isinstance(recorder.error, ConnectionRefusedError)
        assert recorder.error.errno == errno.ECONNREFUSED
        assert recorder.error.code == "ECONNREFUSED"
        assert recorder.error.request_not_processed
    assert len({id(recorder.error) for recorder in recorders}) == 3  # raising one twice tangles tracebacks
    await settle()
    assert events.count("connection_error") == 1
    assert events.count("connect") == 0
    assert client.stats.size == 0
    await client.close()


async def test_s2_1_failed_connect_of_a_pool() -> None:
    async with Pool(dead_origin(), connections=2) as pool:
        events = Events(pool)
        recorders = [send(pool) for _ in range(6)]
        for recorder in recorders:
            await recorder.wait()
            assert isinstance(recorder.error, ConnectionRefusedError)
        assert pool.stats.size == 0
        assert 1 <= events.count("connection_error") <= 6


async def test_s2_1_dispatcher_serves_after_a_failed_connect() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with Client(f"http://127.0.0.1:{port}") as client:
        assert isinstance((await fetch(client)).error, ConnectionRefused)
        peer = ScriptedPeer(answering)
        server = await asyncio.get_running_loop().create_server(peer._accept, "127.0.0.1", port)
        try:
            assert (await fetch(client)).body == b"ok"
        finally:
            server.close()
            await client.close()
            await peer.stop()
            await server.wait_closed()


@pytest.mark.parametrize("code", ["UND_ERR_SOCKET", "UND_ERR_INFO", "EWHATEVER"])
async def test_s2_1_failing_connector_is_not_asked_again_and_again(code: str) -> None:
    asked = 0

    async def connect(*_: object) -> None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        raise SocketError("no", code=code)

    async with Client("http://example.invalid", connect=connect) as client:
        recorders = [send(client) for _ in range(3)]
        for recorder in recorders:
            await recorder.wait()
            assert recorder.names == ["response_error"]
            assert isinstance(recorder.error, SocketError)
        await settle()
        assert asked == 1


async def test_s2_1_dispatch_from_a_terminal_callback() -> None:
    async with ScriptedPeer(answering) as peer, Client(peer.origin) as client:
        second = RecordingHandler()
        first = RecordingHandler(on_response_end=lambda *_: second.dispatch(client, {"path": "/second"}))
        send(client, "/first", first)
        await first.wait()
        await second.wait()
        assert second.body == b"ok"
        assert len(peer.connections) == 1


async def test_s2_1_dispatch_from_the_error_of_a_failed_connect() -> None:
    async with Client(dead_origin()) as client:
        second = RecordingHandler()
        first = RecordingHandler(on_response_error=lambda *_: second.dispatch(client, {"path": "/second"}))
        send(client, "/first", first)
        await first.wait()
        await second.wait()
        assert isinstance(second.error, ConnectionRefused)

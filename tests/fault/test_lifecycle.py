"""undici.md 2.11: close and destroy with work under way, and what pools do with their clients."""

from __future__ import annotations

import asyncio
import gc
import socket

import pytest
from tests.peers.kit import Events, answering, fetch, ok, send, virtual

from dodici import (
    Agent,
    BalancedPool,
    BalancedPoolMissingUpstreamError,
    Client,
    ClientClosedError,
    ClientDestroyedError,
    ConnectionRefused,
    InvalidArgumentError,
    MaxOriginsReachedError,
    Pool,
    RoundRobinPool,
)
from dodici.testing import PeerConnection, ScriptedPeer, settle


async def hanging(connection: PeerConnection) -> None:
    await connection.stall()


async def test_s2_11_close_reconnects_for_what_is_queued() -> None:
    async def closing(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(ok(headers="connection: close\r\n"))
        await connection.closed()

    async with ScriptedPeer(closing) as peer:
        client = Client(peer.origin)
        recorders = [send(client) for _ in range(4)]
        await client.close()
        for recorder in recorders:
            assert (await recorder.wait()).body == b"ok"
        assert len(peer.connections) == 4
        await peer.all_closed()


async def test_s2_11_close_of_an_unused_dispatcher() -> None:
    for dispatcher in (
        Client("http://a"),
        Pool("http://a"),
        Agent(),
        BalancedPool(["http://a"]),
        RoundRobinPool("http://a"),
    ):
        await dispatcher.close()
        assert dispatcher.closed
        assert dispatcher.destroyed


async def test_s2_11_concurrent_closes_share_their_result() -> None:
    async with ScriptedPeer(answering) as peer:
        client = Client(peer.origin)
        recorder = send(client)
        await asyncio.gather(client.close(), client.close(), client.close())
        assert recorder.ended.done()
        await client.close()


async def test_s2_11_cancelling_a_close_does_not_cancel_the_others() -> None:
    release = asyncio.Event()

    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await release.wait()
        await connection.send(ok())

    async with ScriptedPeer(script) as peer:
        client = Client(peer.origin)
        recorder = send(client)
        first, second = asyncio.ensure_future(client.close()), asyncio.ensure_future(client.close())
        await settle()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert not second.done()
        release.set()
        async with asyncio.timeout(10):
            await second
        assert recorder.body == b"ok"


async def test_s2_11_close_after_destroy_says_so_and_destroy_twice_is_fine() -> None:
    async with ScriptedPeer(answering) as peer:
        client = Client(peer.origin)
        await fetch(client)
        await client.destroy()
        await client.destroy()
        with pytest.raises(ClientDestroyedError):
            await client.close()


async def test_s2_11_destroy_during_close() -> None:
    async with ScriptedPeer(hanging) as peer:
        client = Client(peer.origin)
        recorder = send(client)
        await peer.accepted(1)
        closing = asyncio.ensure_future(client.close())
        await settle()
        async with asyncio.timeout(10):
            await client.destroy()
            await asyncio.gather(closing, return_exceptions=True)
        assert isinstance((await recorder.wait()).error, ClientDestroyedError)
        await peer.all_closed()


async def test_s2_11_destroy_fails_what_is_queued_at_once_and_closes_the_sockets() -> None:
    async with ScriptedPeer(hanging) as peer:
        client = Client(peer.origin)
        running, *queued = [send(client) for _ in range(3)]
        await running.reached("on_request_start")
        error = ClientDestroyedError("maintenance")
        destroying = asyncio.ensure_future(client.destroy(error))
        await asyncio.sleep(0)
        for recorder in queued:
            assert recorder.error is error
            assert recorder.names == ["response_error"]
        await destroying
        assert (await running.wait()).error is error
        await peer.all_closed()
        assert client.stats.size == 0


async def test_s2_11_destroy_while_connecting() -> None:
    connecting = asyncio.Event()

    async def connect(*_: object) -> None:
        connecting.set()
        await asyncio.Event().wait()

    client = Client("http://example.invalid", connect=connect)
    recorder = send(client)
    await connecting.wait()
    async with asyncio.timeout(10):
        await client.destroy()
    assert isinstance((await recorder.wait()).error, ClientDestroyedError)


async def test_s2_11_close_refuses_from_a_callback() -> None:
    async with ScriptedPeer(answering) as peer:
        client = Client(peer.origin)
        recorder = send(client)
        closing = asyncio.ensure_future(client.close())
        await asyncio.sleep(0)
        late = send(client)
        assert isinstance(late.error, ClientClosedError)
        assert late.error.request_not_processed
        await closing
        assert recorder.body == b"ok"


async def test_s2_11_close_waits_for_idle_tls_connections_to_say_goodbye() -> None:
    async with ScriptedPeer(answering, tls=True) as peer:
        async with Client(peer.origin, connect={"ssl_context": peer.client_context}) as client:
            assert (await fetch(client)).body == b"ok"
        await peer.all_closed()
        assert peer.connections[0].error is None


async def test_s2_11_pool_drops_a_client_that_cannot_connect() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        origin = f"http://127.0.0.1:{free.getsockname()[1]}"
    async with Pool(origin, connections=1) as pool:
        for _ in range(3):
            assert isinstance((await fetch(pool)).error, ConnectionRefused)
        assert pool.stats.size == pool.stats.connected == pool.stats.pending == 0


@virtual
async def test_s2_11_client_ttl_retires_at_the_next_choice() -> None:
    async with (
        ScriptedPeer(answering) as peer,
        Pool(peer.origin, client_ttl=10, keep_alive_timeout=1000) as pool,
    ):
        await fetch(pool)
        await asyncio.sleep(5)
        await fetch(pool)
        assert len(peer.connections) == 1
        await asyncio.sleep(6)
        await fetch(pool)
        assert len(peer.connections) == 2
        await peer.connections[0].closed()


async def test_s2_11_max_origins() -> None:
    async with (
        ScriptedPeer(answering) as one,
        ScriptedPeer(answering) as two,
        Agent(max_origins=1) as agent,
    ):
        events = Events(agent)
        assert (await fetch(agent, origin=one.origin)).body == b"ok"
        refused = send(agent, origin=two.origin)
        assert refused.synchronous
        assert isinstance(refused.error, MaxOriginsReachedError)
        assert (await fetch(agent, origin=one.origin)).body == b"ok"
        one.connections[0].close()
        await events.wait("disconnect")
        await settle()
        assert (await fetch(agent, origin=two.origin)).body == b"ok"


@virtual
async def test_s2_11_agent_lets_an_idle_origin_go() -> None:
    async with ScriptedPeer(answering) as peer, Agent() as agent:
        await fetch(agent, origin=peer.origin)
        assert list(agent.stats) == [peer.origin]
        await asyncio.sleep(10)
        assert agent.stats == {}


@pytest.mark.parametrize(
    "origin", [None, "", "example.com", "ftp://example.com", "http://", "http://a/path", "http://a:x", 7]
)
async def test_s2_11_agent_refuses_bad_origins(origin: object) -> None:
    async with Agent() as agent:
        recorder = send(agent, origin=origin)
        assert recorder.synchronous
        assert isinstance(recorder.error, InvalidArgumentError)


async def test_s2_11_balanced_pool_without_upstreams() -> None:
    async with BalancedPool() as pool:
        recorder = send(pool)
        assert recorder.synchronous
        assert isinstance(recorder.error, BalancedPoolMissingUpstreamError)


async def test_s2_11_balanced_pool_shares_and_avoids_the_sick() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        dead = f"http://127.0.0.1:{free.getsockname()[1]}"
    async with (
        ScriptedPeer(answering) as one,
        ScriptedPeer(answering) as two,
        BalancedPool([one.origin, two.origin, dead]) as pool,
    ):
        outcomes = [(await fetch(pool)).error for _ in range(60)]
        failed = sum(error is not None for error in outcomes)
        assert 1 <= failed < 20  # fewer than its equal share, as its weight goes down
        assert failed == sum(isinstance(error, ConnectionRefused) for error in outcomes)
        assert len(one.requests) > 15
        assert len(two.requests) > 15
        assert pool.upstreams == [one.origin, two.origin, dead]
        pool.remove_upstream(dead)
        assert all([(await fetch(pool)).error is None for _ in range(10)])


async def test_s2_11_round_robin_rotates() -> None:
    async with ScriptedPeer(answering) as peer, RoundRobinPool(peer.origin, connections=3) as pool:
        for recorder in [send(pool) for _ in range(3)]:
            await recorder.wait()
        for _ in range(6):
            await fetch(pool)
        assert [len(connection.requests) for connection in peer.connections] == [3, 3, 3]


@pytest.mark.parametrize("turns", range(0, 40, 3))
async def test_s2_11_cancelled_requests_leave_no_slot_taken(turns: int) -> None:
    """A task cancelled after k turns of the loop: the counts are back at zero, and the pool serves."""
    async with ScriptedPeer(answering) as peer, Pool(peer.origin, connections=2) as pool:
        tasks = [asyncio.ensure_future(pool.request(peer.origin + "/")) for _ in range(4)]
        await settle(turns)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if not isinstance(result, BaseException):
                await result.dump()
        assert pool.stats.size == pool.stats.pending == pool.stats.running == 0
        assert (await fetch(pool)).body == b"ok"


async def test_s2_11_unix_socket_and_host_of_the_origin() -> None:
    async with (
        ScriptedPeer(answering, unix=True) as peer,
        Client("http://example.com:8080", socket_path=peer.socket_path) as client,
    ):
        assert (await fetch(client)).body == b"ok"
        assert peer.requests[0].headers["host"] == "example.com:8080"


def test_s2_11_second_event_loop_is_told_apart() -> None:
    client = Client("http://127.0.0.1:9")

    async def use() -> BaseException | None:
        return (await fetch(client)).error

    async def misuse() -> None:
        with pytest.raises(RuntimeError, match="loop"):
            send(client)

    assert isinstance(asyncio.run(use()), ConnectionRefused)
    asyncio.run(misuse())


async def test_s2_11_nothing_is_left_behind() -> None:
    """Dispatchers that were closed leave no object that keeps them."""
    import weakref

    async with ScriptedPeer(answering) as peer:
        left = []
        for make in (Client, Pool):
            async with make(peer.origin) as dispatcher:
                await fetch(dispatcher)
            left.append(weakref.ref(dispatcher))
            del dispatcher
        await peer.all_closed()
        await settle()
        gc.collect()
        assert [reference() for reference in left] == [None, None]

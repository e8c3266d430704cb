"""Who owns an exchange at the awkward moments: counts are right, nobody waits for ever, nothing is orphaned."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import pathlib
import socket
import tempfile
import threading
import warnings
from typing import Any

import pytest
import trustme
from tests.peers.kit import Events, answering, fetch, ok, send

import dodici
from dodici import (
    Agent,
    BalancedPool,
    Client,
    ClientClosedError,
    ClientDestroyedError,
    ConnectError,
    LoopMismatchError,
    Pool,
    SocketError,
    TLSError,
)
from dodici.net.connector import Connector
from dodici.testing import PeerConnection, RecordingHandler, ScriptedPeer, settle
from dodici.testing.peers import make_tls


async def held(connection: PeerConnection) -> None:
    await connection.read_request()
    await connection.stall()


@functools.cache
def ca_of_another() -> str:
    """A file with the certificate of an authority that no server here has."""
    path = pathlib.Path(tempfile.mkdtemp()) / "ca.pem"
    path.write_bytes(trustme.CA().cert_pem.bytes())
    return str(path)


async def fails(*_: Any) -> Any:
    await asyncio.sleep(0)
    raise ConnectionRefusedError(111, "refused")


# -- several that fail together --------------------------------------------------------------------------


def abort_the_others(recorders: list[RecordingHandler]) -> RecordingHandler:
    """A handler that, when it fails, aborts all its siblings."""

    def on_error(*_: Any) -> None:
        for other in recorders:
            if other.controller is not None:
                other.controller.abort()

    recorder = RecordingHandler(on_response_error=on_error)
    recorders.append(recorder)
    return recorder


@pytest.mark.parametrize("kind", [Client, functools.partial(Pool, connections=1)], ids=["client", "pool"])
async def test_s2_1_siblings_that_abort_each_other_when_a_connect_fails(kind: Any) -> None:
    async with kind("http://127.0.0.1:1", connect=fails) as dispatcher:
        recorders: list[RecordingHandler] = []
        for _ in range(5):
            send(dispatcher, recorder=abort_the_others(recorders))
        for recorder in recorders:
            await recorder.wait()
        assert dispatcher.stats.size == dispatcher.stats.pending == 0


@pytest.mark.parametrize("kind", [Client, functools.partial(Pool, connections=1)], ids=["client", "pool"])
async def test_s2_11_siblings_that_abort_each_other_when_destroyed(kind: Any) -> None:
    async with ScriptedPeer(held) as peer:
        dispatcher = kind(peer.origin)
        recorders: list[RecordingHandler] = []
        for _ in range(5):
            send(dispatcher, recorder=abort_the_others(recorders))
        await recorders[0].reached("on_request_start")
        await dispatcher.destroy()
        for recorder in recorders:
            await recorder.wait()
        assert dispatcher.stats.size == dispatcher.stats.pending == 0


async def test_s2_11_destroy_with_an_error_of_ones_own() -> None:
    async with ScriptedPeer(held) as peer:
        pool = Pool(peer.origin, connections=1)
        running = send(pool)
        queued = send(pool)
        await running.reached("on_request_start")
        mine = ZeroDivisionError("mine")
        ending = asyncio.ensure_future(pool.destroy(mine))
        await asyncio.sleep(0)
        assert queued.error is mine
        await ending
        assert running.error is mine
        late = send(pool)
        assert late.synchronous
        assert isinstance(late.error, ClientDestroyedError)


# -- connecting ------------------------------------------------------------------------------------------


async def test_a_connection_that_is_dead_on_arrival_fails_what_waits() -> None:
    # A connect= of somebody's own may take a turn between connecting and returning.
    connector = Connector()

    async def slow(target: Any, factory: Any) -> Any:
        made = await connector(target, factory)
        await peer.all_closed()
        await settle()
        return made

    async def closes(connection: PeerConnection) -> None:
        connection.close()

    async with ScriptedPeer([closes, closes, answering]) as peer:
        client = Client(peer.origin, connect=slow)
        events = Events(client)
        first, second = send(client), send(client)
        await first.wait()
        await second.wait()
        assert isinstance(first.error, SocketError)
        assert isinstance(second.error, SocketError)
        assert first.starts == second.starts == 0
        assert events.names.count("connection_error") == 1
        assert client.size == 0
        await client.destroy()


async def test_a_connect_that_was_cancelled_from_outside_fails_what_waits() -> None:
    begun = asyncio.Event()

    async def never(*_: Any) -> Any:
        begun.set()
        await asyncio.Event().wait()

    client = Client("http://127.0.0.1:1", connect=never)
    recorder = send(client)
    await begun.wait()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await recorder.wait()
    assert isinstance(recorder.error, ConnectError)
    assert client.size == 0
    again = send(client)
    again.controller.abort()
    await again.wait()
    await client.close()


async def test_s2_12_a_certificate_for_another_name_fails_the_requests_for_that_name_alone() -> None:
    connect = {"ssl_context": make_tls().client_context}
    async with ScriptedPeer(answering, tls=True) as peer, Client(peer.origin, connect=connect) as client:
        wrong = send(client, server_name="wrong.example")
        right = send(client, server_name="localhost")
        wrong_too = send(client, server_name="wrong.example")
        for recorder in (wrong, right, wrong_too):
            await recorder.wait()
        assert isinstance(wrong.error, TLSError)
        assert isinstance(wrong_too.error, TLSError)
        assert right.error is None
        assert right.body == b"ok"


async def test_an_error_of_a_connect_is_not_shared_between_handlers() -> None:
    async with Client("http://127.0.0.1:1", connect=fails) as client:
        recorders = [send(client) for _ in range(3)]
        for recorder in recorders:
            await recorder.wait()
            assert isinstance(recorder.error, ConnectionRefusedError)
            assert recorder.error.errno == 111
        assert len({id(recorder.error) for recorder in recorders}) == 3


# -- agents ----------------------------------------------------------------------------------------------


async def test_s2_11_agent_lets_an_origin_go_whose_only_request_gave_up_connecting() -> None:
    async def never(*_: Any) -> Any:
        await asyncio.Event().wait()

    async with Agent(connect=never, max_origins=1) as agent:
        for port in (1, 2, 3):
            recorder = send(agent, origin=f"http://127.0.0.1:{port}")
            assert not recorder.synchronous, recorder.error
            recorder.controller.abort()
            await recorder.wait()
        assert agent.stats == {}


async def test_s2_11_agent_keeps_the_pool_whose_client_outlived_its_time() -> None:
    async with ScriptedPeer(answering) as peer:
        agent = Agent(client_ttl=0.001)
        for _ in range(3):
            await asyncio.sleep(0.005)
            assert (await fetch(agent, origin=peer.origin)).body == b"ok"
        assert len(peer.connections) == 3
        assert list(agent.stats) == [peer.origin]
        await agent.close()
        await peer.all_closed()


async def test_s2_11_agent_refuses_from_the_moment_of_close_on() -> None:
    async with ScriptedPeer(answering) as peer:
        agent = Agent()
        await fetch(agent, origin=peer.origin)
        closing = asyncio.ensure_future(agent.close())
        while not agent.closed:
            await asyncio.sleep(0)
        late = send(agent, origin=peer.origin)
        assert late.synchronous
        assert isinstance(late.error, ClientClosedError)
        await closing


async def test_agent_does_not_keep_what_is_over() -> None:
    async with ScriptedPeer(answering) as peer, Agent(keep_alive_timeout=0.02) as agent:
        for _ in range(3):
            await fetch(agent, origin=peer.origin)
            await peer.all_closed()
            await settle()
            assert agent.stats == {}
        assert agent._by_spelling == {}


async def test_s2_11_balanced_pool_passes_a_closed_upstream_by() -> None:
    async with ScriptedPeer(answering) as one, ScriptedPeer(answering) as two:
        async with BalancedPool([one.origin, two.origin]) as pool:
            upstream = pool.get_upstream(one.origin)
            assert upstream is not None
            await upstream.close()
            for _ in range(4):
                assert (await fetch(pool)).body == b"ok"
        assert len(two.requests) == 4


# -- loops and threads -----------------------------------------------------------------------------------


def test_close_on_another_loop_says_so() -> None:
    client = Client("http://127.0.0.1:1", connect=fails)

    async def use() -> None:
        await fetch(client)

    asyncio.run(use())
    with pytest.raises(LoopMismatchError, match="belongs to closed event loop"):
        asyncio.run(client.close())


async def test_dispatch_on_a_thread_without_a_loop_says_so() -> None:
    async with ScriptedPeer(answering) as peer, Agent() as agent:
        await fetch(agent, origin=peer.origin)
        told: list[BaseException] = []

        def use() -> None:
            try:
                agent.dispatch({"origin": peer.origin}, dodici.DispatchHandler())
            except Exception as error:
                told.append(error)

        thread = threading.Thread(target=use)
        thread.start()
        await asyncio.get_running_loop().run_in_executor(None, thread.join)
        assert isinstance(told[0], LoopMismatchError)


async def test_on_dispatch_that_raises_is_the_error() -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    async with ScriptedPeer(answering) as peer, Client(peer.origin) as client:
        recorder = RecordingHandler(on_dispatch=broken)
        assert send(client, recorder=recorder, timeout=5).accepted is False
        assert isinstance(recorder.error, ZeroDivisionError)
        assert client.size == 0
        assert (await fetch(client)).body == b"ok"


def serve_one(listener: socket.socket) -> None:
    """Answer one request and keep the connection open until the client closes it."""
    connection, _ = listener.accept()
    with connection:
        while b"\r\n\r\n" not in connection.recv(65536):
            pass
        connection.sendall(ok())
        with contextlib.suppress(ConnectionError):
            connection.recv(1)


def test_the_global_dispatcher_leaves_no_open_socket_when_its_loop_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        origin = f"http://127.0.0.1:{listener.getsockname()[1]}"

        async def main() -> None:
            recorder = await fetch(dodici.get_global_dispatcher(), origin=origin)
            assert recorder.body == b"ok"

        for _ in range(2):
            thread = threading.Thread(target=serve_one, args=(listener,), daemon=True)
            thread.start()
            asyncio.run(main())
            thread.join(5)
            assert not thread.is_alive(), "the connection is still open"
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


# -- drain -----------------------------------------------------------------------------------------------


async def test_s2_1_raised_pipelining_drains() -> None:
    async with ScriptedPeer(held) as peer:
        client = Client(peer.origin)
        events = Events(client)
        recorder = send(client)
        await recorder.reached("on_request_start")
        assert recorder.accepted is False
        client.pipelining = 4
        assert events.count("drain") == 1
        await client.destroy()


async def test_s2_1_one_drain_after_a_failed_connect() -> None:
    async with Client("http://127.0.0.1:1", connect=fails) as client:
        events = Events(client)
        recorders = [send(client) for _ in range(3)]
        for recorder in recorders:
            await recorder.wait()
        assert events.names == ["connection_error", "drain"]


async def test_s2_1_drain_of_a_pool_comes_once_though_its_clients_die() -> None:
    async def dies(connection: PeerConnection) -> None:
        await connection.read_request()
        connection.reset()

    async with ScriptedPeer(dies) as peer, Pool(peer.origin, connections=2) as pool:
        events = Events(pool)
        recorders = [send(pool) for _ in range(10)]
        for recorder in recorders:
            await recorder.wait()
            assert isinstance(recorder.error, SocketError)
        await settle()
        assert events.count("drain") == 1
        assert events.count("connect") == events.count("disconnect") == 10
        assert pool.stats.size == 0


async def test_s2_5_stale_connections_of_a_pool_are_counted_after_they_went() -> None:
    async def once(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(ok())
        await connection.read_request()
        connection.close()

    async with ScriptedPeer([once, answering]) as peer, Pool(peer.origin) as pool:
        await fetch(pool)
        assert (await fetch(pool)).body == b"ok"
        assert pool.stats.retries == 1


# -- connections that were not completely made -----------------------------------------------------------


async def test_failed_handshakes_leave_nothing_in_the_pool() -> None:
    async with (
        ScriptedPeer(answering, tls=True) as peer,
        Pool(peer.origin, connect={"ca": ca_of_another()}) as pool,
    ):
        for _ in range(3):
            assert isinstance((await fetch(pool)).error, TLSError)
        assert pool.sockets == set()


async def test_requests_that_give_up_while_connecting_leave_nothing_in_the_pool() -> None:
    async with ScriptedPeer(answering) as peer:
        pool = Pool(peer.origin)
        for turns in range(12):
            recorder = send(pool)
            for _ in range(turns):
                await asyncio.sleep(0)
            recorder.controller.abort()
            await recorder.wait()
        async with asyncio.timeout(2):
            await pool.close()
        assert pool.sockets == set()

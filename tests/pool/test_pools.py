"""Pools of every kind: who is chosen, what is limited, what is let go."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import dodici
from dodici import (
    Agent,
    BalancedPool,
    BalancedPoolMissingUpstreamError,
    Client,
    InvalidArgumentError,
    LoopMismatchError,
    MaxOriginsReachedError,
    Pool,
    RoundRobinPool,
)
from dodici.testing import PeerConnection, RecordingHandler, ScriptedPeer


async def answer(connection: PeerConnection) -> None:
    while await connection.next_request() is not None:
        await connection.respond(b"ok")


async def text(dispatcher: Any, url: str = "/") -> str:
    response = await dispatcher.request(url)
    return str(await response.text())


async def test_s2_1_returns_of_a_pool_of_two() -> None:
    gate = asyncio.Event()

    async def slow(connection: PeerConnection) -> None:
        while await connection.next_request() is not None:
            await gate.wait()
            await connection.respond(b"ok")

    async with ScriptedPeer(slow) as peer, Pool(peer.origin, connections=2) as pool:
        drains: list[str] = []
        pool.on("drain", lambda origin, targets: drains.append(origin))
        recorders = [RecordingHandler() for _ in range(4)]
        returns = [recorder.dispatch(pool, {"path": "/"}) for recorder in recorders]
        assert returns == [True, False, False, False]
        assert (pool.stats.queued, pool.stats.size) == (2, 4)
        gate.set()
        for recorder in recorders:
            await recorder.wait()
        assert drains == [peer.origin]
        assert pool.stats.size == 0
        assert len(peer.connections) == 2


async def test_the_warmest_connection_is_used_again() -> None:
    async with ScriptedPeer(answer) as peer, Pool(peer.origin) as pool:
        await asyncio.gather(*(text(pool) for _ in range(5)))
        for _ in range(5):
            await text(pool)
        counts = sorted(len(connection.requests) for connection in peer.connections)
        assert counts == [1, 1, 1, 1, 6]


async def test_round_robin_rotates() -> None:
    async with ScriptedPeer(answer) as peer, RoundRobinPool(peer.origin, connections=4) as pool:
        await asyncio.gather(*(text(pool) for _ in range(4)))
        for _ in range(8):
            await text(pool)
        assert [len(connection.requests) for connection in peer.connections] == [3, 3, 3, 3]


async def test_client_ttl_replaces_connections() -> None:
    async with ScriptedPeer(answer) as peer, Pool(peer.origin, connections=1, client_ttl=0.001) as pool:
        await text(pool)
        await asyncio.sleep(0.01)
        await text(pool)
        assert len(peer.connections) == 2


async def test_s2_5_max_requests_per_client() -> None:
    async with (
        ScriptedPeer(answer) as peer,
        Pool(peer.origin, connections=1, max_requests_per_client=2) as pool,
    ):
        for _ in range(5):
            await text(pool)
        assert [len(connection.requests) for connection in peer.connections] == [2, 2, 1]
        assert peer.requests[1].headers["connection"] == "close"
        assert "connection" not in peer.requests[0].headers


async def test_s2_11_agent_lets_idle_origins_go() -> None:
    async with ScriptedPeer(answer) as peer, Agent(keep_alive_timeout=0.02) as agent:
        gone = asyncio.Event()
        agent.on("disconnect", lambda origin, targets, error: gone.set())
        await text(agent, f"{peer.origin}/")
        assert list(agent.stats) == [peer.origin]
        await asyncio.wait_for(gone.wait(), 5)
        assert agent.stats == {}
        assert await text(agent, f"{peer.origin}/") == "ok"


async def test_s2_11_max_origins() -> None:
    async with ScriptedPeer(answer) as one, ScriptedPeer(answer) as two:
        async with Agent(max_origins=1, keep_alive_timeout=0.02) as agent:
            gone = asyncio.Event()
            agent.on("disconnect", lambda *_: gone.set())
            await text(agent, f"{one.origin}/")
            with pytest.raises(MaxOriginsReachedError) as caught:
                await text(agent, f"{two.origin}/")
            assert caught.value.code == "UND_ERR_MAX_ORIGINS_REACHED"
            assert await text(agent, f"{one.origin}/") == "ok"
            await asyncio.wait_for(gone.wait(), 5)
            assert await text(agent, f"{two.origin}/") == "ok"


async def test_agent_spellings_share_a_pool() -> None:
    async with ScriptedPeer(answer) as peer, Agent() as agent:
        for origin in (peer.origin, f"{peer.origin}/", peer.origin.replace("http", "HTTP")):
            recorder = RecordingHandler()
            recorder.dispatch(agent, {"origin": origin, "path": "/"})
            assert (await recorder.wait()).status_code == 200
        assert list(agent.stats) == [peer.origin]
        assert len(peer.connections) == 1


async def test_events_name_the_targets_outermost_first() -> None:
    seen: list[tuple[str, list[str]]] = []
    async with ScriptedPeer(answer) as peer, Agent() as agent:
        for event in ("connect", "disconnect"):
            agent.on(
                event,
                lambda origin, targets, *_, e=event: seen.append((e, [type(t).__name__ for t in targets])),
            )
        await text(agent, f"{peer.origin}/")
    assert seen == [("connect", ["Agent", "Pool", "Client"]), ("disconnect", ["Agent", "Pool", "Client"])]


async def test_s2_11_balanced_pool() -> None:
    async with ScriptedPeer(answer) as one, ScriptedPeer(answer) as two:
        async with BalancedPool([one.origin, two.origin]) as pool:
            assert pool.upstreams == [one.origin, two.origin]
            for _ in range(10):
                await text(pool)
            assert len(one.requests) == len(two.requests) == 5
            pool.remove_upstream(one.origin)
            for _ in range(3):
                await text(pool)
            assert (len(one.requests), len(two.requests)) == (5, 8)
            assert pool.get_upstream(one.origin) is None
            pool.remove_upstream(two.origin)
            with pytest.raises(BalancedPoolMissingUpstreamError):
                await text(pool)
            pool.add_upstream(one.origin)
            assert await text(pool) == "ok"


async def test_s2_11_balanced_pool_asks_a_sick_upstream_less() -> None:
    async with ScriptedPeer(answer) as well, ScriptedPeer(answer) as sick:
        origin = sick.origin
        await sick.stop()
        async with BalancedPool([well.origin, origin]) as pool:
            failures = 0
            for _ in range(60):
                try:
                    await text(pool)
                except dodici.ConnectError:
                    failures += 1
            assert 5 <= failures < 25, "at equal weights it would be 30"


async def test_a_busy_pool_of_clients_that_fail_to_connect_does_not_loop() -> None:
    async with ScriptedPeer(answer) as peer:
        origin = peer.origin
    recorders = [RecordingHandler() for _ in range(10)]
    pool = Pool(origin, connections=2)
    errors: list[Any] = []
    pool.on("connection_error", lambda origin, targets, error: errors.append(error))
    for recorder in recorders:
        recorder.dispatch(pool, {"path": "/"})
    for recorder in recorders:
        await recorder.wait()
        assert recorder.names == ["response_error"]
        assert isinstance(recorder.error, ConnectionRefusedError)
        assert recorder.error.errno is not None
    assert len(errors) == 10
    assert len({id(recorder.error) for recorder in recorders}) == 10
    assert pool.stats.size == pool.stats.connected == 0
    await pool.close()


def test_another_loop_is_named() -> None:
    client = Client("http://127.0.0.1:1")

    async def use() -> None:
        with pytest.raises(dodici.ConnectError):
            await client.request("/")

    async def misuse() -> None:
        with pytest.raises(LoopMismatchError, match="belongs to closed event loop"):
            await client.request("/")

    asyncio.run(use())
    asyncio.run(misuse())
    with pytest.raises(LoopMismatchError, match="inside a running event loop"):
        client.dispatch({"path": "/"}, dodici.DispatchHandler())


def test_the_global_dispatcher_works_in_one_run_after_another() -> None:
    async def main() -> None:
        async with ScriptedPeer(answer) as peer:
            response = await dodici.get(f"{peer.origin}/")
            assert await response.text() == "ok"
            await dodici.get_global_dispatcher().close()

    asyncio.run(main())
    asyncio.run(main())


async def test_the_global_dispatcher_can_be_chosen() -> None:
    async with ScriptedPeer(answer) as peer, Client(peer.origin) as client:
        dodici.set_global_dispatcher(client)
        try:
            assert dodici.get_global_dispatcher() is client
            assert await (await dodici.get(f"{peer.origin}/")).text() == "ok"
        finally:
            dodici.set_global_dispatcher(None)
        with pytest.raises(InvalidArgumentError):
            dodici.set_global_dispatcher("agent")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "arguments", "options"),
    [
        (Client, ["ftp://a"], {}),
        (Client, ["http://a/path"], {}),
        (Client, ["http://user@a"], {}),
        (Client, ["http://a:99999"], {}),
        (Client, ["http://a"], {"keepAlive": 1}),
        (Client, ["http://a"], {"headers_timeout": -1}),
        (Client, ["http://a"], {"pipelining": 1.5}),
        (Client, ["http://a"], {"local_address": "localhost"}),
        (Client, ["http://a"], {"connect": {"nonsense": 1}}),
        (Client, ["http://a"], {"connect": 7}),
        (Pool, ["http://a"], {"connections": -1}),
        (Pool, ["http://a"], {"client_ttl": float("nan")}),
        (Agent, [], {"max_origins": 0}),
        (Agent, [], {"factory": 1}),
        (Agent, [], {"connections": "many"}),
        (BalancedPool, [["nowhere"]], {}),
        (BalancedPool, [], {"error_penalty": 0}),
    ],
)
async def test_bad_options_are_refused(kind: Any, arguments: list[Any], options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        kind(*arguments, **options)

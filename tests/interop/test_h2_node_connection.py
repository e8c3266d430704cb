"""What Node does to whole HTTP/2 connections: GOAWAY, settings in the middle, ends of all kinds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.interop.h2_kit import MODES, client, good, pool, sha256, streamed, told
from tests.peers.h2_peers import Node
from tests.peers.kit import Events, fetch, send

import dodici
from dodici.testing import pattern

pytestmark = pytest.mark.interop


@pytest.fixture
def node_with(tmp_path: Path, certificate: tuple[str, str]) -> Iterator[Callable[..., Node]]:
    """Starts a server with these settings."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(Node(tmp_path / "node", certificate, settings))


@pytest_asyncio.fixture(params=MODES)
async def one(request: pytest.FixtureRequest, node_h2: Node, ca: str) -> AsyncIterator[dodici.Client]:
    made = client(node_h2, request.param, ca)
    yield made
    await made.destroy()


async def test_graceful_goaway_lets_streams_end(one: Any) -> None:
    await good(one, "/get")
    events = Events(one)
    name = f"graceful-{one.origin[:5]}"
    held = send(one, f"/hold?name={name}")
    await good(one, f"/wait/{name}:started")
    assert (await good(one, "/shutdown")).body == b"told"
    assert (await good(one, f"/set/{name}")).body == b"set"  # on a connection of its own
    assert (await held.wait()).body == b"held"
    await events.wait("disconnect")
    assert events.count("connect") == 1
    assert held.starts == 1


@pytest.mark.parametrize("code", [0, 2, 11])
async def test_goaway_below_open_streams(one: Any, code: int) -> None:
    """What is above the last stream was not processed, and goes to another connection."""
    name = f"below-{one.origin[:5]}-{code}"
    first = send(one, f"/hold?name={name}")  # stream 1
    await good(one, f"/wait/{name}:started")  # stream 3
    later = [send(one, f"/hold?name={name}{number}") for number in range(3)]  # streams 5, 7, 9
    await good(one, f"/wait/{name}2:started")
    events = Events(one)
    send(one, f"/goaway?code={code}&last=1&once={name}")
    await events.wait("connect")
    for number in range(3):
        await good(one, f"/set/{name}{number}")
    for recorder in later:
        assert (await recorder.wait()).body == b"held"
        assert recorder.starts == 2
    await good(one, f"/set/{name}")
    await first.wait()
    assert first.starts == 1
    assert first.body == b"held" or isinstance(first.error, dodici.HTTP2Error), first.summary()


async def test_a_post_above_the_last_stream_is_sent_again(one: Any) -> None:
    name = f"post-{one.origin[:5]}"
    await good(one, "/get")
    recorder = send(one, f"/hold?name={name}", method="POST", body=b"once")
    await good(one, f"/wait/{name}:started")
    events = Events(one)
    send(one, f"/goaway?last=1&once={name}")
    await events.wait("connect")
    await good(one, f"/set/{name}")
    assert (await recorder.wait()).body == b"held"
    assert recorder.starts == 2


@pytest.mark.parametrize("code", [0, 1, 2, 11, 13])
async def test_a_destroyed_session(one: Any, code: int) -> None:
    await good(one, "/get")
    recorder = await fetch(one, f"/destroy?code={code}", method="POST", body=b"x")
    assert isinstance(recorder.error, dodici.SocketError)
    assert recorder.starts == 1
    assert (await good(one, "/get")).body == b"hello"


async def test_a_tcp_reset(one: Any) -> None:
    await good(one, "/get")
    recorder = await fetch(one, "/cut", method="POST", body=b"x")
    assert isinstance(recorder.error, dodici.SocketError)
    assert (await good(one, "/get")).body == b"hello"


async def test_a_lost_connection_fails_every_stream(one: Any) -> None:
    name = f"lost-{one.origin[:5]}"
    held = [send(one, f"/drip?name={name}") for _ in range(10)]
    for recorder in held:
        await recorder.reached("on_response_start")
    await fetch(one, "/cut", method="POST", body=b"x")
    for recorder in held:
        assert isinstance((await recorder.wait()).error, dodici.SocketError)
    assert one.stats.running == 0


@pytest.mark.parametrize("streams", [1, 3, 100])
@pytest.mark.parametrize("mode", MODES)
async def test_max_concurrent_streams(node_with: Any, ca: str, mode: str, streams: int) -> None:
    server = node_with(maxConcurrentStreams=streams)
    async with client(server, mode, ca) as one:
        recorders = [send(one, f"/bytes/{number}") for number in range(300)]
        for number, recorder in enumerate(recorders):
            assert (await recorder.wait(30)).body == pattern(number)
        said = await told(one, "/stats")
        assert said["connections"] == 1
        assert 1 <= said["most"] <= streams
        assert sum(recorder.starts for recorder in recorders) == 300


async def test_streams_that_are_forbidden_and_allowed_again(node_with: Any, ca: str) -> None:
    server = node_with(maxConcurrentStreams=2)
    async with client(server, "h2c", ca) as one, client(server, "h2c", ca) as other:
        holder = send(one, "/hold?name=more")
        await good(other, "/wait/more:started")
        assert (await good(one, "/settings?maxConcurrentStreams=1")).body == b"applied"
        waiting = send(one, "/get")
        await good(other, "/get")
        assert waiting.starts == 0
        await good(other, "/set/more")
        assert (await holder.wait()).body == b"held"
        assert (await waiting.wait()).body == b"hello"


async def test_no_streams_at_all(node_with: Any, ca: str) -> None:
    server = node_with(maxConcurrentStreams=0)
    async with client(server, "h2c", ca, headers_timeout=0.3) as one:
        recorder = await fetch(one, "/get")
        assert isinstance(recorder.error, dodici.DodiciError)
        assert recorder.error.request_not_processed


@pytest.mark.parametrize("window", [0, 1, 333])
@pytest.mark.parametrize("mode", MODES)
async def test_windows_that_grow(node_with: Any, ca: str, mode: str, window: int) -> None:
    """An upload waits for the window, and another request's SETTINGS open it for all streams."""
    server = node_with(initialWindowSize=window)
    async with client(server, mode, ca) as one:
        upload = send(one, "/digest", method="POST", body=streamed(500_000))
        assert (await good(one, "/settings?initialWindowSize=100000")).body == b"applied"
        recorder = await upload.wait(20)
        assert recorder.error is None, recorder.summary()
        assert sha256(500_000).encode() in recorder.body


async def test_a_window_that_shrinks_below_zero(node_with: Any, ca: str) -> None:
    server = node_with(initialWindowSize=50_000)
    async with client(server, "h2c", ca) as one:
        for number in range(10):
            upload = send(one, "/digest", method="POST", body=streamed(300_000))
            for size in (10, 60_000, 1, 40_000):
                await good(one, f"/settings?initialWindowSize={size}")
            recorder = await upload.wait(20)
            assert sha256(300_000).encode() in recorder.body, number


@pytest.mark.parametrize("size", [0, 1, 100, 65_536])
async def test_the_table_of_fields_changes(node_with: Any, ca: str, size: int) -> None:
    async with client(node_with(headerTableSize=4096), "h2c", ca) as one:
        for number in range(30):
            if number % 10 == 5:
                await good(one, f"/settings?headerTableSize={size if number == 15 else 4096}")
            value = f"{number}-" * 20
            pairs = await told(
                one, "/fields", headers={"x-mine": value, "x-same": "same", f"x-{number}": value}
            )
            assert ["x-mine", value] in pairs
            assert ["x-same", "same"] in pairs


async def test_websockets_where_they_are_not_offered(node_with: Any, ca: str) -> None:
    async with client(node_with(enableConnectProtocol=False), "h2c", ca) as one:
        recorder = await fetch(one, "/echo", upgrade="websocket")
        assert isinstance(recorder.error, dodici.NotSupportedError)
        assert (await good(one, "/get")).body == b"hello"


async def test_a_head_above_the_servers_limit(node_with: Any, ca: str) -> None:
    async with client(node_with(maxHeaderListSize=1000), "h2c", ca) as one:
        await good(one, "/get")
        recorder = await fetch(one, "/get", headers={"x-large": "v" * 2000})
        assert isinstance(recorder.error, dodici.HeadersOverflowError)
        assert recorder.error.request_not_processed
        assert (await good(one, "/get")).body == b"hello"


async def test_close_waits_and_destroy_does_not(node_h2: Node, ca: str) -> None:
    name = "closing"
    async with client(node_h2, "tls", ca) as other:
        closing = pool(node_h2, "tls", ca)
        held = send(closing, f"/hold?name={name}")
        await good(other, f"/wait/{name}:started")
        task = asyncio.ensure_future(closing.close())
        await good(other, f"/set/{name}")
        async with asyncio.timeout(10):
            await task
        assert (await held.wait()).body == b"held"

        destroyed = pool(node_h2, "tls", ca)
        held = send(destroyed, "/hold?name=destroying")
        await good(other, "/wait/destroying:started")
        async with asyncio.timeout(10):
            await destroyed.destroy()
        assert isinstance((await held.wait()).error, dodici.ClientDestroyedError)


@pytest.mark.parametrize("mode", MODES)
async def test_a_server_that_is_killed(node_with: Any, ca: str, mode: str) -> None:
    server = node_with()
    async with client(server, mode, ca) as one:
        held = [send(one, "/drip?name=never") for _ in range(5)]
        for recorder in held:
            await recorder.reached("on_response_start")
        server.kill()
        for recorder in held:
            assert isinstance((await recorder.wait()).error, dodici.SocketError)
        assert isinstance((await fetch(one, "/get")).error, dodici.ConnectionRefused)

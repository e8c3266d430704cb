"""Upgrades through the collective to an origin that speaks something else on its connection: bytes, whatever they mean."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from tests.collective.http.http_kit import NAMESPACE, ORIGIN, TIMEOUT, at_rest, entrance
from tests.collective.http.websocket_kit import at_a_standstill

from dodici import Agent
from dodici.collective import Collector
from dodici.core.errors import SocketError
from dodici.testing import PeerConnection, RecordingHandler, ScriptedPeer

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo/1\r\nx-a: 1\r\n\r\n"


@asynccontextmanager
async def path(script: Any) -> AsyncIterator[Any]:
    """A way to an origin that does what a script says, one hop away: `agent`, `rest()`."""
    async with (
        ScriptedPeer(script) as peer,
        Agent() as onward,
        Collector("b", "127.0.0.1:0", namespaces=[NAMESPACE]) as b,
    ):
        b.register_origin(NAMESPACE, "api", peer.origin, dispatcher=onward)
        async with entrance(b.address) as (entry, agent):

            async def rest() -> None:
                await at_rest(entry, b)
                async with asyncio.timeout(TIMEOUT):
                    while agent._branches[0]._interceptor.lasting:
                        await asyncio.sleep(0.005)

            yield SimpleNamespace(agent=agent, rest=rest, entry=entry, b=b)
            await rest()


async def opened(way: Any, **options: Any) -> Any:
    async with asyncio.timeout(TIMEOUT):
        return await way.agent.upgrade(f"{ORIGIN}/there", "echo/1", headers={"x-b": "2"}, **options)


async def test_bytes_both_ways_and_an_end_of_each() -> None:
    heads: list[Any] = []

    async def script(connection: PeerConnection) -> None:
        heads.append(await connection.read_request())
        await connection.send(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + SWITCH + b"early")
        assert await connection.read_exactly(5) == b"hello"
        await connection.send(b"x" * 300_000)
        await connection.read_eof()
        await connection.send(b"last words")
        connection.close()

    async with path(script) as way:
        hints: list[tuple[int, str]] = []
        headers, socket, status = await opened(
            way, on_info=lambda status, headers: hints.append((status, headers["link"]))
        )
        assert hints == [(103, "</a>")]
        assert (status, headers["x-a"]) == (101, "1")
        assert (headers["upgrade"], headers["connection"]) == ("echo/1", "Upgrade")
        [head] = heads
        assert (head.method, head.target) == ("GET", "/there")
        assert (head.headers["upgrade"], head.headers["x-b"]) == ("echo/1", "2")
        assert await socket.read_exactly(5) == b"early"
        await socket.write(b"hello")
        assert await socket.read_exactly(300_000) == b"x" * 300_000
        socket.write_eof()
        assert await socket.read() == b"last words"
        socket.close()
        await socket.wait_closed()


async def test_the_origin_ends_first_and_is_still_written_to() -> None:
    got: list[bytes] = []

    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(SWITCH)
        connection.half_close()
        got.append(await connection.read_exactly(4))
        await connection.read_eof()

    async with path(script) as way:
        socket = (await opened(way)).socket
        assert await socket.read() == b""
        await socket.write(b"more")
        socket.close()
        await socket.wait_closed()
        await way.rest()
    assert got == [b"more"]


async def test_a_connection_that_is_reset() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(SWITCH)
        await connection.read_exactly(2)
        connection.reset()

    async with path(script) as way:
        socket = (await opened(way)).socket
        await socket.write(b"go")
        with pytest.raises(SocketError):
            await socket.read()
        socket.close()


async def test_abort_is_the_end_for_the_origin() -> None:
    ended = asyncio.Event()

    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(SWITCH)
        await connection.closed()
        ended.set()

    async with path(script) as way:
        socket = (await opened(way)).socket
        socket.abort()
        async with asyncio.timeout(TIMEOUT):
            await ended.wait()


async def test_a_refusal_is_a_response() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 426 Upgrade Required\r\ncontent-length: 6\r\nx-a: 1\r\n\r\nnot so")

    async with path(script) as way:
        recorder = RecordingHandler()
        recorder.dispatch(way.agent, {"origin": ORIGIN, "path": "/", "upgrade": "echo/1"})
        await recorder.wait()
        assert (recorder.error, recorder.status_code, recorder.body) == (None, 426, b"not so")
        assert recorder.headers is not None
        assert recorder.headers["x-a"] == "1"


async def test_what_is_not_read_holds_up_the_origin() -> None:
    progress = SimpleNamespace(sent=0)

    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(SWITCH)
        for _ in range(400):
            await connection.send(bytes(100_000))
            progress.sent += 1
        connection.close()

    async with path(script) as way:
        socket = (await opened(way)).socket
        await at_a_standstill(progress)
        assert progress.sent < 300
        total = 0
        async with asyncio.timeout(TIMEOUT):
            async for chunk in socket:
                total += len(chunk)
        assert total == 40_000_000
        socket.close()


async def test_what_the_origin_does_not_read_holds_up_the_writer() -> None:
    release = asyncio.Event()
    progress = SimpleNamespace(sent=0)

    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(SWITCH)
        await release.wait()
        left = 40_000_000
        while left:
            left -= len(await connection.read_some())
        await connection.send(b"all")
        await connection.read_eof()

    async with path(script) as way:
        socket = (await opened(way)).socket

        async def write() -> None:
            for _ in range(400):
                await socket.write(bytes(100_000))
                progress.sent += 1

        writing = asyncio.create_task(write())
        await at_a_standstill(progress)
        assert progress.sent < 300
        assert socket.transport.get_write_buffer_size() < 300_000
        release.set()
        async with asyncio.timeout(TIMEOUT):
            await writing
            assert await socket.read_exactly(3) == b"all"
        socket.close()
        await socket.wait_closed()


async def test_a_writer_that_is_held_up_and_does_not_read_learns_of_the_loss() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(SWITCH)
        while not connection.lost:
            await connection.send(bytes(100_000))

    async with path(script) as way:
        socket = (await opened(way)).socket
        progress = SimpleNamespace(sent=0)

        async def write() -> None:
            while True:
                await socket.write(bytes(100_000))
                progress.sent += 1

        writing = asyncio.create_task(write())
        await at_a_standstill(progress)
        await way.b.stop(0.0)
        async with asyncio.timeout(TIMEOUT):
            with pytest.raises(SocketError):
                await writing
        socket.close()

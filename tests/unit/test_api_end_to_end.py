"""The API over a real connection: what the fake dispatcher cannot show."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import dodici
from dodici.core.errors import RequestTimeoutError, SocketError

Script = Callable[[str, bytes, "Writer"], Any]


class Writer:
    """The server's side of a connection."""

    def __init__(self, writer: asyncio.StreamWriter, over: asyncio.Event) -> None:
        self.write = writer.write
        self.drain = writer.drain
        self.over = over
        """Set at the end of the test."""


async def read_request(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    length = re.search(r"content-length: *(\d+)", text, re.IGNORECASE)
    if length:
        return text, await reader.readexactly(int(length[1]))
    body = b""
    if "transfer-encoding: chunked" in text.lower():
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    return text, body


@contextlib.asynccontextmanager
async def serving(answer: Script) -> AsyncIterator[tuple[dodici.Agent, str]]:
    """An agent and the URL of a server that answers every request with `answer`."""

    over = asyncio.Event()
    tasks = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        ours = Writer(writer, over)
        try:
            while True:
                text, body = await read_request(reader)
                done = answer(text, body, ours)
                if done is not None:
                    await done
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    agent = dodici.Agent()
    try:
        yield agent, url
    finally:
        await agent.destroy()
        over.set()
        server.close()
        await server.wait_closed()
        if tasks:
            await asyncio.wait(tasks)


def plain(body: bytes, head: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {head}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def echo(text: str, body: bytes, writer: Writer) -> None:
    writer.write(plain(text.encode("latin-1") + body))


async def never(text: str, body: bytes, writer: Writer) -> None:
    await writer.over.wait()


async def settled(agent: Any, url: str) -> None:
    """Nothing is pending or running any more."""
    for _ in range(100):
        stats = agent.stats.get(url)
        if stats is None or stats.pending == stats.running == 0:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(stats)


async def test_a_request_of_each_kind() -> None:
    async with serving(echo) as (agent, url):
        text = await (await agent.request(f"{url}/a b", params={"ü": 1})).text()
        assert text.startswith("GET /a%20b?%C3%BC=1 HTTP/1.1\r\n")
        text = await (await agent.request(url, json={"a": None})).text()
        assert "content-type: application/json\r\n" in text
        assert text.endswith('\r\n\r\n{"a":null}')
        response = await agent.request(url, files={"f": io.BytesIO(b"data")}, form={"a": "1"})
        text = await response.text()
        assert re.search(r"content-length: \d+\r\n", text)
        assert "\r\n\r\ndata\r\n--" in text

        async def source() -> AsyncIterator[bytes]:
            yield b"one"
            yield b"two"

        response = await agent.request(url, files={"f": source()})
        assert "onetwo" in await response.text()
        response = await agent.request(url, body=source(), method="POST")
        assert (await response.text()).endswith("\r\n\r\nonetwo")
        assert response.http_version == "1.1"
        await settled(agent, url)


async def test_the_connection_is_used_again_after_each_way_of_reading() -> None:
    connections = set()

    def answer(text: str, body: bytes, writer: Writer) -> None:
        connections.add(id(writer))
        writer.write(plain(b"x" * 100_000))

    async with serving(answer) as (agent, url):
        for _ in range(3):
            assert len(await (await agent.request(url)).bytes()) == 100_000
            await (await agent.request(url)).dump()
            async with agent.stream("GET", url) as response:
                assert sum([len(chunk) async for chunk in response]) == 100_000
        assert len(connections) == 1


@pytest.mark.parametrize("seconds", [0.02, 0.1])
async def test_cancelling_leaves_nothing_behind(seconds: float) -> None:
    async def slow(text: str, body: bytes, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nx")
        await writer.over.wait()

    for answer in (never, slow):
        async with serving(answer) as (agent, url):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(seconds):
                    await (await agent.request(url)).bytes()
            await settled(agent, url)


async def test_cancelled_while_queued() -> None:
    async with serving(never) as (_, url), dodici.Client(url) as client:
        tasks = [asyncio.ensure_future(client.request("/")) for _ in range(5)]
        await asyncio.sleep(0.02)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
        assert client.size == 0


async def test_a_total_timeout_covers_the_body() -> None:
    async def slow(text: str, body: bytes, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nx")
        await writer.over.wait()

    async with serving(slow) as (agent, url):
        response = await agent.request(url, timeout=0.1)
        with pytest.raises(RequestTimeoutError):
            await response.bytes()
        await settled(agent, url)


async def test_a_dropped_response_frees_its_connection() -> None:
    async def slow(text: str, body: bytes, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nx")
        await writer.over.wait()

    async with serving(slow) as (agent, url):
        await agent.request(url)
        gc.collect()
        await settled(agent, url)


async def test_a_paused_download_is_bounded() -> None:
    sent = 0

    async def endless(text: str, body: bytes, writer: Writer) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
        while True:
            writer.write(bytes(64 * 1024))
            await writer.drain()
            sent += 64 * 1024

    async with serving(endless) as (agent, url):
        async with agent.stream("GET", url) as response:
            await asyncio.sleep(0.1)
            assert response.body.bytes_read < 1024 * 1024
            total = 0
            async for chunk in response:
                total += len(chunk)
                if total > 10_000_000:
                    break
        await settled(agent, url)
    assert sent < 100_000_000


async def test_pipeline() -> None:
    async with serving(echo) as (agent, url), agent.pipeline(f"{url}/x") as duplex:
        await duplex.write(b"one ")
        await duplex.write(b"two")
        await duplex.end()
        assert (await duplex.response).status_code == 200
        assert b"".join([chunk async for chunk in duplex]).endswith(b"one two")
        await settled(agent, url)


async def test_upgrade_and_connect() -> None:
    async def answer(text: str, body: bytes, writer: Writer) -> None:
        if "refuse" in text:
            writer.write(plain(b"no", "403 Forbidden"))
        elif text.startswith("CONNECT"):
            writer.write(b"HTTP/1.1 200 OK\r\n\r\nearly")
        else:
            writer.write(b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: foo\r\n\r\nearly")

    async with serving(answer) as (agent, url):
        for result in (await agent.upgrade(url, protocol="foo"), await agent.connect(url, path="h:1")):
            assert await result.socket.read_exactly(5) == b"early"
            result.socket.close()
            await result.socket.wait_closed()
        with pytest.raises(SocketError, match="bad upgrade") as caught:
            await agent.upgrade(f"{url}/refuse", protocol="foo")
        assert caught.value.status_code == 403
        with pytest.raises(SocketError, match="403 Forbidden"):
            await agent.connect(url, path="refuse:1")
        await settled(agent, url)


async def test_composed_and_global() -> None:
    from dodici import interceptors

    async with serving(lambda text, body, writer: writer.write(plain(b"no", "500 Oops"))) as (agent, url):
        composed = agent.compose(interceptors.response_error())
        with pytest.raises(dodici.ResponseError):
            await composed.request(url)
        dodici.set_global_dispatcher(agent)
        try:
            assert (await dodici.get(url)).status_code == 500
        finally:
            dodici.set_global_dispatcher(None)

"""The same conversations with servers that are not ours."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.interop.conftest import LARGE, Server
from tests.peers.kit import Events, fetch, send

import dodici
from dodici.testing import RecordingHandler, pattern

pytestmark = pytest.mark.interop


@pytest_asyncio.fixture
async def pool(server: Server, client_tls: Any) -> AsyncIterator[dodici.Pool]:
    pool = dodici.Pool(server.origin, connect={"ssl_context": client_tls})
    yield pool
    await pool.destroy()


async def test_get(server: Server, pool: Any) -> None:
    recorder = await fetch(pool, server.paths["get"])
    assert recorder.error is None
    assert (recorder.status_code, recorder.body) == (200, b"hello")


async def test_head(server: Server, pool: Any) -> None:
    for _ in range(2):
        recorder = await fetch(pool, server.paths["get"], method="HEAD")
        assert recorder.error is None
        assert recorder.body == b""
        if server.name != "aiohttp":
            assert recorder.status_code == 200
    assert (await fetch(pool, server.paths["get"])).body == b"hello"


@pytest.mark.parametrize("size", [0, 1, 100_000, 2 << 20])
async def test_echo(server: Server, pool: Any, size: int) -> None:
    recorder = await fetch(pool, server.paths["echo"], method="POST", body=pattern(size))
    assert recorder.error is None
    assert recorder.body == pattern(size)


async def test_chunked_upload(server: Server, pool: Any) -> None:
    async def body() -> AsyncIterator[bytes]:
        for at in range(0, 300_000, 30_000):
            yield pattern(30_000, at)
            await asyncio.sleep(0)

    recorder = await fetch(pool, server.paths["echo"], method="POST", body=body())
    assert recorder.error is None
    assert recorder.body == pattern(300_000)
    assert (await fetch(pool, server.paths["get"])).body == b"hello"


async def test_204(server: Server, pool: Any) -> None:
    for _ in range(2):
        recorder = await fetch(pool, server.paths["204"])
        assert recorder.error is None
        assert (recorder.status_code, recorder.body) == (204, b"")


async def test_redirect_is_a_response(server: Server, pool: Any) -> None:
    recorder = await fetch(pool, server.paths["redirect"])
    assert recorder.status_code == 302
    assert recorder.headers is not None
    assert "location" in recorder.headers


async def test_large_download_with_pauses(server: Server, pool: Any) -> None:
    loop = asyncio.get_running_loop()
    pauses = 0

    def hold(controller: Any, _: bytes) -> None:
        nonlocal pauses
        pauses += 1
        controller.pause()
        loop.call_soon(loop.call_soon, controller.resume)

    recorder = RecordingHandler(keep_body=server.name == "httpbin", on_response_data=hold)
    await send(pool, server.paths["large"], recorder).wait(30)
    assert recorder.error is None
    if server.name == "httpbin":
        # Its own alphabet, in chunks.
        assert recorder.body == (b"abcdefghijklmnopqrstuvwxyz" * 4000)[:102400]
    else:
        assert recorder.body_size == LARGE
        assert recorder.digest == hashlib.sha256(pattern(LARGE)).hexdigest()
    assert pauses == recorder.count("on_response_data")


async def test_keep_alive(server: Server, client_tls: Any) -> None:
    async with dodici.Client(server.origin, connect={"ssl_context": client_tls}) as client:
        events = Events(client)
        for _ in range(20):
            assert (await fetch(client, server.paths["get"])).body == b"hello"
        assert events.count("connect") == (1 if server.keeps_alive else 20)


async def test_pipelining(server: Server, client_tls: Any) -> None:
    if not server.keeps_alive:
        pytest.skip(f"{server.name} here closes after each response")
    async with dodici.Client(server.origin, connect={"ssl_context": client_tls}, pipelining=10) as client:
        recorders = [send(client, server.paths["get"], blocking=False) for _ in range(50)]
        for recorder in recorders:
            assert (await recorder.wait()).body == b"hello"


async def test_50_at_once(server: Server, pool: Any) -> None:
    recorders = [send(pool, server.paths["get"]) for _ in range(50)]
    for recorder in recorders:
        assert (await recorder.wait(30)).body == b"hello"
    assert pool.stats.size == 0


async def test_expect_continue(server: Server, pool: Any) -> None:
    recorder = await fetch(
        pool, server.paths["echo"], method="POST", body=pattern(50_000), expect_continue=True
    )
    assert recorder.error is None
    assert recorder.body == pattern(50_000)
    # Werkzeug says it twice.
    assert {status for status, _ in recorder.informational} == {100}


async def test_abort_in_mid_body(server: Server, pool: Any) -> None:
    recorder = RecordingHandler(on_response_data=lambda controller, _: controller.abort())
    await send(pool, server.paths["large"], recorder).wait()
    assert isinstance(recorder.error, dodici.RequestAbortedError)
    assert (await fetch(pool, server.paths["get"])).body == b"hello"


@pytest.mark.parametrize("server", ["nginx-tls", "node-tls", "uvicorn-tls"], indirect=True)
async def test_unknown_authority_is_refused(server: Server) -> None:
    async with dodici.Client(server.origin) as client:
        recorder = await fetch(client, server.paths["get"])
        assert recorder.names == ["response_error"]
        assert isinstance(recorder.error, dodici.TLSError)


@pytest.mark.parametrize("server", ["nginx-tls", "node-tls", "uvicorn-tls"], indirect=True)
async def test_wrong_name_is_refused(server: Server, client_tls: Any) -> None:
    async with dodici.Client(server.origin, connect={"ssl_context": client_tls}) as client:
        recorder = await fetch(client, server.paths["get"], server_name="example.com")
        assert isinstance(recorder.error, dodici.TLSError)
        recorder = await fetch(client, server.paths["get"], server_name="localhost")
        assert recorder.body == b"hello"


async def test_httpbin_through_the_verbs(httpbin: Server) -> None:
    async with dodici.Agent() as agent:
        response = await agent.request(
            httpbin.origin + "/post", method="POST", json={"a": 1}, query={"q": "x"}
        )
        told = await response.json()
        assert (told["json"], told["args"]) == ({"a": 1}, {"q": "x"})
        response = await agent.request(httpbin.origin + "/basic-auth/user/secret", auth=("user", "secret"))
        assert response.status_code == 200
        await response.dump()
        async with agent.stream("GET", httpbin.origin + "/stream/5") as response:
            lines = b"".join([chunk async for chunk in response.body]).splitlines()
        assert len(lines) == 5

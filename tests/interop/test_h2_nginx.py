"""nginx over HTTP/2: files, its limits and settings, connections that it gives up, and ALPN."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.interop.h2_kit import MODES, UPLOAD, client, good, pausing, pool, sha256, streamed, told
from tests.peers.h2_peers import MEBIBYTE, Nginx
from tests.peers.kit import Events, fetch, send

import dodici
from dodici.testing import RecordingHandler, pattern

pytestmark = pytest.mark.interop


@pytest_asyncio.fixture(params=MODES)
async def one(request: pytest.FixtureRequest, nginx_h2: Nginx, ca: str) -> AsyncIterator[dodici.Client]:
    made = client(nginx_h2, request.param, ca)
    yield made
    await made.destroy()


@pytest.fixture
def nginx_with(
    tmp_path: Path, certificate: tuple[str, str], application: str
) -> Iterator[Callable[[str], Nginx]]:
    """Starts an nginx with these directives."""
    with ExitStack() as stack:
        yield lambda settings: stack.enter_context(
            Nginx(tmp_path / "nginx", certificate, application, settings)
        )


async def test_it_speaks_http2(one: Any) -> None:
    recorder = await good(one, "/fields", headers={"x-field": "mine"})
    assert recorder.body == b"|mine|HTTP/2.0|127.0.0.1"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_file(one: Any, method: str) -> None:
    recorder = await good(one, "/1m", method=method)
    assert recorder.headers is not None
    assert recorder.headers["content-length"] == str(MEBIBYTE)
    assert recorder.body == (pattern(MEBIBYTE) if method == "GET" else b"")


async def test_a_range(one: Any) -> None:
    recorder = await fetch(one, "/1m", headers={"range": "bytes=1000-70999"})
    assert (recorder.status_code, recorder.body) == (206, pattern(70_000, 1000))


async def test_100_mib(one: Any) -> None:
    recorder = RecordingHandler(keep_body=False)
    await send(one, "/100m", recorder).wait(50)
    assert recorder.error is None
    assert recorder.body_size == 100 * MEBIBYTE
    assert recorder.digest == hashlib.sha256(bytes(100 * MEBIBYTE)).hexdigest()


async def test_download_with_pauses(one: Any) -> None:
    recorder = pausing()
    await send(one, "/1m", recorder).wait()
    assert recorder.body == pattern(MEBIBYTE)


async def test_a_paused_download_does_not_hold_up_others(one: Any) -> None:
    recorder = RecordingHandler(keep_body=False, on_response_data=lambda controller, _: controller.pause())
    send(one, "/100m", recorder)
    await recorder.received(1)
    held = recorder.body_size
    for _ in range(20):
        assert (await good(one, "/1m")).body == pattern(MEBIBYTE)
    assert recorder.body_size == held
    recorder.controller.abort()
    assert isinstance((await recorder.wait()).error, dodici.RequestAbortedError)


async def test_cookies_arrive_as_one_field(one: Any) -> None:
    cookies = "; ".join(f"name{number}=value{number}" for number in range(20))
    assert (await good(one, "/fields", headers={"cookie": cookies})).body.startswith(cookies.encode() + b"|")


async def test_many_different_fields(one: Any) -> None:
    """The tables of both sides stay the same while entries are evicted."""
    for number in range(300):
        value = f"{number:04d}" * 25
        recorder = await good(one, "/fields", headers={"x-field": value, f"x-{number}": value})
        assert recorder.body == f"|{value}|HTTP/2.0|127.0.0.1".encode()


async def test_a_head_that_nginx_refuses(one: Any) -> None:
    await good(one, "/get")
    recorder = await fetch(one, "/get", headers={f"x-{number}": "v" * 4000 for number in range(20)})
    # Which of both depends on the version: an answer, or the end of the connection with an error that says why.
    if recorder.error is None:
        assert recorder.status_code in (400, 431, 494)
    else:
        assert isinstance(recorder.error, dodici.HTTP2Error)
        assert recorder.error.error_code != 0
    assert (await good(one, "/get")).body == b"hello"


async def test_a_body_that_nginx_refuses(nginx_with: Any, ca: str) -> None:
    server = nginx_with("")
    # The limit is nginx's 200m: what the request announces is refused, before it is sent.
    async with client(server, "tls", ca) as one:
        recorder = await fetch(
            one,
            "/echo",
            method="POST",
            body=streamed(1 << 20),
            headers={"content-length": str(300 << 20)},
        )
        assert recorder.status_code == 413 or recorder.error is not None
        assert (await good(one, "/get")).body == b"hello"


@pytest.mark.parametrize("mode", MODES)
async def test_goaway_after_some_requests(nginx_with: Any, ca: str, mode: str) -> None:
    """nginx ends a connection after `keepalive_requests`; nobody notices."""
    async with pool(nginx_with("keepalive_requests 10;"), mode, ca, connections=2) as several:
        events = Events(several)
        recorders = [send(several, "/get") for _ in range(200)]
        for recorder in recorders:
            await recorder.wait(20)
        assert [each.summary() for each in recorders if each.error or each.body != b"hello"] == []
        assert events.count("connect") >= 20


@pytest.mark.parametrize("mode", MODES)
async def test_goaway_in_between(nginx_with: Any, ca: str, mode: str) -> None:
    async with client(nginx_with("keepalive_requests 10;"), mode, ca) as one:
        events = Events(one)
        for number in range(35):
            assert (await good(one, f"/bytes/{number}")).body == pattern(number)
        assert events.count("connect") == 4


@pytest.mark.parametrize("streams", [1, 3, 100])
@pytest.mark.parametrize("mode", MODES)
async def test_max_concurrent_streams(nginx_with: Any, ca: str, mode: str, streams: int) -> None:
    server = nginx_with(f"http2_max_concurrent_streams {streams};")
    async with client(server, mode, ca) as one:
        events = Events(one)
        recorders = [send(one, f"/bytes/{number}") for number in range(300)]
        for number, recorder in enumerate(recorders):
            assert (await recorder.wait(30)).body == pattern(number)
        assert events.count("connect") == 1
        assert sum(recorder.starts for recorder in recorders) == 300


@pytest.mark.parametrize("preread", [0, 1, 333])
async def test_an_upload_into_a_small_initial_window(nginx_with: Any, ca: str, preread: int) -> None:
    """`http2_body_preread_size` is the window that nginx begins with."""
    server = nginx_with(f"http2_body_preread_size {preread};")
    async with client(server, "tls", ca) as one:
        said = await told(one, "/echo", method="POST", body=streamed(1_000_000))
        assert said["sha256"] == sha256(1_000_000)
        said = await told(one, "/echo", method="POST", body=pattern(UPLOAD))
        assert said["sha256"] == sha256(UPLOAD)


async def test_small_frames(nginx_with: Any, ca: str) -> None:
    server = nginx_with("http2_chunk_size 100; sendfile off; output_buffers 2 4k;")
    async with client(server, "tls", ca) as one:
        for recorder in [send(one, "/1m") for _ in range(3)]:
            assert (await recorder.wait(20)).body == pattern(MEBIBYTE)


async def test_alpn_falls_back_to_http1(nginx_h2: Nginx, ca: str) -> None:
    async with dodici.Client(nginx_h2.http1_tls, allow_h2=True, connect={"ca": ca}) as one:
        recorder = await fetch(one, "/fields")
        assert recorder.body == b"||HTTP/1.1|127.0.0.1"
        assert recorder.controller.http_version == "1.1"


async def test_http2_is_not_spoken_where_it_is_not_allowed(nginx_h2: Nginx, ca: str) -> None:
    async with dodici.Client(nginx_h2.tls, allow_h2=False, connect={"ca": ca}) as one:
        assert (await fetch(one, "/fields")).body == b"||HTTP/1.1|127.0.0.1"


async def test_an_agent_speaks_both(nginx_h2: Nginx, ca: str) -> None:
    async with dodici.Agent(allow_h2=True, connect={"ca": ca}) as agent:
        for origin, version in (
            (nginx_h2.tls, "HTTP/2.0"),
            (nginx_h2.http1_tls, "HTTP/1.1"),
            (nginx_h2.tls, "HTTP/2.0"),
        ):
            response = await agent.request(origin + "/fields")
            assert await response.text() == f"||{version}|127.0.0.1"


@pytest.mark.parametrize("mode", MODES)
async def test_a_server_that_is_killed(nginx_with: Any, ca: str, mode: str) -> None:
    server = nginx_with("")
    async with client(server, mode, ca) as one:
        running = RecordingHandler(
            keep_body=False, on_response_start=lambda controller, *_: controller.pause()
        )
        send(one, "/100m", running)
        await running.reached("on_response_start")
        server.kill()
        running.controller.resume()
        assert isinstance((await running.wait()).error, dodici.SocketError)
        recorder = await fetch(one, "/get")
        assert isinstance(recorder.error, dodici.ConnectionRefused)


async def test_uploads_of_10_clients_at_once(nginx_h2: Nginx, ca: str) -> None:
    async with pool(nginx_h2, "tls", ca) as several:
        async with asyncio.timeout(40):
            said = await asyncio.gather(
                *(told(several, "/echo", method="POST", body=streamed(1 << 20, 77_777)) for _ in range(10))
            )
        assert {each["sha256"] for each in said} == {sha256(1 << 20)}

"""One application over HTTP/2, behind servers that are not ours: the same conversations with each of them.

Hypercorn and Granian run it themselves; nginx, h2o and HAProxy pass requests on to uvicorn. The conformance suite runs
against Hypercorn alone: Granian tells an app that gave up one receive() of a disconnect that was none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.interop.h2_kit import MODES, UPLOAD, client, good, pausing, pool, sha256, streamed, told
from tests.peers.kit import Events, fetch, send

import dodici
from dodici.testing import FEATURES, DispatcherConformance, RecordingHandler, Target, pattern

pytestmark = pytest.mark.interop

SERVERS = ["nginx_h2", "h2o", "haproxy", "granian", "hypercorn"]


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest_asyncio.fixture(params=MODES)
async def one(request: pytest.FixtureRequest, server: Any, ca: str) -> AsyncIterator[dodici.Client]:
    made = client(server, request.param, ca)
    yield made
    await made.destroy()


async def test_get(one: Any) -> None:
    recorder = await good(one, "/bytes/100000")
    assert recorder.body == pattern(100_000)


async def test_head(one: Any) -> None:
    recorder = await good(one, "/echo", method="HEAD")
    assert recorder.body == b""
    assert (await good(one, "/bytes/5")).body == pattern(5)


async def test_status_without_a_body(one: Any) -> None:
    for status in (204, 304):
        recorder = await fetch(one, f"/status/{status}")
        assert recorder.error is None
        assert (recorder.status_code, recorder.body) == (status, b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_methods(one: Any, method: str) -> None:
    said = await told(one, "/echo?a=%20b", method=method, body=pattern(70_000), headers={"x-mine": "1"})
    assert (said["method"], said["query"]) == (method, "a=%20b")
    assert (said["size"], said["sha256"]) == (70_000, sha256(70_000))
    assert ["x-mine", "1"] in said["headers"]


async def test_upload_of_known_length(one: Any) -> None:
    said = await told(one, "/echo", method="POST", body=pattern(UPLOAD))
    assert (said["size"], said["sha256"]) == (UPLOAD, sha256(UPLOAD))
    assert ["content-length", str(UPLOAD)] in said["headers"]


async def test_streamed_upload(one: Any) -> None:
    said = await told(one, "/echo", method="PUT", body=streamed(UPLOAD))
    assert (said["size"], said["sha256"]) == (UPLOAD, sha256(UPLOAD))


async def test_download_with_pauses(one: Any) -> None:
    recorder = pausing(keep_body=False)
    await send(one, "/stream/4000000", recorder).wait(30)
    assert recorder.error is None
    assert (recorder.body_size, recorder.digest) == (4_000_000, sha256(4_000_000))


async def test_100_at_once_on_one_connection(one: Any) -> None:
    events = Events(one)
    recorders = [send(one, f"/bytes/{1000 + number}") for number in range(100)]
    for number, recorder in enumerate(recorders):
        assert (await recorder.wait(30)).body == pattern(1000 + number)
    assert events.count("connect") == 1
    assert one.stats.size == 0


async def test_repeated_fields(one: Any) -> None:
    recorder = await good(one, "/repeated")
    assert recorder.headers is not None
    assert recorder.headers.get_list("set-cookie") == ["a=1", "b=2, c"]
    assert recorder.headers["x-many"] == "one, two"


async def test_an_abort_leaves_the_connection(one: Any) -> None:
    await good(one, "/bytes/5")
    events = Events(one)
    for _ in range(5):
        recorder = RecordingHandler(on_response_data=lambda controller, _: controller.abort())
        await send(one, "/stream/50000000", recorder).wait()
        assert isinstance(recorder.error, dodici.RequestAbortedError)
        assert (await good(one, "/bytes/5")).body == pattern(5)
    assert events.names == []


async def test_an_early_answer_to_an_upload(one: Any) -> None:
    recorder = await fetch(one, "/early", method="POST", body=pattern(3 << 20))
    assert recorder.error is None, recorder.summary()
    # A proxy whose upstream has closed in the middle of the upload may say so in place of the upstream's answer.
    proxied = recorder.status_code == 502 and b"nginx" in recorder.body
    assert proxied or (recorder.status_code, recorder.body) == (413, b"too large")
    assert (await good(one, "/bytes/5")).body == pattern(5)


async def test_expect_continue(one: Any, server: Any) -> None:
    said = await told(one, "/echo", method="POST", body=pattern(50_000), expect_continue=True)
    assert (said["size"], said["sha256"]) == (50_000, sha256(50_000))


async def test_several_uploads_and_downloads_at_once(one: Any) -> None:
    async with asyncio.timeout(30):
        ups = [told(one, "/echo", method="POST", body=streamed(500_000, 7777)) for _ in range(10)]
        downs = [good(one, "/stream/500000?chunk=9999") for _ in range(10)]
        for said in await asyncio.gather(*ups):
            assert said["sha256"] == sha256(500_000)
        for recorder in await asyncio.gather(*downs):
            assert recorder.body == pattern(500_000)


@pytest.mark.parametrize("mode", MODES)
async def test_trailers(hypercorn: Any, ca: str, mode: str) -> None:
    async with client(hypercorn, mode, ca) as one:
        for _ in range(3):
            recorder = await good(one, "/trailers", headers={"te": "trailers"})
            assert recorder.body == b"body"
            assert recorder.trailers is not None
            assert recorder.trailers["x-sum"] == "42"
            assert recorder.trailers.get_list("x-many") == ["one", "two"]


async def test_a_small_window(server: Any, ca: str) -> None:
    async with client(server, "tls", ca, initial_window_size=7, connection_window_size=65_535) as one:
        recorders = [send(one, "/bytes/700") for _ in range(5)]
        for recorder in recorders:
            assert (await recorder.wait(30)).body == pattern(700)


async def test_graceful_close(server: Any, ca: str) -> None:
    several = pool(server, "tls", ca)
    recorders = [send(several, "/bytes/200000") for _ in range(20)]
    async with asyncio.timeout(20):
        await several.close()
    for recorder in recorders:
        assert (await recorder.wait()).body == pattern(200_000)


class TestHypercorn(DispatcherConformance):
    @pytest_asyncio.fixture(params=MODES)
    async def target(self, request: pytest.FixtureRequest, hypercorn: Any, ca: str) -> AsyncIterator[Target]:
        dispatcher = pool(hypercorn, request.param, ca)
        origin = hypercorn.tls if request.param == "tls" else hypercorn.h2c
        # Its buffer of a blocked stream lets the app go on, and it sends trailers to whom asks with `te` only.
        yield Target(dispatcher, origin, features=FEATURES - {"backpressure", "trailers"})
        async with asyncio.timeout(10):
            await dispatcher.destroy()

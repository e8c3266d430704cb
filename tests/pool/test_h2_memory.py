"""What must stay small and be given back over HTTP/2, against servers that are not ours: paused downloads, an upload
that nobody takes, ten thousand requests on one connection, and twenty thousand that were given up.

The servers are processes of their own, so that their memory is not counted as ours. What a stream may hold is its
window, which waits in the connection, and what the response itself lets wait before it pauses.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
import trustme
from tests.peers.h2_peers import MEBIBYTE, Nginx, Node

from dodici import Pool, RequestAbortedError
from dodici.api.response import ResponseBody
from dodici.core.controller import Exchange
from dodici.net.h2_stream import H2Stream
from dodici.net.loop import services
from dodici.testing import pattern

SIZE = 100 * MEBIBYTE
STREAMS = 100
WAITS = 64 * 1024 + 16 * 1024
"""Bytes that a response lets wait before it pauses: its limit, and the frame that crosses it."""
ROUND = 10_000
ABORTED = 20_000

pytestmark = pytest.mark.perf


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("tls")
    leaf = authority.issue_cert("127.0.0.1")
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    key.write_bytes(leaf.private_key_pem.bytes())
    return str(chain), str(key)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, certificate: tuple[str, str]) -> Iterator[Node]:
    with Node(tmp_path_factory.mktemp("servers") / "node", certificate) as server:
        yield server


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory, certificate: tuple[str, str]) -> Iterator[Nginx]:
    nowhere = "http://127.0.0.1:1"
    settings = "keepalive_requests 1000000;"
    folder = tmp_path_factory.mktemp("servers") / "nginx"
    with Nginx(folder, certificate, nowhere, settings) as server:
        yield server


@pytest.fixture
def one_connection(authority: trustme.CA, tmp_path: Path) -> Callable[..., Pool]:
    """Makes pools of one connection over TLS."""
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))

    def make(origin: str, **options: Any) -> Pool:
        return Pool(origin, connections=1, connect={"ca": str(ca)}, **options)

    return make


def memory() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def grown(before: int) -> float:
    """MiB more than before."""
    return (memory() - before) / MEBIBYTE


def alive(*kinds: type) -> int:
    """Objects of these kinds that something still refers to."""
    gc.collect()
    return sum(type(each) in kinds for each in gc.get_objects())


def expected_digest(size: int) -> str:
    digest = hashlib.sha256()
    for at in range(0, size, MEBIBYTE):
        digest.update(pattern(MEBIBYTE, at))
    return digest.hexdigest()


async def digest_of(body: ResponseBody) -> str:
    digest = hashlib.sha256()
    async for chunk in body:
        digest.update(chunk)
    return digest.hexdigest()


async def all_at_rest(pool: Pool) -> None:
    """The counts are zero, and so is what is left of the pool when it has closed."""
    stats = pool.stats
    assert (stats.size, stats.pending, stats.queued, stats.running) == (0, 0, 0, 0)
    await pool.close()
    assert not pool.sockets
    assert len(services(asyncio.get_running_loop()).timers) == 0


async def test_a_paused_download_holds_little_and_holds_nobody_up(node: Node, one_connection: Any) -> None:
    pool = one_connection(node.tls)
    other = f"/bytes/{MEBIBYTE}"
    digest = expected_digest(MEBIBYTE)

    async def others(count: int) -> None:
        for _ in range(count):
            response = await pool.request(other)
            assert await digest_of(response.body) == digest

    await others(5)
    before = memory()
    async with pool.stream("GET", f"/bytes/{SIZE}") as response:
        assert response.http_version == "2"
        await asyncio.gather(*(others(5) for _ in range(4)))
        held = response.body.bytes_read
        assert 0 < held <= WAITS
        await others(5)
        assert response.body.bytes_read == held
        assert grown(before) < 4
        assert pool.stats.connected == 1
        assert await digest_of(response.body) == expected_digest(SIZE)
    assert grown(before) < 4
    await all_at_rest(pool)


@pytest.mark.parametrize("window", [64 * 1024, 512 * 1024])
async def test_one_of_a_hundred_downloads_goes_on_while_the_others_are_paused(
    nginx: Nginx, one_connection: Any, window: int
) -> None:
    pool = one_connection(nginx.tls, initial_window_size=window)
    await (await pool.request("/100m")).dump(SIZE)
    before = memory()
    async with AsyncExitStack() as stack:
        paused = [await stack.enter_async_context(pool.stream("GET", "/100m")) for _ in range(STREAMS - 1)]
        response = await pool.request("/100m")
        read = 0
        async for chunk in response.body:
            read += len(chunk)
        assert read == SIZE
        assert pool.stats.connected == 1
        assert pool.stats.running == STREAMS - 1
        assert all(0 < each.body.bytes_read <= WAITS for each in paused)
        assert grown(before) < (STREAMS - 1) * (window + WAITS) / MEBIBYTE + 4
    await all_at_rest(pool)


async def test_ten_thousand_requests_over_one_connection(nginx: Nginx, one_connection: Any) -> None:
    pool = one_connection(nginx.tls)
    connected = []
    pool.on("connect", lambda *_: connected.append(1))

    async def one() -> None:
        response = await pool.request("/get")
        assert response.status_code == 200
        assert await response.bytes() == b"hello"

    async def all_of_them() -> tuple[int, int]:
        await asyncio.gather(*(one() for _ in range(ROUND)))
        assert (pool.stats.size, pool.stats.queued, pool.stats.running) == (0, 0, 0)
        used = memory()
        return used, len(gc.get_objects())

    await all_of_them()
    second = await all_of_them()
    third = await all_of_them()
    assert third[1] - second[1] < 500, "objects are left behind by every round"
    assert third[0] - second[0] < 4 * MEBIBYTE, "memory is left behind by every round"
    assert len(connected) == 1
    await all_at_rest(pool)


@pytest.mark.parametrize("streamed", [True, False], ids=["generator", "bytes"])
async def test_an_upload_that_nobody_takes_holds_less_than_two_mebibytes(
    node: Node, one_connection: Any, streamed: bool
) -> None:
    pool = one_connection(node.tls)
    piece = bytes(64 * 1024)
    whole = bytes(SIZE)
    pulled = 0
    closed = asyncio.Event()

    async def source() -> AsyncIterator[bytes]:
        nonlocal pulled
        try:
            for _ in range(SIZE // len(piece)):
                pulled += len(piece)
                yield piece
        finally:
            closed.set()

    name = f"untaken-{streamed}-{id(pool)}"
    await (await pool.request("/get")).bytes()
    before = memory()
    upload = asyncio.create_task(
        pool.request(f"/hold?name={name}", method="POST", body=source() if streamed else whole)
    )
    await (await pool.request(f"/wait/{name}:started")).bytes()
    # The peer's window is full when others have had many turns, and none of them stands behind the upload.
    for _ in range(100):
        assert await (await pool.request("/get")).bytes() == b"hello"
    assert grown(before) < 2
    if streamed:
        assert 0 < pulled < MEBIBYTE
    assert not upload.done()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    if streamed:
        await closed.wait()
    await (await pool.request(f"/wait/{name}:closed:8")).bytes()
    await all_at_rest(pool)


class Aborting:
    """A handler that gives its exchange up at the head's arrival, at the first data, or when told to."""

    def __init__(self, ended: Callable[[BaseException | None], None], when: str) -> None:
        self.ended = ended
        self.when = when
        self.controller: Any = None

    def on_request_start(self, controller: Any, context: Any) -> None:
        self.controller = controller

    def on_response_start(self, controller: Any, status_code: int, headers: Any, status_message: str) -> None:
        assert self.when != "before", "the server was to be silent"
        if self.when == "head":
            controller.abort()

    def on_response_data(self, controller: Any, chunk: bytes) -> None:
        assert self.when == "body"
        controller.abort()

    def on_response_end(self, controller: Any, trailers: Any) -> None:
        self.ended(None)

    def on_response_error(self, controller: Any, error: BaseException) -> None:
        self.ended(error)


async def aborted_in_a_row(pool: Pool, path: str, when: str, count: int) -> list[BaseException | None]:
    """As many as the streams of the connection at a time, until it was enough. How each has ended."""
    results: list[BaseException | None] = []
    every = asyncio.Event()

    def ended(error: BaseException | None) -> None:
        results.append(error)
        if not len(results) % (STREAMS - 1):
            every.set()

    while len(results) < count:
        every.clear()
        handlers = [Aborting(ended, when) for _ in range(STREAMS - 1)]
        for handler in handlers:
            pool.dispatch({"method": "GET", "path": path}, handler)
        # One that is not given up, beside those that are: it stands behind them, and so they were sent.
        honest = await pool.request("/get")
        assert await honest.bytes() == b"hello"
        if when == "before":
            for handler in handlers:
                handler.controller.abort()
        await every.wait()
    return results


@pytest.mark.parametrize(
    ("server", "path", "when", "count"),
    [
        ("node", "/hold?name=never", "before", ABORTED // 2),
        ("nginx", "/100m", "head", ABORTED // 4),
        ("nginx", "/100m", "body", ABORTED // 4),
    ],
    ids=["node-before-the-head", "nginx-at-the-head", "nginx-in-the-body"],
)
async def test_requests_that_are_given_up_leave_nothing_behind(
    request: pytest.FixtureRequest, one_connection: Any, server: str, path: str, when: str, count: int
) -> None:
    # A small window, since the rest of each is sent in vain.
    pool = one_connection(request.getfixturevalue(server).tls, initial_window_size=16 * 1024)
    assert await (await pool.request("/get")).bytes() == b"hello"
    before = alive(H2Stream, Exchange)
    results = await aborted_in_a_row(pool, path, when, count)
    assert all(type(error) is RequestAbortedError for error in results)
    results.clear()
    assert alive(H2Stream, Exchange) == before
    assert len(services(asyncio.get_running_loop()).timers) == 1, "more than the connection's"
    assert await (await pool.request("/get")).bytes() == b"hello"
    await all_at_rest(pool)

"""What the tour does, step by step, through dodici's public API.

A step returns what happened, in one line, and raises `Broken` if that is not what it promises. Every step
can be read, and copied, by itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from tour_handlers import HELLO, MEBIBYTE, Download, Pinger, memory

import dodici
from dodici import interceptors


class Broken(Exception):
    """A step did not do what it promises."""


@dataclass(frozen=True)
class Stage:
    """What the steps work with.

    Attributes:
        origin: the server's.
        h2_origin: where it speaks HTTP/2, without TLS; None where it does not.
        size, sha256: of the large file.
        concurrent: requests at the same time.
        callers: those who send while workers come and go.
        rest: how long each of them waits between two requests, in seconds.
        seconds: how long a burst lasts.
        pool: 50 connections to the server.
        progress: `progress(total)` begins to show how far a download is; what it returns is told of each piece.
    """

    origin: str
    h2_origin: str | None
    size: int
    sha256: str
    concurrent: int
    callers: int
    rest: float
    seconds: float
    pool: dodici.Pool
    progress: Callable[[int], Any]

    @property
    def large(self) -> str:
        return f"{self.origin}/files/large.bin"


def check(true: object, message: str) -> None:
    if not true:
        raise Broken(message)


async def plain_requests(stage: Stage) -> tuple[str, str]:
    response = await dodici.get(stage.origin)
    check(response.status_code == 200 and await response.bytes() == HELLO, "GET / is not the 13 bytes")
    response = await dodici.post(f"{stage.origin}/app/echo", json={"size": 12}, timeout=10)
    echo = await response.json()
    check(echo["sha256"] == hashlib.sha256(b'{"size":12}').hexdigest(), f"another JSON arrived: {echo}")
    check(echo["content_type"] == "application/json", "the content-type of json= did not arrive")
    response = await dodici.head(stage.large)
    check(int(response.headers["content-length"]) == stage.size, "HEAD tells another length")
    response = await dodici.get(f"{stage.origin}/app/echo", params={"q": "dodici"}, raise_for_status=True)
    check((await response.json())["size"] == 0, "a GET had a body")
    return "GET, POST of JSON, HEAD, GET with a query: all as expected", ""


async def concurrent_requests(stage: Stage) -> tuple[str, str]:
    async def one(agent: dodici.Agent) -> bool:
        response = await agent.request(stage.origin)
        return response.status_code == 200 and await response.bytes() == HELLO

    began = time.perf_counter()
    async with dodici.Agent(connections=100) as agent:
        good = sum(await asyncio.gather(*[one(agent) for _ in range(stage.concurrent)]))
        took = time.perf_counter() - began
        connected = agent.stats[stage.origin].connected
    check(good == stage.concurrent, f"only {good} of {stage.concurrent} were answered with 200 and 13 bytes")
    return f"{good:,} of {stage.concurrent:,} answered 200 over {connected} connections", _rate(good, took)


async def burst_of_requests(stage: Stage) -> tuple[str, str]:
    url, pool = f"{stage.origin}/", stage.pool
    began = time.perf_counter()
    end = began + stage.seconds

    async def client() -> int:
        count = 0
        while time.perf_counter() < end:
            response = await pool.request(url)
            check(
                response.status_code == 200 and await response.bytes() == HELLO, "a wrong answer in the burst"
            )
            count += 1
        return count

    count = sum(await asyncio.gather(*[client() for _ in range(50)]))
    return f"request() on 50 connections: {count:,} right answers", _rate(count, time.perf_counter() - began)


async def burst_of_dispatches(stage: Stage) -> tuple[str, str]:
    options = dodici.DispatchOptions(path="/", method="GET")
    began = time.perf_counter()
    pingers = [Pinger(stage.pool, options, began + stage.seconds) for _ in range(50)]
    for pinger in pingers:
        stage.pool.dispatch(options, pinger)
    await asyncio.gather(*[pinger.finished for pinger in pingers])
    took = time.perf_counter() - began
    count, wrong = sum(p.count for p in pingers), sum(p.wrong for p in pingers)
    check(wrong == 0, f"{wrong} wrong answers in the burst")
    return f"dispatch() on 50 connections: {count:,} right answers", _rate(count, took)


async def download(stage: Stage) -> tuple[str, str]:
    digest, size, before = hashlib.sha256(), 0, memory()
    began = time.perf_counter()
    async with stage.pool.stream("GET", stage.large) as response:
        check(response.status_code == 200, f"status {response.status_code}")
        with stage.progress(response.body.content_length or 0) as advance:
            async for chunk in response.body:
                digest.update(chunk)
                size += len(chunk)
                advance(len(chunk))
    took = time.perf_counter() - began
    check(
        size == stage.size and digest.hexdigest() == stage.sha256, f"{size} bytes with another sha256 arrived"
    )
    grown = (memory() - before) / MEBIBYTE
    return (
        f"{_size(size)} streamed, sha256 {stage.sha256[:12]} as the file's, memory {grown:+.1f} MiB",
        _flow(size, took),
    )


async def upload(stage: Stage) -> tuple[str, str]:
    digest, size = hashlib.sha256(), 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal size
        noise = random.Random(34)
        while size < stage.size:
            piece = noise.randbytes(1 << 16)
            digest.update(piece)
            size += len(piece)
            yield piece  # the next one is asked for when the socket has room

    began = time.perf_counter()
    response = await stage.pool.request(f"{stage.origin}/app/echo", method="PUT", body=body())
    got = await response.json()
    took = time.perf_counter() - began
    check(size == stage.size, f"the generator was asked for {size} bytes only")
    check(
        got["size"] == size and got["sha256"] == digest.hexdigest(), f"the server got something else: {got}"
    )
    return f"{_size(size)} from an async generator, the server's sha256 {got['sha256'][:12]} agrees", _flow(
        size, took
    )


async def pause_and_resume(stage: Stage) -> tuple[str, str]:
    handler = Download(MEBIBYTE, lambda controller: controller.pause())
    before = memory()
    stage.pool.dispatch({"path": "/files/large.bin"}, handler)
    controller = await handler.reached
    try:
        paused_at = handler.size
        await asyncio.sleep(1.0)
        arrived, grown = handler.size - paused_at, (memory() - before) / MEBIBYTE
        check(arrived == 0, f"{arrived} bytes arrived during the pause")
        check(grown < 2, f"memory grew by {grown:.1f} MiB during the pause")
        controller.resume()
        error = await handler.finished
    finally:
        controller.abort()  # does nothing after the end; else nobody would ever resume it
    if error is not None:
        raise error
    check(handler.digest.hexdigest() == stage.sha256, "the body is not the file after resume()")
    text = f"paused 1 s at {_size(paused_at)}: 0 bytes came, memory {grown:+.1f} MiB"
    return f"{text}; resumed: all {_size(handler.size)}, sha256 right", ""


async def abort_in_mid_body(stage: Stage) -> tuple[str, str]:
    handler = Download(MEBIBYTE, lambda controller: controller.abort("enough"))
    stage.pool.dispatch({"path": "/files/large.bin"}, handler)
    error = await handler.finished
    check(isinstance(error, dodici.RequestAbortedError), f"the handler was told {error!r}")
    response = await stage.pool.request("/")
    check(await response.bytes() == HELLO, "the next request was not answered rightly")
    check(handler.ends == 1 and handler.size < stage.size, "something came after the abort")
    check(stage.pool.stats.running == 0, "the aborted request still counts as running")
    return f"aborted after {_size(handler.size)}: {error!r}, once; the next request works", ""


async def retry_after_503(stage: Stage) -> tuple[str, str]:
    dispatcher = stage.pool.compose(interceptors.retry(max_retries=3, min_timeout=0.1))
    statuses: list[int] = []

    def note(message: dict[str, Any], _: str) -> None:
        statuses.append(message["response"]["status_code"])

    channel = dodici.diagnostics.REQUEST_HEADERS
    channel.subscribe(note)
    try:
        response = await dispatcher.request("/app/flaky", params={"id": time.time_ns()})
        answer = await response.json()
    finally:
        channel.unsubscribe(note)
    check(statuses == [503, 200], f"the server said {statuses}")
    check(
        response.status_code == 200 and answer == {"attempt": 2}, f"status {response.status_code}: {answer}"
    )
    return "503, then 200 on attempt 2; the caller saw the 200 only", ""


async def total_timeout(stage: Stage) -> tuple[str, str]:
    began = time.perf_counter()
    try:
        await stage.pool.request("/app/slow", timeout=0.5)
    except dodici.RequestTimeoutError as error:  # a TimeoutError, as all timeouts are
        took = time.perf_counter() - began
        check(0.4 < took < 2, f"0.5 s took {took:.2f} s")
        return f"gave up after {took:.2f} s: {error.code}, phase {error.phase}", ""
    raise Broken("a request that is never answered was answered")


async def http2(stage: Stage) -> tuple[str, str]:
    if stage.h2_origin is None:
        return "left out: the server here speaks HTTP/1.1 alone", ""
    async with dodici.H2CClient(stage.h2_origin) as client, AsyncExitStack() as unread:
        for _ in range(20):
            await unread.enter_async_context(client.stream("GET", "/files/large.bin"))
        began = time.perf_counter()
        responses = await asyncio.gather(*(client.request("/") for _ in range(stage.concurrent)))
        bodies = [await response.bytes() for response in responses]
        took = time.perf_counter() - began
        check(bodies == [HELLO] * stage.concurrent, "not every answer was the 13 bytes")
        check(client.stats.running == 20, f"20 downloads should be waiting: {client.stats}")
    return f"{stage.concurrent} requests beside 20 unread downloads, on one connection", _rate(
        len(bodies), took
    )


async def pool_stats(stage: Stage) -> tuple[str, str]:
    stats = stage.pool.stats
    check(stats.running == stats.pending == 0, f"something is left over: {stats}")
    check(0 < stats.connected <= 50, f"{stats.connected} connections of at most 50")
    text = f"{stats.connected} connected, {stats.free} free, {stats.running} running, {stats.pending} pending"
    return f"{text}, {stats.retries} silent retries", ""


STEPS: dict[str, Callable[[Stage], Any]] = {
    "plain requests": plain_requests,
    "concurrent requests": concurrent_requests,
    "burst of request()": burst_of_requests,
    "burst of dispatch()": burst_of_dispatches,
    "streamed download": download,
    "streamed upload": upload,
    "pause and resume": pause_and_resume,
    "abort in mid-body": abort_in_mid_body,
    "retry after a 503": retry_after_503,
    "total timeout": total_timeout,
    "HTTP/2": http2,
    "the pool afterwards": pool_stats,
}


def _size(size: int) -> str:
    return f"{size / MEBIBYTE:.1f} MiB"


def _rate(count: int, seconds: float) -> str:
    return f"{count / seconds:,.0f} requests/s"


def _flow(size: int, seconds: float) -> str:
    return f"{size / MEBIBYTE / seconds:,.0f} MiB/s"

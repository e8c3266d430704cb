"""Carried exchanges when something breaks: the collector at the other end, the origin behind it, or the caller."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from tests.collective.http.http_kit import ORIGIN, TIMEOUT, Node, announced, at_rest, entrance, process

from dodici import DispatchOptions
from dodici.core.errors import (
    BodyAbortedError,
    BodyTimeoutError,
    HeadersTimeoutError,
    NoTargetError,
    RequestTimeoutError,
    SocketError,
)
from dodici.interceptors import retry
from dodici.testing import RecordingHandler


def send(agent: Any, path: str, recorder: RecordingHandler | None = None, **options: Any) -> RecordingHandler:
    recorder = recorder or RecordingHandler()
    recorder.dispatch(agent, DispatchOptions(origin=ORIGIN, path=path, **options))
    return recorder


def endless() -> Iterator[bytes]:
    while True:
        yield bytes(65_536)


async def seen(node: Node, event: str) -> None:
    async with asyncio.timeout(TIMEOUT):
        await node.app.board.wait(event)


async def test_a_peer_that_is_killed_breaks_the_body_off() -> None:
    async with process("b") as b, entrance(b.address) as (_, agent):
        begun = send(agent, "/hang-body")
        await begun.received(5)
        waiting = send(agent, "/hang?token=w")
        assert (await send(agent, "/board/wait/w:started").wait()).status_code == 200
        uploads = [send(agent, "/echo", method="POST", body=endless()) for _ in range(6)]
        for upload in uploads:
            await upload.reached("on_request_start")
        await asyncio.sleep(0.05)
        b.send(signal.SIGKILL)
        for upload in uploads:
            await upload.wait()
            assert isinstance(upload.error, SocketError)
            assert not upload.error.request_not_processed
        await begun.wait()
        assert isinstance(begun.error, BodyAbortedError)
        assert begun.error.phase == "body"
        assert begun.error.status_code == 200
        await waiting.wait()
        assert isinstance(waiting.error, SocketError)
        assert not waiting.error.request_not_processed


async def test_a_worker_that_is_killed_breaks_the_body_off_and_the_next_request_has_no_target() -> None:
    async with process("b", "process") as b, entrance(b.address) as (_, agent):
        begun = send(agent, "/hang-body")
        await begun.received(5)
        waiting = send(agent, "/hang?token=w")
        assert (await send(agent, "/board/wait/w:started").wait()).status_code == 200
        assert b.worker_pid is not None
        os.kill(b.worker_pid, signal.SIGKILL)
        await begun.wait()
        assert type(begun.error).__name__ == "BodyAbortedError"
        await waiting.wait()
        assert type(waiting.error).__name__ == "WorkerExitedError"
        assert waiting.error is not None
        assert waiting.error.phase == "headers"  # type: ignore[attr-defined]
        late = await send(agent, "/empty").wait()
        assert isinstance(late.error, NoTargetError)
        assert late.error.request_not_processed


async def test_a_request_that_was_sent_to_a_killed_peer_is_repeated_by_the_retry_interceptor() -> None:
    async with (
        process("b") as b,
        Node("c") as c,
        entrance(b.address, interceptors=[retry(max_retries=2, min_timeout=0)]) as (entry, agent),
    ):
        first = send(agent, "/gated?token=r")
        await first.reached("on_request_start")
        await entry.connect_to(c.collector.address)
        await announced(entry, "b", "c")
        c.app.board.set("r:head")
        c.app.board.set("r:0")
        b.send(signal.SIGKILL)
        await first.wait()
        assert first.error is None
        assert first.body == b"part-0;"


async def test_a_stopped_peer_is_given_up_by_the_timeouts_and_found_by_the_pings() -> None:
    async with process("b") as b, entrance(b.address) as (_, agent):
        begun = send(agent, "/hang-body", body_timeout=0.3)
        long = send(agent, "/hang-body")
        for one in (begun, long):
            await one.received(5)
        b.send(signal.SIGSTOP)
        silent = send(agent, "/empty", headers_timeout=0.3)
        total = send(agent, "/empty", timeout=0.3)
        assert isinstance((await silent.wait()).error, HeadersTimeoutError)
        assert isinstance((await begun.wait()).error, BodyTimeoutError)
        assert isinstance((await total.wait()).error, RequestTimeoutError)
        async with asyncio.timeout(4):
            assert isinstance((await long.wait()).error, BodyAbortedError)


async def test_the_deadline_is_told_to_the_app() -> None:
    async with Node("b") as b, entrance(b) as (entry, agent):
        recorder = await send(agent, "/hang?token=d", timeout=0.2).wait()
        assert isinstance(recorder.error, RequestTimeoutError)
        await seen(b, "d:disconnected")
        await at_rest(entry, b.collector)


async def test_a_peer_whose_workers_take_nothing_is_passed_over() -> None:
    async with Node("b") as b, Node("c") as c, entrance(b, c) as (_, agent):
        await b.mesh.pause_worker(b.worker)
        for number in range(20):
            recorder = await send(agent, f"/echo?n={number}", method="POST", body=b"x" * 10).wait()
            assert recorder.error is None
            assert recorder.status_code == 200
        assert b.app.board.get("anonymous:count") == 0
        await c.mesh.pause_worker(c.worker)
        recorder = await send(agent, "/echo").wait()
        assert isinstance(recorder.error, NoTargetError)


async def test_drain_loses_nothing() -> None:
    """What runs there ends there; what comes goes elsewhere."""
    async with Node("b") as b, Node("c") as c, entrance(b, c) as (_, agent):
        stop = asyncio.Event()
        failures: list[str] = []
        served = 0

        async def load(number: int) -> None:
            nonlocal served
            while not stop.is_set():
                path = ("/echo", "/bytes/100000", "/stream/30000?chunk=1000")[number % 3]
                recorder = await send(agent, path, method="POST", body=b"y" * (number % 2) * 70_000).wait()
                if recorder.error is not None or recorder.status_code != 200:
                    failures.append(recorder.summary())
                served += 1

        long = send(agent, "/gated?token=long&parts=2")
        await long.reached("on_request_start")
        b.app.board.set("long:head")
        c.app.board.set("long:head")
        tasks = [asyncio.create_task(load(number)) for number in range(6)]
        async with asyncio.timeout(TIMEOUT):
            while served < 30:
                await asyncio.sleep(0.005)
            # The long one runs at one of the two: that one is drained.
            held = b if b.app.board.get("long:started") else c
            draining = asyncio.create_task(held.collector.drain())
            await announced(agent_collector(agent), "c" if held is b else "b")
            mark = served
            while served < mark + 20:
                await asyncio.sleep(0.005)
            assert not draining.done()
            for part in ("0", "1"):
                held.app.board.set(f"long:{part}")
            await long.wait()
            await draining
        assert (long.error, long.body) == (None, b"part-0;part-1;")
        stop.set()
        await asyncio.gather(*tasks)
        assert failures == []


def agent_collector(agent: Any) -> Any:
    return agent._branches[0]._interceptor.collector


@pytest.mark.parametrize("seed", [1, 2])
async def test_exchanges_that_are_given_up_at_any_moment_leave_nothing(seed: int) -> None:
    """Neither at the caller's end, nor at the origin's: the app has ended, no call runs, nothing waits."""
    chance = random.Random(seed)
    paths = (
        "/echo",
        "/hang",
        "/hang-body",
        "/stream/300000?chunk=3000",
        "/late-read?token=l",
        "/hints",
        "/early",
    )
    async with Node("b") as b, entrance(b) as (entry, agent):
        b.app.board.set("l:read-now")
        recorders = []
        for _ in range(60):

            async def body() -> Any:
                for _ in range(4):
                    yield b"z" * 30_000

            recorder = RecordingHandler(keep_body=False, threaded=True)
            given = chance.choice((None, b"small", body()))
            send(agent, chance.choice(paths), recorder, method="POST", body=given)
            recorders.append(recorder)
            if chance.random() < 0.3:
                recorder.controller.pause()
            for _ in range(chance.choice((0, 1, 3, 10, 40))):
                await asyncio.sleep(0)
            if chance.random() < 0.8:
                recorder.controller.abort()
        await asyncio.sleep(0.05)
        for recorder in recorders:
            recorder.controller.abort()
            await recorder.wait()
            recorder.check()
        await at_rest(entry, b.collector)
        async with asyncio.timeout(TIMEOUT):
            while agent._branches[0]._tasks or b.agent._branches[0].exchanges:
                await asyncio.sleep(0.005)
        assert (await send(agent, "/empty").wait()).status_code == 200

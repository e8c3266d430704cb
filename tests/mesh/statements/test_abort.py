"""Callers that give up: the app hears of it, nothing is left, and nothing late is delivered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from dodici import BodyTimeoutError, HeadersTimeoutError
from dodici.testing import settle

from .kit import Desk, Mesh, frozen, no_tasks_left

pytestmark = pytest.mark.asyncio(loop_scope="module")

ORIGIN = "http://api.local"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def noted() -> AsyncIterator[tuple[Mesh, list[str]]]:
    """One mesh for the module, with one worker, and the errors that its hook was told."""
    tasks = asyncio.all_tasks()
    told: list[str] = []
    hook = lambda options, error, ctx: told.append(f"{options.path} {type(error).__name__}")  # noqa: E731
    async with Mesh(on_error=hook) as mesh:
        await mesh.start("api")
        yield mesh, told
    await no_tasks_left(tasks)


@pytest_asyncio.fixture(loop_scope="module")
async def mesh(noted: tuple[Mesh, list[str]]) -> Mesh:
    return noted[0]


@pytest_asyncio.fixture(loop_scope="module")
async def desk(mesh: Mesh) -> Desk:
    return await mesh.desk(mesh.workers[0])


async def _cancel(mesh: Mesh, desk: Desk, url: str, token: str) -> float:
    async def read() -> None:
        response = await mesh.agent.request(url)
        await response.bytes()

    task = asyncio.ensure_future(read())
    await desk.seen(f"{token}:sent")
    await asyncio.sleep(0)
    at = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return at


async def _time_out(mesh: Mesh, desk: Desk, url: str, token: str) -> float:
    async def read() -> None:
        response = await mesh.agent.request(url)
        await response.bytes()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(read(), 0.2)
    return time.monotonic()


async def _close_early(mesh: Mesh, desk: Desk, url: str, token: str) -> float:
    async with mesh.agent.stream("GET", url) as response:
        async for _ in response.body:
            break
        return time.monotonic()


async def _abort(mesh: Mesh, desk: Desk, url: str, token: str) -> float:
    path = url.removeprefix(ORIGIN)
    recorder = mesh.send(ORIGIN, path)
    await recorder.received(5)
    at = time.monotonic()
    recorder.controller.abort()
    await recorder.wait()
    return at


WAYS = {"cancel": _cancel, "wait-for": _time_out, "close-early": _close_early, "abort": _abort}


@pytest.mark.statement(44)
@pytest.mark.parametrize("way", WAYS)
async def test_the_app_hears_of_a_caller_that_went(mesh: Mesh, desk: Desk, way: str) -> None:
    token = f"s44-{way}"
    at = await WAYS[way](mesh, desk, f"{ORIGIN}/watch?token={token}", token)
    await desk.seen(f"{token}:heard:http.disconnect")
    await desk.seen(f"{token}:refused")
    await desk.seen(f"{token}:ended")
    # The clock is the machine's, not the process's.
    assert (await desk.call("attribute", name="disconnects"))[-1] - at < 0.1
    assert await mesh.text(f"{ORIGIN}/whoami") == str(desk.pid)


@pytest.mark.statement(44)
async def test_a_thousand_aborts_leave_nothing(mesh: Mesh, desk: Desk) -> None:
    async def some(count: int) -> None:
        for _ in range(count // 50):
            recorders = [mesh.send(ORIGIN, "/hang?token=many") for _ in range(50)]
            await settle(3)
            for recorder in recorders:
                recorder.controller.abort()
            for recorder in recorders:
                await recorder.wait()

    async def counts() -> dict[str, int]:
        await mesh.text(f"{ORIGIN}/whoami")  # whatever was sent before has arrived
        await settle()
        return await desk.call("counts")  # type: ignore[no-any-return]

    await some(200)
    before, tasks = await counts(), len(asyncio.all_tasks())
    await some(1000)
    after = await counts()
    assert len(asyncio.all_tasks()) == tasks
    assert after["tasks"] <= before["tasks"]
    assert after["descriptors"] == before["descriptors"]
    assert after["objects"] - before["objects"] < 1000


@pytest.mark.statement(45)
async def test_a_timeout_is_an_abort_and_is_told_once(noted: tuple[Mesh, list[str]], desk: Desk) -> None:
    mesh, told = noted
    recorder = await mesh.send(ORIGIN, "/hang?token=s45", headers_timeout=0.1).wait()
    assert isinstance(recorder.error, HeadersTimeoutError)
    await desk.seen("s45:disconnected")
    recorder = await mesh.send(ORIGIN, "/watch?token=s45b", body_timeout=0.1).wait()
    assert isinstance(recorder.error, BodyTimeoutError)
    assert recorder.body == b"begun"
    await desk.seen("s45b:heard:http.disconnect")
    assert told.count("/hang?token=s45 HeadersTimeoutError") == 1
    assert told.count("/watch?token=s45b BodyTimeoutError") == 1
    assert not [line for line in told if "s45" in line and "Timeout" not in line]


@pytest.mark.statement(45)
async def test_an_answer_that_comes_too_late_is_dropped(noted: tuple[Mesh, list[str]], desk: Desk) -> None:
    mesh, told = noted
    recorder = mesh.send(ORIGIN, "/late?token=s45c", headers_timeout=0.2)
    await desk.seen("s45c:waiting")
    with frozen(desk.pid):
        # It answers as soon as it may, and may not have read yet that nobody waits.
        going = desk.give("set", name="s45c:go")
        await recorder.wait()
        assert isinstance(recorder.error, HeadersTimeoutError)
    await going
    await desk.seen("s45c:ended")
    assert await mesh.text(f"{ORIGIN}/whoami") == str(desk.pid)
    assert recorder.names == ["request_start", "response_error"]
    recorder.check()
    assert sum("s45c" in line for line in told) == 1


@pytest.mark.statement(45)
async def test_the_interceptors_own_timeouts() -> None:
    async with Mesh(timeout=0.15, body_timeout=0.15) as mesh:
        await mesh.start("api")
        began = time.monotonic()
        assert await mesh.outcome(f"{ORIGIN}/hang") == "!HeadersTimeoutError"
        assert await mesh.outcome(f"{ORIGIN}/hang-body") == "!BodyTimeoutError"
        assert time.monotonic() - began < 5
        recorder = await mesh.send(ORIGIN, "/hang", headers_timeout=0.05).wait()
        assert isinstance(recorder.error, HeadersTimeoutError)


@pytest.mark.statement(46)
async def test_an_abort_before_anything_was_sent_never_reaches_the_app(mesh: Mesh, desk: Desk) -> None:
    for _ in range(20):
        recorder = mesh.send(ORIGIN, "/echo?token=s46")
        recorder.controller.abort()
        await recorder.wait()
        assert recorder.names == ["response_error"]
    assert await mesh.text(f"{ORIGIN}/whoami") == str(desk.pid)
    assert await desk.call("get", name="s46:count") == 0


@pytest.mark.statement(46)
async def test_an_abort_that_overtakes_the_start_never_reaches_the_app(mesh: Mesh, desk: Desk) -> None:
    with frozen(desk.pid):
        recorders = [mesh.send(ORIGIN, "/echo?token=s46b") for _ in range(20)]
        await settle()
        for recorder in recorders:
            assert recorder.starts == 1
            recorder.controller.abort()
        for recorder in recorders:
            await recorder.wait()
        await settle()
    assert await mesh.text(f"{ORIGIN}/whoami") == str(desk.pid)
    assert await desk.call("get", name="s46b:count") == 0


class _SourceError(Exception):
    pass


@pytest.mark.statement(47)
async def test_a_body_that_fails_is_a_disconnect_and_the_callers_own_error(mesh: Mesh, desk: Desk) -> None:
    error = _SourceError("no more")
    fail = asyncio.Event()

    async def source() -> AsyncIterator[bytes]:
        yield b"some"
        await fail.wait()
        raise error

    recorder = mesh.send(ORIGIN, "/echo?token=s47", method="POST", body=source())
    await desk.seen("s47:read")
    fail.set()
    await recorder.wait()
    assert recorder.error is error
    await desk.seen("s47:disconnected")
    await desk.seen("s47:ended")
    assert await mesh.text(f"{ORIGIN}/whoami") == str(desk.pid)


@pytest.mark.statement(47)
@pytest.mark.parametrize("sent", [0, 1], ids=["at-once", "after-a-piece"])
async def test_a_plain_iterable_that_fails(mesh: Mesh, desk: Desk, sent: int) -> None:
    def source() -> Any:
        if sent:
            yield b"some"
        raise _SourceError("no more")

    with pytest.raises(_SourceError):
        await mesh.agent.request(f"{ORIGIN}/echo?token=s47c", method="POST", body=source())
    assert await mesh.text(f"{ORIGIN}/whoami") == str(desk.pid)

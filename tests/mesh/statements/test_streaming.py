"""Bodies both ways: bounded by credit, never behind one another, delivered as they come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from dodici.testing import RecordingHandler, pattern
from dodici.testing.target import AsyncSource

from .kit import Desk, Mesh, no_tasks_left, within

pytestmark = pytest.mark.asyncio(loop_scope="module")

ORIGIN = "http://api.local"
WINDOW = 256 * 1024
FRAME = 64 * 1024


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh() -> AsyncIterator[Mesh]:
    """One mesh for the module, with one worker."""
    tasks = asyncio.all_tasks()
    async with Mesh() as mesh:
        await mesh.start("api")
        yield mesh
    await no_tasks_left(tasks)


@pytest_asyncio.fixture(loop_scope="module")
async def desk(mesh: Mesh) -> Desk:
    return await mesh.desk(mesh.workers[0])


def stopping() -> RecordingHandler:
    """A reader that pauses at its first chunk."""
    paused = False

    def pause(controller: Any, chunk: bytes) -> None:
        nonlocal paused
        if not paused:
            paused = True
            controller.pause()

    return RecordingHandler(on_response_data=pause, keep_body=False)


async def steady(read: Any) -> int:
    """A number that has stopped changing."""
    last, same = -1, 0
    while same < 5:
        value = await read()
        same = same + 1 if value == last else 0
        last = value
        await asyncio.sleep(0.02)  # the one thing that no event tells: that nothing more happens
    return last


@pytest.mark.statement(36)
async def test_send_blocks_when_the_reader_stops(mesh: Mesh, desk: Desk) -> None:
    recorder = mesh.send(ORIGIN, f"/stream/{64 << 20}?token=s36&chunk=16384", stopping())
    await recorder.received(1)
    sent = await steady(lambda: desk.call("get", name="s36:sent"))
    # The window, what send() takes beyond it, and what was consumed before the pause.
    assert sent <= WINDOW + 4 * FRAME
    got = recorder.body_size
    assert await steady(lambda: desk.call("get", name="s36:sent")) == sent
    assert recorder.body_size == got
    recorder.controller.resume()
    await recorder.wait(30)
    assert recorder.body_size == 64 << 20


@pytest.mark.statement(37)
async def test_a_source_is_pulled_no_further_than_the_window(mesh: Mesh, desk: Desk) -> None:
    source = AsyncSource(endless=bytes(FRAME))
    recorder = mesh.send(ORIGIN, "/late-read?token=s37", method="POST", body=source)
    await desk.seen("s37:started")

    async def pulled() -> int:
        return source.pulled

    assert await steady(pulled) * FRAME <= WINDOW + 2 * FRAME
    recorder.controller.abort()
    await recorder.wait()
    assert source.closed == 1
    await desk.call("set", name="s37:read-now")


@pytest.mark.statement(38)
async def test_a_stalled_stream_holds_up_no_other(mesh: Mesh, desk: Desk) -> None:
    stalled = [mesh.send(ORIGIN, f"/stream/{8 << 20}?token=s38", stopping()) for _ in range(3)]
    for recorder in stalled:
        await recorder.received(1)
    other = await mesh.send(ORIGIN, f"/stream/{16 << 20}", RecordingHandler(keep_body=False)).wait(20)
    assert other.body_size == 16 << 20
    assert other.digest
    for recorder in stalled:
        assert not recorder.ended.done()
        assert recorder.body_size <= 2 * FRAME
        recorder.controller.resume()
    for recorder in stalled:
        await recorder.wait(20)
        assert recorder.body_size == 8 << 20


@pytest.mark.statement(38)
async def test_a_stalled_upload_holds_up_no_other(mesh: Mesh, desk: Desk) -> None:
    source = AsyncSource(endless=bytes(FRAME))
    stalled = mesh.send(ORIGIN, "/late-read?token=s38up", method="POST", body=source)
    await desk.seen("s38up:started")
    body = pattern(4 << 20)
    told = await mesh.json(f"{ORIGIN}/echo", method="POST", body=body)
    assert told["size"] == len(body)
    assert not stalled.ended.done()
    stalled.controller.abort()
    await stalled.wait()
    await desk.call("set", name="s38up:read-now")


@pytest.mark.statement(39)
async def test_one_send_of_a_hundred_mebibytes_does_not_delay_a_small_request(mesh: Mesh, desk: Desk) -> None:
    size = 100 << 20
    while_busy: list[float] = []
    for _ in range(3):
        big = mesh.send(ORIGIN, f"/huge/{size}?token=s39", RecordingHandler(keep_body=False))
        await big.received(1)
        while not big.ended.done():
            before = time.monotonic()
            await mesh.text(f"{ORIGIN}/whoami")
            if not big.ended.done():
                while_busy.append(time.monotonic() - before)
        await big.wait(30)
        assert big.body_size == size
        if len(while_busy) >= 5:
            break
    assert len(while_busy) >= 5
    assert sorted(while_busy)[len(while_busy) // 2] < 0.05


@pytest.mark.statement(40)
async def test_head_and_chunks_come_as_they_are_sent(mesh: Mesh, desk: Desk) -> None:
    recorder = mesh.send(ORIGIN, "/gated?parts=2&token=s40")
    await desk.call("set", name="s40:head")
    await recorder.reached("on_response_start")
    assert (recorder.status_code, recorder.body) == (200, b"")
    await desk.call("set", name="s40:0")
    await recorder.received(7)
    assert recorder.body == b"part-0;"
    assert not recorder.ended.done()
    await desk.call("set", name="s40:1")
    assert (await recorder.wait()).body == b"part-0;part-1;"


@pytest.mark.statement(41)
@pytest.mark.parametrize(
    ("method", "path", "status", "length"),
    [
        ("GET", "/stream/0", 200, None),
        ("GET", "/empty", 200, "0"),
        ("GET", "/status/204", 204, None),
        ("GET", "/status/304?length=1000", 304, "1000"),
        ("HEAD", "/bytes/1000", 200, "1000"),
        ("HEAD", "/status/200?length=5", 200, "5"),
    ],
)
async def test_bodies_without_bytes(
    mesh: Mesh, method: str, path: str, status: int, length: str | None
) -> None:
    recorder = await mesh.send(ORIGIN, path, method=method).wait()
    assert recorder.error is None, recorder.summary()
    assert recorder.names == ["request_start", "response_start", "response_end"]
    assert (recorder.status_code, recorder.body) == (status, b"")
    assert recorder.headers is not None
    if length is not None:
        assert recorder.headers["content-length"] == length


@pytest.mark.statement(42)
async def test_an_answer_before_the_body_was_read_stops_the_upload(mesh: Mesh) -> None:
    source = AsyncSource(endless=bytes(FRAME))
    recorder = await mesh.send(ORIGIN, "/early", method="POST", body=source).wait()
    assert (recorder.status_code, recorder.body, recorder.error) == (413, b"too large", None)
    assert source.closed == 1
    pulled = source.pulled
    assert await mesh.text(f"{ORIGIN}/whoami")
    assert source.pulled == pulled
    assert pulled * FRAME <= WINDOW + 2 * FRAME


@pytest.mark.statement(43)
@pytest.mark.parametrize("body", [None, b"x" * 100_000], ids=["none", "large"])
async def test_receive_after_the_body_waits_for_the_end(mesh: Mesh, desk: Desk, body: bytes | None) -> None:
    token = f"s43-{len(body or b'')}"
    method = "POST" if body else "GET"
    assert await mesh.text(f"{ORIGIN}/second-receive?token={token}", method=method, body=body) == "blocked"
    await desk.seen(f"{token}:then:http.disconnect")


@pytest.mark.statement(38)
async def test_bodies_both_ways_at_once_arrive_whole(mesh: Mesh) -> None:
    body = pattern(2 << 20)

    async def one() -> bool:
        response = await mesh.agent.request(f"{ORIGIN}/relay", method="POST", body=body)
        return await response.bytes() == body

    assert all(await within(asyncio.gather(*(one() for _ in range(8))), "the echoes", 30))

"""What must stay small: bodies that wait for their reader, ten thousand requests, ten thousand aborted ones."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any, Self

import psutil
import pytest
from tests.mesh.statements.kit import Desk, Mesh

from dodici import DispatchHandler
from dodici.testing import settle

MEBIBYTE = 1 << 20
GIBIBYTE = 1 << 30
ORIGIN = "http://api.local"

pytestmark = pytest.mark.perf


class Peak:
    """The most memory that some processes have held while this is entered, beyond what they held at its start."""

    def __init__(self, *pids: int) -> None:
        self._processes = [psutil.Process(), *map(psutil.Process, pids)]

    async def __aenter__(self) -> Self:
        gc.collect()
        self._before = self._now()
        self._most = list(self._before)
        self._sampling = asyncio.ensure_future(self._sample())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._sampling.cancel()
        await asyncio.gather(self._sampling, return_exceptions=True)

    def _now(self) -> list[int]:
        return [process.memory_info().rss for process in self._processes]

    async def _sample(self) -> None:
        while True:
            self._most = list(map(max, self._most, self._now()))
            await asyncio.sleep(0.01)

    @property
    def grown(self) -> int:
        """Bytes, in all processes together."""
        return sum(most - before for most, before in zip(self._most, self._before, strict=True))


class Reader(DispatchHandler):
    """Counts the body, and stops once on the way."""

    def __init__(self, stop_at: int) -> None:
        self.size = 0
        self.stopped = asyncio.Event()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.controller: Any = None
        self._stop_at = stop_at

    def on_response_data(self, controller: Any, chunk: bytes) -> None:
        self.size += len(chunk)
        if not self.stopped.is_set() and self.size >= self._stop_at:
            self.controller = controller
            controller.pause()
            self.stopped.set()

    def on_response_end(self, controller: Any, trailers: Any) -> None:
        self.ended.set_result(None)

    def on_response_error(self, controller: Any, error: BaseException) -> None:
        self.ended.set_exception(error)


async def _one(mesh: Mesh) -> Desk:
    [worker] = await mesh.start("api")
    desk = await mesh.desk(worker)
    for _ in range(3):  # what is allocated once is not growth
        await mesh.text(f"{ORIGIN}/stream/{4 * MEBIBYTE}")
    return desk


@pytest.mark.statement(36)
async def test_a_gibibyte_whose_reader_stops_holds_less_than_sixteen_mebibytes() -> None:
    async with Mesh() as mesh:
        desk = await _one(mesh)
        async with Peak(desk.pid) as peak:
            reader = Reader(GIBIBYTE // 4)
            mesh.agent.dispatch({"origin": ORIGIN, "path": f"/stream/{GIBIBYTE}?token=gib"}, reader)
            await reader.stopped.wait()
            await asyncio.sleep(2)  # time for anything that should not come
            sent = await desk.call("get", name="gib:sent")
            assert sent - reader.size < MEBIBYTE
            assert reader.size < GIBIBYTE // 4 + MEBIBYTE
            reader.controller.resume()
            async with asyncio.timeout(50):
                await reader.ended
        assert reader.size == GIBIBYTE
        assert peak.grown < 16 * MEBIBYTE, f"{peak.grown / MEBIBYTE:.1f} MiB"


@pytest.mark.statement(37)
async def test_an_upload_that_nobody_reads_is_pulled_no_further_than_the_window() -> None:
    piece = bytes(64 * 1024)
    pulled = 0

    async def source() -> AsyncIterator[bytes]:
        nonlocal pulled
        for _ in range(GIBIBYTE // 4 // len(piece)):
            pulled += len(piece)
            yield piece

    async with Mesh() as mesh:
        desk = await _one(mesh)
        async with Peak(desk.pid) as peak:
            asking = asyncio.ensure_future(
                mesh.json(f"{ORIGIN}/late-read?token=up", method="POST", body=source())
            )
            await desk.seen("up:started")
            await asyncio.sleep(2)  # time for anything that should not come
            assert pulled <= 256 * 1024 + 2 * len(piece)
            await desk.call("set", name="up:read-now")
            told = await asyncio.wait_for(asking, 50)
        assert told["size"] == pulled == GIBIBYTE // 4
        assert peak.grown < 16 * MEBIBYTE, f"{peak.grown / MEBIBYTE:.1f} MiB"


@pytest.mark.statement(44)
async def test_ten_thousand_aborts_leave_nothing() -> None:
    async with Mesh() as mesh:
        desk = await _one(mesh)

        async def some(count: int) -> None:
            for _ in range(count // 50):
                recorders = [mesh.send(ORIGIN, "/hang?token=many") for _ in range(50)]
                await settle(3)
                for recorder in recorders:
                    recorder.controller.abort()
                for recorder in recorders:
                    await recorder.wait()

        await _grows_not(mesh, desk, some, 10_000)


@pytest.mark.statement(62)
async def test_ten_thousand_requests_leave_nothing() -> None:
    async with Mesh() as mesh:
        desk = await _one(mesh)

        async def some(count: int) -> None:
            for _ in range(count):
                await mesh.text(f"{ORIGIN}/label")

        await _grows_not(mesh, desk, some, 10_000)


async def _grows_not(mesh: Mesh, desk: Desk, some: Any, count: int) -> None:
    async def counts() -> tuple[dict[str, int], int, int]:
        await mesh.text(f"{ORIGIN}/label")  # whatever was sent before has arrived
        await settle()
        gc.collect()
        return await desk.call("counts"), len(gc.get_objects()), len(asyncio.all_tasks())

    await some(500)
    theirs, ours, tasks = await counts()
    await some(count)
    theirs_after, ours_after, tasks_after = await counts()
    assert theirs_after["descriptors"] == theirs["descriptors"]
    assert theirs_after["threads"] == theirs["threads"]
    assert theirs_after["tasks"] <= theirs["tasks"]
    assert theirs_after["objects"] - theirs["objects"] < 1000
    assert tasks_after == tasks
    assert ours_after - ours < 1000

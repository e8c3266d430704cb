"""What a reader that stops holds: a window of each hop, and not the body. Measured in both processes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.collective.http.http_kit import ORIGIN, TIMEOUT, entrance, process

from dodici import DispatchHandler, DispatchOptions, RequestAbortedError
from dodici.testing import RecordingHandler

pytestmark = pytest.mark.perf

BODY = 64 << 20
MOST = 32 << 20
PIECE = bytes(1 << 16)


def resident(pid: int) -> int:
    """Bytes of a process in memory (proc(5))."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Reader(DispatchHandler):
    """Counts, and pauses at the first piece."""

    def __init__(self) -> None:
        self.size = 0
        self.controller: Any = None
        self.begun = asyncio.Event()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.stopped = False

    def on_response_data(self, controller: Any, chunk: bytes) -> None:
        self.size += len(chunk)
        if not self.stopped:
            self.stopped = True
            controller.pause()
            self.controller = controller
            self.begun.set()

    def on_response_end(self, controller: Any, trailers: Any) -> None:
        self.ended.set_result(None)

    def on_response_error(self, controller: Any, error: BaseException) -> None:
        self.ended.set_exception(error)


async def ask(agent: Any, path: str, **options: Any) -> bytes:
    recorder = RecordingHandler()
    recorder.dispatch(agent, DispatchOptions(origin=ORIGIN, path=path, **options))
    await recorder.wait(TIMEOUT)
    assert recorder.error is None
    return recorder.body


async def steady(number: Any) -> int:
    """What a number is once it has stopped growing."""
    last = -1
    same = 0
    async with asyncio.timeout(TIMEOUT):
        while same < 5:
            value = await number()
            same = same + 1 if value == last else 0
            last = value
            await asyncio.sleep(0.02)
    return last


class Peaks:
    """How much two processes have grown at most."""

    def __init__(self, *pids: int) -> None:
        self._before = {pid: resident(pid) for pid in pids}
        self._most = 0

    def look(self) -> int:
        self._most = max(self._most, *(resident(pid) - size for pid, size in self._before.items()))
        return self._most


async def test_a_reader_that_stops_holds_back_the_origin() -> None:
    async with process("b") as b, entrance(b.address) as (_, agent):
        await ask(agent, "/stream/2000000")
        peaks = Peaks(os.getpid(), b.process.pid)
        reader = Reader()
        agent.dispatch(DispatchOptions(origin=ORIGIN, path=f"/stream/{BODY}?token=down"), reader)
        await reader.begun.wait()

        async def sent() -> int:
            return int(await ask(agent, "/board/get/down%3Asent"))

        assert await steady(sent) < MOST
        assert peaks.look() < MOST
        reader.controller.resume()
        while not reader.ended.done():
            await asyncio.wait((reader.ended,), timeout=0.02)
            peaks.look()
        await reader.ended
        assert reader.size == BODY
        assert peaks.look() < MOST


async def test_many_readers_that_stop_hold_a_window_each() -> None:
    """However fast the connection was found to be before."""
    readers = 8
    async with process("b") as b, entrance(b.address) as (_, agent):
        await ask(agent, "/stream/20000000")
        peaks = Peaks(os.getpid(), b.process.pid)
        stopped = [Reader() for _ in range(readers)]
        for number, reader in enumerate(stopped):
            path = f"/stream/{BODY}?token=s{number}"
            agent.dispatch(DispatchOptions(origin=ORIGIN, path=path), reader)
        for reader in stopped:
            await reader.begun.wait()

        async def sent() -> int:
            names = [f"/board/get/s{number}%3Asent" for number in range(readers)]
            return sum(map(int, await asyncio.gather(*(ask(agent, name) for name in names))))

        assert await steady(sent) < readers * (3 << 20)
        assert peaks.look() < readers * (2 << 20)
        for reader in stopped:
            reader.controller.abort("enough")
            with pytest.raises(RequestAbortedError):
                await reader.ended


async def test_an_app_that_does_not_read_holds_back_the_caller() -> None:
    pulled = 0

    def body() -> Iterator[bytes]:
        nonlocal pulled
        for _ in range(BODY // len(PIECE)):
            pulled += len(PIECE)
            yield PIECE

    async with process("b") as b, entrance(b.address) as (_, agent):
        await ask(agent, "/echo", method="POST", body=PIECE * 20)
        peaks = Peaks(os.getpid(), b.process.pid)
        upload = asyncio.create_task(ask(agent, "/late-read?token=up", method="POST", body=body()))

        async def asked() -> int:
            return pulled

        assert 0 < await steady(asked) < MOST
        assert peaks.look() < MOST
        await ask(agent, "/board/set/up%3Aread-now")
        while not upload.done():
            await asyncio.wait((upload,), timeout=0.02)
            peaks.look()
        assert f'"size": {BODY}'.encode() in await upload
        assert peaks.look() < MOST

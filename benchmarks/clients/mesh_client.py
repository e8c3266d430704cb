"""What the mesh's drivers in Python share: kinds of jobs, and checks of every answer.

Each answer's status and length are checked, the content of each small one, and that of one large
one before the measurement; comparing every mebibyte would be a part of what is measured.

* ``get``: small or large bodies, read as a whole;
* ``stall``: a huge body whose reader takes `FIRST` bytes, stops for `STALL` seconds and goes on;
* ``abort``: `ABORTED` requests whose callers give up after `PATIENCE` seconds, long before the
  answer.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from harness import Client, Job, Unsupported, clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

MESH = Path(__file__).resolve().parents[1] / "mesh"
sys.path.append(str(MESH))

import mesh_app as served  # noqa: E402 - the app of the workers, for what it answers

__all__ = ["ABORTED", "MESH", "MeshClient", "check", "check_length", "counted", "served"]

STALL = 1.0
FIRST = 1 << 20
ABORTED = 10_000
PATIENCE = 0.002


def check_length(status: int, length: int, size: int) -> int:
    """The length of an answer.

    Raises:
        RuntimeError: if it is not 200 with `size` bytes.
    """
    if status != 200 or length != size:
        raise RuntimeError(f"answered {status} with {length} bytes, not 200 with {size}")
    return size


def check(status: int, body: bytes, size: int) -> int:
    """The length of an answer, whose content is compared if it is small.

    Raises:
        RuntimeError: if it is not the one that the app gives.
    """
    if size == len(served.SMALL) and body != served.SMALL and len(body) == size:
        raise RuntimeError(f"another body: {body!r}")
    return check_length(status, len(body), size)


class MeshClient(Client):
    """A client of workers: drivers override `open`, `close`, `whole` and `response`."""

    versions = ("http/1.1",)

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._proven = job.kind != "get" or job.size != len(served.LARGE)

    async def whole(self, target: str) -> tuple[int, bytes]:
        """One GET: the status and the whole body."""
        raise Unsupported("whole bodies")

    def response(self, target: str) -> AbstractAsyncContextManager[tuple[int, AsyncIterator[bytes]]]:
        """One GET: the status and the body's pieces, as they come."""
        raise Unsupported("streamed responses")

    async def get(self, target: str) -> int:
        return check(*await self.whole(target), self.job.size)

    async def prove(self, target: str) -> None:
        """Compare one large body to its last byte, the first time.

        Raises:
            RuntimeError: if it is another one.
        """
        if self._proven:
            return
        self._proven = True
        _, body = await self.whole(target)
        if body != served.LARGE:
            raise RuntimeError(f"{target} has another body")

    async def stall(self, target: str) -> int:
        """One GET whose reader stops in the middle."""
        received, stopped = 0, False
        async with self.response(target) as (status, pieces):
            async for piece in pieces:
                received += len(piece)
                if not stopped and received >= FIRST:
                    stopped = True
                    await asyncio.sleep(STALL)
        return check_length(status, received, self.job.size)

    async def abort(self, target: str) -> bool:
        """One GET that is given up, unless its answer was there before: whether it was given up."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self.whole(target)
        except TimeoutError:
            return True
        return False

    async def run(self, deadline: float) -> tuple[list[float], int]:
        target = self.job.origin + self.job.path
        if self.job.kind != "abort":
            await self.prove(target)
            return await super().run(deadline)
        latencies = await counted(partial(self.abort, target), ABORTED, self.job.slots)
        gc.collect()
        return latencies, 0

    def _once(self) -> Callable[[], Awaitable[int]]:
        if self.job.kind == "stall":
            return partial(self.stall, self.job.origin + self.job.path)
        return super()._once()


async def counted(once: Callable[[], Awaitable[bool]], count: int, slots: int) -> list[float]:
    """Await `once` until it was true `count` times, `slots` at a time; the seconds that each of those took."""
    latencies: list[float] = []
    left = count

    async def slot() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            started = clock()
            if await once():
                latencies.append(clock() - started)
            else:
                left += 1

    await asyncio.gather(*(slot() for _ in range(slots)))
    return latencies

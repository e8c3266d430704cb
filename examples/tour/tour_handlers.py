"""The handlers of the tour: what `dispatch()` tells, taken as it is told."""

from __future__ import annotations

import asyncio
import hashlib
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dodici

MEBIBYTE = 1 << 20
HELLO = b"Hello, world!"


class Pinger(dodici.DispatchHandler):
    """Dispatches again as soon as it was answered, until the time is up."""

    def __init__(self, pool: dodici.Pool, options: dodici.DispatchOptions, end: float) -> None:
        self.pool, self.options, self.end = pool, options, end
        self.count = self.wrong = 0
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_response_start(self, controller: Any, status_code: int, headers: Any, status_message: str) -> None:
        self.wrong += status_code != 200

    def on_response_data(self, controller: Any, chunk: bytes) -> None:
        self.wrong += chunk != HELLO

    def on_response_end(self, controller: Any, trailers: Any) -> None:
        self.count += 1
        if time.perf_counter() < self.end:
            self.pool.dispatch(self.options, self)
        elif not self.finished.done():
            self.finished.set_result(None)

    def on_response_error(self, controller: Any, error: BaseException) -> None:
        if not self.finished.done():
            self.finished.set_exception(error)


class Download(dodici.DispatchHandler):
    """Hashes what comes; `reached` is set when `mark` bytes have come, and calls `at_mark` then."""

    def __init__(self, mark: int, at_mark: Callable[[Any], None]) -> None:
        loop = asyncio.get_running_loop()
        self.mark, self.at_mark = mark, at_mark
        self.size = self.ends = 0
        self.digest = hashlib.sha256()
        self.reached: asyncio.Future[Any] = loop.create_future()
        self.finished: asyncio.Future[BaseException | None] = loop.create_future()

    def on_response_data(self, controller: Any, chunk: bytes) -> None:
        self.size += len(chunk)
        self.digest.update(chunk)
        if self.size >= self.mark and not self.reached.done():
            self.reached.set_result(controller)
            self.at_mark(controller)

    def on_response_end(self, controller: Any, trailers: Any) -> None:
        self._finish(None)

    def on_response_error(self, controller: Any, error: BaseException) -> None:
        if not self.reached.done():
            self.reached.set_exception(error)
        self._finish(error)

    def _finish(self, error: BaseException | None) -> None:
        self.ends += 1
        if not self.finished.done():
            self.finished.set_result(error)


def memory() -> int:
    """Bytes that this process occupies; where that is not told, the most that it ever did."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

"""dodici's dispatch: handlers that count, each dispatching its next request when it ended."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from dodici_request import make_pool
from harness import Client, Job, Unsupported, body_of, chunks_of, clock, main

import dodici

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Phase:
    """What the handlers of one phase share."""

    def __init__(self, client: DodiciDispatch, deadline: float) -> None:
        self.dispatch = client.pool.dispatch
        self.options = client.options
        self.deadline = deadline
        self.latencies: list[float] = []
        self.received = 0
        self.open = client.job.slots
        self.done = asyncio.get_running_loop().create_future()


class Slot:
    """The handler of one slot; used again and again."""

    __slots__ = ("phase", "started")

    def __init__(self, phase: Phase) -> None:
        self.phase = phase
        self.started = clock()

    def on_request_start(self, controller: Any, context: Any) -> None:
        pass

    def on_response_start(self, controller: Any, status_code: int, headers: Any, status_message: str) -> None:
        pass

    def on_response_data(self, controller: Any, chunk: bytes) -> None:
        self.phase.received += len(chunk)

    def on_response_end(self, controller: Any, trailers: Any) -> None:
        phase = self.phase
        now = clock()
        phase.latencies.append(now - self.started)
        if now < phase.deadline:
            self.started = now
            phase.dispatch(phase.options(), self)
            return
        phase.open -= 1
        if not phase.open:
            phase.done.set_result(None)

    def on_response_error(self, controller: Any, error: BaseException) -> None:
        if not self.phase.done.done():
            self.phase.done.set_exception(error)


class SlowReader(dodici.DispatchHandler):
    """Pauses its stream after each chunk until `took` returns."""

    def __init__(self, took: Callable[[int], Awaitable[None]]) -> None:
        self.took = took
        self.done = asyncio.get_running_loop().create_future()
        self.controller: Any = None
        self.pause: asyncio.Task[None]

    def on_request_start(self, controller: Any, context: Any) -> None:
        self.controller = controller

    def on_response_data(self, controller: Any, chunk: bytes) -> None:
        controller.pause()
        self.pause = asyncio.get_running_loop().create_task(self._wait(len(chunk)))

    async def _wait(self, size: int) -> None:
        await self.took(size)
        self.controller.resume()

    def on_response_end(self, controller: Any, trailers: Any) -> None:
        self.done.set_result(None)

    def on_response_error(self, controller: Any, error: BaseException) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class DodiciDispatch(Client):
    package = "dodici"
    absolute = False

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.options = options_of(job)
        self.pool: dodici.Pool

    async def open(self) -> None:
        self.pool = make_pool(self.job)

    async def close(self) -> None:
        await self.pool.close()

    async def trickle(self, target: str, took: Callable[[int], Awaitable[None]]) -> None:
        reader = SlowReader(took)
        self.pool.dispatch(dodici.DispatchOptions(path=target, method="GET"), reader)
        try:
            await reader.done
        finally:
            reader.pause.cancel()
            reader.controller.abort()

    async def run(self, deadline: float) -> tuple[list[float], int]:
        phase = Phase(self, deadline)
        for _ in range(self.job.slots):
            phase.dispatch(phase.options(), Slot(phase))
        await phase.done
        return phase.latencies, phase.received


def options_of(job: Job) -> Callable[[], dodici.DispatchOptions]:
    """What gives the options of the next request: made once where they do not change."""
    if job.kind in {"get", "stream", "idle", "beside"}:
        # Without blocking=False a pipelined request waits for the head of the one before it.
        blocking = None if job.pipelining == 1 else False
        fixed = dodici.DispatchOptions(path=job.path, method="GET", blocking=blocking)
    elif job.kind == "send":
        fixed = dodici.DispatchOptions(path=job.path, method="POST", body=body_of(job.upload))
    elif job.kind == "send-stream":
        return lambda: dodici.DispatchOptions(path=job.path, method="POST", body=chunks_of(job.upload))
    else:
        raise Unsupported(job.kind)
    return lambda: fixed


if __name__ == "__main__":
    main(DodiciDispatch)

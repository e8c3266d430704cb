"""dodici's mesh, through dispatch(): handlers that dispatch their next request when one has ended."""

from __future__ import annotations

import asyncio
from typing import Any

from harness import Job, Unsupported, clock, main
from mesh_client import check, check_length, served
from mesh_request import DodiciMesh

import dodici


class Phase:
    """What the handlers of one phase share."""

    def __init__(self, client: DodiciDispatch, deadline: float) -> None:
        self.dispatch = client.agent.dispatch
        self.options = client.options
        self.size = client.job.size
        self.small = self.size == len(served.SMALL)
        self.deadline = deadline
        self.latencies: list[float] = []
        self.open = client.job.slots
        self.done = asyncio.get_running_loop().create_future()


class Slot:
    """The handler of one slot; used again and again. It keeps small bodies and counts large ones."""

    __slots__ = ("_body", "_phase", "_received", "_started", "_status")

    def __init__(self, phase: Phase) -> None:
        self._phase = phase
        self._started = clock()
        self._status = self._received = 0
        self._body = b""

    def on_request_start(self, controller: Any, context: Any) -> None:
        pass

    def on_response_start(self, controller: Any, status_code: int, headers: Any, status_message: str) -> None:
        self._status = status_code
        self._received = 0
        self._body = b""

    def on_response_data(self, controller: Any, chunk: bytes) -> None:
        self._received += len(chunk)
        if self._phase.small:
            self._body += chunk

    def on_response_end(self, controller: Any, trailers: Any) -> None:
        phase = self._phase
        try:
            if phase.small:
                check(self._status, self._body, phase.size)
            else:
                check_length(self._status, self._received, phase.size)
        except RuntimeError as error:
            # Raised in here, it would only be logged: the request has ended.
            self.on_response_error(controller, error)
            return
        now = clock()
        phase.latencies.append(now - self._started)
        if now < phase.deadline:
            self._started = now
            phase.dispatch(phase.options, self)
            return
        phase.open -= 1
        if not phase.open:
            phase.done.set_result(None)

    def on_response_error(self, controller: Any, error: BaseException) -> None:
        if not self._phase.done.done():
            self._phase.done.set_exception(error)


class DodiciDispatch(DodiciMesh):
    def __init__(self, job: Job) -> None:
        super().__init__(job)
        if job.kind != "get":
            raise Unsupported(job.kind)
        self.options = dodici.DispatchOptions(origin=job.origin, path=job.path, method="GET")

    async def whole(self, target: str) -> tuple[int, bytes]:
        response = await self.agent.request(target, method="GET")
        return response.status_code, await response.bytes()

    async def run(self, deadline: float) -> tuple[list[float], int]:
        await self.prove(self.job.origin + self.job.path)
        phase = Phase(self, deadline)
        for _ in range(self.job.slots):
            phase.dispatch(phase.options, Slot(phase))
        await phase.done
        return phase.latencies, len(phase.latencies) * self.job.size


if __name__ == "__main__":
    main(DodiciDispatch)

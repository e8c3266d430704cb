"""dodici's mesh, through request(): an Agent that the interceptor is composed onto.

With ``accepting``, one of the workers has a name of its own, and 100 callers keep all of them busy:
again and again it stops accepting, tells how long that took, and begins again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

from harness import Job, clock, main
from mesh_client import MESH, MeshClient, check, served

import dodici
from dodici.mesh import Worker, WorkerInterceptor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CALLS = 50
CHOSEN = "chosen"


class DodiciMesh(MeshClient):
    """What both ways of calling share: the workers."""

    package = "dodici"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.mesh: WorkerInterceptor
        self.agent: dodici.Dispatcher
        self.network: dodici.Agent

    async def open(self) -> None:
        self.mesh = WorkerInterceptor()
        workers = [self._worker() for _ in range(self.job.workers)]
        await self.mesh.route("api", workers)
        if self.job.kind == "accepting":
            await self.mesh.route(CHOSEN, workers[0])
        self.network = dodici.Agent()
        self.agent = self.network.compose(self.mesh)

    def _worker(self) -> Worker:
        if self.job.worker == "process":
            return Worker("mesh_app:app", cwd=str(MESH), lifespan="off")
        return Worker(served.app, kind="thread", lifespan="off")

    async def close(self) -> None:
        await self.mesh.close()
        await self.network.close()


class DodiciRequest(DodiciMesh):
    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._load = 0.0

    async def whole(self, target: str) -> tuple[int, bytes]:
        response = await self.agent.request(target, method="GET")
        return response.status_code, await response.bytes()

    @contextlib.asynccontextmanager
    async def response(self, target: str) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        async with self.agent.stream("GET", target) as response:
            yield response.status_code, response.body

    async def run(self, deadline: float) -> tuple[list[float], int]:
        if self.job.kind != "accepting":
            return await super().run(deadline)
        served_meanwhile = 0

        async def caller() -> None:
            nonlocal served_meanwhile
            while True:
                check(*await self.whole(f"{self.job.origin}/"), len(served.SMALL))
                served_meanwhile += 1

        started = clock()
        callers = [asyncio.ensure_future(caller()) for _ in range(self.job.slots)]
        try:
            latencies = [await self._toggle() for _ in range(CALLS)]
        finally:
            for each in callers:
                each.cancel()
            outcomes = await asyncio.gather(*callers, return_exceptions=True)
        failed = next((each for each in outcomes if not isinstance(each, asyncio.CancelledError)), None)
        if failed is not None:
            raise RuntimeError(f"a caller failed: {failed!r}")
        self._load = served_meanwhile / (clock() - started)
        return latencies, 0

    async def _toggle(self) -> float:
        """The seconds that a worker's `set_accepting(False)` took, measured by the worker."""
        status, body = await self.whole(f"http://{CHOSEN}.local{self.job.path}")
        if status != 200:
            raise RuntimeError(f"answered {status}: {body[:60]!r}")
        return float(json.loads(body))

    def remarks(self) -> dict[str, object]:
        return {"load_per_second": round(self._load)} if self.job.kind == "accepting" else {}


if __name__ == "__main__":
    main(DodiciRequest)

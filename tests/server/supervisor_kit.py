"""A mesh of fakes for the supervisor: workers that start, end and answer when a test says so."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from typing import Any

from tests.server.server_kit import service

from dodici.core.errors import MeshTimeoutError
from dodici.server.config import ServiceConfig
from dodici.server.output import Output
from dodici.server.supervisor import ServiceSupervisor


@dataclass
class Stats:
    requests: int = 0
    rss: int = 0


class FakeWorker:
    numbers = itertools.count(1)

    def __init__(self, mesh: FakeMesh, service: ServiceConfig) -> None:
        self.mesh = mesh
        self.service = service
        self.pid = next(self.numbers)
        self.id = f"w{self.pid}"
        self.state = "ready"
        self.accepting = True
        self.paused = False
        self.figures = Stats()
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def stop(self, grace: float = 30.0) -> int:
        self.mesh.log.append(f"stop {self.pid} {grace:g}")
        await self.mesh.may_stop.wait()
        self.end(0)
        return 0

    def kill(self) -> None:
        self.end(-9)

    def end(self, code: int) -> None:
        if not self.exited.done():
            self.mesh.workers.discard(self)
            self.exited.set_result(code)

    async def wait(self) -> int:
        return await asyncio.shield(self.exited)

    async def stats(self) -> Stats:
        return self.figures


class FakeMesh:
    def __init__(self) -> None:
        self.workers: set[FakeWorker] = set()
        self.log: list[str] = []
        self.fail: list[Exception] = []
        self.may_stop = asyncio.Event()
        self.may_stop.set()
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.changed = asyncio.Event()

    def make(self, service: ServiceConfig, on_output: Any) -> FakeWorker:
        return FakeWorker(self, service)

    async def route(self, name: str, worker: FakeWorker) -> None:
        self.log.append(f"route {worker.pid}")
        self.changed.set()
        await self.may_start.wait()
        if self.fail:
            error = self.fail.pop(0)
            if isinstance(error, MeshTimeoutError):
                self.workers.add(worker)
            raise error
        self.workers.add(worker)

    async def pause_worker(self, worker: FakeWorker) -> None:
        worker.paused = True

    async def resume_worker(self, worker: FakeWorker) -> None:
        worker.paused = False

    async def routed(self, count: int) -> None:
        """Return when `route` was called so often."""
        while sum(entry.startswith("route") for entry in self.log) < count:
            self.changed.clear()
            await self.changed.wait()


class Kit:
    def __init__(self, **keys: Any) -> None:
        self.mesh = FakeMesh()
        self.output = Output()
        self.service = service(**keys)
        self.supervisor = ServiceSupervisor(self.service, self.mesh, self.mesh.make, self.output)

    @property
    def pids(self) -> list[int | None]:
        return [slot.worker.pid if slot.worker else None for slot in self.supervisor.slots]

    @property
    def said(self) -> str:
        return "\n".join(line.text for line in self.output.last())

    async def filled(self) -> None:
        """Return when every slot has a worker."""
        while None in self.pids:
            await asyncio.sleep(0)

    def worker(self, index: int = 0) -> FakeWorker:
        worker = self.supervisor.slots[index].worker
        assert isinstance(worker, FakeWorker)
        return worker

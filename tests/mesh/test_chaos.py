"""Chaos: services whose workers are paused, killed and replaced at random, and callers that never stop.

What may fail is known exactly: a request that ran on a worker that was killed, and one that met a moment in which its
service had no available worker. Everything else is served, and every request has one outcome.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from typing import Any

import pytest
from tests.mesh.statements.kit import Census, Mesh, frozen, kill, no_tasks_left, until, within

from dodici import BodyAbortedError, NoTargetError, WorkerExitedError
from dodici.testing import RecordingHandler, pattern

SERVICES = ("orders", "stock", "users")
CALLERS = 100
CHANGES = ("pause", "resume", "resume", "kill", "replace", "reload", "restart", "stall")


class Service:
    """One name: its workers, and when it had none that was available."""

    def __init__(self, mesh: Mesh, name: str, rng: random.Random) -> None:
        self.mesh = mesh
        self.name = name
        self.rng = rng
        self.workers: list[Any] = []
        self.paused: set[str] = set()
        self.gaps = 0
        self.in_gap = False

    async def begin(self) -> None:
        self.workers = await self.mesh.start(self.name, 2)

    def available(self, without: Any = None) -> int:
        return sum(worker.id not in self.paused and worker is not without for worker in self.workers)

    def close_gap(self) -> None:
        self.in_gap = self.in_gap and not self.available()

    def before(self, without: Any) -> bool:
        """Whether a worker may be taken away now; once in ten times even if it is the last one."""
        if self.available(without):
            return True
        if self.rng.random() < 0.9:
            return False
        self.gaps += 1
        self.in_gap = True
        return True

    async def once(self) -> str:
        """One change."""
        worker = self.rng.choice(self.workers)
        change = self.rng.choice(CHANGES)
        done: bool = await getattr(self, "_" + change)(worker)
        self.close_gap()
        return change if done else "nothing"

    async def _pause(self, worker: Any) -> bool:
        if worker.id in self.paused or not self.before(worker):
            return False
        self.paused.add(worker.id)
        await self.mesh.interceptor.pause_worker(worker)
        return True

    async def _resume(self, worker: Any) -> bool:
        if worker.id not in self.paused:
            return False
        await self.mesh.interceptor.resume_worker(worker)
        self.paused.discard(worker.id)
        return True

    async def _kill(self, worker: Any) -> bool:
        if not self.before(worker):
            return False
        KILLED.add(worker.id)
        self.workers.remove(worker)
        kill(worker.pid)
        await worker.wait()
        self.workers += await self.mesh.start(self.name)
        return True

    async def _replace(self, worker: Any) -> bool:
        """Another app in the same process."""
        desk = await self.mesh.desk(worker)
        await desk.call("replace", label=f"app-{self.rng.randrange(1000)}")
        return True

    async def _reload(self, worker: Any) -> bool:
        """Start the new one, route it, then unroute and stop the old one."""
        [newer] = await self.mesh.start(self.name)
        self.workers.append(newer)
        self.workers.remove(worker)
        await self.mesh.interceptor.unroute(self.name, worker)
        await worker.stop()
        return True

    async def _stall(self, worker: Any) -> bool:
        """The process stands still for a moment."""
        with frozen(worker.pid):
            await asyncio.sleep(0.1)
        return True

    async def _restart(self, worker: Any) -> bool:
        """The worker leaves by itself, and another comes."""
        if not self.before(worker):
            return False
        self.workers.remove(worker)
        desk = await self.mesh.desk(worker)
        await desk.call("close")
        self.workers += await self.mesh.start(self.name)
        return True


KILLED: set[str] = set()


class Callers:
    """Requests without end, and what became of them."""

    def __init__(self, mesh: Mesh, services: list[Service], rng: random.Random) -> None:
        self.mesh = mesh
        self.services = services
        self.rng = rng
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.stopped = False
        self.targets: dict[int, str] = {}

    def allow_target(self, options: Any, target: Any, ctx: dict[str, Any]) -> bool:
        self.targets[int(options.headers.get("x-number", 0))] = target.id
        return True

    async def call(self, caller: int) -> None:
        count = 0
        while not self.stopped:
            count += 1
            await self._one(caller * 1_000_000 + count)

    async def _one(self, number: int) -> None:
        service = self.rng.choice(self.services)
        gaps, in_gap = service.gaps, service.in_gap
        options: dict[str, Any] = {"headers": {"x-number": str(number)}}
        kind = self.rng.choice(("small", "small", "stream", "upload", "gated"))
        size = self.rng.choice((1, 1000, 40_000, 300_000))
        path = {"small": "/label", "stream": f"/stream/{size}", "upload": "/echo", "gated": "/slowly"}[kind]
        if kind == "upload":
            options |= {"method": "POST", "body": pattern(size)}
        recorder: RecordingHandler = self.mesh.send(f"http://{service.name}.local", path, **options)
        await recorder.wait(20)
        target = self.targets.pop(number, "nobody")
        error = recorder.error
        if error is None:
            self.outcomes["served"] += 1
            if recorder.status_code != 200 or (kind == "stream" and recorder.body != pattern(size)):
                self.wrong.append(f"{path}: {recorder.status_code}, {recorder.body_size} bytes")
        elif isinstance(error, NoTargetError) and (in_gap or service.in_gap or service.gaps != gaps):
            self.outcomes["no target"] += 1
        elif isinstance(error, WorkerExitedError | BodyAbortedError) and target in KILLED:
            self.outcomes["killed"] += 1
        else:
            self.wrong.append(f"{path} on {service.name} ({target}): {error!r}")


async def _chaos(seconds: float) -> None:
    seed = int(os.environ.get("MESH_CHAOS_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"MESH_CHAOS_SEED={seed}")
    rng = random.Random(seed)
    before, tasks = Census(), asyncio.all_tasks()
    changes: Counter[str] = Counter()
    services: list[Service] = []
    callers: Any = None
    async with Mesh(allow_target=lambda *args: callers.allow_target(*args)) as mesh:
        services = [Service(mesh, name, random.Random(rng.random())) for name in SERVICES]
        callers = Callers(mesh, services, random.Random(rng.random()))
        await asyncio.gather(*(service.begin() for service in services))
        calling = [asyncio.ensure_future(callers.call(index)) for index in range(CALLERS)]
        end = time.monotonic() + seconds

        async def disturb(service: Service) -> None:
            while time.monotonic() < end:
                changes[await service.once()] += 1

        await within(asyncio.gather(*map(disturb, services)), "the disturbances", seconds + 25)
        callers.stopped = True
        await within(asyncio.gather(*calling), "the callers", 25)
        told = f"seed {seed}, {dict(changes)}, {dict(callers.outcomes)}"
        print(told)
        assert not callers.wrong, f"{len(callers.wrong)} wrong ({told}): {callers.wrong[:5]}"
        for service in services:
            for worker in service.workers:
                await mesh.interceptor.resume_worker(worker)
            origin = f"http://{service.name}.local"
            seen = set(await mesh.spread(f"{origin}/whoami", 4))
            assert seen == {str(worker.pid) for worker in service.workers}, told
        assert callers.outcomes["served"] > 100 * seconds, told
        assert sum(changes.values()) - changes["nothing"] >= seconds, told
        KILLED.clear()
    await no_tasks_left(tasks)
    await until(lambda: not before.leaks(), "what is left behind")


async def test_only_what_the_rules_allow_fails() -> None:
    await _chaos(4.0)


@pytest.mark.perf
async def test_only_what_the_rules_allow_fails_in_twenty_seconds() -> None:
    await _chaos(20.0)

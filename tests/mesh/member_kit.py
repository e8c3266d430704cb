"""Meshes for tests of workers: what is opened is closed, and nothing may be left."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
from pathlib import Path

import psutil

from dodici import Agent
from dodici.mesh import Worker, WorkerInterceptor

APPS = "tests.mesh.member_apps"
APP = f"{APPS}:app"


class Mesh:
    """A coordinator, an agent through it, and shortcuts."""

    def __init__(self, **options):
        self.interceptor = WorkerInterceptor(**options)
        self.agent = Agent().compose(self.interceptor)

    async def start(self, service, count=1, target=APP, **options):
        workers = [Worker(target, **options) for _ in range(count)]
        await self.interceptor.route(service, workers)
        return workers[0] if count == 1 else workers

    async def get(self, name, path="/"):
        response = await self.agent.request(f"http://{name}.local{path}")
        assert response.status_code == 200, (response.status_code, await response.text())
        return await response.json()

    async def ids(self, name, times):
        """Which workers answer."""
        return {(await self.get(name))["id"] for _ in range(times)}


@contextlib.asynccontextmanager
async def mesh(**options):
    made = Mesh(**options)
    try:
        yield made
    finally:
        await made.interceptor.close(0.5)
        await made.agent.close()


@contextlib.asynccontextmanager
async def nothing_left():
    """Descriptors, threads, tasks and children are as many after as before."""
    # The first workers load and open what stays: modules, and what event loops of a kind have in common.
    async with mesh() as first:
        for kind in ("process", "thread"):
            await first.start(kind, kind=kind)
            await first.get(kind)
    before = count()
    yield
    for _ in range(50):
        after = count()
        if after == before:
            return
        await asyncio.sleep(0.02)
    assert after == before, (before, after)


def count():
    gc.collect()
    return {
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "threads": threading.active_count(),
        "tasks": len(asyncio.all_tasks()),
        "children": len(psutil.Process().children(recursive=True)),
    }


async def eventually(condition, seconds=5.0):
    """For what other processes do in their own time."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def stopped(pid):
    import signal

    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

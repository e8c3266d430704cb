"""aiohttp, and an ASGI server behind a unix socket: how apps on one machine are reached without a mesh.

The server is uvicorn (uvloop, httptools) or granian, as their users start them, without logs and
with connections that last as long as the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
from harness import Job, main, version_of
from mesh_client import MESH, MeshClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

READY_WITHIN = 20.0  # seconds


def command(server: str, path: str, workers: int) -> list[str]:
    """The words that start `server` on the unix socket `path`."""
    run = [sys.executable, "-m", server]
    count = ["--workers", str(workers)]
    if server == "uvicorn":
        quiet = ["--log-level", "critical", "--no-access-log", "--lifespan", "off"]
        how = ["--loop", "uvloop", "--http", "httptools", "--timeout-keep-alive", "3600"]
        return [*run, "mesh_app:app", "--app-dir", str(MESH), "--uds", path, *count, *quiet, *how]
    quiet = ["--no-log", "--no-access-log", "--interface", "asginl"]
    how = ["--loop", "uvloop", "--http", "1", "--http1-header-read-timeout", "60000"]
    return [*run, "mesh_app:app", "--working-dir", str(MESH), "--uds", path, *count, *quiet, *how]


class Aiohttp(MeshClient):
    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.package = job.worker
        self.session: aiohttp.ClientSession
        self._folder = tempfile.mkdtemp(prefix="bench-")
        self._server: subprocess.Popen[bytes] | None = None

    def version(self) -> str:
        return f"{version_of(self.package)}, called by aiohttp {version_of('aiohttp')}"

    async def open(self) -> None:
        path = str(Path(self._folder) / "server.sock")
        self._server = subprocess.Popen(command(self.job.worker, path, self.job.workers))
        await self._ready(path)
        connector = aiohttp.UnixConnector(path, limit=self.job.concurrency, keepalive_timeout=600)
        self.session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    async def _ready(self, path: str) -> None:
        """Return when every worker has answered; each asks on a connection of its own."""
        pids: set[bytes] = set()
        async with (
            asyncio.timeout(READY_WITHIN),
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(path, force_close=True)) as session,
        ):
            while len(pids) < self.job.workers:
                try:
                    async with session.get("http://server/pid") as response:
                        pids.add(await response.read())
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0.02)

    async def close(self) -> None:
        await self.session.close()
        if self._server is not None:
            self._server.terminate()
            await asyncio.to_thread(self._server.wait)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def whole(self, target: str) -> tuple[int, bytes]:
        async with self.session.get(target) as response:
            return response.status, await response.read()

    @contextlib.asynccontextmanager
    async def response(self, target: str) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        async with self.session.get(target) as response:
            yield response.status, response.content.iter_any()


if __name__ == "__main__":
    main(Aiohttp)

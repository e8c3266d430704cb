"""Runs `dodici up` in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import dodici
from dodici.server.control import ControlClient

APPS = Path(__file__).parent / "apps"
SOURCE = Path(__file__).parents[2] / "src"
PATIENCE = 20.0
"""Seconds to wait for a line of output: processes start slowly where many start at once."""


def environment(folder: Path) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(SOURCE), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "XDG_RUNTIME_DIR": str(folder), "NO_PROXY": "*"}


class Up:
    """A running `dodici up`."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.lines: list[str] = []
        self.ended = False
        self._changed = asyncio.Event()
        self._reading = asyncio.ensure_future(self._read())
        self._looked = 0
        self.agent = dodici.Agent()
        self.origin = ""

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(line.decode().rstrip("\n"))
            self._changed.set()
        self.ended = True
        self._changed.set()

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    async def until(self, pattern: str) -> re.Match[str]:
        """The next line with `pattern` in it that was not looked at yet."""
        async with asyncio.timeout(PATIENCE):
            while True:
                while self._looked < len(self.lines):
                    self._looked += 1
                    if found := re.search(pattern, self.lines[self._looked - 1]):
                        return found
                assert not self.ended, f"it ended before {pattern!r}:\n{self.text}"
                self._changed.clear()
                await self._changed.wait()

    async def ready(self) -> None:
        found = await self.until(r"listening at (http\S+?)(?:,|$)")
        self.origin = found[1]
        await self.until(r"ready: ")

    async def get(self, path: str, **options: Any) -> Any:
        """The JSON of a 200."""
        response = await self.agent.request(self.origin + path, **options)
        assert response.status_code == 200, (response.status_code, await response.text())
        return await response.json()

    async def status(self, path: str, **options: Any) -> tuple[int, str]:
        response = await self.agent.request(self.origin + path, **options)
        return response.status_code, await response.text()

    async def command(self, *arguments: str) -> tuple[int, str]:
        """Another `dodici`: its status, and what it printed."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "dodici",
            *arguments,
            env=environment(self.folder),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(PATIENCE):
            printed, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, printed.decode()

    async def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """What the control socket answers."""
        [path] = (self.folder / "dodici").glob("*.sock")

        def call() -> dict[str, Any]:
            with ControlClient(path, timeout=PATIENCE) as client:
                return client.call(command, **arguments)

        return await asyncio.to_thread(call)

    async def ps(self) -> dict[str, Any]:
        """What `dodici ps --json` prints."""
        found: dict[str, Any] = (await self.ask("status"))["status"]
        return found

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def wait(self) -> int:
        """Its exit status."""
        async with asyncio.timeout(PATIENCE):
            await self._reading
            return await self.process.wait()


@asynccontextmanager
async def up(folder: Path, *arguments: str, wait: bool = True) -> AsyncIterator[Up]:
    """`dodici up ARGUMENTS`, with its control socket in `folder`; stopped in the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-u",
        "-m",
        "dodici",
        "up",
        *arguments,
        env=environment(folder),
        cwd=APPS,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    running = Up(process, folder)
    try:
        if wait:
            await running.ready()
        yield running
    finally:
        await running.agent.destroy()
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(PATIENCE):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        await running._reading


def write(folder: Path, text: str) -> str:
    """A configuration file whose services find the sample app. Returns its path."""
    text = text.replace("APPS", str(APPS))
    if "[gateway]" not in text:
        text = '[gateway]\nlisten = "127.0.0.1:0"\n' + text
    file = folder / "test.toml"
    file.write_text(text)
    return str(file)


class Held:
    """A request to `/hold`: its response has begun, and ends when `release()` is called."""

    def __init__(self, running: Up) -> None:
        self._context = running.agent.pipeline(running.origin + "/hold", method="POST")

    async def begin(self) -> Held:
        self._duplex = await self._context.__aenter__()
        await self._duplex.write(b"x")
        self._response = await self._duplex.response
        assert self._response.status_code == 200
        return self

    async def release(self) -> int:
        """Lets it end. Returns the pid of the worker that had it."""
        await self._duplex.end()
        body = b"".join([piece async for piece in self._response.body])
        await self._context.__aexit__(None, None, None)
        return json.loads(body)["pid"]  # type: ignore[no-any-return]

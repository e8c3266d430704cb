"""Nodes of a collective for the tests: `dodici up` with a collector, one service, and a way to it."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Self

from tests.server.up_kit import PATIENCE, Up, up, write

import dodici

NODE = """
[services.shop]               # asked through the collective alone
app = "sample:app"
cwd = "APPS"
workers = WORKERS

[services.other]              # which is where sample's /neighbour looks for it
app = "http://Shop.test.collective"
path = "/"
SERVICES

[collector]
id = "ID"
listen = "127.0.0.1:PORT"
connect = CONNECT
EXTRA

[collector.services."test.Shop"]
origin = "http://shop.local"
"""


def free_port() -> int:
    """One that a node may come back to: port 0 would give it another."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


FRONT = """
[services.front]
app = "sample:app"
cwd = "APPS"
path = "/neighbour"
"""


class Node:
    """The file and the folder of one node, which may run more than once."""

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        connect: tuple[str, ...] = (),
        extra: str = "",
        services: str = "",
        workers: int = 1,
    ) -> None:
        self.name = name
        self.folder = folder / name
        self.folder.mkdir()
        self.address = f"127.0.0.1:{free_port()}"
        text = (
            NODE.replace("WORKERS", str(workers))
            .replace("ID", name)
            .replace("EXTRA", extra)
            .replace("SERVICES", services)
        )
        text = text.replace("PORT", self.address.rpartition(":")[2])
        self.file = Path(write(self.folder, text.replace("CONNECT", str(list(connect)))))

    def up(self, *arguments: str, wait: bool = True) -> AbstractAsyncContextManager[Up]:
        """Run it."""
        return up(self.folder, str(self.file), *arguments, wait=wait)


@asynccontextmanager
async def nodes(**options: Any) -> AsyncIterator[tuple[Node, Node]]:
    """Two of them, the second of which connects to the first. Neither runs."""
    # The paths of unix sockets are short, and those of pytest's folders long.
    with tempfile.TemporaryDirectory(prefix="dodici-") as folder:
        first = Node(Path(folder), "a", **options)
        yield first, Node(Path(folder), "b", connect=(first.address,), **options)


@asynccontextmanager
async def both(a: Node, b: Node) -> AsyncIterator[tuple[Up, Up]]:
    """Run two nodes, which start and end side by side."""
    async with a.up(wait=False) as first, b.up(wait=False) as second:
        await asyncio.gather(first.ready(), second.ready())
        try:
            yield first, second
        finally:
            if first.process.returncode is None:
                first.signal(signal.SIGTERM)


async def pids(running: Up, path: str = "/pid", count: int = 8) -> set[int]:
    """Who answers."""
    return {(await running.get(path))["pid"] for _ in range(count)}


async def workers(running: Up) -> set[int]:
    """The processes of its service `shop`."""
    [service] = [each for each in (await running.ps())["services"] if each["name"] == "shop"]
    return {slot["pid"] for slot in service["slots"] if slot["pid"] is not None}


async def peer(running: Up, name: str, state: str = "connected") -> dict[str, Any]:
    """What a node tells of a peer, once that is in a state, and its routes with it."""
    async with asyncio.timeout(PATIENCE):
        while True:
            collector = (await running.ps())["collector"]
            found = [each for each in collector["peers"] if each["id"] == name and each["state"] == state]
            learned = any(name in each["peers"] for each in collector["routes"])
            if found and (learned or state != "connected"):
                return dict(found[0])


_REST = 0.005
"""Seconds between two calls of a caller of `Load`: the nodes that start meanwhile need the cores, too."""


class Load:
    """Callers that go on until the block ends: what they got, and what went wrong."""

    def __init__(self, running: Up, *paths: str, callers: int = 4) -> None:
        self._urls = [running.origin + path for path in paths]
        self._callers = callers
        self._agent = dodici.Agent()
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()
        self.seen: Counter[int] = Counter()
        self.problems: list[str] = []

    async def __aenter__(self) -> Self:
        for url in self._urls:
            self._tasks += [asyncio.create_task(self._call(url)) for _ in range(self._callers)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)
        await self._agent.destroy()

    async def _call(self, url: str) -> None:
        while not self._stop.is_set():
            try:
                response = await self._agent.request(url)
                text = await response.text()
                if response.status_code == 200:
                    self.seen[json.loads(text)["pid"]] += 1
                else:
                    self.problems.append(f"{response.status_code} {text}")
            except dodici.DodiciError as error:
                self.problems.append(repr(error))
            self._changed.set()
            await asyncio.sleep(_REST)

    async def until(self, *found: int, more: int = 1) -> None:
        """Return when each of these processes has answered so often from now on."""
        before = Counter(self.seen)
        await self._until(lambda: all(self.seen[pid] - before[pid] >= more for pid in found), found)

    async def until_any(self, found: set[int]) -> None:
        """Return when one of these processes has answered from now on."""
        before = Counter(self.seen)
        await self._until(lambda: any(self.seen[pid] > before[pid] for pid in found), found)

    async def _until(self, reached: Callable[[], bool], found: Iterable[int]) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                while not reached():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"waited for {found}: {self.seen}, {self.problems[-5:]}") from None

"""Three nodes of two workers each, under load from every entry, and what their workers have written of it.

As a program (`python -m tests.collective.signal.three [CHANGES]`) it measures how long after a change the last request
arrives where nothing accepts any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.collective.fleet import Process, processes

from . import node as program


@dataclass(frozen=True)
class Arrival:
    """A request, as a worker has seen it begin. Moments are seconds of the monotonic clock."""

    moment: float
    node: str
    pid: int
    sent: float
    entry: str
    path: str


class Three:
    """The nodes, by id: "a" runs its own calls itself while it can, "b" and "c" are among those to choose from."""

    def __init__(self, nodes: dict[str, Process], log: Path) -> None:
        self.nodes = nodes
        self._log = log

    def __getitem__(self, name: str) -> Process:
        return self.nodes[name]

    async def everywhere(self, what: str, **arguments: Any) -> list[Any]:
        """Have every node do something."""
        return await asyncio.gather(*(each.ask(what, **arguments) for each in self.nodes.values()))

    async def peers_see(self, name: str) -> list[float]:
        """The weight that each other node gives to one now; 0.0 if it does not choose it."""
        others = [each for key, each in self.nodes.items() if key != name]
        weights = await asyncio.gather(*(each.ask("weights") for each in others))
        return [found.get(name, 0.0) for found in weights]

    async def agreed(self, name: str, share: float) -> None:
        """Return when every node gives one that weight."""

        async def agree() -> bool:
            return await self.peers_see(name) == [share] * (len(self.nodes) - 1)

        async with asyncio.timeout(10):
            while not await agree():
                await asyncio.sleep(0.01)

    async def flows(self, calls: int, at: str | None = None) -> None:
        """Return when every entry has had so many more calls answered, by the node `at` if it is given."""
        entries = [each for key, each in self.nodes.items() if at is None or key == at or key != "a"]
        await asyncio.gather(*(each.ask("more", calls=calls, at=at) for each in entries))

    async def finish(self) -> tuple[int, list[dict[str, Any]]]:
        """End the load. Returns how many calls there were, and those that failed."""
        ended = await self.everywhere("finish")
        return sum(each["calls"] for each in ended), [call for each in ended for call in each["failed"]]

    def open(self) -> float:
        """Have the workers accept again that have said that they do not. Returns when."""
        now = time.monotonic()
        Path(f"{self._log}.open").touch()
        return now

    def arrivals(self, name: str, after: float, before: float = float("inf")) -> list[Arrival]:
        """What workers of a node have begun between two moments."""
        found = []
        for line in self._log.read_text().splitlines():
            moment, at, pid, sent, entry, path = line.split()
            arrival = Arrival(float(moment), at, int(pid), float(sent), entry, path)
            if at == name and after < arrival.moment < before:
                found.append(arrival)
        return found


@contextlib.asynccontextmanager
async def three(**settings: Any) -> AsyncIterator[Three]:
    """Started, and each connected with each."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "arrivals"
        log.touch()
        async with processes(program.__file__) as launch:
            names = ("a", "b", "c")
            started = await asyncio.gather(
                *(launch(name, log=str(log), local_first=name == "a", **settings) for name in names)
            )
            found = Three(dict(zip(names, started, strict=True)), log)
            for one, other in (("a", "b"), ("a", "c"), ("b", "c")):
                await found[one].ask("connect", address=found[other].address)
            for name in names:
                await found.agreed(name, 1.0)
            yield found


async def measure(changes: int, rate: float = 60.0) -> None:
    """Pause and resume all of a node, under load, so many times; print what was measured."""
    acknowledged, last, back = [], [], []
    async with three() as nodes:
        await nodes.everywhere("load", rate=rate)
        for number in range(changes):
            name = ("b", "c")[number % 2]
            node = nodes[name]
            await node.ask("pause", worker=0)
            await nodes.flows(5)
            change = await node.ask("pause", worker=1)
            await nodes.flows(10)
            acknowledged.append(change["returned"] - change["called"])
            late = [each.moment - change["called"] for each in nodes.arrivals(name, change["called"])]
            last.append(max(late, default=0.0))
            resumed = await node.ask("resume", worker=1)
            await node.ask("resume", worker=0)
            await nodes.flows(3, at=name)
            back.append(
                min(each.moment for each in nodes.arrivals(name, resumed["called"])) - resumed["called"]
            )
        calls, failed = await nodes.finish()
        print(
            f"{calls} calls from 3 entries at {rate:g}/s each, {len(failed)} failed, {changes} changes; ms:"
        )
        for what, seconds in (
            ("the change until it is acknowledged", acknowledged),
            ("the change until the last request arrives", last),
            ("the resumption until the first request arrives", back),
        ):
            print(f"  {what}: median {statistics.median(seconds) * 1e3:.1f}, max {max(seconds) * 1e3:.1f}")
        assert not failed, failed[:3]


if __name__ == "__main__":
    asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 24))

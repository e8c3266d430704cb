"""A node in a process of its own: a collector, and a mesh whose workers serve its origin. Driven as in `fleet.py`.

Moments are of the machine's one monotonic clock, so that those of several processes can be compared.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.collective.fleet import obey

from dodici import Agent, MeshTimeoutError
from dodici.collective import CollectiveError, Collector
from dodici.mesh import Worker, WorkerInterceptor

NAMESPACE, SERVICE = "shop", "Orders"
LARGE = 200_000
"""Bytes of a call that goes beside the link."""
MIX = ("Who", "Safe", "Who", "Large", "Who", "Safe", "Who", "Chat")
"""What the load asks for, in turns."""


class Node:
    """What the process does."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.id = settings["id"]
        self.mesh = WorkerInterceptor(propagation_timeout=settings.get("propagation_timeout", 5.0))
        self.agent = Agent().compose(self.mesh)
        self.count = settings.get("workers", 2)
        self.env = {"NODE": self.id, "LOG": settings["log"]}
        self.workers: list[Worker] = []
        self.collector = Collector(
            self.id,
            settings["address"],
            namespaces=[NAMESPACE],
            local_first=settings.get("local_first", True),
            # No memory of how slow the first calls were: where traffic goes is for the signal alone.
            balance="least_request",
        )
        self.results: list[dict[str, Any]] = []
        self.ended = asyncio.Event()
        self.load: asyncio.Task[None] | None = None
        self.calls: set[asyncio.Task[None]] = set()

    def worker(self) -> Worker:
        return Worker("tests.collective.signal.orders:app", env=self.env, lifespan="off")

    async def run(self) -> None:
        methods = {"Who": {}, "Safe": {"idempotent": True}, "Close": {}, "Chat": {"kind": "stream_stream"}}
        self.collector.register_origin(
            NAMESPACE, SERVICE, "http://orders.local", dispatcher=self.agent, methods=methods
        )
        try:
            self.workers = [self.worker() for _ in range(self.count)]
            await self.mesh.route("orders", self.workers)
            async with self.collector:
                await obey(self.do)
        finally:
            await self.mesh.close(0.5)
            await self.agent.destroy()

    async def do(self, what: str, arguments: dict[str, Any]) -> Any:
        match what:
            case "address":
                return self.collector.address
            case "connect":
                await self.collector.connect_to(arguments["address"])
            case "weights":
                return self.weights()
            case "load":
                self.load = asyncio.create_task(self._run_load(arguments["rate"]))
            case "more":
                await self._more(arguments["calls"], arguments.get("at"))
            case "finish":
                return await self._finish()
            case "call":
                return await self._call(arguments["method"], time.monotonic(), arguments.get("target"))
            case "close":
                result = await self.collector.dispatch(
                    NAMESPACE, SERVICE, "Close", {}, metadata=self._metadata(), target=arguments["target"]
                )
                result.raise_for_status()
                return result.output
            case "kill":
                worker = self.workers[arguments["worker"]]
                worker.kill()
                await worker.wait()
                return time.monotonic()
            case "replace":
                self.workers[arguments["worker"]] = fresh = self.worker()
                await self.mesh.route("orders", fresh)
            case "pause" | "resume" | "unroute" | "route":
                return await self._timed(what, self.workers[arguments["worker"]])
            case _:
                raise ValueError(what)
        return None

    async def _timed(self, what: str, worker: Worker) -> dict[str, Any]:
        called = time.monotonic()
        silent: list[str] = []
        try:
            if what in ("unroute", "route"):
                await getattr(self.mesh, what)("orders", worker)
            else:
                await getattr(self.mesh, f"{what}_worker")(worker)
        except MeshTimeoutError as error:
            silent = [name for name, _, _ in error.members]
        return {"called": called, "returned": time.monotonic(), "silent": silent, "pid": worker.pid}

    def weights(self) -> dict[str, float]:
        """What it gives to those who serve the origin themselves, and to itself."""
        from dodici.collective.names import RouteKey

        key = RouteKey(NAMESPACE, SERVICE, "Who")
        group = self.collector._table.group(key)
        # Others may be the way to who serves it, a hop farther; that is not their own weight.
        nearest = [tier for tier in group.tiers if tier.hops == 1] if group else []
        found = {each.peer: each.weight for tier in nearest for each in tier.candidates}
        return found | {self.id: self.collector._services.share(key)}

    # -- its calls -------------------------------------------------------------------------------------------

    def _metadata(self) -> dict[str, str]:
        return {"x-sent": str(time.monotonic()), "x-from": self.id}

    async def _run_load(self, rate: float) -> None:
        due, number = time.monotonic(), 0
        while True:
            number += 1
            call = asyncio.create_task(self._record(MIX[number % len(MIX)]))
            self.calls.add(call)
            call.add_done_callback(self.calls.discard)
            due += 1 / rate
            await asyncio.sleep(due - time.monotonic())

    async def _record(self, method: str) -> None:
        self.results.append(await self._call(method, time.monotonic(), None))
        self.ended.set()

    async def _more(self, calls: int, at: str | None) -> None:
        """Return when so many calls that begin from now on have been served, at that node."""
        since = time.monotonic()
        while sum(each["began"] > since and at in (None, each["node"]) for each in self.results) < calls:
            self.ended.clear()
            await self.ended.wait()

    async def _call(self, method: str, began: float, target: str | None) -> dict[str, Any]:
        if method == "Chat":
            stream = self.collector.dispatch_stream(
                NAMESPACE, SERVICE, "Chat", self._lines(), metadata=self._metadata(), timeout=10
            )
            answers: list[Any] = []
            try:
                async for each in stream:
                    answers.append(each)
            except CollectiveError:
                pass
            result = await stream.result()
            whole = len(answers) == 3
            output = answers[0] if answers else None
        else:
            given = {"filler": "x" * LARGE} if method == "Large" else {}
            result = await self.collector.dispatch(
                NAMESPACE,
                SERVICE,
                "Who" if method == "Large" else method,
                given,
                metadata=self._metadata(),
                timeout=10,
                target=target,
            )
            output, whole = result.output, True
        status = int(result.status)
        return {
            "method": method,
            "began": began,
            "took": time.monotonic() - began,
            "status": status if whole or status != 200 else -1,
            "message": result.status.message,
            "node": output["node"] if output else None,
        }

    async def _lines(self) -> AsyncIterator[Any]:
        for number in range(3):
            yield {"number": number}

    async def _finish(self) -> dict[str, Any]:
        """How many calls there were, and those that failed."""
        if self.load is not None:
            self.load.cancel()
            await asyncio.gather(self.load, *self.calls, return_exceptions=True)
        results, self.results = self.results, []
        return {"calls": len(results), "failed": [each for each in results if each["status"] != 200][:100]}


if __name__ == "__main__":
    asyncio.run(Node(json.loads(sys.argv[1])).run())

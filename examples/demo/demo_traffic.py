"""The traffic of the demo: callers that never stop, and what became of every call.

Four ways lead to the shop, and each has callers of its own:

    order       POST /orders at the gateways. FastAPI's worker takes the goods out of the inventory, which it finds
                through the mesh and the collective: gateway, mesh, worker, collective, mesh, worker. An order is never
                sent twice.
    stock       GET /inventory/hat at the gateways, which have it from the collective, wherever its workers are.
    collective  the same request from a collector of the demo's own, without a gateway.
    rpc         the same question as a call of InventoryService.Look, as any gRPC client may make it.

The two gateways are one `BalancedPool` behind `retry()`: what a gateway that is gone has not seen goes to the other one.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from demo_cluster import Cluster

import dodici
from dodici.collective import CollectiveInterceptor, Collector

Ask = Callable[[], Awaitable[dict[str, Any]]]

ITEM = "hat"
WAYS = ("order", "stock", "collective", "rpc")
CALLERS = 3
# Beyond it a call has failed, whatever becomes of it.
LIMIT = 10.0


class Failed(Exception):
    """An answer that tells of a failure."""


@dataclass
class Tally:
    """What became of the calls of one way in one phase: their times in seconds, and who took from the stock."""

    seconds: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    workers: Counter[int] = field(default_factory=Counter)
    editions: Counter[int] = field(default_factory=Counter)

    @property
    def calls(self) -> int:
        return len(self.seconds)

    @property
    def failed(self) -> int:
        return self.failures.total()

    @property
    def times(self) -> str:
        """The median and the 99th percentile, in milliseconds."""
        ordered = sorted(self.seconds)
        if not ordered:
            return "-"
        middle, late = (ordered[min(int(len(ordered) * share), len(ordered) - 1)] for share in (0.5, 0.99))
        return f"{middle * 1000:.1f} / {late * 1000:.1f}"


class Traffic:
    """Callers, and a tally of each way since the last `turn()`.

    Attributes:
        gateways: where the requests of the first two ways go.
        late: calls that began after `forbid()` and were served by whom it names.
    """

    def __init__(self, ways: dict[str, Ask], gateways: dodici.BalancedPool, rest: float) -> None:
        self._ways, self._rest = ways, rest
        self.gateways = gateways
        self._callers: list[asyncio.Task[None]] = []
        self._forbidden: frozenset[int] = frozenset()
        self._since = 0.0
        self.tallies = {name: Tally() for name in ways}
        self.late = 0

    def start(self) -> None:
        self._callers = [
            asyncio.create_task(self._call(way, ask))
            for way, ask in self._ways.items()
            for _ in range(CALLERS)
        ]

    async def stop(self) -> None:
        """End the callers, once their calls have ended."""
        for caller in self._callers:
            caller.cancel()
        await asyncio.gather(*self._callers, return_exceptions=True)

    def turn(self) -> dict[str, Tally]:
        """Begin new tallies; what was counted before."""
        before, self.tallies = self.tallies, {name: Tally() for name in self._ways}
        return before

    def forbid(self, workers: Iterable[int]) -> None:
        """Count, in `late`, the calls that begin from now on and are served by one of these workers."""
        self._forbidden, self._since, self.late = frozenset(workers), time.perf_counter(), 0

    async def until(self, true: Callable[[dict[str, Tally]], object], limit: float) -> float | None:
        """Wait until something holds for the tallies; how many seconds that took, or None if it took too long."""
        began = time.perf_counter()
        while not true(self.tallies):
            if time.perf_counter() - began > limit:
                return None
            await asyncio.sleep(0.01)
        return time.perf_counter() - began

    async def _call(self, way: str, ask: Ask) -> None:
        while True:
            began = time.perf_counter()
            failure, answer = "", {}
            try:
                async with asyncio.timeout(LIMIT):
                    answer = await ask()
            except Exception as error:  # whatever it is, it is a call that failed
                failure = f"{type(error).__name__}: {error}"
            self._count(way, began, failure, answer)
            await asyncio.sleep(self._rest)

    def _count(self, way: str, began: float, failure: str, answer: dict[str, Any]) -> None:
        tally = self.tallies[way]
        tally.seconds.append(time.perf_counter() - began)
        if failure:
            tally.failures[failure] += 1
            return
        worker = answer.get("stock_worker", answer["worker"])
        tally.workers[worker] += 1
        tally.editions[answer.get("edition", 1)] += 1
        self.late += began > self._since and worker in self._forbidden


async def _asked(dispatcher: dodici.Dispatcher, url: str, **options: Any) -> dict[str, Any]:
    """The JSON of the response; raises `Failed` where its status is that of a failure."""
    response = await dispatcher.request(url, **options)
    text = await response.text()
    if response.status_code not in (200, 201):
        raise Failed(f"{response.status_code} {text[:120]}")
    answer: dict[str, Any] = json.loads(text)
    return answer


@asynccontextmanager
async def traffic_to(cluster: Cluster, rest: float) -> AsyncIterator[Traffic]:
    """Callers that have not begun yet, and wait `rest` seconds between two calls. The nodes have to be up."""
    collector = Collector("demo", "127.0.0.1:0", namespaces=["shop"], discovery=cluster.discovery)
    # Only what nobody has seen, and questions whose connection broke, are sent again: what a node answers counts.
    retry = dodici.interceptors.retry(max_retries=10, min_timeout=0.05, timeout_factor=1, status_codes=())
    gateways = dodici.BalancedPool([node.gateway for node in cluster.processes])
    async with collector, gateways.compose(retry) as shop:
        if cluster.discovery is None:
            for node in cluster.processes:
                await collector.connect_to(node.collector)
        async with dodici.Agent().compose(CollectiveInterceptor(collector), retry) as agent:
            order = {"item": ITEM, "amount": 1}
            url = f"http://InventoryService.shop.collective/inventory/{ITEM}"

            async def rpc() -> dict[str, Any]:
                result = await collector.dispatch("shop", "InventoryService", "Look", {"item": ITEM})
                result.raise_for_status()
                stock: dict[str, Any] = result.output
                return stock

            ways: dict[str, Ask] = {
                "order": lambda: _asked(shop, "/orders", method="POST", json=order),
                "stock": lambda: _asked(shop, f"/inventory/{ITEM}"),
                "collective": lambda: _asked(agent, url),
                "rpc": rpc,
            }
            yield Traffic(ways, gateways, rest)

"""Services behind a valve: a dispatcher whose capacity the test sets, and handlers in the place of its workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from dodici import MeshTimeoutError
from dodici.collective import Collector
from dodici.collective.errors import CallAbortedError
from dodici.collective.names import CallKind, MethodSpec
from dodici.collective.origin.capacity import OriginCapacity
from dodici.core.grpc_status import GrpcStatus

NAMESPACE, SERVICE = "shop", "Orders"
ORIGIN = "http://orders.local"


class Valve:
    """What of an origin accepts requests: set by the test. Awaits what its watchers return, as the mesh does."""

    def __init__(self, share: float = 1.0) -> None:
        self.share = share
        self.watched: list[str] = []
        self.first: asyncio.Future[None] | None = None
        """The acknowledgement of what a watcher was told first."""
        self._listeners: list[Callable[[float], Any]] = []

    def watch_capacity(self, origin: str, on_change: Callable[[float], Any]) -> Callable[[], None]:
        self.watched.append(origin)
        self._listeners.append(on_change)
        due = on_change(self.share)
        if due is not None:
            self.first = asyncio.ensure_future(due)
        return lambda: self._listeners.remove(on_change)

    @property
    def watchers(self) -> int:
        return len(self._listeners)

    def turn(self, share: float, timeout: float | None = None) -> asyncio.Task[None]:
        """Change it; the task ends when it is acknowledged, or is cancelled after `timeout` seconds."""
        self.share = share
        due = [each for each in [listener(share) for listener in self._listeners] if each is not None]
        return asyncio.create_task(self._settled(due, timeout))

    @staticmethod
    async def _settled(due: list[Any], timeout: float | None) -> None:
        tasks = [asyncio.ensure_future(each) for each in due]
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=timeout)
        for task in late:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        members = tuple(
            member for each in results if isinstance(each, MeshTimeoutError) for member in each.members
        )
        if members:
            raise MeshTimeoutError("silent", members=members)
        for each in results:
            if isinstance(each, BaseException):
                raise each


class Behind:
    """What a collector serves from behind a valve. It refuses unseen while `shut`, and counts what it serves."""

    def __init__(self, collector: Collector, valve: Valve, service: str = SERVICE) -> None:
        self.id = collector.id
        self.valve = valve
        self.shut = False
        self.reads = False
        """It reads all of a stream's input before it refuses the call."""
        self.lost = 0
        """Calls that are lost after they were begun."""
        self.served = 0
        self.capacity = OriginCapacity(collector._services, collector._peers, ORIGIN)
        specs = [
            MethodSpec(NAMESPACE, service, name, handler, kind, idempotent, capacity=self.capacity)
            for name, handler, kind, idempotent in (
                ("Who", self.who, CallKind.UNARY_UNARY, True),
                ("Once", self.who, CallKind.UNARY_UNARY, False),
                ("Total", self.total, CallKind.STREAM_UNARY, False),
                ("Chat", self.chat, CallKind.STREAM_STREAM, False),
            )
        ]
        collector._services.add(specs)
        self.capacity.watch(valve)  # type: ignore[arg-type]

    def _begin(self) -> None:
        if self.shut:
            raise CallAbortedError(
                f"no target at {self.id}", grpc_status=GrpcStatus.UNAVAILABLE, request_not_processed=True
            )
        self.served += 1
        if self.lost:
            self.lost -= 1
            raise CallAbortedError(f"lost at {self.id}", grpc_status=GrpcStatus.UNAVAILABLE)

    async def who(self, context: Any, given: Any) -> Any:
        self._begin()
        return self.id

    async def total(self, context: Any, given: Any) -> Any:
        self._begin()
        return [self.id, sum([each async for each in given])]

    async def chat(self, context: Any, given: Any) -> Any:
        if self.reads:
            async for _ in given:
                pass
        self._begin()
        async for each in given:
            yield f"{self.id}:{each}"


async def ask(collector: Collector, method: str = "Who", service: str = SERVICE, **options: Any) -> Any:
    """The output of a call that succeeds."""
    result = await collector.dispatch(NAMESPACE, service, method, **options)
    result.raise_for_status()
    return result.output


async def asked(collector: Collector, times: int, method: str = "Who") -> dict[str, int]:
    """How many of so many calls were served where."""
    counts: dict[str, int] = {}
    for _ in range(times):
        by = await ask(collector, method)
        counts[by] = counts.get(by, 0) + 1
    return counts

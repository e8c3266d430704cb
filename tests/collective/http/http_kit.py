"""What the tests of HTTP through the collective share: origins behind collectors, here and in processes.

As a program (`python http_kit.py ID WORKER_KIND`) it is a collector in "shop" whose service "api" is the conformance app,
with an echo for WebSockets, behind a mesh. It prints its address and the worker's pid, and ends when its stdin does.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self

from dodici import Agent
from dodici.collective import Collector
from dodici.collective.http.framing import HTTP
from dodici.collective.http.interceptor import CollectiveInterceptor
from dodici.collective.names import RouteKey
from dodici.mesh import Worker, WorkerInterceptor
from dodici.testing import ConformanceApp

NAMESPACE = "shop"
ORIGIN = "http://api.shop.collective"
TIMEOUT = 20.0
ROOT = Path(__file__).parents[3]


def register(collector: Collector, service: str, origin: str, dispatcher: Any) -> None:
    """Have a collector serve an origin with whole exchanges."""
    collector.register_origin(NAMESPACE, service, origin, dispatcher=dispatcher)


async def announced(by: Collector, *peers: str, service: str = "api") -> None:
    """Return when a collector would choose from these peers (any, if none is named) for the exchanges of a service."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            group = by._table.group(RouteKey(NAMESPACE, service, HTTP))
            found = {one.peer for tier in group.tiers for one in tier.candidates} if group else set()
            if found and (not peers or found == set(peers)):
                return
            await asyncio.sleep(0.005)


class Node:
    """A collector on this loop whose service "api" is an app of its own."""

    def __init__(self, id: str, app: Any = None, **options: Any) -> None:  # noqa: A002
        self.app: Any = ConformanceApp() if app is None else app
        self.mesh = WorkerInterceptor()
        self.worker = Worker(self.app, kind="loop")
        self.agent = Agent().compose(self.mesh)
        self.collector = Collector(id, "127.0.0.1:0", namespaces=[NAMESPACE], **options)

    async def __aenter__(self) -> Self:
        await self.mesh.route("api", self.worker)
        await self.collector.start()
        register(self.collector, "api", "http://api.local", self.agent)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.collector.stop(0.0)
        await self.agent.destroy()
        await self.mesh.close(drain_timeout=0.1)


@asynccontextmanager
async def entrance(
    *nodes: Any, interceptors: Any = (), **options: Any
) -> AsyncIterator[tuple[Collector, Any]]:
    """A collector that is connected to nodes (or addresses), and an agent that goes through it."""
    collector = Collector("entry", "127.0.0.1:0", namespaces=[NAMESPACE])
    await collector.start()
    agent = Agent().compose(CollectiveInterceptor(collector, **options), *interceptors)
    try:
        for node in nodes:
            await collector.connect_to(node if isinstance(node, str) else node.collector.address)
        if nodes and not any(isinstance(node, str) for node in nodes):
            await announced(collector, *(node.collector.id for node in nodes))
        elif nodes:
            await announced(collector)
        yield collector, agent
    finally:
        async with asyncio.timeout(TIMEOUT):
            await agent.destroy()
            await collector.stop(0.0)


async def at_rest(*collectors: Collector) -> None:
    """Return when nothing runs at these collectors."""
    async with asyncio.timeout(TIMEOUT):
        while any(one._local.in_flight or one._routing.in_flight for one in collectors):
            await asyncio.sleep(0.005)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """The app of WebSockets: accepts, and sends back what comes."""
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        key = "text" if "text" in message else "bytes"
        await send({"type": "websocket.send", key: message[key]})


def both() -> Any:
    """The conformance app, and `echo` for WebSockets."""
    http = ConformanceApp()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (echo if scope["type"] == "websocket" else http)(scope, receive, send)

    return app


# -- in processes --------------------------------------------------------------------------------------------


class Process:
    """A node in a process of its own."""

    def __init__(self, started: asyncio.subprocess.Process, told: dict[str, Any]) -> None:
        self.process = started
        self.address: str = told["address"]
        self.worker_pid: int | None = told["worker"]

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)


@asynccontextmanager
async def process(id: str, kind: str = "loop") -> AsyncIterator[Process]:  # noqa: A002
    """Start a node, and kill it in the end."""
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        id,
        kind,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        assert started.stdout is not None
        async with asyncio.timeout(TIMEOUT):
            line = await started.stdout.readline()
        assert line, "the node ended before it listened"
        yield Process(started, json.loads(line))
    finally:
        with suppress(ProcessLookupError):
            started.send_signal(signal.SIGCONT)
            started.kill()
        await started.wait()
        # Its transport is closed in a turn of its own.
        await asyncio.sleep(0)


async def _main(id: str, kind: str) -> None:  # noqa: A002
    mesh = WorkerInterceptor()
    target: Any = "dodici.testing.app:conformance_app" if kind == "process" else both()
    worker = Worker(target, kind=kind)  # type: ignore[arg-type]
    await mesh.route("api", worker)
    agent = Agent().compose(mesh)
    async with Collector(id, "127.0.0.1:0", namespaces=[NAMESPACE]) as collector:
        register(collector, "api", "http://api.local", agent)
        print(json.dumps({"address": collector.address, "worker": worker.pid}), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await agent.destroy()
    await mesh.close(drain_timeout=0.1)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))

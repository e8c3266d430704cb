"""What the tour does with workers: a mesh of its own, and `dodici up` with the shop of examples/shop.

A step returns what happened, in one line, and raises `Broken` if that is not what it promises.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from tour_steps import Broken, Stage, check

import dodici
from dodici.mesh import Worker, WorkerInterceptor

SHOP = Path(__file__).parents[1] / "shop"


class Load:
    """Callers that send requests one after the other, and what became of each."""

    def __init__(self, ask: Callable[[], Awaitable[dodici.Response]], stage: Stage) -> None:
        self._ask = ask
        self._count = stage.callers
        self._rest = stage.rest
        self.outcomes: Counter[str] = Counter()
        self._callers: list[asyncio.Task[None]] = []
        self._began = 0.0
        self.rate = 0.0

    async def _call(self) -> None:
        while True:
            try:
                response = await self._ask()
                await response.dump()
                self.outcomes[str(response.status_code)] += 1
            except dodici.DodiciError as error:
                self.outcomes[type(error).__name__] += 1
            await asyncio.sleep(self._rest)

    async def __aenter__(self) -> Self:
        self._began = time.perf_counter()
        self._callers = [asyncio.create_task(self._call()) for _ in range(self._count)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for caller in self._callers:
            caller.cancel()
        await asyncio.gather(*self._callers, return_exceptions=True)
        self.rate = self.outcomes.total() / (time.perf_counter() - self._began)

    @property
    def failed(self) -> dict[str, int]:
        return {name: count for name, count in self.outcomes.items() if name != "200"}


@asynccontextmanager
async def shop_mesh() -> AsyncIterator[tuple[WorkerInterceptor, dict[str, list[Worker]], dodici.Dispatcher]]:
    """The two apps of the shop, two worker processes each."""
    with tempfile.TemporaryDirectory(prefix="dodici-tour-") as folder:
        env = {"STOCK": "1000", "STOCK_FILE": f"{folder}/stock.sqlite"}
        interceptor = WorkerInterceptor(domain=".local")
        workers = {
            name: [Worker(f"{name}:app", cwd=str(SHOP), env=env) for _ in range(2)]
            for name in ("orders", "inventory")
        }
        try:
            await asyncio.gather(*(interceptor.route(name, each) for name, each in workers.items()))
            async with dodici.Agent().compose(interceptor) as agent:
                yield interceptor, workers, agent
        finally:
            await interceptor.close(drain_timeout=5)


async def apps_in_workers(stage: Stage) -> tuple[str, str]:
    async with shop_mesh() as (_, workers, agent):
        made = await agent.request(
            "http://orders.local/orders", method="POST", json={"item": "hat", "amount": 2}
        )
        order = await made.json()
        check(made.status_code == 201 and order["left"] == 998, f"the order was answered with {order}")
        check(
            order["worker"] != order["stock_worker"],
            "FastAPI and Flask should be in processes of their own",
        )
        served: Counter[int] = Counter()

        async def look() -> None:
            response = await agent.request("http://orders.local/orders/worker")
            served[(await response.json())["worker"]] += 1

        began = time.perf_counter()
        for _ in range(stage.concurrent // 100):
            await asyncio.gather(*(look() for _ in range(100)))
        rate = served.total() / (time.perf_counter() - began)
        pids = {worker.pid for worker in workers["orders"]}
        check(set(served) == pids and len(set(served.values())) == 1, f"spread unevenly: {dict(served)}")
    return (
        f"an order went FastAPI -> Flask through the mesh; {served.total()} requests, half for each worker",
        f"{rate:,.0f} requests/s",
    )


async def workers_come_and_go(stage: Stage) -> tuple[str, str]:
    async with shop_mesh() as (interceptor, workers, agent):
        first, second = workers["orders"]

        async def ask() -> dodici.Response:
            return await agent.request("http://orders.local/orders/worker")

        async with Load(ask, stage) as load:
            await asyncio.sleep(stage.seconds / 4)
            began = time.perf_counter()
            await interceptor.pause_worker(first)
            took = (time.perf_counter() - began) * 1000
            before = (await first.stats()).requests
            await asyncio.sleep(stage.seconds / 4)
            late = (await first.stats()).requests - before
            await interceptor.resume_worker(first)
            third = Worker("orders:app", cwd=str(SHOP))
            await interceptor.route("orders", third)
            await interceptor.unroute("orders", first)
            check(not load.failed, f"pausing and replacing lost requests: {load.failed}")
            second.kill()
            await second.wait()
            await asyncio.sleep(stage.seconds / 4)
        lost = load.failed
        check(late <= stage.callers, f"{late} requests reached the paused worker")
        check(set(lost) <= {"WorkerExitedError", "BodyAbortedError"}, f"others failed than promised: {lost}")
        check(sum(lost.values()) <= stage.callers, f"more failed than were running: {lost}")
        await first.stop()
    text = f"paused in {took:.0f} ms, replaced, one killed; of {load.outcomes.total():,} requests only"
    text += f" {sum(lost.values())} failed: those that ran on the killed worker"
    return text, f"{load.rate:,.0f} requests/s"


async def the_application_server(stage: Stage) -> tuple[str, str]:
    with tempfile.TemporaryDirectory(prefix="dodici-tour-") as folder:
        env = {**os.environ, "XDG_RUNTIME_DIR": folder, "STOCK_FILE": f"{folder}/stock.sqlite"}
        command = [sys.executable, "-m", "dodici"]
        options = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        process = await asyncio.create_subprocess_exec(
            *command,
            "up",
            str(SHOP / "shop.toml"),
            *options,
            env=env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            origin, reading = await _listening(process)
            async with dodici.Agent(connections=stage.callers) as agent:

                async def ask() -> dodici.Response:
                    return await agent.request(f"{origin}/inventory/hat")

                async with Load(ask, stage) as load:
                    await asyncio.sleep(stage.seconds / 4)
                    reload = await asyncio.create_subprocess_exec(
                        *command, "reload", env=env, stdout=asyncio.subprocess.DEVNULL
                    )
                    check(await reload.wait() == 0, "dodici reload failed")
                check(not load.failed, f"reloading lost requests: {load.failed}")
            process.send_signal(signal.SIGTERM)
            check(await process.wait() == 0, "SIGTERM should drain and end it with status 0")
            await reading
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    return (
        f"dodici up shop.toml: all four workers replaced under load, {load.outcomes.total():,} requests, none lost",
        f"{load.rate:,.0f} requests/s",
    )


async def _listening(process: asyncio.subprocess.Process) -> tuple[str, asyncio.Future[Any]]:
    """Where it listens, as soon as it is ready; and the reading of what else it prints."""
    assert process.stdout is not None
    origin, printed = "", b""
    async for line in process.stdout:
        printed += line
        if found := re.search(rb"listening at (http\S+?)(?:,|$)", line.strip()):
            origin = found[1].decode()
        if b"ready: " in line:
            return origin, asyncio.ensure_future(process.stdout.read())
    raise Broken(f"dodici up ended: {printed.decode()}")


MESH_STEPS = {
    "apps in workers": apps_in_workers,
    "workers come and go": workers_come_and_go,
    "the application server": the_application_server,
}

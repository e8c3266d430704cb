"""Ten minutes of a collective under load and trouble: `make soak`, or `python tests/soak/collective.py --seconds 60`.

    entry (this process) --- store-1, store-2 --- far

Both stores serve the same service; `far` is reached through either of them. All the time there are calls of all sorts
from the entry: small, large, streamed, cancelled, too slow, to methods that nobody has. Every few seconds one store is
drained and started again, or killed and started again, or stopped for a moment.

It fails, with exit status 1, if

    an idempotent call fails                    another store was there all the time
    any call fails while no store was killed or stopped, in particular while one drains
    a call fails otherwise than with UNAVAILABLE, or takes longer than its deadline allows
    memory, tasks or sockets of the entry have grown at the end
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil

from dodici.collective import Collector

MEMBER = Path(__file__).with_name("member.py")
NAMESPACE = "soak"
RATE = 60  # calls a second
DEADLINE = 8.0  # seconds
GROWN = 24 << 20  # bytes that the entry may grow after its warm-up
CALM = 4.0  # seconds after a kill or stop in which calls that were sent may fail


class Member:
    """A process that comes back at the same address."""

    def __init__(self, name: str, service: str, connect: tuple[str, ...] = ()) -> None:
        self.name = name
        self.address = "127.0.0.1:0"
        self._service = service
        self._connect = connect
        self.process: asyncio.subprocess.Process

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, str(MEMBER), self.name, self.address, self._service, *self._connect,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.address = (await self.process.stdout.readline()).decode().strip()
        if not self.address:
            raise RuntimeError(f"{self.name} did not start")

    async def end(self, number: int) -> None:
        if self.process.returncode is None:
            self.process.send_signal(number)
        await self.process.wait()


class Soak:
    """The load, the trouble, and what went wrong."""

    def __init__(self, seconds: float, seed: int) -> None:
        self.seconds = seconds
        self.random = random.Random(seed)
        self.wrong: list[str] = []
        self.counts: Counter[str] = Counter()
        self.slowest = 0.0
        self.trouble = 0.0
        """Until when calls that were sent may fail, on the clock of the loop."""
        self.entry = Collector("entry", "127.0.0.1:0", namespaces=[NAMESPACE])
        self.running: set[asyncio.Task[None]] = set()

    def note(self, what: str) -> None:
        """Something is wrong."""
        print(f"WRONG {what}", flush=True)
        self.wrong.append(what)

    # -- load ------------------------------------------------------------------------------------------------

    async def load(self, until: float) -> None:
        """Calls, at `RATE`."""
        kinds: list[tuple[int, Callable[[str], Awaitable[None]]]] = [
            (60, self.echo),
            (10, self.large),
            (10, self.once),
            (10, self.count),
            (4, self.cancelled),
            (3, self.late),
            (3, self.unknown),
        ]
        due = time.monotonic()
        while due < until:
            [kind] = self.random.choices([each for _, each in kinds], [weight for weight, _ in kinds])
            service = self.random.choice(("Store", "Store", "Far"))
            task = asyncio.create_task(self.one(kind, service))
            self.running.add(task)
            task.add_done_callback(self.running.discard)
            due += self.random.expovariate(RATE)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        while self.running:
            await asyncio.wait(self.running)

    async def one(self, kind: Callable[[str], Awaitable[None]], service: str) -> None:
        begun = time.monotonic()
        try:
            await kind(service)
        except Exception as error:
            self.note(f"{kind.__name__} of {service}: {error!r}")
        took = time.monotonic() - begun
        self.slowest = max(self.slowest, took)
        if took > DEADLINE + 1:
            self.note(f"{kind.__name__} of {service} took {took:.1f} s")

    def check(self, what: str, begun: float, status: Any, *, idempotent: bool = True) -> bool:
        """Whether it went well; if it did not, whether that is allowed."""
        self.counts[f"{what} {int(status)}"] += 1
        if status == 200:
            return True
        if idempotent or status != 503 or begun > self.trouble:
            self.note(f"{what}: {int(status)} {status.message}")
        return False

    async def echo(self, service: str, given: Any = None) -> None:
        begun = time.monotonic()
        given = {"n": self.random.random()} if given is None else given
        result = await self.entry.dispatch(NAMESPACE, service, "Echo", given, timeout=DEADLINE)
        if self.check("echo", begun, result.status) and result.output != given:
            self.note("another answer")

    async def large(self, service: str) -> None:
        await self.echo(service, self.random.randbytes(self.random.choice((40_000, 200_000))))

    async def once(self, service: str) -> None:
        begun = time.monotonic()
        result = await self.entry.dispatch(NAMESPACE, service, "Once", 1, timeout=DEADLINE)
        self.check("once", begun, result.status, idempotent=False)

    async def count(self, service: str) -> None:
        begun = time.monotonic()
        stream = self.entry.dispatch_stream(
            NAMESPACE, service, "Count", 20, kind="unary_stream", timeout=DEADLINE
        )
        found = []
        try:
            async for each in stream:
                found.append(each)
        except Exception:
            pass
        result = await stream.result()
        # Once an answer was delivered nobody may repeat it.
        if self.check("count", begun, result.status, idempotent=not found) and found != [*range(20)]:
            self.note(f"another stream: {found}")

    async def cancelled(self, service: str) -> None:
        task = asyncio.ensure_future(self.entry.dispatch(NAMESPACE, service, "Hold", 5, timeout=DEADLINE))
        await asyncio.sleep(self.random.random() * 0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        self.counts["cancelled"] += 1

    async def late(self, service: str) -> None:
        result = await self.entry.dispatch(NAMESPACE, service, "Hold", 5, timeout=0.05)
        self.counts[f"late {int(result.status)}"] += 1
        if result.status not in (504, 503):
            self.note(f"late: {int(result.status)} {result.status.message}")

    async def unknown(self, service: str) -> None:
        method = f"Nothing{self.random.randrange(10**9)}"
        result = await self.entry.dispatch(NAMESPACE, service, method, timeout=DEADLINE)
        self.counts[f"unknown {int(result.status)}"] += 1
        if result.status != 404:
            self.note(f"unknown: {int(result.status)} {result.status.message}")

    # -- trouble ---------------------------------------------------------------------------------------------

    async def cause(self, stores: list[Member], until: float) -> None:
        """One store at a time."""
        while True:
            await asyncio.sleep(4 + 4 * self.random.random())
            if time.monotonic() > until - 12:
                return
            store = self.random.choice(stores)
            kind = self.random.choice(("drain", "kill", "stop"))
            print(f"{self.left(until):4.0f} s left: {kind} {store.name}", flush=True)
            if kind == "drain":
                await store.end(signal.SIGTERM)
            elif kind == "kill":
                self.trouble = time.monotonic() + CALM
                await store.end(signal.SIGKILL)
            else:
                pause = 0.5 + 2.5 * self.random.random()
                self.trouble = time.monotonic() + pause + CALM
                store.process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(pause)
                store.process.send_signal(signal.SIGCONT)
            if kind != "stop":
                await asyncio.sleep(self.random.random() * 2)
                await store.start()
            await self.back(store)

    async def back(self, store: Member) -> None:
        """Wait until the store is in rotation again."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            peer = self.entry.stats().peers.get(store.name)
            if peer is not None and peer.state == "connected":
                return
            await asyncio.sleep(0.1)
        self.note(f"{store.name} is not back after 10 s")

    @staticmethod
    def left(until: float) -> float:
        return until - time.monotonic()

    # -- all of it -------------------------------------------------------------------------------------------

    async def run(self) -> int:
        far = Member("far", "Far")
        await far.start()
        stores = [Member(f"store-{number}", "Store", (far.address,)) for number in (1, 2)]
        members = [far]
        try:
            async with self.entry:
                for store in stores:
                    await store.start()
                    members.append(store)
                    await self.entry.connect_to(store.address)
                while not all(
                    len(self.entry.stats().routes.get((NAMESPACE, service, "Echo"), _NOBODY).peers) == 2
                    for service in ("Store", "Far")
                ):
                    await asyncio.sleep(0.05)
                await self.load(time.monotonic() + min(20.0, self.seconds / 4))
                before = self.held()
                until = time.monotonic() + self.seconds
                await asyncio.gather(self.load(until), self.cause(stores, until))
                self.compare(before, self.held())
                stats = self.entry.stats()
                if stats.in_flight:
                    self.note(f"{stats.in_flight} calls are still in flight")
        finally:
            for member in members:
                await member.end(signal.SIGKILL)
        for name, count in sorted(self.counts.items()):
            print(f"{name:<16} {count:>8,}")
        print(f"{'slowest':<16} {self.slowest:>8.2f} s")
        print(f"{len(self.wrong)} wrong" if self.wrong else "nothing wrong")
        return 1 if self.wrong else 0

    def held(self) -> dict[str, int]:
        """What this process holds."""
        gc.collect()
        process = psutil.Process(os.getpid())
        return {
            "memory": process.memory_info().rss,
            "tasks": len(asyncio.all_tasks()),
            "files": process.num_fds(),
        }

    def compare(self, before: dict[str, int], after: dict[str, int]) -> None:
        """Nothing may have grown but by what is noise."""
        print(f"before {before}\nafter  {after}", flush=True)
        for name, slack in (("memory", GROWN), ("tasks", 5), ("files", 10)):
            if after[name] > before[name] + slack:
                self.note(f"{name} have grown from {before[name]:,} to {after[name]:,}")


class _Nobody:
    peers = ()


_NOBODY: Any = _Nobody()


def main() -> int:
    parser = argparse.ArgumentParser(description="A collective under load and trouble.")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    print(f"{options.seconds:g} s, --seed {options.seed}", flush=True)
    return asyncio.run(Soak(options.seconds, options.seed).run())


if __name__ == "__main__":
    sys.exit(main())

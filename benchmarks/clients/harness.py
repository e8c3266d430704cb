"""What all Python drivers share: arguments in, one JSON line out per measured phase.

A driver is a `Client` with three small methods (get, stream, send) that return the number of
body bytes they read. The harness turns them into `concurrency` coroutines that each ask again
as soon as they were answered (a closed loop), warms up, says ``ready``, and then measures for a
fixed time whenever its standard input says ``go``. The clock is read once per request: that read
ends one request, begins the next and decides whether there is a next one. Node's driver does the
same.

The baseline of memory is read when the client exists and has sent nothing; the kernel's
high-water mark is reset there and before each phase, so that the peak is the peak of the requests.

Two kinds of jobs need more than that:

* HTTP/2 on many connections. Most pools put all streams of an origin on one connection; whoever
  wants fifty makes fifty clients. `Client.one_connection` says so, and the harness makes them.
* ``beside``: one stream takes a huge body at a trickle while all others do small requests on the
  same connection. Each phase is measured twice, without the slow stream and with it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import importlib.metadata
import itertools
import json
import os
import ssl
import sys
import time
import traceback
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

clock = time.perf_counter
CHUNK = bytes(range(256)) * 256  # 64 KiB, the piece in which long uploads are produced
TRICKLE = 1 << 20  # bytes per second that the reader of a slow stream takes
SLOW_PATH = "/100m"

_TYPES = {"int": int, "float": float, "str": str}


class Unsupported(Exception):
    """This client cannot do this scenario; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One measurement.

    `size` is the response body in bytes, `upload` the request body, `http` the major version to
    speak. Requests are HTTP/2 with prior knowledge if `http` is 2 and there is no `ca`. Only the
    mesh has `workers`, and in `worker` what they are.
    """

    origin: str
    path: str = "/"
    kind: str = "get"
    http: int = 1
    size: int = 13
    upload: int = 0
    concurrency: int = 50
    connections: int = 50
    pipelining: int = 1
    seconds: float = 3.0
    warmup: float = 0.5
    ca: str = ""
    loop: str = "uvloop"
    workers: int = 1
    worker: str = ""

    @property
    def prior_knowledge(self) -> bool:
        """Whether HTTP/2 is spoken without TLS and its negotiation."""
        return self.http == 2 and not self.ca

    @property
    def slots(self) -> int:
        """How many requests are open at a time, a slow one left out."""
        return self.concurrency - (self.kind == "beside")

    def ssl_context(self) -> ssl.SSLContext | None:
        """A verifying context that trusts the run's authority; None for plain HTTP."""
        if not self.ca:
            return None
        context = ssl.create_default_context(cafile=self.ca)
        if self.http == 2:
            context.set_alpn_protocols(["h2"])
        return context

    def split(self) -> list[Job]:
        """The same work for as many clients as there are connections."""
        count = self.connections
        shares = [self.concurrency // count + (at < self.concurrency % count) for at in range(count)]
        return [replace(self, connections=1, concurrency=share) for share in shares if share]


class Client:
    """A client under test; drivers override what it can do.

    Class attributes: `package` is its distribution name, `absolute` says whether requests
    take full URLs or paths, `one_connection` whether it puts all HTTP/2 streams of an origin on
    one connection, `versions` what it can speak.
    """

    package = ""
    absolute = True
    one_connection = True
    versions: tuple[str, ...] = ("http/1.1", "h2", "h2c")

    def __init__(self, job: Job) -> None:
        self.job = job

    def version(self) -> str:
        """What is measured, as the page lists it."""
        return version_of(self.package)

    def remarks(self) -> dict[str, object]:
        """What the client adds to the description of the phase that just ended."""
        return {}

    async def open(self) -> None:
        """Make the client; nothing is sent yet."""

    async def resume(self) -> None:
        """Be ready for a phase. The process was stopped since the one before."""

    async def close(self) -> None:
        """Release everything."""

    async def get(self, target: str) -> int:
        """One GET, the body read as a whole."""
        raise Unsupported("whole bodies")

    async def stream(self, target: str) -> int:
        """One GET, the body read chunk by chunk."""
        raise Unsupported("streamed responses")

    async def send(self, target: str, body: bytes) -> int:
        """One POST with a body in memory."""
        raise Unsupported("uploads")

    async def send_stream(self, target: str, body: AsyncIterator[bytes]) -> int:
        """One POST with a body that is produced on the way."""
        raise Unsupported("streamed uploads")

    async def trickle(self, target: str, took: Callable[[int], Awaitable[None]]) -> None:
        """One GET whose reader awaits `took(bytes)` for each chunk, until it is cancelled."""
        raise Unsupported("a slow reader")

    async def run(self, deadline: float) -> tuple[list[float], int]:
        """Keep `slots` requests open until `deadline`, at least one each.

        Returns: the seconds each request took, and the body bytes that were read.
        """
        once = self._once()
        latencies: list[float] = []

        async def slot() -> int:
            received = 0
            started = clock()
            while True:
                received += await once()
                ended = clock()
                latencies.append(ended - started)
                if ended >= deadline:
                    return received
                started = ended

        totals = await asyncio.gather(*(slot() for _ in range(self.job.slots)))
        return latencies, sum(totals)

    def _once(self) -> Callable[[], Awaitable[int]]:
        job = self.job
        target = job.origin + job.path if self.absolute else job.path
        match job.kind:
            case "get" | "idle" | "beside":
                return partial(self.get, target)
            case "distinct":
                numbers = itertools.count()
                return lambda: self.get(f"{target}?n={next(numbers)}")
            case "stream":
                return partial(self.stream, target)
            case "send":
                return partial(self.send, target, body_of(job.upload))
            case "send-stream":
                return lambda: self.send_stream(target, chunks_of(job.upload))
        raise Unsupported(job.kind)


def body_of(size: int) -> bytes:
    """`size` bytes that are not all the same."""
    return (CHUNK * (size // len(CHUNK) + 1))[:size]


async def chunks_of(size: int) -> AsyncIterator[bytes]:
    """`size` bytes (whole chunks), one chunk at a time."""
    for _ in range(size // len(CHUNK)):
        yield CHUNK


def memory_kib(field: str) -> int:
    """A field of the kernel's account of this process, in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    return 0


def reset_peak() -> None:
    """Let VmHWM begin anew; where this is refused, the peak covers the start-up too."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def open_sockets() -> int:
    """The number of sockets this process holds."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return count


def percentile(ordered: list[float], share: float) -> float:
    """The value below which `share` of the ordered values lie, in microseconds."""
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e6, 1)


class Fleet:
    """The clients of one job (one, or one per connection) and what they measure."""

    def __init__(self, make: Callable[[Job], Client], job: Job) -> None:
        spoken = f"h2{'c' if job.prior_knowledge else ''}" if job.http == 2 else "http/1.1"
        first = make(job)
        if spoken not in first.versions:
            raise Unsupported(f"does not speak {spoken}")
        many = job.http == 2 and job.connections > 1 and first.one_connection
        self.job = job
        self.clients = [make(each) for each in job.split()] if many else [first]
        self.version = first.version()
        self.before = self.sockets = 0

    async def open(self) -> None:
        """Make the clients, take the baseline of memory, warm up."""
        for client in self.clients:
            await client.open()
        gc.collect()
        self.before, self.sockets = memory_kib("VmRSS"), open_sockets()
        # What the first of these costs is what is asked.
        if self.job.kind not in {"idle", "stall"}:
            await self._run(clock() + self.job.warmup)

    async def close(self) -> None:
        """Release everything."""
        for client in self.clients:
            await asyncio.wait_for(client.close(), 30)

    async def measure(self) -> dict[str, object]:
        """One measured phase, described."""
        for client in self.clients:
            await client.resume()
        reset_peak()
        if self.job.kind == "beside":
            alone = await self._phase()
            async with Slow(self.clients[0]) as slow:
                result = await self._phase()
                slow.check()
            result["alone"] = alone
            result["slow_bytes_per_second"] = round(slow.received / slow.seconds)
        else:
            result = await self._phase()
        result["max_rss_kib"] = memory_kib("VmHWM")
        result["rss_before_kib"] = self.before
        result["version"] = self.version
        result.update(self.clients[0].remarks())
        if self.job.kind == "idle":
            gc.collect()
            result["connections"] = open_sockets() - self.sockets
            result["rss_after_kib"] = memory_kib("VmRSS")
        return result

    async def _phase(self) -> dict[str, object]:
        job = self.job
        cpu, started = time.process_time(), clock()
        latencies, received = await self._run(0.0 if job.kind == "idle" else started + job.seconds)
        seconds, cpu = clock() - started, time.process_time() - cpu
        count = len(latencies)
        if received != count * job.size:
            raise RuntimeError(f"{count} requests gave {received} bytes, not {job.size} each")
        latencies.sort()
        return {
            "requests": count,
            "seconds": round(seconds, 4),
            "cpu_seconds": round(cpu, 4),
            "p50_us": percentile(latencies, 0.50),
            "p99_us": percentile(latencies, 0.99),
        }

    async def _run(self, deadline: float) -> tuple[list[float], int]:
        if len(self.clients) == 1:
            return await self.clients[0].run(deadline)
        answers = await asyncio.gather(*(client.run(deadline) for client in self.clients))
        return list(itertools.chain(*(each for each, _ in answers))), sum(each for _, each in answers)


class Slow:
    """A stream whose reader takes `TRICKLE` bytes per second, while the context lasts.

    Raises:
        RuntimeError: from `check`, if it is not in the middle of its body.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._begun = asyncio.Event()
        self.received = 0
        self.started = self.seconds = 0.0

    async def __aenter__(self) -> Self:
        client = self._client
        target = client.job.origin + SLOW_PATH if client.absolute else SLOW_PATH
        self.started = clock()
        self._task = asyncio.ensure_future(client.trickle(target, self._took))
        begun = asyncio.ensure_future(self._begun.wait())
        await asyncio.wait([self._task, begun], return_when=asyncio.FIRST_COMPLETED)
        begun.cancel()
        self.check()
        return self

    async def _took(self, size: int) -> None:
        self.received += size
        self._begun.set()
        await asyncio.sleep(size / TRICKLE)

    def check(self) -> None:
        """Make sure that the stream is still under way."""
        if self._task.done():
            self._task.result()
            raise RuntimeError("the slow stream ended too early")

    async def __aexit__(self, *_: object) -> None:
        self.seconds = clock() - self.started
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def version_of(package: str) -> str:
    """The version of a distribution; a source tree on the path has none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "from source"


def parse(arguments: list[str]) -> Job:
    """The job that the command line describes: one option per field of `Job`."""
    parser = argparse.ArgumentParser()
    for field in fields(Job):
        parser.add_argument(f"--{field.name}", type=_TYPES[str(field.type)], default=None)
    given = {key: value for key, value in vars(parser.parse_args(arguments)).items() if value is not None}
    return Job(**given)


def say(answer: dict[str, object] | str) -> None:
    """One line to whoever started this driver."""
    print(answer if isinstance(answer, str) else json.dumps(answer), flush=True)


def serve(warm_up: Callable[[], None], measure: Callable[[], dict[str, object]]) -> None:
    """The driver of a program that is started for each measurement."""
    try:
        warm_up()
    except Unsupported as reason:
        say({"unsupported": str(reason)})
        return
    say("ready")
    while sys.stdin.readline():
        say(measure())


async def _serve(fleet: Fleet) -> None:
    await fleet.open()
    say("ready")
    while await asyncio.to_thread(sys.stdin.readline):
        say(await fleet.measure())
    await fleet.close()


def main(make: Callable[[Job], Client]) -> None:
    """Run the driver: read the arguments, warm up, measure when told to."""
    job = parse(sys.argv[1:])
    loop_factory = None
    if job.loop == "uvloop":
        import uvloop

        loop_factory = uvloop.new_event_loop
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(_serve(Fleet(make, job)))
    except Unsupported as reason:
        say({"unsupported": str(reason)})
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    # Some clients keep threads or connections that would delay the end; the results are out.
    os._exit(0)

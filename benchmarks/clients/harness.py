"""What all Python drivers share: arguments in, one measured phase, one JSON line out.

A driver is a `Client` with three small methods (get, stream, send) that return the number of
body bytes they read. The harness turns them into `concurrency` coroutines that each ask again
as soon as they were answered (a closed loop), warms up, and measures for a fixed time. The
clock is read once per request: that read ends one request, begins the next and decides whether
there is a next one. Node's driver does the same.

The baseline of memory is read when the client exists and has sent nothing; the kernel's
high-water mark is reset at that moment, so that the peak is the peak of the requests.
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
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

clock = time.perf_counter
CHUNK = bytes(range(256)) * 256  # 64 KiB, the piece in which long uploads are produced

_TYPES = {"int": int, "float": float, "str": str}


class Unsupported(Exception):
    """This client cannot do this scenario; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One measurement. `size` is the response body in bytes, `upload` the request body."""

    origin: str
    path: str = "/"
    kind: str = "get"
    size: int = 13
    upload: int = 0
    concurrency: int = 50
    connections: int = 50
    pipelining: int = 1
    seconds: float = 3.0
    warmup: float = 0.5
    ca: str = ""
    loop: str = "uvloop"

    def ssl_context(self) -> ssl.SSLContext | None:
        """A verifying context that trusts the run's authority; None for plain HTTP."""
        return ssl.create_default_context(cafile=self.ca) if self.ca else None


class Client:
    """A client under test; drivers override what it can do.

    Class attributes: `package` is its distribution name, `absolute` says whether requests
    take full URLs or paths.
    """

    package = ""
    absolute = True

    def __init__(self, job: Job) -> None:
        self.job = job

    async def open(self) -> None:
        """Make the client; nothing is sent yet."""

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

    async def run(self, deadline: float) -> tuple[list[float], int]:
        """Keep `concurrency` requests open until `deadline`, at least one each.

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

        totals = await asyncio.gather(*(slot() for _ in range(self.job.concurrency)))
        return latencies, sum(totals)

    def _once(self) -> Callable[[], Awaitable[int]]:
        job = self.job
        target = job.origin + job.path if self.absolute else job.path
        match job.kind:
            case "get" | "idle":
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


async def measure(client: Client) -> dict[str, object]:
    """Warm up, measure, and describe the outcome."""
    job = client.job
    await client.open()
    gc.collect()
    before, sockets = memory_kib("VmRSS"), open_sockets()
    reset_peak()
    idle = job.kind == "idle"
    if not idle:
        await client.run(clock() + job.warmup)
    cpu, started = time.process_time(), clock()
    latencies, received = await client.run(0.0 if idle else started + job.seconds)
    seconds, cpu = clock() - started, time.process_time() - cpu
    peak = memory_kib("VmHWM")
    count = len(latencies)
    if received != count * job.size:
        raise RuntimeError(f"{count} requests gave {received} bytes, not {job.size} each")
    latencies.sort()
    result: dict[str, object] = {
        "requests": count,
        "seconds": round(seconds, 4),
        "cpu_seconds": round(cpu, 4),
        "p50_us": percentile(latencies, 0.50),
        "p99_us": percentile(latencies, 0.99),
        "max_rss_kib": peak,
        "rss_before_kib": before,
    }
    if idle:
        del latencies
        gc.collect()
        result["connections"] = open_sockets() - sockets
        result["rss_after_kib"] = memory_kib("VmRSS")
    await asyncio.wait_for(client.close(), 30)
    return result


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


def main(make: Callable[[Job], Client]) -> None:
    """Run the driver: read the arguments, measure, print one JSON line."""
    job = parse(sys.argv[1:])
    loop_factory = None
    if job.loop == "uvloop":
        import uvloop

        loop_factory = uvloop.new_event_loop
    try:
        client = make(job)
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            result = runner.run(measure(client))
        result["version"] = version_of(client.package)
    except Unsupported as reason:
        result = {"unsupported": str(reason)}
    print(json.dumps(result), flush=True)
    # Some clients keep threads or connections that would delay the end; the result is out.
    os._exit(0)

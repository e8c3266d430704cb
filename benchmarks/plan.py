"""What is measured: the contenders, the scenarios, and who takes part in which."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
CLIENTS = HERE / "clients"
MEBIBYTE = 1 << 20

Words = dict[str, int | str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One client, driven in one way.

    Attributes: `group` is ``dodici``, ``undici``, ``python`` or ``limit``; `api` is what a
    ratio compares (a dispatch with a dispatch); `needs` is the module that must be there.
    """

    name: str
    group: str
    api: str = "request"
    script: str
    arguments: tuple[str, ...] = ()
    needs: str = ""
    pipelines: bool = False
    variant: bool = False

    @property
    def family(self) -> str:
        """The client, however it is driven: ``undici`` for ``undici-request``."""
        return self.name.partition("-")[0]

    def command(self) -> list[str]:
        """The words that start its driver."""
        script = str(CLIENTS / self.script)
        if self.script.endswith(".mjs"):
            return ["node", "--expose-gc", script, *self.arguments]
        return [sys.executable, script, *self.arguments]

    def missing(self) -> str:
        """Why it cannot run here; empty if it can."""
        if self.group == "limit":
            return "" if shutil.which("wrk") else "wrk is not installed"
        if self.group == "undici":
            if shutil.which("node") is None:
                return "node is not installed"
            found = (HERE / "node_modules" / "undici").is_dir()
            return "" if found else "undici is not installed (npm install in benchmarks/)"
        found = importlib.util.find_spec(self.needs) is not None
        return "" if found else f"{self.needs} is not installed"


def _undici(name: str, *arguments: str, api: str, variant: bool = False) -> Contender:
    return Contender(
        name=name,
        group="undici",
        api=api,
        script="undici.mjs",
        arguments=("--api", api, *arguments),
        pipelines=True,
        variant=variant,
    )


def _python(name: str) -> Contender:
    return Contender(name=name, group="python", script=f"{name}_client.py", needs=name)


def _dodici(api: str) -> Contender:
    return Contender(
        name=f"dodici-{api}",
        group="dodici",
        api=api,
        script=f"dodici_{api}.py",
        needs="dodici",
        pipelines=True,
    )


CONTENDERS = (
    Contender(name="wrk", group="limit", api="none", script="wrk.py", pipelines=True),
    _dodici("dispatch"),
    _dodici("request"),
    _undici("undici-dispatch", api="dispatch"),
    _undici("undici-dispatch-legacy", "--handler", "legacy", api="dispatch", variant=True),
    _undici("undici-request", api="request"),
    _python("pyreqwest"),
    _python("httpunk"),
    _python("aiohttp"),
    _python("httpx2"),
    _python("niquests"),
    _python("httpx"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One question. `job` holds options of the drivers; `table` says how the answer reads.

    `baseline` names the scenario whose Python clients stand in where none of them takes part.
    """

    name: str
    title: str
    job: Words = field(default_factory=dict)
    table: str = "rate"
    tls: bool = False
    hold: bool = False
    only: str = ""
    baseline: str = ""

    def admits(self, contender: Contender) -> bool:
        """Whether `contender` takes part."""
        if contender.variant and self.only != "pipelined" and self.name not in {"h1-p1", "tls"}:
            return False
        match self.only:
            case "pipelined":
                return contender.pipelines
            case "request":
                return contender.api == "request"
            case "python":
                return contender.group in {"dodici", "python"}
            case "no limit":
                return contender.group != "limit"
        return True


def _concurrency(count: int) -> Scenario:
    return Scenario(
        name=f"c{count}",
        title=f"{count} concurrent request{'s' if count > 1 else ''}, at most 50 connections",
        job={"concurrency": count},
    )


def scenarios(idle: int) -> tuple[Scenario, ...]:
    """All scenarios, with `idle` connections in the last one."""
    large, huge = MEBIBYTE, 100 * MEBIBYTE
    down: Words = {"path": "/1m", "size": large, "concurrency": 8}
    up: Words = {"path": "/upload", "kind": "send", "size": 2, "concurrency": 8}
    stream: Words = {"path": "/100m", "kind": "stream", "size": huge, "concurrency": 1}
    stream_up: Words = {"path": "/upload", "kind": "send-stream", "size": 2, "concurrency": 1}
    return (
        Scenario(name="h1-p1", title="13 bytes, 50 connections"),
        Scenario(
            name="h1-p10",
            title="13 bytes, 50 connections, pipelining 10, blocking off (500 requests open)",
            job={"pipelining": 10, "concurrency": 500},
            only="pipelined",
            baseline="h1-p1",
        ),
        Scenario(name="tls", title="13 bytes over TLS, 50 connections", tls=True),
        Scenario(
            name="distinct",
            title="13 bytes, 50 connections, every URL different",
            job={"kind": "distinct"},
            only="request",
        ),
        Scenario(
            name="stdlib-loop",
            title="13 bytes, 50 connections, asyncio's own event loop",
            job={"loop": "asyncio"},
            only="python",
        ),
        *(_concurrency(count) for count in (1, 16, 64, 256, 1024)),
        Scenario(name="down-1m", title="1 MiB down, 8 at a time", job=down, table="body"),
        Scenario(
            name="up-1m",
            title="1 MiB up, 8 at a time",
            job={**up, "upload": large},
            table="body",
        ),
        Scenario(name="down-100m", title="100 MiB down, streamed", job=stream, table="body"),
        Scenario(
            name="up-100m",
            title="100 MiB up, streamed in chunks of 64 KiB",
            job={**stream_up, "upload": huge},
            table="body",
            only="no limit",
        ),
        Scenario(
            name="idle",
            title=f"{idle:,} idle connections",
            job={"kind": "idle", "concurrency": idle, "connections": idle},
            table="idle",
            hold=True,
            only="no limit",
        ),
    )

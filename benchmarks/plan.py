"""What is measured: the contenders, the scenarios, and who takes part in which."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from connections import Expected

HERE = Path(__file__).parent
CLIENTS = HERE / "clients"
MEBIBYTE = 1 << 20

Words = dict[str, int | str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One client, driven in one way.

    Attributes: `group` is ``dodici``, ``undici``, ``python`` or ``limit``; `api` is what a
    ratio compares (a dispatch with a dispatch); `needs` is the module or program that must be
    there; `multiplexes` says that it speaks HTTP/2; `slow` ones take part in few scenarios unless
    they are asked for by name, since more of their numbers would say the same. `part` is ``http``,
    ``mesh`` or ``collective``: the scenarios that it is made for.
    """

    name: str
    group: str
    part: str = "http"
    api: str = "request"
    script: str
    arguments: tuple[str, ...] = ()
    needs: str = ""
    pipelines: bool = False
    variant: bool = False
    slow: bool = False
    multiplexes: bool = True

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
            return "" if shutil.which(self.needs) else f"{self.needs} is not installed"
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


def _python(name: str, *, slow: bool = False, multiplexes: bool = True) -> Contender:
    script = f"{name}_client.py"
    return Contender(name=name, group="python", script=script, needs=name, slow=slow, multiplexes=multiplexes)


def _limit(name: str) -> Contender:
    return Contender(name=name, group="limit", api="none", script=f"{name}.py", needs=name, pipelines=True)


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
    _limit("wrk"),
    _limit("h2load"),
    _limit("curl"),
    _dodici("dispatch"),
    _dodici("request"),
    _undici("undici-dispatch", api="dispatch"),
    _undici("undici-dispatch-legacy", "--handler", "legacy", api="dispatch", variant=True),
    _undici("undici-request", api="request"),
    _python("pyreqwest"),
    _python("httpunk"),
    _python("aiohttp", multiplexes=False),
    _python("httpx2", slow=True),
    _python("niquests", slow=True),
    _python("httpx", slow=True),
)


# What happens beside one slow reader is compared with what happens without it.
BESIDE = "beside"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One question. `job` holds options of the drivers; `table` says how the answer reads. `part`
    is ``http``, ``mesh`` (mesh_plan.py) or ``collective`` (collective_plan.py).

    `http` is the version that everybody has to speak. `limit` names the program in C beside the
    clients. `everybody` lets the slow clients in, `only` keeps groups out. `baseline` names the
    scenario whose Python clients stand in where none of them takes part.
    """

    name: str
    title: str
    part: str = "http"
    job: Words = field(default_factory=dict)
    table: str = "rate"
    tls: bool = False
    http: int = 1
    hold: bool = False
    limit: str = ""
    everybody: bool = False
    only: str = ""
    baseline: str = ""

    def admits(self, contender: Contender, *, named: bool = False) -> bool:
        """Whether `contender` takes part; `named` says that it was asked for."""
        if contender.part != self.part:
            return False
        if contender.group == "limit":
            return contender.name == self.limit
        if self.http == 2 and not contender.multiplexes:
            return False
        if contender.variant and (self.name not in {"h1-p1", "h1-p10", "tls"}):
            return False
        if contender.slow and not self.everybody and not named:
            return False
        match self.only:
            case "pipelined":
                return contender.pipelines
            case "request":
                return contender.api == "request"
            case "python":
                return contender.group in {"dodici", "python"}
        return True

    def expected(self) -> Expected:
        """What the server has to see of each client.

        All connections of a process count, those that it replaced too. With HTTP/1.1 a pool may
        open more than requests are open, if one is asked for before the last has been given back,
        and some replace one now and then; who reconnects as a habit goes far beyond the margin.
        """
        connections = int(self.job.get("connections", 50))
        if self.http == 2:
            return Expected(protocol="HTTP/2.0", least=connections, most=connections)
        least = min(int(self.job.get("concurrency", 50)), connections)
        return Expected(protocol="HTTP/1.1", least=least, most=connections * 3 // 2)


def _concurrency(count: int) -> Scenario:
    return Scenario(
        name=f"c{count}",
        title=f"{count} concurrent request{'s' if count > 1 else ''}, at most 50 connections",
        job={"concurrency": count},
        only="request",
    )


def scenarios(idle: int) -> tuple[Scenario, ...]:
    """All scenarios, with `idle` connections in the last one."""
    return (*_http1(), *_http2(), *_bodies(), _idle(idle))


def _http1() -> tuple[Scenario, ...]:
    return (
        Scenario(name="h1-p1", title="13 bytes, 50 connections", limit="wrk", everybody=True),
        Scenario(
            name="h1-p10",
            title="13 bytes, 50 connections, pipelining 10, blocking off (500 requests open)",
            job={"pipelining": 10, "concurrency": 500},
            limit="wrk",
            only="pipelined",
            baseline="h1-p1",
        ),
        Scenario(
            name="tls", title="13 bytes over TLS, 50 connections", tls=True, limit="wrk", everybody=True
        ),
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
        *(_concurrency(count) for count in (1, 16, 256, 1024)),
    )


def _http2() -> tuple[Scenario, ...]:
    one: Words = {"connections": 1, "concurrency": 100}
    many: Words = {"connections": 50, "concurrency": 50}
    return (
        Scenario(
            name="h2",
            title="HTTP/2 over TLS: 13 bytes, one connection, 100 streams",
            job=one,
            tls=True,
            http=2,
            limit="h2load",
            everybody=True,
        ),
        Scenario(
            name="h2-c50",
            title="HTTP/2 over TLS: 13 bytes, 50 connections, one stream on each",
            job=many,
            tls=True,
            http=2,
            limit="h2load",
        ),
        Scenario(
            name="h2c",
            title="HTTP/2 with prior knowledge: 13 bytes, one connection, 100 streams",
            job=one,
            http=2,
            limit="h2load",
        ),
        Scenario(
            name="h2c-c50",
            title="HTTP/2 with prior knowledge: 13 bytes, 50 connections, one stream on each",
            job=many,
            http=2,
            limit="h2load",
        ),
        Scenario(
            name="h2-slow",
            title="HTTP/2 over TLS: 99 streams of 13 bytes beside one that is read at 1 MiB/s",
            job={**one, "kind": BESIDE},
            table=BESIDE,
            tls=True,
            http=2,
        ),
    )


def _bodies() -> tuple[Scenario, ...]:
    large, huge = MEBIBYTE, 100 * MEBIBYTE
    down: Words = {"path": "/1m", "size": large, "concurrency": 8}
    up: Words = {"path": "/upload", "kind": "send", "size": 2, "concurrency": 8}
    stream: Words = {"path": "/100m", "kind": "stream", "size": huge, "concurrency": 1}
    stream_up: Words = {"path": "/upload", "kind": "send-stream", "size": 2, "concurrency": 1}
    return (
        Scenario(name="down-1m", title="1 MiB down, 8 at a time", job=down, table="body", limit="wrk"),
        Scenario(
            name="tls-1m",
            title="1 MiB down over TLS, 8 at a time",
            job=down,
            table="body",
            tls=True,
            limit="wrk",
        ),
        Scenario(
            name="h2-1m",
            title="HTTP/2 over TLS: 1 MiB down, 8 at a time on one connection",
            job={**down, "connections": 1},
            table="body",
            tls=True,
            http=2,
            limit="h2load",
        ),
        Scenario(
            name="up-1m",
            title="1 MiB up, 8 at a time",
            job={**up, "upload": large},
            table="body",
            limit="wrk",
        ),
        Scenario(name="down-100m", title="100 MiB down, streamed", job=stream, table="body", limit="curl"),
        Scenario(
            name="h2-100m",
            title="HTTP/2 over TLS: 100 MiB down, streamed, one stream",
            job={**stream, "connections": 1},
            table="body",
            tls=True,
            http=2,
            limit="curl",
        ),
        Scenario(
            name="up-100m",
            title="100 MiB up, streamed in chunks of 64 KiB",
            job={**stream_up, "upload": huge},
            table="body",
        ),
    )


def _idle(count: int) -> Scenario:
    return Scenario(
        name="idle",
        title=f"{count:,} idle connections",
        job={"kind": "idle", "concurrency": count, "connections": count},
        table="idle",
        hold=True,
    )

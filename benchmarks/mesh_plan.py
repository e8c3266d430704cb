"""The part of the benchmark that is about the mesh: who takes part, and in what.

Nobody is pinned here: a contender is several processes or threads, and where they run is up to the
system, for everybody alike.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from plan import HERE, MEBIBYTE, Contender, Scenario, Words

MESH = HERE / "mesh"
ORIGIN = "http://api.local"
NODE_NEEDED = 22

SMALL, HUGE = 17, 1024 * MEBIBYTE
ACCEPTING, MEMORY = "accepting", "memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshContender(Contender):
    """One mesh, or what is used instead of one; `product` is its name in the list of versions."""

    part: str = "mesh"
    product: str

    @property
    def family(self) -> str:
        """The name under which its version is listed."""
        return self.product

    def command(self) -> list[str]:
        """The words that start its driver."""
        if self.group == "undici":
            return [node() or "node", "--expose-gc", str(MESH / self.script), *self.arguments]
        # Not a call of super(): it does not find its class in one that was made anew for its slots.
        return Contender.command(self)

    def missing(self) -> str:
        """Why it cannot run here; empty if it can."""
        if self.group != "undici":
            return Contender.missing(self) if self.group != "limit" else ""
        if not (MESH / "node_modules" / self.needs).is_dir():
            return f"{self.needs} is not installed (npm install in benchmarks/mesh/)"
        return "" if node() else f"needs Node {NODE_NEEDED} or newer (npm install in benchmarks/mesh/)"


@functools.cache
def node() -> str:
    """A Node that is new enough: the one that npm brought, else the system's, else none."""
    for found in (str(MESH / "node_modules" / ".bin" / "node"), shutil.which("node")):
        if found is None or not Path(found).exists():
            continue
        said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
        version = re.match(r"v(\d+)", said)
        if version is not None and int(version[1]) >= NODE_NEEDED:
            return found
    return ""


def _dodici(api: str, kind: str) -> MeshContender:
    thread = kind == "thread"
    return MeshContender(
        name=f"dodici-{api}{'-thread' if thread else ''}",
        group="dodici",
        api=api,
        product="dodici",
        script=f"mesh_{api}.py",
        arguments=("--worker", kind),
        needs="dodici",
        variant=thread,
    )


def _undici(name: str, api: str) -> MeshContender:
    product = "undici-thread-interceptor"
    return MeshContender(
        name=name,
        group="undici",
        api=api,
        product=product,
        script="peer.mjs",
        arguments=("--api", api),
        needs=product,
    )


def _server(name: str) -> MeshContender:
    return MeshContender(
        name=f"{name}-aiohttp",
        group="python",
        product=name,
        script="mesh_aiohttp.py",
        arguments=("--worker", name),
        needs=name,
    )


MESH_CONTENDERS = (
    MeshContender(
        name="socketpair",
        group="limit",
        api="none",
        product="socketpair",
        script="mesh_socketpair.py",
        needs="uvloop",
    ),
    _dodici("dispatch", "process"),
    _dodici("request", "process"),
    _dodici("dispatch", "thread"),
    _dodici("request", "thread"),
    _undici("thread-interceptor-dispatch", "dispatch"),
    _undici("thread-interceptor-request", "request"),
    _server("uvicorn"),
    _server("granian"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshScenario(Scenario):
    """One question about meshes; `groups` names who may answer it."""

    part: str = "mesh"
    groups: tuple[str, ...] = ("limit", "dodici", "undici", "python")

    def admits(self, contender: Contender, *, named: bool = False) -> bool:
        """Whether `contender` takes part; `named` says that it was asked for."""
        if contender.part != self.part or contender.group not in self.groups:
            return False
        # In one process a second thread adds nothing: the interpreter runs one at a time.
        if contender.variant and self.job["workers"] != 1:
            return False
        return self.only != "request" or contender.api == "request"


def mesh_scenarios() -> tuple[MeshScenario, ...]:
    """All scenarios of the mesh."""
    return (*_rates(), _large(), *_memory(), _accepting())


def _rates() -> tuple[MeshScenario, ...]:
    return tuple(
        MeshScenario(
            name=f"mesh-c{callers}{'' if workers == 1 else f'-w{workers}'}",
            title=f"Mesh: 17 bytes, {_count(callers, 'caller')}, {_count(workers, 'worker')}",
            job={"size": SMALL, "concurrency": callers, "workers": workers},
            limit="socketpair",
        )
        for callers, workers in ((1, 1), (1, 2), (100, 1), (100, 2))
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number > 1 else ''}"


def _large() -> MeshScenario:
    return MeshScenario(
        name="mesh-1m",
        title="Mesh: 1 MiB, 10 callers, 1 worker",
        job={"path": "/1m", "size": MEBIBYTE, "concurrency": 10, "workers": 1},
        table="body",
        limit="socketpair",
    )


def _memory() -> tuple[MeshScenario, ...]:
    stalled: Words = {"path": "/1g", "kind": "stall", "size": HUGE, "concurrency": 1, "workers": 1}
    aborted: Words = {"path": "/slow", "kind": "abort", "size": 0, "concurrency": 100, "workers": 1}
    return tuple(
        MeshScenario(
            name=name,
            title=title,
            job=job,
            table=MEMORY,
            only="request",
            groups=("dodici", "undici", "python"),
        )
        for name, title, job in (
            ("mesh-stall", "Mesh: memory for 1 GiB whose reader stops for a second", stalled),
            ("mesh-abort", "Mesh: memory for 10,000 requests that are given up after 2 ms", aborted),
        )
    )


def _accepting() -> MeshScenario:
    return MeshScenario(
        name="mesh-accepting",
        title="Mesh: set_accepting(False) in a mesh of 5 members (4 workers), 100 callers at work",
        job={"path": "/accepting", "kind": ACCEPTING, "size": 0, "concurrency": 100, "workers": 4},
        table=ACCEPTING,
        only="request",
        groups=("dodici",),
    )

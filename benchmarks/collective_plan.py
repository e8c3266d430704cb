"""The part of the benchmark that is about the collective: who takes part, and in what.

Nobody is pinned here, and everybody is measured with the processes that it starts, as in the mesh.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from plan import Contender, Scenario

SIZE = 100
ALONE = "alone"


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveContender(Contender):
    """One way to make a call; `kinds` are those of the scenarios that it is made for."""

    part: str = "collective"
    script: str = "collective_grpc.py"
    needs: str = "grpc"
    kinds: tuple[str, ...]

    @property
    def family(self) -> str:
        """The name under which its version is listed."""
        return "grpcio" if self.group == "limit" else "dodici"

    def missing(self) -> str:
        """Why it cannot run here; empty if it can."""
        for name in (self.needs, "uvloop"):
            if importlib.util.find_spec(name) is None:
                return f"{name} is not installed"
        return ""


def _dodici(worker: str, *kinds: str, script: str = "collective_grpc.py") -> CollectiveContender:
    return CollectiveContender(
        name=f"dodici-{worker.replace('_', '-')}",
        group="dodici",
        arguments=("--worker", worker),
        kinds=kinds,
        script=script,
    )


COLLECTIVE_CONTENDERS = (
    CollectiveContender(
        name="grpc.aio",
        group="limit",
        api="none",
        arguments=("--worker", "bare"),
        kinds=("direct", "tls", "hop"),
    ),
    _dodici("face", "direct", "tls"),
    _dodici("envelope", "direct"),
    _dodici("link", "hop"),
    _dodici("link-stream", "hop"),
    _dodici("no-link", "hop"),
    _dodici("p2c", "slow"),
    _dodici("round_robin", "slow"),
    _dodici("whole", "origin", script="collective_origin.py"),
    _dodici("gateway", "origin", script="collective_origin.py"),
    _dodici("hop", "origin", script="collective_origin.py"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveScenario(Scenario):
    """One question about the collective."""

    part: str = "collective"
    limit: str = "grpc.aio"

    def admits(self, contender: Contender, *, named: bool = False) -> bool:
        """Whether `contender` takes part; `named` says that it was asked for."""
        return isinstance(contender, CollectiveContender) and self.job["kind"] in contender.kinds


def collective_scenarios() -> tuple[CollectiveScenario, ...]:
    """All scenarios of the collective."""
    return (
        *(_scenario("direct", callers, "a call to a collector") for callers in (1, 32, 100)),
        *(_scenario("hop", callers, "a call over a hop") for callers in (1, 32, 100)),
        _scenario("tls", 32, "a call to a collector with mutual TLS"),
        _scenario("slow", 8, "three peers, of which one takes 200 ms instead of 1 ms"),
        *(_scenario("origin", callers, "a request through all layers and two nodes") for callers in (1, 16)),
    )


def _scenario(kind: str, callers: int, what: str) -> CollectiveScenario:
    plural = "s" if callers > 1 else ""
    return CollectiveScenario(
        name=f"collective-{kind}{'' if kind in {'tls', 'slow'} else f'-c{callers}'}",
        title=f"Collective: {what}, {SIZE} bytes, {callers} caller{plural}",
        job={"kind": kind, "size": SIZE, "concurrency": callers},
    )

"""The mesh: apps in worker processes, threads or the same loop, reached as `http://name.local/` with no network.

Names are loaded on first use (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.lazy import lazy

if TYPE_CHECKING:
    from .coordinator import WorkerInterceptor as WorkerInterceptor
    from .hooks import ResponseHead as ResponseHead
    from .membership import MeshEvent as MeshEvent
    from .snapshot import MemberInfo as MemberInfo, MeshSnapshot as MeshSnapshot
    from .wired import Wired as Wired, current as current, wire as wire
    from .worker import Worker as Worker, WorkerStats as WorkerStats

_HOMES = {
    "WorkerInterceptor": "coordinator",
    "Worker": "worker",
    "WorkerStats": "worker",
    "wire": "wired",
    "current": "wired",
    "Wired": "wired",
    "MeshEvent": "membership",
    "MeshSnapshot": "snapshot",
    "MemberInfo": "snapshot",
    "ResponseHead": "hooks",
}

__all__ = [
    "MemberInfo",
    "MeshEvent",
    "MeshSnapshot",
    "ResponseHead",
    "Wired",
    "Worker",
    "WorkerInterceptor",
    "WorkerStats",
    "current",
    "wire",
]


if not TYPE_CHECKING:  # a checker would take every misspelling for a name that is found here
    __getattr__, __dir__ = lazy(__name__, _HOMES)

"""The mesh: apps in worker processes, threads or the same loop, reached as `http://name.local/` with no network.

Names are loaded on first use (PEP 562).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

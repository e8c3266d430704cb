"""The place of one worker, and what its keeper knows of workers and of the mesh."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any, Protocol

from .config import ServiceConfig


class WorkerLike(Protocol):
    """What of a `dodici.mesh.Worker` is used here."""

    @property
    def id(self) -> str: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def state(self) -> str: ...
    @property
    def accepting(self) -> bool: ...
    @property
    def paused(self) -> bool: ...
    async def stop(self, grace: float = 30.0) -> Any: ...
    def kill(self) -> None: ...
    async def wait(self) -> int | None: ...
    async def stats(self) -> Any: ...


class MeshLike(Protocol):
    """What of a `WorkerInterceptor` is used here."""

    async def route(self, name: str, worker: Any, /) -> Any: ...
    async def pause_worker(self, worker: Any, /) -> Any: ...
    async def resume_worker(self, worker: Any, /) -> Any: ...


MakeWorker = Callable[[ServiceConfig, Callable[[Any, str, str], None]], WorkerLike]
"""(service, on_output) -> a worker that is not running yet; `route` starts it."""


class Slot:
    """The place of one worker."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.worker: WorkerLike | None = None
        self.lock = asyncio.Lock()
        self.state = "starting"
        """``"starting"``, ``"running"``, ``"replacing"``, ``"waiting"`` for its next start, or ``"stopped"``."""
        self.error: str | None = None
        """Why its last start failed."""
        self.settled = asyncio.Event()
        """Its first start has succeeded or failed."""
        self.retry = asyncio.Event()
        """Set: start now instead of waiting."""
        self.keeper: asyncio.Task[None] | None = None
        self.started = 0.0
        self.restarts = 0
        self.paused = False
        self.request_limit = 0
        self.stats: Any = None


def how_it_ended(code: int | None) -> str:
    """An exit code, in words."""
    if code is None:
        return "ended"
    if code < 0:
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"
    return f"exited with {code}"

"""One life of a worker, from its start to its end, as the coordinator sees it.

    starting -> ready -> closing -> exited

`ready` is settled once: when the worker has an app, or with the `WorkerStartError` that says why it never will.
`exited` is settled once, with the exit code. Whatever ends first, the process or its channel, the member is removed
from the mesh at once; a process whose channel is over is killed if it does not end by itself.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import WorkerStartError
from .bootstrap import run_worker
from .hub import Connection, Hub
from .member import MeshSettings
from .membership import MeshEvent
from .snapshot import MemberInfo
from .spawn import KILLED, LoopPlace, Place, ProcessPlace, ThreadPlace

if TYPE_CHECKING:
    from .worker import Worker

_EXIT_CODE = 0.5
"""Seconds to learn the exit code of a worker that said why it cannot start."""
_SHUTDOWN = 5.0
"""Seconds for what follows the drain, before a worker is killed."""
_STARTING = 5.0
"""The longest drain of a worker that is not ready: it has no requests."""
_THREAD = 1.0
"""Seconds to wait for a thread after it was told to end at once."""

_log = logging.getLogger("dodici.mesh")


class Running:
    """A worker that was started."""

    def __init__(self, worker: Worker, hub: Hub, member_id: str, settings: MeshSettings) -> None:
        self.worker = worker
        self.hub = hub
        self.id = member_id
        self.pid = 0
        self.closing = False
        self.was_killed = False
        """It did not end in time when it was asked to."""
        self.ready: asyncio.Future[None] = hub.loop.create_future()
        self.exited: asyncio.Future[int] = hub.loop.create_future()
        self._settings = settings
        self._connection: Connection | None = None
        self._place: Place | None = None
        self._failure: WorkerStartError | None = None
        self._timers: list[asyncio.TimerHandle] = []
        # Whoever waits takes the result; if nobody does, it is no secret: it is logged.
        self.ready.add_done_callback(_seen)

    # ------------------------------------------------------------------------------------- its start

    def start(self) -> None:
        """Begin. What goes wrong is reported by `ready`."""
        worker = self.worker
        if worker.kind == "address":
            self.hub.add(
                MemberInfo(
                    id=self.id,
                    name=worker.name,
                    pid=0,
                    kind="address",
                    app=True,
                    accepting=worker.config.accepting,
                    address=worker.config.target,
                )
            )  # which is an event, and makes it ready
            return
        try:
            self._place = place = self._make_place()
            channel = place.start()
        except OSError as error:
            self._fail(WorkerStartError(f"{worker.name} could not be started: {error}"))
            self._end(1)
            return
        self.pid = place.pid
        info = MemberInfo(id=self.id, name=worker.name, pid=place.pid, kind=worker.kind)
        self._connection = connection = Connection(info, channel, place.loop)
        connection.on_failed = self._on_failed
        connection.on_lost = self._on_lost
        self.hub.connect(connection)
        objects = (
            ()
            if worker.kind == "process"
            else (worker.config.target, worker.config.args, worker.config.hooks)
        )
        channel.send(self._start_message(), objects)
        if worker.config.start_timeout is not None:
            self._later(worker.config.start_timeout, self._too_slow)

    def _make_place(self) -> Place:
        worker, config, loop = self.worker, self.worker.config, self.hub.loop
        name = f"dodici {worker.name} ({self.id})"
        if worker.kind == "thread":
            return ThreadPlace(loop, run_worker, name=name, on_exit=self._end)
        if worker.kind == "loop":
            return LoopPlace(loop, run_worker, name=name, on_exit=self._end)
        on_output = config.on_output
        on_line = None if on_output is None else lambda stream, line: on_output(worker, stream, line)
        return ProcessPlace(loop, env=config.env, cwd=config.cwd, on_exit=self._end, on_line=on_line)

    def _start_message(self) -> dict[str, Any]:
        config = self.worker.config
        process = self.worker.kind == "process"
        return {
            "type": "start",
            "id": self.id,
            "name": self.worker.name,
            "target": config.target if process else None,
            "args": list(config.args) if process else [],
            "entry": config.entry,
            "cwd": config.cwd or str(Path.cwd()),
            "lifespan": config.lifespan,
            "interface": config.interface,
            "app_errors": config.app_errors,
            "wsgi_threads": config.wsgi_threads,
            "accepting": config.accepting,
            "settings": self._settings.to_json(),
        }

    def on_event(self, event: MeshEvent) -> None:
        """Something happened to this member."""
        if event.kind == "ready" and not self.ready.done():
            self.ready.set_result(None)
        elif event.kind == "leaving":
            self.closing = True

    def _on_failed(self, error: str, traceback: str) -> None:
        if self.ready.done():
            _log.error("%s failed: %s\n%s", self.worker.name, error, traceback)
            return
        self._failure = WorkerStartError(f"{self.worker.name} did not start: {error}")
        self._failure.remote_traceback = traceback
        self._later(_EXIT_CODE, self._fail, self._failure)

    def _too_slow(self) -> None:
        if not self.ready.done():
            seconds = self.worker.config.start_timeout
            self._fail(WorkerStartError(f"{self.worker.name} was not ready within {seconds:g} s"))
            self.kill()

    def _fail(self, error: WorkerStartError) -> None:
        if not self.ready.done():
            self.ready.set_exception(error)

    # --------------------------------------------------------------------------------------- its end

    def _on_lost(self, error: BaseException | None) -> None:
        self.closing = True
        left = self._connection is not None and self._connection.left
        # Without its channel it drains, and ends; with it, it said that it has done so.
        self._later(_SHUTDOWN if left else 30.0 + 2 * _SHUTDOWN, self.kill)

    def _end(self, code: int) -> None:
        if self.exited.done():
            return
        connection = self._connection
        if connection is not None and not connection.channel.closed:
            connection.channel.read_rest()
        for timer in self._timers:
            timer.cancel()
        left = connection is None or connection.left
        self.closing = True
        self.hub.remove(self.id)
        if not self.ready.done():
            error = self._failure or WorkerStartError(
                f"{self.worker.name} {in_words(code)} before it was ready"
            )
            error.exit_code = code
            self._fail(error)
        elif not left:
            _log.error("%s (pid %d) %s", self.worker.name, self.pid, in_words(code))
        self.exited.set_result(code)

    async def stop(self, grace: float) -> int:
        """Ask it to drain and end; kill it when its time is over. Returns the exit code."""
        if self.exited.done():
            return self.exited.result()
        self.closing = True
        if self.worker.kind == "address":
            await self.hub.change(lambda now: self.hub.membership.leave(self.id, now))
            self._end(0)
            return 0
        if not self.ready.done():
            grace = min(grace, _STARTING)
            if self._connection is None or not self._connection.joined:
                # It imports, and can neither hear nor lose anything.
                self.kill()
                await self._wait(_THREAD)
                self._end(KILLED)
        if self._connection is not None:
            message = {"type": "call", "call": 0, "do": "close", "drain_timeout": grace}
            self._connection.channel.send(message)
        await self._wait(grace + self._settings.propagation_timeout + _SHUTDOWN)
        if not self.exited.done():
            self.was_killed = True
            _log.warning("%s (pid %d) did not end in time and is killed", self.worker.name, self.pid)
            self.kill()
            if self.worker.kind == "process":
                await self._wait(None)
            else:
                await self._wait(_THREAD)
                self._end(KILLED)  # a thread that is stuck is not waited for
        return self.exited.result()

    async def _wait(self, timeout: float | None) -> None:
        if not self.exited.done():
            await asyncio.wait((self.exited,), timeout=timeout)

    def kill(self) -> None:
        """End it now. The mesh is told at once."""
        self.closing = True
        if self.exited.done():
            return
        if self._place is not None:
            self._place.kill()
        if self._place is None or self.worker.kind != "process":
            self.hub.remove(self.id)
        if self._place is None:
            self._end(0)

    def _later(self, delay: float, callback: Any, *arguments: Any) -> None:
        if not self.exited.done():
            self._timers.append(self.hub.loop.call_later(delay, callback, *arguments))


def in_words(code: int) -> str:
    """How a worker with this exit code ended."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _seen(ready: asyncio.Future[None]) -> None:
    if not ready.cancelled():
        ready.exception()

"""The lifespan of an ASGI app: its start-up before the first request, its shutdown after the last one.

The app is called once with a ``lifespan`` scope, in a task of its own that lives as long as the app does: what it
opens in its start-up it may close in the same task. `state` is what the start-up left for requests; each request
gets a copy.

An app that raises on the scope, or returns without an answer, has no lifespan (ASGI: "the server must continue").
Mode ``"on"`` is for those who know that theirs has one, and want to hear of it when it fails; the message
``lifespan.startup.failed`` is a failure in either mode.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from ..core.errors import InvalidArgumentError, WorkerStartError

if TYPE_CHECKING:
    from .contracts import ASGIApp, Scope

MODES = ("auto", "on", "off")
SHUTDOWN_TIMEOUT = 10.0
"""Seconds for the app's shutdown: what takes longer is cancelled."""

_log = logging.getLogger("dodici.mesh")


class Lifespan:
    """One app's lifespan: `startup()` once, then `shutdown()`.

    Args:
        app: an ASGI 3 app.
        mode: ``"auto"``, ``"on"`` (an app without one is an error) or ``"off"`` (the app is not asked).
        shutdown_timeout: seconds that `shutdown()` waits at most.
        name: what to call the app in messages.

    Raises:
        InvalidArgumentError: another mode.
    """

    def __init__(
        self,
        app: ASGIApp,
        mode: str = "auto",
        *,
        shutdown_timeout: float = SHUTDOWN_TIMEOUT,
        name: str = "the app",
    ) -> None:
        if mode not in MODES:
            raise InvalidArgumentError(f'lifespan must be "auto", "on" or "off", not {mode!r}')
        self._app = app
        self._mode = mode
        self._name = name
        self._shutdown_timeout = shutdown_timeout
        self.state: dict[str, Any] = {}
        self._task: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._asked = False
        self._stopping = False
        self._started: asyncio.Future[str | None] | None = None  # None, or the text of startup.failed
        self._stopped: asyncio.Future[str | None] | None = None
        self._shut: asyncio.Future[None] | None = None

    @property
    def supported(self) -> bool:
        """The app has a lifespan, and its start-up has ended well."""
        started = self._started
        return started is not None and started.done() and not started.cancelled() and started.result() is None

    async def startup(self) -> dict[str, Any]:
        """Start the app and return its state: empty for an app without a lifespan. If cancelled, the app is, too.

        Raises:
            WorkerStartError: the app said that it failed; or, in mode ``"on"``, raised or returned.
                `remote_traceback` has its traceback where there is one.
        """
        if self._mode == "off":
            return self.state
        loop = asyncio.get_running_loop()
        self._started, self._stopped, self._shut = (loop.create_future() for _ in range(3))
        self._task = task = loop.create_task(self._run(), name=f"lifespan of {self._name}")
        try:
            await asyncio.wait((task, self._started), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self._cancel(task)
            raise
        if not self._started.done():
            self._without(task)
        elif (failure := self._started.result()) is not None:
            await self._let_end(task)
            raise _failed(self._name, failure)
        return self.state

    async def shutdown(self) -> None:
        """Shut the app down; returns when it has done so, or when its time is up. What fails is logged.

        Any number of calls, at once or one after another, shut it down once.
        """
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(
                self._end(), name=f"shutdown of {self._name}"
            )
        await asyncio.shield(self._ending)

    # -- the app's side --------------------------------------------------------------------------------

    async def _run(self) -> None:
        scope: Scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self._app(scope, self._receive, self._send)
        except BaseException as error:
            if not self.supported:
                raise
            told = self._stopped is not None and self._stopped.done()
            if not told and not (self._stopping and isinstance(error, asyncio.CancelledError)):
                _log.error("lifespan of %s ended with an error", self._name, exc_info=error)
            if not isinstance(error, Exception | asyncio.CancelledError):
                raise
        else:
            if self.supported and not self._stopping:
                _log.warning("lifespan of %s ended before its shutdown", self._name)

    async def _receive(self) -> MutableMapping[str, Any]:
        assert self._shut is not None
        if not self._asked:
            self._asked = True
            return {"type": "lifespan.startup"}
        await asyncio.shield(self._shut)
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        kind = message["type"]
        if kind in {"lifespan.startup.complete", "lifespan.startup.failed"}:
            future = self._started
        elif kind in {"lifespan.shutdown.complete", "lifespan.shutdown.failed"} and self.supported:
            future = self._stopped
        else:
            raise RuntimeError(f"ASGI: {kind!r} cannot be sent here in a lifespan")
        assert future is not None
        if future.done():
            raise RuntimeError(f"ASGI: {kind!r} cannot be sent twice in a lifespan")
        future.set_result(str(message.get("message", "")) if kind.endswith("failed") else None)

    # -- its end ---------------------------------------------------------------------------------------

    def _without(self, task: asyncio.Task[None]) -> None:
        """The app ended before it had answered: it has no lifespan, or should have had one."""
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if self._mode == "on":
            what = f"raised {type(error).__name__}" if error is not None else "returned without an answer"
            text = "".join(traceback.format_exception(error)) if error is not None else ""
            raise WorkerStartError(
                f'{self._name} {what} when its lifespan began, and lifespan="on" asks for one',
                remote_traceback=text,
            ) from error
        if error is not None and not isinstance(error, Exception | asyncio.CancelledError):
            raise error
        if error is not None and self._asked:
            # Mostly an app that takes every scope for a request; but it may be a start-up that failed.
            _log.warning(
                "%s raised in its lifespan's start-up: it is taken for an app without one "
                '(lifespan="on" makes this an error)',
                self._name,
                exc_info=error,
            )

    async def _end(self) -> None:
        task, shut = self._task, self._shut
        if task is None or shut is None:
            return
        self._stopping = True
        if not task.done() and self.supported:
            assert self._stopped is not None
            shut.set_result(None)
            await asyncio.wait(
                (task, self._stopped), timeout=self._shutdown_timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if self._stopped.done():
                if (failure := self._stopped.result()) is not None:
                    _log.error("shutdown of %s failed: %s", self._name, failure)
            elif not task.done():
                _log.error(
                    "shutdown of %s took more than %g s and was cancelled", self._name, self._shutdown_timeout
                )
                await self._cancel(task)
        await self._let_end(task)

    async def _let_end(self, task: asyncio.Task[None]) -> None:
        """After its last message the app may return by itself; it is not waited for long."""
        if not task.done():
            await asyncio.wait((task,), timeout=1.0)
        await self._cancel(task)

    @staticmethod
    async def _cancel(task: asyncio.Task[None]) -> None:
        if not task.done():
            task.cancel()
            await asyncio.wait((task,), timeout=1.0)
        if task.done() and not task.cancelled():
            task.exception()  # seen: asyncio does not report it as never retrieved


def _failed(name: str, message: str) -> WorkerStartError:
    # Frameworks send the whole traceback as the message: its last line says what it was.
    lines = message.strip().splitlines()
    if len(lines) > 1:
        return WorkerStartError(f"start-up of {name} failed: {lines[-1]}", remote_traceback=message)
    return WorkerStartError(f"start-up of {name} failed" + (f": {lines[0]}" if lines else ""))

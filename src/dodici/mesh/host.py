"""The host of an app: starts the requests that arrive over links, counts them, and exchanges the app under them.

A *generation* is one app from its start-up to its shutdown. A request belongs to the generation that was there when
it arrived, so that replacing an app loses none and mixes none: the old generation is shut down when its last request
has ended, while the new one answers already. A request that arrived before there was an app is given to the one that
is there when its turn comes.

Requests wait in one queue, first in, first out. A loop turn begins at most eight of them, and fewer if the first steps
of those before took long: between two turns timers, control messages and running requests get the loop, however much
CPU the app needs. What was given up meanwhile is dropped without having been seen by the app.

Invariants: a stream is in the queue, or in `_running`, or forgotten, and its generation's `open` counts it exactly as
long; `ended()` for a stream that is not running is ignored. Nothing that an app, a hook or a stream raises ends the
loop over the queue.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..core.errors import InvalidArgumentError, MeshError
from ..core.trace import here
from .generation import Generation
from .hooks import Hooks, hook_list
from .lifespan import MODES
from .loading import resolve

if TYPE_CHECKING:
    from .contracts import Scope, ServerStream

MAX_PER_TURN = 8
TURN_BUDGET = 0.010
"""Seconds that the first steps of the requests begun in one turn may take before fewer are begun."""
ABORT_GRACE = 1.0
"""Seconds that `close()` gives the apps of aborted requests to return."""

_log = logging.getLogger("dodici.mesh")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStats:
    """What a host has done, and what it is doing."""

    queued: int
    """Requests that have arrived and were not begun yet."""
    running: int
    """Requests begun and not ended, websockets included."""
    websockets: int
    """Those of them that are websockets."""
    served: int
    """Requests that have ended, whatever their outcome."""
    errors: int
    """Requests in which the app, or an `on_server_request` or `on_server_response` hook, raised."""


class AppHost:
    """Owns the app of a worker: a `RequestSink` for its links, a `StreamOwner` for its requests.

    Belongs to the event loop that it is first used on.

    Args:
        wsgi_threads: requests that a WSGI app works on at once.
        lifespan: ``"auto"``, ``"on"`` or ``"off"``.
        app_errors: ``"500"``, or ``"raise"``: the client gets `RemoteAppError` of an app that raises before its head.
        on_server_request: ``hook(scope)``, before the app is called; one function or several, as all hooks here.
        on_server_response: ``hook(scope, status_code, headers)``, when the app has given its head.
        on_server_error: ``hook(scope, error)``, when the app or a hook raised.
        interface: ``"auto"``, ``"asgi"`` or ``"wsgi"``, for apps that `replace()` is given.
        cwd: the folder that ``"module:app"`` is imported from.
        trace: record the requests that belong to a trace, and let what their apps send join it.

    Raises:
        InvalidArgumentError: an argument is not as above; (a `TypeError`, too) a hook is not callable or asynchronous.
    """

    def __init__(
        self,
        *,
        wsgi_threads: int = 8,
        lifespan: str = "auto",
        app_errors: str = "500",
        on_server_request: Hooks = None,
        on_server_response: Hooks = None,
        on_server_error: Hooks = None,
        interface: str = "auto",
        cwd: str | os.PathLike[str] | None = None,
        trace: bool = True,
    ) -> None:
        if lifespan not in MODES:
            raise InvalidArgumentError(f'lifespan must be "auto", "on" or "off", not {lifespan!r}')
        if app_errors not in {"500", "raise"}:
            raise InvalidArgumentError(f'app_errors must be "500" or "raise", not {app_errors!r}')
        if not isinstance(wsgi_threads, int) or isinstance(wsgi_threads, bool) or wsgi_threads < 1:
            raise InvalidArgumentError(f"wsgi_threads must be a positive number, not {wsgi_threads!r}")
        self.app_errors = app_errors
        self.trace = trace
        self._wsgi_threads = wsgi_threads
        self._lifespan = lifespan
        self._interface = interface
        self._cwd = cwd
        self._on_request = hook_list("on_server_request", on_server_request)
        self._on_response = hook_list("on_server_response", on_server_response)
        self._on_error = hook_list("on_server_error", on_server_error)
        self._clock = time.monotonic
        self._queue: deque[tuple[ServerStream, Generation | None]] = deque()
        self._running: dict[ServerStream, Generation] = {}
        self._websockets = 0
        self._turn_is_due = False
        self._quota = MAX_PER_TURN // 2  # nobody knows yet how long this app's first steps take
        self._begun = 0
        self._turn_began = 0.0
        self._current: Generation | None = None
        self._retired: set[asyncio.Task[None]] = set()
        self._switching = asyncio.Lock()
        self._starting: asyncio.Task[None] | None = None
        self._waiters: list[_Waiter] = []
        self._not_accepting: str | None = None
        self._closing: asyncio.Task[None] | None = None
        self.served = 0
        """Requests that have ended, whatever their outcome."""
        self.errors = 0
        """Requests in which the app or a hook raised."""

    # -- what people ask -------------------------------------------------------------------------------

    @property
    def has_app(self) -> bool:
        """Whether there is an app, or an address, to send requests to. Its start-up has ended."""
        return self._current is not None

    @property
    def address(self) -> str | None:
        """The present target's address, if it is one."""
        return self._current.address if self._current is not None else None

    @property
    def running(self) -> int:
        """Requests begun and not ended, websockets included."""
        return len(self._running)

    @property
    def stats(self) -> HostStats:
        """A copy of all counters."""
        return HostStats(
            queued=len(self._queue),
            running=len(self._running),
            websockets=self._websockets,
            served=self.served,
            errors=self.errors,
        )

    # -- the app ---------------------------------------------------------------------------------------

    async def replace(self, target: Any) -> None:
        """Start another app, then let it take the requests that arrive from now on.

        `target` is whatever `resolve()` takes, or None: no app. The old one serves what has arrived for it and is
        shut down then, in the background. Several calls take effect in their order.

        Raises:
            InvalidArgumentError: the target is no app. The old one stays.
            WorkerStartError: its start-up failed. The old one stays.
            MeshError: the host is closed, or was closed meanwhile.
        """
        async with self._switching:
            self._refuse_if_closed()
            generation: Generation | None = None
            if target is not None:
                app = resolve(target, interface=self._interface, cwd=self._cwd)
                generation = Generation(app, self._lifespan, self._wsgi_threads)
                await self._start(generation)
            old, self._current = self._current, generation
            if old is not None:
                self._retire(old)

    async def _start(self, generation: Generation) -> None:
        # A task of its own, so that close() can end a start-up that takes long.
        self._starting = task = asyncio.get_running_loop().create_task(generation.start())
        started = False
        try:
            await asyncio.wait((task,))
            self._refuse_if_closed()
            task.result()
            started = True
        finally:
            self._starting = None
            if not started:
                task.cancel()
                task.add_done_callback(_seen)
                self._retire(generation)

    def _refuse_if_closed(self) -> None:
        if self._closing is not None:
            raise MeshError("the worker is closed, and takes no app")

    def _retire(self, generation: Generation) -> None:
        task = asyncio.get_running_loop().create_task(generation.end())
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)

    # -- RequestSink -----------------------------------------------------------------------------------

    def accept(self, stream: ServerStream) -> None:
        """Queue a request that has arrived. Nothing of it is begun or refused in here."""
        generation = self._current if self._not_accepting is None else None
        if generation is not None:
            generation.open += 1
        self._queue.append((stream, generation))
        if not self._turn_is_due:
            self._turn_is_due = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        queue = self._queue
        loop = asyncio.get_running_loop()
        if len(queue) > self._quota:
            # The order of the loop's ready queue: this stamp, the first steps of what is begun here, the next turn.
            loop.call_soon(self._stamp)
        begun, until = 0, 0.0
        while queue and begun < self._quota:
            stream, generation = queue.popleft()
            if generation is None and self._not_accepting is None:
                generation = self._current
                if generation is not None:
                    generation.open += 1
            if stream.given_up:
                self._forget(stream, generation)
                continue
            begun += 1
            self._begin(stream, generation)
            if queue:
                now = self._clock()  # for streams that step their app inside of run()
                if not until:
                    until = now + TURN_BUDGET
                elif now > until:
                    break
        self._begun = begun
        if queue:
            loop.call_soon(self._next_turn)
        else:
            self._turn_is_due = False

    def _stamp(self) -> None:
        self._turn_began = self._clock()

    def _next_turn(self) -> None:
        if self._turn_began:
            # As many as fit into the budget at the pace of the last ones, and not all at once many more.
            elapsed = max(self._clock() - self._turn_began, 1e-9)
            fits = int(TURN_BUDGET * self._begun / elapsed)
            self._quota = max(1, min(fits, 2 * self._quota, MAX_PER_TURN))
            self._turn_began = 0.0
        self._turn()

    def _begin(self, stream: ServerStream, generation: Generation | None) -> None:
        try:
            if generation is None:
                stream.refuse(self._not_accepting or "the worker has no app")
            elif generation.call is None:
                stream.refuse(f"the worker stands for {generation.address}")
            else:
                self._running[stream] = generation
                self._websockets += stream.websocket
                stream.run(generation.call, generation.state, self)
                return
        except Exception as error:
            self.errors += 1
            _log.exception("a request for %s could not be begun", stream.authority)
            self._abort(stream, f"the request could not be begun: {error!r}")
            if self._running.get(stream) is not None:
                self.ended(stream)
                return
            if generation is not None and generation.call is not None:
                return  # it had ended before it raised
        self._forget(stream, generation)

    def _forget(self, stream: ServerStream, generation: Generation | None) -> None:
        if generation is not None:
            generation.done()
        if self._waiters:
            self._wake(stream)

    # -- StreamOwner -----------------------------------------------------------------------------------

    def on_request(self, scope: Scope) -> None:
        """Run `on_server_request`."""
        for hook in self._on_request:
            hook(scope)

    def on_response(self, scope: Scope, status_code: int, headers: Any) -> None:
        """Run `on_server_response`."""
        for hook in self._on_response:
            hook(scope, status_code, headers)

    def on_error(self, scope: Scope, error: BaseException) -> None:
        """Count and log what the app raised, and run `on_server_error`. Never raises."""
        self.errors += 1
        place = here()
        where = "" if place is None else f" (trace {place.trace_id})"
        _log.error("the app raised in %s%s", _shown(scope), where, exc_info=error)
        for hook in self._on_error:
            try:
                hook(scope, error)
            except Exception:
                _log.exception("on_server_error hook %r raised", hook)

    def ended(self, stream: ServerStream) -> None:
        """The stream is over: its app has returned, or its client is gone."""
        generation = self._running.pop(stream, None)
        if generation is None:
            return
        self.served += 1
        self._websockets -= stream.websocket
        self._forget(stream, generation)

    # -- the end ---------------------------------------------------------------------------------------

    async def drained(self, names: Iterable[str] | None = None) -> None:
        """Return when the requests that are here now, queued or running, have ended, websockets included.

        `names` are hosts such as ``"api.local"``: only what was sent to them is waited for.
        """
        hosts = None if names is None else {name.lower() for name in names}
        here = [stream for stream, _ in self._queue]
        here.extend(self._running)
        waiter = _Waiter({stream for stream in here if hosts is None or stream.authority in hosts})
        if not waiter.streams:
            return
        self._waiters.append(waiter)
        try:
            await waiter.future
        finally:
            self._waiters.remove(waiter)

    def _wake(self, stream: ServerStream) -> None:
        for waiter in self._waiters:
            waiter.streams.discard(stream)
            if not waiter.streams and not waiter.future.done():
                waiter.future.set_result(None)

    def close_accepting(self, reason: str = "the worker is closing") -> None:
        """Refuse what arrives from now on. What has arrived is served."""
        if self._not_accepting is None:
            self._not_accepting = reason
            for index, (stream, generation) in enumerate(self._queue):
                if generation is None and self._current is not None:
                    self._current.open += 1
                    self._queue[index] = (stream, self._current)

    def abort_all(self, reason: str) -> None:
        """End every request: what no app has seen is refused, what runs is aborted."""
        while self._queue:
            stream, generation = self._queue.popleft()
            if not stream.given_up:
                try:
                    stream.refuse(reason)
                except Exception:
                    _log.exception("a request for %s could not be refused", stream.authority)
            self._forget(stream, generation)
        for stream in list(self._running):
            self._abort(stream, reason)

    def _abort(self, stream: ServerStream, reason: str) -> None:
        try:
            stream.abort(reason)
        except Exception:
            _log.exception("a request for %s could not be aborted", stream.authority)

    async def close(self, drain_timeout: float = 30.0) -> None:
        """Refuse new requests, let those that are here end, abort the rest, and shut the apps down.

        Any number of calls are one close. Returns when it is done.

        Args:
            drain_timeout: seconds that running requests have; 0 aborts them at once.
        """
        if self._closing is None:
            self.close_accepting()
            self._closing = asyncio.get_running_loop().create_task(self._close(drain_timeout))
        await asyncio.shield(self._closing)

    async def _close(self, drain_timeout: float) -> None:
        if self._starting is not None:
            self._starting.cancel()
        async with self._switching:
            current, self._current = self._current, None
        if current is not None:
            self._retire(current)
        try:
            async with asyncio.timeout(drain_timeout):
                await self.drained()
        except TimeoutError:
            _log.warning(
                "%d requests are aborted: they ran longer than %g s", len(self._running), drain_timeout
            )
            self.abort_all("the worker is closing, and the time to drain is over")
            try:
                async with asyncio.timeout(ABORT_GRACE):
                    await self.drained()
            except TimeoutError:
                self._abandon()
        while self._retired:
            await asyncio.wait(self._retired)

    def _abandon(self) -> None:
        """Forget the apps that do not return: the shutdown does not wait for them."""
        _log.warning("%d requests go on after they were aborted", len(self._running))
        for stream in list(self._running):
            self.ended(stream)


class _Waiter:
    """One `drained()`."""

    __slots__ = ("streams", "future")

    def __init__(self, streams: set[ServerStream]) -> None:
        self.streams = streams
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()


def _seen(task: asyncio.Task[None]) -> None:
    """What ended the start-up was told to whoever asked for it, or is of no interest after the close."""
    if not task.cancelled():
        task.exception()


def _shown(scope: Scope) -> str:
    server = scope.get("server") or ("", None)
    return f"{scope.get('method', scope.get('type', ''))} {server[0]}{scope.get('path', '')}"

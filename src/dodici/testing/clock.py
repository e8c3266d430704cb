"""Virtual time: a clock that is advanced by hand, and an event loop whose time jumps when it is idle.

`VirtualClock` is what `core.timers` and `core.controller` need of a loop, without a loop: time stands still
until `advance()`.

`VirtualTimeLoop` runs asyncio code, real sockets included. Its time stands still while anything happens and
jumps to the next timer when nothing does. "Nothing" is: no callback is ready, no job runs in the executor,
and no socket became ready within `grace` seconds of real time. Peers must live on the same loop (or answer
within `grace`), or their silence is taken for minutes of it.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import selectors
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, Unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Executor

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


_QUIET_JUMPS = 4


class VirtualHandle:
    """A callback that waits for its time. Has `cancel()`, `cancelled()` and `when()`, as asyncio's have."""

    __slots__ = ("_args", "_callback", "_cancelled", "_when")

    def __init__(self, when: float, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._when = when
        self._callback = callback
        self._args = args
        self._cancelled = False

    def when(self) -> float:
        """The time at which it is due."""
        return self._when

    def cancel(self) -> None:
        """Never run it."""
        self._cancelled = True

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._cancelled

    def run(self) -> None:
        """Run it unless it was cancelled."""
        if not self._cancelled:
            self._callback(*self._args)


class VirtualClock:
    """Time that moves when told to. Stands in for an event loop where only callbacks are needed.

    Args:
        start: the time at the beginning, in seconds.
    """

    def __init__(self, start: float = 1000.0) -> None:
        self._now = start
        self._heap: list[tuple[float, int, VirtualHandle]] = []
        self._order = itertools.count()
        self.exceptions: list[dict[str, Any]] = []
        """What `call_exception_handler()` was told."""

    def time(self) -> float:
        """Now, in seconds."""
        return self._now

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any) -> VirtualHandle:
        """Call `callback(*args)` when the time is `when`."""
        handle = VirtualHandle(when, callback, args)
        heapq.heappush(self._heap, (when, next(self._order), handle))
        return handle

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> VirtualHandle:
        """Call `callback(*args)` in `delay` seconds."""
        return self.call_at(self._now + max(0.0, delay), callback, *args)

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> VirtualHandle:
        """Call `callback(*args)` at the next `advance()`, even by 0."""
        return self.call_at(self._now, callback, *args)

    call_soon_threadsafe = call_soon

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Note what an event loop would report."""
        self.exceptions.append(context)

    @property
    def pending(self) -> int:
        """How many callbacks wait."""
        return sum(not handle.cancelled() for _, _, handle in self._heap)

    def advance(self, seconds: float = 0.0) -> int:
        """Move the time on, running what falls due at its own time and in its order.

        Returns:
            How many callbacks ran.
        """
        end = self._now + seconds
        ran = 0
        while self._heap and self._heap[0][0] <= end:
            when, _, handle = heapq.heappop(self._heap)
            self._now = max(self._now, when)
            if not handle.cancelled():
                handle.run()
                ran += 1
        self._now = end
        return ran

    def jump(self, seconds: float) -> None:
        """Move the time on without running anything, as when a loop was blocked; `advance()` catches up."""
        self._now += seconds


class _JumpingSelector(selectors.BaseSelector):
    """Looks at the sockets; where asyncio would sleep until a timer, it moves the loop's time there."""

    def __init__(self, grace: float) -> None:
        self._real = selectors.DefaultSelector()
        self._grace = grace
        self._quiet = 0
        self.offset = 0.0
        self.jobs = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            # Callbacks are ready, and may send: what they send is waited for again.
            self._quiet = 0
            return self._real.select(0)
        if timeout is None or self.jobs:
            # Only the outside world can go on: a thread, a signal, a peer in another process.
            return self._real.select(None)
        # Ticks of a timer that wake nobody need no grace each: that would make an hour cost 15 seconds.
        ready = self._real.select(self._grace if self._quiet < _QUIET_JUMPS else 0)
        self._quiet += 1
        if ready:
            self._quiet = 0
        else:
            self.offset += timeout
        return ready

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Any:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that never waits for a timer.

    Args:
        grace: how long, in seconds of real time, every socket must be silent before time jumps.
    """

    virtual = True
    """What tells code that watches over hanging tests not to measure them by this loop's time."""

    def __init__(self, grace: float = 0.002) -> None:
        self._jumping = _JumpingSelector(grace)
        super().__init__(self._jumping)

    def time(self) -> float:
        """Virtual seconds: the sum of the jumps."""
        return self._jumping.offset

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[_Ts]], _T], *args: *_Ts
    ) -> asyncio.Future[_T]:
        """As always, but time stands still until the job has ended."""
        self._jumping.jobs += 1
        try:
            future = super().run_in_executor(executor, func, *args)
        except BaseException:
            self._jumping.jobs -= 1
            raise
        future.add_done_callback(self._job_done)
        return future

    def _job_done(self, _: object) -> None:
        self._jumping.jobs -= 1


def run_virtual(main: Coroutine[Any, Any, _T], *, grace: float = 0.002, limit: float = 30.0) -> _T:
    """Run a coroutine in virtual time, as `asyncio.run` does in real time.

    Args:
        main: what to run.
        grace: see `VirtualTimeLoop`.
        limit: seconds of real time after which it is cancelled.

    Raises:
        TimeoutError: it took longer than `limit`.
    """
    started = time.monotonic()

    async def limited() -> _T:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(main)
        alarm = _Alarm(loop, task, limit)
        try:
            return await task
        except asyncio.CancelledError:
            if time.monotonic() - started >= limit:
                raise TimeoutError(f"did not end within {limit:g} s of real time") from None
            raise
        finally:
            alarm.cancel()

    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(grace)) as runner:
        return runner.run(limited())


class _Alarm:
    """Cancels a task after some real time, from a thread: the loop's own timers are not real."""

    def __init__(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any], seconds: float) -> None:
        self._loop = loop
        self._task = task
        self._timer = threading.Timer(seconds, self._ring)
        self._timer.daemon = True
        self._timer.start()

    def _ring(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._task.cancel)
        except RuntimeError:
            pass  # the loop is closed already

    def cancel(self) -> None:
        self._timer.cancel()

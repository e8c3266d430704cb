"""Coarse timers: one tick per event loop instead of one timer per request.

Arming a timer is an assignment; a tick every half second looks which have passed. A timeout of one second
or more therefore fires up to two ticks (and a little slack) late, and never early. Shorter ones get a timer
of the loop, also re-armed by mutation. `base` is when the next tick ends at the latest, so that
`timer.deadline = timers.base + seconds` is never early; connections on the hot path write just that.

While the loop is blocked the clock of coarse timers stands still: what was armed meanwhile was armed with
an old `base`, and what has arrived meanwhile has not been seen. A tick that comes later than the slack
moves all coarse deadlines by the time that was lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

TICK = 0.5
COARSE = 1.0
"""Seconds from which on a timeout is coarse."""
SLACK = 0.05
"""Seconds that a tick may be late before it moves deadlines."""
NEVER = float("inf")


class Clock(Protocol):
    """What is needed of an event loop."""

    def time(self) -> float: ...
    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> Any: ...


def _nothing() -> None:
    """What a closed timer calls."""


class Timer:
    """One deadline. `arm()` again to move it; `disarm()` to forget it; `close()` when done with it."""

    __slots__ = ("_exact", "_handle", "_timers", "callback", "deadline")

    def __init__(self, timers: Timers, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.deadline = NEVER
        self._exact = 0.0
        self._timers = timers
        self._handle: Any = None

    def arm(self, seconds: float) -> None:
        """Fire `seconds` from now; 0 disarms."""
        if not seconds:
            self.deadline = NEVER
        elif seconds >= COARSE:
            self.deadline = self._timers.base + seconds
        else:
            clock = self._timers.clock
            self.deadline = self._exact = deadline = clock.time() + seconds
            if self._handle is None or self._handle[0] > deadline:
                self._cancel_handle()
                self._handle = (deadline, clock.call_later(seconds, self._check))

    @property
    def precise(self) -> bool:
        """Whether the deadline is kept by a timer of the loop."""
        return self.deadline == self._exact

    def disarm(self) -> None:
        self.deadline = NEVER

    def close(self) -> None:
        """Disarm for good."""
        self.deadline = NEVER
        # Mostly a method of who owns the timer. Such a circle for each request makes work for the garbage collector: a
        # twentieth of the CPU of an exchange through the collective.
        self.callback = _nothing
        self._cancel_handle()
        self._timers.forget(self)

    def _cancel_handle(self) -> None:
        if self._handle is not None:
            self._handle[1].cancel()
            self._handle = None

    def _check(self) -> None:
        self._handle = None
        if not self.precise:
            return  # disarmed, or armed for so long since that the tick will see to it
        clock = self._timers.clock
        left = self.deadline - clock.time()
        if left <= 0.001:
            self.deadline = NEVER
            self.callback()
        else:
            self._handle = (self.deadline, clock.call_later(left, self._check))


class Timers:
    """The timers of one event loop."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._due = clock.time() + TICK
        self.base = self._due + SLACK
        self._timers: set[Timer] = set()
        self._tick_handle: Any = None

    def timer(self, callback: Callable[[], None]) -> Timer:
        """A disarmed timer that will call `callback()`."""
        timer = Timer(self, callback)
        self._timers.add(timer)
        if self._tick_handle is None:
            self._schedule(self.clock.time())
        return timer

    def forget(self, timer: Timer) -> None:
        self._timers.discard(timer)
        if not self._timers and self._tick_handle is not None:
            self._tick_handle.cancel()
            self._tick_handle = None

    def __len__(self) -> int:
        return len(self._timers)

    def _schedule(self, now: float) -> None:
        self._due = now + TICK
        self.base = self._due + SLACK
        self._tick_handle = self.clock.call_later(TICK, self._tick)

    def _tick(self) -> None:
        now = self.clock.time()
        late = now - self._due
        self._schedule(now)
        if late > SLACK:
            for timer in self._timers:
                if not timer.precise:
                    timer.deadline += late
            if late > TICK:
                return  # the sockets come first: what is due may have been answered
        for timer in [timer for timer in self._timers if timer.deadline <= now]:
            if timer.deadline <= now:
                timer.deadline = NEVER
                timer.callback()

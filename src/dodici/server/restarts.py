"""When a worker that has crashed is started again. No clock, no tasks: whoever asks says what time it is.

A worker that crashes once is started again at once; one that goes on crashing waits longer each time. A service whose
workers crash `limit` times within `window` seconds has failed: nothing is gained by starting it as fast as it falls.
It is tried again at long intervals, since what it lacks (a database, a file) may come back, and by every reload.
"""

from __future__ import annotations

from collections import deque
from typing import Final

FIRST_DELAY: Final = 0.1
"""Seconds before the second start within a window; doubled with each one."""
LONGEST_DELAY: Final = 10.0
SLOW_RETRY: Final = 30.0
"""Seconds between the starts of a service that has failed."""


class Restarts:
    """The crashes of one service."""

    def __init__(self, limit: int, window: float) -> None:
        self._limit = limit
        self._window = window
        self._crashes: deque[float] = deque(maxlen=limit)
        self.failed = False
        """Whether it crashed so often that it is only retried slowly."""

    def crashed(self, now: float) -> float:
        """Note a crash. Returns the seconds to wait before the next start."""
        while self._crashes and now - self._crashes[0] >= self._window:
            self._crashes.popleft()
        self._crashes.append(now)
        if self.failed or len(self._crashes) >= self._limit:
            self.failed = True
            return SLOW_RETRY
        before = len(self._crashes) - 1
        return 0.0 if before == 0 else min(FIRST_DELAY * 2.0 ** (before - 1), LONGEST_DELAY)

    def steady(self, now: float) -> bool:
        """Note that all workers run. Returns whether that ends a failure: none has crashed for a window."""
        if self.failed and (not self._crashes or now - self._crashes[-1] >= self._window):
            self.forget()
            return True
        return False

    def forget(self) -> None:
        """Begin anew: somebody has changed something."""
        self._crashes.clear()
        self.failed = False

"""How long to wait before the next try."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Doubles from `initial` to `cap` seconds. A wait is half to all of that: many that fail together spread."""

    def __init__(
        self, initial: float = 0.1, cap: float = 2.0, *, chance: Callable[[], float] = random.random
    ) -> None:
        self._initial = initial
        self._cap = cap
        self._chance = chance
        self._next = initial

    def reset(self) -> None:
        """It worked: begin again."""
        self._next = self._initial

    def next(self) -> float:
        """Seconds to wait now."""
        wait = self._next
        self._next = min(self._cap, wait * 2)
        return wait * (0.5 + self._chance() / 2)

"""How long to wait before dialling a lost peer again."""

from __future__ import annotations

import random

from ..policies import Reconnect


class Backoff:
    """The waits of one peer.

    Args:
        policy: see `Reconnect`.
        rng: the source of jitter; seeded, the waits repeat.
    """

    def __init__(self, policy: Reconnect, rng: random.Random | None = None) -> None:
        self._policy = policy
        self._rng = rng or random.Random()  # noqa: S311 - no secret depends on it
        self._ceiling = policy.initial
        self._last = policy.initial
        self.failures = 0
        """How many waits there were since `reset()`."""

    def next(self) -> float:
        """Seconds to wait now. It has failed once more."""
        policy = self._policy
        self.failures += 1
        if policy.jitter == "decorrelated":
            self._last = min(policy.cap, self._rng.uniform(policy.initial, self._last * 3))
            return self._last
        wait = min(self._ceiling, policy.cap)
        self._ceiling = wait * 2
        return wait if policy.jitter == "none" else self._rng.uniform(0.0, wait)

    def reset(self) -> None:
        """It has succeeded: the next failure waits as little as the first."""
        self.failures = 0
        self._ceiling = self._last = self._policy.initial

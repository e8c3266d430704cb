"""A circuit breaker: a peer that does not answer is left alone, then tried with a few calls.

    closed --failures in a row--> open --open_for seconds--> half open --a probe is answered--> closed
                                    ^                            |
                                    +------a probe is not--------+

Only what says that the peer cannot be reached counts as a failure; any answer ends a row of them. A call is judged by
the state in which it began: what was sent before the breaker opened says nothing about the peer of now, so it neither
closes the breaker nor opens it again, and takes no probe's place. `started()` returns the mark by which `finished()`
knows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

from ..policies import Breaker
from .outcomes import Outcome

State = Literal["closed", "open", "half_open"]

_FORCED: Final = -1
"""The mark of a call that was sent although the breaker was open."""


class CircuitBreaker:
    """The breaker of one peer for one namespace.

    Args:
        policy: see `Breaker`.
        clock: seconds; never runs backwards.
    """

    __slots__ = ("_clock", "_failures", "_generation", "_policy", "_probes", "open_until")

    def __init__(self, policy: Breaker, clock: Callable[[], float]) -> None:
        self._policy = policy
        self._clock = clock
        self._failures = 0
        self._probes = 0
        self._generation = 0
        self.open_until: float | None = None
        """When it becomes, or became, half open, on the clock; None while it is closed."""

    @property
    def state(self) -> State:
        """``"closed"``, ``"open"`` or ``"half_open"``."""
        if self.open_until is None:
            return "closed"
        return "open" if self._clock() < self.open_until else "half_open"

    def allows(self) -> bool:
        """Whether a call may be sent now."""
        return self.open_until is None or (
            self._probes < self._policy.half_open and self._clock() >= self.open_until
        )

    def retry_after(self) -> float:
        """Seconds until a call may be sent. 0.0 for a half-open breaker: as soon as a probe has ended."""
        return 0.0 if self.open_until is None else max(0.0, self.open_until - self._clock())

    def started(self) -> int:
        """A call is sent. Returns its mark, for `finished()`."""
        if self.open_until is not None:
            if self._clock() < self.open_until:
                return _FORCED
            self._probes += 1
        return self._generation

    def finished(self, mark: int, outcome: Outcome) -> bool:
        """The call with that mark has ended. Returns whether that opened or closed the breaker."""
        if mark != self._generation:
            return False
        if outcome is Outcome.CANCELLED:
            if self.open_until is not None:
                self._probes -= 1
            return False
        if outcome is not Outcome.UNREACHABLE:
            self._failures = 0
            if self.open_until is None:
                return False
            self.reset()
            return True
        self._failures += 1
        if self.open_until is None and not 0 < self._policy.failures <= self._failures:
            return False
        self._turn(self._clock() + self._policy.open_for)
        return True

    def reset(self) -> None:
        """Close it: the peer is a new one, or has answered."""
        self._turn(None)

    def _turn(self, open_until: float | None) -> None:
        self.open_until = open_until
        self._generation += 1
        self._failures = 0
        self._probes = 0

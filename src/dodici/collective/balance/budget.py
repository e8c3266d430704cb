"""The retry budget: retries are a share of the calls, and a few beside them.

Two accounts, because one bucket of tokens could not keep both promises. The share is counted over the window, in
slots, and what is charged to a call goes when the call goes, so that no call pays twice. The few are a sliding second:
never more than `min_per_second` of them in any second, however long nothing was spent. So retries in T seconds are at
most `ratio` of the calls begun in them and in the window before, and `min_per_second` times T rounded up.

Failing over a call that was never sent is free, and is not asked for here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from ..policies import Budget

_SLOTS: Final = 10
_TOLERANCE: Final = 1e-9
"""Five calls at a ratio of 0.2 pay for one retry, whatever floating point says."""


class RetryBudget:
    """What is left for retries.

    Args:
        policy: see `Budget`.
        clock: seconds; never runs backwards.
    """

    def __init__(self, policy: Budget, clock: Callable[[], float]) -> None:
        self._policy = policy
        self._clock = clock
        self._width = policy.window / _SLOTS
        self._slot = int(clock() / self._width)
        self._calls_of: deque[int] = deque([0] * _SLOTS, _SLOTS)
        self._spent_of: deque[int] = deque([0] * _SLOTS, _SLOTS)
        self._calls = 0
        self._spent = 0
        # Below one a second, one in so many seconds.
        few = max(1, int(policy.min_per_second)) if policy.min_per_second else 0
        self._few: deque[float] = deque(maxlen=few)
        self._few_in = few / policy.min_per_second if few else 0.0

    def called(self) -> None:
        """A call is sent for the first time."""
        self._advance(self._clock())
        self._calls += 1
        self._calls_of[-1] += 1

    def spend(self) -> bool:
        """Whether a call may be repeated now. If so, it is charged."""
        now = self._clock()
        self._advance(now)
        if self._spent + 1 <= self._policy.ratio * self._calls + _TOLERANCE:
            self._spent += 1
            self._spent_of[-1] += 1
            return True
        few = self._few
        if few.maxlen and (len(few) < few.maxlen or now - few[0] >= self._few_in):
            few.append(now)
            return True
        return False

    @property
    def available(self) -> int:
        """How many retries `spend()` would allow at this moment."""
        now = self._clock()
        self._advance(now)
        share = max(0, int(self._policy.ratio * self._calls - self._spent + _TOLERANCE))
        return share + (self._few.maxlen or 0) - sum(now - then < self._few_in for then in self._few)

    def _advance(self, now: float) -> None:
        slot = int(now / self._width)
        if slot == self._slot:
            return
        for _ in range(min(slot - self._slot, _SLOTS)):
            self._calls -= self._calls_of[0]
            self._spent -= self._spent_of[0]
            self._calls_of.append(0)
            self._spent_of.append(0)
        self._slot = slot

"""A concurrency limit with a bounded queue. Nothing waits here: whoever has to wait holds a queued permit.

A permit is granted, queued or refused. `release()` gives a granted one back and hands its place to the oldest in the
queue, which it returns, so that the caller can wake whoever holds it; it takes a queued one out of the queue, which is
how waiting is given up. Releasing twice does nothing, so `finally: limiter.release(permit)` is always right.

Places are handed over, never freed in between: whoever comes while others wait cannot get ahead of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, Literal

from ..policies import Limits

PermitState = Literal["granted", "queued", "refused", "released"]

_SHORTEST_PUSHBACK: Final = 0.05
_LONGEST_PUSHBACK: Final = 5.0
_NEWEST: Final = 0.1
"""What the latest call's duration counts in the average."""


class Permit:
    """The right to run a call, or a place in the queue for it."""

    __slots__ = ("_granted_at", "namespace", "state", "waiter")

    def __init__(self, state: PermitState, namespace: str) -> None:
        self.state: PermitState = state
        self.namespace = namespace
        self.waiter: Any = None
        """The caller's own: what wakes whoever waits."""
        self._granted_at = 0.0

    @property
    def granted(self) -> bool:
        """The call may run."""
        return self.state == "granted"


class Limiter:
    """Lets so many calls run, and so many wait.

    Args:
        limits: see `Limits`.
        clock: seconds; never runs backwards.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        # OrderedDict and not dict: taking the first of a dict scans what was taken out before it.
        self._queue: OrderedDict[Permit, None] = OrderedDict()
        self._usual = 0.0
        self._most = limits.per_namespace
        self._taken: dict[str, int] = {}
        """By namespace, if these have a limit: permits that are granted or queued."""
        self.in_flight = 0
        """Calls that run."""
        self.refused = 0
        """Calls that were refused, ever."""

    @property
    def queued(self) -> int:
        """Calls that wait."""
        return len(self._queue)

    def full(self, namespace: str = "") -> bool:
        """Whether a call of the namespace that came now would have to wait, or be refused."""
        return self.in_flight >= self._limits.in_flight or self._over(namespace)

    def _over(self, namespace: str) -> bool:
        return self._most is not None and self._taken.get(namespace, 0) >= self._most

    def acquire(self, namespace: str = "") -> Permit:
        """A permit for a call of the namespace: granted, queued or refused."""
        room = self.in_flight < self._limits.in_flight
        if self._over(namespace) or not (room or len(self._queue) < self._limits.queued):
            self.refused += 1
            return Permit("refused", namespace)
        if self._most is not None:
            self._taken[namespace] = self._taken.get(namespace, 0) + 1
        if room:
            self.in_flight += 1
            permit = Permit("granted", namespace)
            permit._granted_at = self._clock()
            return permit
        permit = Permit("queued", namespace)
        self._queue[permit] = None
        return permit

    def beyond(self, namespace: str = "") -> Permit:
        """A permit whatever the limits: for what goes on after a call whose own permit is about to be given back."""
        if self._most is not None:
            self._taken[namespace] = self._taken.get(namespace, 0) + 1
        self.in_flight += 1
        permit = Permit("granted", namespace)
        permit._granted_at = self._clock()
        return permit

    def release(self, permit: Permit) -> Permit | None:
        """Give a permit back. Returns the queued one that is granted in its place, whose holder is to be woken."""
        state, permit.state = permit.state, "released"
        if self._most is not None and state in {"granted", "queued"}:
            self._taken[permit.namespace] -= 1
            if not self._taken[permit.namespace]:
                del self._taken[permit.namespace]
        if state == "queued":
            del self._queue[permit]
            return None
        if state != "granted":
            return None
        now = self._clock()
        took = now - permit._granted_at
        self._usual = took if not self._usual else self._usual + (took - self._usual) * _NEWEST
        if not self._queue:
            self.in_flight -= 1
            return None
        following, _ = self._queue.popitem(last=False)
        following.state = "granted"
        following._granted_at = now
        return following

    def pushback(self) -> float:
        """Seconds after which a refused call may find room: as long as the queue takes, from 0.05 to 5."""
        wait = self._usual * (len(self._queue) + 1) / self._limits.in_flight
        return min(max(wait, _SHORTEST_PUSHBACK), _LONGEST_PUSHBACK)

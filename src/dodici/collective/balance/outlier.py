"""Outlier ejection: a peer that fails call after call is taken out of rotation, longer each time.

An ejection ends by the clock alone. What an ejected peer answers meanwhile (calls that were under way, or that were
sent to it for want of others) changes nothing. The count of its ejections falls by one for each `sweep` seconds in
rotation. Never more than a share of the peers is out: if all of them fail, the fault is not theirs.

Source: gRPC proposal A50 (outlier detection), Envoy's `consecutive_5xx`.
"""

from __future__ import annotations

from collections.abc import Callable

from ..policies import Outlier
from .outcomes import Outcome

_SAYS_NOTHING = frozenset({Outcome.CANCELLED, Outcome.REJECTED, Outcome.BEHIND})


class _Record:
    __slots__ = ("ejected_until", "ejections", "failures")

    def __init__(self) -> None:
        self.failures = 0
        self.ejections = 0
        self.ejected_until = 0.0


class OutlierDetector:
    """Who is ejected, among the peers that it was told of.

    Args:
        policy: see `Outlier`.
        clock: seconds; never runs backwards.
    """

    def __init__(self, policy: Outlier, clock: Callable[[], float]) -> None:
        self._policy = policy
        self._clock = clock
        self._records: dict[str, _Record] = {}

    def add(self, peer: str) -> None:
        """A peer has joined, or come back: it is in rotation. Its earlier ejections are remembered if it is known."""
        record = self._records.setdefault(peer, _Record())
        record.failures = 0
        record.ejected_until = min(record.ejected_until, self._clock())

    def remove(self, peer: str) -> None:
        """A peer has gone for good."""
        self._records.pop(peer, None)

    def finished(self, peer: str, outcome: Outcome) -> bool:
        """A call to a peer has ended. Returns whether that ejected the peer."""
        record = self._records.get(peer)
        if record is None or outcome in _SAYS_NOTHING:
            return False
        if outcome is Outcome.SUCCESS:
            record.failures = 0
            return False
        now = self._clock()
        if now < record.ejected_until:
            return False
        record.failures += 1
        if record.failures < self._policy.consecutive or not self._room(now):
            return False
        forgiven = int((now - record.ejected_until) / self._policy.sweep)
        record.ejections = max(0, record.ejections - forgiven) + 1
        record.ejected_until = now + min(self._policy.base * record.ejections, self._policy.cap)
        record.failures = 0
        return True

    def ejected_until(self, peer: str) -> float:
        """When the peer's last ejection ends, or ended, on the clock."""
        record = self._records.get(peer)
        return 0.0 if record is None else record.ejected_until

    def is_ejected(self, peer: str) -> bool:
        """Whether the peer is out of rotation now."""
        return self._clock() < self.ejected_until(peer)

    def _room(self, now: float) -> bool:
        out = sum(now < record.ejected_until for record in self._records.values())
        return out + 1 <= self._policy.max_ejected * len(self._records)

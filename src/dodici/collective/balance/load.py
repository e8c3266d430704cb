"""What a picker knows of a peer: how much it is doing, how fast it was, and how much it should be given.

Latency is a peak-sensitive moving average: one slow answer counts at once, and is forgotten over `decay` seconds. It
decays also while nobody asks, so that a peer that was slow is tried again. A failure counts as an answer that took
`failure_penalty` seconds, or a peer that fails fast would look like the best one.

Source: Finagle's `PeakEwma`, Linkerd's load biaser.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp
from typing import Final

from ..policies import Breaker
from .breaker import CircuitBreaker

FLOOR: Final = 1e-5
"""Seconds: the shortest latency that is told from none. Below it only the number of running calls counts."""
_REJECTED: Final = 0.5
_LEAST_SHARE: Final = 0.05
_WHOLE: Final = 0.99


class PeerLoad:
    """One peer, for all namespaces."""

    __slots__ = ("cost", "epoch", "gone", "in_flight", "joined", "lanes", "stamp")

    def __init__(self, cost: float, now: float) -> None:
        self.in_flight = 0
        self.cost = cost
        """Seconds: the average at `stamp`."""
        self.stamp = now
        self.joined = now
        """When it joined or came back."""
        self.gone = False
        self.epoch = 0
        """How often it came back: how calls from before are told from those since."""
        self.lanes: dict[str, Lane] = {}

    def observe(self, seconds: float, now: float, decay: float) -> None:
        """An answer took so long."""
        kept = exp((self.stamp - now) / decay)
        cost = self.cost * kept
        self.cost = seconds if seconds > cost else cost + seconds * (1.0 - kept)
        self.stamp = now

    def restart(self, seconds: float, now: float) -> None:
        """Forget what was before: it is taken to need so long."""
        self.cost, self.stamp = seconds, now

    def latency(self, now: float, decay: float) -> float:
        """What an answer is expected to take, in seconds."""
        return max(FLOOR, self.cost * exp((self.stamp - now) / decay))


class Lane:
    """One peer, for one namespace."""

    __slots__ = ("_recovery", "_rejected_at", "_share", "breaker")

    def __init__(self, policy: Breaker, clock: Callable[[], float], recovery: float) -> None:
        self.breaker = CircuitBreaker(policy, clock)
        self._recovery = recovery
        self._share = 1.0
        self._rejected_at = 0.0

    def share(self, now: float) -> float:
        """The share of its weight that it is given: less after it has rejected calls, and more again with time."""
        if self._share == 1.0:
            return 1.0
        share = 1.0 - (1.0 - self._share) * exp((self._rejected_at - now) / self._recovery)
        if share > _WHOLE:
            self._share = share = 1.0
        return share

    def rejected(self, now: float) -> bool:
        """It has rejected a call. Returns whether it had its whole share before."""
        before = self.share(now)
        self._share = max(_LEAST_SHARE, before * _REJECTED)
        self._rejected_at = now
        return before == 1.0

    def reset(self) -> None:
        """The peer is a new one."""
        self.breaker.reset()
        self._share = 1.0

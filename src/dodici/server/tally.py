"""What the gateway counts, by service."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Final

BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds, in seconds, of the durations that are told apart."""


@dataclass(slots=True)
class Tally:
    """The figures of one service. Durations are from the request's head to the response's last byte, in seconds."""

    running: int = 0
    websockets: int = 0
    seconds: float = 0.0
    statuses: dict[int, int] = field(default_factory=dict)
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))

    @property
    def requests(self) -> int:
        """How many have ended."""
        return sum(self.statuses.values())

    def add(self, status: int, seconds: float) -> None:
        """Count a request that has ended. A client that went away before its answer counts as 499."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.seconds += seconds
        self.buckets[bisect_left(BUCKETS, seconds)] += 1

"""`RoundRobinPool`: every connection in turn."""

from __future__ import annotations

from .client import Client
from .pool import Pool


class RoundRobinPool(Pool):
    """A `Pool` that rotates over its connections instead of preferring the last one used.

    It makes a new connection only when all are busy. For servers behind a balancer that spreads connections,
    not requests.
    """

    def _choose(self) -> Client:
        return self._free.popleft()

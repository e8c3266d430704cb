"""The attempts of one call: whether there is another, and after how long.

    never sent                     at once, to another peer, free; the caller gives each peer one chance
    sent, method not idempotent    no: it may have been run
    sent, status not in `on`       no: it was answered
    server says "do not retry"     no (`grpc-retry-pushback-ms` negative or not a number)
    else                           while attempts and budget last

Source: gRPC proposal A6 (client retries), pushback included.
"""

from __future__ import annotations

import random

from ...core.grpc_status import GrpcStatus
from ..policies import Retry
from .budget import RetryBudget

NEVER = -1.0
"""What `parse_pushback` gives for "do not retry"."""


class Attempts:
    """The attempts of one call. That the call was made is counted in the budget by whoever sends it.

    Args:
        policy: see `Retry`.
        budget: shared by all calls of the collector.
        idempotent: whether the method is declared so.
        entry: False for a call that came from another collector: it retries, and this one does not.
        rng: the source of jitter.
    """

    __slots__ = ("_budget", "_policy", "_rng", "_safe", "sent")

    def __init__(
        self,
        policy: Retry,
        budget: RetryBudget,
        *,
        idempotent: bool,
        entry: bool = True,
        rng: random.Random | None = None,
    ) -> None:
        self._policy = policy
        self._budget = budget
        self._safe = idempotent and entry
        self._rng = rng
        self.sent = 0
        """How often it was sent."""

    def failed(self, status: GrpcStatus, *, sent: bool, pushback: float | None = None) -> float | None:
        """An attempt has failed.

        Args:
            status: with what.
            sent: whether the peer can have seen any of it.
            pushback: what `parse_pushback` made of the server's wish, if it had one.

        Returns:
            Seconds to wait before the next attempt; None if there is none.
        """
        if not sent:
            return 0.0
        self.sent += 1
        policy = self._policy
        if not self._safe or self.sent >= policy.attempts or status not in policy.on:
            return None
        if pushback is not None and pushback < 0:
            return None
        if not self._budget.spend():
            return None
        if pushback is not None:
            return pushback
        uniform = random.uniform if self._rng is None else self._rng.uniform
        # Attempts beyond the thirtieth wait for the cap anyway, and a float has no 2.0 ** 1024.
        return uniform(0.0, min(policy.cap, policy.initial * 2.0 ** min(self.sent - 1, 30)))


def parse_pushback(value: str | None) -> float | None:
    """Seconds of a `grpc-retry-pushback-ms` trailer; None without one, `NEVER` if it forbids a retry.

    What is not a number forbids one, too. Source: gRPC proposal A6, "Pushback".
    """
    if value is None:
        return None
    text = value.strip()
    if not (text.isascii() and text.isdigit()) or len(text) > 10:
        return NEVER
    return int(text) / 1000

"""How one of the candidates is chosen.

    p2c             the better of two drawn at random: expected latency x (calls running there + 1)
    least_request   the same, by calls running alone
    round_robin     in turn
    weighted        in turn, as often as the weight says
    hash            by a key, always the same one while it is there

**Two choices with weights.** Drawing two and taking the better would give a peer of a quarter's weight next to
nothing, or half. So the first is drawn by weight, the second evenly, and the second is let into the comparison with
probability min(1, its weight / the first one's). That balances the flow between each two of them (it is Metropolis'
rule): where neither is better, each is chosen exactly as often as its weight says, and where all weigh the same nothing
is ever left out. Running calls are compared in relation to weight, too.

**Turns** are kept as a queue ordered by when each is due (earliest deadline first): one of weight w is due again 1/w
later, so that shares are exact and smooth. Who comes back after an absence is due now, and not for what it missed.

**The ring** holds 128 points for each unit of weight. Its hash is keyed by nothing and the same in every process, so
all collectors agree. When a peer goes, its keys alone move; when it comes back, they return.

A pick costs O(log n) at most, and without weights O(1). Only where most of the candidates are excluded, or wait for a
probe to end, all of them are looked at.
"""

from __future__ import annotations

import random
from bisect import bisect, bisect_left
from collections.abc import Collection
from hashlib import blake2b
from heapq import heapify, heappop, heappush, heapreplace
from itertools import accumulate
from math import exp
from typing import ClassVar, Final

from .candidates import Candidate, Candidates
from .load import FLOOR

_POINTS: Final = 128
_MOST_POINTS: Final = 1024
_TRIES: Final = 8
"""Draws before all are looked at; with fewer candidates than that, looking is as cheap."""


class Strategy:
    """Chooses among the candidates of one route."""

    by_weight: ClassVar[bool] = True
    """Whether announced weights count. Slow start and rejections count in all but the ring, whose keys they would
    move."""

    def __init__(self, group: Candidates, rng: random.Random, decay: float) -> None:
        self._group = group
        self._rng = rng
        self._decay = decay

    def pick(self, now: float, excluded: Collection[str], key: str | bytes | None) -> Candidate | None:
        """One of `group.live` that is not excluded and whose breaker allows it; None if there is none."""
        raise NotImplementedError


class PowerOfTwo(Strategy):
    """The better of two drawn at random, by peak-sensitive latency and running calls."""

    def pick(self, now: float, excluded: Collection[str], key: str | bytes | None) -> Candidate | None:
        live = self._group.live
        weights = self._group.cumulative
        count = len(live)
        if excluded or self._group.probing:
            if count > _TRIES:
                pair = self._draw_allowed(excluded)
                if pair is not None:
                    return self._better(*pair, now)
            live = [c for c in live if c.peer not in excluded and c.lane.breaker.allows()]
            count = len(live)
            if weights is not None:
                weights = list(accumulate(c.effective for c in live))
        if count < 2:
            return live[0] if count else None
        draw = self._rng.random
        if weights is None:
            index = int(draw() * count)
        else:
            index = min(bisect(weights, draw() * weights[-1]), count - 1)
        other = int(draw() * (count - 1))
        if other >= index:
            other += 1
        return self._better(live[index], live[other], now)

    def _draw_allowed(self, excluded: Collection[str]) -> tuple[Candidate, Candidate] | None:
        """Two that may be chosen, drawn until they may be; None if that takes too long."""
        live = self._group.live
        weights = self._group.cumulative
        draw = self._rng.random
        first = None
        for _ in range(2 * _TRIES):
            if first is None and weights is not None:
                drawn = live[min(bisect(weights, draw() * weights[-1]), len(live) - 1)]
            else:
                drawn = live[int(draw() * len(live))]
            if drawn is first or drawn.peer in excluded or not drawn.lane.breaker.allows():
                continue
            if first is not None:
                return first, drawn
            first = drawn
        return None

    def _better(self, first: Candidate, second: Candidate, now: float) -> Candidate:
        if self._group.probing:
            # Its last calls have failed, so that by its score it would not be tried for long.
            for candidate in (first, second):
                if candidate.lane.breaker.open_until is not None:
                    return candidate
        weight, other = first.effective, second.effective
        if other < weight and self._rng.random() * weight >= other:
            return first
        return second if self._score(second, now) < self._score(first, now) else first

    def _score(self, candidate: Candidate, now: float) -> float:
        load = candidate.load
        latency = load.cost * exp((load.stamp - now) / self._decay)
        if latency < FLOOR:  # noqa: PLR1730 - max() would take 0.1 us more, twice in a pick of 1.2
            latency = FLOOR
        return latency * (load.in_flight / candidate.effective + 1.0)


class LeastRequest(PowerOfTwo):
    """The better of two drawn at random, by running calls."""

    def _score(self, candidate: Candidate, now: float) -> float:
        return candidate.load.in_flight / candidate.effective


class Weighted(Strategy):
    """In turn, as often as the weight says."""

    def __init__(self, group: Candidates, rng: random.Random, decay: float) -> None:
        super().__init__(group, rng, decay)
        self._queue: list[tuple[float, int, Candidate]] = []
        self._now = 0.0
        self._built = -1

    def pick(self, now: float, excluded: Collection[str], key: str | bytes | None) -> Candidate | None:
        if self._built != self._group.refreshed:
            self._rebuild()
        queue = self._queue
        if not queue:
            return None
        due, order, candidate = queue[0]
        if not (excluded or self._group.probing):
            self._now = max(self._now, due)
            candidate.turn = due + 1.0 / candidate.effective
            heapreplace(queue, (candidate.turn, order, candidate))
            return candidate
        passed = []
        chosen = None
        while queue:
            due, order, candidate = queue[0]
            if candidate.peer not in excluded and candidate.lane.breaker.allows():
                chosen = candidate
                # Those passed over are due before it, and time does not go back for them.
                self._now = max(self._now, due)
                candidate.turn = due + 1.0 / candidate.effective
                heapreplace(queue, (candidate.turn, order, candidate))
                break
            passed.append(heappop(queue))
        for entry in passed:
            heappush(queue, entry)
        return chosen

    def _rebuild(self) -> None:
        queue = []
        for candidate in self._group.live:
            if candidate.turn is None:
                # At random, or collectors that start together would all begin with the same peer.
                candidate.turn = self._now + self._rng.random() / candidate.effective
            candidate.turn = max(candidate.turn, self._now)
            queue.append((candidate.turn, candidate.order, candidate))
        heapify(queue)
        self._queue = queue
        self._built = self._group.refreshed


class RoundRobin(Weighted):
    """In turn."""

    by_weight = False


class HashRing(Strategy):
    """By key. A call without a key goes by `PowerOfTwo`."""

    def __init__(self, group: Candidates, rng: random.Random, decay: float) -> None:
        super().__init__(group, rng, decay)
        self._keyless = PowerOfTwo(group, rng, decay)
        self._points: list[int] = []
        self._owners: list[Candidate] = []
        self._built = -1

    def pick(self, now: float, excluded: Collection[str], key: str | bytes | None) -> Candidate | None:
        if key is None:
            return self._keyless.pick(now, excluded, key)
        if not self._group.live:
            return None
        if self._built != self._group.members:
            self._rebuild()
        owners = self._owners
        start = bisect_left(self._points, _hash(key))
        refused: set[int] = set()
        for step in range(len(owners)):
            candidate = owners[(start + step) % len(owners)]
            if not candidate.alive or candidate.order in refused:
                continue
            if candidate.peer not in excluded and candidate.lane.breaker.allows():
                return candidate
            refused.add(candidate.order)
            if len(refused) == len(self._group.live):
                return None
        return None

    def _rebuild(self) -> None:
        ring = [
            (point, candidate.peer, candidate)
            for candidate in self._group
            if candidate.weight > 0
            for point in _points(candidate.peer, candidate.weight)
        ]
        ring.sort(key=lambda entry: entry[:2])
        self._points = [point for point, _, _ in ring]
        self._owners = [candidate for _, _, candidate in ring]
        self._built = self._group.members


def _hash(key: str | bytes) -> int:
    data = key if isinstance(key, bytes) else key.encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(data, digest_size=8).digest())


def _points(peer: str, weight: float) -> list[int]:
    """A peer's points. A lighter one has the first of a heavier one's, so that a change of weight moves few keys."""
    count = min(max(1, round(_POINTS * weight)), _MOST_POINTS)
    name = peer.encode("utf-8", "surrogatepass")
    points: list[int] = []
    while len(points) < count:
        digest = blake2b(b"%d\0%b" % (len(points), name), digest_size=64).digest()
        points.extend(int.from_bytes(digest[at : at + 8]) for at in range(0, 64, 8))
    return points[:count]


STRATEGIES: Final[dict[str, type[Strategy]]] = {
    "p2c": PowerOfTwo,
    "round_robin": RoundRobin,
    "least_request": LeastRequest,
    "weighted": Weighted,
    "hash": HashRing,
}

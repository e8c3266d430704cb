"""The peers that can serve a route, and those of them that may be chosen now.

A router makes one `Candidates` for each route and keeps it: who may be chosen is worked out when something has
changed, and not for each pick. Something changes

    at a known time     an ejection or an open breaker ends, a share grows (looked at every 0.1 s): `until`
    by an event         a breaker turns, a peer is ejected, joins, leaves: the picker's `version`

so that a pick costs two comparisons, and then the same for three peers as for three hundred.

**Panic.** Ejection is a suspicion drawn from statistics. When it and the breakers leave less than `panic_below` of the
peers, those that are left would be flooded, and the suspicion is more likely to be about the calls: ejections are
ignored. A breaker is no suspicion, since its peer does not answer, so it is obeyed even then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from ...core.errors import InvalidArgumentError

if TYPE_CHECKING:
    from .load import Lane, PeerLoad
    from .picker import Picker
    from .strategies import Strategy

_REFRESH: Final = 0.1
"""Seconds between two looks at shares that grow."""
_LIGHTEST: Final = 1e-3
"""The least weight in relation to the heaviest: what is asked once in a thousand times is still known."""
_MAX_WEIGHT: Final = 1e6


class Candidate:
    """A peer that can serve a route."""

    __slots__ = ("alive", "effective", "lane", "load", "order", "peer", "turn", "weight")

    def __init__(self, peer: str, weight: float, load: PeerLoad, lane: Lane, order: int) -> None:
        self.peer = peer
        """Id of the collector."""
        self.weight = weight
        """Its announced weight times the share of it that accepts; 0 is never chosen."""
        self.load = load
        self.lane = lane
        self.order = order
        self.effective = 1.0
        """Its weight with slow start and rejections, in relation to the heaviest: above 0, at most 1."""
        self.alive = True
        self.turn: float | None = None
        """When it is due, in the strategies that take turns."""

    def __repr__(self) -> str:
        return f"<Candidate {self.peer!r} weight={self.weight:g}>"


class Candidates:
    """The peers that can serve a route. Made by `Picker.candidates()`."""

    def __init__(self, picker: Picker, namespace: str, peers: Mapping[str, float] | Iterable[str]) -> None:
        self.namespace = namespace
        self.live: list[Candidate] = []
        """Those that may be chosen now, as far as ejections and open breakers go."""
        self.cumulative: list[float] | None = None
        """Running sums of their effective weights; None if these are all the same."""
        self.probing = False
        """Whether a breaker among them is half open, so that each has to be asked."""
        self.panicking = False
        self.until = 0.0
        self.version = -1
        self.members = 0
        """Counts the changes of who is a member, with which weight."""
        self.refreshed = 0
        """Counts the changes of `live` and of effective weights."""
        self._picker = picker
        self._all: dict[str, Candidate] = {}
        self._orders = 0
        self.strategy: Strategy = picker._strategy(self)
        self.update(peers)

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self._all.values())

    def get(self, peer: str) -> Candidate | None:
        """The candidate of that id."""
        return self._all.get(peer)

    def update(self, peers: Mapping[str, float] | Iterable[str]) -> None:
        """The route has changed: these peers can serve it. Those that stay keep their turns.

        Args:
            peers: ids, or weights (0 to 1,000,000) by id.

        Raises:
            InvalidArgumentError: a bad weight.
        """
        weights: dict[str, float] = dict(peers) if isinstance(peers, Mapping) else dict.fromkeys(peers, 1.0)
        for peer, weight in weights.items():
            _check(peer, weight)
        everyone = {}
        for peer, weight in weights.items():
            load, lane = self._picker._known(peer, self.namespace)
            candidate = self._all.get(peer)
            if candidate is None or candidate.load is not load or candidate.lane is not lane:
                self._orders += 1
                candidate = Candidate(peer, weight, load, lane, self._orders)
            candidate.weight = weight
            everyone[peer] = candidate
        self._all = everyone
        self.members += 1
        self.version = -1

    def refresh(self, now: float) -> None:
        """Work out who may be chosen now."""
        picker = self._picker
        until = float("inf")
        self.probing = False
        present = reachable = 0
        allowed: list[Candidate] = []
        healthy: list[Candidate] = []
        for candidate in self._all.values():
            candidate.alive = False
            if candidate.weight <= 0 or candidate.load.gone:
                continue
            present += 1
            opens = candidate.lane.breaker.open_until
            if opens is not None:
                if now < opens:
                    until = min(until, opens)
                    continue
                self.probing = True
            reachable += 1
            allowed.append(candidate)
            ejected = picker.outliers.ejected_until(candidate.peer)
            if now < ejected:
                until = min(until, ejected)
            else:
                healthy.append(candidate)
        self.panicking = reachable > len(healthy) and (
            not healthy or len(healthy) < picker.panic_below * present
        )
        self.live = allowed if self.panicking else healthy
        if self._weigh(now):
            until = min(until, now + _REFRESH)
        self.until = until
        self.version = picker.version
        self.refreshed += 1

    def _weigh(self, now: float) -> bool:
        """Work out effective weights. Returns whether any of them will grow."""
        growing = False
        heaviest = 0.0
        by_weight = self.strategy.by_weight
        for candidate in self.live:
            candidate.alive = True
            share = self._picker._ramp(candidate.load, now) * candidate.lane.share(now)
            growing |= share < 1.0
            # Not so light that the product is 0.
            candidate.effective = share * max(candidate.weight, 1e-9) if by_weight else share
            heaviest = max(heaviest, candidate.effective)
        flat = True
        for candidate in self.live:
            candidate.effective = max(_LIGHTEST, candidate.effective / heaviest)
            flat &= candidate.effective == 1.0
        self.cumulative = None if flat else list(accumulate(c.effective for c in self.live))
        return growing


def _check(peer: Any, weight: Any) -> None:
    if not isinstance(peer, str):
        raise InvalidArgumentError(f"a peer is named by its id, a str, not {peer!r}")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= _MAX_WEIGHT:
        raise InvalidArgumentError(
            f"the weight of {peer!r} must be a number from 0 to {_MAX_WEIGHT:,.0f}, not {weight!r}"
        )

"""Chooses the peer for a call, and learns from how the call ends.

    group = picker.candidates("orders", {"b": 1.0, "c": 0.25})     once for each route; group.update() on changes
    candidate = picker.pick(group, excluded=already_tried)         None: nobody now; picker.retry_after(group)
    ticket = picker.started(candidate)                             at once: nothing may be awaited in between
    picker.answered(ticket, seconds)                               streams: the first message is there
    picker.finished(ticket, outcome, seconds)                      always, once; more often does no harm

Who owns what: a peer's running calls and latency are its `PeerLoad`, one for all routes; its breaker and what it has
rejected are a `Lane` for each namespace; turns and rings belong to the route's `Candidates`. All of it goes with
`left()`. A ticket keeps to the peer as it was: if that has left or joined anew since, the ticket's end says nothing
about the one that is there now.

Sans-IO: the clock and the source of randomness are given. Not for several threads.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from ...core.errors import InvalidArgumentError
from ...core.options import check_seconds
from ..policies import Breaker, Outlier, SlowStart
from .breaker import State
from .candidates import Candidate, Candidates
from .load import Lane, PeerLoad
from .outcomes import Outcome
from .outlier import OutlierDetector
from .strategies import STRATEGIES, Strategy

_FIRST_GUESS: Final = 0.001
"""Seconds: what the first peers are taken to need, until one has answered."""
_NEWEST: Final = 0.05


class Ticket:
    """A call that runs at a peer."""

    __slots__ = ("_done", "_epoch", "_judged", "_mark", "candidate")

    def __init__(self, candidate: Candidate, mark: int) -> None:
        self.candidate = candidate
        self._epoch = candidate.load.epoch
        self._mark = mark
        self._judged = False
        self._done = False


@dataclass(frozen=True, slots=True)
class PeerFigures:
    """What a picker knows of a peer.

    Attributes:
        in_flight: calls that run there.
        latency: seconds that an answer is expected to take.
        ejected_for: seconds until it is back in rotation; 0.0 if it is.
        breakers: states of its breakers, by namespace.
    """

    in_flight: int
    latency: float
    ejected_for: float
    breakers: Mapping[str, State]


class Picker:
    """Chooses peers. Implements `contracts.Balancer`.

    Args:
        balance: ``"p2c"``, ``"round_robin"``, ``"least_request"``, ``"weighted"`` or ``"hash"``.
        breaker: see `Breaker`.
        outlier: see `Outlier`.
        slow_start: see `SlowStart`.
        failure_penalty: seconds that a failure counts as having taken.
        decay: seconds in which all but 37 % of a latency, or of what was taken for rejections, is forgotten.
        per_peer: calls that a peer may have at a time; None: any number.
        panic_below: when less than this share of a route's peers may be chosen, ejections are ignored.
        clock: seconds; never runs backwards.
        rng: the source of randomness; seeded, the picks repeat.

    Raises:
        InvalidArgumentError: a bad value.
    """

    def __init__(
        self,
        balance: str = "p2c",
        *,
        breaker: Breaker | None = None,
        outlier: Outlier | None = None,
        slow_start: SlowStart | None = None,
        failure_penalty: float = 5.0,
        decay: float = 5.0,
        panic_below: float = 0.5,
        per_peer: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        if balance not in STRATEGIES:
            raise InvalidArgumentError(f"balance must be one of {', '.join(STRATEGIES)}, not {balance!r}")
        if check_seconds("decay", decay) == 0:
            raise InvalidArgumentError("decay must be more than 0 seconds")
        if check_seconds("panic_below", panic_below) > 1:
            raise InvalidArgumentError(f"panic_below must be a share from 0 to 1, not {panic_below!r}")
        self.balance = balance
        self.panic_below = panic_below
        self.outliers = OutlierDetector(outlier or Outlier(), clock)
        self.version = 0
        """Counts what changes who may be chosen."""
        self._breaker = breaker or Breaker()
        self._slow_start = slow_start or SlowStart()
        self._penalty = check_seconds("failure_penalty", failure_penalty)
        self._decay = float(decay)
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - no secret depends on it
        self._loads: dict[str, PeerLoad] = {}
        self._per_peer = per_peer
        self.full: set[str] = set()
        """The peers that have as many calls as they may."""
        self.usual = _FIRST_GUESS
        """Seconds that an answer takes, over all peers: what is assumed of one that is not known."""

    # -- who there is --------------------------------------------------------------------------------------

    def joined(self, peer: str) -> None:
        """A peer has connected, or is back: its breakers are closed, and its share grows from `SlowStart.floor`."""
        now = self._clock()
        load = self._loads.get(peer)
        if load is None:
            load = self._loads[peer] = PeerLoad(self.usual, now)
        else:
            load.restart(self.usual, now)
            load.joined = now
            load.epoch += 1
            for lane in load.lanes.values():
                lane.reset()
        self.outliers.add(peer)
        self.version += 1

    def left(self, peer: str, namespace: str | None = None) -> None:
        """A peer is gone for good, or no longer shares a namespace: what was known of that is forgotten.

        Routes are updated by their owner: one that still names the peer makes it known again with its next
        `update()`.
        """
        if namespace is not None:
            load = self._loads.get(peer)
            if load is not None:
                load.lanes.pop(namespace, None)
            return
        load = self._loads.pop(peer, None)
        if load is not None:
            load.gone = True
            self.full.discard(peer)
            self.outliers.remove(peer)
            self.version += 1

    def candidates(self, namespace: str, peers: Mapping[str, float] | Iterable[str]) -> Candidates:
        """The peers that can serve a route, to pick from; to be kept while the route lasts.

        Args:
            namespace: that of the route. A peer has one breaker for each.
            peers: ids, or weights (announced weight times accepting share, 0 to 1,000,000) by id. One that has
                not joined yet joins.

        Raises:
            InvalidArgumentError: a bad weight.
        """
        return Candidates(self, namespace, peers)

    # -- calls ---------------------------------------------------------------------------------------------

    def pick(
        self, candidates: Candidates, *, excluded: Collection[str] = (), key: str | bytes | None = None
    ) -> Candidate | None:
        """The peer for a call, or None if none may be chosen now.

        Args:
            candidates: made by `candidates()`.
            excluded: ids of peers that it must not be, mostly because they were tried.
            key: what ``"hash"`` goes by; the others ignore it.
        """
        now = self._clock()
        if now >= candidates.until or candidates.version != self.version:
            candidates.refresh(now)
        if self.full:
            excluded = self.full.union(excluded)
        return candidates.strategy.pick(now, excluded, key)

    def retry_after(self, candidates: Candidates) -> float | None:
        """Seconds until a pick may succeed: 0.0 if one may now, None if waiting will not help."""
        waits = [
            candidate.lane.breaker.retry_after()
            for candidate in candidates
            if candidate.weight > 0 and not candidate.load.gone
        ]
        return min(waits, default=None)

    def started(self, peer: Candidate) -> Ticket:
        """A call is sent to what `pick()` has returned. Returns what `finished()` wants."""
        load = peer.load
        load.in_flight += 1
        if self._per_peer is not None and load.in_flight >= self._per_peer and not load.gone:
            self.full.add(peer.peer)
        return Ticket(peer, peer.lane.breaker.started())

    def answered(self, ticket: Ticket, seconds: float) -> None:
        """The first message of a stream has come, after so many seconds: the peer is well, however long it lasts."""
        if not ticket._done and not ticket._judged:
            ticket._judged = True
            self._judge(ticket, Outcome.SUCCESS, seconds)

    def finished(self, ticket: Ticket, outcome: Outcome, seconds: float) -> None:
        """A call has ended, after so many seconds."""
        if ticket._done:
            return
        ticket._done = True
        load = ticket.candidate.load
        load.in_flight -= 1
        if self.full and not load.gone and load.in_flight < (self._per_peer or 0):
            self.full.discard(ticket.candidate.peer)
        if not (ticket._judged and outcome is Outcome.SUCCESS):
            self._judge(ticket, outcome, seconds)

    def _judge(self, ticket: Ticket, outcome: Outcome, seconds: float) -> None:
        candidate = ticket.candidate
        load, lane = candidate.load, candidate.lane
        if load.gone or load.epoch != ticket._epoch:
            return
        changed = lane.breaker.finished(ticket._mark, outcome)
        if outcome is not Outcome.CANCELLED:
            now = self._clock()
            if outcome is Outcome.SUCCESS:
                if changed:
                    # A probe has closed the breaker: what the failures counted as having taken is over.
                    load.restart(seconds, now)
                load.observe(seconds, now, self._decay)
                self.usual += (seconds - self.usual) * _NEWEST
            elif outcome is Outcome.REJECTED:
                changed |= lane.rejected(now)
            else:
                load.observe(max(seconds, self._penalty), now, self._decay)
            changed |= self.outliers.finished(candidate.peer, outcome)
        if changed:
            self.version += 1

    # -- figures -------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, PeerFigures]:
        """What is known of each peer, by id."""
        now = self._clock()
        return {
            peer: PeerFigures(
                load.in_flight,
                load.latency(now, self._decay),
                max(0.0, self.outliers.ejected_until(peer) - now),
                {namespace: lane.breaker.state for namespace, lane in load.lanes.items()},
            )
            for peer, load in self._loads.items()
        }

    # -- for Candidates ------------------------------------------------------------------------------------

    def _strategy(self, group: Candidates) -> Strategy:
        return STRATEGIES[self.balance](group, self._rng, self._decay)

    def _known(self, peer: str, namespace: str) -> tuple[PeerLoad, Lane]:
        if peer not in self._loads:
            self.joined(peer)
        load = self._loads[peer]
        lane = load.lanes.get(namespace)
        if lane is None:
            lane = load.lanes[namespace] = Lane(self._breaker, self._clock, self._decay)
        return load, lane

    def _ramp(self, load: PeerLoad, now: float) -> float:
        window = self._slow_start.window
        age = now - load.joined
        if age >= window:
            return 1.0
        floor = self._slow_start.floor
        return floor + (1.0 - floor) * age / window

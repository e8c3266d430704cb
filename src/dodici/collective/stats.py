"""What a collector counts, and what its figures are.

`Figures` is told of each call when it ends, by whoever had it: the local executor of what was run here ("serve"),
the faces and `dispatch()` of what came into the collective here ("entry"), and of what was passed on for another
collector ("forward"). It keeps a `Tally` for each role and method, and the history. Summed up over a collective,
entries are the calls, and what was served beyond them are retries.

What others can make grow is bounded: a method that nobody has is counted under `UNKNOWN`, whatever it is called, and
so is what comes when there are too many methods; a tally knows so many peers by name.

Everything else in `CollectorStats` is read from its owner when it is asked for.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ..core.grpc_status import GrpcStatus
from .contracts import Call
from .errors import CollectiveError
from .history import KEPT, History, Role, record_of
from .names import CallKind, RouteKey

if TYPE_CHECKING:
    from ..wire.grpc.metadata import GrpcMetadata
    from .contracts import MemberRecord

BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds, in seconds, of the durations that are told apart."""
UNKNOWN: Final = RouteKey("(unknown)", "(unknown)", "(unknown)")
"""What is counted instead of methods that nobody has."""
OTHERS: Final = "(others)"
"""What is counted instead of peers that are too many."""
WINDOW: Final = 10
"""Seconds over which rates are taken."""
_MOST_METHODS: Final = 5000
_MOST_PEERS: Final = 256


@dataclass(slots=True, eq=False)
class Tally:
    """The calls of one method in one role. `codes` counts them by (peer, status)."""

    seconds: float = 0.0
    codes: dict[tuple[str, GrpcStatus], int] = field(default_factory=dict)
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    peers: set[str] = field(default_factory=set)

    def add(self, peer: str, status: GrpcStatus, seconds: float) -> None:
        """Count a call."""
        self.seconds += seconds
        self.buckets[bisect_left(BUCKETS, seconds)] += 1
        key = (peer, status)
        try:
            self.codes[key] += 1
        except KeyError:
            if peer not in self.peers:
                if len(self.peers) >= _MOST_PEERS:
                    key = (OTHERS, status)
                else:
                    self.peers.add(peer)
            self.codes[key] = self.codes.get(key, 0) + 1

    @property
    def calls(self) -> int:
        """All of them."""
        return sum(self.codes.values())

    @property
    def failures(self) -> int:
        """Those that did not end with OK."""
        return sum(count for (_, status), count in self.codes.items() if status is not GrpcStatus.OK)


class Figures:
    """Counts calls, and remembers the last ones. Implements `Recorder`.

    Args:
        collector_id: whose figures they are.
        serves: whether a method is one of this collector's.
        known: under which name somebody is known to have it: its own, or that of all methods of its service; None if
            nobody is.
        kept: how many records the history keeps.
        clock: seconds; never runs backwards.
    """

    def __init__(
        self,
        collector_id: str,
        serves: Callable[[RouteKey], bool],
        known: Callable[[RouteKey], RouteKey | None],
        *,
        kept: int = KEPT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.history = History(kept)
        self.tallies: dict[tuple[Role, RouteKey], Tally] = {}
        self.calls = 0
        """Calls that have ended, each once."""
        self.failures = 0
        self._id = collector_id
        self._serves = serves
        self._known = known
        self._clock = clock
        self._began = clock()
        self._slots = [0] * (WINDOW + 1)
        self._second = int(self._began)

    def ended(
        self,
        call: Call,
        role: Role,
        status: GrpcStatus,
        seconds: float,
        metadata: GrpcMetadata | None = None,
    ) -> None:
        """See `Recorder.ended`."""
        tally = self.tallies.get((role, call.key))
        if tally is None:
            tally = self._tally(role, call.key)
        served = role == "serve"
        tally.add((call.from_collector if served else call.via) or "", status, seconds)
        if not served or call.from_collector is not None:
            # What both came in and was run here is counted when it leaves.
            self.calls += 1
            if status is not GrpcStatus.OK:
                self.failures += 1
            self._slots[self._turn()] += 1
        self.history.note(record_of(call, role, status, time.time(), seconds))

    def passed(self, call: Call, status: GrpcStatus, started: float) -> None:
        """A call has left this collector, which it had entered at `started`, on the clock of `time.monotonic()`."""
        role: Role = "entry"
        if call.from_collector is not None:
            if call.handled_by == self._id:
                return  # whoever ran it has told
            role = "serve" if self._serves(call.key) else "forward"
        self.ended(call, role, status, time.monotonic() - started)

    def rate(self) -> float:
        """Calls a second that have ended, over the last ten seconds that are over."""
        now = self._turn()
        passed = min(float(WINDOW), max(1.0, self._clock() - self._began))
        return (sum(self._slots) - self._slots[now]) / passed

    def of_route(self, key: RouteKey) -> tuple[int, int]:
        """Calls and failures of a method, each call once."""
        calls = failures = 0
        for role in ("entry", "forward", "serve"):
            tally = self.tallies.get((role, key))
            if tally is None:
                continue
            for (peer, status), count in tally.codes.items():
                if role != "serve" or peer:
                    calls += count
                    failures += count * (status is not GrpcStatus.OK)
        return calls, failures

    def by_peer(self) -> dict[str, tuple[int, int]]:
        """Calls that were sent to each peer, and how many of them failed."""
        found: dict[str, tuple[int, int]] = {}
        for (role, _), tally in self.tallies.items():
            if role == "serve":
                continue
            for (peer, status), count in tally.codes.items():
                if peer:
                    calls, failures = found.get(peer, (0, 0))
                    found[peer] = calls + count, failures + count * (status is not GrpcStatus.OK)
        return found

    def _tally(self, role: Role, key: RouteKey) -> Tally:
        known = self._known(key)
        if known is None or len(self.tallies) >= _MOST_METHODS:
            known = UNKNOWN
        return self.tallies.setdefault((role, known), Tally())

    def _turn(self) -> int:
        now = int(self._clock())
        size = len(self._slots)
        if now == self._second:
            return now % size
        for second in range(max(self._second, now - size) + 1, now + 1):
            self._slots[second % size] = 0
        self._second = max(self._second, now)
        return self._second % size


class Passing:
    """A call while it is at this collector (`with`). Its end is counted, however it comes."""

    __slots__ = ("_call", "_figures", "_started")

    def __init__(self, figures: Figures, call: Call) -> None:
        self._figures = figures
        self._call = call
        self._started = time.monotonic()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._figures.passed(self._call, status_after(error), self._started)


def status_after(error: BaseException | None) -> GrpcStatus:
    """The status of a call that has ended with an exception, or without."""
    if error is None:
        return GrpcStatus.OK
    if isinstance(error, CollectiveError):
        return error.grpc_status
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return GrpcStatus.CANCELLED
    return GrpcStatus.INTERNAL


# -- figures as they are given out -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PeerStats:
    """Another collector, as this one sees it.

    Attributes:
        id: of that collector.
        address: where it is dialled.
        state: ``"connected"``, ``"draining"`` or ``"lost"``.
        linked: calls and announcements go over a link.
        namespaces: those whose calls may go there.
        in_flight: calls that run there for this collector.
        latency: seconds that an answer of it is expected to take.
        ejected_for: seconds until it is back in rotation; 0.0 if it is in it.
        breakers: ``"closed"``, ``"open"`` or ``"half_open"``, by namespace.
        calls: that ended there, of those that were sent.
        failures: of these.
        since: when it was connected, or lost; POSIX time.
        last_activity: when a call last went there; POSIX time, 0.0 for never.
    """

    id: str
    address: str
    state: str
    linked: bool
    namespaces: tuple[str, ...]
    in_flight: int
    latency: float
    ejected_for: float
    breakers: Mapping[str, str]
    calls: int
    failures: int
    since: float
    last_activity: float


@dataclass(frozen=True, slots=True)
class RouteStats:
    """A method that this collector can have run.

    Attributes:
        kind: such as ``"unary_unary"``.
        idempotent: calling it twice does no harm.
        local: it is served here.
        hops: collectors between this one and the nearest other that serves it, that one included; 0 without one.
        peers: ids of the peers through which it is reached.
        calls: that ended, each once.
        failures: of these.
        share: how much of what serves it here accepts calls, from 0 to 1; 0 if it is not served here.
        shares: the same of the peers, by id, as they have announced it.
    """

    kind: CallKind
    idempotent: bool
    local: bool
    hops: int
    peers: tuple[str, ...]
    calls: int
    failures: int
    share: float = 0.0
    shares: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CollectorStats:
    """The figures of a collector at one moment.

    Attributes:
        id: of the collector.
        address: where it listens.
        state: ``"serving"``, ``"draining"`` or ``"stopped"``.
        namespaces: those that it is in.
        started: POSIX time; 0.0 if it is not started.
        in_flight: calls that run here, or are on their way through.
        calls: that have ended, each once.
        failures: of these.
        rate: calls a second, over the last ten seconds.
        peers: by id.
        routes: by (namespace, service, method).
        members: the collectors that discovery knows, this one not among them.
    """

    id: str
    address: str
    state: str
    namespaces: tuple[str, ...]
    started: float
    in_flight: int
    calls: int
    failures: int
    rate: float
    peers: Mapping[str, PeerStats]
    routes: Mapping[RouteKey, RouteStats]
    members: tuple[MemberRecord, ...]

    def as_dict(self) -> dict[str, Any]:
        """The same, for JSON. Routes are a list."""
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "namespaces": list(self.namespaces),
            "peers": [
                {**_fields(peer), "namespaces": list(peer.namespaces), "breakers": dict(peer.breakers)}
                for peer in self.peers.values()
            ],
            "routes": [
                {
                    **key._asdict(),
                    **_fields(route),
                    "kind": str(route.kind),
                    "peers": list(route.peers),
                    "shares": dict(route.shares),
                }
                for key, route in self.routes.items()
            ],
            "members": [
                {**_fields(member), "namespaces": list(member.namespaces)} for member in self.members
            ],
        }


_PLAIN: Final = ("id", "address", "state", "started", "in_flight", "calls", "failures", "rate")


def _fields(of: Any) -> dict[str, Any]:
    return {name: getattr(of, name) for name in of.__dataclass_fields__}

"""Routes between collectors: what the others have announced, and what is announced to them.

Each collector tells each of its peers the whole of what can be reached through it, each time, with a version. A route
is announced with the path to whoever serves it (path-vector, as BGP does), never to a collector on that path, and no
further than `max_hops`. So a route cannot come back to where it came from, and a loss is known as far as it was
known.

`RouteTable` owns what was learned, a `Source` for each peer, and answers two questions: who can take a call (`group`),
and what to tell a peer (`export`). Groups are made when they are asked for, and kept while nothing has changed; the
`generation` says whether something has. What was lost is remembered for a while: to say "not now" is another answer
than "there is no such thing".

Everything that arrives here was written by another process: it is checked and cut to size, and never trusted to be
what an honest collector would send.
"""

from __future__ import annotations

import heapq
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ..core.errors import InvalidArgumentError
from .names import ANY, OWN, CallKind, RouteKey, checked_name
from .protos import link_pb2 as pb

if TYPE_CHECKING:
    from .balance import Candidates, Picker
    from .names import LocalServices

log = logging.getLogger("dodici.collective")

REMEMBERED: Final = 30.0
"""Seconds for which a lost route, or a lost collector, is "unavailable" and not "unknown"."""
MOST_ROUTES: Final = 50_000
"""Routes of one announcement; those beyond are not taken."""
_MOST_ALTERNATIVES: Final = 8
"""Collectors that serve the same method, and are announced as reachable through this one."""
_MOST_REMEMBERED: Final = 10_000
_MOST_HOPS: Final = 32

_KINDS = (CallKind.UNARY_UNARY, CallKind.UNARY_STREAM, CallKind.STREAM_UNARY, CallKind.STREAM_STREAM)
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}


@dataclass(frozen=True, slots=True)
class Learned:
    """A way to a method, as a peer has announced it."""

    kind: CallKind
    idempotent: bool
    path: tuple[str, ...]
    """Ids from the peer on; the last one serves it."""
    weight: float


@dataclass(slots=True, eq=False)
class Source:
    """What is known of a peer's routes."""

    id: str
    up: bool = False
    """It can be called now."""
    draining: bool = False
    open: bool = False
    """It announces nothing: it is asked for anything in the namespaces that it shares."""
    theirs: frozenset[str] = frozenset()
    """The namespaces that it is in."""
    unwell: frozenset[str] = frozenset()
    """Namespaces whose calls it does not take now; only of one that announces nothing."""
    offer: frozenset[str] | None = None
    """The namespaces that this collector shares with it; None: all."""
    routes: dict[RouteKey, tuple[Learned, ...]] = field(default_factory=dict)
    read: dict[bytes, tuple[RouteKey, Learned] | None] = field(default_factory=dict)
    """What each route of its last announcement, as it came, means; None: it is not taken."""

    def shares(self, namespace: str) -> bool:
        """Whether calls of the namespace may go there, as far as the peer is asked."""
        return namespace in self.theirs and (self.offer is None or namespace in self.offer)


class Tier:
    """Those of a route's peers that are equally far from whoever serves it."""

    __slots__ = ("candidates", "hops")

    def __init__(self, hops: int, candidates: Candidates) -> None:
        self.hops = hops
        self.candidates = candidates


class Group:
    """Who can take the calls of a route, the nearest first. `ways` are the paths by peer.

    `kind` is None where it is not known: of what was announced for all methods of a service, or not at all.
    """

    __slots__ = ("generation", "idempotent", "kind", "tiers", "ways")

    def __init__(self) -> None:
        self.generation = -1
        self.tiers: list[Tier] = []
        self.ways: dict[str, tuple[Learned, ...]] = {}
        self.kind: CallKind | None = None
        self.idempotent = False


class RouteTable:
    """What was learned from peers.

    Args:
        own_id: of this collector.
        services: what this collector serves, and the namespaces that it is in.
        picker: chooses among peers.
        max_hops: how many collectors a call may pass.
        clock: seconds; never runs backwards.
    """

    def __init__(
        self,
        own_id: str,
        services: LocalServices,
        picker: Picker,
        max_hops: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.generation = 0
        self._own_id = own_id
        self._services = services
        self._picker = picker
        self._max_hops = max_hops
        self._clock = clock
        self._sources: dict[str, Source] = {}
        self._index: dict[RouteKey, dict[str, tuple[Learned, ...]]] = {}
        self._groups: dict[RouteKey, Group] = {}
        self._made: dict[tuple[Any, ...], pb.Route] = {}
        self._open: dict[str, Group] = {}
        self._serving: dict[str, None] = {}
        self._serving_generation = -1
        self._lost: dict[RouteKey | str, float] = {}
        self._callbacks: list[Callable[[], None]] = []
        services.on_change(self.changed)

    def on_change(self, callback: Callable[[], None]) -> None:
        """Have `callback` called after each change, of what is served here or was learned."""
        self._callbacks.append(callback)

    def changed(self) -> None:
        """Something has changed."""
        self.generation += 1
        for callback in tuple(self._callbacks):
            callback()

    # -- what peers say ------------------------------------------------------------------------------------

    def add(self, source: Source) -> None:
        """A peer is known from now on."""
        self._sources[source.id] = source

    def apply(self, source: Source, announcement: pb.Announcement) -> None:
        """Replace what is known of a peer's routes by what it says now."""
        routes = self._read(source, announcement)
        # What the peer itself takes back is gone, and not lost. What was behind it may be either.
        behind = {key: ways for key, ways in source.routes.items() if len(ways[0].path) > 1}
        gone = [key for key in behind if key not in routes]
        ends = {way.path[-1] for ways in behind.values() for way in ways}
        before = source.routes
        self._unlearn(source, [key for key in before if key not in routes])
        source.routes = routes
        source.theirs = frozenset(announcement.namespaces)
        source.draining = announcement.draining
        for key, ways in routes.items():
            if before.get(key) != ways:
                self._index.setdefault(key, {})[source.id] = ways
        self._remember([*gone, *ends])
        self.changed()

    def lost(self, source: Source) -> None:
        """The peer cannot be called any more. Its routes are forgotten, not that they were there."""
        source.up = False
        served = {ways[0].path[-1] for ways in source.routes.values()}
        keys = list(source.routes)
        self._unlearn(source, source.routes)
        source.routes, source.read = {}, {}
        if source.open:
            keys.extend(RouteKey(namespace, "", "") for namespace in source.theirs)
        self._remember([*keys, source.id, *served])
        self.changed()

    def remove(self, source: Source) -> None:
        """The peer is gone for good, by will: nothing of it is remembered."""
        source.up = False
        self._unlearn(source, source.routes)
        source.routes, source.read = {}, {}
        self._sources.pop(source.id, None)
        self._lost.pop(source.id, None)
        self.changed()

    def _unlearn(self, source: Source, gone: Iterable[RouteKey]) -> None:
        for key in gone:
            ways = self._index.get(key)
            if ways is not None and ways.pop(source.id, None) is not None and not ways:
                del self._index[key]
                self._groups.pop(key, None)

    def _read(self, source: Source, announcement: pb.Announcement) -> dict[RouteKey, tuple[Learned, ...]]:
        """The routes of an announcement. Most are those of the one before it, which were read and checked then.

        Measured with 20,000 routes of which one was new: 75 ms of CPU instead of 290, in which the loop does nothing else.
        """
        found: dict[RouteKey, tuple[Learned, ...]] = {}
        before, source.read = source.read, {}
        for number, route in enumerate(announcement.routes):
            if number >= MOST_ROUTES:
                log.warning("%s: %s announces more than %d routes", self._own_id, source.id, MOST_ROUTES)
                break
            data = route.SerializeToString(deterministic=True)
            meaning = before[data] if data in before else self._meaning(source.id, route)
            source.read[data] = meaning
            if meaning is not None:
                key, way = meaning
                ways = found.get(key)
                found[key] = (way,) if ways is None else tuple(sorted((*ways, way), key=_length))
        return found

    def _meaning(self, peer: str, route: pb.Route) -> tuple[RouteKey, Learned] | None:
        path = (peer, *route.path)
        if self._own_id in path or len(set(path)) != len(path) or len(path) > _MOST_HOPS:
            return None
        if len(path) > self._max_hops or not 0 <= route.kind < len(_KINDS):
            return None
        try:
            for part in ("namespace", "service", "method"):
                checked_name(part, getattr(route, part))
        except InvalidArgumentError:
            return None
        weight = min(1.0, max(0.0, route.weight)) if math.isfinite(route.weight) else 0.0
        key = RouteKey(route.namespace, route.service, route.method)
        return key, Learned(_KINDS[route.kind], route.idempotent, path, weight)

    # -- what was lost -------------------------------------------------------------------------------------

    def _remember(self, what: Iterable[RouteKey | str]) -> None:
        now = self._clock()
        for expired in [name for name, until in self._lost.items() if until <= now]:
            del self._lost[expired]
        for name in what:
            if len(self._lost) < _MOST_REMEMBERED:
                self._lost[name] = now + REMEMBERED

    def remembers(self, what: RouteKey | str) -> bool:
        """Whether that route, or the collector of that id, was there within the last 30 s."""
        now = self._clock()
        if self._lost.get(what, 0.0) > now:
            return True
        if not isinstance(what, RouteKey):
            return False
        wider = (RouteKey(what.namespace, what.service, ANY), RouteKey(what.namespace, "", ""))
        return any(self._lost.get(each, 0.0) > now for each in wider)

    # -- who can take a call -------------------------------------------------------------------------------

    def group(self, key: RouteKey) -> Group | None:
        """Who can take the calls of a route; None if nobody has announced it.

        Its tiers are empty while nobody takes any: all of them drain, or do not accept.
        """
        group = self._announced_group(key)
        if (group is None or not group.tiers) and key.method[:1] != OWN:
            # Who serves the method alone comes before who serves all of the service, as long as there is somebody.
            wildcard = self._announced_group(RouteKey(key.namespace, key.service, ANY))
            if wildcard is not None and (group is None or wildcard.tiers):
                return wildcard
        return self._open_group(key.namespace) if group is None else group

    def _announced_group(self, key: RouteKey) -> Group | None:
        """Those that have announced the route itself."""
        group = self._groups.get(key)
        if group is not None and group.generation == self.generation:
            return group
        ways = self._index.get(key)
        if not ways or key.namespace not in self._services.namespaces:
            return None
        if group is None:
            group = self._groups[key] = Group()
        group.ways = {peer: known for peer, known in ways.items() if self._usable(peer, key.namespace)}
        first = next(iter(group.ways.values() or ways.values()))[0]
        group.kind = None if key.method == ANY else first.kind
        group.idempotent = all(known[0].idempotent for known in group.ways.values())
        weights: dict[int, dict[str, float]] = {}
        # What a peer says of itself is newer than what others have heard of it.
        closed = {
            peer for peer, known in group.ways.items() if len(known[0].path) == 1 and not known[0].weight
        }
        for peer, known in group.ways.items():
            # One that takes none itself may be the way to who does.
            accepting = [way for way in known if way.weight > 0 and way.path[-1] not in closed]
            if accepting:
                hops = len(accepting[0].path)
                nearest = (way.weight for way in accepting if len(way.path) == hops)
                weights.setdefault(hops, {})[peer] = max(nearest)
        self._arrange(group, key.namespace, weights)
        return group

    def _open_group(self, namespace: str) -> Group | None:
        """Peers that announce nothing, as far as they share the namespace."""
        group = self._open.get(namespace)
        if group is not None and group.generation == self.generation:
            return group if group.ways else None
        peers = [s.id for s in self._sources.values() if s.open and self._usable(s.id, namespace)]
        if not peers and group is None:
            return None
        if group is None:
            group = self._open[namespace] = Group()
        group.ways = {peer: (Learned(CallKind.STREAM_STREAM, False, (peer,), 1.0),) for peer in peers}
        well = [peer for peer in peers if namespace not in self._sources[peer].unwell]
        self._arrange(group, namespace, {1: dict.fromkeys(well, 1.0)} if well else {})
        return group if peers else None

    def _arrange(self, group: Group, namespace: str, weights: dict[int, dict[str, float]]) -> None:
        kept = {tier.hops: tier for tier in group.tiers}
        group.tiers = []
        for hops in sorted(weights):
            tier = kept.get(hops)
            if tier is None:
                tier = Tier(hops, self._picker.candidates(namespace, weights[hops]))
            else:
                tier.candidates.update(weights[hops])
            group.tiers.append(tier)
        group.generation = self.generation

    def _usable(self, peer: str, namespace: str) -> bool:
        source = self._sources.get(peer)
        return (
            source is not None
            and source.up
            and not source.draining
            and source.shares(namespace)
            and namespace in self._services.namespaces
        )

    def announced(self, key: RouteKey) -> bool:
        """Whether any peer has announced the route, or shares its namespace without announcing anything."""
        return self.known_as(key) is not None or self._open_group(key.namespace) is not None

    def keys(self) -> Iterable[RouteKey]:
        """Every route that was announced."""
        return self._index.keys()

    def learned(self) -> Iterator[tuple[RouteKey, dict[str, tuple[Learned, ...]]]]:
        """The announced routes that can be taken now, with the ways by peer."""
        for key, ways in self._index.items():
            usable = {peer: known for peer, known in ways.items() if self._usable(peer, key.namespace)}
            if usable:
                yield key, usable

    def has_service(self, namespace: str, service: str) -> bool:
        """Whether any peer has announced a method of the service."""
        return any(key[0] == namespace and key[1] == service for key in self._index)

    def kind_of(self, key: RouteKey) -> CallKind | None:
        """The kind of an announced method; None also where all methods of a service are announced as one."""
        group = self.group(key)
        return None if group is None else group.kind

    def known_as(self, key: RouteKey) -> RouteKey | None:
        """The name under which a peer has announced the method: its own, or that of all methods of its service."""
        if key in self._index:
            return key
        wildcard = RouteKey(key.namespace, key.service, ANY)
        return wildcard if key.method[:1] != OWN and wildcard in self._index else None

    def reaches(self, collector: str) -> bool:
        """Whether any announced path ends at that collector."""
        if self._serving_generation != self.generation:
            self._serving = dict.fromkeys(
                way.path[-1] for ways in self._index.values() for known in ways.values() for way in known
            )
            self._serving_generation = self.generation
        return collector in self._serving

    # -- what peers are told -------------------------------------------------------------------------------

    def export(self, to: Source) -> Iterator[pb.Route]:
        """Every route that the peer is told of: what is served here, and what can be reached through here."""
        for key, kind, idempotent in self._services.routes():
            if to.offer is None or key.namespace in to.offer:
                yield self._route(key, kind, idempotent, (), self._services.share(key))
        for key, ways in self._index.items():
            if key.namespace not in self._services.namespaces or not (
                to.offer is None or key.namespace in to.offer
            ):
                continue
            # Where it goes by itself without passing anybody, it need not be told.
            direct = {way.path[1] for way in to.routes.get(key, ()) if len(way.path) == 2}
            best: dict[str, Learned] = {}
            for peer, known in ways.items():
                if peer == to.id or not self._usable(peer, key.namespace):
                    continue
                for way in known:
                    end = way.path[-1]
                    if to.id in way.path or end in direct or len(way.path) >= self._max_hops:
                        continue
                    if end not in best or (len(way.path), way.path) < (len(best[end].path), best[end].path):
                        best[end] = way
            for way in heapq.nsmallest(_MOST_ALTERNATIVES, best.values(), key=_order):
                yield self._route(key, way.kind, way.idempotent, way.path, way.weight)

    def _route(
        self, key: RouteKey, kind: CallKind, idempotent: bool, path: tuple[str, ...], weight: float
    ) -> pb.Route:
        what = (key, kind, idempotent, path, weight)
        made = self._made.get(what)
        if made is None:
            if len(self._made) >= MOST_ROUTES:
                self._made.clear()
            made = self._made[what] = pb.Route(
                namespace=key.namespace,
                service=key.service,
                method=key.method,
                kind=_NUMBERS[kind],  # type: ignore[arg-type]
                idempotent=idempotent,
                hops=len(path),
                path=path,
                weight=weight,
            )
        return made


def _length(way: Learned) -> int:
    return len(way.path)


def _order(way: Learned) -> tuple[int, tuple[str, ...]]:
    return len(way.path), way.path

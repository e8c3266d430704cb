"""Says who runs a call: this collector, or the way to another.

In this order:

    a target         this collector if it is the target, else the peer of that id, else the way to whoever has announced a
                     path that ends there. Never another: known but out of reach is UNAVAILABLE, unknown is NOT_FOUND.
    here             if the method is here and accepts calls, unless `local_first` is off or all places are taken
    the peers        that share the namespace and have announced the route, the nearest first, by the picker
    nobody           UNAVAILABLE if there is somebody, or was until a moment ago; else what is unknown is NOT_FOUND

A call that came from another collector never goes to one that it has passed, and not beyond `max_hops`. When it cannot
go on for that alone, it is a loop (FAILED_PRECONDITION, with the path).

What serves a method here may accept none now (`Capacity`): then it is not here, but for whoever asks for nobody else,
and a call that finds no peer either is UNAVAILABLE and was not begun. What accepts a part weighs as much among the peers.

With `balance="hash"` calls go by the value of the metadata `x-hash-key`; those without it go as with `"p2c"`.

`CollectiveRouter` owns nothing but the figures of what is under way: peers belong to `Peers`, routes to `RouteTable`,
and what is known of how peers answer to the `Picker`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final

from ..core.grpc_status import GrpcStatus
from . import metadata as _metadata
from .announce import Group, RouteTable
from .balance import Candidates, Picker, RetryBudget
from .batch import deadline_of, pairs_of, put
from .contracts import Call, Executor
from .errors import CollectiveError, call_error
from .forward import Chosen, Forward
from .http.framing import HTTP
from .local import LocalExecutor
from .names import ANY, CallKind, RouteKey
from .peers import Peers
from .policies import Breaker, Limits, Retry
from .replay import KEPT, KEPT_WITH_ROOM, NO_CAUTION, Caution, Room
from .stats import Figures, Passing

if TYPE_CHECKING:
    from .admission import Admission
    from .contracts import TransportSecurity
    from .names import LocalServices
    from .peer import Peer
    from .protos import link_pb2

HASH_KEY: Final = "x-hash-key"
_PUSHBACK: Final = "grpc-retry-pushback-ms"
CARRIED: Final = Caution(5.0, KEPT)
"""The end of a carried exchange says when its origin reads the body; an origin that reads nothing needs no more of it."""
OF_ORIGINS: Final = Caution(0.05, KEPT_WITH_ROOM)
"""Of other methods of an origin nobody says it: what was not refused by then has begun, most probably."""


class CollectiveRouter:
    """The router of a collector with peers. Implements `Router`.

    Args:
        own_id: of the collector.
        services: what it serves.
        local: runs that.
        admission: says whether a call that comes on a link may be made.
        limits: how many calls may be on their way through this collector at a time.
        balance: how a peer is chosen.
        retry: when a call is tried again.
        breaker: when a peer is left alone.
        max_hops: how many collectors a call may pass.
        local_first: whether a method of this collector is run here while there is room.
        security: credentials of the channels; None: plaintext.
    """

    def __init__(
        self,
        own_id: str,
        services: LocalServices,
        local: LocalExecutor,
        admission: Admission,
        *,
        limits: Limits,
        balance: str = "p2c",
        retry: Retry | None = None,
        breaker: Breaker | None = None,
        max_hops: int = 4,
        local_first: bool = True,
        security: TransportSecurity | None = None,
    ) -> None:
        self.retry = Retry() if retry is None else retry
        self.budget = RetryBudget(self.retry.budget, time.monotonic)
        self.picker = Picker(balance, breaker=breaker, per_peer=limits.per_peer)
        self.table = RouteTable(own_id, services, self.picker, max_hops)
        self.peers = Peers(
            own_id,
            services,
            self.table,
            self.picker,
            self._run_linked,
            security=security,
            message=limits.message,
        )
        self.most_refusals = max(self.retry.attempts, 3)
        """How many peers in a row may refuse a call for want of room before it is given up."""
        self.room = Room()
        self.in_flight = 0
        """Calls that are on their way through this collector."""
        self.figures = Figures(
            own_id,
            lambda key: services.find(*key) is not None,
            self.known_as,
        )
        """What is counted of calls on links; a collector has one for all of its calls."""
        self.listed: Callable[[str], bool] = lambda _: False
        """Whether discovery knows a collector of that id."""
        self._passing = 0
        self._idle = asyncio.Event()
        self.own_id = own_id
        self._services = services
        self._local = local
        self._admission = admission
        self._most = limits.in_flight + limits.queued
        self._max_hops = max_hops
        self._local_first = local_first
        self._hashing = balance == "hash"
        self._mixed: dict[RouteKey, tuple[Group, int, Candidates]] = {}

    # -- Router --------------------------------------------------------------------------------------------

    def runs_here(self, call: Call) -> bool:
        """See `Router.runs_here`."""
        if call.target and call.target != self.own_id:
            return False
        spec = self._services.find(*call.key)
        if spec is None or spec.capacity is not None:
            return False
        if call.target or (self._local_first and not self._local.limiter.full(call.key.namespace)):
            return True
        return not self.table.announced(call.key)

    async def route(self, call: Call) -> Executor:
        """See `Router.route`."""
        spec = self._services.find(*call.key)
        if call.target == self.own_id:
            if spec is None:
                raise self._services.missing(*call.key)
            return self._local
        if not call.target and spec is not None and self._stays(call):
            return self._local if spec.capacity is None else Forward(self, self._local, Chosen(None, None))
        if self.in_flight >= self._most:
            call.trailing = (*call.trailing, (_PUSHBACK, "100"))
            raise call_error(
                GrpcStatus.RESOURCE_EXHAUSTED,
                f"collector {self.own_id} has {self.in_flight} calls under way",
                request_not_processed=True,
            )
        chosen = self.choose(call, ())
        if call.kind is None:
            call.kind = self.kind_of(call.key)
        return Forward(self, self._local, chosen)

    def kind_of(self, key: RouteKey) -> CallKind | None:
        """See `Router.kind_of`."""
        spec = self._services.find(*key)
        if spec is None:
            return self.table.kind_of(key)
        return None if spec.wildcard else spec.kind

    def known_as(self, key: RouteKey) -> RouteKey | None:
        """See `Router.known_as`."""
        spec = self._services.find(*key)
        if spec is None:
            return self.table.known_as(key)
        return key._replace(method=ANY) if spec.wildcard else key

    async def start(self) -> None:
        """Nothing: `Peers` is started with the collector's address."""

    async def stop(self) -> None:
        """See `Router.stop`."""
        await self.peers.stop()

    # -- for Forward ---------------------------------------------------------------------------------------

    def entered(self, call: Call) -> None:
        """A call is on its way through."""
        self.in_flight += 1
        if call.peer:
            self._passing += 1

    def left(self, call: Call) -> None:
        """It has ended."""
        self.in_flight -= 1
        if call.peer:
            self._passing -= 1
            if not self._passing:
                self._idle.set()

    async def idle(self) -> None:
        """Return when no call that came from outside is on its way to another collector."""
        while self._passing:
            self._idle.clear()
            await self._idle.wait()

    def may_refuse(self, call: Call) -> bool:
        """Whether what serves the method here can refuse a call unseen, so that it goes to a peer."""
        spec = self._services.find(*call.key)
        return spec is not None and spec.capacity is not None

    def caution(self, key: RouteKey) -> Caution:
        """How the input of a stream is sent before it has begun: see `Input`."""
        if key.method == HTTP:
            return CARRIED
        carried = key._replace(method=HTTP)
        return OF_ORIGINS if self.table.known_as(carried) or self._services.find(*carried) else NO_CAUTION

    def offered(self, call: Call, chosen: Chosen) -> bool:
        """Whether who was chosen says still that calls of this route are accepted there."""
        if chosen.peer is None:
            return self._services.share(call.key) > 0
        group = self.table.group(call.key)
        return group is not None and any(tier.candidates.get(chosen.peer.id) for tier in group.tiers)

    def idempotent(self, key: RouteKey) -> bool:
        """Whether a method is declared idempotent, here or by whoever has announced it."""
        spec = self._services.find(*key)
        if spec is not None and not spec.idempotent:
            return False
        group = self.table.group(key)
        return spec is not None if group is None else group.idempotent

    def choose(self, call: Call, tried: Collection[str]) -> Chosen:
        """Who is to run the call, of those that have not been tried.

        Raises:
            CollectiveError: nobody; says why.
        """
        if call.target:
            return self._choose_target(call, tried)
        spec = self._services.find(*call.key)
        here = spec is not None and self.own_id not in tried and self._services.share(call.key) > 0
        if len(call.path) >= self._max_hops:
            if spec is not None:
                raise self._unhealthy(call.key)
            raise self._loop(call, f"the call would pass more than {self._max_hops} collectors")
        group = self.table.group(call.key)
        found: Chosen | None = None
        if group is not None:
            excluded = self._excluded(call, group, tried)
            if here and not self._local_first and not call.path:
                found = self._choose_mixed(call, group, excluded)
            else:
                found = self._choose_peer(call, group, excluded)
        if found is not None:
            return found
        if here:
            return Chosen(None, None)
        if group is None:
            raise self._nobody(call) if spec is None else self._unhealthy(call.key)
        raise self._none_left(call, group, tried, spec is not None)

    # -- choosing ------------------------------------------------------------------------------------------

    def _stays(self, call: Call) -> bool:
        """Whether a call of a method that is here is run here without looking at peers."""
        if not self._services.share(call.key):
            return False
        if call.path:
            return True  # a peer has chosen this collector for it
        return (
            self._local_first and not self._local.limiter.full(call.key.namespace)
        ) or not self.table.announced(call.key)

    def _excluded(self, call: Call, group: Group, tried: Collection[str]) -> Collection[str]:
        if not call.path:
            return tried
        passed = set(call.path)
        room = self._max_hops - len(call.path)
        return {
            *tried,
            *(
                peer
                for peer, ways in group.ways.items()
                if not any(len(way.path) <= room and passed.isdisjoint(way.path) for way in ways)
            ),
        }

    def _choose_peer(self, call: Call, group: Group, excluded: Collection[str]) -> Chosen | None:
        key = self._hash_key(call) if self._hashing else None
        for tier in group.tiers:
            candidate = self.picker.pick(tier.candidates, excluded=excluded, key=key)
            if candidate is not None:
                peer = self.peers.get(candidate.peer)
                if peer is not None:
                    return Chosen(peer, candidate)
        return None

    def _choose_mixed(self, call: Call, group: Group, excluded: Collection[str]) -> Chosen | None:
        """This collector is one of the nearest."""
        # Not by the call's own name: those that a wildcard answers to are without end.
        name = self.known_as(call.key) or call.key
        of, generation, candidates = self._mixed.get(name, (None, -1, None))
        if candidates is None or of is not group or generation != group.generation:
            weights = {self.own_id: self._services.share(call.key)}
            if group.tiers:
                weights.update({c.peer: c.weight for c in group.tiers[0].candidates})
            if candidates is None:
                candidates = self.picker.candidates(call.key.namespace, weights)
            else:
                candidates.update(weights)
            self._mixed[name] = (group, group.generation, candidates)
        if self._local.limiter.full(call.key.namespace):
            excluded = {*excluded, self.own_id}
        key = self._hash_key(call) if self._hashing else None
        candidate = self.picker.pick(candidates, excluded=excluded, key=key)
        if candidate is None:
            return None
        if candidate.peer == self.own_id:
            return Chosen(None, candidate)
        peer = self.peers.get(candidate.peer)
        return None if peer is None else Chosen(peer, candidate)

    def _choose_target(self, call: Call, tried: Collection[str]) -> Chosen:
        target = call.target or ""
        peer = self.peers.get(target)
        if peer is not None and peer.source.up:
            if not peer.source.shares(call.key.namespace):
                raise call_error(
                    GrpcStatus.NOT_FOUND,
                    f"namespace {call.key.namespace!r} is not shared with collector {target!r}",
                    peer=target,
                )
            if len(call.path) >= self._max_hops:
                raise self._loop(call, f"the call would pass more than {self._max_hops} collectors")
            if target in call.path:
                raise self._loop(call, "the call has come from its target")
            if target in self.picker.full:
                raise self._crowded(call, target)
            return Chosen(peer, peer.lane(self.picker, call.key.namespace))
        group = self.table.group(call.key)
        if group is not None:
            passed = {*call.path}
            room = self._max_hops - len(call.path)
            ways = {
                name
                for name, known in group.ways.items()
                if any(
                    way.path[-1] == target and len(way.path) <= room and passed.isdisjoint(way.path)
                    for way in known
                )
            }
            found = self._choose_peer(call, group, {*(p for p in group.ways if p not in ways), *tried})
            if found is not None:
                return found
        if self.table.reaches(target) and not any(
            way.path[-1] == target for ways in (group.ways.values() if group else ()) for way in ways
        ):
            raise self._unknown(call.key)
        if (
            peer is not None
            or self.table.reaches(target)
            or self.table.remembers(target)
            or self.listed(target)
        ):
            raise call_error(
                GrpcStatus.UNAVAILABLE,
                f"collector {target!r} cannot be reached now",
                peer=target,
                request_not_processed=True,
            )
        raise call_error(GrpcStatus.NOT_FOUND, f"no such collector: {target!r}", peer=target)

    @staticmethod
    def _hash_key(call: Call) -> str | bytes | None:
        for name, value in call.metadata:
            if name == HASH_KEY:
                return value
        return None

    # -- nobody --------------------------------------------------------------------------------------------

    def _none_left(
        self, call: Call, group: Group, tried: Collection[str], served: bool = False
    ) -> CollectiveError:
        if call.path and group.ways and not tried and not served:
            excluded = self._excluded(call, group, ())
            if all(peer in excluded for peer in group.ways):
                return self._loop(call, "there is no way on but back")
        full = [peer for peer in group.ways if peer in self.picker.full and peer not in tried]
        if full:
            return self._crowded(call, ", ".join(sorted(full)))
        waits = [self.picker.retry_after(tier.candidates) for tier in group.tiers]
        known = [wait for wait in waits if wait is not None]
        if known:
            call.trailing = (*call.trailing, (_PUSHBACK, str(max(1, int(min(known) * 1000)))))
        return self._unhealthy(call.key)

    def _crowded(self, call: Call, peers: str) -> CollectiveError:
        call.trailing = (*call.trailing, (_PUSHBACK, "100"))
        return call_error(
            GrpcStatus.RESOURCE_EXHAUSTED,
            f"collector {self.own_id} has as many calls at {peers} as a peer may have",
            request_not_processed=True,
        )

    def _nobody(self, call: Call) -> CollectiveError:
        if self.table.remembers(call.key) and call.key.namespace in self._services.namespaces:
            return self._unhealthy(call.key)
        return self._unknown(call.key)

    def _unhealthy(self, key: RouteKey) -> CollectiveError:
        return call_error(
            GrpcStatus.UNAVAILABLE, f"no healthy collector for {key}", request_not_processed=True
        )

    def _unknown(self, key: RouteKey) -> CollectiveError:
        namespace, service, method = key
        if namespace in self._services.namespaces and self.table.has_service(namespace, service):
            return call_error(
                GrpcStatus.UNIMPLEMENTED,
                f"no such method of {service!r} in namespace {namespace!r}: {method!r}",
            )
        return self._services.missing(*key)

    def _loop(self, call: Call, what: str) -> CollectiveError:
        path = (*call.path, self.own_id)
        return call_error(
            GrpcStatus.FAILED_PRECONDITION,
            f"{what}: {' -> '.join(path)}",
            details={"path": ",".join(path)},
            path=path,
        )

    # -- calls on a link -----------------------------------------------------------------------------------

    async def _run_linked(self, peer: Peer, message: link_pb2.LinkCall, answer: link_pb2.LinkAnswer) -> None:
        """Run a call that has come on a peer's link, and fill in its answer."""
        service, _, method = message.path[1:].rpartition("/")
        hop, rest = _metadata.split(pairs_of(message))
        call = Call(
            RouteKey(hop.get(_metadata.NAMESPACE, ""), service, method),
            CallKind.UNARY_UNARY,
            rest,
            deadline_of(message),
            "any" if hop.get(_metadata.PAYLOAD) == "any" else "raw",
            hop.get(_metadata.TARGET) or None,
            peer=peer.advertised,
            # Its own, unless it speaks for another.
            caller=peer.identity if peer.identity.names else None,
            from_collector=peer.id,
        )
        try:
            with Passing(self.figures, call):
                if not all(call.key) or method == ANY:
                    raise call_error(GrpcStatus.INVALID_ARGUMENT, f"not a method: {message.path!r}")
                _metadata.believe(call, hop)
                _metadata.check_path(call, self.own_id, self._max_hops)
                if not self._admission.free:
                    await self._admission.check(call)
                executor = self._local if self.runs_here(call) else await self.route(call)
                answer.payload = await executor.unary(call, message.payload)
        except CollectiveError as error:
            put(answer.trailing, _metadata.of_failure(call, error))
            raise
        put(answer.trailing, _metadata.of_answer(call))
        put(answer.initial, call.initial)

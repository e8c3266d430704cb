"""The figures of a collector put together, and the method by which people and their tools ask for them.

    rpc Inspect(google.protobuf.Empty) returns (google.protobuf.Struct)

answers with what `CollectorStats.as_dict()` has, and with the newest records of the history. It shows who talks to
whom: where there is a policy, it is for those who are allowed ``collector.CollectiveDispatcher.Inspect`` in all
namespaces.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from .contracts import Authorizer, MemberRecord
from .errors import CollectiveError
from .grpc_server import ServerCall, unary_unary
from .names import RouteKey
from .reflection import DISPATCHER
from .stats import CollectorStats, PeerStats, RouteStats
from .values import to_message

if TYPE_CHECKING:
    from .balance import PeerFigures
    from .history import History
    from .local import LocalExecutor
    from .names import LocalServices
    from .router import CollectiveRouter
    from .stats import Figures

METHOD: Final = "Inspect"
PATH: Final = f"/{DISPATCHER}/{METHOD}"
_NEWEST: Final = 100
"""Records of the history in an answer."""
_MOST_ROUTES: Final = 5000
"""Routes in an answer, which is a message of limited size."""


def snapshot(
    collector_id: str,
    address: str,
    state: str,
    started: float,
    services: LocalServices,
    local: LocalExecutor,
    routing: CollectiveRouter,
    figures: Figures,
    members: Iterable[MemberRecord],
) -> CollectorStats:
    """The figures of a collector as they are now, read from who owns them."""
    return CollectorStats(
        collector_id,
        address,
        state,
        services.namespaces,
        started,
        local.in_flight + routing.in_flight,
        figures.calls,
        figures.failures,
        figures.rate(),
        _peers(routing, figures),
        _routes(services, routing, figures),
        tuple(members),
    )


def _peers(routing: CollectiveRouter, figures: Figures) -> dict[str, PeerStats]:
    known = routing.picker.stats()
    sent = figures.by_peer()
    found = {}
    for connection in routing.peers.connections:
        name = connection.collector_id
        of_picker: PeerFigures | None = known.get(name)
        found[name] = PeerStats(
            name,
            connection.address,
            connection.state,
            connection.linked,
            connection.shared_namespaces,
            0 if of_picker is None else of_picker.in_flight,
            0.0 if of_picker is None else of_picker.latency,
            0.0 if of_picker is None else of_picker.ejected_for,
            {} if of_picker is None else dict(of_picker.breakers),
            *sent.get(name, (0, 0)),
            connection.since,
            connection.last_activity,
        )
    return found


def _routes(
    services: LocalServices, routing: CollectiveRouter, figures: Figures
) -> dict[RouteKey, RouteStats]:
    found = {
        key: RouteStats(kind, idempotent, True, 0, (), *figures.of_route(key), services.share(key))
        for key, kind, idempotent in services.routes()
    }
    for key, ways in routing.table.learned():
        own = found.get(key)
        first = next(iter(ways.values()))[0]
        found[key] = RouteStats(
            first.kind if own is None else own.kind,
            all(known[0].idempotent for known in ways.values()) if own is None else own.idempotent,
            own is not None,
            min(len(known[0].path) for known in ways.values()),
            tuple(ways),
            *figures.of_route(key),
            0.0 if own is None else own.share,
            {peer: max(each.weight for each in known) for peer, known in ways.items()},
        )
    return found


class Inspection:
    """Serves the figures.

    Args:
        stats: takes them.
        history: the last calls.
        authorizer: says who may see them; None: everybody.
        message: bytes that an answer may have.
    """

    def __init__(
        self,
        stats: Callable[[], CollectorStats],
        history: History,
        authorizer: Authorizer | None,
        message: int,
    ) -> None:
        self._stats = stats
        self._history = history
        self._authorizer = authorizer
        self._message = message
        self._one = asyncio.Lock()

    def handlers(self) -> dict[str, Any]:
        """The handler of its method by path."""
        return {PATH: unary_unary(self._inspect, Empty.FromString, Struct.SerializeToString)}

    async def _inspect(self, _: Empty, call: ServerCall) -> Any:
        if self._authorizer is not None:
            try:
                self._authorizer.check(call.identity(), "*", DISPATCHER, METHOD)
            except CollectiveError as error:
                await call.fail(error)
        async with self._one:
            figures = self._stats().as_dict()
            figures["history"] = [
                {**record.as_dict(), "path": list(record.path)} for record in self._history[-_NEWEST:]
            ]
            # Thousands of routes take longer than calls may wait for.
            return await asyncio.to_thread(fitting, figures, self._message)


def fitting(figures: dict[str, Any], most: int) -> Message:
    """The message of an answer that may have `most` bytes: with less routes and records where all are too many.

    ``routes_left_out`` says how many are not in it, if there are any.
    """
    all_routes = len(figures["routes"])
    kept = min(all_routes, _MOST_ROUTES)
    while True:
        figures["routes"] = figures["routes"][:kept]
        if kept < all_routes:
            figures["routes_left_out"] = all_routes - kept
        message = to_message(figures)
        if message.ByteSize() <= most or not (kept or figures["history"]):
            return message
        kept //= 2
        figures["history"] = figures["history"][(len(figures["history"]) + 1) // 2 :]

"""The members of a collective as a source of endpoints: this collector, and the peers that it has a link to.

A peer is an endpoint of a namespace while it can be called, does not drain, and announces a method of its own there that
accepts calls. What it only knows the way to makes it none: the call would but take a hop more. Which of the methods
an endpoint has is not for xDS to know; collectors send on what they lack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from .source import Endpoint, Offer, void

if TYPE_CHECKING:
    from ..announce import RouteTable
    from ..names import LocalServices
    from ..peer import Peer
    from ..peers import Peers


class Members:
    """An `EndpointSource`. It knows the namespaces that the collector is in, whether or not it serves something there.

    Args:
        services: what the collector serves.
        table: what its peers announce.
        peers: who they are.
        address: where the collector listens now; None while it does not.
    """

    def __init__(
        self, services: LocalServices, table: RouteTable, peers: Peers, address: Callable[[], str | None]
    ) -> None:
        self._services = services
        self._table = table
        self._peers = peers
        self._address = address
        self._callbacks: dict[object, Callable[[], None]] = {}
        table.on_change(self.changed)

    def offers(self) -> Mapping[str, Offer]:
        """See `EndpointSource.offers`."""
        peers: list[Peer] = sorted(self._peers, key=lambda peer: peer.id)
        return {namespace: self._offer(namespace, peers) for namespace in self._services.namespaces}

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """See `EndpointSource.on_change`."""
        key = object()
        self._callbacks[key] = callback
        return lambda: void(self._callbacks.pop(key, None))

    def changed(self) -> None:
        """Something has changed that the table does not know of: the collector drains."""
        for callback in tuple(self._callbacks.values()):
            callback()

    def _offer(self, namespace: str, peers: list[Peer]) -> Offer:
        endpoints: list[Endpoint] = []
        repeatable: dict[str, bool] = {}
        address = self._address()
        share = 0.0
        for route in self._services.routes():
            if route.key.namespace == namespace:
                share = max(share, self._services.share(route.key))
                _note(repeatable, route.key.service, route.key.method, route.idempotent)
        if address is not None and share > 0 and not self._peers.draining:
            endpoints.append(Endpoint(address, _weight(share)))
        for peer in peers:
            share = max(_shares(peer, namespace, repeatable), default=0.0)
            if share > 0 and peer.source.up and not peer.source.draining:
                endpoints.append(Endpoint(peer.advertised, _weight(share)))
        return Offer(tuple(endpoints), tuple(sorted(path for path, all_are in repeatable.items() if all_are)))


def _shares(peer: Peer, namespace: str, repeatable: dict[str, bool]) -> Iterator[float]:
    if peer.source.open and namespace in peer.source.theirs - peer.source.unwell:
        yield 1.0
    for key, ways in peer.source.routes.items():
        if key.namespace == namespace:
            _note(repeatable, key.service, key.method, all(way.idempotent for way in ways))
            for way in ways:
                if len(way.path) == 1:
                    yield way.weight


def _note(repeatable: dict[str, bool], service: str, method: str, idempotent: bool) -> None:
    path = f"/{service}/{method}"
    repeatable[path] = repeatable.get(path, True) and idempotent


def _weight(share: float) -> int:
    return max(1, round(share * 100))

"""The origins of a collector: their methods, and how much of each accepts calls.

`Origins` owns an entry for each registration: the specs that it has put among the collector's services, and the
`OriginCapacity` that all of them share. Capacities are watched while the collector runs, and while any of the specs is
still registered.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ...api.exchange import global_dispatcher
from ...core.errors import InvalidArgumentError
from ..http.serving import http_specs
from ..names import LocalServices, MethodSpec, checked_name
from .capacity import OriginCapacity
from .specs import OriginSpecs, checked_origin

if TYPE_CHECKING:
    from ...core.dispatcher import Dispatcher
    from ..http.serving import Keep
    from ..peers import Peers


class _Entry:
    __slots__ = ("capacity", "dispatcher", "specs")

    def __init__(
        self, capacity: OriginCapacity, dispatcher: Dispatcher | None, specs: Iterable[MethodSpec]
    ) -> None:
        self.capacity = capacity
        self.dispatcher = dispatcher
        self.specs = set(specs)

    def watch(self) -> None:
        self.capacity.watch(self.dispatcher or global_dispatcher())


class Origins:
    """The origins of a collector.

    Args:
        services: where their methods go.
        peers: are told of their capacity.
        limit: bytes of a message.
        keep: `LocalExecutor.keep`: what a carried exchange promises counts as running.
    """

    def __init__(self, services: LocalServices, peers: Peers, limit: int, keep: Keep | None = None) -> None:
        self._keep = keep
        self._services = services
        self._peers = peers
        self._limit = limit
        self._entries: list[_Entry] = []
        self._lasting: set[Callable[[], None]] = set()
        self._started = False

    def register(
        self,
        namespace: str,
        service: str,
        origin: str,
        *,
        dispatcher: Dispatcher | None,
        methods: Any,
        path: str,
        codec: str,
        http: bool,
    ) -> None:
        """See `Collector.register_origin`.

        Raises:
            InvalidArgumentError: see there. Nothing is then registered.
        """
        checked_name("namespace", namespace)
        checked_name("service", service)
        if not isinstance(http, bool):
            raise InvalidArgumentError(f"http must be True or False, not {http!r}")
        normal = checked_origin(origin)
        maker = OriginSpecs(
            namespace, service, normal, dispatcher=dispatcher, path=path, codec=codec, limit=self._limit
        )
        specs = maker.make(methods)
        if http:
            full = service if maker.descriptor is None else maker.descriptor.full_name
            specs += http_specs(namespace, full, normal, dispatcher, self._keep, self._lasting)
        capacity = OriginCapacity(self._services, self._peers, normal)
        specs = [dataclasses.replace(spec, capacity=capacity) for spec in specs]
        self._services.add(specs, descriptor=maker.descriptor)
        entry = _Entry(capacity, dispatcher, specs)
        self._entries.append(entry)
        if self._started:
            entry.watch()

    def removed(self, specs: Iterable[MethodSpec]) -> None:
        """These are not registered any more."""
        gone = set(specs)
        for entry in tuple(self._entries):
            entry.specs -= gone
            if not entry.specs:
                self._entries.remove(entry)
                entry.capacity.unwatch()

    def start(self) -> None:
        """Follow what the dispatchers tell of capacity. To be called on the collector's loop."""
        self._started = True
        for entry in self._entries:
            entry.watch()

    def part(self) -> None:
        """Close the WebSockets that are open: what they carry may be for ever in coming."""
        for close in tuple(self._lasting):
            close()

    def stop(self) -> None:
        """Follow it no more."""
        self._started = False
        for entry in self._entries:
            entry.capacity.unwatch()

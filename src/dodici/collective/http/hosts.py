"""From the host of a URL to a service: `SERVICE.NAMESPACE.collective`.

The namespace is the last label before the domain; the service is all that comes before, dots included. Hosts have no
case and services have one: a host stands for the service whose name is the same in any case, of those that are served
here or were announced; the one that is spelt like it comes first.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ...core.errors import InvalidArgumentError
from ...pool.base import Origin
from ..names import RouteKey
from .framing import HTTP, UNARY

if TYPE_CHECKING:
    from ..announce import RouteTable
    from ..names import LocalServices

_DOMAIN = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*").fullmatch
_CARRYING: Final = frozenset({HTTP, UNARY})
_MOST: Final = 1024
"""Origins that are remembered."""


class Place(NamedTuple):
    """What a host stands for."""

    namespace: str
    service: str
    carried: bool
    """The service is an HTTP origin: exchanges are carried to it. Else its methods are called."""
    quick: bool
    """Small exchanges can go as unary calls."""
    known: bool
    """It is served here, or was announced."""


class Hosts:
    """Finds services by origin.

    Args:
        domain: the suffix of the collective's hosts, such as ``".collective"``.
        services: what the collector serves.
        table: what its peers have announced.

    Raises:
        InvalidArgumentError: not a domain.
    """

    def __init__(self, domain: Any, services: LocalServices, table: RouteTable) -> None:
        text = domain.lower().strip(".") if isinstance(domain, str) else ""
        if _DOMAIN(text) is None:
            raise InvalidArgumentError(
                f"domain must be a suffix of hosts such as '.collective', not {domain!r}"
            )
        self.suffix = f".{text}"
        self._services = services
        self._table = table
        self._generation = -1
        self._spelt: dict[tuple[str, str], list[Place]] = {}
        self._parts: dict[str, tuple[str, str] | None] = {}
        self._found: dict[str, Place] = {}
        self._before: dict[str, Place] = {}

    def find(self, origin: str) -> Place | None:
        """What an origin stands for; None if it is outside the domain.

        Raises:
            InvalidArgumentError: it is no origin, or names no service within the domain.
        """
        if self._generation != self._table.generation:
            self._index()
        place = self._found.get(origin)
        if place is not None:
            return place
        if origin not in self._parts:
            if len(self._parts) >= _MOST:
                self._parts.clear()
            self._parts[origin] = self._split(origin)
        parts = self._parts[origin]
        if parts is None:
            return None
        if len(self._found) >= _MOST:
            self._found.clear()
        place = self._found[origin] = self._place(origin, *parts)
        return place

    def may_be(self, place: Place) -> bool:
        """Whether a service that nobody has told of may be there all the same: at a peer that tells nothing."""
        return self._table.announced(RouteKey(place.namespace, place.service, ""))

    def _split(self, origin: str) -> tuple[str, str] | None:
        host = Origin(origin).host.lower().removesuffix(".")
        if not host.endswith(self.suffix):
            return None
        service, _, namespace = host.removesuffix(self.suffix).rpartition(".")
        if not service or not namespace:
            raise InvalidArgumentError(
                f"a host in the collective is SERVICE.NAMESPACE{self.suffix}, not {host!r}"
            )
        return namespace, service

    def _place(self, origin: str, namespace: str, service: str) -> Place:
        spelt = self._spelt.get((namespace, service), ())
        if spelt:
            return next((place for place in spelt if place[:2] == (namespace, service)), spelt[0])
        before = self._before.get(origin)
        if before is not None and self._table.remembers(RouteKey(before.namespace, before.service, HTTP)):
            # Lost a moment ago, and not gone: it is still what it was.
            return before
        return Place(namespace, service, carried=False, quick=False, known=False)

    def _index(self) -> None:
        """Something has changed, here or at a peer."""
        own: dict[tuple[str, str], set[str]] = {}
        for keys in ((route.key for route in self._services.routes()), self._table.keys()):
            for namespace, service, method in keys:
                methods = own.setdefault((namespace, service), set())
                if method in _CARRYING:
                    methods.add(method)
        self._spelt = {}
        for (namespace, service), methods in own.items():
            self._spelt.setdefault((namespace.lower(), service.lower()), []).append(
                Place(namespace, service, HTTP in methods, UNARY in methods, known=True)
            )
        self._before.update({origin: place for origin, place in self._found.items() if place.carried})
        while len(self._before) > _MOST:
            del self._before[next(iter(self._before))]
        self._found = {}
        self._generation = self._table.generation

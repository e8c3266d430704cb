"""What an xDS server tells: who serves which namespace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from ...core.errors import InvalidArgumentError
from ..addresses import split_address
from ..names import checked_name


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A collector that accepts calls of a namespace.

    Raises:
        InvalidArgumentError: the address is not one, or the weight is not 1 to 65535.
    """

    address: str
    weight: int = 1
    """Its share, compared with those of the others."""

    def __post_init__(self) -> None:
        split_address(self.address)
        if type(self.weight) is not int or not 1 <= self.weight <= 65_535:
            raise InvalidArgumentError(f"weight must be 1 to 65535, not {self.weight!r}")


@dataclass(frozen=True, slots=True)
class Offer:
    """A namespace, as it is served now."""

    endpoints: tuple[Endpoint, ...] = ()
    idempotent: tuple[str, ...] = ()
    """Paths of methods that may be repeated, such as ``"/shop.OrderService/List"``."""


class EndpointSource(Protocol):
    """Knows who serves what, and says when that has changed."""

    def offers(self) -> Mapping[str, Offer]:
        """What there is now, by namespace."""

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back after each change, on the event loop; what is returned ends that."""


class Endpoints:
    """An `EndpointSource` that is told what there is."""

    def __init__(self) -> None:
        self._offers: dict[str, Offer] = {}
        self._callbacks: dict[object, Callable[[], None]] = {}

    def set(
        self, namespace: str, endpoints: Iterable[Endpoint | str], idempotent: Iterable[str] = ()
    ) -> None:
        """A namespace is served by these from now on; there are none while it is only known.

        Raises:
            InvalidArgumentError: a name or an address is none.
        """
        checked_name("namespace", namespace)
        chosen = (each if isinstance(each, Endpoint) else Endpoint(each) for each in endpoints)
        self._change(namespace, Offer(tuple(dict.fromkeys(chosen)), tuple(sorted({*idempotent}))))

    def remove(self, namespace: str) -> None:
        """There is no such namespace any more."""
        self._change(namespace, None)

    def offers(self) -> Mapping[str, Offer]:
        """See `EndpointSource.offers`."""
        return dict(self._offers)

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """See `EndpointSource.on_change`."""
        key = object()
        self._callbacks[key] = callback
        return lambda: void(self._callbacks.pop(key, None))

    def _change(self, namespace: str, offer: Offer | None) -> None:
        if self._offers.get(namespace) == offer:
            return
        if offer is None:
            del self._offers[namespace]
        else:
            self._offers[namespace] = offer
        for callback in tuple(self._callbacks.values()):
            callback()


def void(_: object) -> None:
    """Drop a value."""

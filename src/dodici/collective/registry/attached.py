"""The registry of a collector: started and stopped with it, told of its services, and served by it."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage

from ...core.errors import InvalidArgumentError
from ...core.grpc_status import GrpcStatus
from ..contracts import Authorizer, TransportSecurity
from ..errors import CollectiveError
from ..names import LocalServices, RouteKey
from ..values import to_any
from .open import open_registry
from .publisher import Publisher
from .registry import LocalRegistry, Registry
from .server import RegistryServer
from .types import ServiceTypes

_TYPES_AGE = 30.0
"""Seconds for which what another process said of a service's types is believed, and that it said nothing."""
_TYPES_KEPT = 1000


class AttachedRegistry:
    """Joins a registry to a collector.

    One that was given as a `Registry` belongs to whoever made it, who starts and stops it; others are the
    collector's own. One that is kept in this process, or in an etcd, is served to others; one at an address is not.

    Raises:
        InvalidArgumentError: what is given is no registry (see `open_registry`).
    """

    def __init__(
        self,
        given: Any,
        services: LocalServices,
        *,
        authorizer: Authorizer | None = None,
        security: TransportSecurity | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.registry: Registry = open_registry(given, security=security)
        self._own = self.registry is not given
        self._authorizer = authorizer
        self._publisher = Publisher(self.registry, services)
        self._clock = clock
        self._types: OrderedDict[tuple[str, str], tuple[float, ServiceTypes | None]] = OrderedDict()

    def handlers(self) -> dict[str, Any]:
        """What the collector's server serves of it, by path."""
        if not isinstance(self.registry, LocalRegistry):
            return {}
        return RegistryServer(self.registry, self._authorizer).handlers()

    async def start(self) -> None:
        """Open it, and begin to tell it what the collector serves.

        Raises:
            CollectiveError: it cannot be opened.
        """
        if self._own:
            await self.registry.start()
        self._publisher.start()

    async def settled(self) -> None:
        """Return when everything that the collector serves was registered, or refused."""
        await self._publisher.settled()

    async def stop(self) -> None:
        """Close it. What is registered stays so."""
        await self._publisher.stop()
        if self._own:
            await self.registry.stop()

    async def pack(self, key: RouteKey, value: Any) -> AnyMessage:
        """A value as the input of a method: a dict, and None, as a message of its type, by the registered descriptors.

        All else, and where they do not tell, by the table in `values.py`.

        Raises:
            InvalidArgumentError: the value has no form on the wire.
            CollectiveError: INVALID_ARGUMENT: the dict does not fit the type; it names the field.
        """
        if value is None or isinstance(value, dict):
            types = await self._types_of(key.namespace, key.service)
            if types is not None and key.method in types.methods:
                return types.pack(key.method, value)
        return to_any(value)

    async def unpack(self, key: RouteKey, packed: AnyMessage) -> Any:
        """What an `Any` of a type that this process does not know holds, by the descriptors of the called service.

        It stays an `Any` where they do not tell, or the registry does not answer.

        Raises:
            CollectiveError: INVALID_ARGUMENT: it is broken.
        """
        types = await self._types_of(key.namespace, key.service)
        return packed if types is None else types.unpack(packed)

    async def _types_of(self, namespace: str, service: str) -> ServiceTypes | None:
        local = isinstance(self.registry, LocalRegistry)
        if not local:
            known = self._types.get((namespace, service))
            if known is not None and known[0] > self._clock():
                return known[1]
        else:
            known = None
        types: ServiceTypes | None = None
        try:
            types = await self.registry.types(namespace, service)
        except CollectiveError as error:
            # What it said last is worth more than nothing, unless it says that there is nothing.
            if known is not None and error.grpc_status is not GrpcStatus.NOT_FOUND:
                types = known[1]
        except InvalidArgumentError:
            pass
        if not local:
            self._types[namespace, service] = (self._clock() + _TYPES_AGE, types)
            self._types.move_to_end((namespace, service))
            if len(self._types) > _TYPES_KEPT:
                self._types.popitem(last=False)
        return types

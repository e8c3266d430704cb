"""Telling a registry what a collector serves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from google.protobuf.descriptor_pb2 import ServiceDescriptorProto

from ...core.grpc_status import GrpcStatus
from ..discovery.backoff import Backoff
from ..errors import CollectiveError, call_error
from ..names import OWN, CallKind, LocalServices
from .catalogue import added
from .registry import Registry, register_descriptor
from .types import unnamed_service

if TYPE_CHECKING:
    from google.protobuf.descriptor import ServiceDescriptor

log = logging.getLogger("dodici.collective")
_TRIES = 5
_LATER = frozenset({GrpcStatus.UNAVAILABLE, GrpcStatus.DEADLINE_EXCEEDED, GrpcStatus.ABORTED})


class Publisher:
    """Keeps a registry told of what a collector serves, as long as it runs.

    A registry that does not answer is tried again, for ever. What one refuses is logged, and tried again with the
    next change. Nothing is taken back: a method that this collector does not serve any more, others may.

    A registry of another make may know of no additions, so that two collectors which add methods to one service at the
    same moment overwrite each other. So each looks again later, and adds what is missing.

    Args:
        registry: which is told.
        services: what of.
        look_again: seconds after a registration at which it is looked at; the last is repeated.
    """

    def __init__(
        self, registry: Registry, services: LocalServices, *, look_again: Sequence[float] = (1.0, 5.0, 60.0)
    ) -> None:
        self._registry = registry
        self._services = services
        self._look_again = look_again
        self._changed = asyncio.Event()
        self._changed.set()
        self._settled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        services.on_change(self._note)

    def start(self) -> None:
        """Begin."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def settled(self) -> None:
        """Return when everything was registered, or refused."""
        await self._settled.wait()

    async def stop(self) -> None:
        """End; what is registered stays so."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            self._note()  # for the next start

    def _note(self) -> None:
        self._settled.clear()
        self._changed.set()

    async def _run(self) -> None:
        backoff = Backoff()
        looks = 0
        while True:
            if not self._changed.is_set() and not await self._is_changed(looks):
                looks += 1
            else:
                looks = 0
            self._changed.clear()
            try:
                await publish(self._registry, self._services)
                backoff.reset()
            except CollectiveError as error:
                if error.grpc_status in _LATER:
                    wait = backoff.next()
                    log.warning("the registry was not told, and is again in %.1f s: %s", wait, error)
                    await asyncio.sleep(wait)
                    self._changed.set()
                    continue
                log.error("the registry refuses what this collector serves: %s", error)
            if not self._changed.is_set():
                self._settled.set()

    async def _is_changed(self, looks: int) -> bool:
        """Wait for a change, or until it is time to look again. Returns whether there is a change."""
        try:
            async with asyncio.timeout(self._look_again[min(looks, len(self._look_again) - 1)]):
                return await self._changed.wait()
        except TimeoutError:
            return False


async def publish(registry: Registry, services: LocalServices) -> None:
    """Register what a collector serves.

    A service with a descriptor is registered as that says. Of one without, its methods are added to what others have
    registered under its name: two collectors may each serve some of them.

    Raises:
        CollectiveError: a service could not be registered; those before it are.
    """
    methods: dict[tuple[str, str], dict[str, tuple[CallKind, bool]]] = {}
    for route in services.routes():
        # Under its own name, and not under the short one: by that the registry finds it, too.
        # What is the collective's own needs no registration.
        spec = services.find(*route.key)
        if spec is not None and not spec.method.startswith(OWN):
            methods.setdefault((spec.namespace, spec.service), {})[spec.method] = (spec.kind, spec.idempotent)
    for (namespace, service), found in methods.items():
        descriptor: ServiceDescriptor | None = services.descriptors.get(service)
        if descriptor is not None and found.keys() >= {method.name for method in descriptor.methods}:
            await register_descriptor(registry, namespace, descriptor)
            for method in descriptor.methods:
                del found[method.name]
        if found:
            await _add_methods(registry, namespace, service, found)


async def _add_methods(
    registry: Registry, namespace: str, service: str, methods: dict[str, tuple[CallKind, bool]]
) -> None:
    for _ in range(_TRIES):
        wanted = unnamed_service(service, methods)
        known: ServiceDescriptorProto | None = None
        try:
            record = await registry.lookup(namespace, service)
            if record.service_name == service:  # and not another that is found by its short name
                known = record.service_descriptor
        except CollectiveError as error:
            if error.grpc_status is not GrpcStatus.NOT_FOUND:
                raise
        if known is not None:
            names = {method.name for method in known.method}
            if names.issuperset(methods):
                return
            wanted = added(known, wanted, namespace)
        # A registry that knows of no additions takes it for the whole, and somebody may do the same: look again.
        await registry.register_service(namespace, wanted, add=True)
    raise call_error(
        GrpcStatus.ABORTED, f"{service} in namespace {namespace} is being registered by too many at once"
    )

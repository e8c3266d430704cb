"""Validators over a registry: whether a method may be called at all.

They refuse by raising NOT_FOUND (INVALID_ARGUMENT for what cannot be a name), and where nobody can tell, by raising
what kept them: a validator that cannot ask does not let pass. None of them changes a registry.

`validate_service_method` answers at once where it can, and otherwise with something to await.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from ...core.errors import InvalidArgumentError
from ...core.grpc_status import GrpcStatus
from ..admission import Admission
from ..contracts import Call, TransportSecurity
from ..errors import call_error
from ..names import RouteKey
from .client import RemoteRegistry
from .registry import LocalRegistry, Registry, Verdict
from .store import Store


class LocalValidator:
    """Allows what is registered in a registry of this process.

    Args:
        registry: it, or its store. Whoever made it starts and stops it.

    Raises:
        InvalidArgumentError: it is neither.
    """

    def __init__(self, registry: LocalRegistry | Store) -> None:
        if isinstance(registry, LocalRegistry):
            self._registry = registry
        elif isinstance(registry, Store):
            self._registry = LocalRegistry(registry)
        else:
            raise InvalidArgumentError(f"a LocalRegistry or a Store is needed, not {type(registry).__name__}")

    def validate_service_method(self, namespace: str, service: str, method: str) -> bool | Awaitable[bool]:
        """See `Validator`."""
        if self._registry.known(namespace, service, method):
            return True
        return self._ask(namespace, service, method)

    async def _ask(self, namespace: str, service: str, method: str) -> bool:
        try:
            verdict = await self._registry.validate(namespace, service, method)
        except InvalidArgumentError as error:
            raise call_error(GrpcStatus.INVALID_ARGUMENT, error.message) from error
        return _allowed(verdict)


class RemoteValidator:
    """Allows what the registry at an address knows, and remembers what it said.

    While the registry does not answer, methods pass whose last answer is younger than `ttl`, and no others.

    Args:
        registry: its address, or a `RemoteRegistry`.
        ttl: seconds for which a yes is remembered; 0 asks each time.
        negative_ttl: the same for a no.
        timeout: seconds that the registry has for an answer.
        cache_size: how many answers are remembered.
        max_pending: how many methods may be asked about at the same time.
        security: what the connection is made with.
        clock: in seconds.

    Raises:
        InvalidArgumentError: the address is not one, or a number is out of range.
    """

    def __init__(
        self,
        registry: str | RemoteRegistry,
        *,
        ttl: float = 5.0,
        negative_ttl: float = 1.0,
        timeout: float = 2.0,
        cache_size: int = 10_000,
        max_pending: int = 1000,
        security: TransportSecurity | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if ttl < 0 or negative_ttl < 0 or timeout <= 0:
            raise InvalidArgumentError("ttl and negative_ttl are seconds, timeout is seconds above 0")
        if cache_size < 1 or max_pending < 1:
            raise InvalidArgumentError("cache_size and max_pending are at least 1")
        self._own = not isinstance(registry, RemoteRegistry)
        self._registry = (
            registry if isinstance(registry, RemoteRegistry) else RemoteRegistry(registry, security=security)
        )
        self._ttl = ttl
        self._negative_ttl = negative_ttl
        self._timeout = timeout
        self._cache_size = cache_size
        self._max_pending = max_pending
        self._clock = clock
        self._known: OrderedDict[RouteKey, tuple[float, Verdict]] = OrderedDict()
        self._pending: dict[RouteKey, asyncio.Task[Verdict]] = {}

    def validate_service_method(self, namespace: str, service: str, method: str) -> bool | Awaitable[bool]:
        """See `Validator`."""
        key = RouteKey(namespace, service, method)
        known = self._known.get(key)
        if known is not None and known[0] > self._clock():
            return _allowed(known[1])
        return self._ask(key)

    async def close(self) -> None:
        """Close the connection, if it is the validator's own. Questions that wait are refused."""
        pending = list(self._pending.values())
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending)
        if self._own:
            await self._registry.stop()

    async def _ask(self, key: RouteKey) -> bool:
        task = self._pending.get(key)
        if task is None:
            if len(self._pending) >= self._max_pending:
                raise call_error(
                    GrpcStatus.RESOURCE_EXHAUSTED,
                    f"the registry at {self._registry.address} is asked about {len(self._pending)} methods already",
                )
            task = self._pending[key] = asyncio.get_running_loop().create_task(self._remember(key))
            task.add_done_callback(lambda done: self._answered(key, done))
        # One question for all who ask the same: it does not end with the first of them who gives up.
        await asyncio.wait([task])
        if task.cancelled():
            raise call_error(GrpcStatus.UNAVAILABLE, "the validator was closed")
        return _allowed(task.result())

    async def _remember(self, key: RouteKey) -> Verdict:
        try:
            verdict = await self._registry.validate(*key, timeout=self._timeout)
        except InvalidArgumentError as error:
            raise call_error(GrpcStatus.INVALID_ARGUMENT, error.message) from error
        age = self._ttl if verdict.valid else self._negative_ttl
        if age:
            self._known[key] = (self._clock() + age, verdict)
            self._known.move_to_end(key)
            if len(self._known) > self._cache_size:
                self._known.popitem(last=False)
        return verdict

    def _answered(self, key: RouteKey, task: asyncio.Task[Verdict]) -> None:
        self._pending.pop(key, None)
        if not task.cancelled():
            task.exception()  # whoever waits raises it, and nobody may


def _allowed(verdict: Verdict) -> bool:
    if not verdict.valid:
        raise call_error(GrpcStatus.NOT_FOUND, verdict.message or "it is not registered")
    return True


def validator_of(given: Any, *, security: TransportSecurity | None = None) -> Any:
    """The validator that is meant: over a registry, a store or the address of a registry; another as it is.

    Raises:
        InvalidArgumentError: it is none.
    """
    if isinstance(given, LocalRegistry | Store):
        return LocalValidator(given)
    if isinstance(given, str | RemoteRegistry):
        return RemoteValidator(given, security=security)
    if callable(getattr(given, "validate_service_method", given)):
        return given
    if isinstance(given, Registry):
        return _Asking(given)
    raise InvalidArgumentError(
        "a validator has validate_service_method(namespace, service, method), or is a callable with these arguments, "
        f"a registry, or the address of one; not {type(given).__name__}"
    )


class _Asking:
    """Allows what a registry of somebody's own making knows."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def validate_service_method(self, namespace: str, service: str, method: str) -> bool:
        return _allowed(await self._registry.validate(namespace, service, method))


async def validate_route(
    validator: Any, namespace: str, service: str, method: str, *, deadline: float | None = None
) -> None:
    """Ask a validator before a call is sent anywhere; it fails closed.

    Args:
        validator: an object with `validate_service_method`, or a callable, plain or async; None allows everything.
        namespace: of what is to be called.
        service: its service.
        method: its method.
        deadline: on the clock of `time.monotonic()`.

    Raises:
        CollectiveError: it may not be called: NOT_FOUND, or what the validator itself says. DEADLINE_EXCEEDED if the
            validator has not answered by then.
        InvalidArgumentError: it is no validator.
    """
    admission = Admission()
    admission.set_validator(validator)
    await admission.check(Call(RouteKey(namespace, service, method), deadline=deadline))

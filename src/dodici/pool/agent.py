"""`Agent`: any origin, a pool for each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from ..core.controller import refuse
from ..core.dispatcher import Dispatcher
from ..core.errors import DodiciError, InvalidArgumentError, MaxOriginsReachedError
from ..core.handler import Handler
from ..core.options import DispatchOptions, check_count
from .base import BaseDispatcher, Origin
from .client import goodbye
from .options import client_options
from .pool import DEFAULT_CONNECTIONS, Pool

_ALIASES = 1024
"""Spellings of origins that are remembered."""


class Agent(BaseDispatcher):
    """Dispatches to any origin, over a `Pool` per origin that goes when its last connection went.

    Args:
        connections: how many at most per origin; None or 0 for no limit.
        max_origins: how many origins at a time; a dispatch to one more is refused with
            `MaxOriginsReachedError`. None for no limit.
        client_ttl: see `Pool`.
        factory: `factory(origin, options)` makes the dispatcher of an origin; by default a `Pool`.
        options: see `ClientOptions`.

    Raises:
        InvalidArgumentError: an unknown option, a bad value.
    """

    def __init__(
        self,
        *,
        connections: int | None = DEFAULT_CONNECTIONS,
        max_origins: int | None = None,
        client_ttl: float | None = None,
        factory: Callable[[str, dict[str, Any]], Dispatcher] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        client_options(options)
        if factory is not None and not callable(factory):
            raise InvalidArgumentError(f"factory must be callable, not {factory!r}")
        if max_origins is not None:
            check_count("max_origins", max_origins, minimum=1)
        self._max_origins = max_origins
        self._factory = factory
        self._pool_options = {**options, "connections": connections, "client_ttl": client_ttl}
        self._pools: dict[str, Dispatcher] = {}
        self._by_spelling: dict[str, Dispatcher] = {}
        self._leaving: set[Pool] = set()
        self._ending: list[asyncio.Future[None]] = []
        if factory is None:
            Pool(
                "http://localhost", **self._pool_options
            )  # a bad option is an error here, not at the first dispatch

    @property
    def stats(self) -> dict[str, Any]:
        """The stats of each origin's dispatcher."""
        return {origin: getattr(pool, "stats", None) for origin, pool in self._pools.items()}

    def dispatch(self, options: DispatchOptions | Mapping[str, Any], handler: Handler) -> bool:
        if type(options) is not DispatchOptions:
            checked = self._check(options, handler)
            if checked is None:
                return False
            options = checked
        pool = self._by_spelling.get(options.origin)  # type: ignore[arg-type]
        if pool is None:
            self._bind()
            if self._closed:
                return refuse(handler, self._closed_error())
            try:
                pool = self._pool_for(options.origin)
            except DodiciError as error:
                return refuse(handler, error)
        return pool.dispatch(options, handler)

    def _pool_for(self, spelling: str | None) -> Dispatcher:
        if spelling is None:
            raise InvalidArgumentError("origin is missing: an Agent needs one in every dispatch")
        origin = Origin(spelling).text
        pool = self._pools.get(origin)
        if pool is None:
            if self._max_origins is not None and len(self._pools) >= self._max_origins:
                raise MaxOriginsReachedError(
                    f"cannot connect to {origin}: max_origins is {self._max_origins} and all are in use",
                    origin=origin,
                )
            pool = (
                self._factory(origin, dict(self._pool_options))
                if self._factory
                else Pool(origin, **self._pool_options)
            )
            if not isinstance(pool, Dispatcher):
                raise InvalidArgumentError(f"factory must return a Dispatcher, not {pool!r}")
            if isinstance(pool, Pool):
                pool.parent = self
            self._pools[origin] = pool
        if len(self._by_spelling) >= _ALIASES:
            self._by_spelling.clear()
        self._by_spelling[spelling] = pool
        return pool

    def pool_empty(self, pool: Pool) -> None:
        """A pool has neither connections nor work. It is let go: the next dispatch makes another."""
        if self._pools.get(pool.origin or "") is pool and not self._closed:
            del self._pools[pool.origin or ""]
            self._leaving = {left for left in (*self._leaving, pool) if left.sockets}
            for spelling in [key for key, value in self._by_spelling.items() if value is pool]:
                del self._by_spelling[spelling]

    def forward(self, event: str, origin: str, targets: list[Any], *args: Any) -> None:
        self.emit(event, origin, [self, *targets], *args)

    def _close(self) -> Coroutine[Any, Any, None]:
        self._by_spelling.clear()  # at once: what is dispatched from now on is refused
        return self._close_pools()

    async def _close_pools(self) -> None:
        await asyncio.gather(*(pool.close() for pool in list(self._pools.values())))
        await self._left()
        self._destroyed = True

    def _fail_all(self, error: BaseException) -> None:
        self._by_spelling.clear()
        self._ending = [asyncio.ensure_future(pool.destroy(error)) for pool in self._pools.values()]

    async def _gone(self) -> None:
        await asyncio.gather(*self._ending)
        await self._left()

    async def _left(self) -> None:
        """Wait for the sockets of pools that were let go."""
        await asyncio.gather(*(goodbye(pool.sockets) for pool in self._leaving))

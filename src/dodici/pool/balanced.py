"""`BalancedPool`: several upstreams that serve the same, chosen by weight.

Weights begin at 100. A connection that fails costs its upstream 15, one that is made earns 15 back; so a
sick upstream is asked less and less, but never forgotten (undici's scheme).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..core.controller import refuse
from ..core.dispatcher import Dispatcher
from ..core.errors import (
    BalancedPoolMissingUpstreamError,
    ClientClosedError,
    InvalidArgumentError,
    SocketError,
)
from ..core.handler import Handler
from ..core.options import DispatchOptions, check_count
from .base import BaseDispatcher, Origin
from .options import client_options
from .pool import Pool


class _Upstream:
    __slots__ = ("pool", "weight")

    def __init__(self, pool: Any, weight: int) -> None:
        self.pool = pool
        self.weight = weight


class BalancedPool(BaseDispatcher):
    """Dispatches to the upstreams in turn, the healthier ones more often.

    Args:
        upstreams: an origin or several.
        max_weight: an upstream's weight in full health.
        error_penalty: what a failed connection costs, and a new one earns.
        factory: `factory(origin, options)` makes an upstream's dispatcher; by default a `Pool`.
        options: see `Pool` and `ClientOptions`.

    Raises:
        InvalidArgumentError: a malformed origin, an unknown option, a bad value.
    """

    def __init__(
        self,
        upstreams: str | Iterable[str] = (),
        *,
        max_weight: int = 100,
        error_penalty: int = 15,
        factory: Callable[[str, dict[str, Any]], Dispatcher] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        client_options(
            {key: value for key, value in options.items() if key not in ("connections", "client_ttl")}
        )
        self._max_weight = check_count("max_weight", max_weight, minimum=1)
        self._penalty = check_count("error_penalty", error_penalty, minimum=1)
        self._factory = factory
        self._options = options
        self._upstreams: dict[str, _Upstream] = {}
        self._removing: list[asyncio.Task[None]] = []
        self._ending: list[asyncio.Future[None]] = []
        self._order: list[_Upstream] = []
        self._index = -1
        self._current = 0
        self._step = 1
        self._heaviest = 0
        for upstream in (upstreams,) if isinstance(upstreams, str) else upstreams:
            self.add_upstream(upstream)

    @property
    def upstreams(self) -> list[str]:
        """The origins, in the order of their adding."""
        return list(self._upstreams)

    @property
    def stats(self) -> dict[str, Any]:
        """The stats of each upstream."""
        return {origin: getattr(upstream.pool, "stats", None) for origin, upstream in self._upstreams.items()}

    def add_upstream(self, origin: str) -> BalancedPool:
        """Add an upstream; one that is there already stays as it is."""
        key = Origin(origin).text
        if key not in self._upstreams:
            pool = self._factory(key, dict(self._options)) if self._factory else Pool(key, **self._options)
            if not isinstance(pool, Dispatcher):
                raise InvalidArgumentError(f"factory must return a Dispatcher, not {pool!r}")
            upstream = self._upstreams[key] = _Upstream(pool, self._max_weight)
            # They serve the same, so any of them will do to make a URL of a path.
            self.origin = self.origin or key
            pool.on("connect", lambda origin, targets: self._healthier(upstream, origin, targets))
            pool.on(
                "connection_error",
                lambda o, targets, error: self._failed("connection_error", upstream, o, targets, error),
            )
            pool.on(
                "disconnect",
                lambda o, targets, error: self._failed("disconnect", upstream, o, targets, error),
            )
            pool.on("drain", lambda origin, targets: self.emit("drain", origin, [self, *targets]))
            self._reweigh()
        return self

    def remove_upstream(self, origin: str) -> BalancedPool:
        """Take an upstream out. What it was given is finished, in the background."""
        upstream = self._upstreams.pop(Origin(origin).text, None)
        if upstream is not None:
            self._reweigh()
            if self._loop is not None and not self._loop.is_closed():
                self._removing = [task for task in self._removing if not task.done()]
                self._removing.append(self._loop.create_task(upstream.pool.close()))
        return self

    def get_upstream(self, origin: str) -> Dispatcher | None:
        """The dispatcher of an upstream."""
        upstream = self._upstreams.get(Origin(origin).text)
        return upstream.pool if upstream is not None else None

    def dispatch(self, options: DispatchOptions | Mapping[str, Any], handler: Handler) -> bool:
        self._bind()
        checked = self._check(options, handler)
        if checked is None:
            return False
        if self._closed:
            return refuse(handler, self._closed_error())
        upstream = self._choose()
        if upstream is None:
            return refuse(handler, BalancedPoolMissingUpstreamError())
        return upstream.pool.dispatch(checked, handler)  # type: ignore[no-any-return]

    def _choose(self) -> _Upstream | None:
        """Weighted round robin over those that are not busy; the heaviest if all are."""
        order = self._order
        if any(upstream.pool.closed for upstream in order):
            order = [upstream for upstream in order if not upstream.pool.closed]
        if not order:
            return None
        for _ in range(len(order)):
            self._index = (self._index + 1) % len(order)
            if self._index == 0:
                self._current -= self._step
                if self._current <= 0:
                    self._current = self._heaviest
            upstream = order[self._index]
            if upstream.weight >= self._current and not getattr(upstream.pool, "busy", False):
                return upstream
        free = [upstream for upstream in order if not getattr(upstream.pool, "busy", False)]
        return max(free or order, key=lambda upstream: upstream.weight)

    def _reweigh(self) -> None:
        self._order = list(self._upstreams.values())
        weights = [upstream.weight for upstream in self._order]
        self._step = math.gcd(*weights) if weights else 1
        self._heaviest = max(weights, default=0)
        self._current = min(self._current, self._heaviest)

    def _healthier(self, upstream: _Upstream, origin: str, targets: list[Any]) -> None:
        upstream.weight = min(self._max_weight, upstream.weight + self._penalty)
        self._reweigh()
        self.emit("connect", origin, [self, *targets])

    def _failed(
        self, event: str, upstream: _Upstream, origin: str, targets: list[Any], error: BaseException
    ) -> None:
        if event == "connection_error" or isinstance(error, SocketError):
            upstream.weight = max(1, upstream.weight - self._penalty)
            self._reweigh()
        self.emit(event, origin, [self, *targets], error)

    async def _close(self) -> None:
        await asyncio.gather(*(upstream.pool.close() for upstream in self._order), *self._removing)
        self._destroyed = True

    def _fail_all(self, error: BaseException) -> None:
        self._ending = [asyncio.ensure_future(upstream.pool.destroy(error)) for upstream in self._order]

    async def _gone(self) -> None:
        ending = [*self._ending, *self._removing]
        for result in await asyncio.gather(*ending, return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, ClientClosedError):
                raise result

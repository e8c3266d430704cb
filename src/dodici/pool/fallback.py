"""HTTP/1.1 beside HTTP/2: for what a server does not do over HTTP/2.

Upgrades are such a thing: HTTP/2 has none but WebSocket's (RFC 8441), and few servers have that. What cannot go over
the connection that was negotiated goes over one that offers HTTP/1.1 alone, as browsers do it for `wss`.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Any

from ..core.controller import Exchange

if TYPE_CHECKING:
    from .options import ClientOptions
    from .pool import Pool


class Fallback:
    """A pool over HTTP/1.1, made when it is first needed.

    Args:
        owner: whose exchanges it takes, and who is told of its events by `forward`.
        options: the owner's.
    """

    def __init__(self, owner: Any, options: ClientOptions) -> None:
        self._owner = owner
        self._options = options
        self._pool: Pool | None = None
        self._ending: asyncio.Future[None] | None = None

    def take(self, exchange: Exchange) -> None:
        """Own an exchange from now on."""
        if self._pool is None:
            from .pool import Pool

            options = {
                field.name: getattr(self._options, field.name) for field in dataclasses.fields(self._options)
            }
            self._pool = Pool(self._owner.origin, **{**options, "allow_h2": False})
            self._pool.parent = self
            self._pool._bind()
        self._pool.take(exchange)

    @property
    def used(self) -> bool:
        """Whether there is anything to close."""
        return self._pool is not None

    async def close(self) -> None:
        """Return when what it has taken has ended."""
        if self._pool is not None and not self._pool.destroyed:
            await self._pool.close()

    def fail_all(self, error: BaseException) -> None:
        """Destroy: fail everything with `error`."""
        if self._pool is not None:
            self._ending = asyncio.ensure_future(self._pool.destroy(error))

    async def gone(self) -> None:
        """Return when what `fail_all` began is done."""
        if self._ending is not None:
            await self._ending

    def forward(self, event: str, origin: str, targets: list[Any], *args: Any) -> None:
        self._owner.forward(event, origin, targets, *args)

    def pool_empty(self, pool: Pool) -> None:
        """It may stay: an empty pool costs nothing."""

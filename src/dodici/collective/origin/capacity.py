"""The one flow-control signal: from an origin's workers to the peers.

The dispatcher that reaches an origin tells how much of it accepts requests. This collector acts by it in the same loop
turn (`Capacity.share`: see `router.py`), and tells its peers, who choose it for the origin's methods as often as the share
says, and not at all at 0.0. The change is acknowledged to whoever made it when they have.

Several changes, of one origin or of many, wait for nothing of each other: an announcement is the state as it is when
there is room for it, with a version, and whoever has acknowledged that version has seen all that was before it. So a
change that is taken back before anybody was told costs nothing, and both of its ends are acknowledged at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from ..names import Capacity
from ..peers import silence

if TYPE_CHECKING:
    from ...core.dispatcher import Dispatcher
    from ..names import LocalServices
    from ..peers import Peers


class OriginCapacity(Capacity):
    """The capacity of an origin. All of its methods' specs have the same one.

    Args:
        services: what the collector serves.
        peers: who is told.
        origin: ``"http://orders.local"``.
    """

    __slots__ = ("_end", "_origin", "_peers", "_services")

    def __init__(self, services: LocalServices, peers: Peers, origin: str) -> None:
        super().__init__()
        self._services = services
        self._peers = peers
        self._origin = origin
        self._end: Callable[[], None] | None = None

    def watch(self, dispatcher: Dispatcher) -> None:
        """Follow what the dispatcher tells, from now on. An origin of which it knows nothing accepts all.

        Nothing if it is followed already. To be called on the collector's loop.
        """
        if self._end is None:
            self._end = dispatcher.watch_capacity(self._origin, self._changed)

    def unwatch(self) -> None:
        """Follow it no more."""
        end, self._end = self._end, None
        if end is not None:
            end()
        self.share = 1.0

    def _changed(self, share: float) -> Awaitable[None] | None:
        if share == self.share:
            return None
        self.share = share
        self._services.touched()
        version = self._peers.publish()
        if self._peers.draining or not self._peers.silent(version):
            return None  # who drains has told them, and has waited for their answers
        return self._acknowledged(version)

    async def _acknowledged(self, version: int) -> None:
        try:
            await self._peers.acknowledged(version)
        except asyncio.CancelledError:
            # Who waits for this has no more time: that is said of those who are silent, and not of this collector.
            members = self._peers.silent(version)
            if not members:
                raise
            raise silence(members) from None

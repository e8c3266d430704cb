"""Who is told how much of a name's workers accepts requests, and what a change of it has to wait for.

A member that applies a snapshot tells its watchers in the same loop turn: from then on neither it nor they choose what
does not accept. What a watcher returns (others have to be told, say) runs as a task, and the member acknowledges the
snapshot when all of them have ended. So whoever made the change hears of it when it holds beyond the mesh, too.

Invariants: a watcher is told each share once, in order, the first one while it is added; after its end, or that of the
dispatcher through which it came, nothing. Every task is awaited, or cancelled at its deadline, by whoever applied the
change; one that nobody applied (the first share, a dispatcher that closes) is only looked after, so that what it raises
is not lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ..core.errors import MeshTimeoutError

if TYPE_CHECKING:
    from ..core.dispatcher import CapacityListener

Named: TypeAlias = "tuple[str, str, int]"
"""Who is silent: id, name, pid; the pid is 0 for one that is no member of the mesh."""
Change: TypeAlias = "asyncio.Task[None]"

_ENDING = 0.5
"""Seconds that a change has to end in when it is cancelled."""

_log = logging.getLogger("dodici.mesh")


@dataclass(slots=True, eq=False)
class _Watch:
    name: str
    on_change: CapacityListener
    owner: object
    share: float = -1.0


class Watches:
    """The watchers of a member.

    Args:
        share_of: the share of a name's workers that accepts requests now, 0.0 to 1.0.
    """

    def __init__(self, share_of: Callable[[str], float]) -> None:
        self._share_of = share_of
        self._watches: list[_Watch] = []
        self._running: set[Change] = set()

    def of(self, name: str) -> bool:
        """Whether anybody watches this name."""
        return any(watch.name == name for watch in self._watches)

    def add(
        self, name: str, on_change: CapacityListener, owner: object, *, ended: bool = False
    ) -> Callable[[], None]:
        """Tell `on_change` the share of a name, now and at each change. Returns what ends it, any number of times.

        Through an owner that has `ended` there is none, and no change.
        """
        watch = _Watch(name, on_change, owner)
        if not ended:
            self._watches.append(watch)
        self._tell(watch, 0.0 if ended else self._share_of(name))

        def end() -> None:
            if watch in self._watches:
                self._watches.remove(watch)

        return end

    def refresh(self) -> list[Change]:
        """Tell those whose share has changed. Returns what is to be waited for."""
        changes = []
        for watch in tuple(self._watches):
            share = self._share_of(watch.name)
            if share != watch.share and watch in self._watches:
                change = self._tell(watch, share)
                if change is not None:
                    changes.append(change)
        return changes

    def end(self, owner: object) -> None:
        """Nothing is dispatched through the owner any more: its watchers are told 0.0, and nothing after it."""
        for watch in [watch for watch in self._watches if watch.owner is owner]:
            self._watches.remove(watch)
            if watch.share:
                self._tell(watch, 0.0)

    def _tell(self, watch: _Watch, share: float) -> Change | None:
        watch.share = share
        loop = asyncio.get_running_loop()
        try:
            due = watch.on_change(share)
        except Exception as error:
            loop.call_exception_handler(
                {"message": f"a watcher of {watch.name!r} raised", "exception": error}
            )
            return None
        if due is None:
            return None
        change: Change = loop.create_task(_awaited(due))
        self._running.add(change)
        change.add_done_callback(self._ended)
        return change

    def _ended(self, change: Change) -> None:
        self._running.discard(change)
        error = None if change.cancelled() else change.exception()
        if isinstance(error, MeshTimeoutError):
            _log.warning("a change of capacity: %s", error)
        elif error is not None:
            change.get_loop().call_exception_handler(
                {"message": "a watcher of capacity failed", "exception": error, "task": change}
            )


async def _awaited(due: Awaitable[None]) -> None:
    await due


async def settled(changes: Collection[Change], patience: float | None, me: Named) -> list[Named]:
    """Return when these changes have ended, cancelling those that have not after `patience` seconds.

    Returns:
        Who has not applied them: those whom a change has named, and `me` where one has named nobody.
    """
    if not changes:
        return []
    _, late = await asyncio.wait(changes, timeout=patience)
    for change in late:
        change.cancel()
    if late:
        await asyncio.wait(late, timeout=_ENDING)
    silent: dict[Named, None] = {}
    for change in changes:
        error = None
        if change.done() and not change.cancelled():
            error = change.exception()
        if isinstance(error, MeshTimeoutError) and error.members:
            silent.update(dict.fromkeys(error.members))
        elif change in late:
            silent[me] = None
    return list(silent)

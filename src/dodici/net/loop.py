"""What the connections of one event loop share: coarse timers and a batch of writes.

Requests issued in one loop turn leave in one write per connection. The batch also keeps responses apart: a
write waits until the loop has polled its sockets once since the dispatch, and the readers found by that
poll have run. Bytes that a server sent on an idle connection are therefore seen before a request is written
on it, and can never be taken for its answer.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Protocol

from ..core.timers import Timers

Loop = asyncio.AbstractEventLoop


class Flushable(Protocol):
    """Something with writes to make."""

    def flush(self) -> None: ...


class WriteBatch:
    """Flushes those who asked, two turns of the loop later.

    One turn is not enough: a turn runs what was scheduled first and the readers that its poll found after it,
    so only the turn after the next begins with every reader of a whole poll behind it.
    """

    __slots__ = ("_loop", "_ready", "_scheduled", "_staged")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._staged: list[Flushable] = []
        self._ready: list[Flushable] = []
        self._scheduled = False

    def add(self, item: Flushable) -> None:
        self._staged.append(item)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        ready = self._ready
        self._ready = self._staged
        self._staged = []
        if self._ready:
            self._loop.call_soon(self._turn)
        else:
            self._scheduled = False
        for item in ready:
            try:
                item.flush()
            except Exception as error:
                # One connection's failure is not the others'.
                self._loop.call_exception_handler(
                    {"message": f"writing on {item!r} failed", "exception": error}
                )


class LoopServices:
    """The services of one loop; get them with `services()`."""

    __slots__ = ("batch", "thread", "timers")

    def __init__(self, loop: Loop) -> None:
        self.thread = threading.get_ident()
        self.timers = Timers(loop)
        self.batch = WriteBatch(loop)


_services: dict[Loop, LoopServices] = {}


def services(loop: Loop) -> LoopServices:
    """The services of a loop that runs in this thread."""
    found = _services.get(loop)
    if found is None or found.thread != threading.get_ident():
        for closed in [other for other in list(_services) if other.is_closed()]:
            _services.pop(closed, None)
        found = _services[loop] = LoopServices(loop)
    return found

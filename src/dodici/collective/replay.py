"""The input of a stream on its way to another collector: what of it is kept for another attempt, and for how long.

`Input` owns the source. It reads it in a task of its own, no further than the attempt has taken and one message, so that
an attempt that ends takes nothing with it; it is closed once, with its source. What is kept is counted: `KEPT` for each
stream, more as long as there is `Room` in what all streams share.

Where an origin may refuse what comes late, no more than that is sent before it has begun (`Caution`): the end of a
carried exchange says so with an empty message, of all else it is believed after a moment.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Final, NamedTuple, cast

from ..core.closing import aclose
from ..core.grpc_status import GrpcStatus
from .errors import call_error

KEPT: Final = 64 * 1024
"""Bytes of a stream's input that are kept for another attempt, whatever others keep."""
KEPT_WITH_ROOM: Final = 1024 * 1024
"""The same, as long as there is room in what all streams share."""
_DRAINED: Final = 0.25
"""Seconds for which the input of a call that has failed is read."""
_PAUSE: Final = 0.02
"""Seconds after which a client that sends nothing is not about to."""


class Room:
    """Bytes that the inputs of all streams may keep beyond `KEPT` each, together."""

    __slots__ = ("left",)

    def __init__(self, left: int = 16 * 1024 * 1024) -> None:
        self.left = left


class Caution(NamedTuple):
    """How the input of a stream is sent while it is not known whether the call will be refused unseen."""

    seconds: float
    """How long that may take."""
    most: int
    """Bytes that are sent meanwhile."""


NO_CAUTION: Final = Caution(0.0, 0)


class _OnIteration:
    """Makes its iterator when it is iterated over, for the iteration alone: it is closed when that is dropped."""

    def __init__(self, make: Callable[[], AsyncIterator[bytes]]) -> None:
        self._make = make

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._make()


class Input:
    """The input of a stream, which attempts read from its start for as long as all of it is kept.

    Its source is read no further than the attempt has taken, and one message.

    Args:
        source: yields it.
        room: what inputs may keep together.
        caution: how it waits for who runs the call to have `begun()`, or to refuse it, where more would have to be sent
            than may be kept.
    """

    def __init__(self, source: AsyncIterator[bytes], room: Room, caution: Caution = NO_CAUTION) -> None:
        self.whole = True
        """Another attempt can be made: nothing was dropped."""
        self.error: BaseException | None = None
        """What the source raised."""
        self._source = source
        self._kept: deque[bytes] = deque()
        self._dropped = 0
        self._taken = 0
        self._bytes = 0
        self._room = room
        self._borrowed = 0
        self._patience, self._cautious = caution
        self._held_back = False
        self._reader = 0
        self._ended = False
        self._forgetting = False
        self._draining = False
        self._read_so_far = 0
        self._news = asyncio.Event()
        self._wanted = asyncio.Event()
        self._task = asyncio.create_task(self._pump())

    def from_start(self) -> AsyncIterator[bytes]:
        """All of it, for an attempt here, which takes no more of it than it can use. Ends whatever an earlier attempt reads."""
        return self._read(self._again(held_back=False))

    def for_transport(self) -> AsyncIterator[bytes]:
        """All of it, for an attempt elsewhere. A source that has `abandon()` is told when the transport lets go of it, and no other attempt
        will be made: whoever waits for room there may not read the answers, and would not hear of the end.
        """
        watched = partial(self._watched, self._again(held_back=True))
        return cast("AsyncIterator[bytes]", _OnIteration(watched))

    def _again(self, *, held_back: bool) -> int:
        """Another attempt begins. Returns its number."""
        self._reader += 1
        self._taken = 0
        self._held_back = held_back
        self._news.set()
        return self._reader

    async def _watched(self, reader: int) -> AsyncIterator[bytes]:
        try:
            async for payload in self._read(reader):
                yield payload
        finally:
            abandon = getattr(self._source, "abandon", None)
            if abandon is not None and self._forgetting and reader == self._reader and not self._ended:
                abandon()

    def begun(self) -> None:
        """Who runs the call reads its input, and will hardly refuse it any more."""
        self._patience = 0.0
        self._news.set()

    def forget(self) -> None:
        """No other attempt will be made."""
        self._forgetting = True
        self.whole = False
        self.begun()

    async def drain(self) -> None:
        """Read on, for nobody, until the source ends, or pauses: nobody is to be refused while he writes."""
        self._draining = True
        self._reader += 1
        self._wanted.set()
        deadline = time.monotonic() + _DRAINED
        seen = -1
        while not self._task.done() and seen != self._read_so_far and time.monotonic() < deadline:
            seen = self._read_so_far
            await asyncio.wait([self._task], timeout=_PAUSE)

    async def close(self) -> None:
        """Stop reading the source, and close it."""
        self._reader += 1
        self._ended = True
        self._news.set()
        self._give_back()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self, reader: int) -> AsyncIterator[bytes]:
        while reader == self._reader:
            if self._taken - self._dropped < len(self._kept):
                payload = self._kept[self._taken - self._dropped]
                self._taken += 1
                full = self._forgetting or not self._fits()
                if self._held_back and self._patience and (full or self._bytes > self._cautious):
                    if 1 < self._taken == self._dropped + len(self._kept):
                        await self._hold(reader)
                        if reader != self._reader:
                            return
                    full = self._forgetting or (full and not self._patience)
                if full:
                    self._drop()
                self._wanted.set()
                yield payload
            elif self._ended:
                if self.error is not None:
                    raise self.error
                return
            else:
                self._news.clear()
                self._wanted.set()
                await self._news.wait()

    def _fits(self) -> bool:
        """Whether what is kept may be."""
        more = self._bytes - KEPT - self._borrowed
        if more > 0:
            if not self.whole or self._bytes > KEPT_WITH_ROOM or more > self._room.left:
                return False
            self._room.left -= more
            self._borrowed += more
        return True

    async def _hold(self, reader: int) -> None:
        """Wait for it to have begun, or for another attempt."""
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._patience, self.begun)
        try:
            while self._patience and reader == self._reader:
                self._news.clear()
                await self._news.wait()
        finally:
            timer.cancel()

    def _give_back(self) -> None:
        self._room.left += self._borrowed
        self._borrowed = 0

    def _drop(self) -> None:
        self._give_back()
        while self._dropped < self._taken:
            self._bytes -= len(self._kept.popleft())
            self._dropped += 1
            self.whole = False

    async def _pump(self) -> None:
        try:
            async for payload in self._source:
                self._read_so_far += 1
                if self._draining:
                    continue
                self._kept.append(payload)
                self._bytes += len(payload)
                self._news.set()
                while self._taken - self._dropped < len(self._kept) and not self._draining:
                    self._wanted.clear()
                    await self._wanted.wait()
        except asyncio.CancelledError:
            if self._ended:
                raise
            # By itself, not by `close()`: an input that was given up in the middle is not at its end.
            self.error = call_error(GrpcStatus.CANCELLED, "the input was cancelled")
        except Exception as error:
            self.error = error
        finally:
            self._ended = True
            self._news.set()
            await aclose(self._source)

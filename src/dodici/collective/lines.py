"""The channels of grpc that one `Channel` uses, one after the other: another certificate needs another connection,
and that another channel.

`Lines` owns them. The current one takes new calls. When the certificate has changed, another is connected beside it and
takes its place once it stands; the one before goes on until the last of its calls has ended. What has no connection
anyway is replaced at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

_log = logging.getLogger("dodici.collective")
_RENEWAL = 10.0
"""Seconds in which a connection with a new certificate has to stand."""


class Line:
    """A channel of grpc's, with its calls. Whoever begins one counts it in `calls`, and says `Lines.ended()`."""

    __slots__ = (
        "calls",
        "channel",
        "closed",
        "generation",
        "replaced",
        "retired",
        "streams",
        "unary",
        "watch",
    )

    def __init__(self, channel: Any, generation: int) -> None:
        self.channel = channel
        self.generation = generation
        self.calls = 0
        self.retired = self.closed = False
        self.replaced = asyncio.Event()
        self.watch: asyncio.Future[None] | None = None
        self.unary: dict[str, Any] = {}
        self.streams: dict[str, Any] = {}

    def connected(self) -> bool:
        """Whether there is a connection now; asks for one if not."""
        return bool(self.channel.get_state(try_to_connect=True).name == "READY")

    async def changed(self, state: Any) -> None:
        """Wait until the state is not that one, or another line has taken the place of this."""
        # grpc goes on watching for a task that is cancelled, and tells its loop in the end, which is then closed
        # perhaps. So there is one watch for all who wait, and it is not taken back.
        if self.watch is None or self.watch.done():
            self.watch = asyncio.ensure_future(self.channel.wait_for_state_change(state))
        watch = self.watch
        replaced = asyncio.ensure_future(self.replaced.wait())
        waits: list[asyncio.Future[Any]] = [watch, replaced]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            replaced.cancel()
        if watch.done() and watch.exception() is not None and not self.retired:
            watch.result()

    async def end(self) -> None:
        """Close the connection; calls on it are cancelled."""
        await self.channel.close(None)
        if self.watch is not None:
            await asyncio.wait([self.watch], timeout=1.0)
            if self.watch.done():
                self.watch.exception()


class Lines:
    """The lines to one address.

    Args:
        address: for the log.
        make: makes a channel, with the certificate as it is.
        generation: how often the certificate has changed; None: it never does.
    """

    def __init__(
        self, address: str, make: Callable[[], Any], generation: Callable[[], int] | None = None
    ) -> None:
        self._address = address
        self._make = make
        self._generation = generation
        self._lingering: set[Line] = set()
        self._closing: set[asyncio.Future[None]] = set()
        self.renewal: asyncio.Task[None] | None = None
        self.closed = False
        self.line = self._new()

    def current(self) -> Line:
        """The line for a call that begins now; begins to renew it if the certificate has changed."""
        line = self.line
        if self._generation is None or self.renewal is not None or self._generation() == line.generation:
            return line
        if self.closed:
            return line
        if not line.connected():
            self._replace(self._new())
        else:
            self.renewal = asyncio.ensure_future(self._renew())
        return self.line

    def ended(self, line: Line) -> None:
        """A call has ended."""
        line.calls -= 1
        if line.retired and not line.calls:
            self._drop(line)

    async def close(self) -> None:
        """End them all."""
        self.closed = True
        if self.renewal is not None:
            self.renewal.cancel()
            await asyncio.wait([self.renewal])
        for line in (self.line, *self._lingering):
            self._drop(line)
        while self._closing:
            await asyncio.wait(self._closing)

    def _new(self) -> Line:
        # Asked first: should the certificate change in between, it is but renewed once more.
        generation = 0 if self._generation is None else self._generation()
        return Line(self._make(), generation)

    async def _renew(self) -> None:
        fresh = self._new()
        try:
            async with asyncio.timeout(_RENEWAL):
                await fresh.channel.channel_ready()
        except TimeoutError:
            # Refused, perhaps: what is connected is worth more. The next call tries again.
            _log.warning("%s takes no connection with the new certificate", self._address)
            self._drop(fresh)
        except BaseException:
            self._drop(fresh)
            raise
        else:
            self._replace(fresh)
        finally:
            self.renewal = None

    def _replace(self, fresh: Line) -> None:
        line, self.line = self.line, fresh
        line.retired = True
        line.replaced.set()
        if line.calls:
            self._lingering.add(line)
        else:
            self._drop(line)

    def _drop(self, line: Line) -> None:
        if line.closed:
            return
        line.closed = True
        self._lingering.discard(line)
        closing = asyncio.ensure_future(line.end())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

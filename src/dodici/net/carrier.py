"""What the streams of multiplexed connections have in common: those of HTTP/2, and those of a mesh's links.

Such a stream is the carrier of its exchange, and the transport of its body. What arrives while the handler pauses is
held here, and not consumed: the peer may send what is left of its window and no more. The end, good or bad, waits
behind what is held.

Waiting for seconds is watched in two ways: one second or more by a look at all streams once per tick, so that progress
costs an assignment; less by a timer of the stream's own.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from ..core import diagnostics
from ..core.headers import Headers
from ..core.timers import COARSE, NEVER, Timer
from .body import BodyWriter

if TYPE_CHECKING:
    from ..core.controller import Exchange

CARRIER_SLOTS: Final = (
    "_connection",
    "_exact",
    "_held",
    "_outcome",
    "_room",
    "exchange",
    "patience",
    "stamp",
    "writer",
)


class StreamCarrier:
    """Mixed into the stream of an engine, which has the slots (`CARRIER_SLOTS`): two bases with slots cannot be.

    `_connection` has `loop`, `timers`, `engine`, `stage()` and `settings` (`Patience`).
    """

    if TYPE_CHECKING:
        _connection: Any
        _exact: Timer | None
        _held: deque[bytes] | None
        _outcome: Headers | BaseException | None
        _room: asyncio.Future[None] | None
        exchange: Exchange
        writer: BodyWriter | None
        stamp: float
        """`Timers.base` of the last progress: with `patience`, what is looked at once per tick."""
        patience: float
        """Seconds without progress that are too many."""
        gone: bool
        sent: bool
    else:
        __slots__ = ()

    def carry(self, connection: Any, exchange: Exchange) -> None:
        """Begin: what a constructor of the stream calls."""
        self._connection = connection
        self.exchange = exchange
        self.stamp = 0.0
        self.patience = NEVER
        self._exact = None
        self._held = None
        self._outcome = None
        self._room = None
        self.writer = None

    @abstractmethod
    def give_up(self, error: BaseException) -> None:
        """Tell the peer that nobody waits for the response, and fail the exchange."""

    @abstractmethod
    def _fail(self, error: BaseException) -> None:
        """The exchange has failed."""

    @abstractmethod
    def _finish(self, trailers: Headers) -> None:
        """The response is complete."""

    @abstractmethod
    def _deliver(self, data: bytes) -> None:
        """Give a piece of the response body to the handler."""

    # -- the exchange's side -------------------------------------------------------------------------------

    def abort_exchange(self, exchange: Exchange, error: BaseException) -> None:
        self.give_up(error)

    def pause_exchange(self, exchange: Exchange) -> None:
        if exchange.status_code >= 200:
            self._disarm()

    def resume_exchange(self, exchange: Exchange) -> None:
        self._connection.loop.call_soon(self._continue)

    @property
    def holding(self) -> bool:
        """Whether something that has arrived waits for the handler to resume."""
        return self.exchange.status_code >= 200 and (self.exchange._paused or bool(self._held))

    @property
    def phase(self) -> str:
        """Where the exchange is."""
        if self.exchange.status_code >= 200:
            return "body"
        return "headers" if self.sent else "request"

    def detach(self) -> None:
        """Let go of everything but the exchange, which somebody else takes or ends."""
        self._stop_writing()
        if self._exact is not None:
            self._exact.close()
            self._exact = None
        self.patience = NEVER
        self._held = None

    # -- delivering ----------------------------------------------------------------------------------------

    def _publish_head(self, status_code: int, headers: Headers) -> None:
        response = {"status_code": status_code, "headers": headers, "status_text": ""}
        diagnostics.REQUEST_HEADERS.publish({"request": self.exchange, "response": response})

    def _hold(self, data: bytes) -> None:
        if self._held is None:
            self._held = deque()
        self._held.append(data)

    def _delivered(self) -> None:
        """The handler has taken a piece: from now on the next one is awaited."""
        if self.exchange._paused or self._exact is not None:
            self._arm_body()
        else:
            self.stamp = self._connection.timers.base

    def _continue(self) -> None:
        """Go on after a pause: what was held, then its end."""
        exchange, held, connection = self.exchange, self._held, self._connection
        consumed = 0
        while held and not exchange._paused and not exchange.done:
            data = held.popleft()
            consumed += len(data)
            self._deliver(data)
        if consumed:
            connection.engine.consumed(self, consumed)
            connection.stage()
        if exchange._paused or exchange.done:
            return
        outcome = self._outcome
        if outcome is None:
            if exchange.status_code >= 200:
                self._arm_body()
        elif isinstance(outcome, Headers):
            self._finish(outcome)
        else:
            self._fail(outcome)

    def _raised(self, error: BaseException) -> None:
        """A callback of the handler has raised."""
        self.give_up(error)
        if not isinstance(error, Exception):
            raise error

    # -- the body's task -----------------------------------------------------------------------------------

    def write_body(self) -> None:
        """Begin to send a body that has a task of its own; the head was sent."""
        self.writer = BodyWriter(self, self.exchange, self._connection.loop)  # type: ignore[arg-type]

    async def _wait_for_room(self) -> None:
        """Wait until whoever fulfils `_room` does so."""
        room = self._room = self._connection.loop.create_future()
        if self.exchange.status_code < 200:
            # Only a peer that does not take the body is a reason to give up; a source may take its time.
            self.arm_headers()
        await room
        if self.exchange.status_code < 200:
            self._disarm()

    def _make_room(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def body_sent(self, exchange: Exchange) -> None:
        self.writer = None
        if self.gone or exchange.done:
            return
        self._connection.engine.end(self)
        self._connection.stage()
        if diagnostics.REQUEST_BODY_SENT.subscribers:
            diagnostics.REQUEST_BODY_SENT.publish({"request": exchange})
        if exchange.status_code < 200:
            self.arm_headers()

    def _stop_writing(self) -> None:
        writer, self.writer = self.writer, None
        if writer is not None:
            writer.cancel()

    # -- timeouts ------------------------------------------------------------------------------------------

    def arm_headers(self) -> None:
        """From now on a response head is awaited."""
        self._arm(self._connection.settings.headers_seconds(self.exchange.options))

    def _arm_body(self) -> None:
        if self.exchange._paused:
            self._disarm()
            return
        self._arm(self._connection.settings.body_seconds(self.exchange.options))

    def _arm(self, seconds: float) -> None:
        if seconds >= COARSE:
            self.stamp = self._connection.timers.base
            self.patience = seconds
            if self._exact is not None:
                self._exact.disarm()
            return
        self.patience = NEVER
        if self._exact is None:
            if not seconds:
                return
            self._exact = self._connection.timers.timer(self.timed_out)
        self._exact.arm(seconds)

    def _disarm(self) -> None:
        self.patience = NEVER
        if self._exact is not None:
            self._exact.disarm()

    def timed_out(self) -> None:
        """The deadline has passed."""
        self._disarm()
        if not self.exchange.done:
            self.give_up(self._connection.settings.timeout_error(self.exchange))

"""One exchange on an HTTP/2 connection: between the engine's stream and the handler.

A stream is the carrier of its exchange from the moment its request is written. While the handler pauses, what
arrives is held here, and not consumed: the peer may send what is left of the stream's window and no more. The end,
good or bad, waits behind what is held.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from ..core import diagnostics
from ..core.controller import Exchange
from ..core.errors import (
    ResponseExceededMaxSizeError,
    annotate,
)
from ..core.headers import Headers
from ..core.timers import COARSE, NEVER, Timer
from ..wire.h2.frames import ErrorCode
from ..wire.h2.sections import Section
from ..wire.h2.streams import Stream
from .body import PIECE, BodyWriter, DataFramer

if TYPE_CHECKING:
    from .h2_conn import H2Connection
    from .h2_tunnel import StreamTransport


class H2Stream(Stream):
    """The carrier of an exchange, and the transport of its body."""

    __slots__ = (
        "_connection",
        "_exact",
        "_held",
        "_outcome",
        "_room",
        "exchange",
        "patience",
        "stamp",
        "tunnel",
        "writer",
    )

    def __init__(self, connection: H2Connection, exchange: Exchange) -> None:
        super().__init__()
        self._connection = connection
        self.exchange = exchange
        self.stamp = 0.0
        """`Timers.base` of the last progress: with `patience`, what is looked at once per tick."""
        self.patience = NEVER
        """Seconds without progress that are too many."""
        self._exact: Timer | None = None
        self._held: deque[bytes] | None = None
        self._outcome: Headers | BaseException | None = None
        self._room: asyncio.Future[None] | None = None
        self.writer: BodyWriter | None = None
        self.tunnel: StreamTransport | None = None

    # -- the carrier's side ----------------------------------------------------------------------------

    def abort_exchange(self, exchange: Exchange, error: BaseException) -> None:
        self.give_up(error)

    def pause_exchange(self, exchange: Exchange) -> None:
        if exchange.status_code >= 200:
            self._disarm()

    def resume_exchange(self, exchange: Exchange) -> None:
        self._connection.loop.call_soon(self._continue)

    def give_up(self, error: BaseException, code: int = ErrorCode.CANCEL) -> None:
        """Reset the stream and fail the exchange."""
        if self.exchange.done:
            return
        self._connection.engine.reset(self, code)
        self._connection.stage()
        self._fail(error)

    # -- the engine's side -----------------------------------------------------------------------------

    def on_informational(self, section: Section) -> None:
        exchange = self.exchange
        if section.status_code == 100 and self.writer is not None:
            self.writer.go_on()
        if self.writer is None:
            self.arm_headers()
        if diagnostics.REQUEST_HEADERS.subscribers:
            self._publish_head(section)
        exchange.http_version = "2"
        try:
            exchange.handler.on_response_start(exchange, section.status_code, section.headers, "")
        except BaseException as error:
            self._raised(error)

    def on_head(self, section: Section) -> None:
        exchange = self.exchange
        exchange.status_code = status = section.status_code
        exchange.http_version = "2"
        if not exchange.options.plain:
            if self.writer is not None and self.writer.holding:
                # A final answer instead of 100: the body is never sent.
                self._stop_writing()
            if status < 300 and self._hand_over(section):
                return
        if diagnostics.REQUEST_HEADERS.subscribers:
            self._publish_head(section)
        try:
            exchange.handler.on_response_start(exchange, status, section.headers, "")
        except BaseException as error:
            self._raised(error)
            return
        self._arm_body()

    def on_data(self, data: bytes) -> bool:
        if self.tunnel is not None:
            return self.tunnel.on_data(data)
        if self.exchange._paused or self._held:
            if self._held is None:
                self._held = deque()
            self._held.append(data)
            return False
        self._deliver(data)
        return True

    def on_end(self, trailers: Headers) -> None:
        if self.tunnel is not None:
            self.tunnel.on_end()
        elif self.exchange._paused or self._held:
            self._outcome = trailers
            self._disarm()
        else:
            self._finish(trailers)

    def on_failed(self, error: BaseException) -> None:
        if self.tunnel is not None:
            self.tunnel.on_failed(error)
            return
        if self._connection.try_again(self, error):
            return
        if self.holding:
            if not isinstance(self._outcome, Headers):  # a complete response stays one (RFC 9113 section 8.1)
                self._outcome = error
            self._disarm()
            self._stop_writing()
        else:
            self._fail(error)

    def on_written(self, count: int) -> None:
        if self.tunnel is not None:
            self.tunnel.on_written()
            return
        self.exchange.bytes_sent += count
        if (self.ending or self._room is not None) and self.exchange.status_code < 200:
            # A peer that takes the body, however slowly, is not silent; and the time for the head runs from the
            # last byte written.
            self.arm_headers()
        if self._room is not None and self.queued < PIECE:
            if not self._room.done():
                self._room.set_result(None)
            self._room = None

    # -- delivering ------------------------------------------------------------------------------------

    def _publish_head(self, section: Section) -> None:
        response = {"status_code": section.status_code, "headers": section.headers, "status_text": ""}
        diagnostics.REQUEST_HEADERS.publish({"request": self.exchange, "response": response})

    def _deliver(self, data: bytes) -> None:
        exchange = self.exchange
        exchange.bytes_read += len(data)
        connection = self._connection
        limit = connection.settings.max_response_size
        if exchange.bytes_read > limit >= 0:
            self.give_up(ResponseExceededMaxSizeError(f"response exceeds {limit} bytes (max_response_size)"))
            return
        if diagnostics.REQUEST_BODY_CHUNK_RECEIVED.subscribers:
            diagnostics.REQUEST_BODY_CHUNK_RECEIVED.publish({"request": exchange, "chunk": data})
        try:
            exchange.handler.on_response_data(exchange, data)
        except BaseException as error:
            self._raised(error)
            return
        if exchange._paused or self._exact is not None:
            self._arm_body()
        else:
            self.stamp = connection.timers.base

    def _continue(self) -> None:
        """Go on after a pause: what was held, then its end."""
        exchange, held = self.exchange, self._held
        consumed = 0
        while held and not exchange._paused and not exchange.done:
            data = held.popleft()
            consumed += len(data)
            self._deliver(data)
        if consumed:
            self._connection.engine.consumed(self, consumed)
            self._connection.stage()
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

    def _finish(self, trailers: Headers) -> None:
        exchange = self.exchange
        connection = self._connection
        if not self.sent:
            # The answer came before the request was complete (RFC 9113 section 8.1).
            self._stop_writing()
            connection.engine.reset(self, ErrorCode.NO_ERROR)
            connection.stage()
        if self._exact is not None:
            self._exact.close()
        exchange.end()
        if diagnostics.REQUEST_TRAILERS.subscribers:
            diagnostics.REQUEST_TRAILERS.publish({"request": exchange, "trailers": trailers})
        connection.served += 1
        if connection.served == 1:
            connection.served_first()
        connection.release(self)
        try:
            exchange.handler.on_response_end(exchange, trailers)
        except Exception as error:
            # The response is complete; the handler learns of its mistake.
            exchange.done = False
            exchange.fail(error)
        connection.stream_over()

    def _fail(self, error: BaseException) -> None:
        exchange = self.exchange
        if exchange.done:
            return
        connection = self._connection
        self.detach()
        annotate(error, phase=self.phase, reused=connection.served > 0, peer=connection.peername)
        connection.release(self)
        exchange.fail(error)
        connection.stream_over()

    def _raised(self, error: BaseException) -> None:
        self.give_up(error)
        if not isinstance(error, Exception):
            raise error

    @property
    def holding(self) -> bool:
        """Whether something that has arrived waits for the handler to resume."""
        return self.exchange.status_code >= 200 and (self.exchange._paused or bool(self._held))

    @property
    def phase(self) -> str:
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

    def _hand_over(self, section: Section) -> bool:
        """Whether the stream has become a tunnel: 2xx to CONNECT, plain or extended (RFC 8441)."""
        options = self.exchange.options
        if options.upgrade is None and options.method != "CONNECT":
            return False
        from .h2_tunnel import hand_over

        self._disarm()
        hand_over(self._connection, self, section)
        return True

    # -- the body's task -------------------------------------------------------------------------------

    def write_body(self) -> None:
        """Begin to send a body that has a task of its own; the head was sent."""
        self.writer = BodyWriter(self, self.exchange, self._connection.loop)

    def framer(self, length: int) -> DataFramer:
        return DataFramer(length, strict=self._connection.settings.strict_content_length)

    def write_head(self, exchange: Exchange, length: int, parts: list[bytes | memoryview]) -> None:
        self.write_parts(exchange, parts)

    def write_parts(self, exchange: Exchange, parts: list[bytes | memoryview]) -> None:
        for part in parts:
            self._connection.engine.send(self, part)
        self._connection.stage()

    async def writable(self) -> None:
        if self.gone:
            # Its end is about to be told, and `detach` then cancels who waits here.
            await self._connection.loop.create_future()
        if self.queued >= PIECE:
            room = self._room = self._connection.loop.create_future()
            if self.exchange.status_code < 200:
                # Only a peer that does not take the body is a reason to give up; a source may take its time.
                self.arm_headers()
            await room
            if self.exchange.status_code < 200:
                self._disarm()

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

    def body_failed(self, exchange: Exchange, error: BaseException) -> None:
        self.writer = None
        if not exchange.done:
            annotate(error, phase="request")
            self.give_up(error, ErrorCode.INTERNAL_ERROR)

    def _stop_writing(self) -> None:
        writer, self.writer = self.writer, None
        if writer is not None:
            writer.cancel()

    # -- timeouts --------------------------------------------------------------------------------------

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

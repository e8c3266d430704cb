"""One exchange on an HTTP/2 connection: between the engine's stream and the handler.

A stream is the carrier of its exchange from the moment its request is written. While the handler pauses, what
arrives is held here, and not consumed: the peer may send what is left of the stream's window and no more. The end,
good or bad, waits behind what is held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core import diagnostics
from ..core.controller import Exchange
from ..core.errors import (
    ResponseExceededMaxSizeError,
    annotate,
)
from ..core.headers import Headers
from ..wire.h2.frames import ErrorCode
from ..wire.h2.sections import Section
from ..wire.h2.streams import Stream
from .body import PIECE, DataFramer
from .carrier import CARRIER_SLOTS, StreamCarrier

if TYPE_CHECKING:
    from .h2_conn import H2Connection
    from .h2_tunnel import StreamTransport


class H2Stream(StreamCarrier, Stream):
    """The carrier of an exchange, and the transport of its body."""

    __slots__ = (*CARRIER_SLOTS, "tunnel")
    _connection: H2Connection

    def __init__(self, connection: H2Connection, exchange: Exchange) -> None:
        super().__init__()
        self.carry(connection, exchange)
        self.tunnel: StreamTransport | None = None

    # -- the carrier's side ----------------------------------------------------------------------------

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
            self._publish_head(section.status_code, section.headers)
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
            self._publish_head(section.status_code, section.headers)
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
            self._hold(data)
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
            self._make_room()

    # -- delivering ------------------------------------------------------------------------------------

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
        self._delivered()

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
            await self._wait_for_room()

    def body_failed(self, exchange: Exchange, error: BaseException) -> None:
        self.writer = None
        if not exchange.done:
            annotate(error, phase="request")
            self.give_up(error, ErrorCode.INTERNAL_ERROR)

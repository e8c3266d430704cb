"""A stream that has become a tunnel (RFC 9113 section 8.5, RFC 8441): asyncio's transport over an HTTP/2 stream.

The exchange ends when the handler has its socket. What is written then goes through the engine's windows, and
reading is paused by not consuming, as everywhere; `write_eof` is END_STREAM and `abort` is RST_STREAM.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from ..wire.h2.frames import ErrorCode
from ..wire.h2.sections import Section
from .h2_stream import H2Stream
from .upgraded import UpgradedSocket
from .virtual import VirtualTransport

if TYPE_CHECKING:
    from .h2_conn import H2Connection


class StreamTransport(VirtualTransport):
    """What an `UpgradedSocket` reads and writes."""

    def __init__(self, connection: H2Connection, stream: H2Stream) -> None:
        super().__init__()
        self._connection = connection
        self._stream = stream
        self._arrived: deque[bytes] = deque()
        self._ended = False
        self._eof_told = False

    # -- the stream's side -----------------------------------------------------------------------------

    def on_data(self, data: bytes) -> bool:
        if self._closing:
            return True
        if self._paused or self._arrived:
            self._arrived.append(data)
            return False
        self._protocol.data_received(data)  # type: ignore[attr-defined]
        return True

    def on_end(self) -> None:
        self._ended = True
        self._tell_end()

    def on_failed(self, error: BaseException) -> None:
        self._lose(error if isinstance(error, Exception) else ConnectionResetError(str(error)))

    def on_written(self) -> None:
        self._sent()
        if self._closing and not self._stream.queued:
            self._lose(None)

    def _tell_end(self) -> None:
        if self._ended and not self._eof_told and not self._arrived and not self._paused and not self._lost:
            self._eof_told = True
            if not self._protocol.eof_received():  # type: ignore[attr-defined]
                self.close()

    def _lose(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = self._closing = True
            self._arrived.clear()
            self._connection.tunnel_over(self._stream)
            self._connection.loop.call_soon(self._protocol.connection_lost, error)

    # -- asyncio's side --------------------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._connection.transport.get_extra_info(name, default)

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self._connection.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        consumed = 0
        while self._arrived and not self._paused and not self._closing:
            data = self._arrived.popleft()
            consumed += len(data)
            self._protocol.data_received(data)  # type: ignore[attr-defined]
        if consumed:
            self._connection.engine.consumed(self._stream, consumed)
            self._connection.stage()
        self._tell_end()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or self._stream.ending or not data:
            return
        self._connection.engine.send(self._stream, bytes(data))
        self._connection.stage()
        self._queued()

    def write_eof(self) -> None:
        if not self._closing:
            self._connection.engine.end(self._stream)
            self._connection.stage()

    def get_write_buffer_size(self) -> int:
        return self._stream.queued

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._connection.engine.end(self._stream)
        self._connection.stage()
        if not self._stream.queued:
            self._lose(None)

    def abort(self) -> None:
        if not self._lost:
            self._connection.engine.reset(self._stream, ErrorCode.CANCEL)
            self._connection.stage()
            self._lose(None)


def hand_over(connection: H2Connection, stream: H2Stream, section: Section) -> None:
    """End the exchange by `on_request_upgrade`, with a socket over the stream."""
    exchange = stream.exchange
    transport = StreamTransport(connection, stream)
    stream.tunnel = transport
    connection.tunnel_begun(stream)
    socket = UpgradedSocket(transport, b"", connection.loop)
    exchange.end()
    try:
        exchange.handler.on_request_upgrade(exchange, section.status_code, section.headers, socket)
    except Exception as error:
        transport.abort()
        exchange.done = False
        exchange.fail(error)

"""A stream that has become a tunnel (RFC 9113 section 8.5, RFC 8441): asyncio's transport over an HTTP/2 stream.

The exchange ends when the handler has its socket. What is written then goes through the engine's windows, and
reading is paused by not consuming, as everywhere; `write_eof` is END_STREAM and `abort` is RST_STREAM.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..wire.h2.frames import ErrorCode
from ..wire.h2.sections import Section
from .h2_stream import H2Stream
from .upgraded import UpgradedSocket

if TYPE_CHECKING:
    from .h2_conn import H2Connection

_HIGH_WATER = 64 * 1024


class StreamTransport(asyncio.Transport):
    """What an `UpgradedSocket` reads and writes."""

    def __init__(self, connection: H2Connection, stream: H2Stream) -> None:
        super().__init__()
        self._connection = connection
        self._stream = stream
        self._protocol: asyncio.BaseProtocol = asyncio.Protocol()
        self._arrived: deque[bytes] = deque()
        self._paused = False
        self._ended = False
        self._eof_told = False
        self._closing = False
        self._lost = False
        self._full = False
        self._high = _HIGH_WATER

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
        if self._full and self._stream.queued <= self._high // 2:
            self._full = False
            self._protocol.resume_writing()
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

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def is_reading(self) -> bool:
        return not self._paused and not self._closing

    def pause_reading(self) -> None:
        self._paused = True

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
        if self._stream.queued > self._high and not self._full:
            self._full = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self._closing:
            self._connection.engine.end(self._stream)
            self._connection.stage()

    def get_write_buffer_size(self) -> int:
        return self._stream.queued

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._high // 2, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = high if high is not None else 4 * low if low is not None else _HIGH_WATER

    def is_closing(self) -> bool:
        return self._closing

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

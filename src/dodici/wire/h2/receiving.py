"""What both sides of an HTTP/2 connection receive alike: bytes in, calls to streams and a sink.

    receive(data)  ->  sink.on_settings / on_goaway / on_pong,  stream.on_data / on_end / on_failed

Frames are dispatched through a tuple of methods by their type; no object is made per frame. What the sides take
differently are whole header blocks (`_on_block`), a stream that the peer resets, and GOAWAY.

Errors are RFC 9113's. One of a stream resets the stream and fails it (`Stream.on_failed`). One of the connection
is raised from `receive` as `ConnectionFault`, after GOAWAY was put into the outbox; the engine is `closed` then and
ignores all that comes. What concerns streams that we have reset is ignored, since the peer may have sent it before
it knew.

Flow control: credit for the connection is granted as bytes arrive, credit for a stream as they are consumed. A
stream that is not consumed therefore stops at its own window, and no other notices.
"""

from __future__ import annotations

from collections.abc import Callable

from ...core.errors import HTTP2Error
from ...core.headers import EMPTY, Headers
from .frames import (
    ACK,
    CONTINUATION,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEAD,
    LONG,
    MAX_STREAM_ID,
    PADDED,
    PRIORITY_FLAG,
    SETTINGS,
    SETTINGS_ACK,
    ConnectionFault,
    ErrorCode,
    ping,
    unpadded,
    window_update,
)
from .guard import ALLOWANCE, FloodGuard
from .hpack import table_size_update
from .sending import SendingSide
from .settings import LocalSettings
from .sink import Sink
from .states import NEXT, ON_DATA, ON_DATA_END, fault
from .streams import Stream
from .windows import ReceiveWindow, SendWindow

LATE_HEAD = 4096
"""Bytes of late DATA that one late head counts for, at least."""
_LARGEST_FRAME = 65_536  # that we send, whatever the peer allows: the streams take turns by frames


class ReceivingSide(SendingSide):
    """The half of an engine that receives.

    Args:
        sink: is told of what concerns the connection.
        settings: what we announce.
        guard: bounds floods.
        block_limit: bytes of a header block, encoded.
    """

    def __init__(self, sink: Sink, settings: LocalSettings, guard: FloodGuard, block_limit: int) -> None:
        super().__init__(settings, guard, block_limit)
        self._sink = sink
        self.goaway_code: int | None = None
        """Of the peer's last GOAWAY."""
        self._window = ReceiveWindow(
            max(settings.connection_window, DEFAULT_WINDOW)
        )  # it cannot be made smaller
        self._rest = b""
        self._wanted = 0
        """Bytes of the frame that `_rest` begins, head included; 0 where that is not known."""
        self._length_limit = settings.max_frame_size << 8 | 0xFF
        self._only: int | None = SETTINGS
        """The one type of frame that may come now: the first is SETTINGS, and header blocks are in one piece."""
        self._block: list[bytes] = []
        self._block_size = 0
        self._block_stream = 0
        self._block_flags = 0
        self._table_given_up = False
        known: tuple[Callable[[int, int, bytes], None], ...] = (
            self._on_data,
            self._on_headers,
            self._on_priority,
            self._on_rst_stream,
            self._on_settings,
            self._on_push_promise,
            self._on_ping,
            self._on_goaway,
            self._on_window_update,
            self._on_continuation,
        )
        self._on_frame = known + (self._on_unknown,) * (256 - len(known))

    # -- what a side does by itself --------------------------------------------------------------------

    def _on_block(self, stream_id: int, flags: int, block: bytes) -> None:
        """A whole header block."""
        raise NotImplementedError

    def _was_reset(self, stream: Stream, code: int) -> None:
        """The peer has reset a stream, which is gone."""
        raise NotImplementedError

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        raise NotImplementedError

    def _mismatch(self, stream: Stream) -> None:
        """A body is not as long as its content-length says."""
        raise NotImplementedError

    def _out_of_place(self, data: bytes) -> None:
        """A frame came where only one of the type `_only` may. Raises ConnectionFault."""
        raise NotImplementedError

    # -- frames ----------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Take what arrived, whole frames or not.

        Raises:
            ConnectionFault: the connection is over; GOAWAY is in the outbox.
        """
        if self.closed:
            return
        start = 0
        if self._rest:
            missing = self._wanted - len(self._rest)
            if 0 < missing <= len(data):
                # The frame is completed by itself, so that the much that may lie behind it is not copied.
                frame, self._rest = self._rest + data[:missing], b""
                try:
                    self._take_frames(frame, 0)
                except ConnectionFault:
                    raise
                except BaseException:
                    self._rest = data[missing:]
                    raise
                start = missing
            else:
                data = self._rest + data
        if not self.closed:
            self._take_frames(data, start)

    def _take_frames(self, data: bytes, position: int) -> None:
        size = len(data)
        unpack = HEAD.unpack_from
        limit = self._length_limit
        on_frame = self._on_frame
        self._wanted = 0
        try:
            while size - position >= 9:
                length_and_type, flags, stream_id = unpack(data, position)
                if length_and_type > limit:
                    self._too_long(data)
                start = position + 9
                position = start + (length_and_type >> 8)
                if position > size:
                    self._wanted = position - start + 9
                    position = start - 9
                    break
                kind = length_and_type & 0xFF
                if kind != self._only and self._only is not None:
                    self._out_of_place(data)
                on_frame[kind](flags, stream_id & MAX_STREAM_ID, data[start:position])
                if self.closed:
                    return
        except ConnectionFault as error:
            self.close(error.code, str(error).encode("latin-1", "replace")[:256])
            raise
        finally:
            # Whatever a callback raises, the next call begins with the next frame.
            self._rest = data[position:] if position < size else b""

    def _too_long(self, data: bytes) -> None:
        if self._only == SETTINGS:
            self._out_of_place(data)
        raise ConnectionFault(
            ErrorCode.FRAME_SIZE_ERROR, f"a frame of more than {self._settings.max_frame_size} bytes"
        )

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        length = len(payload)
        grant = self._window.take_consumed(length)
        if grant:
            if grant < 0:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "DATA beyond the connection's window")
            self.outbox.parts.append(window_update(0, grant))
        if flags & PADDED:
            payload = unpadded(payload)
        stream = self.streams.get(stream_id)
        if stream is None:
            self._absent(stream_id, "DATA", length, flags)
            return
        end = flags & END_STREAM
        state = NEXT[stream.state][ON_DATA_END if end else ON_DATA]
        if state < 0:
            self._illegal(stream)
            return
        stream_window = stream.window
        if stream_window is not None or not end or length > self._settings.stream_window:
            if stream_window is None:
                stream_window = stream.window = ReceiveWindow(self._settings.stream_window)
            if not stream_window.take(length):
                self._fail(stream, ErrorCode.FLOW_CONTROL_ERROR, "DATA beyond the stream's window")
                return
        stream.state = state
        if payload:
            received = stream.received = stream.received + len(payload)
            if received > stream.expected >= 0:
                self._mismatch(stream)
                return
            guard = self._guard
            if guard.left < ALLOWANCE:
                guard.left += 1
            consumed = stream.on_data(payload)
            if stream_window is not None and not end and not stream.gone:
                grant = stream_window.credit(length if consumed else length - len(payload))
                if grant:
                    self.outbox.parts.append(window_update(stream_id, grant))
        elif not end:
            self._guard.spend("empty DATA")
            self.consumed(stream, length)
        if end and not stream.gone:
            self._complete(stream, EMPTY)

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if flags == END_HEADERS and stream_id & 1:
            self._on_block(stream_id, flags, payload)
            return
        if flags & (PADDED | PRIORITY_FLAG):
            if flags & PADDED:
                payload = unpadded(payload)
            if flags & PRIORITY_FLAG:
                if len(payload) < 5:
                    raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS shorter than its priority")
                payload = payload[5:]
        if not stream_id & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}")
        if flags & END_HEADERS:
            self._on_block(stream_id, flags, payload)
        else:
            self._only = CONTINUATION
            self._block = [payload]
            self._block_size = len(payload)
            self._block_stream = stream_id
            self._block_flags = flags

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        if self._only is None or stream_id != self._block_stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without a header block before it")
        self._block.append(payload)
        self._block_size += len(payload)
        if self._block_size > self._block_limit:
            # It would have to be decoded whole for the tables to stay in step (RFC 9113 section 10.5.1).
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header block that does not end")
        if flags & END_HEADERS:
            block = b"".join(self._block)
            self._block.clear()
            self._only = None
            self._on_block(stream_id, self._block_flags, block)
        else:
            self._guard.spend("CONTINUATION")

    def _complete(self, stream: Stream, trailers: Headers) -> None:
        if stream.received != stream.expected >= 0:
            self._mismatch(stream)
            return
        if stream.sent:
            stream.gone = True
            del self.streams[stream.id]
        stream.on_end(trailers)

    def _illegal(self, stream: Stream) -> None:
        code, message = fault(stream.state)
        if code == ErrorCode.STREAM_CLOSED:
            raise ConnectionFault(code, message)
        self._fail(stream, code, message)

    def _fail(self, stream: Stream, code: ErrorCode, message: str) -> None:
        self._give_up(stream, code, HTTP2Error(message, error_code=code))

    def _give_up(self, stream: Stream, code: ErrorCode, error: Exception) -> None:
        self.reset(stream, code)
        stream.on_failed(error)

    def _absent(self, stream_id: int, what: str, size: int, flags: int) -> None:
        """A frame on a stream that is not in the table."""
        self._check_known(stream_id, what)
        if stream_id not in self._reset:
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, f"{what} on stream {stream_id}, which was closed")
        if not self._reset.take(stream_id, size, end=bool(flags & END_STREAM)):
            self._guard.spend(f"{what} on streams that were reset")

    def _check_known(self, stream_id: int, what: str) -> None:
        if not stream_id & 1 or stream_id >= self._next_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"{what} on stream {stream_id}, which is idle")

    def _on_priority(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if len(payload) != 5:
            stream = self.streams.get(stream_id)
            if stream is not None:
                self._fail(stream, ErrorCode.FRAME_SIZE_ERROR, "PRIORITY that is not 5 bytes long")
                return
        self._guard.spend("PRIORITY")

    def _on_rst_stream(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM that is not 4 bytes long")
        self._check_known(stream_id, "RST_STREAM")
        stream = self.streams.get(stream_id)
        if stream is None:
            self._guard.spend_reset(self._next_id >> 1)
            return
        (code,) = LONG.unpack(payload)
        self._leave(stream)
        self._was_reset(stream, code)

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"SETTINGS on stream {stream_id}")
        if flags & ACK:
            if payload:
                raise ConnectionFault(
                    ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement of SETTINGS with a payload"
                )
            if not self.peer.received:
                self._out_of_place(b"")
            self._guard.spend("SETTINGS")
            return
        if len(payload) % 6:
            raise ConnectionFault(
                ErrorCode.FRAME_SIZE_ERROR, "SETTINGS that are not a multiple of 6 bytes long"
            )
        self._guard.spend("SETTINGS")
        peer = self.peer
        window = peer.initial_window_size
        peer.apply(payload)
        self._only = None
        self.outbox.max_frame = min(peer.max_frame_size, _LARGEST_FRAME)
        if peer.least_table_size < 4096 and not self._table_given_up:
            # We never use the table, and say so once the peer wants it smaller than it was (RFC 7541 section 4.2).
            self._table_given_up = True
            self.outbox.table_update = table_size_update(0)
        self.outbox.parts.append(SETTINGS_ACK)
        if peer.initial_window_size != window:
            self._move_windows(peer.initial_window_size - window)
        self._sink.on_settings()

    def _move_windows(self, delta: int) -> None:
        for stream in self.streams.values():
            if stream.send_window is not None:
                if not stream.send_window.grow(delta):
                    raise ConnectionFault(
                        ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE overflows a window"
                    )
                self.outbox.schedule(stream)

    def _on_push_promise(self, flags: int, stream_id: int, payload: bytes) -> None:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE although push is disabled")

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"PING on stream {stream_id}")
        if len(payload) != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PING that is not 8 bytes long")
        self._guard.spend("PING")
        if flags & ACK:
            self._sink.on_pong(payload)
        else:
            self.outbox.parts.append(ping(payload, ack=True))

    def _on_window_update(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE that is not 4 bytes long")
        increment = LONG.unpack(payload)[0] & MAX_STREAM_ID
        self._guard.spend_update()
        if not stream_id:
            if not increment:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
            if not self.outbox.window.grow(increment):
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window overflows")
            return
        self._check_known(stream_id, "WINDOW_UPDATE")
        stream = self.streams.get(stream_id)
        if stream is None:
            return
        if not increment:
            self._fail(stream, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
        elif stream.send_window is None:
            if increment + self.peer.initial_window_size > MAX_STREAM_ID:
                self._fail(stream, ErrorCode.FLOW_CONTROL_ERROR, "the stream's window overflows")
            elif not stream.sent:
                stream.send_window = SendWindow(self.peer.initial_window_size + increment)
        elif not stream.send_window.grow(increment):
            self._fail(stream, ErrorCode.FLOW_CONTROL_ERROR, "the stream's window overflows")
        else:
            self.outbox.schedule(stream)

    def _on_unknown(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._guard.spend("frames of unknown types")  # and otherwise ignored (RFC 9113 section 5.5)

"""The client side of an HTTP/2 connection: bytes in, calls to streams and a sink; calls in, bytes out.

    receive(data)  ->  sink.on_settings / on_goaway / on_pong,  stream.on_head / on_data / on_end / on_failed
    open, send, end, reset, consumed, ...  ->  outbox.parts, which the owner writes

The table `streams` holds every stream from `open` until both sides are complete or one has reset it: what is in
it counts against the peer's MAX_CONCURRENT_STREAMS.
"""

from __future__ import annotations

from collections.abc import Callable

from ...core.errors import ResponseContentLengthMismatchError, StreamResetError
from ...core.headers import EMPTY
from .frames import (
    CONTINUATION,
    END_STREAM,
    MAX_STREAM_ID,
    TWO_LONGS,
    ConnectionFault,
    ErrorCode,
    error_name,
)
from .guard import ALLOWANCE, EARNED, FloodGuard
from .receiving import LATE_HEAD, ReceivingSide
from .sections import NO_STATUS, UNKNOWN_LENGTH, Malformed, SectionDecoder, SharedSections
from .settings import LocalSettings
from .sink import Sink
from .states import AWAITING, ENDED, NEXT, ON_HEAD, ON_HEAD_END, RECEIVING
from .streams import Stream

_INFORMATIONAL_LIMIT = 100  # per response, as in HTTP/1; a server that sends more is not answering
_BODYLESS_STATUS = frozenset({204, 304})


class Engine(ReceivingSide):
    """One connection. What it sends is in `sending`, what it receives like a server in `receiving`.

    Args:
        sink: is told of what concerns the connection.
        settings: what we announce.
        shared: the pool's memory of field sections.
        max_header_size: bytes of names and values in one section; this many or more are refused.
        clock: monotonic seconds, for the bound on floods.
    """

    def __init__(
        self,
        sink: Sink,
        settings: LocalSettings,
        shared: SharedSections,
        max_header_size: int,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(sink, settings, FloodGuard(clock), 2 * max_header_size + 1024)
        self._last_allowed = MAX_STREAM_ID
        self._sections = SectionDecoder(settings, shared, max_header_size)
        self._shared = shared

    def _out_of_place(self, data: bytes) -> None:
        if self._only == CONTINUATION:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a header block was interrupted")
        what = (
            "answers HTTP/1 where HTTP/2 was expected"
            if data.startswith(b"HTTP/")
            else "did not begin with SETTINGS"
        )
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"the server {what}")

    def _on_block(self, stream_id: int, flags: int, block: bytes) -> None:
        stream = self.streams.get(stream_id)
        section = self._shared.get(block)
        if section is None:
            try:
                section = self._sections.decode(block)
            except Malformed as malformed:
                if stream is None:
                    self._absent(stream_id, "HEADERS", max(len(block), LATE_HEAD), flags)
                elif stream.state == ENDED:
                    self._illegal(stream)
                else:
                    self._give_up(stream, ErrorCode.PROTOCOL_ERROR, malformed.error)
                return
        if stream is None:
            self._absent(stream_id, "HEADERS", max(len(block), LATE_HEAD), flags)
            return
        end = flags & END_STREAM
        status = section.status_code
        if stream.state == AWAITING:
            if status < 200:
                self._early_head(stream, status, end)
                if not stream.gone:
                    stream.on_informational(section)
                return
            stream.state = NEXT[AWAITING][ON_HEAD_END if end else ON_HEAD]
            stream.expected = 0 if stream.bodiless or status in _BODYLESS_STATUS else section.length
            if stream.connect:
                if status < 300:
                    stream.expected = UNKNOWN_LENGTH  # content-length is ignored (RFC 9110 section 9.3.6)
                else:
                    stream.connect = False
            guard = self._guard
            if guard.left < ALLOWANCE:
                guard.left += EARNED
            stream.on_head(section)
            if end and not stream.gone:
                self._complete(stream, EMPTY)
        elif stream.connect and stream.state == RECEIVING:
            self._fail(stream, ErrorCode.PROTOCOL_ERROR, "HEADERS in a tunnel (RFC 9113 8.5)")
        elif stream.state == RECEIVING and end and status == NO_STATUS:
            stream.state = ENDED
            self._complete(stream, section.headers)
        elif stream.state == RECEIVING and status != NO_STATUS and end:
            self._fail(stream, ErrorCode.PROTOCOL_ERROR, "malformed response: :status in a trailer section")
        else:
            self._illegal(stream)

    def _early_head(self, stream: Stream, status: int, end: int) -> None:
        if status == NO_STATUS:
            self._fail(stream, ErrorCode.PROTOCOL_ERROR, "malformed response: no :status")
        elif end or status == 101:
            what = "101 (RFC 9113 8.6)" if status == 101 else f"{status} that ends the stream"
            self._fail(stream, ErrorCode.PROTOCOL_ERROR, f"malformed response: {what}")
        else:
            self._guard.spend("1xx heads")
            stream.informational += 1
            if stream.informational > _INFORMATIONAL_LIMIT:
                self._fail(stream, ErrorCode.ENHANCE_YOUR_CALM, "too many informational responses")

    def _mismatch(self, stream: Stream) -> None:
        error = ResponseContentLengthMismatchError(
            f"content-length is {stream.expected} but the body has "
            f"{'at least ' if stream.state != ENDED else ''}{stream.received} bytes"
        )
        self._give_up(stream, ErrorCode.PROTOCOL_ERROR, error)

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"GOAWAY on stream {stream_id}")
        if len(payload) < 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY shorter than 8 bytes")
        last, code = TWO_LONGS.unpack_from(payload)
        last &= MAX_STREAM_ID
        if last > self._last_allowed:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY with a higher last stream than before")
        self._guard.spend("GOAWAY")
        self._last_allowed = last
        self.goaway_code = code
        unprocessed = [stream for stream in self.streams.values() if stream.id > last]
        for stream in unprocessed:
            self._leave(stream)
            self._reset.add(stream.id, 0)
        self._sink.on_goaway(code, payload[8:], unprocessed)

    def _was_reset(self, stream: Stream, code: int) -> None:
        stream.on_failed(
            StreamResetError(
                f"the server reset the stream: {error_name(code)}",
                error_code=code,
                request_not_processed=code == ErrorCode.REFUSED_STREAM,
            )
        )

"""The server side of an HTTP/2 connection: bytes in, requests out; calls in, bytes out.

    receive(data)  ->  sink.on_request, then of the stream that it gave: on_opened / on_data / on_end / on_failed
    head, send, finish, answer, reset, consumed, ...  ->  outbox.parts, which the owner writes

The table `streams` holds every request until both sides are complete or one has reset it. A response that is complete
before its request is ends the stream with RST_STREAM(NO_ERROR), so that the client may stop (RFC 9113 section 8.1).

Floods. Beside what every engine bounds (`guard`), requests count that a client resets as soon as it has opened them
(CVE-2023-44487), or has us reset by breaking a rule (CVE-2025-8671): they cost work, and MAX_CONCURRENT_STREAMS does
not bound them. Those that ran for a while do not, since calls that are given up at their deadline come in crowds; nor
do requests that were on their way when we said that we take no more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from ...core.errors import HeadersOverflowError, StreamResetError
from ...core.headers import EMPTY, Headers
from .frames import (
    CONTINUATION,
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEAD,
    HEADERS,
    MAX_STREAM_ID,
    PREFACE,
    TWO_LONGS,
    ConnectionFault,
    ErrorCode,
    error_name,
    goaway,
    rst_stream,
    settings_frame,
    window_update,
)
from .guard import CROSSING, FloodGuard
from .receiving import LATE_HEAD, ReceivingSide
from .requests import RequestDecoder, RequestSection
from .sections import Malformed
from .settings import LocalSettings, PeerSettings
from .sink import Sink
from .states import ENDED, RECEIVING
from .streams import Stream

_SHORT_LIVED: Final = 0.05
"""Seconds within which a request that is reset has only cost us work."""
_LONGEST_BLOCK: Final = 8
"""How often the limit of a head's size fits into a block that is decoded, to refuse one request and not them all."""
_LAST: Final = END_HEADERS | END_STREAM


class ServerStream(Stream):
    """One request and its response, as the engine sees it."""

    __slots__ = ("opened",)

    def __init__(self) -> None:
        super().__init__()
        self.opened = 0.0
        """When the request came, by the engine's clock."""

    def on_opened(self) -> None:
        """It is in the table, and can be answered."""


class ServerSink(Sink, Protocol):
    """Where the engine of a server tells what concerns the connection."""

    def on_request(self, section: RequestSection) -> ServerStream:
        """A request has begun: the stream for it. Nothing can be sent on it before `on_opened`."""


class ServerEngine(ReceivingSide):
    """One connection of a client's.

    Args:
        sink: is told of requests, and of what concerns the connection.
        settings: what we announce. Before it knows, a client may send 65,535 bytes on a stream: less is only for tests.
        shared: the server's memory of request heads.
        max_header_size: bytes of names and values in one section; this many or more are refused.
        clock: monotonic seconds.
        strict: see `RequestDecoder`.
    """

    _sink: ServerSink

    def __init__(
        self,
        sink: ServerSink,
        settings: LocalSettings,
        shared: dict[bytes, RequestSection],
        max_header_size: int,
        clock: Callable[[], float],
        *,
        strict: bool = True,
    ) -> None:
        super().__init__(sink, settings, FloodGuard(clock), _LONGEST_BLOCK * max_header_size + 1024)
        # CPython 3.11 has a fast way to no more than 30 attributes: with two more, a call took 8 % longer.
        self.peer = PeerSettings(push=True)
        self._sections = RequestDecoder(settings, shared, max_header_size, strict=strict)
        self._shared = shared
        self._clock = clock
        self._accepting = True
        self._reset.most = max(self._reset.most, min(settings.max_concurrent_streams, CROSSING))
        self._underway = 0
        """Requests that may have been sent before the client knew that we take no more."""
        self._preface = PREFACE

    def start(self) -> None:
        """Put the server's preface into the outbox (RFC 9113 section 3.4)."""
        parts = self.outbox.parts
        parts.append(settings_frame(self._settings.pairs()))
        more = self._settings.connection_window - DEFAULT_WINDOW
        if more > 0:
            parts.append(window_update(0, more))

    @property
    def accepting(self) -> bool:
        """Whether requests are taken."""
        return self._accepting

    @property
    def begun(self) -> bool:
        """Whether the client has said what it has to say first."""
        return self.peer.received

    # -- receiving -------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        if self._preface:
            data = self._take_preface(data)
            if not data:
                return
        super().receive(data)

    def _take_preface(self, data: bytes) -> bytes:
        preface = self._preface
        if self.closed:
            return b""
        if not (preface.startswith(data) or data.startswith(preface)):
            fault = ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the client does not speak HTTP/2")
            self.close(fault.code, str(fault).encode())
            raise fault
        self._preface = preface[len(data) :]
        return data[len(preface) :]

    def _out_of_place(self, data: bytes) -> None:
        what = (
            "a header block was interrupted"
            if self._only == CONTINUATION
            else "the client did not begin with SETTINGS"
        )
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, what)

    def _on_block(self, stream_id: int, flags: int, block: bytes) -> None:
        section: RequestSection | None = self._shared.get(block)
        malformed: Malformed | None = None
        if section is None:
            try:
                section = self._sections.decode(block)
            except Malformed as error:
                malformed = error
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._on_trailers(stream, flags, section, malformed)
            return
        if stream_id < self._next_id:
            self._absent(stream_id, "HEADERS", max(len(block), LATE_HEAD), flags)
            return
        self._next_id = stream_id + 2
        if malformed is not None and isinstance(malformed.error, HeadersOverflowError):
            section = RequestSection.too_large()
        if section is None or not (section.method or section.oversized):
            self._refuse(stream_id, flags, ErrorCode.PROTOCOL_ERROR)
        elif not self._accepting or len(self.streams) >= self._settings.max_concurrent_streams:
            self._refuse(stream_id, flags, ErrorCode.REFUSED_STREAM)
        else:
            self._open(stream_id, flags & END_STREAM, section)

    def _open(self, stream_id: int, end: int, section: RequestSection) -> None:
        self._last_taken = stream_id
        opened = self._sink.on_request(section)
        opened.id = stream_id
        opened.opened = self._clock()
        opened.state = ENDED if end else RECEIVING
        opened.expected = section.length
        self.streams[stream_id] = opened
        opened.on_opened()
        if end and not opened.gone:
            self._complete(opened, EMPTY)

    def _refuse(self, stream_id: int, flags: int, code: ErrorCode) -> None:
        if self._underway:
            self._underway -= 1
        else:
            self._guard.spend("requests that are refused")
        self.outbox.parts.append(rst_stream(stream_id, code))
        if not flags & END_STREAM:
            self._reset.add(stream_id, self._settings.stream_window + self._block_limit)

    def _on_trailers(
        self, stream: Stream, flags: int, section: RequestSection | None, malformed: Malformed | None
    ) -> None:
        if stream.state != RECEIVING:
            self._illegal(stream)
        elif malformed is not None:
            self._give_up(stream, ErrorCode.PROTOCOL_ERROR, malformed.error)
        elif section is None or section.method or not flags & END_STREAM:
            self._fail(stream, ErrorCode.PROTOCOL_ERROR, "malformed request: trailers that are none")
        else:
            stream.state = ENDED
            self._complete(stream, Headers.from_raw(section.fields))

    def _was_reset(self, stream: Stream, code: int) -> None:
        assert isinstance(stream, ServerStream)
        stream.on_failed(
            StreamResetError(f"the client reset the stream: {error_name(code)}", error_code=code)
        )
        if self._clock() - stream.opened < _SHORT_LIVED:
            self._guard.spend_request("reset at once")

    def _give_up(self, stream: Stream, code: ErrorCode, error: Exception) -> None:
        super()._give_up(stream, code, error)
        self._guard.spend_request(str(error))

    def _mismatch(self, stream: Stream) -> None:
        self._fail(
            stream,
            ErrorCode.PROTOCOL_ERROR,
            f"content-length is {stream.expected}, and the body has {stream.received} bytes or more",
        )

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"GOAWAY on stream {stream_id}")
        if len(payload) < 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY shorter than 8 bytes")
        self._guard.spend("GOAWAY")
        _, self.goaway_code = TWO_LONGS.unpack_from(payload)
        self._sink.on_goaway(self.goaway_code, payload[8:], [])

    # -- sending ---------------------------------------------------------------------------------------

    def head(self, stream: Stream, block: bytes) -> None:
        """Send the head of a response."""
        if not stream.gone:
            self.outbox.write_headers(stream.id, block, end=False)

    def finish(self, stream: Stream, block: bytes) -> None:
        """End a response, behind what is queued, with a header block: trailers, or a head that is all there is."""
        if not stream.gone:
            stream.end_block = block
            self.end(stream)

    def answer(self, stream: Stream, head: bytes, body: bytes, trailers: bytes, *, at_once: bool) -> None:
        """Send a whole response. `at_once`: the transport has room for it."""
        if stream.gone:
            return
        outbox = self.outbox
        size = len(body)
        own = stream.send_window
        room = self.peer.initial_window_size if own is None else own.size
        frames = len(head) + size + len(trailers)
        if at_once and size <= room and size <= outbox.window.size and frames < outbox.max_frame:
            if outbox.table_update:
                head, outbox.table_update = outbox.table_update + head, b""
            stream_id = stream.id
            outbox.window.size -= size
            pack = HEAD.pack
            outbox.parts += (
                pack(len(head) << 8 | HEADERS, END_HEADERS, stream_id),
                head,
                pack(size << 8 | DATA, 0, stream_id),
                body,
                pack(len(trailers) << 8 | HEADERS, _LAST, stream_id),
                trailers,
            )
            stream.sent = True
            self._guard.answered += 1
            self._sent(stream)
        else:
            self.head(stream, head)
            self.send(stream, body)
            self.finish(stream, trailers)

    def _sent(self, stream: Stream) -> None:
        if stream.state == ENDED:
            self._leave(stream)
        else:
            self.reset(stream, ErrorCode.NO_ERROR)

    def retire(self) -> None:
        """Ask for no more requests; those on their way are still taken (RFC 9113 section 6.8)."""
        if self._accepting and not self.closed:
            self.outbox.parts.append(goaway(MAX_STREAM_ID, ErrorCode.NO_ERROR))

    def refuse_more(self) -> None:
        """Take no more requests: say which was the last, and refuse those that come nevertheless."""
        if self._accepting and not self.closed:
            self._accepting = False
            self._underway = max(0, self._reset.most - len(self.streams))
            self.outbox.parts.append(goaway(self._last_taken, ErrorCode.NO_ERROR))

"""The response parser: bytes in, calls to a sink.

    state        reads                                   next
    HEAD         bytes up to the empty line              HEAD (1xx), LENGTH, CHUNK_SIZE, UNTIL_CLOSE, END, TUNNEL
    LENGTH       `left` bytes                            END
    UNTIL_CLOSE  all that comes                          END at end of stream
    CHUNK_SIZE   a line                                  CHUNK_DATA, or TRAILERS after the last chunk
    CHUNK_DATA   `left` bytes                            CHUNK_END
    CHUNK_END    CRLF                                    CHUNK_SIZE
    TRAILERS     bytes up to an empty line               END
    END          nothing                                 HEAD
    TUNNEL       nothing: the rest belongs to whoever took the connection over
    DEAD         nothing, for ever

The sink is called as the bytes come, never twice for the same ones, whatever pieces they come in. While
`paused` is set nothing more is delivered and what was fed waits in `rest`; `feed(b"")` goes on. A sink
stops the parser for good with `stop()`. Errors are raised from `feed` and `end_of_stream`, after which the
parser is DEAD.
"""

from __future__ import annotations

import re
from typing import Protocol

from ...core.errors import (
    DodiciError,
    HTTPParserError,
    ResponseContentLengthMismatchError,
    SocketError,
)
from ...core.headers import EMPTY, Headers
from .head import (
    CHUNKED,
    UNTIL_CLOSE as BODY_UNTIL_CLOSE,
    Head,
    HeadCache,
    check_start,
    check_unfinished,
    parse_fields,
)

HEAD, LENGTH, UNTIL_CLOSE, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILERS, END, TUNNEL, DEAD = range(10)

# What a sink answers to on_head().
FRAMED = 0
"""The body is as the head says."""
BODYLESS = 1
"""No body follows, whatever the head says: the answer to HEAD."""
TAKEN_OVER = 2
"""The connection is no longer HTTP: 101, or 2xx to CONNECT."""

_INFORMATIONAL_LIMIT = 100  # per response; a server that sends more is not answering
_CHUNK_LINE_LIMIT = 4096
_CHUNK_EXTENSIONS_LIMIT = (
    65536  # per response: extensions are read by nobody, and must not be a way to send for ever
)

_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n").fullmatch


class Sink(Protocol):
    """What a parser calls."""

    def on_head(self, head: Head) -> int:
        """A head is complete. Returns FRAMED, BODYLESS or TAKEN_OVER; a 1xx's answer is ignored unless it
        is TAKEN_OVER.
        """

    def on_data(self, chunk: bytes) -> None:
        """Bytes of the body, never empty."""

    def on_message(self, trailers: Headers) -> bool:
        """The message is complete. Returns whether another response is awaited."""


class ResponseParser:
    """Parses the responses of one connection."""

    __slots__ = (
        "_extensions",
        "_heads",
        "_informational",
        "_known",
        "_left",
        "_scan",
        "_sink",
        "_state",
        "paused",
        "rest",
    )

    def __init__(self, sink: Sink, heads: HeadCache) -> None:
        self._sink = sink
        self._heads = heads
        self._known = heads.known
        self._state = HEAD
        self._left = 0
        self._scan = 0
        self._informational = 0
        self._extensions = 0
        self.paused = False
        self.rest = b""
        """Bytes that were fed and not yet used."""

    @property
    def state(self) -> int:
        return self._state

    @property
    def between_messages(self) -> bool:
        """Whether a response, if one began, has ended."""
        return self._state == HEAD and not self.rest and not self._informational

    def stop(self) -> None:
        """Deliver nothing more."""
        self._state = DEAD
        self.rest = b""

    def take_rest(self) -> bytes:
        """The bytes behind a head that was TAKEN_OVER."""
        rest, self.rest = self.rest, b""
        return rest

    def feed(self, data: bytes) -> None:  # noqa: PLR0915 - one loop over all states: a call for each would cost more
        """Parse what arrived.

        Raises:
            HTTPParserError, HeadersOverflowError: the peer broke the protocol. Nothing more will come.
        """
        if self.rest:
            data = self.rest + data
            self.rest = b""
        position = 0
        size = len(data)
        sink = self._sink
        try:
            while not self.paused:
                state = self._state
                if state == HEAD:
                    end = data.find(b"\r\n\r\n", position + self._scan)
                    if end < 0 or data[position] == 13:
                        if position == size:
                            break
                        skipped = self._skip_leading_line(data, position)
                        if skipped:
                            position += skipped
                            continue
                        self._check_partial_head(data, position, size)
                        break
                    self._scan = 0
                    end += 4
                    block = data if end == size and not position else data[position:end]
                    head = self._known.get(block) or self._heads.parse(block)
                    position = end
                    answer = sink.on_head(head)
                    if self._state != HEAD:
                        continue
                    if answer == TAKEN_OVER:
                        self._state = TUNNEL
                        break
                    if head.status_code < 200:
                        self._informational += 1
                        if self._informational > _INFORMATIONAL_LIMIT:
                            raise HTTPParserError(
                                "too many informational responses", code="HPE_INVALID_STATUS"
                            )
                        continue
                    self._informational = 0
                    length = head.length
                    if answer == BODYLESS or head.status_code == 304 or length == 0:
                        self._state = END
                    elif length > 0:
                        if size - position >= length and not self.paused:
                            # The whole body came with its head: most responses, and worth a short cut.
                            stop = position + length
                            self._state = END
                            sink.on_data(data[position:stop])
                            position = stop
                            if self.paused or self._state != END:
                                continue
                            self._state = HEAD
                            if not sink.on_message(EMPTY):
                                break
                            continue
                        self._state = LENGTH
                        self._left = length
                    elif length == CHUNKED:
                        self._state = CHUNK_SIZE
                        self._extensions = 0
                    else:
                        assert length == BODY_UNTIL_CLOSE
                        self._state = UNTIL_CLOSE
                elif state == LENGTH or state == CHUNK_DATA:  # noqa: PLR1714, SIM109 - no tuple is built
                    if position == size:
                        break
                    left = self._left
                    available = size - position
                    if available < left:
                        self._left = left - available
                        sink.on_data(data[position:] if position else data)
                        position = size
                        break
                    stop = position + left
                    chunk = data[position:stop]
                    position = stop
                    self._state = END if state == LENGTH else CHUNK_END
                    sink.on_data(chunk)
                elif state == END:
                    self._state = HEAD
                    if not sink.on_message(EMPTY):
                        break
                elif state == CHUNK_SIZE:
                    end = data.find(b"\n", position, position + _CHUNK_LINE_LIMIT)
                    if end < 0:
                        if size - position >= _CHUNK_LINE_LIMIT:
                            raise HTTPParserError("chunk extensions too long", code="HPE_INVALID_CHUNK_SIZE")
                        _check_partial_chunk_line(data[position:])
                        break
                    line = data[position : end + 1]
                    match = _CHUNK_LINE(line)
                    if match is None:
                        raise HTTPParserError("invalid chunk size", code="HPE_INVALID_CHUNK_SIZE", data=line)
                    position = end + 1
                    self._extensions += len(line) - len(match[1]) - 2
                    if self._extensions > _CHUNK_EXTENSIONS_LIMIT:
                        raise HTTPParserError("too many chunk extensions", code="HPE_INVALID_CHUNK_SIZE")
                    self._left = int(match[1], 16)
                    self._state = CHUNK_DATA if self._left else TRAILERS
                elif state == CHUNK_END:
                    if size - position < 2:
                        if position < size and data[position] != 13:
                            raise HTTPParserError(
                                "chunk data too long", code="HPE_STRICT", data=data[position:]
                            )
                        break
                    if data[position : position + 2] != b"\r\n":
                        raise HTTPParserError(
                            "chunk data not followed by CRLF", code="HPE_STRICT", data=data[position:]
                        )
                    position += 2
                    self._state = CHUNK_SIZE
                elif state == TRAILERS:
                    if data.startswith(b"\r\n", position):
                        position += 2
                        trailers = EMPTY
                    else:
                        end = data.find(b"\r\n\r\n", position + self._scan)
                        if end < 0:
                            self._check_partial_fields(data, position, size)
                            break
                        self._scan = 0
                        trailers = self._parse_trailers(data[position : end + 4])
                        position = end + 4
                    self._state = HEAD
                    if not sink.on_message(trailers):
                        break
                elif state == UNTIL_CLOSE:
                    if position < size:
                        sink.on_data(data[position:] if position else data)
                    position = size
                    break
                else:
                    break
        except DodiciError:
            self.stop()
            raise
        if position < size and self._state != DEAD:
            self.rest = data[position:] if position else data

    def end_of_stream(self) -> None:
        """The peer will send no more. Completes a body that is framed by the end. Not while paused.

        Raises:
            SocketError: a head was begun. That no response came at all is for the caller to see.
            ResponseContentLengthMismatchError, HTTPParserError: the body was cut short.
        """
        state = self._state
        if state == UNTIL_CLOSE:
            self._state = HEAD
            self._sink.on_message(EMPTY)
        elif state == LENGTH:
            left = self._left
            self.stop()
            raise ResponseContentLengthMismatchError(f"the connection ended {left} bytes before the body did")
        elif state in (CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILERS):
            self.stop()
            raise HTTPParserError("the connection ended inside a chunked body", code="HPE_INVALID_EOF_STATE")
        elif state == HEAD and self.rest:
            self.stop()
            raise SocketError("other side closed inside a response head")

    def _skip_leading_line(self, data: bytes, position: int) -> int:
        # An empty line before a status line is let pass, as by most clients (cf. RFC 9112 2.2); one, not a flood.
        if (
            data.startswith(b"\r\n", position)
            and self._scan == 0
            and not data.startswith(b"\r\n\r\n", position)
        ):
            if len(data) - position > 2 and data[position + 2] == 13:
                return 0
            return 2 if len(data) - position > 2 else 0
        return 0

    def _check_partial_head(self, data: bytes, position: int, size: int) -> None:
        start = data[position : position + 9]
        if start not in (b"\r", b"\r\n"):
            check_start(start)
            self._check_partial_fields(data, position, size)

    def _check_partial_fields(self, data: bytes, position: int, size: int) -> None:
        if position < size:
            check_unfinished(data, position, self._scan, self._heads.max_header_size)
            self._scan = max(0, size - position - 3)

    def _parse_trailers(self, block: bytes) -> Headers:
        fields = parse_fields(block, self._heads.max_header_size)
        for name, _ in fields:
            if name.lower() in (b"content-length", b"transfer-encoding"):
                raise HTTPParserError(f"{name.decode()} in trailers", code="HPE_UNEXPECTED_CONTENT_LENGTH")
        return Headers.from_raw(fields)


def _check_partial_chunk_line(line: bytes) -> None:
    size = line.partition(b";")[0]
    if size and re.fullmatch(rb"[0-9A-Fa-f]{1,16}\r?", size) is None:
        raise HTTPParserError("invalid chunk size", code="HPE_INVALID_CHUNK_SIZE", data=line)

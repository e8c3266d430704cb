"""Replays bytes through the parser in every way they could be cut, and says what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from dodici.core.errors import DodiciError
from dodici.core.headers import Headers
from dodici.wire.h1.head import Head, HeadCache
from dodici.wire.h1.parser import BODYLESS, FRAMED, TAKEN_OVER, ResponseParser

Outcome = tuple[list[tuple[Any, ...]], "tuple[str, str] | None"]


class Tape:
    """A sink that records. `requests` are the methods that await an answer, first to last."""

    def __init__(
        self,
        requests: Iterable[str] = ("GET",),
        on_event: Callable[[Tape], None] | None = None,
        max_header_size: int = 16384,
        heads: HeadCache | None = None,
    ) -> None:
        self.requests = list(requests)
        self.events: list[tuple[Any, ...]] = []
        self.calls = 0
        self.on_event = on_event
        self.parser = ResponseParser(self, HeadCache(max_header_size) if heads is None else heads)

    def _called(self) -> None:
        self.calls += 1
        if self.on_event is not None:
            self.on_event(self)

    def on_head(self, head: Head) -> int:
        self.events.append(("head", head.status_code, head.reason, head.headers.raw))
        self._called()
        method = self.requests[0]
        if head.status_code == 101 or (method == "CONNECT" and 200 <= head.status_code < 300):
            return TAKEN_OVER
        return BODYLESS if method == "HEAD" else FRAMED

    def on_data(self, chunk: bytes) -> None:
        assert type(chunk) is bytes
        assert chunk
        if self.events and self.events[-1][0] == "data":
            self.events[-1] = ("data", self.events[-1][1] + chunk)
        else:
            self.events.append(("data", chunk))
        self._called()

    def on_message(self, trailers: Headers) -> bool:
        self.events.append(("end", trailers.raw))
        self.requests.pop(0)
        self._called()
        return bool(self.requests)


def play(pieces: Iterable[bytes], *, end: bool = False, resume: bool = False, **how: Any) -> Outcome:
    """Feed `pieces`; returns the events and the error's class and code. `end` ends the stream, too."""
    return play_on(Tape(**how), pieces, end=end, resume=resume)


def play_on(tape: Tape, pieces: Iterable[bytes], *, end: bool = False, resume: bool = False) -> Outcome:
    parser = tape.parser
    error = None
    try:
        for piece in pieces:
            parser.feed(piece)
            while resume and parser.paused:
                parser.paused = False
                parser.feed(b"")
        if end:
            parser.end_of_stream()
    except DodiciError as raised:
        error = type(raised).__name__, raised.code
        # Nothing ever comes after an error.
        seen = list(tape.events)
        parser.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        parser.end_of_stream()
        assert tape.events == seen
        assert parser.rest == b""
    return tape.events, error


def splits(data: bytes) -> Iterable[list[bytes]]:
    """The whole, every cut in two, and byte by byte."""
    yield [data]
    for cut in range(1, len(data)):
        yield [data[:cut], data[cut:]]
    yield [data[at : at + 1] for at in range(len(data))]


def replay(data: bytes, **how: Any) -> Outcome:
    """`play` in every way of cutting `data`, which must make no difference: also with pauses everywhere."""
    expected = play([data], **how)
    for pieces in splits(data):
        assert play(pieces, **how) == expected, pieces
    paused = {**how, "resume": True, "on_event": _pause}
    assert play([data], **paused) == expected, "paused at every callback"
    assert play([data[at : at + 1] for at in range(len(data))], **paused) == expected, "paused, byte by byte"
    return expected


def _pause(tape: Tape) -> None:
    tape.parser.paused = True

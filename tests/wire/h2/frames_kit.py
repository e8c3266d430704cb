"""Frames as a server may send them, right and wrong, and an engine whose every word is recorded.

`play` feeds the same bytes whole, cut at every place, and byte by byte; all must come to the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import hpack
import pytest

from dodici.core.headers import Headers
from dodici.wire.h2.engine import Engine
from dodici.wire.h2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PRIORITY_FLAG,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ConnectionFault,
    ErrorCode,
)
from dodici.wire.h2.hpack import encode_fields
from dodici.wire.h2.sections import Section
from dodici.wire.h2.settings import LocalSettings
from dodici.wire.h2.streams import Stream

Fields = Iterable[tuple[bytes, bytes]]
Events = list[tuple[Any, ...]]

OK = [(b":status", b"200")]
LOCAL = LocalSettings(stream_window=65_535, connection_window=65_535, max_header_list_size=16_384)

# ------------------------------------------------------------------------------------------- frames


def frame(kind: int, flags: int, stream: int, payload: bytes = b"", *, reserved: bool = False) -> bytes:
    number = stream | (reserved << 31)
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + number.to_bytes(4, "big") + payload


def _padded(payload: bytes, pad: int | None) -> tuple[int, bytes]:
    return (0, payload) if pad is None else (PADDED, bytes((pad,)) + payload + bytes(pad))


def data(stream: int, payload: bytes = b"", *, end: bool = False, pad: int | None = None) -> bytes:
    flags, payload = _padded(payload, pad)
    return frame(DATA, flags | (END_STREAM if end else 0), stream, payload)


def block_of(fields: Fields) -> bytes:
    """A block that adds to the table whatever may be added."""
    return hpack.Encoder().encode(list(fields))


def headers(
    stream: int,
    fields: Fields | bytes = OK,
    *,
    end: bool = False,
    whole: bool = True,
    pad: int | None = None,
    priority: bytes | None = None,
) -> bytes:
    block = fields if isinstance(fields, bytes) else block_of(fields)
    flags = (END_STREAM if end else 0) | (END_HEADERS if whole else 0)
    if priority is not None:
        flags |= PRIORITY_FLAG
        block = priority + block
    more, block = _padded(block, pad)
    return frame(HEADERS, flags | more, stream, block)


def continuation(stream: int, block: bytes, *, whole: bool = True) -> bytes:
    return frame(CONTINUATION, END_HEADERS if whole else 0, stream, block)


def priority(stream: int, payload: bytes = bytes(5)) -> bytes:
    return frame(PRIORITY, 0, stream, payload)


def rst_stream(stream: int, code: int = ErrorCode.CANCEL) -> bytes:
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def settings(*pairs: tuple[int, int], ack: bool = False) -> bytes:
    payload = b"".join(number.to_bytes(2, "big") + value.to_bytes(4, "big") for number, value in pairs)
    return frame(SETTINGS, ACK if ack else 0, 0, payload)


def push_promise(stream: int, promised: int) -> bytes:
    return frame(
        PUSH_PROMISE, END_HEADERS, stream, promised.to_bytes(4, "big") + block_of([(b":method", b"GET")])
    )


def ping(payload: bytes = b"12345678", *, ack: bool = False) -> bytes:
    return frame(PING, ACK if ack else 0, 0, payload)


def goaway(last: int, code: int = ErrorCode.NO_ERROR, debug: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big") + debug)


def window_update(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


def frames(wire: bytes) -> list[Frame]:
    """What a peer reads in `wire`; all of it must be whole frames, but for the preface."""
    found = []
    wire = wire.removeprefix(PREFACE)
    while wire:
        length = int.from_bytes(wire[:3], "big")
        assert len(wire) >= 9 + length, "half a frame"
        found.append(Frame(wire[3], wire[4], int.from_bytes(wire[5:9], "big"), wire[9 : 9 + length]))
        wire = wire[9 + length :]
    return found


SETTINGS_ACKED = Frame(SETTINGS, ACK, 0, b"")


def reset(stream: int, code: ErrorCode) -> Frame:
    return Frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def update(stream: int, increment: int) -> Frame:
    return Frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


# ------------------------------------------------------------------------------------------ recording


class Recorded(Stream):
    """A stream that writes down what it is told."""

    __slots__ = ("link", "over", "written")

    def __init__(self, link: Link) -> None:
        super().__init__()
        self.link = link
        self.over = False
        self.written = 0

    def _tell(self, *event: Any) -> None:
        assert not self.over, f"{event} after the end"
        self.link.tell(*event)

    def on_informational(self, section: Section) -> None:
        self._tell("info", self.id, section.status_code, section.headers.raw)

    def on_head(self, section: Section) -> None:
        self._tell("head", self.id, section.status_code, section.headers.raw)

    def on_data(self, data: bytes) -> bool:
        assert type(data) is bytes
        assert data
        self._tell("data", self.id, data)
        return not self.link.holding

    def on_end(self, trailers: Headers) -> None:
        self._tell("end", self.id, trailers.raw)
        self.over = self.sent

    def on_failed(self, error: BaseException) -> None:
        assert self.gone
        self._tell("failed", self.id, type(error).__name__, getattr(error, "error_code", None))
        self.link.errors.append(error)
        self.over = True

    def on_written(self, count: int) -> None:
        assert count > 0
        self.written += count


class Link:
    """An engine that has sent its preface, and what it tells."""

    def __init__(self, local: LocalSettings = LOCAL, *, limit: int = 16_384, shared: Any = None) -> None:
        self.now = 0.0
        self.events: Events = []
        self.errors: list[BaseException] = []
        self.holding = False
        self.on_event: Callable[[tuple[Any, ...]], None] | None = None
        self.engine = Engine(self, local, {} if shared is None else shared, limit, lambda: self.now)
        self.engine.start()
        self.preface = self.engine.outbox.take()

    def tell(self, *event: Any) -> None:
        last = self.events[-1] if self.events else ("",)
        if event[0] == "data" and last[:2] == event[:2]:
            self.events[-1] = (*event[:2], last[2] + event[2])
        else:
            self.events.append(event)
        if self.on_event is not None:
            self.on_event(event)

    def on_settings(self) -> None:
        self.tell("settings")

    def on_goaway(self, code: int, debug: bytes, unprocessed: list[Stream]) -> None:
        assert all(stream.gone for stream in unprocessed)
        self.tell("goaway", code, debug, [stream.id for stream in unprocessed])

    def on_pong(self, payload: bytes) -> None:
        self.tell("pong", payload)

    def open(self, kind: str = "G", block: bytes | None = None) -> Recorded:
        """A request, sent: G is GET and H is HEAD, complete; P has a body to come, C is CONNECT."""
        stream = Recorded(self)
        stream.bodiless = kind == "H"
        stream.connect = kind == "C"
        if block is None:
            block = encode_fields([(b":method", b"GET")])
        self.engine.open(stream, block, end=kind in "GH")
        return stream

    def receive(self, *wire: bytes) -> None:
        self.engine.receive(b"".join(wire))

    def sent(self) -> list[Frame]:
        return frames(self.engine.outbox.take())

    def filled(self, budget: int = 1 << 30) -> list[Frame]:
        self.engine.fill(budget)
        return self.sent()

    def failing(self, *wire: bytes) -> ErrorCode:
        """Feed what must end the connection: the code, which GOAWAY has, too."""
        with pytest.raises(ConnectionFault) as caught:
            self.receive(*wire)
        code = caught.value.code
        last = self.sent()[-1]
        assert last.kind == GOAWAY
        assert last.payload.startswith(bytes(4) + code.to_bytes(4, "big"))
        assert last.payload[8:], "no reason given"
        assert self.engine.closed
        self.receive(ping())
        assert not self.sent()
        return code


@dataclass
class Outcome:
    """What came of it. `code` is that of the connection's fault."""

    events: Events
    sent: list[Frame]
    code: ErrorCode | None
    message: str
    link: Link

    @property
    def failure(self) -> tuple[str, int | None]:
        """The class and the code of the only failure of a stream."""
        (event,) = [event for event in self.events if event[0] == "failed"]
        return event[2], event[3]


def cuts(wire: bytes) -> Iterator[list[bytes]]:
    size = len(wire)
    places: Iterable[int] = range(1, size)
    if size > 600:
        places = sorted({*range(1, 60), *range(60, size - 60, size // 37), *range(size - 60, size)})
    yield [wire]
    for at in places:
        yield [wire[:at], wire[at:]]
    step = 1 if size < 5000 else 97
    yield [wire[at : at + step] for at in range(0, size, step)]


def play(
    *wire: bytes,
    requests: str = "G",
    preface: bool = True,
    arrange: Callable[[Link], None] | None = None,
    **how: Any,
) -> Outcome:
    """Open `requests`, feed SETTINGS (`preface`) and `wire` in every cut, and tell what came of it."""
    outcome: Outcome | None = None
    whole = (settings() if preface else b"") + b"".join(wire)
    for pieces in cuts(whole):
        link = Link(**how)
        for kind in requests:
            link.open(kind)
        if arrange is not None:
            arrange(link)
        link.sent()
        code, message = None, ""
        try:
            for piece in pieces:
                link.receive(piece)
        except ConnectionFault as fault:
            code, message = fault.code, str(fault)
            assert link.engine.closed
        one = Outcome(link.events, link.sent(), code, message, link)
        if code is not None:
            assert one.sent[-1].kind == GOAWAY
            assert one.sent[-1].payload == bytes(4) + code.to_bytes(4, "big") + message.encode()
        if outcome is None:
            outcome = one
        else:
            assert (one.events, one.sent, one.code) == (outcome.events, outcome.sent, outcome.code), pieces
    assert outcome is not None
    if preface:
        assert outcome.events[0] == ("settings",)
        assert outcome.sent[0] == SETTINGS_ACKED
        outcome.events.pop(0)
        outcome.sent.pop(0)
    return outcome

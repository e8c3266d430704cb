"""Requests as a client may send them, right and wrong, and a server's engine whose every word is recorded.

`talk` feeds the same bytes whole, cut at every place, and byte by byte; all must come to the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from tests.wire.h2.frames_kit import LOCAL, Events, Fields, Frame, cuts, frames, goaway, settings

from dodici.core.headers import Headers
from dodici.wire.h2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PREFACE,
    ConnectionFault,
    ErrorCode,
)
from dodici.wire.h2.hpack import encode_fields
from dodici.wire.h2.requests import RequestSection
from dodici.wire.h2.server import ServerEngine, ServerStream
from dodici.wire.h2.settings import LocalSettings
from dodici.wire.h2.streams import Stream

POST = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/")]
GET = encode_fields([(b":method", b"GET"), *POST[1:]])
OPENING = PREFACE + settings()
HEAD = encode_fields([(b":status", b"200")])
TRAILERS = encode_fields([(b"grpc-status", b"0")])


def whole(stream: int = 1, body: bytes = b"answer") -> list[Frame]:
    """What `Front.answer` sends, as the peer reads it."""
    return [
        Frame(HEADERS, END_HEADERS, stream, HEAD),
        Frame(DATA, 0, stream, body),
        Frame(HEADERS, END_HEADERS | END_STREAM, stream, TRAILERS),
    ]


def with_fields(*fields: tuple[bytes, bytes]) -> Fields:
    """A good request with these fields."""
    return [*POST, *fields]


class Served(ServerStream):
    """A stream that writes down what it is told."""

    __slots__ = ("front", "over", "section", "written")

    def __init__(self, front: Front, section: RequestSection) -> None:
        super().__init__()
        self.front = front
        self.section = section
        self.over = False
        self.written = 0

    def _tell(self, *event: Any) -> None:
        assert not self.over, f"{event} after the end"
        assert not self.gone or event[0] == "failed"
        self.front.tell(*event)

    def on_opened(self) -> None:
        section = self.section
        self._tell("open", self.id, section.method, section.path, section.fields, section.oversized)

    def on_data(self, data: bytes) -> bool:
        assert type(data) is bytes
        assert data
        self._tell("data", self.id, data)
        return not self.front.holding

    def on_end(self, trailers: Headers) -> None:
        self._tell("end", self.id, trailers.raw)

    def on_failed(self, error: BaseException) -> None:
        assert self.gone
        self._tell("failed", self.id, type(error).__name__, getattr(error, "error_code", None))
        self.front.errors.append(error)
        self.over = True

    def on_written(self, count: int) -> None:
        assert count > 0
        self.written += count


class Front:
    """The engine of a server that has sent its preface, and what it tells."""

    def __init__(
        self, local: LocalSettings = LOCAL, *, limit: int = 16_384, shared: Any = None, strict: bool = True
    ) -> None:
        self.now = 0.0
        self.events: Events = []
        self.errors: list[BaseException] = []
        self.holding = False
        self.on_event: Callable[[tuple[Any, ...]], None] | None = None
        self.engine = ServerEngine(
            self, local, {} if shared is None else shared, limit, lambda: self.now, strict=strict
        )
        self.engine.start()
        self.preface = self.engine.outbox.take()

    @classmethod
    def begun(cls, *pairs: tuple[int, int], most: int | None = None, **how: Any) -> Front:
        """One whose client has said its preface, with these settings. `most` requests may run at a time."""
        local = how.pop("local", LOCAL)
        if most is not None:
            local = replace(local, max_concurrent_streams=most)
        front = cls(local, **how)
        front.receive(PREFACE, settings(*pairs))
        front.sent()
        front.events.clear()
        return front

    def tell(self, *event: Any) -> None:
        last = self.events[-1] if self.events else ("",)
        if event[0] == "data" and last[:2] == event[:2]:
            self.events[-1] = (*event[:2], last[2] + event[2])
        else:
            self.events.append(event)
        if self.on_event is not None:
            self.on_event(event)

    def on_request(self, section: RequestSection) -> Served:
        return Served(self, section)

    def on_settings(self) -> None:
        self.tell("settings")

    def on_goaway(self, code: int, debug: bytes, unprocessed: list[Stream]) -> None:
        assert not unprocessed
        self.tell("goaway", code, debug)

    def on_pong(self, payload: bytes) -> None:
        self.tell("pong", payload)

    def __getitem__(self, stream_id: int) -> Stream:
        return self.engine.streams[stream_id]

    def receive(self, *wire: bytes) -> None:
        self.engine.receive(b"".join(wire))

    def sent(self) -> list[Frame]:
        return frames(self.engine.outbox.take())

    def filled(self, budget: int = 1 << 30) -> list[Frame]:
        self.engine.fill(budget)
        return self.sent()

    def answer(self, stream_id: int, body: bytes = b"answer", *, at_once: bool = True) -> None:
        self.engine.answer(self[stream_id], HEAD, body, TRAILERS, at_once=at_once)

    def failing(self, *wire: bytes, last: int = 0) -> ErrorCode:
        """Feed what must end the connection: the code, which GOAWAY has, too. `last` stream that was taken."""
        with pytest.raises(ConnectionFault) as caught:
            self.receive(*wire)
        code = caught.value.code
        assert self.sent()[-1] == frames(goaway(last, code, str(caught.value).encode()))[0]
        assert self.engine.closed
        self.receive(settings())
        assert not self.sent()
        return code


class Talk:
    """What came of it. `code` is that of the connection's fault."""

    def __init__(self, front: Front, sent: list[Frame], code: ErrorCode | None, message: str) -> None:
        self.front = front
        self.events = front.events
        self.sent = sent
        self.code = code
        self.message = message

    @property
    def error(self) -> str:
        """Of the only stream that failed."""
        (error,) = self.front.errors
        return str(error)


def talk(
    *wire: bytes, opening: bytes = OPENING, act: Callable[[Front, Any], None] | None = None, **how: Any
) -> Talk:
    """Feed `opening` and `wire` in every cut, and tell what came of it. `act` is told of each event."""
    outcome: Talk | None = None
    for pieces in cuts(opening + b"".join(wire)):
        front = Front(**how)
        if act is not None:
            front.on_event = partial(act, front)
        code, message = None, ""
        try:
            for piece in pieces:
                front.receive(piece)
        except ConnectionFault as fault:
            code, message = fault.code, str(fault)
            assert front.engine.closed
        else:
            assert not front.engine.closed
        one = Talk(front, front.filled(), code, message)
        if code is not None:
            assert one.sent[-1].kind == GOAWAY
            assert one.sent[-1].payload[4:] == code.to_bytes(4, "big") + message.encode()
        if outcome is None:
            outcome = one
        else:
            assert (one.events, one.sent, one.code) == (outcome.events, outcome.sent, outcome.code), pieces
    assert outcome is not None
    if opening == OPENING:
        assert outcome.events.pop(0) == ("settings",)
        outcome.sent.pop(0)
    return outcome

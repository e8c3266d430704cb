"""An engine whose sink and streams write down what they are told, and the frames of a peer."""

from __future__ import annotations

from typing import Any

from dodici.core.headers import Headers
from dodici.wire.mesh import frames as f
from dodici.wire.mesh.engine import Engine
from dodici.wire.mesh.heads import RequestHead, ResponseHead
from dodici.wire.mesh.streams import Stream

GET = b"GET\n/a?b=1\nhttp\napi.local\nhost\napi.local"
OK = b"200\nx-a\n1"


def frame(kind: int, number: int = 0, payload: bytes = b"") -> bytes:
    return f.FRAME.pack(len(payload), kind, number) + payload


def headed(kind: int, number: int, head: bytes, body: bytes = b"") -> bytes:
    return frame(kind, number, f.U32.pack(len(head)) + head + body)


def credit(kind: int, number: int, count: int) -> bytes:
    return frame(kind, number, f.U32.pack(count))


HELLO = f.hello("peer")


class TapeStream(Stream):
    """Consumes what arrives at once, unless it is told to hold."""

    __slots__ = ("_tape", "hold")

    def __init__(self, tape: Tape, number: int, *, ours: bool) -> None:
        super().__init__(number, ours=ours)
        self._tape = tape
        self.hold = False

    def _note(self, *event: Any) -> None:
        self._tape.events.append(("ours" if self.ours else "theirs", self.id, *event))

    def on_request(self, body: bytes | None) -> None:
        super().on_request(body)
        self._note("request", body)

    def on_data(self, data: bytes) -> None:
        self._note("data", data)
        if not self.hold:
            self._tape.engine.consumed(self, len(data))

    def on_informational(self, head: ResponseHead) -> None:
        self._note("info", head.status_code)

    def on_head(self, head: ResponseHead) -> None:
        self._note("head", head.status_code, head.headers.raw)

    def on_response(self, head: ResponseHead, body: bytes) -> None:
        self._note("response", head.status_code, body)

    def on_end(self, trailers: Headers) -> None:
        self._note("end", trailers.raw)

    def on_reset(self, kind: int, texts: list[str]) -> None:
        self._note("reset", kind, texts)

    def on_accept(self, head: ResponseHead) -> None:
        self._note("accept", head.headers.raw)

    def on_request_end(self) -> None:
        self._note("request end")

    def on_cancelled(self) -> None:
        self._note("cancelled")

    def on_credit(self) -> None:
        super().on_credit()
        self._note("credit", self.credit)

    def on_written(self, count: int) -> None:
        super().on_written(count)
        self._note("written", count)

    def on_message(self, data: bytes, *, text: bool, more: bool) -> None:
        self._note("message", data, text, more)

    def on_close(self, code: int, reason: str) -> None:
        self._note("close", code, reason)


class Tape:
    """A sink that records. It has heard HELLO unless `hello=False`."""

    def __init__(self, *, hello: bool = True) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.engine = Engine(self)
        if hello:
            self.engine.feed(HELLO)
            self.events.clear()

    def on_hello(self, member_id: str) -> None:
        self.events.append(("hello", member_id))

    def stream_for(self, number: int, head: RequestHead, *, websocket: bool) -> TapeStream:
        self.events.append(("arrived", number, head.method, head.target, websocket))
        return TapeStream(self, number, ours=False)

    def on_barrier(self, number: int) -> None:
        self.events.append(("barrier", number))

    def on_barrier_ack(self, number: int) -> None:
        self.events.append(("ack", number))

    def on_bye(self) -> None:
        self.events.append(("bye",))

    def take(self) -> list[tuple[Any, ...]]:
        events, self.events = self.events, []
        return events

    def open(self, *, whole: bool = True) -> TapeStream:
        """Send a request."""
        stream = TapeStream(self, self.engine.last + 1, ours=True)
        self.engine.open(stream, b"prefix", b"rest", whole=whole)
        self.written()
        return stream

    def written(self) -> bytes:
        """All that the engine has written since."""
        return b"".join(self.engine.outbox.take())

    def frames(self) -> list[tuple[int, int, bytes]]:
        """The same as (type, number, payload)."""
        return split(self.written())


def split(data: bytes) -> list[tuple[int, int, bytes]]:
    """Frames out of bytes."""
    found = []
    while data:
        length, kind, number = f.FRAME.unpack_from(data)
        found.append((kind, number, data[9 : 9 + length]))
        assert len(found[-1][2]) == length
        data = data[9 + length :]
    return found

"""The engine: what frames mean, whole, cut, and byte by byte; and what breaks a link."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from tests.wire.mesh.mesh_kit import GET, HELLO, OK, Tape, TapeStream, credit, frame, headed, split

from dodici.core.errors import LinkError
from dodici.wire.mesh import frames as f
from dodici.wire.mesh.engine import request_frame
from dodici.wire.mesh.streams import Stream

Feeder = Callable[[Tape, bytes], None]


def whole(tape: Tape, data: bytes) -> None:
    tape.engine.feed(data)


def byte_by_byte(tape: Tape, data: bytes) -> None:
    for at in range(len(data)):
        tape.engine.feed(data[at : at + 1])


def into_the_buffer(tape: Tape, data: bytes) -> None:
    while data:
        room = tape.engine.get_buffer()
        count = min(len(room), len(data), 1000)
        room[:count] = data[:count]
        data = data[count:]
        tape.engine.received(count)


FEEDERS = pytest.mark.parametrize("feed", [whole, byte_by_byte, into_the_buffer])

# Everything that a peer may say, and what comes of it. Requests 1 to 4 of ours are open; 2 and 4 have bodies.
SCRIPT: list[tuple[bytes, list[tuple[Any, ...]]]] = [
    (
        headed(f.REQUEST | f.FINAL, 1, GET, b"body"),
        [("arrived", 1, "GET", b"/a?b=1", False), ("theirs", 1, "request", b"body")],
    ),
    (
        headed(f.REQUEST, 2, GET),
        [("arrived", 2, "GET", b"/a?b=1", False), ("theirs", 2, "request", None)],
    ),
    (frame(f.REQ_DATA, 2, b"abc"), [("theirs", 2, "data", b"abc")]),
    (frame(f.REQ_END, 2), [("theirs", 2, "request end")]),
    (
        headed(f.REQUEST | f.WEBSOCKET, 3, GET),
        [("arrived", 3, "GET", b"/a?b=1", True), ("theirs", 3, "request", None)],
    ),
    (frame(f.REQ_TEXT, 3, b"a"), [("theirs", 3, "message", b"a", True, False)]),
    (frame(f.REQ_BINARY | f.MORE, 3, b""), [("theirs", 3, "message", b"", False, True)]),
    (frame(f.REQ_CLOSE, 3, f.close(1000, "x")), [("theirs", 3, "close", 1000, "x")]),
    (frame(f.REQ_RESET, 3), [("theirs", 3, "cancelled")]),
    (frame(f.REQ_RESET, 3), []),
    (frame(f.INFO, 1, b"103\nlink\na"), [("ours", 1, "info", 103)]),
    (headed(f.HEAD | f.FINAL, 1, OK, b"hello"), [("ours", 1, "response", 200, b"hello")]),
    (headed(f.HEAD | f.FINAL, 1, OK, b"again"), []),
    (headed(f.HEAD, 2, OK), [("ours", 2, "head", 200, ((b"x-a", b"1"),))]),
    (frame(f.DATA, 2, b"x" * 65536), [("ours", 2, "data", b"x" * 65536)]),
    (frame(f.END, 2, b"a\nb"), [("ours", 2, "end", ((b"a", b"b"),))]),
    (frame(f.RESET, 3, b"\x01busy"), [("ours", 3, "reset", f.REFUSED, ["busy"])]),
    (frame(f.RESET, 3, b"\x01busy"), []),
    (frame(f.ACCEPT, 4, b"101\na\nb"), [("ours", 4, "accept", ((b"a", b"b"),))]),
    (frame(f.TEXT, 4, b"t"), [("ours", 4, "message", b"t", True, False)]),
    (frame(f.CLOSE, 4, f.close(1001, "")), [("ours", 4, "close", 1001, "")]),
    (frame(f.BARRIER, 9), [("barrier", 9)]),
    (frame(f.BARRIER_ACK, 8), [("ack", 8)]),
    (frame(f.BYE), [("bye",)]),
]


def prepared() -> Tape:
    tape = Tape()
    for number in range(1, 5):
        tape.open(whole=number in (1, 3))
    tape.take()
    return tape


@FEEDERS
def test_every_frame_means_what_it_says(feed: Feeder) -> None:
    tape = prepared()
    for data, events in SCRIPT:
        feed(tape, data)
        assert tape.take() == events
    tape.engine.finish()


@FEEDERS
def test_all_at_once(feed: Feeder) -> None:
    tape = prepared()
    feed(tape, b"".join(data for data, _ in SCRIPT))
    assert tape.take() == [event for _, events in SCRIPT for event in events]


def test_hello_comes_first_and_once() -> None:
    tape = Tape(hello=False)
    byte_by_byte(tape, HELLO)
    assert tape.take() == [("hello", "peer")]
    with pytest.raises(LinkError, match="second HELLO"):
        tape.engine.feed(HELLO)
    for kind in (f.REQUEST | f.FINAL, f.BYE, f.DATA):
        with pytest.raises(LinkError, match="before HELLO"):
            Tape(hello=False).engine.feed(frame(kind, 1))


def opened(*data: bytes) -> Tape:
    """A tape with request 1 of the peer's (a WebSocket is 2) and requests 1 and 2 of ours."""
    tape = prepared()
    tape.engine.feed(headed(f.REQUEST, 1, GET) + headed(f.REQUEST | f.WEBSOCKET, 2, GET))
    for one in data:
        tape.engine.feed(one)
    return tape


BROKEN: dict[str, tuple[Iterable[bytes], bytes, str]] = {
    "unknown-type": ((), frame(0x3F), "unknown frame type"),
    "unknown-flag": ((), frame(f.END | f.FINAL), "unknown frame type"),
    "data-too-long": ((), f.FRAME.pack(65537, f.REQ_DATA, 1), "65537 bytes, 65536 are allowed"),
    "head-too-long": ((), f.FRAME.pack(f.MAX_FRAME, f.REQUEST, 3), "are allowed"),
    "end-with-payload": ((), frame(f.REQ_END, 1, b"x"), "0 are allowed"),
    "request-repeated": ((), headed(f.REQUEST, 2, GET), "request 2 after request 2"),
    "request-skipped": ((), headed(f.REQUEST, 4, GET), "request 4 after request 2"),
    "request-zero": ((), headed(f.REQUEST, 0, GET), "request 0"),
    "request-without-length": ((), frame(f.REQUEST, 3, b"abc"), "shorter than its head"),
    "request-head-beyond": ((), frame(f.REQUEST | f.FINAL, 3, b"\xff\0\0\0abc"), "shorter than its head"),
    "request-with-more": ((), headed(f.REQUEST, 3, GET, b"body"), "not the whole"),
    "inline-too-long": ((), headed(f.REQUEST | f.FINAL, 3, GET, bytes(f.INLINE + 1)), "too long for it"),
    "bad-request-head": ((), headed(f.REQUEST, 3, b"GET"), "malformed request"),
    "data-never": ((), frame(f.REQ_DATA, 3, b"x"), "never made"),
    "data-zero": ((), frame(f.REQ_DATA, 0, b"x"), "never made"),
    "data-empty": ((), frame(f.REQ_DATA, 1), "empty piece"),
    "data-after-end": ((frame(f.REQ_END, 1),), frame(f.REQ_DATA, 1, b"x"), "behind its end"),
    "end-twice": ((frame(f.REQ_END, 1),), frame(f.REQ_END, 1), "ends twice"),
    "answer-never": ((), headed(f.HEAD, 5, OK), "never made"),
    "head-with-body": ((), headed(f.HEAD, 1, OK, b"x"), "longer than its head"),
    "bad-head": ((), headed(f.HEAD, 1, b"OK"), "malformed response"),
    "head-twice": ((headed(f.HEAD, 1, OK),), headed(f.HEAD, 1, OK), "which has 200"),
    "head-100": ((), headed(f.HEAD, 1, b"100"), "response 100"),
    "info-200": ((), frame(f.INFO, 1, OK), "interim response 200"),
    "info-late": ((headed(f.HEAD, 1, OK),), frame(f.INFO, 1, b"103"), "interim response 103"),
    "body-early": ((), frame(f.DATA, 1, b"x"), "before its head"),
    "end-early": ((), frame(f.END, 1), "before its head"),
    "bad-trailers": ((headed(f.HEAD, 1, OK),), frame(f.END, 1, b"x"), "malformed trailers"),
    "bad-reset": ((), frame(f.RESET, 1, b"\x09"), "unknown kind"),
    "accept-200": ((), frame(f.ACCEPT, 1, OK), "accepted with 200"),
    "credit-short": ((), frame(f.CREDIT, 1, b"\1"), "without a number"),
    "credit-too-much": ((), credit(f.CREDIT, 1, 1), "more than was sent"),
    "credit-of-theirs": ((), credit(f.REQ_CREDIT, 1, 1), "more than was sent"),
    "credit-never": ((), credit(f.REQ_CREDIT, 7, 1), "never made"),
    "close-short": ((), frame(f.REQ_CLOSE, 2, b"\1"), "without a code"),
    "hello-again": ((), HELLO, "second HELLO"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_the_link(name: str) -> None:
    before, data, text = BROKEN[name]
    with pytest.raises(LinkError, match=text):
        opened(*before).engine.feed(data)
    tape = opened(*before)
    with pytest.raises(LinkError, match=text):
        byte_by_byte(tape, data)


def test_a_cut_in_the_middle_of_a_frame() -> None:
    for at in range(1, len(HELLO)):
        tape = Tape(hello=False)
        tape.engine.feed(HELLO[:at])
        with pytest.raises(LinkError, match="middle of a frame"):
            tape.engine.finish()


def test_a_window_is_all_that_is_taken_unconsumed() -> None:
    tape = opened()
    stream = tape.engine.theirs[1]
    assert isinstance(stream, TapeStream)
    stream.hold = True
    for _ in range(4):
        tape.engine.feed(frame(f.REQ_DATA, 1, bytes(65536)))
    with pytest.raises(LinkError, match="1 bytes beyond its credit"):
        tape.engine.feed(frame(f.REQ_DATA, 1, b"x"))


def test_messages_cost_their_frames_too() -> None:
    tape = opened()
    count = f.WINDOW // f.MESSAGE_COST
    tape.engine.feed(frame(f.REQ_TEXT, 2) * count)
    with pytest.raises(LinkError, match="beyond its credit"):
        tape.engine.feed(frame(f.REQ_TEXT, 2))


def test_credit_is_given_back_by_halves_of_the_window() -> None:
    tape = opened(headed(f.HEAD, 1, OK))
    stream = tape.engine.ours[1]
    for _ in range(5):
        tape.engine.feed(frame(f.DATA, 1, bytes(65536)))
    grants = tape.frames()
    assert grants == [(f.REQ_CREDIT, 1, f.U32.pack(131072))] * 2
    assert (stream.inbound, stream.consumed) == (f.WINDOW - 65536, 65536)
    theirs = tape.engine.theirs[1]
    assert tape.engine.consumed(theirs, f.PORTION - 1) is False
    assert tape.engine.consumed(theirs, 1) is True
    assert tape.frames() == [(f.CREDIT, 1, f.U32.pack(f.PORTION))]
    tape.engine.forget(theirs)
    assert tape.engine.consumed(theirs, f.WINDOW) is False


def test_credit_brings_a_body_back_in_line() -> None:
    tape = prepared()
    stream = tape.engine.ours[2]
    tape.engine.outbox.send(stream, bytes(f.WINDOW + 10))
    tape.engine.outbox.fill(1 << 20)
    assert len(split(tape.written())) == 4
    tape.take()
    tape.engine.feed(credit(f.CREDIT, 2, f.PORTION))
    assert tape.take() == [("ours", 2, "credit", f.PORTION)]
    tape.engine.outbox.fill(1 << 20)
    assert [(kind, len(payload)) for kind, _, payload in tape.frames()] == [(f.REQ_DATA, 10)]


def test_an_answer_before_the_end_of_a_request_ends_it() -> None:
    tape = prepared()
    tape.engine.feed(headed(f.HEAD | f.FINAL, 2, OK))
    assert tape.frames() == [(f.REQ_RESET, 2, b"")]
    tape.engine.feed(headed(f.HEAD, 4, OK) + frame(f.END, 4))
    assert tape.frames() == [(f.REQ_RESET, 4, b"")]
    tape.engine.feed(headed(f.HEAD | f.FINAL, 1, OK))
    assert tape.frames() == []
    assert list(tape.engine.ours) == [3]


def test_what_is_sent() -> None:
    tape = opened(frame(f.REQ_END, 1), headed(f.REQUEST | f.FINAL, 3, GET), headed(f.REQUEST, 4, GET))
    engine = tape.engine
    engine.head(engine.theirs[1], OK)
    assert tape.frames() == [(f.HEAD, 1, f.U32.pack(len(OK)) + OK)]
    stream = engine.theirs[1]
    engine.end(stream, b"a\nb")
    assert tape.frames() == [(f.END, 1, b"a\nb")]
    assert stream.gone
    engine.end(stream)
    engine.reset(stream, f.ABORTED)
    assert tape.frames() == []
    engine.respond(engine.theirs[3], OK, b"body")
    assert tape.frames() == [(f.HEAD | f.FINAL, 3, f.U32.pack(len(OK)) + OK + b"body")]
    engine.reset(engine.theirs[2], f.REFUSED, "no")
    assert tape.frames() == [(f.RESET, 2, b"\x01no")]
    late = engine.theirs[4]
    engine.respond(late, OK, b"")
    tape.written()
    assert not late.gone
    engine.feed(frame(f.REQ_DATA, 4, b"late") + frame(f.REQ_END, 4))
    assert late.gone
    assert engine.theirs == {}
    ours = engine.ours[1]
    engine.cancel(ours)
    engine.cancel(ours)
    assert tape.frames() == [(f.REQ_RESET, 1, b"")]
    assert sorted(engine.ours) == [2, 3, 4]


def test_the_end_of_a_queued_body_forgets_the_stream() -> None:
    tape = opened(frame(f.REQ_END, 1))
    stream = tape.engine.theirs[1]
    tape.engine.outbox.send(stream, bytes(10_000))
    tape.engine.end(stream)
    assert not stream.gone
    for ended in tape.engine.outbox.fill(1 << 20):
        tape.engine.body_sent(ended)
    assert stream.gone


def test_a_response_that_ends_before_its_request_is_remembered_until_then() -> None:
    tape = opened()
    stream = tape.engine.theirs[1]
    tape.engine.head(stream, OK)
    tape.engine.end(stream)
    assert not stream.gone
    tape.engine.feed(frame(f.REQ_END, 1))
    assert stream.gone


def test_a_closed_engine_does_nothing_more() -> None:
    tape = opened()
    streams = [*tape.engine.ours.values(), *tape.engine.theirs.values()]
    tape.engine.close()
    assert all(stream.gone for stream in streams)
    tape.take()
    tape.engine.feed(frame(f.BARRIER, 1))
    tape.engine.feed(b"\xff" * 100)
    assert tape.take() == []


def test_closing_in_the_middle_of_a_read_stops_it() -> None:
    tape = Tape()
    tape.on_barrier = lambda number: tape.engine.close()  # type: ignore[method-assign]
    tape.engine.feed(frame(f.BARRIER, 1) + frame(f.BYE))
    assert tape.take() == []


def test_the_longest_frame_fits_the_buffer_behind_another() -> None:
    tape = Tape()
    head = GET + b"\nx-a\n" + b"a" * (f.MAX_HEAD - len(GET) - 5)
    data = headed(f.REQUEST | f.FINAL, 1, head, bytes(f.INLINE))
    assert len(data) == f.MAX_FRAME
    into_the_buffer(tape, frame(f.BARRIER, 1) + data)
    assert [event[0] for event in tape.take()] == ["barrier", "arrived", "theirs"]


def test_request_frames() -> None:
    for body, websocket, kind in (
        (None, False, f.REQUEST),
        (None, True, f.REQUEST | f.WEBSOCKET),
        (b"", False, f.REQUEST | f.FINAL),
        (memoryview(b"abc"), False, f.REQUEST | f.FINAL),
    ):
        prefix, rest = request_frame(b"head", body, websocket=websocket)
        payload = b"\x04\0\0\0head" + bytes(body or b"")
        assert split(prefix + f.U32.pack(77) + rest) == [(kind, 77, payload)]


@pytest.mark.parametrize(
    "call",
    [
        lambda stream: stream.on_data(b""),
        lambda stream: stream.on_informational(None),
        lambda stream: stream.on_head(None),
        lambda stream: stream.on_response(None, b""),
        lambda stream: stream.on_end(None),
        lambda stream: stream.on_reset(1, []),
        lambda stream: stream.on_accept(None),
        lambda stream: stream.on_request_end(),
        lambda stream: stream.on_cancelled(),
        lambda stream: stream.on_message(b"", text=True, more=False),
        lambda stream: stream.on_close(1000, ""),
    ],
    ids=range(11),
)
def test_what_a_stream_does_not_expect_breaks_the_link(call: Callable[[Stream], None]) -> None:
    with pytest.raises(LinkError, match="does not fit request 1"):
        call(Stream(1, ours=True))


def test_frames_of_streams_that_have_ended_are_ignored() -> None:
    tape = opened()
    for stream in (*list(tape.engine.ours.values()), *list(tape.engine.theirs.values())):
        tape.engine.forget(stream)
    late = [
        frame(f.REQ_DATA, 1, b"x"), frame(f.REQ_END, 1), frame(f.REQ_RESET, 1), credit(f.REQ_CREDIT, 1, 9),
        frame(f.REQ_TEXT, 2, b"x"), frame(f.REQ_CLOSE, 2, b"\0\0"),
        frame(f.INFO, 1, b"103"), headed(f.HEAD, 1, OK), headed(f.HEAD | f.FINAL, 1, OK), frame(f.DATA, 1, b"x"),
        frame(f.END, 1), frame(f.RESET, 1, b"\x01"), credit(f.CREDIT, 1, 9), frame(f.ACCEPT, 1, b"101"),
        frame(f.BINARY, 1, b"x"), frame(f.CLOSE, 1, b"\0\0"),
    ]  # fmt: skip
    tape.take()
    for data in late:
        tape.engine.feed(data)
    assert tape.take() == []
    assert tape.frames() == []

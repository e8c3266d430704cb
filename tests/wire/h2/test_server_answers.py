"""A server's answers: whole and in parts, behind closed windows, early; and the windows of requests.

Sections are RFC 9113's.
"""

from __future__ import annotations

from typing import Any

import hpack
import pytest
from tests.wire.h2.frames_kit import (
    Frame,
    data,
    headers,
    priority,
    reset,
    rst_stream,
    settings,
    update,
    window_update,
)
from tests.wire.h2.server_kit import GET, HEAD, TRAILERS, Front, talk, whole

from dodici.wire.h2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    MAX_WINDOW,
    ErrorCode,
)
from dodici.wire.h2.hpack import encode_fields
from dodici.wire.h2.settings import LocalSettings

TABLE, PUSH, STREAMS, WINDOW, FRAME, LIST, CONNECT = 1, 2, 3, 4, 5, 6, 8
LAST = END_HEADERS | END_STREAM
HALF = 32_768
CALL = headers(1, GET, end=True)
OPEN = headers(1, GET)


def body_of(sent: list[Frame], stream: int = 1) -> bytes:
    return b"".join([one.payload for one in sent if one.kind == DATA and one.stream == stream])


# --------------------------------------------------------------------------------------- answers


def test_an_answer_in_one_piece() -> None:
    front = Front.begun()
    front.receive(CALL)
    front.answer(1)
    assert front.sent() == whole()
    assert not front.engine.streams


def test_an_answer_given_while_the_request_is_told() -> None:
    def act(front: Front, event: Any) -> None:
        if event[0] == "end":
            front.answer(event[1])

    outcome = talk(CALL, headers(3, GET), data(3, b"x", end=True), act=act)
    assert outcome.sent == whole(1) + whole(3)


@pytest.mark.parametrize("how", ["blocked", "stream-window", "connection-window", "frame-size"])
def test_an_answer_that_has_to_wait(how: str) -> None:
    """It comes to the same frames in the end."""
    front = Front.begun((WINDOW, 3 if how == "stream-window" else 1 << 20))
    if how == "connection-window":
        front.engine.outbox.window.size = 3
    body = bytes(20_000) if how == "frame-size" else b"answer"
    front.receive(CALL)
    front.answer(1, body, at_once=how != "blocked")
    sent = front.filled()
    if "window" in how:
        assert body_of(sent) == body[:3]
        assert 1 in front.engine.streams
        front.receive(window_update(0, 100), window_update(1, 100))
        sent += front.filled()
    assert sent[0] == whole()[0]
    assert body_of(sent) == body
    assert sent[-1] == whole()[-1]
    assert not front.engine.streams


def test_an_empty_answer_where_windows_are_closed() -> None:
    front = Front.begun((WINDOW, 0))
    front.engine.outbox.window.size = 0
    front.receive(CALL)
    front.answer(1, b"")
    assert [one for one in front.sent() if one.payload] == [whole()[0], whole()[2]]
    assert not front.engine.streams


@pytest.mark.parametrize(("before", "after"), [(10, 0), (0, 5)])
def test_an_answer_after_the_window_was_moved(before: int, after: int) -> None:
    front = Front.begun((WINDOW, before))
    front.receive(CALL, settings((WINDOW, after)))
    front.sent()
    front.answer(1, b"abcde")
    assert body_of(front.filled()) == b"abcde"[:after]


@pytest.mark.parametrize("place", ["head", "trailers"])
@pytest.mark.parametrize("size", [16_100, 16_350, 16_378, 20_000, 60_000])
def test_large_sections_of_answers(place: str, size: int) -> None:
    """No frame is larger than the client allows (4.2)."""
    front = Front.begun()
    front.receive(CALL)
    block = encode_fields([(b"x", b"y" * size)])
    head, trailers = (HEAD + block, TRAILERS) if place == "head" else (HEAD, TRAILERS + block)
    front.engine.answer(front[1], head, b"answer", trailers, at_once=True)
    sent = front.filled()
    assert max(len(one.payload) for one in sent) <= 16_384
    assert body_of(sent) == b"answer"
    where = [one.kind for one in sent].index(DATA)
    parts = [one.payload for one in (sent[:where] if place == "head" else sent[where + 1 :])]
    assert b"".join(parts) == (head if place == "head" else trailers)
    assert sent[where + 1].flags & END_STREAM


def test_parts_of_an_answer() -> None:
    front = Front.begun()
    front.receive(CALL)
    stream = front[1]
    front.engine.head(stream, HEAD)
    front.engine.send(stream, b"one")
    front.engine.send(stream, b"")
    front.engine.send(stream, b"two")
    front.engine.finish(stream, TRAILERS)
    assert front.filled() == [*whole(body=b"one")[:2], *whole(body=b"two")[1:]]
    assert stream.written == 6  # type: ignore[attr-defined]
    assert stream.gone


def test_an_answer_without_trailers() -> None:
    front = Front.begun()
    front.receive(CALL)
    stream = front[1]
    front.engine.head(stream, HEAD)
    front.engine.send(stream, b"all")
    front.engine.end(stream)
    front.engine.end(stream)
    assert front.filled() == [whole()[0], Frame(DATA, END_STREAM, 1, b"all")]


def test_an_answer_that_is_a_head_only() -> None:
    front = Front.begun()
    front.receive(CALL)
    front.engine.finish(front[1], HEAD)
    assert front.sent() == [Frame(HEADERS, LAST, 1, HEAD)]


def test_trailers_wait_for_the_body() -> None:
    front = Front.begun((WINDOW, 10))
    front.receive(CALL, headers(3, GET, end=True))
    for number in (1, 3):
        front.answer(number, bytes(25))
    sent = front.filled()
    assert [(one.kind, one.stream, len(one.payload)) for one in sent if one.kind == DATA] == [
        (DATA, 1, 10),
        (DATA, 3, 10),
    ]
    front.receive(window_update(1, 100))
    assert front.filled() == [Frame(DATA, 0, 1, bytes(15)), Frame(HEADERS, LAST, 1, TRAILERS)]
    front.receive(window_update(3, 15))
    assert front.filled() == [Frame(DATA, 0, 3, bytes(15)), Frame(HEADERS, LAST, 3, TRAILERS)]


def test_trailers_of_a_body_that_is_given_in_portions() -> None:
    front = Front.begun()
    front.receive(CALL)
    front.engine.send(front[1], bytes(40_000))
    front.engine.finish(front[1], TRAILERS)
    stream = front[1]
    kinds = []
    while not stream.gone:
        kinds += [one.kind for one in front.filled(1)]
    assert kinds == [DATA, DATA, DATA, HEADERS]


def test_large_trailers_behind_a_body() -> None:
    front = Front.begun()
    front.receive(CALL)
    block = encode_fields([(b"x", b"y" * 40_000)])
    front.engine.send(front[1], b"body")
    front.engine.finish(front[1], block)
    sent = front.filled()
    assert [one.kind for one in sent] == [DATA, HEADERS, CONTINUATION, CONTINUATION]
    assert b"".join(one.payload for one in sent[1:]) == block


def test_settings_in_the_middle_of_an_answer() -> None:
    """6.9.2: windows move by the difference, below 0, too."""
    front = Front.begun((WINDOW, 100))
    front.receive(CALL)
    front.answer(1, bytes(300))
    assert len(body_of(front.filled())) == 100
    front.receive(settings((WINDOW, 50)), window_update(1, 40))
    assert body_of(front.filled()) == b""
    front.receive(window_update(1, 15))
    assert len(body_of(front.filled())) == 5
    front.receive(settings((WINDOW, 245)))
    sent = front.filled()
    assert len(body_of(sent)) == 195
    assert sent[-1] == Frame(HEADERS, LAST, 1, TRAILERS)


def test_settings_that_overflow_a_window() -> None:
    front = Front.begun()
    front.receive(CALL, window_update(1, MAX_WINDOW - 65_535))
    assert front.failing(settings((WINDOW, 65_536)), last=1) == ErrorCode.FLOW_CONTROL_ERROR


def test_the_clients_frame_size() -> None:
    front = Front.begun((FRAME, 40_000), (WINDOW, 1 << 20))
    front.receive(window_update(0, 1 << 20), CALL)
    front.answer(1, bytes(90_000))
    assert [len(one.payload) for one in front.filled() if one.kind == DATA] == [40_000, 40_000, 10_000]
    front.receive(settings((FRAME, 16_384)), headers(3, GET, end=True))
    front.sent()
    front.answer(3, bytes(20_000))
    assert [len(one.payload) for one in front.filled() if one.kind == DATA] == [16_384, 3616]


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("sizes", [[0], [100], [0, 4096], [4095, 8192]])
def test_a_smaller_table_is_acknowledged_in_the_first_answer(sizes: list[int], at_once: bool) -> None:
    """RFC 7541 section 4.2, as another decoder takes it."""
    front = Front.begun(*[(TABLE, size) for size in sizes])
    front.receive(CALL, headers(3, GET, end=True), headers(5, GET, end=True))
    front.answer(1, at_once=at_once)
    front.engine.finish(front[3], HEAD)
    front.answer(5)
    decoder = hpack.Decoder()
    decoder.max_allowed_table_size = min(sizes)
    blocks = [one.payload for one in front.filled() if one.kind == HEADERS]
    head, trailers = b":status", b"grpc-status"
    order = [head, trailers, head, head, trailers] if at_once else [head, head, head, trailers, trailers]
    assert [next(iter(decoder.decode(block, raw=True)))[0] for block in blocks] == order
    assert sum(block.startswith(b"\x20") for block in blocks) == (min(sizes) < 4096)
    assert blocks[0].startswith(b"\x20") == (min(sizes) < 4096)


def test_nothing_is_sent_on_streams_that_are_gone() -> None:
    front = Front.begun()
    front.receive(CALL)
    stream = front[1]
    front.engine.send(stream, bytes(100))
    front.receive(rst_stream(1))
    front.engine.head(stream, HEAD)
    front.engine.send(stream, b"x")
    front.engine.answer(stream, HEAD, b"x", TRAILERS, at_once=True)
    front.engine.finish(stream, TRAILERS)
    front.engine.end(stream)
    front.engine.reset(stream)
    front.engine.consumed(stream, 10)
    assert front.filled() == []
    assert not front.engine.outbox.ready


def test_streams_take_turns() -> None:
    front = Front.begun((WINDOW, 1 << 20))
    front.receive(window_update(0, 1 << 20), CALL, headers(3, GET, end=True), headers(5, GET, end=True))
    for number in (1, 3, 5):
        front.answer(number, bytes(20_000))
    sent = [one.stream for one in front.filled() if one.kind == DATA]
    assert sent == [1, 3, 5, 1, 3, 5]


# ------------------------------------------------------------------------------ early answers (8.1)


@pytest.mark.parametrize("at_once", [True, False])
def test_an_answer_before_the_request_is_complete(at_once: bool) -> None:
    """The client is told to stop; what it has sent before it knew is taken without a word."""
    front = Front.begun()
    front.receive(OPEN, data(1, b"some"))
    front.answer(1, at_once=at_once)
    assert front.filled() == [*whole(), reset(1, ErrorCode.NO_ERROR)]
    assert not front.engine.streams
    front.receive(data(1, bytes(10_000)), window_update(1, 5), priority(1))
    front.receive(headers(1, [(b"x", b"1")], end=True))
    front.receive(rst_stream(1))
    assert front.filled() == []
    assert front.events[-1] == ("data", 1, b"some")


def test_a_long_answer_before_the_request_is_complete() -> None:
    """Behind the body, and only if the request has not ended meanwhile."""
    for late, told in ((b"", [reset(1, ErrorCode.NO_ERROR)]), (data(1, end=True), [])):
        front = Front.begun((WINDOW, 10))
        front.receive(OPEN)
        front.answer(1, bytes(20))
        front.filled()
        front.receive(late, window_update(1, 10))
        assert front.filled() == [Frame(DATA, 0, 1, bytes(10)), Frame(HEADERS, LAST, 1, TRAILERS), *told]
        assert front.events[1:] == ([("end", 1, ())] if late else [])


def test_what_comes_late_counts_for_the_connection() -> None:
    front = Front.begun()
    front.receive(OPEN)
    front.engine.finish(front[1], HEAD)
    front.sent()
    front.receive(data(1, bytes(16_384)), data(1, bytes(16_384)))
    assert front.sent() == [update(0, HALF)]


# ------------------------------------------------------------------- windows of requests (5.2, 6.9)


def test_the_connections_window_opens_as_bytes_arrive() -> None:
    front = Front.begun()
    front.holding = True
    front.receive(OPEN, data(1, bytes(16_384)), data(1, bytes(16_383)))
    assert front.sent() == []
    front.receive(data(1, b"x"))
    assert front.sent() == [update(0, HALF)]


def test_a_streams_window_opens_as_bytes_are_consumed() -> None:
    front = Front.begun()
    front.holding = True
    front.receive(OPEN, headers(3, GET))
    for number in (1, 3):
        for size in (16_384, 16_384, 16_384, 16_383):
            front.receive(data(number, bytes(size)))
    assert {one.stream for one in front.sent()} == {0}
    front.engine.consumed(front[1], HALF - 1)
    assert front.sent() == []
    front.engine.consumed(front[1], 1)
    assert front.sent() == [update(1, HALF)]
    front.receive(data(1, bytes(16_384)))
    front.receive(data(3, b"x"))
    assert front.events[-1] == ("failed", 3, "HTTP2Error", ErrorCode.FLOW_CONTROL_ERROR)


def test_padding_is_credited_by_itself() -> None:
    front = Front.begun(local=LocalSettings(1000, 65_535, 16_384))
    front.holding = True
    front.receive(OPEN, data(1, b"x", pad=248), data(1, b"x", pad=248))
    assert [one for one in front.sent() if one.stream] == []
    front.engine.consumed(front[1], 2)
    assert front.sent() == [update(1, 500)]


def test_no_credit_for_what_has_ended() -> None:
    front = Front.begun()
    front.holding = True
    front.receive(OPEN, data(1, bytes(16_384)), data(1, bytes(16_384), end=True))
    front.sent()
    front.engine.consumed(front[1], HALF)
    assert front.sent() == []

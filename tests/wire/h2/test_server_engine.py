"""A server's connection: prefaces, what no client may send, what ends streams, and how no request is lost at the end.

Sections are RFC 9113's.
"""

from __future__ import annotations

from typing import Any

import pytest
from tests.wire.h2.frames_kit import (
    LOCAL,
    SETTINGS_ACKED,
    block_of,
    continuation,
    data,
    frame,
    frames,
    goaway,
    headers,
    ping,
    priority,
    push_promise,
    reset,
    rst_stream,
    settings,
    update,
    window_update,
)
from tests.wire.h2.server_kit import GET, Front, Served, talk, whole, with_fields

from dodici.core.errors import StreamResetError
from dodici.wire.h2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    MAX_STREAM_ID,
    MAX_WINDOW,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
)
from dodici.wire.h2.settings import LocalSettings

TABLE, PUSH, STREAMS, WINDOW, FRAME, LIST, CONNECT = 1, 2, 3, 4, 5, 6, 8
LAST = END_HEADERS | END_STREAM
HALF = 32_768
CALL = headers(1, GET, end=True)
OPEN = headers(1, GET)


# ---------------------------------------------------------------------------------- prefaces (3.4)


def test_our_preface() -> None:
    local = LocalSettings(
        100_000, 200_000, 5000, max_frame_size=20_000, header_table_size=1000, max_concurrent_streams=7
    )
    first, second = frames(Front(local).preface)
    assert first[:3] == (SETTINGS, 0, 0)
    pairs = [first.payload[at : at + 6] for at in range(0, len(first.payload), 6)]
    said = {int.from_bytes(pair[:2], "big"): int.from_bytes(pair[2:], "big") for pair in pairs}
    assert said == {TABLE: 1000, PUSH: 0, STREAMS: 7, WINDOW: 100_000, FRAME: 20_000, LIST: 5000}
    assert second == update(0, 200_000 - 65_535)


def test_the_clients_preface() -> None:
    outcome = talk(settings((WINDOW, 1)), opening=PREFACE)
    assert (outcome.events, outcome.sent) == ([("settings",)], [SETTINGS_ACKED])
    assert outcome.front.engine.begun


@pytest.mark.parametrize(
    "opening",
    [
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"P" + b"OST / HTTP/1.1\r\n",
        PREFACE[:-1] + b"x",
        settings(),
        b"\x16\x03\x01\x02\x00",
    ],
)
def test_what_does_not_speak_http2(opening: bytes) -> None:
    outcome = talk(opening=opening)
    assert outcome.code == ErrorCode.PROTOCOL_ERROR
    assert "does not speak HTTP/2" in outcome.message
    assert [one.kind for one in outcome.sent] == [GOAWAY]
    assert not outcome.front.engine.begun


def test_a_preface_that_does_not_end() -> None:
    front = Front()
    for octet in PREFACE[:-1]:
        front.receive(bytes((octet,)))
        front.receive(b"")
    assert (front.events, front.sent(), front.engine.begun) == ([], [], False)


@pytest.mark.parametrize(
    "first",
    [ping(), CALL, settings(ack=True), window_update(0, 1), frame(0xFF, 0, 0), data(1, b"x"), b"\xff" * 9],
)
def test_a_client_begins_with_settings(first: bytes) -> None:
    outcome = talk(first, opening=PREFACE)
    assert (outcome.code, outcome.events) == (ErrorCode.PROTOCOL_ERROR, [])


def test_everything_in_one_piece() -> None:
    front = Front()
    front.receive(PREFACE, settings(), CALL)
    assert [event[0] for event in front.events] == ["settings", "open", "end"]


# ------------------------------------------------------------------------- what no client may send


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        pytest.param(data(0, b"x"), ErrorCode.PROTOCOL_ERROR, id="data-on-0"),
        pytest.param(data(1, b"x"), ErrorCode.PROTOCOL_ERROR, id="data-on-idle"),
        pytest.param(data(2, b"x"), ErrorCode.PROTOCOL_ERROR, id="data-on-even"),
        pytest.param(headers(0, GET), ErrorCode.PROTOCOL_ERROR, id="headers-on-0"),
        pytest.param(headers(2, GET), ErrorCode.PROTOCOL_ERROR, id="headers-on-even"),
        pytest.param(headers(5, GET, end=True) + headers(3, GET), ErrorCode.STREAM_CLOSED, id="headers-on-lower"),
        pytest.param(frame(HEADERS, 0x24, 1, b"1234"), ErrorCode.FRAME_SIZE_ERROR, id="headers-without-priority"),
        pytest.param(frame(HEADERS, 0x0C, 1, b"\x09" + GET[:3]), ErrorCode.PROTOCOL_ERROR, id="headers-all-padding"),
        pytest.param(OPEN + frame(DATA, 8, 1, b"\x05123"), ErrorCode.PROTOCOL_ERROR, id="data-all-padding"),
        pytest.param(OPEN + frame(DATA, 8, 1), ErrorCode.FRAME_SIZE_ERROR, id="data-without-padding"),
        pytest.param(continuation(1, b""), ErrorCode.PROTOCOL_ERROR, id="continuation-of-nothing"),
        pytest.param(OPEN + continuation(1, b""), ErrorCode.PROTOCOL_ERROR, id="continuation-after-the-head"),
        pytest.param(rst_stream(1), ErrorCode.PROTOCOL_ERROR, id="rst-on-idle"),
        pytest.param(rst_stream(0), ErrorCode.PROTOCOL_ERROR, id="rst-on-0"),
        pytest.param(frame(RST_STREAM, 0, 1, b"123"), ErrorCode.FRAME_SIZE_ERROR, id="rst-too-short"),
        pytest.param(push_promise(1, 3), ErrorCode.PROTOCOL_ERROR, id="push"),
        pytest.param(window_update(0, 0), ErrorCode.PROTOCOL_ERROR, id="update-of-0"),
        pytest.param(window_update(1, 1), ErrorCode.PROTOCOL_ERROR, id="update-on-idle"),
        pytest.param(window_update(0, MAX_WINDOW), ErrorCode.FLOW_CONTROL_ERROR, id="update-overflows"),
        pytest.param(frame(WINDOW_UPDATE, 0, 0, b"123"), ErrorCode.FRAME_SIZE_ERROR, id="update-too-short"),
        pytest.param(priority(0), ErrorCode.PROTOCOL_ERROR, id="priority-on-0"),
        pytest.param(frame(PING, 0, 1, b"12345678"), ErrorCode.PROTOCOL_ERROR, id="ping-on-1"),
        pytest.param(frame(PING, 0, 0, b"1234567"), ErrorCode.FRAME_SIZE_ERROR, id="ping-too-short"),
        pytest.param(frame(GOAWAY, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR, id="goaway-on-1"),
        pytest.param(frame(GOAWAY, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR, id="goaway-too-short"),
        pytest.param(frame(SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR, id="settings-on-1"),
        pytest.param(frame(SETTINGS, 0, 0, bytes(5)), ErrorCode.FRAME_SIZE_ERROR, id="settings-of-5"),
        pytest.param(frame(SETTINGS, 1, 0, bytes(6)), ErrorCode.FRAME_SIZE_ERROR, id="ack-with-settings"),
        pytest.param(settings((PUSH, 2)), ErrorCode.PROTOCOL_ERROR, id="push-2"),
        pytest.param(settings((WINDOW, 1 << 31)), ErrorCode.FLOW_CONTROL_ERROR, id="window-too-large"),
        pytest.param(settings((FRAME, 16_383)), ErrorCode.PROTOCOL_ERROR, id="frames-too-small"),
        pytest.param(settings((FRAME, 1 << 24)), ErrorCode.PROTOCOL_ERROR, id="frames-too-large"),
        pytest.param(data(1, bytes(16_385)), ErrorCode.FRAME_SIZE_ERROR, id="frame-too-large"),
        pytest.param(frame(0x77, 0, 0, bytes(16_385)), ErrorCode.FRAME_SIZE_ERROR, id="unknown-too-large"),
    ],
)  # fmt: skip
def test_errors_of_the_connection(wire: bytes, code: ErrorCode) -> None:
    assert talk(wire).code == code


def test_data_beyond_the_connections_window() -> None:
    front = Front.begun(local=LocalSettings(1 << 20, 65_535, 16_384, max_frame_size=100_000))
    front.receive(OPEN, data(1, bytes(65_535)))
    assert front.sent() == [update(0, 65_535)]
    assert front.failing(data(1, bytes(65_536)), last=1) == ErrorCode.FLOW_CONTROL_ERROR


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        pytest.param(window_update(1, 0), ErrorCode.PROTOCOL_ERROR, id="update-of-0"),
        pytest.param(window_update(1, MAX_WINDOW), ErrorCode.FLOW_CONTROL_ERROR, id="update-overflows"),
        pytest.param(
            window_update(1, 5) + window_update(1, MAX_WINDOW - 5), ErrorCode.FLOW_CONTROL_ERROR, id="updates"
        ),
        pytest.param(priority(1, bytes(4)), ErrorCode.FRAME_SIZE_ERROR, id="priority-too-short"),
        pytest.param(data(1, bytes(16_384)) * 4, ErrorCode.FLOW_CONTROL_ERROR, id="beyond-the-window"),
        pytest.param(headers(1, GET), ErrorCode.PROTOCOL_ERROR, id="second-head"),
    ],
)
def test_errors_of_a_stream(wire: bytes, code: ErrorCode) -> None:
    """The others go on."""
    front = Front.begun(local=LocalSettings(30_000, 1 << 20, 16_384))
    front.holding = True
    front.receive(OPEN, headers(3, GET), wire)
    assert front.events[-1:] == [("failed", 1, "HTTP2Error", code)]
    assert front.sent()[-1] == reset(1, code)
    assert list(front.engine.streams) == [3]
    front.receive(ping(), data(3, b"x", end=True), headers(5, GET, end=True))
    assert front.events[-1] == ("end", 5, ())


def test_frames_that_mean_nothing() -> None:
    outcome = talk(
        priority(1),
        priority(9),
        frame(0x77, 0xFF, 7, b"unknown"),
        frame(HEADERS, LAST | 0xC2, 1, GET),
        goaway(0, 0, b"bye"),
        ping(ack=True),
    )
    assert [event[0] for event in outcome.events] == ["open", "end", "goaway", "pong"]
    assert outcome.sent == []


def test_stream_numbers_may_be_skipped() -> None:
    outcome = talk(headers(7, GET, end=True), headers(MAX_STREAM_ID, GET, end=True))
    assert [event[1] for event in outcome.events if event[0] == "open"] == [7, MAX_STREAM_ID]
    assert outcome.front.engine.exhausted


# --------------------------------------------------------------------------------- RST_STREAM (6.4)


def test_a_request_that_the_client_gives_up() -> None:
    for state in (OPEN, CALL):
        outcome = talk(state, rst_stream(1, ErrorCode.CANCEL), window_update(1, 1), rst_stream(1))
        assert outcome.events[-1] == ("failed", 1, "StreamResetError", ErrorCode.CANCEL)
        assert "the client reset the stream: CANCEL" in outcome.error
        assert isinstance(outcome.front.errors[0], StreamResetError)
        assert outcome.sent == []
        assert not outcome.front.engine.streams


def test_frames_after_the_clients_reset() -> None:
    """5.1: it may send none."""
    for late in (data(1, b"x"), headers(1, GET)):
        assert talk(OPEN, rst_stream(1), late).code == ErrorCode.STREAM_CLOSED


def test_a_queued_answer_is_dropped_with_its_stream() -> None:
    front = Front.begun((WINDOW, 10))
    front.receive(CALL)
    stream = front[1]
    front.answer(1, bytes(1000))
    front.filled()
    front.receive(rst_stream(1), window_update(1, 1000))
    assert front.filled() == []
    assert (stream.queued, list(stream.queue or ())) == (0, [])


def test_we_reset() -> None:
    front = Front.begun()
    front.receive(OPEN, CALL.replace(b"\0\0\0\x01", b"\0\0\0\x03"))
    for number in (1, 3):
        front.engine.reset(front[number], ErrorCode.INTERNAL_ERROR)
    assert front.sent() == [reset(1, ErrorCode.INTERNAL_ERROR), reset(3, ErrorCode.INTERNAL_ERROR)]
    front.receive(data(1, b"late", end=True))
    assert front.failing(data(3, b"late"), last=3) == ErrorCode.STREAM_CLOSED


# ------------------------------------------------------------- MAX_CONCURRENT_STREAMS (5.1.2), GOAWAY


def opened(front: Front) -> list[int]:
    return [event[1] for event in front.events if event[0] == "open"]


def test_more_requests_than_may_run() -> None:
    front = Front.begun(most=2)
    front.receive(*[headers(number, GET, end=number != 5) for number in (1, 3, 5, 7)])
    assert opened(front) == [1, 3]
    assert front.sent() == [reset(5, ErrorCode.REFUSED_STREAM), reset(7, ErrorCode.REFUSED_STREAM)]
    front.receive(data(5, b"ignored"), headers(5, [(b"x", b"1")], end=True))
    front.answer(1)
    front.receive(headers(9, GET, end=True), headers(11, GET, end=True))
    assert opened(front) == [1, 3, 9]


@pytest.mark.parametrize("way", ["answered", "early", "given up", "reset", "malformed"])
def test_each_way_to_end_makes_room(way: str) -> None:
    front = Front.begun(most=1)
    for number in range(1, 101, 2):
        front.receive(headers(number, GET, end=way == "answered"))
        assert opened(front)[-1] == number
        if way in ("answered", "early"):
            front.answer(number)
        elif way == "given up":
            front.receive(rst_stream(number))
        elif way == "reset":
            front.engine.reset(front[number])
        else:
            front.receive(window_update(number, 0))
        front.sent()


def test_a_refused_head_leaves_the_tables_in_step() -> None:
    front = Front.begun(most=1)
    front.receive(OPEN, headers(3, block_of(with_fields((b"x", b"1"))), end=True))
    front.answer(1)
    front.receive(headers(5, GET + b"\xbe", end=True))
    assert front.events[-2][4] == ((b"x", b"1"),)


def test_retiring() -> None:
    """6.8: first a warning, then the number of the last request that was taken; what was taken is answered."""
    front = Front.begun()
    front.receive(CALL)
    front.engine.retire()
    assert front.sent() == frames(goaway(MAX_STREAM_ID))
    front.receive(headers(3, GET))
    assert front.engine.accepting
    front.engine.refuse_more()
    front.engine.refuse_more()
    assert front.sent() == frames(goaway(3))
    assert not front.engine.accepting
    front.receive(headers(5, GET), data(5, b"late"), data(3, b"x", end=True), headers(7, GET, end=True))
    assert opened(front) == [1, 3]
    assert front.sent() == [reset(5, ErrorCode.REFUSED_STREAM), reset(7, ErrorCode.REFUSED_STREAM)]
    for number in (1, 3):
        front.answer(number)
    assert front.sent() == whole(1) + whole(3)
    front.engine.close()
    assert front.sent() == frames(goaway(3))


def test_refusing_without_a_warning() -> None:
    front = Front.begun()
    front.engine.refuse_more()
    front.engine.retire()
    assert front.sent() == frames(goaway(0))
    front.engine.close()
    front.engine.retire()
    front.engine.refuse_more()
    assert front.sent() == frames(goaway(0))


def test_the_last_request_is_the_last_that_was_taken() -> None:
    front = Front.begun()
    front.receive(CALL, headers(3, [(b"malformed", b"")], end=True))
    front.sent()
    front.engine.refuse_more()
    assert front.sent() == frames(goaway(1))


def test_the_clients_goodbye_ends_nothing() -> None:
    front = Front.begun()
    front.receive(OPEN, goaway(0, ErrorCode.NO_ERROR, b"later"), data(1, b"x", end=True))
    assert front.events[1:] == [("goaway", 0, b"later"), ("data", 1, b"x"), ("end", 1, ())]
    front.answer(1)
    assert front.sent() == whole()


def test_after_the_end_nothing_is_taken() -> None:
    front = Front.begun()
    front.receive(CALL)
    assert front.failing(data(0, b"x"), last=1) == ErrorCode.PROTOCOL_ERROR
    front.receive(headers(3, GET))
    assert opened(front) == [1]
    early = Front()
    early.engine.close()
    early.sent()
    early.receive(PREFACE, settings(), CALL)
    assert (early.events, early.sent()) == ([], [])


# ----------------------------------------------------------------------------- callbacks that misbehave


class Broken(Exception):
    pass


@pytest.mark.parametrize("event", ["settings", "open", "data", "end", "failed", "pong", "goaway"])
def test_what_a_callback_raises_loses_no_frame(event: str) -> None:
    wire = [settings(), OPEN, data(1, b"x"), data(1, end=True), rst_stream(1), ping(ack=True), goaway(0)]

    def act(told: tuple[Any, ...]) -> None:
        if told[0] == event:
            raise Broken

    front = Front()
    front.receive(PREFACE)
    front.on_event = act
    with pytest.raises(Broken):
        front.receive(*wire, headers(3, GET, end=True))
    front.on_event = None
    front.receive(b"")
    assert front.events[-2:] == [("open", 3, b"GET", b"/", (), False), ("end", 3, ())]


def test_closing_from_a_callback() -> None:
    front = Front.begun()
    front.on_event = lambda event: front.engine.close() if event[0] == "open" else None
    front.receive(OPEN, headers(3, GET), ping())
    assert opened(front) == [1]
    assert front.sent() == frames(goaway(1))


def test_resetting_from_a_callback() -> None:
    front = Front.begun()

    def act(event: tuple[Any, ...]) -> None:
        if event[0] in ("open", "data") and event[1] in front.engine.streams:
            front.engine.reset(front[event[1]])

    front.on_event = act
    front.receive(CALL, headers(3, GET), data(3, b"x", end=True))
    assert [event[0] for event in front.events] == ["open", "open"]
    assert front.sent() == [reset(1, ErrorCode.CANCEL), reset(3, ErrorCode.CANCEL)]


def test_streams_know_when_they_came() -> None:
    front = Front.begun(local=LOCAL)
    front.now = 17.5
    front.receive(CALL)
    stream = front[1]
    assert isinstance(stream, Served)
    assert stream.opened == 17.5

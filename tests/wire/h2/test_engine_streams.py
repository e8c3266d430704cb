"""One stream's frames: DATA, HEADERS and CONTINUATION, RST_STREAM, WINDOW_UPDATE, in each state of a stream.

Sections are RFC 9113's.
"""

from __future__ import annotations

import pytest
from tests.wire.h2.frames_kit import (
    OK,
    Frame,
    Link,
    block_of,
    continuation,
    data,
    frame,
    headers,
    ping,
    play,
    priority,
    reset,
    rst_stream,
    settings,
    update,
    window_update,
)

from dodici.core.errors import StreamResetError
from dodici.wire.h2 import resets
from dodici.wire.h2.frames import DATA, HEADERS, PADDED, PRIORITY_FLAG, RST_STREAM, WINDOW_UPDATE, ErrorCode
from dodici.wire.h2.settings import LocalSettings
from dodici.wire.h2.states import (
    AWAITING,
    ENDED,
    ILLEGAL,
    NEXT,
    ON_DATA,
    ON_DATA_END,
    ON_HEAD,
    ON_HEAD_END,
    RECEIVING,
    fault,
)

HALF = 32_768
"""Of a window of 65,535: when credit is granted."""
HEAD = ("head", 1, 200, ())
END = ("end", 1, ())

# --------------------------------------------------------------------------------------- DATA (6.1)


def test_bodies() -> None:
    outcome = play(headers(1), data(1, b"one"), data(1, b"two", end=True))
    assert outcome.events == [HEAD, ("data", 1, b"onetwo"), END]
    assert outcome.sent == []
    assert outcome.link.engine.streams == {}


def test_an_empty_frame_ends_a_body() -> None:
    assert play(headers(1), data(1, b"one"), data(1, end=True)).events == [HEAD, ("data", 1, b"one"), END]


def test_empty_frames_are_no_pieces() -> None:
    assert play(headers(1), data(1), data(1), data(1, b"x", end=True)).events == [
        HEAD,
        ("data", 1, b"x"),
        END,
    ]


@pytest.mark.parametrize(("body", "pad"), [(b"one", 0), (b"one", 5), (b"one", 255), (b"", 0), (b"", 7)])
def test_padding(body: bytes, pad: int) -> None:
    outcome = play(headers(1), data(1, body, pad=pad), data(1, b"!", end=True, pad=pad))
    assert outcome.events == [HEAD, ("data", 1, body + b"!"), END]


@pytest.mark.parametrize("kind", [DATA, HEADERS])
@pytest.mark.parametrize(
    ("payload", "code"),
    [
        pytest.param(b"", ErrorCode.FRAME_SIZE_ERROR, id="no-length"),
        pytest.param(b"\x01", ErrorCode.PROTOCOL_ERROR, id="one-too-long"),
        pytest.param(b"\x04abc", ErrorCode.PROTOCOL_ERROR, id="the-whole-and-one"),
        pytest.param(b"\xff" + bytes(254), ErrorCode.PROTOCOL_ERROR, id="255"),
    ],
)
def test_padding_beyond_the_frame(kind: int, payload: bytes, code: ErrorCode) -> None:
    assert play(headers(1), frame(kind, PADDED, 1, payload)).code == code


def test_padding_is_the_whole_frame() -> None:
    assert play(headers(1), frame(DATA, PADDED | 1, 1, b"\x03abc")).events == [HEAD, END]


def test_data_before_the_head() -> None:
    """8.1: malformed, which is the stream's error."""
    outcome = play(data(1, b"x"), headers(3, end=True), requests="GG")
    assert outcome.failure == ("HTTP2Error", ErrorCode.PROTOCOL_ERROR)
    assert outcome.sent == [reset(1, ErrorCode.PROTOCOL_ERROR)]
    assert outcome.events[-1] == ("end", 3, ())


# ------------------------------------------------------------------- windows of what we receive (5.2, 6.9)


def test_credit_comes_in_halves() -> None:
    link = Link()
    link.open()
    link.receive(settings(), headers(1), data(1, bytes(16_384)))
    link.receive(data(1, bytes(HALF - 16_384 - 1)))
    assert [one for one in link.sent() if one.kind == WINDOW_UPDATE] == []
    link.receive(data(1, b"x"))
    assert link.sent() == [update(0, HALF), update(1, HALF)]


def test_padding_and_its_length_count() -> None:
    link = Link()
    link.open()
    link.receive(settings(), headers(1))
    link.sent()
    for _ in range(128):
        link.receive(data(1, pad=255))
    assert link.sent() == [update(0, HALF), update(1, HALF)]


def test_credit_for_padding_does_not_wait_for_the_consumer() -> None:
    link = Link()
    stream = link.open()
    link.holding = True
    link.receive(settings(), headers(1))
    link.sent()
    for _ in range(150):
        link.receive(data(1, bytes(100), pad=255))
    assert link.sent() == [update(0, 93 * 356), update(1, 128 * 256)]
    link.engine.consumed(stream, 15_000)
    link.engine.consumed(stream, 15_000)
    assert link.sent() == [update(1, 22 * 256 + 30_000)]


def test_a_stream_that_is_not_consumed_stops_and_no_other_notices() -> None:
    link = Link()
    slow = link.open()
    link.open()
    link.holding = True
    link.receive(settings(), headers(1))
    body = bytes(13_107)
    link.receive(*[data(1, body)] * 5)
    assert [one for one in link.sent() if one.kind == WINDOW_UPDATE and one.stream] == []
    link.holding = False
    link.receive(headers(3), *[data(3, body)] * 50, data(3, end=True))
    assert link.events[-1] == ("end", 3, ())
    link.engine.consumed(slow, HALF - 1)
    assert [one for one in link.sent() if one.stream == 1] == []
    link.engine.consumed(slow, 1)
    assert link.sent() == [update(1, HALF)]
    link.holding = True
    link.receive(data(1, bytes(16_384)), data(1, bytes(16_384)))
    assert not slow.gone
    link.receive(data(1, b"x"))
    assert link.events[-1] == ("failed", 1, "HTTP2Error", ErrorCode.FLOW_CONTROL_ERROR)
    assert link.sent()[-1] == reset(1, ErrorCode.FLOW_CONTROL_ERROR)


@pytest.mark.parametrize("end", [True, False])
def test_more_than_the_streams_window_in_one_frame(end: bool) -> None:
    """6.9: the stream's error, whether or not it would have ended the stream."""
    local = LocalSettings(stream_window=100, connection_window=65_535, max_header_list_size=16_384)
    assert play(headers(1), data(1, bytes(100), end=end), local=local).events[:2] == [
        HEAD,
        ("data", 1, bytes(100)),
    ]
    outcome = play(headers(1), data(1, bytes(101), end=end), local=local)
    assert outcome.failure == ("HTTP2Error", ErrorCode.FLOW_CONTROL_ERROR)
    assert outcome.sent == [reset(1, ErrorCode.FLOW_CONTROL_ERROR)]


def test_padding_beyond_the_streams_window() -> None:
    local = LocalSettings(stream_window=100, connection_window=65_535, max_header_list_size=16_384)
    assert play(headers(1), data(1, bytes(90), pad=9), local=local).code is None
    assert (
        play(headers(1), data(1, bytes(90), pad=10), local=local).failure[1] == ErrorCode.FLOW_CONTROL_ERROR
    )


def test_more_than_the_connections_window() -> None:
    """Only a frame that is itself larger can exceed it, since its credit is granted as bytes arrive."""
    local = LocalSettings(65_535, 65_535, 16_384, max_frame_size=100_000)
    assert play(headers(1), data(1, bytes(65_536)), local=local).code == ErrorCode.FLOW_CONTROL_ERROR
    assert play(headers(1), data(1, bytes(65_535), end=True), local=local).events[-1] == END


def test_no_credit_for_a_stream_that_ended() -> None:
    link = Link()
    stream = link.open()
    link.holding = True
    link.receive(
        settings(), headers(1), data(1, bytes(16_384)), data(1, bytes(16_384)), data(1, b"x", end=True)
    )
    link.sent()
    link.engine.consumed(stream, HALF + 1)
    assert link.sent() == []


def test_no_credit_for_a_stream_that_was_reset() -> None:
    link = Link()
    stream = link.open()
    link.holding = True
    link.receive(settings(), headers(1), data(1, bytes(16_384)), data(1, bytes(16_384)))
    link.engine.reset(stream)
    link.sent()
    link.engine.consumed(stream, HALF)
    assert link.sent() == []


# -------------------------------------------------------------- HEADERS (6.2) and CONTINUATION (6.10)


@pytest.mark.parametrize("pad", [None, 0, 9])
@pytest.mark.parametrize("priority", [None, b"\x80\0\0\1\xff"])
def test_heads(pad: int | None, priority: bytes | None) -> None:
    fields = [(b":status", b"404"), (b"x-one", b"1"), (b"x-one", b"2")]
    outcome = play(headers(1, fields, pad=pad, priority=priority, end=True))
    assert outcome.events == [("head", 1, 404, ((b"x-one", b"1"), (b"x-one", b"2"))), END]


def test_a_head_that_is_too_short_for_its_priority() -> None:
    assert play(frame(HEADERS, 4 | PRIORITY_FLAG, 1, bytes(4))).code == ErrorCode.FRAME_SIZE_ERROR


def test_continuations() -> None:
    block = block_of([*OK, (b"x-long", b"y" * 200)])
    pieces = [block[:3], b"", block[3:90], block[90:]]
    outcome = play(
        headers(1, pieces[0], whole=False, end=True, pad=3),
        *[continuation(1, piece, whole=False) for piece in pieces[1:-1]],
        continuation(1, pieces[-1]),
    )
    assert outcome.events == [("head", 1, 200, ((b"x-long", b"y" * 200),)), END]


def test_a_block_may_begin_with_nothing() -> None:
    assert play(headers(1, b"", whole=False), continuation(1, b"\x88")).events == [HEAD]


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(data(1, b"x"), id="data"),
        pytest.param(headers(1), id="headers"),
        pytest.param(ping(), id="ping"),
        pytest.param(settings(), id="settings"),
        pytest.param(priority(1), id="priority"),
        pytest.param(window_update(0, 1), id="window-update"),
        pytest.param(continuation(3, b"\x88"), id="another-stream"),
        pytest.param(continuation(0, b"\x88"), id="stream-0"),
    ],
)
def test_an_interrupted_block(wire: bytes) -> None:
    assert play(headers(1, b"\x88", whole=False), wire, requests="GG").code == ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize("before", [b"", headers(1)])
def test_a_continuation_of_nothing(before: bytes) -> None:
    assert play(before, continuation(1, b"")).code == ErrorCode.PROTOCOL_ERROR


def test_a_block_without_end() -> None:
    link = Link(limit=1000)
    link.open()
    link.receive(settings(), headers(1, bytes(2000), whole=False), continuation(1, bytes(1024), whole=False))
    assert link.failing(continuation(1, b"x")) == ErrorCode.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("stream", [0, 2, 4])
def test_heads_on_streams_that_no_client_opens(stream: int) -> None:
    assert play(headers(stream)).code == ErrorCode.PROTOCOL_ERROR
    assert play(headers(stream, whole=False)).code == ErrorCode.PROTOCOL_ERROR


def test_a_block_that_is_no_hpack() -> None:
    """4.3: a decoding error is the connection's."""
    outcome = play(headers(1, b"\x80"))
    assert outcome.code == ErrorCode.COMPRESSION_ERROR
    assert "index 0" in outcome.message


def test_a_block_that_is_no_hpack_on_a_stream_that_is_gone() -> None:
    link = Link()
    link.engine.reset(link.open())
    assert link.failing(settings(), headers(1, b"\x80")) == ErrorCode.COMPRESSION_ERROR


# ----------------------------------------------------------------------------------- states (5.1)


@pytest.mark.parametrize("stream", [3, 2, 0])
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda stream: data(stream, b"x"), id="data"),
        pytest.param(lambda stream: headers(stream), id="headers"),
        pytest.param(lambda stream: headers(stream, [(b"bad name", b"")]), id="malformed-headers"),
        pytest.param(rst_stream, id="rst-stream"),
        pytest.param(lambda stream: window_update(stream or 4, 1), id="window-update"),
    ],
)
def test_idle_streams(make, stream: int) -> None:  # type: ignore[no-untyped-def]
    assert play(make(stream)).code == ErrorCode.PROTOCOL_ERROR


BEFORE = {AWAITING: b"", RECEIVING: headers(1), ENDED: headers(1, end=True)}
COMING = {
    (AWAITING, ON_HEAD): headers(1),
    (AWAITING, ON_HEAD_END): headers(1, end=True),
    (RECEIVING, ON_HEAD): headers(1, [(b"x-trailer", b"1")]),
    (RECEIVING, ON_HEAD_END): headers(1, [(b"x-trailer", b"1")], end=True),
    (ENDED, ON_HEAD): headers(1, [(b"x-trailer", b"1")]),
    (ENDED, ON_HEAD_END): headers(1, [(b"x-trailer", b"1")], end=True),
}


@pytest.mark.parametrize("event", [ON_HEAD, ON_HEAD_END, ON_DATA, ON_DATA_END])
@pytest.mark.parametrize("state", [AWAITING, RECEIVING, ENDED])
def test_the_table_of_states(state: int, event: int) -> None:
    """What the table says is what the engine does."""
    link = Link()
    stream = link.open("P")
    link.receive(settings(), BEFORE[state])
    assert stream.state == state
    wire = COMING.get((state, event)) or data(1, b"x", end=event == ON_DATA_END)
    after = NEXT[state][event]
    code, _ = fault(state)
    if after != ILLEGAL:
        link.receive(wire)
        assert (stream.state, stream.gone) == (after, False)
    elif code == ErrorCode.STREAM_CLOSED:
        assert link.failing(wire) == code
    else:
        link.receive(wire)
        assert link.events[-1] == ("failed", 1, "HTTP2Error", code)


AFTER = [
    pytest.param(data(1, b"x"), id="data"),
    pytest.param(data(1, end=True), id="empty-data"),
    pytest.param(headers(1), id="headers"),
    pytest.param(headers(1, [(b"x-trailer", b"1")], end=True), id="trailers"),
    pytest.param(headers(1, [(b"Bad", b"1")], end=True), id="malformed"),
]


@pytest.mark.parametrize("wire", AFTER)
@pytest.mark.parametrize("requests", ["G", "P"])
def test_after_end_stream(wire: bytes, requests: str) -> None:
    """Closed, or half-closed (remote) while our body is on its way."""
    outcome = play(headers(1, end=True), wire, requests=requests)
    assert outcome.code == ErrorCode.STREAM_CLOSED
    assert outcome.events == [HEAD, END]


@pytest.mark.parametrize("wire", AFTER)
def test_after_the_peers_reset(wire: bytes) -> None:
    outcome = play(headers(1), rst_stream(1), wire)
    assert outcome.code == ErrorCode.STREAM_CLOSED
    assert outcome.events == [HEAD, ("failed", 1, "StreamResetError", ErrorCode.CANCEL)]


@pytest.mark.parametrize(
    "wire", [*AFTER, rst_stream(1), window_update(1, 1), window_update(1, 0), priority(1)]
)
@pytest.mark.parametrize("before", [b"", headers(1)])
def test_after_our_reset(wire: bytes, before: bytes) -> None:
    """What the peer sent before it knew is ignored, and the tables of HPACK stay in step."""
    link = Link()
    stream = link.open()
    link.open()
    link.receive(settings(), before)
    link.engine.reset(stream, ErrorCode.CANCEL)
    told = len(link.events)
    link.receive(wire, headers(3, [*OK, (b"x-after", b"1")], end=True))
    assert link.events[told:] == [("head", 3, 200, ((b"x-after", b"1"),)), ("end", 3, ())]


def test_after_our_reset_and_the_peers_end() -> None:
    link = Link()
    link.engine.reset(link.open())
    link.receive(settings(), headers(1), data(1, b"x", end=True))
    assert link.failing(data(1, b"x")) == ErrorCode.STREAM_CLOSED


def test_the_table_moves_with_blocks_of_streams_that_were_reset() -> None:
    link = Link()
    link.engine.reset(link.open())
    link.open()
    link.receive(settings(), headers(1, b"\x88\x40\x01a\x01b"), headers(3, b"\x88\xbe", end=True))
    assert link.events[1:] == [("head", 3, 200, ((b"a", b"b"),)), ("end", 3, ())]


def test_data_after_our_reset_counts_for_the_connection() -> None:
    link = Link()
    link.engine.reset(link.open())
    link.receive(settings())
    link.sent()
    link.receive(data(1, bytes(16_384)), data(1, bytes(16_384)))
    assert link.sent() == [update(0, HALF)]


def test_resets_that_were_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resets, "REMEMBERED", 2)
    link = Link()
    streams = [link.open() for _ in range(4)]
    for stream in streams:
        link.engine.reset(stream)
    last = link.open()
    link.receive(settings(), *[headers(number) for number in (1, 3, 5, 7)])
    assert not link.engine.closed
    assert len(link.engine._reset._left) == 2
    link.receive(headers(last.id, end=True))
    assert link.failing(headers(last.id)) == ErrorCode.STREAM_CLOSED


# ------------------------------------------------------------------------------------ RST_STREAM (6.4)


@pytest.mark.parametrize("before", [b"", headers(1), headers(1) + data(1, b"x")])
def test_the_peer_resets(before: bytes) -> None:
    outcome = play(before, rst_stream(1, ErrorCode.INTERNAL_ERROR), headers(3, end=True), requests="GG")
    assert outcome.failure == ("StreamResetError", ErrorCode.INTERNAL_ERROR)
    assert outcome.sent == []
    assert outcome.link.engine.streams == {}
    error = outcome.link.errors[0]
    assert isinstance(error, StreamResetError)
    assert not error.request_not_processed
    assert str(error) == "the server reset the stream: INTERNAL_ERROR"


def test_a_refused_stream_was_not_processed() -> None:
    """8.7."""
    error = play(rst_stream(1, ErrorCode.REFUSED_STREAM)).link.errors[0]
    assert isinstance(error, StreamResetError)
    assert error.request_not_processed


def test_a_code_that_nobody_knows() -> None:
    assert play(rst_stream(1, 0xABCD)).failure == ("StreamResetError", 0xABCD)


@pytest.mark.parametrize("size", [0, 3, 5])
def test_a_reset_of_the_wrong_size(size: int) -> None:
    assert play(frame(RST_STREAM, 0, 1, bytes(size))).code == ErrorCode.FRAME_SIZE_ERROR


def test_resets_of_streams_that_ended() -> None:
    outcome = play(headers(1, end=True), rst_stream(1, ErrorCode.NO_ERROR))
    assert (outcome.events, outcome.code) == ([HEAD, END], None)


def test_the_peer_resets_an_upload_that_it_answered() -> None:
    """8.1: the response is complete, and what was queued is dropped."""
    link = Link()
    stream = link.open("P")
    link.engine.send(stream, bytes(100_000))
    link.receive(settings(), headers(1, end=True), rst_stream(1, ErrorCode.NO_ERROR))
    assert link.events[1:] == [HEAD, END, ("failed", 1, "StreamResetError", ErrorCode.NO_ERROR)]
    assert stream.queued == 0
    link.sent()
    assert link.filled() == []


def test_we_reset() -> None:
    link = Link()
    stream = link.open("P")
    link.sent()
    link.engine.send(stream, bytes(10))
    link.engine.reset(stream, ErrorCode.INTERNAL_ERROR)
    assert link.filled() == [reset(1, ErrorCode.INTERNAL_ERROR)]
    assert stream.gone
    link.engine.send(stream, b"x")
    link.engine.end(stream)
    assert link.filled() == []


@pytest.mark.parametrize(
    ("event", "wire"),
    [
        ("head", headers(1)),
        ("head", headers(1, end=True)),
        ("info", headers(1, [(b":status", b"103")])),
        ("data", headers(1) + data(1, b"x")),
        ("data", headers(1) + data(1, b"x", end=True)),
    ],
)
def test_a_callback_that_resets_hears_no_more(event: str, wire: bytes) -> None:
    def arrange(link: Link) -> None:
        def on_event(told: tuple[object, ...]) -> None:
            if told[:2] == (event, 1):
                link.engine.reset(link.engine.streams[1])

        link.on_event = on_event

    outcome = play(wire, headers(3, end=True), requests="GG", arrange=arrange)
    first = [told for told in outcome.events if told[1] == 1]
    assert first[-1][0] == event
    assert outcome.sent == [reset(1, ErrorCode.CANCEL)]
    assert outcome.events[-1] == ("end", 3, ())


# ---------------------------------------------------------------------------------- WINDOW_UPDATE (6.9)


def test_updates_of_the_connection() -> None:
    link = Link()
    link.receive(settings(), window_update(0, 2**31 - 1 - 65_535))
    assert link.engine.outbox.window.size == 2**31 - 1
    assert link.failing(window_update(0, 1)) == ErrorCode.FLOW_CONTROL_ERROR


@pytest.mark.parametrize("begun", [False, True])
def test_updates_of_a_stream(begun: bool) -> None:
    link = Link()
    stream = link.open("P")
    if begun:
        link.engine.send(stream, b"x")
    link.receive(settings(), window_update(1, 2**31 - 1 - 65_535))
    assert stream.send_window is not None
    assert stream.send_window.size == 2**31 - 1
    link.receive(window_update(1, 1))
    assert link.events[-1] == ("failed", 1, "HTTP2Error", ErrorCode.FLOW_CONTROL_ERROR)
    assert link.sent()[-1] == reset(1, ErrorCode.FLOW_CONTROL_ERROR)


def test_an_overflow_at_once() -> None:
    outcome = play(window_update(1, 2**31 - 65_535), requests="P")
    assert outcome.failure == ("HTTP2Error", ErrorCode.FLOW_CONTROL_ERROR)


def test_updates_of_0() -> None:
    assert play(window_update(0, 0)).code == ErrorCode.PROTOCOL_ERROR
    outcome = play(window_update(1, 0), headers(3, end=True), requests="PG")
    assert outcome.failure == ("HTTP2Error", ErrorCode.PROTOCOL_ERROR)
    assert outcome.sent == [reset(1, ErrorCode.PROTOCOL_ERROR)]
    assert outcome.events[-1] == ("end", 3, ())


@pytest.mark.parametrize("size", [0, 3, 5])
def test_an_update_of_the_wrong_size(size: int) -> None:
    assert play(frame(WINDOW_UPDATE, 0, 0, bytes(size))).code == ErrorCode.FRAME_SIZE_ERROR


def test_updates_for_those_who_do_not_listen() -> None:
    """Half-closed (local), half-closed (remote), closed."""
    outcome = play(window_update(1, 5), headers(1, end=True), window_update(1, 5))
    assert (outcome.events, outcome.sent, outcome.code) == ([HEAD, END], [], None)
    assert play(headers(1, end=True), window_update(1, 5), requests="P").code is None


def test_an_update_before_the_body() -> None:
    link = Link()
    stream = link.open("P")
    link.receive(settings((4, 10)), window_update(1, 5))
    link.engine.send(stream, bytes(100))
    link.sent()
    assert link.filled() == [Frame(DATA, 0, 1, bytes(15))]

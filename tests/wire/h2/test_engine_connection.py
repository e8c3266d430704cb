"""The connection as a whole: the prefaces, framing, SETTINGS, PING, GOAWAY, and what is no client's to receive.

Sections are RFC 9113's.
"""

from __future__ import annotations

import hpack
import pytest
from tests.wire.h2.frames_kit import (
    LOCAL,
    OK,
    SETTINGS_ACKED,
    Frame,
    Link,
    Recorded,
    continuation,
    data,
    frame,
    frames,
    goaway,
    headers,
    ping,
    play,
    priority,
    push_promise,
    reset,
    rst_stream,
    settings,
    update,
    window_update,
)

from dodici.core.errors import DodiciError
from dodici.wire.h2.frames import (
    ACK,
    DATA,
    GOAWAY,
    HEADERS,
    MAX_STREAM_ID,
    PING,
    PREFACE,
    SETTINGS,
    WINDOW_UPDATE,
    ConnectionFault,
    ErrorCode,
    error_name,
)
from dodici.wire.h2.hpack import encode_fields
from dodici.wire.h2.settings import UNLIMITED, LocalSettings
from dodici.wire.h2.streams import Stream

TABLE, PUSH, STREAMS, WINDOW, FRAME, LIST, CONNECT = 1, 2, 3, 4, 5, 6, 8

# ---------------------------------------------------------------------------------- prefaces (3.4)


def test_our_preface() -> None:
    local = LocalSettings(
        stream_window=100_000,
        connection_window=200_000,
        max_header_list_size=5000,
        max_frame_size=20_000,
        header_table_size=1000,
    )
    wire = Link(local).preface
    assert wire.startswith(PREFACE)
    first, second = frames(wire)
    assert first[:3] == (SETTINGS, 0, 0)
    pairs = [first.payload[at : at + 6] for at in range(0, len(first.payload), 6)]
    assert {int.from_bytes(pair[:2], "big"): int.from_bytes(pair[2:], "big") for pair in pairs} == {
        TABLE: 1000,
        PUSH: 0,
        WINDOW: 100_000,
        FRAME: 20_000,
        LIST: 5000,
    }
    assert second == update(0, 200_000 - 65_535)


def test_no_credit_where_the_window_is_the_default() -> None:
    assert [one.kind for one in frames(Link().preface)] == [SETTINGS]


def test_a_small_connection_window_cannot_be_announced_and_is_not_enforced() -> None:
    local = LocalSettings(stream_window=65_535, connection_window=1000, max_header_list_size=5000)
    outcome = play(headers(1), data(1, bytes(5000), end=True), local=local)
    assert outcome.code is None
    assert outcome.events[-1] == ("end", 1, ())


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(ping(), id="ping"),
        pytest.param(settings(ack=True), id="acknowledgement"),
        pytest.param(headers(1), id="headers"),
        pytest.param(frame(0x77, 0, 0), id="unknown"),
        pytest.param(frame(DATA, 0, 0, bytes(20_000)), id="too-long"),
    ],
)
def test_the_first_frame_must_be_settings(first: bytes) -> None:
    outcome = play(first, preface=False)
    assert outcome.code == ErrorCode.PROTOCOL_ERROR
    assert outcome.message == "the server did not begin with SETTINGS"
    assert outcome.events == []


def test_a_server_that_speaks_http1() -> None:
    outcome = play(b"HTTP/1.1 400 Bad Request\r\n\r\n", preface=False)
    assert outcome.code == ErrorCode.PROTOCOL_ERROR
    assert outcome.message == "the server answers HTTP/1 where HTTP/2 was expected"


# ---------------------------------------------------------------------------------- framing (4, 5.5)


def test_the_largest_frame() -> None:
    body = bytes(16_384)
    outcome = play(headers(1), data(1, body), data(1, body[1:], end=True))
    assert outcome.events[1:] == [("data", 1, body + body[1:]), ("end", 1, ())]


@pytest.mark.parametrize("kind", [DATA, HEADERS, SETTINGS, 0x77])
def test_a_frame_that_is_too_large(kind: int) -> None:
    """4.2: an error of the connection for those that alter its state, and it may be one for all."""
    outcome = play(frame(kind, 0, 1, bytes(16_385)))
    assert outcome.code == ErrorCode.FRAME_SIZE_ERROR
    assert "16384" in outcome.message


def test_the_head_of_a_frame_that_is_too_large_is_enough() -> None:
    link = Link()
    assert link.failing(settings(), frame(DATA, 0, 1, bytes(16_385))[:9]) == ErrorCode.FRAME_SIZE_ERROR


def test_what_we_announced_is_what_we_take() -> None:
    local = LocalSettings(65_535, 65_535, 16_384, max_frame_size=30_000)
    assert play(headers(1), data(1, bytes(30_000), end=True), local=local).events[-1] == ("end", 1, ())
    outcome = play(headers(1), data(1, bytes(30_001)), local=local)
    assert outcome.code == ErrorCode.FRAME_SIZE_ERROR


@pytest.mark.parametrize("kind", [0x0A, 0x0C, 0x10, 0x77, 0xFF])
def test_unknown_frames_are_ignored(kind: int) -> None:
    outcome = play(
        frame(kind, 0xFF, 0, b"anything"), headers(1), frame(kind, 0xFF, 1), data(1, b"x", end=True)
    )
    assert outcome.events == [("head", 1, 200, ()), ("data", 1, b"x"), ("end", 1, ())]


def test_unknown_frames_within_a_header_block_are_not() -> None:
    """4.3, 6.10: nothing comes between the parts of a field block."""
    outcome = play(headers(1, whole=False), frame(0x77, 0, 1))
    assert outcome.code == ErrorCode.PROTOCOL_ERROR
    assert outcome.message == "a header block was interrupted"


def test_undefined_flags_are_ignored() -> None:
    """4.1."""
    outcome = play(
        frame(HEADERS, 0x04 | 0xD2, 1, b"\x88"),
        frame(DATA, 0xF6, 1, b"x"),
        frame(PING, 0xFE, 0, b"12345678"),
        frame(DATA, 0x01, 1),
    )
    assert outcome.events == [("head", 1, 200, ()), ("data", 1, b"x"), ("end", 1, ())]
    assert outcome.sent == [Frame(PING, ACK, 0, b"12345678")]


def test_the_reserved_bit_is_ignored() -> None:
    """4.1, 6.8, 6.9."""
    outcome = play(
        frame(HEADERS, 4, 1, b"\x88", reserved=True),
        frame(WINDOW_UPDATE, 0, 0, (1 << 31 | 5).to_bytes(4, "big")),
        frame(GOAWAY, 0, 0, (1 << 31 | 1).to_bytes(4, "big") + bytes(4), reserved=True),
        frame(DATA, 1, 1, b"x", reserved=True),
    )
    assert outcome.code is None
    assert outcome.events[0] == ("head", 1, 200, ())
    assert outcome.events[-1] == ("end", 1, ())
    assert outcome.link.engine.outbox.window.size == 65_540


@pytest.mark.parametrize("cut", [0, 4, 9])
def test_a_callback_that_raises_costs_its_frame_and_no_other(cut: int) -> None:
    link = Link()
    link.open()
    link.open()

    def interrupt(event: object) -> None:
        link.on_event = None
        raise KeyboardInterrupt

    link.receive(settings(), headers(1)[:cut])
    link.on_event = interrupt
    with pytest.raises(KeyboardInterrupt):
        link.receive(headers(1)[cut:], data(1, b"a", end=True), headers(3)[:5])
    link.receive(headers(3)[5:], data(3, b"b", end=True))
    assert link.events[1:] == [
        ("head", 1, 200, ()),
        ("data", 1, b"a"),
        ("end", 1, ()),
        ("head", 3, 200, ()),
        ("data", 3, b"b"),
        ("end", 3, ()),
    ]


def test_close_says_goodbye_once() -> None:
    link = Link()
    link.engine.close()
    link.engine.close()
    assert link.sent() == [Frame(GOAWAY, 0, 0, bytes(8))]
    link.receive(settings())
    assert link.events == []


@pytest.mark.parametrize("cut", [0, 5, 10])
def test_what_follows_in_the_same_read_is_ignored_once_closed(cut: int) -> None:
    link = Link()
    link.on_event = lambda event: link.engine.close()
    first = settings((3, 7))
    link.receive(first[:cut])
    link.receive(first[cut:], ping(), ping())
    assert link.events == [("settings",)]
    assert [one.kind for one in link.sent()] == [SETTINGS, GOAWAY]


# ------------------------------------------------------------------------------------ SETTINGS (6.5)


@pytest.mark.parametrize(
    ("number", "value", "name"),
    [
        (TABLE, 0, "header_table_size"),
        (TABLE, UNLIMITED, "header_table_size"),
        (STREAMS, 0, "max_concurrent_streams"),
        (STREAMS, UNLIMITED, "max_concurrent_streams"),
        (WINDOW, 0, "initial_window_size"),
        (WINDOW, 2**31 - 1, "initial_window_size"),
        (FRAME, 16_384, "max_frame_size"),
        (FRAME, 2**24 - 1, "max_frame_size"),
        (LIST, 0, "max_header_list_size"),
        (LIST, UNLIMITED, "max_header_list_size"),
        (CONNECT, 0, "connect_protocol"),
        (CONNECT, 1, "connect_protocol"),
    ],
)
def test_parameters_at_their_bounds(number: int, value: int, name: str) -> None:
    outcome = play(settings((number, value)), preface=False)
    assert outcome.code is None
    assert outcome.events == [("settings",)]
    assert outcome.sent == [SETTINGS_ACKED]
    assert outcome.link.engine.peer.received
    assert getattr(outcome.link.engine.peer, name) == value


@pytest.mark.parametrize(
    ("pairs", "code"),
    [
        ([(PUSH, 1)], ErrorCode.PROTOCOL_ERROR),
        ([(PUSH, 2)], ErrorCode.PROTOCOL_ERROR),
        ([(WINDOW, 2**31)], ErrorCode.FLOW_CONTROL_ERROR),
        ([(WINDOW, UNLIMITED)], ErrorCode.FLOW_CONTROL_ERROR),
        ([(FRAME, 16_383)], ErrorCode.PROTOCOL_ERROR),
        ([(FRAME, 2**24)], ErrorCode.PROTOCOL_ERROR),
        ([(CONNECT, 2)], ErrorCode.PROTOCOL_ERROR),
        ([(CONNECT, 1), (CONNECT, 0)], ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_parameters_beyond_their_bounds(pairs: list[tuple[int, int]], code: ErrorCode) -> None:
    outcome = play(settings(*pairs), preface=False)
    assert outcome.code == code
    assert outcome.events == []


def test_push_may_be_said_to_be_off() -> None:
    assert play(settings((PUSH, 0))).code is None


def test_unknown_parameters_are_ignored() -> None:
    outcome = play(settings((0x7, 5), (0xFFFF, 5), (STREAMS, 7)))
    assert outcome.events == [("settings",)]
    assert outcome.link.engine.peer.max_concurrent_streams == 7


def test_parameters_are_taken_in_order_and_kept() -> None:
    outcome = play(settings((STREAMS, 7), (STREAMS, 8), (LIST, 9)), settings((LIST, 10)))
    peer = outcome.link.engine.peer
    assert (peer.max_concurrent_streams, peer.max_header_list_size) == (8, 10)
    assert outcome.sent == [SETTINGS_ACKED] * 2


def test_an_acknowledgement_is_not_answered() -> None:
    outcome = play(settings(ack=True))
    assert (outcome.events, outcome.sent, outcome.code) == ([], [], None)


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (frame(SETTINGS, ACK, 0, bytes(6)), ErrorCode.FRAME_SIZE_ERROR),
        (frame(SETTINGS, 0, 0, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
        (frame(SETTINGS, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
        (frame(SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
        (frame(SETTINGS, ACK, 1), ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_malformed_settings(wire: bytes, code: ErrorCode) -> None:
    assert play(wire).code == code


def test_windows_move_with_the_initial_size() -> None:
    """6.9.2: of all streams, and they may become negative."""
    link = Link()
    link.receive(settings((WINDOW, 100)))
    first, second = link.open("P"), link.open("P")
    link.engine.send(first, bytes(500))
    link.sent()
    assert [one.payload for one in link.filled()] == [bytes(100)]

    link.receive(settings((WINDOW, 30)))
    assert first.send_window is not None
    assert first.send_window.size == -70
    link.receive(window_update(1, 70))
    link.sent()
    assert link.filled() == []
    link.receive(window_update(1, 1))
    assert [one.payload for one in link.filled()] == [bytes(1)]

    link.receive(settings((WINDOW, 40)))
    link.engine.send(second, bytes(500))
    link.sent()
    assert [(one.stream, len(one.payload)) for one in link.filled()] == [(1, 10), (3, 40)]


def test_a_window_that_the_initial_size_overflows() -> None:
    link = Link()
    link.receive(settings())
    stream = link.open("P")
    link.engine.send(stream, b"x")
    link.receive(window_update(1, 2**31 - 1 - 65_535))
    assert link.failing(settings((WINDOW, 65_536))) == ErrorCode.FLOW_CONTROL_ERROR


def test_a_lowered_table_is_confirmed_once() -> None:
    """RFC 7541 4.2: the next block begins with an update, and a strict peer takes it."""
    block = encode_fields([(b":method", b"GET"), (b"x", b"y")])
    decoder = hpack.Decoder()
    link = Link()
    link.open(block=block)
    link.receive(settings((TABLE, 100)))
    link.open(block=block)
    link.open(block=block)
    link.receive(settings((TABLE, 8000)), settings((TABLE, 10)))
    link.open(block=block)
    blocks = [one.payload for one in link.sent() if one.kind == HEADERS]
    assert blocks == [block, b"\x20" + block, block, block]

    decoder.decode(blocks[0])
    decoder.max_allowed_table_size = 100
    for later in blocks[1:]:
        assert decoder.decode(later) == [(":method", "GET"), ("x", "y")]
    decoder.max_allowed_table_size = 10
    decoder.decode(blocks[3])
    with pytest.raises(hpack.InvalidTableSizeError):
        strict = hpack.Decoder()
        strict.max_allowed_table_size = 100
        strict.decode(block)


@pytest.mark.parametrize("size", [4096, 4097, UNLIMITED])
def test_a_table_that_is_not_smaller_needs_no_update(size: int) -> None:
    link = Link()
    link.receive(settings((TABLE, size)))
    link.open(block=b"\x82")
    assert [one.payload for one in link.sent() if one.kind == HEADERS] == [b"\x82"]


# -------------------------------------------------------------------------------------- PING (6.7)


def test_a_ping_is_answered() -> None:
    outcome = play(ping(b"abcdefgh"), ping(b"ABCDEFGH"))
    assert outcome.sent == [Frame(PING, ACK, 0, b"abcdefgh"), Frame(PING, ACK, 0, b"ABCDEFGH")]
    assert outcome.events == []


def test_our_ping_and_its_answer() -> None:
    link = Link()
    link.engine.ping(b"abcdefgh")
    assert link.sent() == [Frame(PING, 0, 0, b"abcdefgh")]
    link.receive(settings(), ping(b"abcdefgh", ack=True))
    assert link.events == [("settings",), ("pong", b"abcdefgh")]
    assert link.sent() == [SETTINGS_ACKED]


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (frame(PING, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
        (frame(PING, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
        (frame(PING, ACK, 0, bytes(9)), ErrorCode.FRAME_SIZE_ERROR),
        (frame(PING, 0, 0), ErrorCode.FRAME_SIZE_ERROR),
    ],
)
def test_malformed_pings(wire: bytes, code: ErrorCode) -> None:
    assert play(wire).code == code


# ------------------------------------------------------------------------------------ GOAWAY (6.8)


def test_goaway_gives_back_what_was_not_processed() -> None:
    outcome = play(goaway(3, ErrorCode.ENHANCE_YOUR_CALM, b"busy"), headers(3, end=True), requests="GGPG")
    assert outcome.events == [
        ("goaway", ErrorCode.ENHANCE_YOUR_CALM, b"busy", [5, 7]),
        ("head", 3, 200, ()),
        ("end", 3, ()),
    ]
    assert outcome.sent == []
    engine = outcome.link.engine
    assert engine.goaway_code == ErrorCode.ENHANCE_YOUR_CALM
    assert list(engine.streams) == [1]


def test_goaway_in_two_steps() -> None:
    outcome = play(goaway(MAX_STREAM_ID), goaway(1), goaway(1), requests="GG")
    assert outcome.events == [("goaway", 0, b"", []), ("goaway", 0, b"", [3]), ("goaway", 0, b"", [])]


def test_goaway_drops_what_the_unprocessed_had_queued() -> None:
    link = Link()
    stream = link.open("P")
    link.engine.send(stream, bytes(1000))
    link.receive(settings(), goaway(0))
    link.sent()
    assert stream.queued == 0
    assert link.filled() == []


def test_frames_on_the_unprocessed_are_ignored() -> None:
    outcome = play(goaway(1), headers(3), data(3, b"x", end=True), headers(1, end=True), requests="GG")
    assert outcome.code is None
    assert outcome.events[1:] == [("head", 1, 200, ()), ("end", 1, ())]


def test_goaway_must_not_take_back_what_it_gave_up() -> None:
    outcome = play(goaway(1), goaway(3), requests="GG")
    assert outcome.code == ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (frame(GOAWAY, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
        (frame(GOAWAY, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    ],
)
def test_malformed_goaway(wire: bytes, code: ErrorCode) -> None:
    assert play(wire).code == code


# --------------------------------------------------------- PUSH_PROMISE (6.6), PRIORITY (6.3), the rest


@pytest.mark.parametrize("wire", [push_promise(1, 2), push_promise(0, 2), push_promise(9, 2)])
def test_pushes_are_refused(wire: bytes) -> None:
    assert play(wire).code == ErrorCode.PROTOCOL_ERROR


def test_priorities_are_ignored() -> None:
    outcome = play(priority(1), priority(9), priority(2), priority(9, bytes(4)), headers(1, end=True))
    assert outcome.events == [("head", 1, 200, ()), ("end", 1, ())]
    assert outcome.sent == []


def test_a_priority_of_the_wrong_size() -> None:
    outcome = play(priority(1, bytes(4)), headers(3, end=True), requests="GG")
    assert outcome.failure == ("HTTP2Error", ErrorCode.FRAME_SIZE_ERROR)
    assert outcome.sent == [reset(1, ErrorCode.FRAME_SIZE_ERROR)]
    assert outcome.events[-1] == ("end", 3, ())


def test_a_priority_of_the_connection() -> None:
    assert play(priority(0)).code == ErrorCode.PROTOCOL_ERROR


def test_errors_have_names() -> None:
    assert error_name(0xB) == "ENHANCE_YOUR_CALM"
    assert error_name(0x1234) == "0x1234"


def test_stream_numbers_run_out() -> None:
    """5.1.1."""
    link = Link()
    link.engine._next_id = MAX_STREAM_ID - 2
    assert not link.engine.exhausted
    assert link.open().id == MAX_STREAM_ID - 2
    assert not link.engine.exhausted
    assert link.open().id == MAX_STREAM_ID
    assert link.engine.exhausted


def test_every_fault_says_goodbye() -> None:
    link = Link()
    link.receive(settings())
    link.sent()
    with pytest.raises(ConnectionFault, match="PUSH_PROMISE") as caught:
        link.receive(push_promise(1, 2))
    assert not isinstance(caught.value, DodiciError), "the connection's owner gives it its class"
    assert [one.kind for one in link.sent()] == [GOAWAY]


def test_a_reset_stream_is_not_reset_again() -> None:
    link = Link()
    stream = link.open()
    link.sent()
    link.engine.reset(stream)
    link.engine.reset(stream)
    assert link.sent() == [reset(1, ErrorCode.CANCEL)]
    link.engine.close()
    other = Recorded(link)
    link.engine.reset(other)
    assert [one.kind for one in link.sent()] == [GOAWAY]


def test_a_stream_must_say_what_becomes_of_data() -> None:
    with pytest.raises(NotImplementedError):
        Stream().on_data(b"x")


def test_kit() -> None:
    """What the kit builds is what `frames` reads."""
    assert LOCAL.max_frame_size == 16_384
    assert frames(continuation(1, b"x") + rst_stream(3) + headers(1, OK)) == [
        Frame(9, 4, 1, b"x"),
        reset(3, ErrorCode.CANCEL),
        Frame(1, 4, 1, b"\x88"),
    ]

"""What a server takes for a request, and what it refuses: RFC 9113 sections 8.1 to 8.5."""

from __future__ import annotations

import pytest
from tests.wire.h2.frames_kit import (
    OK,
    Fields,
    Frame,
    block_of,
    continuation,
    data,
    headers,
    ping,
    reset,
)
from tests.wire.h2.hpack_blocks import literal
from tests.wire.h2.server_kit import GET, POST, Front, talk, with_fields

from dodici.wire.h2.frames import PING, ErrorCode
from dodici.wire.h2.hpack import encode_fields

METHOD, SCHEME, AUTHORITY, PATH = POST
REFUSED = [reset(1, ErrorCode.PROTOCOL_ERROR)]
PONG = Frame(PING, 1, 0, b"12345678")


# ------------------------------------------------------------------------------------- good ones (8.1)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(POST, id="post"),
        pytest.param([PATH, AUTHORITY, METHOD, SCHEME], id="in-any-order"),
        pytest.param([METHOD, SCHEME, PATH], id="without-authority"),
        pytest.param([METHOD, SCHEME, PATH, (b"host", b"a")], id="host"),
        pytest.param([(b":method", b"OPTIONS"), SCHEME, AUTHORITY, (b":path", b"*")], id="options"),
        pytest.param([(b":method", b"CONNECT"), (b":authority", b"a:1")], id="connect"),
        pytest.param([(b":method", b"X-!#$%&'*+.^_`|~1"), *POST[1:]], id="any-token"),
        pytest.param(with_fields((b"te", b"trailers")), id="te"),
        pytest.param(with_fields((b"te", b"Trailers")), id="te-in-any-case"),
        pytest.param(with_fields((b"cookie", b"a=1"), (b"cookie", b"b=2")), id="cookies-in-crumbs"),
        pytest.param(with_fields((b"x", b"")), id="empty-value"),
        pytest.param(with_fields((b"x", b"a\tb c"), (b"x", b"\x80\xff")), id="any-value"),
        pytest.param(with_fields((b"!#$%&'*+-.^_`|~0az", b"1")), id="any-name"),
        pytest.param(with_fields((b"content-length", b"0")), id="length-0"),
    ],
)
def test_good_requests(fields: Fields) -> None:
    fields = list(fields)
    outcome = talk(headers(1, fields, end=True))
    pseudo = dict(fields[:4])
    plain = tuple([field for field in fields if field[0][:1] != b":"])
    assert outcome.events == [
        ("open", 1, pseudo[b":method"], pseudo.get(b":path", b""), plain, False),
        ("end", 1, ()),
    ]
    assert outcome.sent == []


def test_a_request_in_all_its_parts() -> None:
    outcome = talk(
        headers(1, with_fields((b"content-length", b"6")), pad=7, priority=bytes(5)),
        data(1, b"one", pad=3),
        data(1),
        data(1, b"two"),
        headers(1, [(b"x-sum", b"1")], end=True),
    )
    assert outcome.events == [
        ("open", 1, b"POST", b"/", ((b"content-length", b"6"),), False),
        ("data", 1, b"onetwo"),
        ("end", 1, ((b"x-sum", b"1"),)),
    ]


def test_a_head_in_many_frames() -> None:
    block = block_of(with_fields((b"x", b"y" * 300)))
    pieces = [block[at : at + 40] for at in range(0, len(block), 40)]
    outcome = talk(
        headers(1, pieces[0], end=True, whole=False),
        *[continuation(1, piece, whole=False) for piece in pieces[1:-1]],
        continuation(1, b"", whole=False),
        continuation(1, pieces[-1]),
    )
    assert outcome.events == [("open", 1, b"POST", b"/", ((b"x", b"y" * 300),), False), ("end", 1, ())]


@pytest.mark.parametrize(
    "between", [data(1), ping(), headers(3, GET), continuation(3, b""), b"\0\0\0\xff" + bytes(5)]
)
def test_a_head_that_is_interrupted(between: bytes) -> None:
    outcome = talk(headers(1, GET[:2], whole=False), between)
    assert (outcome.code, outcome.events) == (ErrorCode.PROTOCOL_ERROR, [])
    assert ("interrupted" in outcome.message) == (between[3] != 9)


def test_trailers_in_many_frames() -> None:
    block = block_of([(b"x", b"y" * 50)])
    outcome = talk(headers(1, GET), headers(1, block[:9], end=True, whole=False), continuation(1, block[9:]))
    assert outcome.events[1:] == [("end", 1, ((b"x", b"y" * 50),))]


# ------------------------------------------------------------------------------ malformed ones (8.1.1)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param([], id="nothing"),
        pytest.param([(b"x", b"1")], id="no-pseudo-header"),
        pytest.param([SCHEME, AUTHORITY, PATH], id="no-method"),
        pytest.param([METHOD, AUTHORITY, PATH], id="no-scheme"),
        pytest.param([METHOD, SCHEME, AUTHORITY], id="no-path"),
        pytest.param([(b":method", b""), SCHEME, PATH], id="empty-method"),
        pytest.param([METHOD, (b":scheme", b""), PATH], id="empty-scheme"),
        pytest.param([METHOD, SCHEME, (b":path", b"")], id="empty-path"),
        pytest.param([(b":method", b"P ST"), SCHEME, PATH], id="method-with-a-space"),
        pytest.param([(b":method", b"P(ST"), SCHEME, PATH], id="method-that-is-no-token"),
        pytest.param([METHOD, SCHEME, (b":path", b"a/b")], id="relative-path"),
        pytest.param([METHOD, SCHEME, (b":path", b"*")], id="star-of-another-method"),
        pytest.param([METHOD, SCHEME, (b":path", b"/a b")], id="path-with-a-space"),
        pytest.param([METHOD, SCHEME, (b":path", b"/\r\nx: y")], id="path-with-a-line-break"),
        pytest.param([METHOD, (b":scheme", b"ht\0tp"), PATH], id="scheme-with-nul"),
        pytest.param([METHOD, SCHEME, PATH, (b":authority", b"a b")], id="authority-with-a-space"),
        pytest.param([*POST, METHOD], id="method-twice"),
        pytest.param([*POST, (b":path", b"/2")], id="path-twice"),
        pytest.param([*POST, (b":status", b"200")], id="status"),
        pytest.param([*POST, (b":x", b"1")], id="unknown-pseudo-header"),
        pytest.param([*POST, (b":", b"1")], id="colon"),
        pytest.param([METHOD, SCHEME, (b"x", b"1"), PATH], id="pseudo-header-behind-a-field"),
        pytest.param(with_fields((b"x", b"1"), PATH), id="pseudo-header-again-behind-a-field"),
        pytest.param([*POST, (b":protocol", b"websocket")], id="protocol"),
        pytest.param(
            [(b":method", b"CONNECT"), *POST[1:], (b":protocol", b"websocket")], id="extended-connect"
        ),
        pytest.param([(b":method", b"CONNECT"), *POST[1:]], id="connect-with-a-path"),
        pytest.param([(b":method", b"CONNECT"), SCHEME, AUTHORITY], id="connect-with-a-scheme"),
        pytest.param([(b":method", b"CONNECT")], id="connect-to-nowhere"),
        pytest.param([(b":method", b"CONNECT"), (b":authority", b"")], id="connect-to-nothing"),
        *[
            pytest.param(with_fields((name, b"x")), id=name.decode())
            for name in (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
        ],
        pytest.param(with_fields((b"te", b"gzip")), id="te-gzip"),
        pytest.param(with_fields((b"te", b"trailers, gzip")), id="te-trailers-and-gzip"),
        pytest.param(with_fields((b"Upper", b"1")), id="upper-case"),
        pytest.param(with_fields((b"", b"1")), id="empty-name"),
        pytest.param(with_fields((b"a b", b"1")), id="name-with-a-space"),
        pytest.param(with_fields((b"a\0", b"1")), id="name-with-nul"),
        pytest.param(with_fields((b"a\x80", b"1")), id="name-beyond-ascii"),
        pytest.param(with_fields((b"a:b", b"1")), id="name-with-a-colon"),
        pytest.param(with_fields((b"x", b" 1")), id="leading-space"),
        pytest.param(with_fields((b"x", b"1\t")), id="trailing-tab"),
        pytest.param(with_fields((b"x", b"1\0")), id="nul"),
        pytest.param(with_fields((b"x", b"1\r\ny: 2")), id="line-break"),
        pytest.param(with_fields((b"x", b"a\x7fb")), id="del"),
        pytest.param(with_fields((b"content-length", b"")), id="length-empty"),
        pytest.param(with_fields((b"content-length", b"-1")), id="length-negative"),
        pytest.param(with_fields((b"content-length", b"+1")), id="length-signed"),
        pytest.param(with_fields((b"content-length", b"1, 1")), id="length-list"),
        pytest.param(with_fields((b"content-length", b"1" * 30)), id="length-beyond-all"),
        pytest.param(
            with_fields((b"content-length", b"1"), (b"content-length", b"1")), id="length-twice"
        ),
    ],
)  # fmt: skip
def test_malformed_requests(fields: Fields) -> None:
    """8.1.1: an error of the stream; the connection, and the tables of both sides, go on."""
    outcome = talk(headers(1, fields), data(1, b"ignored"), headers(3, POST, end=True), ping())
    assert outcome.events == [("open", 3, b"POST", b"/", (), False), ("end", 3, ())]
    assert outcome.sent == [*REFUSED, PONG]


def test_fields_of_connections_may_be_left_out() -> None:
    """Where users of clients put them among their own."""
    mixed = with_fields((b"connection", b"close"), (b"x", b"1"), (b"upgrade", b"h2c"), (b"te", b"gzip"))
    outcome = talk(headers(1, mixed, end=True), headers(3, with_fields((b"Upper", b"1"))), strict=False)
    assert outcome.events[0] == ("open", 1, b"POST", b"/", ((b"x", b"1"), (b"te", b"gzip")), False)
    assert outcome.sent == [reset(3, ErrorCode.PROTOCOL_ERROR)]


def test_a_malformed_request_leaves_the_tables_in_step() -> None:
    front = Front.begun()
    front.receive(headers(1, GET + literal(b"Bad", b"1") + literal(b"good", b"2"), end=True))
    front.receive(headers(3, GET + b"\xbe", end=True))  # the newest entry of the table
    assert front.sent() == REFUSED
    assert front.events[0] == ("open", 3, b"GET", b"/", ((b"good", b"2"),), False)


def test_a_head_that_cannot_be_decoded() -> None:
    """4.3: nothing can be read after it."""
    for block in (b"\xff", GET + b"\xbe", GET + b"\x80", b"\x3f\xff\xff\x03" + GET, GET + b"\x20"):
        outcome = talk(headers(1, block))
        assert (outcome.code, outcome.events) == (ErrorCode.COMPRESSION_ERROR, [])


def test_a_malformed_head_is_malformed_each_time() -> None:
    front = Front.begun()
    block = encode_fields([*POST, (b"te", b"gzip")])
    for stream in range(1, 21, 2):
        front.receive(headers(stream, block, end=True))
    assert front.sent() == [reset(stream, ErrorCode.PROTOCOL_ERROR) for stream in range(1, 21, 2)]


# -------------------------------------------------------------------------------------------- trailers


@pytest.mark.parametrize(
    ("fields", "end"),
    [
        pytest.param([(b"x", b"1")], False, id="that-do-not-end"),
        pytest.param(POST, True, id="that-are-a-request"),
        pytest.param(POST, False, id="a-second-request"),
        pytest.param([PATH], True, id="with-a-path"),
        pytest.param(OK, True, id="with-a-status"),
        pytest.param([(b"X", b"1")], True, id="malformed"),
        pytest.param([(b"connection", b"close")], True, id="of-the-connection"),
        pytest.param([(b"x", b"y" * 20_000)], True, id="too-large"),
    ],
)
@pytest.mark.parametrize("body", [b"", b"some"])
def test_malformed_trailers(fields: Fields, end: bool, body: bytes) -> None:
    front = Front.begun(limit=8000)
    front.receive(headers(1, POST), data(1, body))
    block = block_of(fields)
    front.receive(headers(1, block[:9000], end=end, whole=len(block) <= 9000))
    if len(block) > 9000:
        front.receive(continuation(1, block[9000:]))
    assert front.events[-1][:2] == ("failed", 1)
    assert front.sent() == REFUSED
    assert not front.engine.streams
    front.receive(data(1, b"late"), headers(3, POST, end=True))
    assert front.events[-1] == ("end", 3, ())


def test_a_head_after_the_end() -> None:
    """5.1, half-closed (remote); as an error of the connection (5.4.2 leaves the choice)."""
    for late in (
        headers(1, POST),
        headers(1, [(b"x", b"1")], end=True),
        headers(1, [(b"X", b"1")], end=True),
    ):
        outcome = talk(headers(1, POST, end=True), late)
        assert outcome.code == ErrorCode.STREAM_CLOSED


def test_data_after_the_end() -> None:
    assert talk(headers(1, POST, end=True), data(1, b"x")).code == ErrorCode.STREAM_CLOSED


# -------------------------------------------------------------------------- content-length (8.1.1)


@pytest.mark.parametrize(
    ("stated", "parts"),
    [
        pytest.param(b"1", [headers(1, [(b"x", b"1")], end=True)], id="nothing-but-trailers"),
        pytest.param(b"3", [data(1, b"ab", end=True)], id="too-short"),
        pytest.param(b"3", [data(1, b"ab"), data(1, end=True)], id="too-short-with-an-empty-end"),
        pytest.param(b"3", [data(1, b"ab"), headers(1, [(b"x", b"1")], end=True)], id="too-short-with-trailers"),
        pytest.param(b"3", [data(1, b"abcd", end=True)], id="too-long"),
        pytest.param(b"3", [data(1, b"ab"), data(1, b"cd")], id="too-long-at-once"),
        pytest.param(b"0", [data(1, b"a")], id="not-empty"),
    ],
)  # fmt: skip
def test_bodies_that_are_not_as_long_as_they_said(stated: bytes, parts: list[bytes]) -> None:
    outcome = talk(headers(1, with_fields((b"content-length", stated))), *parts, ping())
    assert outcome.sent == [*REFUSED, PONG]
    assert "content-length is" in outcome.error
    assert outcome.events[-1] == ("failed", 1, "HTTP2Error", ErrorCode.PROTOCOL_ERROR)
    assert not [event for event in outcome.events if event[0] == "end"]


def test_a_head_that_promises_a_body_and_ends() -> None:
    outcome = talk(headers(1, with_fields((b"content-length", b"5")), end=True))
    assert outcome.sent == REFUSED


@pytest.mark.parametrize("parts", [[data(1, b"abc", end=True)], [data(1, b"abc", pad=9), data(1, end=True)]])
def test_bodies_that_are_as_long_as_they_said(parts: list[bytes]) -> None:
    outcome = talk(headers(1, with_fields((b"content-length", b"3"))), *parts)
    assert outcome.events[1:] == [("data", 1, b"abc"), ("end", 1, ())]


# --------------------------------------------------------------------------------------- oversized heads


@pytest.mark.parametrize("size", [16_400, 40_000, 100_000])
@pytest.mark.parametrize("end", [True, False])
def test_heads_beyond_the_limit(size: int, end: bool) -> None:
    """They are told of, so that they can be answered (8.2.3 has 431), and the connection goes on."""
    front = Front.begun()
    block = encode_fields([*POST, (b"x", b"y" * size)])
    front.receive(headers(1, block[:16_384], end=end, whole=False))
    rest = [block[at : at + 16_384] for at in range(16_384, len(block), 16_384)]
    front.receive(*[continuation(1, piece, whole=piece is rest[-1]) for piece in rest])
    assert front.events[0] == ("open", 1, b"", b"", (), True)
    assert len(front.events) == 1 + end
    front.engine.finish(front[1], encode_fields(OK))
    front.receive(headers(3, POST, end=True))
    assert front.events[-1] == ("end", 3, ())


def test_a_head_that_refers_to_the_table_too_often() -> None:
    """A small block that would be a large list."""
    front = Front.begun()
    front.receive(headers(1, GET + literal(b"x", b"y" * 3000) + b"\xbe" * 10_000, end=True))
    assert front.events[0] == ("open", 1, b"", b"", (), True)
    front.receive(headers(3, GET + b"\xbe", end=True))
    assert front.events[-2][4] == ((b"x", b"y" * 3000),)


def test_heads_at_the_limit() -> None:
    for size, fits in ((98, True), (99, False)):
        front = Front.begun(limit=100)
        front.receive(headers(1, with_fields((b"x", b"y" * size)), end=True))
        assert front.events[0][5] != fits


def test_a_head_that_does_not_end() -> None:
    front = Front.begun(limit=1000)
    front.receive(headers(1, b"\0" * 1000, whole=False))
    for count in range(1, 20):
        if 1000 * (count + 1) > 9024:
            assert front.failing(continuation(1, b"\0" * 1000, whole=False)) == ErrorCode.ENHANCE_YOUR_CALM
            return
        front.receive(continuation(1, b"\0" * 1000, whole=False))


# ------------------------------------------------------------------------------------- memory of heads


def test_equal_heads_are_one_object_on_all_connections() -> None:
    shared: dict[bytes, object] = {}
    fronts = [Front.begun(shared=shared) for _ in range(2)]
    block = encode_fields(POST)
    for front in fronts:
        front.receive(headers(1, block), headers(3, block))
    sections = {id(front[number].section) for front in fronts for number in (1, 3)}  # type: ignore[attr-defined]
    assert len(sections) == 1


@pytest.mark.parametrize("name", [b"authorization", b"cookie", b"proxy-authorization"])
def test_secrets_are_not_remembered(name: bytes) -> None:
    shared: dict[bytes, object] = {}
    front = Front.begun(shared=shared)
    for kind in (0x00, 0x10, 0x40):
        front.receive(headers(front.engine._next_id, GET + literal(name, b"s", kind), end=True))
    assert shared == {}
    assert front.engine._sections._reading == {}
    assert len([event for event in front.events if event[0] == "open"]) == 3


def test_what_refers_to_the_table_follows_it() -> None:
    front = Front.begun()
    newest = GET + b"\xbe"
    front.receive(headers(1, GET + literal(b"x", b"1"), end=True))
    front.receive(headers(3, newest, end=True), headers(5, newest, end=True))
    front.receive(headers(7, GET + literal(b"x", b"2"), end=True))
    front.receive(headers(9, newest, end=True))
    told = [event[4] for event in front.events if event[0] == "open"]
    assert told == [((b"x", value),) for value in (b"1", b"1", b"1", b"2", b"2")]


def test_the_memory_of_heads_is_bounded() -> None:
    shared: dict[bytes, object] = {}
    front = Front.begun(shared=shared)
    for number in range(1200):
        front.receive(headers(1 + 2 * number, GET + literal(b"x", b"%d" % number, 0), end=True))
        front.engine.reset(front[1 + 2 * number])
    assert len(shared) <= 512
    front.receive(headers(2401, GET + literal(b"x", b"y" * 4000, 0), end=True))
    assert max(map(len, shared)) < 2100

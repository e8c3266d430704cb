"""Responses: heads, 1xx, trailers, lengths, tunnels; and what RFC 9113 calls malformed (8.1.1, 8.2, 8.3)."""

from __future__ import annotations

import pytest
from tests.wire.h2.frames_kit import (
    OK,
    Fields,
    Link,
    block_of,
    continuation,
    data,
    headers,
    play,
    reset,
    rst_stream,
    settings,
)

from dodici.core.errors import HeadersOverflowError, HTTP2Error
from dodici.wire.h2 import engine as engine_module
from dodici.wire.h2.frames import ErrorCode

HEAD = ("head", 1, 200, ())
END = ("end", 1, ())
LENGTH = "ResponseContentLengthMismatchError"


def refused(*wire: bytes, requests: str = "GG") -> str:
    """Play what must cost stream 1 and nothing else: the class of its error."""
    outcome = play(*wire, headers(3, [*OK, (b"x-after", b"1")], end=True), requests=requests)
    assert outcome.code is None
    assert outcome.sent == [reset(1, ErrorCode.PROTOCOL_ERROR)]
    assert outcome.events[-2:] == [("head", 3, 200, ((b"x-after", b"1"),)), ("end", 3, ())]
    (error,) = outcome.link.errors
    if isinstance(error, HTTP2Error):
        assert error.error_code == ErrorCode.PROTOCOL_ERROR
    return outcome.failure[0]


# ------------------------------------------------------------------------------------------- heads


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param([], id="empty"),
        pytest.param([(b"x", b"1")], id="no-status"),
        pytest.param([(b"x", b"1"), *OK], id="late-status"),
        pytest.param([*OK, *OK], id="two-statuses"),
        pytest.param([*OK, (b":path", b"/")], id="a-pseudo-header-of-requests"),
        pytest.param([(b":method", b"GET")], id="a-request"),
        pytest.param([*OK, (b":unknown", b"1")], id="an-unknown-pseudo-header"),
        pytest.param([*OK, (b":", b"1")], id="a-colon"),
        pytest.param([*OK, (b"", b"1")], id="no-name"),
        pytest.param([*OK, (b"X-Upper", b"1")], id="upper-case"),
        pytest.param([*OK, (b"x y", b"1")], id="blank-in-name"),
        pytest.param([*OK, (b"x\xe9", b"1")], id="name-beyond-ascii"),
        pytest.param([*OK, (b"x:y", b"1")], id="colon-in-name"),
        pytest.param([*OK, (b"x", b"a\0b")], id="nul"),
        pytest.param([*OK, (b"x", b"a\rb")], id="cr"),
        pytest.param([*OK, (b"x", b"a\nb: c")], id="lf"),
        pytest.param([*OK, (b"x", b"\x7f")], id="del"),
        pytest.param([*OK, (b"x", b" a")], id="leading-blank"),
        pytest.param([*OK, (b"x", b"a ")], id="trailing-blank"),
        pytest.param([*OK, (b"x", b"\ta")], id="leading-tab"),
        pytest.param([*OK, (b"x", b" ")], id="a-blank"),
        pytest.param([*OK, (b"connection", b"close")], id="connection"),
        pytest.param([*OK, (b"proxy-connection", b"close")], id="proxy-connection"),
        pytest.param([*OK, (b"keep-alive", b"timeout=5")], id="keep-alive"),
        pytest.param([*OK, (b"transfer-encoding", b"chunked")], id="transfer-encoding"),
        pytest.param([*OK, (b"upgrade", b"h2c")], id="upgrade"),
        pytest.param([*OK, (b"content-length", b"")], id="length-empty"),
        pytest.param([*OK, (b"content-length", b"-1")], id="length-negative"),
        pytest.param([*OK, (b"content-length", b"+1")], id="length-signed"),
        pytest.param([*OK, (b"content-length", b"1, 1")], id="length-list"),
        pytest.param([*OK, (b"content-length", b"0x1")], id="length-hex"),
        pytest.param([*OK, (b"content-length", b"1" * 19)], id="length-huge"),
        pytest.param([*OK, (b"content-length", b"1"), (b"content-length", b"1")], id="two-lengths"),
        pytest.param([(b":status", b"")], id="status-empty"),
        pytest.param([(b":status", b"20")], id="status-short"),
        pytest.param([(b":status", b"2000")], id="status-long"),
        pytest.param([(b":status", b"099")], id="status-099"),
        pytest.param([(b":status", b"2e2")], id="status-word"),
        pytest.param([(b":status", b" 200")], id="status-blank"),
        pytest.param([(b":status", b"200\n")], id="status-lf"),
        pytest.param([(b":status", b"101")], id="status-101"),
    ],
)
def test_malformed_heads(fields: Fields) -> None:
    block = b"".join(
        b"\x40" + bytes((len(name),)) + name + bytes((len(value),)) + value for name, value in fields
    )
    assert refused(headers(1, block)) == "HTTP2Error"
    assert refused(headers(1, block, end=True)) == "HTTP2Error"


def test_what_heads_may_have() -> None:
    fields = [
        (b"!#$%&'*+-.^_`|~09az", b"v"),
        (b"x", b""),
        (b"x", b"a\t b\xff"),
        (b"set-cookie", b"a"),
        (b"te", b"x"),
    ]
    assert play(headers(1, [*OK, *fields])).events == [("head", 1, 200, tuple(fields))]


@pytest.mark.parametrize("status", [200, 204, 299, 304, 404, 500, 999])
def test_final_statuses(status: int) -> None:
    outcome = play(headers(1, [(b":status", b"%d" % status)], end=True))
    assert outcome.events == [("head", 1, status, ()), END]


def test_a_second_head() -> None:
    assert refused(headers(1), headers(1)) == "HTTP2Error"
    assert refused(headers(1), headers(1, end=True)) == "HTTP2Error"
    assert refused(headers(1), headers(1, [(b":status", b"103")])) == "HTTP2Error"


def test_a_head_that_is_too_large() -> None:
    """10.5.1: it was decoded, so the connection goes on and the tables are in step."""
    large = [*OK, *[(b"x-%d" % number, b"v" * 300) for number in range(60)]]
    block = block_of(large)
    wire = headers(1, block[:16_000], whole=False) + continuation(1, block[16_000:])
    assert len(block) < 2 * 16_384
    outcome = play(wire, headers(3, [*OK, (b"x-after", b"1")], end=True), requests="GG")
    assert [type(error) for error in outcome.link.errors] == [HeadersOverflowError]
    assert outcome.events[-2:] == [("head", 3, 200, ((b"x-after", b"1"),)), ("end", 3, ())]


def test_a_list_that_a_few_bytes_make_too_large() -> None:
    """References to the table, of which each is one byte and stands for hundreds."""
    bomb = b"\x88\x40\x01x\x7f\x81\x02" + b"v" * 256 + b"\xbe" * 1000
    assert refused(headers(1, bomb)) == "HeadersOverflowError"


def test_the_size_counts_names_and_values() -> None:
    fits = [*OK, (b"x" * 50, b"v" * 49)]
    assert play(headers(1, fits, end=True), limit=100).events[-1] == END
    outcome = play(headers(1, [*OK, (b"x" * 50, b"v" * 50)], end=True), limit=100)
    assert outcome.failure[0] == "HeadersOverflowError"
    assert outcome.sent == [reset(1, ErrorCode.PROTOCOL_ERROR)]


# --------------------------------------------------------------------------------------------- 1xx


def test_informational_heads() -> None:
    early = [(b":status", b"103"), (b"link", b"</a.css>")]
    outcome = play(
        headers(1, [(b":status", b"100")]), headers(1, early), headers(1, early), headers(1, end=True)
    )
    told = ("info", 1, 103, ((b"link", b"</a.css>"),))
    assert outcome.events == [("info", 1, 100, ()), told, told, HEAD, END]


@pytest.mark.parametrize("status", [b"100", b"103", b"199"])
def test_an_informational_head_cannot_end_the_stream(status: bytes) -> None:
    assert refused(headers(1, [(b":status", status)], end=True)) == "HTTP2Error"


def test_data_after_an_informational_head() -> None:
    assert refused(headers(1, [(b":status", b"103")]), data(1, b"x")) == "HTTP2Error"


def test_trailers_after_an_informational_head() -> None:
    assert refused(headers(1, [(b":status", b"103")]), headers(1, [(b"x", b"1")], end=True)) == "HTTP2Error"


def test_informational_heads_have_an_end() -> None:
    link = Link()
    link.open()
    link.receive(settings(), headers(1, [(b":status", b"103")]) * engine_module._INFORMATIONAL_LIMIT)
    assert link.errors == []
    link.sent()
    link.receive(headers(1, [(b":status", b"103")]))
    assert link.events[-1] == ("failed", 1, "HTTP2Error", ErrorCode.ENHANCE_YOUR_CALM)
    assert link.sent() == [reset(1, ErrorCode.ENHANCE_YOUR_CALM)]


# ---------------------------------------------------------------------------------------- trailers


@pytest.mark.parametrize("body", [b"", b"abc"])
def test_trailers(body: bytes) -> None:
    fields = [(b"grpc-status", b"0"), (b"grpc-message", b"")]
    outcome = play(headers(1), data(1, body), headers(1, fields, end=True))
    assert outcome.events[-1] == ("end", 1, tuple(fields))


def test_empty_trailers() -> None:
    assert play(headers(1), headers(1, b"", end=True)).events == [HEAD, END]


def test_trailers_in_pieces() -> None:
    outcome = play(headers(1), headers(1, b"\x00\x01", whole=False, end=True), continuation(1, b"x\x011"))
    assert outcome.events == [HEAD, ("end", 1, ((b"x", b"1"),))]


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(headers(1, [(b"x", b"1")]), id="without-end-stream"),
        pytest.param(headers(1, OK, end=True), id="with-status"),
        pytest.param(headers(1, [(b"x", b"1"), *OK], end=True), id="with-late-status"),
        pytest.param(headers(1, [(b":path", b"/")], end=True), id="with-path"),
        pytest.param(headers(1, [(b"connection", b"close")], end=True), id="connection-specific"),
    ],
)
def test_malformed_trailers(wire: bytes) -> None:
    assert refused(headers(1), data(1, b"x"), wire) == "HTTP2Error"


def test_trailers_that_are_too_large() -> None:
    assert refused(headers(1), headers(1, [(b"x", b"v" * 16_383)], end=True)) == "HeadersOverflowError"


# --------------------------------------------------------------------------------- content-length (8.1.1)


def sized(length: int, status: bytes = b"200") -> Fields:
    return [(b":status", status), (b"content-length", b"%d" % length)]


@pytest.mark.parametrize(
    "wire",
    [
        data(1, b"abc", end=True),
        data(1, b"ab") + data(1, b"c", pad=3) + data(1, end=True),
        data(1, b"abc") + headers(1, [(b"x", b"1")], end=True),
    ],
)
def test_bodies_of_the_stated_length(wire: bytes) -> None:
    outcome = play(headers(1, sized(3)), wire)
    assert outcome.events[1] == ("data", 1, b"abc")
    assert outcome.events[-1][0] == "end"


@pytest.mark.parametrize(
    ("wire", "said"),
    [
        (data(1, b"ab", end=True), "content-length is 3 but the body has 2 bytes"),
        (data(1, b"ab") + data(1, end=True), "content-length is 3 but the body has 2 bytes"),
        (
            data(1, b"ab") + headers(1, [(b"x", b"1")], end=True),
            "content-length is 3 but the body has 2 bytes",
        ),
        (data(1, b"abcd", end=True), "content-length is 3 but the body has 4 bytes"),
        (data(1, b"ab") + data(1, b"cd"), "content-length is 3 but the body has at least 4 bytes"),
    ],
)
def test_bodies_of_another_length(wire: bytes, said: str) -> None:
    assert refused(headers(1, sized(3)), wire) == LENGTH
    assert str(play(headers(1, sized(3)), wire).link.errors[0]) == said


def test_a_head_that_ends_what_it_promised() -> None:
    assert refused(headers(1, sized(3), end=True)) == LENGTH


def test_what_exceeds_the_length_is_not_delivered() -> None:
    outcome = play(headers(1, sized(3)), data(1, b"abcd"))
    assert [event[0] for event in outcome.events] == ["head", "failed"]


@pytest.mark.parametrize(("requests", "status"), [("HG", b"200"), ("GG", b"304"), ("GG", b"204")])
def test_responses_without_a_body(requests: str, status: bytes) -> None:
    outcome = play(headers(1, sized(1000, status), end=True), requests=requests)
    assert outcome.events[-1] == END
    outcome = play(headers(1, sized(1000, status)), data(1, end=True), requests=requests)
    assert outcome.events[-1] == END
    assert refused(headers(1, sized(1000, status)), data(1, b"x"), requests=requests) == LENGTH


# ------------------------------------------------------------------------------------ tunnels (8.5)


@pytest.mark.parametrize("status", [b"200", b"204", b"299"])
def test_a_tunnel_has_no_length(status: bytes) -> None:
    """RFC 9110 section 9.3.6: content-length is ignored."""
    outcome = play(headers(1, sized(1, status)), data(1, b"abc"), data(1, b"d", end=True), requests="C")
    assert outcome.events[1] == ("data", 1, b"abcd")
    assert outcome.events[-1] == END
    assert list(outcome.link.engine.streams) == [1], "our side is open"


def test_a_tunnel_takes_data_alone() -> None:
    assert (
        refused(headers(1), data(1, b"x"), headers(1, [(b"x", b"1")], end=True), requests="CG")
        == "HTTP2Error"
    )


def test_a_refused_tunnel_is_a_response() -> None:
    trailers = headers(1, [(b"x", b"1")], end=True)
    outcome = play(headers(1, sized(1, b"407")), data(1, b"a"), trailers, requests="C")
    assert outcome.events[-1] == ("end", 1, ((b"x", b"1"),))
    assert refused(headers(1, sized(1, b"407")), data(1, b"ab"), requests="CG") == LENGTH


def test_our_side_of_a_tunnel() -> None:
    link = Link()
    stream = link.open("C")
    link.receive(settings(), headers(1), data(1, b"x", end=True))
    link.engine.send(stream, b"bye")
    link.engine.end(stream)
    link.sent()
    (sent,) = link.filled()
    assert (sent.flags, sent.payload) == (1, b"bye")
    assert link.engine.streams == {}
    link.receive(rst_stream(1, ErrorCode.NO_ERROR))
    assert link.errors == []

"""The response parser: every input whole, cut at every byte, byte by byte, and paused at every callback."""

from __future__ import annotations

import pytest
from tests.wire.replay import Tape, play, play_on, replay, splits

from dodici.core.errors import DodiciError, HTTPParserError, SocketError
from dodici.wire.h1 import parser as parser_module
from dodici.wire.h1.head import HeadCache, raw_limit
from dodici.wire.h1.parser import DEAD, END, HEAD, LENGTH, TUNNEL, ResponseParser

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
SMALL = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def head(status: int, *fields: tuple[bytes, bytes], reason: str = "OK") -> tuple[object, ...]:
    return "head", status, reason, fields


def end(*fields: tuple[bytes, bytes]) -> tuple[object, ...]:
    return "end", fields


# -- what is refused: reference/undici.md 2.9 ----------------------------------------------------------

REFUSED = {
    # "LF-only lines"
    "LF after the status line": (b"HTTP/1.1 200 OK\ncontent-length: 2\r\n\r\nok", "HPE_CR_EXPECTED"),
    "LF after a field": (OK + b"content-length: 2\n\r\nok", "HPE_CR_EXPECTED"),
    "LF only": (b"HTTP/1.1 200 OK\ncontent-length: 2\n\nok", "HPE_CR_EXPECTED"),
    "LF inside a name": (OK + b"fo\no: bar\r\n\r\n", "HPE_CR_EXPECTED"),
    "LF after the chunk size": (CHUNKED + b"2\nok\r\n0\r\n\r\n", "HPE_INVALID_CHUNK_SIZE"),
    "LF after the chunk": (CHUNKED + b"2\r\nok\n0\r\n\r\n", "HPE_STRICT"),
    "LF before the trailers": (CHUNKED + b"0\r\n\n", "HPE_CR_EXPECTED"),
    "LF in the trailers": (CHUNKED + b"0\r\na: b\n\r\n", "HPE_CR_EXPECTED"),
    "LF first": (b"\n" + SMALL, "HPE_INVALID_CONSTANT"),
    # "bare CR or NUL in value"
    "CR in a value": (OK + b"foo: b\rar\r\n\r\n", "HPE_LF_EXPECTED"),
    "CR at a value's end": (OK + b"foo: bar\r\r\n\r\n", "HPE_LF_EXPECTED"),
    "CR in the reason": (b"HTTP/1.1 200 O\rK\r\n\r\n", "HPE_INVALID_STATUS"),
    "NUL in a value": (OK + b"foo: b\0ar\r\n\r\n", "HPE_INVALID_HEADER_TOKEN"),
    "NUL in the reason": (b"HTTP/1.1 200 O\0K\r\n\r\n", "HPE_INVALID_STATUS"),
    "DEL in a value": (OK + b"foo: b\x7far\r\n\r\n", "HPE_INVALID_HEADER_TOKEN"),
    # "obs-fold"
    "obs-fold with a blank": (OK + b"foo: bar\r\n baz\r\n\r\n", "HPE_UNEXPECTED_SPACE"),
    "obs-fold with a tab": (OK + b"foo: bar\r\n\tbaz\r\n\r\n", "HPE_UNEXPECTED_SPACE"),
    "a blank before the first field": (OK + b" foo: bar\r\n\r\n", "HPE_UNEXPECTED_SPACE"),
    # "space before colon, empty name"
    "a blank before the colon": (OK + b"foo : bar\r\n\r\n", "HPE_INVALID_HEADER_TOKEN"),
    "a tab before the colon": (OK + b"foo\t: bar\r\n\r\n", "HPE_INVALID_HEADER_TOKEN"),
    "an empty name": (OK + b": bar\r\n\r\n", "HPE_INVALID_HEADER_TOKEN"),
    "no colon": (OK + b"foo\r\n\r\n", "HPE_INVALID_HEADER_TOKEN"),
    "a name beyond ASCII": (OK + b"f\xf6\xf6: bar\r\n\r\n", "HPE_INVALID_HEADER_TOKEN"),
    "a quote in a name": (OK + b'"foo": bar\r\n\r\n', "HPE_INVALID_HEADER_TOKEN"),
    # "negative/signed CL"; duplicates, "2, 2", oversized: refused, too
    "negative length": (OK + b"content-length: -2\r\n\r\nok", "HPE_INVALID_CONTENT_LENGTH"),
    "signed length": (OK + b"content-length: +2\r\n\r\nok", "HPE_INVALID_CONTENT_LENGTH"),
    "hexadecimal length": (OK + b"content-length: 0x2\r\n\r\nok", "HPE_INVALID_CONTENT_LENGTH"),
    "empty length": (OK + b"content-length:\r\n\r\nok", "HPE_INVALID_CONTENT_LENGTH"),
    "length with an underscore": (
        OK + b"content-length: 1_0\r\n\r\n0123456789",
        "HPE_INVALID_CONTENT_LENGTH",
    ),
    "listed length": (OK + b"content-length: 2, 2\r\n\r\nok", "HPE_INVALID_CONTENT_LENGTH"),
    "oversized length": (OK + b"content-length: 9999999999999999999\r\n\r\n", "HPE_INVALID_CONTENT_LENGTH"),
    "length twice, the same": (
        OK + b"content-length: 2\r\ncontent-length: 2\r\n\r\nok",
        "HPE_UNEXPECTED_CONTENT_LENGTH",
    ),
    "length twice, different": (
        OK + b"content-length: 2\r\nContent-Length: 3\r\n\r\nok",
        "HPE_UNEXPECTED_CONTENT_LENGTH",
    ),
    # "CL after TE, TE plus CL"
    "length after coding": (
        OK + b"transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n0\r\n\r\n",
        "HPE_UNEXPECTED_CONTENT_LENGTH",
    ),
    "coding after length": (
        OK + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HPE_UNEXPECTED_CONTENT_LENGTH",
    ),
    "length beside an unknown coding": (
        OK + b"content-length: 2\r\ntransfer-encoding: foo\r\n\r\nok",
        "HPE_UNEXPECTED_CONTENT_LENGTH",
    ),
    "chunked twice": (OK + b"transfer-encoding: chunked, chunked\r\n\r\n", "HPE_INVALID_TRANSFER_ENCODING"),
    "chunked twice, in two lines": (
        OK + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
        "HPE_INVALID_TRANSFER_ENCODING",
    ),
    "empty coding": (OK + b"transfer-encoding:\r\n\r\n", "HPE_INVALID_TRANSFER_ENCODING"),
    "empty coding beside a length": (
        OK + b"transfer-encoding: ,\r\ncontent-length: 2\r\n\r\nok",
        "HPE_INVALID_TRANSFER_ENCODING",
    ),
    # "CL in trailers with TE"
    "length in the trailers": (CHUNKED + b"0\r\ncontent-length: 2\r\n\r\n", "HPE_UNEXPECTED_CONTENT_LENGTH"),
    "coding in the trailers": (
        CHUNKED + b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HPE_UNEXPECTED_CONTENT_LENGTH",
    ),
    "a broken trailer": (CHUNKED + b"0\r\nfoo : bar\r\n\r\n", "HPE_INVALID_HEADER_TOKEN"),
    "a folded trailer": (CHUNKED + b"0\r\nfoo: bar\r\n baz\r\n\r\n", "HPE_UNEXPECTED_SPACE"),
    # "chunk size junk / trailing space / overflow, missing CRLF after chunk"
    "junk for a chunk size": (CHUNKED + b"xyz\r\n", "HPE_INVALID_CHUNK_SIZE"),
    "junk behind a chunk size": (CHUNKED + b"2z\r\nok\r\n", "HPE_INVALID_CHUNK_SIZE"),
    "a blank behind a chunk size": (CHUNKED + b"2 \r\nok\r\n", "HPE_INVALID_CHUNK_SIZE"),
    "a blank before a chunk size": (CHUNKED + b" 2\r\nok\r\n", "HPE_INVALID_CHUNK_SIZE"),
    "a blank before a chunk extension": (CHUNKED + b"2 ;a\r\nok\r\n", "HPE_INVALID_CHUNK_SIZE"),
    "a prefixed chunk size": (CHUNKED + b"0x2\r\nok\r\n", "HPE_INVALID_CHUNK_SIZE"),
    "a negative chunk size": (CHUNKED + b"-2\r\nok\r\n", "HPE_INVALID_CHUNK_SIZE"),
    "no chunk size": (CHUNKED + b"\r\nok\r\n", "HPE_INVALID_CHUNK_SIZE"),
    "no chunk size but an extension": (CHUNKED + b";a\r\nok\r\n", "HPE_INVALID_CHUNK_SIZE"),
    "an overflowing chunk size": (CHUNKED + b"1" + b"0" * 16 + b"\r\n", "HPE_INVALID_CHUNK_SIZE"),
    "CR in a chunk extension": (CHUNKED + b"2;a\rb\r\nok\r\n", "HPE_INVALID_CHUNK_SIZE"),
    "CR CR behind a chunk size": (CHUNKED + b"2\r\r\nok\r\n", "HPE_INVALID_CHUNK_SIZE"),
    "no CRLF after a chunk": (CHUNKED + b"2\r\nokay\r\n", "HPE_STRICT"),
    "half a CRLF after a chunk": (CHUNKED + b"2\r\nok\r0\r\n", "HPE_STRICT"),
    # "HTTP/1.2, non-HTTP bytes (e.g. TLS alert)"
    "HTTP/1.2": (b"HTTP/1.2 200 OK\r\n\r\n", "HPE_INVALID_VERSION"),
    "HTTP/2": (b"HTTP/2 200 OK\r\n\r\n", "HPE_INVALID_VERSION"),
    "HTTP/1.10": (b"HTTP/1.10 200 OK\r\n\r\n", "HPE_INVALID_VERSION"),
    "HTTP/0.9": (b"HTTP/0.9 200 OK\r\n\r\n", "HPE_INVALID_VERSION"),
    "lower case": (b"http/1.1 200 OK\r\n\r\n", "HPE_INVALID_CONSTANT"),
    "a TLS alert": (b"\x15\x03\x01\x00\x02\x02\x16", "HPE_INVALID_CONSTANT"),
    "HTML": (b"<html>\r\n\r\n</html>", "HPE_INVALID_CONSTANT"),
    "a request": (b"GET / HTTP/1.1\r\n\r\n", "HPE_INVALID_CONSTANT"),
    "an ICY greeting": (b"ICY 200 OK\r\n\r\n", "HPE_INVALID_CONSTANT"),
    "half a name": (b"HTT\r\n\r\n", "HPE_INVALID_CONSTANT"),
    # "status 099 leaks an assertion upstream: raise HTTPParserError"
    "status 099": (b"HTTP/1.1 099 Low\r\n\r\n", "HPE_INVALID_STATUS"),
    "status 000": (b"HTTP/1.1 000\r\n\r\n", "HPE_INVALID_STATUS"),
    "two digits": (b"HTTP/1.1 20 OK\r\n\r\n", "HPE_INVALID_STATUS"),
    "four digits": (b"HTTP/1.1 2000 OK\r\n\r\n", "HPE_INVALID_STATUS"),
    "no status": (b"HTTP/1.1 OK\r\n\r\n", "HPE_INVALID_STATUS"),
    "two blanks before the status": (b"HTTP/1.1  200 OK\r\n\r\n", "HPE_INVALID_STATUS"),
    "a blank before the status line": (b" HTTP/1.1 200 OK\r\n\r\n", "HPE_INVALID_CONSTANT"),
    # one empty line before the status line is let pass, not more
    "two empty lines first": (b"\r\n\r\n" + SMALL, "HPE_INVALID_CONSTANT"),
    "CR alone first": (b"\r" + SMALL, "HPE_INVALID_CONSTANT"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_2_9_refused(name: str) -> None:
    data, code = REFUSED[name]
    events, error = replay(data)
    assert error == ("HTTPParserError", code)
    assert all(event[0] != "end" for event in events)


@pytest.mark.parametrize("name", REFUSED)
def test_2_9_refused_as_a_second_response(name: str) -> None:
    data, code = REFUSED[name]
    events, error = replay(SMALL + data, requests=("GET", "GET"))
    assert error == ("HTTPParserError", code)
    assert events[:3] == play([SMALL])[0]


# -- what is accepted: reference/undici.md 2.9 ---------------------------------------------------------

LENGTH_2 = (b"content-length", b"2")
TE = (b"transfer-encoding", b"chunked")

ACCEPTED = {
    "a length": (SMALL, [head(200, LENGTH_2), ("data", b"ok"), end()]),
    "no body": (OK + b"content-length: 0\r\n\r\n", [head(200, (b"content-length", b"0")), end()]),
    "leading zeros in a length": (
        OK + b"content-length: 002\r\n\r\nok",
        [head(200, (b"content-length", b"002")), ("data", b"ok"), end()],
    ),
    "blanks around a value": (
        OK + b"content-length:\t 2 \t\r\n\r\nok",
        [head(200, LENGTH_2), ("data", b"ok"), end()],
    ),
    "chunks": (CHUNKED + b"2\r\nok\r\n1\r\n!\r\n0\r\n\r\n", [head(200, TE), ("data", b"ok!"), end()]),
    "no chunks": (CHUNKED + b"0\r\n\r\n", [head(200, TE), end()]),
    "hexadecimal in both cases": (
        CHUNKED + b"a\r\n0123456789\r\nA\r\n0123456789\r\n000\r\n\r\n",
        [head(200, TE), ("data", b"0123456789" * 2), end()],
    ),
    "chunk extensions": (
        CHUNKED + b'2;a=b;c="d \xff"\r\nok\r\n0;last\r\n\r\n',
        [head(200, TE), ("data", b"ok"), end()],
    ),
    "CRLF in a chunk": (
        CHUNKED + b"4\r\n\r\n\r\n\r\n0\r\n\r\n",
        [head(200, TE), ("data", b"\r\n\r\n"), end()],
    ),
    "missing reason": (
        b"HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n",
        [head(200, (b"content-length", b"0"), reason=""), end()],
    ),
    "empty reason": (
        b"HTTP/1.1 200 \r\ncontent-length: 0\r\n\r\n",
        [head(200, (b"content-length", b"0"), reason=""), end()],
    ),
    "a reason in latin-1": (
        b"HTTP/1.1 200 \xfcber\tgut\r\ncontent-length: 0\r\n\r\n",
        [head(200, (b"content-length", b"0"), reason="\xfcber\tgut"), end()],
    ),
    "leading CRLF": (b"\r\n" + SMALL, [head(200, LENGTH_2), ("data", b"ok"), end()]),
    "status 999": (
        b"HTTP/1.1 999 X\r\ncontent-length: 0\r\n\r\n",
        [head(999, (b"content-length", b"0"), reason="X"), end()],
    ),
    "HTTP/1.0": (
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        [head(200, LENGTH_2), ("data", b"ok"), end()],
    ),
    "gzip, chunked": (
        OK + b"transfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        [head(200, (b"transfer-encoding", b"gzip, chunked")), ("data", b"ok"), end()],
    ),
    "empty elements in a list": (
        OK + b"transfer-encoding: , Chunked ,\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        [head(200, (b"transfer-encoding", b", Chunked ,")), ("data", b"ok"), end()],
    ),
    "codings in two lines": (
        OK + b"transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        [head(200, (b"transfer-encoding", b"gzip"), TE), end()],
    ),
    "trailers": (
        CHUNKED + b"0\r\nA: 1\r\nb: 2\r\n\r\n",
        [head(200, TE), end((b"A", b"1"), (b"b", b"2"))],
    ),
    "repeated fields, in order": (
        OK + b"Set-Cookie: a\r\nx: 1\r\nset-cookie: b\r\n__proto__: 1\r\ncontent-length: 0\r\n\r\n",
        [
            head(
                200,
                (b"Set-Cookie", b"a"),
                (b"x", b"1"),
                (b"set-cookie", b"b"),
                (b"__proto__", b"1"),
                (b"content-length", b"0"),
            ),
            end(),
        ],
    ),
    "an empty value": (
        OK + b"x:\r\ny: \r\ncontent-length: 0\r\n\r\n",
        [head(200, (b"x", b""), (b"y", b""), (b"content-length", b"0")), end()],
    ),
    # "204 plus stray bytes: end, then socket destroyed": what is left over is left to the owner.
    "204": (b"HTTP/1.1 204 OK\r\n\r\n", [head(204), end()]),
    "204 with a length": (
        b"HTTP/1.1 204 OK\r\ncontent-length: 5\r\n\r\n",
        [head(204, (b"content-length", b"5")), end()],
    ),
    "204 with a coding": (b"HTTP/1.1 204 OK\r\ntransfer-encoding: chunked\r\n\r\n", [head(204, TE), end()]),
    "304": (b"HTTP/1.1 304 OK\r\n\r\n", [head(304), end()]),
    "304 with a length": (
        b"HTTP/1.1 304 OK\r\ncontent-length: 5\r\n\r\n",
        [head(304, (b"content-length", b"5")), end()],
    ),
    "304 with a coding": (b"HTTP/1.1 304 OK\r\ntransfer-encoding: chunked\r\n\r\n", [head(304, TE), end()]),
    # 2.3: one head per 1xx, no data and no end for it
    "103 before 200": (
        b"HTTP/1.1 103 OK\r\nlink: x\r\n\r\n" + SMALL,
        [head(103, (b"link", b"x")), head(200, LENGTH_2), ("data", b"ok"), end()],
    ),
    "100 with a length": (
        b"HTTP/1.1 100 OK\r\ncontent-length: 5\r\n\r\n" + SMALL,
        [head(100, (b"content-length", b"5")), head(200, LENGTH_2), ("data", b"ok"), end()],
    ),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_2_9_accepted(name: str) -> None:
    data, expected = ACCEPTED[name]
    assert replay(data) == (expected, None)
    # An end behind it changes nothing.
    assert play([data], end=True) == (expected, None)


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_second_response_follows(name: str) -> None:
    data, expected = ACCEPTED[name]
    assert replay(data + SMALL, requests=("GET", "GET")) == (expected + play([SMALL])[0], None)


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_was_seen_before_gives_the_same(name: str) -> None:
    data, expected = ACCEPTED[name]
    heads = HeadCache(16384)
    for _ in range(2):
        assert play([data], heads=heads) == (expected, None)
    assert (len(heads) > 0) == (b"ookie" not in data)


@pytest.mark.parametrize("name", REFUSED)
def test_what_was_refused_is_refused_again(name: str) -> None:
    data, code = REFUSED[name]
    heads = HeadCache(16384)
    for _ in range(2):
        assert play([data], heads=heads)[1] == ("HTTPParserError", code)


@pytest.mark.parametrize("coding", [b"chunked, gzip", b"identity", b"foo", b"chunked;q=1"])
def test_2_9_other_codings_are_read_to_the_end(coding: bytes) -> None:
    data = OK + b"transfer-encoding: " + coding + b"\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    events, error = replay(data, end=True)
    assert error is None
    assert events == [head(200, (b"transfer-encoding", coding)), ("data", b"2\r\nok\r\n0\r\n\r\n"), end()]


def test_head_has_no_body() -> None:
    data = OK + b"content-length: 5\r\n\r\n"
    assert replay(data, requests=("HEAD",)) == ([head(200, (b"content-length", b"5")), end()], None)
    events, error = replay(data + SMALL, requests=("HEAD", "GET"))
    assert error is None
    assert [event[0] for event in events] == ["head", "end", "head", "data", "end"]


def test_what_follows_the_last_message_stays_in_rest() -> None:
    for stray in (b"x", SMALL, b"\r\n"):
        for cut in range(len(SMALL)):
            tape = Tape()
            assert play_on(tape, [SMALL[:cut], SMALL[cut:] + stray]) == play([SMALL])
            assert tape.parser.rest == stray
            assert not tape.parser.between_messages


# -- close-delimited bodies and the end of the stream -------------------------------------------------


def test_a_body_until_the_end() -> None:
    data = OK + b"\r\nsome bytes"
    assert replay(data, end=True) == ([head(200), ("data", b"some bytes"), end()], None)
    assert replay(OK + b"\r\n", end=True) == ([head(200), end()], None)
    assert replay(data) == ([head(200), ("data", b"some bytes")], None)


CUT = {
    "nothing came": (b"", None),
    "between messages": (SMALL, None),
    "inside a head": (OK, ("SocketError", "UND_ERR_SOCKET")),
    "after an empty line": (b"\r\n", ("SocketError", "UND_ERR_SOCKET")),
    "inside a status line": (b"HTTP", ("SocketError", "UND_ERR_SOCKET")),
    "after 103": (b"HTTP/1.1 103 X\r\n\r\n", None),
    "before the body": (OK + b"content-length: 2\r\n\r\n", "length"),
    "inside the body": (OK + b"content-length: 2\r\n\r\no", "length"),
    "before a chunk": (CHUNKED, "chunked"),
    "inside a chunk size": (CHUNKED + b"2", "chunked"),
    "inside a chunk": (CHUNKED + b"2\r\no", "chunked"),
    "before a chunk's CRLF": (CHUNKED + b"2\r\nok", "chunked"),
    "inside a chunk's CRLF": (CHUNKED + b"2\r\nok\r", "chunked"),
    "before the trailers": (CHUNKED + b"0\r\n", "chunked"),
    "inside the trailers": (CHUNKED + b"0\r\na: b\r\n", "chunked"),
}
_CUT_ERRORS = {
    "length": ("ResponseContentLengthMismatchError", "UND_ERR_RES_CONTENT_LENGTH_MISMATCH"),
    "chunked": ("HTTPParserError", "HPE_INVALID_EOF_STATE"),
}


@pytest.mark.parametrize("name", CUT)
def test_2_7_end_of_stream_in_every_state(name: str) -> None:
    data, expected = CUT[name]
    error = _CUT_ERRORS.get(expected, expected) if isinstance(expected, str) else expected
    for pieces in splits(data) if data else [[]]:
        assert play(pieces, end=True)[1] == error


def test_end_of_stream_in_a_tunnel_and_after_stop() -> None:
    tape = Tape(requests=("CONNECT",))
    tape.parser.feed(OK + b"\r\nearly")
    tape.parser.end_of_stream()
    assert tape.parser.state == TUNNEL
    tape.parser.stop()
    tape.parser.end_of_stream()
    assert tape.parser.state == DEAD


# -- max_header_size -----------------------------------------------------------------------------------

OVERFLOW = ("HeadersOverflowError", "UND_ERR_HEADERS_OVERFLOW")


def _fields(total: int) -> bytes:
    """Two fields whose names and values take `total` bytes."""
    return b"a: " + b"x" * 5 + b"\r\nbc: " + b"y" * (total - 8) + b"\r\n"


@pytest.mark.parametrize(("total", "error"), [(99, None), (100, OVERFLOW), (101, OVERFLOW)])
def test_2_9_max_header_size(total: int, error: object) -> None:
    fields = _fields(total)
    for data in (
        b"HTTP/1.1 204 OK\r\n" + fields + b"\r\n",
        b"HTTP/1.1 103 OK\r\n" + fields + b"\r\nHTTP/1.1 204 OK\r\n\r\n",
        b"HTTP/1.1 204 OK\r\n" + fields.replace(b"\r\n", b" \t \r\n") + b"\r\n",
    ):
        events, raised = replay(data, max_header_size=100)
        assert raised == error
        assert bool(events) == (error is None)
    trailers = CHUNKED + b"2\r\nok\r\n0\r\n" + fields + b"\r\n"
    events, raised = replay(trailers, max_header_size=100)
    assert raised == error
    assert events[:2] == [head(200, TE), ("data", b"ok")]
    assert len(events) == (3 if error is None else 2)


def test_2_9_each_1xx_has_the_limit_for_itself() -> None:
    data = (
        (b"HTTP/1.1 103 OK\r\n" + _fields(99) + b"\r\n") * 3 + b"HTTP/1.1 204 OK\r\n" + _fields(99) + b"\r\n"
    )
    events, error = replay(data, max_header_size=100)
    assert error is None
    assert len(events) == 5


def test_a_head_that_never_ends_is_bounded() -> None:
    limit = raw_limit(100)
    start = b"HTTP/1.1 200 OK\r\nfoo: "
    for filler, error in (
        (b"x", OVERFLOW),
        (b"\0", OVERFLOW),
        (b"x: y\r\n", OVERFLOW),
        (b"\n", ("HTTPParserError", "HPE_CR_EXPECTED")),
    ):
        data = (start + filler * limit)[: limit + 50]
        for ending in (b"", b"\r\n\r\n"):
            for pieces in (
                [data + ending],
                [data[:500], data[500:] + ending],
                [bytes([one]) for one in data + ending],
            ):
                assert play(pieces, max_header_size=100) == ([], error)
        if filler != b"\n":
            assert play([data[: limit - 1]], max_header_size=100) == ([], None)
            assert play([data[:limit]], max_header_size=100) == ([], error)


def test_the_raw_limit_is_the_same_in_whatever_pieces() -> None:
    limit = raw_limit(100)
    status = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n"
    for size in (limit - 1, limit, limit + 1):
        padding = b"a: " + b" " * (size - len(status) - 7) + b"\r\n\r\n"
        data = status + padding
        assert len(data) == size
        expected = play([data], max_header_size=100)
        assert (expected[1] is None) == (size <= limit)
        assert play([data[at : at + 1] for at in range(size)], max_header_size=100) == expected
        assert play([data[:-1], data[-1:]], max_header_size=100) == expected


def test_a_bad_start_is_seen_before_the_size() -> None:
    data = b"HTTP/1.9 200 OK\r\n" + b"a: b\r\n" * 1000 + b"\r\n"
    assert play([data], max_header_size=100)[1] == ("HTTPParserError", "HPE_INVALID_VERSION")


def test_trailers_that_never_end_are_bounded() -> None:
    limit = raw_limit(100)
    for filler, error in ((b"x: y\r\n", OVERFLOW), (b"x\n", ("HTTPParserError", "HPE_CR_EXPECTED"))):
        tail = (filler * limit)[: limit + 20]
        for data in (CHUNKED + b"0\r\n" + tail, CHUNKED + b"0\r\n" + tail + b"\r\n\r\n"):
            for pieces in ([data], [data[:100], data[100:]], [bytes([one]) for one in data]):
                assert play(pieces, max_header_size=100) == ([head(200, TE)], error)


# -- floods --------------------------------------------------------------------------------------------


def test_informational_responses_are_bounded_per_response() -> None:
    one = b"HTTP/1.1 103 OK\r\n\r\n"
    assert play([one * 100 + SMALL])[1] is None
    assert play([(one * 100 + SMALL) * 2], requests=("GET", "GET"))[1] is None
    expected = [head(103)] * 101, ("HTTPParserError", "HPE_INVALID_STATUS")
    assert play([one * 101 + SMALL]) == expected
    assert play([one] * 101) == expected


def test_between_messages() -> None:
    tape = Tape(requests=("GET", "GET"))
    assert tape.parser.between_messages
    for piece, between in (
        (b"HTTP/1.1 103 X\r\n\r\n", False),
        (SMALL[:10], False),
        (SMALL[10:-1], False),
        (SMALL[-1:], True),
        (b"H", False),
    ):
        tape.parser.feed(piece)
        assert tape.parser.between_messages is between


def test_chunk_lines_are_bounded() -> None:
    too_long = ("HTTPParserError", "HPE_INVALID_CHUNK_SIZE")
    for length, error in ((4096, None), (4097, too_long)):
        line = b"2;" + b"x" * (length - 4) + b"\r\n"
        data = CHUNKED + line + b"ok\r\n0\r\n\r\n"
        for pieces in ([data], [bytes([one]) for one in data], [data[:3000], data[3000:]]):
            assert play(pieces)[1] == error
    assert play([CHUNKED + b"2;" + b"x" * 5000])[1] == too_long


def test_chunk_extensions_are_bounded_per_response() -> None:
    chunk = b"1;" + b"x" * 1023 + b"\r\n.\r\n"
    data = CHUNKED + chunk * 64 + b"0\r\n\r\n"
    assert play([data])[1] is None
    assert play([data * 2], requests=("GET", "GET"))[1] is None
    assert play([CHUNKED + chunk * 65 + b"0\r\n\r\n"])[1] == ("HTTPParserError", "HPE_INVALID_CHUNK_SIZE")


# -- pause, stop, take over ----------------------------------------------------------------------------

LONG = (
    b"HTTP/1.1 103 OK\r\n\r\n"
    + CHUNKED
    + b"2\r\nok\r\n3\r\nyes\r\n0\r\na: b\r\n\r\n"
    + SMALL
    + OK
    + b"\r\nuntil the end"
)
THREE = ("GET", "GET", "GET")


def test_paused_parsers_say_nothing() -> None:
    expected, _ = play([LONG], requests=THREE)
    calls = _calls([LONG])
    for at in range(1, calls + 1):

        def pause(tape: Tape, at: int = at) -> None:
            tape.parser.paused = tape.calls == at

        tape = Tape(requests=THREE, on_event=pause)
        tape.parser.feed(LONG)
        assert tape.calls == at
        tape.parser.feed(b"")
        tape.parser.feed(b" - and more")
        assert tape.calls == at
        tape.parser.paused = False
        tape.parser.feed(b"")
        assert tape.events == [*expected[:-1], ("data", b"until the end - and more")]


def _calls(pieces: list[bytes]) -> int:
    tape = Tape(requests=THREE)
    play_on(tape, pieces)
    return tape.calls


@pytest.mark.parametrize("bytewise", [False, True])
def test_nothing_comes_after_stop(bytewise: bool) -> None:
    pieces = [bytes([one]) for one in LONG] if bytewise else [LONG]
    for at in range(1, _calls(pieces) + 1):

        def stop(tape: Tape, at: int = at) -> None:
            assert tape.calls <= at
            if tape.calls == at:
                tape.parser.stop()

        tape = Tape(requests=THREE, on_event=stop)
        play_on(tape, pieces, end=True)
        assert tape.calls == at
        assert tape.parser.rest == b""
        assert tape.parser.state == DEAD
        assert not tape.parser.between_messages


def test_a_sink_that_raises_ours_ends_it() -> None:
    def fail(tape: Tape) -> None:
        raise SocketError("no more")

    assert replay(SMALL, on_event=None)[1] is None
    events, error = play([SMALL], on_event=fail)
    assert (events, error) == ([head(200, LENGTH_2)], ("SocketError", "UND_ERR_SOCKET"))


@pytest.mark.parametrize(
    ("method", "data"),
    [
        ("GET", b"HTTP/1.1 101 Switching\r\nupgrade: foo\r\n\r\n"),
        ("CONNECT", b"HTTP/1.1 200 OK\r\n\r\n"),
        ("CONNECT", b"HTTP/1.1 299 OK\r\ncontent-length: 3\r\n\r\n"),
        ("GET", b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 101 Switching\r\n\r\n"),
    ],
)
def test_2_10_taken_over(method: str, data: bytes) -> None:
    rest = b"\x00\x01early bytes\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"
    for pieces in splits(data + rest):
        tape = Tape(requests=(method,))
        events, error = play_on(tape, pieces)
        assert error is None
        assert [event[0] for event in events] == ["head"] * len(events)
        assert tape.parser.state == TUNNEL
        assert tape.parser.take_rest() == rest
        assert tape.parser.take_rest() == b""


def test_connect_refused_is_an_ordinary_response() -> None:
    data = b"HTTP/1.1 407 No\r\ncontent-length: 2\r\n\r\nno"
    events, error = replay(data, requests=("CONNECT",))
    assert error is None
    assert [event[0] for event in events] == ["head", "data", "end"]


def test_states_can_be_seen() -> None:
    tape = Tape()
    assert tape.parser.state == HEAD
    tape.parser.feed(OK + b"content-length: 2\r\n\r\no")
    assert tape.parser.state == LENGTH

    def pause(tape: Tape) -> None:
        tape.parser.paused = True

    tape = Tape(requests=("HEAD",), on_event=pause)
    tape.parser.feed(OK + b"\r\n")
    assert tape.parser.state == END


def test_a_head_that_came_before_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    heads = HeadCache(16384)
    play([SMALL], heads=heads)
    monkeypatch.setattr(HeadCache, "parse", lambda self, block: pytest.fail("parsed again"))
    assert play([SMALL], heads=heads)[1] is None


def test_errors_carry_the_first_bytes_only() -> None:
    tape = Tape()
    with pytest.raises(HTTPParserError) as caught:
        tape.parser.feed(b"x" * 10_000)
    assert 0 < len(caught.value.data) <= 128
    assert isinstance(caught.value, DodiciError)


def test_large_bodies_are_handed_on_as_they_come() -> None:
    body = bytes(range(256)) * 1024
    pieces = [
        OK + b"content-length: %d\r\n\r\n" % len(body),
        *[body[at : at + 9973] for at in range(0, len(body), 9973)],
    ]
    events, error = play(pieces)
    assert error is None
    assert events[1] == ("data", body)
    chunked = CHUNKED + b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in pieces[1:]) + b"0\r\n\r\n"
    for size in (1000, 65536, len(chunked)):
        assert play([chunked[at : at + size] for at in range(0, len(chunked), size)])[0][1] == ("data", body)


def test_module_constants_are_distinct() -> None:
    assert len({parser_module.FRAMED, parser_module.BODYLESS, parser_module.TAKEN_OVER}) == 3
    assert ResponseParser.__slots__

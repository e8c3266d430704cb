"""Response heads: what they say of framing and of the connection, and the memory of heads."""

from __future__ import annotations

import pytest

from dodici.core.errors import HeadersOverflowError, HTTPParserError
from dodici.core.headers import EMPTY
from dodici.wire.h1.head import CHUNKED, UNTIL_CLOSE, Head, HeadCache, parse_fields, parse_head, raw_limit


def parse(*lines: bytes, status: bytes = b"HTTP/1.1 200 OK") -> Head:
    return parse_head(b"\r\n".join((status, *lines)) + b"\r\n\r\n", 16384)


def test_plain() -> None:
    head = parse(b"Content-Length: 12", b"X-Y: z")
    assert (head.status_code, head.reason, head.minor, head.length) == (200, "OK", 1, 12)
    assert head.headers.raw == ((b"Content-Length", b"12"), (b"X-Y", b"z"))
    assert (head.keep_alive, head.idle_hint, head.upgrade) == (True, None, False)


def test_without_fields() -> None:
    head = parse()
    assert head.headers is EMPTY
    assert head.length == UNTIL_CLOSE


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        ([b"content-length: 0"], 0),
        ([b"content-length: 999999999999999999"], 999_999_999_999_999_999),
        ([], UNTIL_CLOSE),
        ([b"transfer-encoding: chunked"], CHUNKED),
        ([b"Transfer-Encoding: gzip, Chunked"], CHUNKED),
        ([b"transfer-encoding: gzip", b"transfer-encoding: chunked"], CHUNKED),
        ([b"transfer-encoding: chunked, gzip"], UNTIL_CLOSE),
        ([b"transfer-encoding: identity"], UNTIL_CLOSE),
        ([b"transfer-encoding: xchunked"], UNTIL_CLOSE),
    ],
)
def test_length(fields: list[bytes], length: int) -> None:
    assert parse(*fields).length == length


@pytest.mark.parametrize("status", [b"100 C", b"101 S", b"103 E", b"199 X", b"204 N"])
def test_statuses_without_a_body(status: bytes) -> None:
    assert parse(status=b"HTTP/1.1 " + status).length == 0
    assert parse(b"content-length: 5", status=b"HTTP/1.1 " + status).length == 0
    assert parse(b"transfer-encoding: chunked", status=b"HTTP/1.1 " + status).length == 0


def test_304_keeps_what_it_says_of_a_body() -> None:
    assert parse(b"content-length: 5", status=b"HTTP/1.1 304 N").length == 5


@pytest.mark.parametrize(
    ("status", "fields", "keep_alive"),
    [
        (b"HTTP/1.1 200 OK", [], True),
        (b"HTTP/1.1 200 OK", [b"connection: close"], False),
        (b"HTTP/1.1 200 OK", [b"connection: foo, CLOSE"], False),
        (b"HTTP/1.1 200 OK", [b"connection: foo", b"connection: close"], False),
        (b"HTTP/1.1 200 OK", [b"connection: closed"], True),
        (b"HTTP/1.1 200 OK", [b"connection: keep-alive, close"], False),
        (b"HTTP/1.0 200 OK", [], False),
        (b"HTTP/1.0 200 OK", [b"connection: Keep-Alive"], True),
        (b"HTTP/1.0 200 OK", [b"connection: keep-alive", b"transfer-encoding: chunked"], False),
        (b"HTTP/1.0 200 OK", [b"connection: keep-alive, close"], False),
    ],
)
def test_2_5_keep_alive(status: bytes, fields: list[bytes], keep_alive: bool) -> None:
    assert parse(*fields, status=status).keep_alive is keep_alive


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (b"timeout=5", 5.0),
        (b"timeout=5, max=100", 5.0),
        (b"max=100, timeout=5", 5.0),
        (b"max=100,timeout = 5", 5.0),
        (b'Timeout="5"', 5.0),
        (b"timeout=2s", 2.0),
        (b"timeout=0", 0.0),
        (b"timeout", None),
        (b"timeout=x", None),
        (b"xtimeout=5", None),
        (b"", None),
    ],
)
def test_2_5_keep_alive_hints(value: bytes, hint: float | None) -> None:
    assert parse(b"keep-alive: " + value).idle_hint == hint


def test_upgrade() -> None:
    assert parse(b"upgrade: foo").upgrade


def test_http_1_0() -> None:
    assert parse(status=b"HTTP/1.0 200 OK").minor == 0


def test_fields_that_are_refused_name_the_line() -> None:
    with pytest.raises(HTTPParserError) as caught:
        parse(b"good: 1", b"bad name: 2")
    assert caught.value.data == b"bad name: 2"
    assert caught.value.message == "invalid header name"


def test_limits() -> None:
    assert raw_limit(100) == 1224
    with pytest.raises(HeadersOverflowError, match="100 bytes"):
        parse_fields(b"a: " + b"x" * 99 + b"\r\n\r\n", 100)
    assert parse_fields(b"a: " + b"x" * 98 + b"\r\n\r\n", 100) == ((b"a", b"x" * 98),)
    with pytest.raises(HeadersOverflowError):
        parse_fields(b"a: " + b" " * 1300 + b"\r\n\r\n", 100)
    with pytest.raises(HeadersOverflowError):
        parse_head(b"HTTP/1.1 200 OK\r\na: " + b" " * 1300 + b"\r\n\r\n", 100)


def test_the_cache_gives_the_same_head() -> None:
    heads = HeadCache(16384)
    block = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n"
    first = heads.parse(block)
    assert heads.parse(bytes(bytearray(block))) is first
    assert len(heads) == 1
    assert heads.known == {block: first}


def test_the_cache_keeps_no_cookies() -> None:
    heads = HeadCache(16384)
    block = b"HTTP/1.1 200 OK\r\nSet-Cookie: secret\r\n\r\n"
    assert heads.parse(block) is not heads.parse(block)
    assert len(heads) == 0


def test_the_cache_keeps_no_large_heads() -> None:
    heads = HeadCache(16384)
    start = b"HTTP/1.1 200 OK\r\nx: "
    fits = start + b"x" * (2048 - len(start) - 4) + b"\r\n\r\n"
    assert len(fits) == 2048
    heads.parse(fits)
    assert len(heads) == 1
    heads.parse(fits.replace(b"x: ", b"x: x"))
    assert len(heads) == 1


def test_the_cache_is_bounded() -> None:
    heads = HeadCache(16384)
    for number in range(2000):
        head = heads.parse(b"HTTP/1.1 200 OK\r\nx: %d\r\n\r\n" % number)
        assert head.headers["x"] == str(number)
        assert len(heads) <= 512


def test_the_cache_keeps_no_errors() -> None:
    heads = HeadCache(16384)
    for _ in range(2):
        with pytest.raises(HTTPParserError):
            heads.parse(b"HTTP/1.1 200 OK\r\nbad name: 1\r\n\r\n")
    assert len(heads) == 0

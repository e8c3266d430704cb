"""Requests on the wire: exact bytes, and bodies held to their lengths."""

from __future__ import annotations

import array
from typing import Any

import pytest

from dodici.core.errors import InvalidArgumentError, RequestContentLengthMismatchError
from dodici.core.options import DispatchOptions
from dodici.wire.body import CHUNKED, NO_LENGTH, as_chunk, body_length, empty_body_length
from dodici.wire.h1.serializer import BodyFramer, encode_head


def encode(close: bool = False, length: int | None = None, **given: Any) -> bytes:
    options = DispatchOptions(**given)
    return encode_head(
        options, b"example.com", body_length(options) if length is None else length, close=close
    )


HEADS: dict[str, tuple[dict[str, Any], bytes]] = {
    "plain": ({}, b"GET / HTTP/1.1\r\nhost: example.com\r\n\r\n"),
    "a method of one's own": ({"method": "get"}, b"get / HTTP/1.1\r\nhost: example.com\r\n\r\n"),
    "a path in latin-1": ({"path": "/\xfc"}, b"GET /\xfc HTTP/1.1\r\nhost: example.com\r\n\r\n"),
    "a query": ({"query": {"a": ["1", 2]}}, b"GET /?a=1&a=2 HTTP/1.1\r\nhost: example.com\r\n\r\n"),
    "host": ({"headers": {"Host": "other"}}, b"GET / HTTP/1.1\r\nhost: other\r\n\r\n"),
    "fields, in order and casing": (
        {"headers": [("B", "1"), ("a", b"\xff"), ("B", "2")]},
        b"GET / HTTP/1.1\r\nhost: example.com\r\nB: 1\r\na: \xff\r\nB: 2\r\n\r\n",
    ),
    "close": (
        {"close": True},
        b"GET / HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\n\r\n",
    ),
    "connection tokens are dropped": (
        {"headers": {"connection": "keep-alive, foo"}},
        b"GET / HTTP/1.1\r\nhost: example.com\r\n\r\n",
    ),
    "upgrade": (
        {"upgrade": "websocket"},
        b"GET / HTTP/1.1\r\nhost: example.com\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    ),
    "CONNECT": (
        {"method": "CONNECT", "path": "a:1"},
        b"CONNECT a:1 HTTP/1.1\r\nhost: example.com\r\n\r\n",
    ),
    "absolute form": (
        {"path": "http://a/b"},
        b"GET http://a/b HTTP/1.1\r\nhost: example.com\r\n\r\n",
    ),
    "asterisk form": (
        {"method": "OPTIONS", "path": "*"},
        b"OPTIONS * HTTP/1.1\r\nhost: example.com\r\n\r\n",
    ),
    # 2.7: "POST with empty/None body sends content-length: 0; DELETE/GET none"
    "POST of nothing": (
        {"method": "POST"},
        b"POST / HTTP/1.1\r\nhost: example.com\r\ncontent-length: 0\r\n\r\n",
    ),
    "DELETE": ({"method": "DELETE", "body": b""}, b"DELETE / HTTP/1.1\r\nhost: example.com\r\n\r\n"),
    "POST of bytes": (
        {"method": "POST", "body": b"abc"},
        b"POST / HTTP/1.1\r\nhost: example.com\r\ncontent-length: 3\r\n\r\n",
    ),
    "POST of text": (
        {"method": "POST", "body": "\xfc"},
        b"POST / HTTP/1.1\r\nhost: example.com\r\ncontent-length: 2\r\n\r\n",
    ),
    "POST of a stream": (
        {"method": "POST", "body": iter([b"a"])},
        b"POST / HTTP/1.1\r\nhost: example.com\r\ntransfer-encoding: chunked\r\n\r\n",
    ),
    "POST of a stream with a length": (
        {"method": "POST", "body": iter([b"a"]), "headers": {"content-length": "007"}},
        b"POST / HTTP/1.1\r\nhost: example.com\r\ncontent-length: 7\r\n\r\n",
    ),
    "expect": (
        {"method": "POST", "body": b"abc", "expect_continue": True},
        b"POST / HTTP/1.1\r\nhost: example.com\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n",
    ),
    "expect without a body": (
        {"expect_continue": True},
        b"GET / HTTP/1.1\r\nhost: example.com\r\n\r\n",
    ),
    "expect with an empty body": (
        {"method": "POST", "expect_continue": True},
        b"POST / HTTP/1.1\r\nhost: example.com\r\ncontent-length: 0\r\n\r\n",
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_exact_bytes(name: str) -> None:
    given, expected = HEADS[name]
    assert encode(**given) == expected


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "QUERY", "PROPFIND", "PROPPATCH"])
def test_2_7_methods_with_a_payload_say_that_there_is_none(method: str) -> None:
    options = DispatchOptions(method=method)
    assert body_length(options) == 0
    assert empty_body_length(DispatchOptions(method=method, body=[])) == 0


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS", "TRACE", "FOO"])
def test_2_7_other_methods_say_nothing(method: str) -> None:
    assert body_length(DispatchOptions(method=method)) == NO_LENGTH
    assert empty_body_length(DispatchOptions(method=method, body=[])) == NO_LENGTH


def test_2_7_lengths() -> None:
    assert body_length(DispatchOptions(headers={"content-length": "0"})) == 0
    assert body_length(DispatchOptions(body=b"abc")) == 3
    assert body_length(DispatchOptions(body=bytearray(b"abc"))) == 3
    assert body_length(DispatchOptions(body=memoryview(array.array("I", [1, 2])))) == 8
    assert body_length(DispatchOptions(body=memoryview(b"abcdef")[::2])) == 3
    assert body_length(DispatchOptions(body=[b"abc"])) == CHUNKED
    assert body_length(DispatchOptions(body=[b"abc"], headers={"content-length": "3"})) == 3
    assert empty_body_length(DispatchOptions(body=[], headers={"content-length": "3"})) == 3


def test_chunked_framing() -> None:
    framer = BodyFramer(CHUNKED)
    assert framer.frame(b"") == ()
    assert b"".join(framer.frame(b"x" * 26)) == b"1a\r\n" + b"x" * 26 + b"\r\n"
    chunk = memoryview(b"abc")
    assert framer.frame(chunk)[1] is chunk
    assert framer.sent == 29
    assert framer.finish() == b"0\r\n\r\n"


def test_counted_framing() -> None:
    framer = BodyFramer(5)
    assert framer.frame(b"abc") == (b"abc",)
    with pytest.raises(RequestContentLengthMismatchError, match="is 5 but the body had 3"):
        framer.finish()
    with pytest.raises(RequestContentLengthMismatchError, match="is 5 but the body has at least 6"):
        framer.frame(b"def")
    assert framer.sent == 3
    assert framer.frame(b"de") == (b"de",)
    assert framer.finish() == b""
    with pytest.raises(RequestContentLengthMismatchError):
        framer.frame(b"f")


def test_counted_framing_that_is_not_strict() -> None:
    framer = BodyFramer(2, strict=False)
    assert framer.frame(b"abc") == (b"abc",)
    assert framer.finish() == b""
    assert BodyFramer(2, strict=False).finish() == b""


def test_as_chunk() -> None:
    data = b"abc"
    assert as_chunk(data) is data
    assert as_chunk("\xfc\u20ac") == b"\xc3\xbc\xe2\x82\xac"
    assert as_chunk(bytearray(b"abc")) == b"abc"
    assert bytes(as_chunk(memoryview(array.array("H", [1])))) == array.array("H", [1]).tobytes()
    assert as_chunk(memoryview(b"abcdef")[::2]) == b"ace"
    assert len(as_chunk(memoryview(array.array("I", [1, 2])))) == 8


@pytest.mark.parametrize("chunk", [None, 1, 1.5, ["a"], object()])
def test_as_chunk_refuses(chunk: object) -> None:
    with pytest.raises(InvalidArgumentError, match=f"not {type(chunk).__name__}"):
        as_chunk(chunk)


def test_as_chunk_refuses_what_utf8_cannot_say() -> None:
    with pytest.raises(InvalidArgumentError, match="UTF-8"):
        as_chunk("\ud800")


class Tricky(str):
    """A str that says something else when it is converted."""

    __slots__ = ()

    def encode(self, *args: object) -> bytes:  # type: ignore[override]
        return b"x\r\n\r\nGET /evil"

    def __str__(self) -> str:
        return "x\r\n\r\nGET /evil"

    def lower(self) -> str:
        return "content-length"


def test_2_8_what_was_checked_is_what_is_written() -> None:
    written = encode(
        path=Tricky("/a"),
        method=Tricky("PUT"),
        headers={Tricky("a"): Tricky("b"), "c": [Tricky("d")]},
        upgrade=Tricky("foo"),
    )
    assert written == (
        b"PUT /a HTTP/1.1\r\nhost: example.com\r\nconnection: upgrade\r\nupgrade: foo\r\n"
        b"a: b\r\nc: d\r\ncontent-length: 0\r\n\r\n"
    )

"""`DispatchOptions`: every guard, every default, and what may be done with them again."""

from __future__ import annotations

import array
import copy
import enum
import inspect
import io
import math
import pickle
import types
from typing import Any

import pytest

from dodici.core.errors import InvalidArgumentError, NotSupportedError, RequestContentLengthMismatchError
from dodici.core.headers import EMPTY, Headers
from dodici.core.options import (
    ASYNC_ITERABLE,
    BYTES,
    FILE,
    ITERABLE,
    NO_BODY,
    DispatchOptions,
    check_count,
    check_seconds,
    coerce_options,
    encode_query,
)


def test_defaults() -> None:
    options = DispatchOptions()
    assert {name: getattr(options, name) for name in DispatchOptions.names} == {
        "origin": None,
        "path": "/",
        "method": "GET",
        "headers": EMPTY,
        "body": None,
        "query": None,
        "idempotent": True,
        "blocking": True,
        "upgrade": None,
        "reset": None,
        "expect_continue": False,
        "headers_timeout": None,
        "body_timeout": None,
        "timeout": None,
        "server_name": None,
    }
    assert (options.fields, options.host, options.content_length) == (EMPTY, None, None)
    assert (options.body_kind, options.payload, options.repeatable, options.plain) == (
        NO_BODY,
        None,
        True,
        True,
    )
    assert options.wire_cache is None
    assert options.replayable


def test_keyword_only_and_introspectable() -> None:
    with pytest.raises(TypeError):
        DispatchOptions("http://a")  # type: ignore[misc]
    with pytest.raises(TypeError, match="unexpected"):
        DispatchOptions(pth="/")  # type: ignore[call-arg]
    assert set(inspect.signature(DispatchOptions).parameters) == DispatchOptions.names


@pytest.mark.parametrize("name", sorted({*DispatchOptions.names, "fields", "plain", "wire_cache", "new"}))
def test_immutable(name: str) -> None:
    options = DispatchOptions()
    with pytest.raises(AttributeError, match="immutable"):
        setattr(options, name, "x")
    with pytest.raises(AttributeError, match="immutable"):
        delattr(options, name)
    assert not hasattr(options, "__dict__")


def test_identity_is_equality() -> None:
    options = DispatchOptions()
    assert options == options
    assert options != DispatchOptions()
    assert {options: 1}[options] == 1
    assert isinstance(options, DispatchOptions)
    assert type(options) is DispatchOptions


# -- reference/undici.md 2.8 ---------------------------------------------------------------------------

PATHS = [
    "",
    "a",
    "a/b",
    "/a b",
    "/\r\nx",
    "/a\n",
    "/\0",
    "/\t",
    "/\x7f",
    "/\u0100",
    "/\u20ac",
    "/a#b",
    "#",
    "?a=b",
    "*",
]
PATHS += ["ftp://a/", "//a b", "httpx://a", "/\ud800", " /", "\n/"]


@pytest.mark.parametrize("path", PATHS)
def test_2_8_paths_refused(path: str) -> None:
    with pytest.raises(InvalidArgumentError, match="path"):
        DispatchOptions(path=path)


@pytest.mark.parametrize("path", [None, 5, b"/", ["/"]])
def test_2_8_paths_are_strings(path: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="path must be a str"):
        DispatchOptions(path=path)
    with pytest.raises(InvalidArgumentError, match="path must be a str"):
        DispatchOptions(path=path, query={"a": 1})


@pytest.mark.parametrize(
    "path", ["/", "/a?b=c&d", "//a", "/\xff", "/%20", '/"<>\\^`{|}', "http://a/b", "HTTPS://a", "/*"]
)
def test_2_8_paths_accepted(path: str) -> None:
    assert DispatchOptions(path=path).path == path


def test_2_8_paths_of_methods() -> None:
    assert DispatchOptions(method="OPTIONS", path="*").path == "*"
    for path in ("a:1", "example.com:443", "[::1]:80", "1.2.3.4:65535", "xn--a:1"):
        options = DispatchOptions(method="CONNECT", path=path)
        assert options.path == path
        assert not options.plain
    for path in (
        "/",
        "a",
        "a:",
        ":1",
        "a:x",
        "a:123456",
        "a@b:1",
        "a/b:1",
        "[::1]",
        "http://a:1",
        "a:1:2",
        "\xfc:1",
    ):
        with pytest.raises(InvalidArgumentError, match="host:port"):
            DispatchOptions(method="CONNECT", path=path)


@pytest.mark.parametrize(
    "method", ["", "GE T", "GET\r\n", "G\0T", "GET ", "G\xcbT", "GET/", "(GET)", "\u20ac", "G\tT"]
)
def test_2_8_methods_are_tokens(method: str) -> None:
    with pytest.raises(InvalidArgumentError, match="invalid method"):
        DispatchOptions(method=method)


@pytest.mark.parametrize("method", [None, 5, b"GET", ["GET"]])
def test_2_8_methods_are_strings(method: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="invalid method"):
        DispatchOptions(method=method)


def test_2_8_the_case_of_methods_is_kept() -> None:
    assert DispatchOptions(method="get").method == "get"
    assert DispatchOptions(method="get").idempotent is False
    assert DispatchOptions(method="M-SEARCH").method == "M-SEARCH"


def test_methods_of_enums_are_their_values() -> None:
    class Method(enum.StrEnum):
        FETCH = "GET"

    options = DispatchOptions(method=Method.FETCH)
    assert type(options.method) is str
    assert (options.method, options.idempotent) == ("GET", True)


FIELDS = [
    ({"a b": "1"}, "invalid header name"),
    ({"": "1"}, "invalid header name"),
    ({"a": "1\r\nb: 2"}, "control character"),
    ({"a": "\0"}, "control character"),
    ({"transfer-encoding": "chunked"}, "invalid transfer-encoding header"),
    ({"Keep-Alive": "timeout=5"}, "invalid keep-alive header"),
    ({"upgrade": "foo"}, "invalid upgrade header: use upgrade="),
    ({"connection": "a b"}, "invalid connection header"),
    ({"connection": ""}, "invalid connection header"),
    ({"connection": "close,"}, "invalid connection header"),
    ([("content-length", "0"), ("Content-Length", "0")], "duplicate content-length"),
    ({"content-length": ["0", "0"]}, "duplicate content-length"),
    ({"content-length": "-0"}, "invalid content-length"),
    ({"content-length": "+0"}, "invalid content-length"),
    ({"content-length": "0x0"}, "invalid content-length"),
    ({"content-length": ""}, "invalid content-length"),
    ({"content-length": "0, 0"}, "invalid content-length"),
    ({"content-length": "1" * 19}, "invalid content-length"),
    ({"content-length": "\xb2"}, "invalid content-length"),
    ([("host", "a"), ("Host", "a")], "duplicate host"),
    ({"host": ["a", "b"]}, "duplicate host"),
    ("a: b", "headers must be"),
]


@pytest.mark.parametrize(("headers", "message"), FIELDS)
def test_2_8_fields_refused(headers: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        DispatchOptions(headers=headers)


def test_2_8_expect() -> None:
    with pytest.raises(NotSupportedError, match="expect_continue=True"):
        DispatchOptions(headers={"Expect": "100-continue"})


def test_2_8_connection() -> None:
    assert DispatchOptions(headers={"connection": "keep-alive, foo"}).reset is None
    options = DispatchOptions(headers={"connection": "foo ,\tClose", "a": "b"})
    assert options.reset is True
    assert options.fields.raw == ((b"a", b"b"),)
    assert DispatchOptions(headers={"connection": "close"}, reset=False).reset is False


def test_fields_that_dodici_writes_itself_are_taken_out() -> None:
    options = DispatchOptions(headers=[("A", "1"), ("Host", "h"), ("content-length", "0"), ("b", "2")])
    assert options.fields.raw == ((b"A", b"1"), (b"b", b"2"))
    assert (options.host, options.content_length) == (b"h", 0)
    assert options.headers["host"] == "h"
    headers = Headers({"a": "1"})
    assert DispatchOptions(headers=headers).fields.raw is headers.raw


@pytest.mark.parametrize("upgrade", ["", "a\r\nb", "a\0", "\n", "\u20ac", 5, b"foo", True])
def test_2_8_upgrade(upgrade: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="invalid upgrade"):
        DispatchOptions(upgrade=upgrade)


def test_upgrade() -> None:
    options = DispatchOptions(upgrade="websocket")
    assert options.upgrade == "websocket"
    assert not options.plain
    with pytest.raises(InvalidArgumentError, match="invalid upgrade"):
        DispatchOptions(upgrade="websocket", method="CONNECT", path="a:1")


@pytest.mark.parametrize("origin", [5, b"http://a", ["http://a"]])
def test_origins_are_strings(origin: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="origin must be a str"):
        DispatchOptions(origin=origin)


@pytest.mark.parametrize("name", ["headers_timeout", "body_timeout", "timeout"])
def test_times(name: str) -> None:
    for value in (0, 0.0, 1, 0.5, 10**6):
        assert getattr(DispatchOptions(**{name: value}), name) == value
    for value in (-1, -0.001, math.inf, math.nan, "1", True, [1]):
        with pytest.raises(InvalidArgumentError, match=f"{name} must be a number of seconds"):
            DispatchOptions(**{name: value})


@pytest.mark.parametrize("name", ["idempotent", "blocking", "reset", "expect_continue"])
def test_flags(name: str) -> None:
    for value in (True, False):
        assert getattr(DispatchOptions(**{name: value}), name) is value
    for value in (0, 1, "yes", ""):
        with pytest.raises(InvalidArgumentError, match=f"{name} must be True"):
            DispatchOptions(**{name: value})


@pytest.mark.parametrize("value", ["", 5, b"a"])
def test_server_name(value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="server_name"):
        DispatchOptions(server_name=value)


def test_1_3_idempotent_and_blocking() -> None:
    for method, idempotent, blocking in (
        ("GET", True, True),
        ("HEAD", True, False),
        ("QUERY", True, True),
        ("PUT", False, True),
        ("POST", False, True),
    ):
        options = DispatchOptions(method=method)
        assert (options.idempotent, options.blocking, options.repeatable) == (
            idempotent,
            blocking,
            idempotent,
        )
    options = DispatchOptions(method="POST", idempotent=True, blocking=False)
    assert (options.idempotent, options.blocking, options.repeatable) == (True, False, True)


# -- bodies --------------------------------------------------------------------------------------------


async def _chunks() -> Any:
    yield b"x"


BODIES: list[tuple[Any, int, Any, bool]] = [
    (None, NO_BODY, None, True),
    (b"", NO_BODY, None, True),
    ("", NO_BODY, None, True),
    (bytearray(), NO_BODY, None, True),
    (b"abc", BYTES, b"abc", True),
    ("\xfc", BYTES, b"\xc3\xbc", True),
    (bytearray(b"abc"), BYTES, b"abc", True),
    (memoryview(b"abcdef")[::2], BYTES, b"ace", True),
    (memoryview(array.array("H", [1])), BYTES, array.array("H", [1]).tobytes(), True),
    (io.BytesIO(b"abc"), FILE, None, False),
    ([b"abc"], ITERABLE, None, True),
    ((b"abc",), ITERABLE, None, True),
    (iter([b"abc"]), ITERABLE, None, False),
    ({b"abc"}, ITERABLE, None, False),
    (_chunks(), ASYNC_ITERABLE, None, False),
]


@pytest.mark.parametrize(("body", "kind", "payload", "replayable"), BODIES)
def test_bodies(body: Any, kind: int, payload: Any, replayable: bool) -> None:
    options = DispatchOptions(method="PUT", body=body, idempotent=True)
    assert (options.body_kind, options.payload, options.replayable) == (kind, payload, replayable)
    assert options.repeatable is replayable
    assert options.plain is (kind <= BYTES)
    assert options.body is body
    assert options.reset is None


@pytest.mark.parametrize("body", [5, 1.5, True, object(), {"a": 1}, types.MappingProxyType({})])
def test_bodies_refused(body: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="body must"):
        DispatchOptions(method="POST", body=body)


def test_bodies_that_utf8_cannot_say() -> None:
    with pytest.raises(InvalidArgumentError, match="UTF-8"):
        DispatchOptions(method="POST", body="\ud800")


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE"])
def test_2_5_an_unexpected_body_ends_the_connection(method: str) -> None:
    assert DispatchOptions(method=method, body=b"x").reset is True
    assert DispatchOptions(method=method, body=b"").reset is None
    assert DispatchOptions(method=method, body=b"x", reset=False).reset is False


def test_2_7_content_length_of_a_known_body_is_true() -> None:
    assert DispatchOptions(method="POST", body=b"abc", headers={"content-length": 3}).content_length == 3
    assert DispatchOptions(method="POST", body=[b"abc"], headers={"content-length": 9}).content_length == 9
    for method in ("POST", "GET", "DELETE", "HEAD"):
        for body, stated in ((b"abc", 2), (b"abc", 4), (None, 3), (b"", 1)):
            with pytest.raises(RequestContentLengthMismatchError) as caught:
                DispatchOptions(method=method, body=body, headers={"content-length": stated})
            assert caught.value.request_not_processed
            assert caught.value.phase == "queue"


def test_expect_continue_is_not_plain() -> None:
    assert not DispatchOptions(method="POST", body=b"x", expect_continue=True).plain


# -- query ---------------------------------------------------------------------------------------------

QUERIES: list[tuple[Any, str]] = [
    ({}, "/p"),
    ({"a": "b c", "d": "&=#\xfc"}, "/p?a=b+c&d=%26%3D%23%C3%BC"),
    ({"a": [1, None, "2"], "b": None, "c": (b"x",)}, "/p?a=1&a=2&c=x"),
    ({"a": True, "b": False, "c": 1.5}, "/p?a=true&b=false&c=1.5"),
    ([("a", 1), ("b", 2), ("a", 3)], "/p?a=1&b=2&a=3"),
    ({"a\r\n": "\0"}, "/p?a%0D%0A=%00"),
    ("a=b", "/p?a=b"),
    ("?a=b", "/p?a=b"),
    ({1: 2}, "/p?1=2"),
]


@pytest.mark.parametrize(("query", "path"), QUERIES)
def test_query(query: Any, path: str) -> None:
    options = DispatchOptions(path="/p", query=query)
    assert (options.path, options.query) == (path, None)


@pytest.mark.parametrize(
    "query",
    [
        5,
        ["a"],
        [("a",)],
        {"a": {"b": 1}},
        {"a": object()},
        {None: 1},
        {"a": "\ud800"},
        {"\ud800": 1},
        "a b",
        "a#b",
        "a\r\n",
    ],
)
def test_queries_refused(query: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        DispatchOptions(query=query)


@pytest.mark.parametrize("path", ["/?a", "/#a", "/?"])
def test_query_and_a_path_that_has_one(path: str) -> None:
    with pytest.raises(InvalidArgumentError, match="already contains"):
        DispatchOptions(path=path, query={"a": 1})


def test_encode_query() -> None:
    assert encode_query({"a": 1}) == "a=1"


# -- again ---------------------------------------------------------------------------------------------


def test_replace() -> None:
    options = DispatchOptions(origin="http://a", path="/x", query={"q": 1}, headers={"a": "b"}, timeout=5)
    again = options.replace(origin="http://b")
    assert (again.origin, again.path, again.headers, again.timeout) == (
        "http://b",
        "/x?q=1",
        options.headers,
        5,
    )
    assert options.origin == "http://a"
    assert options.replace(path="/y").path == "/y"
    assert options.replace(path="/y", query={"z": 1}).path == "/y?z=1"
    assert options.replace() is not options
    with pytest.raises(InvalidArgumentError, match="already contains"):
        options.replace(query={"z": 1})
    with pytest.raises(InvalidArgumentError, match="unknown dispatch option 'pth'"):
        options.replace(pth="/")
    with pytest.raises(InvalidArgumentError, match="path"):
        options.replace(path="no")


def test_replace_derives_anew() -> None:
    # What holds for a GET must not stick to the POST that is made of it: a POST is not sent twice in silence.
    options = DispatchOptions().replace(method="POST")
    assert (options.idempotent, options.repeatable) == (False, False)
    assert DispatchOptions(method="HEAD").replace(method="GET").blocking is True
    assert DispatchOptions(body=b"x").replace(body=None).reset is None
    assert DispatchOptions(headers={"connection": "close"}).replace(headers=None).reset is None
    asked = DispatchOptions(idempotent=True, blocking=False, reset=False).replace(method="POST")
    assert (asked.idempotent, asked.blocking, asked.reset) == (True, False, False)


def test_replace_forgets_what_serializers_remembered() -> None:
    options = DispatchOptions()
    object.__setattr__(options, "wire_cache", "x")
    assert options.wire_cache == "x"
    assert options.replace(path="/y").wire_cache is None


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling(protocol: int) -> None:
    options = DispatchOptions(origin="http://a", method="POST", body=b"abc", headers={"a": "b"}, reset=True)
    for again in (pickle.loads(pickle.dumps(options, protocol)), copy.copy(options), copy.deepcopy(options)):
        assert type(again) is DispatchOptions
        assert (again.origin, again.payload, again.headers, again.reset) == (
            "http://a",
            b"abc",
            {"a": "b"},
            True,
        )
        assert again._asked == (None, None, True)


def test_repr() -> None:
    assert repr(DispatchOptions()) == "DispatchOptions(method='GET', origin=None, path='/')"
    shown = repr(
        DispatchOptions(
            origin="http://a", method="POST", body=b"secret", headers={"authorization": "secret"}, timeout=5
        )
    )
    assert "secret'" not in shown
    assert "body='<6 bytes>'" in shown
    assert "timeout=5" in shown
    assert "headers=Headers([('authorization', '[secret]')])" in shown


def test_coerce() -> None:
    options = DispatchOptions()
    assert coerce_options(options) is options
    assert coerce_options({"path": "/a"}).path == "/a"
    assert coerce_options(types.MappingProxyType({"method": "PUT"})).method == "PUT"
    for wrong in (None, 5, "x", [("path", "/")]):
        with pytest.raises(InvalidArgumentError, match="options must be"):
            coerce_options(wrong)
    for name in ("pth", "fields", "maxRedirections", 5):
        with pytest.raises(InvalidArgumentError, match="unknown dispatch option"):
            coerce_options({name: 1})


def test_checks() -> None:
    assert check_seconds("x", 1) == 1.0
    assert check_count("x", 3) == 3
    for wrong in (-1, True, 1.5, "1", None):
        with pytest.raises(InvalidArgumentError, match="x must be a whole number"):
            check_count("x", wrong)
    with pytest.raises(InvalidArgumentError, match="1 or more"):
        check_count("x", 0, minimum=1)

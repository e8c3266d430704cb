"""`Headers`: the laws of a mapping, repeated fields, validation, and what it does not show."""

from __future__ import annotations

import copy
import enum
import pickle
from collections.abc import Mapping
from typing import Any

import pytest

from dodici.core.errors import InvalidArgumentError
from dodici.core.headers import EMPTY, Headers

RAW = (
    (b"Content-Type", b"text/plain"),
    (b"A", b"1"),
    (b"Set-Cookie", b"x=1"),
    (b"a", b"2"),
    (b"set-cookie", b"y=2"),
)


def test_mapping_laws() -> None:
    headers = Headers.from_raw(RAW)
    assert isinstance(headers, Mapping)
    assert headers["content-type"] == headers["CONTENT-TYPE"] == "text/plain"
    assert list(headers) == ["content-type", "a", "set-cookie"]
    assert len(headers) == 3
    assert "CoNtEnT-tYpE" in headers
    assert "b" not in headers
    assert 5 not in headers
    assert headers.get("b") is None
    assert headers.get("b", "x") == "x"
    with pytest.raises(KeyError):
        headers["b"]
    assert dict(headers) == {"content-type": "text/plain", "a": "1, 2", "set-cookie": "x=1"}
    assert list(headers.items()) == list(dict(headers).items())
    assert headers
    assert not Headers()


def test_repeated_fields() -> None:
    headers = Headers.from_raw(RAW)
    assert headers["a"] == "1, 2"
    assert headers["set-cookie"] == "x=1"
    assert headers.get_list("Set-Cookie") == ["x=1", "y=2"]
    assert headers.get_list("A") == ["1", "2"]
    assert headers.get_list("b") == []
    headers.get_list("a").append("3")
    assert headers.get_list("a") == ["1", "2"]
    assert headers.raw == RAW
    assert headers.multi_items()[1] == ("a", "1")


def test_equality() -> None:
    headers = Headers({"A": "1", "b": "2"})
    assert headers == Headers([("a", "1"), ("B", "2")])
    assert hash(headers) == hash(Headers([("a", "1"), ("B", "2")]))
    assert headers != Headers([("b", "2"), ("a", "1")])
    assert headers == {"a": "1", "B": "2"}
    assert headers != {"a": "1"}
    assert headers != 5


SOURCES: list[tuple[Any, tuple[tuple[bytes, bytes], ...]]] = [
    (None, ()),
    ({}, ()),
    ({"A": "1"}, ((b"A", b"1"),)),
    ({"a": ["1", 2, None, b"3"]}, ((b"a", b"1"), (b"a", b"2"), (b"a", b"3"))),
    ({"a": ("1",), "b": []}, ((b"a", b"1"),)),
    ({"a": None, "b": ""}, ((b"b", b""),)),
    ({"a": 1, "b": 1.5, "c": bytearray(b"x")}, ((b"a", b"1"), (b"b", b"1.5"), (b"c", b"x"))),
    ([("a", "1"), (b"b", b"2"), ["c", "3"]], ((b"a", b"1"), (b"b", b"2"), (b"c", b"3"))),
    (iter([("a", "1")]), ((b"a", b"1"),)),
    ({"a": " \t1 2\t "}, ((b"a", b"1 2"),)),
    ({"a": "\xfc\xff"}, ((b"a", b"\xfc\xff"),)),
    (Headers({"a": "1"}), ((b"a", b"1"),)),
]


@pytest.mark.parametrize(("source", "raw"), SOURCES)
def test_sources(source: Any, raw: Any) -> None:
    assert Headers(source).raw == raw


NAMES = ["", "a b", "a:", "a\r\nb", "a\0", "\xfc", "\u20ac", "a\t", "(a)", '"a"', " a", "a\n", b"a ", b""]
VALUES = ["a\r\nb: c", "a\n", "\r", "a\0b", "\x7f", "\x1f", "\u20ac", "\ud800", b"\n"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", ["pairs", "mapping", "or"])
def test_2_8_names_are_tokens(name: Any, shape: str) -> None:
    with pytest.raises(InvalidArgumentError, match="invalid header name"):
        _make(name, "x", shape)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("shape", ["pairs", "mapping", "or", "list"])
def test_2_8_values_have_no_controls(value: Any, shape: str) -> None:
    with pytest.raises(InvalidArgumentError, match="header 'x-y' has"):
        _make("x-y", value, shape)


def _make(name: Any, value: Any, shape: str) -> Headers:
    if shape == "or":
        return EMPTY | {name: value}
    return Headers([(name, value)] if shape == "pairs" else {name: [value] if shape == "list" else value})


@pytest.mark.parametrize("value", [True, object(), {"a": 1}, {1}, [["nested"]], b"x".__class__])
def test_values_of_other_types(value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="must be a str, bytes or number"):
        Headers({"a": value})


@pytest.mark.parametrize(
    "source", ["a: b", b"a: b", 5, ["ab", "cd"], [("a",)], [("a", "b", "c")], [5], [None], bytearray(b"ab")]
)
def test_sources_of_other_shapes(source: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="headers must be"):
        Headers(source)


def test_names_of_other_types() -> None:
    with pytest.raises(InvalidArgumentError, match="header name must be a str"):
        Headers([(5, "x")])  # type: ignore[list-item]


def test_2_8_numbers_that_print_themselves_otherwise() -> None:
    class Evil(int):
        def __str__(self) -> str:
            return "1\r\nevil: 1"

    class Odd(int):
        def __str__(self) -> str:
            return "\u20ac"

    class Level(enum.IntEnum):
        LOW = 1

    for number in (Evil(1), Odd(1), 10**5000):
        with pytest.raises(InvalidArgumentError):
            Headers({"a": number})
    assert Headers({"a": Level.LOW})["a"] == "1"


def test_or() -> None:
    headers = Headers([("A", "1"), ("b", "2"), ("a", "3")])
    assert (headers | {"a": "4", "c": "5"}).raw == ((b"b", b"2"), (b"a", b"4"), (b"c", b"5"))
    assert (headers | None).raw == headers.raw
    assert (headers | Headers({"B": "9"})).raw == ((b"A", b"1"), (b"a", b"3"), (b"B", b"9"))
    assert (headers | [("b", "1"), ("b", "2")]).get_list("b") == ["1", "2"]
    assert headers.raw[0] == (b"A", b"1")


def test_without() -> None:
    headers = Headers([("A", "1"), ("b", "2"), ("a", "3")])
    assert headers.without("a").raw == ((b"b", b"2"),)
    assert headers.without("A", "B") == EMPTY
    assert headers.without("c", "\u20ac") == headers


def test_repr_hides_secrets() -> None:
    secret = "hunter2"
    headers = Headers(
        dict.fromkeys(("Authorization", "proxy-authorization", "Cookie", "SET-COOKIE"), secret) | {"a": "b"}
    )
    assert secret not in repr(headers)
    assert "('a', 'b')" in repr(headers)
    assert headers["authorization"] == secret


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling(protocol: int) -> None:
    headers = Headers.from_raw(RAW)
    assert headers["a"]
    again = pickle.loads(pickle.dumps(headers, protocol))
    assert type(again) is Headers
    assert again.raw == RAW
    assert copy.deepcopy(headers) == copy.copy(headers) == headers


def test_nothing_is_decoded_before_it_is_looked_at() -> None:
    headers = Headers.from_raw(RAW)
    assert headers._index is None
    assert headers.raw
    assert bool(headers)
    assert headers._index is None

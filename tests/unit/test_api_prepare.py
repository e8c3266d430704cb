"""Arguments to DispatchOptions."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dodici.api import prepare as module
from dodici.api.auth import basic, bearer
from dodici.api.prepare import NO_SETTINGS, prepare, prepare_connect, prepare_plain, recall
from dodici.core.errors import InvalidArgumentError, InvalidReturnValueError
from dodici.core.options import ASYNC_ITERABLE, BYTES, FILE, ITERABLE, DispatchOptions

URL = "http://h/p"


def made(url: str = URL, method: str | None = None, **arguments: Any) -> DispatchOptions:
    return prepare(None, url, method, **arguments)


@pytest.fixture(autouse=True)
def _forget() -> None:
    module._remembered.clear()


# -- bodies and methods


@pytest.mark.parametrize(
    ("arguments", "method", "payload", "content_type"),
    [
        ({}, "GET", None, None),
        ({"body": "ü"}, "PUT", "ü".encode(), None),
        ({"body": b"x"}, "PUT", b"x", None),
        ({"body": bytearray(b"x")}, "PUT", b"x", None),
        ({"data": b"x"}, "POST", b"x", None),
        ({"data": "x"}, "POST", b"x", None),
        (
            {"data": {"a": "1 2", "b": ["x", "y"], "c": None}},
            "POST",
            b"a=1+2&b=x&b=y",
            "application/x-www-form-urlencoded",
        ),
        ({"data": [("a", "1"), ("a", "2")]}, "POST", b"a=1&a=2", "application/x-www-form-urlencoded"),
        ({"data": {}}, "POST", None, "application/x-www-form-urlencoded"),
        ({"form": {"ü": True, "n": 1.5}}, "POST", b"%C3%BC=true&n=1.5", "application/x-www-form-urlencoded"),
        ({"form": [("a", "1")]}, "POST", b"a=1", "application/x-www-form-urlencoded"),
        ({"json": {"a": [1, "ü"]}}, "POST", '{"a":[1,"ü"]}'.encode(), "application/json"),
        ({"json": None}, "POST", b"null", "application/json"),
        ({"json": False}, "POST", b"false", "application/json"),
        ({"json": ""}, "POST", b'""', "application/json"),
    ],
)
def test_payloads(arguments: Any, method: str, payload: bytes | None, content_type: str | None) -> None:
    options = made(**arguments)
    assert options.method == method
    assert options.payload == payload
    assert options.fields.get("content-type") == content_type
    assert made(method="PATCH", **arguments).method == "PATCH"


def test_kinds_of_streams() -> None:
    async def source() -> Any:
        yield b"x"

    stream = source()
    assert made(body=stream).body_kind == ASYNC_ITERABLE
    assert made(data=[b"a", b"b"]).body_kind == ITERABLE
    with open(__file__, "rb") as file:
        assert made(data=file).body_kind == FILE
    assert made(data=b"x").body_kind == BYTES


def test_own_content_type_wins() -> None:
    assert made(json={}, headers={"Content-Type": "application/problem+json"}).headers.get_list(
        "content-type"
    ) == ["application/problem+json"]
    assert made(form={"a": 1}, headers=[(b"content-type", b"x/y")]).fields["content-type"] == "x/y"


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"body": b"x", "json": 1}, "body= and json="),
        ({"body": b"x", "json": None}, "body= and json="),
        ({"body": b"x", "data": b"y"}, "body= and data="),
        ({"data": {"a": 1}, "form": {"b": 2}}, "data= and form="),
        ({"data": {"a": 1}, "json": {}}, "data= and json="),
        ({"files": {"f": b""}, "json": {}}, "files= and json="),
        ({"files": {"f": b""}, "body": b""}, "body= and files="),
        ({"files": {"f": b""}, "data": b"x"}, "data= beside files="),
        ({"files": {"f": b""}, "data": {"a": 1}, "form": {"b": 1}}, "data= and form= and files="),
    ],
)
def test_contradictions_are_named(arguments: Any, names: str) -> None:
    with pytest.raises(InvalidArgumentError, match=names):
        made(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"form": "a=1"}, "form must be a mapping or pairs"),
        ({"form": {"a": object()}}, "form value of 'a'"),
        ({"form": 3}, "form must be"),
        ({"body": {"a": 1}}, "use json=, form= or data="),
        ({"body": 3}, "body must be"),
        ({"timeout": -1}, "timeout must be"),
        ({"timeout": True}, "timeout must be"),
        ({"idempotent": 1}, "idempotent must be"),
        ({"method": "G T"}, "invalid method"),
        ({"method": 3}, "invalid method"),
        ({"method": "CONNECT"}, r"connect\(\)"),
        ({"headers": {"a": "b\r\nc"}}, "CR, LF"),
        ({"headers": "a: b"}, "headers must be"),
        ({"params": {"a": object()}}, "query value"),
        ({"params": {"a": 1}, "query": {"b": 2}}, "params= and query="),
    ],
)
def test_refused(arguments: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        made(**arguments)


def test_json_refuses_what_json_cannot_say() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        made(json=math.nan)
    with pytest.raises(TypeError):
        made(json=object())


# -- params


@pytest.mark.parametrize(
    ("url", "params", "path"),
    [
        ("http://h/p", {"a": 1}, "/p?a=1"),
        ("http://h/p?x=y", {"a": "b c", "n": None, "l": [1, 2]}, "/p?x=y&a=b+c&l=1&l=2"),
        ("http://h/p?", {"a": 1}, "/p?a=1"),
        ("http://h/p?x&", {"a": 1}, "/p?x&a=1"),
        ("http://h/p?x", {}, "/p?x"),
        ("http://h/p#f", [("a", "&=#")], "/p?a=%26%3D%23"),
        ("http://h/p", "?a=b c#é", "/p?a=b%20c%23%C3%A9"),
        ("http://h", {"a": True}, "/?a=true"),
    ],
)
def test_params(url: str, params: Any, path: str) -> None:
    assert made(url, params=params).path == path
    assert made(url, query=params).path == path


# -- auth


def test_basic_auth() -> None:
    expected = "Basic w7xzZXI6cMOkc3M="
    assert made(auth=("üser", "päss")).fields["authorization"] == expected
    assert made(auth=basic("üser", "päss"), headers={"x": "y"}).fields["authorization"] == expected
    assert made("http://%C3%BCser:p%C3%A4ss@h/p").fields["authorization"] == expected
    assert made("http://%C3%BCser:p%C3%A4ss@h/p").origin == "http://h"


def test_bearer_auth_replaces() -> None:
    options = made(auth=bearer("token"), headers={"Authorization": "old", "x": "y"}, json=[1], timeout=3)
    assert options.fields.get_list("authorization") == ["Bearer token"]
    assert options.payload == b"[1]"
    assert options.timeout == 3
    assert "token" not in repr(bearer("token"))


def test_what_is_closest_wins() -> None:
    assert made("http://a:b@h/", headers={"authorization": "x"}).fields["authorization"] == "x"
    assert made("http://a:b@h/", auth=bearer("x")).fields["authorization"] == "Bearer x"
    with pytest.raises(InvalidArgumentError, match="auth= and an authorization header"):
        made(auth=("a", "b"), headers={"authorization": "x"})


def test_auth_callable() -> None:
    assert made(auth=lambda options: options.replace(path=options.path + "?signed")).path == "/p?signed"
    with pytest.raises(InvalidReturnValueError, match="must return DispatchOptions"):
        made(auth=lambda options: None)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("auth", "message"),
    [
        ("token", r"bearer\('token'\)"),
        (b"token", "must not be a str"),
        (("a",), "callable on DispatchOptions"),
        (("a", "b", "c"), "callable on DispatchOptions"),
        (("a", None), "both str"),
        (("a:b", "c"), "colon"),
        (3, "callable"),
    ],
)
def test_auth_refused(auth: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        made(auth=auth)


def test_bearer_refuses() -> None:
    for token in ("", None):
        with pytest.raises(InvalidArgumentError, match="bearer token"):
            bearer(token)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="control"):
        made(auth=bearer("a\r\nb"))


# -- everything else goes through


def test_settings_reach_the_options() -> None:
    settings = {
        "timeout": 1.5,
        "headers_timeout": 2,
        "body_timeout": 0,
        "idempotent": False,
        "blocking": False,
        "reset": True,
        "expect_continue": True,
        "server_name": "other",
    }
    for options in (made(**settings), prepare_plain(None, None, URL, tuple(settings.values()))):  # type: ignore[arg-type]
        assert {name: getattr(options, name) for name in settings} == settings


def test_asterisk() -> None:
    assert prepare("http://h", "*", "OPTIONS").path == "*"
    assert prepare_plain("http://h", "OPTIONS", "*").path == "*"
    with pytest.raises(InvalidArgumentError, match="OPTIONS alone"):
        prepare_plain("http://h", None, "*")


def test_connect() -> None:
    options = prepare_connect("http://proxy", "/", "h:443", headers={"a": "b"}, auth=("u", "p"), timeout=1)
    assert (options.method, options.path, options.origin) == ("CONNECT", "h:443", "http://proxy")
    assert options.fields["authorization"] == "Basic dTpw"
    with pytest.raises(InvalidArgumentError, match="host:port"):
        prepare_connect(None, "http://proxy", "h")


# -- what is remembered


def test_plain_equals_prepared() -> None:
    for method in (None, "GET", "HEAD", "DELETE", "POST", "PROPFIND"):
        plain = prepare_plain(None, method, "http://h:81/a b?c")
        checked = prepare(None, "http://h:81/a b?c", method)
        for name in DispatchOptions.__slots__:
            assert getattr(plain, name) == getattr(checked, name), name


def test_remembered() -> None:
    first = prepare_plain(None, None, URL)
    assert recall((None, None, URL)) is first
    assert recall((None, "HEAD", URL)) is None
    timed = prepare_plain(None, None, URL, (1.0, *NO_SETTINGS[1:]))
    assert recall((None, None, URL, 1.0, *NO_SETTINGS[1:])) is timed
    assert timed.timeout == 1


def test_a_path_is_remembered_with_its_origin() -> None:
    first = prepare_plain("http://h", None, "/path")
    assert recall(("http://h", None, "/path")) is first
    assert recall(("http://other", None, "/path")) is None
    other = prepare_plain("http://other", None, "/path")
    assert (first.origin, other.origin) == ("http://h", "http://other")


def test_not_remembered() -> None:
    prepare_plain(None, None, "http://me:secret@h/")
    prepare_plain("http://h", None, "?path")
    prepare_plain("http://h", "OPTIONS", "*")
    prepare_plain(None, None, "http://h/" + "x" * 5000)
    made(headers={"a": "b"})
    assert not module._remembered


def test_bounded() -> None:
    for number in range(2000):
        prepare_plain(None, None, f"http://h/{number}")
        prepare_plain(None, f"M{number}", URL)
        assert len(module._remembered) <= 512
    assert prepare_plain(None, None, "http://h/1999").path == "/1999"


def test_plain_refuses() -> None:
    for method, message in (("CONNECT", "connect"), ("A B", "invalid method"), (3, "invalid method")):
        with pytest.raises(InvalidArgumentError, match=message):
            prepare_plain(None, method, URL)  # type: ignore[arg-type]

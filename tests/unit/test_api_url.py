"""URLs: what they become, and what is refused."""

from __future__ import annotations

import pytest

from dodici.api import url as module
from dodici.api.prepare import resolve
from dodici.api.url import Target, escape_target, normal_origin, split_url
from dodici.core.errors import InvalidArgumentError

GOOD = [
    ("http://example.com", "http://example.com", "/"),
    ("http://example.com/", "http://example.com", "/"),
    ("http://example.com?a=1", "http://example.com", "/?a=1"),
    ("http://example.com?a/b", "http://example.com", "/?a/b"),
    ("http://example.com#a/b", "http://example.com", "/"),
    ("HTTP://Example.COM/A", "http://example.com", "/A"),
    ("https://example.com:443/x", "https://example.com", "/x"),
    ("http://example.com:80/x", "http://example.com", "/x"),
    ("http://example.com:0080/x", "http://example.com", "/x"),
    ("http://example.com:/x", "http://example.com", "/x"),
    ("https://example.com:80/x", "https://example.com:80", "/x"),
    ("http://example.com:8080/x", "http://example.com:8080", "/x"),
    ("http://a_b.example.com./x", "http://a_b.example.com.", "/x"),
    ("http://a/b", "http://a", "/b"),
    ("http://[::1]:8080/x", "http://[::1]:8080", "/x"),
    ("http://[2001:DB8:0:0::1]/x", "http://[2001:db8::1]", "/x"),
    ("http://bücher.example/x", "http://xn--bcher-kva.example", "/x"),
    ("http://例え.テスト/", "http://xn--r8jz45g.xn--zckzah", "/"),
    ("http://h/a b", "http://h", "/a%20b"),
    ("  http://h/a  ", "http://h", "/a"),
    ("http://h/é?ü=ß", "http://h", "/%C3%A9?%C3%BC=%C3%9F"),
    ("http://h/😀", "http://h", "/%F0%9F%98%80"),
    ("http://h/a%20b%2Fc%zz%", "http://h", "/a%20b%2Fc%zz%"),
    ("http://h/x#frag", "http://h", "/x"),
    ("http://h/x?a=1#frag?b", "http://h", "/x?a=1"),
    ('http://h/"<>^`{}|', "http://h", "/%22%3C%3E%5E%60%7B%7D|"),
    ("http://h/?\"<>'^`{}|\\", "http://h", "/?%22%3C%3E%27^`{}|\\"),
    ("http://h/a\\b", "http://h", "/a%5Cb"),
    ("http://h/?a=b?c=d", "http://h", "/?a=b?c=d"),
    ("http://h/a/./b/../c", "http://h", "/a/c"),
    ("http://h/../../a", "http://h", "/a"),
    ("http://h/a/..", "http://h", "/"),
    ("http://h/a/b/.", "http://h", "/a/b/"),
    ("http://h/a/%2e%2E/b", "http://h", "/b"),
    ("http://h/%2E", "http://h", "/"),
    ("http://h/.well-known/x...", "http://h", "/.well-known/x..."),
    ("http://h/x?a=/../b", "http://h", "/x?a=/../b"),
    ("http://h//a//b", "http://h", "//a//b"),
    ("http://h/a;b=c,d@e:f!$&'()*+", "http://h", "/a;b=c,d@e:f!$&'()*+"),
]


@pytest.mark.parametrize(("url", "origin", "path"), GOOD)
def test_split(url: str, origin: str, path: str) -> None:
    module._origins.clear()
    assert split_url(url) == Target(origin, path)
    # The second time the origin comes out of the cache.
    assert split_url(url) == Target(origin, path)


BAD = [
    ("", "must begin with http"),
    ("/x", "must begin with http"),
    ("example.com", "must begin with http"),
    ("//example.com/x", "must begin with http"),
    ("ftp://example.com/", "must begin with http"),
    ("http:/example.com", "must begin with http"),
    ("http:example.com", "must begin with http"),
    ("http://", "no host"),
    ("http:///x", "no host"),
    ("http://:80/", "no host"),
    ("http://?x", "no host"),
    ("http://user@/", "no host"),
    ("http://h:x/", "port"),
    ("http://h:0/", "port"),
    ("http://h:65536/", "port"),
    ("http://h:٣/", "port"),
    ("http://h:-1/", "port"),
    ("http://h:80:80/", "port"),
    ("http://a b/", "characters"),
    ("http://a%20b/", "characters"),
    ("http://a<b/", "characters"),
    ("http://a\\b/", "backslash"),
    ("http://good.example\\@evil.example/", "backslash"),
    ("http://[::1/", "brackets"),
    ("http://[::1]x/", "brackets"),
    ("http://[hello]/", "hello"),
    ("http://[fe80::1%eth0]/", "zone"),
    ("http://h/\x00", "control"),
    ("http://h/a\tb", "control"),
    ("http://h/a\r\nb", "control"),
    ("http://h/a\n", "control"),
    ("ht\ntp://h/", "control"),
    ("http://h/\x7f", "control"),
    ("http://h/#\x01", "control"),
    ("http://h/\ud800", "encoded"),
    ("http://xn--\u00ff.example/", "domain"),
    ("http://" + "a" * 64 + "ü.example/", "domain"),
]


@pytest.mark.parametrize(("url", "message"), BAD)
def test_refused(url: str, message: str) -> None:
    split_url("http://h/")
    with pytest.raises(InvalidArgumentError, match=message):
        split_url(url)


def test_messages_hide_passwords_and_are_bounded() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        split_url("http://me:hunter2@h:99999/" + "x" * 1000)
    assert "hunter2" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("url", "credentials"),
    [
        ("http://me:secret@h/", ("me", "secret")),
        ("http://me@h/", ("me", "")),
        ("http://@h/", ("", "")),
        ("http://m%40e:a%3Ab%2Fc@h/", ("m@e", "a:b/c")),
        ("http://a@b:c@h/", ("a@b", "c")),
        ("http://h/", None),
        ("http://h/@", None),
    ],
)
def test_userinfo(url: str, credentials: tuple[str, str] | None) -> None:
    for _ in range(2):
        assert split_url(url).credentials == credentials
        assert split_url(url).origin == "http://h"


def test_userinfo_is_never_remembered() -> None:
    module._origins.clear()
    split_url("http://me:secret@h/x")
    assert not module._origins


def test_the_cache_of_origins_is_bounded() -> None:
    for number in range(2000):
        split_url(f"http://h{number}/")
        assert len(module._origins) <= module.CACHE_SIZE
    module._origins.clear()
    split_url(f"http://{'h' * 300}/")
    assert not module._origins


@pytest.mark.parametrize(
    ("own", "url", "origin", "path"),
    [
        (None, "http://h/x", "http://h", "/x"),
        ("http://h", "http://h/x", "http://h", "/x"),
        ("http://h", "/x?y=1", "http://h", "/x?y=1"),
        ("http://h", "?y=1", "http://h", "/?y=1"),
        ("http://h", "//evil.example/x", "http://h", "//evil.example/x"),
        ("http://h", "/a b", "http://h", "/a%20b"),
        ("http://h", "*", "http://h", "*"),
        ("http://H:80", "http://h/x", "http://h", "/x"),
        ("http://h/", "/x", "http://h", "/x"),
    ],
)
def test_resolve(own: str | None, url: str, origin: str, path: str) -> None:
    assert resolve(own, url) == Target(origin, path)


@pytest.mark.parametrize(
    ("own", "url", "message"),
    [
        (None, "/x", "path alone"),
        (None, "*", "must begin"),
        ("http://h", "http://other/x", "http://other"),
        ("http://h", "https://h/x", "serves http://h alone"),
        ("http://h", "http://h:81/x", "serves http://h alone"),
        ("http://h", "x", "must begin"),
        ("http://h", b"/x", "must be a str"),
        (None, None, "must be a str"),
    ],
)
def test_resolve_refuses(own: str | None, url: object, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        resolve(own, url)  # type: ignore[arg-type]


def test_normal_origin() -> None:
    assert normal_origin("HTTP://H:80/") == "http://h"
    assert normal_origin("test:thing") == "test:thing"


def test_escape_target_begins_with_a_slash() -> None:
    assert escape_target("") == "/"
    assert escape_target("?x") == "/?x"

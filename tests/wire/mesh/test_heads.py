"""Heads: what is sent, what is left out, what is refused, what is remembered."""

from __future__ import annotations

from typing import Any

import pytest

from dodici.core.errors import HeadersOverflowError, InvalidArgumentError, LinkError, NotSupportedError
from dodici.core.headers import EMPTY
from dodici.core.options import DispatchOptions
from dodici.wire.body import CHUNKED, NO_LENGTH
from dodici.wire.mesh import heads
from dodici.wire.mesh.frames import MAX_HEAD


def encoded(length: int = NO_LENGTH, **options: Any) -> list[bytes]:
    options = {"origin": "http://api.local", "path": "/", **options}
    return heads.encode_request(DispatchOptions(**options), length).split(b"\n")


def names(parts: list[bytes]) -> list[bytes]:
    return parts[4::2]


def test_a_request_is_its_line_and_its_fields() -> None:
    assert encoded(3, method="POST", path="/a?b=ü", headers=[("X-A", "1"), ("x-b", ""), ("x-a", "2")]) == [
        b"POST", b"/a?b=\xfc", b"http", b"api.local",
        b"host", b"api.local", b"x-a", b"1", b"x-b", b"", b"x-a", b"2", b"content-length", b"3",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("origin", "scheme", "authority"),
    [
        ("http://API.Local:8080", b"http", b"api.local:8080"),
        ("https://user:pass@api.local", b"https", b"api.local"),
        ("http://api.local.", b"http", b"api.local."),
        ("http://[::1]:80", b"http", b"[::1]:80"),
    ],
)
def test_host_is_the_authority_of_the_origin(origin: str, scheme: bytes, authority: bytes) -> None:
    for _ in range(2):
        parts = encoded(origin=origin, headers={"host": "elsewhere"})
        assert parts[2:] == [scheme, authority, b"host", authority]


@pytest.mark.parametrize(
    "origin", [None, "", "api.local", "ftp://api.local", "http://", "http://a b", "http://[::1"]
)
def test_a_wrong_origin(origin: str | None) -> None:
    with pytest.raises(InvalidArgumentError, match="origin"):
        encoded(origin=origin)


def test_what_belongs_to_one_hop_is_left_out() -> None:
    parts = encoded(
        headers={
            "connection": "close, X-Hop",
            "x-hop": "1",
            "te": "trailers",
            "trailer": "x",
            "proxy-connection": "keep-alive",
            "x-kept": "1",
        }
    )
    assert names(parts) == [b"host", b"x-kept"]


def test_lengths_and_expectations() -> None:
    assert b"content-length" not in encoded(CHUNKED, method="POST", body=iter(()))
    assert encoded(0, method="POST")[-2:] == [b"content-length", b"0"]
    parts = encoded(3, method="POST", body=b"abc", expect_continue=True)
    assert parts[-4:] == [b"expect", b"100-continue", b"content-length", b"3"]
    assert b"expect" not in encoded(0, method="POST", expect_continue=True)


def test_a_proxys_path_is_refused() -> None:
    with pytest.raises(NotSupportedError):
        encoded(path="http://api.local/")
    assert encoded(method="OPTIONS", path="*")[1] == b"*"


def test_a_head_that_is_too_long() -> None:
    assert len(b"\n".join(encoded(headers={"x-a": "a" * (MAX_HEAD - 100)}))) < MAX_HEAD
    with pytest.raises(HeadersOverflowError):
        encoded(headers={"x-a": "a" * MAX_HEAD})
    with pytest.raises(HeadersOverflowError):
        heads.encode_response(200, [(b"x-a", b"a" * MAX_HEAD)])
    with pytest.raises(HeadersOverflowError):
        heads.encode_trailers([(b"x-a", b"a" * MAX_HEAD)])


def test_a_request_is_read_as_it_was_made() -> None:
    block = b"\n".join(encoded(3, method="POST", path="/a?b", headers={"x-a": "1"}, origin="https://a:1"))
    head = heads.decode_request(block)
    assert (head.method, head.target, head.scheme, head.authority) == ("POST", b"/a?b", "https", "a:1")
    assert head.fields == ((b"host", b"a:1"), (b"x-a", b"1"), (b"content-length", b"3"))
    assert not head.expects
    assert heads.decode_request(block) is head
    assert heads.decode_request(
        b"\n".join(encoded(3, method="POST", body=b"abc", expect_continue=True))
    ).expects


def test_a_long_request_is_not_remembered() -> None:
    block = b"\n".join(encoded(headers={"x-a": "a" * 3000}))
    assert heads.decode_request(block) is not heads.decode_request(block)


@pytest.mark.parametrize(
    "block",
    [
        b"", b"GET", b"GET\n/\nhttp", b"GET\n/\nhttp\n", b"G T\n/\nhttp\na", b"GET\n\nhttp\na", b"GET\n/ \nhttp\na",
        b"GET\n/\nws\na", b"GET\n/\nhttp\na\nhost", b"GET\n/\nhttp\na\nHost\na", b"GET\n/\nhttp\na\n\na",
        b"GET\n/\nhttp\na\nx-a\n\0", b"GET\n/\nhttp\na\nx-a\n1\r", b"GET\n/\nhttp\na\n",
    ],
)  # fmt: skip
def test_malformed_requests(block: bytes) -> None:
    with pytest.raises(LinkError, match="malformed request"):
        heads.decode_request(block)


def test_a_response_is_read_as_it_was_made() -> None:
    block = heads.encode_response(200, [(b"Content-Length", b"3"), (b"x-a", b" 1\t"), [b"X-A", b"2"]])
    assert block == b"200\ncontent-length\n3\nx-a\n1\nx-a\n2"
    head = heads.decode_response(block)
    assert (head.status_code, head.length) == (200, 3)
    assert head.headers.get_list("x-a") == ["1", "2"]
    assert heads.decode_response(block) is head
    bare = heads.decode_response(heads.encode_response(404, ()))
    assert (bare.status_code, bare.headers, bare.length) == (404, EMPTY, heads.UNKNOWN_LENGTH)


def test_responses_lose_what_belongs_to_one_hop() -> None:
    given = [
        (b"Connection", b"close, X-Hop"),
        (b"x-hop", b"1"),
        (b"transfer-encoding", b"chunked"),
        (b"a", b"b"),
    ]
    for _ in range(2):
        assert heads.encode_response(200, given) == b"200\na\nb"


def test_what_sets_cookies_is_not_remembered() -> None:
    given = [(b"set-cookie", b"session=1")]
    block = heads.encode_response(200, given)
    assert heads.encode_response(200, given) is not block
    assert heads.decode_response(block) is not heads.decode_response(block)


@pytest.mark.parametrize(
    ("status", "headers", "text"),
    [
        (99, [], "status"),
        (1000, [], "status"),
        ("200", [], "status"),
        (-1, [], "status"),
        (200, [("a", "b")], "pairs of bytes"),
        (200, [(b"a",)], "pairs of bytes"),
        (200, [b"abc"], "pairs of bytes"),
        (200, None, "pairs of bytes"),
        (200, [(b"", b"1")], "does not allow"),
        (200, [(b"a b", b"1")], "does not allow"),
        (200, [(b"a", b"1\r\nb: 2")], "does not allow"),
        (200, [(b"a", b"\0")], "does not allow"),
        (200, [(b"a", b"1\nb\n2")], "does not allow"),
        (200, [(b"content-length", b"1"), (b"content-length", b"1")], "content-length"),
        (200, [(b"content-length", b"-1")], "content-length"),
        (200, [(b"content-length", b"1" * 19)], "content-length"),
    ],
    ids=str,
)
def test_responses_that_are_refused(status: Any, headers: Any, text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=text):
        heads.encode_response(status, headers)


def test_no_field_passes_for_two_even_if_the_bytes_are_known() -> None:
    heads.encode_response(200, [(b"x-known", b"1"), (b"x-other", b"2")])
    with pytest.raises(InvalidArgumentError):
        heads.encode_response(200, [(b"x-known", b"1\nx-other\n2")])


@pytest.mark.parametrize(
    "block", [b"", b"20", b"0200", b"200\na", b"200\nA\nb", b"200\na\nb\n", b"200\n\nb", b"200\na\n\x7f"]
)
def test_malformed_responses(block: bytes) -> None:
    with pytest.raises(LinkError, match="malformed response"):
        heads.decode_response(block)


def test_a_response_with_two_lengths_is_malformed() -> None:
    with pytest.raises(LinkError, match="content-length"):
        heads.decode_response(b"200\ncontent-length\n1\ncontent-length\n1")


def test_trailers() -> None:
    block = heads.encode_trailers([(b"X-Sum", b"1"), (b"x-sum", b"2"), (b"connection", b"x")])
    assert block == b"x-sum\n1\nx-sum\n2"
    assert heads.decode_trailers(block).raw == ((b"x-sum", b"1"), (b"x-sum", b"2"))
    assert heads.encode_trailers(()) == b""
    assert heads.decode_trailers(b"") is EMPTY


@pytest.mark.parametrize("given", [[("a", "b")], [b"abc"], [(b"a b", b"1")], [(b"a", b"1\nb\n2")]], ids=str)
def test_trailers_that_are_refused(given: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        heads.encode_trailers(given)


@pytest.mark.parametrize("block", [b"a", b"A\nb", b"a\nb\n", b"\na\nb"])
def test_malformed_trailers(block: bytes) -> None:
    with pytest.raises(LinkError, match="malformed trailers"):
        heads.decode_trailers(block)


def test_memories_are_bounded() -> None:
    for number in range(2000):
        block = b"\n".join(encoded(path=f"/{number}", origin=f"http://n{number}.local"))
        heads.decode_request(block)
        heads.decode_response(heads.encode_response(200, [(b"x-number", b"%d" % number)]))
    for memory in (heads._requests, heads._responses, heads._encoded, heads._authorities):
        assert 0 < len(memory) <= 512

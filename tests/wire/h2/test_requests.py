"""Requests as they leave: pseudo-headers, refused fields, what is never indexed; and h2 as the server takes them."""

from __future__ import annotations

from typing import Any

import hpack
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded
from tests.wire.h2.frames_kit import Link

from dodici.core.errors import InvalidArgumentError
from dodici.core.options import DispatchOptions
from dodici.wire.body import CHUNKED, NO_LENGTH, body_length
from dodici.wire.h2.frames import CONTINUATION, HEADERS
from dodici.wire.h2.sections import encode_request

Pairs = list[tuple[bytes, bytes]]


def encoded(length: int | None = None, scheme: bytes = b"https", **options: Any) -> tuple[Pairs, int, bytes]:
    """The fields of a request as hpack reads them, the size that was told, and the block."""
    made = DispatchOptions(**options)
    length = body_length(made) if length is None else length
    block, size = encode_request(made, scheme, b"example.com", length)
    decoder = hpack.Decoder()
    fields = [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
    assert len(decoder.header_table.dynamic_entries) == 0
    return fields, size, block


def fields_of(**options: Any) -> Pairs:
    fields, size, _ = encoded(**options)
    assert size == sum(len(name) + len(value) + 32 for name, value in fields)
    return fields


def plain(path: bytes = b"/", method: bytes = b"GET", authority: bytes = b"example.com") -> Pairs:
    return [(b":method", method), (b":scheme", b"https"), (b":authority", authority), (b":path", path)]


# ------------------------------------------------------------------------------ pseudo-headers (8.3.1)


def test_get() -> None:
    assert fields_of(path="/a?b=c") == plain(b"/a?b=c")


def test_the_scheme() -> None:
    assert fields_of(scheme=b"http")[1] == (b":scheme", b"http")


def test_methods_keep_their_case() -> None:
    assert fields_of(method="pUrGe")[0] == (b":method", b"pUrGe")


def test_host_becomes_the_authority() -> None:
    assert fields_of(headers={"Host": "other:81", "x": "y"}) == [*plain(authority=b"other:81"), (b"x", b"y")]


def test_options_of_the_server() -> None:
    assert fields_of(path="*", method="OPTIONS") == plain(b"*", b"OPTIONS")


@pytest.mark.parametrize(
    ("url", "scheme", "authority", "path"),
    [
        ("http://proxied:81/a/b?c", b"http", b"proxied:81", b"/a/b?c"),
        ("HTTPS://Proxied", b"https", b"Proxied", b"/"),
        ("http://proxied?q=/x", b"http", b"proxied", b"/?q=/x"),
        ("http://[::1]:81/@", b"http", b"[::1]:81", b"/@"),
    ],
)
def test_absolute_urls(url: str, scheme: bytes, authority: bytes, path: bytes) -> None:
    """8.3.1: the URL's own scheme and authority, and a path that is never empty."""
    assert fields_of(path=url, headers={"host": "ignored"}) == [
        (b":method", b"GET"),
        (b":scheme", scheme),
        (b":authority", authority),
        (b":path", path),
    ]


def test_options_of_a_url_without_a_path() -> None:
    """8.3.1."""
    assert fields_of(path="http://proxied", method="OPTIONS")[3] == (b":path", b"*")
    assert fields_of(path="http://proxied?q", method="OPTIONS")[3] == (b":path", b"/?q")


@pytest.mark.parametrize("url", ["http://", "http:///x", "http://?x", "http://user@host/", "https://u:p@h/"])
def test_urls_without_a_plain_host(url: str) -> None:
    """8.3.1: the authority must not include userinfo."""
    with pytest.raises(InvalidArgumentError, match="names no host"):
        encoded(path=url)


def test_connect() -> None:
    """8.5: no scheme and no path."""
    assert fields_of(method="CONNECT", path="target:443", headers={"x": "y"}) == [
        (b":method", b"CONNECT"),
        (b":authority", b"target:443"),
        (b"x", b"y"),
    ]


@pytest.mark.parametrize("path", ["/chat", "https://example.com/chat"])
def test_extended_connect(path: str) -> None:
    """RFC 8441 section 4."""
    fields = fields_of(path=path, upgrade="WebSocket", headers={"sec-websocket-version": "13"})
    assert dict(fields[:5]) == {
        b":method": b"CONNECT",
        b":protocol": b"websocket",
        b":scheme": b"https",
        b":path": b"/chat",
        b":authority": b"example.com",
    }
    assert fields[5:] == [(b"sec-websocket-version", b"13")]


# --------------------------------------------------------------------------------------- fields (8.2)


def test_names_become_lower_case_and_values_stay() -> None:
    fields = fields_of(headers=[("X-One", "A b\xe9"), ("x-one", "2"), ("Cookie", "a=b; c=d")])
    assert fields[4:] == [(b"x-one", b"A b\xe9"), (b"x-one", b"2"), (b"cookie", b"a=b; c=d")]


def test_connection_is_not_sent() -> None:
    assert fields_of(headers={"connection": "close"}) == plain()


@pytest.mark.parametrize("name", ["Proxy-Connection", "proxy-connection"])
def test_connection_specific_fields(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="HTTP/1"):
        encoded(headers={name: "keep-alive"})


def test_te() -> None:
    assert fields_of(headers={"TE": "Trailers"})[4:] == [(b"te", b"Trailers")]
    with pytest.raises(InvalidArgumentError, match="trailers"):
        encoded(headers={"te": "gzip"})


@pytest.mark.parametrize(
    ("length", "options", "expected"),
    [
        (None, {"method": "POST", "body": b"abc"}, [(b"content-length", b"3")]),
        (None, {"method": "POST"}, [(b"content-length", b"0")]),
        (None, {"method": "GET"}, []),
        (CHUNKED, {"method": "POST", "body": iter([b"x"])}, []),
        (5, {"method": "POST", "body": iter([b"x"]), "headers": {"content-length": "5"}}, [(b"content-length", b"5")]),
        (None, {"method": "POST", "body": b"x", "expect_continue": True},
         [(b"expect", b"100-continue"), (b"content-length", b"1")]),
        (CHUNKED, {"method": "POST", "body": iter([b"x"]), "expect_continue": True}, [(b"expect", b"100-continue")]),
        (0, {"method": "POST", "expect_continue": True}, [(b"content-length", b"0")]),
        (NO_LENGTH, {"expect_continue": True}, []),
    ],
)  # fmt: skip
def test_lengths_and_expectations(length: int | None, options: dict[str, Any], expected: Pairs) -> None:
    assert encoded(length, **options)[0][4:] == expected


@pytest.mark.parametrize("name", ["authorization", "Cookie", "Proxy-Authorization"])
def test_secrets_are_never_indexed(name: str) -> None:
    """RFC 7541 section 7.1.3: by nobody on the way."""
    _, _, block = encoded(headers={name: "secret"})
    _, _, public = encoded(headers={"x-public": "secret"})
    never = [
        type(field).__name__ for field in hpack.Decoder().decode(block, raw=True) if field[1] == b"secret"
    ]
    assert never == ["NeverIndexedHeaderTuple"]
    plainly = [type(field).__name__ for field in hpack.Decoder().decode(public, raw=True)]
    assert "NeverIndexedHeaderTuple" not in plainly


def test_a_block_is_the_same_each_time() -> None:
    assert encoded(headers={"x": "y"})[2] == encoded(headers={"x": "y"})[2]


# ------------------------------------------------------------------------------------ h2 as the server


def served(link: Link) -> list[Any]:
    """What a strict server makes of what was sent."""
    server = H2Connection(
        H2Configuration(
            client_side=False,
            validate_inbound_headers=True,
            normalize_inbound_headers=False,
            header_encoding=None,
        )
    )
    server.initiate_connection()
    server.receive_data(link.preface)
    link.receive(server.data_to_send())
    link.engine.fill(1 << 30)
    return server.receive_data(link.engine.outbox.take())


REQUESTS: list[dict[str, Any]] = [
    {},
    {"path": "/a?b", "headers": {"cookie": "a=b", "authorization": "basic x", "te": "trailers"}},
    {"path": "*", "method": "OPTIONS"},
    {"path": "http://proxied/x"},
    {"method": "CONNECT", "path": "target:443"},
    {"headers": {"host": "other"}},
    {"method": "POST"},
    {"headers": {"x-large": "v" * 40_000}},
]


@pytest.mark.parametrize("options", REQUESTS)
def test_h2_takes_it(options: dict[str, Any]) -> None:
    fields, _, block = encoded(**options)
    link = Link()
    link.open("G", block)
    events = served(link)
    (request,) = [event for event in events if isinstance(event, RequestReceived)]
    assert [(bytes(name), bytes(value)) for name, value in request.headers] == fields
    assert any(isinstance(event, StreamEnded) for event in events)


def test_h2_takes_a_body() -> None:
    _, _, block = encoded(method="POST", body=b"x" * 50_000)
    link = Link()
    stream = link.open("P", block)
    link.engine.send(stream, b"x" * 50_000)
    link.engine.end(stream)
    events = served(link)
    assert b"".join(event.data for event in events if isinstance(event, DataReceived)) == b"x" * 50_000
    assert isinstance(events[-1], StreamEnded)


def test_a_large_head_is_continued() -> None:
    _, _, block = encoded(headers={"x-large": "v" * 40_000})
    link = Link()
    link.open("G", block)
    assert [one.kind for one in link.sent()] == [HEADERS, CONTINUATION, CONTINUATION]

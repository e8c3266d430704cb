"""Requests, read back by h11's server side: exactly one, exactly what was meant, or none at all."""

from __future__ import annotations

from typing import Any

import h11
from hypothesis import given, strategies as st
from tests.property.strategies import fields, tokens

from dodici.core.errors import DodiciError
from dodici.core.options import BYTES, DispatchOptions
from dodici.wire.body import CHUNKED, NO_LENGTH, as_chunk, body_length
from dodici.wire.h1.serializer import BodyFramer, encode_head

_path = "".join(map(chr, [0x21, 0x22, *range(0x24, 0x7F)]))
paths = st.text(_path, max_size=20).map("/".__add__)
methods = st.sampled_from(["GET", "POST", "PUT", "HEAD", "DELETE", "QUERY"]) | tokens.filter(
    lambda method: method.upper() != "CONNECT"
)
bodies = (
    st.none() | st.binary(max_size=50) | st.text(max_size=20) | st.lists(st.binary(max_size=20), max_size=4)
)


def write(options: DispatchOptions) -> bytes:
    """What a connection would write."""
    length = body_length(options)
    head = encode_head(options, b"example.com", length, close=False)
    if options.body_kind <= BYTES:
        return head + bytes(options.payload or b"")
    framer = BodyFramer(length)
    parts = [head, *(part for chunk in options.body for part in framer.frame(as_chunk(chunk)))]
    return b"".join([*parts, framer.finish()])


def read(data: bytes) -> tuple[str, bytes, list[tuple[bytes, bytes]], bytes]:
    """The one request in `data`, as h11 reads it."""
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    server.receive_data(data)
    request = server.next_event()
    assert isinstance(request, h11.Request)
    body = b""
    while not isinstance(event := server.next_event(), h11.EndOfMessage):
        assert isinstance(event, h11.Data)
        body += bytes(event.data)
    assert event.headers.raw_items() == []
    rest, closed = server.trailing_data
    assert (rest, closed) == (b"", False), "more than one request"
    return request.method.decode(), request.target, [(bytes(n), bytes(v)) for n, v in request.headers], body


@given(methods, paths, fields, bodies)
def test_h11_reads_what_was_meant(method: str, path: str, headers: Any, body: Any) -> None:
    options = DispatchOptions(method=method, path=path, headers=headers, body=body)
    data = write(options)
    seen_method, target, seen, seen_body = read(data)
    assert (seen_method, target) == (method, path.encode("latin-1"))
    meant = [(b"host", b"example.com")]
    meant += [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    length = body_length(options)
    if length == CHUNKED:
        meant.append((b"transfer-encoding", b"chunked"))
    elif length != NO_LENGTH:
        meant.append((b"content-length", b"%d" % length))
    assert seen == meant
    expected = (
        b"".join(body) if isinstance(body, list) else body.encode() if isinstance(body, str) else body or b""
    )
    assert seen_body == expected


EVIL = [
    "\r",
    "\n",
    "\r\n",
    "\0",
    " ",
    "\t",
    "\x7f",
    "\x85",
    "\u2028",
    "\xa0",
    "#",
    "?",
    "\u010a",
    "\uff0d",
    "\ud800",
]
EVIL += [
    "HTTP/1.1\r\n",
    "\r\n\r\nGET / HTTP/1.1\r\n",
    ":",
    ",",
    ";",
    "content-length",
    "transfer-encoding",
    "chunked",
]
EVIL += ["host", "connection", "close", "5", "0", "/", "http://", "a", "upgrade", "GET"]
evil = st.lists(st.sampled_from(EVIL), max_size=4).map("".join)
evil_values = evil | st.lists(evil, max_size=3) | st.integers(-5, 10) | st.none() | st.binary(max_size=5)


@given(
    method=st.sampled_from(["GET", "POST"]) | evil,
    path=paths | evil | evil.map("/".__add__),
    headers=st.dictionaries(evil | st.sampled_from(["content-length", "host", "x"]), evil_values, max_size=3)
    | st.lists(st.tuples(evil, evil_values), max_size=3),
    body=bodies | evil,
    upgrade=st.none() | evil,
    query=st.none() | st.dictionaries(evil, evil, max_size=2) | evil,
)
def test_hostile_options_are_refused_or_harmless(**given_options: Any) -> None:
    try:
        options = DispatchOptions(**given_options)
        data = write(options)
    except DodiciError:
        return
    method, target, seen, _ = read(data)
    assert method == options.method
    assert target == options.path.encode("latin-1")
    own = {b"host", b"connection", b"upgrade", b"content-length", b"transfer-encoding"}
    assert [pair for pair in seen if pair[0] not in own] == [
        (name.lower(), value) for name, value in options.fields.raw
    ]
    assert all([name for name, _ in seen].count(name) <= 1 for name in own)


@given(
    st.dictionaries(
        st.sampled_from(sorted(DispatchOptions.names)),
        st.none() | evil | st.integers() | st.binary() | st.floats(),
    )
)
def test_options_raise_nothing_but_ours(given_options: dict[str, Any]) -> None:
    try:
        DispatchOptions(**given_options)
    except DodiciError:
        pass

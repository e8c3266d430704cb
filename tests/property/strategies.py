"""Generated responses and requests, right and wrong."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

TOKEN = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
FRAMING = {
    "content-length",
    "transfer-encoding",
    "connection",
    "upgrade",
    "keep-alive",
    "host",
    "expect",
    "trailer",
}

tokens = st.text(TOKEN, min_size=1, max_size=12)
names = tokens.filter(lambda name: name.lower() not in FRAMING)
_visible = "".join(map(chr, [*range(0x21, 0x7F), *range(0x80, 0x100)]))
values = st.text(_visible + " \t", max_size=20).map(lambda value: value.strip(" \t"))
fields = st.lists(st.tuples(names, values), max_size=5)


@dataclass(frozen=True)
class Response:
    """What a server meant, and how it said it."""

    status: int
    reason: str
    fields: tuple[tuple[str, str], ...]
    body: bytes
    trailers: tuple[tuple[str, str], ...]
    wire: bytes
    until_close: bool


def lines(pairs: list[tuple[str, str]]) -> bytes:
    return b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in pairs)


@st.composite
def responses(
    draw: st.DrawFn, framings: tuple[str, ...] = ("length", "chunked", "close", "none")
) -> Response:
    """A valid final response, perhaps with 1xx before it."""
    framing = draw(st.sampled_from(framings))
    status = draw(
        st.sampled_from([204, 304]) if framing == "none" else st.sampled_from([200, 201, 404, 500, 599])
    )
    reason = draw(st.text(_visible + " ", max_size=10).map(str.strip))
    pairs = draw(fields)
    chunks = [] if framing == "none" else draw(st.lists(st.binary(min_size=1, max_size=40), max_size=4))
    body = b"".join(chunks)
    trailers: list[tuple[str, str]] = []
    sent = b""
    if framing == "length":
        pairs = [*pairs, ("Content-Length", str(len(body)))]
        sent = body
    elif framing == "chunked":
        pairs = [("Transfer-Encoding", "chunked"), *pairs]
        trailers = draw(fields)
        extension = draw(st.sampled_from([b"", b";a=b", b';x="y z"']))
        sent = b"".join(b"%x%s\r\n%s\r\n" % (len(one), extension, one) for one in chunks)
        sent += b"0\r\n" + lines(trailers) + b"\r\n"
    elif framing == "close":
        sent = body
    informational = b"".join(
        b"HTTP/1.1 %d Early\r\n%s\r\n" % (code, lines(draw(fields)))
        for code in draw(st.lists(st.sampled_from([100, 102, 103]), max_size=2))
    )
    wire = informational + f"HTTP/1.1 {status} {reason}\r\n".encode("latin-1") + lines(pairs) + b"\r\n" + sent
    return Response(status, reason, tuple(pairs), body, tuple(trailers), wire, framing == "close")


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid response in which something was changed."""
    data = draw(responses()).wire
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["insert", "delete", "replace", "repeat"]))
        piece = draw(st.sampled_from(PIECES) | st.binary(min_size=1, max_size=3))
        if kind == "insert":
            data = data[:at] + piece + data[at:]
        elif kind == "delete":
            data = data[:at] + data[at + draw(st.integers(1, 4)) :]
        elif kind == "replace":
            data = data[:at] + piece + data[at + len(piece) :]
        else:
            data = data[:at] + data[max(0, at - 20) :]
    return data


PIECES = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"0\r\n\r\n",
    b"content-length: 5\r\n",
    b"transfer-encoding: chunked\r\n",
    b"connection: close\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.0 200 OK\r\n",
    b"HTTP/1.1 103 X\r\n\r\n",
    b"f",
    b"-",
    b"+",
]

soup = st.lists(st.sampled_from(PIECES) | st.binary(max_size=4), max_size=30).map(b"".join)
anything = mutated() | soup | st.binary(max_size=60) | responses().map(lambda response: response.wire)


@st.composite
def cuts(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """`data` in pieces."""
    at = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[start:stop] for start, stop in zip([0, *at], [*at, len(data)], strict=True)]

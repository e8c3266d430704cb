"""undici.md 2.7: lengths and bodies, both ways, as bytes on the wire."""

from __future__ import annotations

import asyncio
import errno
import io
from typing import Any

import pytest
from tests.peers.kit import answering, chunked, fetch, ok, send

from dodici import (
    Client,
    DodiciError,
    HTTPParserError,
    RequestContentLengthMismatchError,
    ResponseContentLengthMismatchError,
    SocketError,
)
from dodici.testing import PeerConnection, ScriptedPeer, settle


async def heads(peer: ScriptedPeer, client: Any, **options: Any) -> tuple[str | None, str | None, bytes]:
    """content-length, transfer-encoding and body of what a request was sent as."""
    recorder = await fetch(client, **options)
    assert recorder.error is None
    request = peer.requests[-1]
    return request.headers.get("content-length"), request.headers.get("transfer-encoding"), request.body


@pytest.mark.parametrize(
    ("method", "body", "length", "encoding"),
    [
        ("GET", None, None, None),
        ("DELETE", None, None, None),
        ("OPTIONS", None, None, None),
        ("POST", None, "0", None),
        ("PUT", None, "0", None),
        ("PATCH", None, "0", None),
        ("POST", b"", "0", None),
        ("POST", "", "0", None),
        ("POST", b"abc", "3", None),
        ("POST", "grüße", "7", None),
        ("DELETE", b"abc", "3", None),
        ("POST", io.BytesIO(b"abcd"), "4", None),
        ("POST", [b"a", b"", "ü"], None, "chunked"),
        ("POST", iter(()), "0", None),
        ("PUT", iter((b"", b"")), "0", None),
        ("GET", iter(()), None, None),
        ("DELETE", iter(()), None, None),
    ],
    ids=lambda value: (
        type(value).__name__ if hasattr(value, "__next__") or hasattr(value, "read") else str(value)
    ),
)
async def test_s2_7_framing_of_requests(
    method: str, body: Any, length: str | None, encoding: str | None
) -> None:
    async with ScriptedPeer(answering) as peer, Client(peer.origin) as client:
        sent = await heads(peer, client, method=method, body=body)
        assert sent[:2] == (length, encoding)


async def test_s2_7_chunks_on_the_wire() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_until(b"\r\n\r\n")
        await connection.expect(b"1\r\na\r\n10\r\n0123456789abcdef\r\n2\r\n\xc3\xbc\r\n0\r\n\r\n")
        await connection.send(ok())

    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        body = [b"a", b"", b"0123456789abcdef", "ü"]
        assert (await fetch(client, method="POST", body=body)).body == b"ok"


async def test_s2_7_head_waits_for_the_first_chunk() -> None:
    go = asyncio.Event()

    async def body() -> Any:
        await go.wait()
        yield b"now"

    async with ScriptedPeer(answering) as peer, Client(peer.origin) as client:
        recorder = send(client, method="POST", body=body())
        await peer.accepted(1)
        await settle(50)
        assert peer.connections[0].received == b""
        go.set()
        assert (await recorder.wait()).body == b"ok"


async def test_s2_7_excess_chunk_is_not_written() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_until(b"\r\n\r\n")
        await connection.closed()

    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        recorder = await fetch(
            client, method="POST", body=iter((b"ab", b"EXCESS")), headers={"content-length": "4"}
        )
        assert isinstance(recorder.error, RequestContentLengthMismatchError)
        await peer.all_closed()
        assert b"EXCESS" not in peer.connections[0].received


async def test_s2_7_short_body_is_not_taken_for_whole() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_until(b"\r\n\r\n")
        await connection.closed()

    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        recorder = await fetch(client, method="POST", body=iter((b"ab",)), headers={"content-length": "4"})
        assert isinstance(recorder.error, RequestContentLengthMismatchError)
        await peer.all_closed()


async def test_s2_7_source_that_raises_after_some_chunks_never_ends_the_chunked_body() -> None:
    def body() -> Any:
        yield b"some"
        raise LookupError("source")

    async def script(connection: PeerConnection) -> None:
        await connection.read_until(b"\r\n\r\n")
        await connection.closed()

    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        recorder = await fetch(client, method="POST", body=body())
        assert isinstance(recorder.error, LookupError)
        await peer.all_closed()
        assert b"0\r\n\r\n" not in peer.connections[0].received


async def test_s2_7_large_body_of_bytes_is_written_as_the_socket_takes_it() -> None:
    go = asyncio.Event()

    async def script(connection: PeerConnection) -> None:
        await connection.read_head()
        await go.wait()
        await connection.read_exactly(size)
        await connection.send(ok())

    size = 32 << 20
    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        recorder = send(client, method="POST", body=bytes(size))
        await recorder.reached("on_request_start")
        await settle(100)
        go.set()
        assert (await recorder.wait()).body == b"ok"


# ------------------------------------------------------------------------------------- responses


LENGTH = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n%s\r\nhalf."
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n%s\r\n5\r\nhalf.\r\n"
CLOSE = b"connection: close\r\n"


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (LENGTH % b"", SocketError),
        (LENGTH % CLOSE, ResponseContentLengthMismatchError),
        (CHUNKED % b"", (SocketError, HTTPParserError)),
        (CHUNKED % CLOSE, HTTPParserError),
        ((CHUNKED % b"") + b"0\r\n", (SocketError, HTTPParserError)),
        ((CHUNKED % b"") + b"0\r\nx-trailer: 1\r\n", (SocketError, HTTPParserError)),
    ],
    ids=["length", "length-close", "chunked", "chunked-close", "before-trailers", "in-trailers"],
)
async def test_s2_7_truncated_response_is_an_error(response: bytes, kind: Any) -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(response)
        connection.close()

    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        recorder = await fetch(client)
        assert isinstance(recorder.error, kind)
        assert recorder.body == b"half."
        assert isinstance(recorder.error, DodiciError)
        assert recorder.error.status_code == 200
        assert recorder.error.bytes_read == 5


@pytest.mark.parametrize(
    "response",
    [
        ok(b"hello"),
        chunked(b"he", b"llo", trailers="x: y\r\n"),
        b"HTTP/1.1 103 Hints\r\nlink: a\r\n\r\n" + ok(b"hello", "connection: close\r\n"),
    ],
    ids=["length", "chunked", "1xx-close"],
)
@pytest.mark.parametrize("ending", ["close", "reset"])
async def test_s2_7_response_truncated_at_every_byte_never_ends_well(response: bytes, ending: str) -> None:
    cut = 0

    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(response[:cut])
        await settle(3)
        getattr(connection, ending)()

    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        for cut in range(len(response)):
            recorder = await fetch(client)
            assert isinstance(recorder.error, DodiciError), response[:cut]
            assert b"hello".startswith(recorder.body)
        cut = len(response)
        assert (await fetch(client)).body == b"hello"


@pytest.mark.parametrize(
    "response",
    [
        ok(b"hello", "a: b\r\n"),
        chunked(b"he", b"llo", trailers="x: y\r\n"),
        b"HTTP/1.1 103 Hints\r\nlink: a\r\n\r\n" + ok(b"hello"),
    ],
    ids=["length", "chunked", "1xx"],
)
async def test_s2_7_response_byte_by_byte(response: bytes) -> None:
    async def script(connection: PeerConnection) -> None:
        while await connection.next_request() is not None:
            await connection.send_slowly(response)

    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        for _ in range(2):
            recorder = await fetch(client)
            assert recorder.error is None
            assert recorder.body == b"hello"
        assert len(peer.connections) == 1


async def test_s2_7_reset_keeps_its_errno() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(LENGTH % b"")
        await recorder.received(5)
        connection.reset()

    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        recorder = send(client)
        await recorder.wait()
        assert isinstance(recorder.error, SocketError)
        assert isinstance(recorder.error, ConnectionError)
        assert recorder.error.errno == errno.ECONNRESET
        assert recorder.error.code in ("UND_ERR_SOCKET", "ECONNRESET")


@pytest.mark.parametrize("ending", ["close", "half_close"])
async def test_s2_7_close_delimited_body_ends_with_the_connection(ending: str) -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\n\r\nuntil ")
        await recorder.received(6)
        await connection.send(b"the end")
        getattr(connection, ending)()
        await connection.closed()

    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        recorder = send(client)
        await recorder.wait()
        assert recorder.error is None
        assert recorder.body == b"until the end"
        await peer.all_closed()


async def test_s2_7_close_delimited_body_that_is_reset_is_an_error() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\n\r\nuntil ")
        await recorder.received(6)
        connection.reset()

    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        recorder = send(client)
        await recorder.wait()
        assert isinstance(recorder.error, SocketError)


ENDINGS = [
    (ok(b"whole"), {"close", "truncate", "reset"}),
    (chunked(b"whole"), {"close", "truncate", "reset"}),
    (LENGTH % b"", set()),
    (CHUNKED % b"", set()),
    (b"HTTP/1.1 200 OK\r\n\r\nhalf.", {"close"}),
    (b"HTTP/1.1 200 OK\r\ncontent-le", set()),
]


@pytest.mark.parametrize("ending", ["close", "truncate", "reset"])
@pytest.mark.parametrize(
    ("response", "complete"),
    ENDINGS,
    ids=["length", "chunked", "short-length", "short-chunked", "until-close", "head"],
)
async def test_s2_7_tls_that_ends_without_close_notify(
    response: bytes, complete: set[str], ending: str
) -> None:
    """Anybody on the way can make an end without close_notify: it never completes a body."""

    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(response)
        if b"\r\n\r\n" in response:
            await recorder.received(5)
        getattr(connection, ending)()
        await connection.closed()

    async with (
        ScriptedPeer(script, tls=True) as peer,
        Client(peer.origin, connect={"ssl_context": peer.client_context}) as client,
    ):
        recorder = send(client)
        await recorder.wait()
        if ending in complete:
            assert recorder.error is None
        else:
            assert isinstance(recorder.error, DodiciError)

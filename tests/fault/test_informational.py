"""undici.md 2.3: 1xx responses, asked for and not, and floods of them."""

from __future__ import annotations

import asyncio

import pytest
from tests.peers.kit import fetch, now, ok, send, virtual

from dodici import Client, DodiciError, HeadersTimeoutError, SocketError
from dodici.testing import PeerConnection, RecordingHandler, ScriptedPeer


async def test_s2_3_each_1xx_is_one_response_start() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(
            b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n", ok()
        )

    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        recorder = await fetch(client)
        assert [status for status, _ in recorder.informational] == [102, 103]
        assert recorder.informational[1][1]["link"] == "</a>"
        assert recorder.names == ["request_start", *["response_start"] * 3, "response_data", "response_end"]
        assert recorder.status_message == "Fine"


@virtual
async def test_s2_3_each_1xx_restarts_the_headers_timeout() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        for _ in range(5):
            await asyncio.sleep(8)
            await connection.send(b"HTTP/1.1 102 Processing\r\n\r\n")
        await asyncio.sleep(8)
        await connection.send(ok())

    async with ScriptedPeer(script) as peer, Client(peer.origin, headers_timeout=10) as client:
        recorder = await fetch(client)
        assert recorder.error is None
        assert len(recorder.informational) == 5
        assert now() >= 48


@virtual
async def test_s2_3_silence_after_a_1xx_is_a_headers_timeout() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await connection.stall()

    async with ScriptedPeer(script) as peer, Client(peer.origin, headers_timeout=10) as client:
        recorder = await fetch(client)
        assert isinstance(recorder.error, HeadersTimeoutError)
        assert 10 <= now() <= 12


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_s2_3_unsolicited_100_never_ends_the_exchange(method: str) -> None:
    async def script(connection: PeerConnection) -> None:
        for _ in range(2):
            await connection.read_request()
            await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            await connection.send(ok(b"" if method == "HEAD" else b"real"))

    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        for _ in range(2):
            recorder = await fetch(client, method=method)
            assert recorder.status_code == 200
            assert recorder.error is None
            assert [status for status, _ in recorder.informational] == [100]
        assert len(peer.connections) == 1


@pytest.mark.parametrize(
    "fields", [b"", b"connection: upgrade\r\nupgrade: websocket\r\n"], ids=["bare", "upgrade"]
)
async def test_s2_3_101_that_nobody_asked_for_is_a_socket_error(fields: bytes) -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 101 Switching Protocols\r\n", fields, b"\r\n", ok())
        await connection.closed()

    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        recorder = await fetch(client)
        assert isinstance(recorder.error, SocketError)
        assert recorder.status_code is None
        await peer.all_closed()


async def test_s2_3_flood_of_1xx_is_bounded() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        hint = b"HTTP/1.1 103 Early Hints\r\nlink: <" + b"a" * 200 + b">\r\n\r\n"
        while not connection.lost:
            await connection.send(hint * 100)
            await asyncio.sleep(0)

    async with ScriptedPeer(script) as peer, Client(peer.origin, headers_timeout=5) as client:
        recorder = await fetch(client)
        assert isinstance(recorder.error, DodiciError)
        assert not isinstance(recorder.error, TimeoutError)
        assert recorder.count("on_response_start") <= 1000
        await peer.all_closed()


async def test_s2_3_1xx_and_nothing_else() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        connection.close()

    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        recorder = await fetch(client)
        assert isinstance(recorder.error, SocketError)
        assert recorder.names == ["request_start", "response_start", "response_error"]


async def test_s2_3_pause_at_a_1xx_does_not_stop_the_final_head_for_ever() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 103 Early Hints\r\n\r\n", ok())

    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        recorder = RecordingHandler(
            on_response_start=lambda controller, status, *_: controller.pause() if status == 103 else None
        )
        send(client, "/", recorder)
        await recorder.reached("on_response_start")
        recorder.controller.resume()
        assert (await recorder.wait()).body == b"ok"


async def test_s2_3_expect_continue_waits_for_the_100() -> None:
    async def script(connection: PeerConnection) -> None:
        head = await connection.read_head()
        assert head.headers["expect"] == "100-continue"
        assert head.headers["content-length"] == "5"
        for _ in range(50):
            await asyncio.sleep(0)
        assert connection.buffered == b""
        await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await connection.expect(b"hello")
        await connection.send(ok())

    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        recorder = await fetch(client, method="POST", body=b"hello", expect_continue=True)
        assert recorder.body == b"ok"
        assert [status for status, _ in recorder.informational] == [100]


async def test_s2_3_expect_continue_refused_sends_no_body() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_head()
        await connection.send(ok(b"no", status=417))
        await connection.read_eof()

    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        recorder = await fetch(client, method="POST", body=b"hello", expect_continue=True)
        assert (recorder.status_code, recorder.body) == (417, b"no")
        await peer.finished()


@virtual
async def test_s2_3_expect_continue_does_not_wait_for_ever() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_head()
        await connection.expect(b"hello")
        await connection.send(ok())

    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        recorder = await fetch(client, method="POST", body=b"hello", expect_continue=True)
        assert recorder.body == b"ok"
        assert now() <= 5

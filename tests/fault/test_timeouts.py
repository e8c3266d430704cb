"""undici.md 2.6: what each timeout counts, in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.peers.kit import answering, fetch, now, ok, send, virtual

from dodici import (
    BodyTimeoutError,
    Client,
    ConnectTimeoutError,
    HeadersTimeoutError,
    RequestTimeoutError,
)
from dodici.testing import PeerConnection, RecordingHandler, ScriptedPeer

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n"


async def silent(connection: PeerConnection) -> None:
    await connection.stall()


@pytest.mark.parametrize("seconds", [0.2, 1, 10, 300])
def test_s2_6_headers_timeout_is_never_early_and_hardly_late(seconds: float) -> None:
    @virtual
    async def test() -> None:
        async with ScriptedPeer(silent) as peer, Client(peer.origin, headers_timeout=seconds) as client:
            recorder = await fetch(client)
            assert isinstance(recorder.error, HeadersTimeoutError)
            assert seconds <= now() <= seconds + (1.1 if seconds >= 1 else 0.05)
            assert recorder.error.phase == "headers"
            await peer.all_closed()

    test()


@virtual
async def test_s2_6_default_headers_timeout_is_five_minutes() -> None:
    async with ScriptedPeer(silent) as peer, Client(peer.origin) as client:
        assert isinstance((await fetch(client)).error, HeadersTimeoutError)
        assert 300 <= now() <= 302


@virtual
async def test_s2_6_option_of_the_request_comes_first() -> None:
    async with ScriptedPeer(silent) as peer, Client(peer.origin, headers_timeout=100) as client:
        assert isinstance((await fetch(client, headers_timeout=5)).error, HeadersTimeoutError)
        assert 5 <= now() <= 7


@virtual
async def test_s2_6_zero_disables() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await asyncio.sleep(3600)
        await connection.send(HEAD)
        await asyncio.sleep(3600)
        await connection.send(bytes(100))

    async with ScriptedPeer(script) as peer, Client(peer.origin, headers_timeout=0, body_timeout=0) as client:
        recorder = await fetch(client)
        assert recorder.error is None
        assert now() >= 7200


@virtual
async def test_s2_6_headers_timeout_counts_from_the_end_of_the_request() -> None:
    async def body() -> Any:
        for _ in range(20):
            await asyncio.sleep(5)
            yield b"piece"

    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        sent.append(now())
        await connection.stall()

    sent: list[float] = []
    async with ScriptedPeer(script) as peer, Client(peer.origin, headers_timeout=10) as client:
        recorder = await fetch(client, method="POST", body=body())
        assert isinstance(recorder.error, HeadersTimeoutError)
        assert sent[0] >= 100
        assert 10 <= now() - sent[0] <= 12


@virtual
async def test_s2_6_source_may_take_longer_than_the_headers_timeout() -> None:
    async def body() -> Any:
        yield b"one"
        await asyncio.sleep(60)
        yield b"two"

    async with ScriptedPeer(answering) as peer, Client(peer.origin, headers_timeout=10) as client:
        assert (await fetch(client, method="POST", body=body())).body == b"ok"


@pytest.mark.parametrize("kind", ["bytes", "stream"])
def test_s2_6_upload_that_the_server_does_not_read_times_out(kind: str) -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_head()
        await forever.wait()

    async def body() -> Any:
        while True:
            yield bytes(1 << 16)

    @virtual
    async def test() -> None:
        nonlocal forever
        forever = asyncio.Event()
        async with ScriptedPeer(script) as peer, Client(peer.origin, headers_timeout=10) as client:
            recorder = await fetch(
                client, method="POST", body=body() if kind == "stream" else bytes(64 << 20)
            )
            assert isinstance(recorder.error, HeadersTimeoutError)
            assert 10 <= now() <= 25

    forever = asyncio.Event()
    test()


@virtual
async def test_s2_6_headers_timeout_of_a_half_sent_head() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(HEAD[:20])
        await connection.stall()

    async with ScriptedPeer(script) as peer, Client(peer.origin, headers_timeout=10) as client:
        recorder = await fetch(client)
        assert isinstance(recorder.error, HeadersTimeoutError)
        assert 10 <= now() <= 12


@virtual
async def test_s2_6_head_that_drips_forever_is_bounded() -> None:
    """One byte now and then restarts nothing for ever: the head's size is bounded, and so is its time."""

    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\n")
        while not connection.lost:
            await asyncio.sleep(8)
            await connection.send(b"x: " + b"y" * 100 + b"\r\n")

    async with ScriptedPeer(script) as peer, Client(peer.origin, headers_timeout=10) as client:
        recorder = await fetch(client)
        assert recorder.error is not None


@virtual
async def test_s2_6_body_timeout_counts_between_chunks() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(HEAD)
        for _ in range(20):
            await asyncio.sleep(8)
            await connection.send(b"five.")

    async with ScriptedPeer(script) as peer, Client(peer.origin, body_timeout=10) as client:
        recorder = await fetch(client)
        assert recorder.error is None
        assert recorder.body_size == 100


@pytest.mark.parametrize(
    "begun",
    [
        HEAD,
        HEAD + b"some",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfive.",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx-trailer: 1\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
    ],
    ids=["no-body", "body", "no-chunk", "chunk-size", "chunk", "last-chunk", "trailers", "until-close"],
)
def test_s2_6_stall_in_the_body_is_a_body_timeout(begun: bytes) -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(begun)
        await connection.stall()

    @virtual
    async def test() -> None:
        async with ScriptedPeer(script) as peer, Client(peer.origin, body_timeout=10) as client:
            recorder = await fetch(client)
            assert isinstance(recorder.error, BodyTimeoutError)
            assert recorder.error.phase == "body"
            assert 10 <= now() <= 12
            await peer.all_closed()

    test()


@virtual
async def test_s2_6_body_timeout_does_not_run_while_paused_and_begins_anew_after() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(HEAD, b"some")
        await connection.stall()

    async with ScriptedPeer(script) as peer, Client(peer.origin, body_timeout=10) as client:
        recorder = RecordingHandler(on_response_data=lambda controller, _: controller.pause())
        send(client, "/", recorder)
        await recorder.received(4)
        await asyncio.sleep(1000)
        assert not recorder.ended.done()
        since = now()
        recorder.controller.resume()
        await recorder.wait()
        assert isinstance(recorder.error, BodyTimeoutError)
        assert 10 <= now() - since <= 12


@virtual
async def test_s2_6_connect_timeout_covers_tls() -> None:
    async with ScriptedPeer(silent) as peer:
        origin = peer.origin.replace("http:", "https:")
        async with Client(origin, connect={"ssl_context": peer.client_context, "timeout": 10}) as client:
            recorder = await fetch(client)
            assert isinstance(recorder.error, ConnectTimeoutError)
            assert isinstance(recorder.error, TimeoutError)
            assert recorder.names == ["response_error"]
            assert 10 <= now() <= 11
            await peer.all_closed()


@virtual
async def test_s2_6_total_timeout_includes_the_queue() -> None:
    async with ScriptedPeer(silent) as peer:
        client = Client(peer.origin)
        first = send(client, "/hang")
        second = send(client, "/queued", timeout=5)
        await second.wait()
        assert isinstance(second.error, RequestTimeoutError)
        assert second.names == ["response_error"]
        assert second.error.phase in (None, "queue")
        assert 5 <= now() <= 6.1
        assert not first.ended.done()
        await client.destroy()


@virtual
async def test_s2_6_total_timeout_runs_while_paused_and_while_data_flows() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while not connection.lost:
            await connection.send(b"drip")
            await asyncio.sleep(1)

    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        recorder = await fetch(client, timeout=20)
        assert isinstance(recorder.error, RequestTimeoutError)
        assert 20 <= now() <= 22
        since = now()
        paused = RecordingHandler(on_response_start=lambda controller, *_: controller.pause())
        await send(client, "/", paused, timeout=20).wait()
        assert isinstance(paused.error, RequestTimeoutError)
        assert 20 <= now() - since <= 22


@virtual
async def test_s2_6_total_timeout_survives_a_requeue() -> None:
    async def first(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(ok(b"first"))
        await connection.read_request()
        await asyncio.sleep(6)
        connection.close()

    async with ScriptedPeer([first, silent]) as peer, Client(peer.origin) as client:
        await fetch(client)
        since = now()
        recorder = await fetch(client, timeout=10)
        assert isinstance(recorder.error, RequestTimeoutError)
        assert recorder.starts == 2
        assert 10 <= now() - since <= 12


@virtual
async def test_s2_6_timers_of_an_ended_exchange_fire_no_more() -> None:
    async with ScriptedPeer(answering) as peer, Client(peer.origin, keep_alive_timeout=100) as client:
        recorder = await fetch(client, timeout=5, headers_timeout=5, body_timeout=5)
        await asyncio.sleep(50)
        await recorder.wait()
        assert recorder.error is None
        assert client.stats.connected == 1


@virtual
async def test_s2_6_a_head_that_drips_gets_no_more_time() -> None:
    async def drip(connection: PeerConnection) -> None:
        await connection.read_request()
        for byte in b"HTTP/1.1 200 OK\r\n" + b"x-field: value\r\n" * 100:
            await connection.send(bytes([byte]))
            await asyncio.sleep(0.5)

    async with ScriptedPeer(drip) as peer, Client(peer.origin, headers_timeout=5) as client:
        began = now()
        recorder = await fetch(client)
        assert isinstance(recorder.error, HeadersTimeoutError)
        assert 5 <= now() - began < 7

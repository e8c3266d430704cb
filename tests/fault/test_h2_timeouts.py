"""Time over HTTP/2, each stream's own, and peers that take a body slowly or not at all."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import Any

import pytest
from tests.peers.h2_kit import DATA, HEADERS, RST_STREAM, H2Peer, h2_script, h2c_pool, serving
from tests.peers.kit import fetch, now, send, virtual

from dodici import BodyTimeoutError, Client, H2CClient, HeadersTimeoutError, RequestTimeoutError
from dodici.testing import PeerConnection, RecordingHandler, ScriptedPeer


async def pieces(size: int) -> Any:
    for _ in range(0, size, 4096):
        yield bytes(4096)


@virtual
async def test_timeouts_are_each_streams_own() -> None:
    async def play(peer: H2Peer) -> None:
        headers, body, total, slow = await peer.requests(4)
        await peer.head(body.stream)
        await peer.data(body.stream, b"some")
        await peer.head(total.stream)
        await peer.head(slow.stream)
        for _ in range(10):
            await asyncio.sleep(15)
            await peer.data(slow.stream, b"x")
            await peer.data(total.stream, b"x")
        await peer.data(slow.stream, end=True)
        log = await peer.rest()
        resets = [each.stream for each in log if each.kind == RST_STREAM]
        assert resets == [headers.stream, body.stream, total.stream]

    async with ScriptedPeer(h2_script(play)) as peer:
        async with H2CClient(peer.origin, ping_interval=0) as client:
            began = now()
            headers = send(client, headers_timeout=20)
            body = send(client, body_timeout=30)
            total = send(client, timeout=100)
            slow = send(client, body_timeout=20)
            for recorder, kind, seconds in (
                (headers, HeadersTimeoutError, 20),
                (body, BodyTimeoutError, 30),
                (total, RequestTimeoutError, 100),
            ):
                await recorder.wait()
                assert isinstance(recorder.error, kind)
                assert seconds <= now() - began <= seconds + 3
            await slow.wait()
            assert slow.body == b"x" * 10
            assert len(peer.connections) == 1


@pytest.mark.parametrize("seconds", [0.1, 1, 60])
def test_headers_timeout_is_never_early_and_hardly_late(seconds: float) -> None:
    @virtual
    async def test() -> None:
        async def play(peer: H2Peer) -> None:
            await peer.request()

        async with ScriptedPeer(h2_script(play)) as peer:
            async with H2CClient(peer.origin, headers_timeout=seconds) as client:
                recorder = await fetch(client)
                assert isinstance(recorder.error, HeadersTimeoutError)
                assert seconds <= now() <= seconds + (1.2 if seconds >= 1 else 0.05)

    test()


@virtual
async def test_no_body_timeout_while_paused() -> None:
    async def play(peer: H2Peer) -> None:
        stream = (await peer.request()).stream
        await peer.head(stream)
        await peer.data(stream, b"some")

    async with ScriptedPeer(h2_script(play)) as peer:
        async with H2CClient(peer.origin, body_timeout=10, ping_interval=0) as client:
            recorder = RecordingHandler(on_response_data=lambda controller, _: controller.pause())
            send(client, "/", recorder)
            await recorder.received(4)
            await asyncio.sleep(500)
            assert not recorder.ended.done()
            recorder.controller.resume()
            assert isinstance((await recorder.wait()).error, BodyTimeoutError)
            assert 510 <= now() <= 513


@virtual
async def test_queue_counts_in_the_total() -> None:
    async def play(peer: H2Peer) -> None:
        await peer.request()

    async with ScriptedPeer(h2_script(play)) as peer:
        async with H2CClient(peer.origin, max_concurrent_streams=1) as client:
            first = send(client, timeout=50)
            second = await send(client, timeout=20).wait()
            assert isinstance(second.error, RequestTimeoutError)
            assert second.starts == 0
            assert isinstance((await first.wait()).error, RequestTimeoutError)
            assert client.stats.size == 0


# -- an upload that stalls ---------------------------------------------------------------------------------


@virtual
async def test_window_that_stays_closed_is_a_timeout() -> None:
    async def play(peer: H2Peer) -> None:
        stream = (await peer.request()).stream
        await peer.next(RST_STREAM, stream=stream)
        assert peer.count(HEADERS) == 1

    async with ScriptedPeer(h2_script(play)) as peer:
        async with H2CClient(peer.origin, headers_timeout=30, ping_interval=0) as client:
            recorder = await fetch(client, method="POST", body=pieces(4 << 20))
            assert isinstance(recorder.error, HeadersTimeoutError)
            assert 30 <= now() <= 33
            assert client.stats.size == 0


@virtual
async def test_slow_upload_that_moves_is_none() -> None:
    async def play(peer: H2Peer) -> None:
        stream = (await peer.request()).stream
        taken, window = 0, 65_535
        while taken < 600_000:
            got = await peer.next(DATA, stream=stream)
            taken += len(got.payload)
            window -= len(got.payload)
            if not window:
                await asyncio.sleep(20)
                window = 40_000
                await peer.window(0, window)
                await peer.window(stream, window)
        await peer.respond(stream)

    async with ScriptedPeer(h2_script(play)) as peer:
        async with H2CClient(peer.origin, headers_timeout=30, ping_interval=0) as client:
            recorder = await fetch(client, method="POST", body=pieces(600_000))
            assert recorder.error is None, (now(), recorder.summary())
            assert now() > 100


# -- a peer that does not read -----------------------------------------------------------------------------


async def test_slow_reader_bounds_our_memory() -> None:
    # Its windows are wide open, so that only the transport says stop.
    go_on = asyncio.Event()
    size = 32 << 20

    async def script(connection: PeerConnection) -> None:
        peer = H2Peer(connection)
        await peer.start({4: 2**31 - 1})
        await peer.window(0, 2**31 - 1 - 65_535)
        stream = (await peer.request()).stream
        await go_on.wait()
        got = 0
        while True:
            each = await peer.next(DATA, stream=stream)
            got += len(each.payload)
            peer.log.clear()
            if each.ends:
                break
        assert got == size
        await peer.respond(stream)
        await peer.rest()

    async def source() -> Any:
        for _ in range(size // 65_536):
            yield bytes(65_536)

    async with ScriptedPeer([script, serving()]) as peer, h2c_pool(peer.origin) as pool:
        upload = send(pool, method="POST", body=source())
        await peer.accepted(1)
        tracemalloc.start()
        last = -1
        while upload.controller is None or upload.controller.bytes_sent != last:
            last = upload.controller.bytes_sent if upload.controller is not None else -1
            await asyncio.sleep(0.02)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 8 << 20
        assert upload.controller.bytes_sent < size // 2
        async with Client(peer.origin, use_h2c=True) as other:
            assert (await fetch(other)).body == b"ok"
        go_on.set()
        assert (await upload.wait()).body == b"ok"


async def test_farewell_to_a_peer_that_does_not_read() -> None:
    async def script(connection: PeerConnection) -> None:
        peer = H2Peer(connection)
        await peer.start({4: 2**31 - 1})
        await peer.window(0, 2**31 - 1 - 65_535)
        await peer.request()
        connection.transport.pause_reading()
        await asyncio.Event().wait()

    async with ScriptedPeer(script) as peer:
        client = H2CClient(peer.origin)
        recorder = send(client, method="POST", body=bytes(64 << 20))
        last = -1
        while recorder.controller is None or recorder.controller.bytes_sent != last:
            last = recorder.controller.bytes_sent if recorder.controller is not None else -1
            await asyncio.sleep(0.02)
        async with asyncio.timeout(5):
            await client.destroy()
        await recorder.wait()
        assert client.stats.size == 0
        assert client.sockets == set()

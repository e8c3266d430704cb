"""undici.md 2.2: what abort and pause do to the connection and to its other requests."""

from __future__ import annotations

import asyncio

import pytest
from tests.peers.kit import Events, answering, chunked, fetch, ok, send

from dodici import Client, InformationalError, Pool, RequestAbortedError, SocketError
from dodici.testing import PeerConnection, RecordingHandler, ScriptedPeer, settle


async def test_s2_2_abort_in_request_start_writes_nothing_and_keeps_the_connection() -> None:
    async with ScriptedPeer(answering) as peer, Client(peer.origin) as client:
        await fetch(client, "/first")
        recorder = send(
            client, "/never", RecordingHandler(on_request_start=lambda controller, _: controller.abort())
        )
        await recorder.wait()
        assert isinstance(recorder.error, RequestAbortedError)
        assert (await fetch(client, "/second")).body == b"ok"
        assert [request.target for request in peer.requests] == ["/first", "/second"]
        await client.close()
        await peer.all_closed()
        assert b"/never" not in peer.connections[0].received


async def test_s2_2_abort_before_the_head_closes_the_connection() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        arrived.set()
        await connection.closed()

    arrived = asyncio.Event()
    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        events = Events(client)
        recorder = send(client)
        await arrived.wait()
        recorder.controller.abort()
        await recorder.wait()
        await events.wait("disconnect")
        assert events.errors()[0].code == "UND_ERR_INFO"
        await peer.all_closed()


async def test_s2_2_abort_in_mid_body_requeues_the_pipelined_ones() -> None:
    async def first(connection: PeerConnection) -> None:
        for _ in range(3):
            await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart")
        await connection.closed()

    async def second(connection: PeerConnection) -> None:
        for path in ("/b", "/c"):
            assert (await connection.read_request()).target == path
            await connection.send(ok(path.encode()))
        await connection.closed()

    async with ScriptedPeer([first, second]) as peer, Client(peer.origin, pipelining=3) as client:
        a, b, c = (send(client, path, blocking=False) for path in ("/a", "/b", "/c"))
        await a.received(4)
        a.controller.abort()
        await a.wait()
        assert isinstance(a.error, RequestAbortedError)
        for recorder, body in ((b, b"/b"), (c, b"/c")):
            await recorder.wait()
            assert recorder.body == body
            assert recorder.starts == 2


async def test_s2_2_abort_of_the_only_request_opens_no_connection() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        arrived.set()
        await connection.closed()

    arrived = asyncio.Event()
    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        recorder = send(client)
        await arrived.wait()
        recorder.controller.abort()
        await recorder.wait()
        await peer.all_closed()
        await settle(100)
        assert len(peer.connections) == 1


async def test_s2_2_abort_while_connecting_gives_the_attempt_up() -> None:
    connecting, cancelled = asyncio.Event(), asyncio.Event()

    async def connect(*_: object) -> None:
        connecting.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with Client("http://example.invalid", connect=connect) as client:
        events = Events(client)
        recorder = send(client)
        await connecting.wait()
        recorder.controller.abort()
        await recorder.wait()
        assert recorder.names == ["response_error"]
        await cancelled.wait()
        assert events.names == ["drain"]
        assert client.stats.size == 0


async def test_s2_2_abort_while_queued_leaves_the_connection_alone() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await release.wait()
        await connection.send(ok())
        assert (await connection.read_request()).target == "/third"
        await connection.send(ok())

    release = asyncio.Event()
    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        first, queued, third = (send(client, path) for path in ("/first", "/queued", "/third"))
        await first.reached("on_request_start")
        queued.controller.abort("changed my mind")
        await queued.wait()
        assert queued.names == ["response_error"]
        assert client.stats.size == 2
        release.set()
        assert (await first.wait()).body == b"ok"
        assert (await third.wait()).body == b"ok"
        await peer.finished()


async def test_s2_2_pause_stops_the_reading_of_the_socket() -> None:
    sent = 0

    async def script(connection: PeerConnection) -> None:
        nonlocal sent
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (piece * pieces))
        for _ in range(pieces):
            await connection.send(bytes(piece))
            sent += piece

    piece, pieces = 1 << 20, 64
    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        recorder = RecordingHandler(
            keep_body=False, on_response_data=lambda controller, _: controller.pause()
        )
        send(client, "/", recorder)
        await recorder.received(1)
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.05)  # until the kernel's buffers are full, which no event tells
        assert sent < piece * pieces // 2
        assert recorder.count("on_response_data") == 1
        recorder._hooks.clear()
        recorder.controller.resume()
        await recorder.wait()
        assert recorder.body_size == piece * pieces
        await peer.finished()


@pytest.mark.parametrize(
    "response",
    [ok(b"all of it"), chunked(b"all ", b"of it"), b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nall of it"],
    ids=["length", "chunked", "until-close"],
)
@pytest.mark.parametrize("ending", ["close", "half_close"])
async def test_s2_2_end_of_the_connection_while_paused_is_told_after_the_body(
    response: bytes, ending: str
) -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(response)
        getattr(connection, ending)()
        ended.set()

    ended = asyncio.Event()
    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        recorder = RecordingHandler(on_response_start=lambda controller, *_: controller.pause())
        send(client, "/", recorder)
        await recorder.reached("on_response_start")
        await ended.wait()
        await settle(50)
        assert recorder.names == ["request_start", "response_start"]
        recorder.controller.resume()
        await recorder.wait()
        assert recorder.error is None
        assert recorder.body == b"all of it"


async def test_s2_2_truncation_while_paused_is_told_after_what_arrived() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome")
        connection.close()
        ended.set()

    ended = asyncio.Event()
    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        recorder = RecordingHandler(on_response_start=lambda controller, *_: controller.pause())
        send(client, "/", recorder)
        await recorder.reached("on_response_start")
        await ended.wait()
        await settle(50)
        assert not recorder.ended.done()
        recorder.controller.resume()
        await recorder.wait()
        assert recorder.body == b"some"
        assert isinstance(recorder.error, SocketError)


async def test_s2_2_reset_while_paused_ends_the_exchange_after_the_resume() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome")
        await paused.wait()
        connection.reset()

    paused = asyncio.Event()
    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        recorder = RecordingHandler(on_response_data=lambda controller, _: controller.pause())
        send(client, "/", recorder)
        await recorder.received(4)
        paused.set()
        await peer.finished()
        await settle(50)
        recorder.controller.resume()
        await recorder.wait()
        assert isinstance(recorder.error, SocketError)


async def test_s2_2_abort_while_paused_closes_the_connection() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome")
        await connection.closed()

    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        recorder = RecordingHandler(on_response_start=lambda controller, *_: controller.pause())
        send(client, "/", recorder)
        await recorder.reached("on_response_start")
        recorder.controller.abort()
        await recorder.wait()
        await peer.all_closed()


async def test_s2_2_pause_of_one_stalls_those_behind_it() -> None:
    async def script(connection: PeerConnection) -> None:
        for _ in range(3):
            await connection.read_request()
        await connection.send(ok(b"a") + ok(b"b") + ok(b"c"))
        await connection.closed()

    async with ScriptedPeer(script) as peer, Client(peer.origin, pipelining=3) as client:
        a = RecordingHandler(on_response_start=lambda controller, *_: controller.pause())
        send(client, "/a", a, blocking=False)
        b, c = (send(client, path, blocking=False) for path in ("/b", "/c"))
        await a.reached("on_response_start")
        await settle(50)
        assert b.names == c.names == ["request_start"]
        a.controller.resume()
        for recorder, body in ((a, b"a"), (b, b"b"), (c, b"c")):
            assert (await recorder.wait()).body == body


async def test_s2_2_pause_before_the_turn_of_a_pipelined_response() -> None:
    async def script(connection: PeerConnection) -> None:
        for _ in range(2):
            await connection.read_request()
        await connection.send(ok(b"a") + ok(b"b"))
        await connection.closed()

    async with ScriptedPeer(script) as peer, Client(peer.origin, pipelining=2) as client:
        a = send(client, "/a", blocking=False)
        b = RecordingHandler(on_request_start=lambda controller, _: controller.pause())
        send(client, "/b", b, blocking=False)
        assert (await a.wait()).body == b"a"
        await settle(50)
        assert "response_data" not in b.names
        assert not b.ended.done()
        b.controller.resume()
        assert (await b.wait()).body == b"b"


async def test_s2_2_aborted_request_does_not_hold_its_slot() -> None:
    async def script(connection: PeerConnection) -> None:
        request = await connection.read_request()
        if request.target == "/hang":
            await connection.closed()
        else:
            await connection.send(ok())
            await connection.closed()

    async with ScriptedPeer(script) as peer, Pool(peer.origin, connections=1) as pool:
        events = Events(pool)
        hanging = send(pool, "/hang")
        waiting = send(pool, "/")
        await hanging.reached("on_request_start")
        await peer.accepted(1)
        hanging.controller.abort()
        assert (await waiting.wait()).body == b"ok"
        assert pool.stats.size == 0
        assert any(isinstance(error, InformationalError) for error in events.errors())

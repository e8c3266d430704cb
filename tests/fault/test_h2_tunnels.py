"""CONNECT (RFC 9113 8.5) and extended CONNECT (RFC 8441): a stream that becomes a socket."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.peers.h2_kit import (
    CANCEL,
    CONNECT_PROTOCOL,
    DATA,
    INTERNAL_ERROR,
    RST_STREAM,
    WINDOW_UPDATE,
    H2Peer,
    h2_script,
    serving,
    warm,
)
from tests.peers.kit import Events, fetch, send

from dodici import H2CClient, SocketError
from dodici.testing import RecordingHandler, ScriptedPeer, settle

WEBSOCKETS = {CONNECT_PROTOCOL: 1}
KINDS = pytest.mark.parametrize("kind", ["connect", "websocket"])


def options(kind: str) -> dict[str, Any]:
    return (
        {"method": "CONNECT", "path": "example.com:443"}
        if kind == "connect"
        else {"path": "/chat", "upgrade": "websocket"}
    )


def begin(client: Any, kind: str, recorder: RecordingHandler | None = None) -> RecordingHandler:
    given = options(kind)
    return send(client, given.pop("path"), recorder, **given)


async def opened(peer: H2Peer) -> int:
    """Accept the next tunnel; its stream."""
    request = await peer.request()
    assert not request.ends
    await peer.head(request.stream)
    return request.stream


async def echo(peer: H2Peer, stream: int) -> None:
    """Send back what comes, up to its end, within the client's window."""
    credit, waiting, ended = 524_288, b"", False
    while not ended or waiting:
        got = await peer.next(DATA, WINDOW_UPDATE, stream=stream)
        if got.kind == WINDOW_UPDATE:
            credit += got.number
        elif got.payload:
            await peer.window(0, len(got.payload))
            await peer.window(stream, len(got.payload))
            waiting += got.payload
        ended = ended or got.ends
        piece, waiting = waiting[:credit], waiting[credit:]
        credit -= len(piece)
        if piece:
            await peer.data(stream, piece)
    await peer.data(stream, end=True)


@KINDS
async def test_what_is_asked(kind: str) -> None:
    async def play(peer: H2Peer) -> None:
        request = await peer.request()
        pseudo = {name: value for name, value in request.fields.items() if name.startswith(":")}
        if kind == "connect":
            assert pseudo == {":method": "CONNECT", ":authority": "example.com:443"}
        else:
            assert pseudo == {
                ":method": "CONNECT",
                ":protocol": "websocket",
                ":scheme": "http",
                ":path": "/chat",
                ":authority": f"127.0.0.1:{peer.connection._peer.port}",
            }
        assert request.fields.get("sec-websocket-version") == ("13" if kind == "websocket" else None)
        await peer.head(request.stream, 200, x_a="b")
        await echo(peer, request.stream)

    async with ScriptedPeer(h2_script(play, WEBSOCKETS)) as peer, H2CClient(peer.origin) as client:
        given = options(kind)
        if kind == "websocket":
            given["headers"] = {"sec-websocket-version": "13"}
        recorder = await fetch(client, given.pop("path"), **given)
        assert recorder.names == ["request_start", "request_upgrade"]
        assert recorder.headers is not None
        assert recorder.headers["x-a"] == "b"
        async with recorder.socket:
            pass


@KINDS
async def test_echo_and_half_close(kind: str) -> None:
    async def play(peer: H2Peer) -> None:
        await echo(peer, await opened(peer))
        await peer.serve()
        assert peer.count(RST_STREAM) == 0

    async with ScriptedPeer(h2_script(play, WEBSOCKETS)) as peer, H2CClient(peer.origin) as client:
        recorder = await begin(client, kind).wait()
        socket = recorder.socket
        large = bytes(range(256)) * 8192
        writing = asyncio.ensure_future(socket.write(large))
        assert await socket.read_exactly(len(large)) == large
        await writing
        await socket.write(b"last")
        socket.write_eof()
        assert await socket.read() == b"last"
        socket.close()
        await socket.wait_closed()
        assert (await fetch(client)).body == b"ok"
        assert len(peer.connections) == 1
        assert client.stats.size == 0


async def test_tunnel_beside_requests_counts_as_a_stream() -> None:
    async def play(peer: H2Peer) -> None:
        await peer.respond((await peer.request()).stream)
        stream = await opened(peer)
        await peer.respond((await peer.request()).stream)
        await peer.next(DATA, stream=stream)
        await peer.data(stream, end=True)
        await peer.serve()

    async with ScriptedPeer(h2_script(play, WEBSOCKETS)) as peer, H2CClient(peer.origin) as client:
        await warm(client)
        recorder = await begin(client, "connect").wait()
        assert (await fetch(client)).body == b"ok"
        await recorder.socket.write(b"x")
        recorder.socket.write_eof()
        assert await recorder.socket.read() == b""
        recorder.socket.close()
        await recorder.socket.wait_closed()
        assert len(peer.connections) == 1


@KINDS
async def test_refused_is_an_ordinary_response(kind: str) -> None:
    async def play(peer: H2Peer) -> None:
        await peer.respond((await peer.request()).stream, b"no", 403)
        await peer.serve()

    async with ScriptedPeer(h2_script(play, WEBSOCKETS)) as peer, H2CClient(peer.origin) as client:
        recorder = await begin(client, kind).wait()
        assert (recorder.status_code, recorder.body) == (403, b"no")
        assert (await fetch(client)).body == b"ok"
        assert len(peer.connections) == 1
        assert client.stats.size == 0


async def test_reader_that_does_not_read_holds_the_peer_back() -> None:
    window = 1_000_000
    full, read = asyncio.Event(), asyncio.Event()

    async def play(peer: H2Peer) -> None:
        stream = await opened(peer)
        await peer.data(stream, bytes(window))
        await peer.ping()
        given = sum(each.number for each in peer.log if each.kind == WINDOW_UPDATE and each.stream == stream)
        assert given <= 700_000  # what the reader holds at most, and not the rest
        full.set()
        await read.wait()
        while given < window // 2:
            given += (await peer.next(WINDOW_UPDATE, stream=stream)).number
        await peer.data(stream, b"end", end=True)

    async with ScriptedPeer(h2_script(play)) as peer:
        async with H2CClient(peer.origin, initial_window_size=window) as client:
            recorder = await begin(client, "connect").wait()
            await full.wait()
            read.set()
            assert len(await recorder.socket.read_exactly(window)) == window
            assert await recorder.socket.read() == b"end"
            recorder.socket.close()
            await recorder.socket.wait_closed()


async def test_writer_waits_for_the_window() -> None:
    go_on = asyncio.Event()

    async def play(peer: H2Peer) -> None:
        stream = await opened(peer)
        await go_on.wait()
        await peer.window(0, 1 << 20)
        await peer.window(stream, 1 << 20)
        got = 0
        while got < 500_000:
            got += len((await peer.next(DATA, stream=stream)).payload)
        await peer.data(stream, end=True)

    async with ScriptedPeer(h2_script(play)) as peer, H2CClient(peer.origin) as client:
        socket = (await begin(client, "connect").wait()).socket
        writing = asyncio.ensure_future(socket.write(bytes(500_000)))
        await settle(200)
        assert not writing.done()
        go_on.set()
        await writing
        assert await socket.read() == b""
        socket.close()
        await socket.wait_closed()


async def test_close_sends_what_was_written() -> None:
    async def play(peer: H2Peer) -> None:
        stream = await opened(peer)
        assert await peer.body(stream) == bytes(300_000)
        await peer.data(stream, end=True)

    async with ScriptedPeer(h2_script(play)) as peer, H2CClient(peer.origin) as client:
        socket = (await begin(client, "connect").wait()).socket
        socket.writer.write(bytes(300_000))
        socket.close()
        await socket.wait_closed()


async def test_abort_resets_the_stream() -> None:
    async def play(peer: H2Peer) -> None:
        stream = await opened(peer)
        assert (await peer.next(RST_STREAM, stream=stream)).number == CANCEL
        await peer.serve()

    async with ScriptedPeer(h2_script(play)) as peer, H2CClient(peer.origin) as client:
        socket = (await begin(client, "connect").wait()).socket
        socket.abort()
        await socket.wait_closed()
        assert (await fetch(client)).body == b"ok"
        assert len(peer.connections) == 1


@pytest.mark.parametrize("ending", ["reset", "close", "abort"])
async def test_loss_is_told_to_reader_and_writer(ending: str) -> None:
    async def play(peer: H2Peer) -> None:
        stream = await opened(peer)
        await peer.data(stream, b"first")
        await peer.next(DATA, stream=stream)
        if ending == "reset":
            await peer.reset(stream, INTERNAL_ERROR)
        elif ending == "close":
            peer.connection.close()
        else:
            peer.connection.reset()
        await peer.serve()

    async with ScriptedPeer([h2_script(play), serving()]) as peer, H2CClient(peer.origin) as client:
        socket = (await begin(client, "connect").wait()).socket
        assert await socket.read_exactly(5) == b"first"
        await socket.write(b"go")
        with pytest.raises(SocketError):
            await socket.read()
        with pytest.raises(SocketError):
            await socket.write(b"more")
        await socket.wait_closed()
        assert (await fetch(client)).body == b"ok"
        assert client.stats.size == 0


async def test_goaway_leaves_a_tunnel_alone() -> None:
    async def play(peer: H2Peer) -> None:
        stream = await opened(peer)
        await peer.goaway(stream)
        await echo(peer, stream)

    async with ScriptedPeer([h2_script(play), serving()]) as peer, H2CClient(peer.origin) as client:
        events = Events(client)
        socket = (await begin(client, "connect").wait()).socket
        await events.wait("disconnect")
        assert (await fetch(client)).body == b"ok"
        await socket.write(b"still here")
        assert await socket.read_exactly(10) == b"still here"
        socket.write_eof()
        assert await socket.read() == b""
        socket.close()
        await socket.wait_closed()
        await peer.wait_for(lambda peer: peer.connections[0].lost)


async def test_goaway_that_denies_a_tunnel_ends_it() -> None:
    async def play(peer: H2Peer) -> None:
        await opened(peer)
        await peer.goaway(0)

    async with ScriptedPeer([h2_script(play), serving()]) as peer, H2CClient(peer.origin) as client:
        socket = (await begin(client, "connect").wait()).socket
        with pytest.raises(SocketError, match="GOAWAY"):
            await socket.read()
        await socket.wait_closed()
        assert (await fetch(client)).body == b"ok"
        await peer.wait_for(lambda peer: peer.connections[0].lost)


@pytest.mark.parametrize("how", ["close", "destroy"])
async def test_dispatcher_that_goes_away_takes_no_tunnel_along(how: str) -> None:
    """An upgraded socket is its owner's: what HTTP/1 promises by letting go of the connection."""

    async def play(peer: H2Peer) -> None:
        await echo(peer, await opened(peer))

    async with ScriptedPeer(h2_script(play)) as peer:
        client = H2CClient(peer.origin)
        socket = (await begin(client, "connect").wait()).socket
        ending = asyncio.ensure_future(getattr(client, how)())
        await settle()
        await socket.write(b"mine")
        assert await socket.read_exactly(4) == b"mine"
        socket.write_eof()
        assert await socket.read() == b""
        socket.close()
        await socket.wait_closed()
        await asyncio.wait_for(ending, 5)
        await peer.all_closed()


async def test_callback_that_raises_closes_the_tunnel() -> None:
    async def play(peer: H2Peer) -> None:
        stream = await opened(peer)
        assert (await peer.next(RST_STREAM, stream=stream)).number == CANCEL
        await peer.serve()

    error = ZeroDivisionError()

    def fail(*_: Any) -> None:
        raise error

    async with ScriptedPeer(h2_script(play)) as peer, H2CClient(peer.origin) as client:
        recorder = begin(client, "connect", RecordingHandler(on_request_upgrade=fail))
        await recorder.ended
        await settle()
        assert recorder.error is error
        assert (await fetch(client)).body == b"ok"
        assert client.stats.size == 0

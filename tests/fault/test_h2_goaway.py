"""GOAWAY, REFUSED_STREAM and RST_STREAM: what is sent again, what fails, and what goes on where it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.peers.h2_kit import (
    CANCEL,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    HEADERS,
    INTERNAL_ERROR,
    NO_ERROR,
    NOTHING_LOST,
    REFUSED_STREAM,
    H2Peer,
    h2_script,
    h2c_pool,
    serving,
    warm,
)
from tests.peers.kit import Events, fetch, send

from dodici import H2CClient, HTTP2Error, InformationalError, SocketError, StreamResetError
from dodici.testing import RecordingHandler, ScriptedPeer, settle


async def warmed(peer: H2Peer) -> None:
    await peer.respond((await peer.request()).stream, b"warm")


# -- GOAWAY ------------------------------------------------------------------------------------------------


async def test_graceful_goaway_moves_what_is_new() -> None:
    # RFC 9113 6.8: first 2^31-1, so that nobody begins anything more, then the number that counts.
    go_on = asyncio.Event()

    async def play(peer: H2Peer) -> None:
        await warmed(peer)
        old = await peer.requests(2)
        await peer.goaway(NOTHING_LOST)
        await peer.ping()
        await peer.goaway(old[-1].stream)
        await go_on.wait()
        for request in old:
            await peer.respond(request.stream, b"old")
        await peer.next(GOAWAY)
        assert peer.count(HEADERS) == 3

    async with ScriptedPeer([h2_script(play), serving()]) as peer, h2c_pool(peer.origin) as pool:
        events = Events(pool)
        await warm(pool)
        old = [send(pool) for _ in range(2)]
        await events.wait("disconnect")
        assert isinstance(events.errors()[0], InformationalError)
        assert (await fetch(pool)).body == b"ok"
        assert pool.stats.running == 2
        go_on.set()
        for recorder in old:
            assert (await recorder.wait()).body == b"old"
            assert recorder.starts == 1
        assert pool.stats.size == pool.stats.retries == 0
        assert events.names == ["connect", "disconnect", "connect"]


async def test_streams_above_the_last_are_sent_again() -> None:
    async def play(peer: H2Peer) -> None:
        requests = await peer.requests(3)
        await peer.goaway(requests[0].stream)
        await peer.respond(requests[0].stream, b"first")

    async with ScriptedPeer([h2_script(play, {}), serving()]) as peer, H2CClient(peer.origin) as client:
        recorders = [send(client, method="POST", body=b"x") for _ in range(3)]
        assert (await recorders[0].wait()).body == b"first"
        for recorder in recorders[1:]:
            await recorder.wait()
            assert (recorder.body, recorder.starts) == (b"ok", 2)
        assert client.stats.retries == 2
        assert client.stats.size == 0


async def test_sent_again_once_and_in_order() -> None:
    async def play(peer: H2Peer) -> None:
        assert [request.path for request in await peer.requests(2)] == ["/0", "/1"]
        await peer.goaway(0, ENHANCE_YOUR_CALM, b"too hot")

    async with ScriptedPeer([h2_script(play)] * 2) as peer, H2CClient(peer.origin) as client:
        events = Events(client)
        for recorder in [send(client, f"/{number}") for number in range(2)]:
            await recorder.wait()
            assert isinstance(recorder.error, HTTP2Error)
            assert recorder.error.request_not_processed
            assert recorder.error.error_code == ENHANCE_YOUR_CALM
            assert "too hot" in str(recorder.error)
            assert recorder.starts == 2
        await events.wait("disconnect", 2)
        assert all(isinstance(error, HTTP2Error) for error in events.errors())
        assert client.stats.size == 0
        assert client.stats.retries == 2


async def test_streamed_body_is_not_sent_again() -> None:
    async def play(peer: H2Peer) -> None:
        request = await peer.request()
        await peer.body(request.stream)
        await peer.goaway(0)

    closed = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        try:
            yield b"piece"
        finally:
            closed.set()

    async with ScriptedPeer([h2_script(play), serving()]) as peer, H2CClient(peer.origin) as client:
        recorder = await send(client, method="POST", body=body()).wait()
        assert isinstance(recorder.error, HTTP2Error)
        assert recorder.error.request_not_processed
        assert recorder.starts == 1
        await closed.wait()
        assert (await fetch(client)).body == b"ok"


async def test_goaway_on_an_idle_connection() -> None:
    async def play(peer: H2Peer) -> None:
        await warmed(peer)
        await peer.goaway(1)

    async with ScriptedPeer([h2_script(play), serving()]) as peer, h2c_pool(peer.origin) as pool:
        events = Events(pool)
        await warm(pool)
        await events.wait("disconnect")
        assert (await fetch(pool)).body == b"ok"
        assert pool.stats.size == 0


async def test_goaway_and_the_end_at_once() -> None:
    # What it says it has taken is not repeated unless it may be.
    async def play(peer: H2Peer) -> None:
        await warmed(peer)
        requests = await peer.requests(3)
        await peer.goaway(requests[1].stream, INTERNAL_ERROR)
        peer.connection.close()

    async with ScriptedPeer([h2_script(play), serving()]) as peer, H2CClient(peer.origin) as client:
        await warm(client)
        first = send(client, "/get")
        second = send(client, "/post", method="POST", body=b"x")
        third = send(client, "/third", method="POST", body=b"x")
        assert (await first.wait()).body == b"ok"
        await second.wait()
        assert isinstance(second.error, HTTP2Error)
        assert second.error.error_code == INTERNAL_ERROR
        assert not second.error.request_not_processed
        assert (await third.wait()).body == b"ok"
        assert client.stats.size == 0


async def test_goaway_with_a_higher_number_than_before_breaks_the_protocol() -> None:
    async def play(peer: H2Peer) -> None:
        await peer.request()
        await peer.goaway(1)
        await peer.goaway(3)
        assert (await peer.next(GOAWAY)).number == 1

    async with ScriptedPeer([h2_script(play), serving()]) as peer, H2CClient(peer.origin) as client:
        assert isinstance((await fetch(client)).error, HTTP2Error)
        assert (await fetch(client)).body == b"ok"


async def test_pause_and_goaway() -> None:
    # A paused stream that the server goes on with goes on; what it holds is delivered on the old connection.
    async def play(peer: H2Peer) -> None:
        await warmed(peer)
        stream = (await peer.request()).stream
        await peer.head(stream)
        await peer.data(stream, b"a" * 1000)
        await peer.goaway(stream)
        await peer.data(stream, b"b" * 1000, end=True)
        await peer.ping()

    async with ScriptedPeer([h2_script(play), serving()]) as peer, H2CClient(peer.origin) as client:
        events = Events(client)
        await warm(client)
        recorder = RecordingHandler(on_response_start=lambda controller, *_: controller.pause())
        send(client, "/", recorder)
        await events.wait("disconnect")
        assert (await fetch(client)).body == b"ok"
        assert recorder.body == b""
        assert client.stats.running == 1
        recorder.controller.resume()
        assert (await recorder.wait()).body == b"a" * 1000 + b"b" * 1000
        assert client.stats.size == 0


async def test_close_waits_for_streams_of_connections_that_said_goaway() -> None:
    go_on = asyncio.Event()

    async def play(peer: H2Peer) -> None:
        await warmed(peer)
        stream = (await peer.request()).stream
        await peer.goaway(stream)
        await go_on.wait()
        await peer.respond(stream)

    async with ScriptedPeer(h2_script(play)) as peer:
        pool = h2c_pool(peer.origin)
        events = Events(pool)
        await warm(pool)
        recorder = send(pool)
        await events.wait("disconnect")
        closing = asyncio.ensure_future(pool.close())
        await settle(50)
        assert not closing.done()
        go_on.set()
        assert (await recorder.wait()).body == b"ok"
        await closing
        await peer.all_closed()


@pytest.mark.parametrize("kind", ["client", "pool"])
async def test_destroy_fails_streams_of_connections_that_said_goaway(kind: str) -> None:
    async def play(peer: H2Peer) -> None:
        await warmed(peer)
        stream = (await peer.request()).stream
        await peer.head(stream)
        await peer.data(stream, b"begun")
        await peer.goaway(stream)

    async with ScriptedPeer(h2_script(play)) as peer:
        client: Any = H2CClient(peer.origin) if kind == "client" else h2c_pool(peer.origin)
        events = Events(client)
        await warm(client)
        recorder = send(client)
        await events.wait("disconnect")
        await recorder.received(5)
        error = ZeroDivisionError("the end")
        await client.destroy(error)
        assert (await recorder.wait()).error is error
        assert client.stats.size == 0
        await peer.all_closed()


# -- one stream --------------------------------------------------------------------------------------------


async def test_refused_stream_is_sent_again_once() -> None:
    async def play(peer: H2Peer) -> None:
        first = await peer.request()
        await peer.reset(first.stream, REFUSED_STREAM)
        again = await peer.request()
        assert again.fields == first.fields
        await peer.respond(again.stream)
        for _ in range(2):
            await peer.reset((await peer.request()).stream, REFUSED_STREAM)
        await peer.serve()

    async with ScriptedPeer(h2_script(play)) as peer, H2CClient(peer.origin) as client:
        recorder = await fetch(client)
        assert (recorder.body, recorder.starts) == (b"ok", 2)
        assert client.stats.retries == 1
        recorder = await fetch(client)
        assert isinstance(recorder.error, StreamResetError)
        assert recorder.error.error_code == REFUSED_STREAM
        assert recorder.error.request_not_processed
        assert recorder.starts == 2
        assert client.stats.size == 0
        assert (await fetch(client)).body == b"ok"
        assert len(peer.connections) == 1


async def test_refused_upload_is_not_sent_again() -> None:
    async def play(peer: H2Peer) -> None:
        request = await peer.request()
        await peer.body(request.stream)
        await peer.reset(request.stream, REFUSED_STREAM)
        await peer.serve()

    async with ScriptedPeer(h2_script(play)) as peer, H2CClient(peer.origin) as client:
        recorder = await fetch(client, method="POST", body=iter([b"one", b"two"]))
        assert isinstance(recorder.error, StreamResetError)
        assert recorder.starts == 1
        assert (await fetch(client)).body == b"ok"


async def test_refused_after_the_head_is_an_error() -> None:
    async def play(peer: H2Peer) -> None:
        stream = (await peer.request()).stream
        await peer.head(stream)
        await peer.reset(stream, REFUSED_STREAM)
        await peer.serve()

    async with ScriptedPeer(h2_script(play)) as peer, H2CClient(peer.origin) as client:
        recorder = await fetch(client)
        assert isinstance(recorder.error, StreamResetError)
        assert recorder.names == ["request_start", "response_start", "response_error"]
        assert (await fetch(client)).body == b"ok"


@pytest.mark.parametrize("code", [NO_ERROR, INTERNAL_ERROR, CANCEL, ENHANCE_YOUR_CALM, 0xABCDEF])
@pytest.mark.parametrize("when", ["head", "body"])
async def test_reset_fails_one_and_the_connection_lives(code: int, when: str) -> None:
    async def play(peer: H2Peer) -> None:
        first, second = await peer.requests(2)
        if when == "body":
            await peer.head(first.stream)
            await peer.data(first.stream, b"some")
        await peer.reset(first.stream, code)
        await peer.respond(second.stream)
        await peer.serve()

    async with ScriptedPeer(h2_script(play)) as peer, H2CClient(peer.origin) as client:
        recorder, other = send(client), send(client)
        await recorder.wait()
        assert isinstance(recorder.error, StreamResetError)
        assert recorder.error.error_code == code
        assert recorder.error.phase == ("body" if when == "body" else "headers")
        assert recorder.body == (b"some" if when == "body" else b"")
        assert (await other.wait()).body == b"ok"
        assert (await fetch(client)).body == b"ok"
        assert len(peer.connections) == 1
        assert client.stats.size == 0


# -- the connection ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reused", [True, False])
@pytest.mark.parametrize("ending", ["close", "reset"])
async def test_connection_lost_with_a_hundred_streams(reused: bool, ending: str) -> None:
    async def play(peer: H2Peer) -> None:
        if reused:
            await warmed(peer)
        await peer.requests(100)
        getattr(peer.connection, ending)()

    async with ScriptedPeer([h2_script(play), serving()]) as peer, H2CClient(peer.origin) as client:
        if reused:
            await warm(client)
        gets = [send(client) for _ in range(50)]
        posts = [send(client, method="POST", body=b"x") for _ in range(50)]
        for recorder in [*gets, *posts]:
            await recorder.wait()
            if reused and recorder in gets:
                assert (recorder.body, recorder.starts) == (b"ok", 2)
            else:
                assert isinstance(recorder.error, SocketError)
                assert recorder.error.reused is reused
                assert recorder.starts == 1
        errors = [id(recorder.error) for recorder in [*gets, *posts] if recorder.error]
        assert len(set(errors)) == len(errors)
        assert client.stats.size == 0
        assert client.stats.retries == (50 if reused else 0)
        assert (await fetch(client)).body == b"ok"


async def test_lost_in_the_head_or_body_is_not_repeated() -> None:
    async def play(peer: H2Peer) -> None:
        await warmed(peer)
        stream = (await peer.request()).stream
        await peer.head(stream)
        await peer.data(stream, b"half")
        await peer.ping()
        peer.connection.close()

    async with ScriptedPeer([h2_script(play), serving()]) as peer, H2CClient(peer.origin) as client:
        await warm(client)
        recorder = await fetch(client)
        assert isinstance(recorder.error, SocketError)
        assert (recorder.body, recorder.error.phase, recorder.error.bytes_read) == (b"half", "body", 4)


async def test_retry_stale_can_be_switched_off() -> None:
    async def play(peer: H2Peer) -> None:
        await warmed(peer)
        await peer.request()
        peer.connection.close()

    async with ScriptedPeer([h2_script(play), serving()]) as peer:
        async with H2CClient(peer.origin, retry_stale=False) as client:
            await warm(client)
            assert isinstance((await fetch(client)).error, SocketError)

"""Peers that break the protocol, and callbacks that raise."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.peers.h2_kit import (
    CANCEL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    GOAWAY,
    HEADERS,
    PING,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    H2Peer,
    frame,
    h2_script,
    h2c_pool,
    serving,
    warm,
)
from tests.peers.kit import fetch, send

from dodici import (
    H2CClient,
    HeadersOverflowError,
    HTTP2Error,
)
from dodici.testing import RecordingHandler, ScriptedPeer, settle

FRAME_SIZE_ERROR, STREAM_CLOSED, COMPRESSION_ERROR = 0x6, 0x5, 0x9

# -- the connection's errors -------------------------------------------------------------------------------

Breach = Callable[[H2Peer, int], Awaitable[Any]]


async def flood(peer: H2Peer, kind: int, payload: bytes, stream: int = 0) -> None:
    await peer.connection.send(frame(kind, 0, stream, payload) * 5000)


BREACHES: dict[str, tuple[int, Breach]] = {
    "data-on-0": (PROTOCOL_ERROR, lambda peer, _: peer.send(DATA, 0, 0, b"x")),
    "data-on-idle": (PROTOCOL_ERROR, lambda peer, _: peer.send(DATA, 0, 99, b"x")),
    "head-on-even": (PROTOCOL_ERROR, lambda peer, _: peer.head(2)),
    "push": (PROTOCOL_ERROR, lambda peer, s: peer.send(PUSH_PROMISE, END_HEADERS, s, b"\0\0\0\2\x88")),
    "hpack": (COMPRESSION_ERROR, lambda peer, s: peer.send(HEADERS, END_HEADERS, s, b"\xff\xff\xff\xff\x7f")),
    "interrupted-head": (
        PROTOCOL_ERROR,
        lambda peer, s: peer.connection.send(frame(HEADERS, 0, s, b"\x88"), frame(PING, 0, 0, bytes(8))),
    ),
    "lone-continuation": (PROTOCOL_ERROR, lambda peer, s: peer.send(CONTINUATION, END_HEADERS, s, b"\x88")),
    "large-frame": (FRAME_SIZE_ERROR, lambda peer, s: peer.send(DATA, 0, s, bytes(16_385))),
    "short-ping": (FRAME_SIZE_ERROR, lambda peer, _: peer.send(PING, 0, 0, b"short")),
    "odd-settings": (FRAME_SIZE_ERROR, lambda peer, _: peer.send(SETTINGS, 0, 0, b"odd")),
    "enable-push": (PROTOCOL_ERROR, lambda peer, _: peer.settings({2: 1})),
    "huge-window": (FLOW_CONTROL_ERROR, lambda peer, _: peer.settings({4: 2**31})),
    "window-of-0": (PROTOCOL_ERROR, lambda peer, _: peer.window(0, 0)),
    "window-overflow": (FLOW_CONTROL_ERROR, lambda peer, _: peer.window(0, 2**31 - 1)),
    "short-goaway": (FRAME_SIZE_ERROR, lambda peer, _: peer.send(GOAWAY, 0, 0, b"")),
    "ping-flood": (ENHANCE_YOUR_CALM, lambda peer, _: flood(peer, PING, bytes(8))),
    "settings-flood": (ENHANCE_YOUR_CALM, lambda peer, _: flood(peer, SETTINGS, b"")),
    "priority-flood": (ENHANCE_YOUR_CALM, lambda peer, _: flood(peer, PRIORITY, bytes(5), 1)),
    "window-flood": (ENHANCE_YOUR_CALM, lambda peer, _: flood(peer, WINDOW_UPDATE, b"\0\0\0\1")),
    "endless-head": (
        ENHANCE_YOUR_CALM,
        lambda peer, s: peer.connection.send(
            frame(HEADERS, 0, s, b"\x88"), frame(CONTINUATION, 0, s, bytes(10_000)) * 100
        ),
    ),
    "after-the-end": (
        STREAM_CLOSED,
        lambda peer, s: peer.connection.send(
            peer.head_bytes(s, 200, end=True), frame(DATA, 0, s, b"more"), frame(DATA, 0, s, b"more")
        ),
    ),
}


@pytest.mark.parametrize("breach", BREACHES)
async def test_breach_ends_the_connection_and_the_pool_lives(breach: str) -> None:
    code, act = BREACHES[breach]

    async def play(peer: H2Peer) -> None:
        await peer.respond((await peer.request()).stream)
        first = (await peer.requests(3))[0]
        await act(peer, first.stream)
        said = await peer.next(GOAWAY)
        assert said.number == code, said

    async with ScriptedPeer([h2_script(play), serving()]) as peer, h2c_pool(peer.origin) as pool:
        await warm(pool)
        recorders = [send(pool, method="POST", body=b"x") for _ in range(3)]
        for recorder in recorders:
            await recorder.wait()
            if breach == "after-the-end" and recorder is recorders[0]:
                continue
            assert isinstance(recorder.error, HTTP2Error)
            assert recorder.error.error_code == code
            assert not recorder.error.request_not_processed
        assert pool.stats.size == 0
        assert (await fetch(pool)).body == b"ok"
        await peer.wait_for(lambda peer: peer.connections[0].lost)


# -- one stream's errors -----------------------------------------------------------------------------------

MALFORMED: dict[str, Breach] = {
    "no-status": lambda peer, s: peer.head(s, 0, x_a="1"),
    "status-twice": lambda peer, s: peer.send(HEADERS, END_HEADERS, s, b"\x88\x88"),
    "upper-case": lambda peer, s: peer.send(HEADERS, END_HEADERS, s, b"\x88\x00\x03X-A\x011"),
    "connection": lambda peer, s: peer.head(s, 200, connection="close"),
    "transfer-encoding": lambda peer, s: peer.head(s, 200, transfer_encoding="chunked"),
    "status-101": lambda peer, s: peer.head(s, 101),
    "1xx-that-ends": lambda peer, s: peer.head(s, 103, end=True),
    "data-first": lambda peer, s: peer.send(DATA, 0, s, b"early"),
    "trailers-without-end": lambda peer, s: peer.connection.send(
        peer.head_bytes(s), peer.head_bytes(s, 0, x="1")
    ),
    "two-lengths": lambda peer, s: peer.send(HEADERS, END_HEADERS, s, b"\x88\x0f\x0d\x011\x0f\x0d\x012"),
    "large": lambda peer, s: peer.head(s, 200, x_large="x" * 20_000),
}


@pytest.mark.parametrize("kind", MALFORMED)
async def test_malformed_response_fails_one(kind: str) -> None:
    async def play(peer: H2Peer) -> None:
        first, second = await peer.requests(2)
        if kind == "large":
            block = peer.head_bytes(first.stream, 200, x_large="x" * 20_000)[9:]
            await peer.send(HEADERS, 0, first.stream, block[:16_000])
            await peer.send(CONTINUATION, END_HEADERS, first.stream, block[16_000:])
        else:
            await MALFORMED[kind](peer, first.stream)
        assert (await peer.next(RST_STREAM)).stream == first.stream
        await peer.data(first.stream, b"crossed it", end=True)
        await peer.respond(second.stream)
        await peer.serve()

    async with ScriptedPeer(h2_script(play)) as peer, H2CClient(peer.origin) as client:
        recorder, other = send(client), send(client)
        await recorder.wait()
        assert isinstance(recorder.error, HTTP2Error | HeadersOverflowError)
        assert (await other.wait()).body == b"ok"
        assert (await fetch(client)).body == b"ok"
        assert len(peer.connections) == 1
        assert client.stats.size == 0


# -- callbacks that raise ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "callback", ["on_request_start", "on_response_start", "on_response_data", "on_response_end"]
)
async def test_callback_that_raises(callback: str) -> None:
    error = ZeroDivisionError(callback)

    def fail(*_: Any) -> None:
        raise error

    async def play(peer: H2Peer) -> None:
        request = await peer.request()
        if callback != "on_request_start":
            await peer.head(request.stream)
            await peer.data(request.stream, b"some", end=callback == "on_response_end")
            if callback != "on_response_end":
                assert (await peer.next(RST_STREAM)).number == CANCEL
            request = await peer.request()
        assert request.path == "/after"
        await peer.respond(request.stream)

    async with ScriptedPeer(h2_script(play)) as peer, H2CClient(peer.origin) as client:
        recorder = await send(client, "/", RecordingHandler(**{callback: fail})).wait()
        await settle()
        assert recorder.error is error
        assert (await fetch(client, "/after")).body == b"ok"
        assert len(peer.connections) == 1
        assert client.stats.size == 0


async def test_all_of_a_connection_raise_at_its_end() -> None:
    reported: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
    error = ZeroDivisionError()

    def fail(*_: Any) -> None:
        raise error

    async def play(peer: H2Peer) -> None:
        await peer.requests(5)
        peer.connection.close()

    async with ScriptedPeer([h2_script(play), serving()]) as peer, H2CClient(peer.origin) as client:
        recorders = [send(client, "/", RecordingHandler(on_response_error=fail)) for _ in range(5)]
        for recorder in recorders:
            await recorder.wait()
        assert reported == [error] * 5
        assert client.stats.size == 0
        assert (await fetch(client)).body == b"ok"


@pytest.mark.parametrize("callback", ["on_request_start", "on_response_start", "on_response_data"])
async def test_destroy_inside_a_callback(callback: str) -> None:
    async with ScriptedPeer(serving()) as peer:
        client = H2CClient(peer.origin)
        ending: list[Any] = []
        hook = {callback: lambda *_: ending.append(asyncio.ensure_future(client.destroy()))}
        recorders = [send(client, "/", RecordingHandler(**hook)) for _ in range(3)]
        for recorder in recorders:
            await recorder.wait()
        await asyncio.gather(*ending)
        assert client.stats.size == 0
        await peer.all_closed()

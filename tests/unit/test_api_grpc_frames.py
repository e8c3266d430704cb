"""gRPC calls on scripted HTTP/2 connections: which frames a call writes, and what each frame of a server means."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from tests.peers.h2_kit import (
    CANCEL,
    DATA,
    ENHANCE_YOUR_CALM,
    HEADERS,
    INTERNAL_ERROR,
    NO_ERROR,
    REFUSED_STREAM,
    RST_STREAM,
    WINDOW_UPDATE,
    H2Peer,
    H2Request,
    h2_script,
)

from dodici import GrpcChannel, GrpcError, GrpcMetadata, GrpcStatus, H2CClient
from dodici.api.grpc_handler import HIGH_WATER
from dodici.testing import ScriptedPeer
from dodici.wire.grpc.framing import encode_message

METHOD = "/pkg.Service/Method"
GRPC = {"content_type": "application/grpc"}


@contextlib.asynccontextmanager
async def against(
    *plays: Callable[[H2Peer], Awaitable[Any]],
) -> AsyncIterator[tuple[GrpcChannel, ScriptedPeer]]:
    """A channel to a server whose n-th connection follows the n-th play."""
    async with ScriptedPeer([h2_script(play) for play in plays]) as peer:
        async with H2CClient(peer.origin) as client:
            yield GrpcChannel(client, timeout=30), peer


async def answered(peer: H2Peer, request: H2Request, *messages: bytes, status: str = "0") -> None:
    await peer.head(request.stream, **GRPC)
    for message in messages:
        await peer.data(request.stream, encode_message(message))
    await peer.trailers(request.stream, grpc_status=status)


async def test_the_frames_of_a_unary_call() -> None:
    seen: list[Any] = []

    async def play(peer: H2Peer) -> None:
        request = await peer.request()
        seen.extend([request, await peer.body(request.stream)])
        await answered(peer, request, b"reply")

    async with against(play) as (calls, _):
        response = await calls.unary_unary(METHOD, b"abc", metadata={"x": "1"}, timeout=5)
        assert response.message == b"reply"
    request, body = seen
    fields = {name: value for name, value in request.fields.items() if name != ":authority"}
    assert fields.pop("user-agent").startswith("grpc-python-dodici/")
    fields.pop("content-length", None)
    assert fields == {
        ":method": "POST",
        ":scheme": "http",
        ":path": METHOD,
        "grpc-timeout": "5S",
        "te": "trailers",
        "content-type": "application/grpc",
        "grpc-accept-encoding": "identity, deflate, gzip",
        "x": "1",
    }
    assert body == encode_message(b"abc")


async def test_the_head_of_a_streaming_call_does_not_wait_for_a_message() -> None:
    told = asyncio.Event()

    async def source() -> AsyncIterator[bytes]:
        await told.wait()
        yield b"late"

    async def play(peer: H2Peer) -> None:
        request = await peer.request()
        await peer.head(request.stream, **GRPC, x="early")
        assert await peer.body(request.stream) == encode_message(b"late")
        await peer.trailers(request.stream, grpc_status="0")

    async with against(play) as (calls, _):
        call = calls.stream_stream(METHOD, source())
        assert await call.initial_metadata() == GrpcMetadata({"x": "early"})
        told.set()
        assert [message async for message in call] == []


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7])
async def test_messages_and_frames_share_no_boundaries(size: int) -> None:
    messages = [b"", b"one", bytes(20), b""]
    wire = b"".join(map(encode_message, messages))

    async def play(peer: H2Peer) -> None:
        request = await peer.request()
        await peer.head(request.stream, **GRPC)
        for at in range(0, len(wire), size):
            await peer.data(request.stream, wire[at : at + size])
        await peer.trailers(request.stream, grpc_status="0")

    async with against(play) as (calls, _):
        assert [message async for message in calls.unary_stream(METHOD, b"")] == messages


async def test_trailers_only_in_one_frame() -> None:
    async def play(peer: H2Peer) -> None:
        request = await peer.request()
        await peer.head(request.stream, 200, True, **GRPC, grpc_status="7", grpc_message="no%21", x="1")

    async with against(play) as (calls, _):
        with pytest.raises(GrpcError) as caught:
            await calls.unary_unary(METHOD, b"")
    error = caught.value
    assert (error.status, error.message) == (GrpcStatus.PERMISSION_DENIED, "no!")
    assert error.trailing_metadata == GrpcMetadata({"x": "1"})


async def test_an_end_with_data_instead_of_trailers() -> None:
    async def play(peer: H2Peer) -> None:
        request = await peer.request()
        await peer.head(request.stream, **GRPC)
        await peer.data(request.stream, encode_message(b"x"), end=True)

    async with against(play) as (calls, _):
        with pytest.raises(GrpcError, match="without grpc-status") as caught:
            await calls.unary_unary(METHOD, b"")
    assert caught.value.status is GrpcStatus.UNKNOWN


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (NO_ERROR, GrpcStatus.INTERNAL),
        (INTERNAL_ERROR, GrpcStatus.INTERNAL),
        (CANCEL, GrpcStatus.CANCELLED),
        (ENHANCE_YOUR_CALM, GrpcStatus.RESOURCE_EXHAUSTED),
        (0xC, GrpcStatus.PERMISSION_DENIED),
    ],
)
@pytest.mark.parametrize("begun", [True, False], ids=["begun", "not begun"])
async def test_a_stream_that_is_reset(code: int, status: GrpcStatus, begun: bool) -> None:
    async def play(peer: H2Peer) -> None:
        request = await peer.request()
        if begun:
            await peer.head(request.stream, **GRPC)
        await peer.reset(request.stream, code)
        await answered(peer, await peer.request(), b"next")

    async with against(play) as (calls, _):
        with pytest.raises(GrpcError) as caught:
            await calls.unary_unary(METHOD, b"")
        assert caught.value.status is status
        assert caught.value.__cause__ is not None
        # Its neighbours are not concerned.
        assert (await calls.unary_unary(METHOD, b"")).message == b"next"


async def test_a_call_that_was_refused_again_and_again() -> None:
    async def play(peer: H2Peer) -> None:
        while (request := await peer.next_request()) is not None:
            await peer.reset(request.stream, REFUSED_STREAM)

    async with against(play, play, play) as (calls, _):
        with pytest.raises(GrpcError) as caught:
            await calls.unary_unary(METHOD, b"")
    assert caught.value.status is GrpcStatus.UNAVAILABLE
    assert caught.value.request_not_processed


async def test_goaway_moves_what_was_not_seen_to_another_connection() -> None:
    async def old(peer: H2Peer) -> None:
        await peer.request()
        await peer.goaway(0)

    async def new(peer: H2Peer) -> None:
        await answered(peer, await peer.request(), b"moved")

    async with against(old, new) as (calls, peer):
        assert (await calls.unary_unary(METHOD, b"")).message == b"moved"
        assert len(peer.connections) == 2


async def cancelled(peer: H2Peer, stream: int) -> int:
    """The code of the client's RST_STREAM."""
    return (await peer.next(RST_STREAM, stream=stream)).number


@pytest.mark.parametrize("how", ["deadline", "cancel", "too large"])
async def test_what_the_client_gives_up_is_reset_with_cancel(how: str) -> None:
    codes = []
    seen = asyncio.Event()

    async def play(peer: H2Peer) -> None:
        request = await peer.request()
        await peer.head(request.stream, **GRPC)
        if how == "too large":
            await peer.data(request.stream, b"\0\x7f\xff\xff\xff")
        codes.append(await cancelled(peer, request.stream))
        seen.set()

    async with against(play) as (calls, _):
        call = calls.unary_stream(METHOD, b"", timeout=0.05 if how == "deadline" else 30)
        await call.initial_metadata()
        if how == "cancel":
            call.cancel()
        with pytest.raises(GrpcError) as caught:
            await anext(call)
        async with asyncio.timeout(10):
            await seen.wait()
    assert codes == [CANCEL]
    wanted = {"deadline": "DEADLINE_EXCEEDED", "cancel": "CANCELLED", "too large": "RESOURCE_EXHAUSTED"}
    assert caught.value.status is GrpcStatus[wanted[how]]


async def test_an_answer_before_the_requests_have_ended_resets_without_an_error() -> None:
    codes = []
    seen = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"more"
            await asyncio.sleep(0)

    async def play(peer: H2Peer) -> None:
        request = await peer.request()
        await answered(peer, request, b"enough")
        codes.append(await cancelled(peer, request.stream))
        seen.set()

    async with against(play) as (calls, _):
        assert (await calls.stream_unary(METHOD, endless())).message == b"enough"
        async with asyncio.timeout(10):
            await seen.wait()
    assert codes == [NO_ERROR]


async def test_credit_is_given_for_what_was_read_and_not_for_what_waits() -> None:
    """The windows that the server sees are the whole of the backpressure."""
    payload = bytes(16_000)
    count = 400  # more than all windows and buffers together
    sent = 0
    stalled = asyncio.Event()

    async def play(peer: H2Peer) -> None:
        nonlocal sent
        request = await peer.request()
        room = {0: 65_535, request.stream: 65_535}

        def credit() -> None:
            for got in peer.log:
                if got.kind == WINDOW_UPDATE:
                    room[got.stream] = room.get(got.stream, 0) + got.number
                elif got.kind == 4 and not got.flags & 1:
                    for at in range(0, len(got.payload), 6):
                        if got.payload[at : at + 2] == b"\0\4":
                            room[request.stream] += (
                                int.from_bytes(got.payload[at + 2 : at + 6], "big") - 65_535
                            )
            peer.log.clear()

        await peer.head(request.stream, **GRPC)
        message = encode_message(payload)
        credit()
        for _ in range(count):
            while min(room[0], room[request.stream]) < len(message):
                await peer.ping()
                credit()
                if min(room[0], room[request.stream]) < len(message):
                    stalled.set()
                    await peer.next(WINDOW_UPDATE)
                    credit()
            await peer.data(request.stream, message)
            sent += len(message)
            for where in room:
                room[where] -= len(message)
        await peer.trailers(request.stream, grpc_status="0")

    async with against(play) as (calls, _):
        call = calls.unary_stream(METHOD, b"")
        assert await anext(call) == payload
        async with asyncio.timeout(20):
            await stalled.wait()
        held = sent
        assert HIGH_WATER <= held < count * len(payload) // 2
        assert call._call.decoder.waiting < HIGH_WATER + 300_000
        got = 1
        async for message in call:
            assert message == payload
            got += 1
        assert got == count


async def test_requests_wait_for_the_servers_window() -> None:
    asked = 0
    go_on = asyncio.Event()

    async def source() -> AsyncIterator[bytes]:
        nonlocal asked
        for _ in range(100):
            asked += 1
            yield bytes(10_000)

    async def play(peer: H2Peer) -> None:
        request = await peer.request()
        received = 0
        while received < 65_535:
            received += len((await peer.next(DATA)).payload)
        await peer.ping()
        before = asked
        await peer.ping()
        assert asked == before < 40, "nobody gave credit for so many"
        go_on.set()
        await peer.window(0, 2**20)
        await peer.window(request.stream, 2**20)
        while not (await peer.next(DATA)).ends:
            pass
        await answered(peer, request, b"all")

    async with against(play) as (calls, _):
        assert (await calls.stream_unary(METHOD, source())).message == b"all"
    assert go_on.is_set()
    assert asked == 100


async def test_calls_share_a_connection() -> None:
    async def play(peer: H2Peer) -> None:
        requests = await peer.requests(3)
        for request in reversed(requests):
            await answered(peer, request, request.fields["x"].encode())
        assert peer.count(HEADERS) == 3

    async with against(play) as (calls, peer):
        responses = await asyncio.gather(
            *(calls.unary_unary(METHOD, b"", metadata={"x": str(number)}) for number in range(3))
        )
        assert [response.message for response in responses] == [b"0", b"1", b"2"]
        assert len(peer.connections) == 1

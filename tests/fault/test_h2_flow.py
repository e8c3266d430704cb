"""Flow control and aborts: what a paused stream holds, what its neighbours notice, what the peer is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.peers.h2_kit import (
    CANCEL,
    INTERNAL_ERROR,
    RST_STREAM,
    WINDOW_UPDATE,
    H2Peer,
    h2_script,
    serving,
    warm,
)
from tests.peers.kit import fetch, send

from dodici import H2CClient, RequestAbortedError, SocketError, StreamResetError
from dodici.testing import RecordingHandler, ScriptedPeer, pattern, settle

WINDOW = 100_000


def paused(**hooks: Any) -> RecordingHandler:
    """Pauses at the head."""
    return RecordingHandler(on_response_start=lambda controller, *_: controller.pause(), **hooks)


# -- pausing -----------------------------------------------------------------------------------------------


async def test_credit_is_given_for_what_was_taken() -> None:
    async def play(peer: H2Peer) -> None:
        stream = (await peer.request()).stream
        await peer.head(stream)
        before = peer.count(WINDOW_UPDATE, stream)
        await peer.data(stream, bytes(WINDOW - 1))
        await peer.ping()
        updates = [each.number for each in peer.log if each.kind == WINDOW_UPDATE and each.stream == stream]
        assert before == 0
        assert WINDOW // 2 <= sum(updates) < WINDOW
        assert len(updates) <= 2
        await peer.data(stream, b"", end=True)

    async with ScriptedPeer(h2_script(play)) as peer:
        async with H2CClient(peer.origin, initial_window_size=WINDOW) as client:
            assert (await fetch(client)).body_size == WINDOW - 1


async def test_window_of_a_paused_stream_is_not_refilled() -> None:
    resumed = asyncio.Event()

    async def play(peer: H2Peer) -> None:
        stream = (await peer.request()).stream
        await peer.head(stream)
        await peer.data(stream, pattern(WINDOW))
        await peer.ping()
        assert peer.count(WINDOW_UPDATE, stream) == 0
        resumed.set()
        while peer.count(WINDOW_UPDATE, stream) == 0:
            await peer.next(WINDOW_UPDATE)
        await peer.data(stream, b"end", end=True)

    async with ScriptedPeer(h2_script(play)) as peer:
        async with H2CClient(peer.origin, initial_window_size=WINDOW) as client:
            recorder = send(client, "/", paused())
            await resumed.wait()
            assert recorder.body == b""
            recorder.controller.resume()
            assert recorder.body == b""
            assert (await recorder.wait()).body == pattern(WINDOW) + b"end"


async def test_a_paused_stream_that_is_sent_more_than_its_window_fails_alone() -> None:
    async def play(peer: H2Peer) -> None:
        first, second = await peer.requests(2)
        await peer.head(first.stream)
        await peer.data(first.stream, bytes(WINDOW + 1))
        assert (await peer.next(RST_STREAM, stream=first.stream)).number == 3
        await peer.respond(second.stream)

    async with ScriptedPeer(h2_script(play)) as peer:
        async with H2CClient(peer.origin, initial_window_size=WINDOW) as client:
            recorder, other = send(client, "/", paused()), send(client)
            assert (await other.wait()).body == b"ok"
            recorder.controller.resume()
            await recorder.wait()
            assert recorder.error is not None
            assert recorder.error.error_code == 3  # type: ignore[attr-defined]


async def test_99_paused_and_one_at_full_speed() -> None:
    size = 4 << 20

    async def play(peer: H2Peer) -> None:
        await peer.respond((await peer.request()).stream)
        requests = await peer.requests(100)
        for request in requests[:99]:
            await peer.head(request.stream)
            await peer.data(request.stream, bytes(WINDOW))
        fast = requests[99].stream
        await peer.head(fast)
        left, credit = size, WINDOW
        while left:
            piece = min(left, credit, 16384)
            if not piece:
                credit += (await peer.next(WINDOW_UPDATE, stream=fast)).number
                continue
            left -= piece
            credit -= piece
            await peer.data(fast, bytes(piece), end=not left)
        await peer.ping()
        assert all(peer.count(WINDOW_UPDATE, request.stream) == 0 for request in requests[:99])
        for request in requests[:99]:
            await peer.data(request.stream, end=True)

    async with ScriptedPeer(h2_script(play)) as peer:
        async with H2CClient(peer.origin, initial_window_size=WINDOW) as client:
            await warm(client)
            slow = [send(client, "/", paused(), body_timeout=0.0) for _ in range(99)]
            fast = send(client, "/", RecordingHandler(keep_body=False))
            assert (await fast.wait()).body_size == size
            for recorder in slow:
                assert recorder.body_size == 0
                recorder.controller.resume()
            for recorder in slow:
                assert (await recorder.wait()).body_size == WINDOW
            assert client.stats.size == 0


@pytest.mark.parametrize("ending", ["end", "trailers", "reset", "lost"])
async def test_what_comes_behind_a_pause_waits_its_turn(ending: str) -> None:
    arrived = asyncio.Event()

    async def play(peer: H2Peer) -> None:
        stream = (await peer.request()).stream
        await peer.head(stream)
        await peer.data(stream, b"a" * 20_000)
        if ending == "trailers":
            await peer.trailers(stream, x_sum="7")
        elif ending == "end":
            await peer.data(stream, b"z", end=True)
        elif ending == "reset":
            await peer.reset(stream, INTERNAL_ERROR)
        await peer.ping()
        arrived.set()
        if ending == "lost":
            peer.connection.close()
        await peer.serve()

    async with ScriptedPeer([h2_script(play), serving()]) as peer, H2CClient(peer.origin) as client:
        recorder = send(client, "/", paused())
        await arrived.wait()
        await settle(50)
        assert recorder.names == ["request_start", "response_start"]
        assert client.stats.running == 1
        # Others are not held up, and what is held outlives its connection.
        assert (await fetch(client)).body == b"ok"
        recorder.controller.resume()
        await recorder.wait()
        assert recorder.body_size == (20_001 if ending == "end" else 20_000)
        if ending == "reset":
            assert isinstance(recorder.error, StreamResetError)
        elif ending == "lost":
            assert isinstance(recorder.error, SocketError)
        else:
            assert recorder.error is None
            assert recorder.trailers is not None
            assert recorder.trailers.get_list("x-sum") == (["7"] if ending == "trailers" else [])
        assert client.stats.size == 0


async def test_pausing_again_in_mid_delivery_keeps_the_order() -> None:
    async def play(peer: H2Peer) -> None:
        stream = (await peer.request()).stream
        await peer.head(stream)
        for at in range(0, 60_000, 3000):
            await peer.data(stream, pattern(3000, at))
        await peer.data(stream, end=True)

    loop = asyncio.get_running_loop()

    def hold(controller: Any, _: bytes) -> None:
        controller.pause()
        loop.call_later(0, controller.resume)

    async with ScriptedPeer(h2_script(play)) as peer, H2CClient(peer.origin) as client:
        recorder = await send(client, "/", RecordingHandler(on_response_data=hold)).wait()
        assert recorder.body == pattern(60_000)


async def test_destroy_fails_a_paused_one_whose_data_is_complete() -> None:
    arrived = asyncio.Event()

    async def play(peer: H2Peer) -> None:
        await peer.respond((await peer.request()).stream)
        await peer.ping()
        arrived.set()

    async with ScriptedPeer(h2_script(play)) as peer:
        client = H2CClient(peer.origin)
        recorder = send(client, "/", paused())
        await arrived.wait()
        await settle()
        error = ZeroDivisionError()
        await client.destroy(error)
        assert (await recorder.wait()).error is error
        assert recorder.body == b""
        recorder.controller.resume()
        await settle()
        recorder.check()
        assert client.stats.size == 0


# -- aborts ------------------------------------------------------------------------------------------------


async def test_abort_before_it_is_written_sends_nothing() -> None:
    async def play(peer: H2Peer) -> None:
        await peer.respond((await peer.request()).stream)
        request = await peer.request()
        assert request.path == "/kept"
        await peer.respond(request.stream)

    async with ScriptedPeer(h2_script(play)) as peer, H2CClient(peer.origin) as client:
        await warm(client)
        gone, kept = send(client, "/gone"), send(client, "/kept")
        early = RecordingHandler(on_request_start=lambda controller, _: controller.abort())
        send(client, "/early", early)
        client._connection._fresh[0].abort()  # type: ignore[union-attr]
        await gone.wait()
        assert isinstance(gone.error, RequestAbortedError)
        assert (await kept.wait()).body == b"ok"
        assert isinstance((await early.wait()).error, RequestAbortedError)
        assert client.stats.size == 0


@pytest.mark.parametrize("when", ["head", "body", "thread", "on_response_start", "on_response_data"])
async def test_abort_resets_the_stream_and_frees_its_slot(when: str) -> None:
    async def play(peer: H2Peer) -> None:
        await peer.respond((await peer.request()).stream)
        stream = (await peer.request()).stream
        if when != "head":
            await peer.head(stream)
            await peer.data(stream, b"some")
        assert (await peer.next(RST_STREAM, stream=stream)).number == CANCEL
        await peer.data(stream, b"too late")
        await peer.trailers(stream, x="late")
        await peer.respond((await peer.request()).stream)

    async with ScriptedPeer(h2_script(play)) as peer:
        async with H2CClient(peer.origin, max_concurrent_streams=1) as client:
            await warm(client)
            hooks = {when: lambda controller, *_: controller.abort()} if when.startswith("on_") else {}
            recorder = RecordingHandler(threaded=True, **hooks)
            send(client, "/", recorder)
            waiting = send(client, "/next")
            if when == "head":
                await recorder.reached("on_request_start")
                await settle()
                recorder.controller.abort()
            elif when in ("body", "thread"):
                await recorder.received(4)
                if when == "thread":
                    await asyncio.to_thread(recorder.controller.abort)
                else:
                    recorder.controller.abort()
            await recorder.wait()
            assert isinstance(recorder.error, RequestAbortedError)
            assert (await waiting.wait()).body == b"ok"
            assert client.stats.size == 0
            assert len(peer.connections) == 1


async def test_abort_of_a_paused_stream_drops_what_is_held() -> None:
    async def play(peer: H2Peer) -> None:
        stream = (await peer.request()).stream
        await peer.head(stream)
        await peer.data(stream, bytes(WINDOW))
        await peer.next(RST_STREAM, stream=stream)
        await peer.serve()

    async with ScriptedPeer(h2_script(play)) as peer, H2CClient(peer.origin) as client:
        recorder = await send(client, "/", paused()).reached("on_response_start")
        await settle(50)
        recorder.controller.abort()
        await recorder.wait()
        recorder.controller.resume()
        await settle()
        assert recorder.names == ["request_start", "response_start", "response_error"]
        assert (await fetch(client)).body == b"ok"


async def test_abort_after_the_last_byte_came_while_paused() -> None:
    # The stream has left the table already: there is nothing to reset, and still somebody to tell.
    arrived = asyncio.Event()

    async def play(peer: H2Peer) -> None:
        await peer.respond((await peer.request()).stream)
        await peer.ping()
        arrived.set()
        await peer.serve()
        assert peer.count(RST_STREAM) == 0

    async with ScriptedPeer(h2_script(play)) as peer, H2CClient(peer.origin) as client:
        recorder = send(client, "/", paused())
        await arrived.wait()
        recorder.controller.abort()
        await recorder.wait()
        assert isinstance(recorder.error, RequestAbortedError)
        assert client.stats.size == 0
        assert (await fetch(client)).body == b"ok"

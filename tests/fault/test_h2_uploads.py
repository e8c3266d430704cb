"""Request bodies over HTTP/2: windows, fairness, early answers, sources that fail, `100 Continue`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.peers.h2_kit import (
    CANCEL,
    DATA,
    INITIAL_WINDOW,
    INTERNAL_ERROR,
    MAX_FRAME,
    NO_ERROR,
    RST_STREAM,
    H2Peer,
    h2_script,
    serving,
    warm,
)
from tests.peers.kit import fetch, now, send, virtual

from dodici import (
    H2CClient,
    RequestAbortedError,
    RequestContentLengthMismatchError,
    SocketError,
    StreamResetError,
)
from dodici.testing import ScriptedPeer, pattern, settle

KINDS = pytest.mark.parametrize("kind", ["bytes", "iterable", "async"])


class Source:
    """A body of a kind, which tells how much was asked of it and whether it was closed."""

    def __init__(self, size: int, *, error: BaseException | None = None, piece: int = 4096) -> None:
        self.size = size
        self.error = error
        self.piece = piece
        self.pulled = 0
        self.closed = asyncio.Event()

    def body(self, kind: str) -> Any:
        return {"bytes": lambda: pattern(self.size), "iterable": self._pull, "async": self._apull}[kind]()

    def _pull(self) -> Any:
        try:
            for at in range(0, self.size, self.piece):
                self.pulled += 1
                yield pattern(min(self.piece, self.size - at), at)
            if self.error is not None:
                raise self.error
        finally:
            self.closed.set()

    async def _apull(self) -> AsyncIterator[bytes]:
        try:
            for chunk in self._pull():
                await asyncio.sleep(0)
                yield chunk
        finally:
            self.closed.set()


# -- windows -----------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("window", [0, 1, 1237, 65_535])
async def test_body_fits_any_window(window: int, kind: str) -> None:
    size = 20 if window == 1 else 100_000

    async def play(peer: H2Peer) -> None:
        await peer.respond((await peer.request()).stream)
        request = await peer.request()
        stream, body, granted = request.stream, b"", window
        while True:
            if granted == 0:
                await peer.ping()  # everything that may come has come
                assert len(body) < size
                step = max(window, 777) if size > 20 else 1
                granted += step
                await peer.window(stream, step)
                await peer.window(0, step)
            got = await peer.next(DATA, stream=stream)
            body += got.payload
            granted -= len(got.payload)
            assert granted >= 0
            if got.ends:
                break
        assert body == pattern(size)
        await peer.respond(stream)

    async with ScriptedPeer(h2_script(play, {INITIAL_WINDOW: window})) as peer:
        async with H2CClient(peer.origin) as client:
            await warm(client)
            recorder = await fetch(client, method="POST", body=Source(size).body(kind))
            assert recorder.body == b"ok"


async def test_window_of_the_connection_holds_all() -> None:
    async def play(peer: H2Peer) -> None:
        first, second = await peer.requests(2)
        await peer.window(first.stream, 200_000)
        await peer.window(second.stream, 200_000)
        await peer.ping()
        sent = sum(len(each.payload) for each in peer.log if each.kind == DATA)
        assert sent == 65_535
        await peer.window(0, 400_000)
        while peer.count(DATA) and sum(each.ends for each in peer.log if each.kind == DATA) < 2:
            await peer.next(DATA)
        for request in (first, second):
            await peer.respond(request.stream)

    async with ScriptedPeer(h2_script(play)) as peer, H2CClient(peer.origin) as client:
        for recorder in [send(client, method="POST", body=pattern(150_000)) for _ in range(2)]:
            assert (await recorder.wait()).body == b"ok"


async def test_initial_window_that_changes_in_mid_upload() -> None:
    async def play(peer: H2Peer) -> None:
        await peer.respond((await peer.request()).stream)
        stream = (await peer.request()).stream
        await peer.ping()
        assert sum(len(each.payload) for each in peer.log if each.kind == DATA) == 1000
        await peer.settings({INITIAL_WINDOW: 10})  # the window is -990 now (RFC 9113 6.9.2)
        await peer.window(stream, 500)
        await peer.ping()
        assert sum(len(each.payload) for each in peer.log if each.kind == DATA) == 1000
        await peer.settings({INITIAL_WINDOW: 1_000_000})
        while not (await peer.next(DATA, stream=stream)).ends:
            pass
        await peer.respond(stream)

    async with (
        ScriptedPeer(h2_script(play, {INITIAL_WINDOW: 1000})) as peer,
        H2CClient(peer.origin) as client,
    ):
        await warm(client)
        assert (await fetch(client, method="POST", body=pattern(50_000))).body == b"ok"


async def test_frames_follow_max_frame_size() -> None:
    async def play(peer: H2Peer) -> None:
        await peer.respond((await peer.request()).stream)
        for size, largest in ((0, 16_384), (20_000, 20_000), (16_384, 16_384)):
            if size:
                await peer.settings({MAX_FRAME: size})
            await peer.respond((await peer.request()).stream)  # so that the next one comes after it
            stream = (await peer.request()).stream
            seen = len(peer.log)
            assert await peer.body(stream) == pattern(60_000)
            assert max(len(each.payload) for each in peer.log[seen:]) == largest
            await peer.respond(stream)

    async with ScriptedPeer(h2_script(play, {INITIAL_WINDOW: 60_000})) as peer:
        async with H2CClient(peer.origin) as client:
            await warm(client)
            for _ in range(3):
                await warm(client)
                assert (await fetch(client, method="POST", body=pattern(60_000))).body == b"ok"


async def test_many_uploads_take_turns() -> None:
    count, size = 8, 60_000

    async def play(peer: H2Peer) -> None:
        await peer.respond((await peer.request()).stream)
        requests = await peer.requests(count)
        await peer.window(0, count * size)
        ended: set[int] = set()
        while len(ended) < count:
            got = await peer.next(DATA)
            if got.ends:
                ended.add(got.stream)
        order = [each.stream for each in peer.log if each.kind == DATA and each.payload]
        # Whoever is at its n-th frame waits until all are: nobody is ever two turns ahead.
        for at in range(len(order)):
            turns = [order[: at + 1].count(request.stream) for request in requests]
            assert max(turns) - min(turns) <= 2
        for request in requests:
            await peer.respond(request.stream)

    async with ScriptedPeer(h2_script(play)) as peer, H2CClient(peer.origin) as client:
        await warm(client)
        recorders = [send(client, method="POST", body=pattern(size)) for _ in range(count)]
        for recorder in recorders:
            assert (await recorder.wait()).body == b"ok"


@pytest.mark.parametrize("kind", ["iterable", "async"])
async def test_source_is_not_asked_for_more_than_the_window_takes(kind: str) -> None:
    go_on = asyncio.Event()

    async def play(peer: H2Peer) -> None:
        stream = (await peer.request()).stream
        await peer.ping()
        await go_on.wait()
        await peer.window(0, 4 << 20)
        await peer.window(stream, 4 << 20)
        while not (await peer.next(DATA, stream=stream)).ends:
            pass
        await peer.respond(stream)

    async with ScriptedPeer(h2_script(play)) as peer, H2CClient(peer.origin) as client:
        source = Source(2 << 20)
        recorder = send(client, method="POST", body=source.body(kind))
        last = -1
        while source.pulled != last or not last:
            last = source.pulled
            await settle(200)
        assert source.pulled * source.piece <= 65_535 + (128 + 8) * 1024
        go_on.set()
        assert (await recorder.wait()).body == b"ok"


# -- answers that do not wait ------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("told", [True, False], ids=["reset", "silent"])
async def test_early_answer_ends_the_upload(kind: str, told: bool) -> None:
    async def play(peer: H2Peer) -> None:
        stream = (await peer.request()).stream
        await peer.respond(stream, b"too large", 413)
        if told:
            await peer.reset(stream, NO_ERROR)
        assert (await peer.next(RST_STREAM, stream=stream)).number == NO_ERROR
        await peer.serve()

    async with ScriptedPeer(h2_script(play)) as peer, H2CClient(peer.origin) as client:
        source = Source(4 << 20)
        recorder = await fetch(client, method="POST", body=source.body(kind))
        assert (recorder.status_code, recorder.body, recorder.error) == (413, b"too large", None)
        if kind != "bytes":
            await asyncio.wait_for(source.closed.wait(), 5)
        assert (await fetch(client)).body == b"ok"
        assert len(peer.connections) == 1
        assert client.stats.size == 0


async def test_reset_no_error_after_the_head_is_no_end() -> None:
    async def play(peer: H2Peer) -> None:
        stream = (await peer.request()).stream
        await peer.head(stream)
        await peer.data(stream, b"half")
        await peer.reset(stream, NO_ERROR)

    async with ScriptedPeer(h2_script(play)) as peer, H2CClient(peer.origin) as client:
        source = Source(4 << 20)
        recorder = await fetch(client, method="POST", body=source.body("async"))
        assert isinstance(recorder.error, StreamResetError)
        await asyncio.wait_for(source.closed.wait(), 5)


async def test_answer_and_upload_side_by_side() -> None:
    # A head does not end an upload: both go on, as in an echo (RFC 9113 8.1).
    async def play(peer: H2Peer) -> None:
        stream = (await peer.request()).stream
        await peer.head(stream)
        while True:
            got = await peer.next(DATA, stream=stream)
            if got.payload:
                await peer.window(0, len(got.payload))
                await peer.window(stream, len(got.payload))
            await peer.data(stream, got.payload, end=got.ends)
            if got.ends:
                break

    async with ScriptedPeer(h2_script(play)) as peer, H2CClient(peer.origin) as client:
        recorder = await fetch(client, method="POST", body=Source(500_000).body("async"))
        assert recorder.body == pattern(500_000)


# -- sources -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["iterable", "async"])
async def test_source_that_raises_in_mid_body(kind: str) -> None:
    async def play(peer: H2Peer) -> None:
        stream = (await peer.request()).stream
        assert (await peer.next(RST_STREAM, stream=stream)).number == INTERNAL_ERROR
        assert not any(each.ends for each in peer.log)
        await peer.serve()

    async with ScriptedPeer(h2_script(play)) as peer, H2CClient(peer.origin) as client:
        error = ZeroDivisionError("of the source")
        source = Source(20_000, error=error)
        recorder = await fetch(client, method="POST", body=source.body(kind))
        assert recorder.error is error
        assert source.closed.is_set()
        assert (await fetch(client)).body == b"ok"
        assert len(peer.connections) == 1


@pytest.mark.parametrize("stated", [10, 30])
async def test_length_mismatch(stated: int) -> None:
    async def play(peer: H2Peer) -> None:
        request = await peer.request()
        assert request.fields["content-length"] == str(stated)
        await peer.next(RST_STREAM, stream=request.stream)
        assert not any(each.ends for each in peer.log)
        await peer.serve()

    async with ScriptedPeer(h2_script(play)) as peer, H2CClient(peer.origin) as client:
        recorder = await fetch(
            client, method="POST", body=iter([b"x" * 8, b"y" * 12]), headers={"content-length": str(stated)}
        )
        assert isinstance(recorder.error, RequestContentLengthMismatchError)
        assert (await fetch(client)).body == b"ok"


@KINDS
async def test_abort_in_mid_upload(kind: str) -> None:
    begun, quiet = asyncio.Event(), asyncio.Event()

    async def play(peer: H2Peer) -> None:
        stream = (await peer.request()).stream
        await peer.next(DATA, stream=stream)
        begun.set()
        assert (await peer.next(RST_STREAM, stream=stream)).number == CANCEL
        at = len(peer.log)
        await peer.ping()
        assert all(each.stream != stream for each in peer.log[at:])
        quiet.set()
        await peer.serve()

    async with ScriptedPeer(h2_script(play)) as peer, H2CClient(peer.origin) as client:
        source = Source(4 << 20)
        recorder = send(client, method="POST", body=source.body(kind))
        await begun.wait()
        recorder.controller.abort()
        await recorder.wait()
        assert isinstance(recorder.error, RequestAbortedError)
        if kind != "bytes":
            await asyncio.wait_for(source.closed.wait(), 5)
        await quiet.wait()
        assert (await fetch(client)).body == b"ok"
        assert client.stats.size == 0


async def test_connection_lost_in_mid_upload() -> None:
    async def play(peer: H2Peer) -> None:
        await peer.respond((await peer.request()).stream)
        await peer.next(DATA)
        peer.connection.close()

    async with ScriptedPeer([h2_script(play), serving()]) as peer, H2CClient(peer.origin) as client:
        await warm(client)
        source = Source(4 << 20)
        recorder = await fetch(client, method="PUT", body=source.body("async"))
        assert isinstance(recorder.error, SocketError)
        assert recorder.error.phase == "request"
        await asyncio.wait_for(source.closed.wait(), 5)
        assert (await fetch(client)).body == b"ok"


# -- 100 Continue ------------------------------------------------------------------------------------------


async def test_body_waits_for_100() -> None:
    async def play(peer: H2Peer) -> None:
        request = await peer.request()
        assert request.fields["expect"] == "100-continue"
        await peer.ping()
        assert peer.count(DATA) == 0
        await peer.head(request.stream, 100)
        assert await peer.body(request.stream) == b"body"
        await peer.respond(request.stream)

    async with ScriptedPeer(h2_script(play)) as peer, H2CClient(peer.origin) as client:
        recorder = await fetch(client, method="POST", body=b"body", expect_continue=True)
        assert recorder.body == b"ok"
        assert [status for status, _ in recorder.informational] == [100]


async def test_final_answer_instead_of_100() -> None:
    async def play(peer: H2Peer) -> None:
        stream = (await peer.request()).stream
        await peer.respond(stream, b"no", 417)
        await peer.next(RST_STREAM, stream=stream)
        await peer.serve()
        assert peer.count(DATA) == 0

    async with ScriptedPeer(h2_script(play)) as peer, H2CClient(peer.origin) as client:
        source = Source(4096)
        recorder = await fetch(client, method="POST", body=source.body("async"), expect_continue=True)
        assert (recorder.status_code, recorder.body) == (417, b"no")
        assert source.pulled == 0
        assert (await fetch(client)).body == b"ok"


@virtual
async def test_server_that_knows_nothing_of_100() -> None:
    async def play(peer: H2Peer) -> None:
        stream = (await peer.request()).stream
        began = now()
        assert await peer.body(stream) == b"body"
        assert 0.9 <= now() - began <= 1.5
        await peer.respond(stream)

    async with ScriptedPeer(h2_script(play)) as peer, H2CClient(peer.origin) as client:
        assert (await fetch(client, method="POST", body=b"body", expect_continue=True)).body == b"ok"

"""undici.md 2.4: who may be written behind whom, and what becomes of those behind a failure."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.peers.kit import Events, answering, chunked, fetch, now, ok, send, virtual

from dodici import Client, HeadersTimeoutError, SocketError
from dodici.testing import PeerConnection, PeerError, ScriptedPeer, settle


async def nothing_more(connection: PeerConnection) -> None:
    """Require that no other request has been written."""
    await settle(50)
    if connection.buffered or connection.received_size > len(connection.received):
        raise PeerError(f"written too early: {connection.buffered[:100]!r}")


async def test_s2_4_blocking_request_holds_the_next_back_until_its_head() -> None:
    async def script(connection: PeerConnection) -> None:
        assert (await connection.read_request()).target == "/a"
        await nothing_more(connection)
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n")
        assert (await connection.read_request()).target == "/b"
        await connection.send(b"body", ok(b"b"))

    async with ScriptedPeer(script) as peer, Client(peer.origin, pipelining=2) as client:
        a, b = send(client, "/a"), send(client, "/b")
        assert (await a.wait()).body == b"body"
        assert (await b.wait()).body == b"b"
        await peer.finished()


async def test_s2_4_requests_that_do_not_block_go_out_at_once() -> None:
    async def script(connection: PeerConnection) -> None:
        for path in ("/0", "/1", "/2"):
            assert (await connection.read_request()).target == path
        await nothing_more(connection)
        await connection.send(ok(b"0") + ok(b"1"))
        for path in ("/3", "/4"):
            assert (await connection.read_request()).target == path
        await connection.send(ok(b"2") + ok(b"3") + ok(b"4"))

    async with ScriptedPeer(script) as peer, Client(peer.origin, pipelining=3) as client:
        recorders = [send(client, f"/{number}", blocking=False) for number in range(5)]
        for number, recorder in enumerate(recorders):
            assert (await recorder.wait()).body == b"%d" % number
        await peer.finished()


async def test_s2_4_head_does_not_block() -> None:
    async def script(connection: PeerConnection) -> None:
        for _ in range(2):
            await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n" * 2)

    async with ScriptedPeer(script) as peer, Client(peer.origin, pipelining=2) as client:
        a, b = send(client, "/a", method="HEAD"), send(client, "/b", method="HEAD")
        for recorder in (a, b):
            await recorder.wait()
            assert recorder.error is None
            assert recorder.body == b""


STREAM: dict[str, Any] = {"method": "PUT", "idempotent": True}


@pytest.mark.parametrize("kind", ["post", "upgrade", "connect", "stream"])
async def test_s2_4_what_may_not_be_repeated_waits_for_an_empty_connection(kind: str) -> None:
    async def body() -> Any:
        yield b"body"

    options: dict[str, Any] = {
        "post": {"method": "POST"},
        "upgrade": {"upgrade": "foo"},
        "connect": {"method": "CONNECT", "path": "a:1"},
        "stream": {**STREAM, "body": body()},
    }[kind]

    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n")
        await nothing_more(connection)
        await connection.send(b"body")
        await connection.read_request()
        await connection.send(b"HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n")

    async with ScriptedPeer(script) as peer, Client(peer.origin, pipelining=10) as client:
        first = send(client, "/a", blocking=False)
        second = send(client, **{"path": "/b", **options})
        assert (await first.wait()).error is None
        await second.wait()
        assert second.status_code == 403
        await peer.finished()


async def test_s2_4_nothing_is_written_behind_a_streamed_body() -> None:
    release = asyncio.Event()

    async def body() -> Any:
        yield b"one"
        await release.wait()
        yield b"two"

    async def script(connection: PeerConnection) -> None:
        await connection.read_until(b"3\r\none\r\n")
        await nothing_more(connection)
        release.set()
        await connection.expect(b"3\r\ntwo\r\n0\r\n\r\n")
        await connection.send(ok(b"first"))
        assert (await connection.read_request()).target == "/b"
        await connection.send(ok(b"second"))

    async with ScriptedPeer(script) as peer, Client(peer.origin, pipelining=10) as client:
        first = send(client, "/a", body=body(), blocking=False, **STREAM)
        second = send(client, "/b", blocking=False)
        assert (await first.wait()).body == b"first"
        assert (await second.wait()).body == b"second"
        await peer.finished()


async def test_s2_4_idempotent_request_behind_a_post_that_does_not_block() -> None:
    async def script(connection: PeerConnection) -> None:
        assert (await connection.read_request()).body == b"x"
        assert (await connection.read_request()).target == "/b"
        await connection.send(ok(b"a") + ok(b"b"))

    async with ScriptedPeer(script) as peer, Client(peer.origin, pipelining=2) as client:
        a = send(client, "/a", method="POST", body=b"x", blocking=False)
        b = send(client, "/b")
        assert (await a.wait()).body == b"a"
        assert (await b.wait()).body == b"b"


@pytest.mark.parametrize("ending", ["close", "reset", "half_close"])
@pytest.mark.parametrize("unanswered", [1, 2, 5])
async def test_s2_4_peer_that_goes_fails_only_the_head_of_a_fresh_connection(
    unanswered: int, ending: str
) -> None:
    async def first(connection: PeerConnection) -> None:
        for _ in range(unanswered):
            await connection.read_request()
        getattr(connection, ending)()
        await connection.closed()

    async with (
        ScriptedPeer([first, answering]) as peer,
        Client(peer.origin, pipelining=5) as client,
    ):
        recorders = [send(client, f"/{number}", blocking=False) for number in range(unanswered)]
        head, *others = recorders
        await head.wait()
        assert isinstance(head.error, SocketError)
        assert head.starts == 1
        for recorder in others:
            await recorder.wait()
            assert recorder.body == b"ok"
            assert recorder.starts == 2
        assert client.stats.retries == 0
        assert client.stats.size == 0


@pytest.mark.parametrize("unanswered", [1, 3])
async def test_s2_4_reset_of_a_reused_connection_with_k_unanswered(unanswered: int) -> None:
    async def first(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(ok(b"first"))
        for _ in range(unanswered):
            await connection.read_request()
        connection.reset()

    async with ScriptedPeer([first, answering]) as peer, Client(peer.origin, pipelining=5) as client:
        assert (await fetch(client)).body == b"first"
        recorders = [send(client, f"/{number}", blocking=False) for number in range(unanswered)]
        for recorder in recorders:
            await recorder.wait()
            assert recorder.body == b"ok"
            assert recorder.starts == 2
        assert client.stats.retries == 1
        targets = [request.target for request in peer.connections[1].requests]
        assert targets == [f"/{number}" for number in range(unanswered)]


async def test_s2_4_reset_in_mid_body_fails_that_one_and_requeues_the_rest() -> None:
    async def first(connection: PeerConnection) -> None:
        for _ in range(3):
            await connection.read_request()
        await connection.send(ok(b"a"), b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npart")
        await b.received(4)
        connection.reset()

    async with ScriptedPeer([first, answering]) as peer, Client(peer.origin, pipelining=3) as client:
        a, b, c = (send(client, path, blocking=False) for path in ("/a", "/b", "/c"))
        assert (await a.wait()).body == b"a"
        assert isinstance((await b.wait()).error, SocketError)
        assert (await c.wait()).body == b"ok"
        assert (a.starts, b.starts, c.starts) == (1, 1, 2)


async def test_s2_4_connection_close_completes_and_requeues_the_rest() -> None:
    async def first(connection: PeerConnection) -> None:
        for _ in range(3):
            await connection.read_request()
        # What follows a last response belongs to nobody.
        await connection.send(ok(b"a", "connection: close\r\n"), ok(b"evil"), ok(b"evil"))
        await connection.closed()

    async with ScriptedPeer([first, answering]) as peer, Client(peer.origin, pipelining=3) as client:
        a, b, c = (send(client, path, blocking=False) for path in ("/a", "/b", "/c"))
        assert (await a.wait()).body == b"a"
        for recorder in (b, c):
            await recorder.wait()
            assert recorder.body == b"ok"
            assert recorder.starts == 2


@virtual
async def test_s2_4_headers_timeout_fails_the_head_and_requeues_the_rest() -> None:
    async def first(connection: PeerConnection) -> None:
        await connection.stall()

    async with (
        ScriptedPeer([first, answering]) as peer,
        Client(peer.origin, pipelining=3, headers_timeout=10) as client,
    ):
        head, *others = [send(client, f"/{number}", blocking=False) for number in range(3)]
        assert isinstance((await head.wait()).error, HeadersTimeoutError)
        for recorder in others:
            assert (await recorder.wait()).body == b"ok"
        assert now() <= 12


async def test_s2_4_malformed_response_fails_that_one_and_requeues_the_rest() -> None:
    async def first(connection: PeerConnection) -> None:
        for _ in range(2):
            await connection.read_request()
        await connection.send(b"HTTP/1.1 2x0 OK\r\n\r\n", ok(b"evil"))
        await connection.closed()

    async with ScriptedPeer([first, answering]) as peer, Client(peer.origin, pipelining=2) as client:
        a, b = (send(client, path, blocking=False) for path in ("/a", "/b"))
        assert (await a.wait()).error is not None
        assert (await b.wait()).body == b"ok"


async def test_s2_4_pipelining_0_closes_after_each() -> None:
    async def script(connection: PeerConnection) -> None:
        assert (await connection.read_request()).headers["connection"] == "close"
        await connection.send(ok())
        await connection.read_eof()

    async with ScriptedPeer(script) as peer, Client(peer.origin, pipelining=0) as client:
        for _ in range(3):
            assert (await fetch(client)).body == b"ok"
        await peer.all_closed()
        assert len(peer.connections) == 3


async def test_s2_4_raised_pipelining_lets_the_queue_flow() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        first.set()
        for _ in range(2):
            await connection.read_request()
        await connection.send(ok(b"0") + ok(b"1") + ok(b"2"))

    first = asyncio.Event()
    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        recorders = [send(client, f"/{number}", blocking=False) for number in range(3)]
        await first.wait()
        client.pipelining = 3
        for number, recorder in enumerate(recorders):
            assert (await recorder.wait()).body == b"%d" % number


async def test_s2_4_response_before_the_body_is_sent_resets_the_connection() -> None:
    closed = asyncio.Event()

    async def body() -> Any:
        try:
            yield b"one"
            await asyncio.Event().wait()
        finally:
            closed.set()

    async def script(connection: PeerConnection) -> None:
        await connection.read_until(b"3\r\none\r\n")
        await connection.send(ok(b"enough", status=413))
        await connection.read_eof()

    async with ScriptedPeer([script, answering]) as peer, Client(peer.origin) as client:
        events = Events(client)
        recorder = await fetch(client, method="POST", body=body())
        assert (recorder.status_code, recorder.body) == (413, b"enough")
        await closed.wait()
        await events.wait("disconnect")
        assert events.errors()[0].code == "UND_ERR_INFO"
        assert (await fetch(client)).body == b"ok"


@pytest.mark.parametrize("pieces", ["whole", "bytes"])
async def test_s2_4_pipelined_responses_of_every_kind_in_one_piece(pieces: str) -> None:
    kinds = [
        (ok(b"length"), b"length"),
        (chunked(b"chu", b"nked", trailers="x-t: 1\r\n"), b"chunked"),
        (b"HTTP/1.1 204 None\r\n\r\n", b""),
        (b"HTTP/1.1 304 Same\r\ncontent-length: 5\r\n\r\n", b""),
        (b"HTTP/1.1 103 Hints\r\n\r\n" + ok(b""), b""),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end"),
    ]

    async def script(connection: PeerConnection) -> None:
        for _ in kinds:
            await connection.read_request()
        everything = b"".join(response for response, _ in kinds)
        await (connection.send(everything) if pieces == "whole" else connection.send_slowly(everything))
        connection.close()

    async with ScriptedPeer(script) as peer, Client(peer.origin, pipelining=len(kinds)) as client:
        recorders = [send(client, f"/{number}", blocking=False) for number in range(len(kinds))]
        for recorder, (_, body) in zip(recorders, kinds, strict=True):
            await recorder.wait()
            assert recorder.error is None
            assert recorder.body == body
        assert len(peer.connections) == 1

"""undici.md 2.5: reuse, its end, and responses that nobody asked for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.peers.kit import Events, answering, chunked, fetch, now, ok, send, virtual

from dodici import Agent, Client, Pool, SocketError
from dodici.testing import PeerConnection, RecordingHandler, ScriptedPeer, settle

EVIL = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nset-cookie: session=stolen\r\n\r\nevil"


def hinting(headers: str, version: str = "1.1") -> Any:
    async def script(connection: PeerConnection) -> None:
        while await connection.next_request() is not None:
            await connection.send(ok(headers=headers).replace(b"HTTP/1.1", b"HTTP/" + version.encode()))

    return script


@pytest.mark.parametrize(
    ("hint", "seconds"),
    [
        ("", 4),
        ("keep-alive: soon\r\n", 4),
        ("keep-alive: max=100\r\n", 4),
        ("keep-alive: timeout=10\r\n", 8),
        ("keep-alive: max=100, timeout=10\r\n", 8),
        ("keep-alive: timeout=100000\r\n", 600),
        ("keep-alive: timeout=3\r\n", 1),
    ],
)
def test_s2_5_idle_connection_closes_in_time(hint: str, seconds: float) -> None:
    @virtual
    async def test() -> None:
        async with ScriptedPeer(hinting(hint)) as peer, Client(peer.origin) as client:
            events = Events(client)
            await fetch(client)
            since = now()
            await events.wait("disconnect")
            assert seconds - 0.01 <= now() - since <= seconds + 1.1
            assert events.errors()[0].code == "UND_ERR_INFO"
            await peer.all_closed()
            assert (await fetch(client)).body == b"ok"
            assert len(peer.connections) == 2

    test()


@pytest.mark.parametrize("hint", ["timeout=2", "timeout=1", "timeout=0"])
async def test_s2_5_hint_within_the_threshold_is_no_reuse(hint: str) -> None:
    async with ScriptedPeer(hinting(f"keep-alive: {hint}\r\n")) as peer, Client(peer.origin) as client:
        events = Events(client)
        await fetch(client)
        await events.wait("disconnect")
        await fetch(client)
        assert len(peer.connections) == 2


@pytest.mark.parametrize(
    ("headers", "version", "reused"),
    [
        ("", "1.1", True),
        ("connection: keep-alive\r\n", "1.1", True),
        ("connection: close\r\n", "1.1", False),
        ("Connection: Close\r\n", "1.1", False),
        ("connection: foo, close\r\n", "1.1", False),
        ("connection: foo\r\nconnection: close\r\n", "1.1", False),
        ("", "1.0", False),
        ("connection: keep-alive\r\n", "1.0", True),
    ],
)
async def test_s2_5_who_is_reused(headers: str, version: str, reused: bool) -> None:
    async with ScriptedPeer(hinting(headers, version)) as peer, Client(peer.origin) as client:
        for _ in range(3):
            assert (await fetch(client)).body == b"ok"
        assert len(peer.connections) == (1 if reused else 3)


async def test_s2_5_head_reuses_its_connection_and_says_nothing_of_it() -> None:
    async def script(connection: PeerConnection) -> None:
        while (request := await connection.next_request()) is not None:
            assert "connection" not in request.headers
            await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")

    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        for _ in range(3):
            await fetch(client, method="HEAD")
        assert len(peer.connections) == 1


async def test_s2_5_reset_closes_and_says_so() -> None:
    async with ScriptedPeer(answering) as peer, Client(peer.origin) as client:
        await fetch(client, reset=True)
        await fetch(client, headers={"connection": "close"})
        await fetch(client)
        assert [request.headers.get("connection") for request in peer.requests] == ["close", "close", None]
        assert len(peer.connections) == 3


async def test_s2_5_get_with_a_body_is_the_last_on_its_connection() -> None:
    async with ScriptedPeer(answering) as peer, Client(peer.origin) as client:
        await fetch(client, body=b"unexpected")
        await fetch(client, body=b"unexpected", reset=False)
        await fetch(client)
        assert [len(connection.requests) for connection in peer.connections] == [1, 2]


async def test_s2_5_max_requests_per_client() -> None:
    async with ScriptedPeer(answering) as peer, Client(peer.origin, max_requests_per_client=2) as client:
        for _ in range(5):
            assert (await fetch(client)).body == b"ok"
        assert [len(connection.requests) for connection in peer.connections] == [2, 2, 1]
        for connection in peer.connections[:2]:
            assert "connection" not in connection.requests[0].headers
            assert connection.requests[1].headers["connection"] == "close"


async def test_s2_5_max_requests_per_client_with_pipelining() -> None:
    async with (
        ScriptedPeer(answering) as peer,
        Client(peer.origin, max_requests_per_client=2, pipelining=4) as client,
    ):
        for recorder in [send(client, f"/{number}", blocking=False) for number in range(5)]:
            assert (await recorder.wait()).body == b"ok"
        assert all(len(connection.requests) <= 2 for connection in peer.connections)


# ------------------------------------------------------------------- what nobody asked for


@pytest.mark.parametrize(
    "stray",
    [
        EVIL,
        EVIL[:20],
        b"x",
        b"\r\n",
        b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n\r\n",
        b"\x15\x03\x01",
    ],
    ids=["response", "part-of-one", "byte", "crlf", "408", "tls-alert"],
)
@pytest.mark.parametrize("when", ["with", "after"])
async def test_s2_5_injected_response_never_answers_the_next_request(stray: bytes, when: str) -> None:
    async def first(connection: PeerConnection) -> None:
        await connection.read_request()
        if when == "with":
            await connection.send(ok(b"first") + stray)
        else:
            await connection.send(ok(b"first"))
            await ended.wait()
            await connection.send(stray)
        injected.set()
        if await connection.next_request() is not None:
            await connection.send(ok(b"second"))
            await connection.closed()

    async def second(connection: PeerConnection) -> None:
        while await connection.next_request() is not None:
            await connection.send(ok(b"second"))

    ended, injected = asyncio.Event(), asyncio.Event()
    async with ScriptedPeer([first, second]) as peer, Client(peer.origin) as client:
        events = Events(client)
        recorder = await fetch(client, "/first")
        assert (recorder.body, recorder.error) == (b"first", None)
        ended.set()
        await injected.wait()
        # At once: what was injected may not even have been read yet.
        recorder = await fetch(client, "/second")
        assert recorder.error is None
        assert recorder.body == b"second"
        assert recorder.headers is not None
        assert "set-cookie" not in recorder.headers
        if stray != b"\r\n":
            # A lone CRLF before a response is tolerated (RFC 9112 2.2) and need not cost the connection.
            assert len(peer.connections) == 2
            assert events.count("disconnect") >= 1


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_s2_5_injected_response_that_is_in_the_socket_when_the_next_request_is_dispatched(
    method: str,
) -> None:
    async def first(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(ok(b"first"))
        await connection.closed()

    async with ScriptedPeer([first, answering]) as peer, Client(peer.origin) as client:
        await fetch(client, "/first")
        # The kernel has it before dispatch() is called, and the loop has not run in between.
        peer.connections[0].transport.write(EVIL)
        recorder = send(client, "/second", method=method)
        await recorder.wait()
        assert b"evil" not in recorder.body
        assert recorder.error is None
        assert recorder.body == b"ok"


async def test_s2_5_injected_response_and_a_dispatch_inside_the_end() -> None:
    async def first(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(ok(b"first") + EVIL)
        await connection.closed()

    async with ScriptedPeer([first, answering]) as peer, Client(peer.origin) as client:
        second = RecordingHandler()
        first_recorder = RecordingHandler(
            on_response_end=lambda *_: second.dispatch(client, {"path": "/second"})
        )
        send(client, "/first", first_recorder)
        await first_recorder.wait()
        await second.wait()
        assert second.body == b"ok"


async def test_s2_5_injected_response_with_others_pipelined() -> None:
    """Three responses for two requests: the third must not wait for a third request."""

    async def first(connection: PeerConnection) -> None:
        for _ in range(2):
            await connection.read_request()
        await connection.send(ok(b"a") + ok(b"b") + EVIL)
        await connection.closed()

    async with ScriptedPeer([first, answering]) as peer, Client(peer.origin, pipelining=2) as client:
        a, b = (send(client, path, blocking=False) for path in ("/a", "/b"))
        assert (await a.wait()).body == b"a"
        assert (await b.wait()).body == b"b"
        assert (await fetch(client, "/c")).body == b"ok"


@pytest.mark.parametrize("make", [Pool, lambda origin: Agent()], ids=["Pool", "Agent"])
async def test_s2_5_two_responses_for_one_request_through_a_pool(make: Any) -> None:
    async def first(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(ok(b"first") + EVIL)
        await connection.closed()

    async with ScriptedPeer([first, answering, answering]) as peer, make(peer.origin) as dispatcher:
        assert (await fetch(dispatcher, origin=peer.origin)).body == b"first"
        for _ in range(2):
            assert (await fetch(dispatcher, origin=peer.origin)).body == b"ok"


async def test_s2_5_body_longer_than_its_length_is_not_the_next_response() -> None:
    async def first(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfirst" + EVIL)
        await connection.closed()

    async with ScriptedPeer([first, answering]) as peer, Client(peer.origin) as client:
        assert (await fetch(client)).body == b"first"
        assert (await fetch(client)).body == b"ok"


@pytest.mark.parametrize("status", [204, 304])
async def test_s2_5_body_of_a_response_that_has_none_is_not_the_next_response(status: int) -> None:
    async def first(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(ok(EVIL, status=status))
        await connection.closed()

    async with ScriptedPeer([first, answering]) as peer, Client(peer.origin) as client:
        recorder = await fetch(client)
        assert (recorder.status_code, recorder.body, recorder.error) == (status, b"", None)
        assert (await fetch(client)).body == b"ok"
        assert len(peer.connections) == 2


async def test_s2_5_body_of_a_head_response_is_not_the_next_response() -> None:
    async def first(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(ok(EVIL))
        await connection.closed()

    async with ScriptedPeer([first, answering]) as peer, Client(peer.origin) as client:
        recorder = await fetch(client, method="HEAD")
        assert (recorder.body, recorder.error) == (b"", None)
        assert (await fetch(client)).body == b"ok"


async def test_s2_5_reuse_costs_no_timer() -> None:
    """A hundred requests in a row take no hundred delays."""
    async with ScriptedPeer(answering) as peer, Client(peer.origin) as client:
        since = now()
        for _ in range(100):
            await fetch(client)
        assert now() - since < 2
        assert len(peer.connections) == 1


# ------------------------------------------------------------------- connections that were closed


async def test_s2_5_idle_connection_that_the_peer_closed() -> None:
    async def first(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(ok(b"first"))
        connection.close()

    async with ScriptedPeer([first, answering]) as peer, Client(peer.origin) as client:
        events = Events(client)
        await fetch(client)
        await events.wait("disconnect")
        recorder = await fetch(client, method="POST", body=b"x")
        assert recorder.body == b"ok"
        assert recorder.starts == 1
        assert client.stats.retries == 0


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("ending", ["close", "reset", "half_close"])
async def test_s2_5_end_that_is_in_the_socket_when_the_next_request_is_dispatched(
    ending: str, method: str
) -> None:
    async def first(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(ok(b"first"))
        await connection.closed()

    async with ScriptedPeer([first, answering]) as peer, Client(peer.origin) as client:
        await fetch(client)
        getattr(peer.connections[0], ending)()
        # One turn in which the peer's transport closes its socket; after the second, this task runs before
        # the client's side has looked at its own.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        recorder = send(client, "/second", method=method)
        await recorder.wait()
        assert recorder.error is None
        assert recorder.body == b"ok"


async def _reused_then(ending: str, before: bytes = b"") -> Any:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(ok(b"first"))
        await connection.read_request()
        if before:
            await connection.send(before)
            await settle(5)
        getattr(connection, ending)()

    return script


@pytest.mark.parametrize("ending", ["close", "reset", "half_close"])
async def test_s2_5_reused_connection_that_ends_before_the_first_byte_is_silently_retried(
    ending: str,
) -> None:
    async with (
        ScriptedPeer([await _reused_then(ending), answering]) as peer,
        Client(peer.origin) as client,
    ):
        await fetch(client)
        recorder = await fetch(client, "/again")
        assert recorder.error is None
        assert recorder.body == b"ok"
        assert recorder.starts == 2
        assert client.stats.retries == 1
        assert [request.target for request in peer.requests] == ["/", "/again", "/again"]


@pytest.mark.parametrize("ending", ["close", "reset", "half_close"])
async def test_s2_5_post_on_a_reused_connection_is_not_repeated(ending: str) -> None:
    async with ScriptedPeer([await _reused_then(ending)]) as peer, Client(peer.origin) as client:
        await fetch(client)
        recorder = await fetch(client, "/again", method="POST", body=b"once")
        assert isinstance(recorder.error, SocketError)
        assert recorder.error.reused
        assert not recorder.error.request_not_processed
        assert recorder.error.bytes_sent
        assert client.stats.retries == 0


async def test_s2_5_post_that_may_be_repeated_is() -> None:
    async with ScriptedPeer([await _reused_then("close"), answering]) as peer, Client(peer.origin) as client:
        await fetch(client)
        recorder = await fetch(client, "/again", method="POST", body=b"twice", idempotent=True)
        assert recorder.body == b"ok"
        assert peer.requests[-1].body == b"twice"
        assert client.stats.retries == 1


async def test_s2_5_streamed_body_is_not_repeated() -> None:
    async def body() -> Any:
        yield b"once"

    async with ScriptedPeer([await _reused_then("close")]) as peer, Client(peer.origin) as client:
        await fetch(client)
        recorder = await fetch(client, "/again", method="PUT", body=body(), idempotent=True)
        assert isinstance(recorder.error, SocketError)


@pytest.mark.parametrize("ending", ["close", "reset"])
@pytest.mark.parametrize("before", [b"H", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n", ok(b"half")[:-2]])
async def test_s2_5_reused_connection_that_ends_after_the_first_byte_is_an_error(
    before: bytes, ending: str
) -> None:
    async with ScriptedPeer([await _reused_then(ending, before)]) as peer, Client(peer.origin) as client:
        await fetch(client)
        recorder = await fetch(client, "/again")
        assert isinstance(recorder.error, SocketError)
        assert recorder.error.reused
        assert recorder.starts == 1
        assert client.stats.retries == 0


@pytest.mark.parametrize("ending", ["close", "reset"])
async def test_s2_5_fresh_connection_that_ends_at_once_is_an_error(ending: str) -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        getattr(connection, ending)()

    async with ScriptedPeer([script]) as peer, Client(peer.origin) as client:
        recorder = await fetch(client)
        assert isinstance(recorder.error, SocketError)
        assert recorder.error.reused is False
        assert recorder.starts == 1
        assert client.stats.retries == 0


async def test_s2_5_silent_retry_happens_once() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        connection.close()

    async with (
        ScriptedPeer([await _reused_then("close"), script]) as peer,
        Client(peer.origin) as client,
    ):
        await fetch(client)
        recorder = await fetch(client, "/again")
        assert isinstance(recorder.error, SocketError)
        assert recorder.starts == 2
        assert recorder.error.attempt == 2


async def test_s2_5_silent_retry_goes_to_another_stale_connection_at_most_once() -> None:
    """Two idle connections, both dead: the retry that meets the second one is an error, or goes to a new one."""
    release = asyncio.Event()

    async def dying(connection: PeerConnection) -> None:
        await connection.read_request()
        await release.wait()
        await connection.send(ok(b"first"))
        if await connection.next_request() is not None:
            connection.reset()

    async with ScriptedPeer([dying, dying, answering]) as peer, Pool(peer.origin, connections=2) as pool:
        both = [send(pool), send(pool)]
        await peer.accepted(2)
        release.set()
        for recorder in both:
            await recorder.wait()
        recorder = await fetch(pool, "/again")
        assert recorder.starts <= 2
        assert recorder.error is None or isinstance(recorder.error, SocketError)
        assert pool.stats.retries == 1


async def test_s2_5_silent_retry_can_be_switched_off() -> None:
    async with (
        ScriptedPeer([await _reused_then("close")]) as peer,
        Client(peer.origin, retry_stale=False) as client,
    ):
        await fetch(client)
        recorder = await fetch(client, "/again")
        assert isinstance(recorder.error, SocketError)
        assert recorder.error.reused
        assert client.stats.retries == 0


async def test_s2_5_trailing_half_close_after_a_response() -> None:
    """The server says that it will send no more: the connection is not used again."""

    async def first(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(chunked(b"first"))
        connection.half_close()
        await connection.read_eof()

    async with ScriptedPeer([first, answering]) as peer, Client(peer.origin) as client:
        events = Events(client)
        await fetch(client)
        await events.wait("disconnect")
        assert (await fetch(client)).body == b"ok"
        await peer.connections[0].closed()

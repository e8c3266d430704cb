"""One HTTP/2 connection: what is written when, how many run at a time, trailers, 1xx, and when it goes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.peers.h2_kit import (
    CANCEL,
    CONNECT_PROTOCOL,
    DATA,
    GOAWAY,
    HEADERS,
    MAX_LIST,
    MAX_STREAMS,
    NO_ERROR,
    PING,
    RST_STREAM,
    H2Peer,
    h2_script,
    serving,
    warm,
)
from tests.peers.kit import Events, fetch, send, virtual

from dodici import (
    H2CClient,
    HeadersOverflowError,
    HeadersTimeoutError,
    InformationalError,
    NotSupportedError,
    ResponseContentLengthMismatchError,
    ResponseExceededMaxSizeError,
    SocketError,
)
from dodici.testing import PeerConnection, RecordingHandler, ScriptedPeer, settle

# -- before and after SETTINGS -----------------------------------------------------------------------------


async def test_only_one_goes_ahead_of_settings() -> None:
    told = asyncio.Event()

    async def script(connection: PeerConnection) -> None:
        peer = H2Peer(connection)
        await connection.read_exactly(24)
        first = await peer.request()
        await told.wait()
        assert connection.buffered == b""
        await peer.settings({})
        rest = await peer.requests(9)
        assert [request.stream for request in rest] == [3, 5, 7, 9, 11, 13, 15, 17, 19]
        for request in [first, *rest]:
            await peer.respond(request.stream, request.path.encode())
        await peer.rest()

    async with ScriptedPeer(script) as peer, H2CClient(peer.origin) as client:
        recorders = [send(client, f"/{number}") for number in range(10)]
        await recorders[0].reached("on_request_start")
        await settle(50)
        assert [recorder.starts for recorder in recorders] == [1] + [0] * 9
        assert client.stats.running == 1
        told.set()
        for number, recorder in enumerate(recorders):
            assert (await recorder.wait()).body == b"/%d" % number


@pytest.mark.parametrize("limit", [1, 3, 100, 1000])
async def test_limit_of_the_server_or_ours(limit: int) -> None:
    most = min(limit, 100)

    async def play(peer: H2Peer) -> None:
        await peer.respond((await peer.request()).stream)
        running = await peer.requests(most)
        await peer.ping()
        assert peer.count(HEADERS) == most + 1
        for _ in range(120 - most):
            done = running.pop(0)
            await peer.respond(done.stream, done.path.encode())
            running.append(await peer.request())
        for request in running:
            await peer.respond(request.stream, request.path.encode())

    async with ScriptedPeer(h2_script(play, {MAX_STREAMS: limit})) as peer, H2CClient(peer.origin) as client:
        await warm(client)
        recorders = [send(client, f"/{number}") for number in range(120)]
        for number, recorder in enumerate(recorders):
            assert (await recorder.wait()).body == b"/%d" % number
        assert client.stats.size == 0


async def test_max_concurrent_streams_of_the_client() -> None:
    async def play(peer: H2Peer) -> None:
        for _ in range(3):
            pair = await peer.requests(2)
            await peer.ping()
            assert peer.connection.buffered == b""
            for request in pair:
                await peer.respond(request.stream)

    async with ScriptedPeer(h2_script(play)) as peer:
        async with H2CClient(peer.origin, max_concurrent_streams=2) as client:
            for recorder in [send(client) for _ in range(6)]:
                assert (await recorder.wait()).body == b"ok"


async def test_limit_raised_and_lowered_in_mid_connection() -> None:
    async def play(peer: H2Peer) -> None:
        await peer.respond((await peer.request()).stream)
        running = await peer.requests(2)
        await peer.settings({MAX_STREAMS: 4})
        running += await peer.requests(2)
        await peer.ping()
        assert peer.count(HEADERS) == 5
        await peer.settings({MAX_STREAMS: 1})
        for request in running[:3]:
            await peer.respond(request.stream)
        await peer.ping()
        assert peer.count(HEADERS) == 5
        await peer.respond(running[3].stream)
        for _ in range(4):
            await peer.respond((await peer.request()).stream)
            await peer.ping()

    async with ScriptedPeer(h2_script(play, {MAX_STREAMS: 2})) as peer, H2CClient(peer.origin) as client:
        await warm(client)
        for recorder in [send(client) for _ in range(8)]:
            assert (await recorder.wait()).body == b"ok"
        assert client.stats.size == 0


@virtual
async def test_limit_of_zero_is_waited_for() -> None:
    async def play(peer: H2Peer) -> None:
        await asyncio.sleep(50)
        await peer.settings({MAX_STREAMS: 2})
        await peer.serve()

    async with ScriptedPeer(h2_script(play, {MAX_STREAMS: 0})) as peer:
        async with H2CClient(peer.origin, headers_timeout=60) as client:
            recorders = [send(client) for _ in range(5)]
            for recorder in recorders:
                await recorder.wait()
                # The one that went ahead of SETTINGS may have been written before they came.
                assert recorder.error is None


@virtual
async def test_limit_of_zero_for_too_long_fails_what_waits() -> None:
    async def play(peer: H2Peer) -> None:
        await peer.respond((await peer.request()).stream)
        await peer.settings({MAX_STREAMS: 0})

    async with ScriptedPeer([h2_script(play), serving()]) as peer:
        async with H2CClient(peer.origin, headers_timeout=30) as client:
            await warm(client)
            events = Events(client)
            await settle()
            recorders = [send(client) for _ in range(5)]
            for recorder in recorders:
                await recorder.wait()
                assert isinstance(recorder.error, HeadersTimeoutError)
                assert recorder.error.request_not_processed
                assert recorder.starts == 0
            assert 30 <= asyncio.get_running_loop().time() <= 33
            assert events.count("disconnect") == 1
            assert client.stats.size == 0
            assert (await fetch(client)).body == b"ok"
            assert len(peer.connections) == 2


# -- heads -------------------------------------------------------------------------------------------------


async def test_what_a_request_looks_like() -> None:
    async def play(peer: H2Peer) -> None:
        get = await peer.request()
        assert get.ends
        assert list(get.fields.items()) == [
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", f"127.0.0.1:{peer.connection._peer.port}"),
            (":path", "/a?b=c"),
            ("x-one", "1"),
        ]
        await peer.respond(get.stream)
        post = await peer.request()
        assert (post.fields[":authority"], post.fields["content-length"]) == ("example.com", "4")
        assert "host" not in post.fields
        assert not post.ends
        assert await peer.body(post.stream) == b"body"
        await peer.respond(post.stream)

    async with ScriptedPeer(h2_script(play)) as peer, H2CClient(peer.origin) as client:
        assert (await fetch(client, "/a", query={"b": "c"}, headers={"X-One": "1"})).body == b"ok"
        assert (
            await fetch(client, method="POST", body="body", headers={"Host": "example.com"})
        ).body == b"ok"


async def test_head_that_is_larger_than_a_frame() -> None:
    value = "x" * 50_000

    async def play(peer: H2Peer) -> None:
        request = await peer.request()
        assert request.fields["x-large"] == value
        await peer.respond(request.stream)

    async with ScriptedPeer(h2_script(play)) as peer, H2CClient(peer.origin) as client:
        assert (await fetch(client, headers={"x-large": value})).body == b"ok"


async def test_head_that_is_larger_than_the_server_takes() -> None:
    async with ScriptedPeer(serving({MAX_LIST: 300})) as peer, H2CClient(peer.origin) as client:
        await warm(client)
        recorder = await fetch(client, headers={"x-large": "x" * 300})
        assert isinstance(recorder.error, HeadersOverflowError)
        assert recorder.error.request_not_processed
        assert (await fetch(client)).body == b"ok"
        assert len(peer.connections) == 1


async def test_informational_heads_and_trailers() -> None:
    async def play(peer: H2Peer) -> None:
        stream = (await peer.request()).stream
        await peer.head(stream, 103, link="</a>")
        await peer.head(stream, 103, link="</b>")
        await peer.head(stream, 200, x_a="1")
        await peer.data(stream, b"body")
        await peer.trailers(stream, x_sum="42")

    async with ScriptedPeer(h2_script(play)) as peer, H2CClient(peer.origin) as client:
        recorder = await fetch(client)
        assert [(status, fields["link"]) for status, fields in recorder.informational] == [
            (103, "</a>"),
            (103, "</b>"),
        ]
        assert recorder.status_message == ""
        assert recorder.trailers is not None
        assert recorder.trailers["x-sum"] == "42"
        assert recorder.body == b"body"


@pytest.mark.parametrize("size", [3, 8])
async def test_body_that_is_not_as_long_as_it_said(size: int) -> None:
    async def play(peer: H2Peer) -> None:
        stream = (await peer.request()).stream
        await peer.head(stream, 200, content_length="5")
        await peer.data(stream, bytes(size), end=True)
        await peer.next(RST_STREAM, stream=stream)
        await peer.serve()

    async with ScriptedPeer(h2_script(play)) as peer, H2CClient(peer.origin) as client:
        assert isinstance((await fetch(client)).error, ResponseContentLengthMismatchError)
        assert (await fetch(client)).body == b"ok"
        assert len(peer.connections) == 1


async def test_max_response_size_resets_the_stream() -> None:
    async def play(peer: H2Peer) -> None:
        stream = (await peer.request()).stream
        await peer.head(stream)
        await peer.data(stream, bytes(2000))
        assert (await peer.next(RST_STREAM, stream=stream)).number == CANCEL
        await peer.serve()

    async with ScriptedPeer(h2_script(play)) as peer:
        async with H2CClient(peer.origin, max_response_size=1000) as client:
            recorder = await fetch(client)
            assert isinstance(recorder.error, ResponseExceededMaxSizeError)
            assert recorder.body == b""
            assert (await fetch(client)).body == b"ok"
            assert len(peer.connections) == 1


# -- its end -----------------------------------------------------------------------------------------------


@virtual
async def test_idle_connection_is_closed_with_goaway() -> None:
    async with ScriptedPeer(serving()) as peer, H2CClient(peer.origin, keep_alive_timeout=10) as client:
        await warm(client)
        events = Events(client)
        await events.wait("disconnect")
        assert 10 <= asyncio.get_running_loop().time() <= 12
        assert isinstance(events.errors()[0], InformationalError)
        await peer.all_closed()
        last = peer.connections[0].h2.log[-1]  # type: ignore[attr-defined]
        assert (last.kind, last.number) == (GOAWAY, NO_ERROR)
        await warm(client)
        assert len(peer.connections) == 2


@virtual
async def test_connection_that_serves_is_not_idle() -> None:
    async def play(peer: H2Peer) -> None:
        stream = (await peer.request()).stream
        await asyncio.sleep(100)
        await peer.respond(stream)

    async with ScriptedPeer(h2_script(play)) as peer:
        async with H2CClient(peer.origin, keep_alive_timeout=10, ping_interval=0) as client:
            assert (await fetch(client)).body == b"ok"


@virtual
async def test_silent_peer_is_pinged_and_lives() -> None:
    async def play(peer: H2Peer) -> None:
        stream = (await peer.request()).stream
        for number in range(1, 4):
            await peer.next(PING)
            assert number * 20 <= asyncio.get_running_loop().time() <= number * 20 + 3 * number
        await peer.respond(stream)

    async with ScriptedPeer(h2_script(play)) as peer:
        async with H2CClient(peer.origin, ping_interval=20, ping_timeout=5) as client:
            assert (await fetch(client)).body == b"ok"


@virtual
async def test_peer_that_does_not_answer_ping_is_given_up() -> None:
    async def play(peer: H2Peer) -> None:
        peer.answers_ping = False
        await peer.requests(2)

    async with ScriptedPeer([h2_script(play), serving()]) as peer:
        async with H2CClient(peer.origin, ping_interval=20, ping_timeout=5) as client:
            for recorder in [send(client), send(client, method="POST")]:
                await recorder.wait()
                assert isinstance(recorder.error, SocketError)
                assert "ping_timeout" in str(recorder.error)
            assert 25 <= asyncio.get_running_loop().time() <= 28
            assert client.stats.size == 0
            assert (await fetch(client)).body == b"ok"


@virtual
async def test_ping_can_be_switched_off() -> None:
    async def play(peer: H2Peer) -> None:
        stream = (await peer.request()).stream
        await asyncio.sleep(200)
        await peer.respond(stream)
        await peer.rest()
        assert peer.count(PING) == 0

    async with ScriptedPeer(h2_script(play)) as peer, H2CClient(peer.origin, ping_interval=0) as client:
        assert (await fetch(client)).body == b"ok"


@pytest.mark.parametrize("most", [1, 3])
async def test_max_requests_per_client(most: int) -> None:
    async with ScriptedPeer(serving()) as peer:
        async with H2CClient(peer.origin, max_requests_per_client=most) as client:
            recorders = [send(client) for _ in range(7)]
            for recorder in recorders:
                assert (await recorder.wait()).body == b"ok"
            assert client.stats.size == 0
        await peer.all_closed()
        counts = [connection.h2.count(HEADERS) for connection in peer.connections]  # type: ignore[attr-defined]
        assert counts == ([1] * 7 if most == 1 else [3, 3, 1])


async def test_pipelining_0_is_one_request_per_connection() -> None:
    async with ScriptedPeer(serving()) as peer, H2CClient(peer.origin, pipelining=0) as client:
        for recorder in [send(client) for _ in range(3)]:
            assert (await recorder.wait()).body == b"ok"
        assert len(peer.connections) == 3


# -- upgrades that HTTP/2 does not have --------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {CONNECT_PROTOCOL: 1}], ids=["plain", "rfc8441"])
async def test_upgrade_to_something_else_is_not_supported(settings: dict[int, int]) -> None:
    async with ScriptedPeer(serving(settings)) as peer, H2CClient(peer.origin) as client:
        recorder = await fetch(client, upgrade="foo")
        assert isinstance(recorder.error, NotSupportedError)
        if not settings:
            assert isinstance((await fetch(client, upgrade="websocket")).error, NotSupportedError)
        assert (await fetch(client)).body == b"ok"
        assert len(peer.connections) == 1


# -- writing -----------------------------------------------------------------------------------------------


async def test_requests_of_one_turn_leave_in_one_write() -> None:
    reads: list[int] = []

    async def play(peer: H2Peer) -> None:
        await peer.respond((await peer.request()).stream)
        connection: Any = peer.connection
        received = connection.data_received
        connection.data_received = lambda data: (reads.append(len(data)), received(data))
        for request in await peer.requests(20):
            await peer.respond(request.stream)

    async with ScriptedPeer(h2_script(play)) as peer, H2CClient(peer.origin) as client:
        await warm(client)
        writes: list[int] = []
        connection: Any = client._connection
        transport = connection.transport
        spy = _Spy(transport, writes)
        connection.transport = spy
        recorders = [send(client, f"/{number}") for number in range(20)]
        for recorder in recorders:
            assert (await recorder.wait()).body == b"ok"
        connection.transport = transport
        assert writes[0] > 20 * 9
        assert len(writes) == 1


class _Spy:
    """A transport that counts what is written."""

    def __init__(self, transport: Any, writes: list[int]) -> None:
        self._transport = transport
        self._writes = writes

    def write(self, data: bytes) -> None:
        self._writes.append(len(data))
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


async def test_dispatch_inside_callbacks() -> None:
    async with ScriptedPeer(serving()) as peer, H2CClient(peer.origin) as client:
        inner: list[RecordingHandler] = []
        hook = lambda *_: inner.append(send(client, "/inner"))  # noqa: E731 - one hook for all
        outer = RecordingHandler(
            on_request_start=hook, on_response_start=hook, on_response_data=hook, on_response_end=hook
        )
        await send(client, "/outer", outer).wait()
        assert len(inner) == 4
        for recorder in inner:
            assert (await recorder.wait()).body == b"ok"
        assert client.stats.size == 0
        assert (await peer_data_frames(peer)) == 0


async def peer_data_frames(peer: ScriptedPeer) -> int:
    return sum(connection.h2.count(DATA) for connection in peer.connections)  # type: ignore[attr-defined]

"""undici.md 2.10: upgrade and CONNECT, and the socket that they hand over."""

from __future__ import annotations

import asyncio

import pytest
from tests.peers.kit import Events, answering, fetch, ok, send

from dodici import Client, DispatchHandler, InvalidArgumentError
from dodici.testing import PeerConnection, RecordingHandler, ScriptedPeer, settle

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: foo\r\nx-a: b\r\n\r\n"


async def echo(connection: PeerConnection) -> None:
    while data := await connection.read_some():
        await connection.send(data)
    connection.close()


@pytest.mark.parametrize("pieces", ["whole", "bytes"])
async def test_s2_10_upgrade_hands_a_usable_socket_over(pieces: str) -> None:
    async def script(connection: PeerConnection) -> None:
        request = await connection.read_request()
        assert request.headers["connection"].lower() == "upgrade"
        assert request.headers["upgrade"] == "foo"
        await (connection.send if pieces == "whole" else connection.send_slowly)(SWITCH + b"early")
        await echo(connection)

    async with ScriptedPeer([script, answering]) as peer, Client(peer.origin) as client:
        events = Events(client)
        order: list[str] = []
        client.on("disconnect", lambda *_: order.append("disconnect"))
        recorder = RecordingHandler(on_request_upgrade=lambda *_: order.append("upgrade"))
        await send(client, "/", recorder, upgrade="foo").wait()
        assert recorder.names == ["request_start", "request_upgrade"]
        assert recorder.status_code == 101
        assert recorder.headers is not None
        assert recorder.headers["x-a"] == "b"
        assert order == ["disconnect", "upgrade"]
        assert events.errors()[0].code == "UND_ERR_INFO"
        assert (await fetch(client)).body == b"ok"
        await client.close()
        async with recorder.socket as socket:
            assert await socket.read_exactly(5) == b"early"
            await socket.write(b"still mine")
            assert await socket.read_exactly(10) == b"still mine"
            large = bytes(1 << 20)
            writing = asyncio.ensure_future(socket.write(large))
            assert await socket.read_exactly(len(large)) == large
            await writing
            socket.write_eof()
            assert await socket.read() == b""
        await peer.all_closed()


async def test_s2_10_103_before_101() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 103 Hints\r\n\r\n", SWITCH)
        await echo(connection)

    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        recorder = await fetch(client, upgrade="foo")
        assert recorder.names == ["request_start", "response_start", "request_upgrade"]
        recorder.socket.abort()
        await recorder.socket.wait_closed()


@pytest.mark.parametrize("status", [200, 426])
async def test_s2_10_refused_upgrade_is_an_ordinary_response(status: int) -> None:
    async def script(connection: PeerConnection) -> None:
        while await connection.next_request() is not None:
            await connection.send(ok(b"no", status=status))

    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        for _ in range(2):
            recorder = await fetch(client, upgrade="foo")
            assert (recorder.status_code, recorder.body) == (status, b"no")
        assert (await fetch(client)).body == b"no"


@pytest.mark.parametrize("status", [200, 204, 299])
async def test_s2_10_connect_with_2xx_is_an_upgrade_whatever_its_length(status: int) -> None:
    async def script(connection: PeerConnection) -> None:
        request = await connection.read_request()
        assert (request.method, request.target) == ("CONNECT", "example.com:443")
        await connection.send(f"HTTP/1.1 {status} OK\r\ncontent-length: 100\r\n\r\nearly")
        await echo(connection)

    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        recorder = await fetch(client, "example.com:443", method="CONNECT")
        assert recorder.names == ["request_start", "request_upgrade"]
        async with recorder.socket as socket:
            assert await socket.read_exactly(5) == b"early"


@pytest.mark.parametrize("status", [403, 407])
async def test_s2_10_connect_refused_is_an_ordinary_response(status: int) -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(ok(b"no", status=status))
        await connection.closed()

    async with ScriptedPeer(script) as peer, Client(peer.origin) as client:
        recorder = await fetch(client, "example.com:443", method="CONNECT")
        assert (recorder.status_code, recorder.body) == (status, b"no")


async def test_s2_10_handler_without_on_request_upgrade_is_refused() -> None:
    class Lacking(DispatchHandler):
        on_request_upgrade = None  # type: ignore[assignment]

    async with Client("http://127.0.0.1:9") as client:
        for options in ({"upgrade": "foo"}, {"method": "CONNECT", "path": "a:1"}):
            with pytest.raises(InvalidArgumentError, match="on_request_upgrade"):
                client.dispatch(options, Lacking())


async def test_s2_10_upgrade_callback_that_raises_closes_the_socket() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await connection.send(SWITCH)
        await connection.closed()

    def refuse(*_: object) -> None:
        raise LookupError("not this one")

    async with ScriptedPeer([script, answering]) as peer, Client(peer.origin) as client:
        errors: list[BaseException] = []
        handler = DispatchHandler()
        ended = asyncio.Event()
        handler.on_request_upgrade = refuse  # type: ignore[method-assign]
        handler.on_response_error = lambda _, error: (errors.append(error), ended.set())  # type: ignore[assignment,func-returns-value,method-assign,misc]
        client.dispatch({"upgrade": "foo"}, handler)
        async with asyncio.timeout(10):
            await ended.wait()
        assert isinstance(errors[0], LookupError)
        await peer.connections[0].closed()
        assert (await fetch(client)).body == b"ok"


async def test_s2_10_requests_queued_behind_an_upgrade_go_elsewhere() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_request()
        await settle(20)
        assert not connection.buffered
        await connection.send(SWITCH)
        await connection.read_eof()

    async with ScriptedPeer([script, answering]) as peer, Client(peer.origin, pipelining=5) as client:
        recorder = send(client, upgrade="foo")
        queued = [send(client, f"/{number}") for number in range(3)]
        await recorder.wait()
        for one in queued:
            assert (await one.wait()).body == b"ok"
        recorder.socket.close()
        await recorder.socket.wait_closed()

"""Which protocol a connection speaks: what ALPN chose over TLS, what was said beforehand without it."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
from tests.peers.h2_asgi import h2_tls
from tests.peers.h2_kit import GOAWAY, PROTOCOL_ERROR, SETTINGS, H2Peer, frame, h2_script, serving
from tests.peers.kit import Events, answering, fetch, send

from dodici import (
    Agent,
    Client,
    ConnectTimeoutError,
    H2CClient,
    HTTP2Error,
    InvalidArgumentError,
    Pool,
    SocketError,
)
from dodici.testing import PeerConnection, ScriptedPeer


@pytest.fixture
def authority(tmp_path: Path) -> str:
    """A file, so that contexts are made by the library, offers included."""
    path = tmp_path / "authority.pem"
    path.write_bytes(h2_tls().authority.cert_pem.bytes())
    return str(path)


async def either(connection: PeerConnection) -> None:
    """Speak what was negotiated."""
    chosen = connection.transport.get_extra_info("ssl_object").selected_alpn_protocol()
    await (serving() if chosen == "h2" else answering)(connection)


async def version(authority: str, *server: str, kind: Any = Client, **options: Any) -> str:
    """The protocol of an exchange with a server that speaks these, its favourite first."""
    async with ScriptedPeer(either, tls=h2_tls().server_context(*server)) as peer:
        async with kind(peer.origin, connect={"ca": authority}, **options) as client:
            recorder = await fetch(client)
            assert recorder.body == b"ok"
            if "h2" in server and options.get("allow_h2", True):
                assert recorder.status_message == ("" if recorder.controller.http_version == "2" else "Fine")
            return str(recorder.controller.http_version)


@pytest.mark.parametrize("kind", [Client, Pool])
async def test_h2_by_alpn(authority: str, kind: Any) -> None:
    assert await version(authority, "h2", "http/1.1", kind=kind) == "2"
    assert await version(authority, "h2", kind=kind) == "2"


async def test_server_that_knows_only_http1(authority: str) -> None:
    assert await version(authority, "http/1.1") == "1.1"


async def test_server_without_alpn_gets_http1(authority: str) -> None:
    assert await version(authority) == "1.1"


async def test_allow_h2_false_does_not_offer_it(authority: str) -> None:
    assert await version(authority, "h2", "http/1.1", allow_h2=False) == "1.1"


@pytest.mark.parametrize(("prefer", "offer"), [(False, ["http/1.1", "h2"]), (True, ["h2", "http/1.1"])])
async def test_order_of_the_offer(authority: str, prefer: bool, offer: list[str]) -> None:
    # The server's order decides, so the offer is read from the ClientHello itself.
    hellos: list[bytes] = []
    context = h2_tls().server_context("h2")
    context._msg_callback = lambda *message: hellos.append(message[-1])  # type: ignore[attr-defined]
    async with ScriptedPeer(either, tls=context) as peer:
        async with Client(peer.origin, connect={"ca": authority}, prefer_h2=prefer) as client:
            assert (await fetch(client)).body == b"ok"
    wire = b"".join(bytes([len(name)]) + name.encode() for name in offer)
    assert any(wire in hello for hello in hellos)


async def test_context_of_the_caller_says_what_is_offered() -> None:
    tls = h2_tls()
    for offered, expected in ((("h2",), "2"), (("http/1.1",), "1.1"), ((), "1.1")):
        context = tls.client_context(*offered)
        async with ScriptedPeer(either, tls=tls.server_context("h2", "http/1.1")) as peer:
            async with Client(peer.origin, connect={"ssl_context": context}) as client:
                recorder = await fetch(client)
                assert (recorder.body, recorder.controller.http_version) == (b"ok", expected)


async def test_no_common_protocol_is_a_connection_error(authority: str) -> None:
    # A server may refuse the handshake (RFC 7301 3.2) or go on without; this one goes on, in HTTP/1.1.
    assert await version(authority, "spdy/9") == "1.1"


async def test_agent_decides_for_each_origin(authority: str) -> None:
    tls = h2_tls()
    async with (
        ScriptedPeer(either, tls=tls.server_context("h2")) as new,
        ScriptedPeer(either, tls=tls.server_context("http/1.1")) as old,
        ScriptedPeer(answering) as clear,
        Agent(connect={"ca": authority}) as agent,
    ):
        seen = [await fetch(agent, origin=peer.origin) for peer in (new, old, clear)]
        assert [recorder.controller.http_version for recorder in seen] == ["2", "1.1", "1.1"]


async def test_cleartext_is_http1_unless_told_otherwise() -> None:
    async with ScriptedPeer(answering) as peer, Client(peer.origin) as client:
        assert (await fetch(client)).controller.http_version == "1.1"
        assert peer.connections[0].received.startswith(b"GET / HTTP/1.1\r\n")


@pytest.mark.parametrize("kind", ["client", "option", "pool", "agent"])
async def test_prior_knowledge(kind: str) -> None:
    async with ScriptedPeer(serving()) as peer:
        client: Any = {
            "client": lambda: H2CClient(peer.origin),
            "option": lambda: Client(peer.origin, use_h2c=True),
            "pool": lambda: Pool(peer.origin, use_h2c=True),
            "agent": lambda: Agent(use_h2c=True),
        }[kind]()
        async with client:
            recorder = await fetch(client, origin=peer.origin)
            assert (recorder.body, recorder.controller.http_version) == (b"ok", "2")


async def test_h2c_client_is_for_http() -> None:
    with pytest.raises(InvalidArgumentError, match="https"):
        H2CClient("https://example.com")


async def test_prior_knowledge_that_is_wrong() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_until(b"\r\n\r\n")
        await connection.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await connection.closed()

    async with ScriptedPeer(script) as peer, H2CClient(peer.origin, retry_stale=True) as client:
        events = Events(client)
        recorders = [send(client, method="POST", body=b"x") for _ in range(3)]
        for recorder in recorders[:1]:
            await recorder.wait()
            assert isinstance(recorder.error, HTTP2Error)
            assert "answers HTTP/1 where HTTP/2 was expected" in str(recorder.error)
        # Each had a connection of its own, since only one goes ahead of SETTINGS.
        for recorder in recorders[1:]:
            await recorder.wait()
            assert isinstance(recorder.error, HTTP2Error)
        await events.wait("disconnect", 3)
        assert client.stats.size == 0


async def test_the_first_frame_is_settings() -> None:
    async def script(connection: PeerConnection) -> None:
        peer = H2Peer(connection)
        await connection.read_exactly(24)
        await peer.window(0, 5)
        assert (await peer.next(GOAWAY)).number == PROTOCOL_ERROR
        await peer.rest()

    async with ScriptedPeer(script) as peer, H2CClient(peer.origin) as client:
        recorder = await fetch(client)
        assert isinstance(recorder.error, HTTP2Error)
        assert "did not begin with SETTINGS" in str(recorder.error)


@pytest.mark.parametrize("use_h2c", [False, True], ids=["h1", "h2"])
async def test_server_that_speaks_first_is_not_asked_for_ever(use_h2c: bool) -> None:
    # Its greeting may come before the request is written, and what was not written goes to another connection.
    class Greeter(asyncio.Protocol):
        made = 0

        def connection_made(self, transport: Any) -> None:
            Greeter.made += 1
            transport.write(b"SSH-2.0-Some_1.0\r\n")

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Greeter, "127.0.0.1", 0)
    origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with Pool(origin, use_h2c=use_h2c) as pool:
        recorders = [send(pool) for _ in range(3)]
        for recorder in recorders:
            await recorder.wait()
            assert recorder.error is not None
        assert Greeter.made <= 6
        assert pool.stats.size == 0
    server.close()
    await server.wait_closed()


async def test_server_that_takes_nothing_is_not_asked_for_ever() -> None:
    async def script(connection: PeerConnection) -> None:
        peer = H2Peer(connection)
        connection.transport.write(frame(SETTINGS, 0, 0) + frame(GOAWAY, 0, 0, bytes(8)))
        await peer.connection.closed()

    async with ScriptedPeer(script) as peer, H2CClient(peer.origin) as client:
        recorder = await fetch(client)
        assert isinstance(recorder.error, SocketError)
        assert recorder.error.request_not_processed
        assert len(peer.connections) <= 2


async def test_connection_that_ends_before_settings_fails_the_request() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.read_exactly(24)
        connection.close()

    async with ScriptedPeer(script) as peer, H2CClient(peer.origin) as client:
        recorder = await fetch(client)
        assert recorder.error is not None
        assert recorder.error.code == "UND_ERR_SOCKET"  # type: ignore[attr-defined]
        assert not recorder.error.reused  # type: ignore[attr-defined]


async def test_certificate_that_is_not_trusted_is_an_error_of_tls() -> None:
    async with ScriptedPeer(serving(), tls=h2_tls().server_context("h2")) as peer:
        async with Client(peer.origin) as client:
            recorder = await fetch(client)
            assert recorder.error is not None
            assert recorder.error.code == "DODICI_ERR_TLS"  # type: ignore[attr-defined]
            assert isinstance(recorder.error.__cause__, ssl.SSLError)


async def test_handshake_that_never_ends_is_a_connect_timeout() -> None:
    async def script(connection: PeerConnection) -> None:
        await connection.stall()

    async with ScriptedPeer(script) as peer:
        origin = peer.origin.replace("http:", "https:")
        async with Client(origin, connect_timeout=0.05) as client:
            assert isinstance((await fetch(client)).error, ConnectTimeoutError)
            assert client.stats.size == 0


async def test_what_came_with_the_handshake_is_read(authority: str) -> None:
    # SETTINGS right behind the server's Finished reach the protocol that ALPN put in place of the first one.
    async def play(peer: H2Peer) -> None:
        await peer.serve()

    async with ScriptedPeer(h2_script(play), tls=h2_tls().server_context("h2")) as peer:
        async with Pool(peer.origin, connect={"ca": authority}) as pool:
            for _ in range(3):
                assert (await fetch(pool)).body == b"ok"
            assert len(peer.connections) == 1

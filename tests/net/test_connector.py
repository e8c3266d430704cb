"""From an origin to a transport: addresses, unix sockets, TLS and its sessions, and what goes wrong."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from dodici import (
    Agent,
    Client,
    ConnectError,
    ConnectTimeoutError,
    InvalidArgumentError,
    NameResolutionError,
    TLSError,
)
from dodici.net.connector import Connector, ConnectTarget
from dodici.testing import PeerConnection, ScriptedPeer


async def answer(connection: PeerConnection) -> None:
    while await connection.next_request() is not None:
        await connection.respond(b"ok")


def numeric(host: str, port: int) -> list[Any]:
    """What the loop's own lookup says of an address: uvloop asks it when it connects a socket."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)


async def text(dispatcher: Any, url: str = "/", **options: Any) -> str:
    response = await dispatcher.request(url, **options)
    return str(await response.text())


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    context.set_alpn_protocols(["http/1.1"])
    return context


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


async def test_unix_socket_keeps_the_origin_as_host() -> None:
    async with ScriptedPeer(answer, unix=True) as peer:
        async with Client("http://service.example:8080", socket_path=peer.socket_path) as client:
            assert await text(client) == "ok"
            assert peer.requests[0].headers["host"] == "service.example:8080"


async def test_local_address() -> None:
    async with ScriptedPeer(answer) as peer, Client(peer.origin, local_address="127.0.0.2") as client:
        assert await text(client) == "ok"
        assert peer.connections[0].transport.get_extra_info("peername")[0] == "127.0.0.2"


async def test_happy_eyeballs_goes_past_a_dead_address(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ScriptedPeer(answer) as peer:
        loop = asyncio.get_running_loop()

        async def lookup(host: str, port: int, **_: Any) -> list[Any]:
            if host != "dual.example":
                return numeric(host, port)
            return [
                (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
            ]

        monkeypatch.setattr(loop, "getaddrinfo", lookup)
        async with Client(f"http://dual.example:{peer.port}") as client:
            assert await text(client) == "ok"


async def test_a_burst_looks_a_name_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ScriptedPeer(answer) as peer:
        lookups = 0

        async def lookup(host: str, port: int, **_: Any) -> list[Any]:
            nonlocal lookups
            if host != "burst.example":
                return numeric(host, port)
            lookups += 1
            await asyncio.sleep(0)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", lookup)
        async with Agent() as agent:
            await asyncio.gather(*(text(agent, f"http://burst.example:{peer.port}/") for _ in range(20)))
            assert lookups == 1


async def test_an_unknown_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async def lookup(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", lookup)
    async with Agent() as agent:
        with pytest.raises(NameResolutionError) as caught:
            await text(agent, "http://nowhere.example/")
    assert isinstance(caught.value, socket.gaierror)
    assert caught.value.code == "ENOTFOUND"
    assert caught.value.request_not_processed
    assert "nowhere.example" in str(caught.value)


async def test_connect_timeout_covers_tls() -> None:
    async def silent(connection: PeerConnection) -> None:
        await connection.closed()

    async with ScriptedPeer(silent) as peer:
        async with Client(
            peer.origin.replace("http", "https"), connect_timeout=0.05, connect={"verify": False}
        ) as client:
            with pytest.raises(ConnectTimeoutError) as caught:
                await text(client)
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.code == "UND_ERR_CONNECT_TIMEOUT"
        await peer.all_closed()


async def test_tls_by_ca_file_offers_http_1_alone(authority: trustme.CA, ca_file: str) -> None:
    context = server_context(authority, "127.0.0.1")
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with ScriptedPeer(answer, tls=context) as peer:
        async with Client(peer.origin, allow_h2=False, connect={"ca": ca_file}) as client:
            assert await text(client) == "ok"
            ssl_object = peer.connections[0].transport.get_extra_info("ssl_object")
            assert ssl_object.selected_alpn_protocol() == "http/1.1"


async def test_sessions_are_resumed(authority: trustme.CA, ca_file: str) -> None:
    reused: list[bool] = []

    async def noting(connection: PeerConnection) -> None:
        reused.append(connection.transport.get_extra_info("ssl_object").session_reused)
        await answer(connection)

    async with ScriptedPeer(noting, tls=server_context(authority, "127.0.0.1")) as peer:
        async with Client(peer.origin, connect={"ca": ca_file}) as client:
            await text(client, reset=True)
            await text(client, reset=True)
            assert reused == [False, True]
        async with Client(peer.origin, max_cached_sessions=0, connect={"ca": ca_file}) as client:
            await text(client, reset=True)
            await text(client, reset=True)
            assert reused == [False, True, False, False]


async def test_an_untrusted_certificate(authority: trustme.CA) -> None:
    async with ScriptedPeer(answer, tls=server_context(authority, "127.0.0.1")) as peer:
        async with Client(peer.origin) as client:
            with pytest.raises(TLSError) as caught:
                await text(client)
            assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
            assert isinstance(caught.value, ConnectError)
            assert client.stats.size == 0
        async with Client(peer.origin, connect={"verify": False}) as client:
            assert await text(client) == "ok"
        peer.errors.clear()  # the first handshake ended in an alert


async def test_s2_12_server_name_is_asked_for_and_checked(authority: trustme.CA, ca_file: str) -> None:
    async with ScriptedPeer(answer, tls=server_context(authority, "inner.example", "other.example")) as peer:
        async with Client(peer.origin, connect={"ca": ca_file}) as client:
            with pytest.raises(TLSError):
                await text(client)
            assert await text(client, server_name="inner.example") == "ok"
            assert await text(client, server_name="inner.example") == "ok"
            before = len(peer.connections)
            assert await text(client, server_name="other.example") == "ok"
            assert len(peer.connections) == before + 1, "another name is another connection"
            assert await text(client, headers={"host": "inner.example"}) == "ok"
        peer.errors.clear()


async def test_client_certificates(authority: trustme.CA, ca_file: str, tmp_path: Path) -> None:
    context = server_context(authority, "127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    issued = authority.issue_cert("client@example.com")
    pem = tmp_path / "client.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(pem)
    async with ScriptedPeer(answer, tls=context) as peer:
        async with Client(peer.origin, connect={"ca": ca_file, "cert": str(pem)}) as client:
            assert await text(client) == "ok"


@pytest.mark.parametrize(
    "options", [{"ca": "/nonexistent"}, {"cert": "/nonexistent"}, {"cert": ("a", "b", "c", "d")}]
)
async def test_files_that_cannot_be_read(options: dict[str, Any]) -> None:
    async with (
        ScriptedPeer(answer) as peer,
        Client(peer.origin.replace("http", "https"), connect=options) as client,
    ):
        with pytest.raises(InvalidArgumentError, match="cannot load TLS certificates"):
            await text(client)


async def test_contexts_are_made_once() -> None:
    one, two = Connector(), Connector()
    assert one.ssl_context is two.ssl_context
    assert Connector(verify=False).ssl_context is not one.ssl_context


async def test_a_callable_connects() -> None:
    seen: list[ConnectTarget] = []
    async with ScriptedPeer(answer) as peer:

        async def connect(target: ConnectTarget, factory: Any) -> Any:
            seen.append(target)
            return await asyncio.get_running_loop().create_connection(factory, "127.0.0.1", peer.port)

        async with Agent(connect=connect) as agent:
            assert await text(agent, "http://anything.example/") == "ok"
        assert seen[0].host == "anything.example"
        assert seen[0].port == 80
        assert seen[0].server_name is None


async def test_a_callable_that_fails_is_a_connect_error() -> None:
    async def connect(target: ConnectTarget, factory: Any) -> Any:
        raise ValueError("no way")

    async def negligent(target: ConnectTarget, factory: Any) -> Any:
        return None

    for callable_ in (connect, negligent):
        async with Agent(connect=callable_) as agent:
            with pytest.raises(dodici_errors):
                await text(agent, "http://anything.example/")
            assert agent.stats == {}


dodici_errors = (ConnectError, InvalidArgumentError)

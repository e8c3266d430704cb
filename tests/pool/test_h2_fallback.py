"""What a server does not do over HTTP/2 goes over HTTP/1.1 beside it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.peers.h2_asgi import h2_tls
from tests.peers.h2_kit import serving
from tests.peers.kit import fetch

from dodici import Agent, Client, ClientDestroyedError, Pool
from dodici.testing import PeerConnection, ScriptedPeer

SWITCHED = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"


@pytest.fixture
def authority(tmp_path: Path) -> str:
    path = tmp_path / "authority.pem"
    path.write_bytes(h2_tls().authority.cert_pem.bytes())
    return str(path)


def chosen(connection: PeerConnection) -> str:
    return str(connection.transport.get_extra_info("ssl_object").selected_alpn_protocol())


class Either:
    """HTTP/2 without RFC 8441, and HTTP/1.1 that switches and then says back what it is told."""

    def __init__(self) -> None:
        self.spoken: list[str] = []
        self.peer = ScriptedPeer(self, tls=h2_tls().server_context("h2", "http/1.1"))

    async def __call__(self, connection: PeerConnection) -> None:
        self.spoken.append(chosen(connection))
        await (serving()(connection) if self.spoken[-1] == "h2" else switching(connection))


async def switching(connection: PeerConnection) -> None:
    request = await connection.next_request()
    if request is None:
        return
    assert dict(request.headers)["upgrade"] == "websocket"
    await connection.send(SWITCHED)
    while data := await connection.read_some():
        await connection.send(data)


@pytest.mark.parametrize("kind", [Client, Pool, Agent])
async def test_upgrade_beside_h2(authority: str, kind: Any) -> None:
    either = Either()
    async with either.peer as server:
        connect = {"ca": authority}
        dispatcher = Agent(connect=connect) if kind is Agent else kind(server.origin, connect=connect)
        events: list[str] = []
        dispatcher.on("connect", lambda *_: events.append("connect"))
        async with dispatcher:
            assert (await fetch(dispatcher, origin=server.origin)).controller.http_version == "2"
            for _ in range(2):
                upgraded = await dispatcher.upgrade(f"{server.origin}/chat", protocol="websocket")
                async with upgraded.socket as socket:
                    await socket.write(b"hello")
                    assert await socket.read_exactly(5) == b"hello"
            assert (await fetch(dispatcher, origin=server.origin)).controller.http_version == "2"
        assert either.spoken == ["h2", "http/1.1", "http/1.1"]
        assert events == ["connect"] * 3


async def test_several_at_once(authority: str) -> None:
    either = Either()
    async with either.peer as server, Pool(server.origin, connect={"ca": authority}) as pool:
        upgrades = await asyncio.gather(*(pool.upgrade("/", protocol="websocket") for _ in range(3)))
        for upgraded in upgrades:
            upgraded.socket.close()
            await upgraded.socket.wait_closed()
        assert either.spoken.count("http/1.1") == 3


async def test_destroy_reaches_it(authority: str) -> None:
    asked = asyncio.Event()

    async def silent(connection: PeerConnection) -> None:
        if chosen(connection) == "h2":
            await serving()(connection)
        else:
            await connection.read_request()
            asked.set()
            await connection.closed()

    async with ScriptedPeer(silent, tls=h2_tls().server_context("h2", "http/1.1")) as server:
        pool = Pool(server.origin, connect={"ca": authority})
        task = asyncio.ensure_future(pool.upgrade("/", protocol="websocket"))
        async with asyncio.timeout(10):
            await asked.wait()
        await pool.destroy()
        with pytest.raises(ClientDestroyedError):
            await task
        assert not pool.sockets

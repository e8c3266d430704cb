"""WebSockets to servers that are not ours, over HTTP/1.1 and HTTP/2, with TLS and without, and through nginx."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.peers.asgi import UvicornServer
from tests.peers.h2_peers import Hypercorn
from tests.peers.processes import listening, nginx_folders, port_of, printed_line, start, start_nginx, stop
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

import dodici
from dodici import WebSocketClosedError, WebSocketError
from dodici.testing import pattern

pytestmark = pytest.mark.interop

COMPRESSION = pytest.mark.parametrize("compression", ["deflate", None])


# -- the library's own server: does what a test asks for in the path -----------------------------------------


async def handle(ws: ServerConnection) -> None:
    path = ws.request.path  # type: ignore[union-attr]
    if path == "/echo":
        async for message in ws:
            await ws.send(message)
    elif path == "/fragments":
        async for message in ws:
            await ws.send([message[at : at + 1000] for at in range(0, len(message), 1000)])
    elif path.startswith("/close/"):
        await ws.send("bye")
        await ws.close(int(path.rpartition("/")[2]), "because")
    elif path == "/abort":
        await ws.recv()
        ws.transport.abort()
    elif path == "/ping":
        await asyncio.wait_for(await ws.ping(b"are you there?"), 10)
        await ws.send("pong came")
        await ws.wait_closed()
    elif path == "/slow":
        await asyncio.wait_for(ws.wait_closed(), 10)
    elif path == "/fields":
        headers = ws.request.headers  # type: ignore[union-attr]
        await ws.send("\n".join(f"{name}: {value}" for name, value in headers.raw_items()))
        await ws.wait_closed()
    elif path == "/flood":
        with contextlib.suppress(ConnectionClosed):
            while True:
                await ws.send(bytes(10_000))


@pytest_asyncio.fixture
async def server() -> AsyncIterator[str]:
    async with serve(handle, "127.0.0.1", 0, max_size=None, subprotocols=["b", "c"]) as running:  # type: ignore[list-item]
        yield f"ws://127.0.0.1:{running.sockets[0].getsockname()[1]}"


@pytest_asyncio.fixture
async def agent() -> AsyncIterator[dodici.Agent]:
    async with dodici.Agent() as made:
        yield made


def open_(agent: Any, url: str, **options: Any) -> Any:
    return agent.websocket(url, **{"subprotocols": ["a", "b"], "max_message_size": None, **options})


@COMPRESSION
async def test_echo(agent: Any, server: str, compression: Any) -> None:
    async with open_(agent, f"{server}/echo", compression=compression) as ws:
        assert ws.subprotocol == "b"
        assert ("sec-websocket-extensions" in ws.headers) == (compression is not None)
        for message in ("", "häj", b"", bytes(range(256)), "x" * 125, "x" * 126, b"x" * 65536, "λ" * 70_000):
            await ws.send(message)
            assert await ws.receive() == message
        assert 0 < await ws.ping() < 5
        await ws.send(["a", "b", "ü"])
        assert await ws.receive() == "abü"
    assert ws.close_code == 1000


@COMPRESSION
@pytest.mark.parametrize("path", ["/echo", "/fragments"])
async def test_16_mib(agent: Any, server: str, compression: Any, path: str) -> None:
    data = pattern(16 << 20)
    async with open_(agent, f"{server}{path}", compression=compression) as ws:
        await ws.send(data)
        async with asyncio.timeout(30):
            got = await ws.receive()
        assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()


async def test_too_long(agent: Any, server: str) -> None:
    async with open_(agent, f"{server}/echo", max_message_size=1000) as ws:
        await ws.send("x" * 1000)
        assert await ws.receive() == "x" * 1000
        await ws.send("x" * 1001)
        with pytest.raises(WebSocketClosedError) as caught:
            await ws.receive()
        assert caught.value.close_code == 1009


async def test_fields(agent: Any, server: str) -> None:
    options = {"headers": {"origin": "http://me"}, "auth": ("u", "p"), "subprotocols": ["c", "b"]}
    async with open_(agent, f"{server}/fields", **options) as ws:
        lines = (await ws.receive()).lower().split("\n")
        assert {
            "origin: http://me",
            "authorization: basic dtpw",
            "sec-websocket-protocol: c, b",
            "sec-websocket-version: 13",
            "upgrade: websocket",
        } <= set(lines)


@pytest.mark.parametrize("code", [1000, 1001, 1008, 1011, 4242])
async def test_close_codes(agent: Any, server: str, code: int) -> None:
    got = []
    ended = (
        contextlib.nullcontext()
        if code in (1000, 1001)
        else pytest.raises(WebSocketClosedError, match="because")
    )
    async with open_(agent, f"{server}/close/{code}") as ws:
        with ended:
            async for message in ws:
                got.append(message)
    assert got == ["bye"]
    assert (ws.close_code, ws.close_reason) == (code, "because")


async def test_a_server_that_aborts(agent: Any, server: str) -> None:
    async with open_(agent, f"{server}/abort") as ws:
        await ws.send("go")
        with pytest.raises(WebSocketClosedError) as caught:
            await ws.receive()
        assert caught.value.close_code == 1006


async def test_pings_of_the_server_are_answered_unasked(agent: Any, server: str) -> None:
    async with open_(agent, f"{server}/ping") as ws:
        assert await ws.receive() == "pong came"


async def test_back_pressure(agent: Any, server: str) -> None:
    async with open_(agent, f"{server}/flood", compression=None) as ws:
        await ws.receive()
        size = 0
        async with asyncio.timeout(20):
            while size < 4 << 20:
                size += len(await ws.receive())
                assert ws._channel._unread < 300_000
    assert ws.close_code == 1000


async def test_many_at_once(agent: Any, server: str) -> None:
    async def talk(number: int) -> None:
        async with open_(agent, f"{server}/echo") as ws:
            for at in range(20):
                await ws.send(f"{number} {at}")
                assert await ws.receive() == f"{number} {at}"

    async with asyncio.timeout(20):
        await asyncio.gather(*(talk(number) for number in range(40)))


async def test_senders_in_several_tasks(agent: Any, server: str) -> None:
    async with open_(agent, f"{server}/echo") as ws:
        whole = asyncio.gather(
            *(
                ws.send([f"{number},"] * 50) if number % 2 else ws.send(f"{number}," * 50)
                for number in range(50)
            )
        )
        got = [await ws.receive() for _ in range(50)]
        await whole
        assert sorted(got) == sorted(f"{number}," * 50 for number in range(50))


async def test_the_default_limit(server: str) -> None:
    async with dodici.websocket(f"{server}/echo", subprotocols=["c"]) as ws:
        await ws.send(bytes(1 << 20))
        assert len(await ws.receive()) == 1 << 20
    await dodici.get_global_dispatcher().close()


DYING = """
import asyncio
from websockets.asyncio.server import serve
async def handle(ws):
    await ws.send("alive")
    await ws.wait_closed()
async def main():
    async with serve(handle, "127.0.0.1", 0) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_a_server_that_dies(agent: Any, tmp_path: Path) -> None:
    process = start([sys.executable, "-c", DYING], tmp_path / "log", prints=True)
    try:
        port = await asyncio.to_thread(printed_line, process, tmp_path / "log")
        ws = await open_(agent, f"ws://127.0.0.1:{port}/", subprotocols=())
        assert await ws.receive() == "alive"
        process.kill()
        async with asyncio.timeout(10):
            with pytest.raises(WebSocketClosedError) as caught:
                await ws.receive()
        assert caught.value.close_code == 1006
        await ws.close()
    finally:
        process.kill()
        stop(process)


# -- ASGI servers --------------------------------------------------------------------------------------------


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] == "http":
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})
        return
    await receive()
    if scope["path"] == "/refused":
        await send({"type": "websocket.close"})
        return
    await send({"type": "websocket.accept", "subprotocol": (scope["subprotocols"] or [None])[-1]})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        if message.get("text") == "close":
            await send({"type": "websocket.close", "code": 4001, "reason": "as you wish"})
            return
        if message.get("text") is not None:
            await send({"type": "websocket.send", "text": message["text"]})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})


NGINX = """
    worker_processes 1;
    events {{ worker_connections 256; }}
    http {{
        {folders}
        server {{
            listen 127.0.0.1:{port};
            listen 127.0.0.1:{tls_port} ssl;
            ssl_certificate {chain};
            ssl_certificate_key {key};
            location = / {{ return 200 "hello"; }}
            location / {{
                proxy_pass {backend};
                proxy_http_version 1.1;
                proxy_set_header Upgrade $http_upgrade;
                proxy_set_header Connection "upgrade";
                proxy_set_header Host $host;
            }}
        }}
    }}
"""

KINDS = [
    "uvicorn-websockets",
    "uvicorn-wsproto",
    "uvicorn-tls",
    "hypercorn-h1",
    "hypercorn-h2",
    "hypercorn-h2c",
    "nginx",
    "nginx-tls",
]


@pytest.fixture(scope="module")
def servers(
    certificate: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """Origins by kind."""
    chain, key = certificate
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(UvicornServer(app, ws="websockets-sansio", ws_max_size=1 << 26))
        wsproto = stack.enter_context(UvicornServer(app, ws="wsproto", ws_max_size=1 << 26))
        tls = stack.enter_context(
            UvicornServer(app, ws="websockets-sansio", ssl_certfile=chain, ssl_keyfile=key)
        )
        both = stack.enter_context(Hypercorn(certificate, app, websocket_max_message_size=1 << 26))
        folder = tmp_path_factory.mktemp("nginx-websocket")
        sockets = listening(2)
        port, tls_port = map(port_of, sockets)
        config = NGINX.format(
            folders=nginx_folders(folder),
            port=port,
            tls_port=tls_port,
            chain=chain,
            key=key,
            backend=plain.origin,
        )
        process = start_nginx(config, folder, sockets)
        stack.callback(stop, process)
        yield {
            "uvicorn-websockets": plain.origin,
            "uvicorn-wsproto": wsproto.origin,
            "uvicorn-tls": tls.origin,
            "hypercorn-h1": both.tls,
            "hypercorn-h2": both.tls,
            "hypercorn-h2c": both.h2c,
            "nginx": f"http://127.0.0.1:{port}",
            "nginx-tls": f"https://127.0.0.1:{tls_port}",
        }


@pytest_asyncio.fixture(params=KINDS)
async def client(
    request: pytest.FixtureRequest, servers: dict[str, str], ca: str
) -> AsyncIterator[dodici.Client]:
    kind = request.param
    if kind == "hypercorn-h2c":
        made = dodici.H2CClient(servers[kind])
    else:
        made = dodici.Client(servers[kind], allow_h2=kind == "hypercorn-h2", connect={"ca": ca})
    yield made
    async with asyncio.timeout(10):
        await made.destroy()


async def test_asgi(client: Any) -> None:
    async with client.websocket("/echo?x=1", subprotocols=["a", "b"], max_message_size=None) as ws:
        assert ws.subprotocol == "b"
        for message in ("hello", b"\x00\xff", "λ" * 10_000, pattern(1 << 20)):
            await ws.send(message)
            async with asyncio.timeout(20):
                assert await ws.receive() == message
        assert 0 < await ws.ping() < 5
        await ws.send(["in ", "pieces"])
        assert await ws.receive() == "in pieces"
    assert ws.close_code == 1000


async def test_asgi_goes_on_afterwards(client: Any) -> None:
    for _ in range(2):
        async with client.websocket("/echo") as ws:
            await ws.send("x")
            assert await ws.receive() == "x"
        assert (await client.request("/")).status_code == 200


async def test_asgi_without_compression(client: Any) -> None:
    async with client.websocket("/echo", compression=None) as ws:
        assert "sec-websocket-extensions" not in ws.headers
        await ws.send("x" * 1000)
        assert await ws.receive() == "x" * 1000


async def test_asgi_refuses(client: Any) -> None:
    with pytest.raises(WebSocketError) as caught:
        await client.websocket("/refused")
    assert caught.value.status_code == 403
    assert (await client.request("/")).status_code == 200


# Not Hypercorn over HTTP/2: it forgets the stream before our close frame, and ends the connection over it.
@pytest.mark.parametrize("client", [kind for kind in KINDS if "h2" not in kind], indirect=True)
async def test_asgi_closes(client: Any) -> None:
    async with client.websocket("/echo") as ws:
        await ws.send("close")
        with pytest.raises(WebSocketClosedError) as caught:
            await ws.receive()
        assert (caught.value.close_code, caught.value.close_reason) == (4001, "as you wish")


async def test_the_key_is_not_sent_over_h2(servers: dict[str, str], ca: str) -> None:
    async with dodici.Client(servers["hypercorn-h2"], connect={"ca": ca}) as client:
        response = await client.request("/")
        await response.dump()
        async with client.websocket("/echo") as ws:
            assert "sec-websocket-accept" not in ws.headers
            assert client.stats.connected == 1
            await ws.send("x")
            assert await ws.receive() == "x"


async def test_a_peer_that_masks(node_h2: Any, ca: str) -> None:
    # It sends back what it gets, masked frames included.
    async with dodici.Client(node_h2.tls, connect={"ca": ca}) as client:
        async with client.websocket("/echo") as ws:
            await ws.send("x")
            with pytest.raises(WebSocketClosedError, match="1002 incorrect masking"):
                await ws.receive()

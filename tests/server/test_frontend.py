"""The HTTP server in front of the gateway: its limits, its sockets, and how it stops. Raw bytes from the client."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from tests.server.frontend_kit import GET, hello, response, serving
from tests.server.server_kit import Scripted, respond, router, service

from dodici.server.address import Address
from dodici.server.frontend import open_sockets
from dodici.server.gateway import Gateway

pytest.importorskip("uvicorn")
pytest.importorskip("httptools")


async def test_requests_one_after_another_and_pipelined() -> None:
    async with serving(hello) as (frontend, connect):
        reader, writer = await connect()
        for _ in range(3):
            writer.write(GET)
            assert (await response(reader))[1] == b"hi"
        writer.write(GET * 3)
        for _ in range(3):
            head, _ = await response(reader)
        assert b"server:" not in head.lower()
        assert frontend.connections == 1


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nhost: a\r\n" + b"x-a: " + b"b" * 3000,
        b"GET / HTTP/1.1\r\nhost: a\r\n" + b"x-a: b\r\n" * 400,
        b"GET /" + b"a" * 3000,
    ],
    ids=["one-field", "many-fields", "path"],
)
@pytest.mark.parametrize("after_another", [False, True])
async def test_large_head_is_431(head: bytes, after_another: bool) -> None:
    async with serving(hello, header_size=1024) as (_, connect):
        reader, writer = await connect()
        if after_another:
            writer.write(GET)
            await response(reader)
        for start in range(0, len(head), 500):
            writer.write(head[start : start + 500])
            await asyncio.sleep(0)
        writer.write(b" HTTP/1.1\r\nhost: a\r\n\r\n" if head.startswith(b"GET /a") else b"\r\n\r\n")
        head, body = await response(reader)
        assert head.startswith(b"HTTP/1.1 431 ")
        assert len(body) == 33
        assert await reader.read() == b""


async def test_head_that_is_just_small_enough_and_bodies_are_not_counted() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await hello(scope, receive, send)

    async with serving(app, header_size=1024) as (_, connect):
        reader, writer = await connect()
        for _ in range(3):
            writer.write(
                b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9000\r\nx-a: " + b"b" * 900 + b"\r\n\r\n"
            )
            writer.write(b"c" * 9000)
            assert (await response(reader))[0].startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("said", [b"", b"GET / HT"])
async def test_late_head_is_408(said: bytes) -> None:
    async with serving(hello, header_timeout=0.05) as (frontend, connect):
        reader, writer = await connect()
        writer.write(said)
        head, _ = await response(reader)
        assert head.startswith(b"HTTP/1.1 408 ")
        assert await reader.read() == b""
        assert not frontend._limits.waiting


async def test_request_that_takes_its_time_is_not_a_late_head() -> None:
    go_on = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await go_on.wait()
        await hello(scope, receive, send)

    async with serving(app, header_timeout=0.05) as (_, connect):
        reader, writer = await connect()
        writer.write(GET)
        late_reader, _ = await connect()
        assert (await response(late_reader))[0].startswith(b"HTTP/1.1 408 ")
        go_on.set()
        assert (await response(reader))[1] == b"hi"


async def test_one_connection_too_many_is_503() -> None:
    async with serving(hello, max_connections=1) as (_, connect):
        reader, writer = await connect()
        writer.write(GET)
        await response(reader)
        refused, _ = await connect()
        head, _ = await response(refused)
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in head
        assert await refused.read() == b""
        writer.write(GET)
        assert (await response(reader))[1] == b"hi"


async def test_what_is_not_http_is_400() -> None:
    async with serving(hello) as (_, connect):
        reader, writer = await connect()
        writer.write(b"\x16\x03\x01\r\n\r\n")
        head, _ = await response(reader)
        assert head.startswith(b"HTTP/1.1 400 ")
        assert await reader.read() == b""


async def test_stop_waits_for_what_runs_and_closes_what_is_idle() -> None:
    running, go_on = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            running.set()
            await go_on.wait()
        await hello(scope, receive, send)

    async with serving(app) as (frontend, connect):
        idle, idle_writer = await connect()
        idle_writer.write(GET)
        await response(idle)
        slow, slow_writer = await connect()
        slow_writer.write(GET.replace(b"/ ", b"/slow "))
        await running.wait()
        stopping = asyncio.ensure_future(frontend.stop())
        assert await idle.read() == b""
        with pytest.raises(OSError):
            await connect()
        assert not stopping.done()
        go_on.set()
        head, body = await response(slow)
        assert body == b"hi"
        assert b"connection: close" in head
        await stopping


async def test_stop_gives_up_after_the_drain_and_at_once_when_cut() -> None:
    running = asyncio.Event()
    cancelled: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(scope["path"])
            raise

    for drain in (0.05, 60.0):
        running.clear()
        async with serving(app, drain=drain) as (frontend, connect):
            _, writer = await connect()
            writer.write(GET)
            await running.wait()
            stopping = asyncio.ensure_future(frontend.stop())
            if drain == 60.0:
                frontend.cut()
            await asyncio.wait_for(stopping, 10)
            writer.close()
    assert cancelled == ["/", "/"]


async def test_client_that_does_not_read_stops_the_app() -> None:
    given = 0
    count = 1024

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal given
        fields = [(b"content-length", str(count * 65536).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        for left in reversed(range(count)):
            await send({"type": "http.response.body", "body": bytes(65536), "more_body": left > 0})
            given += 1

    async with serving(app) as (_, connect):
        reader, writer = await connect()
        writer.transport.pause_reading()
        writer.write(GET)
        quiet, before = 0, -1
        while quiet < 300:
            quiet, before = (quiet + 1, before) if given == before and given else (0, given)
            await asyncio.sleep(0)
        # What the kernel holds of it, and little more.
        assert given < count // 2
        writer.transport.resume_reading()
        await reader.readuntil(b"\r\n\r\n")
        left = count * 65536
        while left:
            left -= len(await reader.read(1 << 20))
        assert given == count


async def test_all_addresses_or_none(tmp_path: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        unix = Address(path=str(tmp_path / "s"))
        with pytest.raises(OSError, match="in use"):
            open_sockets((unix, Address("127.0.0.1", taken.getsockname()[1])), 5)
        assert not (tmp_path / "s").exists()


async def test_gateway_behind_it_answers_413_to_a_client_that_still_sends() -> None:
    async def script(_: Scripted, exchange: Any) -> None:
        try:
            async for _ in exchange.options.body:
                pass
        except Exception as error:
            exchange.fail(error)

    app = Gateway(Scripted(script), router(service(path=("/",), request_size=1000)))
    async with serving(app) as (_, connect):
        reader, writer = await connect()
        writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(20):
            writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
            await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")
        assert (await response(reader))[0].startswith(b"HTTP/1.1 413 ")
        # What was left of the body was dropped, and the connection goes on.
        app._dispatcher.script = lambda _, exchange: respond(exchange, 200, b"ok", (b"content-length", b"2"))  # type: ignore[attr-defined]
        writer.write(GET)
        assert (await response(reader))[1] == b"ok"

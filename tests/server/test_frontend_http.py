"""Where the HTTP server in front of the gateway does otherwise than uvicorn: RFC 9112, and clients that leave."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("httptools")

from tests.server.frontend_kit import GET, hello, response, serving
from tests.server.server_kit import Scripted, respond, router, service

from dodici.server.failures import ClientGoneError
from dodici.server.gateway import Gateway

CHUNKED = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"


async def drain(receive: Any) -> None:
    while (await receive()).get("more_body"):
        pass


async def test_trailers_are_no_fields_of_the_head() -> None:
    scopes = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await drain(receive)
        await hello(scope, receive, send)

    async with serving(app) as (_, connect):
        reader, writer = await connect()
        for _ in range(2):
            writer.write(CHUNKED + b"2\r\nab\r\n0\r\nx-user: admin\r\nhost: b\r\n\r\n")
            assert (await response(reader))[1] == b"hi"
    assert [scope["headers"] for scope in scopes] == [
        [(b"host", b"a"), (b"transfer-encoding", b"chunked")]
    ] * 2


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"http://b.example:81/c?d", "/c", b"d"),
        (b"HTTP://b.example:81", "/", b""),
        (b"http://b.example:81?d", "/", b"d"),
    ],
)
async def test_host_of_an_absolute_target_counts(target: bytes, path: str, query: bytes) -> None:
    scopes = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await hello(scope, receive, send)

    async with serving(app) as (_, connect):
        reader, writer = await connect()
        writer.write(b"GET " + target + b" HTTP/1.1\r\nhost: a\r\n\r\n")
        await response(reader)
    [scope] = scopes
    assert scope["headers"] == [(b"host", b"b.example:81")]
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == (path, path.encode(), query)


async def test_http_1_0_is_sent_no_chunks() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/known":
            await hello(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in (b"a", b"", b"bc"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"d"})

    async with serving(app) as (_, connect):
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head
        assert body == b"abcd"
        reader, writer = await connect()
        writer.write(b"GET /known HTTP/1.0\r\n\r\n")
        assert (await response(reader))[1] == b"hi"
        assert await reader.read() == b""


async def test_part_of_a_body_is_reset_where_its_end_is_the_connections() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a part", "more_body": True})
        await go_on.wait()
        raise RuntimeError

    go_on = asyncio.Event()
    async with serving(app) as (_, connect):
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        await reader.readuntil(b"a part")
        go_on.set()
        with pytest.raises(ConnectionResetError):
            await reader.read()


@pytest.mark.parametrize(
    ("begun", "then"),
    [(GET, b"\0\r\n\r\n"), (CHUNKED + b"1\r\na\r\n", b"zz\r\n"), (GET + CHUNKED, b"zz\r\n")],
    ids=["behind-a-request", "behind-the-head-of-its-answer", "in-the-next-body"],
)
async def test_what_is_no_http_is_no_answer_to_what_runs(begun: bytes, then: bytes) -> None:
    running = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "POST":
            await send({"type": "http.response.start", "status": 200, "headers": []})
        running.set()
        while (await receive())["type"] != "http.disconnect":
            pass

    async with serving(app) as (_, connect):
        reader, writer = await connect()
        writer.write(begun)
        await running.wait()
        writer.write(then)
        assert b" 400 " not in await reader.read()


async def test_empty_lines_keep_no_connection_open() -> None:
    async with serving(hello, keep_alive=0.2) as (frontend, connect):
        reader, writer = await connect()
        writer.write(GET)
        await response(reader)
        writer.write(b"\r\n")
        assert await reader.read() == b""
        assert not frontend.connections


async def test_all_pipelined_requests_are_told_that_the_client_left() -> None:
    told: list[str] = []
    running, all_told = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        running.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        told.append(scope["path"])
        all_told.set()

    async with serving(app) as (_, connect):
        _, writer = await connect()
        writer.write(GET.replace(b"/ ", b"/first ") + GET.replace(b"/ ", b"/second "))
        await running.wait()
        writer.transport.abort()
        await asyncio.wait_for(all_told.wait(), 10)
    assert told == ["/first"]


async def test_client_that_leaves_an_app_which_does_not_read_its_body() -> None:
    begun = asyncio.Event()

    async def script(_: Scripted, exchange: Any) -> None:
        begun.set()

    dispatcher = Scripted(script)
    app = Gateway(dispatcher, router(service(path=("/",))))
    async with serving(app) as (frontend, connect):
        _, writer = await connect()
        writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nabc")
        await begun.wait()
        assert frontend.connections == 1
        writer.transport.abort()
        async with asyncio.timeout(10):
            while not app.tallies["shop"].statuses:
                await asyncio.sleep(0)
    assert [type(error) for error in dispatcher.aborted] == [ClientGoneError]
    assert app.tallies["shop"].statuses == {499: 1}


async def test_small_body_that_does_not_come_is_408() -> None:
    dispatcher = Scripted(lambda _, exchange: respond(exchange))
    app = Gateway(dispatcher, router(service(path=("/",), request_timeout=0.05)))
    async with serving(app) as (_, connect):
        reader, writer = await connect()
        writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc")
        head, _ = await response(reader)
        assert head.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in head
        assert await reader.read() == b""
    assert not dispatcher.options
    assert app.tallies["shop"].statuses == {408: 1}

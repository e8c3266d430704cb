"""The frameworks that people use, served by a host at the other end of a link."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.mesh.app_kit import served

import dodici
from dodici.core.errors import BodyAbortedError, RemoteAppError

FASTAPI = "tests.mesh.apps.fastapi_app:app"
STARLETTE = "tests.mesh.apps.starlette_app:app"
FLASK = "tests.mesh.apps.flask_app:app"
DJANGO = "tests.mesh.apps.django_app"
URL = "http://api.local"


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        await asyncio.sleep(0)
        yield part


async def get(dispatcher: Any, path: str, **options: Any) -> tuple[int, bytes, Any]:
    response = await dispatcher.request(URL + path, **options)
    return response.status_code, await response.body.bytes(), response.headers


# -- FastAPI -------------------------------------------------------------------------------------------


async def test_fastapi_json_validation_and_dependencies() -> None:
    from tests.mesh.apps import fastapi_app

    fastapi_app.events.clear()
    async with served(FASTAPI) as (dispatcher, _):
        headers = {"x-customer": "ada"}
        response = await dispatcher.request(
            f"{URL}/orders", method="POST", json={"item": "tea"}, headers=headers
        )
        assert response.status_code == 201
        assert await response.json() == {"customer": "ada", "item": "tea", "via": "connection"}
        response = await dispatcher.request(
            f"{URL}/orders", method="POST", json={"item": "tea", "number": 4}, headers=headers
        )
        assert (response.status_code, await response.json()) == (409, {"detail": "not enough tea"})
        response = await dispatcher.request(
            f"{URL}/orders", method="POST", json={"number": "x"}, headers=headers
        )
        assert response.status_code == 422
        assert len((await response.json())["detail"]) == 2
    assert fastapi_app.events == [
        "startup",
        "opened",
        "closed",
        "opened",
        "closed",
        "opened",
        "closed",
        "shutdown",
    ]


async def test_fastapi_streams() -> None:
    async with served(FASTAPI) as (dispatcher, _):
        status, body, headers = await get(dispatcher, "/numbers/5000")
        assert status == 200
        assert body == b"".join(b"%d\n" % n for n in range(5000))
        assert headers["content-type"] == "text/plain; charset=utf-8"


async def test_fastapi_background_tasks_run_after_the_response_and_are_drained() -> None:
    from tests.mesh.apps import fastapi_app

    async with served(FASTAPI) as (dispatcher, host):
        status, body, _ = await get(dispatcher, "/later")
        assert (status, body) == (200, b'{"accepted":true}')
        await host.drained()
        assert fastapi_app.done.is_set()


async def test_fastapi_plain_functions_run_in_threads() -> None:
    async with served(FASTAPI) as (dispatcher, _):
        _, body, _ = await get(dispatcher, "/threaded")
        assert b"AnyIO worker thread" in body


@pytest.mark.parametrize("kind", ["socket", "queue"])
async def test_fastapi_websocket(kind: str) -> None:
    from tests.mesh.apps import fastapi_app

    async with served(FASTAPI, kind) as (dispatcher, host):
        websocket = await dodici.websocket(
            "ws://api.local/echo", dispatcher=dispatcher, subprotocols=["chat", "x"]
        )
        assert websocket.subprotocol == "chat"
        assert host.stats.websockets == 1
        for text in ("one", "two " * 50_000):
            await websocket.send(text)
            assert await websocket.receive() == text.upper()
        drained = asyncio.create_task(host.drained(["api.local"]))
        await asyncio.sleep(0)
        assert not drained.done()
        await websocket.close()
        await drained
        assert host.stats.websockets == 0
        assert "websocket closed" in fastapi_app.events


async def test_fastapi_errors(caplog: pytest.LogCaptureFixture) -> None:
    async with served(FASTAPI) as (dispatcher, host):
        status, body, _ = await get(dispatcher, "/broken")
        assert (status, body) == (500, b"Internal Server Error")
        await host.drained()
        assert host.errors == 1
        assert (await get(dispatcher, "/nothing"))[0] == 404
        assert host.errors == 1
    record = next(one for one in caplog.records if one.name == "dodici.mesh" and one.levelno == logging.ERROR)
    assert record.getMessage() == "the app raised in GET api.local/broken"
    assert "LookupError: no such page" in caplog.text


# -- Starlette -----------------------------------------------------------------------------------------


async def test_starlette_state_is_shared_and_its_copies_are_private() -> None:
    async with served(STARLETTE) as (dispatcher, _):
        await get(dispatcher, "/visit/ada")
        response = await dispatcher.request(f"{URL}/visit/charles?x=1")
        assert await response.json() == {
            "visits": ["ada", "charles"],
            "url": "http://api.local/visit/charles?x=1",
        }
        assert (await get(dispatcher, "/private"))[1] == b"false"


async def test_starlette_middleware() -> None:
    async with served(STARLETTE) as (dispatcher, _):
        status, body, headers = await get(dispatcher, "/text", headers={"accept-encoding": "gzip"})
        assert status == 200
        assert headers["content-encoding"] == "gzip"
        assert headers["x-path"] == "/text"
        import gzip

        assert gzip.decompress(body) == b"dodici " * 1000


async def test_starlette_streams_both_ways() -> None:
    async with served(STARLETTE) as (dispatcher, _):
        parts = [bytes([n]) * 40_000 for n in range(40)]
        status, body, _ = await get(dispatcher, "/upload", method="POST", body=pieces(*parts))
        assert status == 200
        assert hashlib.sha256(body).digest() == hashlib.sha256(b"".join(parts)).digest()


# -- Flask ---------------------------------------------------------------------------------------------


async def test_flask_form() -> None:
    async with served(FLASK) as (dispatcher, _):
        response = await dispatcher.request(
            f"{URL}/form?page=2",
            method="POST",
            body=b"name=Ada+Lovelace&tag=a&tag=b",
            headers={"content-type": "application/x-www-form-urlencoded"},
        )
        assert await response.json() == {"name": "Ada Lovelace", "tags": ["a", "b"], "page": "2"}


@pytest.mark.parametrize("size", [10, 3_000_000])
async def test_flask_upload(size: int) -> None:
    content = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    body = (
        b'--edge\r\ncontent-disposition: form-data; name="title"\r\n\r\nA title\r\n'
        b'--edge\r\ncontent-disposition: form-data; name="file"; filename="a.bin"\r\n'
        b"content-type: application/octet-stream\r\n\r\n" + content + b"\r\n--edge--\r\n"
    )
    headers = {"content-type": "multipart/form-data; boundary=edge"}
    sha256 = hashlib.sha256(content).hexdigest()
    async with served(FLASK) as (dispatcher, _):
        for given in (
            body,
            pieces(body[:100], body[100:70_000], body[70_000:]),
        ):  # with a content-length, and without
            response = await dispatcher.request(f"{URL}/upload", method="POST", body=given, headers=headers)
            assert await response.json() == {"name": "a.bin", "sha256": sha256, "title": "A title"}


async def test_flask_reads_a_body_without_a_length() -> None:
    parts = [bytes([n]) * 50_000 for n in range(20)]
    async with served(FLASK) as (dispatcher, _):
        status, body, _ = await get(dispatcher, "/raw", method="POST", body=pieces(*parts))
        assert (status, body.decode()) == (200, hashlib.sha256(b"".join(parts)).hexdigest())


async def test_flask_streams_in_its_context() -> None:
    async with served("tests.mesh.apps.flask_app:create_app()") as (dispatcher, _):
        status, body, _ = await get(dispatcher, "/numbers/300")
        assert status == 200
        assert body == b"".join(b"/numbers/300 %d\n" % n for n in range(300))


async def test_flask_client_that_leaves_closes_the_generator() -> None:
    from tests.mesh.apps import flask_app

    async with served(FLASK, wsgi_threads=1) as (dispatcher, host):
        for _ in range(3):
            flask_app.closed.clear()
            response = await dispatcher.request(f"{URL}/endless")
            async for piece in response.body:
                assert set(piece) == {ord("x")}
                break
            await response.body.aclose()
            async with asyncio.timeout(10):
                await host.drained()
            assert flask_app.closed.is_set()
        assert (await get(dispatcher, "/visits"))[0] == 200
        assert host.errors == 0


async def test_flask_sessions_and_head() -> None:
    async with served(FLASK) as (dispatcher, _):
        response = await dispatcher.request(f"{URL}/visits")
        assert await response.json() == {"visits": 1, "url": "http://api.local/visits", "remote": "mesh"}
        cookie = response.headers["set-cookie"].partition(";")[0]
        response = await dispatcher.request(f"{URL}/visits", headers={"cookie": cookie})
        assert (await response.json())["visits"] == 2
        status, body, headers = await get(dispatcher, "/visits", method="HEAD")
        assert (status, body) == (200, b"")
        assert int(headers["content-length"]) > 0


async def test_flask_requests_at_once() -> None:
    async with served(FLASK, wsgi_threads=4) as (dispatcher, host):
        answers = await asyncio.gather(*(get(dispatcher, f"/numbers/{n}") for n in range(50)))
        assert [body.count(b"\n") for _, body, _ in answers] == list(range(50))
        await host.drained()
        assert host.served == 50


# -- Django --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
async def test_django(interface: str) -> None:
    async with served(f"{DJANGO}:{interface}") as (dispatcher, host):
        response = await dispatcher.request(
            f"{URL}/form/%C3%A9t%C3%A9?page=2",
            method="POST",
            body=b"name=Ada",
            headers={"content-type": "application/x-www-form-urlencoded"},
        )
        assert await response.json() == {
            "name": "Ada",
            "page": "2",
            "host": "api.local",
            "path": "/form/\xe9t\xe9",
        }
        content = b"0123456789abcdef" * 100_000
        status, body, _ = await get(dispatcher, "/digest", method="POST", body=content)
        assert (status, body.decode()) == (200, hashlib.sha256(content).hexdigest())
        streaming = "later" if interface == "asgi" else "numbers"
        status, body, _ = await get(dispatcher, f"/{streaming}/500")
        assert (status, body) == (200, b"".join(b"%d\n" % n for n in range(500)))
        status, body, _ = await get(dispatcher, "/broken")
        assert status == 500
        assert b"Server Error" in body
        assert (await get(dispatcher, "/nothing"))[0] == 404
        assert host.errors == 0  # Django answers by itself


# -- what a host adds ----------------------------------------------------------------------------------


async def test_errors_are_raised_if_the_host_is_told_so() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError("no such page")

    def wsgi(environ: Any, start_response: Any) -> Any:
        raise LookupError("no such page")

    for target in (app, wsgi):
        async with served(target, app_errors="raise", lifespan="off") as (dispatcher, _):
            with pytest.raises(RemoteAppError, match="no such page") as caught:
                await get(dispatcher, "/")
            assert caught.value.type_name == "LookupError"
            assert 'raise LookupError("no such page")' in caught.value.remote_traceback


async def test_a_wsgi_generator_that_raises_aborts_the_body() -> None:
    async def read(dispatcher: Any) -> None:
        response = await dispatcher.request(f"{URL}/")
        assert response.status_code == 200
        await response.body.bytes()

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        yield b"some"
        raise LookupError("no more")

    async with served(app) as (dispatcher, host):
        with pytest.raises(BodyAbortedError):
            await read(dispatcher)
        await host.drained()
        assert host.errors == 1


async def test_replacing_the_app_under_load_loses_no_request() -> None:
    def answering(name: str) -> Any:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                raise NotImplementedError
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(3):
                await asyncio.sleep(0)
                await send({"type": "http.response.body", "body": name.encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b""})

        return app

    async with served(answering("a")) as (dispatcher, host):
        seen: list[bytes] = []
        stop = asyncio.Event()

        async def caller() -> None:
            while not stop.is_set():
                status, body, _ = await get(dispatcher, "/")
                assert status == 200
                seen.append(body)

        callers = [asyncio.create_task(caller()) for _ in range(20)]
        for name in "bcde":
            before = len(seen)
            await host.replace(answering(name))
            while len(seen) < before + 100:
                await asyncio.sleep(0)
        stop.set()
        await asyncio.gather(*callers)
        assert set(seen) == {b"aaa", b"bbb", b"ccc", b"ddd", b"eee"}

"""WSGI apps behind the bridge: PEP 3333 as an app sees it, and clients that leave, stall or send a lot."""

from __future__ import annotations

import asyncio
import hashlib
import io
import sys
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from tests.mesh.app_kit import Call
from tests.mesh.apps import raw_wsgi
from tests.mesh.member_kit import mesh

from dodici.core.errors import InvalidArgumentError, NotSupportedError
from dodici.mesh.wsgi import HIGH_WATER, WSGIBridge

Serve = Callable[..., WSGIBridge]


@pytest_asyncio.fixture
async def serve() -> AsyncIterator[Serve]:
    bridges: list[WSGIBridge] = []

    def make(app: Any, **options: Any) -> WSGIBridge:
        bridges.append(WSGIBridge(app, **options))
        return bridges[-1]

    yield make
    for bridge in bridges:
        bridge.close()


def answer(body: Any, headers: Any = ()) -> Callable[..., Any]:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", list(headers))
        return body

    return app


# -- environ -------------------------------------------------------------------------------------------


async def test_environ_is_as_pep_3333_says(serve: Serve) -> None:
    seen: dict[str, Any] = {}

    def app(environ: Any, start_response: Any) -> list[bytes]:
        seen.update(environ)
        return raw_wsgi.app(environ, start_response)

    call = Call(
        "/%C3%A9t%C3%A9/%FF%2F?q=%20x&\xe9",
        method="PUT",
        headers=[
            ("content-type", "text/plain"),
            ("content-length", "3"),
            ("x-many", "a"),
            ("x-many", "b"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("x_real_ip", "6.6.6.6"),
        ],
        pieces=[b"abc"],
    )
    await call.run(serve(app))
    assert call.status == 200
    assert seen["REQUEST_METHOD"] == "PUT"
    assert seen["PATH_INFO"].encode("latin-1") == b"/\xc3\xa9t\xc3\xa9/\xff/"
    assert seen["QUERY_STRING"] == "q=%20x&%E9"
    assert seen["SCRIPT_NAME"] == ""
    assert seen["CONTENT_TYPE"] == "text/plain"
    assert seen["CONTENT_LENGTH"] == "3"
    assert seen["HTTP_X_MANY"] == "a,b"
    assert seen["HTTP_COOKIE"] == "a=1; b=2"
    assert "HTTP_X_REAL_IP" not in seen
    assert (seen["SERVER_NAME"], seen["SERVER_PORT"]) == ("api.local", "80")
    assert seen["HTTP_HOST"] == "api.local"
    assert seen["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert seen["wsgi.url_scheme"] == "http"
    assert seen["wsgi.errors"] is sys.stderr
    assert seen["wsgi.input_terminated"] is True
    assert seen["asgi.scope"] is call.scope
    assert seen["wsgi.multithread"] is True


async def test_passes_the_validator_of_the_standard_library(serve: Serve) -> None:
    from wsgiref.validate import validator

    def app(environ: Any, start_response: Any) -> Any:
        environ["wsgi.input"].read(1)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"one", b"two"]

    call = await Call("/", method="POST", headers=[("content-length", "1")], pieces=[b"x"]).run(
        serve(validator(app))
    )
    assert call.body == b"onetwo"


# -- responses -----------------------------------------------------------------------------------------


async def test_a_list_of_one_goes_out_with_its_head(serve: Serve) -> None:
    call = await Call("/p").run(serve(raw_wsgi.app))
    assert call.sent == [
        {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]},
        {"type": "http.response.body", "body": b"/p", "more_body": False},
    ]


async def test_a_body_is_complete_when_its_content_length_is(serve: Serve) -> None:
    call = await Call().run(serve(answer(iter([b"abc", b"", b"de"]), [("Content-Length", "5")])))
    assert [(one["body"], one["more_body"]) for one in call.sent[1:]] == [(b"abc", True), (b"de", False)]


async def test_a_generator_is_streamed_piece_by_piece(serve: Serve) -> None:
    go_on = threading.Event()

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        yield b"one"
        assert go_on.wait(10)
        yield b"two"

    call = Call()
    task = asyncio.create_task(call.run(serve(app)))
    await call.until_sent(2)
    assert call.bodies == [b"one"]
    go_on.set()
    await task
    assert call.bodies == [b"one", b"two", b""]
    assert [one["more_body"] for one in call.sent[1:]] == [True, True, False]


async def test_an_empty_body_is_one_message(serve: Serve) -> None:
    for body in ([], [b""], iter([])):
        call = await Call().run(serve(answer(body)))
        assert call.sent[1:] == [{"type": "http.response.body", "body": b"", "more_body": False}]


async def test_repeated_headers_stay_repeated(serve: Serve) -> None:
    headers = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-Text", "\xe9t\xe9")]
    call = await Call().run(serve(answer([b""], headers)))
    assert call.sent[0]["headers"] == [
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
        (b"x-text", b"\xe9t\xe9"),
    ]


async def test_head_keeps_the_content_length(serve: Serve) -> None:
    call = await Call(method="HEAD").run(serve(answer([], [("Content-Length", "5")])))
    assert call.headers == {"content-length": "5"}
    assert call.body == b""


async def test_the_write_callable_works_beside_the_iterable(serve: Serve) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        write = start_response("201 Created", [("x-a", "1")])
        write(b"one")
        write(b"")
        write(b"two")
        return [b"three"]

    call = await Call().run(serve(app))
    assert (call.status, call.headers) == (201, {"x-a": "1"})
    assert call.body == b"onetwothree"


async def test_the_iterable_is_closed_once_in_the_thread_that_ran_it(serve: Serve) -> None:
    threads: list[tuple[str, str]] = []

    class Body:
        def __iter__(self) -> Any:
            threads.append(("iter", threading.current_thread().name))
            return iter([b"a", b"b"])

        def close(self) -> None:
            threads.append(("close", threading.current_thread().name))

    await Call().run(serve(answer(Body())))
    assert [what for what, _ in threads] == ["iter", "close"]
    assert threads[0][1] == threads[1][1] != threading.current_thread().name


# -- start_response ------------------------------------------------------------------------------------


async def test_exc_info_replaces_a_head_that_was_not_sent(serve: Serve) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("content-length", "3")])
        try:
            raise KeyError("lost")
        except KeyError:
            start_response("500 Oops", [("x-error", "1")], sys.exc_info())
        return iter([b"sor", b"ry"])

    call = await Call().run(serve(app))
    assert (call.status, call.headers, call.body) == (500, {"x-error": "1"}, b"sorry")


async def test_exc_info_raises_after_the_head_was_sent(serve: Serve) -> None:
    closed = threading.Event()

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        try:
            yield b"one"
            try:
                raise KeyError("lost")
            except KeyError:
                start_response("500 Oops", [], sys.exc_info())
            yield b"never"
        finally:
            closed.set()

    call = Call()
    with pytest.raises(KeyError, match="lost"):
        await call.run(serve(app))
    assert b"never" not in call.body
    assert closed.is_set()


@pytest.mark.parametrize("status", ["OK", "20 OK", "2000 OK", "200OK", ""])
async def test_refuses_a_status_that_is_none(serve: Serve, status: str) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response(status, [])
        return []

    call = Call()
    with pytest.raises(ValueError, match="takes a status such as '200 OK'"):
        await call.run(serve(app))
    assert call.sent == []


async def test_rules_that_an_app_breaks_are_its_errors(serve: Serve) -> None:
    def twice(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        start_response("200 OK", [])
        return []

    def never(environ: Any, start_response: Any) -> Any:
        return [b"body"]

    def silent(environ: Any, start_response: Any) -> Any:
        return []

    for app, error, text in (
        (twice, AssertionError, "called twice"),
        (never, AssertionError, "without calling start_response"),
        (silent, AssertionError, "without calling start_response"),
        (answer(["text"]), TypeError, "must yield bytes, not str"),
        (answer([b"abcdef"], [("content-length", "3")]), AssertionError, "more than its content-length"),
    ):
        call = Call()
        with pytest.raises(error, match=text):
            await call.run(serve(app))
        assert call.sent == []


async def test_an_error_before_the_head_is_raised_with_nothing_sent(serve: Serve) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        raise LookupError("no such order")

    call = Call()
    with pytest.raises(LookupError, match="no such order"):
        await call.run(serve(app))
    assert call.sent == []


# -- request bodies ------------------------------------------------------------------------------------


async def test_reads_a_large_upload_without_holding_it(serve: Serve) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        digest = hashlib.sha256()
        while piece := environ["wsgi.input"].read(10_000):
            assert len(piece) <= 10_000
            digest.update(piece)
        start_response("200 OK", [])
        return [digest.hexdigest().encode()]

    pieces = [bytes([n]) * 65_536 for n in range(64)]
    call = await Call("/", method="POST", pieces=pieces).run(serve(app))
    assert call.body.decode() == hashlib.sha256(b"".join(pieces)).hexdigest()


async def test_an_upload_is_taken_no_faster_than_it_is_read(serve: Serve) -> None:
    go_on = threading.Event()
    began = asyncio.Event()
    loop = asyncio.get_running_loop()

    def app(environ: Any, start_response: Any) -> Any:
        loop.call_soon_threadsafe(began.set)
        assert go_on.wait(10)
        start_response("200 OK", [])
        return [b"%d" % len(environ["wsgi.input"].read())]

    call = Call("/", method="POST", pieces=[b"x" * 1000] * 5)
    task = asyncio.create_task(call.run(serve(app)))
    await began.wait()
    assert call.received == 0
    go_on.set()
    await task
    assert call.body == b"5000"
    assert call.received == 5


async def test_the_input_is_a_file(serve: Serve) -> None:
    found: list[Any] = []

    def app(environ: Any, start_response: Any) -> Any:
        stream = environ["wsgi.input"]
        found.extend([stream.readline(), stream.readline(4), stream.readline(100), stream.read(2)])
        found.append(next(stream))
        found.extend([stream.readlines(1), list(stream), stream.read(), stream.readline()])
        start_response("204 No Content", [])
        return []

    body = b"first\nsecond\nthird\nfourth\nfifth\nsixth"
    for pieces in ([body], [body[i : i + 1] for i in range(len(body))]):
        found.clear()
        await Call("/", method="POST", pieces=pieces).run(serve(app))
        assert found == [
            b"first\n", b"seco", b"nd\n", b"th", b"ird\n", [b"fourth\n"], [b"fifth\n", b"sixth"], b"", b"",
        ]  # fmt: skip


async def test_an_app_reads_what_has_come_while_the_upload_goes_on(serve: Serve) -> None:
    loop = asyncio.get_running_loop()
    got: asyncio.Queue[bytes] = asyncio.Queue()

    def app(environ: Any, start_response: Any) -> Any:
        stream: io.BufferedReader = environ["wsgi.input"]
        while piece := stream.read1():
            loop.call_soon_threadsafe(got.put_nowait, piece)
        start_response("200 OK", [])
        return [b"end"]

    call = Call("/", method="POST", complete=False)
    task = asyncio.create_task(call.run(serve(app)))
    call.feed(b"one")
    assert await got.get() == b"one"
    call.feed(b"two")
    assert await got.get() == b"two"
    call.feed(b"", more=False)
    await task
    assert call.body == b"end"


async def test_a_client_that_leaves_in_its_upload_is_an_oserror_and_no_clean_end(serve: Serve) -> None:
    raised: list[BaseException] = []
    over = threading.Event()

    def app(environ: Any, start_response: Any) -> Any:
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            raised.append(error)
        finally:
            over.set()
        start_response("200 OK", [])
        return [b"half"]

    call = Call("/", method="POST", pieces=[b"half"], complete=False)
    call.leave()
    await call.run(serve(app))
    assert over.is_set()
    assert "the client is gone" in str(raised[0])
    assert call.sent == []


# -- clients that leave or stall -----------------------------------------------------------------------


async def test_a_client_that_leaves_ends_the_generator_and_frees_its_thread(serve: Serve) -> None:
    closed: list[str] = []

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        try:
            while True:
                yield b"x" * 10_000
        finally:
            closed.append(threading.current_thread().name)

    bridge = serve(app, threads=1)
    for number in range(
        1, 4
    ):  # with one thread: the second request waits for ever if the first left it hanging
        call = Call()
        task = asyncio.create_task(call.run(bridge))
        await call.until_sent(3)
        call.leave()
        async with asyncio.timeout(10):
            await task
        assert len(closed) == number


async def test_a_client_that_stalls_holds_the_app_back(serve: Serve) -> None:
    yielded = 0
    full = HIGH_WATER // 8192 - 1
    begun = threading.Event()
    closed = threading.Event()

    def app(environ: Any, start_response: Any) -> Any:
        nonlocal yielded
        start_response("200 OK", [])
        try:
            for _ in range(1000):
                yield b"x" * 8192
                yielded += 1
                if yielded == full:
                    begun.set()
        finally:
            closed.set()

    call = Call()
    call.gate.clear()
    bridge = serve(app)
    task = asyncio.create_task(call.run(bridge))
    assert await asyncio.to_thread(begun.wait, 10)
    await asyncio.sleep(0.05)  # time in which an app that nothing holds back would yield all of it
    assert full <= yielded <= full + 3
    call.gate.set()
    async with asyncio.timeout(10):
        await task
    assert len(call.body) == 1000 * 8192
    assert closed.is_set()


async def test_a_cancelled_request_frees_its_thread(serve: Serve) -> None:
    closed = threading.Event()
    read = threading.Event()
    reading = asyncio.Event()

    class Reading(Call):
        async def receive(self) -> Any:
            reading.set()
            return await super().receive()

    def streams(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        try:
            while True:
                yield b"x" * 8192
        finally:
            closed.set()

    def reads(environ: Any, start_response: Any) -> Any:
        try:
            environ["wsgi.input"].read()
        except OSError:
            read.set()
        start_response("200 OK", [])
        return []

    for app, over in ((streams, closed), (reads, read)):
        call = Reading("/", complete=False)
        call.gate.clear()
        task = asyncio.create_task(call.run(serve(app)))
        await (call.until_sent(1) if app is streams else reading.wait())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(over.wait, 10)


async def test_what_the_server_refuses_is_raised(serve: Serve) -> None:
    class Strict(Call):
        async def send(self, message: Any) -> None:
            if message["type"] == "http.response.start":
                raise ValueError("a header is invalid")
            await super().send(message)

    with pytest.raises(ValueError, match="a header is invalid"):
        await Strict().run(serve(raw_wsgi.app))


# -- threads -------------------------------------------------------------------------------------------


async def test_runs_as_many_requests_at_once_as_there_are_threads(serve: Serve) -> None:
    both = threading.Barrier(2)
    running = 0
    most = 0
    lock = threading.Lock()

    def app(environ: Any, start_response: Any) -> Any:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        both.wait(10)
        with lock:
            running -= 1
        start_response("200 OK", [])
        return [b"ok"]

    bridge = serve(app, threads=2)
    calls = await asyncio.gather(*(Call().run(bridge) for _ in range(6)))
    assert [call.body for call in calls] == [b"ok"] * 6
    assert most == 2


async def test_the_threads_end_when_it_is_closed() -> None:
    threads: list[threading.Thread] = []

    def app(environ: Any, start_response: Any) -> Any:
        threads.append(threading.current_thread())
        return raw_wsgi.app(environ, start_response)

    bridge = WSGIBridge(app)
    await Call().run(bridge)
    bridge.close()
    await asyncio.to_thread(threads[0].join, 10)
    assert not threads[0].is_alive()


async def test_a_websocket_is_refused(serve: Serve) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await serve(raw_wsgi.app)({"type": "websocket"}, None, send)
    assert sent == [{"type": "websocket.close", "code": 1000}]
    with pytest.raises(RuntimeError, match="has no lifespan"):
        await serve(raw_wsgi.app)({"type": "lifespan"}, None, send)


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "8"])
def test_refuses_other_numbers_of_threads(threads: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="wsgi_threads must be a positive number"):
        WSGIBridge(raw_wsgi.app, threads=threads)


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "a2wsgi", None)
    with pytest.raises(NotSupportedError, match=r"pip install 'dodici\[wsgi\]'"):
        WSGIBridge(raw_wsgi.app)


async def test_a_request_that_is_given_up_before_its_turn_is_not_run() -> None:
    called: list[str] = []
    release = threading.Event()

    def app(environ: Any, start_response: Any) -> list[bytes]:
        called.append(environ["PATH_INFO"])
        release.wait(10)
        start_response("200 OK", [])
        return [b"1"]

    async with mesh() as m:
        try:
            worker = await m.start("api", target=app, kind="loop", wsgi_threads=1)
            first = asyncio.create_task(m.get("api", "/first"))
            waiting = [asyncio.create_task(m.get("api", "/given-up")) for _ in range(3)]
            last = asyncio.create_task(m.get("api", "/last"))
            while (await worker.stats()).running < 5:
                await asyncio.sleep(0)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        finally:
            release.set()
        assert [await first, await last] == [1, 1]
        assert called == ["/first", "/last"]

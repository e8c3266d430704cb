"""What an app sees of a request that came over a link, and what becomes of what it sends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.mesh.link_kit import LinkPair, link_pair, raw_pair
from tests.wire.mesh.mesh_kit import GET, credit, frame, headed

from dodici.core.errors import (
    BodyAbortedError,
    RemoteAppError,
    ResponseContentLengthMismatchError,
    SocketError,
    WorkerExitedError,
)
from dodici.testing import RecordingHandler
from dodici.wire.mesh import frames as f

ORIGIN = "http://api.local"


class Played:
    """An app that lets the test play one request after the other."""

    def __init__(self) -> None:
        self.scopes: asyncio.Queue[tuple[Any, Any, Any]] = asyncio.Queue()
        self.outcomes: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self.scopes.put((scope, receive, send))
        await self.outcomes.put(outcome)
        await outcome

    async def end(self, error: BaseException | None = None) -> None:
        outcome = await self.outcomes.get()
        if error is None:
            outcome.set_result(None)
        elif isinstance(error, asyncio.CancelledError):
            outcome.cancel()
        else:
            outcome.set_exception(error)


def send(pair: LinkPair, path: str = "/", **options: Any) -> RecordingHandler:
    recorder = RecordingHandler()
    recorder.dispatch(pair.dispatcher, {"origin": ORIGIN, "path": path, **options})
    return recorder


def start(status: int = 200, *headers: tuple[bytes, bytes], **more: Any) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers), **more}


def body(data: bytes = b"", more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def test_the_scope() -> None:
    app = Played()
    async with link_pair(app, state={"db": 1}) as pair:
        send(
            pair,
            "/a%2Fb%C3%BC?x=%31",
            method="POST",
            body=b"abc",
            origin="http://user@API.local:8080",
            headers=[
                ("Host", "other"),
                ("Connection", "X-Foo"),
                ("X-Foo", "1"),
                ("TE", "x"),
                ("X-Two", "a"),
                ("x-two", "b"),
            ],
        )
        scope, _, respond = await app.scopes.get()
        assert scope == {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.5"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/a/bü",
            "raw_path": b"/a%2Fb%C3%BC",
            "query_string": b"x=%31",
            "root_path": "",
            "headers": [
                (b"host", b"api.local:8080"),
                (b"x-two", b"a"),
                (b"x-two", b"b"),
                (b"content-length", b"3"),
            ],
            "server": ("api.local", 8080),
            "client": ("mesh", 0),
            "state": {"db": 1},
            "extensions": {
                "http.response.trailers": {},
                "http.response.early_hint": {},
                "dodici.mesh": {"worker": "client-1", "arrived": 3},
            },
        }
        assert pair.host.streams[0].authority == "api.local"
        scope["state"]["db"] = 2
        scope["headers"].clear()
        await respond(start())
        await respond(body())
        await app.end()
        send(pair, "/a%2Fb%C3%BC?x=%31", method="POST", body=b"abc", origin="http://user@API.local:8080")
        again, _, respond = await app.scopes.get()
        assert again["state"] == {"db": 1}
        assert again["headers"]
        await respond(start())
        await respond(body())
        await app.end()


@pytest.mark.parametrize(
    ("origin", "authority", "server"),
    [
        ("http://API.Local.", "api.local", ("api.local.", 80)),
        ("https://api.local", "api.local", ("api.local", 443)),
        ("http://[::1]", "::1", ("::1", 80)),
        ("http://[::1]:81", "::1", ("::1", 81)),
        ("http://api.local:x", "api.local", ("api.local", 80)),
    ],
)
async def test_hosts(origin: str, authority: str, server: tuple[str, int]) -> None:
    app = Played()
    async with link_pair(app) as pair:
        send(pair, origin=origin)
        scope, _, _ = await app.scopes.get()
        assert pair.host.streams[0].authority == authority
        assert scope["server"] == server
        assert "state" not in scope


async def test_a_response_that_is_given_at_once_is_one_frame() -> None:
    app = Played()
    async with raw_pair(app) as pair:
        await pair.peer.send(headed(f.REQUEST | f.FINAL, 1, GET))
        _, _, respond = await app.scopes.get()
        await respond(start(200, (b"x-a", b"1")))
        await respond(body(b"x" * f.INLINE))
        kind, number, payload = await pair.peer.frame()
        assert (kind, number) == (f.HEAD | f.FINAL, 1)
        assert payload == b"\x09\0\0\x00200\nx-a\n1" + b"x" * f.INLINE


async def test_a_head_alone_and_a_chunk_alone_go_at_once() -> None:
    app = Played()
    async with raw_pair(app) as pair:
        await pair.peer.send(headed(f.REQUEST | f.FINAL, 1, GET))
        _, _, respond = await app.scopes.get()
        await respond(start())
        assert await pair.peer.frame() == (f.HEAD, 1, b"\x03\0\0\x00200")
        await respond(body(b"one", True))
        assert await pair.peer.frame() == (f.DATA, 1, b"one")
        await respond(body(b"", True))
        await respond(body(b"two"))
        assert await pair.peer.frame() == (f.DATA, 1, b"two")
        assert await pair.peer.frame() == (f.END, 1, b"")


async def test_receive_after_the_body_waits_for_the_end_of_the_response() -> None:
    app = Played()
    async with link_pair(app) as pair:
        send(pair, method="POST", body=b"abc")
        _, receive, respond = await app.scopes.get()
        assert await receive() == {"type": "http.request", "body": b"abc", "more_body": False}
        waiting = [asyncio.ensure_future(receive()) for _ in range(2)]
        for _ in range(20):
            await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        await respond(start())
        await respond(body())
        assert [await task for task in waiting] == [{"type": "http.disconnect"}] * 2
        await app.end()


async def test_a_request_without_a_body_is_told_once() -> None:
    app = Played()
    async with link_pair(app) as pair:
        recorder = send(pair)
        _, receive, _ = await app.scopes.get()
        assert await receive() == {"type": "http.request", "body": b"", "more_body": False}
        waiting = asyncio.ensure_future(receive())
        recorder.controller.abort()
        assert await waiting == {"type": "http.disconnect"}
        await app.end()


async def test_a_disconnect_cancels_nothing_and_fails_send() -> None:
    app = Played()
    async with link_pair(app) as pair:
        recorder = send(pair)
        _, receive, respond = await app.scopes.get()
        await respond(start())
        recorder.controller.abort()
        while not pair.host.streams[0].given_up:
            assert (await receive())["type"] in ("http.request", "http.disconnect")
        assert not pair.host.streams[0].task.done()
        with pytest.raises(OSError) as raised:
            await respond(body(b"x"))
        # What became of it on its way through a framework is no error of the app's.
        wrapped = RuntimeError("client disconnected")
        wrapped.__cause__ = raised.value
        await app.end(wrapped)
        await asyncio.wait([pair.host.streams[0].task])
        assert pair.host.errors == []
        assert pair.host.ended_streams == 1
        assert pair.far.serving == 0


async def test_an_error_of_its_own_after_a_disconnect_is_told() -> None:
    app = Played()
    async with link_pair(app) as pair:
        recorder = send(pair)
        _, receive, _ = await app.scopes.get()
        recorder.controller.abort()
        await receive()
        await receive()
        await app.end(ValueError("mine"))
        await asyncio.wait([pair.host.streams[0].task])
        assert [str(error) for error in pair.host.errors] == ["mine"]


async def test_a_send_that_waits_ends_with_the_client() -> None:
    app = Played()
    async with link_pair(app) as pair:
        recorder = RecordingHandler(on_response_start=lambda controller, *_: controller.pause())
        recorder.dispatch(pair.dispatcher, {"origin": ORIGIN, "path": "/"})
        _, _, respond = await app.scopes.get()
        await respond(start())
        sending = asyncio.ensure_future(respond(body(bytes(10_000_000), True)))
        for _ in range(50):
            await asyncio.sleep(0)
        assert not sending.done()
        recorder.controller.abort()
        with pytest.raises(SocketError):
            await sending
        await app.end()


# ------------------------------------------------------------------------------------------ what apps do wrong


class Odd(Exception):
    """Cannot be printed, nor made again from its arguments."""

    def __init__(self, one: object, two: object) -> None:
        super().__init__()

    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "error", [ValueError("no"), Odd(1, 2), asyncio.CancelledError()], ids=["plain", "odd", "cancelled"]
)
@pytest.mark.parametrize("how", ["500", "raise"])
async def test_raising_before_the_head(error: BaseException, how: str) -> None:
    app = Played()
    async with link_pair(app, app_errors=how) as pair:
        recorder = send(pair)
        await app.scopes.get()
        await app.end(error)
        await recorder.wait()
        if how == "500":
            assert (recorder.status_code, recorder.body) == (500, b"Internal Server Error")
            assert recorder.headers is not None
            assert recorder.headers["content-length"] == "21"
        else:
            assert isinstance(recorder.error, RemoteAppError)
            assert recorder.error.type_name == type(error).__name__
            assert "Traceback" in recorder.error.remote_traceback
            assert type(error).__name__ in str(recorder.error)
        assert [type(told) for told in pair.host.errors] == [type(error)]
        again = send(pair)
        _, _, respond = await app.scopes.get()
        await respond(start())
        await respond(body(b"ok"))
        await again.wait()
        assert again.body == b"ok"
        await app.end()


@pytest.mark.parametrize("error", [ValueError("no"), None], ids=["raises", "returns"])
async def test_ending_after_the_head(error: BaseException | None) -> None:
    app = Played()
    async with link_pair(app) as pair:
        recorder = send(pair)
        _, _, respond = await app.scopes.get()
        await respond(start(200, (b"content-length", b"10")))
        await respond(body(b"some", True))
        await app.end(error)
        await recorder.wait()
        assert recorder.status_code == 200
        assert recorder.body == b"some"
        assert isinstance(recorder.error, BodyAbortedError)
        assert len(pair.host.errors) == 1


async def test_raising_in_the_turn_of_the_head_still_sends_it() -> None:
    async def app(scope: Any, receive: Any, respond: Any) -> None:
        await respond(start())
        raise ValueError("no")

    async with link_pair(app) as pair:
        recorder = await send(pair).wait()
        assert recorder.status_code == 200
        assert isinstance(recorder.error, BodyAbortedError)


async def test_raising_after_the_response_is_told_to_the_host_alone() -> None:
    app = Played()
    async with link_pair(app) as pair:
        recorder = send(pair)
        _, _, respond = await app.scopes.get()
        await respond(start())
        await respond(body(b"whole"))
        await app.end(ValueError("late"))
        await recorder.wait()
        assert recorder.error is None
        assert recorder.body == b"whole"
        assert len(pair.host.errors) == 1


async def test_returning_without_a_response_is_500() -> None:
    app = Played()
    async with link_pair(app) as pair:
        recorder = send(pair)
        await app.end()
        assert (await recorder.wait()).status_code == 500


async def test_a_hook_that_raises_is_the_requests_error() -> None:
    app = Played()
    async with link_pair(app) as pair:

        def hook(scope: Any) -> None:
            raise ValueError("hook")

        pair.host.on_request_hook = hook
        recorder = await send(pair).wait()
        assert recorder.status_code == 500
        assert app.scopes.empty()


@pytest.mark.parametrize(
    ("before", "wrong"),
    [
        ([], body(b"x")),
        ([], {"type": "http.response.trailers", "headers": []}),
        ([], {"type": "websocket.send", "text": "x"}),
        ([], start(99)),
        ([], start(103)),
        ([], start(200, ("a", "b"))),  # type: ignore[arg-type]
        ([], start(200, (b"content-length", b"x"))),
        ([start()], start()),
        ([start()], body("text")),  # type: ignore[arg-type]
        ([start()], {"type": "http.response.early_hint", "links": []}),
        ([start(), body()], {"type": "http.response.trailers", "headers": []}),
        ([start(trailers=True), body()], body()),
        ([start(trailers=True), body()], {"type": "http.response.trailers", "headers": [("a", "b")]}),
    ],
    ids=lambda value: (
        "-".join(each["type"] for each in value) if isinstance(value, list) else str(value["type"])
    ),
)
async def test_wrong_messages_are_errors_in_the_app(before: list[Any], wrong: dict[str, Any]) -> None:
    app = Played()
    async with link_pair(app) as pair:
        recorder = send(pair)
        _, _, respond = await app.scopes.get()
        for message in before:
            await respond(message)
        with pytest.raises(ValueError):
            await respond(wrong)
        recorder.controller.abort()
        await recorder.wait()
        await app.end()


async def test_a_body_behind_the_end_is_an_error_in_the_app() -> None:
    app = Played()
    async with link_pair(app) as pair:
        recorder = send(pair)
        _, _, respond = await app.scopes.get()
        await respond(start(200, (b"content-length", b"4")))
        await respond(body(bytearray(b"done")))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="after its end"):
            await respond(body(b"more"))
        await recorder.wait()
        assert recorder.body == b"done"
        await app.end()


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("parts", [1, 2])
async def test_a_body_that_is_not_as_long_as_it_says(size: int, parts: int) -> None:
    app = Played()
    async with link_pair(app) as pair:
        recorder = send(pair)
        _, _, respond = await app.scopes.get()
        await respond(start(200, (b"content-length", b"4")))
        if parts == 2:
            await respond(body(b"x", True))
        await respond(body(b"x" * (size - parts + 1)))
        await recorder.wait()
        assert isinstance(recorder.error, ResponseContentLengthMismatchError)
        await app.end()
        await asyncio.wait([pair.host.streams[0].task])
        assert pair.near.engine.ours == {}
        assert pair.far.engine.theirs == {}


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_bodies_that_may_not_be_are_dropped(method: str, status: int) -> None:
    app = Played()
    async with link_pair(app) as pair:
        for parts in ([body(b"dropped")], [body(b"dropped", True), body(bytes(100_000))]):
            recorder = send(pair, method=method)
            _, _, respond = await app.scopes.get()
            await respond(start(status, (b"content-length", b"1000")))
            for part in parts:
                await respond(part)
            await recorder.wait()
            assert recorder.error is None
            assert (recorder.status_code, recorder.body) == (status, b"")
            assert recorder.headers is not None
            assert recorder.headers["content-length"] == "1000"
            await app.end()


async def test_hop_by_hop_fields_of_responses_are_dropped() -> None:
    app = Played()
    async with link_pair(app) as pair:
        recorder = send(pair)
        _, _, respond = await app.scopes.get()
        await respond(
            start(200, (b"Connection", b"x-hop"), (b"X-Hop", b"1"), (b"Keep-Alive", b"1"), (b"X-Kept", b"1"))
        )
        await respond(body())
        await recorder.wait()
        assert recorder.headers is not None
        assert recorder.headers.raw == ((b"x-kept", b"1"),)
        assert pair.host.responses == [
            (200, [(b"Connection", b"x-hop"), (b"X-Hop", b"1"), (b"Keep-Alive", b"1"), (b"X-Kept", b"1")])
        ]
        await app.end()


async def test_headers_may_be_any_iterable() -> None:
    app = Played()
    async with link_pair(app) as pair:
        recorder = send(pair)
        _, _, respond = await app.scopes.get()
        await respond({"type": "http.response.start", "status": 200, "headers": iter([[b"a", b"b"]])})
        await respond({"type": "http.response.body"})
        await recorder.wait()
        assert recorder.headers is not None
        assert recorder.headers.raw == ((b"a", b"b"),)
        assert pair.host.responses[0][1] == [[b"a", b"b"]]
        await app.end()


async def test_trailers_in_parts() -> None:
    app = Played()
    async with link_pair(app) as pair:
        recorder = send(pair)
        _, _, respond = await app.scopes.get()
        await respond(start(trailers=True))
        await respond(body(b"x"))
        await respond({"type": "http.response.trailers", "headers": [(b"x-a", b"1")], "more_trailers": True})
        await respond({"type": "http.response.trailers", "headers": [(b"x-b", b"2")]})
        await recorder.wait()
        assert recorder.trailers is not None
        assert recorder.trailers.raw == ((b"x-a", b"1"), (b"x-b", b"2"))
        await app.end()


# ---------------------------------------------------------------------------------------- bodies, and the host


async def test_the_app_is_asked_for_a_body_that_waits_for_100() -> None:
    app = Played()
    async with link_pair(app) as pair:
        recorder = send(pair, method="POST", body=b"abc", expect_continue=True)
        scope, receive, respond = await app.scopes.get()
        assert (b"expect", b"100-continue") in scope["headers"]
        assert (await receive())["body"] == b"abc"
        await respond(start())
        await respond(body())
        await recorder.wait()
        assert [status for status, _ in recorder.informational] == [100]
        await app.end()


async def test_a_request_body_comes_by_credit() -> None:
    app = Played()
    async with raw_pair(app) as pair:
        await pair.peer.send(headed(f.REQUEST, 1, GET), *[frame(f.REQ_DATA, 1, bytes(65536))] * 4)
        _, receive, _ = await app.scopes.get()
        for _ in range(2):
            assert await receive() == {"type": "http.request", "body": bytes(65536), "more_body": True}
        assert await pair.peer.frame() == (f.CREDIT, 1, f.U32.pack(131072))
        await pair.peer.send(frame(f.REQ_END, 1))
        await receive()
        await pair.peer.send(frame(f.BARRIER, 1))
        await pair.peer.until(f.BARRIER_ACK)
        assert await receive() == {"type": "http.request", "body": bytes(65536), "more_body": False}


async def test_a_response_waits_for_credit() -> None:
    app = Played()
    async with raw_pair(app) as pair:
        await pair.peer.send(headed(f.REQUEST | f.FINAL, 1, GET))
        _, _, respond = await app.scopes.get()
        await respond(start())
        sending = asyncio.ensure_future(respond(body(bytes(2 * f.WINDOW + 1000))))
        assert (await pair.peer.frame())[0] == f.HEAD
        got = 0
        while got < f.WINDOW:
            got += len((await pair.peer.frame())[2])
        await pair.peer.send(frame(f.BARRIER, 1))
        assert (await pair.peer.frame())[0] == f.BARRIER_ACK
        assert not sending.done()
        await pair.peer.send(credit(f.REQ_CREDIT, 1, f.WINDOW))
        while got < 2 * f.WINDOW:
            got += len((await pair.peer.frame())[2])
        await sending
        await pair.peer.send(credit(f.REQ_CREDIT, 1, f.WINDOW))
        assert len((await pair.peer.frame())[2]) == 1000
        assert (await pair.peer.frame())[0] == f.END


async def test_the_host_aborts_before_and_after_the_head() -> None:
    app = Played()
    async with link_pair(app) as pair:
        before, after = send(pair), send(pair)
        _, receive, _ = await app.scopes.get()
        _, _, respond = await app.scopes.get()
        await respond(start())
        for stream in pair.host.streams:
            stream.abort("the worker stops")
            stream.abort("again")
        assert isinstance((await before.wait()).error, WorkerExitedError)
        assert "the worker stops" in str(before.error)
        assert "shop.api:app" in str(before.error)
        await after.wait()
        assert after.status_code == 200
        assert isinstance(after.error, BodyAbortedError)
        assert (await receive())["type"] == "http.disconnect"
        await app.end()
        await app.end()
        await asyncio.wait([stream.task for stream in pair.host.streams])
        assert pair.host.errors == []


async def test_a_request_that_was_given_up_is_not_begun() -> None:
    app = Played()
    async with link_pair(app) as pair:
        pair.host.begin = False
        recorder = send(pair)
        while not pair.host.waiting:
            await asyncio.sleep(0)
        stream = pair.host.waiting[0]
        assert pair.far.serving == 1
        recorder.controller.abort()
        await pair.near.barrier()
        assert stream.given_up
        assert pair.far.serving == 0
        stream.refuse("too late")
        stream.abort("too late")


async def test_a_request_runs_to_its_last_byte() -> None:
    async def app(scope: Any, receive: Any, respond: Any) -> None:
        await respond(start())
        await respond(body(bytes(f.WINDOW + 100_000)))

    async with raw_pair(app) as pair:
        assert pair.host is not None
        await pair.peer.send(headed(f.REQUEST | f.FINAL, 1, GET))
        await pair.peer.frame()
        for _ in range(4):
            await pair.peer.frame()
        await pair.peer.send(frame(f.BARRIER, 1))
        await pair.peer.until(f.BARRIER_ACK)
        # The app has returned: little enough waits for credit.
        assert (pair.host.ended_streams, pair.link.serving) == (0, 1)
        await pair.peer.send(credit(f.REQ_CREDIT, 1, f.PORTION))
        await pair.peer.until(f.END)
        await asyncio.wait([pair.host.streams[0].task])
        assert (pair.host.ended_streams, pair.link.serving) == (1, 0)

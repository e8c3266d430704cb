"""The gateway as an ASGI app, in front of a scripted dispatcher: what is sent on, what comes back, who waits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.server.server_kit import Call, Scripted, respond, router, service

from dodici.core.controller import Exchange
from dodici.core.errors import (
    BodyAbortedError,
    BodyTimeoutError,
    ConnectionRefused,
    HeadersTimeoutError,
    NoTargetError,
    RequestTimeoutError,
    TargetChangedError,
    WorkerExitedError,
)
from dodici.core.headers import Headers
from dodici.server.delivery import HIGH_WATER
from dodici.server.failures import ClientGoneError
from dodici.server.gateway import Gateway


def gateway(script: Any, **keys: Any) -> tuple[Gateway, Scripted]:
    dispatcher = Scripted(script)
    log: list[tuple[str, int, int]] = []
    made = Gateway(
        dispatcher,
        router(service("shop", **{"path": ("/",), **keys})),
        access_log=lambda scope, name, status, size, seconds: log.append((name, status, size)),
    )
    made.log = log  # type: ignore[attr-defined]
    return made, dispatcher


async def test_request_is_sent_on_and_answered() -> None:
    app, dispatcher = gateway(
        lambda _, exchange: respond(exchange, 201, b"made", (b"Content-Length", b"4"), (b"X-A", b"b"))
    )
    call = Call(app, raw_path=b"/a%2Fb", query_string=b"x=1", headers=[(b"x-kept", b"1")])
    status, headers, body = await call.end()
    assert (status, body) == (201, b"made")
    assert headers[b"content-length"] == b"4"
    assert headers[b"x-a"] == b"b"
    assert b"date" in headers
    assert len(call.sent) == 2
    [options] = dispatcher.options
    assert (options.origin, options.method, options.path) == ("http://shop.local", "GET", "/a%2Fb?x=1")
    assert options.body is None
    assert options.headers_timeout == 60.0
    assert options.headers["x-kept"] == "1"
    assert options.headers["x-forwarded-host"] == "shop.example"
    tally = app.tallies["shop"]
    assert (tally.running, tally.statuses) == (0, {201: 1})
    assert app.log == [("shop", 201, 4)]  # type: ignore[attr-defined]


async def test_repeated_request_is_prepared_once_until_the_routes_change() -> None:
    app, dispatcher = gateway(lambda _, exchange: respond(exchange))
    for _ in range(2):
        await Call(app).end()
    await Call(app, headers=[(b"x-other", b"1")]).end()
    first, again, other = dispatcher.options
    assert again is first
    assert other is not first
    app.router = router(service("new", path=("/",)))
    await Call(app).end()
    assert dispatcher.options[-1].origin == "http://new.local"


async def test_date_of_the_app_is_kept() -> None:
    app, _ = gateway(lambda _, exchange: respond(exchange, 200, b"", (b"Date", b"then")))
    call = Call(app)
    await call.end()
    assert [value for name, value in call.sent[0]["headers"] if name == b"date"] == [b"then"]


async def test_prefix_is_taken_off_where_it_is_asked_for() -> None:
    app, dispatcher = gateway(lambda _, exchange: respond(exchange), path=("/api",), strip_path=True)
    await Call(app, raw_path=b"/api").end()
    await Call(app, raw_path=b"/api/x").end()
    assert [each.path for each in dispatcher.options] == ["/", "/x"]
    assert dispatcher.options[0].headers["x-forwarded-prefix"] == "/api"


async def test_no_route_is_404() -> None:
    app, dispatcher = gateway(lambda _, exchange: respond(exchange), path=("/api",))
    status, _, body = await Call(app, raw_path=b"/x").end()
    assert (status, body) == (404, b"404: no service is at this address\n")
    assert not dispatcher.options
    status, headers, body = await Call(app, raw_path=b"/x", method="HEAD").end()
    assert (status, body) == (404, b"")
    assert headers[b"content-length"] == b"35"
    assert app.tallies["-"].statuses == {404: 2}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NoTargetError("x"), 503),
        (TargetChangedError("x"), 503),
        (HeadersTimeoutError("x"), 504),
        (BodyTimeoutError("x"), 504),
        (RequestTimeoutError("x"), 504),
        (WorkerExitedError("x"), 502),
        (ConnectionRefused("x"), 502),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
async def test_failure_before_the_head(error: Exception, status: int) -> None:
    app, _ = gateway(lambda _, exchange: exchange.fail(error))
    got, headers, body = await Call(app).end()
    assert got == status
    assert body.startswith(str(status).encode())
    assert (headers.get(b"retry-after") == b"1") is (status == 503)
    assert app.tallies["shop"].statuses == {status: 1}


async def test_failure_after_the_head_is_raised_to_the_server() -> None:
    def script(_: Scripted, exchange: Exchange) -> None:
        exchange.handler.on_response_start(exchange, 200, Headers({"content-length": "9"}), "")
        exchange.handler.on_response_data(exchange, b"half")
        exchange.fail(BodyAbortedError("gone"))

    app, _ = gateway(script)
    call = Call(app)
    with pytest.raises(BodyAbortedError):
        await call.end()
    assert [each["type"] for each in call.sent] == ["http.response.start"]
    assert app.tallies["shop"].statuses == {502: 1}
    assert app.tallies["shop"].running == 0


@pytest.mark.parametrize("scope", [{"raw_path": b"/a b"}, {"method": "CONNECT"}, {"method": "A B"}])
async def test_what_http_does_not_allow_is_400_and_not_sent_on(scope: dict[str, Any]) -> None:
    app, dispatcher = gateway(lambda _, exchange: respond(exchange))
    status, _, _ = await Call(app, **scope).end()
    assert status == 400
    assert not dispatcher.options


@pytest.mark.parametrize(
    ("hosts", "version", "status"),
    [
        ([b"a"], "1.1", 200),
        ([], "1.1", 400),
        ([], "1.0", 200),
        ([b"a", b"a"], "1.1", 400),
        ([b"a/b"], "1.1", 400),
        ([b""], "1.1", 200),
    ],
)
async def test_one_host_field(hosts: list[bytes], version: str, status: int) -> None:
    app, _ = gateway(lambda _, exchange: respond(exchange))
    call = Call(app, http_version=version)
    call.scope["headers"][:] = [(b"host", host) for host in hosts]
    assert (await call.end())[0] == status


# ------------------------------------------------------------------------------------------ request bodies


async def received(exchange: Exchange) -> list[bytes]:
    return [bytes(piece) async for piece in exchange.options.body]


async def test_small_body_travels_whole() -> None:
    app, dispatcher = gateway(lambda _, exchange: respond(exchange, 200, exchange.options.payload or b""))
    call = Call(app, method="POST", headers=[(b"content-length", b"6")])
    call.body(b"abc", more=True).body(b"def")
    assert (await call.end())[2] == b"abcdef"
    assert dispatcher.options[0].content_length == 6


async def test_body_without_length_is_streamed_as_it_is_pulled() -> None:
    pieces: list[bytes] = []
    taken = asyncio.Event()

    async def script(_: Scripted, exchange: Exchange) -> None:
        async for piece in exchange.options.body:
            pieces.append(piece)
            taken.set()
        respond(exchange, 200, b"".join(pieces))

    app, _ = gateway(script)
    call = Call(app, method="POST", headers=[(b"transfer-encoding", b"chunked")])
    call.body(b"one", more=True)
    await taken.wait()
    assert pieces == [b"one"]
    call.body(b"", more=True).body(b"two")
    assert (await call.end())[2] == b"onetwo"


async def test_body_that_is_expected_is_not_asked_for_before_the_app_does() -> None:
    async def script(_: Scripted, exchange: Exchange) -> None:
        respond(exchange, 403)

    app, dispatcher = gateway(script)
    call = Call(app, method="POST", headers=[(b"content-length", b"3"), (b"expect", b"100-continue")])
    assert (await call.end())[0] == 403
    assert dispatcher.options[0].payload is None
    assert "expect" not in dispatcher.options[0].headers


@pytest.mark.parametrize("chunked", [False, True])
async def test_body_over_the_limit_is_413(chunked: bool) -> None:
    async def script(_: Scripted, exchange: Exchange) -> None:
        try:
            await received(exchange)
        except Exception as error:
            exchange.fail(error)

    app, dispatcher = gateway(script, request_size=5)
    fields = [(b"transfer-encoding", b"chunked")] if chunked else [(b"content-length", b"6")]
    call = Call(app, method="POST", headers=fields)
    if chunked:
        call.body(b"abc", more=True).body(b"def", more=True)
    status, _, body = await call.end()
    assert (status, body) == (413, b"413: the body has more than 5 bytes\n")
    assert bool(dispatcher.options) is chunked
    assert app.tallies["shop"].statuses == {413: 1}


async def test_client_that_leaves_in_the_middle_of_its_body() -> None:
    seen: list[BaseException] = []

    async def script(_: Scripted, exchange: Exchange) -> None:
        try:
            await received(exchange)
        except ClientGoneError as error:
            seen.append(error)
            exchange.fail(error)

    app, _ = gateway(script)
    call = Call(app, method="POST", headers=[(b"transfer-encoding", b"chunked")])
    call.body(b"one", more=True).leave()
    await call.task
    assert len(seen) == 1
    assert not call.sent
    assert app.tallies["shop"].statuses == {499: 1}


# ---------------------------------------------------------------------------------------- response bodies


async def test_slow_client_pauses_the_exchange() -> None:
    given: list[int] = []

    async def script(dispatcher: Scripted, exchange: Exchange) -> None:
        exchange.handler.on_response_start(exchange, 200, Headers(), "")
        for number in range(20):
            await dispatcher.flow.wait()
            given.append(number)
            exchange.handler.on_response_data(exchange, b"x" * (HIGH_WATER // 2))
        exchange.end()
        exchange.handler.on_response_end(exchange, Headers())

    app, dispatcher = gateway(script)
    call = Call(app)
    call.writable.clear()
    # It goes on until the mark is reached, and then stands still, however long the client takes.
    for _ in range(100):
        await asyncio.sleep(0)
    assert not dispatcher.flow.is_set()
    assert given == [0, 1]
    call.writable.set()
    _, _, body = await call.end()
    assert len(body) == 20 * HIGH_WATER // 2


async def test_head_is_sent_before_the_body_and_pieces_as_they_come() -> None:
    more = asyncio.Event()

    async def script(_: Scripted, exchange: Exchange) -> None:
        exchange.handler.on_response_start(exchange, 200, Headers(), "")
        await more.wait()
        exchange.handler.on_response_data(exchange, b"first")
        more.clear()
        await more.wait()
        exchange.end()
        exchange.handler.on_response_end(exchange, Headers())

    app, _ = gateway(script)
    call = Call(app)
    assert (await call.until(1))[0]["status"] == 200
    more.set()
    assert (await call.until(2))[1] == {"type": "http.response.body", "body": b"first", "more_body": True}
    more.set()
    await call.task
    assert call.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_early_hints_and_trailers_where_the_server_has_them() -> None:
    def script(_: Scripted, exchange: Exchange) -> None:
        hint = Headers.from_raw(((b"Link", b"</a>"), (b"X-No", b"1"), (b"link", b"</b>")))
        exchange.handler.on_response_start(exchange, 103, hint, "")
        respond(exchange, 200, b"x", (b"trailer", b"x-sum"), trailers=[(b"X-Sum", b"7")])

    app, _ = gateway(script)
    call = Call(app, extensions={"http.response.early_hint": {}, "http.response.trailers": {}})
    await call.task
    assert call.sent[0] == {"type": "http.response.early_hint", "links": [b"</a>", b"</b>"]}
    assert call.sent[1]["trailers"] is True
    assert call.sent[-1] == {"type": "http.response.trailers", "headers": [(b"x-sum", b"7")]}
    plain = Call(app)
    await plain.task
    assert [each["type"] for each in plain.sent] == ["http.response.start", "http.response.body"]


async def test_client_that_leaves_while_the_app_thinks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dodici.server.gateway._LOOK_SECONDS", 0.01)
    app, dispatcher = gateway(lambda _, exchange: None)
    call = Call(app)
    call.leave()
    await call.task
    assert [type(error) for error in dispatcher.aborted] == [ClientGoneError]
    assert not call.sent
    assert app.tallies["shop"].statuses == {499: 1}


async def test_server_that_cannot_send_any_more() -> None:
    async def script(_: Scripted, exchange: Exchange) -> None:
        exchange.handler.on_response_start(exchange, 200, Headers(), "")

    app, dispatcher = gateway(script)

    async def send(message: Any) -> None:
        raise BrokenPipeError

    async def receive() -> Any:
        await asyncio.Event().wait()

    await app(Call(app).scope, receive, send)
    assert [type(error) for error in dispatcher.aborted] == [ClientGoneError]


async def test_cancelled_request_aborts_its_exchange() -> None:
    app, dispatcher = gateway(lambda _, exchange: None)
    call = Call(app)
    while not dispatcher.options:
        await asyncio.sleep(0)
    call.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.task
    assert len(dispatcher.aborted) == 1
    assert call.sent[0]["status"] == 503
    assert app.tallies["shop"].running == 0


async def test_other_scopes_are_refused() -> None:
    app, _ = gateway(lambda _, exchange: None)
    with pytest.raises(NotImplementedError):
        await app({"type": "lifespan"}, None, None)

"""WebSockets over a link: ASGI's scope on one side, a message channel on the other."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.mesh.link_kit import LinkPair, link_pair

from dodici.core.errors import (
    InvalidArgumentError,
    NotSupportedError,
    RequestAbortedError,
    WebSocketClosedError,
)
from dodici.core.handler import DispatchHandler
from dodici.mesh.messages import MAX_MESSAGE
from dodici.mesh.websocket import ClientChannel
from dodici.testing import RecordingHandler
from dodici.wire.mesh import frames

KINDS = pytest.mark.parametrize("kind", ["socket", "queue"])


class Opening(DispatchHandler):
    """Waits for the outcome of an upgrade."""

    def __init__(self) -> None:
        self.outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.status = 0
        self.body = b""

    def on_response_start(self, controller: Any, status_code: int, headers: Any, message: str) -> None:
        self.status = status_code

    def on_response_data(self, controller: Any, chunk: bytes) -> None:
        self.body += chunk

    def on_response_end(self, controller: Any, trailers: Any) -> None:
        self.outcome.set_result(None)

    def on_response_error(self, controller: Any, error: BaseException) -> None:
        self.outcome.set_exception(error)

    def on_request_upgrade(self, controller: Any, status_code: int, headers: Any, socket: Any) -> None:
        self.status = status_code
        self.outcome.set_result(socket)


def begin(pair: LinkPair, path: str = "/", **options: Any) -> Opening:
    opening = Opening()
    options = {"origin": "http://api.local", "path": path, "upgrade": "websocket", **options}
    pair.dispatcher.dispatch(options, opening)
    return opening


async def connect(pair: LinkPair, path: str = "/", **options: Any) -> ClientChannel:
    channel = await begin(pair, path, **options).outcome
    assert isinstance(channel, ClientChannel)
    return channel


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Accepts, and sends back what comes."""
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        key = "text" if "text" in message else "bytes"
        await send({"type": "websocket.send", key: message[key]})


class Scripted:
    """An app that lets the test play it."""

    def __init__(self, accept: bool = True) -> None:
        self.accept = accept
        self.begun = asyncio.Event()
        self.done = asyncio.Event()
        self.scope: Any = None
        self.receive: Any = None
        self.send: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope, self.receive, self.send = scope, receive, send
        assert await receive() == {"type": "websocket.connect"}
        if self.accept:
            await send({"type": "websocket.accept"})
        self.begun.set()
        await self.done.wait()


@KINDS
async def test_messages_both_ways_keep_kind_and_order(kind: str) -> None:
    async with link_pair(echo, kind) as pair:
        channel = await connect(pair)
        messages: list[str | bytes] = ["grüße", b"\x00\xff", "", b"", "x" * 200_000, bytes(300_000)]
        for message in messages:
            await channel.send(message)
            assert await channel.receive() == message
        await channel.close(1000, "bye")
        assert (channel.close_code, channel.close_reason) == (1000, "bye")
        assert pair.near.engine.ours == {}
        assert pair.far.engine.theirs == {}


async def test_the_scope_and_the_answer() -> None:
    app = Scripted(accept=False)
    async with link_pair(app, state={"db": 1}) as pair:
        opening = begin(
            pair,
            "/a%20b?x=1",
            headers={"sec-websocket-protocol": "chat, super", "x-a": "1"},
            origin="https://Api.Local:81",
        )
        await app.begun.wait()
        scope = app.scope
        assert scope["type"] == "websocket"
        assert scope["scheme"] == "wss"
        assert scope["path"] == "/a b"
        assert scope["query_string"] == b"x=1"
        assert scope["subprotocols"] == ["chat", "super"]
        assert scope["server"] == ("api.local", 81)
        assert scope["state"] == {"db": 1}
        assert "method" not in scope
        assert (b"x-a", b"1") in scope["headers"]
        await app.send({"type": "websocket.accept", "subprotocol": "chat", "headers": [(b"x-b", b"2")]})
        channel = await opening.outcome
        assert opening.status == 101
        assert channel.subprotocol == "chat"
        assert channel.headers["x-b"] == "2"
        app.done.set()
        with pytest.raises(WebSocketClosedError):
            await channel.receive()
        assert channel.close_code == 1000


async def test_close_before_accept_is_403() -> None:
    app = Scripted(accept=False)
    async with link_pair(app) as pair:
        opening = begin(pair)
        await app.begun.wait()
        await app.send({"type": "websocket.close"})
        assert await opening.outcome is None
        assert opening.status == 403
        assert (await app.receive())["type"] == "websocket.disconnect"
        app.done.set()
    assert pair.host.errors == []


async def test_a_refusal_with_a_response() -> None:
    app = Scripted(accept=False)
    async with link_pair(app) as pair:
        opening = begin(pair)
        await app.begun.wait()
        await app.send({"type": "websocket.http.response.start", "status": 401, "headers": [(b"x-a", b"1")]})
        await app.send({"type": "websocket.http.response.body", "body": b"who ", "more_body": True})
        await app.send({"type": "websocket.http.response.body", "body": b"are you"})
        assert await opening.outcome is None
        assert (opening.status, opening.body) == (401, b"who are you")
        app.done.set()


@pytest.mark.parametrize("fails", [True, False], ids=["raises", "returns"])
async def test_an_app_that_ends_before_its_answer_is_500(fails: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if fails:
            raise ValueError("no")

    async with link_pair(app) as pair:
        opening = begin(pair)
        assert await opening.outcome is None
        assert opening.status == 500
        assert len(pair.host.errors) == 1


async def test_an_app_that_raises_later_closes_with_1011() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        raise ValueError("no")

    async with link_pair(app) as pair:
        channel = await connect(pair)
        with pytest.raises(WebSocketClosedError) as raised:
            await channel.receive()
        assert raised.value.close_code == 1011
        assert [type(error) for error in pair.host.errors] == [ValueError]


async def test_the_app_closes_with_a_code_and_a_reason_behind_its_messages() -> None:
    app = Scripted()
    async with link_pair(app) as pair:
        channel = await connect(pair)
        await app.begun.wait()
        await app.send({"type": "websocket.send", "text": "last"})
        await app.send({"type": "websocket.close", "code": 4000, "reason": "enough"})
        assert await channel.receive() == "last"
        with pytest.raises(WebSocketClosedError) as raised:
            await channel.receive()
        assert (raised.value.close_code, raised.value.close_reason) == (4000, "enough")
        with pytest.raises(WebSocketClosedError):
            await channel.send("too late")
        assert await app.receive() == {"type": "websocket.disconnect", "code": 4000, "reason": "enough"}
        await channel.close()
        app.done.set()
        assert pair.far.engine.theirs == {}


async def test_the_client_closes_and_the_app_is_told() -> None:
    app = Scripted()
    async with link_pair(app) as pair:
        channel = await connect(pair)
        await app.begun.wait()
        await channel.send("one")
        await channel.close(4001, "done")
        assert await app.receive() == {"type": "websocket.receive", "text": "one"}
        assert await app.receive() == {"type": "websocket.disconnect", "code": 4001, "reason": "done"}
        with pytest.raises(OSError):
            await app.send({"type": "websocket.send", "text": "too late"})
        app.done.set()
    assert pair.host.errors == []


@KINDS
async def test_a_lost_link_is_1006_on_both_sides(kind: str) -> None:
    app = Scripted()
    async with link_pair(app, kind) as pair:
        channel = await connect(pair)
        await app.begun.wait()
        receiving = asyncio.ensure_future(channel.receive())
        await asyncio.sleep(0)
        pair.far.abort(ConnectionError("cut"))
        with pytest.raises(WebSocketClosedError) as raised:
            await receiving
        assert raised.value.close_code == 1006
        assert await app.receive() == {"type": "websocket.disconnect", "code": 1006, "reason": ""}
        app.done.set()


async def test_abort_tells_the_app_1006() -> None:
    app = Scripted()
    async with link_pair(app) as pair:
        channel = await connect(pair)
        await app.begun.wait()
        channel.abort()
        assert channel.close_code == 1006
        assert await app.receive() == {"type": "websocket.disconnect", "code": 1006, "reason": ""}
        channel.abort()
        app.done.set()
        assert pair.near.engine.ours == {}


async def test_abort_before_the_answer_cancels() -> None:
    app = Scripted(accept=False)
    async with link_pair(app) as pair:
        recorder = RecordingHandler()
        recorder.dispatch(
            pair.dispatcher, {"origin": "http://api.local", "path": "/", "upgrade": "websocket"}
        )
        await app.begun.wait()
        recorder.controller.abort()
        await recorder.wait()
        assert isinstance(recorder.error, RequestAbortedError)
        assert (await app.receive())["type"] == "websocket.disconnect"
        with pytest.raises(OSError):
            await app.send({"type": "websocket.accept"})
        app.done.set()


async def test_the_host_aborts_with_1012() -> None:
    app = Scripted()
    async with link_pair(app) as pair:
        channel = await connect(pair)
        await app.begun.wait()
        pair.host.streams[0].abort("the worker stops")
        with pytest.raises(WebSocketClosedError) as raised:
            await channel.receive()
        assert (raised.value.close_code, raised.value.close_reason) == (1012, "the worker stops")
        app.done.set()
        await pair.near.barrier()
        assert pair.near.engine.ours == pair.far.engine.theirs == {}


@KINDS
async def test_a_reader_that_stops_holds_up_the_sender(kind: str) -> None:
    app = Scripted()
    async with link_pair(app, kind) as pair:
        channel = await connect(pair)
        await app.begun.wait()
        sent = 0

        async def flood() -> None:
            nonlocal sent
            while True:
                await app.send({"type": "websocket.send", "bytes": bytes(10_000)})
                sent += 1

        flooding = asyncio.ensure_future(flood())
        for _ in range(200):
            await asyncio.sleep(0)
        # A window, and one message that waits for its credit.
        assert 250_000 // 10_009 <= sent <= 262_144 // 10_009 + 1
        for _ in range(100):
            assert await channel.receive() == bytes(10_000)
        assert sent >= 100
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
        app.done.set()


@KINDS
async def test_a_message_beyond_the_window_arrives_while_others_wait(kind: str) -> None:
    async with link_pair(echo, kind) as pair:
        channel = await connect(pair)
        messages = ["a" * 100_000, bytes(2_000_000), "b" * 1_500_000, bytes(3)]

        async def send_all() -> None:
            for message in messages:
                await channel.send(message)

        sending = asyncio.ensure_future(send_all())
        for message in messages:
            assert await channel.receive() == message
        await sending


async def test_concurrent_sends_do_not_interleave() -> None:
    async with link_pair(echo) as pair:
        channel = await connect(pair)
        messages = [bytes([number]) * 500_000 for number in range(8)]
        sending = [asyncio.ensure_future(channel.send(message)) for message in messages]
        assert sorted([await channel.receive() for _ in messages]) == sorted(messages)  # type: ignore[type-var]
        await asyncio.gather(*sending)


async def test_a_cancelled_receive_takes_nothing() -> None:
    app = Scripted()
    async with link_pair(app) as pair:
        channel = await connect(pair)
        await app.begun.wait()
        waiting = asyncio.ensure_future(channel.receive())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await app.send({"type": "websocket.send", "text": "kept"})
        assert await channel.receive() == "kept"
        app.done.set()


async def test_a_cancelled_send_has_sent_all_or_nothing() -> None:
    app = Scripted()
    async with link_pair(app) as pair:
        channel = await connect(pair)
        await app.begun.wait()
        await channel.send(bytes(1_000_000))  # waits for credit, and is on its way as a whole
        second = asyncio.ensure_future(channel.send(b"never"))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        await_third = asyncio.ensure_future(channel.send(b"third"))
        assert len((await app.receive())["bytes"]) == 1_000_000
        assert (await app.receive())["bytes"] == b"third"
        await await_third
        app.done.set()


@pytest.mark.parametrize("size", [70_001, 10])
async def test_a_message_beyond_the_limit_is_answered_with_1009(size: int) -> None:
    app = Scripted()
    async with link_pair(app) as pair:
        channel = await connect(pair)
        await app.begun.wait()
        channel.max_message_size = size - 1
        await app.send({"type": "websocket.send", "bytes": bytes(size)})
        with pytest.raises(WebSocketClosedError) as raised:
            await channel.receive()
        assert raised.value.close_code == 1009
        assert (await app.receive())["code"] == 1009
        app.done.set()
        await pair.far.barrier()
        assert pair.near.engine.ours == pair.far.engine.theirs == {}


async def test_the_app_takes_16_mib_and_no_more() -> None:
    app = Scripted()
    async with link_pair(app) as pair:
        channel = await connect(pair)
        await app.begun.wait()
        assert channel.max_message_size == MAX_MESSAGE
        sending = asyncio.ensure_future(channel.send(bytes(MAX_MESSAGE)))
        assert len((await app.receive())["bytes"]) == MAX_MESSAGE
        await sending
        await channel.send(bytes(MAX_MESSAGE + 1))
        assert (await app.receive())["code"] == 1009
        with pytest.raises(WebSocketClosedError):
            await channel.receive()
        app.done.set()


@pytest.mark.parametrize(
    "message",
    [
        {"type": "websocket.send"},
        {"type": "websocket.send", "text": "a", "bytes": b"a"},
        {"type": "websocket.send", "text": b"a"},
        {"type": "websocket.send", "bytes": "a"},
        {"type": "websocket.accept"},
        {"type": "http.response.start", "status": 200},
    ],
    ids=str,
)
async def test_wrong_messages_are_errors_in_the_app(message: dict[str, Any]) -> None:
    app = Scripted()
    async with link_pair(app) as pair:
        channel = await connect(pair)
        await app.begun.wait()
        with pytest.raises(ValueError):
            await app.send(message)
        await app.send({"type": "websocket.send", "text": "still open"})
        assert await channel.receive() == "still open"
        app.done.set()


@pytest.mark.parametrize("kind", ["websocket.send", "http.response.body", "lifespan.startup.complete"])
async def test_wrong_messages_before_the_answer(kind: str) -> None:
    app = Scripted(accept=False)
    async with link_pair(app) as pair:
        opening = begin(pair)
        await app.begun.wait()
        with pytest.raises(ValueError):
            await app.send({"type": kind, "text": "a"})
        await app.send({"type": "websocket.accept"})
        assert isinstance(await opening.outcome, ClientChannel)
        app.done.set()


async def test_closing_twice_is_an_error_in_the_app() -> None:
    app = Scripted()
    async with link_pair(app) as pair:
        channel = await connect(pair)
        await app.begun.wait()
        await app.send({"type": "websocket.close"})
        with pytest.raises(ValueError, match="second time"):
            await app.send({"type": "websocket.close"})
        with pytest.raises(WebSocketClosedError):
            await channel.receive()
        app.done.set()


async def test_other_upgrades_are_refused() -> None:
    async with link_pair(echo) as pair:
        with pytest.raises(NotSupportedError):
            await begin(pair, upgrade="h2c").outcome
        assert pair.near.engine.last == 0


async def test_a_websocket_is_not_idle() -> None:
    async with link_pair(echo) as pair:
        channel = await connect(pair)
        assert pair.near.running == 0
        idle = pair.owner.idle
        await channel.send("x")
        await channel.receive()
        assert pair.owner.idle == idle
        await channel.close()
        assert pair.owner.idle == idle + 1


async def test_an_app_that_sends_to_a_client_that_has_gone_has_done_nothing_wrong() -> None:
    failed = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        try:
            while True:
                await send({"type": "websocket.send", "bytes": bytes(100_000)})
        except OSError as error:
            failed.set()
            raise RuntimeError("what a framework makes of it") from error

    async with link_pair(app) as pair:
        channel = await connect(pair)
        await channel.close()
        await failed.wait()
        await asyncio.wait([pair.host.streams[0].task])
        assert pair.host.errors == []
        assert pair.far.serving == 0


async def test_messages_that_wait_for_credit_outlive_the_app() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "bytes": bytes(1_000_000)})

    async with link_pair(app) as pair:
        channel = await connect(pair)
        assert await channel.receive() == bytes(1_000_000)
        with pytest.raises(WebSocketClosedError) as raised:
            await channel.receive()
        assert raised.value.close_code == 1000
        assert pair.host.ended_streams == 1


async def test_texts_that_are_none_and_pieces_that_do_not_fit() -> None:
    app = Scripted()
    async with link_pair(app) as pair:
        channel = await connect(pair)
        await app.begun.wait()
        pair.near.engine.outbox.write(frames.REQ_TEXT, 1, b"\xff")
        pair.near.stage()
        with pytest.raises(WebSocketClosedError) as raised:
            await channel.receive()
        assert raised.value.close_code == 1007
        app.done.set()
    app = Scripted()
    async with link_pair(app) as pair:
        channel = await connect(pair)
        pair.near.engine.outbox.write(frames.REQ_TEXT | frames.MORE, 1, b"a")
        pair.near.engine.outbox.write(frames.REQ_BINARY, 1, b"b")
        pair.near.stage()
        await pair.far_owner.gone.wait()
        assert "partly text" in str(pair.far_owner.lost[0][1])
        with pytest.raises(WebSocketClosedError):
            await channel.receive()
        assert channel.close_code == 1006
        app.done.set()


async def test_closing_drops_what_was_not_taken() -> None:
    app = Scripted()
    async with link_pair(app) as pair:
        channel = await connect(pair)
        await app.begun.wait()
        for _ in range(3):
            await app.send({"type": "websocket.send", "text": "unread"})
        await pair.near.barrier()
        await channel.close()
        with pytest.raises(WebSocketClosedError):
            await channel.receive()
        app.done.set()


@pytest.mark.parametrize("code", [0, 999, 5000, 70_000, -1, "1000", 1000.0])
async def test_a_close_code_that_is_none_is_the_apps_mistake(code: Any) -> None:
    app = Scripted()
    async with link_pair(app) as pair:
        channel = await connect(pair)
        with pytest.raises(InvalidArgumentError, match="a code from 1000 to 4999"):
            await app.send({"type": "websocket.close", "code": code})
        await app.send({"type": "websocket.close", "code": None})
        with pytest.raises(WebSocketClosedError) as closed:
            await channel.receive()
        assert closed.value.close_code == 1000
        app.done.set()

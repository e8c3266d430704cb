"""WebSockets through the collective to an app behind a mesh: at the collector itself, and one hop away."""

from __future__ import annotations

import asyncio
import gc
from types import SimpleNamespace
from typing import Any

import pytest
from tests.collective.http.http_kit import (
    NAMESPACE,
    ORIGIN,
    TIMEOUT,
    Node,
    at_rest,
    echo,
    entrance,
    register,
)
from tests.collective.http.websocket_kit import URL, WAYS, closed, flood, path
from tests.mesh.test_link_websocket import Opening, Scripted

import dodici
from dodici import Agent, WebSocketClosedError, WebSocketError
from dodici.collective import Collector
from dodici.collective.http.channel import CarriedChannel
from dodici.collective.http.interceptor import CollectiveInterceptor
from dodici.core.errors import (
    ClientDestroyedError,
    NoTargetError,
    NotSupportedError,
    RequestAbortedError,
)
from dodici.testing import RecordingHandler

# -- messages ------------------------------------------------------------------------------------------------


@WAYS
async def test_messages_both_ways_keep_kind_and_order(hop: bool) -> None:
    async with path(echo, hop=hop) as way, way.open() as ws:
        messages: list[str | bytes] = [
            "grüße", b"\x00\xff", "", b"", "x" * 65_536, b"y" * 65_537, "ü" * 200_000, bytes(900_000),
        ]  # fmt: skip
        for message in messages:
            await ws.send(message)
            assert await ws.receive() == message
        for message in messages:
            await ws.send(message)
        assert [await ws.receive() for _ in messages] == messages
        await ws.send(["in ", "pie", "ces"])
        assert await ws.receive() == "in pieces"
        await ws.close(1000, "bye")
        assert (ws.close_code, ws.close_reason) == (1000, "bye")
        ws.abort()
        await way.rest()
        assert way.entry.stats().failures == 0


@WAYS
async def test_the_scope_and_the_answer(hop: bool) -> None:
    app = Scripted(accept=False)
    async with path(app, hop=hop) as way:
        opening = asyncio.create_task(
            _opened(way.open("a%20b?x=1", subprotocols=["chat", "super"], headers={"x-a": "1"}))
        )
        await app.begun.wait()
        scope = app.scope
        assert (scope["type"], scope["path"], scope["query_string"]) == ("websocket", "/a b", b"x=1")
        assert scope["subprotocols"] == ["chat", "super"]
        assert (b"x-a", b"1") in scope["headers"]
        await app.send({"type": "websocket.accept", "subprotocol": "chat", "headers": [(b"x-b", b"2")]})
        ws = await opening
        assert (ws.subprotocol, ws.headers["x-b"]) == ("chat", "2")
        assert ws.headers["x-dodici-handled-by"] == "b"
        app.done.set()
        assert (await closed(ws)).close_code == 1000


async def _opened(opening: Any) -> Any:
    return await opening


async def test_the_handler_is_told_of_101_and_given_a_channel() -> None:
    async with path(echo) as way:
        recorder = RecordingHandler()
        recorder.dispatch(way.agent, {"origin": ORIGIN, "path": "/", "upgrade": "websocket"})
        await recorder.wait()
        assert recorder.names == ["request_start", "request_upgrade"]
        assert recorder.status_code == 101
        channel = recorder.socket
        assert isinstance(channel, CarriedChannel)
        await channel.send("x")
        assert await channel.receive() == "x"
        channel.abort()
        await way.rest()


async def test_a_ping_is_answered_by_the_collector_of_the_origin() -> None:
    app = Scripted()
    async with path(app) as way, way.open() as ws:
        await app.begun.wait()
        assert 0 < await ws.ping() < TIMEOUT
        pinging = asyncio.create_task(ws.ping())
        await asyncio.sleep(0)
        ws.abort()
        with pytest.raises(WebSocketClosedError):
            await pinging
        app.done.set()


async def test_concurrent_sends_do_not_interleave() -> None:
    async with path(echo) as way, way.open() as ws:
        messages = [bytes([number]) * 500_000 for number in range(8)]
        sending = asyncio.gather(*(ws.send(message) for message in messages))
        assert sorted([await ws.receive() for _ in messages]) == messages
        await sending


async def test_a_cancelled_receive_takes_nothing() -> None:
    async with path(echo) as way, way.open() as ws:
        receiving = asyncio.create_task(ws.receive())
        await asyncio.sleep(0)
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)
        await ws.send("one")
        assert await ws.receive() == "one"


# -- refusals ------------------------------------------------------------------------------------------------


@WAYS
async def test_refusals_are_those_of_the_app(hop: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/raises":
            raise ValueError("no")
        if scope["path"] == "/closes":
            await send({"type": "websocket.close"})
        elif scope["path"] == "/says":
            head = {"type": "websocket.http.response.start", "status": 401, "headers": [(b"x-a", b"1")]}
            await send(head)
            await send({"type": "websocket.http.response.body", "body": b"who ", "more_body": True})
            await send({"type": "websocket.http.response.body", "body": b"are you"})

    async with path(app, hop=hop) as way:
        for where, status in (("raises", 500), ("returns", 500), ("closes", 403), ("says", 401)):
            with pytest.raises(WebSocketError) as raised:
                await way.open(where)
            assert raised.value.status_code == status
        assert raised.value.body == "who are you"
        assert raised.value.headers["x-a"] == "1"  # type: ignore[index]
        opening = way.begin("/says")
        assert await opening.outcome is None
        assert (opening.status, opening.body) == (401, b"who are you")
        await way.rest()


async def test_what_cannot_be_upgraded_says_so() -> None:
    async with path(echo) as way:
        with pytest.raises(NotSupportedError, match="websocket"):
            await way.agent.upgrade(f"{ORIGIN}/", "connect-udp")
        way.entry.register_service(NAMESPACE, "Plain", "Call", lambda context, given: given)
        with pytest.raises(NotSupportedError, match="HTTP origin"):
            await dodici.websocket("ws://plain.shop.collective/", dispatcher=way.agent)
        with pytest.raises(NotSupportedError, match="CONNECT"):
            await way.agent.connect(ORIGIN, "example.org:443")
        with pytest.raises(NoTargetError):
            await dodici.websocket("ws://nobody.shop.collective/", dispatcher=way.agent)
        await way.node.mesh.pause_worker(way.node.worker)
        with pytest.raises(NoTargetError):
            await way.open()
        await way.rest()


# -- the end -------------------------------------------------------------------------------------------------


@WAYS
async def test_the_app_closes_with_a_code_and_a_reason_behind_its_messages(hop: bool) -> None:
    app = Scripted()
    async with path(app, hop=hop) as way:
        ws = await way.open()
        await app.begun.wait()
        await app.send({"type": "websocket.send", "text": "last"})
        await app.send({"type": "websocket.close", "code": 4000, "reason": "enough, " + "ü" * 80})
        assert await ws.receive() == "last"
        error = await closed(ws)
        assert error.close_code == 4000
        assert error.close_reason.startswith("enough, üüü")
        with pytest.raises(WebSocketClosedError):
            await ws.send("too late")
        message = await app.receive()
        assert (message["type"], message["code"]) == ("websocket.disconnect", 4000)
        app.done.set()
        await ws.close()
        await way.rest()


@WAYS
async def test_the_client_closes_and_the_app_is_told(hop: bool) -> None:
    app = Scripted()
    async with path(app, hop=hop) as way:
        ws = await way.open()
        await app.begun.wait()
        await ws.send("one")
        await ws.close(4001, "done")
        assert await app.receive() == {"type": "websocket.receive", "text": "one"}
        assert await app.receive() == {"type": "websocket.disconnect", "code": 4001, "reason": "done"}
        app.done.set()
        await way.rest()


@pytest.mark.parametrize("size", [1, 60_000])
async def test_a_sender_that_does_not_stop_hears_how_it_ended(size: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        for _ in range(30):
            await receive()
        await send({"type": "websocket.send", "text": "last"})
        await send({"type": "websocket.close", "code": 4000})

    async with path(app) as way:
        for _ in range(10):
            ws = await way.open()
            sending = asyncio.create_task(flood(ws.send, SimpleNamespace(sent=0), size))
            assert await ws.receive() == "last"
            assert (await closed(ws)).close_code == 4000
            with pytest.raises(WebSocketClosedError):
                await sending
        await way.rest()


async def test_an_app_that_raises_later_closes_with_1011() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        raise ValueError("no")

    async with path(app) as way:
        ws = await way.open()
        assert (await closed(ws)).close_code == 1011
        await way.rest()


@WAYS
async def test_abort_tells_the_app_1006(hop: bool) -> None:
    app = Scripted()
    async with path(app, hop=hop) as way:
        ws = await way.open()
        await app.begun.wait()
        receiving = asyncio.create_task(ws.receive())
        await asyncio.sleep(0)
        ws.abort()
        with pytest.raises(WebSocketClosedError):
            await receiving
        assert await app.receive() == {"type": "websocket.disconnect", "code": 1006, "reason": ""}
        app.done.set()
        await way.rest()


async def test_abort_before_the_answer_cancels() -> None:
    app = Scripted(accept=False)
    async with path(app) as way:
        recorder = RecordingHandler()
        recorder.dispatch(way.agent, {"origin": ORIGIN, "path": "/", "upgrade": "websocket"})
        await app.begun.wait()
        recorder.controller.abort()
        await recorder.wait()
        assert isinstance(recorder.error, RequestAbortedError)
        assert (await app.receive())["type"] == "websocket.disconnect"
        app.done.set()
        await way.rest()


async def test_the_dispatcher_is_destroyed_during_an_opening() -> None:
    app = Scripted(accept=False)
    async with path(app) as way:
        opening = way.begin()
        await app.begun.wait()
        async with asyncio.timeout(TIMEOUT):
            await way.agent.destroy()
        with pytest.raises(ClientDestroyedError):
            await opening.outcome
        assert (await app.receive())["type"] == "websocket.disconnect"
        app.done.set()
        await way.rest()


@WAYS
async def test_cancelled_after_any_number_of_turns(hop: bool) -> None:
    async with path(echo, hop=hop) as way:
        opened = 0
        for turns in range(1, 60):
            opening = asyncio.create_task(_opened(way.open()))
            for _ in range(turns):
                await asyncio.sleep(0)
            if not opening.done():
                opening.cancel()
            try:
                (await opening).abort()
                opened += 1
            except asyncio.CancelledError:
                pass
        await way.rest()
        assert opened < 59


async def test_the_dispatcher_ends_and_the_websocket_stays() -> None:
    async with path(echo) as way:
        ws = await way.open()
        async with asyncio.timeout(TIMEOUT):
            await way.agent.close()
        gc.collect()
        await ws.send("still here")
        assert await ws.receive() == "still here"
        await ws.close()
        await way.rest()


async def test_a_websocket_that_is_dropped_is_cut() -> None:
    app = Scripted()
    async with path(app) as way:
        held = [await way.open()]
        await app.begun.wait()
        with pytest.warns(ResourceWarning, match="unclosed <WebSocket open>"):
            held.clear()
        assert (await app.receive())["type"] == "websocket.disconnect"
        app.done.set()
        await way.rest()


async def test_a_handler_that_raises_gets_the_error_and_the_app_1006() -> None:
    class Raising(Opening):
        def on_request_upgrade(self, controller: Any, status_code: int, headers: Any, socket: Any) -> None:
            raise ValueError("no, thanks")

    app = Scripted()
    async with path(app) as way:
        opening = Raising()
        way.agent.dispatch({"origin": ORIGIN, "path": "/", "upgrade": "websocket"}, opening)
        with pytest.raises(ValueError, match="no, thanks"):
            await opening.outcome
        assert (await app.receive())["code"] == 1006
        app.done.set()
        await way.rest()


async def test_drain_closes_with_1012() -> None:
    app = Scripted()
    async with path(app) as way:
        ws = await way.open()
        await app.begun.wait()
        async with asyncio.timeout(5):
            draining = asyncio.create_task(way.node.collector.drain())
            assert (await closed(ws)).close_code == 1012
            assert (await app.receive())["code"] == 1012
            app.done.set()
            await draining
        await way.rest()


# -- origins that lead elsewhere -----------------------------------------------------------------------------


async def test_an_origin_that_leads_into_the_collective() -> None:
    """Two carried WebSockets, one behind the other."""
    async with (
        Node("c", echo) as c,
        entrance(c) as (_, onward),
        Collector("b", "127.0.0.1:0", namespaces=[NAMESPACE]) as b,
        Agent().compose(CollectiveInterceptor(b)) as agent,
    ):
        register(b, "front", ORIGIN, onward)
        async with dodici.websocket("ws://front.shop.collective/", dispatcher=agent) as ws:
            await ws.send("x" * 100_000)
            assert await ws.receive() == "x" * 100_000
            assert ws.headers.get_list("x-dodici-handled-by") == ["b"]


async def test_over_a_collector_in_between() -> None:
    """A hop passes on what it does not decode."""
    app = Scripted()
    async with (
        Node("c", app) as c,
        Collector("b", "127.0.0.1:0", namespaces=[NAMESPACE]) as b,
    ):
        await b.connect_to(c.collector.address)
        async with entrance(b.address) as (_, agent):
            ws = await dodici.websocket(URL, dispatcher=agent)
            await app.begun.wait()
            await ws.send("there")
            assert (await app.receive())["text"] == "there"
            await app.send({"type": "websocket.send", "text": "back"})
            assert await ws.receive() == "back"
            await ws.close(4002)
            assert (await app.receive())["code"] == 4002
            app.done.set()
            await at_rest(b, c.collector)

"""WebSockets through the collective when something breaks, is late, or does not keep to the protocol."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from grpc import aio
from tests.collective.http.http_kit import (
    NAMESPACE,
    TIMEOUT,
    Node,
    at_rest,
    echo,
    entrance,
    process,
    register,
)
from tests.collective.http.websocket_kit import URL, WAYS, at_a_standstill, closed, flood, path
from tests.mesh.test_link_websocket import Scripted

import dodici
from dodici import Agent, WebSocketClosedError
from dodici.collective import Collector
from dodici.collective.context import current
from dodici.collective.http.channel import CarriedChannel
from dodici.collective.http.framing import HTTP
from dodici.collective.names import CallKind, MethodSpec
from dodici.collective.protos import http_pb2 as pb
from dodici.core.errors import (
    HeadersTimeoutError,
    RequestTimeoutError,
    SocketError,
)
from dodici.mesh import Worker, WorkerInterceptor
from dodici.wire.mesh.heads import encode_response

# -- what breaks ---------------------------------------------------------------------------------------------


async def test_the_collector_of_the_origin_is_killed() -> None:
    async with process("b") as b, entrance(b.address) as (_, agent):
        ws = await dodici.websocket(f"{URL}websocket", dispatcher=agent)
        await ws.send("x")
        assert await ws.receive() == "x"
        receiving = asyncio.create_task(closed(ws))
        # One that is held up both ways: it reads nothing, and learns of the end all the same.
        stuck = await dodici.websocket(URL, dispatcher=agent)
        progress = SimpleNamespace(sent=0)
        flooding = asyncio.create_task(flood(stuck.send, progress))
        await at_a_standstill(progress)
        b.send(signal.SIGKILL)
        async with asyncio.timeout(TIMEOUT):
            with pytest.raises(WebSocketClosedError):
                await flooding
        assert (await closed(stuck)).close_code == 1006
        await stuck.close()
        error = await receiving
        assert error.close_code == 1006
        assert error.__cause__ is not None
        with pytest.raises(WebSocketClosedError):
            await ws.send("x")
        await ws.close()


async def test_a_worker_in_a_process_and_its_death() -> None:
    mesh = WorkerInterceptor()
    worker = Worker("tests.collective.http.http_kit:echo", lifespan="off")
    agent = Agent().compose(mesh)
    await mesh.route("api", worker)
    try:
        async with Collector("b", "127.0.0.1:0", namespaces=[NAMESPACE]) as b:
            register(b, "api", "http://api.local", agent)
            async with entrance(b.address) as (_, through):
                ws = await dodici.websocket(URL, dispatcher=through)
                await ws.send("x" * 300_000)
                assert await ws.receive() == "x" * 300_000
                assert worker.pid is not None
                os.kill(worker.pid, signal.SIGKILL)
                assert (await closed(ws)).close_code == 1006
                await ws.close()
    finally:
        await agent.destroy()
        await mesh.close(drain_timeout=0.1)


async def test_a_caller_that_is_killed_is_1006_to_the_app() -> None:
    """Its collector ends without a word."""
    app = Scripted()
    async with Node("b", app) as node:
        async with entrance(node) as (entry, agent):
            ws = await dodici.websocket(URL, dispatcher=agent)
            await app.begun.wait()
            await entry.stop(0.0)
            assert (await closed(ws)).close_code == 1006
            await ws.close()
        assert (await app.receive())["code"] == 1006
        app.done.set()
        await at_rest(node.collector)


# -- times ---------------------------------------------------------------------------------------------------


async def test_timeouts_end_with_the_opening() -> None:
    app = Scripted(accept=False)
    async with path(app) as way:
        for options, error in (
            ({"timeout": 0.1}, RequestTimeoutError),
            ({"headers_timeout": 0.1}, HeadersTimeoutError),
        ):
            with pytest.raises(error):
                await way.begin(**options).outcome
        await way.rest()
        app.done.set()


@WAYS
async def test_no_deadline_ends_an_open_websocket(hop: bool) -> None:
    """Neither that of the opening, nor that of the call in which it is opened."""
    async with path(echo, hop=hop) as way:
        options = {"timeout": 0.3, "headers_timeout": 0.3, "body_timeout": 0.3}
        begun = asyncio.get_running_loop().time()
        opened: list[CarriedChannel] = [await way.begin(**options).outcome]

        async def opens(context: Any, given: Any) -> None:
            opened.append(await way.begin().outcome)

        way.entry.register_service(NAMESPACE, "Opens", "Open", opens)
        result = await way.entry.dispatch(NAMESPACE, "Opens", "Open", timeout=0.4)
        assert result.status.code == 200
        await asyncio.sleep(begun + 0.6 - asyncio.get_running_loop().time())
        for channel in opened:
            await channel.send("x")
            assert await channel.receive() == "x"
            await channel.close()
        await way.rest()


async def test_the_deadline_around_ends_the_opening() -> None:
    app = Scripted(accept=False)
    async with path(app) as way:
        failures: list[BaseException] = []

        async def opens(context: Any, given: Any) -> None:
            assert current.get() is not None
            opening = way.begin()
            try:
                await asyncio.shield(opening.outcome)
            except asyncio.CancelledError:
                failures.append((await asyncio.gather(opening.outcome, return_exceptions=True))[0])  # type: ignore[arg-type]
                raise

        way.entry.register_service(NAMESPACE, "Opens", "Open", opens)
        result = await way.entry.dispatch(NAMESPACE, "Opens", "Open", timeout=0.2)
        assert result.status.code == 504
        assert [type(failure) for failure in failures] == [RequestTimeoutError]
        app.done.set()
        await way.rest()


# -- the other collector does not keep to it -----------------------------------------------------------------

HEAD = encode_response(101, ())
MESSAGES = pb.Response.MESSAGES
BROKEN: dict[str, list[pb.Response | bytes]] = {
    "no end": [],
    "garbage": [b"\xff\xff\xff"],
    "a close without a code": [pb.Response(parts=[pb.Part(kind=pb.Part.CLOSE)])],
    "a close with no such code": [pb.Response(parts=[pb.Part(kind=pb.Part.CLOSE, data=b"\x00\x00")])],
    "a ping": [pb.Response(parts=[pb.Part(kind=pb.Part.PING)])],
    "another kind in the middle": [
        pb.Response(parts=[pb.Part(data=b"x", more=True), pb.Part(kind=pb.Part.TEXT, data=b"x")])
    ],
}
NO_UPGRADE: dict[str, pb.Response] = {
    "no head": pb.Response(upgraded=MESSAGES),
    "a refusal": pb.Response(head=encode_response(404, ()), upgraded=MESSAGES),
    "a broken head": pb.Response(head=b"101\nx", upgraded=MESSAGES),
    "101 and no more": pb.Response(head=HEAD),
    "a protocol of two lines": pb.Response(head=HEAD, upgraded=pb.Response.BYTES, protocol="a\r\nb: c"),
}


@asynccontextmanager
async def answering(*answers: pb.Response | bytes) -> AsyncIterator[Any]:
    """An agent whose way leads to a collector that answers so."""

    async def nonsense(context: Any, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        await anext(frames)
        for answer in answers:
            yield answer if isinstance(answer, bytes) else answer.SerializeToString()

    async with Collector("b", "127.0.0.1:0", namespaces=[NAMESPACE]) as b:
        b._services.add([MethodSpec(NAMESPACE, "api", HTTP, nonsense, CallKind.STREAM_STREAM)])
        async with entrance(b.address) as (entry, agent):
            yield agent
            await at_rest(entry, b)
            async with asyncio.timeout(TIMEOUT):
                while agent._branches[0]._interceptor.lasting:
                    await asyncio.sleep(0)


@pytest.mark.parametrize("name", BROKEN)
async def test_a_peer_that_goes_on_with_nonsense_is_1006(name: str) -> None:
    async with answering(pb.Response(head=HEAD, upgraded=MESSAGES), *BROKEN[name]) as agent:
        ws = await dodici.websocket(URL, dispatcher=agent)
        error = await closed(ws)
        assert error.close_code == 1006
        assert isinstance(error.__cause__, SocketError if name != "no end" else type(None))
        await ws.close()


@pytest.mark.parametrize("name", NO_UPGRADE)
async def test_a_peer_that_answers_nonsense_is_an_error(name: str) -> None:
    async with answering(NO_UPGRADE[name]) as agent:
        with pytest.raises(SocketError):
            await dodici.websocket(URL, dispatcher=agent)


async def test_a_text_that_is_none_is_1007() -> None:
    wrong = pb.Response(parts=[pb.Part(kind=pb.Part.TEXT, data=b"\xff")])
    async with answering(pb.Response(head=HEAD, upgraded=MESSAGES), wrong) as agent:
        ws = await dodici.websocket(URL, dispatcher=agent)
        assert (await closed(ws)).close_code == 1007
        await ws.close()


NO_PARTS: dict[str, list[bytes]] = {
    "garbage": [b"\xff\xff\xff"],
    "a pong": [pb.Request(parts=[pb.Part(kind=pb.Part.PONG)]).SerializeToString()],
    "a close without a code": [pb.Request(parts=[pb.Part(kind=pb.Part.CLOSE)]).SerializeToString()],
}


@pytest.mark.parametrize("name", NO_PARTS)
async def test_a_caller_who_sends_nonsense_is_1006_to_the_app(name: str) -> None:
    app = Scripted()
    async with Node("b", app) as b, aio.insecure_channel(b.collector.address) as channel:
        call = channel.stream_stream(f"/api/{HTTP}")(
            metadata=(("x-dodici-namespace", NAMESPACE),), timeout=10
        )
        head = b"GET\n/\nhttp\napi.shop.collective"
        await call.write(pb.Request(head=head, upgrade="websocket").SerializeToString())
        assert pb.Response.FromString(await call.read()).upgraded == MESSAGES
        for message in NO_PARTS[name]:
            await call.write(message)
        await call.done_writing()
        with pytest.raises(aio.AioRpcError):
            while True:
                await call.read()
        assert (await call.code()).name == "INVALID_ARGUMENT"
        assert (await app.receive())["code"] == 1006
        app.done.set()


async def test_a_refused_opening_goes_elsewhere() -> None:
    """To the peer that takes requests."""
    app = Scripted()
    async with Node("b", echo) as b, Node("c", app) as c, entrance(b, c) as (entry, agent):
        await b.mesh.pause_worker(b.worker)
        for _ in range(5):
            app.begun.clear()
            app.done.clear()
            ws = await dodici.websocket(URL, dispatcher=agent)
            assert ws.headers["x-dodici-handled-by"] == "c"
            ws.abort()
            app.done.set()
        await at_rest(entry, b.collector, c.collector)

"""Small requests: unary calls whose answer is all of the response, or its beginning and a promise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from grpc import StatusCode, aio
from tests.collective.http.http_kit import (
    NAMESPACE,
    ORIGIN,
    TIMEOUT,
    Node,
    announced,
    at_rest,
    entrance,
    register,
)

from dodici import Agent, DispatchOptions
from dodici.collective import CollectiveError, Collector, Limits
from dodici.collective.http import serving
from dodici.collective.http.framing import HTTP, LEAVE, REST, UNARY
from dodici.collective.http.interceptor import CollectiveInterceptor
from dodici.collective.http.tunnel import Tunnel
from dodici.collective.protos import http_pb2 as pb
from dodici.testing import RecordingHandler
from dodici.wire.mesh.heads import decode_response

METADATA = (("x-dodici-namespace", NAMESPACE),)


def methods(collector: Collector) -> list[str]:
    return [record.method for record in collector.history]


@pytest.mark.parametrize(
    ("path", "options", "used"),
    [
        ("/empty", {}, [UNARY]),
        ("/bytes/60000", {}, [UNARY]),
        ("/status/404", {"method": "DELETE"}, [UNARY]),
        ("/trailers", {}, [UNARY]),
        ("/echo", {"method": "POST", "body": b"x" * 32_768}, [UNARY]),
        ("/echo", {"method": "POST", "body": b"x" * 32_769}, [HTTP]),
        ("/echo", {"method": "POST", "body": [b"x"]}, [HTTP]),
        ("/echo", {"method": "POST", "body": b"x", "expect_continue": True}, [HTTP]),
        ("/bytes/70000", {}, [UNARY, REST]),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_which_way_an_exchange_goes(path: str, options: dict[str, Any], used: list[str]) -> None:
    async with Node("b") as b, entrance(b) as (entry, agent):
        recorder = RecordingHandler()
        recorder.dispatch(agent, DispatchOptions(origin=ORIGIN, path=path, **options))
        await recorder.wait()
        assert recorder.error is None
        await at_rest(entry, b.collector)
        assert methods(b.collector) == used
        assert methods(entry) == used


@asynccontextmanager
async def asked(node: Node, path: str, name: bytes = b"") -> AsyncIterator[tuple[Any, pb.Response]]:
    """A channel to a node, and what it answers to a small request."""
    async with aio.insecure_channel(node.collector.address) as channel:
        request = pb.Request(head=f"GET\n{path}\nhttp\napi.shop.collective".encode(), end=True, rest=name)
        call = channel.unary_unary(f"/api/{UNARY}")
        data = await call(request.SerializeToString(), metadata=METADATA, timeout=TIMEOUT)
        yield channel, pb.Response.FromString(data)


def rest(channel: Any, token: bytes) -> Any:
    call = channel.unary_stream(f"/api/{REST}")
    return call(pb.Request(rest=token).SerializeToString(), metadata=METADATA, timeout=TIMEOUT)


async def test_a_promise_is_kept_once() -> None:
    async with Node("b") as b:
        b.app.board.set("p:head")
        async with asked(b, "/gated?token=p&parts=2") as (channel, response):
            await _kept_once(b, channel, response)


async def _kept_once(b: Node, channel: Any, response: pb.Response) -> None:
    assert decode_response(response.head).status_code == 200
    assert not response.end
    call = rest(channel, response.rest)
    assert await call.read() == b""
    for part in ("0", "1"):
        b.app.board.set(f"p:{part}")
    body = response.data
    while not (found := pb.Response.FromString(await call.read())).end:
        body += found.data
    assert body + found.data == b"part-0;part-1;"
    assert await rest(channel, response.rest).code() == StatusCode.UNAVAILABLE
    assert await rest(channel, b"guessed").code() == StatusCode.UNAVAILABLE


async def test_a_promise_that_nobody_wants_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "PROMISED", 0.1)
    async with Node("b") as b, asked(b, "/hang-body?token=n") as (channel, response):
        assert response.data == b"begun"
        assert b.collector._local.in_flight == 1
        async with asyncio.timeout(TIMEOUT):
            await b.app.board.wait("n:disconnected")
        assert b.collector._local.in_flight == 0
        assert await rest(channel, response.rest).code() == StatusCode.UNAVAILABLE


async def test_promises_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_MOST_PROMISED", 2)
    async with Node("b") as b:
        for number in range(3):
            async with asked(b, f"/hang-body?token=m{number}"):
                pass
        async with asyncio.timeout(TIMEOUT):
            await b.app.board.wait("m0:disconnected")
        assert b.collector._local.in_flight == 2


async def test_a_promise_can_be_given_up_by_the_name_that_its_caller_gave_it() -> None:
    async with Node("b") as b:
        name = b"sixteen bytes of"
        async with asked(b, "/hang-body?token=v", name) as (channel, response):
            assert response.rest == name
            # Nobody takes the place of what is promised to another.
            async with asked(b, "/hang-body?token=w", name) as (_, other):
                assert len(other.rest) == 16
                assert other.rest != name
            leave = channel.unary_unary(f"/api/{LEAVE}")
            for token in (b"guessed", name, name):
                data = pb.Request(rest=token).SerializeToString()
                assert await leave(data, metadata=METADATA, timeout=TIMEOUT) == b""
            async with asyncio.timeout(1):
                await b.app.board.wait("v:disconnected")
            assert b.collector._local.in_flight == 1
            assert await rest(channel, name).code() == StatusCode.UNAVAILABLE


@pytest.mark.parametrize("hops", [0, 1, 2])
@pytest.mark.parametrize("when", ["answered", "asked"])
async def test_a_caller_that_gives_up_before_it_asks_for_the_rest_frees_the_origin_at_once(
    monkeypatch: pytest.MonkeyPatch, hops: int, when: str
) -> None:
    """Just when the origin's collector has answered, and just when the answer is there."""
    recorder = RecordingHandler()
    place = (serving.HttpServing, "_promise") if when == "answered" else (Tunnel, "_rest")
    step: Any = getattr(*place)

    def give_up(*arguments: Any) -> Any:
        recorder.controller.abort("enough")
        return step(*arguments)

    monkeypatch.setattr(*place, give_up)
    async with AsyncExitStack() as stack:
        b = await stack.enter_async_context(Node("b"))
        if hops == 0:
            way: list[Any] = []
            entry, agent = b.collector, Agent().compose(CollectiveInterceptor(b.collector))
            stack.push_async_callback(agent.destroy)
        else:
            way = [b]
            if hops == 2:
                hop = await stack.enter_async_context(Collector("h", "127.0.0.1:0", namespaces=[NAMESPACE]))
                await hop.connect_to(b.collector.address)
                await announced(hop, "b")
                way = [hop.address]
            entry, agent = await stack.enter_async_context(entrance(*way))
        recorder.dispatch(agent, DispatchOptions(origin=ORIGIN, path="/hang-body?token=n"))
        await recorder.wait()
        assert str(recorder.error) == "enough"
        async with asyncio.timeout(1):
            await b.app.board.wait("n:disconnected")
        await at_rest(entry, b.collector)
        assert LEAVE not in methods(b.collector)


async def test_drain_waits_for_what_was_promised() -> None:
    async with Node("b") as b:
        b.app.board.set("d:head")
        async with asked(b, "/gated?token=d&parts=1") as (channel, response):
            await _drained(b, channel, response)


async def _drained(b: Node, channel: Any, response: pb.Response) -> None:
    draining = asyncio.create_task(b.collector.drain())
    await asyncio.sleep(0.05)
    assert not draining.done()
    call = rest(channel, response.rest)
    assert await call.read() == b""
    b.app.board.set("d:0")
    while not pb.Response.FromString(await call.read()).end:
        pass
    async with asyncio.timeout(TIMEOUT):
        await draining


async def test_a_small_request_that_is_given_up_is_given_up_at_the_app() -> None:
    async with Node("b") as b, entrance(b) as (entry, agent):
        task = asyncio.ensure_future(agent.request(f"{ORIGIN}/hang?token=g"))
        async with asyncio.timeout(TIMEOUT):
            await b.app.board.wait("g:started")
            task.cancel()
            await b.app.board.wait("g:disconnected")
        await at_rest(entry, b.collector)
        assert methods(b.collector) == [UNARY]


async def test_an_origin_that_leads_back_to_itself_is_an_error() -> None:
    async with Collector("b", "127.0.0.1:0", namespaces=[NAMESPACE]) as b:
        agent = Agent().compose(CollectiveInterceptor(b))
        register(b, "api", ORIGIN, agent)
        register(b, "one", f"http://two.{NAMESPACE}.collective", agent)
        register(b, "two", f"http://one.{NAMESPACE}.collective", agent)
        for origin in (ORIGIN, f"http://one.{NAMESPACE}.collective"):
            for options in ({}, {"body": [b"streamed"]}):
                with pytest.raises(CollectiveError, match="leads back into the collective"):
                    await agent.request(f"{origin}/", method="POST", **options)
        await at_rest(b)
        await agent.destroy()


async def test_what_was_promised_has_a_place_however_full_it_is() -> None:
    """Responses that go on count as running, once; and their rest needs no other place."""
    limits = Limits(in_flight=2, queued=1)
    async with Node("b", limits=limits) as b, entrance(b) as (entry, agent):
        recorders = []
        for number in range(2):
            recorder = RecordingHandler()
            path = f"/gated?token=f{number}&parts=1"
            b.app.board.set(f"f{number}:head")
            recorder.dispatch(agent, DispatchOptions(origin=ORIGIN, path=path))
            await recorder.reached("on_response_start")
            recorders.append(recorder)
        assert b.collector._local.in_flight == 2
        waiting = asyncio.ensure_future(agent.request(f"{ORIGIN}/empty"))
        async with asyncio.timeout(TIMEOUT):
            while not b.collector._local.limiter.queued:
                await asyncio.sleep(0.005)
        refused = RecordingHandler()
        refused.dispatch(agent, DispatchOptions(origin=ORIGIN, path="/empty"))
        await refused.wait()
        assert isinstance(refused.error, CollectiveError)
        assert (refused.error.status, refused.error.request_not_processed) == (429, True)
        for number, recorder in enumerate(recorders):
            b.app.board.set(f"f{number}:0")
            assert (await recorder.wait()).body == b"part-0;"
        assert (await waiting).status_code == 200
        await at_rest(entry, b.collector)

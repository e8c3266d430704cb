"""What becomes of a carried exchange on its way: interceptors, traces, and ends that do not keep to the rules."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from grpc import aio
from tests.collective.http.http_kit import NAMESPACE, ORIGIN, Node, announced, at_rest, entrance, register

from dodici import Agent, DispatchOptions
from dodici.collective import Collector
from dodici.collective.http.framing import HTTP, UNARY
from dodici.collective.http.interceptor import CollectiveInterceptor
from dodici.collective.names import CallKind, MethodSpec
from dodici.collective.protos import http_pb2 as pb
from dodici.core.errors import DodiciError, ResponseError, SocketError
from dodici.interceptors import decompress, dump, redirect, response_error, retry
from dodici.testing import RecordingHandler
from dodici.wire.mesh import heads
from dodici.wire.mesh.heads import encode_response

TRACE = "0af7651916cd43dd8448eb211c80319c"
APP_CALLS: dict[str, int] = {}


async def app(scope: Any, receive: Any, send: Any) -> None:
    """What interceptors are for."""
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    path = scope["path"]
    APP_CALLS[path] = APP_CALLS.get(path, 0) + 1
    headers: list[tuple[bytes, bytes]] = []
    status, body = 200, b"plain"
    if path == "/gzip":
        headers, body = [(b"content-encoding", b"gzip")], gzip.compress(b"packed" * 1000)
    elif path == "/moved":
        status, headers = 302, [(b"location", b"/there")]
    elif path == "/flaky" and APP_CALLS[path] < 3:
        status = 503
    elif path == "/fields":
        body = json.dumps({name.decode(): value.decode() for name, value in scope["headers"]}).encode()
        headers = [(b"connection", b"x-hop"), (b"x-hop", b"1"), (b"x-end", b"1"), (b"keep-alive", b"5")]
    elif path == "/failed":
        status, headers, body = 422, [(b"content-type", b"application/json")], b'{"no": 1}'
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def test_every_interceptor_works() -> None:
    interceptors = [
        response_error(),
        decompress(),
        redirect(),
        retry(max_retries=3, min_timeout=0),
    ]
    APP_CALLS.clear()
    async with Node("b", app) as b, entrance(b, interceptors=interceptors) as (_, agent):
        assert await (await agent.request(f"{ORIGIN}/gzip")).bytes() == b"packed" * 1000
        moved = await agent.request(f"{ORIGIN}/moved")
        assert (moved.status_code, await moved.bytes()) == (200, b"plain")
        assert (await agent.request(f"{ORIGIN}/flaky")).status_code == 200
        assert APP_CALLS["/flaky"] == 3
        with pytest.raises(ResponseError) as failed:
            await agent.request(f"{ORIGIN}/failed")
        assert (failed.value.status_code, failed.value.body) == (422, {"no": 1})
        dumped = await agent.compose(dump(max_size=1 << 20)).request(f"{ORIGIN}/plain")
        assert (dumped.status_code, await dumped.bytes()) == (200, b"")


async def test_fields_of_one_connection_end_at_the_hop_and_the_trace_goes_on() -> None:
    async with Node("b", app) as b, entrance(b) as (_, agent):
        response = await agent.request(
            f"{ORIGIN}/fields",
            headers={
                "traceparent": f"00-{TRACE}-b7ad6b7169203331-01",
                "tracestate": "v=1",
                "baggage": "k=v",
                "te": "trailers",
                "x-app": "1",
            },
        )
        seen = await response.json()
        assert seen["traceparent"] == f"00-{TRACE}-b7ad6b7169203331-01"
        assert (seen["tracestate"], seen["baggage"], seen["x-app"]) == ("v=1", "k=v", "1")
        assert seen["host"] == "api.local"
        assert "te" not in seen
        assert "x-end" in response.headers
        assert response.headers["x-dodici-handled-by"] == "b"
        assert not {"x-hop", "connection", "keep-alive"} & set(response.headers)
        [record] = [one for one in b.collector.history if one.method == UNARY]
        assert record.trace_id == TRACE
        alone = await (await agent.request(f"{ORIGIN}/fields")).json()
        assert len(alone["traceparent"]) == 55
        broken = await agent.request(f"{ORIGIN}/fields", headers={"traceparent": "grüße\t", "x-app": "2"})
        assert (await broken.json())["x-app"] == "2"


async def test_an_exchange_leaves_no_circles_and_one_head() -> None:
    """Neither end makes work for the garbage collector, and a head that comes again is one that is known."""
    async with Node("b", app) as b, entrance(b) as (_, agent):

        async def ask(number: int) -> None:
            trace = f"00-{number + 1:032x}-b7ad6b7169203331-00"
            response = await agent.request(f"{ORIGIN}/plain", headers={"traceparent": trace})
            assert await response.bytes() == b"plain"

        await ask(0)
        known = len(heads._requests)
        gc.collect()
        gc.disable()
        try:
            for number in range(20):
                await ask(number)
            await asyncio.sleep(0)
            assert gc.collect() < 20
        finally:
            gc.enable()
        assert len(heads._requests) == known


async def test_an_exchange_passes_through_a_collector_between() -> None:
    """a - b - c: b carries it on without a look at it."""
    async with Node("c") as c, Collector("b", "127.0.0.1:0", namespaces=[NAMESPACE]) as b:
        await b.connect_to(c.collector.address)
        await announced(b, "c")
        async with entrance(b.address) as (entry, agent):
            recorder = RecordingHandler(keep_body=False)
            options = DispatchOptions(origin=ORIGIN, path="/stream/1000000", method="POST", body=iter([b"x"]))
            recorder.dispatch(agent, options)
            await recorder.wait()
            assert (recorder.error, recorder.body_size) == (None, 1_000_000)
            await at_rest(entry, b, c.collector)
            [record] = [one for one in c.collector.history if one.method == HTTP]
            assert record.path == ("entry", "b")
        await b.stop(0.0)


async def test_pipeline_answers_while_the_request_goes_on() -> None:
    async def echoing(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        more = True
        while more:
            message = await receive()
            more = message.get("more_body", False)
            await send({"type": "http.response.body", "body": message["body"].upper(), "more_body": more})

    async with Node("b", echoing) as b, entrance(b) as (_, agent):
        async with agent.pipeline(f"{ORIGIN}/", method="POST") as duplex:
            answers = aiter(duplex)
            for word in (b"one", b"two"):
                await duplex.write(word)
                assert await anext(answers) == word.upper()
            await duplex.end()
            assert [chunk async for chunk in answers] == []


# -- ends that do not keep to the rules ----------------------------------------------------------------------

HEAD = encode_response(200, ())
BROKEN: dict[str, list[pb.Response | bytes]] = {
    "no message": [],
    "no end": [pb.Response(head=HEAD, data=b"x")],
    "garbage": [b"\xff\xff\xff"],
    "no head": [pb.Response(data=b"x", end=True)],
    "two heads": [pb.Response(head=HEAD), pb.Response(head=HEAD, end=True)],
    "interim after the head": [pb.Response(head=HEAD), pb.Response(informational=[b"103"], end=True)],
    "interim that is final": [pb.Response(informational=[b"200"], head=HEAD, end=True)],
    "head that is interim": [pb.Response(head=b"103", end=True)],
    "line feed in a field": [pb.Response(head=b"200\nx\na\nb", end=True)],
    "blank in a name": [pb.Response(head=b"200\nx y\n1", end=True)],
    "carriage return": [pb.Response(head=b"200\nx\n1\r2", end=True)],
    "trailers that are none": [pb.Response(head=HEAD, end=True, trailers=b"x")],
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_peer_that_answers_nonsense_is_an_error(name: str) -> None:
    async def nonsense(context: Any, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        for answer in BROKEN[name]:
            yield answer if isinstance(answer, bytes) else answer.SerializeToString()

    async with Collector("b", "127.0.0.1:0", namespaces=[NAMESPACE]) as b:
        b._services.add([MethodSpec(NAMESPACE, "api", HTTP, nonsense, CallKind.STREAM_STREAM)])
        async with entrance(b.address) as (entry, agent):
            recorder = RecordingHandler()
            recorder.dispatch(agent, DispatchOptions(origin=ORIGIN, path="/"))
            await recorder.wait()
            assert isinstance(recorder.error, SocketError)
            await at_rest(entry, b)
        await b.stop(0.0)


REQUEST = b"GET\n/\nhttp\napi.shop.collective"
NO_REQUESTS: dict[str, list[bytes]] = {
    "garbage": [b"\xff\xff\xff"],
    "no head": [pb.Request(data=b"x").SerializeToString()],
    "broken head": [pb.Request(head=b"GET / HTTP/1.1", end=True).SerializeToString()],
    "smuggling": [pb.Request(head=REQUEST + b"\ntransfer-encoding\nchunked", end=True).SerializeToString()],
    "wrong length": [
        pb.Request(head=REQUEST + b"\ncontent-length\n5", data=b"x", end=True).SerializeToString()
    ],
}


@pytest.mark.parametrize("name", NO_REQUESTS)
async def test_a_caller_who_sends_nonsense_is_refused(name: str) -> None:
    async with Node("b") as b, aio.insecure_channel(b.collector.address) as channel:
        call = channel.stream_stream(f"/api/{HTTP}")(
            metadata=(("x-dodici-namespace", NAMESPACE),), timeout=10
        )
        for message in NO_REQUESTS[name]:
            await call.write(message)
        await call.done_writing()
        assert (await call.code()).name == "INVALID_ARGUMENT"
        assert b.app.board.get("anonymous:count") == 0


@pytest.mark.parametrize("message", [b"\xff\xff", b""], ids=["garbage", "no end"])
async def test_a_body_that_breaks_off_is_no_whole_body(message: bytes) -> None:
    async with Node("b") as b, aio.insecure_channel(b.collector.address) as channel:
        call = channel.stream_stream(f"/api/{HTTP}")(
            metadata=(("x-dodici-namespace", NAMESPACE),), timeout=10
        )
        head = REQUEST.replace(b"GET\n/", b"POST\n/echo?token=cut")
        await call.write(pb.Request(head=head, data=b"begun").SerializeToString())
        if message:
            await call.write(message)
        await call.done_writing()
        with pytest.raises(aio.AioRpcError):
            async for _ in call:
                pass
        async with asyncio.timeout(10):
            await b.app.board.wait("cut:ended")
        assert b.app.board.get("cut:disconnected")


async def test_an_origin_without_a_dispatcher_is_reached_by_the_global_one() -> None:
    from dodici import set_global_dispatcher

    async with Node("b", app) as b:
        set_global_dispatcher(b.agent)
        try:
            register(b.collector, "other", "http://api.local", None)
            agent = Agent().compose(CollectiveInterceptor(b.collector))
            response = await agent.request(f"http://other.{NAMESPACE}.collective/plain")
            assert await response.bytes() == b"plain"
            await agent.destroy()
        finally:
            set_global_dispatcher(None)


async def test_what_an_origin_fails_with_is_what_the_caller_gets() -> None:
    """By class, code and phase; what it was on the way is its cause."""

    class Failing(Agent):
        error: Callable[[], BaseException]

        def dispatch(self, options: Any, handler: Any) -> bool:
            from dodici.core.controller import refuse

            return refuse(handler, self.error())

    from dodici.core import errors

    async with Collector("b", "127.0.0.1:0", namespaces=[NAMESPACE]) as b:
        failing = Failing()
        register(b, "api", "http://api.local", failing)
        async with entrance(b.address) as (_, agent):
            for kind in (
                errors.HeadersTimeoutError,
                errors.WorkerExitedError,
                errors.HeadersOverflowError,
                errors.ConnectTimeoutError,
                errors.RemoteAppError,
            ):
                failing.error = lambda kind=kind: kind("why")
                with pytest.raises(kind, match="why") as raised:
                    await agent.request(f"{ORIGIN}/")
                assert raised.value.code == kind.code
                assert raised.value.__cause__ is not None
            failing.error = lambda: ValueError("a secret")
            with pytest.raises(DodiciError) as told:
                await agent.request(f"{ORIGIN}/")
            assert "secret" not in str(told.value)
        await failing.destroy()
        await b.stop(0.0)

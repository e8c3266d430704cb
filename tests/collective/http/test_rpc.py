"""Methods of a service as paths of a host: JSON there and back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.collective.fleet import Work, routed, serve, until
from tests.collective.http.http_kit import NAMESPACE, entrance
from tests.collective.kit import OrderServicer, descriptor, echo, order_class

from dodici import Agent
from dodici.collective import CollectiveInterceptor, Collector
from dodici.core.errors import BodyAbortedError, RequestTimeoutError
from dodici.mesh import Worker, WorkerInterceptor

HOST = f"http://Work.{NAMESPACE}.collective"
ECHO = f"http://Echo.{NAMESPACE}.collective/Say"
ORDERS = f"http://OrderService.{NAMESPACE}.collective"


class Hop:
    def __init__(self, entry: Collector, agent: Any, work: Work, far: Collector) -> None:
        self.entry, self.agent, self.work, self.far = entry, agent, work, far


@pytest_asyncio.fixture
async def hop() -> AsyncIterator[Hop]:
    async with Collector("far", "127.0.0.1:0", namespaces=[NAMESPACE]) as far:
        work = serve(far)
        far.register_service(NAMESPACE, "Echo", "Say", echo)
        far.add_service(NAMESPACE, OrderServicer(), descriptor())
        async with entrance() as (entry, agent):
            await entry.connect_to(far.address)
            await until(lambda: routed(entry) == {"far"})
            yield Hop(entry, agent, work, far)
        await far.stop(0.0)


async def call(hop: Hop, url: str, **options: Any) -> tuple[int, Any, Any]:
    response = await hop.agent.request(url, **{"method": "POST", **options})
    body = await response.bytes()
    kind = response.headers["content-type"]
    return (
        response.status_code,
        json.loads(body) if "json" in kind and "nd" not in kind else body,
        response.headers,
    )


@pytest.mark.parametrize("value", [None, True, 7, -1.5, "grüße", [1, None, "x"], {"a": {"b": [1]}}], ids=str)
async def test_values_of_json_come_back(hop: Hop, value: Any) -> None:
    status, body, headers = await call(hop, ECHO, json=value)
    assert (status, body) == (200, value)
    assert headers["content-type"] == "application/json"
    assert headers["x-dodici-handled-by"] == "far"
    assert headers["x-trailing"] == "t"


async def test_no_body_is_none_and_bytes_are_bytes(hop: Hop) -> None:
    assert (await call(hop, ECHO))[1] is None
    status, body, headers = await call(
        hop, ECHO, body=b"\x00\xff", headers={"content-type": "application/octet-stream"}
    )
    assert (status, body, headers["content-type"]) == (200, b"\x00\xff", "application/octet-stream")


async def test_messages_are_json_for_whoever_speaks_it_and_protobuf_for_others(hop: Hop) -> None:
    status, body, headers = await call(hop, f"{ORDERS}/Create", json={"sku": "a", "count": 2})
    assert (status, body) == (200, {"sku": "A", "count": "3"})
    given = order_class()(sku="b", count=1)
    kind = f'application/x-protobuf; messageType="{given.DESCRIPTOR.full_name}"'
    status, body, headers = await call(
        hop, f"{ORDERS}/Create", body=given.SerializeToString(), headers={"content-type": kind}
    )
    assert headers["content-type"].startswith("application/x-protobuf")
    assert order_class().FromString(body) == order_class()(sku="B", count=2)
    status, body, _ = await call(
        hop,
        f"{ORDERS}/Create",
        body=given.SerializeToString(),
        headers={"content-type": kind, "accept": "application/json"},
    )
    assert body == {"sku": "B", "count": "2"}


@pytest.mark.parametrize("code", [400, 403, 404, 409, 429, 503, 504])
async def test_failures_are_problems_with_the_number_of_the_envelope(hop: Hop, code: int) -> None:
    status, body, headers = await call(hop, f"{HOST}/Fail", json=code)
    assert (status, body["status"], body["detail"]) == (code, code, f"as told: {code}")
    assert headers["content-type"] == "application/problem+json"
    assert body["by"] == "far"
    assert headers["x-why"] == "far"
    assert headers["x-dodici-handled-by"] == "far"


async def test_what_is_no_call_is_refused(hop: Hop) -> None:
    for url, options, expected in (
        (f"{HOST}/Who", {"method": "GET"}, 405),
        (f"{HOST}/", {}, 404),
        (f"{HOST}/a/b", {}, 404),
        (f"{HOST}/%20", {}, 404),
        (f"{HOST}/Nothing", {"json": 1}, 404),
        (ECHO, {"body": b"{", "headers": {"content-type": "application/json"}}, 400),
        (ECHO, {"body": b"NaN"}, 400),
        (ECHO, {"json": [2**60]}, 400),
        (ECHO, {"body": b"x", "headers": {"content-type": "image/png"}}, 415),
        (ECHO, {"body": b"x", "headers": {"content-type": "application/x-protobuf"}}, 415),
    ):
        status, body, headers = await call(hop, url, **options)
        assert (url, status) == (url, expected), body
        assert body["status"] == expected
        assert headers.get("allow") == ("POST" if expected == 405 else None)
    assert not hop.work.counts.get("Nothing")


async def test_metadata_trace_and_deadline_are_the_callers(hop: Hop) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    status, body, headers = await call(
        hop,
        f"{HOST}/See",
        json=None,
        timeout=5,
        headers={"traceparent": trace, "x-one": "1", "user-agent": "me", "accept": "*/*"},
    )
    assert status == 200
    assert body["trace"] == "0af7651916cd43dd8448eb211c80319c"
    metadata = dict(body["metadata"])
    assert metadata["x-one"] == "1"
    assert not {"user-agent", "accept", "host", "content-type"} & set(metadata)
    assert 3 < body["remaining"] <= 5
    assert headers.get_list("x-seen") == ["1", "2"]


async def test_the_total_timeout_is_an_error_and_cancels_the_call(hop: Hop) -> None:
    with pytest.raises(RequestTimeoutError):
        await hop.agent.request(f"{HOST}/Hold", method="POST", timeout=0.1)
    await until(lambda: hop.work.cancelled == 1)
    task = asyncio.ensure_future(hop.agent.request(f"{HOST}/Hold", method="POST"))
    await until(lambda: hop.work.running == 1)
    task.cancel()
    await until(lambda: hop.work.cancelled == 2)


async def test_a_stream_of_answers_is_lines(hop: Hop) -> None:
    status, body, headers = await call(hop, f"{HOST}/Numbers", json=3)
    assert (status, body, headers["content-type"]) == (200, b"0\n1\n2\n", "application/x-ndjson")
    status, body, _ = await call(hop, f"{HOST}/Numbers", json=0)
    assert (status, body) == (200, b"")


async def test_streams_of_inputs(hop: Hop) -> None:
    async def lines() -> AsyncIterator[bytes]:
        for piece in (b"1\n2", b"0\n", b"\n", b"300"):
            yield piece

    ndjson = {"content-type": "application/x-ndjson"}
    status, body, _ = await call(hop, f"{HOST}/Total", body=lines(), headers=ndjson)
    assert (status, body.strip()) == (200, b"321")
    status, body, _ = await call(hop, f"{HOST}/Chat", body=b'"a"\n"b"\n', headers=ndjson)
    assert (status, body) == (200, b'"far:a"\n"far:b"\n')
    status, problem, _ = await call(hop, f"{HOST}/Total", body=b"1\n{\n", headers=ndjson)
    assert (status, problem["status"]) == (400, 400)
    status, problem, _ = await call(hop, f"{HOST}/Total", json=1)
    assert status == 400
    assert "application/x-ndjson" in problem["detail"]


async def test_both_ways_at_once(hop: Hop) -> None:
    """An answer comes before the input has ended."""
    async with hop.agent.pipeline(
        f"{HOST}/Chat", method="POST", headers={"content-type": "application/x-ndjson"}
    ) as duplex:
        answers = aiter(duplex)
        for word in ("one", "two"):
            await duplex.write(f'"{word}"\n'.encode())
            assert await anext(answers) == f'"far:{word}"\n'.encode()
        await duplex.end()
        assert [chunk async for chunk in answers] == []


async def test_a_stream_that_fails_late_is_broken_off(hop: Hop) -> None:
    async def failing(context: Any, given: Any) -> AsyncIterator[Any]:
        yield 1
        context.abort(409, "no more")

    hop.far.register_service(NAMESPACE, "Late", "Fail", failing, kind="unary_stream")
    await until(lambda: routed(hop.entry, "Late", "Fail") == {"far"})
    response = await hop.agent.request(f"http://late.{NAMESPACE}.collective/Fail", method="POST")
    assert response.status_code == 200
    with pytest.raises(BodyAbortedError, match="no more"):
        await response.bytes()


async def test_a_body_beyond_the_limit_is_refused(hop: Hop) -> None:
    status, body, _ = await call(hop, ECHO, body=b'"' + b"x" * (16 << 20) + b'"')
    assert (status, body["status"]) == (413, 413)


async def test_an_origin_without_whole_exchanges_is_called(hop: Hop) -> None:
    """Method by method, with any name; a failure of the app is the same failure for the caller."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": f"{message['type']}.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        given = json.loads((await receive())["body"])
        status = 409 if given == "taken" else 200
        body = json.dumps({"detail": "is taken"} if status == 409 else [scope["path"], given]).encode()
        headers = [(b"content-type", b"application/json"), (b"x-app", b"1")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    mesh = WorkerInterceptor()
    await mesh.route("app", Worker(app, kind="loop"))
    agent = Agent().compose(mesh)
    hop.far.register_origin(NAMESPACE, "Plain", "http://app.local", dispatcher=agent, http=False)
    await until(lambda: routed(hop.entry, "Plain", "Any") == {"far"})
    url = f"http://plain.{NAMESPACE}.collective/Anything"
    status, body, headers = await call(hop, url, json={"a": 1})
    assert (status, body, headers["x-app"]) == (200, ["/Anything", {"a": 1}], "1")
    status, body, _ = await call(hop, url, json="taken")
    assert (status, body["detail"], body["grpc-status"]) == (409, "is taken", "ALREADY_EXISTS")
    await agent.destroy()
    await mesh.close(drain_timeout=0.1)


@pytest.mark.parametrize(
    "fields",
    [{"content-encoding": "gzip"}, {"content-type": "text/event-stream"}, {"content-type": "text/plain"}],
    ids=str,
)
async def test_a_body_that_cannot_be_read_is_the_callers_mistake(hop: Hop, fields: dict[str, str]) -> None:
    status, problem, _ = await call(hop, ECHO, body=b"x", headers=fields)
    assert status == 415
    assert problem["detail"].startswith("cannot read a body")


async def test_content_types_have_no_case(hop: Hop) -> None:
    fields = {"content-type": "Application/Octet-Stream"}
    assert (await call(hop, ECHO, body=b"\x00", headers=fields))[:2] == (200, b"\x00")


async def test_a_line_that_is_no_json_is_the_callers_mistake_where_the_method_is_here(hop: Hop) -> None:
    agent = Agent().compose(CollectiveInterceptor(hop.far))
    try:
        for fields, body in (
            ({"content-type": "application/x-ndjson"}, b"1\n{\n"),
            ({"content-type": "application/json"}, b"[1]"),
        ):
            response = await agent.request(f"{ORDERS}/Sum", method="POST", body=body, headers=fields)
            assert response.status_code == 400, await response.text()
            await response.dump()
    finally:
        await agent.close()

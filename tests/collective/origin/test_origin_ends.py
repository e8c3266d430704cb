"""How calls of an origin end: deadlines, callers that go, origins that go, and what is tried elsewhere."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode, aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.collective.fleet import until
from tests.collective.kit import SERVICE as KIT_SERVICE, descriptor
from tests.collective.origin.origin_app import Shop
from tests.collective.origin.origin_kit import NS, ORIGIN, SERVICE, origin, reached

import dodici
from dodici.collective import Collector, DeadlineExceededError, LocalValidator, OriginMethod
from dodici.core.grpc_status import GrpcStatus
from dodici.mesh import Worker
from dodici.testing import ScriptedPeer

WHERE = ("near", "far")


@pytest.mark.parametrize("where", WHERE)
async def test_at_its_deadline_a_call_is_over_for_the_app_too(where: str) -> None:
    async with origin() as made, asyncio.timeout(10):
        result = await made.by(where).dispatch(NS, SERVICE, "Wait", timeout=0.2)
        assert (result.status, type(result.error)) == (504, DeadlineExceededError)
        await made.shop.note("gone").wait()
        assert int(made.shop.seen[0].headers["grpc-timeout"].removesuffix("m")) <= 200


@pytest.mark.parametrize("where", WHERE)
async def test_at_its_deadline_a_stream_is_over_for_the_app_too(where: str) -> None:
    async with origin() as made, asyncio.timeout(10):
        stream = made.by(where).dispatch_stream(NS, SERVICE, "Begin", kind="unary_stream", timeout=0.3)
        assert await anext(stream) == 1
        with pytest.raises(DeadlineExceededError):
            await anext(stream)
        await made.shop.note("gone").wait()


@pytest.mark.parametrize("where", WHERE)
async def test_a_caller_that_is_cancelled_is_gone_for_the_app(where: str) -> None:
    async with origin() as made, asyncio.timeout(10):
        call = asyncio.ensure_future(made.by(where).dispatch(NS, SERVICE, "Wait"))
        await made.shop.note("waiting").wait()
        call.cancel()
        await made.shop.note("gone").wait()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: made.near._local.in_flight == 0)


@pytest.mark.parametrize("where", WHERE)
async def test_a_stream_that_is_closed_is_gone_for_the_app(where: str) -> None:
    async with origin() as made, asyncio.timeout(10):
        async with made.by(where).dispatch_stream(NS, SERVICE, "Begin", kind="unary_stream") as stream:
            assert await anext(stream) == 1
        await made.shop.note("gone").wait()
        await until(lambda: made.near._local.in_flight == 0)


async def test_a_stub_that_cancels_is_gone_for_the_app_behind_a_hop() -> None:
    async with origin() as made, aio.insecure_channel(made.far.address) as channel, asyncio.timeout(10):
        call = channel.unary_unary(f"/{SERVICE}/Wait")(b"", metadata=(("x-dodici-namespace", NS),))
        await made.shop.note("waiting").wait()
        call.cancel()
        await made.shop.note("gone").wait()


async def test_a_call_that_waits_for_the_rest_of_its_input_ends_at_its_deadline() -> None:
    async with origin() as made, aio.insecure_channel(made.near.address) as channel, asyncio.timeout(10):
        call = channel.stream_unary(f"/{SERVICE}/Echo")(metadata=(("x-dodici-namespace", NS),), timeout=0.2)
        await call.write(b"x")
        assert await call.code() is StatusCode.DEADLINE_EXCEEDED
        assert made.shop.seen == []


CALLER = """
import asyncio, sys
from dodici.collective import Collector

async def main():
    async with Collector("caller", "127.0.0.1:0", namespaces=["shop"]) as one:
        await one.connect_to(sys.argv[1])
        calls = [one.dispatch("shop", "Orders", "Wait")]
        calls += [one.dispatch_stream("shop", "Orders", "Begin", kind="unary_stream").result()]
        await asyncio.gather(*calls)

asyncio.run(main())
"""


async def test_callers_in_a_process_that_is_killed_are_gone_for_the_app() -> None:
    class Both(Shop):
        async def do_Begin(self, request: Any, answer: Any) -> None:  # noqa: N802
            await answer.head(kind="application/x-ndjson")
            await answer.piece(b"1\n")
            self.note("streaming").set()
            while (await request._receive())["type"] != "http.disconnect":
                pass
            self.note("stream gone").set()

    async with origin(Both()) as made, asyncio.timeout(30):
        process = subprocess.Popen([sys.executable, "-c", CALLER, made.far.address])
        try:
            await made.shop.note("waiting").wait()
            await made.shop.note("streaming").wait()
            process.kill()
            await made.shop.note("gone").wait()
            await made.shop.note("stream gone").wait()
        finally:
            process.kill()
            process.wait()
        await until(lambda: made.near._local.in_flight == 0)


# -- origins that are not there ------------------------------------------------------------------------------


async def test_an_origin_that_takes_nothing_is_unavailable() -> None:
    async with reached(Shop()) as (agent, mesh), Collector("one", "127.0.0.1:0") as one:
        one.register_origin(NS, SERVICE, ORIGIN, dispatcher=agent, http=False)
        await mesh.unroute("orders")
        result = await one.dispatch(NS, SERVICE, "Echo", 1)
        assert (result.status, result.status.grpc_status) == (503, GrpcStatus.UNAVAILABLE)
        assert result.error is not None
        assert result.error.request_not_processed


async def test_what_an_origin_has_not_seen_goes_to_another_collector() -> None:
    """h1 tells nothing of its capacity: that nobody listens is found out by the call, which is not idempotent."""

    async def never(connection: Any) -> None:
        raise AssertionError("nobody was to come")

    async with origin() as made, dodici.Agent() as agent, ScriptedPeer(never) as peer:
        origin_of_nobody = peer.origin
        await peer.stop()
        async with Collector("third", "127.0.0.1:0", namespaces=[NS]) as third:
            third.register_origin(NS, SERVICE, origin_of_nobody, dispatcher=agent, http=False)
            await made.far.connect_to(third.address)
            await until(lambda: len(made.far.stats().routes) and any(
                len(route.peers) == 2 for route in made.far.stats().routes.values()))  # fmt: skip
            handled = [await made.far.dispatch(NS, SERVICE, "Echo", number) for number in range(20)]
            assert [each.output for each in handled] == list(range(20))
            assert {each.handled_by_collector_id for each in handled} == {"near"}
            # Also where it came in.
            await third.connect_to(made.near.address)
            await until(
                lambda: "near" in {peer for route in third.stats().routes.values() for peer in route.peers}
            )
            assert (await third.dispatch(NS, SERVICE, "Echo", 5)).output == 5


async def test_an_origin_that_dies_on_a_call_fails_it_and_no_other_collector_tries() -> None:
    app = "tests.mesh.member_apps:app"
    async with reached(Shop()) as (agent, mesh), Collector("one", "127.0.0.1:0") as one:
        worker = Worker(app)
        await mesh.route("mortal", worker)
        wait = OriginMethod(verb="DELETE", path="/wait")
        one.register_origin(
            NS, "Mortal", "http://mortal.local", dispatcher=agent, http=False, methods={"Wait": wait}
        )
        call = asyncio.ensure_future(one.dispatch(NS, "Mortal", "Wait", {"seconds": 30}, timeout=20))
        await until(lambda: one._local.in_flight == 1)
        worker.kill()
        result = await call
        assert result.status.grpc_status is GrpcStatus.UNAVAILABLE
        assert result.error is not None
        assert not result.error.request_not_processed


async def test_an_origin_that_never_answers_ends_with_its_dispatchers_timeout() -> None:
    async def silent(connection: Any) -> None:
        await connection.read_request()
        await connection.closed()

    agent = dodici.Agent(headers_timeout=0.2)
    async with ScriptedPeer(silent) as peer, agent, Collector("one", "127.0.0.1:0") as one:
        one.register_origin(NS, SERVICE, peer.origin, dispatcher=agent, http=False)
        result = await one.dispatch(NS, SERVICE, "Say", 1)
        assert (result.status, result.status.grpc_status) == (504, GrpcStatus.DEADLINE_EXCEEDED)


async def test_an_origin_that_breaks_the_protocol_is_internal() -> None:
    async def rude(connection: Any) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 OK 200\r\n\r\n")
        connection.close()

    async with ScriptedPeer(rude) as peer, dodici.Agent() as agent, Collector("one", "127.0.0.1:0") as one:
        one.register_origin(NS, SERVICE, peer.origin, dispatcher=agent, http=False)
        result = await one.dispatch(NS, SERVICE, "Say", 1)
        assert (result.status, result.status.grpc_status) == (500, GrpcStatus.INTERNAL)


# -- tools ---------------------------------------------------------------------------------------------------


async def test_a_registry_lists_a_wildcard_and_validates_by_it(tmp_path: Path) -> None:
    async with origin(near={"registry": f"sqlite:{tmp_path / 'registry.db'}"}, http=True) as made:
        await made.near._registry.settled()  # type: ignore[union-attr]
        registry: Any = made.near.registry
        (record,) = await registry.services(NS)
        assert (record.service_name, list(record.method_names)) == (SERVICE, ["*"])
        for method, due in (("Echo", True), ("Anything", True), ("~http", True)):
            assert (await registry.validate(NS, SERVICE, method)).valid is due
        assert not (await registry.validate(NS, "Other", "~http")).valid
        made.near.set_registry_validator(LocalValidator(registry))
        assert (await made.far.dispatch(NS, SERVICE, "Echo", 1)).output == 1


async def test_a_registry_has_a_descriptor_as_it_is(tmp_path: Path) -> None:
    near = {"registry": f"sqlite:{tmp_path / 'registry.db'}"}
    async with origin(near=near, http=True, methods=descriptor(), service=KIT_SERVICE) as made:
        await made.near._registry.settled()  # type: ignore[union-attr]
        (record,) = await made.near.registry.services(NS)  # type: ignore[union-attr]
        assert sorted(record.method_names) == ["Chat", "Create", "Fail", "Hold", "List", "Sum"]


async def test_reflection_tells_of_descriptors_and_not_of_wildcards() -> None:
    async def listed(address: str) -> set[str]:
        async with aio.insecure_channel(address) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            async for answer in stub.ServerReflectionInfo(iter([request])):
                return {each.name for each in answer.list_services_response.service}
        raise AssertionError("no answer")

    async with origin() as made:
        assert SERVICE not in await listed(made.near.address)
        made.near.register_origin(
            NS, "OrderService", ORIGIN, dispatcher=made.agent, http=False, methods=descriptor()
        )
        assert KIT_SERVICE in await listed(made.near.address)


async def test_health_has_the_service() -> None:
    async with origin() as made, aio.insecure_channel(made.near.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        found = await stub.Check(health_pb2.HealthCheckRequest(service=f"{NS}/{SERVICE}"))
        assert found.status == health_pb2.HealthCheckResponse.SERVING


async def test_the_command_calls_an_origin() -> None:
    async with origin() as made:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "dodici", "call", made.far.address, NS, f"{SERVICE}.Echo", '{"a": [1]}',
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, _ = await process.communicate()
        assert process.returncode == 0
        assert '"a"' in out.decode()

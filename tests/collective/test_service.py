"""What arrives at a collector's server, sent by plain grpc: both faces, health, reflection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.wrappers_pb2 import Int64Value, StringValue
from google.rpc import status_pb2
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from tests.collective.kit import NAMESPACE, SERVICE, OrderServicer, make, order, order_class

from dodici.collective import CallContext, CollectiveError, Collector, Limits
from dodici.collective.protos import collector_pb2 as pb
from dodici.core.grpc_status import GrpcStatus

PLAIN = (("x-dodici-namespace", "plain"),)


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[tuple[Collector, OrderServicer, aio.Channel]]:
    collector, servicer = make(**options)
    async with collector, aio.insecure_channel(collector.address) as channel:
        yield collector, servicer, channel


def method(channel: aio.Channel, kind: str, name: str, *, read: Any = None) -> Any:
    """A method as a generated stub has it."""
    write = order_class().SerializeToString
    return getattr(channel, kind)(f"/{SERVICE}/{name}", write, read or order_class().FromString)


async def failing(call: Any) -> aio.AioRpcError:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value


# -- the transparent face ------------------------------------------------------------------------------------


async def test_a_stub_calls_all_four_kinds() -> None:
    async with serving() as (_, _, channel):
        assert await method(channel, "unary_unary", "Create")(order("a", 1), metadata=NAMESPACE) == order(
            "A", 2
        )
        listed = method(channel, "unary_stream", "List")(order("x", 3), metadata=NAMESPACE)
        assert [one.count async for one in listed] == [0, 1, 2]
        total = method(channel, "stream_unary", "Sum")(
            iter([order("a", 1), order("b", 2)]), metadata=NAMESPACE
        )
        assert await total == order("sum", 3)
        chat = method(channel, "stream_stream", "Chat")(metadata=NAMESPACE)
        for count in (1, 2):  # each answer comes before the next is asked for
            await chat.write(order("c", count))
            assert await chat.read() == order("c", -count)
        await chat.done_writing()
        assert await chat.read() is aio.EOF
        assert await chat.code() is grpc.StatusCode.OK


async def test_metadata_both_ways() -> None:
    async with serving() as (collector, _, channel):
        call = method(channel, "unary_unary", "Create")(
            order("a"), metadata=(*NAMESPACE, ("x-sent", "hello"))
        )
        await call
        trailing = dict(await call.trailing_metadata())
        assert trailing == {"x-seen": "hello", "x-bin": b"\x00\xff", "x-dodici-handled-by": collector.id}


async def test_a_hops_metadata_from_a_client_is_dropped() -> None:
    async with serving() as (collector, _, channel):

        @collector.method("plain", "Echo", "Look")
        def look(context: CallContext, given: Any) -> bytes:
            seen = [name for name in context.metadata if name.startswith("x-dodici")]
            return repr((context.path, context.identity, seen)).encode()

        forged = tuple(
            (f"x-dodici-{name}", "kit-1") for name in ("path", "caller", "attempt", "connection", "new")
        )
        assert await channel.unary_unary("/Echo/Look")(b"", metadata=PLAIN + forged) == b"((), None, [])"


async def test_statuses_texts_details_and_trailing_metadata() -> None:
    async with serving() as (_, _, channel):
        fail = method(channel, "unary_unary", "Fail")
        for number, code in (
            (404, grpc.StatusCode.NOT_FOUND),
            (409, grpc.StatusCode.ALREADY_EXISTS),
            (503, grpc.StatusCode.UNAVAILABLE),
        ):
            error = await failing(fail(order("abort", number), metadata=NAMESPACE))
            assert (error.code(), error.details()) == (code, "no such thing: ü")
            trailing = dict(error.trailing_metadata() or ())
            assert trailing["x-why"] == "sold out"
            details = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])  # type: ignore[arg-type]
            assert details.code == code.value[0]
        for sku, told, code in (
            ("code", "lost", grpc.StatusCode.DATA_LOSS),
            ("collective", "CollectiveError: told to all", grpc.StatusCode.INTERNAL),
            ("bug", f"shop/{SERVICE}.Fail failed", grpc.StatusCode.INTERNAL),
        ):
            error = await failing(fail(order(sku), metadata=NAMESPACE))
            assert (error.code(), error.details()) == (code, told)


async def test_what_is_not_there() -> None:
    async with serving() as (collector, _, channel):
        told = {}
        for path, metadata in (
            ("/Echo/Say", (("x-dodici-namespace", "nowhere"),)),
            ("/Nothing/Say", PLAIN),
            ("/Echo/Nothing", PLAIN),
            ("/Echo/Say", ()),
            ("/Echo/Say", (("x-dodici-namespace", ""),)),
            ("/Say", PLAIN),
            ("/Echo/Say", (*PLAIN, ("x-dodici-target", "elsewhere"))),
            ("/grpc.channelz.v1.Channelz/GetServers", ()),
        ):
            error = await failing(channel.unary_unary(path)(b"", metadata=metadata))
            told[error.details()] = error.code().name
        assert told == {
            "no such namespace: 'nowhere'": "NOT_FOUND",
            "no such service in namespace 'plain': 'Nothing'": "NOT_FOUND",
            "no such method of 'Echo' in namespace 'plain': 'Nothing'": "UNIMPLEMENTED",
            "the metadata x-dodici-namespace is missing, and there is not just one namespace": "INVALID_ARGUMENT",
            "the namespace is empty": "INVALID_ARGUMENT",
            "the service or method is empty": "INVALID_ARGUMENT",
            "no such collector: 'elsewhere'": "NOT_FOUND",
            "there is no method /grpc.channelz.v1.Channelz/GetServers": "UNIMPLEMENTED",
        }
        await collector.leave("shop")
        assert await channel.unary_unary("/Echo/Say")(b"the only one left") == b"the only one left"


async def test_a_payload_without_a_known_type_is_bytes_both_ways() -> None:
    async with serving() as (collector, _, channel):
        say = channel.unary_unary("/Echo/Say")
        assert await say(b"\xff\x00 raw", metadata=PLAIN) == b"\xff\x00 raw"
        collector.register_service("plain", "Echo", "Dict", lambda context, given: {"a": 1})
        error = await failing(channel.unary_unary("/Echo/Dict")(b"", metadata=PLAIN))
        assert error.code() is grpc.StatusCode.INTERNAL
        assert "bytes or a message" in (error.details() or "")
        assert await say(b"and the server lives", metadata=PLAIN) == b"and the server lives"


async def test_values_as_any_on_the_transparent_face() -> None:
    async with serving() as (_, _, channel):
        packed = AnyMessage()
        packed.Pack(StringValue(value="x"))
        metadata = (*PLAIN, ("x-dodici-payload", "any"))
        answer = await channel.unary_unary("/Echo/Say")(packed.SerializeToString(), metadata=metadata)
        assert AnyMessage.FromString(answer) == packed
        number = AnyMessage()
        number.Pack(Int64Value(value=2))
        counted = channel.unary_stream("/Echo/Count")(number.SerializeToString(), metadata=metadata)
        values = [Int64Value.FromString(AnyMessage.FromString(one).value).value async for one in counted]
        assert values == [0, 1]


async def test_broken_payloads_are_invalid_arguments() -> None:
    async with serving() as (_, _, channel):
        any_payload = (*PLAIN, ("x-dodici-payload", "any"))
        for path, metadata in ((f"/{SERVICE}/Create", NAMESPACE), ("/Echo/Say", any_payload)):
            assert (await failing(channel.unary_unary(path)(b"\xff", metadata=metadata))).code().value[0] == 3
        total = channel.stream_unary(f"/{SERVICE}/Sum")(
            iter([order("a", 1).SerializeToString(), b"\xff"]), metadata=NAMESPACE
        )
        error = await failing(total)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        nothing = channel.stream_stream(f"/{SERVICE}/List")(metadata=NAMESPACE)
        await nothing.done_writing()
        assert (await nothing.code()) is grpc.StatusCode.INVALID_ARGUMENT


async def test_deadlines() -> None:
    async with serving(default_timeout=0.3) as (collector, servicer, channel):
        seen: list[float | None] = []
        collector.register_service(
            "plain", "Echo", "Time", lambda context, given: seen.append(context.time_remaining())
        )
        await channel.unary_unary("/Echo/Time")(b"", metadata=PLAIN, timeout=7)
        await channel.unary_unary("/Echo/Time")(b"", metadata=PLAIN)
        assert seen[0] is not None
        assert seen[1] is not None
        assert 6 < seen[0] <= 7.1  # grpc rounds up
        assert 0 < seen[1] <= 0.3
        error = await failing(method(channel, "unary_unary", "Hold")(order("x"), metadata=NAMESPACE))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert servicer.note("x cancelled").is_set()
        held = method(channel, "unary_unary", "Hold")(order("y"), metadata=NAMESPACE, timeout=0.05)
        assert (await failing(held)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await servicer.note("y cancelled").wait()


async def test_a_client_that_cancels_reaches_the_handler() -> None:
    async with serving() as (collector, servicer, channel):
        call = method(channel, "unary_unary", "Hold")(order("x"), metadata=NAMESPACE)
        await servicer.note("x started").wait()
        call.cancel()
        await servicer.note("x cancelled").wait()

        @collector.method("plain", "Echo", "Flood", kind="unary_stream")
        async def flood(context: CallContext, given: Any) -> AsyncIterator[bytes]:
            try:
                while True:  # stands at its yield when the window is full, which is where it is cancelled
                    yield bytes(100_000)
            except asyncio.CancelledError:
                servicer.note("flood cancelled").set()
                raise

        stream = channel.unary_stream("/Echo/Flood")(b"", metadata=PLAIN)
        await stream.read()
        stream.cancel()
        await servicer.note("flood cancelled").wait()
        await collector._local.idle()


async def test_limits_of_messages() -> None:
    async with serving(limits=Limits(message=10_000)) as (collector, _, channel):
        say = channel.unary_unary("/Echo/Say")
        assert len(await say(bytes(9_000), metadata=PLAIN)) == 9_000
        assert (
            await failing(say(bytes(11_000), metadata=PLAIN))
        ).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        collector.register_service("plain", "Echo", "Much", lambda context, given: bytes(11_000))
        error = await failing(channel.unary_unary("/Echo/Much")(b"", metadata=PLAIN))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_refusals_on_both_faces() -> None:
    def refuse(namespace: str, service: str, name: str) -> bool:
        return name not in {"Say", "Count"}

    async with serving(validator=refuse) as (_, _, channel):
        assert (await failing(channel.unary_unary("/Echo/Say")(b"", metadata=PLAIN))).code().value[0] == 5
        counted = channel.stream_stream("/Echo/Count")(metadata=PLAIN)
        assert await counted.code() is grpc.StatusCode.NOT_FOUND
        assert (await serve(channel, "plain", "Echo", "Say")).status.code == 404


async def test_a_policy_is_asked_before_the_validator_and_not_for_the_process_itself() -> None:
    asked: list[str] = []

    class Policy:
        def check(self, identity: Any, namespace: str, service: str, method: str) -> None:
            if namespace == "shop":
                raise CollectiveError("not you", grpc_status=GrpcStatus.PERMISSION_DENIED)

    def validate(namespace: str, service: str, name: str) -> bool:
        asked.append(namespace)
        return True

    async with serving(policy=Policy(), validator=validate) as (collector, _, channel):
        refused = await failing(method(channel, "unary_unary", "Create")(order(), metadata=NAMESPACE))
        assert (refused.code(), refused.details()) == (grpc.StatusCode.PERMISSION_DENIED, "not you")
        assert (await serve(channel, "shop", SERVICE, "Create")).status.code == 403
        assert asked == []
        assert await channel.unary_unary("/Echo/Say")(b"x", metadata=PLAIN) == b"x"
        assert (await collector.dispatch("shop", SERVICE, "Create", order())).status == 200
        assert asked == ["plain", "shop"]


async def test_stop_serves_what_runs_for_its_grace_and_refuses_the_rest() -> None:
    async with serving() as (collector, servicer, channel):
        gate = asyncio.Event()

        @collector.method("plain", "Echo", "Gate")
        async def wait(context: CallContext, given: Any) -> bytes:
            servicer.note("in").set()
            await gate.wait()
            return b"served"

        running = asyncio.ensure_future(channel.unary_unary("/Echo/Gate")(b"", metadata=PLAIN))
        held = method(channel, "unary_unary", "Hold")(order("x"), metadata=NAMESPACE)
        await servicer.note("in").wait()
        await servicer.note("x started").wait()
        stopping = asyncio.create_task(collector.stop(grace=1.0))
        await asyncio.sleep(0)
        gate.set()
        assert await running == b"served"
        assert (await failing(held)).code() is grpc.StatusCode.UNAVAILABLE
        await stopping
        await servicer.note("x cancelled").wait()
        assert (await failing(channel.unary_unary("/Echo/Say")(b"", metadata=PLAIN))).code().value[0] == 14


# -- the envelope --------------------------------------------------------------------------------------------


def request(kind: Any, namespace: str, service: str, name: str, given: Any = None, **more: Any) -> Any:
    made = kind(namespace=namespace, method_name=name, **more)
    made.service.service_name = service
    if given is not None:
        made.input.Pack(given)
    return made


async def serve(channel: aio.Channel, *names: Any, **more: Any) -> Any:
    call = channel.unary_unary(
        "/collector.CollectiveDispatcher/Serve",
        pb.ServeRequest.SerializeToString,
        pb.ServeResponse.FromString,
    )
    return await call(request(pb.ServeRequest, *names, **more))


async def dispatch(channel: aio.Channel, *names: Any, **more: Any) -> Any:
    call = channel.unary_unary(
        "/collector.CollectiveDispatcher/Dispatch",
        pb.DispatchRequest.SerializeToString,
        pb.DispatchResponse.FromString,
    )
    return await call(request(pb.DispatchRequest, *names, **more))


async def test_serve_and_dispatch() -> None:
    async with serving() as (_, _, channel):
        served = await serve(channel, "plain", "Echo", "Say", StringValue(value="hi"))
        assert (served.status.code, dict(served.status.details), served.executor_id) == (200, {}, "kit-1")
        said = StringValue()
        assert served.output.Unpack(said)
        assert said.value == "hi"
        dispatched = await dispatch(channel, "shop", SERVICE, "Create", order("a", 1))
        assert (dispatched.status.code, dispatched.handled_by_collector_id) == (200, "kit-1")
        assert dispatched.output.type_url == "type.googleapis.com/kit.shop.Order"
        assert order_class().FromString(dispatched.output.value) == order("A", 2)
        nothing = await serve(channel, "plain", "Echo", "Say")
        assert nothing.output.type_url == "type.googleapis.com/google.protobuf.Empty"


async def test_an_any_of_an_unknown_type_passes_untouched() -> None:
    async with serving() as (_, _, channel):
        unknown = AnyMessage(type_url="type.googleapis.com/nobody.knows.This", value=b"\x08\x01")
        made = request(pb.DispatchRequest, "plain", "Echo", "Say")
        made.input.CopyFrom(unknown)
        call = channel.unary_unary(
            "/collector.CollectiveDispatcher/Dispatch",
            pb.DispatchRequest.SerializeToString,
            pb.DispatchResponse.FromString,
        )
        assert (await call(made)).output == unknown


async def test_failures_in_the_envelope() -> None:
    async with serving() as (_, _, channel):
        told = {}
        for names in (
            ("nowhere", "Echo", "Say"),
            ("plain", "Nothing", "Say"),
            ("plain", "Echo", "Nothing"),
            ("", "Echo", "Say"),
            ("plain", "", "Say"),
            ("plain", "Echo", ""),
            ("plain", "Echo", "Say/more"),
            ("plain", "Echo", "Count"),
            ("plain", "Echo", "Say", StringValue(value="abort")),
            ("plain", "Echo", "Say", StringValue(value="collective")),
            ("plain", "Echo", "Say", StringValue(value="bug")),
        ):
            served, dispatched = await serve(channel, *names), await dispatch(channel, *names)
            assert served.status == dispatched.status
            assert not served.HasField("output")
            told[served.status.message] = (served.status.code, dict(served.status.details))
        assert told == {
            "no such namespace: 'nowhere'": (404, {"grpc-status": "NOT_FOUND"}),
            "no such service in namespace 'plain': 'Nothing'": (404, {"grpc-status": "NOT_FOUND"}),
            "no such method of 'Echo' in namespace 'plain': 'Nothing'": (
                404,
                {"grpc-status": "UNIMPLEMENTED"},
            ),
            "namespace is empty": (400, {"grpc-status": "INVALID_ARGUMENT"}),
            "service.service_name is empty": (400, {"grpc-status": "INVALID_ARGUMENT"}),
            "method_name is empty": (400, {"grpc-status": "INVALID_ARGUMENT"}),
            "'Say/more' is no method": (400, {"grpc-status": "INVALID_ARGUMENT"}),
            "plain/Echo.Count is unary_stream: it cannot be called as unary_unary": (
                400,
                {"grpc-status": "INVALID_ARGUMENT"},
            ),
            "taken": (409, {"grpc-status": "ALREADY_EXISTS", "by": "somebody"}),
            "CollectiveError: told to all": (500, {"grpc-status": "INTERNAL"}),
            "plain/Echo.Say failed": (500, {"grpc-status": "INTERNAL"}),
        }


async def test_the_namespace_of_the_request_counts() -> None:
    async with serving() as (_, _, channel):
        call = channel.unary_unary(
            "/collector.CollectiveDispatcher/Serve",
            pb.ServeRequest.SerializeToString,
            pb.ServeResponse.FromString,
        )
        made = request(pb.ServeRequest, "", "Echo", "Say")
        made.service.namespace = "plain"
        assert (await call(made)).status.code == 200
        made.namespace = "plain"
        assert (await call(made)).status.code == 200
        made.namespace = "shop"
        refused = await call(made)
        assert refused.status.code == 400
        assert "'shop'" in refused.status.message
        assert "'plain'" in refused.status.message


async def test_a_target_in_the_envelope() -> None:
    async with serving() as (_, _, channel):
        assert (
            await dispatch(channel, "plain", "Echo", "Say", target_collector_id="kit-1")
        ).status.code == 200
        elsewhere = await dispatch(channel, "plain", "Echo", "Say", target_collector_id="kit-2")
        assert elsewhere.status.code == 404
        assert "kit-2" in elsewhere.status.message


async def test_trailing_metadata_and_binary_details_are_trailers_of_the_envelope() -> None:
    async with serving() as (collector, _, channel):
        details = status_pb2.Status(code=5, message="binary").SerializeToString()

        @collector.method("plain", "Echo", "Details")
        def abort(context: CallContext, given: Any) -> None:
            context.set_trailing_metadata({"x-t": "1"})
            context.abort(404, "no", details)

        stub = channel.unary_unary(
            "/collector.CollectiveDispatcher/Serve",
            pb.ServeRequest.SerializeToString,
            pb.ServeResponse.FromString,
        )
        call = stub(request(pb.ServeRequest, "plain", "Echo", "Details"))
        assert (await call).status.code == 404
        assert await call.code() is grpc.StatusCode.OK
        assert dict(await call.trailing_metadata()) == {"x-t": "1", "grpc-status-details-bin": details}


async def test_connect_asks_for_what_it_needs() -> None:
    async with serving() as (_, _, channel):
        connect = channel.unary_unary(
            "/collector.CollectiveDispatcher/Connect",
            pb.ConnectRequest.SerializeToString,
            pb.ConnectResponse.FromString,
        )
        for made, said in (
            (pb.ConnectRequest(address="a"), "collector_id is empty"),
            (pb.ConnectRequest(collector_id="c"), "address is empty"),
        ):
            answer = await connect(made)
            assert (answer.status.code, answer.status.message) == (400, said)
            assert answer.target_collector_id == "kit-1"


# -- health and reflection -----------------------------------------------------------------------------------


async def test_health_of_the_collector_its_namespaces_and_services() -> None:
    async with serving() as (collector, _, channel):
        stub = health_pb2_grpc.HealthStub(channel)

        async def status(name: str) -> str:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
            return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

        for name in ("", "plain", "shop", "plain/Echo", f"shop/{SERVICE}", "shop/OrderService"):
            assert await status(name) == "SERVING"
        assert (await failing(stub.Check(health_pb2.HealthCheckRequest(service="never")))).code().value[
            0
        ] == 5
        await collector.leave("plain")
        assert [await status(name) for name in ("plain", "plain/Echo", "")] == ["SERVICE_UNKNOWN"] * 2 + [
            "SERVING"
        ]
        listed = await stub.List(health_pb2.HealthListRequest())
        assert set(listed.statuses) == {"", "shop", f"shop/{SERVICE}", "shop/OrderService"}
        await collector.drain()
        assert [await status(name) for name in ("", "shop")] == ["NOT_SERVING"] * 2


async def test_health_is_watched() -> None:
    async with serving() as (collector, _, channel):
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="new"))
        seen = [(await watch.read()).status]
        await collector.join("new")
        seen.append((await watch.read()).status)
        await collector.join("another")  # is nothing to this watcher
        await collector.leave("new")
        seen.append((await watch.read()).status)
        await collector.join("new")
        seen.append((await watch.read()).status)
        await collector.drain()
        seen.append((await watch.read()).status)
        assert [health_pb2.HealthCheckResponse.ServingStatus.Name(each) for each in seen] == [
            "SERVICE_UNKNOWN",
            "SERVING",
            "SERVICE_UNKNOWN",
            "SERVING",
            "NOT_SERVING",
        ]
        watch.cancel()


def reflect(channel: aio.Channel, version: str) -> Any:
    return channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )()


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection(version: str) -> None:
    async with serving() as (_, _, channel):
        call = reflect(channel, version)

        async def ask(**asked: str) -> Any:
            await call.write(reflection_pb2.ServerReflectionRequest(**asked))
            return await call.read()

        listed = await ask(list_services="")
        assert {each.name for each in listed.list_services_response.service} == {
            SERVICE,
            "collector.CollectiveDispatcher",
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        for symbol, count in (
            (SERVICE, 1),
            (f"{SERVICE}.Create", 1),
            ("kit.shop.Order", 1),
            ("collector.CollectiveDispatcher", 5),
            ("collector.ServeRequest", 5),
            ("grpc.health.v1.Health", 1),
        ):
            files = (await ask(file_containing_symbol=symbol)).file_descriptor_response.file_descriptor_proto
            assert len(files) == count, symbol
        assert (
            len((await ask(file_by_filename="link.proto")).file_descriptor_response.file_descriptor_proto)
            == 1
        )
        for asked in ({"file_containing_symbol": "no.Such"}, {"file_by_filename": "no.proto"}):
            assert (await ask(**asked)).error_response.error_code == 5
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK


async def test_reflection_can_be_left_out() -> None:
    async with serving(reflection=False) as (_, _, channel):
        call = reflect(channel, "v1")
        assert await call.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_many_unknown_calls_leave_nothing() -> None:
    async with serving() as (collector, _, channel):
        tasks = len(asyncio.all_tasks())
        for _ in range(300):
            await failing(channel.unary_unary("/Echo/Nothing")(b"", metadata=PLAIN))
        assert collector._local.in_flight == 0
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) <= tasks + 2

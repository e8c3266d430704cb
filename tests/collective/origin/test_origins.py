"""Methods that an origin serves: values, names, types and fields, here and over a hop."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from grpc import StatusCode, aio
from tests.collective.fleet import until
from tests.collective.kit import SERVICE as KIT_SERVICE, descriptor, order, order_class
from tests.collective.origin import origin_frameworks as frameworks
from tests.collective.origin.origin_app import Shop
from tests.collective.origin.origin_kit import NS, ORIGIN, SERVICE, origin, reached

import dodici
from dodici.collective import CollectiveInterceptor, Collector, OriginMethod
from dodici.collective.values import to_any
from dodici.core.errors import InvalidArgumentError
from dodici.core.grpc_status import GrpcStatus
from dodici.testing import ScriptedPeer

WHERE = ("near", "far")


# -- values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", WHERE)
async def test_values_go_there_and_back(where: str) -> None:
    async with origin() as made:
        by = made.by(where)
        for value in (None, True, 5, -1.5, "ü", b"\x00\xff", {"a": [1, {"b": None}]}, [], order("a", 2)):
            result = await by.dispatch(NS, SERVICE, "Echo", value)
            due = {"sku": "a", "count": "2"} if value == order("a", 2) else value
            assert (result.status, result.output) == (200, due), value
            assert result.handled_by_collector_id == "near"


async def test_a_method_is_a_path_and_its_deadline_and_trace_are_fields() -> None:
    async with origin(path="/{method}/{namespace}.{service}") as made:
        for by in (made.near, made.far):
            metadata = [("x-a", "1"), ("x-a", "2"), ("x-b-bin", b"\x00\xff"), ("baggage", "k=v"), ("accept", "no"),
                        ("x-forwarded-for", "10.0.0.1"), ("tracestate", "s=1"),
                        ("traceparent", f"00-{'a' * 32}-{'b' * 16}-01")]  # fmt: skip
            result = await by.dispatch(NS, SERVICE, "Tell", {"x": 1}, timeout=5, metadata=metadata)
            told = result.output
            assert (told["verb"], told["path"], told["body"]) == ("POST", "/Tell/shop.Orders", '{"x":1}')
            fields = told["headers"]
            assert fields["content-type"] == "application/json"
            assert fields["accept"].startswith("application/json")
            assert (fields["x-a"], fields["x-b-bin"], fields["baggage"]) == ("2", "AP8", "k=v")
            assert "x-forwarded-for" not in fields
            assert fields["traceparent"].split("-")[1] == "a" * 32
            assert fields["tracestate"] == "s=1"
            assert 4000 < int(fields["grpc-timeout"].removesuffix("m")) <= 5000
            assert [
                name for name, _ in made.shop.seen[-1].headers.items() if name.startswith("x-dodici")
            ] == []


@pytest.mark.parametrize("where", WHERE)
async def test_fields_of_the_answer_are_initial_metadata(where: str) -> None:
    async with origin() as made:
        result = await made.by(where).dispatch(NS, SERVICE, "Tell")
        assert result.initial_metadata.multi_items() == [
            ("x-one", "1"), ("x-raw-bin", b"\x00\xff"), ("set-cookie", "a=b"),
        ]  # fmt: skip
        many = {f"x-{number}": "v" * 100 for number in range(100)}
        result = await made.by(where).dispatch(NS, SERVICE, "Answer", {"headers": many})
        assert result.status == 200
        assert len(result.initial_metadata) in {29, 30}


@pytest.mark.parametrize("where", WHERE)
async def test_a_failure_is_what_the_origin_says(where: str) -> None:
    async with origin() as made:
        told = {"status": 409, "kind": "application/problem+json", "headers": {"x-why": "sold"},
                "body": json.dumps({"detail": "sold out", "sku": "a-1"})}  # fmt: skip
        result = await made.by(where).dispatch(NS, SERVICE, "Answer", told)
        assert (result.status, result.status.message) == (409, "sold out")
        assert result.status.details == {
            "http-status": "409", "sku": "a-1", "grpc-status": "ALREADY_EXISTS",
        }  # fmt: skip
        assert result.metadata["x-why"] == "sold"
        busy = await made.by(where).dispatch(
            NS, SERVICE, "Answer", {"status": 503, "headers": {"retry-after": "7"}}
        )
        assert (busy.status, busy.metadata["grpc-retry-pushback-ms"]) == (503, "7000")
        moved = await made.by(where).dispatch(
            NS, SERVICE, "Answer", {"status": 302, "headers": {"location": "http://e.w/"}}
        )
        assert (moved.status.grpc_status, moved.status.details["location"]) == (
            GrpcStatus.FAILED_PRECONDITION, "http://e.w/",
        )  # fmt: skip


async def test_a_failure_however_large_is_one_that_a_client_of_grpc_takes() -> None:
    told = {
        "status": 409,
        "kind": "application/json",
        "body": json.dumps({"detail": "ü" * 5000, **{f"n{number}": "ü" * 200 for number in range(20)}}),
        "headers": {f"x-{number}": "v" * 100 for number in range(60)},
    }
    async with origin() as made, aio.insecure_channel(made.far.address) as channel:
        given = to_any(told).SerializeToString()
        metadata = (("x-dodici-namespace", NS), ("x-dodici-payload", "any"))
        with pytest.raises(aio.AioRpcError) as caught:
            await channel.unary_unary(f"/{SERVICE}/Answer")(given, metadata=metadata)
        assert (caught.value.code(), caught.value.details()) == (StatusCode.ALREADY_EXISTS, "ü" * 256)


@pytest.mark.parametrize("where", WHERE)
async def test_an_answer_that_is_broken_says_so(where: str) -> None:
    async with origin() as made:
        for told, says in (
            ({"kind": "application/json", "body": "{broken"}, "answered with what is no JSON"),
            ({"kind": "application/json", "body": "[9007199254740993]"}, "not exact as a double"),
            ({"kind": "text/event-stream", "body": "data: 1"}, "application/x-ndjson"),
            ({"kind": "application/x-ndjson", "body": "1\n2\n"}, "with a stream of 2: call shop/Orders.Answer as a stream"),
        ):  # fmt: skip
            result = await made.by(where).dispatch(NS, SERVICE, "Answer", told)
            assert result.status.grpc_status is GrpcStatus.INTERNAL
            assert says in result.status.message
        one = await made.by(where).dispatch(
            NS, SERVICE, "Answer", {"kind": "application/x-ndjson", "body": "1\n"}
        )
        assert one.output == 1


@pytest.mark.parametrize("where", WHERE)
async def test_an_answer_beyond_the_limit_is_refused(where: str) -> None:
    from dodici.collective import Limits

    async with origin(near={"limits": Limits(message=100_000)}) as made:
        for known in ({}, {"x-known": "1"}):
            result = await made.by(where).dispatch(NS, SERVICE, "Large", 100_001, metadata=known)
            assert result.status.grpc_status is GrpcStatus.RESOURCE_EXHAUSTED
            assert result.status.message == f"{ORIGIN} answered with more than 100000 bytes (limits.message)"
        fits = await made.by(where).dispatch(NS, SERVICE, "Large", 60_000, metadata={"x-known": "1"})
        assert len(fits.output) == 59_998


# -- names ---------------------------------------------------------------------------------------------------


async def test_what_is_registered_by_itself_comes_before_the_wildcard() -> None:
    async with origin() as made:
        made.near.register_service(NS, SERVICE, "Own", lambda context, given: "own")
        assert (await made.near.dispatch(NS, SERVICE, "Own")).output == "own"
        await until(lambda: any(key.method == "Own" for key in made.far.stats().routes))
        assert (await made.far.dispatch(NS, SERVICE, "Own")).output == "own"
        made.near.unregister_service(NS, SERVICE, "Own")
        assert (await made.near.dispatch(NS, SERVICE, "Own")).status == 404
        assert (await made.near.dispatch(NS, SERVICE, "Echo", 1)).output == 1


async def test_a_peer_that_has_the_method_itself_comes_before_one_with_the_wildcard() -> None:
    async with origin() as made, Collector("third", "127.0.0.1:0", namespaces=[NS]) as third:
        third.register_service(NS, SERVICE, "Echo", lambda context, given: "third")
        await third.connect_to(made.far.address)
        await until(lambda: any(key.method == "Echo" for key in made.far.stats().routes))
        for _ in range(5):
            assert (await made.far.dispatch(NS, SERVICE, "Echo", 1)).output == "third"
        assert (await made.far.dispatch(NS, SERVICE, "Tell")).handled_by_collector_id == "near"
        await third.drain()
        assert (await made.far.dispatch(NS, SERVICE, "Echo", 1)).output == 1


@pytest.mark.parametrize("where", WHERE)
async def test_a_wildcard_has_neither_the_star_nor_what_is_the_collectives_own(where: str) -> None:
    async with origin() as made:
        by = made.by(where)
        with pytest.raises(InvalidArgumentError, match="is no method"):
            await by.dispatch(NS, SERVICE, "*")
        for name in ("~http", "~", "~Echo"):
            assert (await by.dispatch(NS, SERVICE, name)).status == 404
        for name in (".", ".."):
            refused = await by.dispatch(NS, SERVICE, name)
            assert (refused.status, refused.status.message) == (
                400,
                f"shop/Orders.{name} has no path at its origin",
            )
        with pytest.raises(InvalidArgumentError, match="has a meaning of its own"):
            by.register_service(NS, SERVICE, "*", lambda context, given: None)
        assert made.shop.seen == []


async def test_a_star_from_the_wire_is_no_method() -> None:
    from dodici.collective.protos import collector_pb2 as pb

    async with origin() as made, aio.insecure_channel(made.near.address) as channel:
        stub = channel.unary_unary(f"/{SERVICE}/*")
        with pytest.raises(aio.AioRpcError) as caught:
            await stub(b"", metadata=(("x-dodici-namespace", NS),))
        assert caught.value.details() == "'*' is no method"
        serve = channel.unary_unary(
            "/collector.CollectiveDispatcher/Serve",
            pb.ServeRequest.SerializeToString,
            pb.ServeResponse.FromString,
        )
        request = pb.ServeRequest(namespace=NS, method_name="*")
        request.service.service_name = SERVICE
        assert (await serve(request)).status.code == 400


async def test_a_wildcard_is_reached_over_collectors_between() -> None:
    async with origin() as made, Collector("last", "127.0.0.1:0", namespaces=[NS]) as last:
        await last.connect_to(made.far.address)
        await until(lambda: last.stats().routes)
        assert (await last.dispatch(NS, SERVICE, "Echo", 5)).handled_by_collector_id == "near"
        assert [each async for each in last.dispatch_stream(NS, SERVICE, "Count", 3)] == [0, 1, 2]
        chat = last.dispatch_stream(NS, SERVICE, "Chat", [1, 2], kind="stream_stream")
        assert [each async for each in chat] == [{"said": 1}, {"said": 2}]
        async with aio.insecure_channel(last.address) as channel:
            metadata = (("x-dodici-namespace", NS),)
            both = channel.stream_stream(f"/{SERVICE}/Echo")(iter([b"1", b"22"]), metadata=metadata)
            assert [each async for each in both] == [b"1", b"22"]


async def test_names_without_end_are_counted_as_one() -> None:
    async with origin() as made:
        for number in range(50):
            await made.far.dispatch(NS, SERVICE, f"Made.{number}")
        assert {key.method for _, key in made.near._figures.tallies} == {"*"}
        assert {key.method for _, key in made.far._figures.tallies} == {"*"}
        route = next(route for key, route in made.far.stats().routes.items() if key.method == "*")
        assert (route.calls, route.failures) == (50, 50)


async def test_an_origin_comes_and_goes_while_the_collector_runs() -> None:
    async with reached(Shop()) as (agent, _):
        async with (
            Collector("one", "127.0.0.1:0") as one,
            Collector("two", "127.0.0.1:0", namespaces=[NS]) as two,
        ):
            one.register_origin(NS, SERVICE, ORIGIN, dispatcher=agent, http=False)
            await two.connect_to(one.address)
            await until(lambda: two.stats().routes)
            assert (await two.dispatch(NS, SERVICE, "Echo", 1)).output == 1
            with pytest.raises(InvalidArgumentError, match=r"shop/Orders\.\* is registered already"):
                one.register_origin(NS, SERVICE, ORIGIN, dispatcher=agent)
            one.unregister_service(NS, SERVICE)
            assert (await one.dispatch(NS, SERVICE, "Echo", 1)).status == 404
            await until(lambda: not two.stats().routes)
            assert (await two.dispatch(NS, SERVICE, "Echo", 1)).status == 404
            with pytest.raises(InvalidArgumentError, match="shop/Orders is not registered"):
                one.unregister_service(NS, SERVICE)
            with pytest.raises(InvalidArgumentError, match=r"shop/Orders\.Echo is not registered"):
                one.unregister_service(NS, SERVICE, "Echo")
            one.register_origin(NS, SERVICE, ORIGIN, dispatcher=agent, http=False)
            assert (await one.dispatch(NS, SERVICE, "Echo", 2)).output == 2
        # And again after a restart.
        async with one:
            assert (await one.dispatch(NS, SERVICE, "Echo", 3)).output == 3


async def test_what_is_wrong_registers_nothing() -> None:
    one = Collector("one", "127.0.0.1:0")
    for arguments, says in (
        (("", SERVICE, ORIGIN), "namespace is empty"),
        ((NS, "a/b", ORIGIN), "service may have"),
        ((NS, SERVICE, "orders.local"), "must begin with http"),
    ):
        with pytest.raises(InvalidArgumentError, match=says):
            one.register_origin(*arguments)
    with pytest.raises(InvalidArgumentError, match="http must be True or False"):
        one.register_origin(NS, SERVICE, ORIGIN, http=1)  # type: ignore[arg-type]
    assert (one.namespaces, dict(one.stats().routes)) == ((), {})


async def test_without_a_dispatcher_it_is_the_global_one_of_the_moment() -> None:
    one = Collector("one", "127.0.0.1:0")
    one.register_origin(NS, SERVICE, ORIGIN)
    async with reached(Shop()) as (agent, _), one:
        missing = await one.dispatch(NS, SERVICE, "Echo", 1, timeout=5)
        assert missing.status == 503
        dodici.set_global_dispatcher(agent)
        try:
            assert (await one.dispatch(NS, SERVICE, "Echo", 1)).output == 1
        finally:
            dodici.set_global_dispatcher(None)
    await dodici.get_global_dispatcher().close()


# -- precise methods -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", WHERE)
async def test_a_wsgi_app_as_it_was_written(where: str) -> None:
    methods = {
        "Look": OriginMethod(verb="GET", path="/inventory/{item}"),
        "Take": {"path": "/inventory/{item}/take"},
        "Lines": {"kind": "unary_stream"},
    }
    async with origin(frameworks.flask_app(), kind="thread", methods=methods) as made:
        by = made.by(where)
        looked = (await by.dispatch(NS, SERVICE, "Look", {"item": "red hat", "page": 2})).output
        timeout = looked.pop("timeout")
        assert looked == {"item": "red hat", "left": 3, "asked": {"page": "2"}}
        assert timeout.endswith("m")
        assert (await by.dispatch(NS, SERVICE, "Take", {"item": "hat", "amount": 2})).output == {"left": 1}
        sold = await by.dispatch(NS, SERVICE, "Take", {"item": "hat", "amount": 5})
        assert (sold.status, sold.status.message) == (409, "only 3 of hat are left")
        assert [line async for line in by.dispatch_stream(NS, SERVICE, "Lines", 3)] == [0, 1, 2]
        lacking = await by.dispatch(NS, SERVICE, "Take", {"amount": 2})
        assert (lacking.status, lacking.status.message) == (
            400,
            "the input lacks 'item', which is in the path",
        )
        assert (await by.dispatch(NS, SERVICE, "Other", {})).status == 404


@pytest.mark.parametrize("where", WHERE)
async def test_a_descriptor_makes_messages_of_json(where: str) -> None:
    async with origin(frameworks.fastapi_app(), methods=descriptor(), service="OrderService") as made:
        by = made.by(where)
        result = await by.dispatch(NS, "OrderService", "Create", order("a", 1))
        assert (result.output.sku, result.output.count) == ("A", 2)
        short = await by.dispatch(NS, KIT_SERVICE, "Create", {"sku": "b", "count": 1})
        assert short.output == order("B", 2)
        wrong = await by.dispatch(NS, "OrderService", "Create", {"skew": 1})
        assert wrong.status == 400
        many = await by.dispatch(NS, "OrderService", "Create", order("a", -1))
        assert (many.status, many.status.message) == (429, "too many")
        assert many.metadata["grpc-retry-pushback-ms"] == "2000"
        async with aio.insecure_channel(by.address) as channel:
            write, read = order_class().SerializeToString, order_class().FromString
            stub = channel.unary_unary(f"/{KIT_SERVICE}/Create", write, read)
            assert await stub(order("c", 3), metadata=(("x-dodici-namespace", NS),)) == order("C", 4)


@pytest.mark.parametrize("where", WHERE)
async def test_messages_go_as_protobuf_where_that_is_said(where: str) -> None:
    class Typed(Shop):
        async def do_Create(self, request: Any, answer: Any) -> None:  # noqa: N802
            given = order_class().FromString(await request.body())
            await answer.whole(
                order(given.sku.upper(), given.count + 1).SerializeToString(), "application/x-protobuf"
            )

    async with origin(Typed(), methods=descriptor(), service="OrderService", codec="protobuf") as made:
        for value in (order("a", 1), {"sku": "a", "count": 1}):
            result = await made.by(where).dispatch(NS, "OrderService", "Create", value)
            assert result.output == order("A", 2)
        assert made.shop.seen[-1].headers["content-type"] == "application/x-protobuf"
        assert made.shop.seen[-1].headers["accept"].startswith("application/x-protobuf")


async def test_a_stub_without_types_sends_what_it_has() -> None:
    async with origin() as made, aio.insecure_channel(made.far.address) as channel:
        echo = channel.unary_unary(f"/{SERVICE}/Echo")
        metadata = (("x-dodici-namespace", NS), ("x-a", "1"))
        call = echo(b"\x08\x01", metadata=metadata)
        assert await call == b"\x08\x01"
        assert made.shop.seen[-1].headers["content-type"] == "application/x-protobuf"
        packed = await echo(
            to_any({"a": 1}).SerializeToString(), metadata=(*metadata, ("x-dodici-payload", "any"))
        )
        assert packed == to_any({"a": 1}).SerializeToString()
        with pytest.raises(aio.AioRpcError) as caught:
            await channel.unary_unary(f"/{SERVICE}/Tell")(b"", metadata=metadata)
        assert "where the method's type is not known" in str(caught.value.details())


# -- other faces ---------------------------------------------------------------------------------------------


async def test_validators_are_asked_for_the_method_itself() -> None:
    asked = []

    def validate(*names: str) -> bool:
        asked.append(names)
        return names[-1] != "Tell"

    async with origin(near={"validator": validate}) as made:
        assert (await made.far.dispatch(NS, SERVICE, "Echo", 1)).output == 1
        assert (await made.far.dispatch(NS, SERVICE, "Tell")).status == 404
        assert asked == [(NS, SERVICE, "Echo"), (NS, SERVICE, "Tell")]


async def test_a_server_on_the_network_is_an_origin_too() -> None:
    async def script(connection: Any) -> None:
        request = await connection.read_request()
        assert (request.method, request.target) == ("POST", "/Say")
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"
        await connection.send(head + b'content-length: 7\r\n\r\n"hello"')
        connection.close()

    async with ScriptedPeer(script) as peer, dodici.Agent() as agent, Collector("one", "127.0.0.1:0") as one:
        one.register_origin(NS, SERVICE, peer.origin, dispatcher=agent)
        assert (await one.dispatch(NS, SERVICE, "Say", {"to": "you"})).output == "hello"
        peer.stop_listening()
        await peer.all_closed()
        gone = await one.dispatch(NS, SERVICE, "Say", {"to": "you"})
        assert gone.status == 503


async def test_a_thousand_calls_at_once() -> None:
    async with origin() as made:
        results = await asyncio.gather(
            *(made.far.dispatch(NS, SERVICE, "Echo", number) for number in range(1000))
        )
        assert [result.output for result in results] == list(range(1000))


@pytest.mark.parametrize("where", WHERE)
async def test_a_broken_message_of_the_origin_is_no_mistake_of_the_callers(where: str) -> None:
    told = {"kind": 'application/x-protobuf; messageType="google.protobuf.StringValue"', "body": "\xff"}
    async with origin() as made:
        result = await made.by(where).dispatch(NS, SERVICE, "Answer", told)
        assert result.status.grpc_status is GrpcStatus.INTERNAL
        assert "cannot be read: not a google.protobuf.StringValue" in result.status.message


@pytest.mark.parametrize("where", WHERE)
async def test_the_pushback_of_an_origin_is_told_once(where: str) -> None:
    async with origin() as made:
        agent = dodici.Agent().compose(CollectiveInterceptor(made.by(where)))
        try:
            response = await agent.request(
                f"http://{SERVICE}.{NS}.collective/Answer",
                method="POST",
                json={"status": 429, "headers": {"retry-after": "7"}},
            )
            assert response.status_code == 429
            assert response.headers.get_list("retry-after") == ["7"]
            await response.dump()
        finally:
            await agent.close()

"""The public API of a collector that is alone."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.collective.kit import SERVICE, OrderServicer, descriptor, echo, make, order

import dodici.collective
from dodici.collective import (
    CallContext,
    CallKind,
    CollectiveError,
    Collector,
    DeadlineExceededError,
    Limits,
    LocalRegistry,
    OriginMethod,
    Retry,
)
from dodici.core.errors import InvalidArgumentError, MeshTimeoutError, SocketError
from dodici.core.grpc_status import GrpcStatus

# -- making one ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"id": ""}, "id must be"),
        ({"id": "a,b"}, "id must be"),
        ({"id": 5}, "id must be"),
        ({"address": "nowhere"}, "not an address"),
        ({"address": "127.0.0.1:99999"}, "not an address"),
        ({"address": "::1:50051"}, "not an address"),
        ({"address": "unix:"}, "no path"),
        ({"address": 50051}, "must be a str"),
        ({"address": "0.0.0.0:0"}, "insecure=True"),
        ({"address": "10.1.2.3:0"}, "insecure=True"),
        ({"address": "collector.example:0"}, "insecure=True"),
        ({"namespaces": "users"}, "list of str"),
        ({"namespaces": [""]}, "namespace is empty"),
        ({"namespaces": ["a/b"]}, "namespace may"),
        ({"balance": "best"}, "balance must be"),
        ({"default_timeout": 0}, "default_timeout"),
        ({"default_timeout": "5"}, "default_timeout"),
        ({"max_hops": 0}, "max_hops"),
        ({"validator": 5}, "validate_service_method"),
        ({"policy": object()}, "policy"),
        ({"retry": 5}, "retry must be a Retry"),
        ({"limits": Retry()}, "limits must be a Limits"),
        ({"tls": object()}, "tls must be"),
    ],
    ids=lambda value: (
        "-".join(f"{key}={text}" for key, text in value.items())
        if isinstance(value, dict) and "object" not in str(value)
        else None
    ),
)
def test_wrong_arguments(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        Collector(**({"id": "a", "address": "127.0.0.1:0"} | arguments))


@pytest.mark.parametrize("address", ["127.0.0.1:0", "127.9.9.9:1", "localhost:0", "[::1]:0", "unix:/tmp/x"])
def test_plaintext_on_loopback_needs_no_word(address: str) -> None:
    assert Collector("a", address).address == address


def test_insecure_has_to_be_spelt_out() -> None:
    assert Collector("a", "0.0.0.0:0", insecure=True).address == "0.0.0.0:0"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("", "S", "m", echo), "namespace is empty"),
        (("n", "", "m", echo), "service is empty"),
        (("n", "S", "", echo), "method is empty"),
        (("n", "S", "m", 5), "callable"),
        (("n", "S", "m", echo, "twice"), "kind must be one of unary_unary, unary_stream"),
    ],
    ids=["namespace", "service", "method", "handler", "kind"],
)
def test_wrong_registrations(arguments: tuple[Any, ...], said: str) -> None:
    collector = Collector("a", "127.0.0.1:0")
    *names, kind = (*arguments, "unary_unary")[:5]
    with pytest.raises(InvalidArgumentError, match=said):
        collector.register_service(*names, kind=kind)


def test_a_generator_needs_a_kind_that_streams() -> None:
    async def generator(context: CallContext, given: Any) -> AsyncIterator[int]:
        yield 1

    with pytest.raises(InvalidArgumentError, match="give kind='unary_stream'"):
        Collector("a", "127.0.0.1:0").register_service("n", "S", "m", generator)


def test_public_names_are_there() -> None:
    for name in dodici.collective.__all__:
        assert getattr(dodici.collective, name).__doc__
    with pytest.raises(AttributeError):
        _ = dodici.collective.Nothing  # type: ignore[attr-defined]


# -- life ----------------------------------------------------------------------------------------------------


async def test_port_0_becomes_the_real_port() -> None:
    collector, _ = make()
    async with collector:
        host, _, port = collector.address.rpartition(":")
        assert host == "127.0.0.1"
        assert int(port) > 0
        assert collector.started
    assert collector.address == "127.0.0.1:0"


async def test_a_port_that_is_taken_is_a_socket_error() -> None:
    first, _ = make()
    async with first:
        with pytest.raises(SocketError, match=first.address):
            await Collector("b", first.address).start()


async def test_a_unix_socket(tmp_path: Path) -> None:
    collector, _ = make(f"unix:{tmp_path}/c.sock")
    async with collector:
        assert collector.address == f"unix:{tmp_path}/c.sock"
        assert (tmp_path / "c.sock").is_socket()


async def test_it_starts_once_stops_at_any_time_and_starts_again() -> None:
    collector, _ = make()
    await collector.stop()
    await collector.start()
    with pytest.raises(CollectiveError, match="started already"):
        await collector.start()
    await asyncio.gather(collector.stop(), collector.stop())
    async with collector:
        assert (await collector.dispatch("plain", "Echo", "Say", 1)).output == 1


async def test_before_the_start_and_after_the_stop_a_dispatch_raises() -> None:
    collector, _ = make()
    with pytest.raises(CollectiveError, match="not started"):
        await collector.dispatch("plain", "Echo", "Say")
    async with collector:
        pass
    with pytest.raises(CollectiveError, match="not started"):
        await collector.serve("plain", "Echo", "Say")
    with pytest.raises(CollectiveError, match="not started"):
        await collector.drain()


async def test_drain_waits_for_what_runs() -> None:
    collector, servicer = make()
    gate = asyncio.Event()

    @collector.method("plain", "Gate", "Wait")
    async def wait(context: CallContext, given: Any) -> str:
        servicer.note("in").set()
        await gate.wait()
        return "served"

    async with collector:
        running = asyncio.create_task(collector.dispatch("plain", "Gate", "Wait"))
        await servicer.note("in").wait()
        draining = asyncio.create_task(collector.drain(grace=5.0))
        late = await collector.dispatch("plain", "Echo", "Say", "late")
        assert late.output == "late"
        assert not draining.done()
        gate.set()
        await draining
        assert running.done()
        assert (await running).output == "served"


async def test_drain_waits_for_what_runs_although_a_peer_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    collector, servicer = make()
    gate = asyncio.Event()

    @collector.method("plain", "Gate", "Wait")
    async def wait(context: CallContext, given: Any) -> str:
        servicer.note("in").set()
        await gate.wait()
        return "served"

    async def silent(**_: Any) -> None:
        servicer.note("told").set()
        raise MeshTimeoutError("not acknowledged by b")

    async with collector:
        running = asyncio.create_task(collector.dispatch("plain", "Gate", "Wait"))
        await servicer.note("in").wait()
        with monkeypatch.context() as patch:
            patch.setattr(collector._announcer, "announce", silent)
            draining = asyncio.create_task(collector.drain(grace=5.0))
            await servicer.note("told").wait()
            late = await collector.dispatch("plain", "Echo", "Say", "late")
            assert late.output == "late"
            assert not draining.done()
            gate.set()
            with pytest.raises(MeshTimeoutError, match="by b"):
                await draining
        assert (await running).output == "served"


async def test_drain_ends_with_its_grace(caplog: pytest.LogCaptureFixture) -> None:
    collector, servicer = make()
    async with collector:
        running = asyncio.create_task(collector.dispatch("shop", SERVICE, "Hold", order("x")))
        await servicer.note("x started").wait()
        await collector.drain(grace=0.01)
        assert "1 calls still run" in caplog.text
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


# -- calls ---------------------------------------------------------------------------------------------------


async def test_dispatch_and_serve() -> None:
    collector, _ = make()
    async with collector:
        for call in (collector.dispatch, collector.serve):
            result = await call("plain", "Echo", "Say", {"a": [1, None]}, metadata={"k": "v"})
            assert (result.status, result.output) == (200, {"a": [1, None]})
            assert result.handled_by_collector_id == "kit-1"
            assert result.metadata["x-trailing"] == "t"
            assert result.metadata["x-trailing-bin"] == b"\x01"
            assert result.raise_for_status() is result


async def test_a_typed_method_takes_messages_and_dicts() -> None:
    collector, _ = make()
    async with collector:
        for given in (order("a", 1), {"sku": "a", "count": 1}):
            for service in (SERVICE, "OrderService"):
                result = await collector.dispatch("shop", service, "Create", given)
                assert result.output == order("A", 2)
        assert (await collector.dispatch("shop", SERVICE, "Create", "text")).status == 400


async def test_a_target_of_its_own_id_is_itself() -> None:
    collector, _ = make()
    async with collector:
        assert (await collector.dispatch("plain", "Echo", "Say", 1, target="kit-1")).output == 1
        elsewhere = await collector.dispatch("plain", "Echo", "Say", 1, target="kit-2")
        assert elsewhere.status == 404
        assert "kit-2" in elsewhere.status.message
        assert elsewhere.handled_by_collector_id == ""


async def test_failures_are_told_in_the_status() -> None:
    collector, _ = make()
    async with collector:
        told = {}
        for namespace, service, method, given in (
            ("nowhere", "Echo", "Say", None),
            ("plain", "Nothing", "Say", None),
            ("plain", "Echo", "Nothing", None),
            ("", "Echo", "Say", None),
            ("plain", "Echo", "Say", "abort"),
            ("plain", "Echo", "Say", "collective"),
            ("plain", "Echo", "Say", "bug"),
            ("plain", "Echo", "Count", 1),
        ):
            for call in (collector.dispatch, collector.serve):
                result = await call(namespace, service, method, given)
                told[result.status.message] = (int(result.status), result.status.details["grpc-status"])
                assert result.output is None
                with pytest.raises(CollectiveError):
                    result.raise_for_status()
        assert told == {
            "no such namespace: 'nowhere'": (404, "NOT_FOUND"),
            "no such service in namespace 'plain': 'Nothing'": (404, "NOT_FOUND"),
            "no such method of 'Echo' in namespace 'plain': 'Nothing'": (404, "UNIMPLEMENTED"),
            "namespace is empty": (400, "INVALID_ARGUMENT"),
            "taken": (409, "ALREADY_EXISTS"),
            "CollectiveError: told to all": (500, "INTERNAL"),
            "plain/Echo.Say failed": (500, "INTERNAL"),
            "plain/Echo.Count is unary_stream: it cannot be called as unary_unary": (400, "INVALID_ARGUMENT"),
        }
        assert (await collector.dispatch("plain", "Echo", "Say", "abort")).status.details["by"] == "somebody"


@pytest.mark.parametrize(
    "arguments",
    [
        {"namespace": 5},
        {"method": None},
        {"target": 5},
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": "1"},
        {"timeout": float("nan")},
        {"metadata": {"x-dodici-path": "a"}},
        {"metadata": 5},
        {"input": object},
        {"method": "Say/more"},
    ],
    ids=[
        "namespace",
        "method",
        "target",
        "zero",
        "negative",
        "text",
        "nan",
        "hop",
        "metadata",
        "input",
        "slash",
    ],
)
async def test_wrong_arguments_of_a_dispatch_raise(arguments: dict[str, Any]) -> None:
    collector, _ = make()
    names: dict[str, Any] = {"namespace": "plain", "service": "Echo", "method": "Say"} | arguments
    async with collector:
        with pytest.raises(InvalidArgumentError):
            await collector.dispatch(**names)


@pytest.mark.weak_spot(19)
async def test_registered_after_the_start() -> None:
    collector = Collector("a", "127.0.0.1:0", namespaces=["n"])
    async with collector:

        @collector.method("n", "Late", "Do", idempotent=True)
        def do(context: CallContext, given: Any) -> str:
            return f"{context.namespace}/{context.service}.{context.method}"

        assert (await collector.dispatch("n", "Late", "Do")).output == "n/Late.Do"
        collector.add_service("m", OrderServicer(), descriptor())
        assert (await collector.dispatch("m", "OrderService", "Create", order("a"))).output == order("A", 1)
        assert collector.namespaces == ("n", "m")


async def test_join_and_leave() -> None:
    collector, _ = make()
    async with collector:
        await collector.leave("plain")
        await collector.leave("plain")
        assert collector.namespaces == ("shop",)
        assert (await collector.dispatch("plain", "Echo", "Say", 1)).status == 404
        await collector.join("plain")
        assert (await collector.dispatch("plain", "Echo", "Say", 1)).output == 1
        with pytest.raises(InvalidArgumentError):
            await collector.join("")


# -- streams -------------------------------------------------------------------------------------------------


async def test_streams_of_all_kinds() -> None:
    collector, _ = make()

    async def orders() -> AsyncIterator[Any]:
        yield order("a", 1)
        yield {"sku": "b", "count": 2}

    async with collector:
        listed = collector.dispatch_stream("shop", SERVICE, "List", order("x", 3))
        assert [one.count async for one in listed] == [0, 1, 2]
        assert (await listed.result()).status == 200
        assert (await collector.dispatch_stream("shop", SERVICE, "Sum", orders())).output == order("sum", 3)
        assert (await collector.dispatch_stream("shop", SERVICE, "Sum", [order("a", 4)])).output.count == 4
        chat = collector.serve_stream("shop", SERVICE, "Chat", orders())
        assert [one.count async for one in chat] == [-1, -2]
        assert [one async for one in collector.dispatch_stream("plain", "Echo", "Count", 2)] == [0, 1]
        assert (await collector.dispatch_stream("plain", "Echo", "Say", "also unary")).output == "also unary"


async def test_a_failing_stream_raises_where_it_is_read_and_tells_in_its_result() -> None:
    collector, _ = make()

    @collector.method("plain", "Echo", "Break", kind="unary_stream")
    async def breaking(context: CallContext, given: Any) -> AsyncIterator[int]:
        yield 1
        context.abort(429, "enough")

    async with collector:
        got = []
        stream = collector.dispatch_stream("plain", "Echo", "Break")
        with pytest.raises(CollectiveError, match="enough"):
            async for one in stream:
                got.append(one)
        assert got == [1]
        for result in (await stream.result(), await collector.dispatch_stream("plain", "Echo", "Break")):
            assert (result.status, result.output, result.status.message) == (429, None, "enough")
        unknown = await collector.dispatch_stream("plain", "Echo", "Nothing")
        assert unknown.status == 404


async def test_closing_a_stream_cancels_the_handler_and_closes_the_input() -> None:
    collector, _ = make()
    seen: list[str] = []

    async def endless() -> AsyncIterator[Any]:
        try:
            while True:
                yield order("a", 1)
        finally:
            seen.append("input closed")

    @collector.method("plain", "Echo", "Follow", kind="stream_stream")
    async def follow(context: CallContext, given: AsyncIterator[Any]) -> AsyncIterator[Any]:
        try:
            async for one in given:
                yield one
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async with collector:
        async with collector.dispatch_stream("plain", "Echo", "Follow", endless()) as stream:
            assert await anext(stream) == order("a", 1)
        assert seen == ["cancelled", "input closed"]
        assert (await stream.result()).status == 499


async def test_an_input_that_must_stream_and_does_not() -> None:
    collector, _ = make()
    async with collector:
        with pytest.raises(InvalidArgumentError, match="give an iterable"):
            collector.dispatch_stream("shop", SERVICE, "Sum", 5)
        broken = await collector.dispatch_stream("shop", SERVICE, "Sum", ["no order"])
        assert (broken.status, "is due" in broken.status.message) == (400, True)


# -- deadlines, traces, limits -------------------------------------------------------------------------------


async def test_a_timeout_and_the_default_one() -> None:
    collector, servicer = make(default_timeout=0.02)
    async with collector:
        late = await collector.dispatch("shop", SERVICE, "Hold", order("a"))
        assert late.status == 504
        with pytest.raises(DeadlineExceededError):
            late.raise_for_status()
        later = await collector.dispatch("shop", SERVICE, "Hold", order("b"), timeout=0.01)
        assert later.status.grpc_status is GrpcStatus.DEADLINE_EXCEEDED
    assert servicer.note("a cancelled").is_set()
    assert servicer.note("b cancelled").is_set()


async def test_without_any_timeout_there_is_no_deadline() -> None:
    collector = Collector("a", "127.0.0.1:0", default_timeout=None)
    collector.register_service("n", "S", "m", lambda context, given: context.time_remaining() is None)
    async with collector:
        assert (await collector.dispatch("n", "S", "m")).output is True


async def test_what_a_handler_dispatches_belongs_to_its_trace_and_ends_no_later() -> None:
    collector = Collector("a", "127.0.0.1:0")
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    @collector.method("n", "S", "Outer")
    async def outer(context: CallContext, given: Any) -> Any:
        inner = await collector.dispatch("n", "S", "Inner", timeout=60.0)
        return [context.trace.span_id, *inner.output]

    @collector.method("n", "S", "Inner")
    async def inner(context: CallContext, given: Any) -> Any:
        remaining = context.time_remaining()
        assert remaining is not None
        return [context.trace.trace_id, context.trace.parent_id, remaining <= 5, context.trace.tracestate]

    async with collector:
        result = await collector.dispatch(
            "n", "S", "Outer", timeout=5.0, metadata={"traceparent": parent, "tracestate": "a=1"}
        )
    span, *told = result.raise_for_status().output
    assert told == ["0af7651916cd43dd8448eb211c80319c", span, True, "a=1"]


async def test_over_the_limit_is_429() -> None:
    collector, servicer = make(limits=Limits(in_flight=1, queued=0))
    async with collector:
        running = asyncio.create_task(collector.dispatch("shop", SERVICE, "Hold", order("x"), timeout=5.0))
        await servicer.note("x started").wait()
        refused = await collector.dispatch("plain", "Echo", "Say", 1)
        assert refused.status == 429
        assert int(str(refused.metadata["grpc-retry-pushback-ms"])) > 0
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert (await collector.dispatch("plain", "Echo", "Say", 1)).status == 200


# -- validators ----------------------------------------------------------------------------------------------


class _Validator:
    """An object with the method."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str, str]] = []

    async def validate_service_method(self, namespace: str, service: str, method: str) -> Any:
        self.asked.append((namespace, service, method))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.weak_spot(16)
@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (None, 200),
        (True, 200),
        (False, 404),
        (0, 404),
        ("yes", 404),
        (ValueError("a secret"), 404),
        (CollectiveError("not registered"), 404),
        (CollectiveError("registry away", grpc_status=GrpcStatus.UNAVAILABLE), 503),
    ],
    ids=["None", "True", "False", "0", "yes", "ValueError", "CollectiveError", "UNAVAILABLE"],
)
async def test_a_validator_is_asked_and_fails_closed(answer: Any, status: int) -> None:
    validator = _Validator(answer)
    collector, _ = make(validator=validator)
    async with collector:
        for call in (collector.dispatch, collector.serve):
            result = await call("plain", "Echo", "Say", 1)
            assert result.status == status
            assert "a secret" not in result.status.message
        assert (await collector.dispatch_stream("plain", "Echo", "Count", 1)).status == status
    assert validator.asked == [("plain", "Echo", "Say")] * 2 + [("plain", "Echo", "Count")]


async def test_a_validator_may_be_a_plain_callable_and_be_exchanged_at_any_time() -> None:
    collector, _ = make()
    async with collector:
        assert (await collector.dispatch("plain", "Echo", "Say", 1)).status == 200
        collector.set_registry_validator(lambda namespace, service, method: method != "Say")
        assert (await collector.dispatch("plain", "Echo", "Say", 1)).status == 404
        collector.set_registry_validator(None)
        assert (await collector.dispatch("plain", "Echo", "Say", 1)).status == 200
        with pytest.raises(InvalidArgumentError):
            collector.set_registry_validator(5)


async def test_a_validator_that_does_not_answer_does_not_hold_a_call_for_ever() -> None:
    async def silent(namespace: str, service: str, method: str) -> bool:
        await asyncio.Event().wait()
        return True

    collector, _ = make(validator=silent)
    async with collector:
        started = time.monotonic()
        assert (await collector.dispatch("plain", "Echo", "Say", 1, timeout=0.02)).status == 504
        assert time.monotonic() - started < 5


def test_kinds_are_texts() -> None:
    assert [str(kind) for kind in CallKind] == [
        "unary_unary",
        "unary_stream",
        "stream_unary",
        "stream_stream",
    ]


@pytest.mark.parametrize("grace", [None, -1, "1", True], ids=repr)
async def test_a_grace_that_is_none_stops_nothing(grace: Any) -> None:
    collector, _ = make()
    async with collector:
        for end in (collector.stop, collector.drain):
            with pytest.raises(InvalidArgumentError, match="grace"):
                await end(grace)
        assert (await collector.dispatch("plain", "Echo", "Say", 1)).status == 200


@pytest.mark.parametrize("name", [[], {}, None, 5, "", "a/b"], ids=repr)
async def test_names_are_checked_wherever_they_are_given(name: Any) -> None:
    collector, _ = make()
    async with collector:
        with pytest.raises(InvalidArgumentError, match="namespace"):
            await collector.leave(name)
        with pytest.raises(InvalidArgumentError, match="namespace"):
            collector.unregister_service(name, "Echo")
        with pytest.raises(InvalidArgumentError, match="service"):
            collector.unregister_service("plain", name)
        with pytest.raises(InvalidArgumentError, match="method"):
            collector.register_origin("plain", "Origin", "http://origin.local", methods=[name])
    with pytest.raises(InvalidArgumentError, match="kind"):
        OriginMethod(kind=name)


async def test_a_connection_is_not_waited_for_without_end() -> None:
    collector, _ = make()
    async with collector:
        with pytest.raises(InvalidArgumentError, match="timeout"):
            await collector.connect_to("127.0.0.1:1", timeout=None)  # type: ignore[arg-type]


def test_a_registry_has_a_bound() -> None:
    for bound in ("max_services", "max_file"):
        for number in (None, "5", 0, 1.5, True):
            with pytest.raises(InvalidArgumentError, match=bound):
                LocalRegistry(**{bound: number})


async def test_a_unix_socket_is_not_taken_from_whoever_listens(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'collector.sock'}"
    first, _ = make(address=address)
    for _ in range(2):  # and what is left of it keeps nobody from starting
        async with first:
            second = Collector("second", address)
            with pytest.raises(SocketError, match="the address is in use"):
                await second.start()
            assert not second.started
            async with Collector("near", "127.0.0.1:0", namespaces=["plain"]) as near:
                await near.connect_to(address)
                assert (await near.dispatch("plain", "Echo", "Say", 1)).status == 200
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "collector.sock"))
    listener.close()
    async with first:
        assert first.started

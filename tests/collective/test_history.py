"""The history: what a record says of a call, in each role, and that only so many are kept."""

from __future__ import annotations

import asyncio
import json
import re
import time

import pytest
from tests.collective.kit import make

from dodici.collective import Collector
from dodici.collective.contracts import Call
from dodici.collective.history import LONGEST, History, record_from, record_of
from dodici.collective.names import RouteKey
from dodici.core.grpc_status import GrpcStatus

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-00"


def a_call(**fields: object) -> Call:
    return Call(RouteKey("ns", "Service", "Method"), **fields)  # type: ignore[arg-type]


def test_record_has_what_the_call_says() -> None:
    call = a_call(
        target="b", path=("a",), from_collector="a", peer="ipv4:1", metadata=(("traceparent", PARENT),)
    )
    call.handled_by = "b"
    record = record_of(call, "serve", GrpcStatus.NOT_FOUND, 1000.0, 2.5)
    assert record == (
        "serve", "ns", "Service", "Method", "a", "b", "b", 404, 997.5, 2.5, ("a",), TRACE,
        record.span_id, PARENT[36:52],
    )  # fmt: skip
    assert re.fullmatch("[0-9a-f]{16}", record.span_id)
    assert record.status.grpc_status is GrpcStatus.NOT_FOUND
    assert record.as_dict()["status"] == 404
    assert record.as_dict()["grpc_status"] == "NOT_FOUND"
    assert record.as_dict()["path"] == ("a",)


@pytest.mark.parametrize("traceparent", ["", "00-x", PARENT.replace("00-4b", "ff-4b"), PARENT.upper()])
def test_what_is_no_trace_has_no_id(traceparent: str) -> None:
    record = record_of(a_call(metadata=(("traceparent", traceparent),)), "entry", GrpcStatus.OK, 1.0, 0.0)
    assert record.trace_id == ""


def test_names_that_a_caller_makes_up_are_bounded() -> None:
    call = Call(RouteKey("n" * 5000, "S" * 5000, "m" * 5000), target="t" * 5000)
    call.handled_by = "h" * 5000
    record = record_of(call, "entry", GrpcStatus.NOT_FOUND, 1.0, 0.0)
    kept = (record.namespace, record.service, record.method, record.target, record.handled_by)
    assert kept == tuple(letter * LONGEST for letter in "nSmth")


def test_a_record_can_be_read_from_json() -> None:
    record = record_of(a_call(path=("a", "b"), target="t"), "forward", GrpcStatus.ABORTED, 3.0, 0.5)
    assert record_from(json.loads(json.dumps(record.as_dict()))) == record
    for wrong in ({}, {**record.as_dict(), "grpc_status": "NOPE"}, {**record.as_dict(), "started": "soon"}):
        with pytest.raises((KeyError, ValueError)):
            record_from(wrong)


def test_history_is_a_bounded_sequence() -> None:
    history = History(3)
    for number in range(5):
        history.note(record_of(a_call(), "entry", GrpcStatus.OK, float(number), 0.0))
    assert len(history) == history.most == 3
    assert [record.started for record in history] == [2.0, 3.0, 4.0]
    assert history[-1].started == 4.0
    assert [record.started for record in history[1:]] == [3.0, 4.0]
    for _ in history:  # what comes in while somebody looks does not disturb him
        history.note(record_of(a_call(), "entry", GrpcStatus.OK, 9.0, 0.0))
    assert [record.started for record in history] == [9.0] * 3


async def test_a_local_dispatch_came_in_and_was_run() -> None:
    collector, _ = make()
    async with collector:
        before = time.time()
        result = await collector.dispatch("plain", "Echo", "Say", "x", metadata={"traceparent": PARENT})
        assert result.status == 200
        served, entry = collector.history
    assert (served.role, entry.role) == ("serve", "entry")
    for record in (served, entry):
        assert record[1:7] == ("plain", "Echo", "Say", "", "", "kit-1")
        assert record.status == 200
        assert record.path == ()
        assert record.trace_id == TRACE
        assert before - 1 < record.started < time.time() + 1
        assert 0 < record.duration < 5
    assert entry.duration >= served.duration


async def test_what_nobody_ran_was_handled_by_nobody() -> None:
    collector, _ = make()
    async with collector:
        await collector.dispatch("plain", "Echo", "Shout", "x")
        [record] = collector.history
    assert (record.role, record.handled_by, record.status) == ("entry", "", 404)


async def test_a_cancelled_call_says_so() -> None:
    collector, servicer = make()
    async with collector:
        task = asyncio.ensure_future(collector.dispatch("shop", "OrderService", "Hold", {"sku": "h"}))
        await servicer.note("h started").wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [(r.role, r.status, r.status.grpc_status.name) for r in collector.history] == [
            ("serve", 499, "CANCELLED"),
            ("entry", 499, "CANCELLED"),
        ]


async def test_a_stream_is_one_call() -> None:
    collector, _ = make()
    async with collector:
        numbers = [each async for each in collector.dispatch_stream("plain", "Echo", "Count", 3)]
        assert numbers == [0, 1, 2]
        assert [(r.role, r.status) for r in collector.history] == [("serve", 200), ("entry", 200)]
        async with collector.dispatch_stream("plain", "Echo", "Count", 3) as stream:
            assert await anext(stream) == 0
        assert collector.history[-1].status == 499


async def test_over_a_hop_each_collector_has_its_own_role() -> None:
    """A line a - b - c, where the handler is c's."""
    a = Collector("a", "127.0.0.1:0", namespaces=["plain"])
    b = Collector("b", "127.0.0.1:0", namespaces=["plain"])
    c = Collector("c", "127.0.0.1:0", namespaces=["plain"])
    c.register_service("plain", "Echo", "Say", lambda context, given: given)
    async with a, b, c:
        await b.connect_to(c.address)
        await a.connect_to(b.address)
        result = await a.dispatch("plain", "Echo", "Say", 7, target="c", metadata={"traceparent": PARENT})
        assert (result.status, result.output) == (200, 7)
        [entry], [forward], [serve] = a.history, b.history, c.history
        for record in (entry, forward, serve):
            assert (record.target, record.handled_by, record.trace_id) == ("c", "c", TRACE)
        assert (entry.role, entry.source, entry.path) == ("entry", "", ())
        assert (forward.role, forward.source, forward.path) == ("forward", "a", ("a",))
        assert (serve.role, serve.source, serve.path) == ("serve", "b", ("a", "b"))
        assert entry.duration >= forward.duration >= serve.duration

"""Traces: one for all collectors on the way, right parents, and what the caller said about sampling kept."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from dodici.collective import Collector
from dodici.collective.data_plane import Channel
from dodici.collective.logs import TraceFilter
from dodici.collective.trace import new_trace, parse
from dodici.collective.values import from_any, to_any

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


# -- the format (W3C Trace Context, 3.2) -----------------------------------------------------------------------


def test_a_child_has_its_parent_and_keeps_the_rest() -> None:
    found = parse(f"00-{TRACE}-{SPAN}-01", "vendor=1")
    assert found is not None
    child = found.child()
    assert (child.trace_id, child.parent_id, child.flags, child.tracestate) == (TRACE, SPAN, 1, "vendor=1")
    assert child.span_id != SPAN
    assert child.traceparent == f"00-{TRACE}-{child.span_id}-01"


def test_a_later_version_with_more_fields_is_understood() -> None:
    found = parse(f"cc-{TRACE}-{SPAN}-01-what-comes-later")
    assert found is not None
    assert found.traceparent == f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    "text",
    [
        None,
        b"x",
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f" 00-{TRACE}-{SPAN}-01",
    ],
)
def test_what_is_not_well_formed_is_none(text: Any) -> None:
    assert parse(text) is None


def test_a_trace_of_our_own_is_recorded_and_says_so() -> None:
    assert new_trace().flags == 1
    assert new_trace().trace_id != new_trace().trace_id


# -- over hops -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def line(handler: Any) -> AsyncIterator[tuple[Collector, Collector, Collector]]:
    """Collectors a - b - c. c has n/S.Outer, which is the handler, and b has n/Inner.Say, which notes its trace."""
    a, b, c = (Collector(name, "127.0.0.1:0", namespaces=["n"]) for name in "abc")
    c.register_service("n", "S", "Outer", handler)
    b.register_service("n", "Inner", "Say", lambda context, _: seen(context))
    async with a, b, c:
        await b.connect_to(c.address)
        await a.connect_to(b.address)
        yield a, b, c


def seen(context: Any) -> dict[str, Any]:
    trace = context.trace
    return {
        "trace": trace.trace_id,
        "span": trace.span_id,
        "parent": trace.parent_id,
        "flags": trace.flags,
        "state": trace.tracestate,
        "baggage": context.metadata.get_list("baggage"),
    }


@pytest.mark.parametrize("flags", ["00", "01"])
async def test_one_trace_over_three_collectors(flags: str) -> None:
    async with line(lambda context, _: seen(context)) as (a, _, _):
        channel = Channel(a.address)
        metadata = (
            ("x-dodici-namespace", "n"),
            ("x-dodici-payload", "any"),
            ("traceparent", f"00-{TRACE}-{SPAN}-{flags}"),
            ("tracestate", "one=1"),
            ("tracestate", "two=2"),
            ("baggage", "user=7"),
        )
        try:
            answer = await channel.unary(
                "/S/Outer", to_any(None).SerializeToString(), metadata=metadata, timeout=9
            )
        finally:
            await channel.close()
        told = from_any(AnyMessage.FromString(answer))
        assert told.pop("span") not in {SPAN, ""}
        assert told == {
            "trace": TRACE,
            "parent": SPAN,
            "flags": int(flags),
            "state": "one=1,two=2",
            "baggage": ["user=7"],
        }


async def test_what_a_handler_calls_belongs_to_its_own_span() -> None:
    collectors: list[Collector] = []

    async def outer(context: Any, _: Any) -> Any:
        inner = await collectors[2].dispatch("n", "Inner", "Say")
        return {"outer": seen(context), "inner": inner.output}

    async with line(outer) as found:
        collectors += found
        metadata = {"traceparent": f"00-{TRACE}-{SPAN}-00", "tracestate": "one=1", "baggage": "user=7"}
        result = await found[0].dispatch("n", "S", "Outer", metadata=metadata)
        told = result.raise_for_status().output
        assert told["inner"]["trace"] == told["outer"]["trace"] == TRACE
        assert told["outer"]["parent"] == SPAN
        assert told["inner"]["parent"] == told["outer"]["span"]
        assert told["inner"]["state"] == "one=1"
        assert told["inner"]["flags"] == 0
        assert told["inner"]["baggage"] == ["user=7"]
        # All of them tell of the same trace.
        assert {
            record.trace_id for each in found for record in each.history if record.service != "Nothing"
        } == {TRACE}


# -- logs ------------------------------------------------------------------------------------------------------


async def test_records_of_a_failure_have_its_trace(caplog: pytest.LogCaptureFixture) -> None:
    def fail(context: Any, _: Any) -> Any:
        raise ValueError("a secret")

    async def stream(context: Any, _: Any) -> Any:
        yield 1
        raise ValueError("a secret")

    async with Collector("a", "127.0.0.1:0") as collector:
        collector.register_service("n", "S", "Fail", fail)
        collector.register_service("n", "S", "Stream", stream, kind="unary_stream")
        metadata = {"traceparent": f"00-{TRACE}-{SPAN}-00"}
        with caplog.at_level(logging.ERROR, "dodici.collective"):
            await collector.dispatch("n", "S", "Fail", metadata=metadata)
            await collector.dispatch_stream("n", "S", "Stream", metadata=metadata).result()
    assert [vars(record)["trace_id"] for record in caplog.records] == [TRACE, TRACE]


async def test_an_application_gets_them_by_the_filter() -> None:
    told: list[tuple[str, str]] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append((vars(record)["trace_id"], record.getMessage()))

    log = logging.getLogger("tests.of.an.application")
    log.propagate = False
    handler = Keeping()
    handler.addFilter(TraceFilter())
    log.addHandler(handler)
    try:
        async with Collector("a", "127.0.0.1:0") as collector:
            collector.register_service("n", "S", "Say", lambda context, _: log.warning("inside"))
            log.warning("outside")
            await collector.dispatch("n", "S", "Say", metadata={"traceparent": f"00-{TRACE}-{SPAN}-00"})
    finally:
        log.removeHandler(handler)
    assert told == [("", "outside"), (TRACE, "inside")]

"""Spans of OpenTelemetry: below the caller's, around the handler, and above what it calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")

import itertools

from opentelemetry import trace as otel
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from dodici.collective import Collector
from dodici.collective.telemetry import instrument

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Kept:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("tests")

    def __getitem__(self, name: str) -> ReadableSpan:
        [found] = [span for span in self.exporter.get_finished_spans() if span.name == name]
        return found

    def __len__(self) -> int:
        return len(self.exporter.get_finished_spans())


@pytest.fixture
def kept() -> Iterator[Kept]:
    found = Kept()
    yield found
    found.provider.shutdown()


def ids(span: Any) -> tuple[str, str | None]:
    parent = span.parent
    return f"{span.context.trace_id:032x}", None if parent is None else f"{parent.span_id:016x}"


def own(span: Any) -> str:
    return f"{span.context.span_id:016x}"


async def test_a_call_is_a_span_below_the_callers(kept: Kept) -> None:
    seen = []

    async def say(context: Any, given: Any) -> Any:
        seen.append((context.trace, otel.get_current_span().get_span_context().span_id))
        with kept.tracer.start_as_current_span("inside"):
            return given

    async with Collector("a", "127.0.0.1:0") as collector:
        collector.register_service("n", "S", "Say", say)
        stop = instrument(collector, kept.provider)
        await collector.dispatch("n", "S", "Say", 1, metadata={"traceparent": f"00-{TRACE}-{SPAN}-01"})
        span = kept["S/Say"]
        assert ids(span) == (TRACE, SPAN)
        assert span.kind is SpanKind.SERVER
        assert span.attributes is not None
        assert {**span.attributes} == {
            "rpc.system": "grpc",
            "rpc.service": "S",
            "rpc.method": "Say",
            "rpc.grpc.status_code": 0,
            "dodici.namespace": "n",
            "dodici.collector": "a",
        }
        [(trace, current)] = seen
        assert (trace.trace_id, trace.span_id, trace.parent_id, trace.flags) == (TRACE, own(span), SPAN, 1)
        assert f"{current:016x}" == own(span)
        assert ids(kept["inside"]) == (TRACE, own(span))
        assert collector.history[-1].trace_id == TRACE
        assert not otel.get_current_span().get_span_context().is_valid
        stop()
        await collector.dispatch("n", "S", "Say", 1)
        assert len(kept) == 3  # only the handler's own


async def test_unsampled_stays_unsampled(kept: Kept) -> None:
    seen = []
    async with Collector("a", "127.0.0.1:0") as collector:
        collector.register_service("n", "S", "Say", lambda context, _: seen.append(context.trace))
        instrument(collector, kept.provider)
        await collector.dispatch("n", "S", "Say", metadata={"traceparent": f"00-{TRACE}-{SPAN}-00"})
    assert len(kept) == 0
    assert (seen[0].trace_id, seen[0].flags) == (TRACE, 0)


async def test_over_a_hop_from_a_span_of_the_process(kept: Kept) -> None:
    async def outer(context: Any, _: Any) -> Any:
        with kept.tracer.start_as_current_span("work"):
            return (await b.dispatch("n", "S", "Inner")).output

    async def inner(context: Any, _: Any) -> Any:
        for number in range(2):
            with kept.tracer.start_as_current_span(f"step {number}"):
                pass
            yield number

    async def once(context: Any, _: Any) -> Any:
        return [each async for each in b.dispatch_stream("n", "S", "Stream")]

    a = Collector("a", "127.0.0.1:0", namespaces=["n"])
    b = Collector("b", "127.0.0.1:0", namespaces=["n"])
    b.register_service("n", "S", "Outer", outer)
    b.register_service("n", "S", "Inner", once)
    b.register_service("n", "S", "Stream", inner, kind="unary_stream")
    async with a, b:
        await a.connect_to(b.address)
        for each in (a, b):
            instrument(each, kept.provider)
        with kept.tracer.start_as_current_span("client"):
            result = await a.dispatch("n", "S", "Outer")
        assert result.raise_for_status().output == [0, 1]
    names = ["client", "S/Outer", "work", "S/Inner", "S/Stream", "step 0"]
    spans = [kept[name] for name in names]
    assert ids(spans[0])[1] is None
    for above, below in itertools.pairwise(spans):
        assert ids(below) == (ids(spans[0])[0], own(above)), below.name
    assert ids(kept["step 1"])[1] == own(kept["S/Stream"])


async def test_what_fails_here_is_an_error_of_the_span(kept: Kept) -> None:
    def fail(context: Any, given: Any) -> Any:
        if given:
            context.abort(404, "no such thing")
        raise ValueError("a secret")

    async with Collector("a", "127.0.0.1:0") as collector:
        collector.register_service("n", "S", "Fail", fail)
        instrument(collector, kept.provider)
        await collector.dispatch("n", "S", "Fail")
        await collector.dispatch("n", "S", "Fail", 1)
    failed, refused = kept.exporter.get_finished_spans()
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.status.description == "INTERNAL"
    assert refused.status.status_code is StatusCode.UNSET
    assert refused.attributes is not None
    assert refused.attributes["rpc.grpc.status_code"] == 5

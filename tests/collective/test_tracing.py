"""The path of a trace through the collective, asked for at any collector of it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct

from dodici.collective import CollectiveError, Collector, Policy
from dodici.collective.data_plane import Channel
from dodici.collective.tracing import PATH, Path, path_from, path_json
from dodici.collective.values import to_message
from dodici.core.errors import InvalidArgumentError
from dodici.core.grpc_status import GrpcStatus
from dodici.core.spans import Span
from dodici.core.trace import Trace, current, new_trace

# A process keeps its spans: those of other files shall not be among them.
TRACE, SPAN = secrets.token_hex(16), "00f067aa0ba902b7"


@asynccontextmanager
async def line(handler: Any, **options: Any) -> AsyncIterator[list[Collector]]:
    """Collectors a - b - c; c has n/S.Say, which is the handler."""
    made = [Collector(name, "127.0.0.1:0", namespaces=["n"], **options) for name in "abc"]
    made[2].register_service("n", "S", "Say", handler)
    async with made[0], made[1], made[2]:
        await made[1].connect_to(made[2].address)
        await made[0].connect_to(made[1].address)
        yield made


def shown(path: Path) -> list[str]:
    """`node kind span parent status`, with spans by their kind, in the order of the path."""
    kinds = {place.span.span_id: f"{place.node}.{place.span.kind}" for place in path.places}
    rows = {
        f"{place.node}.{place.span.kind} below {kinds.get(place.span.parent_id, place.span.parent_id)} {place.span.status}"
        for place in path.places
    }
    assert len(kinds) == len(path.places)
    return sorted(rows)


@pytest.mark.parametrize("flags", ["00", "01"])
async def test_every_collector_of_a_line_knows_the_whole_path(flags: str) -> None:
    async with line(lambda context, _: context.trace.parent_id) as collectors:
        given = {"traceparent": f"00-{TRACE}-{SPAN}-{flags}"}
        answer = await collectors[0].dispatch("n", "S", "Say", metadata=given)
        assert answer.output == SPAN  # the caller's, on any hop
        for collector in collectors:
            found = await collector.tracing.find(TRACE)
            assert found.silent == []
            assert shown(found) == [
                f"a.entry below {SPAN} OK",
                "b.forward below a.entry OK",
                "c.serve below b.forward OK",
            ]
            assert {place.span.name for place in found.places} == {"S/Say in n"}
        alone = await collectors[0].tracing.find(TRACE, around=False)
        assert shown(alone) == [f"a.entry below {SPAN} OK"]


async def test_what_a_handler_calls_is_below_it() -> None:
    async def outer(context: Any, _: Any) -> Any:
        return (await collectors[2].dispatch("n", "S", "Inner")).output

    async with line(outer) as collectors:
        collectors[2].register_service("n", "S", "Inner", lambda context, _: context.trace.trace_id)
        answer = await collectors[2].dispatch(
            "n", "S", "Say", metadata={"traceparent": f"00-{TRACE}-{SPAN}-01"}
        )
        assert answer.output == TRACE
        found = await collectors[2].tracing.find(TRACE)
        by_name = {(place.span.kind, place.span.name): place.span for place in found.places}
        chain = [
            ("entry", "S/Say in n"),
            ("serve", "S/Say in n"),
            ("entry", "S/Inner in n"),
            ("serve", "S/Inner in n"),
        ]
        assert [by_name[each].parent_id for each in chain] == [
            SPAN,
            *(by_name[each].span_id for each in chain[:3]),
        ]


async def test_a_call_joins_the_trace_of_what_makes_it() -> None:
    async with line(lambda context, _: context.trace.tracestate) as collectors:
        place = Trace(TRACE, SPAN, 1, "a=1")

        async def call() -> Any:
            current.set(place)
            joined = await collectors[0].dispatch("n", "S", "Say")
            other = new_trace()
            await collectors[0].dispatch("n", "S", "Say", metadata={"traceparent": other.traceparent})
            return joined.output, other

        state, other = await asyncio.create_task(call())
        assert state == "a=1"
        assert f"a.entry below {SPAN} OK" in shown(await collectors[0].tracing.find(TRACE))
        # What names another trace is a part of that one.
        [entry] = [
            p.span
            for p in (await collectors[0].tracing.find(other.trace_id)).places
            if p.span.kind == "entry"
        ]
        assert entry.parent_id == other.span_id


async def test_failures_are_told_as_such() -> None:
    async with line(lambda context, _: context.abort(503, "not now")) as collectors:
        await collectors[0].dispatch("n", "S", "Say", metadata={"traceparent": f"00-{TRACE}-{SPAN}-01"})
        found = await collectors[0].tracing.find(TRACE)
        assert {place.span.status for place in found.places} == {"UNAVAILABLE"}
        assert all(place.span.failed for place in found.places)


async def test_who_does_not_answer_is_named_and_the_rest_is_told() -> None:
    async with line(lambda context, _: None) as collectors:
        a, b, c = collectors
        await a.dispatch("n", "S", "Say", metadata={"traceparent": f"00-{TRACE}-{SPAN}-01"})
        stuck = asyncio.Event()

        async def never(trace_id: str, timeout: float) -> tuple[list[Span], list[str]]:
            await stuck.wait()
            return [], []

        c.tracing.of_process = never
        found = await a.tracing.find(TRACE, 0.5)
        assert shown(found) == [f"a.entry below {SPAN} OK", "b.forward below a.entry OK"]
        [silent] = found.silent
        assert silent.startswith("c: ")
        stuck.set()

        async def partly(trace_id: str, timeout: float) -> tuple[list[Span], list[str]]:
            return [], ["worker w1 did not tell"]

        c.tracing.of_process = partly
        assert (await a.tracing.find(TRACE)).silent == ["c: worker w1 did not tell"]
        await b.disconnect("c")
        assert (await a.tracing.find(TRACE)).silent == []


async def test_a_ring_ends() -> None:
    async with line(lambda context, _: None) as collectors:
        a, _, c = collectors
        await c.connect_to(a.address)
        await a.dispatch("n", "S", "Say", metadata={"traceparent": f"00-{TRACE}-{SPAN}-01"})
        found = await a.tracing.find(TRACE)
        assert shown(found) == [f"a.entry below {SPAN} OK", "c.serve below a.entry OK"]


async def ask(collector: Collector, request: dict[str, Any], timeout: float = 5.0) -> Any:
    channel = Channel(collector.address)
    try:
        payload = to_message(request).SerializeToString()
        return Struct.FromString(await channel.unary(PATH, payload, timeout=timeout))
    finally:
        await channel.close()


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        ({}, "names a trace_id"),
        ({"trace_id": "x"}, "32 hexadecimal digits, not 'x'"),
        ({"trace_id": TRACE, "timeout": "soon"}, "names a trace_id, and may have a timeout"),
        ({"trace_id": TRACE, "timeout": 0}, "timeout must be up to 30 s, not 0"),
        ({"trace_id": TRACE, "timeout": 1e9}, "timeout must be up to 30 s"),
        ({"trace_id": TRACE, "asked": 7}, "names a trace_id"),
    ],
    ids=["nothing", "id", "words", "zero", "long", "asked"],
)
async def test_requests_that_are_none(request_: dict[str, Any], text: str) -> None:
    async with Collector("a", "127.0.0.1:0") as collector:
        with pytest.raises(CollectiveError, match=text) as caught:
            await ask(collector, request_)
        assert caught.value.grpc_status is GrpcStatus.INVALID_ARGUMENT


async def test_an_id_that_is_none_is_refused_here_too() -> None:
    async with Collector("a", "127.0.0.1:0") as collector:
        with pytest.raises(InvalidArgumentError, match="32 hexadecimal digits"):
            await collector.tracing.find("abc")


async def test_it_is_for_those_whom_the_policy_allows() -> None:
    policy = Policy().allow("spiffe://example/someone", "n")
    async with Collector("a", "127.0.0.1:0", policy=policy) as collector:
        with pytest.raises(CollectiveError) as caught:
            await ask(collector, {"trace_id": TRACE})
        assert caught.value.grpc_status in (GrpcStatus.UNAUTHENTICATED, GrpcStatus.PERMISSION_DENIED)


async def test_only_so_many_are_looked_for_at_once() -> None:
    async with Collector("a", "127.0.0.1:0") as collector:
        here, go = asyncio.Semaphore(0), asyncio.Event()

        async def slow(trace_id: str, timeout: float) -> tuple[list[Span], list[str]]:
            here.release()
            await go.wait()
            return [], []

        collector.tracing.of_process = slow
        asking = [asyncio.create_task(ask(collector, {"trace_id": TRACE})) for _ in range(8)]
        for _ in asking:
            await here.acquire()
        with pytest.raises(CollectiveError, match="looking for other traces") as caught:
            await ask(collector, {"trace_id": TRACE})
        assert caught.value.grpc_status is GrpcStatus.RESOURCE_EXHAUSTED
        go.set()
        await asyncio.gather(*asking)
        await ask(collector, {"trace_id": TRACE})


async def test_a_span_of_a_hop_is_believed_of_collectors_alone() -> None:
    async with Collector("a", "127.0.0.1:0", namespaces=["n"]) as collector:
        collector.register_service("n", "S", "Say", lambda context, _: None)
        channel = Channel(collector.address)
        metadata = (
            ("x-dodici-namespace", "n"),
            ("x-dodici-payload", "any"),
            ("x-dodici-span", "1" * 16),
            ("traceparent", f"00-{TRACE}-{SPAN}-01"),
        )
        try:
            await channel.unary("/S/Say", b"", metadata=metadata, timeout=5.0)
        finally:
            await channel.close()
        assert shown(await collector.tracing.find(TRACE)) == [
            f"a.entry below {SPAN} OK",
            "a.serve below a.entry OK",
        ]


def test_what_is_told_is_what_is_read() -> None:
    span = Span("serve", TRACE, SPAN, "", "S/Say in n", "", 1000.5, 0.25, "OK", 7)
    path = Path([], ["x"])
    assert path_from(path_json(path)) == path
    told = {"spans": [["a", *span[:-1], 7.0]], "silent": []}
    assert path_from(told).places == [("a", span)]
    for wrong in (
        {},
        {"spans": [[]], "silent": []},
        {"spans": [["a", 1]], "silent": []},
        {"spans": 7, "silent": []},
    ):
        with pytest.raises((TypeError, ValueError, KeyError)):
            path_from(wrong)

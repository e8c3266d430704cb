"""Traces through `dodici up`: the gateway's part, and the path of a request over two nodes."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from tests.server.server_kit import Call, Scripted, respond, router, service
from tests.server.up_kit import APPS, Up, up

from dodici.core.spans import Span, spans
from dodici.core.trace import current, here, new_trace, parse
from dodici.server.gateway import Gateway
from dodici.server.output import LogToOutput, Output
from dodici.server.tracing import summaries

ID, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{ID}-{SPAN}-01".encode()


class Traced(Gateway):
    """A gateway whose dispatches note where they were made."""

    def __init__(self, script: Any = lambda _, exchange: respond(exchange), **options: Any) -> None:
        self.scripted = Scripted(script)
        self.places: list[Any] = []
        dispatch = self.scripted.dispatch

        def noted(given: Any, handler: Any) -> bool:
            self.places.append(here())
            return dispatch(given, handler)

        self.scripted.dispatch = noted  # type: ignore[method-assign]
        super().__init__(self.scripted, router(service("shop", path=("/",))), **{"trace": True, **options})


async def test_a_request_without_a_trace_begins_one() -> None:
    gateway = Traced()
    for _ in range(2):  # the second time it is prepared
        await Call(gateway, raw_path=b"/orders/7", query_string=b"secret=1").end()
    first, second = gateway.places
    assert first.trace_id != second.trace_id
    [span] = spans(second.trace_id)
    assert (span.kind, span.name, span.target, span.status) == ("gateway", "GET /orders/7", "shop", "200")
    assert (span.span_id, span.parent_id) == (second.span_id, "")
    one, other = gateway.scripted.options
    assert one is other
    assert "traceparent" not in one.headers


async def test_a_request_of_a_trace_goes_on_in_it() -> None:
    gateway = Traced()
    fields = [(b"traceparent", PARENT), (b"tracestate", b"a=1"), (b"tracestate", b"b=2")]
    await Call(gateway, headers=fields).end()
    [place] = gateway.places
    assert (place.trace_id, place.parent_id, place.tracestate) == (ID, SPAN, "a=1,b=2")
    assert place.traceparent.encode() == PARENT
    assert spans(ID)[-1].span_id == place.span_id
    # The mesh carries it: options without it may be used again.
    assert "tracestate" not in gateway.scripted.options[0].headers


@pytest.mark.parametrize(
    "fields",
    [
        [(b"traceparent", b"ff" + PARENT[2:])],
        [(b"traceparent", b"00-" + b"0" * 32 + PARENT[35:])],
        [(b"traceparent", PARENT), (b"traceparent", PARENT)],
        [(b"traceparent", b"garbage"), (b"tracestate", b"a=1")],
        [(b"tracestate", b"a=1")],
    ],
    ids=["version", "zeros", "two", "garbage", "state-alone"],
)
async def test_what_names_no_trace_is_dropped_and_a_new_one_begun(fields: Any) -> None:
    gateway = Traced()
    await Call(gateway, headers=fields).end()
    [place] = gateway.places
    assert (place.parent_id, place.tracestate) == (None, "")
    assert place.trace_id not in (ID, "0" * 32)
    headers = gateway.scripted.options[0].headers
    assert "traceparent" not in headers
    assert "tracestate" not in headers


async def test_what_is_not_sampled_is_carried_alone() -> None:
    gateway = Traced()
    unsampled = new_trace()._replace(flags=0, carried="")
    await Call(gateway, headers=[(b"traceparent", unsampled.traceparent.encode())]).end()
    assert gateway.places[0].traceparent == unsampled.traceparent
    assert spans(unsampled.trace_id) == []


async def test_beyond_the_rate_requests_pass_without_one_but_failures_are_kept() -> None:
    gateway = Traced(traces_per_second=0)
    before = spans()
    token = current.set(new_trace())  # of whoever used this task before
    try:
        await Call(gateway).end()
        await Call(gateway).end()
    finally:
        current.reset(token)
    assert gateway.places == [None, None]
    assert spans() == before
    await Call(gateway, headers=[(b"traceparent", PARENT)]).end()
    assert gateway.places[-1].trace_id == ID
    failing = Traced(lambda _, exchange: respond(exchange, 500), traces_per_second=0)
    await Call(failing).end()
    assert failing.places == [None]
    assert spans()[-1].status == "500"


async def test_switched_off_fields_pass_as_they_are() -> None:
    gateway = Traced(trace=False)
    await Call(gateway, headers=[(b"traceparent", b"garbage"), (b"tracestate", b"a=1")]).end()
    assert gateway.places == [None]
    headers = gateway.scripted.options[0].headers
    assert (headers["traceparent"], headers["tracestate"]) == ("garbage", "a=1")


async def test_requests_for_nobody_and_of_clients_that_leave_are_kept() -> None:
    gateway = Traced()
    await Call(gateway, headers=[(b"traceparent", PARENT), (b"host", b"two.example")]).end()
    assert (spans(ID)[-1].status, spans(ID)[-1].target) == ("400", "-")


def test_a_list_has_one_line_for_each_trace() -> None:
    def span(kind: str, trace: str, own: str, parent: str, at: float, status: str = "200") -> Span:
        return Span(kind, trace, own, parent, f"GET /{trace}", "shop", at, 0.5, status, 7)

    found = summaries(
        [
            span("worker", "t", "c", "b", 1.2, "ZeroDivisionError"),
            span("mesh", "t", "b", "a", 1.1),
            span("gateway", "t", "a", "client", 1.3),  # its clock is set back meanwhile
            span("gateway", "u", "d", "", 2.0),
        ]
    )
    assert [
        (each["trace_id"], each["kind"], each["status"], each["failed"], each["spans"]) for each in found
    ] == [
        ("u", "gateway", "200", False, 1),
        ("t", "gateway", "200", True, 3),
    ]


async def test_what_is_logged_says_the_trace_once() -> None:
    output = Output()
    handler = LogToOutput(output)
    place = new_trace()
    token = current.set(place)
    try:
        handler.handle(logging.makeLogRecord({"msg": "it broke\nin two lines", "levelno": logging.ERROR}))
        handler.handle(
            logging.makeLogRecord({"msg": f"it broke in trace {place.trace_id}", "levelno": logging.ERROR})
        )
    finally:
        current.reset(token)
    assert [line.text for line in output.last()] == [
        f"it broke (trace {place.trace_id})",
        "in two lines",
        f"it broke in trace {place.trace_id}",
    ]


# -- two nodes -----------------------------------------------------------------------------------------------

NODE = """
[gateway]
listen = "127.0.0.1:0"
access_log = true
[collector]
id = "NAME"
listen = "127.0.0.1:0"
namespaces = ["shop"]
"""
WITH_INNER = """
[collector.services."shop.Inner"]
origin = "http://inner.local"
[services.inner]
app = "traced:inner"
cwd = "APPS"
"""
WITH_STOCK = """
connect = ["ADDRESS"]
[services.stock]
app = "http://Inner.shop.collective"
path = "/stock"
[services.outer]
app = "traced:outer"
path = "/"
cwd = "APPS"
env = { ASK = "http://stock.local" }
"""


def node(folder: Path, name: str, text: str, **words: str) -> str:
    folder.mkdir()
    text = (NODE + text).replace("NAME", name).replace("APPS", str(APPS))
    for word, value in words.items():
        text = text.replace(word, value)
    file = folder / f"{name}.toml"
    file.write_text(text)
    return str(file)


async def begun(running: Up, name: str) -> str:
    """The address of its collector, when it is ready."""
    running.origin = (await running.until(r"listening at (http\S+)"))[1]
    address = (await running.until(rf"collector {name}, listening at (\S+)"))[1]
    await running.until("ready: ")
    return address


def chain(answer: dict[str, Any]) -> list[str]:
    """`node kind status` from the top down; each span is the only one below the one before."""
    found, above = [], SPAN
    while below := [row for row in answer["spans"] if row[4] == above]:
        [row] = below
        found.append(f"{row[0]} {row[1]} {row[9]}")
        above = row[3]
    assert len(found) == len(answer["spans"])
    return found


WAY = [
    "one gateway 200",
    "one mesh 200",
    "one worker 200",  # outer
    "one mesh 200",
    "one worker 200",  # stock, in the gateway's loop
    "one entry OK",
    "two serve OK",
    "two mesh 200",
    "two worker 200",  # inner
]


@pytest.mark.timeout(90)
async def test_the_path_over_two_nodes_is_one_tree_from_either(tmp_path: Path) -> None:
    for needed in ("grpc", "httptools", "prometheus_client", "psutil", "uvicorn", "watchfiles"):
        pytest.importorskip(needed)
    async with up(tmp_path / "b", node(tmp_path / "b", "two", WITH_INNER), wait=False) as two:
        address = await begun(two, "two")
        file = node(tmp_path / "a", "one", WITH_STOCK, ADDRESS=address)
        async with up(tmp_path / "a", file, wait=False) as one:
            await begun(one, "one")
            await one.until("connected to two")
            code, text = await one.status("/x?secret=1", headers={"traceparent": PARENT.decode()})
            # What came from outside goes on as it came, to the last app.
            assert (code, text) == (200, f"{PARENT.decode()} {PARENT.decode()}")
            await one.until(rf"GET /x\?secret=1 200 .* trace {ID}")
            for running in (one, two):
                answer = await running.ask("trace", trace_id=ID)
                assert answer["silent"] == []
                assert chain(answer) == WAY
                assert all("secret" not in row[5] for row in answer["spans"])
            rows = {f"{row[0]} {row[1]}": row for row in answer["spans"]}
            assert rows["two serve"][8] <= rows["one entry"][8] <= rows["one gateway"][8]
            assert len({row[10] for row in answer["spans"]}) == 4  # processes
            # A request that brings none is followed, too; and what fails far away is seen here.
            assert (await one.status("/bad"))[0] == 500
            listed = (await one.ask("trace", failed=True))["traces"]
            assert [(each["name"], each["status"]) for each in listed] == [("GET /bad", "500")]
            found = parse(f"00-{listed[0]['trace_id']}-{SPAN}-01")
            assert found is not None
            spans_of = (await one.ask("trace", trace_id=found.trace_id))["spans"]
            assert [row[9] for row in spans_of if row[0] == "two" and row[1] == "worker"] == [
                "ZeroDivisionError"
            ]
            await two.until(rf"ZeroDivisionError|raised in GET .*trace {found.trace_id}")
            # Without the other node there is what this one knows.
            two.process.kill()
            await two.wait()
            answer = await one.ask("trace", trace_id=ID)
            assert [f"{row[0]} {row[1]}" for row in answer["spans"] if row[0] == "two"] == []
            assert len(answer["spans"]) == 6
            async with asyncio.timeout(10):
                while not answer["silent"]:
                    answer = await one.ask("trace", trace_id=ID)
            assert answer["silent"][0].startswith("two: ")

"""Places in traces, who begins one, and what a process remembers."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading

import pytest

from dodici.core import spans as spans_module
from dodici.core.spans import KEPT, Span, has_failed, note, read, spans
from dodici.core.trace import (
    Sampler,
    Trace,
    TraceFilter,
    current,
    here,
    is_trace_id,
    new_span_id,
    new_trace,
    of_fields,
    parse,
)

ID, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{ID}-{SPAN}-01"


def test_a_part_of_a_trace_has_a_span_of_its_own_and_passes_on_what_came() -> None:
    above = parse(PARENT, "a=1")
    assert above == Trace(ID, SPAN, 1, "a=1")
    part = above.part()
    assert (part.trace_id, part.parent_id, part.flags, part.tracestate) == (ID, SPAN, 1, "a=1")
    assert part.span_id not in (SPAN, "")
    assert part.traceparent == part.part().traceparent == PARENT
    assert part.part().parent_id == part.span_id
    # Work of the application's own names itself.
    child = part.child()
    assert child.traceparent == f"00-{ID}-{child.span_id}-01"
    assert child.parent_id == part.span_id


def test_a_new_trace_is_well_formed_and_sampled() -> None:
    made = new_trace()
    assert parse(made.traceparent) == made._replace(carried="")
    assert made.sampled
    assert is_trace_id(made.trace_id)
    assert len({new_span_id() for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    ("traceparent", "names"),
    [
        (PARENT, True),
        (f"01-{ID}-{SPAN}-01", True),
        (f"01-{ID}-{SPAN}-01-more", True),
        (f"cc-{ID}-{SPAN}-01-", True),
        (f"00-{ID}-{SPAN}-ff", True),
        (f"00-{ID}-{SPAN}-01-more", False),
        (f"01-{ID}-{SPAN}-01more", False),
        (f"ff-{ID}-{SPAN}-01", False),
        (f"00-{'0' * 32}-{SPAN}-01", False),
        (f"00-{ID}-{'0' * 16}-01", False),
        (PARENT.upper(), False),
        (PARENT[:-1], False),
        (f" {PARENT}", False),
        (f"{PARENT}\n", False),
        ("", False),
        (None, False),
        (PARENT.encode(), False),
    ],
    ids=[
        "plain", "later", "later-more", "later-dash", "flags", "more", "glued", "ff", "trace", "span", "upper", "short",
        "space", "line", "empty", "none", "bytes",
    ],
)  # fmt: skip
def test_which_traceparents_name_a_trace(traceparent: object, names: bool) -> None:
    assert (parse(traceparent) is not None) is names


def test_fields_name_a_trace_once_or_not_at_all() -> None:
    field = (b"traceparent", PARENT.encode())
    states = ((b"tracestate", b"a=1"), (b"tracestate", b"b=2"))
    assert of_fields((*states, field)) == Trace(ID, SPAN, 1, "a=1,b=2")
    assert of_fields((field, field)) is None
    assert of_fields(states) is None
    assert of_fields(((b"traceparent", b"\xff"),)) is None


@pytest.mark.parametrize("text", ["", "0" * 32, ID.upper(), ID[:-1], f"{ID}0", "g" * 32, f"{ID}\n"])
def test_what_is_no_id(text: str) -> None:
    assert not is_trace_id(text)


def test_a_sampler_lets_so_many_begin_in_any_second() -> None:
    now = 100.0
    sampler = Sampler(4, lambda: now)
    assert [sampler.allows() for _ in range(6)] == [True] * 4 + [False] * 2
    now += 0.25
    assert [sampler.allows() for _ in range(2)] == [True, False]
    now += 10
    assert sum(sampler.allows() for _ in range(20)) == 4
    assert not any(Sampler(0).allows() for _ in range(3))


async def test_each_task_is_at_its_own_place() -> None:
    one, other = new_trace(), new_trace()

    async def look(place: Trace) -> Trace | None:
        current.set(place)
        await asyncio.sleep(0)
        return here()

    assert await asyncio.gather(*map(asyncio.create_task, (look(one), look(other)))) == [one, other]
    assert here() is None


def test_log_records_say_where_they_were_made() -> None:
    record = logging.makeLogRecord({"msg": "x"})
    token = current.set(place := new_trace())
    try:
        assert TraceFilter().filter(record)
    finally:
        current.reset(token)
    assert (vars(record)["trace_id"], vars(record)["span_id"]) == (place.trace_id, place.span_id)
    TraceFilter().filter(record)  # what it has, it keeps
    assert vars(record)["trace_id"] == place.trace_id
    outside = logging.makeLogRecord({"msg": "x"})
    TraceFilter().filter(outside)
    assert (vars(outside)["trace_id"], vars(outside)["span_id"]) == ("", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_process_has_ids_of_its_own() -> None:
    code = (
        "import os\n"
        "from dodici.core.trace import new_span_id\n"
        "reading, writing = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    os.write(writing, new_span_id().encode())\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "print(os.read(reading, 16).decode() != new_span_id())\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert found.stdout == "True\n"


# -- spans -----------------------------------------------------------------------------------------------------


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans_module, "_ring", type(spans_module._ring)(maxlen=KEPT))


@pytest.mark.usefixtures("ring")
def test_a_span_has_what_was_noted() -> None:
    trace = new_trace().part()
    note("worker", trace, "GET", b"/orders/7?secret=1", "orders.local", 0.25, 200)
    note("mesh", trace, "GET", "/a", "orders w1", 0.5, "NoTargetError", below="1" * 16)
    note("mesh", trace._replace(flags=0), "GET", "/a", "", 0.5, 200)
    first, second = spans(trace.trace_id)
    assert first[:6] == (
        "worker",
        trace.trace_id,
        trace.span_id,
        trace.parent_id,
        "GET /orders/7",
        "orders.local",
    )
    assert first[7:] == (0.25, "200", os.getpid())
    assert second[2:4] == ("1" * 16, trace.span_id)
    assert second.started < first.started + 0.5
    assert (first.failed, second.failed) == (False, True)
    assert read([list(first)]) == [first]
    assert spans("0" * 32) == []


@pytest.mark.usefixtures("ring")
def test_it_is_bounded_in_number_and_in_size() -> None:
    trace = new_trace()
    for number in range(KEPT + 10):
        note("worker", trace, "GET", "/" + "x" * 100_000 if not number % 1000 else "/", "", 0.0, 200)
    assert len(spans(most=10**6)) == KEPT
    assert max(len(span.name) for span in spans(most=10**6)) < 300
    assert [span.status for span in spans(most=2)] == ["200", "200"]


@pytest.mark.usefixtures("ring")
def test_threads_may_note_while_somebody_looks() -> None:
    trace, stop = new_trace(), threading.Event()

    def work() -> None:
        while not stop.is_set():
            note("worker", trace, "GET", "/", "", 0.0, 200)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            assert all(type(span) is Span for span in spans(most=10**6))
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_which_statuses_are_failures() -> None:
    failed = [
        status
        for status in ("200", "404", "499", "500", "503", "OK", "UNAVAILABLE", "")
        if has_failed(status)
    ]
    assert failed == ["500", "503", "UNAVAILABLE", ""]

"""Traces in the mesh: who joins which, what the app sees, and what is remembered."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import dodici
from dodici.core import diagnostics
from dodici.core.errors import NoTargetError
from dodici.core.spans import Span
from dodici.core.trace import Trace, current, here, new_trace, parse
from dodici.interceptors import retry
from dodici.mesh import Worker, WorkerInterceptor
from dodici.wire.mesh import heads

APPS = Path(__file__).parent / "apps"
FOREIGN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def answer(send: Any, status: int = 200, body: bytes = b"") -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the fields of traces that it sees, one a line."""
    if scope["type"] == "http":
        names = (b"traceparent", b"tracestate")
        lines = [name + b": " + value for name, value in scope["headers"] if name in names]
        await answer(send, body=b"\n".join(lines))


@asynccontextmanager
async def mesh_of(**apps: Any) -> AsyncIterator[tuple[WorkerInterceptor, dodici.Dispatcher]]:
    """A mesh with a loop worker for each app, and what reaches it."""
    options = apps.pop("options", {})
    mesh = WorkerInterceptor(**options)
    agent = dodici.Agent().compose(mesh)
    try:
        for name, app in apps.items():
            await mesh.route(name, app if isinstance(app, Worker) else Worker(app, kind="loop", name=name))
        yield mesh, agent
    finally:
        await agent.destroy()
        await mesh.close(0.0)


async def get(agent: Any, url: str, place: Trace | None, **options: Any) -> tuple[int, str]:
    """Send a request as a part of a trace."""

    async def send() -> tuple[int, str]:
        current.set(place)
        response = await agent.request(url, **options)
        return response.status_code, await response.text()

    return await asyncio.create_task(send())


def kinds(spans: list[Span]) -> list[str]:
    return [f"{span.kind} {span.target.split()[0]} {span.status}" for span in spans]


def chain(spans: list[Span], top: Trace) -> list[Span]:
    """The spans from the top down; each is the only one below the one before."""
    found, above = [], top.span_id
    while below := [span for span in spans if span.parent_id == above]:
        [span] = below
        found.append(span)
        above = span.span_id
    return found


async def test_a_request_of_a_trace_is_followed_to_the_app_and_what_the_app_sends_joins() -> None:
    async def outer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            response = await agent.request("http://inner.local/two?secret=1", method="POST", body=b"x")
            await answer(send, 201, await response.bytes())

    async with mesh_of(outer=outer, inner=echo) as (mesh, agent):
        top = new_trace()
        status, text = await get(agent, "http://outer.local/one", top)
        assert (status, text) == (201, f"traceparent: {top.traceparent}")
        spans, silent = await mesh.spans(top.trace_id)
        assert silent == []
    path = chain(spans, top)
    assert kinds(path) == [
        "mesh outer 201",
        "worker outer.local 201",
        "mesh inner 200",
        "worker inner.local 200",
    ]
    assert [span.name for span in path] == ["GET /one", "GET /one", "POST /two", "POST /two"]
    assert len(path) == len(spans) == len({span.span_id for span in spans})
    for above, below in pairwise(path):
        assert above.duration >= below.duration > 0


async def test_what_belongs_to_no_trace_is_not_remembered_and_gets_no_field() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            seen.append(here())
            await echo(scope, receive, send)

    async with mesh_of(api=app) as (mesh, agent):
        before, _ = await mesh.spans()
        assert await get(agent, "http://api.local/", None) == (200, "")
        after, _ = await mesh.spans()
    assert seen == [None]
    assert before == after


async def test_concurrent_requests_are_never_mixed_up() -> None:
    """All of it runs on one loop, in batches, with every second request outside of any trace."""

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await asyncio.sleep(0)
            response = await agent.request("http://inner.local/")
            await answer(send, 200, await response.bytes())

    async with mesh_of(outer=outer, inner=echo) as (mesh, agent):
        tops = [new_trace() if number % 2 else None for number in range(100)]
        answers = await asyncio.gather(*(get(agent, "http://outer.local/", top) for top in tops))
        assert [text for _, text in answers] == [
            "" if top is None else f"traceparent: {top.traceparent}" for top in tops
        ]
        for top in tops:
            if top is not None:
                spans, _ = await mesh.spans(top.trace_id)
                assert len(chain(spans, top)) == len(spans) == 4


async def test_a_field_that_is_given_is_left_alone() -> None:
    async with mesh_of(api=echo) as (mesh, agent):
        top = new_trace()
        _, text = await get(
            agent, "http://api.local/", top, headers={"Traceparent": FOREIGN, "tracestate": "a=1"}
        )
        assert text == f"traceparent: {FOREIGN}\ntracestate: a=1"
        foreign = parse(FOREIGN)
        assert foreign is not None
        spans, _ = await mesh.spans(foreign.trace_id)
        assert [span.kind for span in chain(spans[-2:], foreign)] == ["mesh", "worker"]
        assert (await mesh.spans(top.trace_id))[0] == []


async def test_a_field_alone_makes_the_app_a_part_of_the_trace() -> None:
    async with mesh_of(api=echo) as (mesh, agent):
        given = new_trace()
        await get(agent, "http://api.local/", None, headers={"traceparent": given.traceparent})
        spans, _ = await mesh.spans(given.trace_id)
        assert [span.kind for span in chain(spans, given)] == ["worker"]


@pytest.mark.parametrize(
    "wrong",
    [
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
    ],
    ids=["short", "version", "trace", "span", "upper"],
)
async def test_a_malformed_field_is_none(wrong: str) -> None:
    async with mesh_of(api=echo) as (mesh, agent):
        before, _ = await mesh.spans()
        await get(agent, "http://api.local/", None, headers={"traceparent": wrong})
        assert (await mesh.spans())[0] == before
        top = new_trace()
        # The mesh changes no fields. The request belongs to the trace of what sends it.
        assert (await get(agent, "http://api.local/", top, headers={"traceparent": wrong}))[
            1
        ] == f"traceparent: {wrong}"
        spans, _ = await mesh.spans(top.trace_id)
        assert [span.kind for span in chain(spans, top)] == ["mesh", "worker"]


async def test_what_is_not_sampled_is_carried_and_not_remembered() -> None:
    async with mesh_of(api=echo) as (mesh, agent):
        top = new_trace()._replace(flags=0, carried="", tracestate="a=1")
        _, text = await get(agent, "http://api.local/", top)
        assert text == f"traceparent: 00-{top.trace_id}-{top.span_id}-00\ntracestate: a=1"
        assert (await mesh.spans(top.trace_id))[0] == []


async def test_it_can_be_switched_off() -> None:
    async with mesh_of(api=echo, options={"trace": False}) as (mesh, agent):
        top = new_trace()
        assert await get(agent, "http://api.local/", top) == (200, "")
        _, text = await get(agent, "http://api.local/", top, headers={"traceparent": top.traceparent})
        assert text == f"traceparent: {top.traceparent}"
        assert (await mesh.spans(top.trace_id))[0] == []


async def test_failures_have_their_names() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            raise ZeroDivisionError("no")

    async with mesh_of(api=app) as (mesh, agent):
        top = new_trace()
        assert (await get(agent, "http://api.local/", top))[0] == 500
        with pytest.raises(NoTargetError):
            await get(agent, "http://nobody.local/", top)
        spans, _ = await mesh.spans(top.trace_id)
    assert sorted(kinds(spans)) == [
        "mesh api 500",
        "mesh nobody NoTargetError",
        "worker api.local ZeroDivisionError",
    ]
    assert all(span.failed for span in spans)


async def test_later_attempts_belong_to_the_trace_of_the_first() -> None:
    statuses = [503, 503, 200]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await answer(send, statuses.pop(0))

    async with mesh_of(api=app) as (mesh, agent):
        top = new_trace()
        again = agent.compose(retry(max_retries=2, min_timeout=0, max_timeout=0, status_codes=[503]))
        # Another request's attempts are under way at the same time, outside of any trace.
        assert await get(again, "http://api.local/", top) == (200, "")
        spans, _ = await mesh.spans(top.trace_id)
    assert sorted(kinds(spans)) == sorted(
        ["mesh api 503", "worker api.local 503"] * 2 + ["mesh api 200", "worker api.local 200"]
    )
    assert {span.parent_id for span in spans if span.kind == "mesh"} == {top.span_id}


async def test_a_client_that_leaves() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            begun.set()
            while (await receive())["type"] != "http.disconnect":
                pass
            ended.set()

    async with mesh_of(api=app) as (mesh, agent):
        top = new_trace()
        asking = asyncio.create_task(get(agent, "http://api.local/", top))
        await begun.wait()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await ended.wait()
        await asyncio.sleep(0)
        spans, _ = await mesh.spans(top.trace_id)
    assert kinds(spans)[-1] == "worker api.local ClientGone"


async def test_a_websocket_is_a_part_of_the_trace() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            place = here()
            await send({"type": "websocket.send", "text": "" if place is None else place.trace_id})
            await receive()

    async with mesh_of(api=app) as (mesh, agent):
        top = new_trace()

        async def talk() -> Any:
            current.set(top)
            socket = await dodici.websocket("ws://api.local/talk", dispatcher=agent)
            heard = await socket.receive()
            await socket.close()
            return heard

        assert await asyncio.create_task(talk()) == top.trace_id
        await mesh.close()
        spans, _ = await mesh.spans(top.trace_id)
    assert sorted((span.kind, span.name, span.status) for span in spans) == [
        ("mesh", "GET /talk", "101"),
        ("worker", "WEBSOCKET /talk", "101"),
    ]


async def test_logs_say_the_trace(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            raise ZeroDivisionError("no")

    async with mesh_of(api=app) as (_, agent):
        top = new_trace()
        with caplog.at_level(logging.ERROR, "dodici.mesh"):
            await get(agent, "http://api.local/", top)
    [record] = [record for record in caplog.records if "raised" in record.getMessage()]
    assert vars(record)["trace_id"] == top.trace_id
    assert top.trace_id in record.getMessage()


async def test_processes_are_asked_and_those_that_do_not_answer_are_named() -> None:
    worker = Worker("traced_apps:app", name="api", cwd=APPS)
    async with mesh_of(api=worker) as (mesh, agent):
        top = new_trace()
        status, text = await get(agent, "http://api.local/", top)
        assert (status, text) == (200, f"traceparent: {top.traceparent}")
        spans, silent = await mesh.spans(top.trace_id)
        assert silent == []
        path = chain(spans, top)
        assert [(span.kind, span.process == worker.pid) for span in path] == [
            ("mesh", False),
            ("worker", True),
        ]
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGSTOP)
        try:
            spans, [told] = await mesh.spans(top.trace_id, timeout=0.05)
        finally:
            os.kill(worker.pid, signal.SIGCONT)
        assert [span.kind for span in spans] == ["mesh"]
        assert told == f"api ({worker.id}): api (pid {worker.pid}) did not tell within 0.05 s"


async def test_what_a_wsgi_app_sends_from_its_thread_joins() -> None:
    pytest.importorskip("a2wsgi")
    loop = asyncio.get_running_loop()

    def app(environ: Any, start_response: Any) -> list[bytes]:
        asking = asyncio.run_coroutine_threadsafe(agent.request("http://inner.local/"), loop)
        text = asyncio.run_coroutine_threadsafe(asking.result(5).text(), loop).result(5)
        start_response("200 OK", [])
        return [environ["HTTP_TRACEPARENT"].encode(), b" ", text.encode()]

    async with mesh_of(outer=Worker(app, kind="loop", name="outer", interface="wsgi"), inner=echo) as (
        mesh,
        agent,
    ):
        top = new_trace()
        status, text = await get(agent, "http://outer.local/", top)
        assert (status, text) == (200, f"{top.traceparent} traceparent: {top.traceparent}")
        await mesh.close()  # the bridge returns some time after the response
        assert [span.kind for span in chain((await mesh.spans(top.trace_id))[0], top)] == [
            "mesh",
            "worker",
        ] * 2


async def test_a_server_at_an_address_gets_the_field() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        found = [line for line in head.decode().split("\r\n") if line.lower().startswith("trace")]
        body = "\n".join(found).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s" % (len(body), body)
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with mesh_of(far=Worker(f"http://127.0.0.1:{port}", name="far")) as (_, agent):
            top = new_trace()._replace(tracestate="a=1")
            _, text = await get(agent, "http://far.local/", top)
            assert text == f"traceparent: {top.traceparent}\ntracestate: a=1"
            _, text = await get(agent, "http://far.local/", top, headers={"traceparent": FOREIGN})
            assert text == f"traceparent: {FOREIGN}"
            assert (await get(agent, "http://far.local/", None))[1] == ""


@pytest.mark.parametrize("trace", [True, False])
async def test_fields_of_a_trace_arrive_to_the_letter_and_their_heads_are_one(trace: bool) -> None:
    states = ("", "a=1", "a=1, b=\t2", "x" * 4096, "y" * 4097)
    async with mesh_of(api=echo, options={"trace": trace}) as (mesh, agent):
        await get(agent, "http://api.local/", None)
        before = len(heads._requests)
        for number, state in enumerate(states[:-1]):
            trace_id = f"{number + 1:031x}{trace:x}"
            parent = f"00-{trace_id}-{number + 1:016x}-0{number % 2}"
            given = {"traceparent": parent} | ({"tracestate": state} if state else {})
            seen = f"traceparent: {parent}" + (f"\ntracestate: {state}" if state else "")
            place = new_trace() if number == 3 else None
            assert await get(agent, "http://api.local/", place, headers=given) == (200, seen)
            spans, _ = await mesh.spans(trace_id)
            below = [span for span in spans if span.kind == "worker"]
            # Of what the caller has marked as not sampled nothing is kept.
            assert len(below) == (trace and number % 2)
            if below and place is None:
                assert below[0].parent_id == f"{number + 1:016x}"
        assert len(heads._requests) == before
        given = {"traceparent": FOREIGN, "tracestate": states[-1]}
        lines = f"traceparent: {FOREIGN}\ntracestate: {states[-1]}"
        assert await get(agent, "http://api.local/", None, headers=given) == (200, lines)


@pytest.mark.parametrize(
    "fields",
    [
        [("traceparent", FOREIGN), ("traceparent", FOREIGN)],
        [("traceparent", FOREIGN), ("tracestate", "a=1"), ("tracestate", "b=2")],
        [("traceparent", FOREIGN.upper())],
        [("traceparent", f"01{FOREIGN[2:]}-more")],
        [("traceparent", "")],
        [("tracestate", "a=1")],
        [("traceparent", FOREIGN), ("tracestate", "\xe4")],
        [("traceparent", FOREIGN), ("tracestate", "")],
    ],
)
async def test_what_a_frame_cannot_say_of_a_trace_stays_among_the_fields(
    fields: list[tuple[str, str]],
) -> None:
    async with mesh_of(api=echo) as (_, agent):
        response = await agent.request("http://api.local/", headers=fields)
        lines = (await response.bytes()).decode("latin-1").split("\n")
        assert lines == [f"{name}: {value}" for name, value in fields]


async def test_a_connection_field_takes_the_fields_of_a_trace_off() -> None:
    fields = {"traceparent": FOREIGN, "tracestate": "a=1", "connection": "traceparent, tracestate"}
    async with mesh_of(api=echo) as (_, agent):
        assert await get(agent, "http://api.local/", None, headers=fields) == (200, "")


async def test_who_watches_what_is_sent_is_told_of_the_fields_of_a_trace() -> None:
    sent: list[str] = []

    def watch(message: Any, _: str) -> None:
        sent.append(message["headers"])

    async with mesh_of(api=echo) as (_, agent):
        diagnostics.CLIENT_SEND_HEADERS.subscribe(watch)
        try:
            given = {"traceparent": FOREIGN, "tracestate": "a=1", "x-other": "1"}
            await get(agent, "http://api.local/", None, headers=given)
        finally:
            diagnostics.CLIENT_SEND_HEADERS.unsubscribe(watch)
    fields = f"host: api.local\r\nx-other: 1\r\ntraceparent: {FOREIGN}\r\ntracestate: a=1\r\n"
    assert sent == [f"GET / HTTP/1.1\r\n{fields}\r\n"]

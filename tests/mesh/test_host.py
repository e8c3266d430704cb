"""The host of an app: order and fairness of starts, generations, counts, hooks, draining and closing."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from typing import Any

import pytest
from tests.mesh.app_kit import FakeStream, hosting
from tests.mesh.apps import raw_asgi, raw_wsgi

from dodici.core.errors import InvalidArgumentError, MeshError, WorkerStartError
from dodici.mesh.host import MAX_PER_TURN, TURN_BUDGET, AppHost, HostStats
from dodici.mesh.wsgi import WSGIBridge


async def turns(number: int = 3) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


class Gate:
    """An app that reports the paths of the requests that it was given, and holds each until `open()`."""

    def __init__(self, name: str = "", *, lifespan: bool = True) -> None:
        self.name = name
        self.lifespan = lifespan
        self.seen: list[str] = []
        self.events: list[str] = []
        self.stopped = asyncio.Event()
        self._gate = asyncio.Event()

    def open(self) -> None:
        self._gate.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            self.seen.append(scope["path"].removeprefix("/"))
            await self._gate.wait()
            return
        if not self.lifespan:
            raise NotImplementedError
        await receive()
        self.events.append("startup")
        scope["state"]["name"] = self.name
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.events.append("shutdown")
        self.stopped.set()
        await send({"type": "lifespan.shutdown.complete"})


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"


async def raises(scope: Any, receive: Any, send: Any) -> None:
    raise LookupError(f"no {scope['path']}")


# -- order and fairness --------------------------------------------------------------------------------


async def test_accept_only_queues() -> None:
    app = Gate()
    async with hosting(app) as host:
        streams = [FakeStream(str(n)) for n in range(3)]
        for stream in streams:
            host.accept(stream)
        assert host.stats == HostStats(queued=3, running=0, websockets=0, served=0, errors=0)
        assert all(stream.task is None for stream in streams)
        await turns()
        assert host.stats == HostStats(queued=0, running=3, websockets=0, served=0, errors=0)
        assert streams[0].state == {"name": ""}


async def test_begins_at_most_eight_in_a_turn_in_the_order_of_arrival() -> None:
    app = Gate()
    async with hosting(app) as host:
        for n in range(20):
            host.accept(FakeStream(str(n)))
        begun = []
        for _ in range(6):
            await asyncio.sleep(0)
            begun.append(host.running)
        assert begun == [
            4,
            12,
            20,
            20,
            20,
            20,
        ]  # it begins with half as many, until it knows how long they take
        await turns()
        assert app.seen == [str(n) for n in range(20)]


async def test_apps_that_need_cpu_leave_the_loop_to_others() -> None:
    """500 requests of 5 ms each, on a clock of their own: the loop turns again after two or three of them."""
    now = 0.0
    order: list[str] = []

    async def burns(scope: Any, receive: Any, send: Any) -> None:
        nonlocal now
        if scope["type"] == "lifespan":
            raise NotImplementedError
        now += 0.005
        order.append(scope["path"].removeprefix("/"))

    async with hosting(burns) as host:
        host._clock = lambda: now
        for n in range(500):
            host.accept(FakeStream(str(n)))
        gaps = []
        while len(order) < 500:
            before = now
            await asyncio.sleep(0)
            gaps.append(now - before)
        assert order == [str(n) for n in range(500)]
        assert max(gaps) <= MAX_PER_TURN // 2 * 0.005 + 1e-9  # before it has learned how long they take
        assert max(gaps[3:]) <= TURN_BUDGET + 1e-9
        await host.drained()
        assert host.served == 500


async def test_streams_that_run_their_app_at_once_are_bounded_by_time_too() -> None:
    now = 0.0

    class Inline(FakeStream):
        def run(self, app: Any, state: Any, host: Any) -> None:
            nonlocal now
            now += 0.006
            host.ended(self)

    async with hosting(nothing) as host:
        host._clock = lambda: now
        for _ in range(30):
            host.accept(Inline())
        gaps = []
        while host.served < 30:
            before = now
            await asyncio.sleep(0)
            gaps.append(now - before)
        assert max(gaps) <= TURN_BUDGET + 2 * 0.006 + 1e-9


async def test_quick_apps_are_begun_eight_a_turn_again_after_slow_ones() -> None:
    now = 0.0
    step = 0.005

    async def burns(scope: Any, receive: Any, send: Any) -> None:
        nonlocal now
        now += step

    async with hosting(burns, lifespan="off") as host:
        host._clock = lambda: now
        for _ in range(300):
            host.accept(FakeStream())
        while host.served < 100:
            await asyncio.sleep(0)
        step = 0.0
        for _ in range(2 * MAX_PER_TURN):
            await asyncio.sleep(0)
        before = host.stats.queued
        await asyncio.sleep(0)
        assert before - host.stats.queued == MAX_PER_TURN


async def test_what_was_given_up_is_not_begun() -> None:
    app = Gate()
    async with hosting(app) as host:
        streams = [FakeStream(str(n)) for n in range(4)]
        for stream in streams:
            host.accept(stream)
        drained = asyncio.create_task(host.drained())
        streams[1].given_up = streams[3].given_up = True
        await turns()
        assert app.seen == ["0", "2"]
        assert not drained.done()
        app.open()
        await drained
        assert host.served == 2
        assert streams[1].refused is streams[1].aborted is None


@pytest.mark.parametrize("has_app", [True, False])
async def test_a_stream_that_raises_does_not_strand_the_queue(
    has_app: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with hosting(nothing if has_app else None) as host:
        streams = [FakeStream(str(n)) for n in range(12)]
        for n in (0, 7, 8):
            streams[n].raises = ZeroDivisionError("a slip")
        for stream in streams:
            host.accept(stream)
        drained = asyncio.create_task(host.drained())
        for n, stream in enumerate(streams):
            if n not in {0, 7, 8}:
                await stream.over.wait()
        await drained
        assert "a slip" in str(streams[7].aborted)
        assert host.running == 0
        assert host.errors == 3
        assert caplog.text.count("ZeroDivisionError: a slip") == 3


async def test_a_stream_that_ends_before_it_raises_is_counted_once() -> None:
    class Both(FakeStream):
        def run(self, app: Any, state: Any, host: Any) -> None:
            host.ended(self)
            raise ZeroDivisionError

    app = Gate()
    async with hosting(app) as host:
        host.accept(Both())
        await turns()
        assert (host.running, host.served, host.errors) == (0, 1, 1)
        await host.replace(None)
        async with asyncio.timeout(1):
            await app.stopped.wait()


# -- generations ---------------------------------------------------------------------------------------


async def test_requests_without_an_app_are_refused() -> None:
    async with hosting() as host:
        stream = FakeStream()
        host.accept(stream)
        assert stream.refused is None
        await stream.over.wait()
        assert stream.refused == "the worker has no app"
        assert not host.has_app
        assert host.served == 0


@pytest.mark.parametrize("closing", [False, True])
async def test_requests_that_wait_when_an_app_comes_are_served_by_it(closing: bool) -> None:
    app = Gate(lifespan=False)
    async with hosting() as host:
        streams = [FakeStream(str(n)) for n in range(200)]
        for stream in streams:
            host.accept(stream)
        await host.replace(app)
        assert host.stats.queued > 100
        if closing:
            host.close_accepting()
        while host.stats.queued:
            await asyncio.sleep(0)
        await turns()
        refused = [stream.name for stream in streams if stream.refused is not None]
        assert len(app.seen) > 100
        assert refused + app.seen == [str(n) for n in range(200)]
        app.open()
        await host.drained()


async def test_no_request_reaches_the_app_before_its_startup_has_ended() -> None:
    ready = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await ready.wait()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})

    async with hosting() as host:
        replacing = asyncio.create_task(host.replace(app))
        await turns()
        assert not host.has_app
        stream = FakeStream()
        host.accept(stream)
        await stream.over.wait()
        assert stream.refused is not None
        ready.set()
        await replacing
        assert host.has_app


async def test_replacing_leaves_each_request_to_the_app_that_it_arrived_for() -> None:
    a, b = Gate("a"), Gate("b")
    async with hosting(a) as host:
        running = FakeStream("running")
        host.accept(running)
        await turns()
        replacing = asyncio.create_task(host.replace(b))
        while not host._retired:
            host.accept(FakeStream("meanwhile"))
            await asyncio.sleep(0)
        await replacing
        late = FakeStream("late")
        host.accept(late)
        await turns()
        assert b.seen == ["late"]
        assert set(a.seen) == {"running", "meanwhile"}
        assert b.events == ["startup"]
        assert a.events == ["startup"]
        a.open()
        async with asyncio.timeout(1):
            await a.stopped.wait()
        assert a.events == ["startup", "shutdown"]
        assert b.events == ["startup"]
        b.open()
        await late.over.wait()


async def test_replacing_by_none_serves_what_had_arrived_and_refuses_the_rest() -> None:
    app = Gate()
    async with hosting(app) as host:
        queued = [FakeStream(str(n)) for n in range(20)]
        for stream in queued:
            host.accept(stream)
        await host.replace(None)
        assert not host.has_app
        late = FakeStream("late")
        host.accept(late)
        await late.over.wait()
        assert late.refused == "the worker has no app"
        await turns()
        assert app.seen == [str(n) for n in range(20)]
        assert app.events == ["startup"]
        app.open()
        async with asyncio.timeout(1):
            await app.stopped.wait()


async def test_a_failing_startup_leaves_the_old_app() -> None:
    app = Gate("old")

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    async with hosting(app) as host:
        with pytest.raises(WorkerStartError, match="no database"):
            await host.replace(failing)
        with pytest.raises(InvalidArgumentError, match="has no attribute"):
            await host.replace("tests.mesh.apps.raw_asgi:nothing_there")
        with pytest.raises(LookupError, match="no database here"):
            await host.replace("tests.mesh.apps.raw_asgi:broken_factory()")
        stream = FakeStream("still")
        host.accept(stream)
        await turns()
        assert app.seen == ["still"]
        app.open()
        await stream.over.wait()
        assert app.events == ["startup"]


async def test_replacements_take_effect_in_the_order_of_their_calls() -> None:
    apps = [Gate(str(n)) for n in range(4)]
    async with hosting() as host:
        await asyncio.gather(*(host.replace(app) for app in apps))
        host.accept(FakeStream("x"))
        await turns()
        assert [app.seen for app in apps] == [[], [], [], ["x"]]
        async with asyncio.timeout(1):
            for app in apps[:3]:
                await app.stopped.wait()
        apps[3].open()


async def test_a_cancelled_replacement_ends_the_startup_and_keeps_the_old_app() -> None:
    app = Gate("old")
    cancelled = asyncio.Event()

    async def hangs(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with hosting(app) as host:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await host.replace(hangs)
        async with asyncio.timeout(1):
            await cancelled.wait()
        await host.replace(raw_asgi.Service())
        async with asyncio.timeout(1):
            await app.stopped.wait()


async def test_an_address_is_a_target_that_takes_no_requests_over_a_link() -> None:
    async with hosting("http://127.0.0.1:8000") as host:
        assert host.has_app
        assert host.address == "http://127.0.0.1:8000"
        stream = FakeStream()
        host.accept(stream)
        await stream.over.wait()
        assert stream.refused == "the worker stands for http://127.0.0.1:8000"
        await host.replace(nothing)
        assert host.address is None
        assert host.has_app


async def test_a_wsgi_app_runs_behind_the_bridge_and_its_threads_end_with_it() -> None:
    async with hosting(raw_wsgi.app, wsgi_threads=3) as host:
        bridge = host._current.call
        assert isinstance(bridge, WSGIBridge)
        assert bridge._bridge.executor._max_workers == 3
        await host.replace(None)
        await host.close()
        assert bridge._bridge.executor._shutdown


# -- hooks and errors ----------------------------------------------------------------------------------


async def test_hooks_run_in_order() -> None:
    log: list[Any] = []
    async with hosting(
        nothing,
        on_server_request=[lambda scope: log.append(("a", scope["path"])), lambda scope: log.append("b")],
        on_server_response=lambda scope, status, headers: log.append((status, headers)),
        on_server_error=lambda scope, error: log.append(error),
    ) as host:
        stream = FakeStream("x")
        host.accept(stream)
        await stream.over.wait()
        assert log == [("a", "/x"), "b", (200, [])]
        assert (host.served, host.errors) == (1, 0)


async def test_an_apps_exception_is_counted_logged_and_told(caplog: pytest.LogCaptureFixture) -> None:
    told: list[Any] = []

    def broken_hook(scope: Any, error: BaseException) -> None:
        raise RuntimeError("the hook, too")

    async with hosting(
        raises, on_server_error=[broken_hook, lambda scope, error: told.append((scope["path"], error))]
    ) as host:
        caplog.clear()
        stream = FakeStream("x")
        host.accept(stream)
        await stream.over.wait()
        assert (host.served, host.errors) == (1, 1)
        assert [(path, repr(error)) for path, error in told] == [("/x", "LookupError('no /x')")]
    record = next(one for one in caplog.records if "app raised" in one.getMessage())
    assert record.name == "dodici.mesh"
    assert record.levelno == logging.ERROR
    assert record.getMessage() == "the app raised in GET api.local/x"
    assert (record.exc_info or [None])[0] is LookupError
    assert "RuntimeError: the hook, too" in caplog.text


async def test_what_a_request_hook_raises_is_the_requests_error() -> None:
    def refuses(scope: Any) -> None:
        raise PermissionError("not you")

    app = Gate()
    async with hosting(app, on_server_request=refuses) as host:
        stream = FakeStream()
        host.accept(stream)
        await stream.over.wait()
        assert host.errors == 1
        assert app.seen == []


async def async_hook(scope: Any) -> None: ...


class AsyncHook:
    async def __call__(self, scope: Any) -> None: ...


@pytest.mark.parametrize(
    "hook",
    [
        async_hook,
        functools.partial(async_hook, None),
        AsyncHook(),
        functools.partial(AsyncHook()),
        "hook",
        [async_hook],
    ],
    ids=["function", "partial", "object", "partial of an object", "text", "list"],
)
@pytest.mark.parametrize("name", ["on_server_request", "on_server_response", "on_server_error"])
def test_refuses_hooks_that_cannot_be_called_at_once(name: str, hook: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=name) as caught:
        AppHost(**{name: hook})
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"lifespan": "maybe"}, "lifespan must be"),
        ({"app_errors": 500}, 'app_errors must be "500" or "raise"'),
        ({"wsgi_threads": 0}, "wsgi_threads must be a positive number"),
    ],
    ids=["lifespan", "app_errors", "wsgi_threads"],
)
def test_refuses_other_options(options: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidArgumentError, match=why):
        AppHost(**options)


# -- draining ------------------------------------------------------------------------------------------


async def test_drained_waits_for_what_is_here_and_not_for_what_comes() -> None:
    app = Gate()
    async with hosting(app) as host:
        await host.drained()
        first, queued = FakeStream("first"), FakeStream("queued", websocket=True)
        host.accept(first)
        await turns()
        host.accept(queued)
        drained = asyncio.create_task(host.drained())
        await turns()
        assert host.stats.websockets == 1
        assert not drained.done()
        app.open()
        await drained
        assert [first.over.is_set(), queued.over.is_set()] == [True, True]
        assert host.stats == HostStats(queued=0, running=0, websockets=0, served=2, errors=0)

        slow = Gate()
        await host.replace(slow)
        host.accept(FakeStream("before"))
        drained = asyncio.create_task(host.drained())
        await turns()
        before = next(iter(host._running))
        host.accept(FakeStream("after"))
        await turns()
        host.ended(before)
        await drained
        assert host.running == 1
        slow.open()


async def test_drained_by_names_waits_for_those_only() -> None:
    app = Gate()
    async with hosting(app) as host:
        api, other = FakeStream(authority="api.local"), FakeStream(authority="other.local")
        host.accept(api)
        host.accept(other)
        await turns()
        of_api = asyncio.create_task(host.drained(["API.local"]))
        await host.drained(["third.local"])
        await turns()
        host.ended(api)
        await of_api
        assert host.running == 1
        app.open()


async def test_a_cancelled_wait_leaves_nothing() -> None:
    app = Gate()
    async with hosting(app) as host:
        host.accept(FakeStream())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await host.drained()
        assert host._waiters == []
        app.open()


async def test_closing_the_door_serves_what_was_inside() -> None:
    app = Gate()
    app.open()
    async with hosting(app) as host:
        inside = [FakeStream(str(n)) for n in range(10)]
        for stream in inside:
            host.accept(stream)
        host.close_accepting("moved away")
        outside = FakeStream("outside")
        host.accept(outside)
        await outside.over.wait()
        assert outside.refused == "moved away"
        for stream in inside:
            await stream.over.wait()
        assert app.seen == [str(n) for n in range(10)]


async def test_abort_all_refuses_what_waits_and_aborts_what_runs() -> None:
    app = Gate()
    async with hosting(app) as host:
        streams = [FakeStream(str(n)) for n in range(12)]
        streams[11].given_up = True
        for stream in streams:
            host.accept(stream)
        await asyncio.sleep(0)
        assert (host.running, host.stats.queued) == (4, 8)
        host.abort_all("the drain is over")
        await host.drained()
        assert [stream.aborted for stream in streams] == ["the drain is over"] * 4 + [None] * 8
        assert [stream.refused for stream in streams] == [None] * 4 + ["the drain is over"] * 7 + [None]
        assert host.stats.queued == host.running == 0


async def test_close_drains_then_shuts_down_once() -> None:
    app = Gate()
    host = AppHost()
    await host.replace(app)
    stream = FakeStream()
    host.accept(stream)
    await turns()
    closes = [asyncio.create_task(host.close()) for _ in range(3)]
    await turns()
    late = FakeStream("late")
    host.accept(late)
    await late.over.wait()
    assert late.refused == "the worker is closing"
    assert app.events == ["startup"]
    app.open()
    await asyncio.gather(*closes)
    await host.close()
    assert app.events == ["startup", "shutdown"]
    assert stream.aborted is None
    assert not host.has_app
    assert asyncio.all_tasks() == {asyncio.current_task()}
    with pytest.raises(MeshError, match="closed"):
        await host.replace(app)


async def test_close_aborts_what_runs_longer(caplog: pytest.LogCaptureFixture) -> None:
    app = Gate()
    host = AppHost()
    await host.replace(app)
    stream = FakeStream()
    host.accept(stream)
    await turns()
    await host.close(0.01)
    assert stream.aborted is not None
    assert app.events == ["startup", "shutdown"]
    assert "1 requests are aborted" in caplog.text


async def test_close_does_not_wait_for_apps_that_never_return(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dodici.mesh.host.ABORT_GRACE", 0.01)

    class Stubborn(FakeStream):
        def abort(self, reason: str) -> None:
            self.aborted = reason

    app = Gate()
    host = AppHost()
    await host.replace(app)
    stream = Stubborn()
    host.accept(stream)
    await turns()
    async with asyncio.timeout(5):
        await host.close(0)
    assert app.events == ["startup", "shutdown"]
    app.open()
    await stream.over.wait()
    assert (host.running, host.served) == (0, 1)


async def test_close_waits_for_the_generations_before() -> None:
    first, second = Gate("first"), Gate("second")
    host = AppHost()
    await host.replace(first)
    host.accept(FakeStream())
    await turns()
    await host.replace(second)
    closing = asyncio.create_task(host.close())
    async with asyncio.timeout(1):
        await second.stopped.wait()
    await turns(10)
    assert not closing.done()
    first.open()
    await closing
    assert first.events == ["startup", "shutdown"]


async def test_close_ends_a_startup_that_goes_on() -> None:
    cancelled = asyncio.Event()

    async def hangs(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    host = AppHost()
    replacing = [asyncio.create_task(host.replace(hangs)) for _ in range(2)]
    await turns(5)
    async with asyncio.timeout(5):
        await host.close()
    assert cancelled.is_set()
    for task in replacing:
        with pytest.raises(MeshError, match="closed"):
            await task
    await turns()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_close_from_inside_a_request_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    host = AppHost(lifespan="off")
    closed = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await host.close(0.01)
        finally:
            closed.set()

    await host.replace(app)
    host.accept(FakeStream())
    async with asyncio.timeout(5):
        await closed.wait()
        await host.close()
    assert host.running == 0


async def test_ten_thousand_requests_leave_nothing() -> None:
    ended: list[int] = []

    class Plain(FakeStream):
        def run(self, app: Callable[..., Any], state: Any, host: Any) -> None:
            asyncio.get_running_loop().call_soon(host.ended, self)

    async with hosting(nothing) as host:
        for _ in range(100):
            for _ in range(100):
                host.accept(Plain())
            await host.drained()
            ended.append(host.served)
        assert host.served == 10_000
        assert [len(host._running), len(host._queue), len(host._waiters)] == [0, 0, 0]
        assert host._current.open == 0
        assert not host._turn_is_due

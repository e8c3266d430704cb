"""The client of the mesh: names, rotation, waiting for links, routing again, hooks, the end."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.mesh.client_kit import Bench

import dodici
from dodici.core.errors import (
    BodyAbortedError,
    ClientClosedError,
    ClientDestroyedError,
    ConnectTimeoutError,
    DodiciError,
    InvalidArgumentError,
    LinkError,
    NoTargetError,
    RequestAbortedError,
    RequestTimeoutError,
    WorkerExitedError,
)
from dodici.mesh.client import CONNECT, MeshClient
from dodici.mesh.hooks import ClientHooks, ResponseHead, hook_list
from dodici.testing import RecordingHandler, run_virtual


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    bench.worker("a")
    bench.worker("b")
    bench.publish(api=["a", "b"])
    yield bench
    await bench.client.destroy(ClientDestroyedError())
    await bench.agent.destroy()


def send(bench: Bench, origin: str = "http://api.local", **options: Any) -> RecordingHandler:
    recorder = RecordingHandler()
    recorder.dispatch(bench.mesh, {"origin": origin, "path": "/", **options})
    return recorder


def hooked(**hooks: Any) -> Bench:
    bench = Bench(hooks=ClientHooks.checked(**hooks))
    bench.worker("a")
    bench.worker("b")
    bench.publish(api=["a", "b"])
    bench.link("a")
    bench.link("b")
    return bench


# -- names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin", ["http://api.local", "http://API.Local", "http://api.local.", "http://api.local:8080"]
)
async def test_spellings_of_a_name(bench: Bench, origin: str) -> None:
    send(bench, origin)
    assert len(bench.home.asked) == 1
    assert not bench.passed


@pytest.mark.parametrize(
    "origin",
    ["http://evillocal", "http://local", "http://api.locale", "http://local.example", "http://10.0.0.1"],
)
async def test_hosts_outside_the_domain_go_on_untouched(bench: Bench, origin: str) -> None:
    options = dodici.DispatchOptions(origin=origin)
    bench.mesh.dispatch(options, RecordingHandler())
    assert bench.passed[0][0] is options
    assert not bench.home.asked


async def test_an_origin_that_is_none_is_the_next_dispatchers_error(bench: Bench) -> None:
    bench.mesh.dispatch(dodici.DispatchOptions(origin="http://a b.local"), RecordingHandler())
    bench.mesh.dispatch(dodici.DispatchOptions(), RecordingHandler())
    assert len(bench.passed) == 2


@pytest.mark.parametrize("domain", ["", ".", "a b", None, 7, "..", "-x"])
def test_a_domain_that_is_none(domain: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="domain must be a suffix"):
        MeshClient(Bench.__new__(Bench), domain=domain)  # type: ignore[arg-type]


@pytest.mark.parametrize("unknown", ["maybe", None, True])
def test_unknown_is_error_or_pass(unknown: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="unknown must be 'error' or 'pass'"):
        MeshClient(Bench.__new__(Bench), unknown=unknown)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["api", "API.local", "api.local.", "Api"])
def test_names_with_and_without_the_domain(name: str) -> None:
    assert Bench().client.domain.name(name) == "api"


@pytest.mark.parametrize("name", ["", "a b", "a/b", "-a", "a..b", None, b"api", "http://api"])
def test_names_that_are_no_hosts(name: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="must be a host such as"):
        Bench().client.domain.name(name)


async def test_a_name_nobody_has(bench: Bench) -> None:
    recorder = await send(bench, "http://other.local").wait()
    assert isinstance(recorder.error, NoTargetError)
    assert str(recorder.error) == "No target found for http://other.local: no worker has this name"
    assert recorder.error.request_not_processed
    assert recorder.error.name == "other"


async def test_unknown_names_may_pass(bench: Bench) -> None:
    other = Bench(unknown="pass")
    other.worker("a", accepting=False)
    other.publish(api=["a"])
    send(other, "http://other.local")
    assert len(other.passed) == 1
    recorder = await send(other).wait()
    assert isinstance(recorder.error, NoTargetError)
    other.publish()
    send(other)
    assert len(other.passed) == 2


# -- choice --------------------------------------------------------------------------------------------


async def test_requests_of_one_turn_spread_exactly(bench: Bench) -> None:
    a, b = bench.link("a"), bench.link("b")
    for _ in range(10):
        send(bench)
    assert (len(a.offered), len(b.offered)) == (5, 5)


async def test_clients_do_not_all_begin_with_the_same_worker() -> None:
    first = Counter()
    for _ in range(60):
        bench = Bench()
        bench.worker("a")
        bench.worker("b")
        bench.publish(api=["a", "b"])
        send(bench)
        first[bench.home.asked[0]] += 1
    assert min(first["a"], first["b"]) > 5


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ({"app": False}, "1 not ready"),
        ({"accepting": False}, "1 not accepting"),
        ({"paused": True}, "1 paused"),
    ],
)
async def test_each_of_the_three_flags_excludes(bench: Bench, flags: dict[str, bool], word: str) -> None:
    a, b = bench.link("a"), bench.link("b")
    bench.worker("a", **flags)
    bench.publish(api=["a", "b"])
    for _ in range(4):
        send(bench)
    assert (len(a.offered), len(b.offered)) == (0, 4)
    bench.worker("b", app=False, accepting=False, paused=True)
    bench.publish(api=["a", "b"])
    recorder = await send(bench).wait()
    assert isinstance(recorder.error, NoTargetError)
    bench.publish(api=["a"])
    recorder = await send(bench).wait()
    assert str(recorder.error) == f"No target found for http://api.local: of 1 workers {word}"


async def test_an_old_snapshot_is_ignored(bench: Bench) -> None:
    link = bench.link("a")
    bench.publish(api=["a"])
    bench.version -= 2
    bench.publish(api=["b"])
    send(bench)
    assert len(link.offered) == 1


# -- links ---------------------------------------------------------------------------------------------


async def test_requests_wait_for_the_link_and_keep_their_order(bench: Bench) -> None:
    bench.publish(api=["a"])
    sent = [send(bench, path=f"/{number}") for number in range(3)]
    assert bench.home.asked == ["a"]
    link = bench.link("a")
    assert [exchange.options.path for exchange in link.offered] == ["/0", "/1", "/2"]
    assert not any(recorder.ended.done() for recorder in sent)


async def test_abort_while_waiting_sends_nothing(bench: Bench) -> None:
    bench.publish(api=["a"])
    recorder = send(bench)
    recorder.controller.abort()
    await recorder.wait()
    assert isinstance(recorder.error, RequestAbortedError)
    assert not bench.link("a").offered
    assert bench.client.running == 0


async def test_a_worker_that_leaves_while_requests_wait_for_its_link(bench: Bench) -> None:
    b = bench.link("b")
    recorders = [send(bench), send(bench)]
    assert len(b.offered) == 1
    bench.worker("a", accepting=False)
    bench.publish(api=["a", "b"])
    assert len(b.offered) == 2
    assert not bench.link("a").offered
    for exchange in b.offered:
        exchange.abort()
    for recorder in recorders:
        await recorder.wait()


async def test_requests_under_another_name_of_the_worker_wait_on(bench: Bench) -> None:
    bench.publish(api=["a"], other=["a"])
    leaving, staying = send(bench), send(bench, "http://other.local")
    bench.publish(other=["a"])
    await leaving.wait()
    assert isinstance(leaving.error, NoTargetError)
    assert not staying.ended.done()
    link = bench.link("a")
    assert len(link.offered) == 1
    link.answer()
    await staying.wait()
    assert staying.error is None
    assert bench.home.asked == ["a"]


async def test_requests_wait_on_when_another_worker_changes(bench: Bench) -> None:
    b = bench.link("b")
    send(bench), send(bench)
    bench.worker("c")
    bench.publish(api=["a", "b", "c"])
    assert len(b.offered) == 1
    assert len(bench.link("a").offered) == 1


async def test_a_link_that_cannot_be_made(bench: Bench) -> None:
    b = bench.link("b")
    send(bench), send(bench)
    bench.client.link_failed("a", LinkError("refused"))
    assert len(b.offered) == 2
    bench.publish(api=["a"])
    recorder = send(bench)
    bench.client.link_failed("a", LinkError("refused"))
    await recorder.wait()
    assert isinstance(recorder.error, LinkError)


def test_a_link_that_takes_too_long() -> None:
    async def main() -> None:
        bench = Bench()
        bench.worker("a")
        bench.publish(api=["a"])
        loop = asyncio.get_running_loop()
        began = loop.time()
        recorder = await send(bench).wait()
        assert isinstance(recorder.error, ConnectTimeoutError)
        assert loop.time() - began == pytest.approx(CONNECT, abs=0.1)

    run_virtual(main())


async def test_what_was_not_sent_is_routed_again(bench: Bench) -> None:
    a, b = bench.link("a"), bench.link("b")
    send(bench), send(bench)
    a.lost = True
    bench.client.link_lost(a, ConnectionResetError("gone"), a.offered)
    assert len(b.offered) == 2
    recorder = send(bench)
    while b.offered[-1].handler is recorder:
        recorder = send(bench)
    assert bench.home.asked == ["a"], "the link that is gone is asked for again"


async def test_a_worker_that_dies_and_leaves_nobody(bench: Bench) -> None:
    bench.publish(api=["a"])
    a = bench.link("a")
    recorder = send(bench)
    a.lost = True
    cause = ConnectionResetError("gone")
    bench.client.link_lost(a, cause, a.offered)
    await recorder.wait()
    assert isinstance(recorder.error, WorkerExitedError)
    assert recorder.error.__cause__ is cause
    assert recorder.error.request_not_processed


async def test_a_refused_request_tries_each_worker_once(bench: Bench) -> None:
    bench.worker("c")
    bench.publish(api=["a", "b", "c"])
    links = [bench.link(one) for one in "abc"]
    recorder = send(bench)
    for _ in range(3):
        link = next(one for one in links if one.offered and one.offered[-1].carrier is one)
        bench.client.refused(link, link.offered[-1], "no app")
    await recorder.wait()
    assert isinstance(recorder.error, NoTargetError)
    assert [len(link.offered) for link in links] == [1, 1, 1]


# -- addresses -----------------------------------------------------------------------------------------


async def test_a_worker_that_is_an_address(bench: Bench) -> None:
    bench.worker("a", address="http://127.0.0.1:9000")
    bench.publish(api=["a"])
    send(bench, "http://api.local:81", headers={"x": "1", "host": "other"}, path="/p?q")
    options, _ = bench.passed[0]
    assert (options.origin, options.path, options.host) == ("http://127.0.0.1:9000", "/p?q", b"api.local:81")
    assert options.headers["x"] == "1"
    bench.worker("a")
    bench.publish(api=["a"])
    send(bench)
    assert len(bench.passed) == 1, "the address is forgotten"
    assert bench.home.asked == ["a"]


# -- hooks ---------------------------------------------------------------------------------------------


async def test_hooks_in_their_order_with_one_context_each() -> None:
    seen: list[tuple[str, int]] = []
    variable = contextvars.ContextVar("variable", default="none")
    values: list[str] = []

    def note(name: str) -> Any:
        def hook(*args: Any) -> None:
            seen.append((name, id(args[-1])))
            args[-1].setdefault("lock", object())
            values.append(variable.get())

        return hook

    bench = hooked(
        on_request=[note("request 1"), note("request 2")],
        allow_target=note("allow"),
        on_response=note("response"),
        on_response_end=note("end"),
        on_error=note("error"),
    )
    variable.set("the caller's")
    recorder = send(bench)
    variable.set("another")
    link = next(link for link in bench.links.values() if link.offered)
    contextvars.Context().run(link.answer)
    await recorder.wait()
    assert [name for name, _ in seen] == ["request 1", "request 2", "allow", "response", "end"]
    assert len({context for _, context in seen}) == 1
    assert set(values) == {"the caller's"}
    assert recorder.body == b"ok"


async def test_on_request_may_change_the_request_and_its_name() -> None:
    bench = hooked(on_request=lambda options, _: options.replace(headers={"x-added": "1"}))
    send(bench)
    link = next(link for link in bench.links.values() if link.offered)
    assert link.offered[0].options.headers["x-added"] == "1"
    away = hooked(on_request=lambda options, _: options.replace(origin="http://example.com"))
    send(away)
    assert away.passed[0][0].origin == "http://example.com"


@pytest.mark.parametrize("wrong", ["text", 7, {"origin": "http://api.local"}])
async def test_on_request_gives_options_or_nothing(wrong: Any) -> None:
    recorder = await send(hooked(on_request=lambda *_: wrong)).wait()
    assert isinstance(recorder.error, InvalidArgumentError)


async def test_allow_target_leaves_the_others() -> None:
    asked: list[str] = []

    def allow(options: Any, target: Any, ctx: Any) -> bool:
        asked.append(target.id)
        return bool(target.id != "a")

    bench = hooked(allow_target=allow)
    for _ in range(4):
        send(bench)
    assert (len(bench.links["a"].offered), len(bench.links["b"].offered)) == (0, 4)
    assert "a" in asked
    none = hooked(allow_target=lambda *_: False)
    recorder = await send(none).wait()
    assert isinstance(recorder.error, NoTargetError)
    assert "every worker was tried or refused" in str(recorder.error)


class Deliberate(Exception):
    pass


@pytest.mark.parametrize("where", ["on_request", "allow_target"])
async def test_a_hook_that_raises_before_anything_is_sent(where: str) -> None:
    errors: list[BaseException] = []

    def hook(*_: Any) -> None:
        raise Deliberate

    bench = hooked(**{where: hook, "on_error": lambda _, error, __: errors.append(error)})
    recorder = await send(bench).wait()
    assert isinstance(recorder.error, Deliberate)
    assert errors == [recorder.error]
    assert not any(link.offered for link in bench.links.values())


async def test_on_error_once_for_every_kind_of_failure() -> None:
    errors: list[BaseException] = []
    bench = hooked(on_error=lambda _, error, __: errors.append(error))
    aborted = send(bench)
    aborted.controller.abort()
    await aborted.wait()
    unknown = await send(bench, "http://other.local").wait()
    failed = send(bench)
    link = next(link for link in bench.links.values() if link.running)
    link.offered[-1].fail(BodyAbortedError())
    await failed.wait()
    assert errors == [aborted.error, unknown.error, failed.error]


async def test_an_on_error_hook_that_raises_hides_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def hook(*_: Any) -> None:
        raise Deliberate

    recorder = await send(hooked(on_error=hook), "http://other.local").wait()
    assert isinstance(recorder.error, NoTargetError)
    assert "on_error hook" in caplog.text


async def an_async_hook() -> None: ...


class AsyncCallable:
    async def __call__(self) -> None: ...


@pytest.mark.parametrize(
    "hook",
    [
        an_async_hook,
        functools.partial(an_async_hook),
        AsyncCallable(),
        functools.partial(AsyncCallable()),
        7,
        "x",
    ],
    ids=["async", "partial", "callable object", "partial of one", "number", "text"],
)
def test_hooks_that_cannot_be(hook: Any) -> None:
    with pytest.raises(TypeError, match="on_request must be a"):
        hook_list("on_request", hook)
    with pytest.raises(InvalidArgumentError):
        hook_list("on_request", [print, hook])


def test_what_on_response_is_given() -> None:
    head = ResponseHead(200, dodici.Headers({"a": "b"}), "OK")
    assert (head.status_code, head.headers["a"]) == (200, "b")


# -- the end -------------------------------------------------------------------------------------------


async def test_closing_the_composed_dispatcher_waits_for_its_requests(bench: Bench) -> None:
    bench.publish(api=["a"])
    link = bench.link("a")
    recorder = send(bench)
    closing = asyncio.ensure_future(bench.mesh.close())
    await asyncio.sleep(0)
    assert bench.mesh.closed
    late = await send(bench).wait()
    assert isinstance(late.error, ClientClosedError)
    outside = await send(bench, "http://example.com").wait()
    assert isinstance(outside.error, ClientClosedError)
    assert not closing.done()
    link.answer()
    await closing
    assert (await recorder.wait()).body == b"ok"


async def test_destroying_the_composed_dispatcher_fails_its_requests_alone(bench: Bench) -> None:
    bench.publish(api=["a"])
    link = bench.link("a")
    recorder = send(bench)
    agent = dodici.Agent()
    other = agent.compose(bench.client.interceptor)
    untouched = RecordingHandler()
    untouched.dispatch(other, {"origin": "http://api.local"})
    await bench.mesh.destroy()
    assert isinstance((await recorder.wait()).error, ClientDestroyedError)
    assert link.running == 1
    link.answer()
    assert (await untouched.wait()).body == b"ok"
    await other.close()


async def test_a_mesh_that_is_closed_refuses(bench: Bench) -> None:
    await bench.client.drain()
    recorder = await send(bench).wait()
    assert isinstance(recorder.error, ClientClosedError)
    bench.client.reopen()
    bench.publish(api=["a"])
    send(bench)
    assert len(bench.link("a").offered) == 1


async def test_every_failure_is_its_own_object(bench: Bench) -> None:
    bench.link("a"), bench.link("b")
    recorders = [send(bench), send(bench)]
    error = DodiciError("over")
    await bench.client.destroy(error)
    first, second = [(await recorder.wait()).error for recorder in recorders]
    assert str(first) == str(second) == "over"
    assert first is not second


async def test_the_total_deadline_runs_while_a_request_waits(bench: Bench) -> None:
    recorder = await send(bench, timeout=0.01).wait()
    assert isinstance(recorder.error, RequestTimeoutError)
    assert bench.client.running == 0

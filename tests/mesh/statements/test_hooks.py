"""Hooks: their order, their private context, what they may change, and which are refused."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import socket
import threading
from typing import Any

import pytest

from dodici import InvalidArgumentError
from dodici.mesh import WorkerInterceptor

from .kit import HERE, LATE, Mesh

ORIGIN = "http://api.local"


class Log:
    """Hooks that note what they are told, and the identity of `ctx`."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.contexts: dict[str, list[dict[str, Any]]] = {}

    def options(self) -> dict[str, Any]:
        return {
            "on_request": [
                functools.partial(self.request, "first"),
                functools.partial(self.request, "second"),
            ],
            "allow_target": self.target,
            "on_response": self.response,
            "on_response_end": self.end,
            "on_error": self.error,
        }

    def note(self, line: str, options: Any, ctx: dict[str, Any]) -> None:
        self.lines.append(line)
        self.contexts.setdefault(options.path, []).append(ctx)

    def request(self, which: str, options: Any, ctx: dict[str, Any]) -> None:
        self.note(f"on_request {which}", options, ctx)

    def target(self, options: Any, target: Any, ctx: dict[str, Any]) -> bool:
        self.note("allow_target", options, ctx)
        return True

    def response(self, options: Any, head: Any, ctx: dict[str, Any]) -> None:
        self.note(f"on_response {head.status_code}", options, ctx)

    def end(self, options: Any, head: Any, ctx: dict[str, Any]) -> None:
        self.note(f"on_response_end {head.status_code}", options, ctx)

    def error(self, options: Any, error: BaseException, ctx: dict[str, Any]) -> None:
        self.note(f"on_error {type(error).__name__}", options, ctx)


@pytest.mark.statement(63)
async def test_the_order_of_hooks_and_one_context_for_all() -> None:
    log = Log()
    async with Mesh(**log.options()) as mesh:
        [worker] = await mesh.start("hooked", target=f"{HERE}:hooked_main")
        desk = await mesh.desk(worker)
        recorder = mesh.send("http://hooked.local", "/gated?token=t")
        await desk.seen("t:started")
        assert log.lines == ["on_request first", "on_request second", "allow_target"]
        await desk.call("set", name="t:head")
        await recorder.reached("on_response_start")
        assert log.lines[3:] == ["on_response 200"]
        await desk.call("set", name="t:0")
        await recorder.wait()
        assert log.lines[4:] == ["on_response_end 200"]
        [contexts] = log.contexts.values()
        assert len({id(ctx) for ctx in contexts}) == 1
        assert await desk.call("attribute", name="order") == [
            ["request", "/gated"],
            ["response", "/gated", 200],
        ]
        await mesh.text("http://hooked.local/label?other=1")
        assert log.contexts["/label?other=1"][0] is not contexts[0]
        await desk.call("finish")


@pytest.mark.statement(63)
@pytest.mark.parametrize(
    ("origin", "path", "kind"),
    [
        ("http://nobody.local", "/", "NoTargetError"),
        (ORIGIN, "/hang?token=abort", "RequestAbortedError"),
        (ORIGIN, "/hang", "HeadersTimeoutError"),
        (ORIGIN, "/raise-late", "BodyAbortedError"),
        (ORIGIN, "/exit/hard", "WorkerExitedError"),
    ],
)
async def test_a_failure_is_told_once_and_never_after_the_end(origin: str, path: str, kind: str) -> None:
    log = Log()
    async with Mesh(**log.options()) as mesh:
        [worker] = await mesh.start("api")
        desk = await mesh.desk(worker)
        timeout = 0.1 if kind == "HeadersTimeoutError" else 10.0
        recorder = mesh.send(origin, path, headers_timeout=timeout)
        if kind == "RequestAbortedError":
            await desk.seen("abort:started")
            recorder.controller.abort()
        await recorder.wait()
        assert type(recorder.error).__name__ == kind
        assert log.lines.count(f"on_error {kind}") == 1
        assert not [line for line in log.lines if line.startswith("on_response_end")]
        assert sum(line.startswith("on_error") for line in log.lines) == 1
        [contexts] = log.contexts.values()
        assert len({id(ctx) for ctx in contexts}) == 1


@pytest.mark.statement(63)
async def test_on_request_may_change_the_request() -> None:
    def change(options: Any, ctx: Any) -> Any:
        return options.replace(headers=[("x-added", "by a hook")], method="PUT")

    seen: list[str] = []

    def again(options: Any, ctx: Any) -> None:
        seen.append(options.method)

    async with Mesh(on_request=[change, again]) as mesh:
        await mesh.start("api")
        told = await mesh.json(f"{ORIGIN}/scope")
        assert ["x-added", "by a hook"] in told["headers"]
        assert told["method"] == "PUT"
        assert seen == ["PUT"]


@pytest.mark.statement(63)
async def test_allow_target_takes_the_next_candidate() -> None:
    refused: set[str] = set()
    async with Mesh(allow_target=lambda options, target, ctx: target.id not in refused) as mesh:
        one, two = await mesh.start("api", 2)
        refused.add(one.id)
        assert await mesh.spread(f"{ORIGIN}/whoami", 6) == [str(two.pid)] * 6
        refused.add(two.id)
        assert await mesh.spread(f"{ORIGIN}/whoami", 2) == ["!NoTargetError"] * 2
        refused.clear()
        assert len(set(await mesh.spread(f"{ORIGIN}/whoami", 2))) == 2


@pytest.mark.statement(63)
async def test_hooks_see_the_context_variables_of_the_caller() -> None:
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")
    seen: list[str] = []

    def hook(*_: Any) -> None:
        seen.append(who.get())

    async with Mesh(on_request=hook, on_response=hook, on_response_end=hook) as mesh:
        await mesh.start("api")

        async def ask(name: str) -> None:
            who.set(name)
            await mesh.text(f"{ORIGIN}/slowly")

        await asyncio.gather(*(ask(f"caller {index}") for index in range(5)))
    assert sorted(seen) == sorted([f"caller {index}" for index in range(5)] * 3)


HOOKS = ["on_request", "allow_target", "on_response", "on_response_end", "on_error"]


async def _asynchronous(*_: Any) -> None:
    pass


class _AsyncCallable:
    async def __call__(self, *_: Any) -> None:
        pass


@pytest.mark.statement(64)
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(
    "wrong",
    [_asynchronous, functools.partial(_asynchronous, 1), _AsyncCallable(), "a string", 7],
    ids=["async", "partial", "callable", "text", "number"],
)
async def test_hooks_that_cannot_be_called_are_refused_at_construction(hook: str, wrong: Any) -> None:
    for given in (wrong, [lambda *_: None, wrong]):
        with pytest.raises(TypeError, match=hook) as caught:
            WorkerInterceptor(**{hook: given})
        assert isinstance(caught.value, InvalidArgumentError)


@pytest.mark.statement(65)
async def test_the_context_may_hold_what_cannot_be_pickled() -> None:
    lock = threading.Lock()
    left, right = socket.socketpair()
    seen: list[Any] = []

    def put(options: Any, ctx: dict[str, Any]) -> None:
        ctx["lock"], ctx["socket"], ctx["function"] = lock, left, lambda: None

    def look(options: Any, head: Any, ctx: dict[str, Any]) -> None:
        seen.append((ctx["lock"] is lock, ctx["socket"] is left, callable(ctx["function"])))

    with left, right:
        async with Mesh(on_request=put, on_response=look, on_response_end=look) as mesh:
            [worker] = await mesh.start("api")
            assert await mesh.text(f"{ORIGIN}/whoami") == str(worker.pid)
    assert seen == [(True, True, True)] * 2


@pytest.mark.statement(64)
async def test_what_was_removed_from_the_interface_is_refused_by_name(mesh: Mesh) -> None:
    with pytest.raises(TypeError, match=r"set_accepting.*pause_worker"):
        WorkerInterceptor(can_accept=lambda: True)
    worker = mesh.worker(LATE)
    with pytest.raises(TypeError, match=r"set_accepting.*pause_worker"):
        await mesh.interceptor.route("api", worker, meta={})

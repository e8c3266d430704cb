"""The same promises from workers in a thread of their own, and in the coordinator's loop."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from dodici import BodyAbortedError, WorkerExitedError, WorkerStartError
from dodici.mesh import current
from dodici.testing.app import BoardControl

from .apps import MeshApp
from .kit import Mesh, within

pytestmark = pytest.mark.parametrize("kind", ["thread", "loop"])

ORIGIN = "http://api.local"


class InProcess(MeshApp):
    """An app in this process. `call` runs a coroutine where it lives."""

    def __init__(self, label: str = "plain") -> None:
        super().__init__(label)
        self.control = BoardControl(self.board)
        self.thread = 0

    async def startup(self, state: dict[str, Any]) -> None:
        await super().startup(state)
        self.loop = asyncio.get_running_loop()
        self.wired = current()
        self.thread = threading.get_ident()
        self.board.set("startup")

    async def call(self, coroutine: Any) -> Any:
        if self.loop is asyncio.get_running_loop():
            return await coroutine
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self.loop))


class Slow(InProcess):
    async def startup(self, state: dict[str, Any]) -> None:
        self.board.set("starting")
        await self.board.wait("start")
        await super().startup(state)


class Unwilling(InProcess):
    async def _lifespan(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "the database is on fire"})


@pytest.mark.statement(2)
async def test_no_request_before_the_start_up_has_ended(mesh: Mesh, kind: str) -> None:
    ready, slow = InProcess("ready"), Slow("slow")
    await mesh.start("api", target=ready, kind=kind)
    routing = asyncio.ensure_future(mesh.interceptor.route("api", mesh.worker(slow, kind=kind)))
    await slow.control.wait("starting")
    assert await mesh.spread(f"{ORIGIN}/label", 20) == ["ready"] * 20
    assert not routing.done()
    slow.board.set("start")
    await within(routing, "route()")
    assert set(await mesh.spread(f"{ORIGIN}/label", 2)) == {"ready", "slow"}
    assert (ready.thread == threading.get_ident()) is (kind == "loop")


@pytest.mark.statement(3)
async def test_a_start_up_that_fails(mesh: Mesh, kind: str) -> None:
    worker = mesh.worker(Unwilling(), kind=kind)
    with pytest.raises(WorkerStartError, match="the database is on fire"):
        await mesh.route("api", worker)
    assert await mesh.outcome(ORIGIN) == "!NoTargetError"
    await within(worker.wait(), "its end")
    assert worker.state == "exited"


@pytest.mark.statement(7)
async def test_set_accepting_and_pause_are_two_flags(mesh: Mesh, kind: str) -> None:
    one, two = InProcess("one"), InProcess("two")
    [worker] = await mesh.start("api", target=one, kind=kind)
    await mesh.start("api", target=two, kind=kind)
    for _ in range(10):
        await one.call(one.wired.set_accepting(False))
        assert await mesh.spread(f"{ORIGIN}/label", 4) == ["two"] * 4
        assert await two.call(_label(two)) == "two"
        await mesh.interceptor.pause_worker(worker)
        await one.call(one.wired.set_accepting(True))
        assert await mesh.spread(f"{ORIGIN}/label", 4) == ["two"] * 4
        await mesh.interceptor.resume_worker(worker)
        assert set(await mesh.spread(f"{ORIGIN}/label", 2)) == {"one", "two"}


async def _label(app: InProcess) -> str:
    response = await app.wired.request(f"{ORIGIN}/label")
    text: str = await response.text()
    return text


@pytest.mark.statement(24)
@pytest.mark.parametrize("way", ["stop", "unroute", "close"])
async def test_leaving_waits_for_the_last_byte_and_shuts_down_once(mesh: Mesh, kind: str, way: str) -> None:
    app = InProcess()
    [worker] = await mesh.start("api", target=app, kind=kind)
    recorder = mesh.send(ORIGIN, "/gated?parts=2&token=t")
    await app.control.set("t:head")
    await app.control.set("t:0")
    await recorder.received(7)
    leaving = asyncio.ensure_future(
        {
            "stop": lambda: worker.stop(),
            "unroute": lambda: mesh.interceptor.unroute("api", worker),
            "close": lambda: app.call(app.wired.close()),
        }[way]()
    )
    await mesh.applied(lambda snapshot: "api" not in snapshot.routes)
    assert not leaving.done()
    assert app.shutdowns == 0
    await app.control.set("t:1")
    assert (await recorder.wait()).body == b"part-0;part-1;"
    await within(leaving, way)
    if way == "unroute":
        await worker.stop()
    assert await within(worker.wait(), "its end") == 0
    assert (app.startups, app.shutdowns) == (1, 1)


@pytest.mark.statement(29)
async def test_kill_fails_what_runs_and_a_sibling_takes_the_next(mesh: Mesh, kind: str) -> None:
    doomed, sibling = InProcess("doomed"), InProcess("sibling")
    [worker] = await mesh.start("api", target=doomed, kind=kind)
    waiting = mesh.send(ORIGIN, "/hang?token=a")
    begun = mesh.send(ORIGIN, "/hang-body?token=b")
    await doomed.control.wait("a:started")
    await begun.received(5)
    await mesh.start("api", target=sibling, kind=kind)
    worker.kill()
    assert isinstance((await waiting.wait()).error, WorkerExitedError)
    assert isinstance((await begun.wait()).error, BodyAbortedError)
    assert await mesh.spread(f"{ORIGIN}/label", 4) == ["sibling"] * 4
    await within(worker.wait(), "its end")
    assert worker.state == "exited"


@pytest.mark.statement(44)
async def test_the_app_hears_of_a_caller_that_went(mesh: Mesh, kind: str) -> None:
    app = InProcess()
    await mesh.start("api", target=app, kind=kind)
    recorder = mesh.send(ORIGIN, "/watch?token=t")
    await recorder.received(5)
    recorder.controller.abort()
    await recorder.wait()
    for event in ("heard:http.disconnect", "refused", "ended"):
        await within(app.control.wait(f"t:{event}"), event)


@pytest.mark.statement(56)
async def test_a_worker_that_calls_its_own_name_a_hundred_deep(mesh: Mesh, kind: str) -> None:
    await mesh.start("api", target=InProcess(), kind=kind)
    chains = (mesh.text(f"{ORIGIN}/nest/100?at=api.local") for _ in range(8))
    assert await within(asyncio.gather(*chains), "eight chains", 30) == ["100"] * 8


@pytest.mark.statement(66)
async def test_replacing_the_app_mixes_nothing(mesh: Mesh, kind: str) -> None:
    app, newer = InProcess("A"), InProcess("B")
    await mesh.start("api", target=app, kind=kind)
    held = mesh.send(ORIGIN, "/gated?token=held")
    await app.control.wait("held:started")
    await app.call(app.wired.replace_server(newer))
    assert await mesh.spread(f"{ORIGIN}/slowly", 4) == ["BBB"] * 4
    assert app.shutdowns == 0
    await app.control.set("held:head")
    await app.control.set("held:0")
    assert (await held.wait()).body == b"part-0;"
    await app.call(app.wired.replace_server(None))
    assert await mesh.outcome(f"{ORIGIN}/label") == "!NoTargetError"
    await app.call(app.wired.replace_server(newer))
    assert await mesh.text(f"{ORIGIN}/label") == "B"


@pytest.mark.statement(58)
async def test_members_of_different_kinds_reach_each_other(mesh: Mesh, kind: str) -> None:
    app = InProcess("here")
    [process] = await mesh.start("there")
    await mesh.start("here", target=app, kind=kind)
    desk = await mesh.desk(process)
    assert await desk.call("spread", url="http://here.local/label", count=3) == ["here"] * 3
    body = b"x" * 1_000_000
    response = await mesh.agent.request("http://there.local/relay?path=here,there", method="POST", body=body)
    assert await within(response.bytes(), "the relay") == body

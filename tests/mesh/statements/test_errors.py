"""Apps and hooks that fail: what the caller gets, and that nothing else is harmed."""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from dodici import BodyAbortedError, RemoteAppError

from .apps import MeshApp
from .kit import HERE, Desk, Mesh, no_tasks_left, within

pytestmark = pytest.mark.asyncio(loop_scope="module")

ORIGIN = "http://api.local"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh() -> AsyncIterator[Mesh]:
    """`api` answers 500 for an app that raises; `raising` tells the caller."""
    tasks = asyncio.all_tasks()
    async with Mesh() as mesh:
        await mesh.start("api")
        await mesh.start("raising", app_errors="raise")
        yield mesh
    await no_tasks_left(tasks)


@pytest_asyncio.fixture(loop_scope="module")
async def desk(mesh: Mesh) -> Desk:
    return await mesh.desk(mesh.workers[0])


@pytest.mark.statement(48)
@pytest.mark.parametrize("path", ["/raise", "/raise-odd", "/raise-local"])
async def test_an_app_that_raises_is_a_500(mesh: Mesh, path: str) -> None:
    recorder = await mesh.send(ORIGIN, path).wait()
    assert recorder.error is None
    assert recorder.status_code == 500
    assert b"Traceback" not in recorder.body
    assert await mesh.text(f"{ORIGIN}/label") == "plain"


RAISED = {
    "/raise": ("DeliberateError", "before the head, as asked"),
    "/raise-odd": ("OddError", "odd 7 words"),
    "/raise-local": ("LocalError", "of a class that nobody can import"),
}


@pytest.mark.statement(48)
@pytest.mark.parametrize("path", RAISED)
async def test_with_app_errors_raise_the_error_crosses_as_text(mesh: Mesh, path: str) -> None:
    kind, text = RAISED[path]
    recorder = await mesh.send("http://raising.local", path).wait()
    error = recorder.error
    assert isinstance(error, RemoteAppError)
    assert error.type_name.rpartition(".")[2] == kind
    assert text in str(error)
    assert "Traceback (most recent call last)" in error.remote_traceback
    assert f"{kind}: {text}" in error.remote_traceback
    assert error.__cause__ is None or isinstance(error.__cause__, Exception)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.type_name, str(again)) == (RemoteAppError, error.type_name, str(error))
    assert await mesh.text("http://raising.local/label") == "plain"


@pytest.mark.statement(48)
@pytest.mark.parametrize("kind", ["thread", "loop"])
async def test_the_same_in_threads_and_in_the_loop(
    mesh: Mesh, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Mesh() as own:
        await own.start("api", target=MeshApp(), kind=kind)
        await own.start("raising", target=MeshApp(), kind=kind, app_errors="raise")
        with caplog.at_level(logging.ERROR, logger="dodici.mesh"):
            recorder = await own.send(ORIGIN, "/raise-odd").wait()
        assert recorder.status_code == 500
        assert "odd 7 words" in caplog.text  # with its traceback, where the app runs
        recorder = await own.send("http://raising.local", "/raise-odd").wait()
        assert isinstance(recorder.error, RemoteAppError)
        assert "odd 7 words" in recorder.error.remote_traceback


@pytest.mark.statement(49)
@pytest.mark.parametrize("host", ["api", "raising"])
async def test_an_app_that_raises_after_its_head_aborts_the_body(mesh: Mesh, host: str) -> None:
    recorder = await mesh.send(f"http://{host}.local", "/raise-late").wait()
    assert recorder.status_code == 200
    assert recorder.body == b"some"
    assert isinstance(recorder.error, BodyAbortedError)
    assert await mesh.text(f"http://{host}.local/label") == "plain"


@pytest.mark.statement(49)
async def test_an_app_that_sends_nothing_is_an_error_and_no_hang(mesh: Mesh) -> None:
    recorder = await mesh.send(ORIGIN, "/nothing").wait()
    assert recorder.status_code == 500
    recorder = await mesh.send("http://raising.local", "/nothing").wait()
    assert isinstance(recorder.error, RemoteAppError) or recorder.status_code == 500
    assert await mesh.text(f"{ORIGIN}/label") == "plain"


@pytest.mark.statement(49)
async def test_a_second_start_is_an_error_in_the_app(mesh: Mesh, desk: Desk) -> None:
    recorder = await mesh.send(ORIGIN, "/twice?token=s49").wait()
    assert recorder.status_code in {200, 500}
    await desk.seen("s49:ended")
    assert await desk.call("get", name="s49:second start refused") == 1
    assert (recorder.status_code == 500) == (recorder.error is None)
    assert await mesh.text(f"{ORIGIN}/label") == "plain"


class _HookError(Exception):
    pass


@pytest.mark.statement(50)
@pytest.mark.parametrize("hook", ["on_request", "allow_target", "on_response", "on_response_end"])
async def test_a_client_hook_that_raises_is_the_callers_error(mesh: Mesh, hook: str) -> None:
    error = _HookError(hook)
    errors: list[BaseException] = []

    def raising(options: Any, *_: Any) -> None:
        if options.path.startswith("/echo"):
            raise error

    async with Mesh(**{hook: raising}, on_error=lambda options, error, ctx: errors.append(error)) as own:
        [worker] = await own.start("api")
        desk = await own.desk(worker)
        recorder = await own.send(ORIGIN, "/echo?token=s50").wait()
        assert recorder.error is error
        assert errors == [error]
        assert await own.text(f"{ORIGIN}/whoami") == str(worker.pid)
        sent = await desk.call("get", name="s50:count")
        assert sent == (0 if hook in {"on_request", "allow_target"} else 1)


@pytest.mark.statement(50)
async def test_an_on_error_hook_that_raises_hides_nothing(mesh: Mesh) -> None:
    def raising(options: Any, error: BaseException, ctx: Any) -> None:
        raise _HookError

    async with Mesh(on_error=raising) as own:
        assert await own.outcome("http://nobody.local/") == "!NoTargetError"
        [worker] = await own.start("api")
        assert await own.text(f"{ORIGIN}/whoami") == str(worker.pid)


@pytest.mark.statement(50)
async def test_a_server_hook_that_raises_is_that_requests_error(mesh: Mesh) -> None:
    [worker] = await mesh.start("hooked", target=f"{HERE}:hooked_main")
    desk = await mesh.desk(worker)
    held = mesh.send("http://hooked.local", "/gated?token=held")
    await desk.seen("held:started")
    recorder = await mesh.send("http://hooked.local", "/hook-raises?token=s50h").wait()
    assert recorder.status_code == 500
    assert await desk.call("get", name="s50h:count") == 0
    await desk.call("set", name="held:head")
    await desk.call("set", name="held:0")
    assert (await held.wait()).body == b"part-0;"
    assert await mesh.text("http://hooked.local/label") == "plain"
    seen = [tuple(each) for each in await desk.call("attribute", name="order")]
    assert ("error", "/hook-raises", "RuntimeError") in seen
    await desk.call("finish")
    await within(worker.wait(), "the end of main()")

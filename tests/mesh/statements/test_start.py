"""How worker processes are started: interpreters of their own, that need no guard in the main script."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from .kit import APP, HERE, ROOT, Mesh, alive, environment, within

URL = "http://api.local/whoami"

_UNGUARDED = """
import asyncio
from dodici import Agent
from dodici.mesh import Worker, WorkerInterceptor

print("the script runs", flush=True)

async def main():
    interceptor = WorkerInterceptor()
    workers = [Worker({app!r}) for _ in range(2)]
    await interceptor.route("api", workers)
    agent = Agent().compose(interceptor)
    answers = set()
    for _ in range(4):
        response = await agent.request("http://api.local/whoami")
        answers.add(await response.text())
    assert answers == {{str(worker.pid) for worker in workers}}
    await interceptor.close()
    await agent.close()
    assert [await worker.wait() for worker in workers] == [0, 0]
    print("and ends", flush=True)

asyncio.run(main())
"""


@pytest.mark.statement(68)
def test_a_script_without_a_guard_runs_once(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(_UNGUARDED.format(app=APP))
    result = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["the script runs", "and ends"]
    assert result.stderr == ""


@pytest.mark.statement(68)
async def test_a_worker_is_an_interpreter_of_its_own_and_no_fork(mesh: Mesh) -> None:
    lock = threading.Lock()
    other = threading.Thread(target=lock.acquire, daemon=True)
    with lock:
        # A fork would copy this process with a thread in it that holds a lock.
        other.start()
        [worker] = await mesh.start("api", env={"MESH_TEST_OWN": "7"})
        desk = await mesh.desk(worker)
        modules = await desk.call("modules")
        assert "pytest" not in modules
        assert "__mp_main__" not in modules
        told = await desk.call("environment")
    other.join()
    assert told["pid"] == worker.pid != os.getpid()
    assert told["cwd"] == str(ROOT)
    assert told["env"]["MESH_TEST_OWN"] == "7"


@pytest.mark.statement(68)
async def test_a_worker_has_no_descriptor_that_is_not_its_own(mesh: Mesh) -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    try:
        [worker] = await mesh.start("api")
        theirs = {os.readlink(f"/proc/{worker.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{worker.pid}/fd")}
        assert os.readlink(f"/proc/self/fd/{write}") not in theirs
    finally:
        os.close(read)
        os.close(write)


@pytest.mark.statement(68)
async def test_sigint_is_the_coordinators_business(mesh: Mesh) -> None:
    workers = await mesh.start("api", 2)
    desks = await mesh.desks(workers)
    held = mesh.send("http://api.local", "/gated?token=held")
    while sum([await desk.call("get", name="held:started") for desk in desks]) < 1:
        await asyncio.sleep(0)
    for worker in workers:
        os.kill(worker.pid, signal.SIGINT)
    for _ in range(3):
        assert set(await mesh.spread(URL, 4)) == {str(worker.pid) for worker in workers}
    for desk in desks:
        await desk.call("set", name="held:head")
        await desk.call("set", name="held:0")
    assert (await held.wait()).body == b"part-0;"
    assert all(alive(worker.pid) for worker in workers)


@pytest.mark.statement(68)
async def test_sigterm_drains_and_ends_the_worker(mesh: Mesh) -> None:
    [worker] = await mesh.start("api")
    desk = await mesh.desk(worker)
    held = mesh.send("http://api.local", "/gated?token=held")
    await desk.seen("held:started")
    os.kill(worker.pid, signal.SIGTERM)
    await mesh.applied(lambda snapshot: "api" not in snapshot.routes)
    assert await mesh.outcome(URL) == "!NoTargetError"
    assert not held.ended.done()
    await desk.call("set", name="held:head")
    await desk.call("set", name="held:0")
    assert (await held.wait()).body == b"part-0;"
    assert await within(worker.wait(), "its end") == 0
    assert desk.events["shutdown:plain"] == 1


@pytest.mark.statement(68)
@pytest.mark.parametrize("target", [APP, f"{HERE}:chatty_factory()"], ids=["requests", "start"])
async def test_what_a_worker_prints_is_not_mixed_into_its_messages(mesh: Mesh, target: str) -> None:
    [worker] = await mesh.start("api", target=target)
    answers = await asyncio.gather(*(mesh.text("http://api.local/noise") for _ in range(5)))
    assert answers == ["quiet"] * 5
    assert await mesh.text(URL) == str(worker.pid)
    assert await within(worker.stop(), "stop()") is None or worker.state == "exited"


@pytest.mark.statement(68)
async def test_stop_kill_and_wait(mesh: Mesh) -> None:
    stopped, killed = await mesh.start("api", 2)
    desk = await mesh.desk(stopped)
    await within(stopped.stop(), "stop()")
    assert await within(stopped.wait(), "its end") == 0
    assert stopped.state == "exited"
    await within(desk.gone.wait(), "the desk's end")
    assert desk.events["shutdown:plain"] == 1
    assert await mesh.spread(URL, 4) == [str(killed.pid)] * 4
    killed.kill()
    assert await within(killed.wait(), "its end") == -signal.SIGKILL
    await mesh.applied(lambda snapshot: not snapshot.routes)
    assert await mesh.outcome(URL) == "!NoTargetError"


@pytest.mark.statement(68)
async def test_dodici_request_in_a_worker_goes_through_the_mesh(mesh: Mesh) -> None:
    [worker] = await mesh.start("api")
    [other] = await mesh.start("other")
    desk = await mesh.desk(worker)
    assert await desk.call("global_request", url="http://other.local/whoami") == str(other.pid)

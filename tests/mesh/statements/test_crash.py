"""Workers that die: what ran on them fails at once, what did not goes elsewhere, and nothing is left of them."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from dodici import Agent, BodyAbortedError, SocketError, WorkerExitedError
from dodici.interceptors import retry
from dodici.testing import RecordingHandler
from dodici.testing.target import LoopComplaints

from .kit import APP, ROOT, Mesh, Office, alive, environment, kill, within
from .orders import BADGE, OFFICE

URL = "http://api.local/whoami"


@pytest.mark.statement(29)
async def test_fifty_pending_requests_fail_at_once_and_a_sibling_takes_the_next(mesh: Mesh) -> None:
    [doomed] = await mesh.start("api")
    desk = await mesh.desk(doomed)
    pending = [mesh.send("http://api.local", f"/hang?token=p{index}") for index in range(50)]
    for index in range(50):
        await desk.seen(f"p{index}:started")
    [sibling] = await mesh.start("api")
    killed = time.monotonic()
    kill(doomed.pid)
    for recorder in pending:
        await recorder.wait()
        assert isinstance(recorder.error, WorkerExitedError)
        assert isinstance(recorder.error, SocketError)
    assert time.monotonic() - killed < 4.0
    assert await mesh.spread(URL, 10) == [str(sibling.pid)] * 10
    assert await within(doomed.wait(), "the worker's end") == -9
    assert doomed.state == "exited"
    assert doomed.id not in mesh.interceptor.snapshot().members


@pytest.mark.statement(29)
async def test_other_members_see_the_death_too(mesh: Mesh) -> None:
    [doomed] = await mesh.start("api")
    [client_worker] = await mesh.start("client")
    client, desk = await mesh.desks([client_worker, doomed])
    asking = client.give("spread", url="http://api.local/hang?token=hang", count=20)
    await desk.seen("hang:started")
    kill(doomed.pid)
    assert await within(asking, "the client's requests", 2.0) == ["!WorkerExitedError"] * 20
    await mesh.applied(lambda snapshot: "api" not in snapshot.routes)
    [sibling] = await mesh.start("api")
    assert await client.call("spread", url=URL, count=4) == [str(sibling.pid)] * 4


@pytest.mark.statement(29)
async def test_requests_that_were_not_handed_over_are_routed_again(mesh: Mesh) -> None:
    doomed, sibling = await mesh.start("api", 2)
    await mesh.spread(URL, 4)
    kill(doomed.pid)
    os.waitid(os.P_PID, doomed.pid, os.WEXITED | os.WNOWAIT)
    # The loop will read of its death before it has written any of these.
    sent = [mesh.send("http://api.local", "/whoami") for _ in range(10)]
    for recorder in sent:
        await recorder.wait()
        assert recorder.body == str(sibling.pid).encode(), recorder.summary()
    assert await mesh.spread(URL, 10) == [str(sibling.pid)] * 10


@pytest.mark.statement(29)
async def test_what_waited_for_a_link_with_the_dead_is_routed_again(mesh: Mesh) -> None:
    [doomed] = await mesh.start("api")
    desk = await mesh.desk(doomed)
    later: list[RecordingHandler] = []

    def again(*_: Any) -> None:
        # Told of the death before the mesh is: the dead one is still in the rotation.
        later.extend(mesh.send("http://api.local", "/whoami") for _ in range(2))

    pending = [
        mesh.send("http://api.local", "/hang?token=p", RecordingHandler(on_response_error=again))
        for _ in range(10)
    ]
    while await desk.call("get", name="p:count") < 10:
        pass
    [sibling] = await mesh.start("api")
    kill(doomed.pid)
    for recorder in pending:
        await recorder.wait()
    assert len(later) == 20
    for recorder in later:
        await recorder.wait()
        assert recorder.body == str(sibling.pid).encode(), recorder.summary()


@pytest.mark.statement(30)
async def test_children_that_the_worker_forked_do_not_hide_its_death(mesh: Mesh) -> None:
    [doomed] = await mesh.start("api")
    [client_worker] = await mesh.start("client")
    desk, client = await mesh.desks([doomed, client_worker])
    elsewhere = client.give("spread", url="http://api.local/hang?token=there", count=3)
    pending = [mesh.send("http://api.local", "/hang?token=here") for _ in range(3)]
    await desk.seen("there:started")
    await desk.seen("here:started")
    children = await desk.call("fork", count=3)
    try:
        killed = time.monotonic()
        kill(doomed.pid)
        for recorder in pending:
            await recorder.wait()
            assert isinstance(recorder.error, WorkerExitedError)
        assert await within(elsewhere, "the client's requests", 2.0) == ["!WorkerExitedError"] * 3
        assert time.monotonic() - killed < 4.0
        assert all(alive(child) for child in children)
        assert await within(doomed.wait(), "the worker's end") == -9
    finally:
        for child in children:
            kill(child)


@pytest.mark.statement(31)
@pytest.mark.parametrize("path", ["/partial?token=t", "/hang-body?token=t"], ids=["length", "no-length"])
async def test_a_crash_after_the_head_is_no_short_body(mesh: Mesh, path: str) -> None:
    [doomed] = await mesh.start("api")
    response = await mesh.agent.request(f"http://api.local{path}")
    assert response.status_code == 200
    recorder = mesh.send("http://api.local", path)
    await recorder.received(5)
    kill(doomed.pid)
    with pytest.raises(BodyAbortedError):
        await within(response.bytes(), "the body")
    await recorder.wait()
    assert isinstance(recorder.error, BodyAbortedError)
    assert isinstance(recorder.error, SocketError)
    assert recorder.names[-1] == "response_error"


@pytest.mark.statement(32)
async def test_a_crash_in_mid_upload_closes_the_callers_source(mesh: Mesh) -> None:
    [doomed] = await mesh.start("api")
    desk = await mesh.desk(doomed)
    closed = pulled = 0

    async def source() -> AsyncIterator[bytes]:
        nonlocal closed, pulled
        try:
            while True:
                pulled += 1
                yield bytes(16384)
                await asyncio.sleep(0)
        finally:
            closed += 1

    with LoopComplaints() as complaints:
        recorder = mesh.send("http://api.local", "/echo?token=up", method="POST", body=source())
        await desk.seen("up:read")
        kill(doomed.pid)
        await recorder.wait()
        assert isinstance(recorder.error, WorkerExitedError)
        await within(doomed.wait(), "the worker's end")
        gc.collect()
        await asyncio.sleep(0)
    assert closed == 1
    assert pulled > 0
    assert not complaints


_COORDINATOR = """
import asyncio, json, os, sys
from dodici import Agent
from dodici.mesh import Worker, WorkerInterceptor

async def main():
    interceptor = WorkerInterceptor()
    environments = json.loads(sys.argv[1])
    workers = [Worker({app!r}, env=environment) for environment in environments]
    for name, worker in zip(("api", "client"), workers):
        await interceptor.route(name, worker)
    print(json.dumps([worker.pid for worker in workers]), flush=True)
    agent = Agent().compose(interceptor)
    await agent.request("http://client.local/ask?url=http://api.local/gated%3Ftoken%3Dheld")

asyncio.run(main())
"""


@pytest.mark.statement(33)
async def test_workers_of_a_dead_coordinator_drain_and_exit(tmp_path: Path) -> None:
    script = tmp_path / "coordinator.py"
    script.write_text(_COORDINATOR.format(app=APP))
    async with Office() as office:
        badges, environments = zip(*(office.badge() for _ in range(2)), strict=True)
        changed = [{name: theirs[name] for name in (OFFICE, BADGE, "PYTHONPATH")} for theirs in environments]
        with open(tmp_path / "log", "wb") as log:
            coordinator = await asyncio.create_subprocess_exec(
                sys.executable,
                str(script),
                json.dumps(changed),
                cwd=ROOT,
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=log,
            )
        pids: list[int] = []
        try:
            assert coordinator.stdout is not None
            line = await within(coordinator.stdout.readline(), "the coordinator's line")
            assert line, (tmp_path / "log").read_text()
            pids = json.loads(line)
            api, client = [await office.desk(badge) for badge in badges]
            assert [api.pid, client.pid] == pids
            await api.seen("held:started")
            coordinator.kill()
            await coordinator.wait()
            # Both drain: what runs in them, for whomever, ends in its own time.
            await client.call("wait", name="anonymous:started")
            await api.call("set", name="held:head")
            await api.call("set", name="held:0")
            await client.heard("asked:200")
            await within(api.gone.wait(), "the end of the first worker")
            await within(client.gone.wait(), "the end of the second worker")
            assert (api.events["shutdown:plain"], client.events["shutdown:plain"]) == (1, 1)
            _, left = psutil.wait_procs([psutil.Process(pid) for pid in pids if alive(pid)], timeout=5)
            assert not [process for process in left if alive(process.pid)]
        finally:
            for pid in [*pids, coordinator.pid]:
                kill(pid)
            await coordinator.wait()
            await asyncio.sleep(0)


@pytest.mark.statement(34)
@pytest.mark.parametrize("how", ["hard", "soft"])
async def test_an_app_that_exits_is_a_crash(mesh: Mesh, how: str) -> None:
    workers = {worker.pid: worker for worker in await mesh.start("api", 2)}
    ends = {asyncio.ensure_future(worker.wait()): pid for pid, worker in workers.items()}
    assert await mesh.outcome(f"http://api.local/exit/{how}") == "!WorkerExitedError"
    [end], others = await within(asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED), "the end of one")
    assert end.result() == 0
    [left] = [pid for pid in workers if pid != ends[end]]
    assert await mesh.spread(URL, 4) == [str(left)] * 4
    for other in others:
        other.cancel()


@pytest.mark.statement(34)
async def test_an_app_that_raises_cancelled_fails_that_request_alone(mesh: Mesh) -> None:
    [worker] = await mesh.start("api")
    desk = await mesh.desk(worker)
    other = mesh.send("http://api.local", "/gated?token=other")
    await desk.seen("other:started")
    recorder = await mesh.send("http://api.local", "/cancelled").wait()
    assert recorder.status_code == 500 or recorder.error is not None
    assert not other.ended.done()
    await desk.call("set", name="other:head")
    await desk.call("set", name="other:0")
    assert (await other.wait()).body == b"part-0;"
    assert await mesh.text(URL) == str(worker.pid)


@pytest.mark.statement(35)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_nothing_is_repeated_by_itself(mesh: Mesh, method: str) -> None:
    [doomed] = await mesh.start("api")
    desk = await mesh.desk(doomed)
    body = b"once" if method == "POST" else None
    recorder = mesh.send("http://api.local", "/late-read?token=t", method=method, body=body)
    await desk.seen("t:started")
    [sibling] = await mesh.start("api")
    other = await mesh.desk(sibling)
    kill(doomed.pid)
    await recorder.wait()
    assert isinstance(recorder.error, WorkerExitedError)
    assert recorder.starts == 1
    assert await mesh.text(URL) == str(sibling.pid)
    assert await other.call("get", name="t:count") == 0


@pytest.mark.statement(35)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_retry_interceptor_repeats_what_is_idempotent(mesh: Mesh, method: str) -> None:
    agent = Agent().compose(mesh.interceptor, retry(max_retries=2, min_timeout=0.01))
    [doomed] = await mesh.start("api")
    desk = await mesh.desk(doomed)
    body = b"once" if method == "POST" else None
    asking = asyncio.ensure_future(
        agent.request("http://api.local/late-read?token=t", method=method, body=body)
    )
    await desk.seen("t:started")
    [sibling] = await mesh.start("api")
    other = await mesh.desk(sibling)
    kill(doomed.pid)
    if method == "GET":
        await other.seen("t:started")
        await other.call("set", name="t:read-now")
        response = await within(asking, "the repeated request")
        assert response.status_code == 200
        await response.dump()
    else:
        with pytest.raises(WorkerExitedError):
            await within(asking, "the failure")
        assert await other.call("get", name="t:count") == 0
    await agent.destroy()

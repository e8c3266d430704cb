"""Workers that call themselves and each other, and workers that are busy: everything goes on."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import Any

import pytest

from dodici import MeshTimeoutError
from dodici.testing import pattern, settle

from .apps import MeshApp
from .kit import HERE, Desk, Mesh, freeze, kill, within

URL = "http://api.local/whoami"


@pytest.mark.statement(56)
@pytest.mark.parametrize("count", [1, 2])
async def test_a_worker_that_calls_its_own_name_a_hundred_deep(mesh: Mesh, count: int) -> None:
    workers = await mesh.start("api", count)
    chains = (mesh.text("http://api.local/nest/100?at=api.local") for _ in range(8))
    assert await within(asyncio.gather(*chains), "eight chains", 30) == ["100"] * 8
    if count == 2:
        # The worker that asks is in rotation with its siblings.
        desk = await mesh.desk(workers[0])
        answers = await desk.call("spread", url=URL, count=10)
        assert [answers.count(str(worker.pid)) for worker in workers] == [5, 5]


@pytest.mark.statement(57)
async def test_a_wsgi_worker_of_one_thread_that_calls_itself_gives_up_and_stays_alive(mesh: Mesh) -> None:
    [worker] = await mesh.start("wsgi", target=f"{HERE}:wsgi_main", wsgi_threads=1)
    desk = await mesh.desk(worker)
    assert await mesh.text("http://wsgi.local/whoami") == str(worker.pid)
    assert await desk.call("spread", url="http://wsgi.local/whoami") == [str(worker.pid)]
    asking = asyncio.ensure_future(mesh.text("http://wsgi.local/self"))
    await desk.seen("asks itself")
    # Its only thread waits for itself, and its loop does not: it answers what the mesh asks.
    for _ in range(3):
        await within(mesh.interceptor.pause_worker(worker), "pause_worker()", 2.0)
        await within(mesh.interceptor.resume_worker(worker), "resume_worker()", 2.0)
        await within(desk.give("accepting", flag=False), "set_accepting()", 2.0)
        await within(desk.give("accepting", flag=True), "set_accepting()", 2.0)
    assert await within(asking, "the request to itself") == "RequestTimeoutError"
    assert await mesh.text("http://wsgi.local/whoami") == str(worker.pid)
    await desk.call("finish")


@pytest.mark.statement(58)
async def test_cycles_with_full_buffers_make_progress(mesh: Mesh) -> None:
    await mesh.start("a")
    await mesh.start("b")
    body = pattern(3 << 20)

    async def one(first: str) -> str:
        path = "b,a,b" if first == "a" else "a,b,a"
        response = await mesh.agent.request(
            f"http://{first}.local/relay?path={path}", method="POST", body=body
        )
        return hashlib.sha256(await response.bytes()).hexdigest()

    digests = await within(asyncio.gather(*(one("ab"[index % 2]) for index in range(6))), "the cycles", 40)
    assert set(digests) == {hashlib.sha256(body).hexdigest()}


@pytest.mark.statement(58)
async def test_two_members_ask_each_other_at_the_same_time(mesh: Mesh) -> None:
    # Both ask for their link to the other in the same moment.
    [a], [b] = await mesh.start("a"), await mesh.start("b")
    left, right = await mesh.desks([a, b])
    answers = await asyncio.gather(
        left.call("spread", url="http://b.local/whoami", count=50),
        right.call("spread", url="http://a.local/whoami", count=50),
    )
    assert answers == [[str(b.pid)] * 50, [str(a.pid)] * 50]


class _Closing(MeshApp):
    """Closes the whole mesh from inside a request: it lives in the coordinator's loop."""

    mesh: Any = None

    async def _close_all(self, request: Any) -> None:
        self.closing = asyncio.ensure_future(self.mesh.interceptor.close(drain_timeout=0.3))
        await asyncio.wait([self.closing], timeout=0.1)
        await request.respond(b"closing")


@pytest.mark.statement(59)
async def test_closing_the_mesh_from_inside_a_request(mesh: Mesh) -> None:
    app = _Closing()
    app.mesh = mesh
    await mesh.start("api", target=app, kind="loop")
    [other] = await mesh.start("other")
    assert await mesh.text("http://api.local/close-all") == "closing"
    await within(app.closing, "close()")
    assert await within(other.wait(), "the other worker's end") == 0


@pytest.mark.statement(59)
async def test_a_worker_that_closes_itself_from_inside_a_request(mesh: Mesh) -> None:
    [worker] = await mesh.start("api")
    assert await mesh.text("http://api.local/close-me") == "closing"
    assert await within(worker.wait(), "its end") == 0
    assert await mesh.outcome(URL) == "!NoTargetError"


@pytest.mark.statement(59)
async def test_a_worker_that_dies_while_close_waits_for_it(mesh: Mesh) -> None:
    [doomed] = await mesh.start("api")
    [frozen_one] = await mesh.start("frozen")
    desk = await mesh.desk(doomed)
    recorder = mesh.send("http://api.local", "/hang?token=hang")
    await desk.seen("hang:started")
    freeze(frozen_one.pid)
    closing = asyncio.ensure_future(mesh.interceptor.close())
    await mesh.applied(lambda snapshot: "api" not in snapshot.routes)
    killed = time.monotonic()
    kill(doomed.pid)
    kill(frozen_one.pid)
    await recorder.wait()
    assert type(recorder.error).__name__ == "WorkerExitedError"
    await within(asyncio.wait([closing]), "close()", 5.0)
    assert time.monotonic() - killed < 2.0
    closing.exception()


async def _asked(desk: Desk, names: list[str]) -> list[str]:
    order: list[str] = await desk.call("attribute", name="order")
    return [name for name in order if name in names]


@pytest.mark.statement(60)
async def test_a_long_queue_starves_neither_timers_nor_control_and_keeps_its_order(mesh: Mesh) -> None:
    [worker] = await mesh.start("api")
    [client] = await mesh.start("client")
    desk = await mesh.desk(worker)
    await mesh.text(URL)
    await desk.call("watch_timer")
    names = [f"r{index}" for index in range(500)]
    queued = [mesh.send("http://api.local", f"/spin/{name}") for name in names]
    await queued[0].wait()
    changing = asyncio.ensure_future(mesh.interceptor.pause_worker(worker))
    accepting = desk.give("accepting", flag=False)
    await within(asyncio.gather(changing, accepting), "the changes")
    assert not queued[-1].ended.done(), "the queue was empty before the change was delivered"
    for recorder in queued:
        await recorder.wait(30)
        assert recorder.body == b"spun"
    assert await desk.call("timer") < 0.06
    assert await _asked(desk, names) == names
    assert client.state == "ready"


@pytest.mark.statement(61)
async def test_a_blocked_worker_disturbs_no_other_and_is_waited_for(brisk: Mesh) -> None:
    blocked, sibling = await brisk.start("api", 2)
    desk = await brisk.desk(blocked)
    path = f"{brisk.office.folder}/block"
    blocking = desk.give("block", path=path)
    await desk.heard("blocked")
    pausing = asyncio.ensure_future(brisk.interceptor.pause_worker(blocked))
    await brisk.applied(lambda snapshot: snapshot.members[blocked.id].paused)
    # It is a client, too, and has not applied its own pause yet; all others have.
    assert await brisk.spread(URL, 10) == [str(sibling.pid)] * 10
    assert not pausing.done()
    await _release(path)
    await blocking
    await within(pausing, "pause_worker()")
    await brisk.interceptor.resume_worker(blocked)
    blocking = desk.give("block", path=path + "2")
    while desk.events["blocked"] < 2:
        await settle(1)
    with pytest.raises(MeshTimeoutError, match=str(blocked.pid)):
        await brisk.interceptor.pause_worker(blocked)
    assert await brisk.spread(URL, 10) == [str(sibling.pid)] * 10
    await _release(path + "2")
    await blocking


async def _release(path: str) -> None:
    _, writer = await asyncio.open_unix_connection(path)
    writer.close()
    await writer.wait_closed()


@pytest.mark.statement(62)
async def test_many_requests_leave_nothing(mesh: Mesh) -> None:
    [worker] = await mesh.start("api")
    desk = await mesh.desk(worker)

    async def some(count: int) -> None:
        for _ in range(count):
            await mesh.text(URL)

    await some(200)
    before, tasks = await desk.call("counts"), len(asyncio.all_tasks())
    await some(2000)
    after = await desk.call("counts")
    assert after["descriptors"] == before["descriptors"]
    assert after["threads"] == before["threads"]
    assert after["tasks"] <= before["tasks"]
    assert after["objects"] - before["objects"] < 1000
    assert len(asyncio.all_tasks()) == tasks

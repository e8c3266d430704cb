"""A change has been applied by every client when the call that made it returns; who is silent is named."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from typing import Any

import pytest

from dodici import InvalidArgumentError, MeshTimeoutError
from dodici.mesh import current
from dodici.testing import settle

from .apps import MeshApp
from .kit import Mesh, OrderError, eventually, freeze, frozen, kill, member, thaw, within

URL = "http://api.local/whoami"


@pytest.mark.statement(7)
async def test_after_set_accepting_false_no_client_reaches_the_worker(mesh: Mesh) -> None:
    workers = await mesh.start("api", 3)
    desks = await mesh.desks(workers)
    for attempt in range(200):
        index = attempt % 3
        desk, others = desks[index], [other for other in desks if other is not desks[index]]
        await desk.call("accepting", flag=False)
        asked = await asyncio.gather(
            mesh.spread(URL, 4), *(other.call("spread", url=URL, count=4) for other in others)
        )
        for answers in asked:
            assert Counter(answers) == {str(other.pid): 2 for other in others}, f"attempt {attempt}"
        await desk.call("accepting", flag=True)
    assert Counter(await mesh.spread(URL, 6)) == {str(worker.pid): 2 for worker in workers}


@pytest.mark.statement(8)
async def test_a_request_that_was_sent_before_is_served(mesh: Mesh) -> None:
    [worker] = await mesh.start("api")
    desk = await mesh.desk(worker)
    held = [mesh.send("http://api.local", "/gated?token=held") for _ in range(20)]
    await desk.seen("held:started")
    await desk.call("accepting", flag=False)
    assert await mesh.outcome(URL) == "!NoTargetError"
    await desk.call("set", name="held:head")
    await desk.call("set", name="held:0")
    for recorder in held:
        await recorder.wait()
        assert (recorder.status_code, recorder.body) == (200, b"part-0;")
    assert await desk.call("get", name="held:count") == 20


@pytest.mark.statement(8)
async def test_requests_that_race_with_the_change_are_served_or_have_no_target(mesh: Mesh) -> None:
    [worker] = await mesh.start("api")
    desk = await mesh.desk(worker)
    seen: Counter[str] = Counter()
    for _ in range(30):
        changing = desk.give("accepting", flag=False)
        asking = []
        while not changing.done():
            asking.append(asyncio.ensure_future(mesh.outcome(URL)))
            await asyncio.sleep(0)
        seen.update(await within(asyncio.gather(*asking), "the requests"))
        assert await mesh.outcome(URL) == "!NoTargetError"
        await desk.call("accepting", flag=True)
    assert set(seen) <= {str(worker.pid), "!NoTargetError"}
    assert seen[str(worker.pid)] > 0


@pytest.mark.statement(9)
async def test_a_frozen_client_is_named_after_five_seconds_and_converges(mesh: Mesh) -> None:
    workers = await mesh.start("api", 2)
    [client] = await mesh.start("client", name="the frozen one")
    first, second = await mesh.desks(workers)
    away = await mesh.desk(client)
    with frozen(client.pid):
        with pytest.raises(OrderError) as caught:
            await first.call("accepting", flag=False)
        assert caught.value.kind == "_Slow"
        told = json.loads(caught.value.text)
        assert told["kind"] == "MeshTimeoutError"
        assert 4.5 <= told["seconds"] <= 6.0
        for part in (client.id, "the frozen one", str(client.pid)):
            assert part in told["text"]
        assert await mesh.spread(URL, 6) == [str(second.pid)] * 6
        assert await second.call("spread", url=URL, count=6) == [str(second.pid)] * 6
        assert await first.call("is_accepting") is False
    await eventually(lambda: _none_of(away, first.pid), "the thawed client's view")
    assert await away.call("spread", url=URL, count=20) == [str(second.pid)] * 20


async def _none_of(desk: Any, pid: int) -> bool:
    return str(pid) not in await desk.call("spread", url=URL, count=4)


@pytest.mark.statement(9)
async def test_the_coordinator_is_told_who_was_silent(brisk: Mesh) -> None:
    workers = await brisk.start("api", 2)
    [client] = await brisk.start("client", name="sleeper")
    with frozen(client.pid):
        with pytest.raises(MeshTimeoutError) as caught:
            await brisk.interceptor.pause_worker(workers[0])
        assert [(one[0], one[1], one[2]) for one in caught.value.members] == [
            (client.id, "sleeper", client.pid)
        ]
        assert "sleeper" in str(caught.value)
        assert isinstance(caught.value, TimeoutError)
        assert workers[0].paused
        assert await brisk.spread(URL, 4) == [str(workers[1].pid)] * 4


@pytest.mark.statement(10)
async def test_a_client_that_dies_meanwhile_is_waited_for_no_longer(mesh: Mesh) -> None:
    workers = await mesh.start("api", 2)
    [client] = await mesh.start("client")
    desk = await mesh.desk(workers[0])
    freeze(client.pid)
    changing = desk.give("accepting", flag=False)
    await mesh.applied(lambda snapshot: not member(snapshot, workers[0]).accepting)
    await settle()
    assert not changing.done()
    killed = time.monotonic()
    kill(client.pid)
    await within(changing, "set_accepting() after the death", 4.0)
    assert time.monotonic() - killed < 4.0, "not the five seconds of who is silent"
    assert await mesh.spread(URL, 4) == [str(workers[1].pid)] * 4


@pytest.mark.statement(11)
@pytest.mark.parametrize("flags", [[False, True], [False, True, False], [False, False, True]])
async def test_quick_calls_apply_in_their_order(mesh: Mesh, flags: list[bool]) -> None:
    workers = await mesh.start("api", 2)
    desks = await mesh.desks(workers)
    expected = {str(worker.pid) for worker in (workers if flags[-1] else workers[1:])}
    for _ in range(10):
        assert await desks[0].call("accepting_many", flags=flags) == ["None"] * len(flags)
        assert await desks[0].call("is_accepting") is flags[-1]
        assert set(await mesh.spread(URL, 4)) == expected
        for desk in desks:
            assert set(await desk.call("spread", url=URL, count=4)) == expected
        await desks[0].call("accepting", flag=True)


@pytest.mark.statement(11)
async def test_quick_pauses_apply_in_their_order(mesh: Mesh) -> None:
    workers = await mesh.start("api", 2)
    pause, resume = mesh.interceptor.pause_worker, mesh.interceptor.resume_worker
    for _ in range(10):
        await asyncio.gather(pause(workers[0]), resume(workers[0]), pause(workers[0]), resume(workers[0]))
        assert not workers[0].paused
        assert len(set(await mesh.spread(URL, 4))) == 2
        await asyncio.gather(pause(workers[0]), resume(workers[0]), pause(workers[0]))
        assert workers[0].paused
        assert await mesh.spread(URL, 4) == [str(workers[1].pid)] * 4
        await resume(workers[0])


@pytest.mark.statement(12)
async def test_the_same_call_twice_waits_for_the_same_acknowledgements(mesh: Mesh) -> None:
    workers = await mesh.start("api", 2)
    [client] = await mesh.start("client")
    desk = await mesh.desk(workers[0])
    freeze(client.pid)
    twice = desk.give("accepting_twice", flag=False)
    await desk.seen("twice:begun")
    await mesh.applied(lambda snapshot: not member(snapshot, workers[0]).accepting)
    # Round trips to every living member: whoever does not wait for the frozen one has returned by now.
    for _ in range(10):
        await mesh.spread(URL, 2)
        assert await desk.call("get", name="twice:one returned") == 0
    thaw(client.pid)
    assert await within(twice, "both calls") is False


@pytest.mark.statement(12)
async def test_a_value_that_holds_already_returns_at_once(mesh: Mesh) -> None:
    [worker] = await mesh.start("api")
    desk = await mesh.desk(worker)
    version = mesh.interceptor.snapshot().version
    await desk.call("accepting", flag=True)
    await mesh.interceptor.resume_worker(worker)
    assert mesh.interceptor.snapshot().version == version
    await mesh.interceptor.pause_worker(worker)
    version = mesh.interceptor.snapshot().version
    await mesh.interceptor.pause_worker(worker)
    assert mesh.interceptor.snapshot().version == version


class _Knowing(MeshApp):
    """Keeps its wire for the test: it lives in the test's own loop."""

    wired: Any = None

    async def _whoami(self, request: Any) -> None:
        self.wired = current()
        await super()._whoami(request)


@pytest.mark.statement(13)
async def test_the_coordinator_itself_has_applied_it_when_the_call_returns(mesh: Mesh) -> None:
    app = _Knowing()
    [worker] = await mesh.start("api", target=app, kind="loop")
    await mesh.start("client")
    await mesh.text(URL)
    for _ in range(10):
        await app.wired.set_accepting(False)
        recorder = mesh.send("http://api.local", "/whoami")
        await recorder.wait()
        assert type(recorder.error).__name__ == "NoTargetError"
        await app.wired.set_accepting(True)
        assert (await mesh.send("http://api.local", "/whoami").wait()).status_code == 200
        await mesh.interceptor.pause_worker(worker)
        recorder = mesh.send("http://api.local", "/whoami")
        await recorder.wait()
        assert type(recorder.error).__name__ == "NoTargetError"
        await mesh.interceptor.resume_worker(worker)
        assert (await mesh.send("http://api.local", "/whoami").wait()).status_code == 200


@pytest.mark.statement(13)
async def test_pause_and_resume_work_without_other_workers_and_in_cycles(mesh: Mesh) -> None:
    workers = await mesh.start("api", 2)
    for _ in range(3):
        await mesh.interceptor.pause_worker(workers[0])
        assert (workers[0].state, workers[0].paused) == ("paused", True)
        assert await mesh.spread(URL, 4) == [str(workers[1].pid)] * 4
        await mesh.interceptor.pause_worker(workers[1])
        assert await mesh.spread(URL, 2) == ["!NoTargetError"] * 2
        await mesh.interceptor.resume_worker(workers[0])
        assert workers[0].state == "ready"
        assert await mesh.spread(URL, 2) == [str(workers[0].pid)] * 2
        await mesh.interceptor.resume_worker(workers[1])
        assert len(set(await mesh.spread(URL, 2))) == 2


@pytest.mark.statement(14)
async def test_a_client_that_joins_later_knows_who_is_paused(mesh: Mesh) -> None:
    workers = await mesh.start("api", 2)
    desk = await mesh.desk(workers[1])
    await mesh.interceptor.pause_worker(workers[0])
    [client] = await mesh.start("client")
    joined = await mesh.desk(client)
    assert await joined.call("spread", url=URL, count=6) == [str(workers[1].pid)] * 6
    await desk.call("accepting", flag=False)
    [second] = await mesh.start("second")
    late = await mesh.desk(second)
    assert await late.call("spread", url=URL, count=3) == ["!NoTargetError"] * 3


@pytest.mark.statement(15)
@pytest.mark.parametrize("first", ["resume", "accept"])
async def test_pause_and_the_workers_own_word_are_two_flags(mesh: Mesh, first: str) -> None:
    [worker] = await mesh.start("api")
    [client_worker] = await mesh.start("client")
    desk, client = await mesh.desks([worker, client_worker])

    async def excluded() -> bool:
        answers = {*await mesh.spread(URL, 2), *await client.call("spread", url=URL, count=2)}
        assert len(answers) == 1
        return answers == {"!NoTargetError"}

    await mesh.interceptor.pause_worker(worker)
    assert await excluded()
    await desk.call("accepting", flag=False)
    assert await excluded()
    await desk.call("replace", label="another app")
    assert await excluded()
    if first == "resume":
        await mesh.interceptor.resume_worker(worker)
        assert await excluded()
        assert (worker.accepting, worker.paused) == (False, False)
        await desk.call("accepting", flag=True)
    else:
        await desk.call("accepting", flag=True)
        assert await excluded()
        assert (worker.accepting, worker.paused) == (True, True)
        await mesh.interceptor.resume_worker(worker)
    assert not await excluded()
    await desk.call("replace", label=None)
    assert await excluded()
    await desk.call("replace", label="the last app")
    assert not await excluded()


@pytest.mark.statement(16)
async def test_a_paused_worker_can_do_everything_else(mesh: Mesh) -> None:
    [paused] = await mesh.start("api")
    [other] = await mesh.start("other")
    desk = await mesh.desk(paused)
    await mesh.interceptor.pause_worker(paused)
    assert await desk.call("fetch", url="http://other.local/whoami") == [200, str(other.pid)]
    assert await desk.call("fetch", url="http://other.local/echo", method="POST", body="x" * 100_000)
    await desk.call("replace", label="B")
    assert await mesh.outcome(URL) == "!NoTargetError"
    await desk.call("accepting", flag=False)
    await desk.call("accepting", flag=True)
    assert await mesh.outcome(URL) == "!NoTargetError"
    await mesh.interceptor.resume_worker(paused)
    assert await mesh.text("http://api.local/label") == "B"
    await mesh.interceptor.pause_worker(paused)
    assert await desk.call("close") == ["None"]
    assert await within(paused.wait(), "its end") == 0


@pytest.mark.statement(17)
async def test_a_pause_covers_every_name_of_the_worker(mesh: Mesh) -> None:
    [worker] = await mesh.start("one")
    [client_worker] = await mesh.start("client")
    client = await mesh.desk(client_worker)
    await mesh.route("two", worker)
    await mesh.route("three", worker)
    names = ("one", "two", "three")
    for name in names:
        assert await mesh.text(f"http://{name}.local/whoami") == str(worker.pid)
        assert await client.call("spread", url=f"http://{name}.local/whoami") == [str(worker.pid)]
    await mesh.interceptor.pause_worker(worker)
    for name in names:
        assert await mesh.outcome(f"http://{name}.local/whoami") == "!NoTargetError"
        assert await client.call("spread", url=f"http://{name}.local/whoami") == ["!NoTargetError"]
    await mesh.interceptor.resume_worker(worker)
    desk = await mesh.desk(worker)
    await desk.call("accepting", flag=False)
    for name in names:
        assert await mesh.outcome(f"http://{name}.local/whoami") == "!NoTargetError"
        assert await client.call("spread", url=f"http://{name}.local/whoami") == ["!NoTargetError"]


@pytest.mark.statement(18)
async def test_pausing_who_is_unknown_or_was_removed_is_an_error(mesh: Mesh) -> None:
    stranger = mesh.worker()
    for call in (mesh.interceptor.pause_worker, mesh.interceptor.resume_worker):
        with pytest.raises(InvalidArgumentError):
            await call(stranger)
        with pytest.raises(InvalidArgumentError):
            await call("api")
    [worker] = await mesh.start("api")
    await mesh.interceptor.unroute("api", worker)
    await worker.stop()
    with pytest.raises(InvalidArgumentError):
        await mesh.interceptor.pause_worker(worker)


@pytest.mark.statement(18)
async def test_a_worker_that_dies_while_it_is_paused_is_no_error(mesh: Mesh) -> None:
    workers = await mesh.start("api", 2)
    freeze(workers[0].pid)
    pausing = asyncio.ensure_future(mesh.interceptor.pause_worker(workers[0]))
    await mesh.applied(lambda snapshot: member(snapshot, workers[0]).paused)
    assert not pausing.done()
    kill(workers[0].pid)
    await within(pausing, "pause_worker() of a dead one", 2.0)
    assert await mesh.spread(URL, 2) == [str(workers[1].pid)] * 2


@pytest.mark.statement(19)
async def test_a_stream_goes_on_after_its_worker_was_paused(mesh: Mesh) -> None:
    [worker] = await mesh.start("api")
    desk = await mesh.desk(worker)
    recorder = mesh.send("http://api.local", "/gated?parts=3&token=stream")
    await desk.call("set", name="stream:head")
    await desk.call("set", name="stream:0")
    await recorder.received(7)
    await mesh.interceptor.pause_worker(worker)
    await desk.call("accepting", flag=False)
    await desk.call("set", name="stream:1")
    await recorder.received(14)
    assert await mesh.outcome(URL) == "!NoTargetError"
    await desk.call("set", name="stream:2")
    assert (await recorder.wait()).body == b"part-0;part-1;part-2;"


@pytest.mark.statement(20)
async def test_members_that_may_not_meet_do_not_wait_for_each_other() -> None:
    asked: list[tuple[str, str]] = []

    def on_channel(one: str, other: str) -> bool | None:
        asked.append((one, other))
        return False if {one, other} == {"left", "right"} else None

    async with Mesh(on_channel=on_channel, propagation_timeout=1.0) as mesh:
        [left] = await mesh.start("left", name="left")
        [right] = await mesh.start("right", name="right")
        [third] = await mesh.start("third", name="third")
        desks = dict(zip(("left", "right", "third"), await mesh.desks([left, right, third]), strict=True))
        spread = {
            (one, other): (await desks[one].call("spread", url=f"http://{other}.local/whoami"))[0]
            for one in desks
            for other in desks
        }
        assert spread["left", "right"] == spread["right", "left"] == "!NoTargetError"
        pids = {name: str(desk.pid) for name, desk in desks.items()}
        allowed = {pair: pids[pair[1]] for pair in spread if set(pair) != {"left", "right"}}
        assert {pair: spread[pair] for pair in allowed} == allowed
        assert await mesh.text("http://left.local/whoami") == pids["left"]
        assert any({*pair} == {"left", "right"} for pair in asked)
        with frozen(left.pid):
            # Left is not asked: what right says of itself concerns it no more.
            await within(desks["right"].give("accepting", flag=False), "set_accepting()")
            assert await mesh.outcome("http://right.local/whoami") == "!NoTargetError"
        with pytest.raises(OrderError), frozen(third.pid):
            await desks["right"].call("accepting", flag=True)

"""`WorkerInterceptor`: names, pausing, events, and the end of a mesh."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest
from tests.mesh.member_kit import APP, APPS, alive, eventually, mesh, nothing_left, stopped

from dodici import (
    Agent,
    ClientClosedError,
    InvalidArgumentError,
    LoopMismatchError,
    NoTargetError,
    WorkerStartError,
)
from dodici.mesh import Worker, WorkerInterceptor

KINDS = ("process", "thread", "loop")


# -- names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["api", "api.local", "API.local.", "Api."])
async def test_spellings_of_one_name(name):
    async with mesh() as m:
        worker = await m.start("api", kind="loop")
        version = m.interceptor.snapshot().version
        await m.interceptor.route(name, worker)
        assert m.interceptor.snapshot().version == version
        assert m.interceptor.snapshot().routes == {"api": (worker.id,)}
        await m.interceptor.unroute(name, worker)
        assert m.interceptor.snapshot().routes == {}


@pytest.mark.parametrize("name", ["", ".local", "a b", None, "a..b", "http://api"])
async def test_what_is_no_name(name):
    async with mesh() as m:
        with pytest.raises(InvalidArgumentError):
            await m.interceptor.route(name, Worker(APP, kind="loop"))
        assert m.interceptor.snapshot().members == {}


@pytest.mark.parametrize("workers", [[], None, 5, "shop:app", [None]])
async def test_what_is_no_worker(workers):
    async with mesh() as m:
        with pytest.raises(InvalidArgumentError, match=r"a Worker or a list of them"):
            await m.interceptor.route("api", workers)


async def test_one_worker_under_several_names():
    async with mesh() as m:
        worker = await m.start("one", kind="loop")
        for name in ("two", "three"):
            await m.interceptor.route(name, worker)
        assert set(m.interceptor.snapshot().names_of(worker.id)) == {"one", "two", "three"}
        await m.interceptor.pause_worker(worker)
        for name in ("one", "two", "three"):
            with pytest.raises(NoTargetError):
                await m.get(name)
        await m.interceptor.resume_worker(worker)
        await m.interceptor.unroute("two", worker)
        assert await m.ids("one", 1) == await m.ids("three", 1) == {worker.id}
        with pytest.raises(NoTargetError):
            await m.get("two")
        await m.interceptor.unroute(None, worker)
        assert m.interceptor.snapshot().routes == {}
        assert worker.state == "ready"  # it runs on
        await m.interceptor.route("four", worker)
        assert await m.ids("four", 1) == {worker.id}


async def test_unroute_of_a_name_takes_all_its_workers():
    async with mesh() as m:
        workers = await m.start("api", 3, kind="loop")
        await m.interceptor.unroute("api")
        assert m.interceptor.snapshot().routes == {}
        await m.interceptor.unroute("api")
        await m.interceptor.unroute("never", workers[0])
        with pytest.raises(InvalidArgumentError):
            await m.interceptor.unroute(None)
        with pytest.raises(InvalidArgumentError):
            await m.interceptor.unroute("api", Worker(APP))


@pytest.mark.parametrize("kind", KINDS)
async def test_unroute_waits_for_what_was_sent_under_the_name(kind):
    async with mesh() as m:
        worker = await m.start("api", kind=kind)
        await m.interceptor.route("other", worker)
        slow = asyncio.create_task(m.get("api", "/wait?seconds=0.3"))
        other = asyncio.create_task(m.get("other", "/wait?seconds=2"))
        while (await worker.stats()).running < 2:
            await asyncio.sleep(0)
        await m.interceptor.unroute("api", worker)
        assert slow.done()
        assert slow.result() == {}
        assert not other.done()
        other.cancel()


async def test_a_cancelled_unroute_does_not_wait_for_the_drain():
    async with mesh() as m:
        worker = await m.start("api")
        running = asyncio.create_task(m.get("api", "/wait?seconds=1"))
        while (await worker.stats()).running < 1:
            await asyncio.sleep(0)
        with stopped(worker.pid):  # which has to acknowledge, too
            unrouting = asyncio.create_task(m.interceptor.unroute("api", worker))
            await eventually(lambda: not m.interceptor.snapshot().routes)
            unrouting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(unrouting, 0.5)
        await running


async def test_route_is_all_or_nothing():
    async with nothing_left():
        async with mesh() as m:
            good = [Worker(APP), Worker(APP, kind="thread"), Worker(APP, kind="loop")]
            before = await m.start("api", kind="loop")
            with pytest.raises(WorkerStartError, match="broken"):
                await m.interceptor.route("api", [*good, before, Worker(f"{APPS}:broken()")])
            assert [worker.state for worker in good] == ["exited"] * 3
            assert before.state == "ready"
            assert m.interceptor.snapshot().routes == {"api": (before.id,)}


async def test_a_cancelled_route_starts_nothing():
    async with mesh() as m:
        worker = Worker.entry(f"{APPS}:late_entry", args=["/nonexistent"])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await m.interceptor.route("api", worker)
        assert worker.state == "exited"
        assert not alive(worker.pid)


async def test_a_route_that_is_cancelled_while_others_acknowledge_is_undone():
    async with mesh(propagation_timeout=1) as m:
        old = await m.start("old", kind="loop")
        frozen = await m.start("frozen")
        new = Worker(APP, kind="loop")
        with stopped(frozen.pid):
            routing = asyncio.create_task(m.interceptor.route("api", [new, old]))
            await eventually(lambda: "api" in m.interceptor.snapshot().routes)
            routing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(routing, 10)
            assert set(m.interceptor.snapshot().routes) == {"old", "frozen"}
            assert (old.state, new.state) == ("ready", "exited")


async def test_workers_of_one_name_start_side_by_side():
    async with mesh() as m:
        workers = await m.start("api", 3)
        assert await m.ids("api", 6) == {worker.id for worker in workers}
        assert len({worker.pid for worker in workers}) == 3


@pytest.mark.parametrize("argument", ["can_accept", "meta"])
async def test_what_is_gone_is_refused_by_name(argument):
    with pytest.raises(TypeError, match=r"set_accepting.*pause_worker"):
        WorkerInterceptor(**{argument: None})
    interceptor = WorkerInterceptor()
    with pytest.raises(TypeError, match=r"set_accepting.*pause_worker"):
        await interceptor.route("api", Worker(APP), **{argument: None})
    with pytest.raises(TypeError, match="unexpected keyword argument 'metal'"):
        WorkerInterceptor(metal=1)


# -- pausing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_pause_and_resume(kind):
    async with mesh() as m:
        one, two = await m.start("api", 2, kind=kind)
        for _ in range(3):
            await m.interceptor.pause_worker(one)
            assert (one.state, one.paused) == ("paused", True)
            assert await m.ids("api", 4) == {two.id}
            await m.interceptor.pause_worker(two)
            with pytest.raises(NoTargetError, match="No target found"):
                await m.get("api")
            await m.interceptor.resume_worker(one)
            assert await m.ids("api", 4) == {one.id}
            await m.interceptor.resume_worker(two)
            assert await m.ids("api", 4) == {one.id, two.id}


async def test_pausing_the_unknown():
    async with mesh() as m:
        for worker in (Worker(APP), None, "w1"):
            with pytest.raises(InvalidArgumentError):
                await m.interceptor.pause_worker(worker)
        gone = await m.start("api", kind="loop")
        await gone.stop()
        with pytest.raises(InvalidArgumentError, match="not in this mesh"):
            await m.interceptor.resume_worker(gone)


async def test_a_worker_that_dies_while_it_is_paused_is_no_error():
    async with mesh() as m:
        worker = await m.start("api")
        os.kill(worker.pid, signal.SIGSTOP)
        pausing = asyncio.create_task(m.interceptor.pause_worker(worker))
        await asyncio.sleep(0)
        os.kill(worker.pid, signal.SIGKILL)
        await pausing
        assert await worker.wait() == -signal.SIGKILL


async def test_calls_apply_in_their_order():
    async with mesh() as m:
        worker = await m.start("api")
        await asyncio.gather(
            *(
                m.interceptor.pause_worker(worker) if turn % 2 else m.interceptor.resume_worker(worker)
                for turn in range(20)
            )
        )
        assert worker.paused


# -- events and snapshots --------------------------------------------------------------------------------


async def test_events_tell_a_workers_life():
    async with mesh() as m:
        events = m.interceptor.events()
        worker = await m.start("api", kind="loop")
        await m.interceptor.pause_worker(worker)
        await m.interceptor.resume_worker(worker)
        await worker.stop()
        await m.interceptor.close()
        told = [event async for event in events]
        assert [(event.kind, event.name) for event in told if event.member.id == worker.id] == [
            ("joined", None),
            ("ready", None),
            ("routed", "api"),
            ("paused", None),
            ("resumed", None),
            ("leaving", None),
            ("unrouted", "api"),
            ("gone", None),
        ]
        versions = [event.version for event in told]
        assert versions == sorted(versions)


async def test_a_slow_reader_of_events_misses_the_oldest():
    async with mesh() as m:
        worker = await m.start("api", kind="loop")
        events = m.interceptor.events()
        for _ in range(600):
            await m.interceptor.pause_worker(worker)
            await m.interceptor.resume_worker(worker)
        assert m.interceptor.snapshot().version > 1200
        seen = [await anext(events) for _ in range(1024)]
        assert seen[-1].kind == "resumed"
        assert seen[-1].version == m.interceptor.snapshot().version


async def test_snapshot():
    interceptor = WorkerInterceptor()
    assert interceptor.snapshot().members == {}
    async with mesh() as m:
        worker = await m.start("api", name="shop", accepting=False, kind="loop")
        snapshot = m.interceptor.snapshot()
        info = snapshot.members[worker.id]
        assert (info.name, info.kind, info.app, info.accepting, info.available) == (
            "shop",
            "loop",
            True,
            False,
            False,
        )
        assert {member.kind for member in snapshot.members.values()} == {"coordinator", "loop"}


# -- who may reach whom ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_on_channel_forbids_a_pair(kind):
    asked = []

    def on_channel(name, other):
        asked.append((name, other))
        return {name, other} != {"front", "db"}

    async with mesh(on_channel=[on_channel, lambda name, other: None]) as m:
        front = await m.start("front", kind=kind)
        middle = await m.start("middle", kind=kind)
        db = await m.start("db", kind=kind)
        assert await m.ids("db", 1) == {db.id}  # the coordinator has no name
        assert await m.get("front", "/ask?url=http://db.local/") == {"found": ["NoTargetError"]}
        assert await m.get("db", "/ask?url=http://front.local/") == {"found": ["NoTargetError"]}
        assert await m.get("front", "/ask?url=http://middle.local/") == {"found": [middle.id]}
        assert await m.get("middle", "/ask?url=http://db.local/") == {"found": [db.id]}
        assert await m.get("front", "/ask?url=http://front.local/") == {"found": [front.id]}
    assert ("front", "db") in asked or ("db", "front") in asked


async def test_on_channel_that_raises_is_routes_error():
    def on_channel(name, other):
        raise RuntimeError("no idea")

    async with mesh(on_channel=on_channel) as m:
        worker = Worker(APP, kind="loop")
        with pytest.raises(RuntimeError, match="no idea"):
            await m.interceptor.route("api", worker)
        assert worker.state == "exited"
        assert m.interceptor.snapshot().routes == {}


# -- the end -------------------------------------------------------------------------------------------


async def test_close_ends_all_side_by_side():
    async with nothing_left():
        async with mesh() as m:
            workers = [Worker(APP, kind=kind) for kind in KINDS for _ in range(2)]
            await m.interceptor.route("api", workers)
            slow = [asyncio.create_task(m.get("api", "/wait?seconds=1")) for _ in range(6)]
            while sum([(await worker.stats()).running for worker in workers]) < 6:
                await asyncio.sleep(0)
            began = time.monotonic()
            await asyncio.gather(*(m.interceptor.close() for _ in range(3)))
            assert time.monotonic() - began < 5.5, "six of a second, not one after the other"
            assert [await each for each in slow] == [{}] * 6
            assert [worker.exit_code for worker in workers] == [0] * 6
            with pytest.raises(ClientClosedError):
                await m.interceptor.route("api", workers)


async def test_close_does_not_stall_on_the_dead_and_names_the_killed(monkeypatch):
    monkeypatch.setattr("dodici.mesh.running._SHUTDOWN", 2.5)
    async with mesh(propagation_timeout=0.3) as m:
        dead, frozen, fine = await m.start("api", 3)
        os.kill(dead.pid, signal.SIGKILL)
        os.kill(frozen.pid, signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(ExceptionGroup) as group:
            await m.interceptor.close(0.1)
        assert time.monotonic() - began < 10
        assert [f"pid {frozen.pid}" in str(error) for error in group.value.exceptions] == [True]
        assert fine.exit_code == 0
        assert frozen.exit_code == -signal.SIGKILL
        m.interceptor.restart()


async def test_close_belongs_to_the_loop_of_its_workers():
    async with mesh() as m:
        worker = await m.start("api", kind="loop")
        with pytest.raises(LoopMismatchError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, m.interceptor.close())
        assert worker.state == "ready"
        await m.get("api")


async def test_restart():
    async with mesh() as m:
        m.interceptor.restart()  # of one that is open
        worker = await m.start("api", kind="loop")
        await m.interceptor.close()
        closing = asyncio.create_task(m.interceptor.close())
        await closing
        m.interceptor.restart()
        with pytest.raises(NoTargetError):
            await m.get("api")
        await m.interceptor.route("api", worker)
        assert await m.ids("api", 1) == {worker.id}
        again = await m.start("api")
        assert await m.ids("api", 4) == {worker.id, again.id}


async def test_a_crash_is_told_at_once():
    async with mesh() as m:
        one, two = await m.start("api", 2)
        await m.start("asking")
        await m.get("asking", "/ask?url=http://api.local/&times=4")
        os.kill(one.pid, signal.SIGKILL)
        await eventually(lambda: one.id not in m.interceptor.snapshot().members)
        await m.interceptor.resume_worker(two)
        assert await m.ids("api", 6) == {two.id}
        found = await m.get("asking", "/ask?url=http://api.local/&times=20")
        assert found == {"found": [two.id] * 20}


async def test_closing_from_inside_of_a_worker():
    async with mesh() as m:

        async def app(scope, receive, send):
            closing.append(asyncio.create_task(m.interceptor.close(0.2)))
            await asyncio.sleep(0)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"1"})

        closing = []
        await m.interceptor.route("api", Worker(app, kind="loop", lifespan="off"))
        assert await m.get("api") == 1
        async with asyncio.timeout(5):
            await closing[0]


async def test_composed_before_there_is_a_loop():
    made = await asyncio.to_thread(lambda: WorkerInterceptor())
    agent = Agent().compose(made)
    async with made, agent:
        await made.route("api", Worker(APP, kind="loop"))
        assert (await agent.request("http://api.local/")).status_code == 200

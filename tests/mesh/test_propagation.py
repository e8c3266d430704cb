"""When a change is made, everybody knows: acknowledgements, barriers, silent members, and what app code can say."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest
from tests.mesh.member_kit import APPS, mesh, stopped

from dodici import LoopMismatchError, MeshTimeoutError, NoTargetError
from dodici.mesh import Worker, current

KINDS = ("process", "thread", "loop")


@pytest.mark.parametrize("kind", KINDS)
async def test_set_accepting_is_known_everywhere_when_it_returns(kind):
    async with mesh() as m:
        one, two = await m.start("api", 2, kind=kind)
        clients = [await m.start(f"client{number}", kind=kind) for number in range(2)]
        for number in range(2):
            await m.get(f"client{number}", "/ask?url=http://api.local/&times=4")
        for _ in range(3):
            # Asked of one of the two; which one it was, it says afterwards.
            await m.get("api", "/accepting?value=0")
            closed, open_ = (one, two) if not one.accepting else (two, one)
            assert (closed.accepting, open_.accepting) == (False, True)
            found = await asyncio.gather(
                m.ids("api", 50),
                *(m.get(f"client{n}", "/ask?url=http://api.local/&times=50") for n in range(2)),
            )
            assert found[0] == {open_.id}
            assert [set(each["found"]) for each in found[1:]] == [{open_.id}] * 2
            await m.interceptor.route("back", closed)
            await m.interceptor.pause_worker(closed)
            await m.interceptor.resume_worker(closed)
            with pytest.raises(NoTargetError):  # what it says of itself is not the coordinator's to undo
                await m.get("back")
            await m.interceptor.unroute("back", closed)
            await _accept_again(m, closed)
            assert await m.ids("api", 4) == {one.id, two.id}
        assert all(client.state == "ready" for client in clients)


async def _accept_again(m, worker):
    # A worker that takes no requests cannot be told by one: this is what its own `set_accepting` sends.
    hub = worker.running.hub
    await hub.change(lambda now: hub.membership.update(worker.id, now, accepting=True))


async def test_three_flags_do_not_overwrite_each_other():
    said = asyncio.Queue()

    async def app(scope, receive, send):
        said.put_nowait(current())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"1"})

    async with mesh() as m:
        worker = Worker(app, kind="loop", lifespan="off")
        await m.interceptor.route("api", worker)
        await m.get("api")
        wired = said.get_nowait()
        changes = {
            "accepting": (lambda: wired.set_accepting(False), lambda: wired.set_accepting(True)),
            "paused": (
                lambda: m.interceptor.pause_worker(worker),
                lambda: m.interceptor.resume_worker(worker),
            ),
            "app": (lambda: wired.replace_server(None), lambda: wired.replace_server(app)),
        }
        for first, (first_off, first_on) in changes.items():
            for second, (second_off, second_on) in changes.items():
                if first == second:
                    continue
                await first_off()
                await second_off()
                await first_on()
                with pytest.raises(NoTargetError):
                    await m.get("api")
                await second_on()
                await m.get("api")


async def test_two_calls_at_once_end_as_the_last_one_says():
    wired = asyncio.Queue()

    async def app(scope, receive, send):
        wired.put_nowait(current())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"1"})

    async with mesh() as m:
        worker = Worker(app, kind="thread", lifespan="off")
        await m.interceptor.route("api", worker)
        await m.start("client")
        await m.get("api")
        worker_wired = wired.get_nowait()

        async def both():
            await asyncio.gather(worker_wired.set_accepting(False), worker_wired.set_accepting(True))

        for _ in range(5):
            asyncio.run_coroutine_threadsafe(both(), worker.running._place.loop)
            future = asyncio.run_coroutine_threadsafe(both(), worker.running._place.loop)
            await asyncio.wrap_future(future)
            assert worker.accepting
            assert m.interceptor.snapshot().members[worker.id].accepting
            await m.get("api")


async def test_replace_server():
    async with mesh() as m:
        worker = await m.start("api")
        other = await m.start("other")
        await m.interceptor.route("control", worker)
        await m.get("control", f"/replace?with={APPS}:make()")
        assert await m.ids("api", 2) == {worker.id}
        replacing = asyncio.create_task(m.get("control", "/replace"))
        assert await replacing == {}
        with pytest.raises(NoTargetError):
            await m.get("api")
        assert worker.state == "starting"
        assert await m.ids("other", 1) == {other.id}


async def test_a_failing_replacement_leaves_the_old_app():
    async with mesh() as m:
        worker = await m.start("api")
        response = await m.agent.request(f"http://api.local/replace?with={APPS}:failing_lifespan")
        assert response.status_code == 500
        assert await m.ids("api", 2) == {worker.id}


@pytest.mark.parametrize("kind", KINDS)
async def test_workers_reach_each_other_and_themselves(kind):
    async with mesh() as m:
        one, two = await m.start("api", 2, kind=kind)
        await m.start("web", kind=kind)
        found = await m.get("web", "/ask?url=http://api.local/&times=10")
        assert set(found["found"]) == {one.id, two.id}
        found = await m.get("api", "/ask?url=http://api.local/&times=10")
        assert set(found["found"]) == {one.id, two.id}
        found = await m.get("web", "/ask?url=http://nobody.local/")
        assert found == {"found": ["NoTargetError"]}


async def test_in_a_process_the_mesh_is_the_default():
    async with mesh() as m:
        api = await m.start("api")
        await m.start("web")
        found = await m.get("web", "/fetch?url=http://api.local/")
        assert (found["status"], found["body"]["id"]) == (200, api.id)


async def test_kinds_mix():
    async with mesh() as m:
        workers = {kind: await m.start(kind, kind=kind) for kind in KINDS}
        for kind in KINDS:
            for other in KINDS:
                found = await m.get(kind, f"/ask?url=http://{other}.local/&times=2")
                assert found == {"found": [workers[other].id] * 2}


# -- those that do not answer ----------------------------------------------------------------------------


async def test_a_frozen_member_is_named_and_converges_when_it_thaws():
    async with mesh(propagation_timeout=0.5) as m:
        one, two = await m.start("api", 2)
        frozen = await m.start("frozen")
        other = await m.start("other")
        for client in ("frozen", "other"):
            await m.get(client, "/ask?url=http://api.local/&times=4")
        with stopped(frozen.pid):
            began = time.monotonic()
            with pytest.raises(MeshTimeoutError) as timed_out:
                await m.interceptor.pause_worker(one)
            assert 0.45 < time.monotonic() - began < 4.0
            assert timed_out.value.members == ((frozen.id, frozen.name, frozen.pid),)
            assert str(frozen.pid) in str(timed_out.value)
            assert isinstance(timed_out.value, TimeoutError)
            assert one.paused
            assert await m.ids("api", 4) == {two.id}
            assert set((await m.get("other", "/ask?url=http://api.local/&times=6"))["found"]) == {two.id}
            with pytest.raises(MeshTimeoutError):  # the same again waits for the same member
                await m.interceptor.pause_worker(one)
        found = await m.get("frozen", "/ask?url=http://api.local/&times=10")
        assert set(found["found"]) == {two.id}
        await m.interceptor.pause_worker(one)
        assert other.state == "ready"


async def test_a_worker_hears_who_is_silent():
    async with mesh(propagation_timeout=0.5) as m:
        wired = asyncio.get_running_loop().create_future()

        async def app(scope, receive, send):
            wired.set_result(current())
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"1"})

        await m.interceptor.route("api", Worker(app, kind="loop", lifespan="off"))
        frozen = await m.start("frozen")
        await m.get("api")
        with stopped(frozen.pid):
            with pytest.raises(MeshTimeoutError) as timed_out:
                await (await wired).set_accepting(False)
            assert timed_out.value.members == ((frozen.id, frozen.name, frozen.pid),)
            assert (await wired).accepting is False
            with pytest.raises(NoTargetError):
                await m.get("api")


async def test_a_member_that_dies_is_not_waited_for():
    async with mesh(propagation_timeout=20.0) as m:
        worker = await m.start("api")
        dying = await m.start("dying")
        os.kill(dying.pid, signal.SIGSTOP)
        pausing = asyncio.create_task(m.interceptor.pause_worker(worker))
        await asyncio.sleep(0.05)
        assert not pausing.done()
        os.kill(dying.pid, signal.SIGKILL)
        async with asyncio.timeout(2):
            await pausing


async def test_one_who_asks_twice_waits_as_long_as_the_first():
    async with mesh(propagation_timeout=20.0) as m:
        worker = await m.start("api")
        frozen = await m.start("frozen")
        with stopped(frozen.pid):
            first = asyncio.create_task(m.interceptor.pause_worker(worker))
            await asyncio.sleep(0)
            second = asyncio.create_task(m.interceptor.pause_worker(worker))
            await asyncio.sleep(0.1)
            assert not first.done()
            assert not second.done()
        async with asyncio.timeout(5):
            await asyncio.gather(first, second)


async def test_a_member_that_joins_later_knows_already():
    async with mesh() as m:
        one, two = await m.start("api", 2)
        await m.interceptor.pause_worker(one)
        await m.start("late")
        found = await m.get("late", "/ask?url=http://api.local/&times=6")
        assert set(found["found"]) == {two.id}


async def test_a_blocked_member_does_not_hold_up_the_others():
    async with mesh() as m:
        worker = await m.start("api")
        await m.start("blocked")
        blocking = asyncio.create_task(m.get("blocked", "/block?seconds=1"))
        rounds = 0
        while not blocking.done():
            await m.ids("api", 5)
            rounds += 1
        await blocking
        assert rounds > 3, "a round that is held up lasts as long as the block"
        await m.interceptor.pause_worker(worker)


async def test_a_frozen_member_costs_no_memory():
    async with mesh(propagation_timeout=30.0) as m:
        worker = await m.start("api", kind="loop")
        frozen = await m.start("frozen")
        hub = worker.running.hub
        unsent = frozen.running._connection.channel._handover._unsent
        with stopped(frozen.pid):
            changes = [
                hub.change(
                    lambda now, paused=not turn % 2: hub.membership.update(worker.id, now, paused=paused)
                )
                for turn in range(2000)
            ]
            assert 0 < len(unsent) < 5
        async with asyncio.timeout(10):
            await asyncio.gather(*changes)
        assert not unsent
        assert (await m.get("frozen", "/ask?url=http://api.local/"))["found"] == [worker.id]


async def test_what_is_not_acknowledged_is_done_all_the_same():
    async with mesh(propagation_timeout=0.3) as m:
        seen = asyncio.Queue()

        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                await receive()
                await send({"type": "lifespan.startup.complete"})
                await receive()
                seen.put_nowait("shut down")
                await send({"type": "lifespan.shutdown.complete"})
                return
            seen.put_nowait(current())
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"1"})

        worker = Worker(app, kind="loop")
        await m.interceptor.route("api", worker)
        await m.get("api")
        wired = seen.get_nowait()
        frozen = await m.start("frozen")
        with stopped(frozen.pid):
            with pytest.raises(MeshTimeoutError):
                await wired.replace_server(None)
            async with asyncio.timeout(5):
                assert await seen.get() == "shut down"
            with pytest.raises(NoTargetError):
                await m.get("api")


async def test_another_thread_is_told_where_the_mesh_lives():
    async with mesh() as m:
        worker = await m.start("api", kind="loop")
        for call in (
            lambda: m.interceptor.pause_worker(worker),
            lambda: m.interceptor.route("web", worker),
            lambda: m.interceptor.unroute("api"),
        ):
            with pytest.raises(LoopMismatchError):
                await asyncio.to_thread(asyncio.run, call())


async def test_a_worker_begins_although_another_is_silent(caplog):
    async with mesh(propagation_timeout=0.3) as m:
        frozen = await m.start("frozen")
        worker = Worker(f"{APPS}:app", kind="loop")
        with stopped(frozen.pid):
            with pytest.raises(MeshTimeoutError):
                await m.interceptor.route("api", worker)
            # What it said itself, that it has an app, was not acknowledged in time, either.
            async with asyncio.timeout(5):
                while "begins: not acknowledged" not in caplog.text:
                    await asyncio.sleep(0.01)
            assert (await m.get("api"))["id"] == worker.id
        assert worker.state == "ready"
        assert set((await m.get("frozen", "/ask?url=http://api.local/"))["found"]) == {worker.id}

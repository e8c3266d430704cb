"""The signal: who watches the capacity of a name is told in time, and the change waits for what follows from it."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest
from tests.mesh.client_kit import Bench, settled
from tests.mesh.member_kit import mesh, stopped

from dodici import Agent, MeshTimeoutError, NoTargetError, interceptors
from dodici.mesh import Worker, WorkerInterceptor
from dodici.mesh.membership import Answer, Membership
from dodici.mesh.snapshot import MemberInfo

ORIGIN = "http://api.local"


class Watcher:
    """Keeps what it was told; what it returns ends when `release()` is called, if it is not `quick`."""

    def __init__(self, *, quick=True, error=None):
        self.shares = []
        self.cancelled = 0
        self.error = error
        self._quick = quick
        self._released = asyncio.Event()

    def __call__(self, share):
        self.shares.append(share)
        return None if self._quick else self._wait()

    def slow(self):
        self._quick = False
        self._released.clear()

    def release(self):
        self._quick = True
        self._released.set()

    async def _wait(self):
        try:
            await self._released.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            if self.error is None:
                raise
            raise self.error from None
        if self.error is not None:
            raise self.error


# -- what is told ------------------------------------------------------------------------------------------


async def test_the_share_is_told_at_once_and_at_every_change():
    bench, watcher = Bench(), Watcher()
    assert bench.mesh.watch_capacity(ORIGIN, watcher) is not None
    assert watcher.shares == [0.0]  # no worker has this name
    for number in range(4):
        bench.worker(f"w{number}")
    everybody = [f"w{number}" for number in range(4)]
    bench.publish(api=everybody, other=["w0"])
    assert watcher.shares == [0.0, 1.0]
    for number, flag in enumerate(({"accepting": False}, {"paused": True}, {"app": False})):
        bench.worker(f"w{number}", **flag)
        bench.publish(api=everybody)
    assert watcher.shares[2:] == [0.75, 0.5, 0.25]
    bench.publish(api=everybody)  # nothing new
    bench.publish(api=["w0", "w3"])
    bench.publish(other=["w3"])
    assert watcher.shares[5:] == [0.5, 0.0]


async def test_it_is_told_before_anything_that_waits_is_routed_again():
    bench = Bench()
    bench.worker("one")
    bench.publish(api=["one"])
    seen = []

    class Handler:
        def on_response_error(self, controller, error):
            seen.append(("error", type(error)))

        def __getattr__(self, name):
            return lambda *_: None

    assert bench.mesh.watch_capacity(ORIGIN, lambda share: seen.append(("share", share))) is not None
    bench.mesh.dispatch({"origin": ORIGIN, "path": "/", "method": "GET"}, Handler())
    bench.worker("one", paused=True)
    bench.publish(api=["one"])
    assert seen == [("share", 1.0), ("share", 0.0), ("error", NoTargetError)]


async def test_several_watchers_and_the_end_of_one():
    bench = Bench()
    one, two, other = Watcher(), Watcher(), Watcher()
    end = bench.mesh.watch_capacity(ORIGIN, one)
    assert bench.mesh.watch_capacity("http://API.local.", two) is not None
    assert bench.mesh.watch_capacity("http://other.local", other) is not None
    bench.worker("w")
    bench.publish(api=["w"])
    end()
    end()
    bench.publish()
    assert (one.shares, two.shares, other.shares) == ([0.0, 1.0], [0.0, 1.0, 0.0], [0.0])


async def test_a_watcher_that_raises_keeps_nobody_else_from_being_told():
    bench, told, reports = Bench(), Watcher(), []
    asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report["exception"]))

    def broken(share):
        if share:
            raise LookupError("no")

    async def fails():
        raise KeyError("later")

    for each in (broken, lambda share: fails() if share else None, told):
        bench.mesh.watch_capacity(ORIGIN, each)
    bench.worker("w")
    bench.publish(api=["w"])
    await settled()
    assert told.shares == [0.0, 1.0]
    assert [type(each) for each in reports] == [LookupError, KeyError]


async def test_a_watcher_that_ends_its_own_watch_while_it_is_told():
    bench, after = Bench(), Watcher()
    ends, shares = [], []

    def once(share):
        shares.append(share)
        if share:
            ends[0]()

    ends.append(bench.mesh.watch_capacity(ORIGIN, once))
    bench.mesh.watch_capacity(ORIGIN, after)
    bench.worker("w")
    bench.publish(api=["w"])
    bench.publish()
    assert (shares, after.shares) == ([0.0, 1.0], [0.0, 1.0, 0.0])


# -- through what it is asked ------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["http://example.com", "https://127.0.0.1:8000", "http://local", "x"])
async def test_nothing_is_known_of_origins_outside(origin):
    bench = Bench()
    assert bench.mesh.watch_capacity(origin, Watcher()) is None
    assert Agent().watch_capacity(origin, Watcher()) is None


async def test_it_passes_through_whatever_is_composed():
    bench, watcher, second = Bench(), Watcher(), Bench(domain=".second")
    outer = bench.mesh.compose(interceptors.retry()).compose(
        second.client.interceptor, interceptors.redirect()
    )
    assert outer.watch_capacity(ORIGIN, watcher) is not None
    assert outer.watch_capacity("http://api.second", watcher) is not None
    assert outer.watch_capacity("http://api.third", watcher) is None
    bench.worker("w")
    bench.publish(api=["w"])
    second.worker("w")
    second.worker("v", paused=True)
    second.publish(api=["w", "v"])
    assert watcher.shares == [0.0, 0.0, 1.0, 0.5]


async def test_the_outermost_of_two_meshes_with_one_domain_is_asked():
    inner, outer, watcher = Bench(), Bench(), Watcher()
    both = inner.mesh.compose(outer.client.interceptor)
    assert both.watch_capacity(ORIGIN, watcher) is not None
    for bench in (inner, outer):
        bench.worker("w")
    inner.publish(api=["w"])
    assert watcher.shares == [0.0]
    outer.publish(api=["w"])
    assert watcher.shares == [0.0, 1.0]


async def test_names_that_are_passed_on_are_unlimited_until_a_worker_had_them():
    bench, watcher = Bench(unknown="pass"), Watcher()
    assert bench.mesh.watch_capacity(ORIGIN, watcher) is not None
    assert watcher.shares == [1.0]
    bench.worker("w")
    bench.worker("v", accepting=False)
    bench.publish(api=["w", "v"])
    bench.publish()
    bench.publish(api=["v"])
    assert watcher.shares == [1.0, 0.5, 0.0]


@pytest.mark.parametrize("end", ["close", "destroy"])
async def test_a_dispatcher_that_ends_accepts_nothing(end):
    bench, watcher, other = Bench(), Watcher(), Watcher()
    bench.worker("w")
    bench.publish(api=["w"])
    apart = Agent().compose(bench.client.interceptor)
    bench.mesh.watch_capacity(ORIGIN, watcher)
    apart.watch_capacity(ORIGIN, other)
    await getattr(bench.mesh, end)()
    bench.publish()
    bench.publish(api=["w"])
    assert watcher.shares == [1.0, 0.0]
    assert other.shares == [1.0, 0.0, 1.0]
    late = Watcher()
    bench.mesh.watch_capacity(ORIGIN, late)
    assert late.shares == [0.0]
    await apart.close()


# -- what a change waits for -------------------------------------------------------------------------------


async def test_a_change_is_done_when_its_watchers_are():
    async with mesh() as m:
        worker, watcher = await m.start("api", kind="loop"), Watcher()
        m.agent.watch_capacity(ORIGIN, watcher)
        for change, share in ((m.interceptor.pause_worker, 0.0), (m.interceptor.resume_worker, 1.0)):
            watcher.slow()
            changing = asyncio.create_task(change(worker))
            while watcher.shares[-1] != share:
                await asyncio.sleep(0)
            for _ in range(50):
                await asyncio.sleep(0)
            assert not changing.done()
            watcher.release()
            await changing


async def test_a_change_that_is_taken_back_before_it_is_acknowledged():
    async with mesh() as m:
        worker, watcher = await m.start("api", kind="loop"), Watcher()
        m.agent.watch_capacity(ORIGIN, watcher)
        watcher.slow()
        changes = [
            asyncio.create_task(change(worker))
            for change in (
                m.interceptor.pause_worker,
                m.interceptor.resume_worker,
                m.interceptor.pause_worker,
            )
        ]
        while not watcher.shares or watcher.shares[-1] != 0.0:
            await asyncio.sleep(0)
        assert not any(change.done() for change in changes)
        watcher.release()
        await asyncio.gather(*changes)
        assert watcher.shares[-1] == 0.0
        with pytest.raises(NoTargetError):
            await m.get("api")


async def test_acknowledgements_keep_their_order():
    """They are cumulative: one of an unrelated change behind one that waits would count for that one, too."""
    async with mesh() as m:
        worker, other, watcher = await m.start("api", kind="loop"), await m.start("b", kind="loop"), Watcher()
        m.agent.watch_capacity(ORIGIN, watcher)
        watcher.slow()
        first = asyncio.create_task(m.interceptor.pause_worker(worker))
        while watcher.shares[-1]:
            await asyncio.sleep(0)
        second = asyncio.create_task(m.interceptor.pause_worker(other))
        third = asyncio.create_task(m.interceptor.resume_worker(other))
        for _ in range(50):
            await asyncio.sleep(0)
        assert not first.done()
        watcher.release()
        await asyncio.gather(first, second, third)


async def test_who_beyond_the_mesh_is_silent_is_named():
    async with mesh(propagation_timeout=2.0) as m:
        worker = await m.start("api", kind="loop")
        peers = (("b", "127.0.0.1:50052", 0), ("c", "127.0.0.1:50053", 0))
        # It knows who is silent when its time is over.
        watcher = Watcher(error=MeshTimeoutError("silent", members=peers))
        m.agent.watch_capacity(ORIGIN, watcher)
        watcher.slow()
        began = time.monotonic()
        with pytest.raises(
            MeshTimeoutError, match=r"by b \(127.0.0.1:50052\), c \(127.0.0.1:50053\);"
        ) as caught:
            await m.interceptor.pause_worker(worker)
        assert 1.2 < time.monotonic() - began < 2.0
        assert caught.value.members == peers
        assert watcher.cancelled == 1
        watcher.release()  # or it says so before that
        watcher.slow()
        resuming = asyncio.create_task(m.interceptor.resume_worker(worker))
        while not watcher.shares[-1]:
            await asyncio.sleep(0)
        watcher.release()
        with pytest.raises(MeshTimeoutError):
            await resuming
        assert watcher.cancelled == 1
        assert await m.get("api")  # it holds all the same


async def test_a_watcher_that_does_not_end_is_the_members_own_silence():
    async with mesh(propagation_timeout=0.4) as m:
        worker, watcher = await m.start("api", kind="loop"), Watcher()
        m.agent.watch_capacity(ORIGIN, watcher)
        watcher.slow()
        with pytest.raises(MeshTimeoutError, match="by coordinator ") as caught:
            await m.interceptor.pause_worker(worker)
        assert [name for _, name, _ in caught.value.members] == ["coordinator"]
        watcher.release()
        await m.interceptor.resume_worker(worker)


async def test_silent_members_and_who_is_silent_beyond_are_named_together():
    async with mesh(propagation_timeout=0.5) as m:
        worker, deaf = await m.start("api", kind="loop"), await m.start("deaf")
        watcher = Watcher(error=MeshTimeoutError("silent", members=[("b", "127.0.0.1:1", 0)]))
        m.agent.watch_capacity(ORIGIN, watcher)
        watcher.slow()
        with stopped(deaf.pid), pytest.raises(MeshTimeoutError) as caught:
            await m.interceptor.pause_worker(worker)
        assert {key for key, _, _ in caught.value.members} == {deaf.id, "b"}
        watcher.error = None
        watcher.release()
        await m.interceptor.resume_worker(worker)


async def test_a_worker_that_says_it_accepts_nothing_hears_of_the_silent():
    async with mesh(propagation_timeout=0.5) as m:
        await m.start("api")
        watcher = Watcher(error=MeshTimeoutError("silent", members=[("b", "127.0.0.1:50052", 0)]))
        m.agent.watch_capacity(ORIGIN, watcher)
        watcher.slow()
        response = await m.agent.request("http://api.local/accepting?value=0")
        assert response.status_code == 500  # as the app does not catch it
        await response.text()
        assert watcher.shares == [1.0, 0.0]
        watcher.release()


async def test_a_worker_that_crashes_is_not_waited_for():
    async with mesh() as m:
        one, two = await m.start("api", 2)
        watcher = Watcher()
        m.agent.watch_capacity(ORIGIN, watcher)
        await m.interceptor.pause_worker(two)
        assert watcher.shares == [1.0, 0.5]
        one.kill()
        await one.wait()
        while watcher.shares[-1]:
            await asyncio.sleep(0.001)
        await m.interceptor.resume_worker(two)
        assert watcher.shares == [1.0, 0.5, 0.0, 1.0]


async def test_names_routes_drains_and_the_end_of_the_mesh():
    watcher = Watcher()
    interceptor = WorkerInterceptor()
    async with Agent().compose(interceptor) as agent:
        # Asked before there is a mesh: the first route() makes it.
        assert agent.watch_capacity(ORIGIN, watcher) is not None
        workers = [Worker("tests.mesh.member_apps:app", kind="loop") for _ in range(4)]
        await interceptor.route("api", workers[:2])
        await interceptor.pause_worker(workers[0])
        await interceptor.route("api", workers[2:])
        await interceptor.unroute("api", workers[1])
        await interceptor.unroute("api")
        assert watcher.shares[:2] == [0.0, 1.0]
        assert watcher.shares[2:6] == pytest.approx([0.5, 0.75, 2 / 3, 0.0])
        await interceptor.route("api", workers[1])
        await interceptor.close(0)
        assert watcher.shares[6:] == [1.0, 0.0]
        interceptor.restart()
        again = Worker("tests.mesh.member_apps:app", kind="loop")
        await interceptor.route("api", again)
        assert watcher.shares[8:] == [1.0]
        await interceptor.close(0)
        assert watcher.shares[8:] == [1.0, 0.0]


async def test_a_watcher_that_does_not_end_does_not_hold_the_end_of_the_mesh():
    watcher = Watcher()
    async with mesh(propagation_timeout=0.3) as m:
        await m.start("api", kind="loop")
        m.agent.watch_capacity(ORIGIN, watcher)
        watcher.slow()
        began = time.monotonic()
        await m.interceptor.close(0)
        assert time.monotonic() - began < 5.0
    watcher.release()


# -- the machine -------------------------------------------------------------------------------------------


def test_tickets_collect_who_is_silent_beyond():
    machine = Membership(timeout=5.0)
    for each in "abc":
        machine.join(MemberInfo(id=each, name=each, pid=1, kind="process"))
        machine.acknowledge(each, machine.version)
    for each in "ab":
        machine.acknowledge(each, machine.version)
    machine.acknowledge("c", machine.version)
    machine.outputs.clear()
    first, second = (machine.update("a", 0.0, paused=paused) for paused in (True, False))
    version = machine.version
    machine.acknowledge("a", version - 1, [("x", "host:1", 0)])
    machine.acknowledge("b", version - 1, [("x", "host:1", 0), ("y", "host:2", 0)])
    machine.acknowledge("a", version)
    machine.acknowledge("b", version)
    machine.tick(5.0)
    answers = {each.ticket: each for each in machine.outputs if isinstance(each, Answer)}
    assert [info.id for info in answers[first].silent] == ["c"]
    assert answers[first].beyond == (("x", "host:1", 0), ("y", "host:2", 0))
    assert answers[second].beyond == ()


@pytest.mark.parametrize("silent", [5, ["b"], [["b", "host:1", "x"]], [["b"]]])
async def test_a_member_that_names_the_silent_wrongly_ends_its_channel(silent):
    from dodici.mesh.control import queue_channels
    from dodici.mesh.hub import Connection, Hub
    from dodici.mesh.member import MeshSettings

    loop = asyncio.get_running_loop()
    hub = Hub(loop, MeshSettings(), on_event=lambda event: None)
    ours, theirs = queue_channels(loop, loop)
    state = SimpleNamespace(lost=asyncio.Event())
    theirs.start(lambda message, attachments: None, lambda error: state.lost.set())
    connection = Connection(MemberInfo(id="w", name="w", pid=1, kind="thread"), ours, loop)
    hub.adopt(connection)
    theirs.send({"type": "ack", "version": 1, "silent": silent})
    await state.lost.wait()
    assert "w" not in hub.membership
    hub.close()

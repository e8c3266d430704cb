"""Leaving without losing anything: what was sent is served, to its last byte, within the drain's time."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import Counter
from typing import Any

import pytest

from dodici import BodyAbortedError, DodiciError, MeshTimeoutError, WorkerExitedError
from dodici.mesh.member import Member, MeshSettings
from dodici.mesh.snapshot import MemberInfo, MeshSnapshot
from dodici.testing import settle

from .kit import Desk, Mesh, freeze, frozen, thaw, within

URL = "http://api.local/whoami"


async def let(desk: Desk, token: str, *events: str) -> None:
    for event in events:
        await desk.call("set", name=f"{token}:{event}")


@pytest.mark.statement(21)
async def test_what_was_sent_before_the_leave_is_admitted(mesh: Mesh) -> None:
    [worker] = await mesh.start("api")
    await mesh.text(URL)
    freeze(worker.pid)
    sent = [mesh.send("http://api.local", "/whoami") for _ in range(20)]
    await settle()
    removing = asyncio.ensure_future(mesh.interceptor.unroute("api", worker))
    await settle()
    thaw(worker.pid)
    for recorder in sent:
        await recorder.wait()
        assert recorder.error is None, recorder.summary()
        assert recorder.body == str(worker.pid).encode()
    await within(removing, "unroute()")
    assert await mesh.outcome(URL) == "!NoTargetError"


@pytest.mark.statement(21)
async def test_requests_that_race_with_the_workers_own_close_are_served_or_have_no_target(mesh: Mesh) -> None:
    [worker, client_worker] = [*await mesh.start("api"), *await mesh.start("client")]
    desk, client = await mesh.desks([worker, client_worker])
    assert await client.call("spread", url=URL) == [await mesh.text(URL)]  # there are links now
    elsewhere = client.give("spread", url=URL, count=200)
    asking = [asyncio.ensure_future(mesh.outcome(URL)) for _ in range(20)]
    await asyncio.sleep(0)
    closing = desk.give("close")
    while not closing.done() and not desk.gone.is_set():
        asking.append(asyncio.ensure_future(mesh.outcome(URL)))
        await asyncio.sleep(0)
    answers = await within(asyncio.gather(*asking), "the requests")
    assert answers[:20] == [str(worker.pid)] * 20
    seen = Counter([*answers, *await elsewhere])
    assert set(seen) <= {str(worker.pid), "!NoTargetError"}, seen


@pytest.mark.statement(21)
@pytest.mark.parametrize("way", ["close", "stop", "replace", "unroute"])
async def test_what_is_still_on_its_way_is_admitted(mesh: Mesh, way: str) -> None:
    [worker] = await mesh.start("api")
    desk = await mesh.desk(worker)
    await mesh.text(URL)
    # Far more than a socket holds: the news of the leave overtakes it.
    sent = [
        mesh.send("http://api.local", "/echo?token=sent", method="POST", body=bytes(30_000))
        for _ in range(300)
    ]
    await asyncio.sleep(0)
    leaving: Any = {
        "close": lambda: desk.call("close"),
        "stop": worker.stop,
        "replace": lambda: desk.call("replace", label=None),
        "unroute": lambda: mesh.interceptor.unroute("api", worker),
    }[way]()
    await within(leaving, way)
    if way == "unroute":
        assert await desk.call("get", name="sent:ended") == 300
    for recorder in sent:
        await recorder.wait()
        assert (recorder.error, recorder.status_code) == (None, 200), recorder.summary()
    assert await mesh.outcome(URL) == "!NoTargetError"


@pytest.mark.statement(22)
async def test_a_client_with_a_stale_snapshot_is_sent_elsewhere_and_never_left_waiting(brisk: Mesh) -> None:
    leaving, staying = await brisk.start("api", 2)
    [client_worker] = await brisk.start("client")
    client = await brisk.desk(client_worker)
    assert set(await client.call("spread", url=URL, count=4)) == {str(leaving.pid), str(staying.pid)}
    for round_ in range(3):
        with frozen(client.pid):
            # Read before the news, or after: either way it must end well.
            asking = client.give("spread", url=URL, count=30)
            with pytest.raises(MeshTimeoutError, match=client_worker.id):
                await brisk.interceptor.unroute("api", leaving)
        answers = await within(asking, "the stale client's requests")
        assert set(answers) <= {str(leaving.pid), str(staying.pid)}, f"round {round_}: {Counter(answers)}"
        assert await client.call("spread", url=URL, count=4) == [str(staying.pid)] * 4
        await brisk.route("api", leaving)


@pytest.mark.statement(22)
async def test_what_a_stale_client_sends_to_a_worker_that_drains_goes_to_its_sibling(brisk: Mesh) -> None:
    [staying] = await brisk.start("api")
    [client_worker] = await brisk.start("client")
    client = await brisk.desk(client_worker)
    for index in range(2):
        [leaving] = await brisk.start("api", app_errors="raise")
        desk = await brisk.desk(leaving)
        held = brisk.send("http://api.local", f"/hang?token=held{index}")
        if await _served_by(held, f"held{index}", desk, await brisk.desk(staying)) is not desk:
            held = brisk.send("http://api.local", f"/hang?token=held{index}")
            await desk.seen(f"held{index}:started")
        hammering = client.give("hammer", url=URL, callers=50)
        await client.seen("hammer:some")
        with frozen(client.pid):
            closing = desk.give("close", drain_timeout=4.0)
            # Its patience with the frozen client, for the acknowledgement and for the barrier; then it drains.
            await asyncio.sleep(0.5 + 1.0 + 0.5)
            assert not closing.done()
        await client.call("set", name="hammer:stop")
        seen = await within(hammering, "the stale client's requests")
        assert set(seen) <= {str(leaving.pid), str(staying.pid)}, seen
        await client.call("clear")
        held.controller.abort()
        await within(closing, "close()")


async def _served_by(held: Any, token: str, *desks: Desk) -> Desk:
    """Which of the workers has got a request."""
    while True:
        for desk in desks:
            if await desk.call("get", name=f"{token}:started"):
                return desk


@pytest.mark.statement(22)
async def test_a_client_with_a_stale_snapshot_and_nobody_left_has_no_target(brisk: Mesh) -> None:
    [leaving] = await brisk.start("api")
    [client_worker] = await brisk.start("client")
    client, desk = await brisk.desks([client_worker, leaving])
    assert await client.call("spread", url=URL) == [str(leaving.pid)]
    with frozen(client.pid):
        asking = client.give("spread", url=URL, count=10)
        closed = await desk.call("close", drain_timeout=5.0)
        await within(desk.gone.wait(), "the worker's end")
        assert closed[0] in {"None", "!MeshTimeoutError"}
    answers = await within(asking, "the stale client's requests")
    assert set(answers) <= {"!NoTargetError", "!TargetChangedError", "!WorkerExitedError"}, Counter(answers)


async def _swap_under_load(mesh: Mesh, swaps: int, pause: float) -> Counter[str]:
    """Callers that never stop, while the only worker is replaced again and again."""
    answers: Counter[str] = Counter()
    stop = False

    async def caller() -> None:
        while not stop:
            answers[await mesh.outcome("http://api.local/label")] += 1

    [worker] = await mesh.start("api")
    callers = [asyncio.ensure_future(caller()) for _ in range(100)]
    for _ in range(swaps):
        began, at_least = time.monotonic(), answers.total() + 200
        [newer] = await mesh.start("api")
        await mesh.interceptor.unroute("api", worker)
        await worker.stop()
        worker = newer
        while answers.total() < at_least or time.monotonic() - began < pause:
            await asyncio.sleep(0.005)
    stop = True
    await within(asyncio.gather(*callers), "the callers")
    return answers


@pytest.mark.statement(23)
async def test_swapping_workers_under_load_loses_nothing(mesh: Mesh) -> None:
    answers = await _swap_under_load(mesh, swaps=3, pause=0.0)
    assert set(answers) == {"plain"}, answers


@pytest.mark.perf
@pytest.mark.statement(23)
async def test_swapping_workers_every_half_second_for_ten_seconds_loses_nothing(mesh: Mesh) -> None:
    answers = await _swap_under_load(mesh, swaps=20, pause=0.5)
    assert set(answers) == {"plain"}, answers


@pytest.mark.statement(24)
@pytest.mark.parametrize("way", ["close", "unroute", "stop"])
async def test_leaving_waits_for_the_last_byte(mesh: Mesh, way: str) -> None:
    [worker] = await mesh.start("api")
    desk = await mesh.desk(worker)
    recorder = mesh.send("http://api.local", "/gated?parts=2&token=stream")
    await let(desk, "stream", "head", "0")
    await recorder.received(7)
    leaving = {
        "close": lambda: desk.call("close"),
        "unroute": lambda: mesh.interceptor.unroute("api", worker),
        "stop": lambda: worker.stop(),
    }[way]
    left = asyncio.ensure_future(leaving())
    await mesh.applied(lambda snapshot: "api" not in snapshot.routes)
    await settle()
    assert not left.done()
    assert not recorder.ended.done()
    await let(desk, "stream", "1")
    assert (await recorder.wait()).body == b"part-0;part-1;"
    await within(left, way)


@pytest.mark.statement(24)
async def test_leaving_waits_for_a_reader_that_is_slow(brisk: Mesh) -> None:
    [worker] = await brisk.start("api")
    [client_worker] = await brisk.start("client")
    desk, client = await brisk.desks([worker, client_worker])
    asking = client.give("size", url="http://api.local/held/250000?token=slow")
    await desk.seen("slow:waiting")
    with frozen(client.pid):
        # More than a socket holds, and less than the window: the app has given it, and nobody has read it.
        await desk.call("set", name="slow:go")
        await desk.seen("slow:ended")
        closing = desk.give("close", drain_timeout=10.0)
        await asyncio.sleep(0.5 + 1.0 + 0.5)  # its patience for acknowledgement and barrier, and some more
    assert await within(asking, "the slow reader's body") == 250_000
    await within(closing, "close()")
    assert await within(worker.wait(), "the worker's end") == 0


@pytest.mark.statement(24)
async def test_the_coordinators_close_waits_for_the_last_byte(mesh: Mesh) -> None:
    [worker] = await mesh.start("api")
    desk = await mesh.desk(worker)
    recorder = mesh.send("http://api.local", "/gated?parts=2&token=stream")
    await let(desk, "stream", "head", "0")
    await recorder.received(7)
    closing = asyncio.ensure_future(mesh.interceptor.close())
    await mesh.applied(lambda snapshot: "api" not in snapshot.routes)
    assert not closing.done()
    await let(desk, "stream", "1")
    assert (await recorder.wait()).body == b"part-0;part-1;"
    await within(closing, "close()")
    assert await within(worker.wait(), "the worker's end") == 0


@pytest.mark.statement(24)
async def test_after_the_drains_time_bodies_are_aborted_and_apps_told(mesh: Mesh) -> None:
    [worker] = await mesh.start("api")
    desk = await mesh.desk(worker)
    begun = mesh.send("http://api.local", "/watch?token=begun")
    await begun.received(5)
    waiting = mesh.send("http://api.local", "/hang?token=waiting")
    await desk.seen("waiting:started")
    heard = [desk.give("wait", name=name) for name in ("begun:heard:http.disconnect", "waiting:disconnected")]
    began = time.monotonic()
    await desk.call("close", drain_timeout=0.3)
    assert 0.25 < time.monotonic() - began < 3
    await begun.wait()
    assert isinstance(begun.error, BodyAbortedError)
    assert begun.body == b"begun"
    await waiting.wait()
    assert isinstance(waiting.error, WorkerExitedError)
    await within(asyncio.gather(*heard), "the disconnects in the app")
    assert await within(worker.wait(), "the worker's end") == 0


@pytest.mark.statement(25)
async def test_three_closes_are_one(mesh: Mesh) -> None:
    [worker] = await mesh.start("api")
    desk = await mesh.desk(worker)
    await mesh.text(URL)
    recorder = mesh.send("http://api.local", "/gated?token=held")
    await desk.seen("held:started")
    closing = desk.give("close", times=3)
    await mesh.applied(lambda snapshot: "api" not in snapshot.routes)
    assert not closing.done()
    await let(desk, "held", "head", "0")
    assert (await recorder.wait()).body == b"part-0;"
    assert await within(closing, "three closes") == ["None"] * 3
    assert await within(worker.wait(), "the worker's end") == 0
    assert worker.state == "exited"
    await within(desk.gone.wait(), "the desk's end")
    assert desk.events["shutdown:plain"] == 1
    assert worker.id not in mesh.interceptor.snapshot().members


@pytest.mark.statement(25)
async def test_the_coordinators_close_three_times_at_once(mesh: Mesh) -> None:
    workers = await mesh.start("api", 2)
    desks = await mesh.desks(workers)
    await within(asyncio.gather(*(mesh.interceptor.close() for _ in range(3))), "three closes")
    for worker, desk in zip(workers, desks, strict=True):
        assert await within(worker.wait(), "the worker's end") == 0
        await within(desk.gone.wait(), "the desk's end")
        assert desk.events["shutdown:plain"] == 1
    with pytest.raises(DodiciError):
        await mesh.interceptor.route("api", mesh.worker())


@pytest.mark.statement(26)
async def test_a_client_that_does_not_answer_delays_a_close_by_a_second(brisk: Mesh) -> None:
    [worker] = await brisk.start("api")
    [client_worker] = await brisk.start("client")
    desk, client = await brisk.desks([worker, client_worker])
    assert await client.call("spread", url=URL) == [str(worker.pid)]  # there is a link now
    with frozen(client.pid):
        began = time.monotonic()
        closed = await desk.call("close")
        await within(desk.gone.wait(), "the worker's end")
        assert time.monotonic() - began < 0.5 + 1.0 + 1.5
        assert closed[0] in {"None", "!MeshTimeoutError"}
        assert desk.events["shutdown:plain"] == 1
    assert await client.call("spread", url=URL) == ["!NoTargetError"]


@pytest.mark.statement(28)
async def test_a_successor_takes_what_is_new_and_the_old_one_ends_what_it_has(mesh: Mesh) -> None:
    [old] = await mesh.start("api", name="api-1")
    desk = await mesh.desk(old)
    held = mesh.send("http://api.local", "/gated?token=held")
    await desk.seen("held:started")
    [new] = await mesh.start("api", name="api-1")
    assert new.id != old.id
    removing = asyncio.ensure_future(mesh.interceptor.unroute("api", old))
    await mesh.applied(lambda snapshot: snapshot.routes["api"] == (new.id,))
    assert await mesh.spread(URL, 10) == [str(new.pid)] * 10
    assert not held.ended.done()
    await let(desk, "held", "head", "0")
    assert (await held.wait()).body == b"part-0;"
    await within(removing, "unroute()")
    await old.stop()
    assert await mesh.spread(URL, 4) == [str(new.pid)] * 4


@pytest.mark.statement(28)
async def test_an_interceptor_that_was_restarted_serves_again(mesh: Mesh) -> None:
    [old] = await mesh.start("api")
    await mesh.text(URL)
    await within(mesh.interceptor.close(), "close()")
    with pytest.raises(DodiciError):
        await mesh.interceptor.route("api", mesh.worker())
    mesh.interceptor.restart()
    [new] = await mesh.start("api")
    assert old.id != new.id
    assert await mesh.spread(URL, 4) == [str(new.pid)] * 4


class _Recorded:
    """A control channel that keeps what is sent."""

    closed = False

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any], attachments: Any = (), *, key: str | None = None) -> None:
        self.sent.append(message)

    def close(self) -> None:
        self.closed = True


@pytest.mark.statement(27)
async def test_a_snapshot_that_is_not_newer_is_ignored_and_acknowledged() -> None:
    channel: Any = _Recorded()
    info = MemberInfo(id="me", name="me", pid=1, kind="process")
    other = MemberInfo(id="other", name="other", pid=2, kind="process", app=True)
    member = Member(info, channel, asyncio.get_running_loop(), MeshSettings())

    def snapshot(version: int, **changes: Any) -> dict[str, Any]:
        members = {"me": info, "other": dataclasses.replace(other, **changes)}
        made = MeshSnapshot(version=version, members=members, routes={"api": ("other",)})
        return {"type": "snapshot", "snapshot": made.to_json()}

    for version, changes, applied, paused in [
        (5, {"paused": True}, 5, True),
        (4, {}, 5, True),
        (5, {}, 5, True),
        (6, {}, 6, False),
    ]:
        channel.sent.clear()
        member.receive(snapshot(version, **changes), [])
        assert member.client.snapshot.version == applied
        assert member.client.snapshot.members["other"].paused is paused
        assert [message["type"] for message in channel.sent] == ["ack"]
        assert channel.sent[0]["version"] >= version
    await member.close()

"""A member and its control channel: what it says, what it does when told, and when nobody is there."""

from __future__ import annotations

import asyncio
import os

import pytest

from dodici import LinkError, MeshError, MeshTimeoutError
from dodici.mesh.bootstrap import resident, run_worker
from dodici.mesh.control import queue_channels
from dodici.mesh.hub import Connection, Hub
from dodici.mesh.member import Member, MeshSettings, info_json
from dodici.mesh.snapshot import MemberInfo, MeshSnapshot
from dodici.net.local import queue_pair


def info(member_id, kind="loop"):
    return MemberInfo(id=member_id, name=f"name of {member_id}", pid=os.getpid(), kind=kind)


class Star:
    """The coordinator's end, played by the test."""

    def __init__(self, **settings):
        loop = asyncio.get_running_loop()
        self.channel, theirs = queue_channels(loop, loop)
        self.inbox = asyncio.Queue()
        self.lost = loop.create_future()
        self.channel.start(lambda message, attachments: self.inbox.put_nowait(message), self.lost.set_result)
        self.member = Member(info("me"), theirs, loop, MeshSettings(**settings))
        theirs.start(self.member.receive, self.member.lost)

    async def next(self, kind):
        async with asyncio.timeout(5):
            message = await self.inbox.get()
        assert message["type"] == kind, message
        return message

    def publish(self, version, *members, **routes):
        snapshot = MeshSnapshot(version=version, members={each.id: each for each in members}, routes=routes)
        self.channel.send({"type": "snapshot", "snapshot": snapshot.to_json()})


@pytest.fixture
async def star():
    made = Star(propagation_timeout=0.2)
    yield made
    await made.member.close()
    made.channel.close()


async def test_joining_waits_for_the_first_snapshot(star):
    joining = asyncio.create_task(star.member.joined())
    await star.next("joined")
    assert not joining.done()
    star.publish(3, info("me"))
    await joining
    assert (await star.next("ack"))["version"] == 3
    assert star.member.client.snapshot.version == 3


async def test_stale_snapshots_are_acknowledged_and_ignored(star):
    star.publish(5, info("me"), info("other"))
    star.publish(4, info("me"))
    assert (await star.next("ack"))["version"] == 5
    assert star.member.client.snapshot.version == 5
    assert "other" in star.member.client.snapshot.members


async def test_set_returns_when_it_is_answered(star):
    setting = asyncio.create_task(star.member.set(accepting=False))
    message = await star.next("set")
    assert message["values"] == {"accepting": False}
    assert not setting.done()
    star.channel.send({"type": "done", "op": message["op"], "silent": []})
    await setting
    star.channel.send({"type": "done", "op": message["op"], "silent": []})  # too much is harmless
    await asyncio.sleep(0)


async def test_set_names_the_silent(star):
    setting = asyncio.create_task(star.member.set(accepting=False))
    message = await star.next("set")
    star.channel.send({"type": "done", "op": message["op"], "silent": [["w9", "shop", 123]]})
    with pytest.raises(MeshTimeoutError, match=r"shop \(w9, pid 123\)") as silent:
        await setting
    assert silent.value.members == (("w9", "shop", 123),)


async def test_set_that_is_refused(star):
    setting = asyncio.create_task(star.member.leave())
    message = await star.next("leave")
    star.channel.send({"type": "failed", "op": message["op"], "error": "no such thing"})
    with pytest.raises(MeshError, match="no such thing"):
        await setting


async def test_a_coordinator_that_does_not_answer(star):
    setting = asyncio.create_task(star.member.set(accepting=False))
    await star.next("set")
    with pytest.raises(MeshTimeoutError, match="the coordinator did not answer"):
        await setting


async def test_a_coordinator_that_is_gone(star):
    orphaned = asyncio.Event()
    star.member.on_orphaned = orphaned.set
    setting = asyncio.create_task(star.member.set(accepting=False))
    await star.next("set")
    star.channel.close()
    with pytest.raises(MeshError, match="the coordinator is gone"):
        await setting
    assert orphaned.is_set()
    with pytest.raises(MeshError, match="no coordinator"):
        await star.member.set(accepting=True)
    failed = asyncio.get_running_loop().create_future()
    star.member.client.link_failed = lambda member_id, error: failed.set_result((member_id, error))
    star.member.connect("other")
    assert not failed.done()
    assert isinstance((await failed)[1], LinkError)


async def test_a_link_is_asked_for_after_the_last_one(star):
    star.member.connect("other")
    message = await star.next("connect")
    assert (message["peer"], message["after"]) == ("other", 0)


async def test_a_link_that_is_refused(star):
    failed = asyncio.get_running_loop().create_future()
    star.member.client.link_failed = lambda member_id, error: failed.set_result((member_id, str(error)))
    star.channel.send({"type": "unlinked", "peer": "other", "reason": "on_channel forbids it"})
    assert await failed == ("other", "no link to other: on_channel forbids it")


async def test_a_link_that_cannot_be_opened_is_not_the_last_one(star, monkeypatch):
    async def refuse(*args, **options):
        raise OSError("the loop does not take it")

    monkeypatch.setattr("dodici.mesh.link.open_link", refuse)
    failed = asyncio.get_running_loop().create_future()
    star.member.client.link_failed = lambda member_id, error: failed.set_result((member_id, str(error)))
    loop = asyncio.get_running_loop()
    here, there = queue_pair(loop, loop)
    star.channel.send({"type": "link", "serial": 3, "peer": info_json(info("other"))}, (there,))
    assert await asyncio.wait_for(failed, 5) == ("other", "the loop does not take it")
    # Else the coordinator would take it for one who has not heard of the third yet, and make none.
    star.member.connect("other")
    assert (await star.next("connect"))["after"] == 3
    here.close()


async def test_calls(star):
    async def add(message):
        return {"sum": message["a"] + message["b"]}

    async def fail(message):
        raise ValueError("cannot")

    star.member.calls = {"add": add, "fail": fail}
    star.channel.send({"type": "call", "call": 1, "do": "add", "a": 2, "b": 3})
    assert (await star.next("reply"))["result"] == {"sum": 5}
    star.channel.send({"type": "call", "call": 2, "do": "fail"})
    assert (await star.next("reply"))["error"] == "ValueError: cannot"
    star.channel.send({"type": "call", "call": 3, "do": "unknown"})
    assert (await star.next("reply"))["error"] == "name of me cannot unknown"


@pytest.mark.parametrize(
    "message",
    [
        {"type": "nonsense"},
        {"type": "snapshot"},
        {"type": "snapshot", "snapshot": {"version": 1, "members": [{"id": "x"}], "routes": {}}},
        {"type": "done"},
        {"type": "link", "serial": 1, "peer": {}},
        {"type": "call", "call": "x", "do": "add"},
    ],
    ids=lambda message: f"{message['type']} {len(message)}",
)
async def test_what_it_cannot_understand_makes_it_an_orphan(star, message):
    star.channel.send(message)
    await asyncio.wait_for(star.lost, 5)
    assert star.member.orphaned


async def test_close_says_that_it_left(star):
    await star.member.close()
    await star.next("closed")
    assert await star.lost is None


async def test_requests_for_a_member_without_an_app_go_back(star):
    refused = []

    class Stream:
        refuse = staticmethod(refused.append)

    star.member.door.accept(Stream())
    assert refused == ["no app is here"]


# -- the hub's view of members that misbehave ------------------------------------------------------------


class Ring:
    """A hub with members that the test speaks for."""

    def __init__(self, **options):
        self.events = []
        self.loop = asyncio.get_running_loop()
        self.hub = Hub(
            self.loop, MeshSettings(propagation_timeout=5.0), on_event=self.events.append, **options
        )

    def member(self, member_id):
        ours, theirs = queue_channels(self.loop, self.loop)
        inbox = asyncio.Queue()
        lost = self.loop.create_future()
        theirs.start(lambda message, attachments: inbox.put_nowait((message, attachments)), lost.set_result)
        connection = Connection(info(member_id), ours, self.loop)
        self.hub.adopt(connection)
        return theirs, inbox, lost, connection


@pytest.mark.parametrize(
    "message",
    [
        {"type": "nonsense"},
        {"type": "joined"},
        {"type": "ack", "version": 99},
        {"type": "ack"},
        {"type": "set", "op": 1, "values": {"paused": True}},
        {"type": "set", "op": 1, "values": {"accepting": "yes"}},
        {"type": "set", "op": 1, "values": {"address": 5}},
        {"type": "connect", "peer": "b"},
        {"type": "reply", "call": None},
    ],
    ids=lambda message: " ".join(map(str, (message["type"], *message.get("values", "")))),
)
async def test_a_member_that_makes_no_sense_is_removed(message):
    ring = Ring()
    channel, _, lost, _ = ring.member("a")
    other, _, _, _ = ring.member("b")
    channel.send(message)
    assert await asyncio.wait_for(lost, 5) is None
    assert "a" not in ring.hub.membership
    assert "b" in ring.hub.membership
    other.close()
    ring.hub.close()


async def test_a_change_is_not_waited_for_beyond_the_end_of_the_hub():
    ring = Ring()
    ring.member("a")  # never acknowledges
    ring.member("b")
    changed = ring.hub.change(lambda now: ring.hub.membership.update("a", now, paused=True))
    await asyncio.sleep(0)
    assert not changed.done()
    ring.hub.close()
    await asyncio.wait_for(changed, 5)


async def test_links_are_made_for_both_and_once():
    ring = Ring()
    a, a_inbox, _, _ = ring.member("a")
    b, b_inbox, _, _ = ring.member("b")
    while not a_inbox.empty() or not b_inbox.empty():
        a_inbox.get_nowait() if not a_inbox.empty() else b_inbox.get_nowait()
    await asyncio.sleep(0.01)

    async def links(inbox):
        found = []
        await asyncio.sleep(0.01)
        while not inbox.empty():
            message, attachments = inbox.get_nowait()
            if message["type"] == "link":
                assert len(attachments) == 1
                attachments[0].abort()
                found.append((message["serial"], message["peer"]["id"]))
        return found

    a.send({"type": "connect", "peer": "b", "after": 0})
    b.send({"type": "connect", "peer": "a", "after": 0})
    assert (await links(a_inbox), await links(b_inbox)) == ([(1, "b")], [(1, "a")])
    b.send({"type": "connect", "peer": "a", "after": 1})
    a.send({"type": "connect", "peer": "b", "after": 1})
    assert (await links(a_inbox), await links(b_inbox)) == ([(2, "b")], [(2, "a")])
    a.send({"type": "connect", "peer": "nobody", "after": 0})
    await asyncio.sleep(0.01)
    assert a_inbox.get_nowait()[0]["type"] == "unlinked"
    ring.hub.remove("b")
    await asyncio.sleep(0.01)
    told = [a_inbox.get_nowait()[0]["type"] for _ in range(a_inbox.qsize())]
    assert sorted(told) == ["gone", "snapshot"]
    a.close()
    ring.hub.close()


async def test_calls_of_the_hub():
    ring = Ring()
    channel, inbox, _, _ = ring.member("a")

    async def request():
        while (message := (await inbox.get())[0])["type"] != "call":
            pass
        return message

    asking = asyncio.create_task(ring.hub.call("a", "add", 5.0, a=1))
    message = await request()
    assert (message["do"], message["a"]) == ("add", 1)
    channel.send({"type": "reply", "call": message["call"], "result": {"ok": 1}})
    assert await asking == {"ok": 1}
    asking = asyncio.create_task(ring.hub.call("a", "add", 5.0))
    channel.send({"type": "reply", "call": (await request())["call"], "error": "cannot"})
    with pytest.raises(MeshError, match="cannot"):
        await asking
    with pytest.raises(MeshError, match=r"did not add within 0\.01 s"):
        await ring.hub.call("a", "add", 0.01)
    asking = asyncio.create_task(ring.hub.call("a", "add", 5.0))
    await request()
    await request()
    channel.close()
    with pytest.raises(LinkError, match="has ended"):
        await asking
    with pytest.raises(LinkError, match="has ended"):
        await ring.hub.call("a", "add", 5.0)
    ring.hub.close()


# -- a worker's life without a coordinator ---------------------------------------------------------------


async def test_a_worker_whose_coordinator_is_gone_before_it_began():
    loop = asyncio.get_running_loop()
    ours, theirs = queue_channels(loop, loop)
    running = asyncio.create_task(run_worker(theirs, "loop"))
    await asyncio.sleep(0)
    ours.start(lambda message, attachments: None, lambda error: None)
    ours.close()
    assert await asyncio.wait_for(running, 5) == 0


async def test_a_worker_that_is_told_nonsense_ends(caplog):
    loop = asyncio.get_running_loop()
    ours, theirs = queue_channels(loop, loop)
    lost = loop.create_future()
    ours.start(lambda message, attachments: None, lost.set_result)
    running = asyncio.create_task(run_worker(theirs, "loop"))
    ours.send({"type": "snapshot", "snapshot": MeshSnapshot().to_json()})
    assert await asyncio.wait_for(running, 5) == 1
    assert await lost is None
    assert "'snapshot' before 'start'" in caplog.text


async def test_a_worker_that_is_cancelled_before_it_began_leaves_no_task():
    loop = asyncio.get_running_loop()
    ours, theirs = queue_channels(loop, loop)
    before = asyncio.all_tasks()
    running = asyncio.create_task(run_worker(theirs, "loop"))
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait((running,))
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    ours.close()


def test_resident_memory():
    assert 5_000_000 < resident() < 10_000_000_000


def test_a_member_as_json():
    member = info("a")
    assert MemberInfo(**info_json(member)) == member

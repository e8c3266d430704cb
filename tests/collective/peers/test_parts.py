"""Announcements that are larger than a frame, and links whose messages are small."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from tests.collective.fleet import fleet, until

from dodici.collective import Limits, parts as module
from dodici.collective.link import Session
from dodici.collective.names import RouteKey
from dodici.collective.parts import Assembly, split
from dodici.collective.protos import link_pb2 as pb


def announcement(names: list[str], **more: Any) -> pb.Announcement:
    routes = [pb.Route(namespace="shop", service="Work", method=name, weight=1.0) for name in names]
    return pb.Announcement(collector_id="b", namespaces=["shop", "other"], routes=routes, **more)


@given(
    sizes=st.lists(st.integers(1, 300), max_size=60),
    message=st.sampled_from([2, 500, 2000, 1 << 20]),
    draining=st.booleans(),
)
def test_parts_are_small_and_make_the_whole_again(sizes: list[int], message: int, draining: bool) -> None:
    whole = announcement(["m" * size for size in sizes], draining=draining, epoch=7, version=3)
    cut = list(split(whole, whole.ByteSize(), message))
    assert [part.more for part in cut] == [True] * (len(cut) - 1) + [False]
    for part in cut:
        assert part.ByteSize() <= message // 2 + 8 or len(part.routes) <= 1
        assert (part.epoch, part.version, part.draining) == (7, 3, draining)
    assembly = Assembly("b")
    for _ in range(2):  # and again: nothing is left of the first
        made = [assembly.add(pb.Announcement.FromString(part.SerializeToString())) for part in cut]
        assert made[:-1] == [None] * (len(cut) - 1)
        assert made[-1] == whole


def test_what_one_peer_announces_is_limited(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_MOST", 1200)
    assembly = Assembly("b")
    part = announcement(["m" * 300], more=True)
    for _ in range(50):
        assert assembly.add(part) is None
    whole = assembly.add(announcement(["last"], draining=True))
    assert whole is not None
    assert [route.method for route in whole.routes] == ["m" * 300] * 3
    assert whole.draining  # what else it says counts
    assert [record.message for record in caplog.records] == [
        "b announces more than 1200 bytes of routes: the others are not taken"
    ]
    again = assembly.add(announcement(["after"]))
    assert again is not None
    assert [route.method for route in again.routes] == ["after"]


def test_a_change_in_the_middle_is_told_after_the_last_part() -> None:
    names = [f"M{number}" for number in range(40)]
    session = Session(
        "b", pb.Hello(), lambda: announcement(names), lambda call, answer: None, 1000, lambda: False
    )
    outbox = session._outbox
    assert outbox.next_frame() == pb.LinkFrame(hello=pb.Hello())
    session.tell(1)
    first = outbox.next_frame()
    assert first is not None
    assert first.announcement.more
    names.append("New")
    session.tell(2)
    assembly = Assembly("b")
    assert assembly.add(first.announcement) is None
    told = []
    while (frame := outbox.next_frame()) is not None:
        made = assembly.add(frame.announcement)
        if made is not None:
            told.append((made.version, len(made.routes)))
    assert told == [(1, 40), (2, 41)]


@pytest.mark.parametrize("link_port", [0, None])
@pytest.mark.parametrize("message", [4096, 65536])
async def test_small_messages_carry_many_routes_and_many_calls(message: int, link_port: int | None) -> None:
    small = {"limits": Limits(message=message), "link_port": link_port}
    async with fleet(a=small, b=small) as (a, b):
        for number in range(1500):
            b.register_service("shop", f"Service-{'x' * 60}", f"M{number}", lambda context, given: given)
        await a.connect_to(b.address)
        assert len(a.stats().routes) == 1500
        since = a.connections[0].since
        b.register_service("shop", "Echo", "Say", lambda context, given: given)
        await until(lambda: RouteKey("shop", "Echo", "Say") in a.stats().routes)
        given = "x" * (message // 3)
        results = await asyncio.gather(*(a.dispatch("shop", "Echo", "Say", given) for _ in range(100)))
        assert Counter((int(each.status), each.output == given) for each in results) == {(200, True): 100}
        large = "x" * (message - 60)
        assert (await a.dispatch("shop", "Echo", "Say", large)).output == large
        over = await a.dispatch("shop", "Echo", "Say", "x" * (message + 60))
        assert over.status == 429
        # One message that is too long is no reason to part.
        assert (a.connections[0].state, a.connections[0].since) == ("connected", since)

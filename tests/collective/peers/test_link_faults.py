"""What one call, one peer or one moment must not do to a link: end it for the others, hold it, or leave something."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.collective.fleet import fleet, serve, until
from tests.collective.peers.test_trunk import called, introduced, line, trunks, unread

from dodici.collective import CollectiveError, Limits, trunk
from dodici.collective.batch import Outbox
from dodici.collective.protos import link_pb2 as pb

SMALL = Limits(message=100_000)


async def test_calls_with_much_metadata_share_a_link() -> None:
    """Together they have more than a frame may: they go in several."""
    async with fleet(a={"limits": SMALL}, b={"limits": SMALL}) as (a, b):
        work = serve(b)
        await a.connect_to(b.address)
        calls = [a.dispatch("shop", "Work", "See", metadata={"x-fat": "y" * 6000}) for _ in range(250)]
        assert {int(answer.status) for answer in await asyncio.gather(*calls)} == {200}
        assert work.counts == {"See": 250}


async def test_an_answer_with_too_much_metadata_fails_alone() -> None:
    async with fleet(a={"limits": SMALL}, b={"limits": SMALL}) as (a, b):
        work = serve(b)

        async def fat(context: Any, given: Any) -> None:
            context.set_trailing_metadata({"x-fat": "y" * 2_000_000})

        b.register_service("shop", "Fat", "Get", fat)
        await a.connect_to(b.address)
        held = asyncio.create_task(a.dispatch("shop", "Work", "Hold"))
        await until(lambda: work.running == 1)
        refused = (await a.dispatch("shop", "Fat", "Get")).status
        assert (int(refused), "bytes of metadata" in refused.message) == (429, True)
        work.released.set()
        assert (await held).output == "b"


@pytest.mark.parametrize("link_port", [0, None])
async def test_an_answer_that_is_too_large_for_who_has_asked_fails_alone(link_port: int | None) -> None:
    """Its own collector may send more than the other takes."""
    async with fleet(a={"limits": SMALL, "link_port": link_port}, b={"link_port": link_port}) as (a, b):
        work = serve(b)
        b.register_service("shop", "Large", "Get", lambda context, given: bytes(given))
        await a.connect_to(b.address)
        since = a.connections[0].since
        held = asyncio.create_task(a.dispatch("shop", "Work", "Hold"))
        await until(lambda: work.running == 1)
        for size in (110_000, 1_200_000, 5_000_000):
            assert (await a.dispatch("shop", "Large", "Get", size)).status == 429
        fits = await a.dispatch("shop", "Large", "Get", 30_000)
        assert (int(fits.status), fits.output) == (200, bytes(30_000))
        work.released.set()
        assert (await held).output == "b"
        assert (a.connections[0].state, a.connections[0].since) == ("connected", since)


async def test_an_input_that_is_too_large_for_who_is_asked_fails_alone() -> None:
    async with fleet(a={}, b={"limits": Limits(message=10_000)}) as (a, b):
        b.register_service("shop", "Large", "Count", lambda context, given: len(given))
        await a.connect_to(b.address)
        refused = (await a.dispatch("shop", "Large", "Count", bytes(20_000))).status
        assert (int(refused), "10000 are allowed" in refused.message) == (429, True)
        assert (await a.dispatch("shop", "Large", "Count", bytes(9000))).output == 9000


def test_answers_without_payloads_fill_an_outbox_too() -> None:
    outbox = Outbox()
    refusal = {"code": 14, "message": "the collector takes no more calls on this link"}
    number = 0
    while not outbox.full:
        number += 1
        assert number < 50_000
        outbox.answer(pb.LinkAnswer(id=number, **refusal))
    answers = 0
    while (frame := outbox.next_frame()) is not None:
        assert frame.ByteSize() < 256 * 1024
        answers += len(frame.answers)
    assert (answers, outbox.waiting) == (number, 0)


async def test_who_takes_nothing_of_what_is_sent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read of it then, so that its silence tells nothing."""
    monkeypatch.setattr(trunk, "_DEAD", 0.7)
    async with unread() as (a, session):
        session.end()
        await until(lambda: trunks(a) == 0, 5)


async def test_a_change_is_acknowledged_on_the_link_that_succeeds_another() -> None:
    """The one before it goes on with its calls, and tells nothing any more."""
    async with fleet(a={}) as (a,), introduced(a) as before, line(a) as after:
        work = serve(a)
        before.send(called(1, "Hold"))
        await until(lambda: work.running == 1)
        joining = asyncio.create_task(a.join("other"))
        while "other" not in (await before.read_until("announcement")).announcement.namespaces:
            pass
        token = a._peers.get("x").token  # type: ignore[union-attr]
        hello = pb.Hello(version=1, collector_id="x", connection_id=token, successor=True)
        after.send(pb.LinkFrame(hello=hello))
        version = (await after.read_until("announcement")).announcement.version
        assert not joining.done()
        after.send(pb.LinkFrame(acknowledgement=pb.Acknowledgement(version=version)))
        async with asyncio.timeout(2):
            await joining
        assert work.running == 1


async def test_connecting_while_the_collector_stops_leaves_no_connection() -> None:
    async with fleet(a={}, b={}) as (a, b):
        greet = a._peers.greet
        answered, stopped = asyncio.Event(), asyncio.Event()

        async def late(*given: Any) -> Any:
            answer = await greet(*given)
            answered.set()
            await stopped.wait()
            return answer

        a._peers.greet = late  # type: ignore[method-assign]
        connecting = asyncio.create_task(a.connect_to(b.address))
        await answered.wait()
        await a.stop()
        stopped.set()
        with pytest.raises(CollectiveError, match="a was stopped meanwhile"):
            await connecting
        assert a.connections == ()
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "collector a to b"]

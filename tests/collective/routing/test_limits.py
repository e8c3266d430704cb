"""Refusals for want of room: where the surplus goes, and what a refused caller sees, over a hop as well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc import aio
from tests.collective.fleet import NAMESPACE, fleet, serve, until

from dodici.collective import Collector, Limits
from dodici.core.errors import InvalidArgumentError

METADATA = (("x-dodici-namespace", NAMESPACE),)
FULL = {"limits": Limits(in_flight=1, queued=0)}


async def holding(by: Collector, *, target: str | None = None) -> asyncio.Task[Any]:
    """A call that runs until it is released."""
    return asyncio.create_task(by.dispatch(NAMESPACE, "Work", "Hold", target=target))


async def writes(count: int, size: int = 1000) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * size


async def refusal(channel: aio.Channel, kind: str, method: str, messages: int) -> tuple[Any, ...]:
    """How a call of that kind is refused."""
    made = getattr(channel, kind)(f"/Work/{method}")
    call = made(writes(messages) if kind.startswith("stream") else b"x", metadata=METADATA, timeout=10)
    with pytest.raises(aio.AioRpcError) as caught:
        if kind.endswith("unary"):
            await call
        else:
            async for _ in call:
                pass
    trailing = dict(caught.value.trailing_metadata() or ())
    return caught.value.code(), caught.value.details(), trailing.get("grpc-retry-pushback-ms")


@pytest.mark.parametrize("entry", ["a", "b"])
async def test_a_refused_call_of_any_kind_shows_why(entry: str) -> None:
    async with fleet(a={}, b=FULL) as (a, b):
        work = serve(b)
        await a.connect_to(b.address)
        held = await holding(b)
        await until(lambda: work.running)
        async with aio.insecure_channel((a if entry == "a" else b).address) as channel:
            for kind, method in (
                ("unary_unary", "Who"),
                ("unary_stream", "Numbers"),
                ("stream_unary", "Total"),
                ("stream_stream", "Chat"),
            ):
                # One that has said all, and one that is still writing when it is refused.
                for messages in (1, 50):
                    code, details, pushback = await refusal(channel, kind, method, messages)
                    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED, (kind, messages, details)
                    assert details == f"collector b has no room for shop/Work.{method}"
                    assert int(pushback) >= 50
        work.released.set()
        assert (await held).status == 200


async def test_a_client_that_only_listens_is_refused_at_once() -> None:
    async with fleet(b=FULL) as (b,), aio.insecure_channel(b.address) as channel:
        work = serve(b)
        held = await holding(b)
        await until(lambda: work.running)
        listening = channel.stream_stream("/Work/Chat")(metadata=METADATA, timeout=10)
        began = asyncio.get_running_loop().time()
        with pytest.raises(aio.AioRpcError) as caught:
            await listening.read()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert asyncio.get_running_loop().time() - began < 5.0
        work.released.set()
        await held


async def test_dispatch_tells_of_429_and_of_when_to_come_again() -> None:
    async with fleet(a={}, b=FULL) as (a, b):
        work = serve(b)
        await a.connect_to(b.address)
        held = await holding(a)
        await until(lambda: work.running)
        answer = await a.dispatch(NAMESPACE, "Work", "Once")
        assert (answer.status, answer.status.grpc_status.name) == (429, "RESOURCE_EXHAUSTED")
        assert int(answer.metadata["grpc-retry-pushback-ms"]) >= 50
        assert work.counts == {}
        work.released.set()
        await held


async def test_a_namespace_leaves_room_for_the_others() -> None:
    async with fleet(a={"limits": Limits(per_namespace=2)}, b={}) as (a, b):
        work, other = serve(a), serve(a, namespace="other")
        held = [await holding(a) for _ in range(2)]
        await until(lambda: work.running == 2)
        refused = await a.dispatch(NAMESPACE, "Work", "Once")
        assert (refused.status, "grpc-retry-pushback-ms" in refused.metadata) == (429, True)
        assert (await a.dispatch("other", "Work", "Once")).status == 200
        # Where a peer serves it as well, the surplus goes there.
        serve(b)
        await a.connect_to(b.address)
        surplus = await a.dispatch(NAMESPACE, "Work", "Once")
        assert (surplus.status, surplus.handled_by_collector_id) == (200, "b")
        work.released.set()
        assert {(await each).status for each in held} == {200}
        assert (await a.dispatch(NAMESPACE, "Work", "Once")).handled_by_collector_id == "a"
        assert other.counts == {"Once": 1}


async def test_a_peer_has_no_more_than_its_share() -> None:
    async with fleet(a={"limits": Limits(per_peer=1)}, b={}, c={}) as (a, b, c):
        works = {"b": serve(b), "c": serve(c)}
        await a.connect_to(b.address)
        await a.connect_to(c.address)
        held = [await holding(a)]
        await until(lambda: sum(work.running for work in works.values()) == 1)
        held.append(await holding(a))
        await until(lambda: [work.running for work in works.values()] == [1, 1])
        for target in (None, "b"):
            refused = await a.dispatch(NAMESPACE, "Work", "Once", target=target)
            assert (refused.status, refused.metadata["grpc-retry-pushback-ms"]) == (429, "100")
            assert "as many calls at b" in refused.status.message
        works["c"].released.set()
        await asyncio.wait(held, return_when=asyncio.FIRST_COMPLETED)
        assert (await a.dispatch(NAMESPACE, "Work", "Once")).handled_by_collector_id == "c"
        works["b"].released.set()
        assert {(await each).status for each in held} == {200}
        assert a._routing.picker.full == set()


@pytest.mark.parametrize("name", ["per_peer", "per_namespace"])
def test_a_share_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match=name):
        Limits(**{name: 0})

"""What a collective keeps to over a hop, whatever handlers return and callers ask for."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.wrappers_pb2 import StringValue
from grpc import aio
from tests.collective.fleet import NAMESPACE, collector, fleet, routed, serve, settled, until

from dodici.collective import Collector

METADATA = (("x-dodici-namespace", NAMESPACE),)


@pytest.fixture
async def hop() -> AsyncIterator[tuple[Collector, Collector]]:
    """a, which serves nothing, in front of b."""
    async with fleet(a={}, b={}) as (a, b):
        await a.connect_to(b.address)
        yield a, b


@pytest.mark.weak_spot(9)
async def test_whatever_a_handler_returns_has_a_form_or_is_a_clear_error(
    hop: tuple[Collector, Collector],
) -> None:
    a, b = hop
    packed = AnyMessage(type_url="type.googleapis.com/un.Known", value=b"\x08\x01")
    values: list[Any] = [None, True, 7, 1.5, "x", b"\x00", {"a": [1, {}]}, [1, "2"], packed]
    given: list[Any] = [
        *values,
        StringValue(value="m"),
        object(),
        {1: 2},
        2**70,
        float("nan"),
        {"a": object()},
    ]
    b.register_service(NAMESPACE, "Gives", "It", lambda _, number: given[number])
    await until(lambda: routed(a, "Gives", "It"))
    for number, value in enumerate(values):
        answer = await a.dispatch(NAMESPACE, "Gives", "It", number)
        assert (answer.status, answer.output) == (200, value)
    assert (await a.dispatch(NAMESPACE, "Gives", "It", 9)).output == "m"
    for number in (10, 11, 12, 14):
        answer = await a.dispatch(NAMESPACE, "Gives", "It", number)
        assert (answer.status, answer.status.grpc_status.name) == (500, "INTERNAL")
        assert "object at 0x" not in answer.status.message
    nan = await a.dispatch(NAMESPACE, "Gives", "It", 13)
    assert nan.output != nan.output
    # It has lived through all of that.
    assert (await a.dispatch(NAMESPACE, "Gives", "It", 4)).output == "x"


@pytest.mark.weak_spot(15)
async def test_a_method_that_is_not_registered_is_refused_before_any_hop_and_again_behind_it(
    hop: tuple[Collector, Collector],
) -> None:
    a, b = hop
    work = serve(b)
    await settled(a, "b")
    asked: dict[str, list[str]] = {"a": [], "b": []}
    allowed = {"a": False, "b": True}

    def validator(name: str) -> Any:
        async def validate(namespace: str, service: str, method: str) -> bool:
            asked[name].append(method)
            return allowed[name]

        return validate

    for one in hop:
        one.set_registry_validator(validator(one.id))
    async with aio.insecure_channel(a.address) as channel:
        stub = channel.unary_unary("/Work/Who")
        for at_a, at_b, seen in ((False, True, ["a"]), (True, False, ["a", "b"]), (True, True, ["a", "b"])):
            allowed.update(a=at_a, b=at_b)
            for questions in asked.values():
                questions.clear()
            answer = await a.dispatch(NAMESPACE, "Work", "Who")
            served = at_a and at_b
            assert answer.status == (200 if served else 404)
            assert [name for name in asked if asked[name] == ["Who"]] == seen
            if not served:
                with pytest.raises(aio.AioRpcError) as caught:
                    await stub(b"", metadata=METADATA, timeout=5)
                assert caught.value.code().name == "NOT_FOUND"
    assert work.counts == {"Who": 1}


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(psutil.Process().memory_info().rss)


def held() -> tuple[int, int]:
    gc.collect()
    return len(asyncio.all_tasks()), len(list(Path("/proc/self/fd").iterdir()))


linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc here")


@linux
@pytest.mark.perf
async def test_refused_and_unknown_calls_leave_nothing(hop: tuple[Collector, Collector]) -> None:
    a, b = hop
    serve(b)
    await settled(a, "b")

    async def refused(calls: int) -> None:
        for number in range(calls):
            name = f"No{number}"
            assert (await a.dispatch(NAMESPACE, "Work", name)).status == 404
            assert (await a.dispatch(name, name, name)).status == 404
            assert (await a.dispatch(NAMESPACE, "Work", "Who", target=name)).status == 404

    async with aio.insecure_channel(a.address) as channel:

        async def unknown(calls: int) -> None:
            for number in range(calls):
                call = channel.unary_unary(f"/Work/No{number}")(b"", metadata=METADATA, timeout=5)
                assert (await call.code()).name == "UNIMPLEMENTED"

        await refused(800)  # so that what is bounded (history, names that were counted) is full
        await unknown(100)
        before, memory = held(), resident()
        await refused(1500)
        await unknown(500)
        await until(lambda: held() <= before)
        assert resident() - memory < 8 * 1024 * 1024


@linux
@pytest.mark.perf
async def test_connections_that_come_and_go_leave_nothing() -> None:
    async with fleet(a={}) as (a,):

        async def visits(count: int) -> None:
            for number in range(count):
                async with collector(f"visitor-{number % 7}") as visitor:
                    await visitor.connect_to(a.address)
                    await visitor.disconnect("a")
            while a.connections:
                await asyncio.sleep(0.01)
            await a._peers.disposed()

        await visits(10)
        before, memory = held(), resident()
        await visits(100)
        assert held()[0] <= before[0]
        assert held()[1] <= before[1] + 2
        assert resident() - memory < 16 * 1024 * 1024

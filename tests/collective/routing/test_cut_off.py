"""A client that cancels, dies or runs out of time in the middle of its input: no handler takes half of it for all."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from grpc import aio
from tests.collective.fleet import NAMESPACE, fleet, until

from dodici.collective import Breaker, Collector

METADATA = (("x-dodici-namespace", NAMESPACE),)
TIMES = 20


class Sums:
    """Adds up what it is sent, and notes how its input ended."""

    def __init__(self, collector: Collector) -> None:
        self.ends: Counter[str] = Counter()
        self.begun = 0
        collector.register_service(NAMESPACE, "Sums", "Total", self.total, kind="stream_unary")
        collector.register_service(NAMESPACE, "Sums", "Running", self.running, kind="stream_stream")

    async def read(self, given: AsyncIterator[Any]) -> int:
        result = 0
        try:
            async for each in given:
                self.begun += 1
                result += len(each)
        except BaseException as error:
            self.ends[type(error).__name__] += 1
            raise
        self.ends["complete"] += 1
        return result

    async def total(self, context: Any, given: AsyncIterator[Any]) -> bytes:
        return str(await self.read(given)).encode()

    async def running(self, context: Any, given: AsyncIterator[Any]) -> AsyncIterator[bytes]:
        yield str(await self.read(given)).encode()


@pytest.mark.weak_spot(25)
@pytest.mark.parametrize(("method", "hop"), [("Total", False), ("Running", True)], ids=["direct", "hop"])
async def test_input_that_is_cut_off_is_not_complete(method: str, hop: bool) -> None:
    # Deadlines that pass count as failures of the peer.
    async with fleet(a={"breaker": Breaker(failures=1000)}, b={}) as (a, b):
        sums = Sums(b)
        await a.connect_to(b.address)
        for how in ("cancel", "close", "deadline"):
            sums.ends.clear()
            sums.begun = 0
            channels = [aio.insecure_channel((a if hop else b).address) for _ in range(TIMES)]
            calls = []
            for channel in channels:
                made = getattr(channel, "stream_unary" if method == "Total" else "stream_stream")
                timeout = 1.0 if how == "deadline" else None
                calls.append(made(f"/Sums/{method}")(metadata=METADATA, timeout=timeout))
            await asyncio.gather(*(call.write(b"12") for call in calls))
            await until(lambda: sums.begun == TIMES)
            for call, channel in zip(calls, channels, strict=True):
                if how == "cancel":
                    call.cancel()
                elif how == "close":
                    await channel.close(None)
                else:
                    await call.code()
            await asyncio.gather(*(channel.close(None) for channel in channels))
            await until(lambda: sum(sums.ends.values()) == TIMES)
            assert sums.ends["complete"] == 0, how


@pytest.mark.parametrize("hop", [False, True], ids=["direct", "hop"])
async def test_input_that_is_complete_is(hop: bool) -> None:
    async with fleet(a={}, b={}) as (a, b):
        sums = Sums(b)
        await a.connect_to(b.address)
        async with aio.insecure_channel((a if hop else b).address) as channel:

            async def ask(count: int) -> bytes:
                call = channel.stream_unary("/Sums/Total")(
                    iter([b"x"] * count), metadata=METADATA, timeout=10
                )
                answer: bytes = await call
                return answer

            answers = await asyncio.gather(*map(ask, range(20)))
        assert answers == [str(count).encode() for count in range(20)]
        assert sums.ends == {"complete": 20}

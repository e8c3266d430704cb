"""A collector of the soak: `python member.py ID ADDRESS SERVICE [CONNECT ...]`, until SIGTERM, which drains it."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

from dodici.collective import CollectiveError, Collector

NAMESPACE = "soak"


def serve(collector: Collector, service: str) -> None:
    """What every member serves, under its own service's name."""

    @collector.method(NAMESPACE, service, "Echo", idempotent=True)
    async def echo(context: Any, given: Any) -> Any:
        await asyncio.sleep(0.002)
        return given

    @collector.method(NAMESPACE, service, "Once")
    async def once(context: Any, given: Any) -> Any:
        await asyncio.sleep(0.002)
        return given

    @collector.method(NAMESPACE, service, "Count", idempotent=True, kind="unary_stream")
    async def count(context: Any, given: Any) -> Any:
        for number in range(given):
            yield number

    @collector.method(NAMESPACE, service, "Hold", idempotent=True)
    async def hold(context: Any, given: Any) -> Any:
        await asyncio.sleep(given)


async def main(name: str, address: str, service: str, *connect: str) -> None:
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, told.set)
    collector = Collector(name, address, namespaces=[NAMESPACE])
    serve(collector, service)
    async with collector:
        print(collector.address, flush=True)
        for each in connect:
            while True:
                try:
                    await collector.connect_to(each, timeout=2.0)
                    break
                except CollectiveError:
                    await asyncio.sleep(0.1)
        await told.wait()
        await collector.drain(10.0)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

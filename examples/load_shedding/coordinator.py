"""A coordinator that pauses workers on the word of somebody else: here, of each worker's own figures.

    python -m examples.load_shedding.coordinator

Anything that knows a worker's health can stand in for `health_events()`: a metrics system, a sidecar, a person.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import dodici
from dodici.mesh import Worker, WorkerInterceptor

EVERY = 0.5
"""Seconds between two looks."""
MOST_MEMORY = 128 << 20
"""Bytes of resident memory."""


async def health_events(workers: list[Worker]) -> AsyncIterator[tuple[Worker, bool]]:
    """`(worker, healthy)` whenever that has changed."""
    healthy = dict.fromkeys(workers, True)
    while True:
        for worker in workers:
            stats = await worker.stats()
            now = stats.rss < MOST_MEMORY
            if now != healthy[worker]:
                healthy[worker] = now
                yield worker, now
        await asyncio.sleep(EVERY)


async def follow(interceptor: WorkerInterceptor, events: AsyncIterator[tuple[Worker, bool]]) -> None:
    """Pause what is ill, resume what is well. Each call returns when the whole mesh has applied it."""
    async for worker, healthy in events:
        if healthy:
            await interceptor.resume_worker(worker)
        else:
            await interceptor.pause_worker(worker)
        print(f"{worker.name} (pid {worker.pid}) is {'well' if healthy else 'ill'}", flush=True)


async def main() -> None:
    interceptor = WorkerInterceptor(domain=".local")
    workers = [Worker("examples.load_shedding.app:app") for _ in range(2)]
    await interceptor.route("work", workers)
    watching = asyncio.create_task(follow(interceptor, health_events(workers)))
    agent = dodici.Agent().compose(interceptor)
    # One request makes one worker large; while it lasts, all others go to its sibling.
    large = asyncio.create_task(agent.request(f"http://work.local/?bytes={256 << 20}&seconds=5"))
    while not any(member.paused for member in interceptor.snapshot().members.values()):
        await asyncio.sleep(EVERY)
    pids = set()
    for _ in range(10):
        pids.add((await (await agent.request("http://work.local/")).text()).split()[0])
    print(f"ten requests were served by {len(pids)} of 2 workers")
    print((await (await large).text()).strip())
    watching.cancel()
    await interceptor.close()
    await agent.close()


if __name__ == "__main__":
    asyncio.run(main())

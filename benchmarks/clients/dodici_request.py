"""dodici's request: one pool, the response's body read as a whole or iterated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import Client, Job, main

import dodici

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


def make_pool(job: Job) -> dodici.Pool:
    """The pool both drivers use: plain defaults, and the run's authority for TLS.

    Idle connections are kept for longer than a client waits for its next turn.
    """
    return dodici.Pool(
        job.origin,
        connections=job.connections,
        pipelining=job.pipelining,
        allow_h2=job.http == 2,
        use_h2c=job.prior_knowledge,
        keep_alive_timeout=600,
        connect={"ca": job.ca} if job.ca else None,
    )


class DodiciRequest(Client):
    package = "dodici"
    absolute = False

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.pool: dodici.Pool

    async def open(self) -> None:
        self.pool = make_pool(self.job)

    async def close(self) -> None:
        await self.pool.close()

    async def get(self, target: str) -> int:
        if self.job.pipelining == 1:
            response = await self.pool.request(target, method="GET")
        else:
            # Otherwise a pipelined request waits for the head of the one before it.
            response = await self.pool.request(target, method="GET", blocking=False)
        return len(await response.bytes())

    async def stream(self, target: str) -> int:
        received = 0
        async with self.pool.stream("GET", target) as response:
            async for chunk in response.body:
                received += len(chunk)
        return received

    async def trickle(self, target: str, took: Callable[[int], Awaitable[None]]) -> None:
        async with self.pool.stream("GET", target) as response:
            async for chunk in response.body:
                await took(len(chunk))

    async def send(self, target: str, body: bytes | AsyncIterator[bytes]) -> int:
        response = await self.pool.request(target, method="POST", body=body)
        return len(await response.bytes())

    send_stream = send


if __name__ == "__main__":
    main(DodiciRequest)

"""httpunk: connections over Rust's hyper, in the loop, with its own cache of connections.

The cache has no limit, so a semaphore stands before it where more requests are open than
connections are allowed.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import httpunk.util
from harness import Client, Job, main

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Httpunk(Client):
    package = "httpunk"
    absolute = False

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        context = job.ssl_context()
        backend = httpunk.Backend.asyncio

        async def connect(origin: str) -> Any:
            return await httpunk.util.connect(origin, backend=backend, ssl_context=context)

        self.cache = httpunk.util.pool.Cache(connect, backend=backend)
        self.headers = httpunk.HeaderMap([("host", job.origin.partition("://")[2])])
        crowded = job.concurrency > job.connections
        self.limit: contextlib.AbstractAsyncContextManager[Any] = (
            asyncio.Semaphore(job.connections) if crowded else contextlib.nullcontext()
        )

    async def close(self) -> None:
        await self.cache.aclose()

    async def get(self, target: str) -> int:
        async with self.limit, self.cache.checkout(self.job.origin) as connection:
            response = await connection.request("GET", target, headers=self.headers)
            return len(await response.read())

    async def stream(self, target: str) -> int:
        received = 0
        async with self.limit, self.cache.checkout(self.job.origin) as connection:
            response = await connection.request("GET", target, headers=self.headers)
            async for chunk in response.aiter_bytes():
                received += len(chunk)
        return received

    async def send(self, target: str, body: bytes | AsyncIterator[bytes]) -> int:
        async with self.limit, self.cache.checkout(self.job.origin) as connection:
            response = await connection.request("POST", target, headers=self.headers, body=body)
            return len(await response.read())

    send_stream = send


if __name__ == "__main__":
    main(Httpunk)

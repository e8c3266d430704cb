"""httpunk: connections over Rust's hyper, in the loop, with its own pools.

HTTP/1.1 uses its cache of connections, which has no limit, so a semaphore stands before it where
more requests are open than connections are allowed. HTTP/2 uses its shared single connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import httpunk.util
from harness import Client, Job, main

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


class Httpunk(Client):
    package = "httpunk"
    absolute = False

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        context = job.ssl_context()
        backend = httpunk.Backend.asyncio.create()

        async def connect(origin: str) -> Any:
            return await httpunk.util.connect(origin, backend=backend, ssl_context=context)

        authority = job.origin.partition("://")[2]

        async def connect_h2c(origin: str) -> Any:
            # Its connect() leaves prior knowledge to its user.
            host, _, port = authority.partition(":")
            stream = await backend.connect_tcp(host, int(port))
            return httpunk.H2Connection(stream, authority=authority, backend=backend)

        self.multiplexed = job.http == 2
        self.shared = httpunk.util.pool.Singleton(
            connect_h2c if job.prior_knowledge else connect, backend=backend
        )
        self.cache = httpunk.util.pool.Cache(connect, backend=backend)
        # HTTP/2 has :authority instead.
        self.headers = httpunk.HeaderMap([] if self.multiplexed else [("host", authority)])
        crowded = job.concurrency > job.connections
        self.limit: contextlib.AbstractAsyncContextManager[Any] = (
            asyncio.Semaphore(job.connections) if crowded else contextlib.nullcontext()
        )

    async def close(self) -> None:
        await self.cache.aclose()
        await self.shared.aclose()

    async def get(self, target: str) -> int:
        if self.multiplexed:
            connection = await self._h2()
            response = await connection.request("GET", target, headers=self.headers)
            return len(await response.read())
        async with self.limit, self.cache.checkout(self.job.origin) as connection:
            response = await connection.request("GET", target, headers=self.headers)
            return len(await response.read())

    async def _h2(self) -> Any:
        return await self.shared.get(self.job.origin)

    async def stream(self, target: str) -> int:
        received = 0
        if self.multiplexed:
            connection = await self._h2()
            response = await connection.request("GET", target, headers=self.headers)
            async for chunk in response.aiter_bytes():
                received += len(chunk)
            return received
        async with self.limit, self.cache.checkout(self.job.origin) as connection:
            response = await connection.request("GET", target, headers=self.headers)
            async for chunk in response.aiter_bytes():
                received += len(chunk)
        return received

    async def trickle(self, target: str, took: Callable[[int], Awaitable[None]]) -> None:
        connection = await self._h2()
        response = await connection.request("GET", target, headers=self.headers)
        async for chunk in response.aiter_bytes():
            await took(len(chunk))

    async def send(self, target: str, body: bytes | AsyncIterator[bytes]) -> int:
        async with self.limit, self.cache.checkout(self.job.origin) as connection:
            response = await connection.request("POST", target, headers=self.headers, body=body)
            return len(await response.read())

    send_stream = send


if __name__ == "__main__":
    main(Httpunk)

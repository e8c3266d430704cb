"""pyreqwest: Rust's reqwest; its runtime has threads of its own, on the same core here."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pyreqwest.client
from harness import Client, Job, main

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


class Pyreqwest(Client):
    package = "pyreqwest"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.client: pyreqwest.client.Client
        self.authority = Path(job.ca).read_bytes() if job.ca else b""

    async def open(self) -> None:
        builder = (
            pyreqwest.client.ClientBuilder()
            .no_proxy()
            .max_connections(self.job.connections)
            .pool_max_idle_per_host(self.job.connections)
            .pool_idle_timeout(timedelta(seconds=600))
        )
        if self.job.http == 2:
            # Its limit counts requests, and HTTP/2 carries many of them on one connection.
            builder = builder.http2_prior_knowledge().max_connections(self.job.concurrency)
        if self.authority:
            builder = builder.add_root_certificate_pem(self.authority)
        self.client = builder.build()

    async def close(self) -> None:
        await self.client.close()

    async def get(self, target: str) -> int:
        response = await self.client.get(target).build().send()
        return len(await response.bytes())

    async def stream(self, target: str) -> int:
        received = 0
        async with self.client.get(target).build_streamed() as response:
            reader = response.body_reader
            while (chunk := await reader.read_chunk()) is not None:
                received += len(chunk)
        return received

    async def trickle(self, target: str, took: Callable[[int], Awaitable[None]]) -> None:
        async with self.client.get(target).build_streamed() as response:
            reader = response.body_reader
            while (chunk := await reader.read_chunk()) is not None:
                await took(len(chunk))

    async def send(self, target: str, body: bytes) -> int:
        response = await self.client.post(target).body_bytes(body).build().send()
        return len(await response.bytes())

    async def send_stream(self, target: str, body: AsyncIterator[bytes]) -> int:
        response = await self.client.post(target).body_stream(body).build().send()
        return len(await response.bytes())


if __name__ == "__main__":
    main(Pyreqwest)

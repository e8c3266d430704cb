"""httpx: one client, no look-ups of proxies in the environment."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from harness import Client, Job, main

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


class Httpx(Client):
    """httpx and its successor httpx2 share this interface; `package` is also the module."""

    package = "httpx"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.module: Any = importlib.import_module(self.package)
        self.client: Any = None

    async def open(self) -> None:
        limits = self.module.Limits(
            max_connections=self.job.connections,
            max_keepalive_connections=self.job.connections,
            keepalive_expiry=600,
        )
        # Its default of 5 seconds covers the wait for a connection and ends some scenarios.
        self.client = self.module.AsyncClient(
            limits=limits,
            verify=self.job.ssl_context() or True,
            http1=self.job.http == 1,
            http2=self.job.http == 2,
            timeout=60,
            trust_env=False,
        )

    async def close(self) -> None:
        await self.client.aclose()

    async def get(self, target: str) -> int:
        response = await self.client.get(target)
        return len(response.content)

    async def stream(self, target: str) -> int:
        received = 0
        async with self.client.stream("GET", target) as response:
            async for chunk in response.aiter_raw():
                received += len(chunk)
        return received

    async def trickle(self, target: str, took: Callable[[int], Awaitable[None]]) -> None:
        async with self.client.stream("GET", target) as response:
            async for chunk in response.aiter_raw():
                await took(len(chunk))

    async def send(self, target: str, body: bytes | AsyncIterator[bytes]) -> int:
        response = await self.client.post(target, content=body)
        return len(response.content)

    send_stream = send


if __name__ == "__main__":
    main(Httpx)

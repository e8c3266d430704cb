"""aiohttp: one session, cookies off as its own documentation advises for speed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
from harness import Client, Job, main

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Aiohttp(Client):
    package = "aiohttp"
    versions = ("http/1.1",)

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.session: aiohttp.ClientSession

    async def open(self) -> None:
        connector = aiohttp.TCPConnector(
            limit=self.job.connections,
            keepalive_timeout=600,
            ssl=self.job.ssl_context() or True,
        )
        self.session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    async def close(self) -> None:
        await self.session.close()

    async def get(self, target: str) -> int:
        async with self.session.get(target) as response:
            return len(await response.read())

    async def stream(self, target: str) -> int:
        received = 0
        async with self.session.get(target) as response:
            async for chunk in response.content.iter_any():
                received += len(chunk)
        return received

    async def send(self, target: str, body: bytes | AsyncIterator[bytes]) -> int:
        async with self.session.post(target, data=body) as response:
            return len(await response.read())

    send_stream = send


if __name__ == "__main__":
    main(Aiohttp)

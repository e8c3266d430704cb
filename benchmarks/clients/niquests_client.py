"""niquests: one async session that may speak only the scenario's version of HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import niquests
from harness import Client, Job, main

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Niquests(Client):
    package = "niquests"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.session: niquests.AsyncSession

    async def open(self) -> None:
        self.session = niquests.AsyncSession(
            disable_http1=self.job.http == 2,
            disable_http2=self.job.http == 1,
            disable_http3=True,
            pool_connections=1,
            pool_maxsize=self.job.connections,
            allow_incoming_cookies=False,
            timeout=60,
            verify=self.job.ca or True,
        )
        self.session.trust_env = False

    async def close(self) -> None:
        await self.session.close()

    async def get(self, target: str) -> int:
        response = await self.session.get(target)
        return len(response.content or b"")

    async def stream(self, target: str) -> int:
        received = 0
        response = await self.session.get(target, stream=True)
        async for chunk in await response.iter_raw():
            received += len(chunk)
        await response.close()
        return received

    async def send(self, target: str, body: bytes | AsyncIterator[bytes]) -> int:
        response = await self.session.post(target, data=body)
        return len(response.content or b"")

    send_stream = send


if __name__ == "__main__":
    main(Niquests)

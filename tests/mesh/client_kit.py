"""A `MeshClient` with links that the test answers by hand."""

from __future__ import annotations

import asyncio
from typing import Any

from dodici import Agent
from dodici.core.controller import Exchange
from dodici.core.headers import EMPTY, Headers
from dodici.mesh.client import MeshClient
from dodici.mesh.snapshot import MemberInfo, MeshSnapshot


class FakeLink:
    """Takes exchanges and does nothing with them until told."""

    def __init__(self, peer: MemberInfo) -> None:
        self.peer = peer
        self.lost = False
        self.unwritten = 0
        self.offered: list[Exchange] = []

    @property
    def running(self) -> int:
        return sum(not exchange.done for exchange in self.offered)

    def offer(self, exchange: Exchange) -> None:
        exchange.carrier = self
        self.offered.append(exchange)

    def abort_exchange(self, exchange: Exchange, error: BaseException) -> None:
        exchange.fail(error)

    def pause_exchange(self, exchange: Exchange) -> None: ...
    def resume_exchange(self, exchange: Exchange) -> None: ...

    def answer(self, status_code: int = 200, body: bytes = b"ok") -> None:
        """Answer the last exchange that was offered."""
        exchange = self.offered[-1]
        exchange.handler.on_request_start(exchange, {})
        exchange.handler.on_response_start(exchange, status_code, Headers({"x-from": self.peer.id}), "")
        exchange.handler.on_response_data(exchange, body)
        exchange.end()
        exchange.handler.on_response_end(exchange, EMPTY)

    async def barrier(self) -> None: ...
    def close(self) -> None: ...
    def abort(self, error: BaseException) -> None: ...


class FakeHome:
    """The member: remembers which links were asked for."""

    member_id = "me"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def connect(self, member_id: str) -> None:
        self.asked.append(member_id)


class Bench:
    """A client, its home, and an agent composed with it."""

    def __init__(self, **options: Any) -> None:
        self.home = FakeHome()
        self.client = MeshClient(self.home, **options)
        self.passed: list[tuple[Any, Any]] = []
        self.agent = Agent()
        self.mesh = self.agent.compose(lambda _: self._pass_on, self.client.interceptor)
        self.version = 0
        self.members: dict[str, MemberInfo] = {}
        self.links: dict[str, FakeLink] = {}

    def _pass_on(self, options: Any, handler: Any) -> bool:
        self.passed.append((options, handler))
        return True

    def worker(self, member_id: str, **changes: Any) -> None:
        """Add or change a worker; `publish()` tells the client."""
        known = {"id": member_id, "name": member_id, "pid": 1, "kind": "process", "app": True}
        self.members[member_id] = MemberInfo(**{**known, **changes})

    def publish(self, **routes: list[str]) -> None:
        self.version += 1
        self.client.apply(
            MeshSnapshot(
                version=self.version,
                members=dict(self.members),
                routes={name: tuple(ids) for name, ids in routes.items()},
            )
        )

    def link(self, member_id: str) -> FakeLink:
        link = self.links[member_id] = FakeLink(self.members[member_id])
        self.client.linked(link)
        return link


async def settled() -> None:
    """Let what was scheduled run."""
    for _ in range(3):
        await asyncio.sleep(0)

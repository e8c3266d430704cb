"""Cancel a request at every turn of the loop that it lives through: nothing may be left behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from dodici import Agent, Pool
from dodici.testing import PeerConnection, PeerError, ScriptedPeer
from dodici.testing.peers import make_tls

CHUNK = b"x" * 8192


class CountingLoop(asyncio.SelectorEventLoop):
    """Cancels `victim` at the beginning of the turn number `turn`."""

    victim: asyncio.Task[Any] | None = None
    turn = 0

    def _run_once(self) -> None:
        if self.victim is not None:
            if self.turn == 0:
                self.victim.cancel()
            self.turn -= 1
        super()._run_once()  # type: ignore[misc]


async def answer(connection: PeerConnection) -> None:
    with contextlib.suppress(ConnectionError, PeerError):  # the client may go away at any moment
        await serve_requests(connection)


async def serve_requests(connection: PeerConnection) -> None:
    while (request := await connection.next_request()) is not None:
        if request.target == "/stream":
            await connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            for _ in range(8):
                await connection.send(b"%x\r\n" % len(CHUNK), CHUNK, b"\r\n")
            await connection.send(b"0\r\n\r\n")
        else:
            await connection.respond(request.body or b"ok")


async def plain(pool: Any, origin: str) -> None:
    response = await pool.request(f"{origin}/")
    assert await response.bytes() == b"ok"


async def download(pool: Any, origin: str) -> None:
    size = 0
    async with pool.stream("GET", f"{origin}/stream") as response:
        async for chunk in response.body:
            size += len(chunk)
    assert size == 8 * len(CHUNK)


class Source:
    """A body that knows whether it was closed."""

    def __init__(self) -> None:
        self.open = 0

    async def chunks(self) -> AsyncIterator[bytes]:
        self.open += 1
        try:
            for _ in range(4):
                await asyncio.sleep(0)
                yield b"abc"
        finally:
            self.open -= 1


async def upload(pool: Any, origin: str) -> None:
    source = Source()
    try:
        response = await pool.request(f"{origin}/", method="POST", body=source.chunks())
        assert await response.bytes() == b"abc" * 4
    except asyncio.CancelledError:
        await asyncio.sleep(0.001)
        assert source.open == 0
        raise


async def with_timeout(pool: Any, origin: str) -> None:
    async with asyncio.timeout(20):
        await plain(pool, origin)


Step = Callable[[Any, str], Awaitable[None]]


async def scenario(step: Step, kind: str, tls: bool, turn: int) -> bool:
    """One run. True if the step ended before its turn came."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, CountingLoop)
    connect = {"ssl_context": make_tls().client_context} if tls else {}
    async with ScriptedPeer(answer, tls=tls) as peer:
        pool = (
            Agent(connections=1, connect=connect)
            if kind == "agent"
            else Pool(peer.origin, connections=1, connect=connect)
        )
        blocker = None
        if kind == "reused":
            await plain(pool, peer.origin)
        elif kind == "queued":
            blocker = asyncio.ensure_future(download(pool, peer.origin))
            await asyncio.sleep(0)
        task = asyncio.ensure_future(step(pool, peer.origin))
        loop.turn = turn
        loop.victim = task
        try:
            await task
            finished = True
        except asyncio.CancelledError:
            finished = False
        loop.victim = None
        if blocker is not None:
            await blocker
        stats = next(iter(pool.stats.values()), None) if isinstance(pool, Agent) else pool.stats
        assert stats is None or (stats.size == stats.queued == stats.running == stats.pending == 0), stats
        await plain(pool, peer.origin)
        await pool.close()
        assert len(asyncio.all_tasks()) <= 1 + len(peer.connections), asyncio.all_tasks()
    return finished


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("kind", ["fresh", "reused", "queued", "agent"])
@pytest.mark.parametrize("step", [plain, download, upload, with_timeout])
def test_cancelled_at_every_turn(step: Step, kind: str, tls: bool) -> None:
    reported: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: reported.append(context))
        turns = 0
        while not runner.run(scenario(step, kind, tls, turns)):
            turns += 1
            assert turns < 2000
    assert turns > 3, "the step must have been cancelled at several points"
    assert reported == []

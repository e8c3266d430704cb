"""Cancel a request over HTTP/2 at every turn of the event loop: nothing is lost, and the pool still works."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from tests.peers.h2_asgi import h2_tls
from tests.peers.h2_kit import DATA, RST_STREAM, H2Peer, h2_script

from dodici import Agent, Pool
from dodici.testing import PeerConnection, PeerError, ScriptedPeer, settle

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
    async def play(peer: H2Peer) -> None:
        while (request := await peer.next_request()) is not None:
            stream = request.stream
            if request.path == "/stream":
                await peer.head(stream)
                for _ in range(8):
                    await peer.data(stream, CHUNK)
                await peer.data(stream, end=True)
            elif request.ends:
                await peer.respond(stream)
            else:
                while (got := await peer.next(DATA, RST_STREAM, stream=stream)).kind != RST_STREAM:
                    if got.ends:
                        await peer.respond(stream)
                        break

    with contextlib.suppress(ConnectionError, PeerError):  # the client may go away at any moment
        await h2_script(play)(connection)


async def plain(pool: Any, origin: str) -> None:
    response = await pool.request(f"{origin}/")
    assert await response.bytes() == b"ok"


async def download(pool: Any, origin: str) -> None:
    size = 0
    async with pool.stream("GET", f"{origin}/stream") as response:
        async for chunk in response.body:
            size += len(chunk)
    assert size == 8 * len(CHUNK)


async def upload(pool: Any, origin: str) -> None:
    open_sources = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal open_sources
        open_sources += 1
        try:
            for _ in range(4):
                await asyncio.sleep(0)
                yield b"abc"
        finally:
            open_sources -= 1

    try:
        response = await pool.request(f"{origin}/", method="POST", body=chunks())
        assert await response.bytes() == b"ok"
    except asyncio.CancelledError:
        await settle()
        assert open_sources == 0
        raise


Step = Callable[[Any, str], Awaitable[None]]


async def scenario(step: Step, kind: str, tls: bool, turn: int) -> bool:
    """One run. True if the step ended before its turn came."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, CountingLoop)
    made = h2_tls()
    options: dict[str, Any] = (
        {"connect": {"ssl_context": made.client_context("h2")}} if tls else {"use_h2c": True}
    )
    options.update(connections=1, max_concurrent_streams=1 if kind == "queued" else 100)
    async with ScriptedPeer(answer, tls=made.server_context("h2") if tls else False) as peer:
        pool = Agent(**options) if kind == "agent" else Pool(peer.origin, **options)
        blocker = None
        if kind == "reused":
            await plain(pool, peer.origin)
        elif kind in ("queued", "beside"):
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
        assert stats is None or stats.size == stats.queued == stats.running == stats.pending == 0, stats
        await plain(pool, peer.origin)
        await pool.close()
        assert len(asyncio.all_tasks()) <= 1 + len(peer.connections), asyncio.all_tasks()
    return finished


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("kind", ["fresh", "reused", "queued", "beside", "agent"])
@pytest.mark.parametrize("step", [plain, download, upload])
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

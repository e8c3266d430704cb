"""Chance, with a seed, over HTTP/2: a server that refuses, resets, says GOAWAY, stalls, changes its mind and goes.

Whatever happens, each request has one end, what ends well is the answer to the very request that was made, and
the counts come back to zero.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.peers.h2_kit import DATA, HEADERS, INITIAL_WINDOW, MAX_STREAMS, H2Peer
from tests.peers.kit import send

from dodici import Agent, H2CClient, Pool, RoundRobinPool
from dodici.testing import PeerConnection, PeerError, RecordingHandler, ScriptedPeer, pattern, settle

STEPS = 80


class Source:
    """Bodies that know whether they were closed."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.opened = 0
        self.closed = 0

    async def chunks(self, fails: bool) -> AsyncIterator[bytes]:
        self.opened += 1
        try:
            for _ in range(self.chance.randrange(4)):
                await asyncio.sleep(0)
                yield b"piece"
            if fails:
                raise ZeroDivisionError
        finally:
            self.closed += 1


def expected(path: str) -> bytes:
    """The body that belongs to a path: its size is a matter of its number, its bytes say who it is."""
    return (path.encode() + b";") * (int(path[1:]) * 7919 % 9000)


class Misbehaving(H2Peer):
    """Answers in pieces and out of order, and does worse at times."""

    def __init__(self, connection: PeerConnection, chance: random.Random) -> None:
        super().__init__(connection)
        self.chance = chance
        self.answers: dict[int, bytes] = {}
        self.credit: dict[int, int] = {}
        self.last = 0

    async def run(self) -> None:
        chance = self.chance
        await self.start(
            {MAX_STREAMS: chance.choice((1, 3, 100)), INITIAL_WINDOW: chance.choice((7, 65_535))}
        )
        while True:
            if self.connection.buffered or not self.answers:
                request = await self.next_frame()
                if request is None:
                    return
            elif not await self.go_on():
                return

    async def next_frame(self) -> Any:
        got = await self.read()
        if got is None:
            return None
        if got.kind == HEADERS:
            fields = dict(self._decoder.decode(got.payload))
            self.last = max(self.last, got.stream)
            await self.begin(got.stream, fields[":path"], fields[":method"] == "HEAD")
        elif got.kind == DATA and got.payload:
            await self.window(0, len(got.payload))
            if not got.ends:
                await self.window(got.stream, len(got.payload) + self.chance.randrange(20_000))
        elif got.kind == 3:
            self.answers.pop(got.stream, None)
        elif got.kind == 8 and got.stream:
            self.credit[got.stream] = self.credit.get(got.stream, 524_288) + got.number
        return got

    async def begin(self, stream: int, path: str, bodiless: bool) -> None:
        kind = self.chance.randrange(14)
        if kind == 0:
            await self.reset(stream, self.chance.choice((0, 2, 7, 7, 8)))
        elif kind == 1:
            return  # no answer, ever
        elif bodiless:
            await self.head(stream, end=True)
        else:
            if kind == 2:
                await self.head(stream, 103, link="</a>")
            await self.head(stream)
            self.answers[stream] = expected(path)

    async def go_on(self) -> bool:
        """Something happens, mostly the next piece of an answer; False at the end of it all."""
        chance = self.chance
        luck = chance.random()
        if luck < 0.004:
            chance.choice((self.connection.close, self.connection.reset))()
            return False
        if luck < 0.010:
            last = chance.choice((0, self.last, max(0, self.last - 4)))
            await self.goaway(last, chance.choice((0, 0, 2)))
            self.answers = {stream: body for stream, body in self.answers.items() if stream <= last}
            while self.answers:
                await self.piece(chance.choice(list(self.answers)))
            self.connection.close()
            return False
        if luck < 0.015:
            await self.settings({MAX_STREAMS: chance.choice((1, 5, 100)), INITIAL_WINDOW: 65_535})
        elif luck < 0.020:
            await self.send(DATA, 0, 0, b"broken")
            return False
        else:
            stream = chance.choice(list(self.answers))
            if luck < 0.04:
                await self.reset(stream, 2)
                del self.answers[stream]
            else:
                await self.piece(stream)
        return True

    async def piece(self, stream: int) -> None:
        left = self.answers[stream]
        size = min(self.chance.choice((1, 1000, 16_384)), self.credit.get(stream, 524_288))
        piece, left = left[:size], left[size:]
        self.credit[stream] = self.credit.get(stream, 524_288) - len(piece)
        self.answers[stream] = left
        if not left:
            del self.answers[stream]
        if left or self.chance.random() < 0.8:
            await self.data(stream, piece, end=not left)
        else:
            await self.data(stream, piece)
            await self.trailers(stream, x="1")


def random_options(chance: random.Random, source: Source) -> dict[str, Any]:
    match chance.randrange(8):
        case 0:
            return {"method": "HEAD"}
        case 1:
            return {"method": "POST", "body": b"small"}
        case 2:
            return {"method": "PUT", "body": pattern(150_000)}
        case 3:
            return {"method": "POST", "body": source.chunks(chance.random() < 0.3)}
        case 4:
            return {"method": "POST", "body": b"expected", "expect_continue": True}
        case 5:
            return {"method": "GET", "timeout": 0.02}
        case _:
            return {"method": "GET"}


def acting(chance: random.Random, recorders: list[RecordingHandler]) -> RecordingHandler:
    """A handler that at random pauses, aborts, raises, or aborts another, inside its callbacks."""

    def act(controller: Any, *_: Any) -> None:
        luck = chance.random()
        if luck < 0.05:
            controller.pause()
        elif luck < 0.07:
            controller.abort()
        elif luck < 0.09:
            raise ZeroDivisionError
        elif luck < 0.11:
            other = chance.choice(recorders)
            if other.controller is not None:
                other.controller.abort()

    return RecordingHandler(on_request_start=act, on_response_start=act, on_response_data=act)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["client", "pool", "rotation", "agent"])
async def test_whatever_happens(kind: str, seed: int) -> None:
    chance = random.Random(f"h2 {kind} {seed}")
    loop = asyncio.get_running_loop()
    reported: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: reported.append(context))
    source = Source(chance)
    calm = False

    async def script(connection: PeerConnection) -> None:
        peer = Misbehaving(connection, chance)
        try:
            if calm:
                await peer.start()
                await peer.serve()
            else:
                await peer.run()
        except (PeerError, ConnectionError):
            pass  # the client went away in the middle of something

    async with ScriptedPeer(script) as peer:
        before = asyncio.all_tasks()
        dispatcher: Any = {
            "client": lambda: H2CClient(peer.origin),
            "pool": lambda: Pool(peer.origin, use_h2c=True, connections=3, max_concurrent_streams=4),
            "rotation": lambda: RoundRobinPool(
                peer.origin, use_h2c=True, connections=2, max_requests_per_client=9
            ),
            "agent": lambda: Agent(use_h2c=True, connections=2, client_ttl=0.005),
        }[kind]()
        recorders: list[RecordingHandler] = []
        for step in range(STEPS):
            options = random_options(chance, source)
            recorder = acting(chance, recorders)
            recorders.append(recorder)
            send(dispatcher, f"/{step}", recorder, origin=peer.origin, headers_timeout=0.1, **options)
            for _ in range(chance.choice((0, 0, 0, 1, 3, 8))):
                await asyncio.sleep(0)
            controller = chance.choice(recorders).controller
            if controller is not None and chance.random() < 0.4:
                chance.choice((controller.pause, controller.resume, controller.abort))()
            if chance.random() < 0.02 and peer.connections:
                victim = chance.choice(peer.connections)
                chance.choice((victim.close, victim.reset))()
        async with asyncio.timeout(10):
            while not all(recorder.ended.done() for recorder in recorders):
                for recorder in recorders:
                    if recorder.controller is not None:
                        recorder.controller.resume()
                await asyncio.sleep(0.001)
        await settle()
        for step, recorder in enumerate(recorders):
            recorder.check()
            if recorder.error is None and recorder.controller.options.method != "HEAD":
                assert recorder.body == expected(f"/{step}")
        stats = dispatcher.stats
        for each in stats.values() if isinstance(stats, dict) else [stats]:
            assert each.size == each.pending == each.running == 0, each
        calm = True
        for connection in peer.connections:
            connection.close()
        await peer.all_closed()
        recorder = send(dispatcher, "/after", origin=peer.origin)
        assert (await recorder.wait()).body == b"ok"
        async with asyncio.timeout(5):
            await dispatcher.close()
        await settle()
        assert source.opened == source.closed
        left = {task for task in asyncio.all_tasks() - before if task not in peer._tasks}
        assert left == set()
        await peer.all_closed()
    assert reported == []

"""Chance, with a seed: requests, aborts and pauses against a server that closes, resets and stalls.

Whatever happens, each request has one end, what ends well is the answer to the very request that was made, and
the counts come back to zero.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.peers.kit import send

from dodici import Agent, Client, Pool, RoundRobinPool
from dodici.testing import PeerConnection, PeerError, RecordingHandler, ScriptedPeer, pattern, settle

STEPS = 60


class Source:
    """A body that knows whether it was closed."""

    opened = 0
    closed = 0

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    async def chunks(self, fails: bool) -> AsyncIterator[bytes]:
        Source.opened += 1
        try:
            for _ in range(self.chance.randrange(4)):
                await asyncio.sleep(0)
                yield b"piece"
            if fails:
                raise ZeroDivisionError
        finally:
            Source.closed += 1


def expected(target: str) -> bytes:
    """The body that belongs to a target: its size is a matter of its number, its bytes say who it is."""
    return (target.encode() + b";") * (int(target[1:]) * 7919 % 300)


async def misbehave(connection: PeerConnection, chance: random.Random, pipelined: bool) -> None:
    while (request := await connection.next_request()) is not None:
        body = b"" if request.method == "HEAD" else expected(request.target)
        size = len(expected(request.target))
        kind = chance.randrange(20)
        for _ in range(chance.choice((0, 0, 1, 5))):
            await asyncio.sleep(0)
        if kind == 0:
            return connection.close()
        if kind == 1:
            return connection.reset()
        if kind == 2:
            await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (size + 9), body)
            return chance.choice((connection.close, connection.reset))()
        if kind == 3:
            await connection.send(
                b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % size, body
            )
            return connection.close()
        if kind == 4:
            await connection.send(b"HTTP/1.1 200 OK\r\n\r\n", body)
            return connection.close()
        if kind == 5 and not pipelined:
            # One response too many. Behind a pipelined request nobody could tell it from the next answer.
            await connection.respond(body, length=size)
            await connection.respond(b"evil")
        elif kind == 6:
            await connection.send(b"garbage\r\n\r\n")
        elif kind == 7:
            await connection.stall()
            return None
        elif kind < 12:
            await connection.send(
                b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
            )
            if request.method != "HEAD":
                for start in range(0, size, 500):
                    piece = body[start : start + 500]
                    await connection.send(b"%x\r\n%s\r\n" % (len(piece), piece))
                    if chance.random() < 0.2:
                        await asyncio.sleep(0)
                await connection.send(b"0\r\n\r\n")
        else:
            await connection.respond(body, length=size)
    return None


def random_options(chance: random.Random) -> dict[str, Any]:
    match chance.randrange(8):
        case 0:
            return {"method": "HEAD"}
        case 1:
            return {"method": "POST", "body": b"small"}
        case 2:
            return {"method": "PUT", "body": pattern(150_000), "idempotent": True, "blocking": False}
        case 3:
            return {"method": "POST", "body": Source(chance).chunks(chance.random() < 0.3)}
        case 4:
            return {"method": "GET", "reset": True}
        case 5:
            return {"method": "GET", "timeout": 0.02}
        case _:
            return {"method": "GET", "blocking": chance.random() < 0.5}


def acting(chance: random.Random, recorders: list[RecordingHandler]) -> RecordingHandler:
    """A handler that at random pauses, aborts, raises, or aborts another, inside its callbacks."""

    def act(controller: Any, *_: Any) -> None:
        luck = chance.random()
        if luck < 0.05:
            controller.pause()
        elif luck < 0.08:
            controller.abort()
        elif luck < 0.10:
            raise ZeroDivisionError
        elif luck < 0.13:
            other = chance.choice(recorders)
            if other.controller is not None:
                other.controller.abort()

    return RecordingHandler(on_request_start=act, on_response_start=act, on_response_data=act)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", ["client", "pipelining", "pool", "rotation", "agent"])
async def test_whatever_happens(kind: str, seed: int) -> None:
    chance = random.Random(f"{kind} {seed}")
    loop = asyncio.get_running_loop()
    reported: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: reported.append(context))
    Source.opened = Source.closed = 0

    async def script(connection: PeerConnection) -> None:
        try:
            await misbehave(connection, chance, kind in ("pipelining", "pool"))
        except (PeerError, ConnectionError):
            pass  # the client went away in the middle of a request

    async with ScriptedPeer(script) as peer:
        before = asyncio.all_tasks()
        dispatcher: Any = {
            "client": lambda: Client(peer.origin),
            "pipelining": lambda: Client(peer.origin, pipelining=4),
            "pool": lambda: Pool(peer.origin, connections=3, pipelining=2),
            "rotation": lambda: RoundRobinPool(peer.origin, connections=2, max_requests_per_client=3),
            "agent": lambda: Agent(connections=2, client_ttl=0.005),
        }[kind]()
        recorders: list[RecordingHandler] = []
        for step in range(STEPS):
            options = random_options(chance)
            recorder = acting(chance, recorders)
            recorders.append(recorder)
            send(dispatcher, f"/{step}", recorder, origin=peer.origin, headers_timeout=0.1, **options)
            for _ in range(chance.choice((0, 0, 0, 1, 3, 8))):
                await asyncio.sleep(0)
            controller = chance.choice(recorders).controller
            if controller is not None and chance.random() < 0.4:
                chance.choice((controller.pause, controller.resume, controller.abort))()
            if chance.random() < 0.05 and peer.connections:
                victim = chance.choice(peer.connections)
                chance.choice((victim.close, victim.reset))()
        while not all(recorder.ended.done() for recorder in recorders):
            for recorder in recorders:
                if recorder.controller is not None:
                    recorder.controller.resume()
            await asyncio.sleep(0.001)
        await settle()
        for step, recorder in enumerate(recorders):
            recorder.check()
            if recorder.error is None and options_method(recorder) != "HEAD":
                assert recorder.body == expected(f"/{step}"), recorder.summary()
        stats = dispatcher.stats
        for each in stats.values() if isinstance(stats, dict) else [stats]:
            assert each.size == each.pending == each.running == 0, each
        async with asyncio.timeout(5):
            await dispatcher.close()
        await settle()
        assert Source.opened == Source.closed
        left = {task for task in asyncio.all_tasks() - before if task not in peer._tasks}
        assert left == set()
        await peer.all_closed()
    assert reported == []


def options_method(recorder: RecordingHandler) -> str:
    return str(recorder.controller.options.method)

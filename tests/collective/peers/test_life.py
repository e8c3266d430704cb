"""Who runs, however busy, is not lost; who is stopped is."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.collective.fleet import collector, processes, until

from dodici.collective import CollectiveError
from dodici.collective.life import LifeProbe, LifeSign, probe
from dodici.core.grpc_status import GrpcStatus

HERE = "127.0.0.1"
QUESTION = b"dodici?" + bytes(9)


def free() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HERE, 0))
        return int(sock.getsockname()[1])


@pytest.fixture
async def sign() -> AsyncIterator[tuple[LifeSign, int]]:
    made, port = LifeSign(), free()
    made.open([(socket.AF_INET, HERE, port)])
    yield made, port
    await made.close()


async def asked(port: int) -> LifeProbe:
    made = await probe(HERE, port)
    assert made is not None
    return made


async def silence(made: LifeProbe, seconds: float) -> bool:
    """What it makes of a silence of so many seconds, which begins now."""
    began = time.monotonic()
    while (silent := time.monotonic() - began) < seconds:
        if made.gone(silent):
            return True
        await asyncio.sleep(0.05)
    return False


async def test_questions_are_answered_and_nothing_else_is(sign: Any) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((HERE, sign[1]))
        sock.settimeout(5)
        for wrong in (b"", b"dodici?", QUESTION + b"x", b"dodici!" + bytes(9), bytes(65_000)):
            sock.send(wrong)
        sock.send(b"dodici?" + b"123456789")
        assert sock.recv(100) == b"dodici!" + b"123456789"
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(100)


async def test_a_process_that_answers_is_there_and_one_that_stops_to_is_not(sign: Any) -> None:
    made = await asked(sign[1])
    try:
        assert not await silence(made, 1.0)
        await sign[0].close()
        assert await silence(made, 5.0)
    finally:
        made.close()


async def test_an_answer_to_somebody_else_is_none(sign: Any) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as liar:
        liar.bind((HERE, 0))
        liar.setblocking(False)
        made = await asked(liar.getsockname()[1])
        loop = asyncio.get_running_loop()
        try:
            question, sender = await loop.sock_recvfrom(liar, 100)
            for lie in (b"dodici!" + bytes(9), b"dodici!", question, b"x" * 1000):
                await loop.sock_sendto(liar, lie, sender)
            assert not await silence(made, 0.6), "it has never answered: only a long silence tells"
            assert made.gone(1.8)
        finally:
            made.close()


async def test_a_port_that_is_taken_is_no_failure(sign: Any) -> None:
    second = LifeSign()
    second.open([(socket.AF_INET, HERE, sign[1])])
    await second.close()
    made = await asked(sign[1])
    try:
        assert not await silence(made, 0.6)
    finally:
        made.close()


async def test_who_cannot_be_asked_is_told_by_silence() -> None:
    assert await probe("no such host.invalid", 1) is None


async def test_a_collector_whose_loop_is_busy_is_not_lost() -> None:
    async with processes() as launch, collector("a") as a:
        b = await launch("b")
        await a.connect_to(b.address)

        async def pieces() -> AsyncIterator[Any]:
            yield 1
            await go_on.wait()
            yield 2

        go_on = asyncio.Event()
        chat = a.dispatch_stream("shop", "Work", "Chat", pieces())
        assert await anext(chat) == "b:1"
        held = asyncio.create_task(a.dispatch("shop", "Work", "Who", 0.5))
        since = a.connections[0].since
        await b.ask("block", seconds=2.5)
        assert (await held).status == 200
        go_on.set()
        assert await anext(chat) == "b:2"
        assert (a.connections[0].state, a.connections[0].since) == ("connected", since)
        await chat.aclose()


@pytest.mark.perf
@pytest.mark.parametrize("link_port", [0, None], ids=["trunk", "stream"])
async def test_a_stream_at_a_stopped_collector_ends_within_two_seconds(link_port: int | None) -> None:
    async with processes() as launch, collector("a", link_port=link_port) as a:
        b = await launch("b")
        await a.connect_to(b.address)

        async def pieces() -> AsyncIterator[Any]:
            yield 1
            await asyncio.Event().wait()

        chat = a.dispatch_stream("shop", "Work", "Chat", pieces())
        assert await anext(chat) == "b:1"
        b.stop()
        stopped = time.monotonic()
        try:
            with pytest.raises(CollectiveError) as lost:
                await anext(chat)
            assert lost.value.grpc_status is GrpcStatus.UNAVAILABLE
            assert time.monotonic() - stopped < 2.0
        finally:
            b.go_on()
        await until(lambda: a.connections[0].state == "connected")
        assert (await a.dispatch("shop", "Work", "Who")).status == 200

"""Connections that are silent, old, or at a server that stops."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from tests.collective.grpc_server.server_kit import (
    Face,
    Methods,
    Raw,
    channel,
    head,
    message,
    outcome,
    raw,
    serving,
)
from tests.wire.h2.frames_kit import headers, ping, rst_stream

from dodici.collective.grpc_server import Server, connection, stream_stream
from dodici.core.grpc_status import GrpcStatus
from dodici.wire.h2.frames import GOAWAY, MAX_STREAM_ID, PING, ErrorCode

# -- silence -----------------------------------------------------------------------------------------------------


async def test_a_client_that_does_not_answer_is_cut_off() -> None:
    assert Server(Face(Methods()), "127.0.0.1:0").keepalive == (10.0, 5.0)
    async with serving(keepalive=(0.2, 0.2)) as running, raw(running.address) as client:
        client.call(1, "hold", b"h")
        await running.methods.note("h started").wait()
        await client.until(PING)
        await client.rest()
        await running.methods.note("h cancelled").wait()
        await running.empty()


async def test_a_client_that_answers_stays() -> None:
    async with serving(keepalive=(0.1, 10.0)) as running, raw(running.address) as client:
        client.call(1, "hold", b"h")
        for _ in range(2):
            asked = await client.until(PING)
            client.send(ping(asked.payload, ack=True))
        running.methods.note("go").set()
        assert (await client.answer(1)).body == message(b"h")


async def test_pings_of_clients_are_answered() -> None:
    async with serving() as running, raw(running.address) as client:
        for number in range(200):
            client.send(ping(number.to_bytes(8, "big")))
            assert (await client.until(PING)).payload == number.to_bytes(8, "big")
        client.call(1, "echo", b"x")
        assert (await client.answer(1)).status == 0


async def test_who_says_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_GREETING", 0.2)
    async with serving() as running:
        clients = []
        for wire in (b"", b"PRI * HTTP/2.0\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
            clients.append(Raw(*await asyncio.open_connection("127.0.0.1", running.port)))
            clients[-1].send(wire)
        for client in clients:
            await client.rest()
        await running.empty()


# -- age ---------------------------------------------------------------------------------------------------------


async def test_an_old_connection_ends_when_its_calls_have_ended() -> None:
    async with serving() as running:
        running.server.max_age = 0.2, 10.0
        async with raw(running.address) as client:
            client.call(1, "hold", b"h")
            first = await client.until(GOAWAY)
            assert int.from_bytes(first.payload[:4], "big") == MAX_STREAM_ID
            # Those that were on their way are taken.
            client.call(3, "hold", b"i")
            client.call(5, "hold", b"j")
            await running.methods.note("j started").wait()
            asked = await client.until(PING)
            client.send(ping(asked.payload, ack=True))
            last = await client.until(GOAWAY)
            assert int.from_bytes(last.payload[:4], "big") == 5
            client.call(7, "echo", b"x")
            assert (await client.answer(7)).code == ErrorCode.REFUSED_STREAM
            client.send(rst_stream(3))
            running.methods.note("go").set()
            assert (await client.answer(1)).body == message(b"h")
            assert (await client.answer(5)).body == message(b"j")
            assert not [each for each in await client.rest() if each.kind != GOAWAY]
            await running.empty()


async def test_an_old_connection_ends_when_its_last_call_is_given_up() -> None:
    async with serving() as running:
        running.server.max_age = 0.1, 10.0
        async with raw(running.address) as client:
            client.call(1, "hold", b"h")
            asked = await client.until(PING)
            client.send(ping(asked.payload, ack=True))
            await client.until(GOAWAY)
            client.send(rst_stream(1))
            await client.rest()
            await running.empty()


async def test_what_runs_for_too_long_on_an_old_connection_is_cut() -> None:
    async with serving() as running:
        running.server.max_age = 0.1, 0.1
        async with raw(running.address) as client:
            client.call(1, "hold", b"h")
            await client.rest()
            await running.methods.note("h cancelled").wait()


async def test_no_call_is_lost_to_age() -> None:
    async with serving() as running:
        running.server.max_age = 0.1, 10.0
        peers = set()
        async with channel(running.address) as called:
            echo = called.unary_unary("/t/echo")
            while len(peers) < 5:
                assert await asyncio.gather(*(echo(b"x", timeout=10) for _ in range(5))) == [b"x"] * 5
                peers |= {each.peer for each in running.connections}


# -- the end -----------------------------------------------------------------------------------------------------


async def test_calls_in_flight_end_and_new_ones_are_refused() -> None:
    async with serving() as running, raw(running.address) as client, raw(running.address) as idle:
        client.call(1, "hold", b"h")
        await running.methods.note("h started").wait()
        stopping = asyncio.create_task(running.server.stop(10.0))
        for each in (client, idle):
            asked = await each.until(PING)
            each.send(ping(asked.payload, ack=True))
        assert await idle.goodbye() == (0, ErrorCode.NO_ERROR)
        await client.until(GOAWAY)
        client.call(3, "echo", b"x")
        assert (await client.answer(3)).code == ErrorCode.REFUSED_STREAM
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", running.port)
        running.methods.note("go").set()
        assert (await client.answer(1)).body == message(b"h")
        await client.rest()
        await stopping


async def test_the_last_answer_arrives_though_the_client_goes_on_talking() -> None:
    """A socket that is closed while something waits in it unread resets its connection, and what was sent with it."""
    async with serving() as running, raw(running.address, (4, 2**30)) as client:
        client.call(1, "repeat", b"10 1000000")
        await client.frame()
        stopping = asyncio.create_task(running.server.stop(10.0))
        while not (1 in client.answers and client.answers[1].ended):
            client.send(ping(b"retiring", ack=True))
            assert await client.frame() is not None
        assert client.answers[1].body == message(bytes(1_000_000)) * 10
        await client.rest()
        await stopping


async def test_stop_at_once_tells_why() -> None:
    async with serving() as running, raw(running.address) as client:
        client.call(1, "hold", b"h")
        client.call(3, "stubborn", b"h")
        client.send(headers(5, head("echo")))
        await running.methods.note("stubborn started").wait()
        stopping = asyncio.create_task(running.server.stop(None))
        for stream in (1, 3, 5):
            answer = await client.answer(stream)
            assert (answer.status, answer.fields[b"grpc-message"]) == (
                GrpcStatus.UNAVAILABLE,
                b"the server is stopping",
            )
        await client.rest()
        await running.methods.note("stubborn cancelled").wait()
        running.methods.note("go").set()
        await stopping
        assert running.methods.running == 0


async def test_after_the_grace_what_runs_is_ended() -> None:
    async with serving() as running, raw(running.address) as client:
        client.call(1, "hold", b"h")
        await running.methods.note("h started").wait()
        stopping = asyncio.create_task(running.server.stop(0.1))
        assert (await client.answer(1)).status == GrpcStatus.UNAVAILABLE
        await client.rest()
        await stopping


async def test_calls_that_last_do_not_delay_the_end() -> None:
    async with serving() as running:

        async def watch(requests: Any, call: Any) -> None:
            running.methods.note("watching").set()
            await asyncio.Event().wait()

        running.face._handlers["/t/watch"] = stream_stream(watch, lasting=True)
        async with raw(running.address) as client:
            client.call(1, "watch", b"", end=False)
            await running.methods.note("watching").wait()
            async with asyncio.timeout(5):
                stopping = asyncio.create_task(running.server.stop(30.0))
                asked = await client.until(PING)
                client.send(ping(asked.payload, ack=True))
                assert (await client.answer(1)).status == GrpcStatus.UNAVAILABLE
                await client.rest()
                await stopping


async def test_a_client_that_is_silent_does_not_hold_up_the_end() -> None:
    async with serving() as running, raw(running.address) as silent:
        silent.call(1, "echo", b"x")
        await silent.answer(1)
        async with asyncio.timeout(5):
            await running.server.stop(30.0)


async def test_stop_again_and_without_a_start() -> None:
    face = Face(Methods())
    server = Server(face, "127.0.0.1:0")
    await server.stop(1.0)
    async with serving() as running, raw(running.address) as client:
        client.call(1, "hold", b"h")
        await running.methods.note("h started").wait()
        long = asyncio.create_task(running.server.stop(30.0))
        await client.until(PING)
        now = asyncio.create_task(running.server.stop(None))
        assert (await client.answer(1)).status == GrpcStatus.UNAVAILABLE
        await client.rest()
        await asyncio.gather(long, now)
        await running.server.stop(None)


async def test_a_restart_loses_no_call_that_has_run() -> None:
    """Of a client in a loop: what fails was never begun, and so may be repeated."""
    began: list[bytes] = []
    failed: list[tuple[bytes, Any]] = []
    answered = 0

    class Counting(Methods):
        async def echo(self, request: bytes, call: Any) -> bytes:
            began.append(request)
            await asyncio.sleep(0.002)
            return request

    address = "127.0.0.1:0"
    over = asyncio.Event()

    async def client(name: int) -> None:
        nonlocal answered
        async with channel(address, ("grpc.initial_reconnect_backoff_ms", 100)) as called:
            number = 0
            while not over.is_set():
                number += 1
                said = f"{name} {number}".encode()
                got = await outcome(called.unary_unary("/t/echo")(said, timeout=10))
                if got == said:
                    answered += 1
                else:
                    failed.append((said, got))
                    await asyncio.sleep(0.01)

    server = Server(Face(Counting()), address)
    await server.start()
    address = server.address
    clients = [asyncio.create_task(client(name)) for name in range(3)]
    try:
        for _ in range(3):
            await asyncio.sleep(0.2)
            before = answered
            await server.stop(5.0)
            server = Server(Face(Counting()), address)
            await server.start()
            while answered < before + 20:
                await asyncio.sleep(0.01)
        over.set()
        await asyncio.gather(*clients)
    finally:
        for each in clients:
            each.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*clients)
        await server.stop(None)
    ran = set(began)
    assert [each for each in failed if each[0] in ran] == []
    assert {got[0] for _, got in failed} <= {"UNAVAILABLE"}
    assert len(began) == len(ran) == answered


async def test_a_call_during_the_stop_goes_to_the_next_server() -> None:
    """A call that the old server has refused was not begun: grpc repeats it by itself."""
    async with serving() as old, channel(old.address) as called:
        held = called.unary_unary("/t/hold")(b"h", timeout=10)
        await old.methods.note("h started").wait()
        stopping = asyncio.create_task(old.server.stop(10.0))
        while old.server._listener._sockets:
            await asyncio.sleep(0)
        async with serving(old.address) as new:
            call = called.unary_unary("/t/echo")
            got = await outcome(call(b"x", timeout=10, wait_for_ready=True))
            assert got == b"x"
            assert new.face.asked + old.face.asked == 2
            old.methods.note("go").set()
            assert await held == b"h"
            await stopping


async def test_nothing_is_left_after_the_client_has_died_while_it_stops() -> None:
    async with serving() as running, raw(running.address) as client:
        client.call(1, "hold", b"h")
        await running.methods.note("h started").wait()
        stopping = asyncio.create_task(running.server.stop(10.0))
        await client.until(PING)
        client.writer.transport.abort()
        await stopping
        assert running.methods.running == 0

"""Who is slow holds back the other end, and nobody else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

from grpc import aio
from tests.collective.grpc_server.server_kit import Raw, channel, head, message, raw, serving
from tests.wire.h2.frames_kit import data, headers, settings, window_update

from dodici.wire.h2.frames import DATA, HEADERS, PREFACE, RST_STREAM, WINDOW_UPDATE

INITIAL_WINDOW = 4
MEGABYTE = 1024 * 1024


async def stalled(value: object, name: str) -> int:
    """The attribute's value once it has stopped to change."""
    before = -1
    while (now := getattr(value, name)) != before:
        before = now
        await asyncio.sleep(0.05)
    return int(before)


async def test_a_slow_reader_holds_back_the_handler() -> None:
    async with serving() as running, raw(running.address) as client:
        client.call(1, "repeat", b"40 50000")
        while not (1 in client.answers and len(client.answers[1].body) == 65_535):
            await client.frame()
        # What the window lets through, 64 KiB that wait, and the message that goes beyond.
        assert 65_535 <= await stalled(running.methods, "written") <= 200_000
        while not client.answers[1].ended:
            client.send(window_update(1, 100_000))
            await client.frame()
        assert client.answers[1].body == message(bytes(50_000)) * 40
        assert client.answers[1].status == 0


async def test_a_client_that_reads_nothing_is_bounded_and_cut_off() -> None:
    async with serving(keepalive=(0.5, 0.3)) as running:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", running.port))
        silent = Raw(*await asyncio.open_connection(sock=sock))
        silent.writer.transport.pause_reading()  # type: ignore[attr-defined]
        silent.send(PREFACE, settings((INITIAL_WINDOW, 2**31 - 1)), window_update(0, 2**31 - 65_536))
        for stream in range(1, 41, 2):
            silent.call(stream, "repeat", b"1000 100000")
        async with raw(running.address) as other:
            other.call(1, "echo", b"x")
            assert (await other.answer(1)).body == message(b"x")
        # The system's buffers, ours, and 20 streams with what may wait in each.
        assert await stalled(running.methods, "written") < 16 * MEGABYTE
        await running.empty()
        await running.idle()
        silent.writer.transport.abort()


async def test_a_slow_handler_holds_back_its_client_alone() -> None:
    async with serving() as running, channel(running.address) as called:
        sent = 0
        over = False

        async def pieces() -> AsyncIterator[bytes]:
            nonlocal sent, over
            for _ in range(100):
                yield bytes(65_536)
                sent += 65_536
            over = True

        call = called.stream_unary("/t/slow")(pieces(), timeout=20)
        await running.methods.note("slow reads").wait()
        for _ in range(20):
            assert await called.unary_unary("/t/echo")(b"x", timeout=10) == b"x"
        assert await called.stream_unary("/t/total")(iter([bytes(MEGABYTE)] * 4), timeout=10) == b"4194304"
        assert not over
        running.methods.note("go").set()
        assert await call == str(100 * 65_536).encode()


async def test_credit_comes_as_messages_are_read() -> None:
    async with serving() as running, raw(running.address) as client:
        client.send(headers(1, head("slow")))
        # The whole window: 1 MiB.
        pieces = message(bytes(16_379)) * 64
        for at in range(0, len(pieces), 16_384):
            client.send(data(1, pieces[at : at + 16_384]))
        await running.methods.note("slow reads").wait()
        client.call(3, "echo", b"x")
        await client.answer(3)
        assert [each for each in client.others if each.kind == WINDOW_UPDATE and each.stream == 1] == []
        running.methods.note("go").set()
        credit = 0
        while credit < MEGABYTE // 2:
            got = await client.until(WINDOW_UPDATE)
            if got.stream == 1:
                credit += int.from_bytes(got.payload, "big")
        client.send(data(1, end=True))
        assert (await client.answer(1)).body == message(str(64 * 16_379).encode())


async def test_many_streams_of_a_connection_take_turns() -> None:
    async with serving() as running, raw(running.address, (INITIAL_WINDOW, 2**30)) as client:
        streams = range(1, 101, 2)
        for stream in streams:
            client.call(stream, "repeat", b"100 30000")
        for _ in range(1000):
            got = await client.frame()
            assert got is not None
            assert got.kind != RST_STREAM
        sizes = [len(client.answers[stream].body) if stream in client.answers else 0 for stream in streams]
        assert min(sizes) > 0.5 * max(sizes)


async def test_an_answer_does_not_wait_for_large_streams() -> None:
    async with serving() as running, raw(running.address, (INITIAL_WINDOW, 2**30)) as client:
        for stream in range(1, 21, 2):
            client.call(stream, "repeat", b"100000 30000")
        for _ in range(100):
            await client.frame()
        client.call(21, "echo", b"x")
        between = 0
        while not (21 in client.answers and client.answers[21].ended):
            got = await client.frame()
            assert got is not None
            if got.stream != 21 and got.kind == DATA:
                between += len(got.payload)
        # What both systems have buffered at most.
        assert between < 16 * MEGABYTE


async def test_large_streams_both_ways() -> None:
    size, count = 512 * 1024, 20
    async with serving() as running, channel(running.address) as called:

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(count):
                yield bytes(size)

        assert await called.stream_unary("/t/total")(pieces(), timeout=30) == str(size * count).encode()
        down = called.unary_stream("/t/repeat")(f"{count} {size}".encode(), timeout=30)
        assert sum([len(each) async for each in down]) == size * count
        both = called.stream_stream("/t/chat")(pieces(), timeout=30)
        assert sum([len(each) async for each in both]) == size * count
        await running.idle()


async def test_thousands_of_calls_at_once_on_a_connection() -> None:
    count = 2000
    async with serving() as running, raw(running.address) as client:
        for number in range(count):
            client.call(2 * number + 1, "hold", b"h")
            if number % 500 == 0:
                await client.writer.drain()
        while running.methods.running < count:
            await asyncio.sleep(0.01)
        running.methods.note("go").set()
        ended = 0
        while ended < count:
            got = await client.frame()
            assert got is not None
            assert got.kind != RST_STREAM
            ended += got.kind == HEADERS and client.answers[got.stream].ended
        assert {client.answers[2 * number + 1].status for number in range(count)} == {0}
        await running.idle()


async def test_a_reader_of_grpc_that_pauses() -> None:
    async with serving() as running, channel(running.address) as called:
        call = called.unary_stream("/t/repeat")(b"800 65536", timeout=20)
        assert await call.read() == bytes(65_536)
        assert await stalled(running.methods, "written") < 32 * MEGABYTE
        left = 799
        while await call.read() is not aio.EOF:
            left -= 1
        assert left == 0

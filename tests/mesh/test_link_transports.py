"""Transports inside one machine: what a queue pair does as a socket would, within a loop and between threads."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from tests.mesh.link_kit import FarLoop

from dodici.net.local import QueueTransport, open_local, queue_pair


class Tape(asyncio.Protocol):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.data = b""
        self.deliveries = 0
        self.lost: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        self.waiting: list[tuple[int, asyncio.Future[None]]] = []

    def connection_made(self, transport: Any) -> None:
        self.events.append("made")

    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes
        self.data += data
        self.deliveries += 1
        for size, future in self.waiting:
            if len(self.data) >= size and not future.done():
                future.set_result(None)

    def eof_received(self) -> bool:
        self.events.append("eof")
        return False

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.events.append("lost")
        self.lost.set_result(exc)

    async def received(self, size: int) -> None:
        future = asyncio.get_running_loop().create_future()
        if len(self.data) < size:
            self.waiting.append((size, future))
            await future


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def pair() -> tuple[QueueTransport, QueueTransport, Tape, Tape]:
    loop = asyncio.get_running_loop()
    a, b = queue_pair(loop, loop)
    near, far = Tape(), Tape()
    a.start(near)  # type: ignore[arg-type]
    b.start(far)  # type: ignore[arg-type]
    return a, b, near, far


async def test_a_batch_of_writes_is_one_delivery() -> None:
    a, b, near, far = pair()
    a.write(b"one")
    a.writelines([b"two", bytearray(b"three"), memoryview(b"four")])
    b.write(b"back")
    assert a.get_write_buffer_size() == 15
    await settle()
    assert (far.data, far.deliveries) == (b"onetwothreefour", 1)
    assert near.data == b"back"
    assert a.get_write_buffer_size() == 0
    a.close()
    await far.lost


async def test_what_was_written_before_the_other_end_began_is_delivered() -> None:
    loop = asyncio.get_running_loop()
    a, b = queue_pair(loop, loop)
    near, far = Tape(), Tape()
    a.start(near)  # type: ignore[arg-type]
    a.write(b"early")
    await settle()
    b.start(far)  # type: ignore[arg-type]
    await far.received(5)
    a.close()
    await far.lost
    assert far.events == ["made", "eof", "lost"]


async def test_close_comes_behind_what_was_written() -> None:
    a, b, near, far = pair()
    a.write(b"last")
    a.close()
    assert a.is_closing()
    a.write(b"too late")
    assert await near.lost is None
    assert await far.lost is None
    assert far.data == b"last"
    assert b.is_closing()
    a.close()
    b.abort()
    await settle()
    assert near.events == ["made", "lost"]


async def test_a_reader_that_pauses_holds_up_the_writer() -> None:
    a, b, near, far = pair()
    a.set_write_buffer_limits(high=100)
    assert a.get_write_buffer_limits() == (0, 100)
    b.pause_reading()
    assert not b.is_reading()
    a.write(bytes(100))
    assert near.events == ["made"]
    a.write(b"x")
    a.write(b"y")
    assert near.events == ["made", "pause"]
    await settle()
    assert far.data == b""
    b.resume_reading()
    b.resume_reading()
    assert b.is_reading()
    await far.received(102)
    await settle()
    assert near.events == ["made", "pause", "resume"]
    a.close()
    await far.lost


async def test_an_end_that_is_aborted_before_it_begins() -> None:
    loop = asyncio.get_running_loop()
    a, b = queue_pair(loop, loop)
    a.abort()
    near, far = Tape(), Tape()
    a.start(near)  # type: ignore[arg-type]
    b.start(far)  # type: ignore[arg-type]
    await near.lost
    await far.lost


async def test_what_asyncio_asks_of_a_transport() -> None:
    a, _, _, far = pair()
    other = Tape()
    a.set_protocol(other)
    assert a.get_protocol() is other
    assert a.get_extra_info("peername", "none") == "none"
    assert not a.can_write_eof()
    a.set_write_buffer_limits()
    assert a.get_write_buffer_limits()[1] > 0
    a.close()
    await far.lost


@pytest.mark.parametrize("size", [10, 3_000_000])
async def test_two_threads(size: int) -> None:
    with FarLoop() as there:
        a, b = queue_pair(asyncio.get_running_loop(), there.loop)
        near = Tape()
        a.start(near)  # type: ignore[arg-type]

        async def begin() -> Tape:
            tape = Tape()
            b.start(tape)  # type: ignore[arg-type]
            return tape

        far = await there.run(begin())
        for start in range(0, size, 10):
            a.write(b"0123456789")
            if start % 100_000 == 0:
                await asyncio.sleep(0)
        await there.run(far.received(size))
        assert far.data == b"0123456789" * (size // 10)
        assert far.deliveries <= size // 10
        await asyncio.to_thread(b.abort)
        assert await there.run(asyncio.wait_for(far.lost, 5)) is None
        assert await near.lost is None


async def test_a_loop_that_is_closed_is_a_lost_connection() -> None:
    with FarLoop() as there:
        a, b = queue_pair(asyncio.get_running_loop(), there.loop)

        async def begin() -> None:
            b.start(Tape())  # type: ignore[arg-type]

        await there.run(begin())
        near = Tape()
        a.start(near)  # type: ignore[arg-type]
    a.write(b"hello?")
    assert isinstance(await near.lost, ConnectionResetError)
    b.abort()


async def test_an_abort_of_an_end_whose_loop_is_closed_ends_the_other() -> None:
    with FarLoop() as there:
        a, b = queue_pair(asyncio.get_running_loop(), there.loop)

        async def begin() -> None:
            b.start(Tape())  # type: ignore[arg-type]

        await there.run(begin())
        near = Tape()
        a.start(near)  # type: ignore[arg-type]
    b.abort()
    assert await near.lost is None


async def test_a_socket_that_cannot_be_used_is_closed() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with pytest.raises((OSError, ValueError)):
        await open_local(near, Tape, asyncio.get_running_loop())  # type: ignore[arg-type]
    assert near.fileno() == -1
    far.close()

"""Output that nobody waits for: a thread writes it, a reader that has stopped holds up nothing."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import threading
from collections.abc import Iterator

import pytest

from dodici.server.background import BackgroundWriter
from dodici.server.output import LogToOutput, Output


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        with contextlib.suppress(OSError):
            os.close(descriptor)


def read_all(descriptor: int) -> str:
    pieces = []
    while piece := os.read(descriptor, 1 << 16):
        pieces.append(piece)
    return b"".join(pieces).decode()


def test_lines_are_written_in_their_order_before_it_is_closed(pipe: tuple[int, int]) -> None:
    writer = BackgroundWriter(pipe[1], "utf-8")
    output = Output(writer)
    for number in range(500):
        output.say(f"é {number}")
    output.close()
    os.close(pipe[1])
    lines = read_all(pipe[0]).splitlines()
    assert [line.partition("| ")[2] for line in lines] == [f"é {number}" for number in range(500)]


@pytest.mark.parametrize("blocking", [True, False])
def test_reader_that_has_stopped(blocking: bool, pipe: tuple[int, int]) -> None:
    fcntl.fcntl(pipe[1], fcntl.F_SETFL, 0 if blocking else os.O_NONBLOCK)
    writer = BackgroundWriter(pipe[1], "utf-8")
    given = 3000
    for _ in range(given):
        writer.write("x" * 999 + "\n")
    assert writer._size <= 1024 * 1024
    reading = threading.Thread(target=lambda: read.append(read_all(pipe[0])))
    read: list[str] = []
    reading.start()
    writer.close(10)
    os.close(pipe[1])
    reading.join(10)
    lines = read[0].splitlines()
    told = [line for line in lines if not line.startswith("x")]
    assert told[0].endswith(" lines left out here")
    assert sum(int(line.split()[0]) for line in told) == given - (len(lines) - len(told))


def test_end_does_not_wait_for_a_reader_that_has_stopped(pipe: tuple[int, int]) -> None:
    writer = BackgroundWriter(pipe[1], "utf-8")
    writer.write("x" * 500_000 + "\n")
    writer.close(0.05)
    assert writer._thread is not None
    assert writer._thread.is_alive()
    os.close(pipe[0])  # lets the thread end
    writer._thread.join(10)


def test_reader_that_has_gone(pipe: tuple[int, int]) -> None:
    output = Output(BackgroundWriter(pipe[1], "utf-8"))
    os.close(pipe[0])
    output.say("a")
    output.close(10)
    assert not output.broken
    output.say("b")
    assert output.broken


def test_what_the_encoding_does_not_have(pipe: tuple[int, int]) -> None:
    output = Output(BackgroundWriter(pipe[1], "ascii"))
    output.say("é")
    output.say("a")
    output.close()
    os.close(pipe[1])
    assert [line.partition("| ")[2] for line in read_all(pipe[0]).splitlines()] == ["\\xe9", "a"]


async def test_records_of_other_threads_are_said_on_the_loop() -> None:
    output = Output()
    threads: list[int] = []
    output.say = lambda text, **_: threads.append(threading.get_ident())  # type: ignore[method-assign]
    handler = LogToOutput(output)
    record = logging.LogRecord("dodici.mesh", logging.WARNING, "", 0, "odd", (), None)
    handler.emit(record)
    await asyncio.to_thread(handler.emit, record)
    await asyncio.sleep(0)
    assert threads == [threading.get_ident()] * 2

"""The limit of a mesh in Python on this machine: socket pairs between processes, and nothing else.

Each worker answers every question of 64 bytes with the whole answer. Both sides run on uvloop, take
small messages one by one out of what they read, and write once per turn of the loop, as dodici's
links do. There are no heads, streams, apps, tasks or checks.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections import deque
from typing import TYPE_CHECKING, Any

from harness import Client, Job, Unsupported, clock, main, version_of

if TYPE_CHECKING:
    from collections.abc import Callable

QUESTION = bytes(64)
BUFFER = 256 * 1024


class End(asyncio.BufferedProtocol):
    """Tells of each message of `size` bytes, and sends `message` as often as it is asked to, gathered.

    Small messages are handed over; of those that are larger than the buffer only the bytes are
    counted.
    """

    def __init__(self, size: int, message: bytes, arrived: Callable[[End, bytes], None]) -> None:
        self._buffer = memoryview(bytearray(BUFFER))
        self._rest = b""
        self._size, self._message = size, message
        self._arrived = arrived
        self._partial = self._owed = 0
        self._transport: Any
        self._loop = asyncio.get_running_loop()
        self.lost = self._loop.create_future()
        self.waiting: deque[float] = deque()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        size = self._size
        if size > BUFFER:
            count, self._partial = divmod(self._partial + nbytes, size)
            for _ in range(count):
                self._arrived(self, b"")
            return
        data = self._rest + self._buffer[:nbytes]
        end = len(data) - len(data) % size
        for at in range(0, end, size):
            self._arrived(self, data[at : at + size])
        self._rest = data[end:]

    def send(self) -> None:
        """Send the message at the end of this turn."""
        if not self._owed:
            self._loop.call_soon(self._flush)
        self._owed += 1

    def _flush(self) -> None:
        count, self._owed = self._owed, 0
        if len(self._message) < BUFFER:
            self._transport.write(self._message * count)
            return
        for _ in range(count):
            self._transport.write(self._message)

    def close(self) -> None:
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(None)


class SocketPairs(Client):
    package = "uvloop"
    versions = ("http/1.1",)

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        if job.kind != "get":
            raise Unsupported("has no requests")
        self.ends: list[End] = []
        self._echoes: list[subprocess.Popen[bytes]] = []
        self._phase: tuple[float, list[float], asyncio.Future[None]]
        self._open = 0

    def version(self) -> str:
        return f"uvloop {version_of(self.package)}"

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(self.job.workers):
            ours, theirs = socket.socketpair()
            with theirs:
                command = [sys.executable, __file__, "--echo", str(theirs.fileno()), str(self.job.size)]
                self._echoes.append(subprocess.Popen(command, pass_fds=[theirs.fileno()]))
            _, end = await loop.create_unix_connection(self._make, sock=ours)
            self.ends.append(end)

    def _make(self) -> End:
        return End(self.job.size, QUESTION, self._arrived)

    def _arrived(self, end: End, message: bytes) -> None:
        deadline, latencies, done = self._phase
        now = clock()
        latencies.append(now - end.waiting.popleft())
        if now < deadline:
            end.waiting.append(now)
            end.send()
            return
        self._open -= 1
        if not self._open:
            done.set_result(None)

    async def run(self, deadline: float) -> tuple[list[float], int]:
        latencies: list[float] = []
        done = asyncio.get_running_loop().create_future()
        self._phase = deadline, latencies, done
        self._open = self.job.slots
        for number in range(self.job.slots):
            end = self.ends[number % len(self.ends)]
            end.waiting.append(clock())
            end.send()
        await done
        return latencies, len(latencies) * self.job.size

    async def close(self) -> None:
        for end in self.ends:
            end.close()
        for echo in self._echoes:
            await asyncio.to_thread(echo.wait)


async def _echo(sock: socket.socket, size: int) -> None:
    answer = bytes(size)
    loop = asyncio.get_running_loop()
    _, end = await loop.create_unix_connection(
        lambda: End(len(QUESTION), answer, lambda end, _: end.send()), sock=sock
    )
    await end.lost


if __name__ == "__main__":
    if sys.argv[1] == "--echo":
        import uvloop

        with socket.socket(fileno=int(sys.argv[2])) as theirs:
            uvloop.run(_echo(theirs, int(sys.argv[3])))
    else:
        main(SocketPairs)

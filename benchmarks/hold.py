"""A tiny server that holds every request until enough of them wait, then answers them all.

Ten thousand idle connections exist only if ten thousand requests were open at one moment; a
normal server answers the first before the last is sent. Run as ``hold.py COUNT``, which prints
the port that it listens on. If no request comes for some seconds, those that wait are answered
anyway: a client that cannot open as many connections is then reported with the number it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

_STALL_SECONDS = 10.0
_ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 13\r\n"
    b"keep-alive: timeout=3600\r\nconnection: keep-alive\r\n\r\nHello, world!"
)


class Gate:
    """The transports that wait, and the rule when to answer them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, count: int) -> None:
        self._loop = loop
        self._count = count
        self._waiting: list[asyncio.Transport] = []
        self._stall: asyncio.TimerHandle | None = None

    def enter(self, transport: asyncio.Transport) -> None:
        """One more request waits on `transport`."""
        self._waiting.append(transport)
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        if len(self._waiting) >= self._count:
            self._open()
        else:
            self._stall = self._loop.call_later(_STALL_SECONDS, self._open)

    def _open(self) -> None:
        waiting, self._waiting = self._waiting, []
        for transport in waiting:
            transport.write(_ANSWER)


class Holder(asyncio.Protocol):
    """One connection; requests have no body, so a blank line ends each."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._tail = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        heads = (self._tail + data).split(b"\r\n\r\n")
        self._tail = heads.pop()
        for _ in heads:
            self._gate.enter(self._transport)


async def serve(count: int) -> None:
    """Listen until killed."""
    loop = asyncio.get_running_loop()
    gate = Gate(loop, count)
    server = await loop.create_server(lambda: Holder(gate), "127.0.0.1", 0, backlog=16384)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(int(sys.argv[1])))

"""What the WebSocket tests share: frames as bytes, a transport in memory, and a peer that shakes hands."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import dodici
from dodici.api._websocket_frames import ChannelSettings, FrameChannel, negotiate
from dodici.core.headers import Headers
from dodici.testing import PeerConnection, PeerRequest, ScriptedPeer

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class Frame(NamedTuple):
    """A frame of the client's, unmasked."""

    opcode: int
    data: bytes
    fin: bool = True
    rsv: int = 0


def frame(opcode: int, data: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bytes = b"") -> bytes:
    """A server's frame; with a mask, which a server may not use, also that."""
    head = bytes([fin << 7 | rsv << 4 | opcode])
    flag = 0x80 if mask else 0
    size = len(data)
    if size < 126:
        head += bytes([flag | size])
    elif size < 65536:
        head += struct.pack("!BH", flag | 126, size)
    else:
        head += struct.pack("!BQ", flag | 127, size)
    if mask:
        data = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
    return head + mask + data


def text(message: str) -> bytes:
    return frame(TEXT, message.encode())


def close(code: int = 1000, reason: bytes = b"") -> bytes:
    return frame(CLOSE, struct.pack("!H", code) + reason)


def parse(data: bytes) -> tuple[list[Frame], bytes]:
    """The client's frames in these bytes, and the rest. Fails on one that is not masked."""
    frames = []
    while len(data) >= 2:
        size, at = data[1] & 0x7F, 2
        assert data[1] & 0x80, "a client must mask"
        if size >= 126:
            width = 2 if size == 126 else 8
            size, at = int.from_bytes(data[2 : 2 + width]), 2 + width
        if len(data) < at + 4 + size:
            break
        mask, body = data[at : at + 4], data[at + 4 : at + 4 + size]
        plain = (
            int.from_bytes(body) ^ int.from_bytes((mask * (size // 4 + 1))[:size]) if size else 0
        ).to_bytes(size)
        frames.append(Frame(data[0] & 15, plain, bool(data[0] & 0x80), data[0] >> 4 & 7))
        data = data[at + 4 + size :]
    return frames, data


# -- a channel without a network ---------------------------------------------------------------------------


class FakeTransport(asyncio.Transport):
    """Keeps what is written. `feed()` is the peer's side."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.paused = self.closing = self.aborted = False
        self.protocol: Any = None

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: Any) -> None:
        assert not self.closing
        self.written += bytes(data)

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def close(self) -> None:
        self._end(None)

    def abort(self) -> None:
        self.aborted = True
        self._end(None)

    def lose(self, error: Exception | None) -> None:
        self._end(error)

    def _end(self, error: Exception | None) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, error)

    def feed(self, *data: bytes) -> None:
        for each in data:
            self.protocol.data_received(each)

    def eof(self) -> None:
        if not self.protocol.eof_received():
            self.close()

    def frames(self) -> list[Frame]:
        """What the client has sent since the last call."""
        frames, self.written = parse(self.written)
        assert not self.written
        return frames


class FakeSocket:
    """What an upgrade hands over, as far as a channel looks at it."""

    def __init__(self, early: bytes = b"") -> None:
        self.transport = FakeTransport()
        self.reader = asyncio.StreamReader()
        if early:
            self.reader.feed_data(early)

    def abort(self) -> None:
        self.transport.abort()


def make(
    *,
    early: bytes = b"",
    deflate: str | None = None,
    max_message_size: int | None = 1 << 20,
    ping_interval: float | None = None,
    ping_timeout: float | None = 20.0,
    close_timeout: float = 10.0,
    tunnel: bool = False,
) -> tuple[dodici.WebSocket, FakeTransport]:
    """An open WebSocket over a transport in memory. `deflate` is the server's answer to the offer."""
    socket: Any = FakeSocket(early)
    headers = Headers({"sec-websocket-extensions": deflate} if deflate is not None else None)
    settings = ChannelSettings(max_message_size, ping_interval, ping_timeout, close_timeout)
    channel = FrameChannel(
        socket, headers, None, negotiate(headers, True), settings, asyncio.get_running_loop(), tunnel=tunnel
    )
    ws = dodici.WebSocket(channel, max_message_size=max_message_size, close_timeout=close_timeout)
    return ws, socket.transport


@contextlib.asynccontextmanager
async def channel(**options: Any) -> AsyncIterator[tuple[dodici.WebSocket, FakeTransport]]:
    """`make`, aborted at the end."""
    ws, transport = make(**options)
    try:
        yield ws, transport
    finally:
        ws.abort()
        await asyncio.sleep(0)


# -- a peer over a socket ----------------------------------------------------------------------------------


def accept(request: PeerRequest) -> str:
    """What belongs to the request's key."""
    key = request.headers["sec-websocket-key"].encode()
    digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()


def switched(request: PeerRequest, more: str = "") -> str:
    """The head that agrees to the handshake."""
    return (
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nconnection: keep-alive, Upgrade\r\n"
        f"sec-websocket-accept: {accept(request)}\r\n{more}\r\n"
    )


class Peer:
    """A connection whose handshake is done."""

    def __init__(self, connection: PeerConnection) -> None:
        self.connection = connection
        self._rest = b""
        self._frames: list[Frame] = []

    async def send(self, *data: bytes) -> None:
        await self.connection.send(*data)

    async def next(self) -> Frame:
        """The next frame of the client's."""
        while not self._frames:
            more = await self.connection.read_some()
            assert more, "the client has closed the connection"
            self._frames, self._rest = parse(self._rest + more)
        return self._frames.pop(0)

    async def expect_close(self, code: int) -> None:
        """The client's close frame, with this code."""
        got = await self.next()
        assert (got.opcode, int.from_bytes(got.data[:2])) == (CLOSE, code)


@contextlib.asynccontextmanager
async def peer(
    script: Callable[[Peer], Awaitable[Any]], *, more: str = "", early: bytes = b"", **options: Any
) -> AsyncIterator[dodici.WebSocket]:
    """A WebSocket to a peer that follows a script once the handshake is done."""

    async def whole(connection: PeerConnection) -> None:
        request = await connection.read_request()
        await connection.send(switched(request, more), early)
        await script(Peer(connection))

    async with ScriptedPeer(whole) as server, dodici.Client(server.origin) as client:
        ws = await client.websocket("/", **{"ping_interval": None, "close_timeout": 5.0, **options})
        try:
            yield ws
        finally:
            ws.abort()
            await asyncio.sleep(0)

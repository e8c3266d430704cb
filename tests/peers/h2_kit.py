"""Scripted servers that speak HTTP/2 frame by frame, right or wrong.

A script is a coroutine function of one `H2Peer`, which stands on a `PeerConnection`: nothing is read from the socket
but what the script asks for. Frames are made and taken apart here, by hand, so that a mistake of the engine cannot
hide behind the same mistake in its peer; only header blocks come from the `hpack` library.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import hpack

from dodici import Pool
from dodici.testing import PeerConnection, PeerError, RecordingHandler

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
TABLE_SIZE, ENABLE_PUSH, MAX_STREAMS, INITIAL_WINDOW, MAX_FRAME, MAX_LIST, _, CONNECT_PROTOCOL = range(1, 9)
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = range(4)
REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 0x7, 0x8, 0xB
NOTHING_LOST = 2**31 - 1
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Frame(NamedTuple):
    """A frame as it came."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def ends(self) -> bool:
        return self.kind in (DATA, HEADERS) and bool(self.flags & END_STREAM)

    @property
    def number(self) -> int:
        """The code of RST_STREAM and GOAWAY, the increment of WINDOW_UPDATE."""
        return int.from_bytes(self.payload[4:8] if self.kind == GOAWAY else self.payload, "big")


class H2Request(NamedTuple):
    """A request's head."""

    stream: int
    fields: dict[str, str]
    ends: bool

    @property
    def path(self) -> str:
        return self.fields[":path"]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """The bytes of a frame."""
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


class H2Peer:
    """The server's side of one connection. SETTINGS and PING are acknowledged as they are read."""

    def __init__(self, connection: PeerConnection) -> None:
        self.connection = connection
        self.log: list[Frame] = []
        """Everything that was read."""
        self.answers_ping = True
        self._owed = b""
        self._said_settings = False
        self._encoder = hpack.Encoder()
        self._decoder = hpack.Decoder()

    # -- reading ---------------------------------------------------------------------------------------

    async def read(self) -> Frame | None:
        """The next frame; None at the end."""
        connection = self.connection
        while not connection.buffered:
            if not await connection._more():
                return None
        head = await connection.read_exactly(9)
        kind, flags, stream = struct.unpack_from(">BBI", head, 3)
        got = Frame(kind, flags, stream, await connection.read_exactly(int.from_bytes(head[:3], "big")))
        self.log.append(got)
        if not flags & ACK:
            if kind == SETTINGS and self._said_settings:
                await self.send(SETTINGS, ACK, 0)
            elif kind == SETTINGS:
                self._owed += frame(SETTINGS, ACK, 0)
            elif kind == PING and self.answers_ping:
                await self.send(PING, ACK, 0, got.payload)
        return got

    async def next(self, *kinds: int, stream: int | None = None) -> Frame:
        """Read up to a frame of such a kind (of such a stream).

        Raises:
            PeerError: the client closed first.
        """
        while (got := await self.read()) is not None:
            if got.kind in kinds and stream in (None, got.stream):
                return got
        raise PeerError(f"expected a frame of {kinds}, got {[each[:3] for each in self.log]} and the end")

    async def next_request(self) -> H2Request | None:
        """The next request's head; None if the client closes instead of sending one."""
        while (got := await self.read()) is not None:
            if got.kind == HEADERS:
                block, flags = got.payload, got.flags
                while not flags & END_HEADERS:
                    more = await self.read()
                    assert more is not None
                    assert more.kind == CONTINUATION
                    assert more.stream == got.stream
                    block, flags = block + more.payload, flags | more.flags
                return H2Request(got.stream, dict(self._decoder.decode(block)), got.ends)
        return None

    async def request(self) -> H2Request:
        """The next request's head."""
        request = await self.next_request()
        if request is None:
            raise PeerError("expected a request, got the end")
        return request

    async def requests(self, count: int) -> list[H2Request]:
        return [await self.request() for _ in range(count)]

    async def body(self, stream: int, *, credit: bool = True) -> bytes:
        """The request's body from here to its end, giving back what it takes of the windows."""
        body = b""
        while True:
            got = await self.next(DATA, stream=stream)
            body += got.payload
            if got.ends:
                return body
            if credit and got.payload:
                await self.window(0, len(got.payload))
                await self.window(stream, len(got.payload))

    async def rest(self) -> list[Frame]:
        """Read until the client closes; everything that was read, before it too."""
        while await self.read() is not None:
            pass
        return self.log

    def count(self, kind: int, stream: int | None = None) -> int:
        """How many such frames were read."""
        return sum(got.kind == kind and stream in (None, got.stream) for got in self.log)

    # -- writing ---------------------------------------------------------------------------------------

    async def start(self, settings: dict[int, int] | None = None) -> None:
        """Read the preface and send SETTINGS."""
        await self.connection.expect(_PREFACE)
        await self.settings(settings or {})

    async def settings(self, pairs: dict[int, int]) -> None:
        self._said_settings = True
        await self.send(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs.items()))
        if self._owed:
            owed, self._owed = self._owed, b""
            await self.connection.send(owed)

    async def send(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        await self.connection.send(frame(kind, flags, stream, payload))

    def head_bytes(self, stream: int, status: int = 200, end: bool = False, **fields: str) -> bytes:
        """HEADERS; `_` in a field's name is a `-`."""
        pairs = [(name.replace("_", "-"), value) for name, value in fields.items()]
        if status:
            pairs.insert(0, (":status", str(status)))
        flags = END_HEADERS | (END_STREAM if end else 0)
        return frame(HEADERS, flags, stream, self._encoder.encode(pairs))

    async def head(self, stream: int, status: int = 200, end: bool = False, **fields: str) -> None:
        await self.connection.send(self.head_bytes(stream, status, end, **fields))

    async def trailers(self, stream: int, **fields: str) -> None:
        await self.head(stream, 0, True, **fields)

    async def data(self, stream: int, data: bytes = b"", end: bool = False) -> None:
        """DATA, in frames of 16 KiB at most."""
        last = max(0, (len(data) - 1) // 16384 * 16384)
        for at in range(0, last + 1, 16384):
            flags = END_STREAM if end and at == last else 0
            await self.send(DATA, flags, stream, data[at : at + 16384])

    async def respond(self, stream: int, body: bytes = b"ok", status: int = 200) -> None:
        """A whole response, in one write."""
        head = self.head_bytes(stream, status, content_length=str(len(body)))
        await self.connection.send(head, frame(DATA, END_STREAM, stream, body))

    async def serve(self) -> None:
        """Answer `ok` to every request, without waiting for its body."""
        while (request := await self.next_request()) is not None:
            await self.respond(request.stream)

    async def reset(self, stream: int, code: int) -> None:
        await self.send(RST_STREAM, 0, stream, struct.pack(">I", code))

    async def window(self, stream: int, increment: int) -> None:
        await self.send(WINDOW_UPDATE, 0, stream, struct.pack(">I", increment))

    async def goaway(self, last: int, code: int = NO_ERROR, debug: bytes = b"") -> None:
        await self.send(GOAWAY, 0, 0, struct.pack(">II", last, code) + debug)

    async def ping(self, payload: bytes = b"roundabo") -> None:
        """PING, and wait for its answer: everything sent before was taken in, and what it caused was written."""
        await self.send(PING, 0, 0, payload)
        while (await self.next(PING)).payload != payload:
            pass


Play = Callable[[H2Peer], Awaitable[Any]]


def h2_script(
    play: Play, settings: dict[int, int] | None = None
) -> Callable[[PeerConnection], Awaitable[None]]:
    """A script for `ScriptedPeer` from one for an `H2Peer` that has sent its SETTINGS.

    When it ends the connection is read until the client closes it, as a server would.
    """

    async def script(connection: PeerConnection) -> None:
        peer = H2Peer(connection)
        connection.h2 = peer  # type: ignore[attr-defined]  # for tests that look at the log
        await peer.start(settings)
        await play(peer)
        await peer.rest()

    return script


def serving(settings: dict[int, int] | None = None) -> Callable[[PeerConnection], Awaitable[None]]:
    """A script that answers `ok` to everything."""
    return h2_script(H2Peer.serve, settings)


def h2c_pool(origin: str, **options: Any) -> Pool:
    return Pool(origin, use_h2c=True, **options)


async def warm(dispatcher: Any) -> None:
    """One exchange, so that the connection is there and its SETTINGS are known."""
    recorder = RecordingHandler()
    recorder.dispatch(dispatcher, {"path": "/warm"})
    assert (await recorder.wait()).error is None, recorder.summary()

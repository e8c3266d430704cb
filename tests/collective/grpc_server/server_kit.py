"""A face with a method of each kind, the server of ours and one of grpc's that serve it, and a client of bare frames."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any

import grpc
from grpc import aio
from tests.wire.h2.frames_kit import Frame, data, headers, settings, window_update

from dodici.collective.errors import call_error
from dodici.collective.grpc_server import Handler, Server, stream_stream, unary_unary
from dodici.collective.grpc_server.head import RequestHead
from dodici.core.grpc_status import GrpcStatus
from dodici.wire.h2.frames import DATA, END_STREAM, GOAWAY, HEADERS, PREFACE, RST_STREAM
from dodici.wire.h2.hpack import Decoder, encode_fields

LIMIT = 1024 * 1024
"""Bytes of a message that the servers take."""


class Methods:
    """What the servers serve. `notes` are what has happened, by name; `running` are the calls whose handlers run."""

    def __init__(self) -> None:
        self.notes: dict[str, asyncio.Event] = {}
        self.running = 0
        self.written = 0
        """Bytes that `Repeat` has written."""
        self.read = 0
        """Bytes that `Slow` has read."""

    def note(self, name: str) -> asyncio.Event:
        return self.notes.setdefault(name, asyncio.Event())

    async def echo(self, request: bytes, call: Any) -> bytes:
        return request

    async def hold(self, request: bytes, call: Any) -> bytes:
        """Wait for the note "go", or for ever."""
        name = request.decode()
        self.running += 1
        self.note(f"{name} started").set()
        try:
            await self.note("go").wait()
        except asyncio.CancelledError:
            self.note(f"{name} cancelled").set()
            raise
        finally:
            self.running -= 1
        return request

    async def stubborn(self, request: bytes, call: Any) -> bytes:
        """Go on when it is cancelled, until the note "go"."""
        self.running += 1
        try:
            self.note("stubborn started").set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.note("stubborn cancelled").set()
                await self.note("go").wait()
        finally:
            self.running -= 1
        return b"late"

    async def fail(self, request: bytes, call: Any) -> bytes:
        """`request` is JSON: status, text, details in hex, trailing."""
        asked = json.loads(request)
        error = call_error(GrpcStatus(asked.get("status", 9)), asked.get("text", ""))
        if "details" in asked:
            error.binary_details = bytes.fromhex(asked["details"])
        await call.fail(error, tuple((name, value) for name, value in asked.get("trailing", ())))
        raise AssertionError("fail() returns")

    async def raises(self, request: bytes, call: Any) -> bytes:
        raise ValueError(request.decode())

    async def trailing(self, request: bytes, call: Any) -> bytes:
        """`request` is JSON: trailing metadata."""
        call.set_trailing(tuple((name, value) for name, value in json.loads(request)))
        return b"trailing"

    async def tell(self, request: bytes, call: Any) -> bytes:
        """The metadata that came, which goes back as initial and as trailing."""
        own = tuple(pair for pair in call.metadata() if pair[0].startswith("x-"))
        await call.send_initial(own)
        call.set_trailing(own)
        return json.dumps(
            [[name, value.hex() if isinstance(value, bytes) else value] for name, value in own]
        ).encode()

    async def remaining(self, request: bytes, call: Any) -> bytes:
        return str(call.time_remaining()).encode()

    async def total(self, requests: AsyncIterator[bytes], call: Any) -> None:
        total = 0
        self.running += 1
        try:
            async for request in requests:
                self.note("total reads").set()
                total += len(request)
            self.note("total ends").set()
        finally:
            self.running -= 1
            self.note("total over").set()
        await call.write(str(total).encode())

    async def repeat(self, requests: AsyncIterator[bytes], call: Any) -> None:
        """`COUNT SIZE`: so many messages of so many bytes."""
        request = await anext(requests)
        count, size = map(int, request.split())
        self.running += 1
        try:
            for _ in range(count):
                await call.write(bytes(size))
                self.written += size
        except asyncio.CancelledError:
            self.note("repeat cancelled").set()
            raise
        finally:
            self.running -= 1

    async def slow(self, requests: AsyncIterator[bytes], call: Any) -> None:
        """Read one message, and the others once there is the note "go"."""
        async for request in requests:
            self.read += len(request)
            self.note("slow reads").set()
            await self.note("go").wait()
        await call.write(str(self.read).encode())

    async def chat(self, requests: AsyncIterator[bytes], call: Any) -> None:
        self.running += 1
        try:
            async for request in requests:
                await call.write(request)
        finally:
            self.running -= 1
            self.note("chat over").set()

    async def early(self, requests: AsyncIterator[bytes], call: Any) -> None:
        """Answer and end without reading."""
        await call.write(b"early")

    def handlers(self) -> dict[str, tuple[bool, Any]]:
        """By name: whether it streams, and the method."""
        unary = ("echo", "hold", "stubborn", "fail", "raises", "tell", "remaining", "trailing")
        streams = ("total", "repeat", "slow", "chat", "early")
        return {name: (False, getattr(self, name)) for name in unary} | {
            name: (True, getattr(self, name)) for name in streams
        }


class Face:
    """A `ServerFace` of `Methods`."""

    def __init__(self, methods: Methods) -> None:
        self._handlers: dict[str, Handler] = {}
        for name, (streams, run) in methods.handlers().items():
            self._handlers[f"/t/{name}"] = stream_stream(run) if streams else unary_unary(run)
        self.asked = 0

    def method(self, head: RequestHead) -> Handler | None:
        self.asked += 1
        if head.path == "/t/bug":
            raise ValueError("a bug")
        return self._handlers.get(head.path)


class Serving:
    """A server of ours that runs, and what it serves."""

    def __init__(self, server: Server, methods: Methods, face: Face) -> None:
        self.server = server
        self.methods = methods
        self.face = face

    @property
    def address(self) -> str:
        return self.server.address

    @property
    def port(self) -> int:
        return int(self.server.address.rpartition(":")[2])

    @property
    def connections(self) -> set[Any]:
        return self.server._connections

    async def idle(self) -> None:
        """Wait until no call is left, nor a handler."""
        while self.server.tasks or any(each.engine.streams for each in self.connections):
            await asyncio.sleep(0.005)

    async def empty(self) -> None:
        """Wait until no connection is left."""
        while self.connections:
            await asyncio.sleep(0.005)


@asynccontextmanager
async def serving(address: str = "127.0.0.1:0", **options: Any) -> AsyncIterator[Serving]:
    """Our server. In the end nothing of it is left."""
    methods = Methods()
    face = Face(methods)
    options.setdefault("message", LIMIT)
    server = Server(face, address, **options)
    await server.start()
    try:
        yield Serving(server, methods, face)
    finally:
        methods.note("go").set()
        await server.stop(None)
        assert not server._connections
        assert not server.tasks
        assert not server._listener._connections


# -- grpc's server, with the same methods ------------------------------------------------------------------------


class _TheirCall:
    def __init__(self, context: Any) -> None:
        self._context = context
        self.write = context.write
        self.send_initial = context.send_initial_metadata
        self.set_trailing = context.set_trailing_metadata
        self.metadata = context.invocation_metadata
        self.time_remaining = context.time_remaining

    async def fail(self, error: Any, trailing: Any = ()) -> None:
        if error.binary_details is not None:
            trailing = (*trailing, ("grpc-status-details-bin", error.binary_details))
        self._context.set_trailing_metadata(trailing)
        codes = {code.value[0]: code for code in grpc.StatusCode}
        await self._context.abort(codes[int(error.grpc_status)], error.message)


def _their_handler(streams: bool, run: Callable[..., Awaitable[Any]]) -> Any:
    async def handle(request: Any, context: Any) -> Any:
        return await run(request, _TheirCall(context))

    if streams:
        return grpc.stream_stream_rpc_method_handler(handle)
    return grpc.unary_unary_rpc_method_handler(handle)


class _TheirFace(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, methods: Methods) -> None:
        self._handlers = {
            f"/t/{name}": _their_handler(streams, run) for name, (streams, run) in methods.handlers().items()
        }

    def service(self, handler_call_details: Any) -> Any:
        return self._handlers.get(handler_call_details.method)


@asynccontextmanager
async def theirs() -> AsyncIterator[tuple[str, Methods]]:
    """A server of grpc.aio: its address, and its methods."""
    methods = Methods()
    server = aio.server(
        handlers=[_TheirFace(methods)],
        options=[
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", LIMIT),
            ("grpc.max_send_message_length", LIMIT),
        ],
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", methods
    finally:
        methods.note("go").set()
        await server.stop(None)


@asynccontextmanager
async def channel(address: str, *options: tuple[str, Any], **more: Any) -> AsyncIterator[Any]:
    """A channel of grpc.aio's, which has its connection for itself."""
    own = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
    ]
    async with aio.insecure_channel(address, options=[*options, *own], **more) as made:
        yield made


async def outcome(call: Any) -> Any:
    """The answer of a call of grpc.aio's, or its status and text."""
    try:
        return await call
    except aio.AioRpcError as error:
        return error.code().name, error.details()


# -- a client of bare frames -------------------------------------------------------------------------------------

METHOD = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"t")]
GRPC = [(b"te", b"trailers"), (b"content-type", b"application/grpc")]


def head(name: str, *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """The head of a call."""
    return [*METHOD, (b":path", f"/t/{name}".encode()), *GRPC, *more]


@lru_cache
def _block(name: str, *more: tuple[bytes, bytes]) -> bytes:
    return encode_fields(head(name, *more))


def message(payload: bytes = b"", *, flag: int = 0) -> bytes:
    return bytes((flag,)) + len(payload).to_bytes(4, "big") + payload


class Answer:
    """What has come on one stream. `code` is that of RST_STREAM."""

    def __init__(self) -> None:
        self.fields: dict[bytes, bytes] = {}
        self.body = bytearray()
        self.ended = False
        self.code: int | None = None

    @property
    def status(self) -> int | None:
        found = self.fields.get(b"grpc-status")
        return None if found is None else int(found)


class Raw:
    """A connection of frames: what is sent is as it is given, and what comes is kept by stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.answers: dict[int, Answer] = {}
        self.others: list[Frame] = []
        self._decoder = Decoder(4096, 1 << 20)

    def send(self, *wire: bytes) -> None:
        self.writer.write(b"".join(wire))

    def call(
        self,
        stream: int,
        name: str,
        payload: bytes | None = b"",
        *more: tuple[bytes, bytes],
        end: bool = True,
    ) -> None:
        """Begin a call; with a message unless `payload` is None."""
        self.send(headers(stream, _block(name, *more), end=end and payload is None))
        if payload is not None:
            self.send(data(stream, message(payload), end=end))

    async def frame(self) -> Frame | None:
        """The next frame, or None at the end of the connection."""
        try:
            begin = await self.reader.readexactly(9)
            payload = await self.reader.readexactly(int.from_bytes(begin[:3], "big"))
        except (asyncio.IncompleteReadError, ConnectionError):
            self.writer.close()
            return None
        got = Frame(begin[3], begin[4], int.from_bytes(begin[5:], "big"), payload)
        answer = self.answers.setdefault(got.stream, Answer())
        if got.kind == HEADERS:
            answer.fields.update(self._decoder.decode(payload))
        elif got.kind == DATA:
            answer.body += payload
        elif got.kind == RST_STREAM:
            answer.code = int.from_bytes(payload, "big")
        else:
            self.others.append(got)
        if got.kind == RST_STREAM or (got.kind in (HEADERS, DATA) and got.flags & END_STREAM):
            answer.ended = True
        return got

    async def answer(self, stream: int) -> Answer:
        """Wait for the end of an answer."""
        while not (stream in self.answers and self.answers[stream].ended):
            assert await self.frame() is not None, "the connection has ended"
        return self.answers[stream]

    async def until(self, kind: int) -> Frame:
        """Wait for a frame of that kind."""
        while True:
            got = await self.frame()
            assert got is not None, "the connection has ended"
            if got.kind == kind:
                return got

    async def rest(self) -> list[Frame]:
        """All that comes until the connection ends."""
        frames = []
        while (got := await self.frame()) is not None:
            frames.append(got)
        return frames

    async def goodbye(self) -> tuple[int, int]:
        """The last stream and the code of the last GOAWAY before the end of the connection."""
        said = [each for each in await self.rest() if each.kind == GOAWAY]
        assert said, "the connection ends without GOAWAY"
        return int.from_bytes(said[-1].payload[:4], "big"), int.from_bytes(said[-1].payload[4:8], "big")


@asynccontextmanager
async def raw(address: str, *pairs: tuple[int, int], greet: bool = True, **how: Any) -> AsyncIterator[Raw]:
    """Connect, and say the preface with these settings. Only streams have windows that may close."""
    if address.startswith("unix:"):
        reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
    else:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), **how)
    made = Raw(reader, writer)
    if greet:
        made.send(PREFACE, settings(*pairs), window_update(0, 1 << 30))
    try:
        yield made
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)

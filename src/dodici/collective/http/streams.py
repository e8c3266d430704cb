"""The two bodies of a carried exchange at the origin: the request's, pulled, and the response's, collected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from ...core.controller import DispatchController
from ...core.handler import DispatchHandler
from ...core.headers import Headers
from ...wire.mesh.heads import encode_response, encode_trailers
from ..protos import http_pb2 as pb
from .framing import HANDLED_BY, PIECE, MalformedError, read_request

HIGH_WATER: Final = 64 * 1024
"""Bytes of a response that may wait for the message before."""


_LINGER: Final = 1.0
"""Seconds for which a body is read of which the origin wants no more."""


class Upload:
    """The body of a carried request, for the dispatcher of the origin: one message at a time, none in advance.

    Messages are read in a task of its own: whoever asks may be cancelled at any time, and what grpc gives has to be left
    in order. `on_begun` is called when more is asked for than came with the head.
    """

    def __init__(self, first: bytes, frames: AsyncIterator[Any], on_begun: Callable[[], None]) -> None:
        self._frames = frames
        self._on_begun = on_begun
        self._first = first
        self._ended = False
        self._closed = False
        self._lingering = False
        self._wanted: asyncio.Future[bytes | None] | None = None
        self._asked = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    def __aiter__(self) -> Upload:
        return self

    async def __anext__(self) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        if self._closed:
            raise MalformedError("the request was given up")
        if self._reader is None:
            self._reader = asyncio.create_task(self._read())
            self._on_begun()
        self._wanted = asyncio.get_running_loop().create_future()
        self._asked.set()
        piece = await self._wanted
        if piece is None:
            raise StopAsyncIteration
        return piece

    def close(self) -> None:
        """The origin wants no more of it."""
        self._closed = True
        self._tell(MalformedError("the request was given up"))

    async def end(self) -> None:
        """Read no more."""
        self.close()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    async def linger(self) -> None:
        """Read what is still sent, for nobody, until the caller has heard that the response has ended.

        Whoever is cut off while it writes may lose what it has not read yet, as with TCP (RFC 9112 section 9.6).
        """
        self._lingering = True
        self._asked.set()
        if self._reader is None:
            self._reader = asyncio.create_task(self._read())
        await asyncio.wait([self._reader], timeout=_LINGER)

    async def _read(self) -> None:
        while not (self._lingering and self._ended):
            await self._asked.wait()
            if not self._lingering:
                self._asked.clear()
            try:
                piece = await self._piece()
            except Exception as error:
                self._tell(error)
                if self._lingering:
                    return
            else:
                self._tell(piece)

    async def _piece(self) -> bytes | None:
        while not self._ended:
            frame = await anext(self._frames, None)
            if frame is None:
                raise MalformedError("the request ended in the middle of its body")
            request = read_request(frame)
            self._ended = request.end
            if request.data:
                return request.data
        return None

    def _tell(self, what: bytes | Exception | None) -> None:
        if self._wanted is None or self._wanted.done():
            return
        if isinstance(what, Exception):
            self._wanted.set_exception(what)
        else:
            self._wanted.set_result(what)


class Answers(DispatchHandler):
    """The handler of the dispatch to the origin: keeps what is told until the call's task has sent it on.

    `handled_by` is the id of this collector: a field of the response says who has served it.
    """

    def __init__(self, handled_by: str) -> None:
        self._own = ((HANDLED_BY, handled_by.encode()),)
        self.error: BaseException | None = None
        self._controller: DispatchController | None = None
        self._left = False
        self._next: pb.Response | None = None
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._paused = False
        self._ended = False
        self._end_told = False
        self._trailers = b""
        self._waiter: asyncio.Future[None] | None = None
        self._given: Any = None
        self._begun = False

    # -- what the dispatch tells ---------------------------------------------------------------------------

    def on_dispatch(self, controller: DispatchController) -> None:
        """It can be aborted from now on."""
        self._controller = controller

    def on_request_start(self, controller: DispatchController, context: dict[str, Any]) -> None:
        self._controller = controller
        if self._left:
            controller.abort()

    def on_response_start(
        self, controller: DispatchController, status_code: int, headers: Headers, status_message: str
    ) -> None:
        if self._next is None:
            self._next = pb.Response()
        if status_code < 200:
            self._next.informational.append(encode_response(status_code, headers.raw))
        else:
            self._next.head = encode_response(status_code, self._with_own(headers))
        self._wake()

    def on_request_upgrade(
        self, controller: DispatchController, status_code: int, headers: Headers, socket: Any
    ) -> None:
        head = encode_response(status_code, self._with_own(headers))
        self._controller = None
        if self._left:
            socket.abort()
            return
        self._given = socket
        self._ended = True
        if self._next is None:
            self._next = pb.Response()
        self._next.head = head
        self._next.upgraded = pb.Response.MESSAGES if hasattr(socket, "receive") else pb.Response.BYTES
        self._next.protocol = headers.get("upgrade", "")
        self._wake()

    def _with_own(self, headers: Headers) -> tuple[tuple[bytes, bytes], ...]:
        if HANDLED_BY.decode() in headers:  # of a collector behind the origin
            headers = headers.without(HANDLED_BY.decode())
        return headers.raw + self._own

    def on_response_data(self, controller: DispatchController, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._buffered += len(chunk)
        if self._buffered >= HIGH_WATER and not self._paused:
            self._paused = True
            controller.pause()
        self._wake()

    def on_response_end(self, controller: DispatchController, trailers: Headers) -> None:
        self._trailers = encode_trailers(trailers.raw) if trailers else b""
        self._ended = True
        self._controller = None
        self._wake()

    def on_response_error(self, controller: DispatchController, error: BaseException) -> None:
        self.error = error
        self._ended = True
        self._controller = None
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- what the task does --------------------------------------------------------------------------------

    async def settle(self, patience: float) -> None:
        """Wait until the exchange has ended, or it shows that it takes more time, or more room."""
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle | None = None
        try:
            while not self._ended and not self._paused:
                if self._next is not None:
                    if self._next.informational:
                        return
                    if timer is None:
                        timer = loop.call_later(patience, self._wake)
                    elif timer.when() <= loop.time():
                        return
                self._waiter = loop.create_future()
                await self._waiter
        finally:
            if timer is not None:
                timer.cancel()

    async def next(self) -> pb.Response | None:
        """The next message of the response; None after the last one, and after what came before an error."""
        while self._next is None and not self._chunks:
            if self._begun:
                self._begun = False
                return pb.Response()
            if self.error is not None or (self._ended and self._end_told):
                return None
            if self._ended:
                break
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        response = self._next or pb.Response()
        self._next = None
        response.data = self._take()
        if self._ended and self.error is None and not self._chunks:
            self._end_told = True
            response.end = self._given is None
            response.trailers = self._trailers
        return response

    def begun(self) -> None:
        """The origin reads the body: that is told with an empty message, if nothing else is to be told."""
        self._begun = True
        self._wake()

    def take(self) -> Any:
        """What the origin has handed over instead of a response, with which it is the caller's; None if it has not."""
        given, self._given = self._given, None
        return given

    def _take(self) -> bytes:
        chunks = self._chunks
        if not chunks:
            return b""
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        if len(data) > PIECE:
            chunks.append(data[PIECE:])
            data = data[:PIECE]
        self._buffered -= len(data)
        if self._paused and self._buffered < HIGH_WATER:
            self._paused = False
            if self._controller is not None:
                self._controller.resume()
        return data

    def leave(self) -> None:
        """Nobody waits for the rest."""
        self._left = True
        if self._controller is not None:
            self._controller.abort()
        if (given := self.take()) is not None:
            given.abort()

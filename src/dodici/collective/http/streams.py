"""The two bodies of a carried exchange at the origin: the request's, pulled, and the response's, collected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from ...core.controller import DispatchController
from ...core.handler import DispatchHandler
from ...core.headers import Headers
from ...wire.mesh.heads import encode_response, encode_trailers
from ..protos import http_pb2 as pb
from .framing import HANDLED_BY, PIECE, MalformedError, read_request

HIGH_WATER: Final = 64 * 1024
"""Bytes of a response that may wait for the message before."""


class Upload:
    """The body of a carried request, for the dispatcher of the origin: one message at a time, none in advance.

    Messages are read in a task of its own: whoever asks may be cancelled at any time, and what grpc gives has to be left
    in order.
    """

    def __init__(self, first: bytes, frames: AsyncIterator[Any]) -> None:
        self._frames = frames
        self._first = first
        self._ended = False
        self._closed = False
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
        self._wanted = asyncio.get_running_loop().create_future()
        self._asked.set()
        piece = await self._wanted
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def close(self) -> None:
        """Read no more."""
        self._closed = True
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        self._tell(MalformedError("the request was given up"))

    async def _read(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            try:
                piece = await self._piece()
            except Exception as error:
                self._tell(error)
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
            if HANDLED_BY.decode() in headers:  # of a collector behind the origin
                headers = headers.without(HANDLED_BY.decode())
            self._next.head = encode_response(status_code, headers.raw + self._own)
        self._wake()

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
            response.end = self._end_told = True
            response.trailers = self._trailers
        return response

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

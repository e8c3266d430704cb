"""One request on its way through the gateway: both bodies, and who waits for whom.

`Upload` is the body of the request, pulled by the mesh out of the ASGI server. `Delivery` is the handler of the
dispatch: it keeps what arrives until the request's task has sent it on. It pauses the exchange when `HIGH_WATER`
bytes wait, so that a slow client slows the app down and nothing else; the ASGI server's `send()` suspends while its
transport is full.

All of it runs on the gateway's loop. The task waits at one future at a time, which is resolved with None whatever
happened; what happened is in the fields.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, Future
from collections.abc import Awaitable, Callable
from typing import Any, Final

from ..core.controller import DispatchController
from ..core.headers import EMPTY, Headers
from .failures import ClientGoneError, RequestTooLargeError

ON_GONE: Final = "dodici.on_gone"
"""Of an ASGI scope: what the server calls, with nothing, when the client has gone. It knows so even while nobody
receives, because an app does not read the rest of a request."""
HIGH_WATER: Final = 64 * 1024
"""Bytes of a response that may wait for the client."""

Receive = Callable[[], Awaitable[Any]]


class Upload:
    """The body of a request, as an async iterator.

    Args:
        receive: the ASGI server's.
        limit: bytes that are allowed; 0 for no limit.
    """

    __slots__ = ("_limit", "_receive", "ended", "size")

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self.ended = False
        """All of it was received."""
        self.size = 0

    def __aiter__(self) -> Upload:
        return self

    async def __anext__(self) -> bytes:
        while not self.ended:
            message = await self._receive()
            if message["type"] != "http.request":
                self.ended = True
                raise ClientGoneError("the client closed its connection in the middle of its request")
            self.ended = not message.get("more_body", False)
            piece: bytes = message.get("body", b"")
            self.size += len(piece)
            if self._limit and self.size > self._limit:
                raise RequestTooLargeError(f"the body has more than {self._limit} bytes")
            if piece:
                return piece
        raise StopAsyncIteration

    async def whole(self) -> bytes:
        """All of it, for a body that is known to be small."""
        pieces = [piece async for piece in self]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Delivery:
    """The handler of a request's dispatch."""

    __slots__ = (
        "_buffered",
        "_loop",
        "_paused",
        "_waiter",
        "chunks",
        "controller",
        "ended",
        "error",
        "headers",
        "hints",
        "seen",
        "status_code",
        "trailers",
        "upload",
        "watcher",
    )

    def __init__(self, loop: AbstractEventLoop, upload: Upload | None) -> None:
        self._loop = loop
        self._waiter: Future[None] | None = None
        self._buffered = 0
        self._paused = False
        self.upload = upload
        self.controller: DispatchController | None = None
        self.status_code = 0
        self.headers = EMPTY
        self.trailers = EMPTY
        self.chunks: list[bytes] = []
        self.hints: list[Headers] | None = None
        """The fields of 103 responses, where somebody wants them (RFC 8297)."""
        self.ended = False
        self.error: BaseException | None = None
        self.seen = False
        """It was there at an earlier look of the gateway: it takes its time."""
        self.watcher: Any = None
        """The task that waits for the client to go away."""

    # --------------------------------------------------------------------------- what the dispatch tells

    def on_dispatch(self, controller: DispatchController) -> None:
        """It can be aborted from now on."""
        self.controller = controller

    def on_request_start(self, controller: DispatchController, context: dict[str, Any]) -> None:
        self.controller = controller

    def on_response_start(
        self, controller: DispatchController, status_code: int, headers: Headers, status_message: str
    ) -> None:
        if status_code >= 200:
            self.status_code = status_code
            self.headers = headers
        elif status_code == 103 and self.hints is not None:
            self.hints.append(headers)
        else:
            return
        self._wake()

    def on_response_data(self, controller: DispatchController, chunk: bytes) -> None:
        self.chunks.append(chunk)
        self._buffered += len(chunk)
        if self._buffered >= HIGH_WATER and not self._paused:
            self._paused = True
            controller.pause()
        self._wake()

    def on_response_end(self, controller: DispatchController, trailers: Headers) -> None:
        self.trailers = trailers
        self.ended = True
        self.controller = None
        self._wake()

    def on_response_error(self, controller: DispatchController, error: BaseException) -> None:
        self.error = error
        self.ended = True
        self.controller = None
        self._wake()

    # --------------------------------------------------------------------------------- what the task does

    async def wait(self) -> None:
        """Return after the next thing that the dispatch tells."""
        self._waiter = self._loop.create_future()
        await self._waiter

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def take(self) -> bytes:
        """What waits of the body. What is sent next may come."""
        chunks = self.chunks
        self.chunks = []
        self._buffered = 0
        if self._paused:
            self._paused = False
            if self.controller is not None:
                self.controller.resume()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def leave(self) -> None:
        """The client has gone."""
        self.abort(ClientGoneError("the client closed its connection"))

    def abort(self, reason: BaseException) -> None:
        """Nobody wants the rest."""
        if self.controller is not None:
            self.controller.abort(reason)

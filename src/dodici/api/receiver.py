"""The handler behind `request()`: it takes what a dispatch tells and keeps it until somebody asks.

Three objects share the work. The `Receiver` is known to the dispatcher. The `Response` is known to the
caller and to nobody else, so that the interpreter can tell when it was dropped; it holds the receiver, and
not the other way round. The awaiting task meets the receiver at one future at a time, `waiter`, which is
resolved with None whatever happened: what happened is in the receiver's fields. An error therefore never
sits in a future that nobody looks at.

Flow control: `pause()` as soon as `HIGH_WATER` bytes wait and nobody is about to take them, `resume()`
below that. A reader of the whole body takes everything as it comes.

The controller is let go of at the terminal callback, else controller and receiver would keep each other
alive until the cyclic collector runs.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, Future
from collections.abc import Callable
from typing import Any, Final

from ..core.controller import DispatchController
from ..core.errors import BodyUnusableError, RequestAbortedError
from ..core.headers import EMPTY, Headers
from ..core.options import DispatchOptions

HIGH_WATER: Final = 64 * 1024
"""Bytes of a body that may wait to be read."""

InfoCallback = Callable[[int, Headers], Any]


class Receiver:
    """Takes one exchange. All methods run on the event loop's thread."""

    __slots__ = (
        "abandoned",
        "buffered",
        "bytes_read",
        "chunks",
        "context",
        "controller",
        "ended",
        "error",
        "headers",
        "loop",
        "on_info",
        "paused",
        "status_code",
        "status_message",
        "target",
        "trailers",
        "used",
        "waiter",
        "whole",
    )

    def __init__(
        self, loop: AbstractEventLoop | None, options: DispatchOptions, on_info: InfoCallback | None
    ) -> None:
        self.loop: AbstractEventLoop = loop  # type: ignore[assignment]  # None until whoever made this knows better
        # Not the options themselves: a response must not keep its request's body alive.
        self.target = (options.origin, options.path)
        self.on_info = on_info
        self.waiter: Future[None] | None = None if loop is None else loop.create_future()
        self.controller: DispatchController | None = None
        self.context: dict[str, Any] | None = None
        self.error: BaseException | None = None
        self.status_code = 0
        self.trailers = EMPTY
        self.chunks: list[bytes] = []
        self.buffered = 0
        self.bytes_read = 0
        self.ended = False
        self.paused = False
        self.used = False
        self.whole = False
        self.abandoned = False

    # --------------------------------------------------------------------------- what the dispatch tells

    def on_dispatch(self, controller: DispatchController) -> None:
        """The dispatcher has accepted the exchange: from now on it can be aborted, even while it waits."""
        self.controller = controller

    def on_request_start(self, controller: DispatchController, context: dict[str, Any]) -> None:
        self.controller = controller
        self.context = context
        if self.abandoned:
            controller.abort()
        elif self.paused:
            controller.pause()

    def on_response_start(
        self, controller: DispatchController, status_code: int, headers: Headers, status_message: str
    ) -> None:
        if status_code < 200:
            if self.on_info is not None:
                self.on_info(status_code, headers)
            return
        self.controller = controller
        self.status_code = status_code
        self.headers = headers
        self.status_message = status_message
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def on_response_data(self, controller: DispatchController, chunk: bytes) -> None:
        size = len(chunk)
        self.bytes_read += size
        if self.abandoned:
            return
        self.chunks.append(chunk)
        self.buffered += size
        if self.whole:
            return
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)
        elif self.buffered >= HIGH_WATER and not self.paused:
            self.paused = True
            controller.pause()

    def on_response_end(self, controller: DispatchController, trailers: Headers) -> None:
        self.trailers = trailers
        self.ended = True
        self.controller = None
        if self.waiter is not None:
            self.wake()

    def on_response_error(self, controller: DispatchController, error: BaseException) -> None:
        self.ended = True
        self.controller = None
        if not self.abandoned:
            self.error = error
        if self.waiter is not None:
            self.wake()

    # --------------------------------------------------------------------------------- what a caller does

    def wake(self) -> None:
        """Tell the awaiting task to look again."""
        waiter = self.waiter
        self.waiter = None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def abandon(self, reason: BaseException | str | None = None) -> None:
        """Nobody wants the rest: abort the exchange now, or as soon as there is something to abort."""
        self.abandoned = True
        self.chunks = []
        self.buffered = 0
        if self.controller is not None:
            self.controller.abort(reason)

    def take_error(self) -> BaseException:
        """The error, to be raised once: kept here it would hold its own traceback, and that this object."""
        error = self.error
        self.error = None
        return RequestAbortedError("Request aborted") if error is None else error

    async def wait(self) -> None:
        """Return after the next thing that the dispatch tells.

        Raises:
            BodyUnusableError: somebody waits already.
        """
        if self.waiter is not None:
            raise BodyUnusableError("the body is being read by another task")
        self.waiter = self.loop.create_future()
        try:
            await self.waiter
        except BaseException:
            # Cancelled at this point: the caller has given up, and so does the exchange.
            self.waiter = None
            self.abandon()
            raise

    def claim(self) -> None:
        """Begin the only consumption of the body."""
        if self.used:
            raise BodyUnusableError(
                "the body was already consumed, or is being consumed: it can be read once"
            )
        self.used = True

    async def read_all(self, limit: int | None = None) -> bytes:
        """The whole body, or more than `limit` bytes of it, after which the rest waits."""
        if limit is None:
            self.whole = True
            self.resume()
            while not self.ended and not self.abandoned:
                await self.wait()
        else:
            self.whole = False
            while not self.ended and not self.abandoned and self.buffered <= limit:
                self.resume()
                await self.wait()
        if self.error is not None:
            self.chunks = []
            raise self.take_error()
        if self.abandoned:
            raise BodyUnusableError("the body was given up before its end")
        chunks = self.chunks
        if len(chunks) == 1:
            self.chunks = []
            return chunks[0]
        self.chunks = []
        self.buffered = 0
        return b"".join(chunks)

    def take(self, size: int) -> None:
        """Note that `size` bytes have left the buffer."""
        self.buffered -= size
        if self.paused and self.buffered < HIGH_WATER:
            self.resume()

    def resume(self) -> None:
        """Let data come again."""
        if self.paused:
            self.paused = False
            if self.controller is not None:
                self.controller.resume()

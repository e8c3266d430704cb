"""One exchange at the caller's end: between its handler, and the call that serves it.

    dispatch()     makes the passage; its task begins in a later turn of the loop
    on its way     `travel()` runs the call, and tells the handler through `tell_*`, which wait while it pauses
    over           after the one terminal callback, the call is ended and awaited: `close()` and `destroy()` know of it

A passage is the carrier of its exchange, and the transport of its body. It holds one message of the response at most:
while the handler pauses nothing is read, and the windows on the way fill. A body that is not at hand is pulled by a
`BodyWriter`, a piece when the one before has been taken.

The headers timeout runs while nothing but the other end is waited for: once the request is sent, and while it does not
take the body. The body timeout runs between pieces, not while the handler pauses.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Final

from ...core import diagnostics
from ...core.controller import Exchange
from ...core.errors import InvalidArgumentError, annotate
from ...core.headers import Headers
from ...core.options import BYTES
from ...net.body import BodyWriter, DataFramer
from ...wire.body import body_length
from .framing import PIECE

if TYPE_CHECKING:
    from ...core.timers import Timer, Timers
    from .interceptor import CollectiveBranch

_WAITING: Final = 4 * PIECE
"""Bytes of a body that may wait to be taken."""
_ENDING: Final = 5.0
"""Seconds that a call may go on after the response is complete."""


class CarriedExchange(Exchange):
    """A request into the collective."""

    __slots__ = ("branch",)
    carrier: Passage | None

    def __init__(self, handler: Any, options: Any, branch: CollectiveBranch) -> None:
        super().__init__(handler, options, branch.loop, branch.thread)
        self.branch = branch

    def end(self) -> None:
        super().end()
        self.branch.ended(self)


class Upload:
    """The pieces of a body on their way out: an async iterator, which is read as far as there is room."""

    def __init__(self) -> None:
        self.waiting = 0
        self._pieces: deque[bytes] = deque()
        self._closed = False
        self._news: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None

    def put(self, piece: bytes) -> None:
        """Send a piece."""
        self._pieces.append(piece)
        self.waiting += len(piece)
        _wake(self._news)

    def close(self) -> None:
        """Nothing follows."""
        self._closed = True
        _wake(self._news)

    @property
    def full(self) -> bool:
        return self.waiting >= _WAITING

    async def room(self) -> None:
        """Wait until something was taken."""
        self._room = asyncio.get_running_loop().create_future()
        await self._room

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._pieces:
            if self._closed:
                raise StopAsyncIteration
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        piece = self._pieces.popleft()
        self.waiting -= len(piece)
        _wake(self._room)
        return piece


class Passage(ABC):
    """See the module's text. One of these is made for each exchange."""

    def __init__(self, exchange: CarriedExchange, timers: Timers) -> None:
        self.exchange = exchange
        self.options = exchange.options
        self.upload = Upload()
        self._writer: BodyWriter | None = None
        self._patience = exchange.branch.patience
        self._timer: Timer = timers.timer(self._timed_out)
        self._going_on: asyncio.Future[None] | None = None
        self._telling = False
        self._sent = False
        self._ending: asyncio.TimerHandle | None = None
        exchange.carrier = self
        # Not by the loop's factory, which may begin tasks at once: nothing is told inside of `dispatch()`.
        self.task: asyncio.Task[None] = asyncio.Task(self._run(), loop=asyncio.get_running_loop())

    @abstractmethod
    async def travel(self) -> None:
        """Run the call and tell of the response. What it raises is the exchange's error."""

    # -- the request ---------------------------------------------------------------------------------------

    def begin(self) -> bool:
        """Tell that the request is about to be sent. False if the exchange has ended."""
        exchange = self.exchange
        exchange.attempt += 1
        if exchange.context is None:
            exchange.context = {}
        return self._tell(exchange.handler.on_request_start, exchange.context)

    def send_body(self) -> None:
        """Begin to send. A small body that is at hand is sent with the head."""
        options = self.options
        if options.body_kind < BYTES or (
            options.payload is not None and len(options.payload) <= PIECE and not options.expect_continue
        ):
            parts: list[bytes | memoryview] = [] if options.payload is None else [options.payload]
            self.write(body_length(options), parts, head=True, end=True)
            self.exchange.source_taken = True
            self._all_sent()
        else:
            self._writer = BodyWriter(self, self.exchange, asyncio.get_running_loop())

    @abstractmethod
    def write(self, length: int, parts: list[bytes | memoryview], *, head: bool, end: bool) -> None:
        """Put messages into `upload`."""

    def framer(self, length: int) -> DataFramer:
        """As `BodyTransport`."""
        return DataFramer(length, strict=True)

    def write_head(self, exchange: Exchange, length: int, parts: list[bytes | memoryview]) -> None:
        """As `BodyTransport`."""
        self.write(length, parts, head=True, end=False)

    def write_parts(self, exchange: Exchange, parts: list[bytes | memoryview]) -> None:
        """As `BodyTransport`."""
        self.write(-1, parts, head=False, end=False)

    async def writable(self) -> None:
        """As `BodyTransport`."""
        while self.upload.full:
            if self.exchange.status_code < 200:
                self._arm(self._headers_seconds())
            await self.upload.room()
            if self.exchange.status_code < 200:
                self._timer.disarm()

    def body_sent(self, exchange: Exchange) -> None:
        """As `BodyTransport`."""
        self._writer = None
        if exchange.done:
            return
        self.write(-1, [], head=False, end=True)
        self._all_sent()

    def body_failed(self, exchange: Exchange, error: BaseException) -> None:
        """As `BodyTransport`."""
        self._writer = None
        annotate(error, phase="request")
        self.give_up(error)

    def _all_sent(self) -> None:
        self._sent = True
        if diagnostics.REQUEST_BODY_SENT.subscribers:
            diagnostics.REQUEST_BODY_SENT.publish({"request": self.exchange})
        if self.exchange.status_code < 200:
            self._arm(self._headers_seconds())

    def go_on(self) -> None:
        """The other end asks for the body."""
        if self._writer is not None:
            self._writer.go_on()

    # -- the response --------------------------------------------------------------------------------------

    def tell_head(self, status_code: int, headers: Headers) -> bool:
        """Tell of a head. False if the exchange has ended."""
        exchange = self.exchange
        if status_code >= 200:
            exchange.status_code = status_code
            if self._writer is not None and self._writer.holding:
                # A final answer instead of 100: the body is never sent.
                self._stop_writing()
            self._arm(self._body_seconds())
        elif self._sent:
            self._arm(self._headers_seconds())
        if diagnostics.REQUEST_HEADERS.subscribers:
            response = {"status_code": status_code, "headers": headers, "status_text": ""}
            diagnostics.REQUEST_HEADERS.publish({"request": exchange, "response": response})
        return self._tell(exchange.handler.on_response_start, status_code, headers, "")

    async def tell_data(self, data: bytes) -> bool:
        """Tell of a piece of the body, when the handler wants it. False if the exchange has ended."""
        exchange = self.exchange
        if not data:
            return not exchange.done
        await self.ready()
        if exchange.done:
            return False
        exchange.bytes_read += len(data)
        if diagnostics.REQUEST_BODY_CHUNK_RECEIVED.subscribers:
            diagnostics.REQUEST_BODY_CHUNK_RECEIVED.publish({"request": exchange, "chunk": data})
        if not self._tell(exchange.handler.on_response_data, data):
            return False
        if not exchange.paused:
            self._arm(self._body_seconds())
        return True

    async def tell_end(self, trailers: Headers) -> None:
        """Tell of the end, when the handler wants it."""
        exchange = self.exchange
        self._timer.disarm()
        await self.ready()
        if exchange.done:
            return
        self._stop_writing()
        self._timer.close()
        exchange.end()
        if diagnostics.REQUEST_TRAILERS.subscribers:
            diagnostics.REQUEST_TRAILERS.publish({"request": exchange, "trailers": trailers})
        # What is left of the call are its last words; they are not waited for in vain.
        self._ending = asyncio.get_running_loop().call_later(_ENDING, self.task.cancel)
        try:
            exchange.handler.on_response_end(exchange, trailers)
        except Exception as error:
            # The response is complete; the handler learns of its mistake.
            exchange.done = False
            exchange.fail(error)

    async def ready(self) -> None:
        """Wait while the handler pauses."""
        while self.exchange.paused and not self.exchange.done:
            self._going_on = asyncio.get_running_loop().create_future()
            await self._going_on

    def _tell(self, callback: Callable[..., None], *arguments: Any) -> bool:
        if self.exchange.done:
            return False  # by a subscriber of the diagnostics
        self._telling = True
        try:
            callback(self.exchange, *arguments)
        except BaseException as error:
            self.give_up(error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._telling = False
        return not self.exchange.done

    # -- the exchange's side -------------------------------------------------------------------------------

    def abort_exchange(self, exchange: Exchange, error: BaseException) -> None:
        """As `Carrier`."""
        self.give_up(error)

    def pause_exchange(self, exchange: Exchange) -> None:
        """As `Carrier`."""
        if exchange.status_code >= 200:
            self._timer.disarm()

    def resume_exchange(self, exchange: Exchange) -> None:
        """As `Carrier`."""
        if exchange.status_code >= 200:
            self._arm(self._body_seconds())
        _wake(self._going_on)

    def give_up(self, error: BaseException) -> None:
        """End the call, and fail the exchange."""
        exchange = self.exchange
        if exchange.done:
            return
        self._let_go()
        if not self._telling:
            self.task.cancel()
        annotate(error, phase=self.phase)
        exchange.fail(error)

    @property
    def phase(self) -> str:
        """Where the exchange is."""
        if self.exchange.status_code >= 200:
            return "body"
        return "headers" if self._sent else "request"

    def _let_go(self) -> None:
        self._stop_writing()
        self._timer.close()

    def _stop_writing(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.cancel()
        self.upload.close()

    # -- the task ------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        exchange = self.exchange
        try:
            if not exchange.done:
                await self.travel()
        except asyncio.CancelledError:
            if not exchange.done:
                # By somebody who cancels all tasks: the loop's end.
                self._let_go()
                exchange.fail(InvalidArgumentError("the exchange's task was cancelled"))
        except Exception as error:
            if not exchange.done:
                self._let_go()
                annotate(error, phase=self.phase)
                exchange.fail(error)
        finally:
            self._let_go()
            if self._ending is not None:
                self._ending.cancel()

    # -- timeouts ------------------------------------------------------------------------------------------

    def _headers_seconds(self) -> float:
        return self._patience.headers_seconds(self.options)

    def _body_seconds(self) -> float:
        return self._patience.body_seconds(self.options)

    def _arm(self, seconds: float) -> None:
        if not self.exchange.done:
            self._timer.arm(seconds)

    def _timed_out(self) -> None:
        self.give_up(self._patience.timeout_error(self.exchange))


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)

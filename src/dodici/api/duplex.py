"""`pipeline()`: write the request body and read the response body at the same time.

The request body is pulled by the transport, and `write()` pushes. Between them stands `Feed`, which holds
one piece: `write()` returns when the piece before has been taken, so a server that does not read stops the
writer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Generator
from typing import TYPE_CHECKING, Any, Unpack

from ..core.errors import BodyUnusableError, InvalidArgumentError, RequestAbortedError
from .exchange import give_way, global_dispatcher
from .prepare import PrepareOptions, prepare
from .receiver import InfoCallback, Receiver
from .response import Response, refuse_error_status

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..core.dispatcher import Dispatcher
    from ..core.options import DispatchOptions


class Feed:
    """A request body that is written piece by piece: an async iterator for the transport."""

    __slots__ = ("_changed", "_ended", "_piece", "closed")

    def __init__(self) -> None:
        self._piece: bytes | None = None
        self._ended = False
        self.closed = False
        """The transport has had all it wants."""
        self._changed: list[asyncio.Future[None]] = []

    def __aiter__(self) -> Feed:
        return self

    async def __anext__(self) -> bytes:
        while self._piece is None:
            if self._ended or self.closed:
                raise StopAsyncIteration
            await self._change()
        piece = self._piece
        self._piece = None
        self._notify()
        return piece

    async def aclose(self) -> None:
        """The transport wants no more."""
        self.close()

    def close(self) -> None:
        """Drop what waits and let every waiter look again."""
        self.closed = True
        self._piece = None
        self._notify()

    async def put(self, piece: bytes) -> bool:
        """Offer a piece when the one before was taken. False if the transport wants no more."""
        while self._piece is not None and not self.closed:
            await self._change()
        if self.closed:
            return False
        self._piece = piece
        self._notify()
        return True

    def end(self) -> None:
        """There will be no more pieces."""
        self._ended = True
        self._notify()

    @property
    def ended(self) -> bool:
        """Whether `end()` was called."""
        return self._ended

    async def _change(self) -> None:
        changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changed.append(changed)
        await changed

    def _notify(self) -> None:
        waiting = self._changed
        if waiting:
            self._changed = []
            for changed in waiting:
                if not changed.done():
                    changed.set_result(None)


class _DuplexReceiver(Receiver):
    """A receiver that ends the feed with the exchange."""

    __slots__ = ("failure", "feed")

    feed: Feed
    failure: BaseException | None

    def on_response_end(self, controller: Any, trailers: Any) -> None:
        super().on_response_end(controller, trailers)
        self.feed.close()

    def on_response_error(self, controller: Any, error: BaseException) -> None:
        self.failure = error
        super().on_response_error(controller, error)
        self.feed.close()


class _Head(Awaitable[Response]):
    """Awaitable any number of times, and not missed if it never is."""

    __slots__ = ("_wait",)

    def __init__(self, wait: Callable[[], Generator[Any, None, Response]]) -> None:
        self._wait = wait

    def __await__(self) -> Generator[Any, None, Response]:
        return self._wait()


class Duplex:
    """Both directions of one exchange; what `pipeline()` yields.

    ``await duplex.response`` gives the response when its head has arrived; ``async for chunk in duplex``
    reads its body.
    """

    __slots__ = ("_feed", "_head", "_raise_for_status", "_receiver", "_response")

    def __init__(self, receiver: _DuplexReceiver, raise_for_status: bool) -> None:
        self._receiver = receiver
        self._feed = receiver.feed
        assert receiver.waiter is not None
        self._head: asyncio.Future[None] = receiver.waiter
        self._response: Response | None = None
        self._raise_for_status = raise_for_status

    async def write(self, data: bytes | bytearray | memoryview | str) -> None:
        """Send a piece of the request body; returns when the transport has taken the piece before.

        Cancelling it ends the exchange.

        Raises:
            InvalidArgumentError: not bytes or `str`, or `end()` was called.
            BodyUnusableError: the response ended without the server taking more.
            DodiciError: what the exchange failed with.
        """
        if isinstance(data, str):
            data = data.encode("utf-8")
        elif not isinstance(data, bytes | bytearray | memoryview):
            raise InvalidArgumentError(f"write() wants bytes or str, not {type(data).__name__}")
        if self._feed.ended:
            raise InvalidArgumentError("write() after end()")
        if not data:
            return
        try:
            taken = await self._feed.put(bytes(data))
        except BaseException:
            self._receiver.abandon()
            raise
        if not taken:
            if self._receiver.failure is not None:
                raise self._receiver.failure
            raise BodyUnusableError("the response has ended: nothing more can be written")

    async def end(self) -> None:
        """The request body is complete. May be called again."""
        self._feed.end()

    @property
    def response(self) -> Awaitable[Response]:
        """Await it for the response; with an error status and `raise_for_status` it raises."""
        return _Head(lambda: self._wait_for_head().__await__())

    async def _wait_for_head(self) -> Response:
        receiver = self._receiver
        if not self._head.done():
            try:
                # Several tasks may wait for the head, and one that is cancelled must not cancel the others'.
                await asyncio.shield(self._head)
            except BaseException:
                receiver.abandon()
                raise
        if receiver.status_code == 0:
            if receiver.failure is not None:
                await give_way()
                raise receiver.failure
            raise RequestAbortedError("the exchange was given up")
        if self._response is None:
            self._response = Response(receiver)
            if self._raise_for_status:
                await refuse_error_status(self._response)
        return self._response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        response = await self._wait_for_head()
        async for chunk in response.body:
            yield chunk

    def abandon(self) -> None:
        """End the exchange if it has not ended."""
        if not self._receiver.ended:
            self._receiver.abandon()
        self._feed.close()


class PipelineContext:
    """``async with`` around a `Duplex`. Leaving the block before the response has ended aborts the exchange."""

    __slots__ = ("_dispatcher", "_duplex", "_feed", "_on_info", "_options", "_raise_for_status")

    def __init__(
        self,
        dispatcher: Dispatcher,
        options: DispatchOptions,
        feed: Feed,
        *,
        raise_for_status: bool,
        on_info: InfoCallback | None,
    ) -> None:
        self._dispatcher = dispatcher
        self._options = options
        self._feed = feed
        self._raise_for_status = raise_for_status
        self._on_info = on_info
        self._duplex: Duplex | None = None

    async def __aenter__(self) -> Duplex:
        if self._duplex is not None:
            raise BodyUnusableError("a pipeline can be entered once")
        receiver = _DuplexReceiver(asyncio.get_running_loop(), self._options, self._on_info)
        receiver.feed = self._feed
        receiver.failure = None
        self._duplex = Duplex(receiver, self._raise_for_status)
        self._dispatcher.dispatch(self._options, receiver)
        return self._duplex

    async def __aexit__(self, *_: object) -> None:
        if self._duplex is not None:
            self._duplex.abandon()


def pipeline(
    url: str,
    *,
    method: str = "POST",
    raise_for_status: bool = False,
    on_info: InfoCallback | None = None,
    dispatcher: Dispatcher | None = None,
    **options: Unpack[PrepareOptions],
) -> PipelineContext:
    """Write a request body and read the response at the same time.

    ``async with pipeline(url) as duplex``: then ``await duplex.write(data)``, ``await duplex.end()``,
    ``await duplex.response`` and ``async for chunk in duplex``, in one task or in two.

    Args:
        url: as for `request`.
        method: any token but CONNECT.
        raise_for_status: makes ``duplex.response`` raise `ResponseError`.
        on_info: as for `request`.
        dispatcher: instead of the global one.
        **options: the other arguments of `request`, without those that make a body.

    Raises:
        InvalidArgumentError: an argument is malformed, or would make a body.
    """
    for name in ("body", "data", "json", "form", "files"):
        if name in options:
            raise InvalidArgumentError(f"{name}= has no place in pipeline(): the body is what you write()")
    if dispatcher is None:
        dispatcher = global_dispatcher()
    feed = Feed()
    options["body"] = feed
    prepared = prepare(dispatcher.origin, url, method, **options)
    return PipelineContext(dispatcher, prepared, feed, raise_for_status=raise_for_status, on_info=on_info)

"""One call at a server: its handler runs in a task, and reads and answers through the call.

    headers -> the face names a handler -> its task, at once for streams, with the message for unary calls
    DATA    -> messages; what nobody has read yet holds back the client's window
    write   -> DATA, and waits while the client does not read
    the end -> one status, however it comes about: `_end` is the only place that ends a call

A call ends once: by its handler, by its deadline, by the client (RST_STREAM, or its connection is lost), or by the
server that stops. Except for the first, the task is cancelled. Input ends only when the client has said so: one that
is cut off cancels the task, and whoever reads in another is told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

from ...core.errors import GrpcError, InvalidArgumentError
from ...core.grpc_status import GrpcStatus
from ...core.headers import Headers
from ...wire.grpc.framing import MessageDecoder
from ...wire.h2.server import ServerStream
from ..contracts import Identity, Pairs
from ..details import STATUS_DETAILS, binary
from ..errors import CollectiveError, call_error
from .handler import Handler, ending
from .head import HEAD, SUCCESS, RequestHead, end_block, head_block, plain_block

if TYPE_CHECKING:
    from .connection import Connection

_HELD: Final = 64 * 1024
"""Bytes of whole messages that may wait for a reader before the client is held back."""
_QUEUED: Final = 64 * 1024
"""Bytes of answers that may wait for a client before the handler is held back."""
_REST: Final = 0.25
"""Seconds for which the input of a call is read that ends before it."""
_QUIET: Final = 0.02
"""Seconds after which a client that has sent nothing is not about to."""
_CUT_OFF: Final = 0.001
"""Seconds in which it shows that input has not ended, but was cut off."""
_LOOKS: Final = 10
"""How often that is waited for at most."""
_LARGEST: Final = 2**32 - 1
_ONE_MESSAGE: Final = "the method takes one message, no more and no less"
_METADATA_TOO_LARGE: Final = "the metadata of the answer is larger than the client takes"
_SHORT: Final = 100
"""Characters that are left of a text that is too long for the client."""
_log = logging.getLogger("dodici.collective")


class CallEnded(Exception):
    """What `ServerCall.fail` raises: the call has its status, and its handler nothing more to do."""


class ServerCall(ServerStream):
    """A call that has arrived."""

    __slots__ = (
        "_believed",
        "_connection",
        "_decoder",
        "_ended",
        "_fed",
        "_handler",
        "_head",
        "_held",
        "_input_dropped",
        "_input_over",
        "_reader",
        "_room",
        "_started",
        "_task",
        "_trailing",
        "deadline",
    )

    def __init__(self, connection: Connection, head: RequestHead) -> None:
        super().__init__()
        self._connection = connection
        self._head = head
        self._handler: Handler | None = None
        self._task: asyncio.Task[None] | None = None
        self._decoder = MessageDecoder(connection.message, head.encoding)
        self._trailing: Pairs = ()
        self._started = False
        self._ended = False
        self._input_over = self._believed = False
        self._input_dropped = False
        self._held = 0
        self._fed = 0.0
        """When there was input, by the loop's clock."""
        self._reader: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self.deadline: float | None = None
        """By the loop's clock."""

    # -- for handlers ----------------------------------------------------------------------------------

    @property
    def peer(self) -> str:
        """Address of the other end, such as ``"ipv4:127.0.0.1:40456"``."""
        return self._connection.peer

    def metadata(self) -> Pairs:
        """What the caller sent."""
        return self._head.metadata

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; None if it set none."""
        return None if self.deadline is None else max(0.0, self.deadline - self._connection.loop.time())

    def identity(self) -> Identity:
        """What the client's certificate says."""
        return self._connection.identity

    def set_trailing(self, pairs: Pairs) -> None:
        """Metadata for the end of the answer."""
        self._trailing = pairs

    async def send_initial(self, pairs: Pairs) -> None:
        """Metadata for its beginning, now.

        Raises:
            InvalidArgumentError: it cannot be sent, or the answer has begun.
            CollectiveError: RESOURCE_EXHAUSTED: it is larger than the client takes.
        """
        if self._started:
            raise InvalidArgumentError("the answer has begun: initial metadata comes before it")
        self._begin(pairs)
        self._connection.stage()

    async def write(self, answer: Any) -> None:
        """Send a message of the answer; returns when there is room for another.

        Raises:
            CollectiveError: CANCELLED: the call is over; or RESOURCE_EXHAUSTED: the message is larger than may be sent.
            InvalidArgumentError: another task waits in it.
        """
        handler = self._handler
        if handler is not None and handler.write is not None:
            answer = handler.write(answer)
        self._check_size(answer)
        if not self._started:
            self._begin(())
        if self.gone or self._ended:
            # Whoever ended it has cancelled the task, which is to see that first.
            await asyncio.sleep(0)
            raise call_error(GrpcStatus.CANCELLED, "the call is over")
        if self._room is not None:
            raise InvalidArgumentError("a call has one writer at a time")
        self._connection.engine.send(self, b"\0" + len(answer).to_bytes(4, "big") + answer)
        self._connection.stage()
        while self.queued > _QUEUED and not (self.gone or self._ended):
            self._room = self._connection.loop.create_future()
            try:
                await self._room
            finally:
                self._room = None

    async def fail(self, error: CollectiveError, trailing: Pairs = ()) -> None:
        """End the call with the status of the error. Always raises `CallEnded`."""
        if not self._input_over:
            await self._take_rest()
        details = binary(error)
        if details is not None and not any(name == STATUS_DETAILS for name, _ in trailing):
            trailing = (*trailing, (STATUS_DETAILS, details))
        if trailing:
            self._trailing = trailing
        self._end(error.grpc_status, error.message)
        raise CallEnded

    @property
    def lasting(self) -> bool:
        """Whether a server that stops does not wait for it."""
        return self._handler is not None and self._handler.lasting

    # -- reading ---------------------------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        """The next message. The iteration ends when the client has said that this was all.

        Raises:
            CollectiveError: CANCELLED: the call is over before its input was; or a message cannot be read.
        """
        decoder = self._decoder
        while not len(decoder):
            if self._input_over and not self._believed:
                await self._believe()
                continue
            if self._input_over:
                raise StopAsyncIteration
            if self._ended or self.gone:
                await asyncio.sleep(0)
                raise call_error(GrpcStatus.CANCELLED, "the client has not sent all that it was about to")
            if self._reader is not None:
                raise InvalidArgumentError("a call has one reader at a time")
            self._reader = self._connection.loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        try:
            message: Any = decoder.take()
        except GrpcError as error:
            raise call_error(error.status, error.message) from None
        if self._held and decoder.waiting <= _HELD:
            held, self._held = self._held, 0
            self._connection.engine.consumed(self, held)
            self._connection.stage()
        assert self._handler is not None
        return message if self._handler.read is None else self._handler.read(message)

    async def _believe(self) -> None:
        """Wait for a moment before the end of input is taken for one.

        Node, and grpc-js with it, ends a stream that is cancelled before it resets it. A handler that adds up what it is
        sent must not take half of it for all.
        """
        self._believed = True
        loop = self._connection.loop
        for _ in range(_LOOKS):
            began = loop.time()
            await asyncio.sleep(_CUT_OFF)
            if loop.time() - began < 2 * _CUT_OFF:
                return  # neither this process nor, most likely, the client has to wait for its turn

    # -- what the engine tells -------------------------------------------------------------------------

    def on_opened(self) -> None:
        connection, head = self._connection, self._head
        self._fed = self.opened
        if head.refusal is not None:
            self._refuse(*head.refusal)
            return
        if head.timeout is not None:
            if not head.timeout:
                self.expire()
                return
            self.deadline = self.opened + head.timeout
        try:
            handler = connection.face.method(head)
        except Exception:
            _log.exception("no handler could be chosen for %s", head.path)
            handler = ending(GrpcStatus.INTERNAL, "the server has failed")
        if handler is None:
            handler = ending(GrpcStatus.UNIMPLEMENTED, f"there is no method {head.path}")
        self._handler = handler
        if handler.streams:
            self._task = connection.run(self._run_stream(handler))

    def on_data(self, data: bytes) -> bool:
        if self._ended:
            return True
        self._fed = self._connection.heard
        if self._input_dropped:
            return True
        decoder = self._decoder
        try:
            decoder.feed(data)
        except GrpcError as error:
            self._break_off(error.status, error.message)
            return True
        reader = self._reader
        if reader is not None and len(decoder) and not reader.done():
            reader.set_result(None)
        if decoder.waiting <= _HELD:
            return True
        if len(decoder) > 1 and self._handler is not None and not self._handler.streams:
            # Nobody reads them, and held back they would never end.
            self._break_off(GrpcStatus.UNIMPLEMENTED, _ONE_MESSAGE)
            return True
        self._held += len(data)
        return False

    def on_end(self, trailers: Headers) -> None:
        if self._ended:
            return
        try:
            if not self._input_dropped:
                self._decoder.finish()
        except GrpcError:
            self._break_off(GrpcStatus.INTERNAL, "the call ended inside a message")
            return
        self._input_over = True
        self._wake(self._reader)
        handler = self._handler
        if handler is None or handler.streams:
            return
        if len(self._decoder) != 1:
            self._end(GrpcStatus.UNIMPLEMENTED, _ONE_MESSAGE)
            return
        self._task = self._connection.run(self._run_unary(handler))

    def on_failed(self, error: BaseException) -> None:
        """The client has reset the call, or broken the protocol."""
        self.abandon()

    def on_written(self, count: int) -> None:
        if self._room is not None and self.queued <= _QUEUED:
            self._wake(self._room)

    # -- the end ---------------------------------------------------------------------------------------

    def abandon(self) -> None:
        """The client is gone, or wants no answer any more."""
        self._ended = True
        # For whoever reads on: it was not all.
        self._input_over = False
        self._decoder.clear()
        self._wake(self._reader)
        self._wake(self._room)
        task, self._task = self._task, None
        if task is not None:  # once: what it does about it may take its time
            task.cancel()

    def expire(self) -> None:
        """The deadline has passed; or has been for a while, and the client does not read what waits for it."""
        if self._ended:
            self._connection.engine.reset(self)
            self._connection.stage()
            self.abandon()
        else:
            self._break_off(GrpcStatus.DEADLINE_EXCEEDED, "the call did not end before its deadline")

    def shut(self) -> None:
        """The server stops."""
        self._break_off(GrpcStatus.UNAVAILABLE, "the server is stopping")

    def _break_off(self, status: GrpcStatus, text: str) -> None:
        if not self._ended:
            self._trailing = ()
            self._end(status, text)
        self.abandon()

    async def _run_unary(self, handler: Handler) -> None:
        try:
            request: Any = self._decoder.take()
            if handler.read is not None:
                request = handler.read(request)
            answer = await handler.run(request, self)
            if handler.write is not None:
                answer = handler.write(answer)
            self._check_size(answer)
            if self._ended:
                return
            end = self._success() if self._trailing else SUCCESS
            body = b"\0" + len(answer).to_bytes(4, "big") + answer
            connection = self._connection
            if self._started:
                connection.engine.send(self, body)
                self._finish(end)
            else:
                self._started = self._ended = True
                connection.engine.answer(self, HEAD, body, end, at_once=not connection.blocked)
                connection.stage()
        except BaseException as error:
            self._failed(error)

    async def _run_stream(self, handler: Handler) -> None:
        try:
            await handler.run(self, self)
            if not self._input_over:
                await self._take_rest()
            if not self._ended:
                end = self._success()
                if not self._started:
                    self._begin(())
                self._finish(end)
        except BaseException as error:
            self._failed(error)

    async def _take_rest(self) -> None:
        """Read what the client is about to send, before the call is ended.

        To a client of grpc.aio a call that ends while it writes is INTERNAL, whatever its status was. One that goes on
        writing for longer has to live with that.
        """
        loop = self._connection.loop
        until = loop.time() + _REST
        self._input_dropped = True
        self._decoder.clear()
        if self._held:
            held, self._held = self._held, 0
            self._connection.engine.consumed(self, held)
            self._connection.stage()
        while not (self._input_over or self._ended or self.gone):
            now = loop.time()
            quiet = self._fed + _QUIET
            if now >= min(until, quiet):
                return
            self._reader = loop.create_future()
            try:
                await asyncio.wait([self._reader], timeout=min(until, quiet) - now)
            finally:
                self._reader = None

    def _failed(self, error: BaseException) -> None:
        """A handler has raised. Raises what is none of a call's."""
        if isinstance(error, CallEnded):
            return
        if isinstance(error, GeneratorExit):
            raise error  # the loop is gone
        if isinstance(error, asyncio.CancelledError):
            self._end(GrpcStatus.CANCELLED, "the handler was cancelled")
            return
        if isinstance(error, CollectiveError):
            self._end(error.grpc_status, error.message)
            return
        if isinstance(error, GrpcError):
            self._end(error.status, error.message)
            return
        if not self._ended:
            self._trailing = ()
            self._end(GrpcStatus.UNKNOWN, f"the handler has failed: {type(error).__name__}: {error}")
            _log.error("%s has failed", self._head.path, exc_info=error)
        if not isinstance(error, Exception):
            raise error

    def _end(self, status: GrpcStatus, text: str) -> None:
        """The call's status, once."""
        if self._ended:
            return
        try:
            block = end_block(status, text, self._trailing, alone=not self._started)
        except InvalidArgumentError as error:
            _log.error("%s: %s", self._head.path, error)
            status, text, self._trailing = GrpcStatus.INTERNAL, str(error), ()
            block = end_block(status, text, (), alone=not self._started)
        if self._too_large(block, self._trailing):
            # Its client would lose the status with the rest, or give up the connection.
            block = end_block(status, text[:_SHORT], (), alone=not self._started)
        self._finish(block)

    def _finish(self, block: bytes) -> None:
        """The last header block."""
        self._started = self._ended = True
        self._connection.engine.finish(self, block)
        self._connection.stage()

    def _refuse(self, status: bytes | GrpcStatus, text: bytes | str) -> None:
        if isinstance(status, bytes):
            assert isinstance(text, bytes)
            self._ended = self._started = True
            engine = self._connection.engine
            engine.head(self, plain_block(status, len(text)))
            engine.send(self, text)
            engine.end(self)
            self._connection.stage()
        else:
            assert isinstance(text, str)
            self._end(status, text)

    def _success(self) -> bytes:
        """The end of an answer."""
        if not self._trailing:
            return SUCCESS
        block = end_block(GrpcStatus.OK, "", self._trailing, alone=False)
        if self._too_large(block, self._trailing):
            raise call_error(GrpcStatus.RESOURCE_EXHAUSTED, _METADATA_TOO_LARGE)
        return block

    def _too_large(self, block: bytes, pairs: Pairs) -> bool:
        """Whether the client takes no such head (RFC 9113 section 10.5.1)."""
        return len(block) + 32 * (len(pairs) + 5) > self._connection.engine.peer.max_header_list_size

    def _begin(self, initial: Pairs) -> None:
        block = head_block(initial)
        if initial and self._too_large(block, initial):
            raise call_error(GrpcStatus.RESOURCE_EXHAUSTED, _METADATA_TOO_LARGE)
        self._started = True
        self._connection.engine.head(self, block)

    def _check_size(self, answer: Any) -> None:
        if len(answer) > min(self._connection.message, _LARGEST):
            raise call_error(
                GrpcStatus.RESOURCE_EXHAUSTED,
                f"the answer has {len(answer)} bytes, {self._connection.message} may be sent",
            )

    @staticmethod
    def _wake(future: asyncio.Future[None] | None) -> None:
        if future is not None and not future.done():
            future.set_result(None)

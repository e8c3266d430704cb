"""One gRPC call over a dispatch: the handler behind all four call kinds.

`CallHandler` is known to the dispatcher. The caller of a stream holds a `GrpcCall`, which holds the handler;
not the other way round, so that a call that was dropped can be told from one that waits.

A call ends once, by whichever comes first: the dispatch's terminal callback, the deadline, `cancel()`, or a
message that must be refused. From then on `ended` is true, `verdict` says how (or `foreign` holds an exception
that is the caller's own and is raised as it is), and whatever the dispatch still tells is ignored. Whole
messages that arrived before a failure are delivered before it.

Flow control: the exchange is paused while `HIGH_WATER` bytes of whole messages wait and nobody is about to
take them. What can be held is therefore that, one piece of the body, and one message that is still arriving,
which `max_message_size` bounds.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, Future, TimerHandle
from collections.abc import Callable
from typing import Any, Final

from ..core.controller import DispatchController
from ..core.errors import BodyUnusableError, DodiciError, GrpcDeadlineError, GrpcError, annotate
from ..core.grpc_status import GrpcStatus
from ..core.headers import Headers
from ..wire.grpc.framing import MessageDecoder
from ..wire.grpc.metadata import GrpcMetadata
from ..wire.grpc.status import SUCCESS, Verdict, read_verdict, status_of_error, status_of_http

HIGH_WATER: Final = 64 * 1024
"""Bytes of whole messages that may wait to be taken."""

Deserializer = Callable[[bytes], Any]

_FACTS = ("phase", "peer", "reused", "bytes_sent", "bytes_read", "attempt", "request_not_processed")


class CallHandler:
    """Takes one call. All methods run on the event loop's thread."""

    __slots__ = (
        "_controller",
        "_deadline",
        "_head_waiters",
        "_loop",
        "_paused",
        "_single",
        "_timer",
        "_waiter",
        "cause",
        "decoder",
        "ended",
        "foreign",
        "head",
        "status_code",
        "target",
        "trailers",
        "verdict",
    )

    def __init__(
        self, loop: AbstractEventLoop, target: tuple[str | None, str], limit: int, single: bool
    ) -> None:
        self._loop = loop
        self.target = target
        """Origin and method."""
        self._single = single
        self.decoder = MessageDecoder(limit)
        self.status_code = 0
        """Of HTTP."""
        self.head: Headers | None = None
        self.trailers: Headers | None = None
        self.ended = False
        self.verdict: Verdict = SUCCESS
        self.cause: BaseException | None = None
        self.foreign: BaseException | None = None
        self._controller: DispatchController | None = None
        self._timer: TimerHandle | None = None
        self._deadline: float | None = None
        self._waiter: Future[None] | None = None
        self._head_waiters: list[Future[None]] = []
        self._paused = False

    # --------------------------------------------------------------------------- what the dispatch tells

    def on_dispatch(self, controller: DispatchController) -> None:
        """The dispatcher has accepted the exchange: it can be aborted from now on."""
        self._controller = controller

    def on_request_start(self, controller: DispatchController, context: dict[str, Any]) -> None:
        if self.ended:
            controller.abort("the call has ended")
        else:
            self._controller = controller

    def on_response_start(
        self, controller: DispatchController, status_code: int, headers: Headers, status_message: str
    ) -> None:
        if status_code < 200 or self.ended:
            return
        self._controller = controller
        self.status_code = status_code
        content_type = encoding = None
        for name, value in headers.raw:
            name = name.lower()
            if name == b"grpc-status":
                # Nothing will follow: what came is the trailers.
                self.trailers = headers
                break
            if name == b"content-type":
                content_type = value
            elif name == b"grpc-encoding":
                encoding = value
        else:
            if status_code != 200 or not _is_grpc(content_type):
                self._refuse(_not_grpc(controller.http_version, status_code, content_type))
                return
            if encoding is not None:
                self.decoder.encoding = encoding.decode("latin-1")
            self.head = headers
        for waiter in self._head_waiters:
            _wake(waiter)

    def on_response_data(self, controller: DispatchController, chunk: bytes) -> None:
        if self.ended or self.trailers is not None:
            if not self.ended:
                self._refuse(
                    GrpcError("messages after a head that has grpc-status", status=GrpcStatus.INTERNAL)
                )
            return
        decoder = self.decoder
        try:
            decoder.feed(chunk)
        except GrpcError as error:
            self._refuse(error)
            return
        if self._single:
            if len(decoder) > 1:
                self._refuse(
                    GrpcError("several messages came where one is due", status=GrpcStatus.UNIMPLEMENTED)
                )
        elif len(decoder):
            waiter = self._waiter
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
            elif decoder.waiting >= HIGH_WATER and not self._paused:
                self._paused = True
                controller.pause()

    def on_response_end(self, controller: DispatchController, trailers: Headers) -> None:
        if self.ended:
            return
        verdict = read_verdict(trailers)
        if verdict is not None:
            self.trailers = trailers
        elif self.trailers is not None:
            verdict = read_verdict(self.trailers)
        if verdict is None:
            verdict = Verdict(GrpcStatus.UNKNOWN, "the response ended without grpc-status")
        elif verdict.status is GrpcStatus.OK:
            verdict = self._complete() or verdict
        self._end(verdict)

    def on_response_error(self, controller: DispatchController, error: BaseException) -> None:
        if not self.ended:
            self._fail(error)

    # ------------------------------------------------------------------------------------- how it ends

    def _complete(self) -> Verdict | None:
        """What is wrong with a body whose status is OK."""
        try:
            self.decoder.finish()
        except GrpcError as error:
            return Verdict(error.status, error.message)
        if self._single and not len(self.decoder):
            return Verdict(GrpcStatus.UNIMPLEMENTED, "no message came where one is due")
        return None

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, GrpcError):
            self.cause = error.__cause__
            self._end(Verdict(error.status, error.message, error.details))
            return
        status = status_of_error(error)
        if status is None:
            self.foreign = error
            self._end(Verdict(GrpcStatus.UNKNOWN, str(error)))
        else:
            self.cause = error
            self._end(Verdict(status, str(error)))

    def _refuse(self, error: BaseException) -> None:
        """End the call with an error that is found here, and the exchange with it."""
        controller = self._controller
        self._fail(error)
        if controller is not None:
            controller.abort(error)

    def _end(self, verdict: Verdict) -> None:
        deadline = self._deadline
        if verdict.status is GrpcStatus.CANCELLED and deadline is not None and self._loop.time() >= deadline:
            # The server was quicker to see the deadline than the timer here. What it says of it is not used.
            self.trailers = None
            verdict = Verdict(GrpcStatus.DEADLINE_EXCEEDED, "the deadline has passed")
        self.verdict = verdict
        self.ended = True
        self._controller = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiter is not None:
            _wake(self._waiter)
        for waiter in self._head_waiters:
            _wake(waiter)

    def arm(self, seconds: float) -> None:
        """Begin the deadline, `seconds` from now."""
        self._deadline = self._loop.time() + seconds
        self._timer = self._loop.call_later(seconds, self.expire, seconds)

    def expire(self, seconds: float) -> None:
        """The deadline has passed."""
        self._timer = None
        if not self.ended:
            text = f"{self.target[1]} did not end within {seconds:g} s"
            self._refuse(GrpcDeadlineError(text, status=GrpcStatus.DEADLINE_EXCEEDED))

    def cancel(self, text: str = "cancelled by the caller") -> None:
        """End the call now. Messages that wait are dropped, and a call that loses some did not end well."""
        if not self.ended:
            self._refuse(GrpcError(text, status=GrpcStatus.CANCELLED))
        elif len(self.decoder):
            self.verdict = Verdict(GrpcStatus.CANCELLED, text)
        self.decoder.clear()

    def drop(self) -> None:
        """Cancel a call that nobody can read any more. From any thread: the collector runs anywhere."""
        try:
            self._loop.call_soon_threadsafe(self.cancel, "the call was dropped before its end")
        except RuntimeError:
            # The loop is closed, and the exchange with it.
            return

    # ------------------------------------------------------------------------------- what a caller does

    async def wait(self) -> None:
        """Return when there is a message, or the call has ended. Cancelled here, the call is, too.

        Raises:
            BodyUnusableError: somebody waits already.
        """
        if self._waiter is not None:
            raise BodyUnusableError("the call is being read by another task")
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        except BaseException:
            self.cancel()
            raise
        finally:
            self._waiter = None

    async def wait_for_head(self) -> None:
        """Return when the initial metadata are there, or never will be."""
        waiter = self._loop.create_future()
        self._head_waiters.append(waiter)
        try:
            await waiter
        except BaseException:
            self.cancel()
            raise
        finally:
            self._head_waiters.remove(waiter)

    def take(self, deserializer: Deserializer | None) -> Any:
        """The next message. There must be one.

        Raises:
            GrpcError: it cannot be decompressed or deserialized; the call has ended with that.
        """
        decoder = self.decoder
        try:
            message = decoder.take()
            if self._paused and (decoder.waiting < HIGH_WATER or not len(decoder)):
                self._paused = False
                if self._controller is not None:
                    self._controller.resume()
            if deserializer is None:
                return message
            try:
                return deserializer(message)
            except Exception as error:
                text = f"the deserializer raised {type(error).__name__}: {error}"
                raise GrpcError(text, status=GrpcStatus.INTERNAL) from error
        except GrpcError as error:
            decoder.clear()
            self._refuse(error)
            raise self.error() from self.cause

    def error(self) -> BaseException:
        """What to raise: made anew each time, since an exception that is kept keeps frames alive."""
        if self.foreign is not None:
            return self.foreign
        verdict, cause = self.verdict, self.cause
        kind = GrpcDeadlineError if verdict.status is GrpcStatus.DEADLINE_EXCEEDED else GrpcError
        error = kind(verdict.message, status=verdict.status)
        if verdict.details is not None:
            error.details = verdict.details
        error.initial_metadata = self.initial_metadata
        error.trailing_metadata = self.trailing_metadata
        error.origin = self.target[0]
        if self.status_code:
            error.status_code = self.status_code
        if isinstance(cause, DodiciError):
            annotate(error, **{name: getattr(cause, name) for name in _FACTS})
        error.__cause__ = cause
        return error

    @property
    def initial_metadata(self) -> GrpcMetadata:
        """Of the head; empty if none came."""
        return GrpcMetadata() if self.head is None else GrpcMetadata.from_headers(self.head)

    @property
    def trailing_metadata(self) -> GrpcMetadata:
        """Of the trailers; empty if none came."""
        return GrpcMetadata() if self.trailers is None else GrpcMetadata.from_headers(self.trailers)


def _wake(waiter: Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _is_grpc(content_type: bytes | None) -> bool:
    if content_type is None:
        return False
    kind = content_type.lower()
    return kind.startswith(b"application/grpc") and kind[16:17] in (b"", b"+", b";")


def _not_grpc(version: str, status_code: int, content_type: bytes | None) -> GrpcError:
    shown = "no content-type" if content_type is None else f"content-type {content_type.decode('latin-1')!r}"
    return GrpcError(
        f"the response is not gRPC: HTTP/{version} status {status_code}, {shown}",
        status=status_of_http(status_code),
    )

"""One exchange on a link: between the engine's stream and the handler.

A stream is the carrier of its exchange from the moment its request is written. While the handler pauses, what
arrives is held here, and not consumed: the worker may send what is left of the window and no more. The end, good or
bad, waits behind what is held. A response that is complete on the wire stays one, whatever becomes of the link.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from ..core import diagnostics
from ..core.controller import Exchange
from ..core.errors import (
    BodyAbortedError,
    BodyTimeoutError,
    DodiciError,
    HeadersTimeoutError,
    LinkError,
    RemoteAppError,
    ResponseContentLengthMismatchError,
    TargetChangedError,
    WorkerExitedError,
    annotate,
)
from ..core.headers import EMPTY, Headers
from ..core.timers import COARSE, NEVER, Timer
from ..net.body import BodyWriter, DataFramer
from ..wire.mesh.frames import APP_ERROR, REFUSED
from ..wire.mesh.heads import UNKNOWN_LENGTH, ResponseHead
from ..wire.mesh.streams import Stream

if TYPE_CHECKING:
    from .link import Link
    from .websocket import ClientChannel


class ClientStream(Stream):
    """The carrier of an exchange, and the transport of its body."""

    __slots__ = (
        "_exact",
        "_expected",
        "_held",
        "_link",
        "_outcome",
        "_room",
        "channel",
        "exchange",
        "patience",
        "stamp",
        "writer",
    )

    def __init__(self, link: Link, exchange: Exchange, number: int) -> None:
        super().__init__(number, ours=True)
        self._link = link
        self.exchange = exchange
        self.stamp = 0.0
        """`Timers.base` of the last progress: with `patience`, what is looked at once per tick."""
        self.patience = NEVER
        """Seconds without progress that are too many."""
        self._exact: Timer | None = None
        self._expected = UNKNOWN_LENGTH
        self._held: deque[bytes] | None = None
        self._outcome: Headers | BaseException | None = None
        self._room: asyncio.Future[None] | None = None
        self.writer: BodyWriter | None = None
        self.channel: ClientChannel | None = None

    # -- the carrier's side ----------------------------------------------------------------------------

    def abort_exchange(self, exchange: Exchange, error: BaseException) -> None:
        self.give_up(error)

    def pause_exchange(self, exchange: Exchange) -> None:
        if exchange.status_code >= 200:
            self._disarm()

    def resume_exchange(self, exchange: Exchange) -> None:
        self._link.loop.call_soon(self._continue)

    def give_up(self, error: BaseException) -> None:
        """Cancel the request and fail the exchange."""
        if not self.exchange.done:
            if not self.gone:
                self._link.engine.cancel(self)
                self._link.stage()
            self._fail(error)

    # -- the engine's side -----------------------------------------------------------------------------

    def on_informational(self, head: ResponseHead) -> None:
        exchange = self.exchange
        if head.status_code == 100 and self.writer is not None:
            self.writer.go_on()
        if self.writer is None:
            self.arm_headers()
        if diagnostics.REQUEST_HEADERS.subscribers:
            self._publish_head(head)
        try:
            exchange.handler.on_response_start(exchange, head.status_code, head.headers, "")
        except BaseException as error:
            self._raised(error)

    def on_head(self, head: ResponseHead) -> None:
        if self._begin(head):
            self._arm_body()

    def on_response(self, head: ResponseHead, body: bytes) -> None:
        if not self._begin(head):
            return
        if self.exchange._paused:
            if body:
                self._held = deque((body,))
            self._outcome = EMPTY
            self._disarm()
            return
        if body:
            self._deliver(body)
            if self.exchange.done:
                return
            if self.exchange._paused:
                self._outcome = EMPTY
                self._disarm()
                return
        self._finish(EMPTY)

    def on_data(self, data: bytes) -> None:
        if self.channel is not None:
            raise self.misplaced()
        if self.exchange._paused or self._held:
            if self._held is None:
                self._held = deque()
            self._held.append(data)
            return
        self._deliver(data)
        self._link.engine.consumed(self, len(data))

    def on_end(self, trailers: Headers) -> None:
        if self.channel is not None:
            raise self.misplaced()
        if self.exchange._paused or self._held:
            self._outcome = trailers
            self._stop_writing()
            self._disarm()
        else:
            self._finish(trailers)

    def on_reset(self, kind: int, texts: list[str]) -> None:
        if self.channel is not None:
            self.channel.lost()
            self._link.ended()
            return
        exchange, link = self.exchange, self._link
        if kind == REFUSED and not exchange.status_code:
            if not exchange.source_taken or exchange.options.replayable:
                self.detach()
                exchange.carrier = None
                exchange.source_taken = False
                link.running -= 1
                link.owner.refused(link, exchange, texts[0])
                link.ended()
                return
            error: DodiciError = TargetChangedError(
                f"{link.peer_name} did not take the request, and its body cannot be read again: {texts[0]}"
            )
        elif kind == APP_ERROR:
            name, message, trace = (*texts, "", "", "")[:3]
            error = RemoteAppError(f"{name}: {message}", type_name=name, remote_traceback=trace)
        else:
            error = self._gone_error(texts[0])
        self._fail_behind_held(error)

    def on_lost(self, reason: str, cause: BaseException | None) -> None:
        """The link is lost."""
        if self.channel is not None:
            self.channel.lost()
            return
        error = self._gone_error(reason)
        error.__cause__ = cause
        self._fail_behind_held(error)

    def on_accept(self, head: ResponseHead) -> None:
        exchange, link = self.exchange, self._link
        if exchange.options.upgrade is None:
            raise LinkError(f"request {self.id} asked for no WebSocket")
        from .websocket import ClientChannel

        self.detach()
        exchange.status_code = 101
        self.channel = ClientChannel(link, self, head.headers)
        link.running -= 1
        exchange.end()
        try:
            exchange.handler.on_request_upgrade(exchange, 101, head.headers, self.channel)
        except Exception as error:
            self.channel.abort()
            exchange.done = False
            exchange.fail(error)

    def on_message(self, data: bytes, *, text: bool, more: bool) -> None:
        if self.channel is None:
            raise self.misplaced()
        self.channel.on_message(data, text=text, more=more)

    def on_close(self, code: int, reason: str) -> None:
        if self.channel is None:
            raise self.misplaced()
        self.channel.on_close(code, reason)

    def on_credit(self) -> None:
        if self.channel is not None:
            self.channel.pump()
        elif self.queued:
            self._link.stage()
        else:
            self._make_room()

    def on_written(self, count: int) -> None:
        self.exchange.bytes_sent += count
        if (self.ending is not None or self._room is not None) and self.exchange.status_code < 200:
            # A worker that takes the body, however slowly, is not silent; and the time for the head runs from the
            # last byte written.
            self.arm_headers()
        self._make_room()

    # -- delivering ------------------------------------------------------------------------------------

    def _begin(self, head: ResponseHead) -> bool:
        """The head of the final response. False if the exchange has ended."""
        exchange = self.exchange
        exchange.status_code = status = head.status_code
        if exchange.options.method == "HEAD" or status in (204, 304):
            self._expected = 0
        else:
            self._expected = head.length
        if self.writer is not None and (self.writer.holding or self.gone):
            # A final answer instead of 100, or before the end of the request: the rest of the body is never sent.
            self._stop_writing()
        if diagnostics.REQUEST_HEADERS.subscribers:
            self._publish_head(head)
        try:
            exchange.handler.on_response_start(exchange, status, head.headers, "")
        except BaseException as error:
            self._raised(error)
        return not exchange.done

    def _publish_head(self, head: ResponseHead) -> None:
        response = {"status_code": head.status_code, "headers": head.headers, "status_text": ""}
        diagnostics.REQUEST_HEADERS.publish({"request": self.exchange, "response": response})

    def _deliver(self, data: bytes) -> None:
        exchange = self.exchange
        exchange.bytes_read += len(data)
        if exchange.bytes_read > self._expected >= 0:
            self.give_up(self._wrong_length())
            return
        if diagnostics.REQUEST_BODY_CHUNK_RECEIVED.subscribers:
            diagnostics.REQUEST_BODY_CHUNK_RECEIVED.publish({"request": exchange, "chunk": data})
        try:
            exchange.handler.on_response_data(exchange, data)
        except BaseException as error:
            self._raised(error)
            return
        if exchange._paused or self._exact is not None:
            self._arm_body()
        else:
            self.stamp = self._link.timers.base

    def _continue(self) -> None:
        """Go on after a pause: what was held, then its end."""
        exchange, held, link = self.exchange, self._held, self._link
        consumed = 0
        while held and not exchange._paused and not exchange.done:
            data = held.popleft()
            consumed += len(data)
            self._deliver(data)
        if consumed and link.engine.consumed(self, consumed):
            link.stage()
        if exchange._paused or exchange.done:
            return
        outcome = self._outcome
        if outcome is None:
            if exchange.status_code >= 200:
                self._arm_body()
        elif isinstance(outcome, Headers):
            self._finish(outcome)
        else:
            self._fail(outcome)

    def _finish(self, trailers: Headers) -> None:
        exchange, link = self.exchange, self._link
        if exchange.bytes_read != self._expected >= 0:
            self._fail(self._wrong_length())
            return
        if self.writer is not None:
            self._stop_writing()
        if self._exact is not None:
            self._exact.close()
        exchange.end()
        if diagnostics.REQUEST_TRAILERS.subscribers:
            diagnostics.REQUEST_TRAILERS.publish({"request": exchange, "trailers": trailers})
        link.running -= 1
        link.served += 1
        try:
            exchange.handler.on_response_end(exchange, trailers)
        except Exception as error:
            # The response is complete; the handler learns of its mistake.
            exchange.done = False
            exchange.fail(error)
        link.ended()

    def _fail(self, error: BaseException) -> None:
        exchange, link = self.exchange, self._link
        if exchange.done:
            return
        self.detach()
        annotate(error, phase=self.phase, reused=link.served > 0, peer=link.peer.name)
        link.running -= 1
        exchange.fail(error)
        link.ended()

    def _fail_behind_held(self, error: BaseException) -> None:
        exchange = self.exchange
        if exchange.status_code >= 200 and (exchange._paused or self._held):
            self._outcome = error
            self._disarm()
            self._stop_writing()
        else:
            self._fail(error)

    def _raised(self, error: BaseException) -> None:
        self.give_up(error)
        if not isinstance(error, Exception):
            raise error

    def _gone_error(self, reason: str) -> DodiciError:
        name = self._link.peer_name
        if self.exchange.status_code >= 200:
            return BodyAbortedError(f"{name} gave up in the middle of the body: {reason}")
        return WorkerExitedError(f"{name} went away before it had sent a response: {reason}")

    def _wrong_length(self) -> DodiciError:
        exchange = self.exchange
        said = "has no body" if exchange.options.method == "HEAD" else f"has content-length {self._expected}"
        return ResponseContentLengthMismatchError(
            f"the response {said} and came with {exchange.bytes_read} bytes", phase="body"
        )

    @property
    def phase(self) -> str:
        """Where the exchange is."""
        if self.exchange.status_code >= 200:
            return "body"
        return "headers" if self.sent else "request"

    def detach(self) -> None:
        """Let go of everything but the exchange, which somebody else takes or ends."""
        self._stop_writing()
        if self._exact is not None:
            self._exact.close()
            self._exact = None
        self.patience = NEVER
        self._held = None

    # -- the body's task -------------------------------------------------------------------------------

    def write_body(self) -> None:
        """Begin to send a body that has a task of its own; the head was sent."""
        self.writer = BodyWriter(self, self.exchange, self._link.loop)

    def framer(self, length: int) -> DataFramer:
        return DataFramer(length, strict=True)

    def write_head(self, exchange: Exchange, length: int, parts: list[bytes | memoryview]) -> None:
        self.write_parts(exchange, parts)

    def write_parts(self, exchange: Exchange, parts: list[bytes | memoryview]) -> None:
        if self.gone:
            return
        for part in parts:
            # What the source goes on to use must not change what is queued.
            self._link.engine.outbox.send(self, part if type(part) is bytes else bytes(part))
        self._link.stage()

    async def writable(self) -> None:
        if self.gone:
            # Its end is about to be told, and `detach` then cancels who waits here.
            await self._link.loop.create_future()
        if self.queued >= self.credit:
            room = self._room = self._link.loop.create_future()
            if self.exchange.status_code < 200:
                # Only a worker that does not take the body is a reason to give up; a source may take its time.
                self.arm_headers()
            await room
            if self.exchange.status_code < 200:
                self._disarm()

    def _make_room(self) -> None:
        room = self._room
        if room is not None and self.queued < self.credit:
            self._room = None
            if not room.done():
                room.set_result(None)

    def body_sent(self, exchange: Exchange) -> None:
        self.writer = None
        if self.gone or exchange.done:
            return
        self._link.engine.end(self)
        self._link.stage()
        if diagnostics.REQUEST_BODY_SENT.subscribers:
            diagnostics.REQUEST_BODY_SENT.publish({"request": exchange})
        if exchange.status_code < 200:
            self.arm_headers()

    def body_failed(self, exchange: Exchange, error: BaseException) -> None:
        self.writer = None
        if not exchange.done:
            annotate(error, phase="request")
            self.give_up(error)

    def _stop_writing(self) -> None:
        writer, self.writer = self.writer, None
        if writer is not None:
            writer.cancel()

    # -- timeouts --------------------------------------------------------------------------------------

    def arm_headers(self) -> None:
        """From now on a response head is awaited."""
        self._arm(self._headers_seconds())

    def _headers_seconds(self) -> float:
        seconds = self.exchange.options.headers_timeout
        return self._link.headers_timeout if seconds is None else seconds

    def _body_seconds(self) -> float:
        seconds = self.exchange.options.body_timeout
        return self._link.body_timeout if seconds is None else seconds

    def _arm_body(self) -> None:
        if self.exchange._paused:
            self._disarm()
            return
        self._arm(self._body_seconds())

    def _arm(self, seconds: float) -> None:
        if seconds >= COARSE:
            self.stamp = self._link.timers.base
            self.patience = seconds
            if self._exact is not None:
                self._exact.disarm()
            return
        self.patience = NEVER
        if self._exact is None:
            if not seconds:
                return
            self._exact = self._link.timers.timer(self.timed_out)
        self._exact.arm(seconds)

    def _disarm(self) -> None:
        self.patience = NEVER
        if self._exact is not None:
            self._exact.disarm()

    def timed_out(self) -> None:
        """The deadline has passed."""
        self._disarm()
        if self.exchange.done:
            return
        if self.exchange.status_code >= 200:
            seconds = self._body_seconds()
            error: DodiciError = BodyTimeoutError(
                f"no data of the response body for {seconds:g} s (body_timeout)"
            )
        else:
            seconds = self._headers_seconds()
            error = HeadersTimeoutError(f"no response head within {seconds:g} s (headers_timeout)")
        self.give_up(error)

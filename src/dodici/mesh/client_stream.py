"""One exchange on a link: between the engine's stream and the handler.

A stream is the carrier of its exchange from the moment its request is written. While the handler pauses, what
arrives is held here, and not consumed: the worker may send what is left of the window and no more. The end, good or
bad, waits behind what is held. A response that is complete on the wire stays one, whatever becomes of the link.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from ..core import diagnostics
from ..core.controller import Exchange
from ..core.errors import (
    BodyAbortedError,
    DodiciError,
    LinkError,
    RemoteAppError,
    ResponseContentLengthMismatchError,
    TargetChangedError,
    WorkerExitedError,
    annotate,
)
from ..core.headers import EMPTY, Headers
from ..net.body import DataFramer
from ..net.carrier import CARRIER_SLOTS, StreamCarrier
from ..wire.mesh.frames import APP_ERROR, REFUSED
from ..wire.mesh.heads import UNKNOWN_LENGTH, ResponseHead
from ..wire.mesh.streams import Stream

if TYPE_CHECKING:
    from .link import Link
    from .websocket import ClientChannel


class ClientStream(StreamCarrier, Stream):
    """The carrier of an exchange, and the transport of its body."""

    __slots__ = (*CARRIER_SLOTS, "_expected", "channel")
    _connection: Link

    def __init__(self, link: Link, exchange: Exchange, number: int) -> None:
        super().__init__(number, ours=True)
        self.carry(link, exchange)
        self._expected = UNKNOWN_LENGTH
        self.channel: ClientChannel | None = None

    # -- the carrier's side ----------------------------------------------------------------------------

    def give_up(self, error: BaseException) -> None:
        """Cancel the request and fail the exchange."""
        if not self.exchange.done:
            if not self.gone:
                self._connection.engine.cancel(self)
                self._connection.stage()
            self._fail(error)

    # -- the engine's side -----------------------------------------------------------------------------

    def on_informational(self, head: ResponseHead) -> None:
        exchange = self.exchange
        if head.status_code == 100 and self.writer is not None:
            self.writer.go_on()
        if self.writer is None:
            self.arm_headers()
        if diagnostics.REQUEST_HEADERS.subscribers:
            self._publish_head(head.status_code, head.headers)
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
            self._hold(data)
            return
        self._deliver(data)
        self._connection.engine.consumed(self, len(data))

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
            self._connection.ended()
            return
        exchange, link = self.exchange, self._connection
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
        exchange, link = self.exchange, self._connection
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
            self._connection.stage()
        elif self.queued < self.credit:
            self._make_room()

    def on_written(self, count: int) -> None:
        self.exchange.bytes_sent += count
        if (self.ending is not None or self._room is not None) and self.exchange.status_code < 200:
            # A worker that takes the body, however slowly, is not silent; and the time for the head runs from the
            # last byte written.
            self.arm_headers()
        if self._room is not None and self.queued < self.credit:
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
            self._publish_head(head.status_code, head.headers)
        try:
            exchange.handler.on_response_start(exchange, status, head.headers, "")
        except BaseException as error:
            self._raised(error)
        return not exchange.done

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
        self._delivered()

    def _finish(self, trailers: Headers) -> None:
        exchange, link = self.exchange, self._connection
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
        exchange, link = self.exchange, self._connection
        if exchange.done:
            return
        self.detach()
        annotate(error, phase=self.phase, reused=link.served > 0, peer=link.peer.name)
        link.running -= 1
        exchange.fail(error)
        link.ended()

    def _fail_behind_held(self, error: BaseException) -> None:
        if self.holding:
            self._outcome = error
            self._disarm()
            self._stop_writing()
        else:
            self._fail(error)

    def _gone_error(self, reason: str) -> DodiciError:
        name = self._connection.peer_name
        if self.exchange.status_code >= 200:
            return BodyAbortedError(f"{name} gave up in the middle of the body: {reason}")
        return WorkerExitedError(f"{name} went away before it had sent a response: {reason}")

    def _wrong_length(self) -> DodiciError:
        exchange = self.exchange
        said = "has no body" if exchange.options.method == "HEAD" else f"has content-length {self._expected}"
        return ResponseContentLengthMismatchError(
            f"the response {said} and came with {exchange.bytes_read} bytes", phase="body"
        )

    # -- the body's task -------------------------------------------------------------------------------

    def framer(self, length: int) -> DataFramer:
        return DataFramer(length, strict=True)

    def write_head(self, exchange: Exchange, length: int, parts: list[bytes | memoryview]) -> None:
        self.write_parts(exchange, parts)

    def write_parts(self, exchange: Exchange, parts: list[bytes | memoryview]) -> None:
        if self.gone:
            return
        for part in parts:
            # What the source goes on to use must not change what is queued.
            self._connection.engine.outbox.send(self, part if type(part) is bytes else bytes(part))
        self._connection.stage()

    async def writable(self) -> None:
        if self.gone:
            # Its end is about to be told, and `detach` then cancels who waits here.
            await self._connection.loop.create_future()
        if self.queued >= self.credit:
            await self._wait_for_room()

    def body_failed(self, exchange: Exchange, error: BaseException) -> None:
        self.writer = None
        if not exchange.done:
            annotate(error, phase="request")
            self.give_up(error)

"""One HTTP/1.1 connection: engine, transport and handlers, and who waits for whom.

Exchanges pass through three places, in order:

    _fresh    assigned by the owner, not written: the connection may still turn out to be dead or poisoned,
              and then they go back to the owner untouched
    _running  written, or being written; the first is the one whose response is being read
    ended     the owner was told by `release`, the handler by its terminal callback

A connection has one owner (a `Client`). It never waits: `flush` is called by the loop's write batch, the rest
by the transport. `kill` is the only way out: it closes the transport, gives back what may be sent again, and
fails what may not. While the response's handler pauses, the parser holds what was read, the transport is not
read, and even a lost connection is only noticed once everything that had arrived was delivered.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import Any

from ..core import diagnostics
from ..core.controller import Exchange
from ..core.errors import (
    DodiciError,
    InformationalError,
    ResponseExceededMaxSizeError,
    SocketError,
    annotate,
    socket_error,
)
from ..core.headers import Headers
from ..core.options import BYTES
from ..core.timers import COARSE, NEVER
from ..wire.body import body_length
from ..wire.h1.head import Head
from ..wire.h1.parser import BODYLESS, FRAMED, TAKEN_OVER, UNTIL_CLOSE, ResponseParser
from ..wire.h1.serializer import BodyFramer, encode_head
from .body import BodyWriter
from .connection import ConnectionSettings, Failure, Owner
from .leftover import read_leftover
from .loop import LoopServices
from .tls import remember_session
from .upgraded import UpgradedSocket

_LEFT = 256 * 1024
"""Bytes read of what a lost connection had still received."""
_INLINE_BODY = 64 * 1024
"""Bytes up to which a body leaves with its head, in one write."""


class H1Connection(asyncio.Protocol):
    """The protocol of one HTTP/1.1 connection."""

    multiplexed = False
    limit = None

    __slots__ = (
        "_blocked",
        "_eof",
        "_exclusive",
        "_fresh",
        "_head",
        "_loop",
        "_lost",
        "_parser",
        "_room",
        "_running",
        "_services",
        "_settings",
        "_staged",
        "_starting",
        "_timer",
        "_timers",
        "_truncated",
        "_tunnel",
        "_writer",
        "closed",
        "closing",
        "dead",
        "owner",
        "served",
        "server_name",
        "transport",
    )

    def __init__(
        self,
        owner: Owner,
        settings: ConnectionSettings,
        services: LoopServices,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.owner = owner
        self._settings = settings
        self._services = services
        self._loop = loop
        self._timers = services.timers
        self._timer = services.timers.timer(self._on_timer)
        self._parser = ResponseParser(self, settings.heads)
        self._fresh: deque[Exchange] = deque()
        self._running: deque[Exchange] = deque()
        self._starting: Exchange | None = None
        self._head: Head | None = None
        self._writer: BodyWriter | None = None
        self._tunnel: tuple[Exchange, Head] | None = None
        self._staged = False
        self._exclusive = False
        self._blocked = False
        self._eof = False
        self._truncated = False
        self._lost: tuple[BaseException | None] | None = None
        self._room: asyncio.Future[None] | None = None
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # until connection_made
        self.closed: asyncio.Future[None] = loop.create_future()
        self.closing = False
        """No more requests: this is the last, or the peer said so."""
        self.dead = False
        self.served = 0
        self.server_name: str | None = None

    # -- the owner's side ------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        return not self._running and not self._fresh and self._starting is None

    def offer(self, exchange: Exchange) -> bool:
        """Take an exchange, if the rules of pipelining (RFC 9112 9.3.2) let it be written now."""
        if self.closing or self._exclusive or self._blocked or self.dead:
            return False
        options = exchange.options
        if (self._running or self._fresh or self._starting is not None) and not (
            options.plain and options.idempotent
        ):
            return False
        exchange.carrier = self
        self._fresh.append(exchange)
        owner = self.owner
        if options.blocking and owner.limit > 1:
            self._blocked = True
        if not options.plain:
            self._exclusive = True
        if options.reset or owner.single_use or self._settings.max_requests:
            self._maybe_last(options.reset is True or owner.single_use)
        if not self._staged:
            self._staged = True
            self._services.batch.add(self)
        return True

    def _stage(self) -> None:
        if self._fresh and not self._staged:
            self._staged = True
            self._services.batch.add(self)

    def rest(self) -> None:
        """There is nothing to do: begin to count the idle time."""
        if self.idle and not self.dead and not self._arm_idle(None):
            self.kill(InformationalError("reset: idle connections are not kept"))

    def _maybe_last(self, last: bool) -> None:
        limit = self._settings.max_requests
        if last or (limit and self.served + len(self._running) + len(self._fresh) >= limit):
            self.closing = True

    def abort_exchange(self, exchange: Exchange, error: BaseException) -> None:
        if exchange is self._starting:
            exchange.fail(error)
        elif exchange in self._fresh:
            self._fresh.remove(exchange)
            self._unblock()
            self.owner.release(exchange)
            exchange.fail(error)
            self.owner.refill()
        elif exchange in self._running:
            first = self._running[0]
            if first is exchange or first.status_code < 200:
                self.kill(InformationalError("aborted"), failing=exchange, error=error)
            else:
                self._abort_behind(exchange, error)

    def _abort_behind(self, exchange: Exchange, error: BaseException) -> None:
        """Abort one that waits behind a response that has begun, which can neither be repeated nor should fail.

        The connection goes when those before it have ended; the ones behind it go elsewhere at once.
        """
        self.closing = True
        running = self._running
        again = list(self._fresh)
        self._fresh.clear()
        while running[-1] is not exchange:
            again.insert(0, running.pop())
        running.pop()
        self.owner.requeue(again)
        self.owner.release(exchange)
        annotate(error, phase="headers", reused=self.served > 0)
        exchange.fail(error)
        self.owner.refill()

    def pause_exchange(self, exchange: Exchange) -> None:
        if self._running and self._running[0] is exchange and exchange.status_code >= 200:
            self._hold()

    def resume_exchange(self, exchange: Exchange) -> None:
        if self._parser.paused:
            self._loop.call_soon(self._continue)

    # -- writing ---------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what was assigned since the last flush."""
        self._staged = False
        fresh = self._fresh
        running = self._running
        host = self._settings.host
        was_waiting = bool(running)
        parts: list[bytes | memoryview] = []
        # What lies behind a body with a task of its own waits for its end: nothing may slip in between.
        while fresh and not self.dead and self._writer is None:
            exchange = fresh.popleft()
            self._starting = exchange
            exchange.attempt += 1
            try:
                context = exchange.context
                exchange.handler.on_request_start(exchange, {} if context is None else context)
            except BaseException as error:
                self._starting = None
                self._not_started(exchange, error)
                continue
            self._starting = None
            if exchange.done:
                self._not_started(exchange, None)
                continue
            if self.dead:
                # The callback closed the client, whose `kill` could not see this one.
                self.owner.connection_gone(self, InformationalError("closed"), [exchange], [])
                break
            running.append(exchange)
            cache = exchange.options.wire_cache
            if cache is not None and cache[0] is host and not self.closing:
                data = cache[1]
            else:
                data = self._encode(exchange)
                if data is None:
                    # Its body has a task of its own, which writes the head, too. Till then no time runs.
                    if not was_waiting:
                        self._timer.deadline = NEVER
                    continue
            exchange.bytes_sent = len(data)
            parts.append(data)
            if diagnostics.CLIENT_SEND_HEADERS.subscribers or diagnostics.REQUEST_BODY_SENT.subscribers:
                self._publish_sent(exchange, data)
        if parts and not self.dead:
            self.transport.write(parts[0] if len(parts) == 1 else b"".join(parts))
            if not was_waiting:
                self._arm_headers(running[0])

    def _encode(self, exchange: Exchange) -> bytes | None:
        """The whole request, remembered with its options; None if the body is to be streamed."""
        options = exchange.options
        if options.body_kind > BYTES or (options.payload is not None and _streams(options)):
            self._exclusive = True
            self._writer = BodyWriter(self, exchange, self._loop)
            return None
        host = self._settings.host
        close = self.closing and not self._fresh
        data = encode_head(options, host, body_length(options), close=close)
        if options.payload is not None:
            data += options.payload
        if not close:
            object.__setattr__(options, "wire_cache", (host, data))
        return data

    def _publish_sent(self, exchange: Exchange, data: bytes) -> None:
        head = data[: data.index(b"\r\n\r\n") + 4].decode("latin-1")
        diagnostics.CLIENT_SEND_HEADERS.publish(
            {"request": exchange, "headers": head, "socket": self.transport}
        )
        if exchange.options.payload is not None:
            diagnostics.REQUEST_BODY_CHUNK_SENT.publish(
                {"request": exchange, "chunk": exchange.options.payload}
            )
        diagnostics.REQUEST_BODY_SENT.publish({"request": exchange})

    def _not_started(self, exchange: Exchange, error: BaseException | None) -> None:
        # Nothing was written: the connection is as good as before.
        self._unblock()
        self._exclusive = False
        self.owner.release(exchange)
        if error is not None:
            exchange.fail(error)
        self.owner.refill()
        if error is not None and not isinstance(error, Exception):
            raise error

    def framer(self, length: int) -> BodyFramer:
        return BodyFramer(length, strict=self._settings.strict_content_length)

    def write_head(self, exchange: Exchange, length: int, parts: list[bytes | memoryview]) -> None:
        head = encode_head(exchange.options, self._settings.host, length, close=self.closing)
        if diagnostics.CLIENT_SEND_HEADERS.subscribers:
            diagnostics.CLIENT_SEND_HEADERS.publish(
                {"request": exchange, "headers": head.decode("latin-1"), "socket": self.transport}
            )
        self.write_parts(exchange, [head, *parts])

    def write_parts(self, exchange: Exchange, parts: list[bytes | memoryview]) -> None:
        if self.dead or self._lost is not None:
            return
        exchange.bytes_sent += sum(map(len, parts))
        if len(parts) > 1 and sum(map(len, parts)) <= _INLINE_BODY:
            self.transport.write(b"".join(parts))
        else:
            for part in parts:
                self.transport.write(part)

    async def writable(self) -> None:
        """Return when the transport has room."""
        if self.transport.is_closing():
            # It takes all and sends nothing. Its end is about to be told, and `kill` then cancels who waits here.
            await self._loop.create_future()
        if self._room is not None:
            if self._head is None:
                # Only a peer that does not read is a reason to give up; a source may take its time.
                self._arm_headers(self._running[0])
            await asyncio.shield(self._room)
            if not self._parser.paused and not self.dead and not self._head:
                self._timer.disarm()

    def pause_writing(self) -> None:
        if self._room is None:
            self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._room is not None:
            if not self._room.done():
                self._room.set_result(None)
            self._room = None

    def body_sent(self, exchange: Exchange) -> None:
        self._writer = None
        if self.dead or exchange.done:
            return
        self._exclusive = exchange.options.upgrade is not None or exchange.options.method == "CONNECT"
        if diagnostics.REQUEST_BODY_SENT.subscribers:
            diagnostics.REQUEST_BODY_SENT.publish({"request": exchange})
        if exchange.status_code < 200:
            self._arm_headers(exchange)
        self._stage()
        self.owner.refill()

    def body_failed(self, exchange: Exchange, error: BaseException) -> None:
        self._writer = None
        if self.dead or exchange.done:
            return
        if exchange.bytes_sent == 0:
            self._exclusive = False
            self._running.remove(exchange)
            self._stage()
            self._not_started(exchange, error)
        else:
            annotate(error, phase="request")
            self.kill(InformationalError("request body failed"), failing=exchange, error=error)

    # -- reading: asyncio's side -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self.dead:
            return
        running = self._running
        if not running:
            self._unsolicited()
            return
        first = running[0]
        if first._paused and first.status_code >= 200:
            # Paused from another thread, whose call has not arrived yet.
            self._hold()
        try:
            self._parser.feed(data)
        except DodiciError as error:
            self._protocol_error(error)
            return
        if self.dead:
            return
        if running:
            if not self._parser.paused:
                self._arm(running[0], first)
            elif self._head is not None:
                self._timer.deadline = NEVER
        elif self._tunnel is not None:
            self._finish_hand_over(*self._tunnel)
        elif self._parser.rest:
            self._unsolicited()

    def eof_received(self) -> bool:
        if self.dead:
            return False
        self._truncated = self._without_close_notify()
        if self._parser.paused:
            self._eof = True
            return self.transport.get_extra_info("ssl_object") is None  # TLS cannot be kept half open
        self._peer_ended(None)
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        if self.dead:
            return
        if exc is None and not self._eof and self.transport.get_extra_info("ssl_object") is not None:
            self._truncated = True  # uvloop says no more of a connection that ended without close_notify
        if exc is not None and self._writer is not None and not self._parser.paused:
            left = read_leftover(self.transport, _LEFT)
            if left:
                self.data_received(left)
            if self.dead:
                return
        if self._parser.paused and self._running:
            # What had arrived is still to be delivered; what was to be written goes elsewhere.
            self._lost = (exc,)
            self.closing = True
            again = list(self._fresh)
            self._fresh.clear()
            self.owner.requeue(again)
        else:
            self._peer_ended(exc)

    def _without_close_notify(self) -> bool:
        """Whether a TLS connection ended as anybody on the way could have ended it (RFC 9112 9.8)."""
        ssl_object = self.transport.get_extra_info("ssl_object")
        if ssl_object is None:
            return False
        try:
            return bool(ssl_object.read(1) != b"")
        except ssl.SSLZeroReturnError:
            return False
        except ssl.SSLError:
            return True

    def _peer_ended(self, exc: BaseException | None) -> None:
        """The peer will send no more: complete what its end completes, and go."""
        error: DodiciError | None = None
        if exc is None and self._truncated and self._parser.state == UNTIL_CLOSE:
            exc = ConnectionResetError("TLS ended without close_notify: the body may be cut short")
        if exc is not None:
            error = socket_error(exc, "connection lost")
        elif self._running:
            self._eof = True  # whatever completes now, the connection serves no more
            try:
                self._parser.end_of_stream()
            except DodiciError as cut:
                head = self._head
                if isinstance(cut, SocketError) or (head is not None and not head.keep_alive):
                    error = cut
                else:
                    error = SocketError("other side closed")
                    error.__cause__ = cut
        if self.dead:
            return
        error = error or SocketError("other side closed")
        if not self._running:
            self.kill(error)
            return
        first = self._running[0]
        untouched = first.status_code == 0 and self._parser.between_messages
        if (
            untouched
            and self.served > 0
            and self._settings.retry_stale
            and first.options.repeatable
            and not first.retried
        ):
            self.kill(error, stale=True)
        else:
            self.kill(error, failing=first, error=error)

    def _unsolicited(self) -> None:
        """Bytes that answer nothing: whatever they are, they must not be taken for the next response."""
        self.kill(SocketError("bad response: the server sent bytes on an idle connection"))

    def _protocol_error(self, error: DodiciError) -> None:
        if self._running:
            self.kill(error, failing=self._running[0], error=error)
        else:
            self.kill(error)

    # -- reading: the parser's side --------------------------------------------------------------------

    def on_head(self, head: Head) -> int:
        exchange = self._running[0]
        status = head.status_code
        options = exchange.options
        if not options.plain or status < 200:
            taken = self._special_head(exchange, head)
            if taken is not None:
                return taken
        exchange.status_code = status
        if not head.minor:
            exchange.http_version = "1.0"
        self._head = head
        if self._writer is not None and self._writer.holding:
            # A final answer instead of 100: the body is never sent, and the connection cannot go on.
            self._writer.cancel()
        if self._blocked and not self._fresh and self._running[-1] is exchange:
            self._blocked = False
            self._loop.call_soon(self.owner.refill)
        if diagnostics.REQUEST_HEADERS.subscribers:
            self._publish_head(exchange, head)
        try:
            exchange.handler.on_response_start(exchange, status, head.headers, head.reason)
        except BaseException as error:
            self._raised(exchange, error)
            return FRAMED
        if exchange._paused:
            self._hold()
        return BODYLESS if options.method == "HEAD" else FRAMED

    def _special_head(self, exchange: Exchange, head: Head) -> int | None:
        """1xx, upgrades and CONNECT. None if the head is an ordinary final one after all."""
        status = head.status_code
        options = exchange.options
        upgraded = (options.upgrade is not None and status == 101) or (
            options.method == "CONNECT" and 200 <= status < 300
        )
        if upgraded:
            self._hand_over(exchange, head)
            return TAKEN_OVER
        if status >= 200:
            return None
        if status == 101:
            raise SocketError("bad upgrade: the server switched protocols unasked")
        if status == 100 and self._writer is not None:
            self._writer.go_on()
        if self._writer is None:
            self._arm_headers(exchange)
        if diagnostics.REQUEST_HEADERS.subscribers:
            self._publish_head(exchange, head)
        try:
            exchange.handler.on_response_start(exchange, status, head.headers, head.reason)
        except BaseException as error:
            self._raised(exchange, error)
        return FRAMED

    def _publish_head(self, exchange: Exchange, head: Head) -> None:
        response = {"status_code": head.status_code, "headers": head.headers, "status_text": head.reason}
        diagnostics.REQUEST_HEADERS.publish({"request": exchange, "response": response})

    def on_data(self, chunk: bytes) -> None:
        exchange = self._running[0]
        exchange.bytes_read += len(chunk)
        limit = self._settings.max_response_size
        if exchange.bytes_read > limit >= 0:
            raise ResponseExceededMaxSizeError(f"response exceeds {limit} bytes (max_response_size)")
        if diagnostics.REQUEST_BODY_CHUNK_RECEIVED.subscribers:
            diagnostics.REQUEST_BODY_CHUNK_RECEIVED.publish({"request": exchange, "chunk": chunk})
        try:
            exchange.handler.on_response_data(exchange, chunk)
        except BaseException as error:
            self._raised(exchange, error)
            return
        if exchange._paused:
            self._hold()

    def on_message(self, trailers: Headers) -> bool:
        running = self._running
        exchange = running.popleft()
        head = self._head
        assert head is not None
        self._head = None
        self.served += 1
        if self.served == 1 and self.server_name is not None:
            remember_session(self.transport, self.server_name)
        keep = head.keep_alive and not self._eof and self._writer is None
        if not running and not self._fresh:
            self._blocked = False
            keep = keep and not self.closing and self._arm_idle(head.idle_hint)
        if not exchange.options.plain:
            self._exclusive = False
        exchange.end()
        if diagnostics.REQUEST_TRAILERS.subscribers:
            diagnostics.REQUEST_TRAILERS.publish({"request": exchange, "trailers": trailers})
        owner = self.owner
        if not keep:
            # Not one byte more may be taken for a response: the parser stops before the callback is made.
            self._parser.stop()
            self.closing = True
        owner.release(exchange)
        try:
            exchange.handler.on_response_end(exchange, trailers)
        except Exception as error:
            self._end_raised(exchange, error)
        if keep:
            owner.refill()
        else:
            self.kill(InformationalError("reset: the connection is not kept alive"))
        return bool(running)

    def _end_raised(self, exchange: Exchange, error: BaseException) -> None:
        # The response is complete, so the connection is as good as ever; the handler learns of its mistake.
        exchange.done = False
        exchange.fail(error)

    def _raised(self, exchange: Exchange, error: BaseException) -> None:
        self.kill(InformationalError("a callback raised"), failing=exchange, error=error)
        if not isinstance(error, Exception):
            raise error

    def _hand_over(self, exchange: Exchange, head: Head) -> None:
        """Let go of the transport: `disconnect` first, then the callback, with a socket that is ready."""
        self._running.remove(exchange)
        exchange.status_code = head.status_code
        self._tunnel = (exchange, head)
        self._timer.close()
        self.transport.pause_reading()

    def _finish_hand_over(self, exchange: Exchange, head: Head) -> None:
        early = self._parser.take_rest()
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.cancel()
        self.dead = True
        again = [*self._running, *self._fresh]
        self._running.clear()
        self._fresh.clear()
        socket = UpgradedSocket(self.transport, early, self._loop)
        self.owner.release(exchange)
        self.owner.connection_gone(self, InformationalError("upgrade"), again, [])
        if not self.closed.done():
            self.closed.set_result(None)
        exchange.end()
        try:
            exchange.handler.on_request_upgrade(exchange, head.status_code, head.headers, socket)
        except Exception as error:
            socket.abort()
            exchange.done = False
            exchange.fail(error)

    # -- pausing ---------------------------------------------------------------------------------------

    def _hold(self) -> None:
        if not self._parser.paused and not self.dead:
            self._parser.paused = True
            self._timer.deadline = NEVER
            if self._lost is None:
                self.transport.pause_reading()

    def _continue(self) -> None:
        """Go on after a pause: first what had been read, then what became of the connection meanwhile."""
        parser = self._parser
        if self.dead or not parser.paused:
            return
        if self._running and self._running[0]._paused:
            return
        parser.paused = False
        self.data_received(b"")
        if self.dead or parser.paused:
            return
        if self._lost is not None:
            self._peer_ended(self._lost[0])
        elif self._eof:
            self._peer_ended(None)
        else:
            self.transport.resume_reading()

    # -- timers ----------------------------------------------------------------------------------------

    def _arm_headers(self, exchange: Exchange) -> None:
        seconds = exchange.options.headers_timeout
        if seconds is None:
            seconds = self._settings.headers_timeout
        if seconds >= COARSE:
            self._timer.deadline = self._timers.base + seconds
        else:
            self._timer.arm(seconds)

    def _arm(self, first: Exchange, before: Exchange) -> None:
        """After a read: what is awaited now, a head or more of a body?"""
        if self._head is None:
            # Once per head: one that comes a byte at a time gets no more time for that.
            if first is not before and self._writer is None:
                self._arm_headers(first)
            return
        seconds = first.options.body_timeout
        if seconds is None:
            seconds = self._settings.body_timeout
        if seconds >= COARSE:
            self._timer.deadline = self._timers.base + seconds
        else:
            self._timer.arm(seconds)

    def _arm_idle(self, hint: float | None) -> bool:
        """Keep the connection for the next request, or not: False if the server would close it too soon."""
        settings = self._settings
        seconds = settings.keep_alive_timeout
        if hint is not None:
            seconds = min(hint - settings.keep_alive_threshold, settings.keep_alive_max_timeout)
        if seconds <= 0:
            return False
        if seconds >= COARSE:
            # Up to two ticks late by nature: the threshold is there to absorb it.
            self._timer.deadline = self._timers.base + seconds
        else:
            self._timer.arm(seconds)
        return True

    def _on_timer(self) -> None:
        if self.dead:
            return
        if not self._running:
            if not self._fresh:
                self.kill(InformationalError("socket idle timeout"))
            return
        first = self._running[0]
        if first.status_code >= 200 and self._parser.paused:
            return
        error = self._settings.timeout_error(first)
        self.kill(error, failing=first, error=error)

    # -- the way out -----------------------------------------------------------------------------------

    def _unblock(self) -> None:
        in_flight = self._fresh[-1] if self._fresh else self._running[-1] if self._running else None
        if in_flight is None:
            self._blocked = self._exclusive = self.closing = False
            self.rest()
        else:
            self._blocked = bool(in_flight.options.blocking) and in_flight.status_code < 200

    def give_up(self, reason: DodiciError) -> None:
        """Close a connection that was not completely made, of whose end no loop may ever tell."""
        self.kill(reason)
        if self.transport is not None:
            self.transport.abort()
        if not self.closed.done():
            self.closed.set_result(None)

    def kill(
        self,
        reason: DodiciError,
        *,
        failing: Exchange | None = None,
        error: BaseException | None = None,
        stale: bool = False,
    ) -> None:
        """Close the connection. `failing` fails with `error`; all others go back to the owner."""
        if self.dead:
            return
        self.dead = True
        self._parser.stop()
        self._timer.close()
        if self._writer is not None:
            self._writer.cancel()
            self._writer = None
        if self.transport is not None:
            if failing is None and not self._running:
                self.transport.close()  # politely: TLS says goodbye
            else:
                self.transport.abort()
        again = [exchange for exchange in (*self._running, *self._fresh) if exchange is not failing]
        self._running.clear()
        self._fresh.clear()
        failed: list[Failure] = []
        if failing is not None and error is not None:
            phase = "request" if self._exclusive and not failing.status_code else None
            annotate(
                error,
                phase=phase or ("body" if failing.status_code >= 200 else "headers"),
                reused=self.served > 0,
                peer=self.transport.get_extra_info("peername") if self.transport is not None else None,
            )
            failed.append((failing, error))
        if stale and again:
            again[0].retried = True
        self.owner.connection_gone(self, reason, again, failed, retries=int(stale and bool(again)))


def _streams(options: Any) -> bool:
    return options.expect_continue or len(options.payload) > _INLINE_BODY

"""One HTTP/2 connection: engine, transport and exchanges.

Exchanges pass through two places here: `_fresh`, assigned and not yet written, and the engine's table of streams,
where an `H2Stream` carries each. What happens to one stream is told to that stream; what concerns all comes here:
settings, GOAWAY, the transport's pauses, PING, and the end.

A connection is `closing` once it takes no more: its numbers or its requests are used up, or the peer has said
GOAWAY. Its owner was told by `connection_gone` then and may make another one; the streams that are left run to
their end, and the connection ends with the last. `kill` ends it at once.
"""

from __future__ import annotations

import asyncio
from collections import deque

from ..core import diagnostics
from ..core.controller import Exchange
from ..core.errors import (
    DodiciError,
    HeadersTimeoutError,
    HTTP2Error,
    InformationalError,
    SocketError,
    StreamResetError,
    annotate,
    socket_error,
    twin,
)
from ..core.options import DispatchOptions
from ..core.timers import SLACK, TICK
from ..wire.h2.engine import Engine
from ..wire.h2.frames import ConnectionFault, error_name
from ..wire.h2.streams import Stream
from .connection import ConnectionSettings, Failure, Owner
from .h2_requests import encode, publish_sent, upgrades
from .h2_stream import H2Stream
from .h2_watch import ASK, GONE, PeerWatch
from .loop import LoopServices
from .tls import remember_session

_PORTION = 256 * 1024
"""Bytes of bodies that are framed and written at a time."""
_UNREAD = 8 * 1024 * 1024
"""Bytes that may wait for a peer that does not read; bodies wait elsewhere, so this is heads and answers to PING."""
_PING = b"dodici12"
_GOODBYE = 1.0
"""Seconds after which a connection is cut whose peer does not read our farewell."""


class H2Connection(asyncio.Protocol):
    """The protocol of one HTTP/2 connection."""

    multiplexed = True

    __slots__ = (
        "_allowed",
        "_blocked",
        "_fresh",
        "_goaway",
        "_receiving",
        "_refill_due",
        "_services",
        "_staged",
        "_starting",
        "_ticked",
        "_tunnels",
        "_watch",
        "_timer",
        "closed",
        "closing",
        "dead",
        "engine",
        "left",
        "limit",
        "loop",
        "owner",
        "peername",
        "running",
        "served",
        "server_name",
        "settings",
        "timers",
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
        self.settings = settings
        self.loop = loop
        self._services = services
        self.timers = services.timers
        self._timer = services.timers.timer(self._on_timer)
        self.engine = Engine(self, settings.h2, settings.sections, settings.max_header_size, loop.time)
        self._fresh: deque[Exchange] = deque()
        self.running: dict[H2Stream, None] = {}
        """Streams whose handlers await something, in order; some may have left the engine's table already."""
        self._tunnels: dict[H2Stream, None] = {}
        self._starting: Exchange | None = None
        self._staged = False
        self._receiving = False
        self._refill_due = False
        self._blocked = False
        self.left = False
        """Whether the owner was told that the connection takes no more."""
        self._goaway = ""
        self._watch = PeerWatch(settings.ping_interval, settings.ping_timeout)
        self._ticked = 0.0
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # until connection_made
        self.peername: object = None
        self.closed: asyncio.Future[None] = loop.create_future()
        self.closing = False
        """No more requests, those that run go on."""
        self.dead = False
        self.served = 0
        self.server_name: str | None = None
        self.limit: int | None = None
        # One request may go ahead of the peer's SETTINGS; a hundred might all be refused.
        self._allowed = 1

    # -- the owner's side ------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        return not self.running and not self._fresh and self._starting is None

    def offer(self, exchange: Exchange) -> bool:
        """Take an exchange, if there is a stream for it."""
        if self.closing or self.dead or len(self.engine.streams) + len(self._fresh) >= self._allowed:
            return False
        exchange.carrier = self
        self._fresh.append(exchange)
        if self.settings.max_requests or self.owner.single_use:
            self._maybe_last()
        if not self._staged:
            self._staged = True
            self._services.batch.add(self)
        return True

    def _maybe_last(self) -> None:
        count = self.served + len(self.engine.streams) + len(self._fresh)
        if self.owner.single_use or count >= self.settings.max_requests:
            self.closing = True

    def stage(self) -> None:
        """Write what is to be written when this loop turn's work is done."""
        if not self._staged and not self.dead:
            self._staged = True
            self._services.batch.add(self)

    def rest(self) -> None:
        """There is nothing to do: begin to count the idle time."""
        if self.engine.streams or self._fresh or self.dead:
            return
        if self.limit == 0:
            self._timer.arm(self.settings.headers_timeout)
        elif self.settings.keep_alive_timeout > 0:
            self._timer.arm(self.settings.keep_alive_timeout)
        else:
            # Not `kill`: a response that arrived while its handler paused is still to be delivered.
            self._die(InformationalError("reset: idle connections are not kept"))

    def abort_exchange(self, exchange: Exchange, error: BaseException) -> None:
        """Abort one that was not written yet."""
        if exchange is self._starting:
            exchange.fail(error)
        elif exchange in self._fresh:
            self._fresh.remove(exchange)
            self.owner.release(exchange)
            exchange.fail(error)
            self.stream_over()

    def pause_exchange(self, exchange: Exchange) -> None:
        """Nothing to hold back before the response."""

    def resume_exchange(self, exchange: Exchange) -> None:
        """Nothing was held back before the response."""

    # -- writing ---------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what was assigned since the last flush, and all that waits."""
        self._staged = False
        if self.dead:
            return
        if self._fresh:
            self._open_fresh()
            if self.dead:
                return
        engine = self.engine
        outbox = engine.outbox
        if not self._blocked:
            engine.fill(_PORTION)
        if outbox.parts:
            self.transport.write(outbox.take())
            if self._blocked and self.transport.get_write_buffer_size() > _UNREAD:
                self._end(SocketError("the server does not read what it is sent"))
                return
        if outbox.ready and not self._blocked:
            self.stage()

    def _open_fresh(self) -> None:
        fresh = self._fresh
        engine = self.engine
        origin = self.settings.h2_origin
        while fresh and not self.dead:
            exchange = fresh[0]
            options = exchange.options
            if not options.plain and not engine.peer.received:
                # SETTINGS say whether the server knows of upgrades, and what its windows are: nginx refuses a body
                # that comes before, and a source cannot be asked again. They stage another flush.
                self._timer.arm(self.settings.headers_seconds(options))
                return
            fresh.popleft()
            if options.upgrade is not None and not upgrades(options.upgrade, self.settings, engine.peer):
                self.owner.needs_http1(exchange)
                continue
            block = b""
            self._starting = exchange
            exchange.attempt += 1
            try:
                context = exchange.context
                exchange.handler.on_request_start(exchange, {} if context is None else context)
                cache = options.wire_cache
                if cache is not None and cache[0] is origin and cache[2] <= engine.peer.max_header_list_size:
                    block = cache[1]
                elif not exchange.done:
                    block = encode(options, self.settings, engine.peer)
            except BaseException as error:
                self._starting = None
                self._not_started(exchange, error)
                continue
            self._starting = None
            if exchange.done:
                self._not_started(exchange, None)
            elif self.dead:
                # The callback closed the client, whose `kill` could not see this one.
                self.owner.connection_gone(self, InformationalError("closed"), [exchange], [])
                return
            else:
                self._open(exchange, options, block)
                if engine.exhausted:
                    self.closing = True
                    break
        if self.closing and not self.dead:
            self._leave(InformationalError("the connection takes no more requests"), list(fresh))

    def _open(self, exchange: Exchange, options: DispatchOptions, block: bytes) -> None:
        engine = self.engine
        stream = H2Stream(self, exchange)
        exchange.carrier = stream
        self.running[stream] = None
        exchange.bytes_sent = len(block) + 9
        if not engine.streams:
            self._ticked = self.loop.time()
            self._timer.deadline = 0.0  # at every tick
        if options.method == "HEAD":
            stream.bodiless = True
        if diagnostics.CLIENT_SEND_HEADERS.subscribers or diagnostics.REQUEST_BODY_SENT.subscribers:
            publish_sent(exchange, block, self.transport)
        if options.plain:
            payload = options.payload
            engine.open(stream, block, end=payload is None)
            if payload is not None:
                engine.send(stream, payload)
                engine.end(stream)
            stream.arm_headers()
        elif options.upgrade is not None or options.method == "CONNECT":
            stream.connect = True
            engine.open(stream, block, end=False)
            stream.arm_headers()
        else:
            engine.open(stream, block, end=False)
            stream.write_body()

    def _not_started(self, exchange: Exchange, error: BaseException | None) -> None:
        # Nothing was written: the connection is as good as before.
        self.owner.release(exchange)
        if error is not None:
            exchange.fail(error)
        self.stream_over()
        if error is not None and not isinstance(error, Exception):
            raise error

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False
        if self.engine.outbox.ready:
            self.stage()

    # -- reading: asyncio's side -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.peername = transport.get_extra_info("peername")
        self.engine.start()
        self.transport.write(self.engine.outbox.take())

    def data_received(self, data: bytes) -> None:
        if self.dead:
            return
        self._watch.heard = True
        self._receiving = True
        try:
            self.engine.receive(data)
        except ConnectionFault as fault:
            self._receiving = False
            self._fault(fault)
            return
        finally:
            self._receiving = False
        if self._refill_due:
            # Once for all the streams that ended: a hundred answers in one read would ask a hundred times.
            self._refill_due = False
            self.owner.refill()
        outbox = self.engine.outbox
        if outbox.parts or outbox.ready:
            self.stage()

    def eof_received(self) -> bool:
        if not self.dead:
            self._peer_ended(None)
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)
        if not self.dead:
            self._peer_ended(exc)

    def _peer_ended(self, exc: BaseException | None) -> None:
        if exc is not None:
            error: SocketError = socket_error(exc, "connection lost")
        elif self._goaway:
            code = self.engine.goaway_code or 0
            error = HTTP2Error(f"other side closed after {self._goaway}", error_code=code)
        else:
            error = SocketError("other side closed")
        self._end(error, stale=self.served > 0 and self.settings.retry_stale)

    def _fault(self, fault: ConnectionFault) -> None:
        self._end(HTTP2Error(f"{fault} ({fault.code.name})", error_code=fault.code))

    # -- the engine's side -----------------------------------------------------------------------------

    def on_settings(self) -> None:
        limit = min(self.engine.peer.max_concurrent_streams, self.settings.max_streams)
        if self.owner.single_use:
            limit = min(limit, 1)
        changed, self.limit, self._allowed = limit != self.limit, limit, limit
        excess = len(self.engine.streams) + len(self._fresh) - limit
        if excess > 0 and self._fresh:
            back = [self._fresh.pop() for _ in range(min(excess, len(self._fresh)))]
            self.owner.requeue(back[::-1])
        if self._fresh:
            self.stage()
        if changed and not self.closing:
            self.owner.limit_changed(self)

    def on_goaway(self, code: int, debug: bytes, unprocessed: list[Stream]) -> None:
        text = debug[:200].decode("utf-8", "replace")
        self._goaway = f"GOAWAY ({error_name(code)}{': ' + text if text else ''})"
        again: list[Exchange] = []
        failed: list[Failure] = []
        denied: list[H2Stream] = []
        # Once is the rule, lest a server that takes nothing be asked for ever. One that ends each connection after
        # so many requests takes some of them every time, and the first of those that wait come first then.
        progress = self.served > 0 or bool(self.engine.streams)
        for stream in unprocessed:
            assert isinstance(stream, H2Stream)
            exchange = stream.exchange
            if exchange.status_code or stream.tunnel is not None:
                denied.append(stream)
                self._tunnels.pop(stream, None)
                continue
            if self.running.pop(stream, self) is self:
                continue
            stream.detach()
            if _replayable(exchange, progress):
                exchange.retried = exchange.retried or not progress
                again.append(exchange)
            else:
                error = HTTP2Error(
                    f"the server did not take the request: {self._goaway}",
                    error_code=code,
                    request_not_processed=True,
                )
                failed.append((exchange, self._annotated(error, stream)))
        retries = len(again)
        reason: DodiciError = InformationalError(self._goaway)
        if code or (self._fresh and not (self.served or again or failed or self.engine.streams)):
            # With an error, or before it has taken anything at all: that is no ordinary way to go.
            reason = HTTP2Error(f"other side closed after {self._goaway}", error_code=code)
        self._leave(reason, [*again, *self._fresh], failed, retries)
        for stream in denied:
            # It says that it has not begun what it has begun to answer.
            stream.on_failed(HTTP2Error(f"the server gave the stream up: {self._goaway}", error_code=code))

    def on_pong(self, payload: bytes) -> None:
        """Whatever is heard says that the peer is there."""

    def try_again(self, stream: H2Stream, error: BaseException) -> bool:
        """Whether a request that the server refused unprocessed is sent once more (RFC 9113 section 8.7)."""
        exchange = stream.exchange
        if not (isinstance(error, StreamResetError) and error.request_not_processed):
            return False
        if exchange.done or exchange.status_code or not _replayable(exchange):
            return False
        stream.detach()
        del self.running[stream]
        exchange.retried = True
        self.owner.requeue([exchange], retries=1, left=self.left)
        self.loop.call_soon(self.owner.refill)
        return True

    # -- what streams tell -----------------------------------------------------------------------------

    def served_first(self) -> None:
        """The first response is complete."""
        if self.server_name is not None:
            remember_session(self.transport, self.server_name)

    def release(self, stream: H2Stream) -> None:
        """A stream is over; its handler is about to be told."""
        del self.running[stream]
        self.owner.release(stream.exchange, left=self.left)

    def tunnel_begun(self, stream: H2Stream) -> None:
        """A stream is not an exchange's any more, but counts as long as it lasts."""
        self.release(stream)
        self._tunnels[stream] = None

    def tunnel_over(self, stream: H2Stream) -> None:
        """A tunnel was closed, from whichever side."""
        self._tunnels.pop(stream, None)
        self.stream_over()

    def stream_over(self) -> None:
        """A stream has ended, and its handler was told."""
        if self.dead:
            self.owner.refill()  # what was held outlived the connection, and its slot is free only now
            return
        if not self.engine.streams and not self._fresh:
            if self.closing:
                self._die(InformationalError("the connection takes no more requests"))
                return
            self.rest()
        if self._receiving:
            self._refill_due = True
        else:
            self.owner.refill()

    # -- timers ----------------------------------------------------------------------------------------

    def _on_timer(self) -> None:
        if self.dead:
            return
        if not self.engine.streams:
            if self._fresh:
                if not self.engine.peer.received:
                    self._without_settings()
                return
            if self.limit == 0:
                error = HeadersTimeoutError(
                    "the server has accepted no stream (SETTINGS_MAX_CONCURRENT_STREAMS=0) "
                    f"for {self.settings.headers_timeout:g} s (headers_timeout)",
                    request_not_processed=True,
                )
                self.owner.starved(error)
                self._die(InformationalError("the server accepts no streams"))
            else:
                self._die(InformationalError("socket idle timeout"))
            return
        now = self.loop.time()
        late = now - self._ticked - TICK
        self._ticked = now
        self._timer.deadline = 0.0
        if late > SLACK:
            # The loop was blocked: what has arrived meanwhile was not seen.
            for stream in self.running:
                stream.stamp += late
            return
        for stream in list(self.running):
            if stream.stamp + stream.patience <= now:
                stream.timed_out()
        if self.dead:
            return
        state = self._watch.look(now)
        if state == ASK:
            self.engine.ping(_PING)
            self.stage()
        elif state == GONE:
            self._end(SocketError(f"no answer to PING for {self.settings.ping_timeout:g} s (ping_timeout)"))

    def _without_settings(self) -> None:
        """The peer did not even say hello while a request waited for it."""
        error = HeadersTimeoutError(
            f"the server sent no SETTINGS within {self.settings.headers_seconds(self._fresh[0].options):g} s "
            "(headers_timeout)",
            request_not_processed=True,
        )
        failed: list[Failure] = [(exchange, twin(error)) for exchange in self._fresh]
        self._fresh.clear()
        self._die(error, [], failed)

    # -- the way out -----------------------------------------------------------------------------------

    def _annotated(self, error: DodiciError, stream: H2Stream | None = None) -> DodiciError:
        annotate(error, reused=self.served > 0, peer=self.peername)
        if stream is not None:
            annotate(error, phase=stream.phase)
        return error

    def leave(self, reason: DodiciError) -> None:
        """Take no more; what was begun goes on, and what was not goes back."""
        if not self.dead and not self.closing:
            self._leave(reason, list(self._fresh))

    def _leave(
        self,
        reason: DodiciError,
        again: list[Exchange],
        failed: list[Failure] | None = None,
        retries: int = 0,
    ) -> None:
        """Take no more, and go on with what was begun."""
        self.closing = True
        self._fresh.clear()
        failed = failed or []
        if not self.engine.streams:
            self._die(reason, again, failed, retries)
        elif again or failed or not self.left:
            self._report(reason, again, failed, retries)

    def _end(self, error: DodiciError, *, stale: bool = False) -> None:
        """The connection is lost: each stream fails, or goes back if it may be sent again. What is paused may
        have data to deliver first.
        """
        again: list[Exchange] = []
        failed: list[Failure] = []
        for stream in list(self.running):
            exchange = stream.exchange
            own = self._annotated(twin(error), stream)
            if stream.holding:
                stream.on_failed(own)
                continue
            del self.running[stream]
            stream.detach()
            if stale and not exchange.status_code and exchange.options.repeatable and not exchange.retried:
                exchange.retried = True
                again.append(exchange)
            else:
                failed.append((exchange, own))
        retries = len(again)
        again += self._fresh
        self._fresh.clear()
        if self.dead:
            self._report(error, again, failed, retries)
        else:
            self._die(error, again, failed, retries)

    def kill(self, reason: DodiciError) -> None:
        """Close the connection. All that it carries goes back to the owner, who knows what becomes of it."""
        if self.dead and not self.running:
            return
        back = [stream.exchange for stream in self.running]
        lasts = bool(self._tunnels) and not self.dead
        for stream in self.running:
            stream.detach()
            if lasts:
                self.engine.reset(stream)
        self.running.clear()
        back += self._fresh
        self._fresh.clear()
        if lasts:
            # A socket that was handed over is its owner's: the connection lasts for it, and nobody waits for that.
            self.closing = True
            if not self.closed.done():
                self.closed.set_result(None)
            self.stage()
        if lasts or self.dead:
            self._report(reason, back, [], 0)
        else:
            self._die(reason, back)

    def give_up(self, reason: DodiciError) -> None:
        """Close a connection that was not completely made, of whose end no loop may ever tell."""
        self.kill(reason)
        if self.transport is not None:
            self.transport.abort()
        if not self.closed.done():
            self.closed.set_result(None)

    def _die(
        self,
        reason: DodiciError,
        again: list[Exchange] | None = None,
        failed: list[Failure] | None = None,
        retries: int = 0,
    ) -> None:
        self.dead = self.closing = True
        self._timer.close()
        engine = self.engine
        engine.close()
        cut = [
            tunnel for tunnel in self._tunnels if not tunnel.gone
        ]  # the others have ended, and may be read still
        for stream in engine.streams.values():
            stream.gone = True
        engine.streams.clear()
        for tunnel in cut:
            tunnel.on_failed(reason)
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.write(engine.outbox.take())
            transport.close()
            if transport.get_write_buffer_size():
                self.loop.call_later(_GOODBYE, transport.abort)  # a peer that does not read is not waited for
        self._report(reason, again or [], failed or [], retries)

    def _report(
        self, reason: DodiciError, again: list[Exchange], failed: list[Failure], retries: int
    ) -> None:
        if self.left:
            left = -len(again) - len(failed)
        else:
            self.left = True
            left = len(self.running)
        self.owner.connection_gone(self, reason, again, failed, retries=retries, left=left)


def _replayable(exchange: Exchange, progress: bool = False) -> bool:
    options = exchange.options
    return (progress or not exchange.retried) and (options.replayable or not exchange.source_taken)

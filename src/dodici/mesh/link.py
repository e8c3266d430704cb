"""A link between two members: engine, transport, and the streams of both directions.

Exchanges pass through two places here: `_fresh`, assigned and not yet written, and the engine's table `ours`, where
a `ClientStream` carries each. The peer's requests are in the table `theirs` while either side has something to
say, and in `_serving` until the host has done with them: an app may go on after its client has gone.

What is to be written is collected, and flushed once per turn of the loop, or as soon as 32 frames or 64 KiB are there:
two members that are both busy would otherwise run in lock-step. Bodies wait in their streams while the transport
is above its high-water mark.

A link is lost once, in `_lose`: exchanges that were written fail, those in `_fresh` go back to the owner, the peer's
requests see a disconnect.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from ..core import diagnostics
from ..core.controller import Exchange
from ..core.errors import LinkError, socket_error
from ..core.options import DispatchOptions
from ..core.timers import NEVER, SLACK, TICK, Timer
from ..net.connection import Patience
from ..net.leftover import read_leftover
from ..net.local import QueueTransport, open_local
from ..net.loop import LoopServices, services as services_of
from ..wire.mesh import frames
from ..wire.mesh.engine import Engine
from ..wire.mesh.heads import RequestHead
from .client_stream import ClientStream
from .link_requests import OURS, Encoded, encode, publish_sent
from .server_stream import ServerStream

if TYPE_CHECKING:
    import socket

    from .contracts import LinkOwner, RequestSink
    from .messages import MessagePipe
    from .snapshot import MemberInfo

_EARLY_FRAMES = 32
_EARLY_BYTES = 64 * 1024
_PORTION = 128 * 1024
"""Bytes of bodies that are written in one turn: what is small waits for no more than these."""
_JOINED = 64 * 1024
"""Bytes up to which one copy is cheaper than many buffers."""
_UNREAD = 16 * 1024 * 1024
"""Bytes that may wait for a peer that does not read; bodies wait elsewhere, so these are heads and whole messages."""
_GOODBYE = 1.0
"""Seconds after which a transport is cut whose peer does not read our farewell."""


async def open_link(
    end: socket.socket | QueueTransport,
    *,
    member_id: str,
    peer: MemberInfo,
    sink: RequestSink | None,
    owner: LinkOwner,
    services: LoopServices | None = None,
    headers_timeout: float = 300.0,
    body_timeout: float = 300.0,
) -> Link:
    """Make a link of one end of a connected pair, on the running loop, and begin to speak.

    Args:
        end: a connected unix stream socket, which is taken over, or one of a `queue_pair`.
        member_id: who this side is.
        peer: who the other side is; it has to say so, too.
        sink: takes the peer's requests; None refuses them.
        owner: hears of its end.
        services: of the running loop.
        headers_timeout: seconds for the head of a response, where options do not say otherwise; 0 disables.
        body_timeout: seconds between two pieces of a body, likewise.

    Raises:
        OSError: the socket cannot be used.
    """
    loop = asyncio.get_running_loop()
    link = Link(
        member_id=member_id,
        peer=peer,
        sink=sink,
        owner=owner,
        services=services or services_of(loop),
        loop=loop,
        headers_timeout=headers_timeout,
        body_timeout=body_timeout,
    )
    if isinstance(end, QueueTransport):
        end.start(link)
    else:
        await open_local(end, lambda: link, loop)
    return link


class Link(asyncio.BufferedProtocol):
    """One end of a link; `open_link` makes it."""

    __slots__ = (
        "_acks",
        "_asked",
        "_barriers",
        "_blocked",
        "_fresh",
        "_heads",
        "_pipes",
        "_serving",
        "_sink",
        "_staged",
        "_starting",
        "_ticked",
        "_timer",
        "engine",
        "loop",
        "lost",
        "member_id",
        "owner",
        "peer",
        "running",
        "served",
        "settings",
        "timers",
        "transport",
    )

    def __init__(
        self,
        *,
        member_id: str,
        peer: MemberInfo,
        sink: RequestSink | None,
        owner: LinkOwner,
        services: LoopServices,
        loop: asyncio.AbstractEventLoop,
        headers_timeout: float = 300.0,
        body_timeout: float = 300.0,
    ) -> None:
        self.member_id = member_id
        self.peer = peer
        self.owner = owner
        self.loop = loop
        self.timers = services.timers
        self.settings = Patience(headers_timeout, body_timeout)
        self.engine = Engine(self)
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # until connection_made
        self.lost = False
        self.running = 0
        self.served = 0
        """Responses that were completed."""
        self._sink = sink
        self._fresh: deque[Exchange] = deque()
        self._starting: Exchange | None = None
        self._serving: set[ServerStream] = set()
        self._heads: list[ServerStream] = []
        self._pipes: list[MessagePipe] = []
        self._staged = False
        self._blocked = False
        self._timer: Timer | None = None
        self._ticked = 0.0
        self._barriers: dict[int, asyncio.Future[None]] = {}
        self._asked = 0
        self._acks: list[int] = []

    @property
    def serving(self) -> int:
        """Requests of the peer that are queued or running."""
        return len(self._serving)

    @property
    def unwritten(self) -> int:
        """Bytes that were sent, and that the kernel has not taken yet: they end with the process."""
        return 0 if self.lost else self.transport.get_write_buffer_size()

    @property
    def peer_name(self) -> str:
        """The peer, as messages call it."""
        return f"worker {self.peer.name!r} (pid {self.peer.pid})"

    # -- the client's side -----------------------------------------------------------------------------

    def offer(self, exchange: Exchange) -> None:
        exchange.carrier = self
        self.running += 1
        self._fresh.append(exchange)
        if self.lost:
            # As if it had been lost a moment later.
            self.loop.call_soon(self._hand_back)
        elif not self._staged:
            self._staged = True
            self.loop.call_soon(self.flush)

    def _hand_back(self) -> None:
        unsent = self._take_unsent()
        if unsent:
            self.owner.link_lost(self, None, unsent)

    def abort_exchange(self, exchange: Exchange, error: BaseException) -> None:
        """Abort one that was not written yet; `flush` passes over it."""
        self.running -= 1
        exchange.fail(error)
        self.ended()

    def pause_exchange(self, exchange: Exchange) -> None:
        """Nothing to hold back before the response."""

    def resume_exchange(self, exchange: Exchange) -> None:
        """Nothing was held back before the response."""

    async def barrier(self) -> None:
        if self.lost:
            return
        self._asked = number = self._asked + 1
        answered = self._barriers[number] = self.loop.create_future()
        self.engine.outbox.write(frames.BARRIER, number)
        self.stage()
        try:
            await answered
        finally:
            self._barriers.pop(number, None)

    # -- writing ---------------------------------------------------------------------------------------

    def stage(self) -> None:
        """Write what is to be written when this loop turn's work is done, or now if it is much."""
        if not self._staged:
            if not self.lost:
                self._staged = True
                self.loop.call_soon(self.flush)
            return
        outbox = self.engine.outbox
        if len(outbox.parts) >= _EARLY_FRAMES or outbox.size >= _EARLY_BYTES:
            self._write()

    def hold_head(self, stream: ServerStream) -> None:
        """Send the head of a response at the end of the turn, unless its body is complete before."""
        self._heads.append(stream)
        self.stage()

    @property
    def blocked(self) -> bool:
        """Whether the transport has enough to write."""
        return self._blocked

    def wait_for_room(self, pipe: MessagePipe) -> None:
        """Call `pipe.pump()` when the transport has room again."""
        self._pipes.append(pipe)

    def flush(self) -> None:
        """Write what was assigned since the last flush, and all that waits."""
        self._staged = False
        if self.lost:
            return
        if self._fresh:
            self._open_fresh()
            if self.lost:
                return
        self._flush()

    def _flush(self) -> None:
        outbox = self.engine.outbox
        if self._heads:
            heads, self._heads = self._heads, []
            for stream in heads:
                stream.send_head()
        if self._acks:
            for number in self._acks:
                outbox.write(frames.BARRIER_ACK, number)
            self._acks.clear()
        if outbox.line and not self._blocked:
            for ended in outbox.fill(_PORTION):
                self.engine.body_sent(ended)
        if outbox.parts:
            self._write()
            if self._blocked and self.transport.get_write_buffer_size() > _UNREAD:
                self._fault(LinkError(f"{self.peer_name} does not read what it is sent"))
                return
        if outbox.line and not self._blocked:
            self.stage()

    def _write(self) -> None:
        outbox = self.engine.outbox
        joined = outbox.size <= _JOINED
        parts = outbox.take()
        if len(parts) == 1:
            self.transport.write(parts[0])
        elif joined:
            self.transport.write(b"".join(parts))
        else:
            self.transport.writelines(parts)

    def _open_fresh(self) -> None:
        fresh, engine = self._fresh, self.engine
        outbox = engine.outbox
        while fresh:
            if engine.last >= frames.MAX_STREAM:
                # The numbers are used up: the link ends with what runs on it, and its owner makes another one.
                if not engine.ours and not self._serving:
                    self.close()
                return
            exchange = fresh.popleft()
            if exchange.done:
                continue
            options = exchange.options
            self._starting = exchange
            exchange.attempt += 1
            try:
                encoded = options.wire_cache
                if encoded is None or encoded[0] is not OURS:
                    encoded = encode(options)
                context = exchange.context
                exchange.handler.on_request_start(exchange, {} if context is None else context)
            except BaseException as error:
                self._starting = None
                self._not_started(exchange, error)
                if self.lost:
                    return
                continue
            self._starting = None
            if self.lost:
                return
            if exchange.done:
                continue
            self._open(exchange, options, encoded)
            if len(outbox.parts) >= _EARLY_FRAMES or outbox.size >= _EARLY_BYTES:
                self._write()

    def _open(self, exchange: Exchange, options: DispatchOptions, encoded: Encoded) -> None:
        engine = self.engine
        stream = ClientStream(self, exchange, engine.last + 1)
        exchange.carrier = stream
        _, prefix, rest, whole, told = encoded
        exchange.bytes_sent = len(rest) + 9
        if self._timer is None:
            self._start_ticking()
        # An exchange of a `MeshClient` has one where it belongs to a trace.
        span = getattr(exchange, "span", None)
        engine.open(stream, prefix, rest, whole=whole, trace=told if span is None else span.frame)
        if diagnostics.CLIENT_SEND_HEADERS.subscribers or diagnostics.REQUEST_BODY_SENT.subscribers:
            publish_sent(exchange, rest, told, self.transport)
        seconds = self.settings.headers_seconds(options)
        if seconds >= 1.0:
            stream.stamp = self.timers.base
            stream.patience = seconds
        elif seconds:
            stream.arm_headers()
        if whole or options.upgrade is not None:
            return
        if options.plain:
            assert options.payload is not None
            engine.outbox.send(stream, options.payload)
            engine.end(stream)
        else:
            stream.write_body()

    def _not_started(self, exchange: Exchange, error: BaseException) -> None:
        if exchange.carrier is self:
            self.running -= 1
            exchange.fail(error)
            self.ended()
        else:
            exchange.abort(error)
        if not isinstance(error, Exception):
            raise error

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False
        if self.lost:
            return
        pipes, self._pipes = self._pipes, []
        for pipe in pipes:
            pipe.pump()
        if self.engine.outbox.line:
            self.stage()

    # -- reading: the transport's side -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.transport.write(frames.hello(self.member_id))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.engine.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        if self.lost:
            return
        try:
            self.engine.received(nbytes)
        except LinkError as error:
            self._fault(error)
            return
        if self.engine.outbox.parts and not self._staged:
            self.stage()

    def data_received(self, data: bytes) -> None:
        """What a queue brings: whole writes of the peer."""
        if self.lost:
            return
        try:
            self.engine.feed(data)
        except LinkError as error:
            self._fault(error)
            return
        if self.engine.outbox.parts and not self._staged:
            self.stage()

    def eof_received(self) -> bool:
        if not self.lost:
            try:
                self.engine.finish()
            except LinkError as error:
                self._lose(error, str(error))
            else:
                self._peer_ended(None)
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        if exc is not None and not self.lost:
            # A write failed: the last responses of a peer that has left may still be there.
            left = read_leftover(self.transport, _UNREAD)
            if left:
                self.data_received(left)
        if not self.lost:
            self._peer_ended(exc)

    def _peer_ended(self, exc: BaseException | None) -> None:
        error = LinkError("the other end of the link is gone")
        if exc is not None:
            error.__cause__ = socket_error(exc, "connection lost")
        self._lose(error, "its end of the link was closed")

    def _fault(self, error: LinkError) -> None:
        self._lose(error, str(error))

    # -- the engine's side -----------------------------------------------------------------------------

    def on_hello(self, member_id: str) -> None:
        if member_id != self.peer.id:
            raise LinkError(f"the peer says that it is {member_id[:64]!r}, and not {self.peer.id!r}")

    def stream_for(self, number: int, head: RequestHead, *, websocket: bool) -> ServerStream:
        if websocket:
            from .websocket import WebSocketStream

            stream: ServerStream = WebSocketStream(self, number, head)
        else:
            stream = ServerStream(self, number, head)
        self._serving.add(stream)
        return stream

    def accept(self, stream: ServerStream) -> None:
        """Pass a request of the peer's to who takes them."""
        if self._sink is None:
            stream.refuse("this member has no app")
        else:
            self._sink.accept(stream)

    def on_barrier(self, number: int) -> None:
        # Behind the requests that are assigned: they are written by the next flush.
        self._acks.append(number)
        self.stage()

    def on_barrier_ack(self, number: int) -> None:
        if not 0 < number <= self._asked:
            raise LinkError(f"an answer to barrier {number}, which was not asked for")
        answered = self._barriers.get(number)
        if answered is not None and not answered.done():  # who asked may have stopped waiting
            answered.set_result(None)

    def on_bye(self) -> None:
        self._lose(None, "it closed the link")

    # -- what streams tell -----------------------------------------------------------------------------

    def served_one(self, stream: ServerStream) -> None:
        """The host has done with a request of the peer's."""
        self._serving.discard(stream)
        self.ended()

    def ended(self) -> None:
        """Something has ended that ran on the link."""
        if self._serving or self.engine.ours or self.lost:
            return
        if not self.running:
            self.owner.link_idle(self)
        elif self._fresh and self.engine.last >= frames.MAX_STREAM:
            self.stage()

    # -- timers ----------------------------------------------------------------------------------------

    def _start_ticking(self) -> None:
        self._ticked = self.loop.time()
        self._timer = self.timers.timer(self._on_tick)
        self._timer.deadline = 0.0  # at every tick

    def _on_tick(self) -> None:
        timer = self._timer
        if timer is None:
            return
        streams = self.engine.ours
        if not streams:
            # A link without requests wakes nobody.
            timer.close()
            self._timer = None
            return
        now = self.loop.time()
        late = now - self._ticked - TICK
        self._ticked = now
        timer.deadline = 0.0
        waiting = [stream for stream in streams.values() if isinstance(stream, ClientStream)]
        if late > SLACK:
            # The loop was blocked: what has arrived meanwhile was not seen.
            for stream in waiting:
                stream.stamp += late
            return
        for stream in waiting:
            if stream.patience is not NEVER and stream.stamp + stream.patience <= now:
                stream.timed_out()

    # -- the end ---------------------------------------------------------------------------------------

    def close(self) -> None:
        if self.lost:
            return
        self._flush()
        if not self.lost:
            self.engine.outbox.write(frames.BYE, 0)
            self._write()
            self._lose(None, "the link to it was closed")

    def abort(self, error: BaseException) -> None:
        if not self.lost:
            self._lose(error, str(error) or type(error).__name__, cut=True)

    def _lose(self, error: BaseException | None, reason: str, *, cut: bool = False) -> None:
        if self.lost:
            return
        self.lost = True
        engine = self.engine
        ours, serving = list(engine.ours.values()), list(self._serving)
        engine.close()
        if self._timer is not None:
            self._timer.close()
            self._timer = None
        transport = self.transport
        if transport is not None:
            if cut:
                transport.abort()
            else:
                transport.close()
                if transport.get_write_buffer_size():
                    self.loop.call_later(_GOODBYE, transport.abort)
        unsent = self._take_unsent()
        for stream in ours:
            assert isinstance(stream, ClientStream)
            stream.on_lost(reason, error)
        for request in serving:
            request.on_lost()
        self._pipes.clear()
        self._heads.clear()
        for answered in self._barriers.values():
            if not answered.done():
                answered.set_result(None)
        self.owner.link_lost(self, error, unsent)

    def _take_unsent(self) -> list[Exchange]:
        unsent = [] if self._starting is None else [self._starting]
        unsent += self._fresh
        self._fresh.clear()
        unsent = [exchange for exchange in unsent if not exchange.done]
        for exchange in unsent:
            exchange.carrier = None
        self.running -= len(unsent)
        return unsent

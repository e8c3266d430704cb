"""A connection that carries one link and nothing else: frames with their lengths in front.

A message on a stream of grpc's changes threads twice at each end, whatever it carries; here it costs one write. Measured
on a hop of 100 bytes, in turns on a busy machine: 1.6 ms instead of 2.3 for a lone caller, and a quarter less CPU over
client, hop and server (1,870 us instead of 2,590; with 32 callers 1,460 instead of 1,880). To let messages wait for
company gained nothing more. What it carries, and what for, is in `link.py`; this is the wire:

    4 bytes     length of the frame, the highest byte first; more than a message may have ends the connection
    LinkFrame   serialized

`Trunk` is the asyncio protocol at either end. It owns the transport. Frames are handed to `on_frame` as they are read,
in the loop's own turn: no task, no future. What is to be sent lies in the link's `Outbox`, and is fetched from there
while the transport has room, once for all that has come up in a turn of the loop.

Flow control. A transport that is full is told of no news: calls wait in the outbox, where they count as never sent. If
too many answers wait there, no more is read.

Who lives. An end from which nothing has come for half a second is pinged, and if that is not answered in the next half
`on_silence` is asked again and again what to make of it (see `life.py`): a process that is stopped and one whose loop is
busy look the same from here. After ten seconds of silence the connection is cut in any case.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from google.protobuf.message import DecodeError

from ..core.grpc_status import GrpcStatus
from ..net.leftover import read_leftover
from .batch import Outbox
from .codes import from_wire
from .errors import CollectiveError, call_error
from .protos import link_pb2 as pb

log = logging.getLogger("dodici.collective")

FIRST: Final = 64 * 1024
"""Bytes of the first frame, which comes from anybody."""
ROOM: Final = 1024 * 1024
"""Bytes that a frame may have beyond its largest message: for metadata, and what else comes along."""
_HEADER: Final = 4
_BUFFERED: Final = 256 * 1024
"""Bytes that wait in the transport before it is full."""
_QUIET: Final = 0.5
"""Seconds of silence after which the other end is pinged."""
_ANSWER: Final = 0.5
"""Seconds in which it answers."""
_LOOK: Final = 0.1
"""Seconds between two looks at who says nothing."""
_LATE: Final = 0.25
"""Seconds by which this loop was late, so that it may be itself that was busy."""
_DEAD: Final = 10.0
"""Seconds of silence that nothing explains."""
_LINGER: Final = 5.0
"""Seconds in which the last bytes have to leave."""
_LEAVING: Final = 0.25
"""Seconds in which the other end closes a connection that it was told the end of."""
_PING: Final = pb.LinkFrame(ping=pb.Ping())
_PONG: Final = pb.LinkFrame(ping=pb.Ping(answer=True))


class Trunk(asyncio.Protocol):
    """One end of a trunk.

    Args:
        largest: bytes that a frame may have.
    """

    def __init__(self, largest: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._largest = largest
        self._limit = min(FIRST, largest)
        self._transport: asyncio.Transport | None = None
        self.remote: tuple[str, int] | None = None
        """Host and port of the other end."""
        self._buffer = bytearray()
        self._reading = True
        self._full = False
        self._flushing = False
        self._closing = False
        self._outbox: Outbox | None = None
        self._on_frame: Callable[[pb.LinkFrame], None] | None = None
        self._on_silence: Callable[[float], bool] = lambda _: False
        self._farewell: Callable[[], pb.Goodbye] = pb.Goodbye
        self._timer: asyncio.TimerHandle | None = None
        self._heard = self._due = self._asked = 0.0
        self._waits = 0
        self._error: CollectiveError | None = None
        self._first: asyncio.Future[pb.LinkFrame] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()

    # -- for the link --------------------------------------------------------------------------------------

    async def first(self) -> pb.LinkFrame:
        """The first frame; nothing is read after it before `carry()`.

        Raises:
            CollectiveError: the connection has ended without one.
        """
        return await asyncio.shield(self._first)

    def send(self, frame: pb.LinkFrame) -> None:
        """Send a frame past the outbox: the first, or a goodbye."""
        if self._transport is not None and not self._closing:
            data = frame.SerializeToString()
            self._transport.write(len(data).to_bytes(_HEADER, "big") + data)

    def carry(
        self,
        outbox: Outbox,
        on_frame: Callable[[pb.LinkFrame], None],
        *,
        on_silence: Callable[[float], bool] = lambda _: False,
        farewell: Callable[[], pb.Goodbye] = pb.Goodbye,
    ) -> None:
        """Carry a link from now on.

        Args:
            outbox: what is sent. When it is closed and empty, the connection ends.
            on_frame: called with each frame that arrives, pings excepted. What it raises ends the connection.
            on_silence: called with the seconds for which the other end has said nothing and answered no ping, again and
                again; True: it is lost.
            farewell: makes what is said last, when the connection ends by the outbox.
        """
        self._outbox, self._on_frame = outbox, on_frame
        self._on_silence, self._farewell = on_silence, farewell
        self._limit = self._largest
        outbox.on_news, outbox.on_room = self._news, self._go_on
        self._heard = self._loop.time()
        self._look_at(self._heard + _QUIET)
        self._news()
        self._go_on()

    async def ended(self) -> None:
        """Return when the connection has ended, and nothing of it is left.

        Raises:
            CollectiveError: what the other end has said, or what was wrong. Not if it has ended by will.
        """
        await self.gone()
        if self._error is not None:
            raise self._error

    async def gone(self) -> None:
        """Return when the connection has ended, however."""
        await asyncio.shield(self._ended)

    async def leave(self) -> None:
        """End the connection and return when it has ended, within a moment."""
        self.close()
        try:
            async with asyncio.timeout(_LEAVING):
                await self.gone()
        except TimeoutError:
            self.abort()
            await self.gone()

    def close(self, goodbye: pb.Goodbye | None = None) -> None:
        """End the connection, after what was written, and tell the other end why.

        It is the other end that closes it then: a socket that is closed while bytes wait in it that nobody has read
        resets its connection, and our last words may be lost with it.
        """
        if self._closing or self._transport is None:
            return
        self.send(pb.LinkFrame(goodbye=goodbye or pb.Goodbye()))
        self._closing = True
        if not self._reading:
            self._reading = True
            self._transport.resume_reading()
        self._set_timer(_LEAVING, self._shut)

    def abort(self, error: CollectiveError | None = None) -> None:
        """End the connection now."""
        if self._error is None:
            self._error = error
        if self._transport is not None:
            self._closing = True
            self._transport.abort()

    # -- asyncio.Protocol ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        remote = transport.get_extra_info("peername")
        self.remote = (str(remote[0]), int(remote[1])) if isinstance(remote, tuple) else None
        self._transport = transport  # type: ignore[assignment]  # a stream's, whichever loop it is of
        transport.set_write_buffer_limits(high=_BUFFERED)  # type: ignore[attr-defined]

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and self._transport is not None and not self._closing:
            # A write failed: what the other end had said before it left, and why, may still be there.
            left = read_leftover(self._transport, _BUFFERED)
            if left:
                self._reading = True
                self.data_received(left)
        self._transport = None
        self._closing = True
        self._set_timer(None)
        if self._error is None and exc is not None:
            self._error = call_error(GrpcStatus.UNAVAILABLE, f"the connection was lost: {exc}")
            self._error.__cause__ = exc
        if not self._first.done():
            error = self._error or call_error(GrpcStatus.UNAVAILABLE, "the connection was closed")
            self._first.set_exception(error)
            self._first.exception()  # nobody may wait for it
        if not self._ended.done():
            self._ended.set_result(None)
        if self._outbox is not None:
            self._outbox.on_news = self._outbox.on_room = None
            self._outbox.close()

    def eof_received(self) -> None:
        if not self._closing and self._error is None:
            self._error = call_error(GrpcStatus.UNAVAILABLE, "the other end has closed the connection")

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._flush()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._heard = self._loop.time()
        buffer = self._buffer
        if buffer or not self._reading:
            buffer += data
        elif int.from_bytes(data[:_HEADER], "big") == len(data) - _HEADER <= self._limit:
            # One whole frame, which is the rule.
            self._take(data[_HEADER:])
            return
        else:
            buffer += data
        self._parse()

    # -- reading -------------------------------------------------------------------------------------------

    def _parse(self) -> None:
        buffer = self._buffer
        at = 0
        while self._reading and not self._closing and len(buffer) - at >= _HEADER:
            size = int.from_bytes(buffer[at : at + _HEADER], "big")
            if size > self._limit:
                self._refuse(
                    call_error(
                        GrpcStatus.INVALID_ARGUMENT, f"a frame of {size} bytes, and {self._limit} are allowed"
                    )
                )
                break
            end = at + _HEADER + size
            if len(buffer) < end:
                break
            data = bytes(buffer[at + _HEADER : end])
            at = end
            self._take(data)
        if self._closing:
            buffer.clear()
        elif at:
            del buffer[:at]

    def _take(self, data: bytes) -> None:
        try:
            frame = pb.LinkFrame.FromString(data)
        except DecodeError as error:
            self._refuse(call_error(GrpcStatus.INVALID_ARGUMENT, f"not a frame of a link: {error}"))
            return
        what = frame.WhichOneof("frame")
        if what == "ping":
            # Who does not read is not answered: what comes of reading again is a sign of life, too.
            if not frame.ping.answer and not self._full:
                self.send(_PONG)
            return
        if self._on_frame is not None:
            try:
                self._on_frame(frame)
            except CollectiveError as error:
                self._refuse(error)
            except Exception:
                log.exception("a frame of a link could not be handled")
                self.abort(call_error(GrpcStatus.INTERNAL, "a frame could not be handled"))
        if what == "goodbye":
            if frame.goodbye.code and self._error is None:
                self._error = call_error(from_wire(frame.goodbye.code), frame.goodbye.message)
            self._end()
        elif self._on_frame is None:
            if not self._first.done():
                self._first.set_result(frame)
            self._hold()

    def _refuse(self, error: CollectiveError) -> None:
        if self._error is None:
            self._error = error
        self.close(goodbye_of(error))

    def _end(self) -> None:
        if not self._closing:
            self._closing = True
            self._shut()

    def _shut(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._set_timer(_LINGER, self._transport.abort)

    def _hold(self) -> None:
        if self._reading and self._transport is not None and not self._closing:
            self._reading = False
            self._transport.pause_reading()

    def _go_on(self) -> None:
        if self._reading or self._transport is None or self._closing:
            return
        self._reading = True
        self._transport.resume_reading()
        if self._buffer:
            # Not from here: whoever has made room may be in the middle of something.
            self._loop.call_soon(self._parse)

    # -- writing -------------------------------------------------------------------------------------------

    def _news(self) -> None:
        if not self._flushing:
            self._flushing = True
            # Everything that comes up in this turn leaves together.
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        outbox, transport = self._outbox, self._transport
        if outbox is None or transport is None or self._closing:
            return
        try:
            while not self._full:
                frame = outbox.next_frame()
                if frame is None:
                    break
                data = frame.SerializeToString()
                transport.write(len(data).to_bytes(_HEADER, "big") + data)
        except Exception:
            log.exception("a frame of a link could not be sent")
            self.abort(call_error(GrpcStatus.INTERNAL, "a frame could not be sent"))
            return
        if outbox.closed and not self._full:
            self.close(self._farewell())
        elif outbox.full:
            self._hold()

    # -- who lives -----------------------------------------------------------------------------------------

    def _look_at(self, when: float) -> None:
        self._due = when
        self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        if not self._reading and self._transport is not None:
            # Nothing is heard then. Who takes what is sent lives.
            waits = self._transport.get_write_buffer_size()
            if not self._full or waits < self._waits:
                self._heard = now
            self._waits = waits
        silent = now - self._heard
        asked = self._asked > self._heard
        if silent < _QUIET:
            self._look_at(self._heard + _QUIET)
        elif now - self._due > _LATE:
            # It is this loop that was busy: what has come meanwhile is not read yet.
            self._look_at(now + _LOOK)
        elif not asked:
            self._asked = now
            self.send(_PING)
            self._look_at(now + _ANSWER)
        elif silent > _DEAD or self._on_silence(silent):
            self.abort(
                call_error(GrpcStatus.UNAVAILABLE, f"nothing has come for {silent:.1f} s", silent=True)
            )
        else:
            self._look_at(now + _LOOK)

    def _set_timer(self, seconds: float | None, action: Callable[[], None] | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None or action is None else self._loop.call_later(seconds, action)


def goodbye_of(error: CollectiveError | None) -> pb.Goodbye:
    """What tells the other end of an error; without one it is a friendly end."""
    if error is None:
        return pb.Goodbye()
    message = error.message.encode("utf-8", "replace").decode()
    return pb.Goodbye(code=int(error.grpc_status), message=message)

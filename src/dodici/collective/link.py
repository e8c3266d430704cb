"""The stream that each of two connected collectors keeps open to the other.

    dialled:  `Follower`   hello, acknowledgements, calls  ->
    answered: `Session`    <-  hello, announcements, answers

Who opens a stream learns on it what the other serves, and makes its unary calls on it. So between two collectors there
are two streams, and each needs only its own: where one direction cannot be dialled, the other works.

It is carried by a connection of its own where the other end offers one (see `trunk.py`), else by the method `Link`, on
the connection of all other calls. Neither end knows by which: frames are handed to `received()`, and fetched from
the outbox.

An announcement is always the state at the time when there is room for it, never one that waited: a peer that reads
slowly is told less often, and nothing piles up. It is acknowledged once it is applied, so that `Session.told()` says
when the peer acts on it. No call that was chosen before arrives after the acknowledgement: those on the stream leave
before it, and for those beside it a barrier goes the same way first. One that is large goes in parts (see `parts.py`),
and counts when all of it is there.

A stream ends by itself (the collector at the other end stops, or was lost: it is dialled again), or with ABORTED: the
other end wants no connection any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError

from ..core.errors import DodiciError
from ..core.grpc_status import GrpcStatus
from . import metadata as _metadata
from .batch import MOST_CALLS, BatchCaller, BatchRunner, Outbox
from .errors import CollectiveError, call_error
from .life import probe
from .parts import Assembly, split
from .protos import link_pb2 as pb
from .trunk import goodbye_of

if TYPE_CHECKING:
    from .data_plane import Channel
    from .trunk import Trunk

log = logging.getLogger("dodici.collective")

VERSION: Final = 1
PATH: Final = "/collector.CollectiveDispatcher/Link"
BARRIER: Final = "/collector.CollectiveDispatcher/Barrier"
_GREETING: Final = 5.0
"""Seconds for the first frames of the other end."""
_TRUNK_GREETING: Final = 2.0
"""Seconds for the first frame on a trunk. Where something in between swallows it, there is the other way."""
_SUPERSEDED: Final = 1.0
"""Seconds for which calls are still taken on a stream whose successor is there."""
_ROOMY: Final = 1024 * 1024
"""Bytes of a message that is large enough for every frame."""
_BARRIER: Final = 1.0
"""Seconds for a barrier."""
_LOOK: Final = 0.5
"""Seconds between two questions to the other end of a link that is a stream of a channel's."""
_ANSWER: Final = 1.25
"""Seconds for an answer."""


class Follower:
    """The dialling end of a link.

    Args:
        peer: id of the collector at the other end.
        on_open: called with the other end's hello, and with what makes calls on the link if it takes any.
        on_announcement: called with each announcement; it is acknowledged when this returns.
        settle: waits until calls that were made beside the link have arrived; None: they come on the same connection.
        on_end: called when the other end ends it, before the calls on it fail.
        calls: whether the link carries calls; False: not even if the peer takes them there.
    """

    def __init__(
        self,
        peer: str,
        on_open: Callable[[pb.Hello, BatchCaller | None], None],
        on_announcement: Callable[[pb.Announcement], None],
        settle: Callable[[], Awaitable[None]] | None = None,
        *,
        on_end: Callable[[], None] = lambda: None,
        calls: bool = True,
    ) -> None:
        self.outbox = Outbox()
        self._on_end = on_end
        self._calls = calls
        self.on_greeted: Callable[[], None] | None = None
        """Called when the first announcement has come."""
        self._peer = peer
        self._on_open = on_open
        self._on_announcement = on_announcement
        self._settle = settle
        self._settling: set[asyncio.Task[None]] = set()
        self._assembly = Assembly(peer)
        self._caller: BatchCaller | None = None

    def received(self, frame: pb.LinkFrame) -> None:
        """A frame has come."""
        caller = self._caller
        if caller is not None:
            for answer in frame.answers:
                caller.answered(answer)
        what = frame.WhichOneof("frame")
        if what is None:
            return
        if what == "hello":
            if frame.hello.max_calls and self._calls and caller is None:
                self._caller = caller = BatchCaller(self.outbox, self._peer, frame.hello.max_calls)
            self._on_open(frame.hello, caller)
        elif what == "announcement":
            news = self._assembly.add(frame.announcement)
            if news is None:
                return
            self._on_announcement(news)
            if self.on_greeted is not None:
                self.on_greeted()
                self.on_greeted = None
            told = pb.LinkFrame(acknowledgement=pb.Acknowledgement(epoch=news.epoch, version=news.version))
            if self._settle is None:
                self.outbox.control(told)
            else:
                settling = asyncio.ensure_future(self._acknowledge(told, self._settle))
                self._settling.add(settling)
                settling.add_done_callback(self._settling.discard)
        elif what == "goodbye" and caller is not None:
            self._on_end()
            # 0 says nothing: whoever ends a trunk from outside of a link does not know its calls.
            caller.fail(f"the link to {self._peer} has ended", last=frame.goodbye.last_call or None)

    async def _acknowledge(self, told: pb.LinkFrame, settle: Callable[[], Awaitable[None]]) -> None:
        await settle()
        self.outbox.control(told)

    async def close(self, reason: str) -> None:
        """The link has ended: the calls on it fail."""
        self.outbox.close()
        if self._caller is not None:
            self._caller.fail(reason)
        for settling in self._settling:
            settling.cancel()
        await asyncio.gather(*self._settling, return_exceptions=True)


async def follow(
    channel: Channel,
    connection: str,
    peer: str,
    hello: pb.Hello,
    *,
    on_open: Callable[[pb.Hello, BatchCaller | None], None],
    on_announcement: Callable[[pb.Announcement], None],
    on_end: Callable[[], None],
    trunk: Callable[[], Awaitable[Trunk]] | None = None,
    successor: bool = False,
    batches: bool = True,
) -> None:
    """Open a stream and keep to it. Returns when the other end closes it.

    Args:
        channel: to the peer.
        connection: the id that the peer has given to the connection.
        peer: its id.
        hello: the first frame.
        on_open: see `Follower`.
        on_announcement: see `Follower`.
        on_end: see `Follower`.
        trunk: dials a connection for the stream; None, or where that fails: it goes on the channel.
        successor: the peer is to let the stream before this one go on until its calls have ended. On trunks alone.
        batches: whether frames with calls go through the channel, see `batches`.

    Raises:
        CollectiveError: UNIMPLEMENTED: the peer has no links. ABORTED: it wants no connection. UNAUTHENTICATED: it does
            not know the connection. Anything else: the peer was lost.
    """
    reason = f"the link to {peer} has ended"
    carrier = None
    if trunk is not None:
        introduction = pb.Hello()
        introduction.CopyFrom(hello)
        introduction.connection_id, introduction.successor = connection, successor
        carrier = await _open(trunk, introduction, peer)
    if carrier is None and successor:
        raise call_error(GrpcStatus.UNAVAILABLE, f"{peer} cannot be dialled anew", peer=peer)
    settle = None if carrier is None else _barrier(channel)
    end = Follower(
        peer, on_open, on_announcement, settle, on_end=on_end, calls=batches or carrier is not None
    )
    try:
        async with asyncio.timeout(_GREETING) as limit:
            end.on_greeted = lambda: limit.reschedule(None)
            if carrier is None:
                end.outbox.control(pb.LinkFrame(hello=hello))
                await _on_channel(channel, connection, end)
            else:
                await _on_trunk(*carrier, end)
    except TimeoutError:
        raise call_error(
            GrpcStatus.UNAVAILABLE, f"{peer} opened a link and said nothing for {_GREETING:g} s", peer=peer
        ) from None
    except CollectiveError as error:
        reason = f"the link to {peer} was lost: {error.message}"
        raise
    finally:
        await end.close(reason)


async def _on_channel(channel: Channel, connection: str, end: Follower) -> None:
    # The greeting's own limit, and not a deadline of the stream.
    stream: Any = channel.stream(PATH, end.outbox, metadata=((_metadata.CONNECTION, connection),))

    async def read() -> None:
        async for data in stream:
            end.received(_read(data))

    tasks = [asyncio.create_task(read()), asyncio.create_task(_answers(channel))]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        end.outbox.close()
        await stream.aclose()


async def _answers(channel: Channel) -> None:
    """Ask the other end again and again for an answer. Raises a `CollectiveError` once there is none."""
    while True:
        await asyncio.sleep(_LOOK)
        try:
            await channel.unary(BARRIER, b"", timeout=_ANSWER)
        except CollectiveError as error:
            if error.grpc_status in (GrpcStatus.DEADLINE_EXCEEDED, GrpcStatus.UNAVAILABLE):
                raise call_error(
                    GrpcStatus.UNAVAILABLE,
                    f"{channel.address} has not answered for {_ANSWER:g} s",
                    peer=channel.address,
                    silent=True,
                ) from error


async def _on_trunk(trunk: Trunk, first: pb.LinkFrame, end: Follower) -> None:
    life = None if trunk.remote is None else await probe(*trunk.remote)
    try:
        end.received(first)
        trunk.carry(end.outbox, end.received, on_silence=_silent if life is None else life.gone)
        await trunk.ended()
    finally:
        if life is not None:
            life.close()
        await trunk.leave()


def _silent(silent: float) -> bool:
    return silent > _LOOK + _ANSWER


async def _open(
    dial: Callable[[], Awaitable[Trunk]], hello: pb.Hello, peer: str
) -> tuple[Trunk, pb.LinkFrame] | None:
    """A trunk on which the other end has answered, with the answer; None if there is no such way."""
    trunk: Trunk | None = None
    try:
        async with asyncio.timeout(_TRUNK_GREETING):
            trunk = await dial()
            trunk.send(pb.LinkFrame(hello=hello))
            first = await trunk.first()
            if not first.HasField("hello"):
                raise call_error(GrpcStatus.INTERNAL, f"{peer} has not said hello", peer=peer)
            return trunk, first
    except (DodiciError, TimeoutError) as error:
        log.info(
            "the link to %s goes without a connection of its own: %s", peer, error or type(error).__name__
        )
        if trunk is not None:
            trunk.abort()
    except BaseException:
        if trunk is not None:
            trunk.abort()
        raise
    return None


def _barrier(channel: Channel) -> Callable[[], Awaitable[None]]:
    async def settle() -> None:
        if not channel.began_within(_BARRIER):
            return
        try:
            await channel.unary(BARRIER, b"", timeout=_BARRIER)
        except CollectiveError as error:
            log.debug("no barrier on %s: %s", channel.address, error.message)

    return settle


class Session:
    """The answering end of a peer's stream.

    Args:
        peer: id of the collector at the other end.
        hello: the first frame that it is sent.
        state: makes the announcement for it, without its version.
        run: runs a call of the link; see `BatchRunner`.
        message: bytes that a message may have.
        lost: whether the peer could be called, and cannot any more.
    """

    def __init__(
        self,
        peer: str,
        hello: pb.Hello,
        state: Callable[[], pb.Announcement],
        run: Callable[[pb.LinkCall, pb.LinkAnswer], Any],
        message: int,
        lost: Callable[[], bool],
    ) -> None:
        self.peer = peer
        self._lost = lost
        self._state = state
        self._outbox = Outbox()
        self._outbox.control(pb.LinkFrame(hello=hello))
        self._message = message
        self._runner = BatchRunner(self._outbox, run, message)
        self._parts: deque[pb.Announcement] = deque()
        self._version = 0
        self._due = 0
        self._acknowledged = 0
        self._last = b""
        self._waiters: dict[asyncio.Future[None], int] = {}
        self._refusal: CollectiveError | None = None
        self._superseded: asyncio.Task[None] | None = None
        self._done = False

    def tell(self, version: int, *, certainly: bool = False) -> None:
        """Announce the state, as it is when there is room.

        Args:
            version: of the state; what is told has this one, or a later one.
            certainly: also if nothing in it has changed for this peer.
        """
        if certainly:
            self._due = version
        self._version = version
        self._outbox.latest(self._announcement)

    def knows(self, version: int) -> bool:
        """Whether the peer has acknowledged that version or a later one, is gone, or is told on another stream now."""
        return self._acknowledged >= version or self._done or self._superseded is not None

    async def told(self, version: int) -> None:
        """Return when the peer `knows` that version."""
        if self.knows(version):
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = version
        try:
            await waiter
        finally:
            self._waiters.pop(waiter, None)

    def received(self, frame: pb.LinkFrame) -> None:
        """A frame has come."""
        calls = frame.calls
        self._runner.recent = max(len(calls), self._runner.recent * 0.8)
        for call in calls:
            self._runner.received(call)
        for number in frame.cancelled:
            self._runner.cancel(number)
        if frame.HasField("hello"):
            self._runner.answers_fit(
                min(self._message, frame.hello.message or self._message), on_channel=True
            )
        if frame.HasField("acknowledgement"):
            self._acknowledged = max(self._acknowledged, min(frame.acknowledgement.version, self._version))
            self._release()

    async def frames(self, arriving: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """What is sent, while what arrives is read: on a channel. Ends with the other end, or with `end()`."""
        reader = asyncio.create_task(self._read(arriving))
        try:
            async for frame in self._outbox:
                yield frame
            if self._refusal is not None:
                raise self._refusal
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            await self._close()

    async def on_trunk(self, trunk: Trunk, message: int) -> None:
        """Keep to a trunk: returns when that has ended, or after `end()`.

        Args:
            trunk: that connection.
            message: bytes that an answer may have for the other end; 0: it has not said.
        """
        self._runner.answers_fit(min(self._message, message or self._message))
        try:
            trunk.carry(
                self._outbox, self.received, on_silence=lambda _: self._lost(), farewell=self._farewell
            )
            await trunk.ended()
        except CollectiveError as error:
            log.debug("the link of %s has ended: %s", self.peer, error.message)
        finally:
            trunk.close()
            await self._close()

    def end(self, refusal: CollectiveError | None = None) -> None:
        """End the stream, with an error if there is one."""
        self._refusal = refusal
        self._outbox.close()

    async def finish(self) -> None:
        """Take no more calls on it, and end it when those that run have ended."""
        await self._runner.finish()
        self.end()

    def supersede(self) -> None:
        """Another stream of the peer takes the place of this one, which goes on until its calls have ended."""

        async def end() -> None:
            # What the peer has sent before it knew.
            await asyncio.sleep(_SUPERSEDED)
            await self.finish()

        if self._superseded is None:
            self._superseded = asyncio.create_task(end())
            self._release()

    async def _close(self) -> None:
        self._done = True
        if self._superseded is not None:
            self._superseded.cancel()
        await self._runner.close()
        self._release()

    def _farewell(self) -> pb.Goodbye:
        goodbye = goodbye_of(self._refusal)
        goodbye.last_call = self._runner.last
        return goodbye

    def _announcement(self) -> pb.LinkFrame | None:
        if not self._parts:
            announcement = self._state()
            state = announcement.SerializeToString(deterministic=True)
            if state == self._last and self._due <= self._acknowledged:
                return None
            self._last = state
            announcement.version = self._version
            self._parts.extend(split(announcement, len(state), self._message))
        part = self._parts.popleft()
        if self._parts or part.version != self._version:
            # What is left of it, or what has changed since it began.
            self._outbox.latest(self._announcement)
        return pb.LinkFrame(announcement=part)

    async def _read(self, arriving: AsyncIterator[bytes]) -> None:
        try:
            async for data in arriving:
                self.received(_read(data))
                await self._outbox.room()
        except CollectiveError as error:
            self._refusal = error
        finally:
            self._outbox.close()

    def _release(self) -> None:
        for waiter, version in self._waiters.items():
            if self.knows(version) and not waiter.done():
                waiter.set_result(None)


def batches(message: int) -> bool:
    """Whether a stream of grpc's whose messages may have so many bytes carries calls: of frames with many, there has to be room."""
    return message >= _ROOMY


def hello(collector_id: str, address: str, epoch: int, namespaces: tuple[str, ...], message: int) -> pb.Hello:
    """The first frame in either direction."""
    return pb.Hello(
        version=VERSION,
        collector_id=collector_id,
        address=address,
        epoch=epoch,
        namespaces=namespaces,
        max_calls=MOST_CALLS,
        message=message,
    )


def _read(data: bytes) -> pb.LinkFrame:
    try:
        return pb.LinkFrame.FromString(data)
    except DecodeError as error:
        raise call_error(GrpcStatus.INVALID_ARGUMENT, f"not a frame of a link: {error}") from error

"""The stream that each of two connected collectors keeps open to the other.

    dialled:  `follow()`   hello, acknowledgements, calls  ->
    answered: `Session`    <-  hello, announcements, answers

Who opens a stream learns on it what the other serves, and makes its unary calls on it. So between two collectors there
are two streams, and each needs only its own: where one direction cannot be dialled, the other works.

An announcement is always the state at the time when there is room for it, never one that waited: a peer that reads
slowly is told less often, and nothing piles up. It is acknowledged once it is applied, so that `Session.told()` says
when the peer acts on it.

A stream ends by itself (the collector at the other end stops, or was lost: it is dialled again), or with ABORTED: the
other end wants no connection any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError

from ..core.grpc_status import GrpcStatus
from . import metadata as _metadata
from .batch import MOST_CALLS, BatchCaller, BatchRunner, Outbox
from .errors import CollectiveError, call_error
from .protos import link_pb2 as pb

if TYPE_CHECKING:
    from .data_plane import Channel

log = logging.getLogger("dodici.collective")

VERSION: Final = 1
PATH: Final = "/collector.CollectiveDispatcher/Link"
_GREETING: Final = 5.0
"""Seconds for the first frames of the other end."""


async def follow(
    channel: Channel,
    connection: str,
    peer: str,
    hello: pb.Hello,
    *,
    on_open: Callable[[pb.Hello, BatchCaller | None], None],
    on_announcement: Callable[[pb.Announcement], None],
) -> None:
    """Open a stream and keep to it. Returns when the other end closes it.

    Args:
        channel: to the peer.
        connection: the id that the peer has given to the connection.
        peer: its id.
        hello: the first frame.
        on_open: called with the other end's, and with what makes calls on the link if it takes any.
        on_announcement: called with each announcement; it is acknowledged when this returns.

    Raises:
        CollectiveError: UNIMPLEMENTED: the peer has no links. ABORTED: it wants no connection. UNAUTHENTICATED: it does
            not know the connection. Anything else: the peer was lost.
    """
    outbox = Outbox()
    outbox.control(pb.LinkFrame(hello=hello))
    caller: BatchCaller | None = None
    # The greeting's own limit, and not a deadline of the stream.
    stream: Any = channel.stream(PATH, outbox, metadata=((_metadata.CONNECTION, connection),))
    reason = f"the link to {peer} has ended"
    try:
        async with asyncio.timeout(_GREETING) as limit:
            async for data in stream:
                frame = _read(data)
                if caller is not None:
                    for answer in frame.answers:
                        caller.answered(answer)
                if frame.HasField("hello"):
                    if frame.hello.max_calls and caller is None:
                        caller = BatchCaller(outbox, peer, frame.hello.max_calls)
                    on_open(frame.hello, caller)
                elif frame.HasField("announcement"):
                    news = frame.announcement
                    on_announcement(news)
                    limit.reschedule(None)
                    outbox.control(
                        pb.LinkFrame(
                            acknowledgement=pb.Acknowledgement(epoch=news.epoch, version=news.version)
                        )
                    )
    except TimeoutError:
        raise call_error(
            GrpcStatus.UNAVAILABLE, f"{peer} opened a link and said nothing for {_GREETING:g} s", peer=peer
        ) from None
    except CollectiveError as error:
        reason = f"the link to {peer} was lost: {error.message}"
        raise
    finally:
        outbox.close()
        if caller is not None:
            caller.fail(reason)
        await stream.aclose()


class Session:
    """The answering end of a peer's stream.

    Args:
        peer: id of the collector at the other end.
        hello: the first frame that it is sent.
        state: makes the announcement for it, without its version.
        run: runs a call of the link; see `BatchRunner`.
        message: bytes that a message may have.
    """

    def __init__(
        self,
        peer: str,
        hello: pb.Hello,
        state: Callable[[], pb.Announcement],
        run: Callable[[pb.LinkCall, pb.LinkAnswer], Any],
        message: int,
    ) -> None:
        self.peer = peer
        self._state = state
        self._outbox = Outbox()
        self._outbox.control(pb.LinkFrame(hello=hello))
        self._runner = BatchRunner(self._outbox, run, message)
        self._version = 0
        self._due = 0
        self._acknowledged = 0
        self._last = b""
        self._waiters: dict[asyncio.Future[None], int] = {}
        self._refusal: CollectiveError | None = None
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

    async def told(self, version: int) -> None:
        """Return when the peer has acknowledged that version or a later one, or is gone."""
        if self._acknowledged >= version or self._done:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = version
        try:
            await waiter
        finally:
            self._waiters.pop(waiter, None)

    async def frames(self, arriving: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """What is sent, while what arrives is read. Ends with the other end, or with `end()`."""
        reader = asyncio.create_task(self._read(arriving))
        try:
            async for frame in self._outbox:
                yield frame
            if self._refusal is not None:
                raise self._refusal
        finally:
            self._done = True
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            await self._runner.close()
            self._release()

    def end(self, refusal: CollectiveError | None = None) -> None:
        """End the stream, with an error if there is one."""
        self._refusal = refusal
        self._outbox.close()

    async def finish(self) -> None:
        """Take no more calls on it, and end it when those that run have ended."""
        await self._runner.finish()
        self.end()

    def _announcement(self) -> pb.LinkFrame | None:
        announcement = self._state()
        state = announcement.SerializeToString(deterministic=True)
        if state == self._last and self._due <= self._acknowledged:
            return None
        self._last = state
        announcement.version = self._version
        return pb.LinkFrame(announcement=announcement)

    async def _read(self, arriving: AsyncIterator[bytes]) -> None:
        try:
            async for data in arriving:
                frame = _read(data)
                self._runner.recent = max(len(frame.calls), self._runner.recent * 0.8)
                for call in frame.calls:
                    self._runner.received(call)
                for number in frame.cancelled:
                    self._runner.cancel(number)
                if frame.HasField("acknowledgement"):
                    self._acknowledged = max(
                        self._acknowledged, min(frame.acknowledgement.version, self._version)
                    )
                    self._release()
                await self._outbox.room()
        except CollectiveError as error:
            self._refusal = error
        finally:
            self._outbox.close()

    def _release(self) -> None:
        for waiter, version in self._waiters.items():
            if (self._done or self._acknowledged >= version) and not waiter.done():
                waiter.set_result(None)


def hello(collector_id: str, address: str, epoch: int, namespaces: tuple[str, ...]) -> pb.Hello:
    """The first frame in either direction."""
    return pb.Hello(
        version=VERSION,
        collector_id=collector_id,
        address=address,
        epoch=epoch,
        namespaces=namespaces,
        max_calls=MOST_CALLS,
    )


def _read(data: bytes) -> pb.LinkFrame:
    try:
        return pb.LinkFrame.FromString(data)
    except DecodeError as error:
        raise call_error(GrpcStatus.INVALID_ARGUMENT, f"not a frame of a link: {error}") from error

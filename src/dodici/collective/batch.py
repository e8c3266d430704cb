"""Unary calls between collectors on the link's stream: many in one message.

A call of its own costs grpc.aio some 125 us at each end, whatever it carries. On the link a call is an entry in a
message, and what comes up together leaves together. On a stream of grpc's that took a third off the CPU of a hop with
100 callers (826 us instead of 1,200, both ends), and nothing with one; on a connection of its own (see `trunk.py`) it
takes as much off with any number.

    BatchCaller   at the end that opened the stream: calls out, answers in
    BatchRunner   at the other end: runs them, each in a task of its own

A link carries small things. A large payload, and whatever comes while too much is under way, goes as a call of its own,
with HTTP/2's flow control; `BatchCaller.takes()` says which. At the other end reading stops while too many bytes of
answers wait to be sent. Ids are counted up by the caller and never used twice.

A call that is still in the outbox when its link ends was never sent. One that has left it may have been run.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, Final, Literal

from ..core.grpc_status import GrpcStatus
from .codes import from_wire
from .contracts import Pairs
from .details import STATUS_DETAILS, binary, texts
from .errors import CollectiveError, call_error
from .metadata import UNSENT
from .protos import link_pb2 as pb

log = logging.getLogger("dodici.collective")

MOST_CALLS: Final = 1024
"""Calls of one link that run at once; what comes beyond them goes as a call of its own."""
LARGEST: Final = 64 * 1024
"""Bytes of a payload that travels on the link."""
_MOST_BYTES: Final = 4 * 1024 * 1024
_FRAME: Final = 256 * 1024
"""Bytes after which a message is closed, and the rest goes into the next."""
_TURNS: Final = 24
"""Turns of the loop for which a message on a stream of grpc's waits for company, at most: one for each call that is under way, and none for a
lone one. Measured on a hop, 12 of them take a fifth off the CPU of both ends at 32 and 100 callers, 40 a quarter."""
_OVERHEAD: Final = 64 * 1024
_METADATA: Final = 256 * 1024
"""Bytes that an answer may have beside its payload; a frame has room for some of this size."""
_ENTRY: Final = 128
"""Bytes that an answer counts for beyond its own."""


class Outbox:
    """What waits to be sent on one end of a link.

    Whoever carries the link either asks for `next_frame()` whenever `on_news` tells it to, or iterates over the outbox,
    which then gives serialized frames.

    A control frame overtakes answers, but no call: what this end has acknowledged holds for every call that comes after
    the acknowledgement. `close()` ends the iteration once everything has left.
    """

    def __init__(self) -> None:
        self.calls: dict[int, pb.LinkCall] = {}
        self.answers: deque[tuple[int, pb.LinkAnswer]] = deque()
        """With the bytes that each counts for."""
        self.cancelled: list[int] = []
        self.waiting = 0
        """Bytes of the answers."""
        self.closed = False
        """Nothing more comes than what waits."""
        self.on_news: Callable[[], None] | None = None
        self.on_room: Callable[[], None] | None = None
        """Called when no longer too many bytes of answers wait."""
        self._control: deque[pb.LinkFrame] = deque()
        self._latest: Callable[[], pb.LinkFrame | None] | None = None
        self._news: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self.crowd: Callable[[], int] = lambda: 0
        """How many calls are under way."""

    def control(self, frame: pb.LinkFrame) -> None:
        """Send a frame."""
        self._control.append(frame)
        self.wake()

    def latest(self, make: Callable[[], pb.LinkFrame | None]) -> None:
        """Send what `make` returns when there is room; only the last `make` counts."""
        self._latest = make
        self.wake()

    def answer(self, answer: pb.LinkAnswer) -> None:
        """Send an answer."""
        size = answer.ByteSize() + _ENTRY
        self.waiting += size
        self.answers.append((size, answer))
        self.wake()

    def wake(self) -> None:
        """There is something to send."""
        if self.on_news is not None:
            self.on_news()
        elif self._news is not None and not self._news.done():
            self._news.set_result(None)

    def close(self) -> None:
        """Nothing more comes."""
        self.closed = True
        self.wake()

    @property
    def full(self) -> bool:
        """Too many bytes of answers wait: no more calls should be read."""
        return self.waiting > _MOST_BYTES

    async def room(self) -> None:
        """Wait while too many bytes of answers wait."""
        while self.full and not self.closed:
            if self._room is None or self._room.done():
                self._room = asyncio.get_running_loop().create_future()
            await self._room

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while True:
            frame = self.next_frame()
            if frame is not None:
                return frame.SerializeToString()
            if self.closed:
                raise StopAsyncIteration
            self._news = asyncio.get_running_loop().create_future()
            await self._news
            crowd = self.crowd()
            if crowd > 1:
                for _ in range(min(crowd, _TURNS)):
                    await asyncio.sleep(0)

    def next_frame(self) -> pb.LinkFrame | None:
        """What is to be sent next; None if there is nothing."""
        size = 0
        calls: list[pb.LinkCall] = []
        while self.calls and size < _FRAME:
            call = self.calls.pop(next(iter(self.calls)))
            size += call.ByteSize()
            calls.append(call)
        frame = None if self.calls else self._next_control()
        if frame is None:
            if not (calls or self.answers or self.cancelled):
                return None
            frame = pb.LinkFrame()
        if calls:
            frame.calls.extend(calls)
        if self.cancelled:
            frame.cancelled.extend(self.cancelled)
            self.cancelled.clear()
        full = self.full
        while self.answers and (not size or size + self.answers[0][0] < _FRAME):
            weight, answer = self.answers.popleft()
            size += weight
            self.waiting -= weight
            frame.answers.append(answer)
        if full and not self.full:
            if self._room is not None and not self._room.done():
                self._room.set_result(None)
            if self.on_room is not None:
                self.on_room()
        return frame

    def _next_control(self) -> pb.LinkFrame | None:
        if self._control:
            return self._control.popleft()
        if self._latest is None:
            return None
        make, self._latest = self._latest, None
        return make()


class BatchCaller:
    """The calls that this collector makes on a link.

    Args:
        outbox: of the link.
        peer: id of the collector at the other end.
        most: how many calls it lets run at once.
    """

    def __init__(self, outbox: Outbox, peer: str, most: int) -> None:
        self._outbox = outbox
        self._peer = peer
        self._most = min(most, MOST_CALLS)
        self._running: dict[int, asyncio.Future[pb.LinkAnswer]] = {}
        self._bytes = 0
        self._last = 0
        self._open = True
        outbox.crowd = lambda: len(self._running)

    def takes(self, size: int) -> bool:
        """Whether a payload of that size goes on the link now."""
        return (
            self._open
            and size <= LARGEST
            and len(self._running) < self._most
            and self._bytes + size <= _MOST_BYTES
        )

    async def unary(
        self,
        path: str,
        payload: bytes,
        *,
        timeout: float | None,
        metadata: Pairs,
        on_metadata: Callable[[Literal["initial", "trailing"], Pairs], None],
    ) -> bytes:
        """Make a call. As `Channel.unary`.

        Raises:
            CollectiveError: it failed; `request_not_processed` says that it never left.
        """
        self._last = number = self._last + 1
        message = pb.LinkCall(id=number, path=path, payload=payload)
        for key, value in metadata:
            message.metadata.add(key=key, value=value if isinstance(value, bytes) else value.encode())
        loop = asyncio.get_running_loop()
        future: asyncio.Future[pb.LinkAnswer] = loop.create_future()
        timer = None
        if timeout is not None:
            message.timeout_us = max(1, int(timeout * 1e6))
            timer = loop.call_later(timeout, self._expire, number)
        self._running[number] = future
        self._bytes += len(payload)
        outbox = self._outbox
        outbox.calls[number] = message
        outbox.wake()
        try:
            answer = await future
        except asyncio.CancelledError:
            self._forsake(number)
            raise
        finally:
            if timer is not None:
                timer.cancel()
            self._running.pop(number, None)
            self._bytes -= len(payload)
        if answer.initial:
            on_metadata("initial", _pairs(answer.initial))
        trailing = _pairs(answer.trailing) if answer.trailing else ()
        on_metadata("trailing", trailing)
        if answer.code:
            raise _failure(answer, trailing, self._peer)
        return answer.payload

    def answered(self, answer: pb.LinkAnswer) -> None:
        """An answer has come. One that nobody waits for any more is dropped."""
        future = self._running.pop(answer.id, None)
        if future is not None and not future.done():
            future.set_result(answer)

    def fail(self, reason: str, *, last: int | None = None) -> None:
        """The link has ended: every call fails, and none is taken any more. Calls beyond `last` were never begun."""
        self._open = False
        for number, future in list(self._running.items()):
            unsent = self._outbox.calls.pop(number, None) is not None
            unsent = unsent or (last is not None and number > last)
            if not future.done():
                future.set_exception(
                    call_error(GrpcStatus.UNAVAILABLE, reason, peer=self._peer, request_not_processed=unsent)
                )
        self._running.clear()

    def _expire(self, number: int) -> None:
        future = self._running.get(number)
        if future is not None and not future.done():
            self._forsake(number)
            future.set_exception(
                call_error(
                    GrpcStatus.DEADLINE_EXCEEDED,
                    f"{self._peer} did not answer before the deadline",
                    peer=self._peer,
                )
            )

    def _forsake(self, number: int) -> None:
        """Nobody waits for it any more."""
        if self._outbox.calls.pop(number, None) is None and self._open:
            self._outbox.cancelled.append(number)
            self._outbox.wake()


class BatchRunner:
    """The calls that the other end makes on its link.

    Args:
        outbox: of the link.
        run: runs a call, fills in its answer, and raises `CollectiveError` if it fails.
        message: bytes that a message may have.
    """

    def __init__(
        self,
        outbox: Outbox,
        run: Callable[[pb.LinkCall, pb.LinkAnswer], Awaitable[None]],
        message: int,
    ) -> None:
        self._outbox = outbox
        self._run = run
        self._message = message
        self._largest = 0
        self.answers_fit(message, on_channel=True)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._idle: asyncio.Future[None] | None = None
        outbox.crowd = lambda: _TURNS if self.recent > 1 or self._tasks else 0
        self.recent = 0.0
        """How many calls lately came in one message."""
        self.last = 0
        """The highest id of a call that has come."""
        self.finishing = False
        """Refuse what comes: this collector is about to end."""

    def answers_fit(self, message: int, *, on_channel: bool = False) -> None:
        """Refuse answers of more than `message` bytes; on a channel, of more than its messages have room for."""
        self._largest = max(message - _OVERHEAD, LARGEST) if on_channel else message

    def received(self, call: pb.LinkCall) -> None:
        """Run a call."""
        self.last = max(self.last, call.id)
        if self.finishing or len(self._tasks) >= 2 * MOST_CALLS or call.id in self._tasks:
            self._outbox.answer(
                pb.LinkAnswer(
                    id=call.id,
                    code=int(GrpcStatus.UNAVAILABLE),
                    message="the collector takes no more calls on this link",
                    trailing=[pb.MetadataEntry(key=UNSENT, value=b"1")],
                )
            )
            return
        task = self._tasks[call.id] = asyncio.create_task(self._answer(call))
        # Not in a `finally` of its own: a task that is cancelled before its first step runs none.
        task.add_done_callback(partial(self._ended, call.id))

    def cancel(self, number: int) -> None:
        """Nobody waits for that call any more."""
        task = self._tasks.get(number)
        if task is not None:
            task.cancel()

    async def finish(self) -> None:
        """Take no more calls, and return when those that run have ended."""
        self.finishing = True
        while self._tasks:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle

    async def close(self) -> None:
        """Cancel what runs: the link has ended."""
        self.finishing = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, call: pb.LinkCall) -> None:
        answer = pb.LinkAnswer(id=call.id)
        try:
            if len(call.payload) > self._message:
                raise call_error(
                    GrpcStatus.RESOURCE_EXHAUSTED,
                    f"the input has {len(call.payload)} bytes, and {self._message} are allowed",
                )
            await self._run(call, answer)
            if len(answer.payload) > self._largest:
                size = len(answer.payload)
                answer.ClearField("payload")
                raise call_error(
                    GrpcStatus.RESOURCE_EXHAUSTED,
                    f"the answer has {size} bytes, more than a message may have",
                )
        except CollectiveError as error:
            answer.code = int(error.grpc_status)
            answer.message = error.message.encode("utf-8", "replace").decode()
            details = binary(error)
            if details is not None and not any(entry.key == STATUS_DETAILS for entry in answer.trailing):
                answer.trailing.add(key=STATUS_DETAILS, value=details)
        except Exception:
            log.exception("a call on a link failed")
            answer.code = int(GrpcStatus.INTERNAL)
            answer.message = "the call failed"
        beside = answer.ByteSize() - len(answer.payload)
        if beside > _METADATA:
            # grpc would refuse it as well. Here it would end the link, with all the calls on it.
            answer = pb.LinkAnswer(
                id=call.id,
                code=int(GrpcStatus.RESOURCE_EXHAUSTED),
                message=f"the answer has {beside} bytes of metadata, and {_METADATA} are allowed",
            )
        self._outbox.answer(answer)

    def _ended(self, number: int, task: asyncio.Task[None]) -> None:
        del self._tasks[number]
        if not task.cancelled() and task.exception() is not None:
            # No Exception, or it would have been answered. Whoever waits has to hear of it all the same.
            log.error("a call on a link failed", exc_info=task.exception())
            self._outbox.answer(
                pb.LinkAnswer(id=number, code=int(GrpcStatus.INTERNAL), message="the call failed")
            )
        if not self._tasks and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)


def deadline_of(call: pb.LinkCall) -> float | None:
    """The deadline of a call that has just arrived, on `time.monotonic()`; None without one."""
    return time.monotonic() + call.timeout_us / 1e6 if call.timeout_us else None


def pairs_of(call: pb.LinkCall) -> Pairs:
    """The metadata of a call."""
    return _pairs(call.metadata)


def put(entries: Any, pairs: Pairs) -> None:
    """Add metadata to an answer's."""
    for key, value in pairs:
        entries.add(key=key, value=value if isinstance(value, bytes) else value.encode())


def _pairs(entries: Any) -> Pairs:
    pairs: list[tuple[str, str | bytes]] = []
    for entry in entries:
        key, value = entry.key, entry.value
        pairs.append((key, value if key.endswith("-bin") else value.decode("utf-8", "replace")))
    return tuple(pairs)


def _failure(answer: pb.LinkAnswer, trailing: Pairs, peer: str) -> CollectiveError:
    details = next((value for key, value in trailing if key == STATUS_DETAILS), None)
    details = details if isinstance(details, bytes) else None
    return call_error(
        from_wire(answer.code), answer.message, peer=peer, binary_details=details, details=texts(details)
    )

"""What goes both ways once a carried exchange has become something else: the parts, and those that wait to be sent.

A connection to the origin is BINARY parts and one CLOSE in each direction. A WebSocket of which the origin takes whole
messages is messages in pieces of at most 64 KiB, and CLOSE: that of the caller is answered by the origin's, with which the call ends.

What is held is bounded at each end: by `HIGH_WATER` of what waits to be sent, by as much of what waits to be taken, and
by one message beyond either. Whoever is held up does not read, and the windows of the call fill.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Final

from ...core.errors import DodiciError
from ...wire.mesh.frames import read_close
from ..protos import http_pb2 as pb
from .framing import PIECE, MalformedError, pieces

HIGH_WATER: Final = 64 * 1024
"""Bytes that may wait."""
MAX_MESSAGE: Final = 16 * 1024 * 1024
"""Bytes of the longest message that is taken, where nobody has said another limit; that of the mesh, too."""
ABNORMAL: Final = 1006
NOT_TEXT: Final = 1007
TOO_BIG: Final = 1009

_COST: Final = 256
"""Bytes that each message and each part count for besides their own: many small ones are work, too."""


class UnfitError(Exception):
    """A message that the WebSocket fails for, with a code of RFC 6455 section 7.4.1."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def cost_of(message: str | bytes) -> int:
    """What a message counts for while it waits."""
    return len(message) + _COST


def parts_of(message: str | bytes) -> Iterator[pb.Part]:
    """A message in parts.

    Raises:
        UnicodeEncodeError: text with a lone surrogate.
    """
    text = isinstance(message, str)
    kind = pb.Part.TEXT if text else pb.Part.BINARY
    data = message.encode() if isinstance(message, str) else message
    left = len(data)
    for piece in pieces(data):
        left -= len(piece)
        yield pb.Part(kind=kind, data=piece, more=left > 0)


def closing_of(part: pb.Part) -> tuple[int, str]:
    """Code and reason of a CLOSE.

    Raises:
        MalformedError: it has no code that RFC 6455 section 7.4 knows.
    """
    try:
        code, reason = read_close(part.data)
    except DodiciError as error:
        raise MalformedError(error.message) from error
    if not 1000 <= code <= 4999:
        raise MalformedError(f"a WebSocket cannot be closed with {code}")
    return code, reason


class Assembly:
    """Puts messages together.

    Attributes:
        limit: bytes of the longest message; None for any.
    """

    def __init__(self, limit: int | None = MAX_MESSAGE) -> None:
        self.limit = limit
        self._begun = bytearray()
        self._more = False
        self._kind: int = pb.Part.BINARY

    def add(self, part: pb.Part) -> str | bytes | None:
        """Take a part; returns the message of which it is the last.

        Raises:
            UnfitError: longer than `limit`, or no text.
            MalformedError: the part is none of the message that has begun.
        """
        begun = self._begun
        if self._more and part.kind != self._kind:
            raise MalformedError("a message goes on as another kind")
        if self.limit is not None and len(begun) + len(part.data) > self.limit:
            raise UnfitError(TOO_BIG, f"over {self.limit} bytes")
        self._more = part.more
        if part.more:
            self._kind = part.kind
            begun += part.data
            return None
        data = part.data
        if begun:
            begun += data
            data = bytes(begun)
            begun.clear()
        if part.kind == pb.Part.BINARY:
            return data
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise UnfitError(NOT_TEXT, "a text that is not UTF-8") from None


class Outgoing:
    """The parts that wait to be sent: an async iterator of messages of the call, which is read as there is room.

    Serialised messages that follow each other are one message with the parts of all: what waits leaves together.

    Args:
        kind: of the messages.
    """

    def __init__(self, kind: type[pb.Request | pb.Response]) -> None:
        self.waiting = 0
        """What has not been taken counts for so many bytes."""
        self.on_taken: Callable[[], None] = _nothing
        """Called whenever something was taken."""
        self.on_abandoned: Callable[[], None] = _nothing
        """Called when nothing will be taken any more."""
        self._kind = kind
        self._messages: deque[bytes] = deque()
        self.closed = False
        """Nothing more is sent."""
        self._news: asyncio.Future[None] | None = None
        self._room: list[asyncio.Future[None]] = []

    def put_head(self, head: bytes) -> None:
        """Send what comes before all parts: a message of the call, serialised."""
        self._append(head)
        self._wake()

    def put(self, parts: Iterable[pb.Part]) -> None:
        """Send parts; nothing if it is closed."""
        if self.closed:
            return
        for part in parts:
            self._append(self._kind(parts=[part]).SerializeToString())
        self._wake()

    def _append(self, message: bytes) -> None:
        self._messages.append(message)
        self.waiting += len(message) + _COST

    def close(self) -> None:
        """Nothing follows."""
        self.closed = True
        self._wake()
        self.wake_senders()

    def abandon(self) -> None:
        """The call takes nothing any more, and is about to tell why."""
        self.close()
        self.on_abandoned()

    @property
    def full(self) -> bool:
        """Whether the next part should wait."""
        return self.waiting >= HIGH_WATER and not self.closed

    async def room(self) -> None:
        """Wait until there is room, or none is needed."""
        while self.full:
            waiter = asyncio.get_running_loop().create_future()
            self._room.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._room:
                    self._room.remove(waiter)

    def wake_senders(self) -> None:
        """Have those who wait for room look again."""
        waiters, self._room = self._room, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._messages:
            if self.closed:
                raise StopAsyncIteration
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        messages = self._messages
        message = messages.popleft()
        cost = len(message) + _COST
        if messages and cost + len(messages[0]) + _COST <= PIECE:
            together = [message]
            while messages and cost + len(messages[0]) + _COST <= PIECE:
                together.append(messages.popleft())
                cost += len(together[-1]) + _COST
            message = b"".join(together)
        self.waiting -= cost
        if not self.full:
            self.wake_senders()
        self.on_taken()
        return message


def _nothing() -> None:
    pass

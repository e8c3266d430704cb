"""The messages of a WebSocket over a link, both ways, for either side.

A message travels in pieces of at most 64 KiB. Each piece costs its bytes and the frame's of the window, and its
credit is given back when the message is taken; a message that is longer than the window gets its own back piece by
piece, but only while no other waits before it. So a reader that stops holds up its peer with one message and a
window, and no more.

Closing is as in RFC 6455 section 7: each side says CLOSE once, and answers the other's at once. A link that is lost,
or a side that gives up, is 1006.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from ..core.errors import LinkError, WebSocketClosedError
from ..wire.mesh import frames
from ..wire.mesh.frames import MAX_DATA, MESSAGE_COST, MORE
from ..wire.mesh.streams import Stream

if TYPE_CHECKING:
    from .link import Link

MAX_MESSAGE = 16 * 1024 * 1024
"""Bytes of the longest message that an app takes."""

_ABNORMAL = 1006
_NOT_TEXT = 1007
_TOO_BIG = 1009
_ENDED = -1
"""In the queue of what goes out: the CLOSE."""


class MessagePipe:
    """The messages of one WebSocket, both ways, for either side."""

    __slots__ = (
        "_arrived",
        "_binary",
        "_close",
        "_close_kind",
        "_debt",
        "_heard",
        "_link",
        "_outgoing",
        "_pieces",
        "_pieces_text",
        "_readers",
        "_said",
        "_senders",
        "_size",
        "_stream",
        "_text",
        "closed",
        "limit",
    )

    def __init__(self, link: Link, stream: Stream) -> None:
        self._link = link
        self._stream = stream
        ours = stream.ours
        self._text = frames.REQ_TEXT if ours else frames.TEXT
        self._binary = frames.REQ_BINARY if ours else frames.BINARY
        self._close_kind = frames.REQ_CLOSE if ours else frames.CLOSE
        self._outgoing: deque[tuple[int, bytes | memoryview]] = deque()
        self._arrived: deque[tuple[str | bytes, int]] = deque()
        self._pieces: list[bytes] = []
        self._pieces_text = False
        self._size = 0
        self._debt = 0
        self._readers: list[asyncio.Future[None]] = []
        self._senders: list[asyncio.Future[None]] = []
        self._close: bytes | None = None
        self._said = self._heard = False
        self.closed: tuple[int, str] | None = None
        """How it ended: code and reason."""
        self.limit: int | None = MAX_MESSAGE

    # -- out -------------------------------------------------------------------------------------------

    @property
    def closing(self) -> bool:
        """Whether no message can be sent any more."""
        return self._close is not None or self.closed is not None

    async def send(self, message: str | bytes) -> None:
        """Send a message when all before it are on their way."""
        while self._outgoing and not self.closing:
            await self._wait(self._senders)
        if self.closing:
            raise self.closed_error()
        kind = self._text if isinstance(message, str) else self._binary
        data = message.encode("utf-8") if isinstance(message, str) else bytes(message)
        if len(data) <= MAX_DATA:
            self._outgoing.append((kind, data))
        else:
            view = memoryview(data)
            for start in range(0, len(data), MAX_DATA):
                last = start + MAX_DATA >= len(data)
                self._outgoing.append((kind if last else kind | MORE, view[start : start + MAX_DATA]))
        self.pump()

    def begin_close(self, code: int, reason: str) -> None:
        """Say CLOSE behind what was sent."""
        if not self.closing:
            self._close = frames.close(code, reason)
            self._outgoing.append((_ENDED, b""))
            self.pump()

    def pump(self) -> None:
        """Write what credit and the transport allow."""
        stream, link = self._stream, self._link
        outgoing = self._outgoing
        if not outgoing or stream.gone:
            return
        while outgoing:
            if link.blocked:
                link.wait_for_room(self)
                break
            kind, piece = outgoing[0]
            if kind == _ENDED:
                outgoing.popleft()
                self._say_close()
                continue
            cost = len(piece) + MESSAGE_COST
            if stream.credit < cost:
                break
            stream.credit -= cost
            outgoing.popleft()
            link.engine.outbox.write(kind, stream.id, bytes(piece))
        link.stage()
        if not outgoing:
            self._wake(self._senders)

    def _say_close(self) -> None:
        if not self._said:
            self._said = True
            self._link.engine.outbox.write(self._close_kind, self._stream.id, self._close or b"")
            self._link.stage()
            self._over()

    def _over(self) -> None:
        """Forget the stream when both sides have said CLOSE."""
        if self._said and self._heard and not self._stream.gone:
            self._link.engine.forget(self._stream)
            self._link.ended()

    # -- in --------------------------------------------------------------------------------------------

    def on_message(self, data: bytes, *, text: bool, more: bool) -> None:
        """A piece has arrived."""
        cost = len(data) + MESSAGE_COST
        if self.closed is not None or self._close is not None:
            self._consumed(cost)  # nobody will take it
            return
        pieces = self._pieces
        if not pieces:
            self._pieces_text = text
        elif text is not self._pieces_text:
            raise LinkError("a message that is partly text")
        self._size += len(data)
        if self.limit is not None and self._size > self.limit:
            self.fail(_TOO_BIG, f"a message of more than {self.limit} bytes")
            return
        if more:
            pieces.append(data)
            self._debt += cost
            if not self._arrived:
                self._pay()
            return
        if pieces:
            pieces.append(data)
            data = b"".join(pieces)
            pieces.clear()
        cost += self._debt
        self._debt = self._size = 0
        message: str | bytes = data
        if text:
            try:
                message = data.decode("utf-8")
            except UnicodeDecodeError:
                self.fail(_NOT_TEXT, "a text that is not UTF-8")
                return
        self._arrived.append((message, cost))
        self._wake(self._readers)

    def _pay(self) -> None:
        debt, self._debt = self._debt, 0
        if debt:
            self._consumed(debt)

    def _consumed(self, cost: int) -> None:
        if self._link.engine.consumed(self._stream, cost):
            self._link.stage()

    async def receive(self) -> str | bytes:
        """The next message."""
        while not self._arrived:
            if self.closed is not None:
                raise self.closed_error()
            await self._wait(self._readers)
        message, cost = self._arrived.popleft()
        self._consumed(cost)
        if not self._arrived:
            self._pay()
        return message

    def on_close(self, code: int, reason: str) -> None:
        """The peer has said CLOSE; it is answered at once, whatever was still to be sent."""
        self._heard = True
        self._outgoing.clear()
        if self._close is None:
            self._close = frames.close(code, reason)
        self._end(code, reason)
        self._say_close()
        self._over()

    def fail(self, code: int, reason: str) -> None:
        """End it from here, without waiting for the peer's CLOSE."""
        self._outgoing.clear()
        self._pieces.clear()
        self._close = frames.close(code, reason)
        self._say_close()
        self._end(code, reason)

    def lost(self) -> None:
        """The peer is not there any more."""
        self._outgoing.clear()
        self._end(_ABNORMAL, "")

    def _end(self, code: int, reason: str) -> None:
        if self.closed is None:
            self.closed = (code, reason)
        self._pieces.clear()
        self._wake(self._readers)
        self._wake(self._senders)

    async def drained(self) -> None:
        """Wait until all that was sent is on its way, or will never be."""
        while self._outgoing and not self._stream.gone:
            await self._wait(self._senders)

    async def ended(self) -> None:
        """Wait until it is known how it ended."""
        while self.closed is None:
            await self._wait(self._readers)

    # -- waiting ---------------------------------------------------------------------------------------

    async def _wait(self, waiting: list[asyncio.Future[None]]) -> None:
        future: asyncio.Future[None] = self._link.loop.create_future()
        waiting.append(future)
        try:
            await future
        finally:
            if future in waiting:
                waiting.remove(future)

    def _wake(self, waiting: list[asyncio.Future[None]]) -> None:
        for future in waiting:
            if not future.done():
                future.set_result(None)
        waiting.clear()

    def closed_error(self) -> WebSocketClosedError:
        """What sending and receiving raise at the end."""
        code, reason = self.closed or (_ABNORMAL, "")
        text = f"the WebSocket is closed ({code}{': ' + reason if reason else ''})"
        return WebSocketClosedError(text, close_code=code, close_reason=reason)

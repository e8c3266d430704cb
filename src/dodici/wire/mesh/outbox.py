"""What leaves: frames in the order of their writing, and bodies in turns.

Heads, ends, credit and resets go out as they come. Body bytes wait in their streams, and the streams wait in line:
each turn takes one frame from the first, which then goes to the end, so that a large body holds up nobody. A
stream is in line while it has bytes queued and credit for some.
"""

from __future__ import annotations

from collections import deque

from .frames import DATA, END, FRAME, MAX_DATA, REQ_DATA, REQ_END
from .streams import Stream

_AT_ONCE = 4096
"""Bytes of a body that do not wait in line: they delay the others less than the waiting would delay them."""


class Outbox:
    """Frames to write, `parts`, and the line of streams with bodies."""

    __slots__ = ("line", "parts", "size")

    def __init__(self) -> None:
        self.parts: list[bytes | memoryview] = []
        self.size = 0
        self.line: deque[Stream] = deque()

    def write(self, kind: int, number: int, payload: bytes = b"") -> None:
        """Write a whole frame."""
        frame = FRAME.pack(len(payload), kind, number) + payload
        self.parts.append(frame)
        self.size += len(frame)

    def send(self, stream: Stream, data: bytes | memoryview) -> None:
        """Send body bytes, as credit and the others' turns allow. They must not change any more."""
        size = len(data)
        if not size:
            return
        if size <= _AT_ONCE and not stream.queued and size <= stream.credit:
            stream.credit -= size
            self.write(DATA if not stream.ours else REQ_DATA, stream.id, bytes(data))
            stream.on_written(size)
            return
        if stream.queue is None:
            stream.queue = deque()
        stream.queue.append(memoryview(data) if size > MAX_DATA else data)
        stream.queued += size
        self.schedule(stream)

    def end(self, stream: Stream, trailers: bytes = b"") -> None:
        """End the body behind what is queued."""
        if stream.queued:
            stream.ending = trailers
        else:
            stream.sent = True
            self.write(REQ_END if stream.ours else END, stream.id, trailers)

    def schedule(self, stream: Stream) -> None:
        """Put a stream in line, if it has something to send and credit for it."""
        if stream.queued and stream.credit > 0 and not stream.scheduled:
            stream.scheduled = True
            self.line.append(stream)

    def fill(self, budget: int) -> list[Stream]:
        """Move bodies into `parts`, a frame of each stream in turn, until about `budget` bytes were moved.

        Returns:
            The streams that this has ended.
        """
        line, parts = self.line, self.parts
        ended: list[Stream] = []
        moved = 0
        while line and moved < budget:
            stream = line.popleft()
            stream.scheduled = False
            queue = stream.queue
            if stream.gone or not queue:
                continue
            piece = queue[0]
            room = min(stream.credit, MAX_DATA)
            if len(piece) > room:
                queue[0] = piece[room:]
                piece = piece[:room]
            else:
                queue.popleft()
            size = len(piece)
            stream.credit -= size
            stream.queued -= size
            moved += size
            parts.append(FRAME.pack(size, REQ_DATA if stream.ours else DATA, stream.id))
            parts.append(piece)
            if queue:
                self.schedule(stream)
            elif stream.ending is not None:
                stream.sent = True
                self.write(REQ_END if stream.ours else END, stream.id, stream.ending)
                ended.append(stream)
            stream.on_written(size)
        self.size += moved
        return ended

    def take(self) -> list[bytes | memoryview]:
        """All that is to be written now."""
        parts, self.parts = self.parts, []
        self.size = 0
        return parts

"""What leaves: frames in the order of their writing, and bodies in turns.

Control frames and heads go out as they come. Body bytes wait in their streams, and the streams wait in line: each
turn takes one frame from the first, which then goes to the end, so that a large upload holds up nobody
(RFC 9113 section 5.2 leaves fairness to the sender). A stream is in line while it has bytes queued and its window
is open; the peer's WINDOW_UPDATE brings back one whose window was closed.
"""

from __future__ import annotations

from collections import deque

from .frames import DATA, END_HEADERS, END_STREAM, HEAD, HEADERS, MIN_MAX_FRAME, headers_frames
from .streams import Stream
from .windows import SendWindow


class Outbox:
    """Frames to send: `parts`, and the line of streams with bodies."""

    __slots__ = ("_line", "max_frame", "parts", "table_update", "window")

    def __init__(self, window: int) -> None:
        self.parts: list[bytes | memoryview] = []
        self.window = SendWindow(window)
        """The connection's."""
        self.max_frame = MIN_MAX_FRAME
        self.table_update = b""
        """Goes before the next header block."""
        self._line: deque[Stream] = deque()

    @property
    def ready(self) -> bool:
        """Whether bodies could go on, were there room in the transport."""
        return bool(self._line) and self.window.size > 0

    def schedule(self, stream: Stream) -> None:
        """Put a stream in line, if it has something that its window lets through."""
        window = stream.send_window
        if stream.queued and window is not None and window.size > 0 and not stream.scheduled:
            stream.scheduled = True
            self._line.append(stream)

    def write_headers(self, stream_id: int, block: bytes, *, end: bool) -> None:
        """Send a header block."""
        if self.table_update:
            block = self.table_update + block
            self.table_update = b""
        if len(block) <= self.max_frame:
            flags = END_HEADERS | END_STREAM if end else END_HEADERS
            self.parts.append(HEAD.pack(len(block) << 8 | HEADERS, flags, stream_id))
            self.parts.append(block)
        else:
            self.parts.append(headers_frames(stream_id, block, end, self.max_frame))

    def write_end(self, stream: Stream) -> None:
        """End a stream that has nothing queued; an empty frame needs no window (RFC 9113 section 6.9)."""
        stream.sent = True
        if stream.end_block is None:
            self.parts.append(HEAD.pack(DATA, END_STREAM, stream.id))
        else:
            self.write_headers(stream.id, stream.end_block, end=True)

    def fill(self, budget: int) -> list[Stream]:
        """Move bodies into `parts`, a frame of each stream in turn, until about `budget` bytes were moved.

        Returns the streams that this has ended.
        """
        line = self._line
        parts = self.parts
        window = self.window
        ended: list[Stream] = []
        while line and budget > 0 and window.size > 0:
            stream = line.popleft()
            stream.scheduled = False
            queue, own = stream.queue, stream.send_window
            if stream.gone or not queue or own is None or own.size <= 0:
                continue
            piece = queue[0]
            room = min(window.size, own.size, self.max_frame)
            if len(piece) > room:
                queue[0] = piece[room:]
                piece = piece[:room]
            else:
                queue.popleft()
            size = len(piece)
            window.size -= size
            own.size -= size
            stream.queued -= size
            budget -= size
            last = stream.ending and not queue
            with_data = last and stream.end_block is None
            parts.append(HEAD.pack(size << 8 | DATA, END_STREAM if with_data else 0, stream.id))
            parts.append(piece)
            if last:
                if with_data:
                    stream.sent = True
                else:
                    self.write_end(stream)
                ended.append(stream)
            else:
                self.schedule(stream)
            stream.on_written(size)
        return ended

    def take(self) -> bytes:
        """All that is to be written now, as one piece."""
        data = b"".join(self.parts)
        self.parts.clear()
        return data

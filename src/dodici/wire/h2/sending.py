"""What the engine of a connection sends: heads as they come, bodies in turns, and goodbye.

The table of streams is kept here, since it is by sending that a stream begins, and by `reset` or the end of both sides
that it leaves. Everything ends in `outbox.parts`; nothing here reads.
"""

from __future__ import annotations

from collections import deque

from .frames import (
    DEFAULT_WINDOW,
    MAX_STREAM_ID,
    PREFACE,
    ErrorCode,
    goaway,
    ping,
    rst_stream,
    settings_frame,
    window_update,
)
from .guard import FloodGuard
from .outbox import Outbox
from .resets import ResetStreams
from .settings import LocalSettings, PeerSettings
from .states import AWAITING, ENDED
from .streams import Stream
from .windows import SendWindow


class SendingSide:
    """The half of an `Engine` that sends.

    Args:
        settings: what we announce.
        guard: is told what was sent: an honest peer answers that with frames of its own.
        block_limit: bytes of header blocks that may still come on a stream after it was reset.
    """

    def __init__(self, settings: LocalSettings, guard: FloodGuard, block_limit: int) -> None:
        self._settings = settings
        self._guard = guard
        self._block_limit = block_limit
        self.peer = PeerSettings()
        self.outbox = Outbox(DEFAULT_WINDOW)
        self.streams: dict[int, Stream] = {}
        self.closed = False
        self._next_id = 1
        """The lowest number that is idle."""
        self._last_taken = 0
        """The peer's last stream that we have taken."""
        self._reset = ResetStreams()

    def start(self) -> None:
        """Put the preface into the outbox (RFC 9113 section 3.4)."""
        parts = self.outbox.parts
        parts += PREFACE, settings_frame(self._settings.pairs())
        more = self._settings.connection_window - DEFAULT_WINDOW
        if more > 0:
            parts.append(window_update(0, more))

    @property
    def exhausted(self) -> bool:
        """Whether the connection has no stream numbers left."""
        return self._next_id > MAX_STREAM_ID

    def open(self, stream: Stream, block: bytes, *, end: bool) -> None:
        """Send a request's head. `end` if it has no body."""
        stream.id = stream_id = self._next_id
        self._next_id = stream_id + 2
        stream.sent = end
        self.streams[stream_id] = stream
        self.outbox.write_headers(stream_id, block, end=end)

    def send(self, stream: Stream, data: bytes | memoryview) -> None:
        """Queue a piece of the body, which must not change; `stream.on_written` follows as it leaves."""
        if stream.gone or not len(data):
            return
        if stream.queue is None:
            stream.queue = deque()
            if stream.send_window is None:
                stream.send_window = SendWindow(self.peer.initial_window_size)
        stream.queue.append(memoryview(data))
        stream.queued += len(data)
        self.outbox.schedule(stream)

    def end(self, stream: Stream) -> None:
        """The body is complete: END_STREAM follows what is queued."""
        if stream.gone or stream.sent:
            return
        stream.ending = True
        if not stream.queued:
            self.outbox.write_end(stream)
            self._sent(stream)

    def fill(self, budget: int) -> None:
        """Move queued bodies into the outbox, about `budget` bytes."""
        if self.outbox.ready:
            outbox = self.outbox
            parts, window = len(outbox.parts), outbox.window.size
            for stream in outbox.fill(budget):
                self._sent(stream)
            self._guard.earn((len(outbox.parts) - parts) // 2, window - outbox.window.size)

    def _sent(self, stream: Stream) -> None:
        if stream.state == ENDED:
            self._leave(stream)

    def reset(self, stream: Stream, code: int = ErrorCode.CANCEL) -> None:
        """Give a stream up. It tells nothing more."""
        if stream.gone or self.closed:
            return
        self._leave(stream)
        self.outbox.parts.append(rst_stream(stream.id, code))
        if stream.state != ENDED:
            window = self._settings.stream_window if stream.window is None else stream.window.size
            self._reset.add(stream.id, window + self._block_limit if stream.state == AWAITING else window)

    def consumed(self, stream: Stream, count: int) -> None:
        """Bytes that `on_data` had not consumed were consumed now."""
        if stream.window is not None and stream.state != ENDED and not stream.gone:
            grant = stream.window.credit(count)
            if grant:
                self.outbox.parts.append(window_update(stream.id, grant))

    def ping(self, payload: bytes) -> None:
        """Send PING; `on_pong` follows."""
        self.outbox.parts.append(ping(payload))

    def close(self, code: ErrorCode = ErrorCode.NO_ERROR, debug: bytes = b"") -> None:
        """Say goodbye, and take nothing more."""
        if not self.closed:
            self.closed = True
            self.outbox.parts.append(goaway(self._last_taken, code, debug))

    def _leave(self, stream: Stream) -> None:
        stream.gone = True
        self.streams.pop(stream.id, None)
        if stream.queue is not None:
            stream.queue.clear()
            stream.queued = 0

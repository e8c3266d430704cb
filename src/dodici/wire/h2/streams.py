"""A stream, as the engine sees it. Whoever opens one subclasses `Stream` and is told through its methods."""

from __future__ import annotations

from collections import deque

from ...core.headers import Headers
from .sections import UNKNOWN_LENGTH, Section
from .states import AWAITING
from .windows import ReceiveWindow, SendWindow


class Stream:
    """One request and its response. The `on_` methods are called while `Engine.receive` runs, in order."""

    __slots__ = (
        "bodiless",
        "connect",
        "end_block",
        "ending",
        "expected",
        "gone",
        "id",
        "informational",
        "queue",
        "queued",
        "received",
        "scheduled",
        "send_window",
        "sent",
        "state",
        "window",
    )

    def __init__(self) -> None:
        self.id = 0
        """0 until it is opened."""
        self.state = AWAITING
        """What was received: see `states`."""
        self.gone = False
        """Whether it has left the connection: nothing can be sent on it, and nothing more is told."""
        self.bodiless = False
        """The answer has no body, whatever its head says: the request was HEAD."""
        self.connect = False
        """The request was CONNECT, plain or extended: a 2xx answer makes the stream a tunnel (RFC 9113 section 8.5)."""
        self.informational = 0
        """1xx heads so far."""
        self.expected = UNKNOWN_LENGTH
        self.received = 0
        self.window: ReceiveWindow | None = None
        """Made when a first piece of a body comes that does not end it."""

        self.sent = False
        """Whether our side is complete: END_STREAM has been written."""
        self.send_window: SendWindow | None = None
        """Made with the first piece of a body."""
        self.queue: deque[memoryview] | None = None
        self.queued = 0
        """Bytes that wait in `queue` for windows or the transport."""
        self.ending = False
        """Whether END_STREAM follows what is queued."""
        self.end_block: bytes | None = None
        """The header block that ends the stream; None: the last DATA does."""
        self.scheduled = False

    def on_informational(self, section: Section) -> None:
        """A 1xx head."""

    def on_head(self, section: Section) -> None:
        """The final head."""

    def on_data(self, data: bytes) -> bool:
        """A piece of the body, never empty. Whether it was consumed; if not, `Engine.consumed` says so later."""
        raise NotImplementedError

    def on_end(self, trailers: Headers) -> None:
        """The response is complete."""

    def on_failed(self, error: BaseException) -> None:
        """The response was refused or the peer reset the stream, which is gone.

        After `on_end` this may follow for what was still being sent; the response stays complete
        (RFC 9113 section 8.1).
        """

    def on_written(self, count: int) -> None:
        """So many queued bytes went into frames; `queued` is what is left."""

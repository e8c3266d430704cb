"""One request on a link, as the engine sees it: its number, its credit, and the bytes that wait for credit.

Both ends of a request are such a stream, and each hears its own half of what is here. A stream is `gone` when it has
left the engine's tables: whatever is sent or consumed afterwards is dropped.
"""

from __future__ import annotations

from collections import deque

from ...core.errors import LinkError
from ...core.headers import Headers
from ...core.trace import Trace
from .frames import WINDOW
from .heads import ResponseHead


class Stream:
    """The base of what carries a request; see the module's text."""

    __slots__ = (
        "consumed",
        "credit",
        "ending",
        "gone",
        "heard",
        "id",
        "inbound",
        "queue",
        "queued",
        "scheduled",
        "sent",
        "ours",
        "trace",
    )

    def __init__(self, number: int, *, ours: bool) -> None:
        self.id = number
        self.ours = ours
        """Whether the request is of this side."""
        self.credit = WINDOW
        """Bytes that the peer will still take."""
        self.inbound = WINDOW
        """Bytes that the peer may still send."""
        self.consumed = 0
        """Bytes whose credit was not given back yet."""
        self.queue: deque[bytes | memoryview] | None = None
        self.queued = 0
        self.scheduled = False
        self.ending: bytes | None = None
        """What the frame says that ends our body, once it was given: it leaves behind the body."""
        self.sent = False
        """Our body is complete and was handed on."""
        self.heard = 0
        """What the peer has said: of a request of ours, the final status; of the peer's, whether it is complete."""
        self.gone = False
        self.trace: Trace | None = None
        """Of a request of the peer's: what it says that the request belongs to."""

    def misplaced(self) -> LinkError:
        """What a peer gets for a frame that does not fit the stream: subclasses override what fits them."""
        return LinkError(f"a frame that does not fit request {self.id}")

    def on_written(self, count: int) -> None:
        """`count` bytes of the body were handed on."""

    def on_credit(self) -> None:
        """The peer takes more."""

    def on_data(self, data: bytes) -> None:
        """A piece of the body. `Engine.consumed` is to be called when it was used."""
        raise self.misplaced()

    # -- of a request of ours --------------------------------------------------------------------------

    def on_informational(self, head: ResponseHead) -> None:
        """An interim response."""
        raise self.misplaced()

    def on_head(self, head: ResponseHead) -> None:
        """The final response's head."""
        raise self.misplaced()

    def on_response(self, head: ResponseHead, body: bytes) -> None:
        """The whole response."""
        raise self.misplaced()

    def on_end(self, trailers: Headers) -> None:
        """The response is complete, and the stream gone."""
        raise self.misplaced()

    def on_reset(self, kind: int, texts: list[str]) -> None:
        """The peer has given it up, and the stream is gone."""
        raise self.misplaced()

    def on_accept(self, head: ResponseHead) -> None:
        """The WebSocket is open."""
        raise self.misplaced()

    # -- of a request of the peer's --------------------------------------------------------------------

    def on_request(self, body: bytes | None) -> None:
        """The request is in the table; `body` is all of it, or None if it follows."""

    def on_request_end(self) -> None:
        """The request is complete."""
        raise self.misplaced()

    def on_cancelled(self) -> None:
        """The peer has given it up, and the stream is gone."""
        raise self.misplaced()

    # -- of a WebSocket --------------------------------------------------------------------------------

    def on_message(self, data: bytes, *, text: bool, more: bool) -> None:
        """A message, or a piece of one."""
        raise self.misplaced()

    def on_close(self, code: int, reason: str) -> None:
        """The peer has closed the WebSocket."""
        raise self.misplaced()

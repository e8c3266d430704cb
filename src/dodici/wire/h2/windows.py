"""Flow-control windows (RFC 9113 section 5.2 and 6.9), as small objects of their own.

A `SendWindow` is what the peer lets us send; it may become negative when the peer lowers
SETTINGS_INITIAL_WINDOW_SIZE. A `ReceiveWindow` is what we let the peer send, and hands out credit for what
was consumed in portions of half the window, so that one WINDOW_UPDATE answers many DATA frames.
"""

from __future__ import annotations

from .frames import MAX_WINDOW


class SendWindow:
    """Bytes that may be sent: `size`."""

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size

    def grow(self, increment: int) -> bool:
        """Take a WINDOW_UPDATE, or a change of the initial size. False if it overflows."""
        self.size += increment
        return self.size <= MAX_WINDOW


class ReceiveWindow:
    """Bytes that the peer may still send: `size`, of at most `limit`."""

    __slots__ = ("_consumed", "_portion", "limit", "size")

    def __init__(self, limit: int) -> None:
        self.size = self.limit = limit
        self._portion = (limit + 1) // 2
        self._consumed = 0

    def take(self, count: int) -> bool:
        """Count what arrived. False if the peer has sent more than it may."""
        self.size -= count
        return self.size >= 0

    def take_consumed(self, count: int) -> int:
        """`take` and `credit` in one, for bytes that are consumed as they arrive; -1 if they were too many."""
        consumed = self._consumed + count
        if consumed < self._portion:
            self._consumed = consumed
            self.size -= count
            return 0 if self.size >= 0 else -1
        if count > self.size:
            return -1
        self._consumed = 0
        self.size += consumed - count
        return consumed

    def credit(self, count: int) -> int:
        """Count what was consumed; what to grant now in a WINDOW_UPDATE, or 0."""
        consumed = self._consumed + count
        if consumed < self._portion:
            self._consumed = consumed
            return 0
        self._consumed = 0
        self.size += consumed
        return consumed

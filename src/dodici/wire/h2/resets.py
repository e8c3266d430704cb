"""Streams that we have reset, and what may still come on them.

The peer goes on until our RST_STREAM reaches it: what it sent in good faith is ignored and free of charge
(RFC 9113 section 5.1), since a client that cancels a lot must not take the answers for a flood. That is one head,
what was left of the stream's window, and nothing after END_STREAM.
"""

from __future__ import annotations

from collections import OrderedDict

REMEMBERED = 1024


class ResetStreams:
    """The last `most` of them, by their numbers."""

    __slots__ = ("_floor", "_left", "most")

    def __init__(self) -> None:
        self.most = REMEMBERED
        self._left: OrderedDict[int, int] = OrderedDict()
        self._floor = 0
        """The highest number that was forgotten: of those up to here nobody knows how they ended."""

    def add(self, stream_id: int, size: int) -> None:
        """Remember one on which `size` bytes may still come."""
        self._left[stream_id] = size
        if len(self._left) > self.most:
            forgotten, _ = self._left.popitem(last=False)
            self._floor = max(self._floor, forgotten)

    def __contains__(self, stream_id: int) -> bool:
        return stream_id in self._left or stream_id <= self._floor

    def take(self, stream_id: int, size: int, *, end: bool) -> bool:
        """Count a late frame. Whether it may have been sent in good faith."""
        left = self._left.get(stream_id)
        if left is None:
            return False
        if end:
            del self._left[stream_id]
        else:
            self._left[stream_id] = left - size
        return end or 0 < size <= left

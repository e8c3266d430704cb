"""Floods: frames that cost us work and bring nothing forward are counted, and bounded.

A peer that sends PING, SETTINGS, WINDOW_UPDATE, RST_STREAM, PRIORITY, empty DATA, 1xx heads or unknown
frames without end makes a client busy without serving it (CVE-2019-9511 to 9518, CVE-2023-44487). Each such
frame costs one of `ALLOWANCE`; frames that carry something give back, and so does time.

WINDOW_UPDATE is the answer to what we send, and may come long after it: bytes that were sent pay for it in advance.

Requests that come to nothing at a server cost more than their frames, and a body pays for none of them: they have
an allowance of their own, by the second. It is large, since honest clients give up many calls at a moment, too.
"""

from __future__ import annotations

from collections.abc import Callable

from .frames import ConnectionFault, ErrorCode

ALLOWANCE = 1000
PERIOD = 10.0
"""Seconds after which the whole allowance is there again."""
EARNED = 2
"""What a useful frame gives back: one for the stream and one for the connection."""

ABORTED = 5000
"""Requests that may come to nothing in one second: 30 us each, which is less than as many cost that are answered."""

CROSSING = 16_384
"""RST_STREAM frames that may come at a time on streams that have ended meanwhile."""

_PORTION = 512
"""Bytes sent that pay for a WINDOW_UPDATE: a server that reads 1 KiB at a time may send two for each."""
_MOST_UPDATES = 64 * 1024
"""WINDOW_UPDATE frames that are paid for at a time: a window of 32 MiB."""


class FloodGuard:
    """An allowance of useless frames. `left` may be raised on the hot path, up to about ALLOWANCE."""

    __slots__ = ("_aborted", "_clock", "_crossed", "_second", "_since", "_updates", "answered", "left")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = self._second = clock()
        self._aborted = self._crossed = 0
        self._updates = 0
        self.answered = 0
        """Whole answers that were sent in one piece, and have not paid yet."""
        self.left = ALLOWANCE

    def earn(self, frames: int, size: int) -> None:
        """DATA frames with `size` bytes were sent."""
        earned = EARNED * frames
        self.left = min(ALLOWANCE, self.left + earned)
        self._updates = min(_MOST_UPDATES, self._updates + earned + size // _PORTION)

    def spend(self, what: str) -> None:
        """Count a frame that carries nothing.

        Raises:
            ConnectionFault: too many in too short a time.
        """
        self.left -= 1
        if self.left < 0 and self.answered:
            self._collect()
        if self.left < 0:
            now = self._clock()
            if now - self._since < PERIOD:
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"flood of frames: {what}")
            self._since = now
            self.left = ALLOWANCE

    def spend_update(self) -> None:
        """Count a WINDOW_UPDATE.

        Raises:
            ConnectionFault: too many in too short a time.
        """
        if not self._updates and self.answered:
            self._collect()
        if self._updates:
            self._updates -= 1
        else:
            self.spend("WINDOW_UPDATE")

    def spend_reset(self, begun: int) -> None:
        """Count an RST_STREAM on a stream that has ended, where `begun` streams have been.

        Each may be reset once while its end is on its way: by a caller whose deadline is its server's.

        Raises:
            ConnectionFault: more than that, and too many in too short a time.
        """
        self._crossed = max(self._crossed, begun - CROSSING) + 1
        if self._crossed > begun:
            self.spend("RST_STREAM")

    def spend_request(self, what: str) -> None:
        """Count a request that has cost work and came to nothing.

        Raises:
            ConnectionFault: too many in one second.
        """
        now = self._clock()
        if now - self._second >= 1.0:
            self._second = now
            self._aborted = 0
        self._aborted += 1
        if self._aborted > ABORTED:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"flood of requests: {what}")

    def _collect(self) -> None:
        frames, self.answered = self.answered, 0
        self.earn(frames, 0)

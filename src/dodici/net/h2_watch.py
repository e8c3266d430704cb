"""Whether the peer of an HTTP/2 connection is still there: PING after a silence (RFC 9113 section 6.7)."""

from __future__ import annotations

FINE, ASK, GONE = range(3)


class PeerWatch:
    """Looked at from time to time while requests run.

    Args:
        interval: seconds of silence after which to ask; 0 for never.
        timeout: seconds after which a peer that was asked and said nothing is given up.
    """

    __slots__ = ("_asked", "_due", "_interval", "_timeout", "heard")

    def __init__(self, interval: float, timeout: float) -> None:
        self._interval = interval
        self._timeout = timeout
        self._due = 0.0
        self._asked: float | None = None
        self.heard = False
        """Whether anything has arrived since the last look; set by whoever reads."""

    def look(self, now: float) -> int:
        """FINE, or ASK: send PING now, or GONE."""
        if not self._interval:
            return FINE
        if self.heard or not self._due:
            self.heard = False
            self._asked = None
            self._due = now + self._interval
        elif self._asked is not None:
            if now - self._asked >= self._timeout:
                return GONE
        elif now >= self._due:
            self._asked = now
            return ASK
        return FINE

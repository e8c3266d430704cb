"""What a client really did on the wire, as the server saw it.

A client that falls back to HTTP/1.1, opens more connections than the scenario allows, reconnects
on the way or squeezes fifty connections into one would be measured in another discipline. The
server logs the first request of every connection (server.py); this module compares what was
logged during a client's turns with what the scenario says, and a result that does not fit is
reported as invalid instead of as a number.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the server has to see: `protocol` on `least` to `most` connections."""

    protocol: str
    least: int
    most: int


@dataclass(slots=True)
class Seen:
    """The connections of one client: how many, by protocol and by cipher suite."""

    protocols: Counter[str] = field(default_factory=Counter)
    ciphers: Counter[str] = field(default_factory=Counter)

    def __iadd__(self, other: Seen) -> Self:
        self.protocols += other.protocols
        self.ciphers += other.ciphers
        return self

    @property
    def count(self) -> int:
        """All connections."""
        return self.protocols.total()

    def objection(self, expected: Expected, sessions: int = 1) -> str:
        """Why a result is invalid; empty if it is not.

        Args:
            expected: what the scenario asks for.
            sessions: how often the client opened its connections anew on purpose, as programs
                that are started for each measurement do.
        """
        others = sorted(name for name in self.protocols if name != expected.protocol)
        if others:
            return f"invalid: spoke {', '.join(others)}, not {expected.protocol}"
        if not expected.least * sessions <= self.count <= expected.most * sessions:
            wanted = f"{expected.least}-{expected.most}" if expected.least < expected.most else expected.most
            each = f" x {sessions} runs" if sessions > 1 else ""
            return f"invalid: used {self.count} connections, not {wanted}{each}"
        return ""


class Watch:
    """Reads the server's log of connections from where the last look ended.

    The connection on which the server was checked when it started calls its host `CHECK`, and
    does not count.
    """

    CHECK = "bench"
    PATIENCE = 1.0  # seconds

    def __init__(self, log: Path) -> None:
        self._log = log
        self._offset = log.stat().st_size

    def look(self, at_least: int = 0) -> Seen:
        """What is new since the last look.

        The server writes a line when it has sent the response, and the client may be faster: if
        fewer than `at_least` connections are there, they are waited for, a little.
        """
        seen = self._read()
        deadline = time.monotonic() + self.PATIENCE
        while seen.count < at_least and time.monotonic() < deadline:
            time.sleep(0.01)
            seen += self._read()
        return seen

    def _read(self) -> Seen:
        with self._log.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
            self._offset = file.tell()
        seen = Seen()
        for line in text.decode().splitlines():
            protocol, *tls, host = line.split()
            if host == self.CHECK:
                continue
            seen.protocols[protocol] += 1
            if tls != ["-", "-"]:
                seen.ciphers[" ".join(tls)] += 1
        return seen

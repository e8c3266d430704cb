"""What the workers print, and what the server says of itself: one stream of lines, each with whose it is.

The last `KEPT` lines stay for `dodici logs`; who follows them gets the next ones through a queue of bounded length,
and is told how many were left out when it reads too slowly.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import re
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from typing import Final, Protocol
from zlib import crc32

from ..core.trace import TraceFilter
from .background import BackgroundWriter

KEPT: Final = 2000
"""Lines that are remembered."""
LINE_LIMIT: Final = 16 * 1024
"""Characters of a line that are shown."""
_QUEUE: Final = 1000
_COLOURS: Final = (36, 32, 33, 35, 34, 96, 92, 93, 95, 94)
# Colours may pass to a terminal; what moves the cursor, sets titles or answers back may not come from a log.
_CONTROLS = re.compile(r"\x1b(?!\[[0-9;]*m)|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f\x80-\x9f]")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of output."""

    time: float
    """Seconds since the epoch."""
    service: str
    """The service, or ``"dodici"`` for the server's own."""
    pid: int | None
    stream: str
    """``"stdout"`` or ``"stderr"``."""
    text: str


class LineFile(Protocol):
    """What of a text file is used here."""

    def write(self, line: str, /) -> object: ...
    def flush(self) -> object: ...


class Output:
    """Takes lines, writes them to a file, keeps the last ones.

    Args:
        file: where they are written; None for nowhere.
        colour: whether prefixes have colours, one for each service.
    """

    def __init__(self, file: LineFile | None = None, *, colour: bool = False) -> None:
        self._file = file
        self._colour = colour
        self._width = 8
        self.broken = False
        """Nobody reads what is written any more."""
        self._kept: deque[Line] = deque(maxlen=KEPT)
        self._followers: set[_Follower] = set()

    @classmethod
    def for_terminal(cls) -> Output:
        """Writes to standard output, with colours where that is a terminal."""
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        return cls(sys.stdout, colour=sys.stdout.isatty())

    @classmethod
    def in_background(cls) -> Output:
        """The same, for who may not wait until it can be written. To be closed."""
        try:
            writer = BackgroundWriter(sys.stdout.fileno(), sys.stdout.encoding)
        except (OSError, ValueError):
            return cls.for_terminal()  # it is no file
        sys.stdout.flush()
        return cls(writer, colour=sys.stdout.isatty())

    def close(self, timeout: float = 1.0) -> None:
        """Return when all is written, or after `timeout` seconds."""
        if isinstance(self._file, BackgroundWriter):
            self._file.close(timeout)

    def align(self, services: Iterable[str]) -> None:
        """Make the prefixes as wide as these names."""
        self._width = max(self._width, *map(len, services))

    def say(self, text: str, *, service: str = "dodici") -> None:
        """The server has something to say, perhaps of a service; every line of it."""
        for line in text.splitlines() or [""]:
            self.add(service, None, "stderr", line)

    def add(self, service: str, pid: int | None, stream: str, text: str) -> None:
        """A line was printed."""
        line = Line(time.time(), service, pid, stream, text[:LINE_LIMIT])
        self._kept.append(line)
        for follower in self._followers:
            follower.put(line)
        if self._file is not None:
            try:
                self._file.write(self._shown(line) + "\n")
                self._file.flush()
            except (OSError, ValueError):
                self._file = None  # the terminal is closed, the pipe is broken
                self.broken = True

    def _shown(self, line: Line) -> str:
        self._width = max(self._width, len(line.service))
        pid = "" if line.pid is None else str(line.pid)
        who = f"{line.service:<{self._width}} {pid:>7} |"
        text = line.text
        if self._colour:
            colour = (
                90 if line.service == "dodici" else _COLOURS[crc32(line.service.encode()) % len(_COLOURS)]
            )
            who = f"\x1b[{colour}m{who}\x1b[0m"
            text = _CONTROLS.sub("?", text) + ("\x1b[0m" if "\x1b" in text else "")
        return f"{who} {text}"

    def last(self, service: str | None = None, count: int = KEPT, *, pid: int | None = None) -> list[Line]:
        """The last lines, all or those of one service or worker."""
        found = [
            line
            for line in self._kept
            if (service is None or line.service == service) and (pid is None or line.pid == pid)
        ]
        return found[-count:] if count else []

    async def follow(self, service: str | None = None) -> AsyncGenerator[Line, None]:
        """Lines from now on, until the caller closes the iterator."""
        follower = _Follower(service)
        self._followers.add(follower)
        try:
            while True:
                yield await follower.queue.get()
                if follower.missed:
                    missed, follower.missed = follower.missed, 0
                    yield Line(time.time(), "dodici", None, "stderr", f"{missed} lines left out here")
        finally:
            self._followers.discard(follower)


class LogToOutput(logging.Handler):
    """What the mesh logs in this process: the apps of threads and loops, and what goes wrong with links.

    That a worker ended is left out: the supervisor says so, and what it does about it. Made on the loop that the
    output belongs to; records may come from any thread.
    """

    def __init__(self, output: Output) -> None:
        super().__init__(logging.WARNING)
        self.addFilter(TraceFilter())
        self._output = output
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg == "%s (pid %d) %s":
            return
        text = self.format(record)
        trace_id = getattr(record, "trace_id", "")
        if trace_id and trace_id not in text:
            first, newline, rest = text.partition("\n")
            text = f"{first} (trace {trace_id}){newline}{rest}"
        if threading.get_ident() == self._thread:
            self._output.say(text)
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._output.say, text)


class _Follower:
    def __init__(self, service: str | None) -> None:
        self._service = service
        self.queue: asyncio.Queue[Line] = asyncio.Queue(_QUEUE)
        self.missed = 0

    def put(self, line: Line) -> None:
        if self._service is not None and line.service != self._service:
            return
        try:
            self.queue.put_nowait(line)
        except asyncio.QueueFull:
            self.missed += 1

"""Writes to a descriptor from a thread, so that nobody waits for a reader that has stopped reading.

A pipe whose reader is busy, or a terminal that was stopped with Ctrl-S, blocks whoever writes. The gateway's loop may
not be that: all requests would wait with it. What waits to be written has a limit; lines beyond it are left out, and
their number is written when there is room again. The descriptor is written to directly: a thread that is stuck inside
a buffered file would make the interpreter's end fatal.
"""

from __future__ import annotations

import os
import select
import threading
from typing import Final

_WAITING: Final = 1024 * 1024
"""Characters that may wait to be written."""


class BackgroundWriter:
    """Looks like a text file to who writes lines.

    Args:
        descriptor: where to write; stays open.
        encoding: of the text; what it cannot express is written as an escape.
    """

    def __init__(self, descriptor: int, encoding: str) -> None:
        self._descriptor = descriptor
        self._encoding = encoding
        self._changed = threading.Condition()
        self._lines: list[str] = []
        self._size = 0
        self._missed = 0
        self._closing = False
        self._error: OSError | None = None
        self._thread: threading.Thread | None = None

    def write(self, line: str) -> None:
        """Have a line written, which ends with a newline.

        Raises:
            OSError: an earlier one could not be written.
        """
        with self._changed:
            if self._error is not None:
                raise self._error
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="dodici-output", daemon=True)
                self._thread.start()
            if self._size + len(line) > _WAITING:
                self._missed += 1
                return
            self._lines.append(line)
            self._size += len(line)
            self._changed.notify()

    def flush(self) -> None:
        """Does nothing: lines are written as soon as they can be."""

    def close(self, timeout: float) -> None:
        """Return when all is written, or after `timeout` seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._lines and not self._closing:
                    self._changed.wait()
                lines = self._lines
                if not lines:
                    return
                if self._missed:
                    lines.append(f"{self._missed} lines left out here\n")
                    self._missed = 0
                self._lines = []
                self._size = 0
            try:
                self._write(memoryview("".join(lines).encode(self._encoding, "backslashreplace")))
            except OSError as error:
                with self._changed:
                    self._error = error
                return

    def _write(self, left: memoryview) -> None:
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # somebody who shares the terminal wants it that way
                select.select((), (self._descriptor,), ())

"""A client's process: started once for a scenario, asked for one measurement per round.

The protocol is a line each way. The driver says ``ready`` when it has warmed up; each ``go`` on
its standard input is answered by one JSON line. So the rounds of all contenders interleave, and
each has to warm up only once. Between its turns a process is stopped by a signal: it cannot take
time from the others, whatever its threads and timers would like to do. When its input ends, a
driver exits.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plan import Contender


class DriverError(Exception):
    """The driver did not answer; the text is its last word."""


class Driver:
    """The process of `contender`, pinned to `core` if there is one; `answer_within` bounds each answer, in seconds."""

    def __init__(
        self, contender: Contender, arguments: list[str], core: int | None, answer_within: float
    ) -> None:
        self._limit = answer_within
        self._buffer = b""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - close() does
        with contextlib.nullcontext() if core is None else pinned(core):
            self._process = subprocess.Popen(
                [*contender.command(), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                # A group of its own: what a driver starts has to end with it. In the same session,
                # so that the kernel hangs up on stopped drivers when this process is killed.
                process_group=0,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    def warm_up(self) -> str:
        """Wait for the end of the warm-up; why the client cannot take part, or nothing."""
        answer = self._line()
        return "" if answer == "ready" else str(_parsed(answer)["unsupported"])

    def measure(self) -> dict[str, Any]:
        """One measurement."""
        self._process.send_signal(signal.SIGCONT)
        try:
            os.write(self._stdin.fileno(), b"go\n")
        except OSError as error:
            raise DriverError(self._last_words()) from error
        return _parsed(self._line())

    def rest(self) -> None:
        """Stop the process until its next turn."""
        self._process.send_signal(signal.SIGSTOP)

    def close(self) -> None:
        """End the process, and what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._stdin.close()
        self._stdout.close()
        self._errors.close()

    def _line(self) -> str:
        deadline = time.monotonic() + self._limit
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._stdout], [], [], left)[0]:
                raise DriverError(f"did not finish in {self._limit:.0f} s")
            piece = os.read(self._stdout.fileno(), 65536)
            if not piece:
                raise DriverError(self._last_words())
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip().splitlines() or [f"exit {code}"]
        reason = next((word for word in reversed(words) if "Error" in word), words[-1])
        return reason.strip()[:80]


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """What is started inside runs on `core`, with all its children."""
    before = os.sched_getaffinity(0)
    # Set around the start rather than in a preexec_fn, which is not safe with threads.
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _parsed(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise DriverError(f"said {line[:60]!r}") from error
    if not isinstance(found, dict):
        raise DriverError(f"said {line[:60]!r}")
    return found

"""Ctrl-C, wherever the program is.

asyncio's own handler cancels the main task, which is right while the loop runs, and of no use while a write
to a full pipe blocks it. Raising `KeyboardInterrupt` is right for that write, and wrong inside the callbacks
of an exchange, which would report it as a failure of theirs. So each is done in its place.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from contextlib import AbstractContextManager
from typing import Any, Self


class Interrupts:
    """Handles SIGINT from entering to leaving (`with`)."""

    def __init__(self) -> None:
        self.at_once = _AtOnce()
        """`with` around what may block: an interrupt then raises `KeyboardInterrupt`."""
        self._task: asyncio.Task[Any] | None = None
        self._before: Any = None

    def watch(self) -> None:
        """From now on an interrupt cancels the running task."""
        self._task = asyncio.current_task()

    def __enter__(self) -> Self:
        elsewhere = threading.current_thread() is not threading.main_thread()
        # It may also be ignored on purpose: for a job in the background of a script.
        if not elsewhere and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _interrupt(self, *_: object) -> None:
        if self._task is None or self._task.done() or self.at_once.active:
            raise KeyboardInterrupt
        self._task.cancel()
        # The loop may be asleep, and a cancellation from outside of it does not wake it.
        self._task.get_loop().call_soon_threadsafe(_nothing)


class _AtOnce(AbstractContextManager[None]):
    active = False

    def __enter__(self) -> None:
        self.active = True

    def __exit__(self, *_: object) -> None:
        self.active = False


def _nothing() -> None:
    """Wakes a loop."""

"""The signals that a running `dodici up` listens to."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from typing import Final

_HANDLED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Signals:
    """Calls back on the event loop.

    Args:
        stop: for SIGTERM and SIGINT, and when the terminal was closed.
        reload: for SIGHUP.
    """

    def __init__(self, stop: Callable[[], None], reload: Callable[[], None]) -> None:
        self._stop = stop
        self._reload = reload
        self._on_terminal = sys.stdin is not None and sys.stdin.isatty()

    def handle(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on."""
        for number in _HANDLED:
            loop.add_signal_handler(number, self._hung_up if number == signal.SIGHUP else self._stop)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)

    def restore(self, loop: asyncio.AbstractEventLoop) -> None:
        """Not any more."""
        for number in _HANDLED:
            loop.remove_signal_handler(number)

    def _hung_up(self) -> None:
        # A terminal that was closed sends the same signal as a person who wants a reload.
        if self._on_terminal and _terminal_is_gone():
            self._stop()
        else:
            self._reload()


def _terminal_is_gone() -> bool:
    try:
        os.tcgetpgrp(sys.stdin.fileno())
    except (OSError, ValueError):
        return True
    return False

"""Transports that have no socket of their own: what asyncio asks of one, over a queue of bytes that wait to be sent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

HIGH_WATER: Final = 64 * 1024
"""Bytes that may wait before the protocol is told to pause, where nobody says otherwise."""


class VirtualTransport(asyncio.Transport):
    """A base. Subclasses have `write`, `close` and the like, and say how much waits (`get_write_buffer_size`).

    They call `_queued` when they have queued something, and `_sent` when something has left.
    """

    def __init__(self) -> None:
        super().__init__()
        self._protocol: asyncio.BaseProtocol = asyncio.Protocol()
        self._paused = False
        """Reading is."""
        self._closing = False
        self._lost = False
        self._full = False
        """The protocol was told to pause."""
        self._high = HIGH_WATER

    def _queued(self) -> None:
        if self.get_write_buffer_size() > self._high and not self._full:
            self._full = True
            self._protocol.pause_writing()

    def _sent(self) -> None:
        if self._full and self.get_write_buffer_size() <= self._high // 2:
            self._full = False
            if not self._lost:
                self._protocol.resume_writing()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def is_reading(self) -> bool:
        return not self._paused and not self._closing

    def pause_reading(self) -> None:
        self._paused = True

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._high // 2, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = high if high is not None else 4 * low if low is not None else HIGH_WATER

    def is_closing(self) -> bool:
        return self._closing

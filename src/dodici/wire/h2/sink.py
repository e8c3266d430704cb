"""Where the engine tells what concerns no single stream."""

from __future__ import annotations

from typing import Protocol

from .streams import Stream


class Sink(Protocol):
    """What concerns the connection as a whole."""

    def on_settings(self) -> None:
        """The peer's settings came or changed; they are applied."""

    def on_goaway(self, code: int, debug: bytes, unprocessed: list[Stream]) -> None:
        """The peer takes no more streams. `unprocessed` are gone, and it has done nothing with them."""

    def on_pong(self, payload: bytes) -> None:
        """A PING was answered."""

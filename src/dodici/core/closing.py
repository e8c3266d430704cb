"""Closing what is iterated, whatever it is."""

from __future__ import annotations

from typing import Any


async def aclose(stream: Any) -> None:
    """Close an asynchronous iterator, if it is one that can be closed; None is nothing to close."""
    close = getattr(stream, "aclose", None)
    if close is not None:
        await close()

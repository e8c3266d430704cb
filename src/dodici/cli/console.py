"""Where tables are printed, and how long things have lasted."""

from __future__ import annotations

from itertools import pairwise

from rich.console import Console


def make_console() -> Console:
    """Standard output."""
    console = Console()
    # Into a pipe or a file whole lines go, whatever their length.
    return console if console.is_terminal else Console(width=200)


def duration(seconds: float) -> str:
    """Seconds, in the largest unit and the next: ``"3d 4h"``, ``"12s"``."""
    left = int(seconds)
    units = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
    for (unit, size), (smaller, part) in pairwise(units):
        if left >= size:
            return f"{left // size}{unit} {left % size // part}{smaller}"
    return f"{left}s"

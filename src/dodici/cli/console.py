"""How things are shown: where tables are printed, how long things have lasted, what may not reach a terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NoReturn

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        """Whoever runs the command knows what to do, as with everything that is printed; rich would end the process."""
        raise  # noqa: PLE0704 - rich calls it where it has caught the error


def make_console(width: int = 200) -> Console:
    """Standard output. Into a pipe or a file whole lines go, up to `width` characters."""
    console = _Console()
    return console if console.is_terminal else _Console(width=width)


def watch_screen(look: Callable[[], RenderableType], interval: float) -> NoReturn:
    """Show what `look` finds again every `interval` seconds, until interrupted: in the place of what was there, or,
    where standard output is no terminal, below it.
    """
    console = make_console()
    if console.is_terminal:
        with Live(look(), console=console, auto_refresh=False, screen=True) as live:
            while True:
                time.sleep(interval)
                live.update(look(), refresh=True)
    while True:
        console.print(look())
        console.print()
        console.file.flush()
        time.sleep(interval)


def duration(seconds: float) -> str:
    """Seconds, in the largest unit and the next: ``"3d 4h"``, ``"12s"``."""
    left = int(seconds)
    units = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
    for (unit, size), (smaller, part) in pairwise(units):
        if left >= size:
            return f"{left // size}{unit} {left % size // part}{smaller}"
    return f"{left}s"


def add_row(table: Table, *cells: str | Text) -> None:
    """Add texts as they are: no markup, and nothing that could move the cursor."""
    table.add_row(*(cell if isinstance(cell, Text) else Text(clean(cell)) for cell in cells))


def clean(text: str) -> str:
    """What somebody else has made up may not move the cursor."""
    return "".join(character if character.isprintable() else "?" for character in text)


def json_text(value: Any, *, indent: int | None = None) -> str:
    """JSON for people: with the characters themselves, where standard output has them."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent)
    return text

"""The table of `dodici ps`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

Status = dict[str, Any]

_COLOURS = {"ready": "green", "running": "green", "failed": "red", "waiting": "red", "degraded": "yellow"}
_COLUMNS = (
    ("SERVICE", "left"),
    ("PID", "right"),
    ("KIND", "left"),
    ("STATE", "left"),
    ("REQUESTS", "right"),
    ("RUNNING", "right"),
    ("ERRORS", "right"),
    ("RSS", "right"),
    ("LAG", "right"),
    ("UPTIME", "right"),
    ("RESTARTS", "right"),
)


def render(status: Status) -> Group:
    """What is shown of a status."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name, side in _COLUMNS:
        table.add_column(name, justify="right" if side == "right" else "left", no_wrap=True)
    for service in status["services"]:
        for slot in service["slots"]:
            table.add_row(*_row(service, slot))
    where = ", ".join(status["listening"])
    head = Text(
        f"{status['name']}  process {status['pid']}  {status['state']}  {where}  "
        f"{status['connections']} connections  up {duration(status['uptime'])}"
    )
    errors = [
        Text(f"{each['name']}: {each['error']}", style="red") for each in status["services"] if each["error"]
    ]
    return Group(head, Text(), table, *errors)


def _row(service: dict[str, Any], slot: dict[str, Any]) -> list[Text]:
    state = "paused" if slot["paused"] else slot["state"]
    if service["state"] == "failed" and slot["pid"] is None:
        state = "failed"
    cells = (
        service["name"],
        _number(slot["pid"]),
        service["kind"],
        state,
        _number(slot["requests"]),
        _number(slot["running"]),
        _number(slot["errors"]),
        "-" if slot["rss"] is None else f"{slot['rss'] / 2**20:.0f} MiB",
        "-" if slot["loop_lag"] is None else f"{slot['loop_lag'] * 1000:.1f} ms",
        "-" if slot["uptime"] is None else duration(slot["uptime"]),
        str(slot["restarts"]),
    )
    texts = [Text(cell) for cell in cells]
    texts[3].stylize(_COLOURS.get(state, "yellow"))
    return texts


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def duration(seconds: float) -> str:
    """Seconds, in the largest unit and the next: ``"3d 4h"``, ``"12s"``."""
    left = int(seconds)
    units = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
    for (unit, size), (smaller, part) in pairwise(units):
        if left >= size:
            return f"{left // size}{unit} {left % size // part}{smaller}"
    return f"{left}s"


def _console() -> Console:
    console = Console()
    # Into a pipe or a file whole lines go, whatever their length.
    return console if console.is_terminal else Console(width=200)


def show(status: Status) -> None:
    """Print it once."""
    _console().print(render(status))


def watch_status(get: Callable[[], Status], interval: float, *, as_json: bool) -> None:
    """Show it again every `interval` seconds, until interrupted or the server has gone."""
    if as_json:
        while True:
            print(json.dumps(get()), flush=True)
            time.sleep(interval)
    console = _console()
    with Live(render(get()), console=console, auto_refresh=False, screen=console.is_terminal) as live:
        while True:
            time.sleep(interval)
            live.update(render(get()), refresh=True)

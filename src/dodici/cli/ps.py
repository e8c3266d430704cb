"""The table of `dodici ps`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .collectors_table import head_line, peers_table
from .console import add_row, clean, duration, make_console, watch_screen

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
    collector = [] if status.get("collector") is None else _collector(status["collector"])
    return Group(head, Text(), table, *errors, *collector)


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


def _collector(figures: Status) -> list[RenderableType]:
    """What the collector has to say: its peers, what is served here and there, and who has not answered yet."""
    parts: list[RenderableType] = [Text(), Text("collector ").append(head_line(figures, time.time()))]
    if figures["peers"]:
        parts += [Text(), peers_table(figures, None, time.time())]
    if figures["routes"]:
        parts += [Text(), _routes(figures)]
    parts += [
        Text(clean(f"{address} is tried again: {why}"), style="yellow")
        for address, why in figures["unanswered"].items()
    ]
    return parts


def _routes(figures: Status) -> Table:
    """A row for each service, with how much of it accepts calls, here and at the peers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("ROUTE", "SERVED BY", "HERE", "PEERS", "CALLS", "FAILED"):
        right = name in {"HERE", "CALLS", "FAILED"}
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    served = {(each["namespace"], each["service"]): each["by"] for each in figures["served"]}
    services: dict[tuple[str, str], list[Status]] = {}
    for route in figures["routes"]:
        services.setdefault((route["namespace"], route["service"]), []).append(route)
    for key, routes in sorted(services.items()):
        here = max((route["share"] for route in routes if route["local"]), default=None)
        peers: dict[str, float] = {}
        for route in routes:
            for peer, share in route["shares"].items():
                peers[peer] = max(share, peers.get(peer, 0.0))
        add_row(
            table,
            "/".join(key),
            served.get(key, "-"),
            "-" if here is None else Text(_percent(here), "" if here else "yellow"),
            ", ".join(f"{peer} {_percent(share)}" for peer, share in peers.items()) or "-",
            str(sum(route["calls"] for route in routes)),
            str(sum(route["failures"] for route in routes)),
        )
    return table


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"


def show(status: Status) -> None:
    """Print it once."""
    make_console().print(render(status))


def watch_status(get: Callable[[], Status], interval: float, *, as_json: bool) -> None:
    """Show it again every `interval` seconds, until interrupted or the server has gone."""
    if as_json:
        while True:
            print(json.dumps(get()), flush=True)
            time.sleep(interval)
    watch_screen(lambda: render(get()), interval)

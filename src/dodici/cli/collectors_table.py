"""The tables of `dodici collectors`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, NoReturn

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .console import add_row, clean, duration, make_console, watch_screen

Figures = dict[str, Any]
"""What `CollectorStats.as_dict()` has, and `history`."""

_COLOURS: Final = {
    "serving": "green",
    "connected": "green",
    "closed": "green",
    "200": "green",
    "draining": "yellow",
    "half_open": "yellow",
    "lost": "red",
    "open": "red",
    "ejected": "red",
}
_MOST_ROUTES: Final = 50
_LAST_CALLS: Final = 10


class Rates:
    """Calls a second of everything that is counted, from one look to the next."""

    def __init__(self) -> None:
        self._before: dict[tuple[str, ...], tuple[float, float]] = {}

    def of(self, key: tuple[str, ...], calls: float, now: float) -> str:
        """The rate since the last look; "-" at the first."""
        before = self._before.get(key)
        self._before[key] = now, calls
        if before is None or now <= before[0]:
            return "-"
        return f"{max(0.0, calls - before[1]) / (now - before[0]):.1f}"


def render(figures: list[Figures], rates: Rates | None, now: float, *, calls: bool = False) -> Group:
    """What is shown of collectors; the column of rates is for who looks more than once."""
    parts: list[RenderableType] = []
    for each in figures:
        if parts:
            parts.append(Text())
        if "lost" in each:
            parts.append(Text(clean(each["lost"]), "red"))
        else:
            parts += _one(each, rates, now, calls=calls)
    return Group(*parts)


def head_line(figures: Figures, now: float) -> Text:
    """Who it is, and how it is."""
    head = Text(clean(f"{figures['id']}  {figures['address']}  "))
    head.append(figures["state"], _COLOURS.get(figures["state"], "yellow"))
    up = duration(max(0.0, now - figures["started"])) if figures["started"] else "-"
    head.append(
        f"  {clean(', '.join(figures['namespaces'])) or 'no namespaces'}  {figures['in_flight']} in flight  "
        f"{figures['calls']} calls, {figures['failures']} failed, {figures['rate']:.1f}/s  up {up}"
    )
    return head


def _one(figures: Figures, rates: Rates | None, now: float, *, calls: bool) -> list[RenderableType]:
    parts: list[RenderableType] = [head_line(figures, now)]
    if figures["peers"]:
        parts += [Text(), peers_table(figures, rates, now)]
    members = [member for member in figures["members"] if member["id"] not in _ids(figures["peers"])]
    if members:
        parts += [Text(), _members(members, now)]
    if figures["routes"]:
        parts += [Text(), _routes(figures, rates, now)]
        if more := max(0, len(figures["routes"]) - _MOST_ROUTES):
            parts.append(Text(f"and {more} more; --json has them"))
    if left_out := int(figures.get("routes_left_out", 0)):
        parts.append(Text(f"and {left_out} that it has not told"))
    if calls and figures.get("history"):
        parts += [Text(), _calls(figures["history"][-_LAST_CALLS:])]
    return parts


def _ids(peers: list[Figures]) -> set[str]:
    return {peer["id"] for peer in peers}


def _table(*columns: str, rates: Rates | None) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        if name == "CALLS/S" and rates is None:
            continue
        right = name in {"IN FLIGHT", "LATENCY", "CALLS", "FAILED", "CALLS/S", "HOPS", "TOOK", "AGO"}
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    return table


def peers_table(figures: Figures, rates: Rates | None, now: float) -> Table:
    """Its peers."""
    table = _table(
        "PEER", "ADDRESS", "STATE", "LINK", "IN FLIGHT", "LATENCY", "CALLS", "FAILED", "CALLS/S", "BREAKERS",
        rates=rates,
    )  # fmt: skip
    for peer in figures["peers"]:
        state = "ejected" if peer["ejected_for"] > 0 and peer["state"] == "connected" else peer["state"]
        breakers = Text()
        for name in peer["namespaces"]:
            breaker = peer["breakers"].get(name, "closed")
            breakers.append(clean(f"{name} ")).append(f"{breaker}  ", _COLOURS[breaker])
        latency = f"{peer['latency'] * 1000:.1f} ms" if peer["calls"] else "-"
        cells: list[str | Text] = [
            peer["id"],
            peer["address"],
            Text(state, _COLOURS.get(state, "yellow")),
            "yes" if peer["linked"] else "no",
            str(peer["in_flight"]),
            latency,
            str(peer["calls"]),
            str(peer["failures"]),
        ]
        if rates is not None:
            cells.append(rates.of((figures["id"], "peer", peer["id"]), peer["calls"], now))
        add_row(table, *cells, breakers)
    return table


def _members(members: list[Figures], now: float) -> Table:
    table = _table("MEMBER", "ADDRESS", "KNOWN BY", "NAMESPACES", "SEEN", rates=None)
    for member in members:
        seen = duration(max(0.0, now - member["last_seen"])) if member["last_seen"] else "-"
        add_row(
            table,
            member["id"] or "-",
            member["address"],
            member["source"],
            ", ".join(member["namespaces"]),
            seen if member["alive"] else Text(f"{seen}, not alive", "red"),
        )
    return table


def _routes(figures: Figures, rates: Rates | None, now: float) -> Table:
    table = _table("ROUTE", "KIND", "HERE", "HOPS", "THROUGH", "CALLS", "FAILED", "CALLS/S", rates=rates)
    routes = sorted(figures["routes"], key=lambda each: (each["namespace"], each["service"], each["method"]))
    for route in routes[:_MOST_ROUTES]:
        name = f"{route['namespace']}/{route['service']}.{route['method']}"
        cells = [
            name,
            route["kind"] + (", idempotent" if route["idempotent"] else ""),
            "yes" if route["local"] else "no",
            str(route["hops"]) if route["peers"] else "-",
            ", ".join(route["peers"]) or "-",
            str(route["calls"]),
            str(route["failures"]),
        ]
        if rates is not None:
            cells.append(rates.of((figures["id"], "route", name), route["calls"], now))
        add_row(table, *cells)
    return table


def _calls(records: list[Figures]) -> Table:
    table = _table("CALL", "ROLE", "FROM", "HANDLED BY", "STATUS", "TOOK", "TRACE", rates=None)
    for record in reversed(records):
        status = str(record["status"])
        add_row(
            table,
            f"{record['namespace']}/{record['service']}.{record['method']}",
            record["role"],
            record["source"] or "-",
            record["handled_by"] or "-",
            Text(f"{status} {record['grpc_status']}", _COLOURS.get(status, "red")),
            f"{record['duration'] * 1000:.1f} ms",
            record["trace_id"] or "-",
        )
    return table


def show(figures: list[Figures], *, calls: bool) -> None:
    """Print it once."""
    make_console().print(render(figures, None, time.time(), calls=calls))


def watch(get: Callable[[], list[Figures]], interval: float, *, calls: bool) -> NoReturn:
    """Show it again every `interval` seconds, until interrupted."""
    rates = Rates()
    watch_screen(lambda: render(get(), rates, time.time(), calls=calls), interval)

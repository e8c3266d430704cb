"""The tree of a trace, and the list of traces, as text.

A span is shown below the one that asked for it. What asked but is known to nobody here, such as the client's own span,
leaves a top of the tree; so does what was forgotten. Offsets are taken from the first start: between spans of different
machines they are as exact as the machines' clocks agree. Durations are exact.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from rich.table import Table
from rich.text import Text

from ..core.spans import Span, has_failed
from ..core.trace import is_trace_id
from .console import clean, make_console

_ORDER: Final = {
    kind: at for at, kind in enumerate(("gateway", "mesh", "worker", "entry", "forward", "serve"))
}
_DEEPEST: Final = 200


class Row(NamedTuple):
    """A line of the tree."""

    indent: str
    node: str
    span: Span


def tree(rows: Iterable[Iterable[Any]]) -> list[Row]:
    """Spans with their nodes, as they were told, in the order of the tree."""
    places: dict[tuple[str, str, str, float], tuple[str, Span]] = {}
    for node, *values in rows:
        span = Span(*values)
        # Two collectors of one process tell of the same spans.
        places.setdefault((span.kind, span.span_id, span.name, span.started), (node, span))
    found = sorted(places.values(), key=lambda place: (place[1].started, _ORDER.get(place[1].kind, 9)))
    ids = {span.span_id for _, span in found if span.span_id}
    below: defaultdict[str, list[tuple[str, Span]]] = defaultdict(list)
    for place in found:
        parent = place[1].parent_id
        below[parent if parent in ids and parent != place[1].span_id else ""].append(place)
    drawn: set[str] = set()
    lines = list(_draw(below, "", "", drawn, 0))
    # Parents in a ring are no tree: what hangs below nothing is shown all the same.
    for node, span in found:
        if span.span_id and span.span_id not in drawn:
            lines.append(Row("? ", node, span))
    return lines


def _draw(
    below: dict[str, list[tuple[str, Span]]], parent: str, indent: str, drawn: set[str], depth: int
) -> Iterator[Row]:
    children = below.get(parent, [])
    for number, (node, span) in enumerate(children):
        if span.span_id and span.span_id in drawn:
            continue
        drawn.add(span.span_id)
        last = number == len(children) - 1
        branch = "" if not parent else "└─ " if last else "├─ "
        yield Row(indent + branch, node, span)
        if span.span_id and depth < _DEEPEST:
            deeper = indent + ("" if not parent else "   " if last else "│  ")
            yield from _draw(below, span.span_id, deeper, drawn, depth + 1)


def show_path(trace_id: str, answer: dict[str, Any]) -> int:
    """Print a tree, and say who did not tell. Returns the exit status."""
    rows = tree(answer["spans"])
    console = make_console(250)
    if rows:
        began = min(row.span.started for row in rows)
        console.print(Text(f"trace {trace_id}  {_clock(began)}  {len(rows)} spans"))
        console.print()
        table = _table("", "NODE", "PROCESS", ">START", ">DURATION", "STATUS")
        for row in rows:
            span = row.span
            target = f" -> {span.target}" if span.target else ""
            status = Text(clean(span.status), style="red" if span.failed else "")
            table.add_row(
                Text.assemble(row.indent, (clean(span.kind), "bold"), f" {clean(span.name)}{clean(target)}"),
                Text(clean(row.node)),
                str(span.process),
                f"+{(span.started - began) * 1000:.1f} ms",
                _milliseconds(span.duration),
                status,
            )
        console.print(table)
    certain = outcome(answer)
    if not rows:
        print(
            f"dodici: nobody here knows the trace {trace_id}: it is forgotten, was not sampled, or went elsewhere",
            file=sys.stderr,
        )
        return 1
    return certain


def show_traces(answer: dict[str, Any]) -> int:
    """Print a list of traces. Returns the exit status."""
    console = make_console(250)
    if answer["traces"]:
        table = _table("TRACE", "STARTED", ">DURATION", "STATUS", ">SPANS", "WHAT")
        for each in answer["traces"]:
            table.add_row(
                each["trace_id"] if is_trace_id(each["trace_id"]) else "?",
                _clock(each["started"]),
                _milliseconds(each["duration"]),
                _status(each["status"], each["failed"]),
                str(each["spans"]),
                Text(clean(f"{each['name']} -> {each['target']}" if each["target"] else each["name"])),
            )
        console.print(table)
    else:
        print("no request is remembered that fits")
    return outcome(answer)


def outcome(answer: dict[str, Any]) -> int:
    """Say who did not tell. Returns the exit status."""
    for silent in answer["silent"]:
        print(f"dodici: did not tell: {clean(silent)}", file=sys.stderr)
    return 1 if answer["silent"] else 0


def _status(status: str, failed: bool) -> Text:
    if failed and not has_failed(status):
        return Text(f"{status}, failed inside", style="red")
    return Text(status, style="red" if failed else "")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        table.add_column(name.removeprefix(">"), justify="right" if name[:1] == ">" else "left", no_wrap=True)
    return table


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _clock(started: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(started)) + f".{int(started % 1 * 1000):03}"

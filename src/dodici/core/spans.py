"""What this process has done for traces: one bounded ring of spans, the oldest forgotten first.

A span is the part that one member had in a request. Who had it notes it when it has ended, in one append of a tuple;
nothing is formatted, sent or written until somebody looks. The ring is the process's: what lives in one process, such
as a gateway with its loop workers and its collector, looks at one ring.

    gateway   the request as the client saw it
    mesh      the request from the choice of a worker to the end of its response
    worker    the app's part of that
    origin    a call, as the HTTP request that serves it

A collector keeps its calls itself, traced or not: `dodici.collective.History`.

Durations are monotonic. A start is POSIX time, taken back from the end by the duration: starts of one machine can be
compared, those of two as far as their clocks agree.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from time import time as _now
from typing import Any, Final, NamedTuple

from .trace import Trace

KEPT: Final = 5000
"""Spans that a process keeps."""
MOST: Final = 1000
"""Spans of an answer, which is a message of limited size."""

_LONGEST: Final = 256
"""Characters of a path that are kept."""

# Plain tuples of texts and numbers: the garbage collector looks at them once and never again.
_ring: deque[tuple[str, str, str, str | None, str, str | bytes, str, float, float, int | str]] = deque(
    maxlen=KEPT
)


class Span(NamedTuple):
    """One member's part in a request.

    Attributes:
        kind: ``"gateway"``, ``"mesh"``, ``"worker"`` or ``"origin"``; of a collector ``"entry"``, ``"forward"`` or
            ``"serve"``.
        trace_id: 32 hexadecimal digits.
        span_id: 16 of them; empty for one below which there is nothing.
        parent_id: of the span that asked for it; empty if nothing did.
        name: what was asked for, such as ``"GET /orders/7"``.
        target: whom it was asked of: a service, a worker, a collector; empty if there was nobody.
        started: POSIX time.
        duration: seconds.
        status: ``"200"``, ``"UNAVAILABLE"``, or the name of an error.
        process: id of the process.
    """

    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    name: str
    target: str
    started: float
    duration: float
    status: str
    process: int

    @property
    def failed(self) -> bool:
        """Whether it ended with an error: a status of 500 or above, or none of HTTP's at all."""
        return has_failed(self.status)


def has_failed(status: str) -> bool:
    """Whether a span's status is that of a failure."""
    return status >= "500" if status.isdigit() else status != "OK"


def note(
    kind: str,
    trace: Trace,
    method: str,
    path: str | bytes,
    target: str,
    seconds: float,
    status: int | str,
    *,
    below: str | None = None,
) -> None:
    """A span has ended just now. One that is not sampled is not recorded.

    Args:
        kind: see `Span`.
        trace: its place.
        method: with `path`, what was asked for. Of a path what is before the query is kept.
        path: see there.
        target: see `Span`.
        seconds: its duration.
        status: of HTTP, or the name of an error.
        below: its id, where `trace` is the place of what asked for it.
    """
    if trace.flags & 1:
        if len(path) > _LONGEST:
            path = path[:_LONGEST]
        if below is None:
            span_id, parent_id = trace.span_id, trace.parent_id
        else:
            span_id, parent_id = below, trace.span_id
        _ring.append(
            (kind, trace.trace_id, span_id, parent_id, method, path, target, _now(), seconds, status)
        )


def spans(trace_id: str | None = None, most: int = MOST) -> list[Span]:
    """The newest spans that are kept, the oldest of them first: all, or those of one trace."""
    process = os.getpid()
    # A copy: other threads note spans while somebody looks.
    found = [row for row in _ring.copy() if trace_id is None or row[1] == trace_id]
    return [
        Span(
            kind,
            trace,
            span_id,
            parent_id or "",
            f"{method} {_shown(path)}",
            target,
            ended - seconds,
            seconds,
            str(status),
            process,
        )
        for kind, trace, span_id, parent_id, method, path, target, ended, seconds, status in found[-most:]
    ]


def _shown(path: str | bytes) -> str:
    text = path.decode("latin-1") if isinstance(path, bytes) else path
    return text.partition("?")[0]


def read(rows: Iterable[Iterable[Any]]) -> list[Span]:
    """Spans that were sent as lists.

    Raises:
        TypeError: one of them is none.
    """
    return [Span(*row) for row in rows]

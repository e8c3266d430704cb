"""W3C trace context: which trace some work belongs to, and which work this is.

Source: W3C Trace Context, level 1, section 3.2. A `traceparent` that is not well-formed counts as none.

`current` says what runs: the gateway, a worker's host and a collector set it for the task that serves a request, and
what is sent from there into the mesh or the collective joins the trace without anyone passing a field on.

A member that has a request is a span of its own, which `spans` records. It is not told to the systems that people
export their traces to, and so a `traceparent` that came from outside goes on as it came (`carried`): to put spans into
it that those systems never see would cut their trees in two. Members tell each other their spans beside it.

The flag *sampled* is honoured: what a caller has marked as not sampled is carried, and `spans` records nothing of it.
A trace that begins here and is recorded is sampled, because the flag says just that; and because the usual sampler of
OpenTelemetry follows its parent, an app behind a gateway records what it would have recorded without it.

To follow a request through gateway, mesh and worker costs some 25 us, a quarter of what a small one costs at all.
So what nobody has asked for is followed up to a rate (`Sampler`): a quiet system remembers everything, a busy one a
part, and its speed is that of one without traces.
"""

from __future__ import annotations

import logging
import math
import os
import random
import re
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol

SAMPLED: Final = 1
PER_SECOND: Final = 100
"""Traces that begin in a process in a second, where nothing else is said."""
TRACEPARENT: Final = b"traceparent"
TRACESTATE: Final = b"tracestate"
FIELDS: Final = frozenset({TRACEPARENT, TRACESTATE})

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?").fullmatch
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16
_TRACE_ID = re.compile(r"[0-9a-f]{32}").fullmatch

# Ids have to differ, not to be secret: the system's generator would be half of what a span costs.
_random = random.Random()  # noqa: S311
_bits = _random.getrandbits
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)


class Trace(NamedTuple):
    """A place in a trace: `span_id` is the work that is going on, `parent_id` what asked for it, if known."""

    trace_id: str
    span_id: str
    flags: int = 0
    """1: sampled."""
    tracestate: str = ""
    parent_id: str | None = None
    carried: str = ""
    """The `traceparent` that goes on as it is; empty where this span is to be named in it."""

    @property
    def traceparent(self) -> str:
        """What is sent with calls that this work makes."""
        return self.carried or f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"

    @property
    def sampled(self) -> bool:
        """Whether it is recorded."""
        return bool(self.flags & SAMPLED)

    @property
    def trace(self) -> Trace:
        """Itself: see `Traced`."""
        return self

    def child(self) -> Trace:
        """A new span below this one, which names itself in what it sends."""
        return Trace(self.trace_id, new_span_id(), self.flags, self.tracestate, self.span_id)

    def part(self) -> Trace:
        """A new span below this one, for a member on the way: what it sends names whom this one names."""
        return _made(
            Trace,
            (
                self.trace_id,
                f"{_bits(64) or 1:016x}",
                self.flags,
                self.tracestate,
                self.span_id,
                self.carried or self.traceparent,
            ),
        )


# The constructor of a named tuple goes through a function of its own: half of the cost of a span.
_made = tuple.__new__


class Traced(Protocol):
    """What runs, as `current` knows it. Its trace may be made when it is asked for."""

    @property
    def trace(self) -> Trace: ...


current: ContextVar[Traced | None] = ContextVar("dodici.trace", default=None)
"""What serves a request in this task; None where nobody said so."""


class Sampler:
    """Says which of the requests that bring no trace begin one: so many a second, and no more in any second.

    Args:
        per_second: how many; 0 for none.
        clock: seconds; never runs backwards.
    """

    __slots__ = ("_clock", "_due", "_interval")

    def __init__(self, per_second: float, clock: Callable[[], float] = monotonic) -> None:
        self._interval = 1 / per_second if per_second else 0.0
        self._clock = clock
        self._due = 0.0 if per_second else math.inf

    def allows(self) -> bool:
        """Whether the request that has come just now begins one."""
        now = self._clock()
        due = self._due
        if due > now + 1.0 - self._interval:
            return False
        self._due = max(now, due) + self._interval
        return True


def here() -> Trace | None:
    """The place in a trace of what runs in this task; None if it belongs to none."""
    found = current.get()
    return None if found is None else found.trace


def new_span_id() -> str:
    """A span's id."""
    return f"{_bits(64) or 1:016x}"


def new_trace() -> Trace:
    """The beginning of a trace, which is recorded."""
    traceparent = f"00-{_bits(128) or 1:032x}-{_bits(64) or 1:016x}-01"
    return _made(Trace, (traceparent[3:35], traceparent[36:52], SAMPLED, "", None, traceparent))


def parse(traceparent: object, tracestate: str = "") -> Trace | None:
    """The trace that a caller names; `span_id` is the caller's. None if it names none.

    Of a version above 00 what that version knows is used, and ``ff`` is none (section 4.3).
    """
    found = _TRACEPARENT(traceparent) if isinstance(traceparent, str) else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return _made(Trace, (trace_id, span_id, int(flags, 16), tracestate, None, ""))


def of_fields(fields: Iterable[tuple[bytes, bytes]]) -> Trace | None:
    """The trace that the fields of a request name, in lower case; None if they name none, or more than one."""
    found: list[bytes] = []
    states: list[bytes] = []
    for name, value in fields:
        if name == TRACEPARENT:
            found.append(value)
        elif name == TRACESTATE:
            states.append(value)
    if len(found) != 1:
        return None
    return parse(found[0].decode("latin-1"), b",".join(states).decode("latin-1"))


def is_trace_id(text: str) -> bool:
    """Whether it could name a trace: 32 hexadecimal digits in lower case, not all of them 0."""
    return _TRACE_ID(text) is not None and text != _NO_TRACE


class TraceFilter(logging.Filter):
    """Lets every record pass, and gives it `trace_id` and `span_id`, where it has none; empty ones outside of a trace.

    handler.addFilter(TraceFilter())
    handler.setFormatter(logging.Formatter("%(levelname)s %(trace_id)s %(message)s"))
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter.filter`."""
        if not hasattr(record, "trace_id"):
            vars(record).update(place_of(here()))
        return True


def place_of(trace: Trace | None) -> dict[str, Any]:
    """What `extra` of a log record is that is made outside of the task which it is about."""
    return NOWHERE if trace is None else {"trace_id": trace.trace_id, "span_id": trace.span_id}


NOWHERE: Final = {"trace_id": "", "span_id": ""}
for _name in ("dodici", "dodici.mesh"):
    # A filter of a logger sees the records of that logger alone, not those of the loggers below it.
    logging.getLogger(_name).addFilter(TraceFilter())

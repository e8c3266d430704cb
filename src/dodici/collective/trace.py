"""W3C trace context: which trace a call belongs to.

Source: W3C Trace Context, level 1, section 3.2. A `traceparent` that is not well-formed counts as none.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?").fullmatch
_random = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Trace:
    """A place in a trace: `span_id` is the work that is going on, `parent_id` what asked for it, if known."""

    trace_id: str
    span_id: str
    flags: int = 0
    """1: sampled."""
    tracestate: str = ""
    parent_id: str | None = None

    @property
    def traceparent(self) -> str:
        """What is sent with calls that this work makes."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"

    def child(self) -> Trace:
        """A new span below this one."""
        return Trace(self.trace_id, _identifier(64), self.flags, self.tracestate, self.span_id)


def new_trace() -> Trace:
    """The beginning of a trace that nobody has asked to be sampled."""
    return Trace(_identifier(128), _identifier(64))


def parse(traceparent: str | bytes | None, tracestate: str = "") -> Trace | None:
    """The trace that a caller names; `span_id` is the caller's. None if it names none."""
    found = _TRACEPARENT(traceparent) if isinstance(traceparent, str) else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return Trace(trace_id, span_id, int(flags, 16), tracestate)


def _identifier(bits: int) -> str:
    return f"{_random.getrandbits(bits) or 1:0{bits // 4}x}"

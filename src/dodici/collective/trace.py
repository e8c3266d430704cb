"""The traces of calls: what `dodici.core.trace` says, with a call's metadata as the carrier.

Each collector that has a call is a span of its own below that of the collector before, or below the one that the
caller names. Collectors tell each other theirs in a hop's metadata, and leave `traceparent` as the caller gave it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.trace import PER_SECOND, Sampler, Trace, new_span_id, new_trace, parse

if TYPE_CHECKING:
    from .contracts import Call

__all__ = ["Trace", "begin", "named", "new_trace", "parse", "passing", "place_in"]

_sampler = Sampler(PER_SECOND)


def begin() -> Trace:
    """The beginning of a trace for a call that belongs to none: one for all collectors on the way. It is recorded by who
    serves it from an origin, unless there are too many.
    """
    made = new_trace()
    return made if _sampler.allows() else Trace(made.trace_id, made.span_id)


def named(call: Call) -> Trace | None:
    """The trace that the metadata of a call names; None if it names none."""
    metadata = call.metadata
    if call.named is None or call.named[0] is not metadata:
        found = None
        for name, value in metadata:
            if name == "traceparent":
                states = [state for key, state in metadata if key == "tracestate"]
                found = parse(value, ",".join(state for state in states if isinstance(state, str)))
                break
        call.named = metadata, found
    return call.named[1]


def passing(call: Call) -> Trace | None:
    """This collector's place in the trace of a call; None if it belongs to none."""
    if call.span is None:
        above = named(call)
        if above is None:
            return None
        call.span = Trace(
            above.trace_id,
            new_span_id(),
            above.flags,
            above.tracestate,
            call.parent or above.span_id,
            above.traceparent,
        )
    return call.span


def place_in(call: Call, *, served: bool) -> tuple[str, str, str]:
    """Trace, span and parent of this collector's part in a call that has ended; empty for what there is not.

    `served` is for the part of who ran it, which is below the part of who let it in, where that is the same collector.
    """
    own = call.trace
    if served and call.span is None and call.from_collector is not None:
        # The usual end of a hop: this collector's only part in the call, which needs no place of its own above it.
        above = named(call)
        if above is not None:
            span_id = new_span_id() if own is None else own.span_id
            return above.trace_id, span_id, call.parent or above.span_id
    here = passing(call)
    if here is None:
        return ("", "", "") if own is None else (own.trace_id, own.span_id if served else "", "")
    if not served:
        return here.trace_id, here.span_id, here.parent_id or ""
    parent = here.span_id if call.from_collector is None else here.parent_id or ""
    return here.trace_id, new_span_id() if own is None else own.span_id, parent

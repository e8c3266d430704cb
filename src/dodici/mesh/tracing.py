"""The spans of the mesh: a request's way to a worker, and the app's part in it.

    mesh     in the client, from the choice of a worker to the end of the exchange; begun where what asks is itself
             part of a trace (`core.trace.current`), so that nothing is looked for in the fields of other requests
    worker   in the worker, from the call of the app to its return; begun where the client says so beside the request
             (a TRACE frame), or where the fields name a trace

The app gets `traceparent` and `tracestate` among its fields as they came into the mesh, and what it sends into the mesh
while it serves the request joins by itself. Fields that it gives are never changed.

Where the fields of a request name a trace, a TRACE frame carries them as well: what differs with each request would
make its head one that nobody remembers. Measured with 16 callers, a seventh of what such a request costs.

Spans stay in the process that noted them; `collect` asks the workers' processes when somebody looks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from ..core.errors import MeshError
from ..core.headers import RawHeaders
from ..core.options import DispatchOptions
from ..core.spans import MOST, Span, note, read, spans
from ..core.trace import TRACEPARENT, TRACESTATE, Trace, new_span_id, of_fields
from ..wire.mesh import frames

if TYPE_CHECKING:
    from .contracts import Scope
    from .hub import Hub

SPANS: Final = "tell"
"""What the coordinator calls it when it asks a member for its spans."""


class MeshSpan:
    """A request on its way to a worker.

    Args:
        above: the place of what asks.
        options: the request.
    """

    __slots__ = ("_above", "_began", "_options", "_span_id", "failure", "frame")

    def __init__(self, above: Trace, options: DispatchOptions) -> None:
        self._span_id = span_id = new_span_id()
        self._began = perf_counter()
        self._options = options
        carried, tracestate = above.traceparent, above.tracestate
        if _names_trace(options):
            given = of_fields((name.lower(), value) for name, value in options.headers.raw)
            if given is not None:
                carried, tracestate = given.traceparent, given.tracestate
                if given.trace_id != above.trace_id:
                    above = given
        self._above = above
        self.frame = frames.trace(carried, span_id, tracestate)
        """What the worker is told."""
        self.failure: str | None = None
        """The name of the error that has ended it."""

    def end(self, target: str, status: int) -> None:
        """The exchange has ended."""
        options = self._options
        note(
            "mesh",
            self._above,
            options.method,
            options.path,
            target,
            perf_counter() - self._began,
            self.failure or status,
            below=self._span_id,
        )

    def refused(self, name: str, error: BaseException) -> None:
        """There was nobody to send it to."""
        self.failure = type(error).__name__
        self.end(name, 0)


def span_for(above: Trace, options: DispatchOptions) -> MeshSpan | None:
    """The span of a request; None for one that is not recorded, and whose fields say all that is to be carried."""
    return MeshSpan(above, options) if above.flags & 1 or not _names_trace(options) else None


def _names_trace(options: DispatchOptions) -> bool:
    return any(len(name) == 11 and name.lower() == TRACEPARENT for name, _ in options.headers.raw)


def told_beside(fields: RawHeaders) -> bytes | None:
    """What a TRACE says instead of a request's own fields; None if there is nothing, or they have to say it as it is."""
    parent = state = None
    for name, value in fields:
        if 10 <= len(name) <= 11:
            lower = name.lower()
            if lower == TRACEPARENT:
                if parent is not None:
                    return None
                parent = value
            elif lower == TRACESTATE:
                if state is not None or not value:
                    return None
                state = value
            elif lower == b"connection":
                return None  # which may say that they go no further
    return None if parent is None else frames.trace_of(parent, state or b"")


def fields_for(above: Trace, options: DispatchOptions) -> dict[str, str]:
    """The fields that tell a server at an address which trace a request belongs to; none where the caller has."""
    if _names_trace(options):
        return {}
    fields = {"traceparent": above.traceparent}
    if above.tracestate and "tracestate" not in options.headers:
        fields["tracestate"] = above.tracestate
    return fields


class WorkerSpan:
    """A request while its app runs. It is what `core.trace.current` has there.

    Args:
        trace: the app's place.
        scope: of the request.
        target: the host that it was sent to.
    """

    __slots__ = ("_began", "_method", "_path", "_target", "status", "trace")

    def __init__(self, trace: Trace, scope: Scope, target: str) -> None:
        self.trace = trace
        self._method = scope.get("method", "WEBSOCKET")
        self._path = scope["raw_path"]
        self._target = target
        self._began = perf_counter()
        self.status: int | str = "ClientGone"
        """Of the response; until then, and without one, that nobody waits for it any more."""

    def end(self) -> None:
        """The app has returned."""
        note(
            "worker",
            self.trace,
            self._method,
            self._path,
            self._target,
            perf_counter() - self._began,
            self.status,
        )


def worker_span(
    told: Trace | None, named: Trace | None, names: bool, scope: Scope, target: str
) -> WorkerSpan | None:
    """The span of a request that arrived; None if it belongs to no trace.

    Args:
        told: what the client said beside it.
        named: what its fields say.
        names: whether they say anything, be it well-formed or not.
        scope: its scope, which gets the fields that were told.
        target: the host that it was sent to.
    """
    above = told or named
    if above is None:
        return None
    place = above.part()
    if told is not None and not names:
        add_fields(scope, told)
    return WorkerSpan(place, scope, target)


def add_fields(scope: Scope, told: Trace) -> None:
    """Give a scope the fields of what was told beside its head."""
    headers = scope["headers"]
    headers.append((TRACEPARENT, told.traceparent.encode("latin-1")))
    if told.tracestate and not any(name == TRACESTATE for name, _ in headers):
        headers.append((TRACESTATE, told.tracestate.encode("latin-1")))


async def tell(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A member's answer to the coordinator that asks for its spans."""
    trace_id = message["trace_id"]
    return {"spans": spans(None if trace_id is None else str(trace_id), min(int(message["most"]), MOST))}


async def collect(hub: Hub, trace_id: str | None, most: int, timeout: float) -> tuple[list[Span], list[str]]:
    """The spans of the processes of a mesh's workers, and which of them did not tell, in words."""

    async def ask(member_id: str, name: str) -> list[Span] | str:
        try:
            answer = await hub.call(member_id, SPANS, timeout, trace_id=trace_id, most=most)
            return read(answer["spans"])
        except (MeshError, OSError) as error:
            return f"{name} ({member_id}): {error}"

    asked = [ask(info.id, info.name) for info in hub.processes()]
    answers = await asyncio.gather(*asked)
    found = [span for answer in answers if not isinstance(answer, str) for span in answer]
    return found, [answer for answer in answers if isinstance(answer, str)]

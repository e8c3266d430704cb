"""What `dodici trace` asks for: the path of one request, or the last ones.

The path is put together from the spans of this process, of its workers, and, where there is a collector, of the
collectors around. A list is what this node alone remembers.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from ..core.errors import InvalidArgumentError
from ..core.spans import Span
from ..core.trace import here, is_trace_id

if TYPE_CHECKING:
    from ..collective import Collector
    from ..mesh import WorkerInterceptor

_TIMEOUT: Final = 2.0
_MOST_LISTED: Final = 1000


class Traces:
    """Looks for traces.

    Args:
        name: of this node, where no collector has another.
        mesh: has the workers.
        collector: the one that is a part of this; None without one.
    """

    def __init__(self, name: str, mesh: WorkerInterceptor, collector: Collector | None) -> None:
        self._name = name if collector is None else collector.id
        self._mesh = mesh
        self._collector = collector
        if collector is not None:
            collector.tracing.of_process = self._of_process

    async def _of_process(self, trace_id: str | None, timeout: float) -> tuple[list[Span], list[str]]:
        return await self._mesh.spans(trace_id, timeout=timeout)

    async def answer(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The answer to a `trace` at the control socket.

        Raises:
            InvalidArgumentError: an id that is none.
        """
        trace_id = arguments.get("trace_id")
        if trace_id is not None:
            return await self._path(str(trace_id))
        return await self._list(
            min(int(arguments.get("count", 20)), _MOST_LISTED),
            failed=bool(arguments.get("failed")),
            slow=bool(arguments.get("slow")),
        )

    async def _path(self, trace_id: str) -> dict[str, Any]:
        if not is_trace_id(trace_id):
            raise InvalidArgumentError(
                f"{trace_id!r} is no id of a trace: it has 32 hexadecimal digits in lower case"
            )
        if self._collector is None:
            spans, silent = await self._of_process(trace_id, _TIMEOUT)
            return {"spans": [[self._name, *span] for span in spans], "silent": silent}
        from ..collective.tracing import path_json

        around = self._collector.started
        return path_json(await self._collector.tracing.find(trace_id, _TIMEOUT, around=around))

    async def _list(self, count: int, *, failed: bool, slow: bool) -> dict[str, Any]:
        spans, silent = await self._of_process(None, _TIMEOUT)
        if self._collector is not None:
            from ..collective.tracing import span_of

            spans += [span_of(record) for record in self._collector.history if record.trace_id]
        # Sorting thousands of spans takes a moment that the gateway's loop has better use for.
        found = await asyncio.to_thread(chosen, spans, count, failed=failed, slow=slow)
        return {"traces": found, "silent": silent}


def chosen(spans: Iterable[Span], count: int, *, failed: bool, slow: bool) -> list[dict[str, Any]]:
    """At most `count` of the traces that spans belong to: the newest, or the slowest, or those that failed."""
    found = summaries(spans)
    if failed:
        found = [each for each in found if each["failed"]]
    if slow:
        found.sort(key=lambda each: -each["duration"])
    return found[:count]


def summaries(spans: Iterable[Span]) -> list[dict[str, Any]]:
    """The traces that spans belong to, the newest first, each with the span at its top."""
    by_trace: defaultdict[str, list[Span]] = defaultdict(list)
    for span in spans:
        by_trace[span.trace_id].append(span)
    found: list[dict[str, Any]] = []
    for trace_id, parts in by_trace.items():
        known = {part.span_id for part in parts}
        first = min(parts, key=lambda part: (part.parent_id in known, part.started))
        found.append(
            {
                "trace_id": trace_id,
                "name": first.name,
                "kind": first.kind,
                "target": first.target,
                "started": first.started,
                "duration": first.duration,
                "status": first.status,
                "failed": any(part.failed for part in parts),
                "spans": len(parts),
            }
        )
    found.sort(key=lambda each: -each["started"])
    return found


def in_trace() -> str:
    """What a line says of the trace that it belongs to; empty without one."""
    place = here()
    return "" if place is None else f" trace {place.trace_id}"

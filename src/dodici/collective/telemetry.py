"""Spans of OpenTelemetry for what a collector runs. Needs opentelemetry-api, and an SDK that takes the spans.

    stop = instrument(collector)

Every call that is run here gets a span of kind SERVER below the caller's, which is the current one while the handler
runs: what the handler does inside of it, and what it calls through its collector, are its children. A call that the
process makes from a span of its own carries that span. Collectors on the way hand the trace on as it is.

Without this module the same headers are carried, and nothing is recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel_context, propagate, trace as otel
from opentelemetry.trace import SpanKind, StatusCode

from ..core.grpc_status import GrpcStatus
from .contracts import Call, Pairs
from .trace import Trace

if TYPE_CHECKING:
    from .collector import Collector

_SERVER_FAULTS = frozenset(
    {
        GrpcStatus.UNKNOWN,
        GrpcStatus.DEADLINE_EXCEEDED,
        GrpcStatus.UNIMPLEMENTED,
        GrpcStatus.INTERNAL,
        GrpcStatus.UNAVAILABLE,
        GrpcStatus.DATA_LOSS,
    }
)
"""What makes a server's span one that has failed (OpenTelemetry's semantic conventions for gRPC)."""


class _Span:
    """The span of a call that runs here."""

    __slots__ = ("_context", "_span", "trace")

    def __init__(self, span: otel.Span, parent: otel_context.Context) -> None:
        self._span = span
        self._context = otel.set_span_in_context(span, parent)
        found = span.get_span_context()
        self.trace: Trace | None = None
        if found.is_valid:
            above = otel.get_current_span(parent).get_span_context()
            self.trace = Trace(
                f"{found.trace_id:032x}",
                f"{found.span_id:016x}",
                int(found.trace_flags),
                found.trace_state.to_header(),
                f"{above.span_id:016x}" if above.is_valid else None,
            )

    def enter(self) -> Any:
        """Make it the current span."""
        return otel_context.attach(self._context)

    def leave(self, token: Any) -> None:
        """Undo `enter`."""
        otel_context.detach(token)

    def end(self, status: GrpcStatus) -> None:
        """The call has ended."""
        self._span.set_attribute("rpc.grpc.status_code", int(status))
        if status in _SERVER_FAULTS:
            self._span.set_status(StatusCode.ERROR, status.name)
        self._span.end()


class _Spans:
    """Makes spans. Implements `contracts.Spans`."""

    def __init__(self, collector_id: str, provider: otel.TracerProvider | None) -> None:
        self._id = collector_id
        self._tracer = otel.get_tracer("dodici.collective", tracer_provider=provider)

    def begin(self, call: Call) -> _Span:
        """See `Spans.begin`."""
        parent = propagate.extract(_carrier(call.metadata), otel_context.Context())
        span = self._tracer.start_span(
            f"{call.key.service}/{call.key.method}",
            context=parent,
            kind=SpanKind.SERVER,
            attributes={
                "rpc.system": "grpc",
                "rpc.service": call.key.service,
                "rpc.method": call.key.method,
                "dodici.namespace": call.key.namespace,
                "dodici.collector": self._id,
            },
        )
        return _Span(span, parent)

    def carried(self) -> Pairs:
        """See `Spans.carried`."""
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        return tuple(carrier.items())


def _carrier(metadata: Pairs) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in metadata:
        if isinstance(value, str):
            found[name] = f"{found[name]},{value}" if name in found else value
    return found


def instrument(
    collector: Collector, tracer_provider: otel.TracerProvider | None = None
) -> Callable[[], None]:
    """Make spans of what a collector runs, from the next call on.

    Args:
        collector: started or not.
        tracer_provider: what takes the spans; None: the global one.

    Returns:
        A function that undoes it.
    """
    spans = _Spans(collector.id, tracer_provider)
    collector._local.spans = spans

    def stop() -> None:
        if collector._local.spans is spans:
            collector._local.spans = None

    return stop

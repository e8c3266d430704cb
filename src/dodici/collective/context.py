"""What a handler knows of its call, and may do with it."""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import Any, NoReturn

from ..wire.grpc.metadata import GrpcMetadata, MetadataInput
from . import details as _details, metadata as _metadata
from .codes import chosen
from .contracts import Call, Span
from .trace import Trace, begin, named

current: ContextVar[CallContext | None] = ContextVar("dodici.collective.current", default=None)
"""The call that the running handler serves. What it dispatches belongs to the same trace, and ends no later."""


class CallContext:
    """The first argument of a handler.

    Attributes:
        namespace, service, method: as the caller spelt them.
        deadline: when the caller stops waiting, on the clock of `time.monotonic()`; None if it never does.
        peer: address of whoever sent the call here, such as ``"ipv4:10.0.0.7:40456"``; empty for calls of this
            process.
        path: ids of the collectors that the call has passed, the entry first, this one not among them.
        identity: who calls: the first name in the end caller's certificate (URI, DNS name, common name), or None.
    """

    __slots__ = (
        "_call",
        "_metadata",
        "_span",
        "_trace",
        "deadline",
        "identity",
        "method",
        "namespace",
        "path",
        "peer",
        "service",
    )

    def __init__(self, call: Call) -> None:
        self._call = call
        self.namespace, self.service, self.method = call.key
        self.deadline = call.deadline
        self.identity = None if call.caller is None else call.caller.name
        self.path = call.path
        self.peer = call.peer
        self._metadata: GrpcMetadata | None = None
        self._trace: Trace | None = None
        self._span: Span | None = None

    @property
    def metadata(self) -> GrpcMetadata:
        """The caller's metadata: a multi-mapping with `get_list()`; values are bytes under names in ``-bin``."""
        if self._metadata is None:
            self._metadata = _metadata.as_mapping(self._call.metadata)
        return self._metadata

    @property
    def trace(self) -> Trace:
        """The trace that the call belongs to: the caller's, or a new one. Its span is this call's."""
        if self._trace is None:
            asked = named(self._call)
            if asked is None:
                # A part of this collector's own, with nothing above it that anybody could look for.
                above = self._call.span = begin()
                self._trace = above.child()._replace(parent_id=None)
            else:
                self._trace = asked.child()
            self._call.trace = self._trace
        return self._trace

    def _begin(self, span: Span) -> None:
        """The call is followed by a system of traces."""
        self._span = span
        if span.trace is not None:
            self._trace = self._call.trace = span.trace

    def time_remaining(self) -> float | None:
        """Seconds until the deadline, not below 0; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def abort(self, code: Any, message: str = "", details: Any = None) -> NoReturn:
        """End the call with a status.

        Args:
            code: a `grpc.StatusCode`, a `GrpcStatus`, or a number of the envelope: 400, 403, 404, 409, 429, 499, 500,
                503, 504.
            message: for the caller.
            details: texts by name; or a `google.rpc.Status`, its bytes, or a message or messages to put into one, which
                travel in the metadata `grpc-status-details-bin`.

        Raises:
            CallAbortedError: always; let it pass.
            InvalidArgumentError: the code or the details cannot be sent.
        """
        raise _details.aborted(chosen(code), message, details)

    def set_trailing_metadata(self, metadata: MetadataInput) -> None:
        """Set what follows the answer, or the failure; replaces what was set before.

        Raises:
            InvalidArgumentError: a name or value that cannot be sent. Details belong to `abort()`.
        """
        self._call.trailing = _metadata.given(metadata)

    def __repr__(self) -> str:
        return f"<CallContext {self._call.key}>"

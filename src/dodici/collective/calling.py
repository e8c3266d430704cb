"""Calls that are made in this process: the part of `Collector` by which methods are called, wherever they are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from google.protobuf.any_pb2 import Any as AnyMessage

from ..api.exchange import give_way
from ..core.closing import aclose
from ..core.errors import InvalidArgumentError
from ..core.grpc_status import GrpcStatus
from ..core.trace import Trace, here
from ..wire.grpc.metadata import MetadataInput
from . import metadata as _metadata
from .arguments import checked_kind, checked_seconds
from .context import CallContext, current
from .contracts import Call, Executor, Pairs, Router
from .deadline import is_cancelled
from .errors import CallAbortedError, CollectiveError, call_error
from .local import LocalExecutor
from .names import ANY, CallKind, LocalServices, RouteKey
from .results import OK, DispatchResult, DispatchStream, Status
from .stats import Figures, Passing
from .values import from_any, parse_any, to_any

if TYPE_CHECKING:
    from .admission import Admission
    from .registry.attached import AttachedRegistry


class Calling:
    """Makes calls: one message each way, or streams; with routing, or here alone."""

    _default_timeout: float | None
    _services: LocalServices
    _local: LocalExecutor
    _admission: Admission
    _router: Router
    _figures: Figures
    _registry: AttachedRegistry | None

    def _check_started(self) -> None:
        raise NotImplementedError

    async def dispatch(
        self,
        namespace: str,
        service: str,
        method: str,
        input: Any = None,  # noqa: A002
        *,
        target: str | None = None,
        timeout: float | None = None,
        metadata: MetadataInput = None,
    ) -> DispatchResult:
        """Call a unary method, wherever the collective has it. A failure is told in the result's status.

        Args:
            namespace: with `service` and `method`, what is called.
            service: see there.
            method: see there.
            input: None, bool, int, float, str, bytes, dict, list, or a protobuf message.
            target: id of the collector that has to run it; None: this one or a peer.
            timeout: seconds; None: the collector's `default_timeout`. Within a handler never more than is left of its call.
            metadata: sent with the call: a mapping, or pairs; values are bytes under names in ``-bin``.

        Raises:
            InvalidArgumentError: an argument of a wrong type, or an input that has no form on the wire.
            CollectiveError: the collector is not started.
        """
        call = self._call(namespace, service, method, target, timeout, metadata)
        return await self._unary(call, input)

    async def serve(
        self,
        namespace: str,
        service: str,
        method: str,
        input: Any = None,  # noqa: A002
        *,
        timeout: float | None = None,
        metadata: MetadataInput = None,
    ) -> DispatchResult:
        """As `dispatch`, of a method of this collector alone."""
        call = self._call(namespace, service, method, None, timeout, metadata)
        call.forwardable = False
        return await self._unary(call, input)

    def dispatch_stream(
        self,
        namespace: str,
        service: str,
        method: str,
        input: Any = None,  # noqa: A002
        *,
        kind: str | None = None,
        target: str | None = None,
        timeout: float | None = None,
        metadata: MetadataInput = None,
    ) -> DispatchStream:
        """Call a method of any kind.

        Args:
            namespace: with `service` and `method`, what is called.
            service: see there.
            method: see there.
            input: a value as for `dispatch`; for kinds that stream their input an iterable or async iterable of such
                values.
            kind: needed only for a method that neither this collector nor a peer has told of.
            target: as for `dispatch`.
            timeout: as for `dispatch`; of the whole call.
            metadata: as for `dispatch`.

        Raises:
            InvalidArgumentError: as for `dispatch`.
            CollectiveError: the collector is not started.
        """
        return self._streamed(self._call(namespace, service, method, target, timeout, metadata), input, kind)

    def serve_stream(
        self,
        namespace: str,
        service: str,
        method: str,
        input: Any = None,  # noqa: A002
        *,
        timeout: float | None = None,
        metadata: MetadataInput = None,
    ) -> DispatchStream:
        """As `dispatch_stream`, of a method of this collector alone."""
        call = self._call(namespace, service, method, None, timeout, metadata)
        call.forwardable = False
        return self._streamed(call, input, None)

    def _call(
        self,
        namespace: str,
        service: str,
        method: str,
        target: str | None,
        timeout: float | None,
        metadata: MetadataInput,
    ) -> Call:
        for name, value in (("namespace", namespace), ("service", service), ("method", method)):
            if not isinstance(value, str):
                raise InvalidArgumentError(f"{name} must be a str, not {type(value).__name__}")
        if method == ANY:
            raise InvalidArgumentError(f"{method!r} is no method: name the one to call")
        if "/" in method:
            raise InvalidArgumentError(f"no method has a '/' in its name: {method[:100]!r}")
        if target is not None and not isinstance(target, str):
            raise InvalidArgumentError(f"target must be a collector's id, not {type(target).__name__}")
        pairs = _metadata.given(metadata)
        seconds = self._default_timeout if timeout is None else checked_seconds("timeout", timeout)
        self._check_started()
        deadline = None if seconds is None else time.monotonic() + seconds
        around = current.get()
        caller = None
        if around is not None:
            caller = around._call.caller
            if around.deadline is not None:
                deadline = around.deadline if deadline is None else min(deadline, around.deadline)
        place = here()
        pairs = (*pairs, *self._carried(around, place, {name for name, _ in pairs}))
        return Call(
            RouteKey(namespace, service, method),
            metadata=pairs,
            deadline=deadline,
            encoding="any",
            target=target or None,
            caller=caller,
            parent=place.span_id if place is not None and _is_of(place, pairs) else "",
        )

    def _carried(self, around: CallContext | None, place: Trace | None, given: set[str]) -> Pairs:
        """What a call made now carries of the trace that it belongs to, where the caller has not said it."""
        found: Pairs = () if self._local.spans is None else self._local.spans.carried()
        if place is not None and not any(name == "traceparent" for name, _ in found):
            found = (("traceparent", place.traceparent),)
            if place.tracestate:
                found = (*found, ("tracestate", place.tracestate))
        if around is not None and not any(name == "baggage" for name, _ in found):
            found = (*found, *(each for each in around._call.metadata if each[0] == "baggage"))
        if "traceparent" in given:
            return tuple(each for each in found if each[0] == "baggage" and "baggage" not in given)
        return tuple(each for each in found if each[0] not in given)

    async def _executor(self, call: Call) -> Executor:
        for name, value in zip(("namespace", "service", "method"), call.key, strict=True):
            if not value:
                raise call_error(GrpcStatus.INVALID_ARGUMENT, f"{name} is empty")
        if not self._admission.free:
            await self._admission.check(call)
        if not call.forwardable or self._router.runs_here(call):
            return self._local
        return await self._router.route(call)

    async def _unary(self, call: Call, given: Any) -> DispatchResult:
        call.kind = CallKind.UNARY_UNARY
        packed = None if self._packs(call) else to_any(given)
        try:
            with Passing(self._figures, call):
                executor = await self._executor(call)
                if packed is None:
                    packed = await self._pack(call, given)
                answer = await executor.unary(call, packed.SerializeToString())
                output = await self._output(call, answer)
        except CollectiveError as error:
            await give_way()
            return _result(call, error, None)
        return _result(call, None, output)

    def _packs(self, call: Call) -> bool:
        """Whether the registry may know what a method takes, where this process does not."""
        if self._registry is None:
            return False
        spec = self._services.find(*call.key)
        # A handler here that was registered without a type takes what its caller gave.
        return spec is None or spec.input_type is not None

    async def _pack(self, call: Call, value: Any) -> AnyMessage:
        return to_any(value) if self._registry is None else await self._registry.pack(call.key, value)

    async def _output(self, call: Call, answer: bytes) -> Any:
        try:
            output = from_any(parse_any(answer, GrpcStatus.INTERNAL))
        except CollectiveError as error:
            # Whoever has answered is wrong, and not the caller.
            raise call_error(
                GrpcStatus.INTERNAL, f"{call.key} answered with what cannot be read: {error.message}"
            ) from error
        if self._registry is not None and isinstance(output, AnyMessage):
            return await self._registry.unpack(call.key, output)
        return output

    def _streamed(self, call: Call, given: Any, kind: str | None) -> DispatchStream:
        known = self._router.kind_of(call.key) if kind is None else checked_kind(kind)
        if known is None:
            known = CallKind.STREAM_STREAM if isinstance(given, AsyncIterable) else CallKind.UNARY_STREAM
        call.kind = known
        if known.streams_in:
            if not isinstance(given, AsyncIterable | Iterable) or isinstance(given, str | bytes | Mapping):
                raise InvalidArgumentError(
                    f"the input of {call.key} is a stream: give an iterable of values, not {type(given).__name__}"
                )
            values = given
        else:
            values = [given if self._packs(call) else to_any(given)]

        def finish(error: CollectiveError | None, last: Any) -> DispatchResult:
            return _result(call, error, last)

        failed: list[Exception] = []
        return DispatchStream(self._outputs(call, self._payloads(call, values, failed), failed), finish)

    async def _payloads(
        self, call: Call, values: AsyncIterable[Any] | Iterable[Any], failed: list[Exception]
    ) -> AsyncGenerator[bytes, None]:
        """The input's payloads. What it raises is left in `failed`: it is the caller's own, and no handler's."""
        packs = self._packs(call)
        try:
            if isinstance(values, AsyncIterable):
                async for value in values:
                    yield (await self._pack(call, value) if packs else to_any(value)).SerializeToString()
            else:
                for value in values:
                    yield (await self._pack(call, value) if packs else to_any(value)).SerializeToString()
        except asyncio.CancelledError as error:
            if is_cancelled():
                raise
            raise CallAbortedError(
                f"the input of {call.key} was cancelled", grpc_status=GrpcStatus.CANCELLED
            ) from error
        except Exception as error:
            failed.append(error)
            raise CallAbortedError(
                f"the input of {call.key} failed", grpc_status=GrpcStatus.CANCELLED
            ) from error
        finally:
            await aclose(values)

    async def _outputs(
        self, call: Call, payloads: AsyncGenerator[bytes, None], failed: list[Exception]
    ) -> AsyncIterator[Any]:
        answers: Any = None
        try:
            with Passing(self._figures, call):
                executor = await self._executor(call)
                answers = executor.stream(call, payloads)
                async for answer in answers:
                    yield await self._output(call, answer)
        except CollectiveError:
            if failed:
                raise failed[0] from None
            await give_way()
            raise
        finally:
            try:
                await aclose(answers)
            finally:
                await payloads.aclose()


def _is_of(place: Trace, pairs: Pairs) -> bool:
    """Whether the trace that metadata names is that of a place."""
    found = next((value for name, value in pairs if name == "traceparent"), None)
    return isinstance(found, str) and place.trace_id in found


def _result(call: Call, error: CollectiveError | None, output: Any) -> DispatchResult:
    metadata = _metadata.as_mapping(call.trailing)
    initial = _metadata.as_mapping(call.initial)
    if error is None:
        return DispatchResult(OK, output, call.handled_by, metadata, initial)
    status = Status(
        error.grpc_status, error.message, {**error.details, "grpc-status": error.grpc_status.name}
    )
    return DispatchResult(status, None, call.handled_by, metadata, initial, error)

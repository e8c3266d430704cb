"""Servicers that protoc has generated the base of, as handlers.

A generated method takes (request, context), with a context of grpc's; a handler takes (context, input). The context
that such a method gets here is `ServicerContext`: what servicers use of grpc's own, and the call's `CallContext` for
the rest.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any, NoReturn

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message_factory import GetMessageClass

from ..core.closing import aclose
from ..core.errors import InvalidArgumentError
from ..core.grpc_status import GrpcStatus
from ..wire.grpc.metadata import MetadataInput
from . import details as _details, metadata as _metadata
from .codes import chosen
from .context import CallContext
from .errors import CallAbortedError
from .names import CallKind, MethodSpec

_SAFE = {MethodOptions.IDEMPOTENT, MethodOptions.NO_SIDE_EFFECTS}


class _Done:
    """What may be awaited, and is done."""

    def __await__(self) -> Generator[Any, None, None]:
        yield from ()


class ServicerContext:
    """A `CallContext` in the shape of `grpc.ServicerContext`.

    `abort` may be awaited or not: it raises. Attributes that are not here are those of `call`.
    """

    def __init__(self, call: CallContext) -> None:
        self.call = call
        self._status: GrpcStatus = GrpcStatus.OK
        self._text = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.call, name)

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """The caller's metadata, as pairs."""
        return tuple(self.call.metadata.multi_items())

    def peer(self) -> str:
        """The address of whoever sent the call here."""
        return self.call.peer

    def time_remaining(self) -> float | None:
        """Seconds until the deadline; None without one."""
        return self.call.time_remaining()

    def send_initial_metadata(self, initial_metadata: MetadataInput) -> Awaitable[None]:
        """Set what comes before the answer, and goes out with the first message of it. May be awaited or not.

        Raises:
            InvalidArgumentError: a name or value that cannot be sent.
        """
        self.call._call.initial = _metadata.given(initial_metadata)
        return _Done()

    def set_trailing_metadata(self, trailing_metadata: MetadataInput) -> None:
        """See `CallContext.set_trailing_metadata`."""
        self.call.set_trailing_metadata(trailing_metadata)

    def abort(self, code: Any, details: str = "", trailing_metadata: MetadataInput = ()) -> NoReturn:
        """End the call with a status; see `CallContext.abort`."""
        if trailing_metadata:
            self.call.set_trailing_metadata(trailing_metadata)
        self.call.abort(code, details)

    def set_code(self, code: Any) -> None:
        """The status with which the call ends when the method returns or raises."""
        self._status = GrpcStatus.OK if getattr(code, "name", None) == "OK" else chosen(code)

    def set_details(self, details: str) -> None:
        """The text that goes with `set_code`."""
        self._text = details

    def chosen_status(self) -> CallAbortedError | None:
        """The error that `set_code` has asked for."""
        return None if self._status is GrpcStatus.OK else _details.aborted(self._status, self._text, None)


def specs_of(namespace: str, servicer: Any, descriptor: Any) -> list[MethodSpec]:
    """The methods of a servicer.

    Raises:
        InvalidArgumentError: `descriptor` is no ServiceDescriptor, or the servicer lacks a method of it.
    """
    if not isinstance(descriptor, ServiceDescriptor):
        raise InvalidArgumentError(
            "descriptor must be a ServiceDescriptor, such as shop_pb2.DESCRIPTOR.services_by_name['OrderService']; "
            f"not {type(descriptor).__name__}"
        )
    missing = [
        method.name for method in descriptor.methods if not callable(getattr(servicer, method.name, None))
    ]
    if missing:
        raise InvalidArgumentError(
            f"{type(servicer).__name__} lacks methods of {descriptor.full_name}: {', '.join(missing)}"
        )
    return [
        described(namespace, descriptor, method, _handler(method, getattr(servicer, method.name)))
        for method in descriptor.methods
    ]


def _handler(method: MethodDescriptor, function: Callable[..., Any]) -> Callable[..., Any]:
    return _streaming(function) if method.server_streaming else _answering(function)


def described(
    namespace: str, service: ServiceDescriptor, method: MethodDescriptor, handler: Callable[..., Any]
) -> MethodSpec:
    """The method of a descriptor, with its kind, its types, and whether it is idempotent."""
    return MethodSpec(
        namespace,
        service.full_name,
        method.name,
        handler,
        CallKind.of(method.client_streaming, method.server_streaming),
        idempotent=method.GetOptions().idempotency_level in _SAFE,
        input_type=GetMessageClass(method.input_type),
        output_type=GetMessageClass(method.output_type),
    )


def _answering(function: Callable[..., Any]) -> Callable[[CallContext, Any], Any]:
    async def handle(context: CallContext, given: Any) -> Any:
        shaped = ServicerContext(context)
        try:
            result = function(given, shaped)
            if inspect.isawaitable(result):
                result = await result
        except Exception as error:
            _raise_chosen(shaped, error)
            raise
        _raise_chosen(shaped)
        return result

    return handle


def _streaming(function: Callable[..., Any]) -> Callable[[CallContext, Any], AsyncIterator[Any]]:
    async def handle(context: CallContext, given: Any) -> AsyncIterator[Any]:
        shaped = ServicerContext(context)
        results: Any = None
        try:
            results = function(given, shaped)
            if inspect.isawaitable(results):
                results = await results
            if hasattr(results, "__aiter__"):
                async for result in results:
                    yield result
            else:
                for result in results:
                    yield result
        except Exception as error:
            _raise_chosen(shaped, error)
            raise
        finally:
            await aclose(results)
        _raise_chosen(shaped)

    return handle


def _raise_chosen(context: ServicerContext, cause: Exception | None = None) -> None:
    if isinstance(cause, CallAbortedError):
        return
    error = context.chosen_status()
    if error is not None:
        raise error from cause

"""Servicers that protoc has generated the base of, as handlers.

A generated method takes (request, context), with a context of grpc's; a handler takes (context, input). The context
that such a method gets here is `ServicerContext` (see `servicer_context.py`). A method that streams its output is a
generator, or a coroutine that writes to its context.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message_factory import GetMessageClass

from ..core.closing import aclose
from ..core.errors import InvalidArgumentError
from .context import CallContext
from .errors import CallAbortedError
from .names import CallKind, MethodSpec
from .servicer_context import ServicerContext

_SAFE = {MethodOptions.IDEMPOTENT, MethodOptions.NO_SIDE_EFFECTS}


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
    make = _streaming if method.server_streaming else _answering
    return make(function, streams_in=method.client_streaming)


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


def _answering(function: Callable[..., Any], *, streams_in: bool) -> Callable[[CallContext, Any], Any]:
    async def handle(context: CallContext, given: Any) -> Any:
        shaped = ServicerContext(context, given=given if streams_in else None)
        with _lasting(shaped):
            result = function(given, shaped)
            if inspect.isawaitable(result):
                result = await result
            return result

    return handle


def _streaming(
    function: Callable[..., Any], *, streams_in: bool
) -> Callable[[CallContext, Any], AsyncIterator[Any]]:
    async def handle(context: CallContext, given: Any) -> AsyncIterator[Any]:
        written = _Written()
        shaped = ServicerContext(context, given=given if streams_in else None, write=written.write)
        results: Any = None
        with _lasting(shaped):
            try:
                results = function(given, shaped)
                if inspect.isawaitable(results):
                    results = written.by(results)
                else:
                    shaped.yields()
                if hasattr(results, "__aiter__"):
                    async for result in results:
                        yield result
                else:
                    for result in results:
                        yield result
            finally:
                await aclose(results)

    return handle


@contextmanager
def _lasting(context: ServicerContext) -> Iterator[None]:
    """The time in which a method runs. It ends with the status that the method has set, if any."""
    cancelled = False
    try:
        yield
        _raise_chosen(context)
    except Exception as error:
        _raise_chosen(context, error)
        raise
    except BaseException:
        cancelled = True
        raise
    finally:
        context.ended(cancelled=cancelled)


class _Written:
    """What a coroutine writes, as an iterator: one message at a time, and the next when that was taken."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[Any] = asyncio.Queue(1)

    async def write(self, message: Any) -> None:
        await self._messages.put(message)

    async def by(self, method: Awaitable[Any]) -> AsyncIterator[Any]:
        """The messages of a method, until it has ended; what it raises. One may return an iterable instead."""
        running = asyncio.ensure_future(method)
        try:
            while not (running.done() and self._messages.empty()):
                next_one = asyncio.ensure_future(self._messages.get())
                try:
                    await asyncio.wait([running, next_one], return_when=asyncio.FIRST_COMPLETED)
                    if next_one.done():
                        yield next_one.result()
                finally:
                    next_one.cancel()
            results = running.result()
            if hasattr(results, "__aiter__"):
                async for result in results:
                    yield result
            else:
                for result in results or ():
                    yield result
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def _raise_chosen(context: ServicerContext, cause: Exception | None = None) -> None:
    if isinstance(cause, CallAbortedError):
        return
    error = context.chosen_status()
    if error is not None:
        raise error from cause

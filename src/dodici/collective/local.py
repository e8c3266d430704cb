"""Running the methods of this collector.

A handler runs in the task of whoever asks: the one that grpc made for the call, or the caller's own for
`collector.dispatch()`. Cancelling that task, by a client that has gone, by its deadline or by hand, is a
CancelledError in the handler, at its innermost await; a stream that nobody reads any more gets the same at its yield.

A plain function runs on the event loop like everything else here, and must not block.

What a handler raises becomes INTERNAL, and goes to the log with its traceback and trace id. Only the text of a
`CollectiveError` crosses the wire: it was written to be read by others.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.any_pb2 import Any as AnyMessage

from ..core.closing import aclose
from ..core.errors import InvalidArgumentError, InvalidReturnValueError
from ..core.grpc_status import GrpcStatus
from ..core.trace import current as running, place_of
from .balance.limiter import Limiter, Permit
from .context import CallContext, current
from .contracts import Call, Recorder, Spans
from .deadline import Expired, Until, is_cancelled
from .errors import CallAbortedError, CollectiveError, call_error
from .http.framing import LEAVE, REST
from .logs import log
from .names import CallKind
from .values import from_any, from_bytes, parse_any, to_any, to_bytes

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from .names import LocalServices, MethodSpec
    from .policies import Limits

_ENDED = object()
_OF_PROMISES: Final = frozenset({REST, LEAVE})


class LocalExecutor:
    """Runs local methods. Also the `Executor` that a router gives for them, whose payloads are bytes.

    At most `limits.in_flight` calls run and `limits.queued` wait; those that a running handler makes into its own
    collector are not counted, for it would wait for itself. `idle()` waits until nothing runs.
    """

    def __init__(self, collector_id: str, services: LocalServices, limits: Limits) -> None:
        self.collector_id = collector_id
        self.limiter = Limiter(limits, time.monotonic)
        self.recorder: Recorder | None = None
        self.spans: Spans | None = None
        self._services = services
        self._idle: asyncio.Event | None = None

    # -- one message in, one out ---------------------------------------------------------------------------

    async def run_unary(self, spec: MethodSpec, call: Call, given: Any) -> Any:
        """Run a unary method on a decoded input, and return what it returns.

        Raises:
            CollectiveError: it failed, or its deadline passed.
        """
        permit = await self._room(call)
        call.handled_by = self.collector_id
        context = CallContext(call)
        token = current.set(context)
        traced = running.set(context)
        entered = None
        if self.spans is not None:
            span = self.spans.begin(call)
            context._begin(span)
            entered = span.enter()
        started = time.monotonic()
        status = GrpcStatus.CANCELLED
        try:
            with Until(call.deadline):
                result = spec.handler(context, given)
                if type(result) is CoroutineType or inspect.isawaitable(result):
                    result = await result
            status = GrpcStatus.OK
            return result
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and is_cancelled():
                raise
            failure = self._failure(error, context)
            status = failure.grpc_status
            raise failure from error
        finally:
            current.reset(token)
            running.reset(traced)
            if context._span is not None:
                context._span.leave(entered)
            self._end(permit, context, status, started)

    # -- streams -------------------------------------------------------------------------------------------

    async def run_stream(self, spec: MethodSpec, call: Call, given: Any) -> AsyncIterator[Any]:
        """Run a method of any kind. `given` is the decoded input, or an async iterator of decoded inputs.

        Raises:
            CollectiveError: it failed, or its deadline passed, from the iteration.
        """
        permit = await self._room(call)
        call.handled_by = self.collector_id
        context = CallContext(call)
        if self.spans is not None:
            context._begin(self.spans.begin(call))
        started = time.monotonic()
        status = GrpcStatus.CANCELLED
        answers: AsyncIterator[Any] | None = None
        try:
            result = await _step(context, spec.handler, context, given)
            if kind_of(spec, call).streams_out:
                answers = _async_iterator(result, spec)
                while (answer := await _step(context, anext, answers, _ENDED)) is not _ENDED:
                    yield answer
            else:
                yield result
            status = GrpcStatus.OK
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and is_cancelled():
                raise
            failure = self._failure(error, context)
            status = failure.grpc_status
            raise failure from error
        except GeneratorExit:
            # Whoever reads the answers has gone while the handler stood at a yield.
            await _cancel_at_yield(answers)
            raise
        finally:
            try:
                await aclose(answers)
            finally:
                self._end(permit, context, status, started)

    # -- the Executor of routers ---------------------------------------------------------------------------

    async def unary(self, call: Call, payload: bytes) -> bytes:
        """See `Executor.unary`."""
        spec = self._spec(call)
        if spec.kind.streams_in or spec.kind.streams_out:
            raise wrong_kind(spec)
        return encode(await self.run_unary(spec, call, decode(payload, call, spec)), call, spec)

    async def stream(self, call: Call, payloads: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """See `Executor.stream`."""
        spec = self._spec(call)
        told: Any = None
        if spec.wildcard and call.kind is None:
            call.kind, payloads = await _tell_kind(call, payloads)
            told = payloads
        kind = kind_of(spec, call)
        given: Any = None
        answers: Any = None
        try:
            if kind.streams_in:
                given = _decoded(payloads, call, spec)
            else:
                first = await anext(payloads, None)
                if first is None:
                    raise call_error(
                        GrpcStatus.INVALID_ARGUMENT, f"{call.key} takes one message, and none came"
                    )
                given = decode(first, call, spec)
            answers = self.run_stream(spec, call, given)
            async for answer in answers:
                yield encode(answer, call, spec)
        finally:
            try:
                await aclose(answers)
            finally:
                if kind.streams_in:
                    await aclose(given)
                await aclose(told)

    def _spec(self, call: Call) -> MethodSpec:
        spec = self._services.find(*call.key)
        if spec is None:
            raise self._services.missing(*call.key)
        return spec

    # -- room ----------------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Calls that run now."""
        return self.limiter.in_flight

    async def idle(self) -> None:
        """Return when nothing runs."""
        while self.limiter.in_flight:
            if self._idle is None:
                self._idle = asyncio.Event()
            await self._idle.wait()

    def keep(self, namespace: str) -> Callable[[], None]:
        """Count something as running that outlives its call, in that call's place. Returns what ends it."""
        return partial(self._release, self.limiter.beyond(namespace))

    async def _room(self, call: Call) -> Permit | None:
        if (current.get() is not None and not call.peer) or call.key.method in _OF_PROMISES:
            # What is promised has its place already.
            return None
        permit = self.limiter.acquire(call.key.namespace)
        if permit.granted:
            return permit
        if permit.state == "refused":
            pushback = ("grpc-retry-pushback-ms", str(int(self.limiter.pushback() * 1000)))
            call.trailing = (*call.trailing, pushback)
            raise call_error(
                GrpcStatus.RESOURCE_EXHAUSTED,
                f"collector {self.collector_id} has no room for {call.key}",
                request_not_processed=True,
            )
        permit.waiter = asyncio.get_running_loop().create_future()
        try:
            with Until(call.deadline):
                await permit.waiter
        except Expired as error:
            self._release(permit)
            raise call_error(
                GrpcStatus.DEADLINE_EXCEEDED, f"{call.key} found no room before its deadline"
            ) from error
        except asyncio.CancelledError:
            self._release(permit)
            raise
        return permit

    def _release(self, permit: Permit) -> None:
        following = self.limiter.release(permit)
        if following is not None and not following.waiter.done():
            following.waiter.set_result(None)
        if not self.limiter.in_flight and self._idle is not None:
            self._idle.set()
            self._idle = None

    def _end(self, permit: Permit | None, context: CallContext, status: GrpcStatus, started: float) -> None:
        if permit is not None:
            self._release(permit)
        if context._span is not None:
            context._span.end(status)
        # To give up what was promised is no call, but the end of one.
        if self.recorder is not None and context._call.key.method != LEAVE:
            self.recorder.ended(context._call, "serve", status, time.monotonic() - started)

    # -- failures ------------------------------------------------------------------------------------------

    def _failure(self, error: BaseException, context: CallContext) -> CollectiveError:
        if isinstance(error, Expired):
            return call_error(
                GrpcStatus.DEADLINE_EXCEEDED, f"{context._call.key} did not end before its deadline"
            )
        if isinstance(error, CallAbortedError):
            return error
        log.error(
            "%s failed in trace %s",
            context._call.key,
            context.trace.trace_id,
            exc_info=error,
            extra=place_of(context.trace),
        )
        if isinstance(error, CollectiveError):
            told = call_error(GrpcStatus.INTERNAL, f"{type(error).__name__}: {error}", details=error.details)
            told.binary_details = error.binary_details
            return told
        return call_error(GrpcStatus.INTERNAL, f"{context._call.key} failed")


def kind_of(spec: MethodSpec, call: Call) -> CallKind:
    """The kind of a call that runs here: its method's, or what the caller of a wildcard says."""
    return spec.kind if call.kind is None or not spec.wildcard else call.kind


async def _tell_kind(call: Call, payloads: AsyncIterator[bytes]) -> tuple[CallKind, AsyncIterator[bytes]]:
    """The kind of a call that nobody has said: its input is a stream unless it ends after one message.

    Whether the output is a stream is for its answer to say; one that is not is a stream of one.
    """
    try:
        with Until(call.deadline):
            begun = [payload async for payload in _up_to(2, payloads)]
    except Expired as error:
        raise call_error(
            GrpcStatus.DEADLINE_EXCEEDED, f"the input of {call.key} did not end before its deadline"
        ) from error
    kind = CallKind.UNARY_STREAM if len(begun) == 1 else CallKind.STREAM_STREAM
    return kind, _chained(begun, payloads)


async def _up_to(most: int, payloads: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    for _ in range(most):
        payload = await anext(payloads, None)
        if payload is None:
            return
        yield payload


async def _chained(begun: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    for payload in begun:
        yield payload
    async for payload in rest:
        yield payload


async def _step(context: CallContext, function: Callable[..., Any], *arguments: Any) -> Any:
    token = current.set(context)
    traced = running.set(context)
    span = context._span
    entered = None if span is None else span.enter()
    try:
        with Until(context.deadline):
            result = function(*arguments)
            return await result if inspect.isawaitable(result) else result
    finally:
        current.reset(token)
        running.reset(traced)
        if span is not None:
            span.leave(entered)


def _async_iterator(result: Any, spec: MethodSpec) -> AsyncIterator[Any]:
    if isinstance(result, AsyncIterable):
        return aiter(result)
    if isinstance(result, Iterable) and not isinstance(result, str | bytes | dict):
        return _each(result)
    raise InvalidReturnValueError(
        f"the handler of {spec.key} must be an async generator, or return an iterable; not {type(result).__name__}"
    )


async def _each(items: Iterable[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item


async def _cancel_at_yield(answers: Any) -> None:
    throw = getattr(answers, "athrow", None)
    if throw is not None:
        try:
            await throw(asyncio.CancelledError())
        except (asyncio.CancelledError, StopAsyncIteration):
            pass
        except Exception:
            log.warning("a handler failed while it was cancelled", exc_info=True)


def wrong_kind(spec: MethodSpec) -> CollectiveError:
    """The error of a streaming method that is called with one message for one."""
    return call_error(
        GrpcStatus.INVALID_ARGUMENT, f"{spec.key} is {spec.kind}: it cannot be called as unary_unary"
    )


# -- payloads -------------------------------------------------------------------------------------------


def decode(payload: bytes, call: Call, spec: MethodSpec) -> Any:
    """A handler's input from a payload.

    Raises:
        CollectiveError: INVALID_ARGUMENT.
    """
    if call.encoding == "any":
        return from_any(parse_any(payload), spec.input_type)
    return from_bytes(payload, spec.input_type)


async def _decoded(payloads: AsyncIterator[bytes], call: Call, spec: MethodSpec) -> AsyncIterator[Any]:
    async for payload in payloads:
        try:
            value = decode(payload, call, spec)
        except CollectiveError as error:
            # The handler reads this, and must not look like the one who was wrong.
            raise CallAbortedError(error.message, grpc_status=error.grpc_status) from error
        yield value


def encode(answer: Any, call: Call, spec: MethodSpec) -> bytes:
    """The payload of a handler's answer.

    Raises:
        CollectiveError: INTERNAL: the handler has returned what has no place on the wire. The log says what.
    """
    if call.encoding == "any":
        return answer_any(answer, spec).SerializeToString()
    try:
        return to_bytes(answer, spec.output_type)
    except (InvalidReturnValueError, InvalidArgumentError) as error:
        raise _bad_answer(spec, error) from error


def answer_any(answer: Any, spec: MethodSpec) -> AnyMessage:
    """The same as an `Any`.

    Raises:
        CollectiveError: INTERNAL.
    """
    kind: type[Message] | None = spec.output_type
    try:
        if kind is None or isinstance(answer, AnyMessage):
            return to_any(answer)
        return AnyMessage(
            type_url=f"type.googleapis.com/{kind.DESCRIPTOR.full_name}", value=to_bytes(answer, kind)
        )
    except (InvalidReturnValueError, InvalidArgumentError) as error:
        raise _bad_answer(spec, error) from error


def _bad_answer(spec: MethodSpec, error: Exception) -> CollectiveError:
    log.error("the handler of %s has returned what cannot be sent: %s", spec.key, error)
    return call_error(GrpcStatus.INTERNAL, f"{spec.key} returned what cannot be sent: {error}")

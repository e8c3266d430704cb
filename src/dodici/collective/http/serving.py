"""The end of a carried exchange at the origin: a method that dispatches what comes, and streams back what is told.

The handler's task waits at one future at a time. What the origin gives while grpc still writes the message before is
collected, and leaves in the next; beyond 64 KiB the exchange is paused, so that a caller who does not read
stops the origin. The request's body is pulled by the origin's dispatcher, a message at a time.

A request that is small and at hand comes as a unary call, which costs a fraction of a stream. Its answer is the response
if that is complete soon and fits; else it is what there is, and a promise of the rest, which the caller takes over with a
stream. What is promised runs on meanwhile, counts as running, and is given up when the caller says so or is silent for
`PROMISED` seconds. The caller names the promise in its request, so that it can be given up before its name is heard.

However the call ends (a caller that is gone, a deadline, a drain that has lasted too long), its exchange is aborted, and
nothing of it is left when the handler has returned.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ...api.exchange import global_dispatcher
from ...core.errors import DodiciError
from ...core.grpc_status import GrpcStatus
from ...core.headers import Headers, checked_pairs
from ...core.options import DispatchOptions
from ...core.trace import FIELDS, TRACEPARENT
from ...wire.mesh.heads import RequestHead
from ..errors import CallAbortedError
from ..names import CallKind, MethodSpec
from ..protos import http_pb2 as pb
from ..trace import named
from .failures import told
from .framing import HTTP, LEAVE, REST, TOKEN, UNARY, MalformedError, read_head, read_request
from .relay import Messages, relay
from .streams import Answers, Upload

if TYPE_CHECKING:
    from ...core.dispatcher import Dispatcher
    from ..context import CallContext

nested: ContextVar[int] = ContextVar("dodici.collective.http.nested", default=0)
"""How many origins of this process an exchange has passed: one whose origin is itself would never end."""
Keep: TypeAlias = Callable[[str], Callable[[], None]]

PROMISED: Final = 5.0
"""Seconds within which the rest of a response has to be asked for."""
_PATIENCE: Final = 0.005
"""Seconds for which a unary answer waits for what follows the head."""
_MOST_PROMISED: Final = 1024
_CALLERS_OWN: Final = frozenset({b"host", b"expect"}) | FIELDS


def http_specs(
    namespace: str,
    service: str,
    origin: str,
    dispatcher: Dispatcher | None = None,
    keep: Keep | None = None,
    lasting: set[Callable[[], None]] | None = None,
) -> tuple[MethodSpec, ...]:
    """The methods by which a service that is an HTTP origin is reached with whole exchanges.

    Args:
        namespace: of the service.
        service: its name.
        origin: where the requests go, such as ``"http://orders.local"``.
        dispatcher: reaches it; None for what `get_global_dispatcher()` gives at each request.
        keep: `LocalExecutor.keep`: what is promised counts as running.
        lasting: what ends the WebSockets that are open, which would not end by themselves, is kept there.
    """
    serving = HttpServing(origin, dispatcher, keep, set() if lasting is None else lasting)
    return (
        MethodSpec(namespace, service, HTTP, serving.exchange, CallKind.STREAM_STREAM),
        MethodSpec(namespace, service, UNARY, serving.small, CallKind.UNARY_UNARY),
        MethodSpec(namespace, service, REST, serving.rest, CallKind.UNARY_STREAM),
        MethodSpec(namespace, service, LEAVE, serving.leave, CallKind.UNARY_UNARY),
    )


class HttpServing:
    """Runs the carried exchanges of one origin."""

    def __init__(
        self,
        origin: str,
        dispatcher: Dispatcher | None,
        keep: Keep | None,
        lasting: set[Callable[[], None]],
    ) -> None:
        self._origin = origin
        self._dispatcher = dispatcher
        self._keep = keep
        self._promised: dict[bytes, Promise] = {}
        self._lasting = lasting

    async def exchange(self, context: CallContext, frames: AsyncIterator[Any]) -> AsyncIterator[bytes]:
        """The handler of `~http`."""
        answers = Answers(context._call.handled_by)
        upload: Upload | None = None
        try:
            request = _read(await anext(frames, None))
            upload = None if request.end or request.upgrade else Upload(request.data, frames, answers.begun)
            body = None if request.upgrade else request.data if upload is None else upload
            self._dispatch(self._options(context, request, body), answers)
            while (message := await self._next(answers)) is not None:
                yield message
            if upload is not None:
                await upload.linger()
            given = answers.take()
            if given is not None:
                async with aclosing(self._upgraded(given, frames)) as messages:
                    async for message in messages:
                        yield message
        finally:
            answers.leave()
            if upload is not None:
                await upload.end()

    async def _upgraded(self, given: Any, frames: AsyncIterator[Any]) -> AsyncGenerator[bytes, None]:
        """Pass on what the exchange has become."""
        passing = relay(given, frames)
        if isinstance(passing, Messages):
            self._lasting.add(passing.part)
        try:
            async with aclosing(passing.run()) as messages:
                async for message in messages:
                    yield message
        except MalformedError as error:
            raise _no_request(error) from error
        except DodiciError as error:
            raise told(error, self._origin) from error
        finally:
            if isinstance(passing, Messages):
                self._lasting.discard(passing.part)

    async def _next(self, answers: Answers) -> bytes | None:
        """The next message of a response; None after the last."""
        response = await answers.next()
        if response is not None:
            return response.SerializeToString()
        if answers.error is not None:
            raise told(answers.error, self._origin) from answers.error
        return None

    async def rest(self, context: CallContext, given: Any) -> AsyncIterator[bytes]:
        """The handler of `~http.rest`."""
        promise = self._promised.pop(_read(given).rest, None)
        if promise is None:
            raise CallAbortedError(
                f"the rest of the response was not asked for within {PROMISED:g} s",
                grpc_status=GrpcStatus.UNAVAILABLE,
            )
        promise.expiry.cancel()
        try:
            # Says that it is taken: what follows may be long in coming.
            yield b""
            while (message := await self._next(promise.answers)) is not None:
                yield message
        finally:
            promise.end()

    async def leave(self, context: CallContext, given: Any) -> bytes:
        """The handler of `~http.leave`."""
        token = _read(given).rest
        if token in self._promised:
            self._forsake(token)
        return b""

    async def small(self, context: CallContext, given: Any) -> bytes:
        """The handler of `~http.unary`."""
        answers = Answers(context._call.handled_by)
        promised = False
        try:
            request = _read(given)
            options = self._options(context, request, request.data)
            self._dispatch(options, answers)
            await answers.settle(_PATIENCE)
            response = await answers.next()
            if response is None:
                assert answers.error is not None
                raise told(answers.error, self._origin) from answers.error
            if not response.end:
                promised = True
                response.rest = self._promise(request.rest, answers, context.namespace)
            return response.SerializeToString()
        finally:
            if not promised:
                answers.leave()

    # -- promises ------------------------------------------------------------------------------------------

    def _promise(self, asked: bytes, answers: Answers, namespace: str) -> bytes:
        while len(self._promised) >= _MOST_PROMISED:
            self._forsake(next(iter(self._promised)))
        # What a caller names may not take the place of what was promised to another.
        token = asked if len(asked) == TOKEN and asked not in self._promised else secrets.token_bytes(TOKEN)
        expiry = asyncio.get_running_loop().call_later(PROMISED, self._forsake, token)
        self._promised[token] = Promise(
            answers, expiry, None if self._keep is None else self._keep(namespace)
        )
        return token

    def _forsake(self, token: bytes) -> None:
        self._promised.pop(token).end()

    def _dispatch(self, options: DispatchOptions, answers: Answers) -> None:
        token = nested.set(nested.get() + 1)
        try:
            (self._dispatcher or global_dispatcher()).dispatch(options, answers)
        finally:
            nested.reset(token)

    def _options(self, context: CallContext, request: pb.Request, body: Any) -> DispatchOptions:
        try:
            return self._options_of(context, read_head(request), body, request.upgrade or None)
        except DodiciError as error:
            raise _no_request(error) from error

    def _options_of(
        self, context: CallContext, head: RequestHead, body: Any, upgrade: str | None
    ) -> DispatchOptions:
        # The caller's own goes on as it came, whatever span of this collector's is below it.
        trace = named(context._call) or context.trace
        fields = [pair for pair in head.fields if pair[0] not in _CALLERS_OWN]
        fields.append((TRACEPARENT, trace.traceparent.encode()))
        if trace.tracestate:
            fields += checked_pairs({"tracestate": trace.tracestate})
        # How long the app may be silent is the caller's to say, who ends the call.
        return DispatchOptions(
            origin=self._origin,
            method=head.method,
            path=head.target.decode("latin-1"),
            headers=Headers.from_raw(tuple(fields)),  # which `read_head` has checked
            body=body,
            upgrade=upgrade,
            expect_continue=head.expects,
            headers_timeout=0,
            body_timeout=0,
        )


class Promise:
    """A response of which the caller has only the beginning: it runs on, and counts as running."""

    def __init__(
        self, answers: Answers, expiry: asyncio.TimerHandle, release: Callable[[], None] | None
    ) -> None:
        self.answers = answers
        self.expiry = expiry
        self._release = release

    def end(self) -> None:
        """It was kept, or will not be."""
        self.expiry.cancel()
        self.answers.leave()
        if self._release is not None:
            self._release()


def _read(payload: Any) -> pb.Request:
    try:
        return read_request(payload)
    except MalformedError as error:
        raise _no_request(error) from error


def _no_request(error: DodiciError) -> CallAbortedError:
    return CallAbortedError(f"not a request: {error.message}", grpc_status=GrpcStatus.INVALID_ARGUMENT)

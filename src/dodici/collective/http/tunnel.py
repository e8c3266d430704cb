"""An exchange that is carried to the collector of a service's origin, as a call of its method `~http`.

A request that is at hand and small goes as a unary call of `~http.unary`; the rest of a response that is neither is
fetched from the same collector by a stream.

Which collector that is, whether another has a try when one refuses, and what is thought of it afterwards, is the
router's: a carried exchange is a call like any other. The trace that the request's headers name is that of the call.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

from ...core.errors import BodyAbortedError, DodiciError
from ...core.grpc_status import GrpcStatus
from ...core.headers import EMPTY
from ...core.options import BYTES
from ...core.trace import FIELDS
from ...wire.mesh.heads import decode_response, decode_trailers, encode_request
from ..context import current
from ..errors import CollectiveError, call_error
from ..names import CallKind
from ..protos import http_pb2 as pb
from ..stats import Passing
from .failures import heard
from .framing import HTTP, LEAVE, REST, TOKEN, UNARY, MalformedError, pieces, read_response
from .passage import Passage
from .serving import nested

if TYPE_CHECKING:
    from ...core.options import DispatchOptions
    from ..collector import Collector
    from ..contracts import Call
    from .hosts import Place
    from .passage import CarriedExchange

SMALL: Final = 32 * 1024
"""Bytes of a body that goes with a unary call."""
FOREVER: Final = 30 * 86400.0
"""Seconds of a call without a deadline. Without any, each collector on the way would set its own default."""
_LEAVING: Final = 1.0
"""Seconds for saying that nobody wants what was promised."""
CALL_FIELDS: Final = frozenset({"traceparent", "tracestate", "baggage", "x-hash-key"})
"""Fields of the request that are metadata of the call, too."""


class Tunnel(Passage):
    """A carried exchange, at the caller's end."""

    def __init__(self, exchange: CarriedExchange, timers: Any, collector: Collector, place: Place) -> None:
        super().__init__(exchange, timers)
        self._collector = collector
        self._place = place
        self._token = b""

    async def travel(self) -> None:
        options = self.options
        small = self._place.quick and (
            options.body_kind < BYTES
            or (options.payload is not None and len(options.payload) <= SMALL and not options.expect_continue)
        )
        try:
            await (self._small() if small else self._streamed())
        except CollectiveError as error:
            raise heard(error, begun=self.exchange.status_code >= 200) from error

    def _call(self, method: str, kind: CallKind, target: str | None = None) -> Call:
        options, place = self.options, self._place
        if nested.get() > self._collector._max_hops:
            raise call_error(
                GrpcStatus.FAILED_PRECONDITION,
                f"the origin of {place.service!r} leads back into the collective for the "
                f"{nested.get()}th time: an origin has to be an app in the end",
            )
        call = self._collector._call(
            place.namespace, place.service, method, target, options.timeout or None, call_metadata(options)
        )
        around = current.get()
        if not options.timeout and (around is None or around.deadline is None):
            call.deadline = time.monotonic() + FOREVER
        call.encoding, call.kind = "raw", kind
        return call

    async def _streamed(self) -> None:
        """By a call that streams both ways."""
        call = self._call(HTTP, CallKind.STREAM_STREAM)
        with Passing(self._collector._figures, call):
            executor = await self._collector._executor(call)
            if not self.begin():
                return
            self.send_body()
            answers: Any = executor.stream(call, self.outgoing())
            try:
                await self._receive(answers)
            finally:
                await answers.aclose()

    def outgoing(self) -> AsyncIterator[bytes]:
        """The messages of the request."""
        return self.upload

    async def _small(self) -> None:
        """By a unary call, whose answer has all of a small response."""
        call = self._call(UNARY, CallKind.UNARY_UNARY)
        self._token = secrets.token_bytes(TOKEN)
        try:
            with Passing(self._collector._figures, call):
                executor = await self._collector._executor(call)
                if not self.begin():
                    return
                self.send_body()
                response = read_response(await executor.unary(call, await anext(self.upload)))
        except asyncio.CancelledError:
            # It may have been answered already.
            await self._leave(call, self._token)
            raise
        except CollectiveError as error:
            if error.grpc_status is GrpcStatus.DEADLINE_EXCEEDED:
                await self._leave(call, self._token)
            raise
        if response.rest:
            await self._rest(call, response)
        elif self.exchange.done:
            return
        elif await self._tell_of(response) and not response.end:
            raise BodyAbortedError("the response ended in the middle of it")

    async def _rest(self, before: Call, response: pb.Response) -> None:
        """By a stream from where the beginning came from. It is opened before the handler is told of anything: a handler
        may take its time, and a promise does not last.
        """
        call = self._call(REST, CallKind.UNARY_STREAM, before.handled_by)
        call.deadline = before.deadline
        kept = False
        try:
            with Passing(self._collector._figures, call):
                executor = await self._collector._executor(call)
                answers: Any = executor.stream(call, _one(pb.Request(rest=response.rest, end=True)))
                try:
                    if await anext(answers, None) is None:
                        raise MalformedError("a promised response was not kept")
                    kept = not self.exchange.done
                    if kept and await self._tell_of(response):
                        await self._receive(answers)
                finally:
                    await answers.aclose()
        finally:
            if not kept:
                await self._leave(before, response.rest)

    async def _leave(self, before: Call, promise: bytes) -> None:
        """Tell whoever has promised the rest, or may have, that nobody wants it."""
        holders = {before.handled_by}
        if not before.handled_by:
            # Nobody has said yet who runs it: any of those that are reached by whom it was sent to.
            group = self._collector._table.group(before.key)
            holders = {way.path[-1] for way in group.ways.get(before.via, ())} if group is not None else set()
        await asyncio.gather(*(self._leave_at(holder, promise) for holder in holders))

    async def _leave_at(self, holder: str, promise: bytes) -> None:
        try:
            call = self._call(LEAVE, CallKind.UNARY_UNARY, holder)
            call.deadline = time.monotonic() + _LEAVING
            executor = await self._collector._executor(call)
            await executor.unary(call, pb.Request(rest=promise, end=True).SerializeToString())
        except CollectiveError:
            pass  # it is gone, or gives up by itself what nobody asks for

    def write(self, length: int, parts: list[bytes | memoryview], *, head: bool, end: bool) -> None:
        """As `Passage`."""
        data = [piece for part in parts for piece in pieces(part)]
        if not head and not data:
            if end:
                self.upload.put(pb.Request(end=True).SerializeToString())
                self.upload.close()
            return
        for number, piece in enumerate(data or [b""]):
            request = pb.Request(data=piece)
            if head and not number:
                # The fields of its trace go with the call: a head that comes again is known there.
                request.head = encode_request(self.options, length, FIELDS)
                request.rest = self._token
            request.end = end and number >= len(data) - 1
            self.upload.put(request.SerializeToString())
        self.exchange.bytes_sent += sum(map(len, data))
        if end:
            self.upload.close()

    async def _receive(self, answers: AsyncIterator[bytes]) -> None:
        """Tell of what comes."""
        try:
            ended = False
            async for payload in answers:
                response = read_response(payload)
                if ended:
                    raise MalformedError("a carried response goes on after its end")
                ended = response.end
                if not await self._tell_of(response):
                    return
            if not self.exchange.done:
                raise BodyAbortedError("the response ended in the middle of it")
        except CollectiveError:
            if not self.exchange.done:
                raise

    async def _tell_of(self, response: pb.Response) -> bool:
        """Tell of one message. False if the exchange is over, and not by its end."""
        try:
            for block in response.informational:
                found = decode_response(block)
                if not 100 <= found.status_code < 200 or self.exchange.status_code:
                    raise MalformedError(f"an interim response with status {found.status_code}")
                if found.status_code == 100:
                    self.go_on()
                if not self.tell_head(found.status_code, found.headers):
                    return False
            if response.head:
                found = decode_response(response.head)
                if found.status_code < 200 or self.exchange.status_code:
                    raise MalformedError(f"a response with status {found.status_code}")
                if not self.tell_head(found.status_code, found.headers):
                    return False
            elif not self.exchange.status_code and (response.data or response.end):
                raise MalformedError("a carried response without a head")
            trailers = decode_trailers(response.trailers) if response.trailers else EMPTY
        except DodiciError as error:
            raise MalformedError(error.message) from error
        if not await self.tell_data(response.data):
            return False
        if response.end:
            await self.tell_end(trailers)
        return True


async def _one(request: pb.Request) -> AsyncIterator[bytes]:
    yield request.SerializeToString()


def call_metadata(options: DispatchOptions) -> list[tuple[str, str]]:
    """What of a request's headers goes with the call. What metadata cannot hold is no trace."""
    if not options.headers:
        return []
    return [
        (name, value)
        for name, value in options.headers.multi_items()
        if name in CALL_FIELDS and value.isascii() and value.isprintable()
    ]

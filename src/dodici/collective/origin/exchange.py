"""Running calls as exchanges with an origin.

An `OriginHandler` is the handler of a method as any other is: the executor gives it a context and an input, ends it at
the deadline and cancels it when nobody wants the answer any more. Whichever it is, the exchange is aborted, and an app
behind it gets ``http.disconnect``.

Flow control goes through: a streaming input is read as the transport takes it, and of an answer no more than
`dodici.api`'s high water waits for whoever reads the call.

The input belongs to the executor, which closes it when the handler has ended. Until then the exchange's body may be
reading it in a task of the dispatcher's, so that a handler does not end before that has let go of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

from ...api.decode import content_length
from ...api.exchange import exchange, global_dispatcher
from ...core.errors import DodiciError, InvalidArgumentError
from ...core.grpc_status import GrpcStatus
from ...core.headers import RawHeaders
from ...core.options import DispatchOptions
from ..errors import CollectiveError
from ..names import CallKind
from . import failures
from .bodies import (
    DELIMITED,
    NDJSON,
    BodyType,
    Items,
    body_type,
    decode_one,
    encode_item,
    encode_one,
    refused,
)
from .fields import metadata_of, request_fields
from .mapping import PathTemplate, ask

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from ...api.response import Response
    from ...core.dispatcher import Dispatcher
    from ..context import CallContext

_ERROR_BODY: Final = 64 * 1024
"""Bytes of the body of a failure that are read for its message."""
_ACCEPT: Final = {
    # (streams out, protobuf)
    (False, False): b"application/json, application/x-protobuf;q=0.8, */*;q=0.5",
    (False, True): b"application/x-protobuf, application/json;q=0.8, */*;q=0.5",
    (True, False): b"application/x-ndjson, application/json;q=0.8, */*;q=0.5",
    (True, True): b"application/x-protobuf;delimited=true, application/x-ndjson;q=0.8, */*;q=0.5",
}


class OriginHandler:
    """Serves a method, or all methods of a service, from an origin.

    Args:
        origin: such as ``"http://orders.local"``.
        dispatcher: reaches it; None: the global one, of the moment of each call.
        verb: the method of the requests.
        path: their path.
        kind: of the calls; None: what each call says, and one input and one output if it says nothing.
        idempotent: whether the dispatcher may repeat a request.
        output_type: class of the messages that it answers, if it is known.
        protobuf: messages are sent as protobuf, and not as JSON.
        limit: bytes that a message of the origin's may have.
    """

    def __init__(
        self,
        origin: str,
        dispatcher: Dispatcher | None,
        *,
        verb: str,
        path: PathTemplate,
        kind: CallKind | None,
        idempotent: bool,
        output_type: type[Message] | None,
        typed_input: bool,
        protobuf: bool,
        limit: int,
    ) -> None:
        self.origin = origin
        self._dispatcher = dispatcher
        self._verb = verb
        self._path = path
        self._kind = kind
        self._idempotent = idempotent
        self._output_type = output_type
        self._typed_input = typed_input
        self._protobuf = protobuf
        self._limit = limit
        self._accept = {streams: (b"accept", _ACCEPT[streams, protobuf]) for streams in (False, True)}

    def __call__(self, context: CallContext, given: Any) -> Awaitable[Any] | AsyncIterator[Any]:
        """See `MethodSpec.handler`."""
        kind = self._kind or context._call.kind or CallKind.UNARY_UNARY
        if kind.streams_out:
            return self._stream(context, given, kind)
        return self._unary(context, given, kind)

    async def _unary(self, context: CallContext, given: Any, kind: CallKind) -> Any:
        upload = Upload(given, self._item_type(context)) if kind.streams_in else None
        try:
            response = await self._begin(context, given, upload, streams=False)
            try:
                of = body_type(response.headers, False, self.origin)
                items = [item async for item in self._items(response, of)] if of.streams else None
                body = b"" if items is not None else await self._whole(response, self._limit)
            finally:
                await response.aclose()
            context._call.trailing = metadata_of(response.trailers)
            if items is not None:
                if len(items) != 1:
                    raise refused(
                        GrpcStatus.INTERNAL,
                        f"{self.origin} answered with a stream of {len(items)}: call {context._call.key} as a stream",
                    )
                body = items[0]
            if response.status_code in {204, 205}:
                return None
            return decode_one(body, of, self._output_type, self.origin)
        except CollectiveError:
            raise
        except DodiciError as error:
            raise failures.from_error(error, self.origin) from error
        finally:
            if upload is not None:
                await upload.released()

    async def _stream(self, context: CallContext, given: Any, kind: CallKind) -> AsyncIterator[Any]:
        upload = Upload(given, self._item_type(context)) if kind.streams_in else None
        try:
            response = await self._begin(context, given, upload, streams=True)
            try:
                of = body_type(response.headers, self._kind is not None, self.origin)
                if of.streams:
                    async with aclosing(self._items(response, of)) as items:
                        async for item in items:
                            yield decode_one(item, of, self._output_type, self.origin)
                else:
                    body = await self._whole(response, self._limit)
                    # A method that is known to stream may have nothing to say.
                    if self._kind is None or (body and response.status_code not in {204, 205}):
                        yield decode_one(body, of, self._output_type, self.origin)
            finally:
                await response.aclose()
            context._call.trailing = metadata_of(response.trailers)
        except CollectiveError:
            raise
        except DodiciError as error:
            raise failures.from_error(error, self.origin) from error
        finally:
            if upload is not None:
                await upload.released()

    # -- the request ---------------------------------------------------------------------------------------

    def _item_type(self, context: CallContext) -> bytes:
        """The content type of a streaming input: it is said before there is any of it."""
        raw = context._call.encoding == "raw"
        if self._typed_input:
            return DELIMITED if self._protobuf else NDJSON
        return DELIMITED if raw else NDJSON

    async def _begin(
        self, context: CallContext, given: Any, upload: Upload | None, *, streams: bool
    ) -> Response:
        """Send the request, and return the response once its head is there and says that the call has succeeded.

        Raises:
            CollectiveError: the call has failed, or the input cannot be sent.
            DodiciError: the exchange has failed.
        """
        call = context._call
        content_type: bytes | None
        body: Any
        if upload is None:
            path, left = ask(self._path, self._verb, call.key, given)
            content_type, body = encode_one(left, call.encoding, self._protobuf)
        else:
            path = self._path.of_call(call.key)
            content_type, body = upload.content_type, upload
        own: RawHeaders = (self._accept[streams],)
        if content_type is not None:
            own = (*own, (b"content-type", content_type))
        try:
            options = DispatchOptions(
                origin=self.origin,
                path=path,
                method=self._verb,
                headers=request_fields(context, own),
                body=body,
                idempotent=self._idempotent,
            )
        except InvalidArgumentError as error:
            raise refused(
                GrpcStatus.INVALID_ARGUMENT, f"no request for {call.key}: {error.message}"
            ) from error
        response = await exchange(self._dispatcher or global_dispatcher(), options, False, None)
        status = response.status_code
        if 200 <= status < 300:
            call.initial = metadata_of(response.headers)
            return response
        try:
            said = await self._whole(response, _ERROR_BODY, cut=True)
        except DodiciError:
            said = b""
        finally:
            await response.aclose()
        call.trailing = (
            *metadata_of(response.headers, response.trailers),
            *failures.pushback(status, response.headers),
        )
        raise failures.from_response(status, response.headers, said, self.origin)

    # -- the response --------------------------------------------------------------------------------------

    async def _whole(self, response: Response, limit: int, *, cut: bool = False) -> bytes:
        """The body. Beyond `limit` bytes it is a failure, or cut off there.

        Raises:
            CollectiveError: RESOURCE_EXHAUSTED.
        """
        length = content_length(response.headers)
        if length is not None and length <= limit:
            return await response.bytes()
        chunks = []
        size = 0
        async for chunk in response.body:
            size += len(chunk)
            if size > limit:
                if cut:
                    chunks.append(chunk)
                    break
                raise refused(
                    GrpcStatus.RESOURCE_EXHAUSTED,
                    f"{self.origin} answered with more than {limit} bytes (limits.message)",
                )
            chunks.append(chunk)
        return b"".join(chunks)[:limit]

    async def _items(self, response: Response, of: BodyType) -> AsyncGenerator[bytes, None]:
        items = Items(of, self._limit, self.origin)
        async for chunk in response.body:
            for item in items.feed(chunk):
                yield item
        for item in items.end():
            yield item


class Upload:
    """A streaming input as the body of a request."""

    def __init__(self, given: AsyncIterator[Any], content_type: bytes) -> None:
        self.content_type = content_type
        self._given = given
        self._reading = False
        self._released: asyncio.Event | None = None

    def __aiter__(self) -> Upload:
        return self

    async def __anext__(self) -> bytes:
        self._reading = True
        try:
            return encode_item(await anext(self._given), self.content_type)
        finally:
            self._reading = False
            if self._released is not None:
                self._released.set()

    async def released(self) -> None:
        """Return when nobody reads the input. The exchange has ended: nobody begins to."""
        while self._reading:
            self._released = asyncio.Event()
            await self._released.wait()

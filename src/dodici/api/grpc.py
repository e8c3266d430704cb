"""gRPC calls through any dispatcher that speaks HTTP/2 with the origin.

A `GrpcChannel` is a dispatcher, an origin and defaults: it owns no connection and needs no closing. Messages
are bytes; a serializer and a deserializer (such as ``Request.SerializeToString`` and ``Reply.FromString``)
make them whatever the caller wants. `grpc_handler` holds what a call is while it runs, `grpc_call` what the
caller of a stream holds.

A call's deadline is told to the server (`grpc-timeout`) and kept here, too, whatever the server does. The
dispatcher's own timeouts for the head and between pieces of the body are switched off: a stream may be silent
for as long as its deadline allows.

Source: grpc/doc/PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import math
from asyncio import get_running_loop
from collections.abc import AsyncIterable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from .. import __version__
from ..core.controller import close_source, discard_source
from ..core.errors import InvalidArgumentError
from ..core.grpc_status import GrpcStatus
from ..core.headers import Headers, RawHeaders
from ..core.options import DispatchOptions, check_count
from ..wire.grpc.compression import ACCEPTED, ENCODINGS
from ..wire.grpc.framing import LARGEST, encode_message
from ..wire.grpc.metadata import GrpcMetadata, MetadataInput, encode_metadata
from ..wire.grpc.timeout import format_timeout
from .exchange import give_way
from .grpc_call import GrpcCall
from .grpc_handler import CallHandler, Deserializer
from .url import normal_origin

if TYPE_CHECKING:
    from ..core.dispatcher import Dispatcher

__all__ = ["GrpcCall", "GrpcChannel", "GrpcResponse", "GrpcStatus", "GrpcMetadata"]

Serializer = Callable[[Any], bytes]

MAX_MESSAGE_SIZE: Final = 4 * 1024 * 1024
"""Bytes that a received message may have unless a channel says otherwise: gRPC's usual default."""
_USER_AGENT = f"grpc-python-dodici/{__version__}".encode()
_REMEMBERED = 64  # heads of calls without metadata of their own, by timeout


class GrpcResponse(NamedTuple):
    """The one response of a call that ended with OK."""

    message: Any
    initial_metadata: GrpcMetadata
    trailing_metadata: GrpcMetadata


class GrpcChannel:
    """Calls methods of the services at one origin.

    Each of the four call kinds takes the method as ``"/package.Service/Method"``; a deadline in seconds
    (None for the channel's default, `math.inf` for none; 0 or less fails at once); metadata besides the
    channel's; a serializer and a deserializer; and the compression of this call's requests.

    Args:
        dispatcher: what carries the calls, such as `H2CClient` or an `Agent` that may use HTTP/2. It is not
            closed with the channel. Its interceptors see calls as POST requests.
        origin: such as ``"https://example.com"``; by default the dispatcher's own, if it has one.
        metadata: sent with every call. See `GrpcMetadata`.
        timeout: seconds for calls that name none; None for no deadline.
        max_message_size: bytes that a received message may have, decompressed.
        compression: ``"gzip"`` or ``"deflate"`` for requests; None or ``"identity"`` for none. Responses may
            be compressed with either.
        content_type: ``"application/grpc"``, perhaps with a suffix such as ``"+proto"``.

    Raises:
        InvalidArgumentError: an argument is malformed.
    """

    __slots__ = (
        "_after_timeout",
        "_compression",
        "_dispatcher",
        "_heads",
        "_max_message_size",
        "_metadata",
        "_timeout",
        "origin",
    )

    def __init__(
        self,
        dispatcher: Dispatcher,
        origin: str | None = None,
        *,
        metadata: MetadataInput = None,
        timeout: float | None = None,
        max_message_size: int = MAX_MESSAGE_SIZE,
        compression: str | None = None,
        content_type: str = "application/grpc",
    ) -> None:
        if origin is None:
            origin = dispatcher.origin
        if not isinstance(origin, str):
            raise InvalidArgumentError(f"origin must be a str such as 'https://example.com', not {origin!r}")
        if content_type != "application/grpc" and not content_type.startswith("application/grpc+"):
            raise InvalidArgumentError(
                f"content_type must begin with 'application/grpc', not {content_type!r}"
            )
        if check_count("max_message_size", max_message_size) > LARGEST:
            raise InvalidArgumentError(f"max_message_size must be {LARGEST} or less, not {max_message_size}")
        self.origin = normal_origin(origin)
        self._dispatcher = dispatcher
        self._timeout = _checked_timeout(timeout)
        self._max_message_size = max_message_size
        self._compression = _checked_compression(compression)
        self._metadata = encode_metadata(metadata)
        self._after_timeout: RawHeaders = Headers(
            [
                ("te", "trailers"),
                ("content-type", content_type),
                ("user-agent", _USER_AGENT),
                ("grpc-accept-encoding", ACCEPTED),
            ]
        ).raw
        self._heads: dict[tuple[float | None, str | None], RawHeaders] = {}

    # -------------------------------------------------------------------------------- the four call kinds

    async def unary_unary(
        self,
        method: str,
        message: Any,
        *,
        serializer: Serializer | None = None,
        deserializer: Deserializer | None = None,
        timeout: float | None = None,
        metadata: MetadataInput = None,
        compression: str | None = None,
    ) -> GrpcResponse:
        """One message there, one back. Cancelling the awaiting task cancels the call.

        Raises:
            GrpcError: any status but OK; `GrpcDeadlineError`, also a `TimeoutError`, for DEADLINE_EXCEEDED.
            InvalidArgumentError: an argument is malformed, or the message is not bytes. Nothing was sent.
        """
        body = encode_message(
            message if serializer is None else serializer(message), self._encoding(compression)
        )
        call = self._begin(method, body, True, timeout, metadata, compression)
        return await _only_response(call, deserializer)

    def unary_stream(
        self,
        method: str,
        message: Any,
        *,
        serializer: Serializer | None = None,
        deserializer: Deserializer | None = None,
        timeout: float | None = None,
        metadata: MetadataInput = None,
        compression: str | None = None,
    ) -> GrpcCall:
        """One message there, a stream back. The call begins at once; iterate over what is returned.

        Raises:
            InvalidArgumentError: an argument is malformed, or the message is not bytes. Nothing was sent.
        """
        body = encode_message(
            message if serializer is None else serializer(message), self._encoding(compression)
        )
        return GrpcCall(self._begin(method, body, False, timeout, metadata, compression), deserializer)

    async def stream_unary(
        self,
        method: str,
        messages: AsyncIterable[Any] | Iterable[Any],
        *,
        serializer: Serializer | None = None,
        deserializer: Deserializer | None = None,
        timeout: float | None = None,
        metadata: MetadataInput = None,
        compression: str | None = None,
    ) -> GrpcResponse:
        """A stream there, one message back. Cancelling the awaiting task cancels the call.

        Args:
            method: as for the other call kinds, and so are all others.
            messages: asked for the next one when the connection has room for it, and closed when the call has
                ended, if that is before its own end. What it raises cancels the call and is raised here.
            serializer: of each message.
            deserializer: of the response.
            timeout: seconds.
            metadata: besides the channel's.
            compression: of each message.

        Raises:
            GrpcError: any status but OK; `GrpcDeadlineError`, also a `TimeoutError`, for DEADLINE_EXCEEDED.
            InvalidArgumentError: an argument is malformed, or a message is not bytes.
        """
        source = _Requests(messages, serializer, self._encoding(compression))
        call = self._begin(method, source, True, timeout, metadata, compression)
        return await _only_response(call, deserializer)

    def stream_stream(
        self,
        method: str,
        messages: AsyncIterable[Any] | Iterable[Any],
        *,
        serializer: Serializer | None = None,
        deserializer: Deserializer | None = None,
        timeout: float | None = None,
        metadata: MetadataInput = None,
        compression: str | None = None,
    ) -> GrpcCall:
        """A stream each way, independent of each other: `messages` as for `stream_unary`.

        Raises:
            InvalidArgumentError: an argument is malformed. Nothing was sent.
        """
        source = _Requests(messages, serializer, self._encoding(compression))
        return GrpcCall(self._begin(method, source, False, timeout, metadata, compression), deserializer)

    # ------------------------------------------------------------------------------------------- inside

    def _encoding(self, compression: str | None) -> str | None:
        return self._compression if compression is None else _checked_compression(compression)

    def _begin(
        self,
        method: str,
        body: Any,
        single: bool,
        timeout: float | None,
        metadata: MetadataInput,
        compression: str | None,
    ) -> CallHandler:
        seconds = self._timeout if timeout is None else _checked_timeout(timeout)
        options = DispatchOptions(
            origin=self.origin,
            path=method,
            method="POST",
            headers=Headers.from_raw(self._head(seconds, metadata, self._encoding(compression))),
            body=body,
            headers_timeout=0,
            body_timeout=0,
        )
        loop = get_running_loop()
        call = CallHandler(loop, (self.origin, method), self._max_message_size, single)
        if seconds is not None and seconds <= 0:
            call.expire(seconds)
            if isinstance(body, _Requests):
                discard_source(body, loop)
            return call
        self._dispatcher.dispatch(options, call)
        if seconds is not None and not call.ended:
            call.arm(seconds)
        return call

    def _head(self, seconds: float | None, metadata: MetadataInput, encoding: str | None) -> RawHeaders:
        """The fields of a call. Those of calls that differ in their message alone are the same object."""
        key = seconds, encoding
        head = self._heads.get(key)
        if head is None:
            head = self._after_timeout
            if seconds is not None and seconds > 0:
                head = ((b"grpc-timeout", format_timeout(seconds)), *head)
            if encoding is not None:
                head = (*head, (b"grpc-encoding", encoding.encode()))
            head += self._metadata
            if len(self._heads) >= _REMEMBERED:
                self._heads.clear()
            self._heads[key] = head
        return head if metadata is None else head + encode_metadata(metadata)

    def __repr__(self) -> str:
        return f"<GrpcChannel {self.origin} over {type(self._dispatcher).__name__}>"


async def _only_response(call: CallHandler, deserializer: Deserializer | None) -> GrpcResponse:
    while not call.ended:
        await call.wait()
    if call.foreign is not None or call.verdict.status is not GrpcStatus.OK:
        await give_way()
        raise call.error()
    message = call.take(deserializer)
    return GrpcResponse(message, call.initial_metadata, call.trailing_metadata)


class _Requests:
    """The body of a streaming call: messages of a source, framed one by one as the transport asks for them.

    Not an async generator: one that was never started would not close its source.
    """

    __slots__ = ("_asynchronous", "_encoding", "_serializer", "_source")

    def __init__(self, messages: Any, serializer: Serializer | None, encoding: str | None) -> None:
        self._serializer = serializer
        self._encoding = encoding
        self._source: Any
        self._asynchronous = hasattr(messages, "__aiter__")
        if self._asynchronous:
            self._source = aiter(messages)
        elif hasattr(messages, "__iter__") and not isinstance(messages, str | bytes | bytearray | memoryview):
            self._source = iter(messages)
        else:
            raise InvalidArgumentError(
                f"messages must be an iterable or async iterable of messages, not {type(messages).__name__}"
            )

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._asynchronous:
            message = await anext(self._source)
        else:
            try:
                message = next(self._source)
            except StopIteration:
                raise StopAsyncIteration from None
        if self._serializer is not None:
            message = self._serializer(message)
        return encode_message(message, self._encoding)

    async def aclose(self) -> None:
        """The transport wants no more."""
        await close_source(self._source)


def _checked_timeout(timeout: Any) -> float | None:
    """Seconds, or None for none."""
    if timeout is None or timeout == math.inf:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or math.isnan(timeout):
        raise InvalidArgumentError(f"timeout must be a number of seconds or None, not {timeout!r}")
    return float(timeout)


def _checked_compression(compression: Any) -> str | None:
    if compression is None or compression == "identity":
        return None
    if compression not in ENCODINGS:
        raise InvalidArgumentError(f"compression must be one of {', '.join(ENCODINGS)}, not {compression!r}")
    return str(compression)

"""The response that `request()` and `stream()` give, and its body.

A body is read once: by `bytes()`, `text()`, `json()`, by iteration, or thrown away by `dump()`. Data comes
as it is asked for, with at most `HIGH_WATER` bytes waiting. A response that is dropped unread ends its
exchange.
"""

from __future__ import annotations

import builtins
from json import loads
from typing import TYPE_CHECKING, Any, Final

from ..core.errors import DodiciError, RequestAbortedError, ResponseError
from ..core.headers import Headers
from .decode import content_length, decode_body, decode_text
from .receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import Self

DUMP_LIMIT: Final = 128 * 1024
"""Bytes of an unwanted body that are read to keep its connection."""
ERROR_BODY_LIMIT: Final = 128 * 1024
"""Bytes of a body that a `ResponseError` carries at most."""


class _Readable:
    """What a response and its body can both be asked for."""

    __slots__ = ()

    _receiver: Receiver

    async def bytes(self) -> builtins.bytes:
        """The whole body.

        Raises:
            BodyUnusableError: the body was already consumed.
            DodiciError: the exchange failed before the end of the body.
        """
        receiver = self._receiver
        receiver.claim()
        if receiver.ended and receiver.error is None and len(receiver.chunks) == 1:
            return receiver.chunks.pop()
        return await receiver.read_all()

    async def text(self) -> str:
        """The whole body as text, in the charset of the content-type, else UTF-8.

        A byte order mark is dropped; what cannot be decoded becomes U+FFFD. An unknown charset counts as none.

        Raises:
            BodyUnusableError: the body was already consumed.
            DodiciError: the exchange failed before the end of the body.
        """
        return decode_text(await self.bytes(), self._receiver.headers.get("content-type"))

    async def json(self) -> Any:
        """The whole body, parsed as JSON in UTF-8, UTF-16 or UTF-32.

        Raises:
            BodyUnusableError: the body was already consumed.
            json.JSONDecodeError, UnicodeDecodeError: both are `ValueError`; the body is not JSON.
            DodiciError: the exchange failed before the end of the body.
        """
        return loads(await self.bytes())

    async def dump(self, limit: int = DUMP_LIMIT) -> None:
        """Read the rest of the body and throw it away, so that its connection can be used again.

        May be called at any time. More than `limit` bytes are not worth it: the exchange is aborted then.
        Never raises for what happens to the exchange.

        Args:
            limit: bytes.
        """
        receiver = self._receiver
        receiver.used = True
        left = limit + receiver.bytes_read - receiver.buffered
        length = content_length(receiver.headers)
        if length is not None and length > left and not receiver.ended:
            receiver.abandon()
        while not receiver.ended and not receiver.abandoned:
            receiver.chunks = []
            receiver.buffered = 0
            if receiver.bytes_read > left:
                receiver.abandon()
                break
            receiver.resume()
            await receiver.wait()
        receiver.chunks = []
        receiver.error = None

    async def aclose(self) -> None:
        """Give up what has not arrived. An exchange that has ended is left alone, and its connection reused."""
        receiver = self._receiver
        receiver.used = True
        if receiver.ended:
            receiver.chunks = []
            receiver.error = None
        else:
            receiver.abandon()


class ResponseBody(_Readable):
    """A response body: an async iterator of `bytes`, none of them empty.

    The exchange is paused while more than 64 KiB wait. Data that arrived before an error is given first.
    """

    __slots__ = ("__weakref__", "_begun", "_receiver", "_stack")

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._begun = False
        self._stack: list[bytes] = []

    @property
    def used(self) -> bool:
        """Whether the consumption has begun, so that no other may begin."""
        return self._receiver.used

    @property
    def ended(self) -> bool:
        """Whether the exchange is over, well or badly, though bytes of it may still wait to be read."""
        return self._receiver.ended

    @property
    def bytes_read(self) -> int:
        """Bytes that have arrived so far."""
        return self._receiver.bytes_read

    @property
    def content_length(self) -> int | None:
        """Bytes that were announced; None if the length is not known."""
        return content_length(self._receiver.headers)

    def __aiter__(self) -> Self:
        self._receiver.claim()
        self._begun = True
        return self

    async def __anext__(self) -> bytes:
        receiver = self._receiver
        if not self._begun:
            receiver.claim()
            self._begun = True
        stack = self._stack
        while not stack:
            if receiver.chunks:
                # Taken whole and turned round: popping from the end costs the same however many there are.
                stack.extend(reversed(receiver.chunks))
                receiver.chunks = []
            elif receiver.error is not None:
                raise receiver.take_error()
            elif receiver.ended or receiver.abandoned:
                if receiver.abandoned:
                    raise RequestAbortedError("the body was given up before its end")
                raise StopAsyncIteration
            else:
                await receiver.wait()
        chunk = stack.pop()
        receiver.take(len(chunk))
        return chunk

    def __del__(self) -> None:
        if not self._receiver.ended:
            _drop(self._receiver)

    def __repr__(self) -> str:
        return f"<ResponseBody {self.bytes_read} of {self.content_length or '?'} bytes>"


class Response(_Readable):
    """A response whose head has arrived.

    ``async for chunk in response`` reads the body as it comes; ``async with response`` ends the exchange at
    the end of the block. A response that is dropped before its body has arrived aborts its exchange.
    """

    __slots__ = ("__weakref__", "_body", "_receiver")

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._body: ResponseBody | None = None

    @property
    def status_code(self) -> int:
        """The status, 200 to 999."""
        return self._receiver.status_code

    @property
    def status_message(self) -> str:
        """The reason phrase; often empty."""
        return self._receiver.status_message

    @property
    def headers(self) -> Headers:
        """The header fields."""
        return self._receiver.headers

    @property
    def trailers(self) -> Headers:
        """The trailer fields; empty before the end of the body."""
        return self._receiver.trailers

    @property
    def http_version(self) -> str:
        """``"1.1"``, ``"1.0"`` or ``"2"``."""
        return getattr(self._receiver.controller, "http_version", "1.1")

    @property
    def url(self) -> str:
        """The URL that answered: the last one, if redirects were followed."""
        context = self._receiver.context
        history = context.get("history") if context else None
        if history:
            return str(history[-1])
        origin, path = self._receiver.target
        return f"{origin or ''}{path}"

    @property
    def ok(self) -> bool:
        """Whether the status is below 400."""
        return self._receiver.status_code < 400

    @property
    def body(self) -> ResponseBody:
        """The body, to iterate over or to watch."""
        if self._body is None:
            self._body = ResponseBody(self._receiver)
        return self._body

    def raise_for_status(self) -> Self:
        """Refuse a response that tells of an error. The body is not looked at.

        Raises:
            ResponseError: the status is 400 or above.
        """
        if self._receiver.status_code >= 400:
            raise self.status_error(None)
        return self

    def status_error(self, body: Any) -> ResponseError:
        """The error that tells of this response's status and carries `body`."""
        receiver = self._receiver
        status = f"{receiver.status_code} {receiver.status_message}".rstrip()
        return ResponseError(
            f"{status} for {self.url}",
            status_code=receiver.status_code,
            headers=receiver.headers,
            body=body,
            origin=receiver.target[0],
        )

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.body.__aiter__()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # Somebody may hold the body alone: it then sees to this itself.
        if not self._receiver.ended and self._body is None:
            _drop(self._receiver)

    def __repr__(self) -> str:
        return f"<Response {self.status_code} {self.url}>"


async def refuse_error_status(response: Response) -> None:
    """Like `Response.raise_for_status`, with the body in the error: JSON parsed, text decoded, else bytes.

    Raises:
        ResponseError: the status is 400 or above. Its cause is what kept the body from arriving, if that
            failed; of a body of more than 128 KiB it has the beginning.
    """
    if response.status_code < 400:
        return
    receiver = response._receiver
    receiver.claim()
    cause = None
    data = b""
    try:
        data = await receiver.read_all(ERROR_BODY_LIMIT)
    except DodiciError as error:
        cause = error
    if not receiver.ended:
        receiver.abandon()
    body = decode_body(data[:ERROR_BODY_LIMIT], receiver.headers.get("content-type"))
    raise response.status_error(body) from cause


def _drop(receiver: Receiver) -> None:
    """Abort an exchange that nobody can read any more.

    The collector runs anywhere, in any thread: nothing is touched here but by way of the loop.
    """
    if receiver.abandoned:
        return
    try:
        receiver.loop.call_soon_threadsafe(
            receiver.abandon, "the response was dropped before its body was read"
        )
    except RuntimeError:
        # The loop is closed, and the exchange with it.
        return

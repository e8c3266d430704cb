"""What every wire says of request bodies: how long they are, and whether they are as long as they said.

`DispatchOptions` has already refused what could be misread, so nothing is checked here but lengths: what a
`content-length` promised is kept, or the exchange ends.
"""

from __future__ import annotations

from ..core.errors import InvalidArgumentError, RequestContentLengthMismatchError
from ..core.options import BYTES, NO_BODY, DispatchOptions

CHUNKED = -1
"""A body whose length is not known before its end."""
NO_LENGTH = -2
"""No body, and nothing to say of one."""

# A server may wait for the body of these if it is not told that there is none (RFC 9110 8.6).
_PAYLOAD_METHODS = frozenset({"POST", "PUT", "PATCH", "QUERY", "PROPFIND", "PROPPATCH"})


def body_length(options: DispatchOptions) -> int:
    """What to say of the body: its bytes, or CHUNKED, or NO_LENGTH where there is none to speak of."""
    if options.body_kind == NO_BODY:
        stated = options.content_length
        return 0 if stated is not None or options.method in _PAYLOAD_METHODS else NO_LENGTH
    if options.body_kind == BYTES:
        assert options.payload is not None
        return len(options.payload)
    return CHUNKED if options.content_length is None else options.content_length


def empty_body_length(options: DispatchOptions) -> int:
    """What to say of a streamed body that turned out to be empty."""
    if options.content_length is not None:
        return options.content_length
    return 0 if options.method in _PAYLOAD_METHODS else NO_LENGTH


class LengthCheck:
    """Holds a streamed body to its length.

    Args:
        length: bytes promised, or CHUNKED.
        strict: whether a wrong length is an error; if not, what is sent is what the source gave.
    """

    __slots__ = ("_length", "_strict", "sent")

    def __init__(self, length: int, *, strict: bool = True) -> None:
        self._length = length
        self._strict = strict
        self.sent = 0

    def count(self, size: int) -> None:
        """Count bytes that are about to be sent.

        Raises:
            RequestContentLengthMismatchError: more than was promised; they may not be written.
        """
        total = self.sent + size
        if self._strict and total > self._length >= 0:
            raise RequestContentLengthMismatchError(
                f"content-length is {self._length} but the body has at least {total} bytes"
            )
        self.sent = total

    def finish(self) -> None:
        """Check the whole.

        Raises:
            RequestContentLengthMismatchError: less than was promised.
        """
        if self._strict and self.sent != self._length >= 0:
            raise RequestContentLengthMismatchError(
                f"content-length is {self._length} but the body had {self.sent} bytes"
            )


def as_chunk(chunk: object) -> bytes | memoryview:
    """One item of a body source as bytes. `str` is UTF-8.

    Raises:
        InvalidArgumentError: the source yielded something else.
    """
    if isinstance(chunk, bytes):
        return chunk
    if isinstance(chunk, str):
        try:
            return str.encode(chunk, "utf-8")
        except UnicodeEncodeError as error:
            raise InvalidArgumentError(f"the body cannot be encoded as UTF-8: {error.reason}") from None
    if isinstance(chunk, bytearray | memoryview):
        view = memoryview(chunk)
        return view.cast("B") if view.c_contiguous else view.tobytes()
    raise InvalidArgumentError(f"the body must yield bytes, not {type(chunk).__name__}")

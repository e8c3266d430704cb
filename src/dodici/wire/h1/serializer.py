"""The request's side of the wire: head bytes, and the framing of bodies.

`DispatchOptions` has already refused what could be misread, so nothing is checked here but lengths: what a
`content-length` promised is kept, or the exchange ends.
"""

from __future__ import annotations

from ...core.errors import InvalidArgumentError, RequestContentLengthMismatchError
from ...core.options import BYTES, NO_BODY, DispatchOptions

CHUNKED = -1
NO_LENGTH = -2

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


def encode_head(options: DispatchOptions, host: bytes, length: int, *, close: bool) -> bytes:
    """The request line and fields, empty line included.

    Args:
        options: the request.
        host: the value of `host`, unless the options have their own.
        length: from `body_length`.
        close: whether this is the connection's last request.
    """
    method = options.method
    parts = [
        b"%s %s HTTP/1.1\r\nhost: %s\r\n"
        % (method.encode(), options.path.encode("latin-1"), options.host or host)
    ]
    if options.upgrade is not None:
        parts.append(b"connection: upgrade\r\nupgrade: %s\r\n" % options.upgrade.encode("latin-1"))
    elif close:
        parts.append(b"connection: close\r\n")
    parts.extend([b"%s: %s\r\n" % pair for pair in options.fields.raw])
    if options.expect_continue and length not in (NO_LENGTH, 0):
        parts.append(b"expect: 100-continue\r\n")
    if length == CHUNKED:
        parts.append(b"transfer-encoding: chunked\r\n")
    elif length != NO_LENGTH:
        parts.append(b"content-length: %d\r\n" % length)
    parts.append(b"\r\n")
    return b"".join(parts)


class BodyFramer:
    """Frames a streamed body, and holds it to its length.

    Args:
        length: bytes promised, or CHUNKED.
        strict: whether a wrong length is an error; if not, what is sent is what the source gave.
    """

    __slots__ = ("_length", "_strict", "sent")

    def __init__(self, length: int, *, strict: bool = True) -> None:
        self._length = length
        self._strict = strict
        self.sent = 0

    def frame(self, chunk: bytes | memoryview) -> tuple[bytes | memoryview, ...]:
        """The buffers to write for one chunk.

        Raises:
            RequestContentLengthMismatchError: more than was promised; nothing of the chunk may be written.
        """
        size = len(chunk)
        if not size:
            return ()
        if self._length == CHUNKED:
            self.sent += size
            return b"%x\r\n" % size, chunk, b"\r\n"
        if self._strict and self.sent + size > self._length:
            raise RequestContentLengthMismatchError(
                f"content-length is {self._length} but the body has at least {self.sent + size} bytes"
            )
        self.sent += size
        return (chunk,)

    def finish(self) -> bytes:
        """What ends the body.

        Raises:
            RequestContentLengthMismatchError: less than was promised.
        """
        if self._length == CHUNKED:
            return b"0\r\n\r\n"
        if self._strict and self.sent != self._length:
            raise RequestContentLengthMismatchError(
                f"content-length is {self._length} but the body had {self.sent} bytes"
            )
        return b""


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

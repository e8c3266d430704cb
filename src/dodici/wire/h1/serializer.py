"""The request's side of the wire: head bytes, and the framing of bodies."""

from __future__ import annotations

from ...core.options import DispatchOptions
from ..body import CHUNKED, NO_LENGTH, LengthCheck


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

    __slots__ = ("_check", "_chunked")

    def __init__(self, length: int, *, strict: bool = True) -> None:
        self._chunked = length == CHUNKED
        self._check = LengthCheck(length, strict=strict)

    @property
    def sent(self) -> int:
        """Bytes of the body framed so far."""
        return self._check.sent

    def frame(self, chunk: bytes | memoryview) -> tuple[bytes | memoryview, ...]:
        """The buffers to write for one chunk.

        Raises:
            RequestContentLengthMismatchError: more than was promised; nothing of the chunk may be written.
        """
        size = len(chunk)
        if not size:
            return ()
        self._check.count(size)
        return (b"%x\r\n" % size, chunk, b"\r\n") if self._chunked else (chunk,)

    def finish(self) -> bytes:
        """What ends the body.

        Raises:
            RequestContentLengthMismatchError: less than was promised.
        """
        self._check.finish()
        return b"0\r\n\r\n" if self._chunked else b""

"""`multipart/form-data` bodies, streamed.

`encode()` makes the list of parts once and knows the whole length if every part's is known. Parts that are
in memory make a body of bytes, which can be sent again; a part that is read from somewhere makes a one-shot
stream, of which one piece at a time is in memory. Files are read in a worker thread, so that a slow disk
does not stop the event loop, from where they stand, and are left open: they are the caller's.

Source: RFC 7578; field names and file names are escaped as in the HTML standard, section 4.10.22.8.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import PurePath
from typing import Any, Final, NamedTuple

from ..core.controller import close_source
from ..core.errors import InvalidArgumentError
from ..core.headers import Headers

PIECE: Final = 256 * 1024
"""Bytes read from a file at a time."""
JOIN_LIMIT: Final = 1024 * 1024
"""Bodies in memory up to this size are joined into one."""

_BOUNDARY_CHARS: Final = frozenset(
    "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ'()+_,-./:=?"
)


class Encoded(NamedTuple):
    """A body and what its head must say."""

    body: Any
    content_type: str
    length: int | None
    """Bytes; None if a part's length is unknown."""


class _Part(NamedTuple):
    head: bytes
    content: Any
    length: int | None


def encode(fields: Any = None, files: Any = None, *, boundary: str | None = None) -> Encoded:
    """Encode fields and files.

    Args:
        fields: a mapping (values may be lists; None is dropped) or pairs: the plain fields, which come first.
        files: a mapping or pairs from field name to content, or to ``(filename, content[, content_type[,
            headers]])``. Content is bytes-like, `str` (UTF-8), a binary file, or an iterable or async
            iterable of bytes. A file name of None makes a plain field.
        boundary: what separates the parts; by default 128 random bits.

    Raises:
        InvalidArgumentError: a name, value or boundary that cannot be encoded; says which.
    """
    if boundary is None:
        import secrets

        boundary = secrets.token_hex(16)
    elif not 0 < len(boundary) <= 70 or not _BOUNDARY_CHARS.issuperset(boundary):
        raise InvalidArgumentError(f"invalid boundary {boundary!r} (RFC 2046 section 5.1.1)")
    parts = [_field(name, value) for name, value in _pairs("form", fields)]
    parts.extend(_file(name, value) for name, value in _pairs("files", files))
    quoted = boundary if boundary.replace("-", "").replace("_", "").isalnum() else f'"{boundary}"'
    content_type = f"multipart/form-data; boundary={quoted}"

    separator = b"--" + boundary.encode("ascii")
    closing = separator + b"--\r\n"
    heads = [b"%b\r\n%b\r\n" % (separator, part.head) for part in parts]
    length: int | None = len(closing)
    for head, part in zip(heads, parts, strict=True):
        length = None if length is None or part.length is None else length + len(head) + part.length + 2
    if all(isinstance(part.content, bytes) for part in parts):
        pieces = [
            piece for head, part in zip(heads, parts, strict=True) for piece in (head, part.content, b"\r\n")
        ]
        pieces.append(closing)
        small = length is not None and length <= JOIN_LIMIT
        return Encoded(
            b"".join(pieces) if small else [piece for piece in pieces if piece], content_type, length
        )
    return Encoded(_Stream(heads, parts, closing), content_type, length)


class _Stream:
    """The parts one after another; one-shot."""

    def __init__(self, heads: list[bytes], parts: list[_Part], closing: bytes) -> None:
        self._heads = heads
        self._parts = parts
        self._closing = closing

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for head, part in zip(self._heads, self._parts, strict=True):
            yield head
            async for piece in _pieces(part):
                yield piece
            yield b"\r\n"
        yield self._closing

    async def aclose(self) -> None:
        """Close the iterables, which nobody will ask again. Files stay as they are."""
        for part in self._parts:
            if not isinstance(part.content, bytes) and not hasattr(part.content, "read"):
                await close_source(part.content)


async def _pieces(part: _Part) -> AsyncIterator[bytes]:
    content = part.content
    if isinstance(content, bytes):
        if content:
            yield content
    elif hasattr(content, "read"):
        in_memory = isinstance(content, io.BytesIO)
        loop = asyncio.get_running_loop()
        left = part.length
        # No more than was promised, even if the file grows meanwhile.
        while left is None or left > 0:
            size = PIECE if left is None else min(PIECE, left)
            piece = content.read(size) if in_memory else await loop.run_in_executor(None, content.read, size)
            if not piece:
                return
            if left is not None:
                left -= len(piece)
            yield piece
    elif hasattr(content, "__aiter__"):
        async for piece in content:
            yield piece
    else:
        for piece in content:
            yield piece


def _pairs(argument: str, source: Any) -> Iterable[tuple[str, Any]]:
    if source is None:
        return
    items = source.items() if isinstance(source, Mapping) else source
    try:
        pairs = [(name, value) for name, value in items]
    except (TypeError, ValueError):
        raise InvalidArgumentError(
            f"{argument} must be a mapping or pairs, not {type(source).__name__}"
        ) from None
    for name, value in pairs:
        if not isinstance(name, str):
            raise InvalidArgumentError(f"{argument}: the name of a field must be a str, not {name!r}")
        for one in value if isinstance(value, list) else (value,):
            if one is not None:
                yield name, one


def _field(name: str, value: Any) -> _Part:
    if isinstance(value, bool):
        raw = b"true" if value else b"false"
    elif isinstance(value, int | float):
        raw = str(value).encode("ascii")
    elif isinstance(value, str | bytes | bytearray | memoryview):
        raw = value.encode("utf-8") if isinstance(value, str) else bytes(value)
    else:
        raise InvalidArgumentError(
            f"form value of {name!r} must be a str, bytes, number or bool, not {type(value).__name__}"
        )
    return _Part(b'content-disposition: form-data; name="%b"\r\n' % _escape(name), raw, len(raw))


def _file(name: str, value: Any) -> _Part:
    filename: Any
    content_type: Any = None
    extra: Any = None
    if isinstance(value, tuple):
        if not 2 <= len(value) <= 4:
            raise InvalidArgumentError(
                f"files: {name!r} must be content or (filename, content[, content_type[, headers]])"
            )
        filename, content, *rest = value
        content_type, extra = (*rest, None, None)[:2]
    else:
        filename, content = _filename(value, name), value
    if isinstance(filename, PurePath):
        filename = filename.name
    if filename is not None and not isinstance(filename, str):
        raise InvalidArgumentError(f"files: the file name of {name!r} must be a str, not {filename!r}")
    content, length = _content(name, content)

    head = b'content-disposition: form-data; name="%b"' % _escape(name)
    if filename is not None:
        head += b'; filename="%b"' % _escape(filename)
    fields = Headers(extra)
    for refused in ("content-disposition", "content-length", "content-transfer-encoding"):
        if refused in fields:
            raise InvalidArgumentError(f"files: the headers of {name!r} must not have {refused}")
    if content_type is None and filename is not None and "content-type" not in fields:
        import mimetypes

        content_type = mimetypes.guess_type(filename)[0] or "application/octet-stream"
    if content_type is not None:
        fields = Headers({"content-type": content_type}) | fields.without("content-type")
    return _Part(head + b"\r\n" + b"".join([b"%b: %b\r\n" % pair for pair in fields.raw]), content, length)


def _filename(content: Any, field: str) -> str:
    path = getattr(content, "name", None)
    if isinstance(path, str) and path and not path.startswith("<"):
        return PurePath(path).name or field
    return field


def _content(name: str, content: Any) -> tuple[Any, int | None]:
    """What to send, bytes where it is in memory, and its length where that is known."""
    if isinstance(content, str):
        content = content.encode("utf-8")
    elif isinstance(content, bytearray | memoryview):
        content = bytes(content)
    if isinstance(content, bytes):
        return content, len(content)
    if isinstance(content, io.TextIOBase):
        raise InvalidArgumentError(f"files: {name!r} is open as text; open it with mode 'rb'")
    if hasattr(content, "read"):
        return content, _bytes_left(content)
    if hasattr(content, "__aiter__") or (hasattr(content, "__iter__") and not isinstance(content, Mapping)):
        return content, None
    raise InvalidArgumentError(
        f"files: {name!r} must be bytes, a str, a binary file or an iterable of bytes, not {type(content).__name__}"
    )


def _bytes_left(file: Any) -> int | None:
    try:
        position = file.tell()
        end = file.seek(0, io.SEEK_END)
        file.seek(position)
    except (AttributeError, OSError, ValueError):
        # A pipe, a socket, or an object that only reads: its length is not known beforehand.
        return None
    return max(0, end - position) if isinstance(end, int) and isinstance(position, int) else None


def _escape(text: str) -> bytes:
    try:
        raw = text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"{text!a} cannot be encoded as UTF-8") from None
    return raw.replace(b'"', b"%22").replace(b"\r", b"%0D").replace(b"\n", b"%0A")

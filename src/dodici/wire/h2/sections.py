"""Field sections: response heads and trailers, from header blocks to immutable `Section`s, and back.

A server answers with the same few header blocks over and over. Decoding one that touches no dynamic table is
a pure function of its bytes, so such a block gives the `Section` that it gave before, for one look-up; these
are shared by the connections of a pool. A block that reads the dynamic table means the same while the table
stands still, and is remembered by its connection until the table changes. Both memories are bounded, and
leave out what sets cookies.

What RFC 9113 section 8.2 and 8.3 call malformed is `Malformed`: the stream's error, not the connection's, since
the block was decoded to its end and both tables agree.
"""

from __future__ import annotations

import re
from typing import Generic, TypeVar

from ...core.errors import HeadersOverflowError, HTTP2Error, InvalidArgumentError
from ...core.headers import EMPTY, Headers
from ...core.options import DispatchOptions
from ..body import CHUNKED, NO_LENGTH
from .frames import ConnectionFault, ErrorCode
from .hpack import Decoder, HeaderListTooLarge, HPACKError, encode_fields
from .settings import LocalSettings

NO_STATUS = 0
UNKNOWN_LENGTH = -1

_CACHED_BLOCK = 2048
_CACHED_SECTIONS = 512

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
_VALUE = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?").fullmatch
_STATUS = re.compile(rb"[1-9][0-9]{2}").fullmatch
CONNECTION_SPECIFIC = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"}
)
_ABSOLUTE = re.compile(rb"([A-Za-z]+)://([^/?@]+)([/?].*)?").fullmatch
_REFUSED = CONNECTION_SPECIFIC - {b"connection"}


class Section:
    """A decoded head or trailer section. Immutable by convention: shared between responses."""

    __slots__ = ("headers", "length", "status_code")

    def __init__(self, status_code: int, headers: Headers, length: int) -> None:
        self.status_code = status_code
        """NO_STATUS in trailers."""
        self.headers = headers
        self.length = length
        """What content-length says, or UNKNOWN_LENGTH."""


class Malformed(Exception):
    """A section that must not be taken for a response. `error` says why."""

    def __init__(self, error: HTTP2Error | HeadersOverflowError) -> None:
        super().__init__(str(error))
        self.error = error


SharedSections = dict[bytes, Section]
"""The pool's memory: blocks that touch no dynamic table."""


_S = TypeVar("_S")


class FieldDecoder(Generic[_S]):
    """From header blocks to sections, for one connection: with its memory and its pool's."""

    __slots__ = ("_decoder", "_limit", "_reading", "shared")

    def __init__(self, settings: LocalSettings, shared: dict[bytes, _S], max_header_size: int) -> None:
        self._limit = max_header_size
        self._decoder = Decoder(settings.header_table_size, 2 * max_header_size + 1024)
        self._reading: dict[bytes, _S] = {}
        self.shared = shared
        """For those who want to spare a call; `decode` looks here first."""

    def decode(self, block: bytes) -> _S:
        """The section in a whole header block.

        Raises:
            ConnectionFault: the block cannot be decoded, and with it no later one.
            Malformed: it was decoded, but is no section of a message.
        """
        section = self.shared.get(block) or self._reading.get(block)
        if section is not None:
            return section
        decoder = self._decoder
        version = decoder.version
        try:
            fields = decoder.decode(block)
        except HPACKError as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, f"HPACK: {error}") from error
        except HeaderListTooLarge:
            raise Malformed(self._overflow()) from None
        finally:
            if decoder.version != version:
                self._reading.clear()
        section = self._check(fields)
        if len(block) <= _CACHED_BLOCK and self._memorable(section):
            if decoder.pure:
                _remember(self.shared, block, section)
            elif decoder.version == version:
                _remember(self._reading, block, section)
        return section

    def _check(self, fields: list[tuple[bytes, bytes]]) -> _S:
        """The section of these fields. Raises Malformed."""
        raise NotImplementedError

    def _memorable(self, section: _S) -> bool:
        """Whether it may be kept."""
        raise NotImplementedError

    def _overflow(self) -> HeadersOverflowError:
        return HeadersOverflowError(f"headers exceed {self._limit} bytes (max_header_size)")


class SectionDecoder(FieldDecoder[Section]):
    """The decoder of one connection to a server."""

    __slots__ = ()

    def _memorable(self, section: Section) -> bool:
        return "set-cookie" not in section.headers

    def _check(self, fields: list[tuple[bytes, bytes]]) -> Section:
        status = NO_STATUS
        length = UNKNOWN_LENGTH
        size = 0
        first = 0
        if fields and fields[0][0] == b":status":
            value = fields[0][1]
            if _STATUS(value) is None:
                raise _malformed(f"invalid :status {value[:16]!r}")
            status = int(value)
            first = 1
        for name, value in fields[first:] if first else fields:
            size += len(name) + len(value)
            wrong = check_field(name, value)
            if wrong is not None:
                raise _malformed(wrong)
            if name in CONNECTION_SPECIFIC:
                raise _malformed(f"connection-specific field {name.decode('ascii')}")
            if name == b"content-length":
                length = content_length(length, value)
                if length == UNKNOWN_LENGTH:
                    raise _malformed(f"invalid or duplicate content-length {value[:32]!r}")
        if size >= self._limit:
            raise Malformed(self._overflow())
        raw = tuple(fields[first:] if first else fields)
        return Section(status, Headers.from_raw(raw) if raw else EMPTY, length)


def check_field(name: bytes, value: bytes) -> str | None:
    """What RFC 9113 section 8.2.1 has against a field; None: nothing."""
    if _NAME(name) is None:
        if name[:1] == b":":
            return f"pseudo-header {name[:32]!r} where it may not be"
        return f"invalid field name {name[:32]!r}"
    if _VALUE(value) is None:
        return f"invalid value of {name.decode('ascii')}"
    return None


def content_length(before: int, value: bytes) -> int:
    """The number that content-length says; UNKNOWN_LENGTH if it is none, or not the first."""
    if before != UNKNOWN_LENGTH or not value.isdigit() or len(value) > 18:
        return UNKNOWN_LENGTH
    return int(value)


def _remember(memory: dict[bytes, _S], block: bytes, section: _S) -> None:
    if len(memory) >= _CACHED_SECTIONS:
        memory.clear()
    memory[block] = section


def _malformed(message: str) -> Malformed:
    return Malformed(HTTP2Error(f"malformed response: {message}", error_code=ErrorCode.PROTOCOL_ERROR))


def encode_request(
    options: DispatchOptions, scheme: bytes, authority: bytes, length: int
) -> tuple[bytes, int]:
    """The header block of a request, and its size as SETTINGS_MAX_HEADER_LIST_SIZE counts.

    The block uses no dynamic table: it is the same on every connection, and may be kept.

    Args:
        options: the request.
        scheme: ``b"http"`` or ``b"https"``.
        authority: the origin's, unless the options have a `host`, which becomes `:authority` (RFC 9113 8.3.1).
        length: from `body_length`.

    Raises:
        InvalidArgumentError: a field that HTTP/2 does not allow, or an absolute path without a plain host.
    """
    path = options.path.encode("latin-1")
    method = options.method.encode("ascii")
    authority = options.host or authority
    if path[:1] not in (b"/", b"*") and method != b"CONNECT":
        scheme, authority, path = _split_absolute(path, method)
    fields: list[tuple[bytes, bytes]]
    if options.upgrade is not None:
        # RFC 8441 section 4: the method of an upgrade is CONNECT, whatever it was in HTTP/1.1.
        protocol = options.upgrade.encode("latin-1").lower()
        fields = [(b":method", b"CONNECT"), (b":protocol", protocol), (b":scheme", scheme), (b":path", path),
                  (b":authority", authority)]  # fmt: skip
    elif method == b"CONNECT":
        fields = [(b":method", method), (b":authority", path)]
    else:
        fields = [(b":method", method), (b":scheme", scheme), (b":authority", authority), (b":path", path)]
    for name, value in options.fields.raw:
        name = name.lower()
        if name in _REFUSED:
            raise InvalidArgumentError(
                f"{name.decode('ascii')} is a field of HTTP/1.1 connections: leave it out"
            )
        if name == b"sec-websocket-key" and options.upgrade is not None:
            continue  # RFC 8441 section 5: it is of HTTP/1.1 alone
        if name == b"te" and value.lower() != b"trailers":
            raise InvalidArgumentError("te may only say 'trailers' over HTTP/2 (RFC 9113 8.2.2)")
        fields.append((name, value))
    if options.expect_continue and length not in (NO_LENGTH, 0):
        fields.append((b"expect", b"100-continue"))
    if length not in (NO_LENGTH, CHUNKED):
        fields.append((b"content-length", b"%d" % length))
    size = sum([len(name) + len(value) + 32 for name, value in fields])
    return encode_fields(fields), size


def _split_absolute(url: bytes, method: bytes) -> tuple[bytes, bytes, bytes]:
    """Scheme, authority and path of an absolute URL, as RFC 9113 section 8.3.1 wants them."""
    match = _ABSOLUTE(url)
    if match is None:
        raise InvalidArgumentError(f"path {url[:80].decode('latin-1')!r} names no host, or a user before it")
    scheme, authority, target = match.groups(b"")
    if target[:1] != b"/":
        target = b"*" if method == b"OPTIONS" and not target else b"/" + target
    return scheme.lower(), authority, target

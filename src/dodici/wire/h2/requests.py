"""Request heads: what a server makes of the header blocks that clients send (RFC 9113 section 8.3.1).

The counterpart of `sections`, with the same memory: a client sends the same few blocks over and over. What the layer
above reads out of a head is kept with it (`RequestSection.parsed`), so that this, too, is done once.
"""

from __future__ import annotations

import re
from typing import Any

from ...core.errors import HTTP2Error
from .frames import ErrorCode
from .hpack import SENSITIVE
from .sections import (
    CONNECTION_SPECIFIC,
    UNKNOWN_LENGTH,
    FieldDecoder,
    Malformed,
    check_field,
    content_length,
)
from .settings import LocalSettings

_PSEUDO = frozenset({b":method", b":scheme", b":authority", b":path"})
"""Without `:protocol`, which is undefined where ENABLE_CONNECT_PROTOCOL was not sent (RFC 8441 section 4)."""
_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch

Fields = tuple[tuple[bytes, bytes], ...]


class RequestSection:
    """A decoded request head, or trailers. Immutable by convention, but for `parsed`: shared between requests."""

    __slots__ = ("authority", "fields", "length", "method", "oversized", "parsed", "path", "scheme", "secret")

    def __init__(self, pseudo: dict[bytes, bytes], fields: Fields, length: int, *, secret: bool) -> None:
        self.method = pseudo.get(b":method", b"")
        """Empty in trailers."""
        self.scheme = pseudo.get(b":scheme", b"")
        self.authority = pseudo.get(b":authority", b"")
        self.path = pseudo.get(b":path", b"")
        self.fields = fields
        """Without pseudo-header fields."""
        self.length = length
        """What content-length says, or UNKNOWN_LENGTH."""
        self.secret = secret
        """Whether a value is one that no memory may keep."""
        self.oversized = False
        """There were more bytes of fields than are taken; nothing is known of them."""
        self.parsed: Any = None
        """What the layer above has made of it."""

    @classmethod
    def too_large(cls) -> RequestSection:
        """One that stands for a head beyond the limit."""
        section = cls({}, (), UNKNOWN_LENGTH, secret=True)
        section.oversized = True
        return section


class RequestDecoder(FieldDecoder[RequestSection]):
    """The decoder of one connection of a client's.

    Args:
        strict: what belongs to connections of HTTP/1.1 makes a head malformed (RFC 9113 section 8.2.2). False: such
            fields are left out, for clients whose users may have put them there.
    """

    __slots__ = ("_strict",)

    def __init__(
        self,
        settings: LocalSettings,
        shared: dict[bytes, RequestSection],
        max_header_size: int,
        *,
        strict: bool = True,
    ) -> None:
        super().__init__(settings, shared, max_header_size)
        self._strict = strict

    def _memorable(self, section: RequestSection) -> bool:
        return not section.secret

    def _check(self, fields: list[tuple[bytes, bytes]]) -> RequestSection:
        pseudo: dict[bytes, bytes] = {}
        first = 0
        for name, value in fields:
            if name[:1] != b":":
                break
            if name not in _PSEUDO or name in pseudo:
                raise _malformed(f"pseudo-header {name[:32]!r} is unknown or repeated")
            pseudo[name] = value
            first += 1
        length = UNKNOWN_LENGTH
        size = 0
        secret = dropped = False
        for name, value in fields[first:]:
            size += len(name) + len(value)
            wrong = check_field(name, value)
            if wrong is not None:
                raise _malformed(wrong)
            if name in CONNECTION_SPECIFIC or (name == b"te" and value.lower() != b"trailers"):
                if self._strict:
                    raise _malformed(f"connection-specific field {name.decode('ascii')}")
                dropped = True
            if name == b"content-length":
                length = content_length(length, value)
                if length == UNKNOWN_LENGTH:
                    raise _malformed(f"invalid or duplicate content-length {value[:32]!r}")
            elif name in SENSITIVE:
                secret = True
        if size >= self._limit:
            raise Malformed(self._overflow())
        if pseudo:
            self._check_pseudo(pseudo)
        kept = fields[first:]
        if dropped:
            kept = [field for field in kept if field[0] not in CONNECTION_SPECIFIC]
        return RequestSection(pseudo, tuple(kept), length, secret=secret)

    @staticmethod
    def _check_pseudo(pseudo: dict[bytes, bytes]) -> None:
        method = pseudo.get(b":method")
        if not method or _METHOD(method) is None:
            raise _malformed("no :method, or one that is no token")
        if method == b"CONNECT":
            if b":scheme" in pseudo or b":path" in pseudo or not pseudo.get(b":authority"):
                raise _malformed("CONNECT with a :scheme or a :path, or without an :authority")
        elif not pseudo.get(b":scheme") or not pseudo.get(b":path"):
            raise _malformed("no :scheme, or no :path")
        elif pseudo[b":path"][:1] != b"/" and not (method == b"OPTIONS" and pseudo[b":path"] == b"*"):
            raise _malformed(f"invalid :path {pseudo[b':path'][:32]!r}")
        for name, value in pseudo.items():
            if check_field(name[1:], value) is not None or b" " in value:
                raise _malformed(f"invalid value of {name.decode('ascii')}")


def _malformed(message: str) -> Malformed:
    return Malformed(HTTP2Error(f"malformed request: {message}", error_code=ErrorCode.PROTOCOL_ERROR))

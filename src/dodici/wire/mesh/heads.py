"""Heads as bytes, and back: fields joined by line feeds, since no field can contain one.

    request     method, target, scheme, authority, then name and value of each field
    response    status, then name and value of each field
    trailers    name and value of each field

Clients and apps use the same few heads over and over. Making one, or taking one apart, is a pure function of its
bytes; so what was found of a head is remembered under its bytes, and a known head costs one look-up. The memories
are bounded, are shared by all links of the process, and leave out what sets cookies. A head that is not known is
checked as a whole by one pattern.

What belongs to one hop (RFC 9110 section 7.6.1), and what a `connection` field names, is left out where a head is
made. An app cannot send it and does not see it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from ...core.errors import HeadersOverflowError, InvalidArgumentError, LinkError, NotSupportedError
from ...core.headers import EMPTY, Headers
from ...core.options import DispatchOptions
from ..body import CHUNKED, NO_LENGTH
from .frames import MAX_HEAD

UNKNOWN_LENGTH = -1
NONE: frozenset[bytes] = frozenset()

_REMEMBERED = 2048
"""Bytes of the longest head that is remembered."""
_MEMORIES = 512

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_LINES = rb"(?:\n[!#$%&'*+\-.^_`|~0-9a-z]+\n[\t\x20-\x7e\x80-\xff]*)*"
_REQUEST = re.compile(_TOKEN + rb"\n[\x21-\x7e\x80-\xff]+\nhttps?\n[\x21-\x7e\x80-\xff]+" + _LINES).fullmatch
_RESPONSE = re.compile(rb"[1-9][0-9]{2}" + _LINES).fullmatch
_FIELDS = re.compile(_LINES).fullmatch
_AUTHORITY = re.compile(r"[\x21-\x7e]+").fullmatch
_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade"}
)
_NOT_OF_REQUESTS = _HOP_BY_HOP | {b"host", b"trailer"}

_STATUS = {status: b"%d" % status for status in range(100, 1000)}


class RequestHead:
    """A request's head as it arrived. Immutable by convention: shared by requests that are alike."""

    __slots__ = ("authority", "expects", "fields", "method", "remembered", "scheme", "target")

    def __init__(self, parts: list[bytes]) -> None:
        self.method = parts[0].decode("ascii")
        self.target = parts[1]
        """Path and query, as they were given."""
        self.scheme = parts[2].decode("ascii")
        self.authority = parts[3].decode("latin-1")
        self.fields = tuple(zip(parts[4::2], parts[5::2], strict=True))
        self.expects = (b"expect", b"100-continue") in self.fields
        """Whether the client holds its body back until it is asked for (RFC 9110 section 10.1.1)."""
        self.remembered: Any = None
        """Whatever the reader derives from it."""


class ResponseHead:
    """A response's head as it arrived. Immutable by convention, too."""

    __slots__ = ("headers", "length", "status_code")

    def __init__(self, status_code: int, headers: Headers, length: int) -> None:
        self.status_code = status_code
        self.headers = headers
        self.length = length
        """What content-length says, or UNKNOWN_LENGTH."""


_requests: dict[bytes, RequestHead] = {}
_responses: dict[bytes, ResponseHead] = {}
_encoded: dict[bytes, tuple[int, bytes]] = {}
_authorities: dict[str, tuple[bytes, bytes]] = {}


def _remember(memory: dict[Any, Any], key: Any, value: Any) -> None:
    if len(memory) >= _MEMORIES:
        memory.clear()
    memory[key] = value


def split_origin(origin: str | None) -> tuple[bytes, bytes]:
    """Scheme and authority of an origin, lower-case, without credentials.

    Raises:
        InvalidArgumentError: it is not http(s) or names no host.
    """
    found = _authorities.get(origin) if origin is not None else None
    if found is not None:
        return found
    if origin is None:
        raise InvalidArgumentError("a request into the mesh needs an origin, such as 'http://api.local'")
    try:
        parts = urlsplit(origin)
    except ValueError as error:
        raise InvalidArgumentError(f"invalid origin {origin!r}: {error}") from None
    authority = parts.netloc.rpartition("@")[2].lower()
    if parts.scheme not in ("http", "https") or _AUTHORITY(authority) is None:
        raise InvalidArgumentError(f"invalid origin {origin!r}: it must be such as 'http://api.local'")
    found = parts.scheme.encode(), authority.encode()
    _remember(_authorities, origin, found)
    return found


def encode_request(options: DispatchOptions, length: int, beside: frozenset[bytes] = NONE) -> bytes:
    """The head of a request. `host` is the authority of the origin, whatever the caller gave (RFC 9110 section 7.2).

    Args:
        options: the request, which is checked.
        length: from `body_length`.
        beside: fields, in lower case, that go another way.

    Raises:
        InvalidArgumentError: the origin is none. NotSupportedError: CONNECT, or an absolute URL for a proxy.
        HeadersOverflowError: more than 256 KiB.
    """
    scheme, authority = split_origin(options.origin)
    path = options.path
    if path[0] not in "/*":
        raise NotSupportedError(
            f"a request into the mesh has a path, not {path[:80]!r}: there is no proxy in it"
        )
    fields = [options.method.encode("ascii"), path.encode("latin-1"), scheme, authority, b"host", authority]
    dropped = _NOT_OF_REQUESTS | beside if beside else _NOT_OF_REQUESTS
    if options.headers is not options.fields:
        dropped = dropped | _named(options.headers.raw)
    for name, value in options.fields.raw:
        name = name.lower()
        if name not in dropped:
            fields += (name, value)
    if options.expect_continue and length not in (NO_LENGTH, 0):
        fields += (b"expect", b"100-continue")
    if length not in (NO_LENGTH, CHUNKED):
        fields += (b"content-length", b"%d" % length)
    block = b"\n".join(fields)
    if len(block) > MAX_HEAD:
        raise HeadersOverflowError(
            f"the request's head has {len(block)} bytes; a link takes {MAX_HEAD}", request_not_processed=True
        )
    return block


def _named(pairs: Iterable[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """The fields that `connection` fields name."""
    return frozenset(
        token.strip(b" \t").lower()
        for name, value in pairs
        if name.lower() == b"connection"
        for token in value.split(b",")
    )


def decode_request(block: bytes) -> RequestHead:
    """The reverse of `encode_request`.

    Raises:
        LinkError: it is no head.
    """
    head = _requests.get(block)
    if head is None:
        if _REQUEST(block) is None:
            raise LinkError(f"malformed request head {block[:80]!r}")
        head = RequestHead(block.split(b"\n"))
        if len(block) <= _REMEMBERED:
            _remember(_requests, block, head)
    return head


def encode_response(status: int, headers: Iterable[Iterable[bytes]]) -> bytes:
    """The head of a response that an app gave.

    Raises:
        InvalidArgumentError: a status, name or value that HTTP does not allow. HeadersOverflowError: more than
        256 KiB.
    """
    try:
        parts = [_STATUS[status]]
        for name, value in headers:
            parts += (name, value)
        block = b"\n".join(parts)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidArgumentError(_what_is_wrong(status, error)) from None
    known = _encoded.get(block)
    # Two lists of the same length that give the same bytes are the same: a line feed in one field would make a part more.
    if known is not None and known[0] == len(parts):
        return known[1]
    lines = [parts[0], *_clean(parts[1:])]
    encoded = b"\n".join(lines)
    if _RESPONSE(encoded) is None or len(encoded.split(b"\n")) != len(lines):
        raise InvalidArgumentError("a header of the response has a name or value that HTTP does not allow")
    if len(encoded) > MAX_HEAD:
        raise HeadersOverflowError(f"the response's head has {len(encoded)} bytes; a link takes {MAX_HEAD}")
    _length(lines[1:], InvalidArgumentError)
    if len(block) <= _REMEMBERED and b"set-cookie" not in lines:
        _remember(_encoded, block, (len(parts), encoded))
    return encoded


def _what_is_wrong(status: object, error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"status must be a number from 100 to 999, not {status!r}"
    return f"headers must be pairs of bytes: {error}"


def _clean(flat: list[bytes]) -> list[bytes]:
    """Names in lower case, without what belongs to one hop."""
    pairs = [
        (bytes(name).lower(), bytes(value).strip(b" \t"))
        for name, value in zip(flat[::2], flat[1::2], strict=True)
    ]
    dropped = _HOP_BY_HOP | _named(pairs)
    return [part for pair in pairs if pair[0] not in dropped for part in pair]


def _length(lines: list[bytes], kind: type[LinkError | InvalidArgumentError]) -> int:
    """What content-length says among these names and values."""
    if b"content-length" not in lines[::2]:
        return UNKNOWN_LENGTH
    values = [value for name, value in zip(lines[::2], lines[1::2], strict=True) if name == b"content-length"]
    if len(values) != 1 or not values[0].isdigit() or len(values[0]) > 18:
        raise kind(f"invalid or duplicate content-length {values[0][:32]!r}")
    return int(values[0])


def decode_response(block: bytes) -> ResponseHead:
    """The reverse of `encode_response`.

    Raises:
        LinkError: it is no head.
    """
    head = _responses.get(block)
    if head is None:
        if _RESPONSE(block) is None:
            raise LinkError(f"malformed response head {block[:80]!r}")
        lines = block.split(b"\n")
        fields = lines[1:]
        raw = tuple(zip(fields[::2], fields[1::2], strict=True))
        headers = Headers.from_raw(raw) if raw else EMPTY
        head = ResponseHead(int(lines[0]), headers, _length(fields, LinkError))
        if len(block) <= _REMEMBERED and b"set-cookie" not in fields:
            _remember(_responses, block, head)
    return head


def encode_trailers(headers: Iterable[Iterable[bytes]]) -> bytes:
    """The trailers that an app gave; it may give none.

    Raises:
        InvalidArgumentError: a name or value that HTTP does not allow. HeadersOverflowError: more than 256 KiB.
    """
    try:
        flat = [part for name, value in headers for part in (name, value)]
        lines = _clean(flat)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(_what_is_wrong(None, error)) from None
    block = b"\n".join(lines)
    if lines and (_FIELDS(b"\n" + block) is None or block.count(b"\n") != len(lines) - 1):
        raise InvalidArgumentError("a trailer of the response has a name or value that HTTP does not allow")
    if len(block) > MAX_HEAD:
        raise HeadersOverflowError(
            f"the response's trailers have {len(block)} bytes; a link takes {MAX_HEAD}"
        )
    return block


def decode_trailers(block: bytes) -> Headers:
    """The reverse of `encode_trailers`.

    Raises:
        LinkError: they are none.
    """
    if not block:
        return EMPTY
    if _FIELDS(b"\n" + block) is None:
        raise LinkError(f"malformed trailers {block[:80]!r}")
    lines = block.split(b"\n")
    return Headers.from_raw(tuple(zip(lines[::2], lines[1::2], strict=True)))

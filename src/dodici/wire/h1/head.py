"""Response heads: from bytes to an immutable `Head`, remembered by its bytes.

A server answers with the same few head blocks over and over (the Date field changes once a second), and a
head is a pure function of its bytes. So a block that was seen before gives the `Head` it gave then, for the
price of one dictionary look-up instead of a parse. The memory is bounded, kept per pool, and leaves out
blocks that set cookies.

Strictness is RFC 9112's, with no leniency: what could be read in two ways ends the connection (§11.1, §11.2).
"""

from __future__ import annotations

import re

from ...core.errors import HeadersOverflowError, HTTPParserError
from ...core.headers import EMPTY, Headers

UNTIL_CLOSE = -1
CHUNKED = -2

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n").match
_FIELDS = re.compile(rb"(?:" + _TOKEN + rb"++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+\r\n").fullmatch
_FIELD = re.compile(rb"([^:\r]+):([^\r]*)\r\n").findall
_BARE_LF = re.compile(rb"(?:\A|[^\r])\n").search
_TIMEOUT = re.compile(rb"(?:^|[,; \t])timeout[ \t]*=[ \t]*\"?([0-9]{1,9})", re.IGNORECASE).search
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"upgrade"})

_VERSION = b"HTTP/1."

_CACHED_BLOCK = 2048
_CACHED_HEADS = 512


def raw_limit(max_header_size: int) -> int:
    """How many bytes a head block may take on the wire, separators included."""
    return 2 * max_header_size + 1024


class Head:
    """One parsed response head. Immutable by convention: shared between responses."""

    __slots__ = ("headers", "idle_hint", "keep_alive", "length", "minor", "reason", "status_code", "upgrade")

    status_code: int
    reason: str
    headers: Headers
    minor: int
    """The n of HTTP/1.n."""
    length: int
    """Bytes of the body, or UNTIL_CLOSE, or CHUNKED; what HEAD and 304 say of a body is kept here, too."""
    keep_alive: bool
    idle_hint: float | None
    """Seconds of `Keep-Alive: timeout=`."""
    upgrade: bool
    """Whether the server named a protocol to upgrade to."""


class HeadCache:
    """Heads by their bytes, at most 512 of at most 2 KiB."""

    __slots__ = ("known", "max_header_size")

    def __init__(self, max_header_size: int) -> None:
        self.max_header_size = max_header_size
        self.known: dict[bytes, Head] = {}
        """For those who want to spare a call; `parse` looks here first."""

    def parse(self, block: bytes) -> Head:
        """The head in `block`, which ends with an empty line.

        Raises:
            HTTPParserError, HeadersOverflowError: it is not one that RFC 9112 allows.
        """
        head = self.known.get(block)
        if head is None:
            head = parse_head(block, self.max_header_size)
            if len(block) <= _CACHED_BLOCK and "set-cookie" not in head.headers:
                if len(self.known) >= _CACHED_HEADS:
                    self.known.clear()
                self.known[block] = head
        return head

    def __len__(self) -> int:
        return len(self.known)


def parse_head(block: bytes, max_header_size: int) -> Head:
    """Parse one response head, empty line included. Raises as `HeadCache.parse`."""
    if len(block) > raw_limit(max_header_size):
        check_start(block)
        check_unfinished(block, 0, 0, max_header_size)  # raises
    match = _STATUS_LINE(block)
    if match is None:
        raise _status_line_error(block)
    fields = parse_fields(block[match.end() :], max_header_size)
    head = Head()
    head.minor = 1 if match[1] == b"1" else 0
    head.status_code = int(match[2])
    head.reason = (match[3] or b"").decode("latin-1")
    head.headers = Headers.from_raw(fields) if fields else EMPTY
    _frame(head, fields)
    return head


def parse_fields(block: bytes, max_header_size: int) -> tuple[tuple[bytes, bytes], ...]:
    """Field lines and the empty line after them, as raw pairs. For heads and trailers alike."""
    if len(block) > raw_limit(max_header_size):
        check_unfinished(block, 0, 0, max_header_size)  # raises
    if _FIELDS(block) is None:
        raise _field_error(block)
    fields = tuple([(name, value.strip(b" \t")) for name, value in _FIELD(block)])
    # Each field costs its line less ": " and CRLF, give or take blanks: only near the limit is it worth counting.
    if (
        len(block) > max_header_size
        and sum(len(name) + len(value) for name, value in fields) >= max_header_size
    ):
        raise HeadersOverflowError(f"headers exceed {max_header_size} bytes (max_header_size)")
    return fields


def check_start(block: bytes) -> None:
    """Refuse what cannot become a status line, however little of it came."""
    start = block[:9]
    if not start.startswith(_VERSION[: len(start)]):
        if start.startswith(b"HTTP/"):
            raise HTTPParserError("invalid HTTP version", code="HPE_INVALID_VERSION", data=start)
        raise HTTPParserError(
            "expected HTTP/1.x, got something else", code="HPE_INVALID_CONSTANT", data=start
        )
    if len(start) > 7 and (start[7] not in b"01" or start[8:9] not in (b"", b" ")):
        raise HTTPParserError("invalid HTTP version", code="HPE_INVALID_VERSION", data=start)


def check_unfinished(data: bytes, position: int, scanned: int, max_header_size: int) -> None:
    """Refuse fields whose end has not come: too many bytes, or a line that LF ends alone.

    They begin at `position` in `data`, and `scanned` bytes of them were checked before.
    """
    limit = raw_limit(max_header_size)
    # Lines first, and only as many as may be: the error is then the same in whatever pieces they come.
    start = position + max(0, scanned - 1)
    if data[position] == 10 or _BARE_LF(data, start, position + limit) is not None:
        raise HTTPParserError("line ended by LF alone", code="HPE_CR_EXPECTED", data=data[position:])
    if len(data) - position >= limit:
        raise HeadersOverflowError(f"headers exceed {max_header_size} bytes (max_header_size)")


def _frame(head: Head, fields: tuple[tuple[bytes, bytes], ...]) -> None:
    length = -1
    codings: list[bytes] | None = None
    tokens: list[bytes] = []
    head.idle_hint = None
    head.upgrade = False
    for name, value in fields:
        name = name.lower()
        if name not in _FRAMING:
            continue
        if name == b"content-length":
            if length >= 0:
                raise HTTPParserError(
                    "duplicate content-length", code="HPE_UNEXPECTED_CONTENT_LENGTH", data=value
                )
            if not value.isdigit() or len(value) > 18:
                raise HTTPParserError("invalid content-length", code="HPE_INVALID_CONTENT_LENGTH", data=value)
            length = int(value)
        elif name == b"transfer-encoding":
            named = [coding.strip(b" \t").lower() for coding in value.split(b",")]
            codings = [*(codings or ()), *filter(None, named)]
        elif name == b"connection":
            tokens += [token.strip(b" \t").lower() for token in value.split(b",")]
        elif name == b"keep-alive":
            hint = _TIMEOUT(value)
            if hint is not None:
                head.idle_hint = float(hint[1])
        else:
            head.upgrade = True
    head.keep_alive = b"close" not in tokens and (head.minor == 1 or b"keep-alive" in tokens)
    if codings is not None:
        if not codings:
            raise HTTPParserError("empty transfer-encoding", code="HPE_INVALID_TRANSFER_ENCODING")
        if length >= 0:
            raise HTTPParserError(
                "content-length beside transfer-encoding", code="HPE_UNEXPECTED_CONTENT_LENGTH"
            )
        if b"chunked" in codings[:-1] and codings[-1] == b"chunked":
            raise HTTPParserError("chunked twice in transfer-encoding", code="HPE_INVALID_TRANSFER_ENCODING")
        if codings[-1] == b"chunked":
            length = CHUNKED
            # HTTP/1.0 has no transfer codings: framing that an intermediary may have missed (RFC 9112 6.1).
            head.keep_alive = head.keep_alive and head.minor == 1
    head.length = length
    status = head.status_code
    if status < 200 or status == 204:
        head.length = 0
        # A length here is not allowed (RFC 9110 8.6) and says nothing; stray bytes end the connection anyway.


def _status_line_error(block: bytes) -> HTTPParserError:
    check_start(block)
    if _BARE_LF(block) is not None:
        return HTTPParserError("line ended by LF alone", code="HPE_CR_EXPECTED", data=block)
    return HTTPParserError("invalid status line", code="HPE_INVALID_STATUS", data=block)


def _field_error(block: bytes) -> HTTPParserError:
    if _BARE_LF(block) is not None:
        return HTTPParserError("line ended by LF alone", code="HPE_CR_EXPECTED", data=block)
    line = block
    for line in block.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if line[:1] in b" \t":
            return HTTPParserError("obsolete line folding", code="HPE_UNEXPECTED_SPACE", data=line)
        if not colon or re.fullmatch(_TOKEN + rb"+", name) is None:
            return HTTPParserError("invalid header name", code="HPE_INVALID_HEADER_TOKEN", data=line)
        if b"\r" in value:
            return HTTPParserError("bare CR in a header", code="HPE_LF_EXPECTED", data=line)
        if re.fullmatch(rb"[\t\x20-\x7e\x80-\xff]*", value) is None:
            break
    return HTTPParserError("control character in a header", code="HPE_INVALID_HEADER_TOKEN", data=line)

"""Going on with a broken download: what to ask for, and how to know that it is the same thing.

A representation is recognised by its strong ETag, its Last-Modified, its length and its coding. What it was
recognised by the first time must be there again and equal, or nothing is appended to what the handler has.

Source: RFC 9110 §13.1.1 (If-Match), §14.1.2 and §14.2 (Range), §14.4 (Content-Range), §15.3.7 (206).
"""

from __future__ import annotations

import re

from ..core.headers import Headers
from ..core.options import DispatchOptions
from ._common import content_length

_CONTENT_RANGE = re.compile(
    r"bytes ([0-9]{1,19})-([0-9]{1,19})/(?:([0-9]{1,19})|\*)", re.IGNORECASE
).fullmatch


def parse_content_range(headers: Headers) -> tuple[int, int, int | None] | None:
    """First byte, last byte and full size (None if unknown) of a `content-range`; None if there is none."""
    match = _CONTENT_RANGE(headers.get("content-range", "").strip())
    if match is None:
        return None
    first, last = int(match[1]), int(match[2])
    size = int(match[3]) if match[3] else None
    if last < first or (size is not None and size <= last):
        return None
    return first, last, size


class Download:
    """How far the body of a response has come, and what identifies it.

    Attributes:
        position: the offset of the next byte in the whole representation.
    """

    __slots__ = ("_base", "_encoding", "_etag", "_headers", "_last", "_status_code", "position")

    def __init__(self, status_code: int, headers: Headers, base: int, last: int | None) -> None:
        self.position = base
        self._base = base
        self._last = last
        self._status_code = status_code
        self._headers = headers
        self._etag = headers.get("etag")
        self._encoding = headers.get("content-encoding", "")

    @classmethod
    def of(cls, options: DispatchOptions, status_code: int, headers: Headers) -> Download | None:
        """The record of a response that could be resumed; None if it could not."""
        # Ranges mean something for GET alone, and only where the server does not rule them out.
        if options.method != "GET" or headers.get("accept-ranges", "").strip().lower() == "none":
            return None
        length = content_length(headers)
        if status_code == 206:
            found = parse_content_range(headers)
            if found is None or (length is not None and length != found[1] - found[0] + 1):
                return None
            return cls(status_code, headers, found[0], found[1])
        if status_code != 200:
            return None
        download = cls(status_code, headers, 0, None if length is None else length - 1)
        recognisable = download._strong_etag or length is not None or "last-modified" in headers
        return download if recognisable else None

    @property
    def _strong_etag(self) -> str | None:
        etag = self._etag
        return None if etag is None or etag.startswith("W/") else etag

    @property
    def complete(self) -> bool:
        """Whether every byte is there, and only the end was not heard of."""
        return self._last is not None and self.position > self._last

    def rest(self, options: DispatchOptions) -> DispatchOptions:
        """The request for what is missing."""
        headers = Headers(options.headers)
        if self.position > self._base:
            # If-Range would turn a changed representation into a 200 that is of no use here.
            headers = headers.without("if-range") | {
                "range": f"bytes={self.position}-{'' if self._last is None else self._last}"
            }
        if self._strong_etag is not None:
            headers = headers | {"if-match": self._strong_etag}
        return options.replace(headers=headers)

    def mismatch(self, status_code: int, headers: Headers) -> str | None:
        """Why this response does not continue the first one; None if it does."""
        if self.position == self._base and status_code == self._status_code == 200:
            return self._identity_mismatch(headers, content_length(headers))
        if status_code == 412:
            return "ETag mismatch"
        if status_code == 200:
            return "server does not support the range header and the payload was partially consumed"
        if status_code != 206:
            return f"the rest of the body was answered with status {status_code}"
        found = parse_content_range(headers)
        if found is None:
            return "Content-Range mismatch"
        first, last, size = found
        whole = size if self._status_code == 200 else None if self._last is None else self._last + 1
        identity = self._identity_mismatch(headers, whole)
        if identity is not None:
            return identity
        if first != self.position or (self._last is not None and last != self._last):
            return "Content-Range mismatch"
        length = content_length(headers)
        if length is not None and length != last - first + 1:
            return "Content-Length mismatch"
        self._last = last
        return None

    def _identity_mismatch(self, headers: Headers, size: int | None) -> str | None:
        etag = headers.get("etag")
        # A weak tag may be left out of a 206, a strong one may not.
        if (
            self._etag is not None
            and etag != self._etag
            and (etag is not None or self._strong_etag is not None)
        ):
            return "ETag mismatch"
        modified = headers.get("last-modified")
        if modified is not None and modified != self._headers.get("last-modified", modified):
            return "Last-Modified mismatch"
        if headers.get("content-encoding", "") != self._encoding:
            return "Content-Encoding mismatch"
        if self._last is not None and size is not None and size != self._last + 1:
            return "Content-Range mismatch"
        return None

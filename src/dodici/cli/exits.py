"""How a command ends: exit statuses, curl's own where curl has one.

`TABLE` is the one list; the help text is made of it, and the tests hold the documentation to it.
"""

from __future__ import annotations

import errno
from typing import Final

from ..core.errors import (
    ConnectError,
    DecompressionError,
    DodiciError,
    HeadersOverflowError,
    HTTPParserError,
    InvalidArgumentError,
    NameResolutionError,
    RequestContentLengthMismatchError,
    ResponseContentLengthMismatchError,
    ResponseError,
    SocketError,
    TLSError,
)

TABLE: Final[dict[int, str]] = {
    0: "success; an HTTP error status is one too, unless --fail is given",
    1: "the URL's scheme is not supported",
    2: "wrong usage",
    3: "malformed URL",
    6: "the host name could not be resolved",
    7: "no connection",
    8: "the server's answer is not HTTP/1.1",
    18: "the body ended early",
    22: "the status is 400 or above, with --fail",
    23: "the output could not be written, or is binary and would go to a terminal",
    26: "a file to send could not be read",
    28: "timeout",
    35: "the TLS handshake failed",
    47: "too many redirects, a loop of them, or one that must not be followed",
    52: "the server closed without an answer",
    55: "sending failed",
    56: "receiving failed",
    58: "the client certificate cannot be used",
    60: "the server's certificate is not trusted",
    61: "the content-encoding cannot be decoded",
    77: "the file of certificate authorities cannot be used",
    130: "interrupted",
}


class Failure(Exception):
    """The command ends with `status`, saying `message` in one line, or nothing if that is empty."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def status_of(error: BaseException) -> int:
    """The exit status for an exchange that failed with `error`."""
    if isinstance(error, Failure):
        return error.status
    for kind, status in _BY_KIND:
        if isinstance(error, kind):
            return status
    if isinstance(error, TLSError):
        # Told by name, since nothing but dodici.net knows ssl.
        return 60 if type(error.__cause__).__name__ == "SSLCertVerificationError" else 35
    if isinstance(error, ConnectError):
        return 7
    if isinstance(error, SocketError):
        return _of_socket(error)
    if isinstance(error, HTTPParserError):
        return 18 if error.code == "HPE_INVALID_EOF_STATE" else 8
    if isinstance(error, DodiciError):
        return 56
    # What is left comes from the body's source.
    return 26 if isinstance(error, OSError) else 2


# The first that fits counts, so what is special comes before what is general.
_BY_KIND: Final[tuple[tuple[type[BaseException], int], ...]] = (
    (NameResolutionError, 6),
    (TimeoutError, 28),
    (ResponseContentLengthMismatchError, 18),
    (RequestContentLengthMismatchError, 26),
    (HeadersOverflowError, 8),
    (ResponseError, 47),
    (DecompressionError, 61),
    # The request itself was checked before: this is a redirect that must not be followed.
    (InvalidArgumentError, 47),
    (NotImplementedError, 2),
)


def _of_socket(error: SocketError) -> int:
    cut = error.__cause__
    if error.phase == "body":
        # A body that stops short is one thing, a connection that breaks another.
        return 18 if error.errno is None or isinstance(cut, DodiciError) else 56
    if error.phase == "request":
        return 55
    closed = error.errno is None and cut is None and "inside" not in error.message
    return 52 if closed and error.status_code is None else 55 if error.errno == errno.EPIPE else 56

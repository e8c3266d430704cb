"""The messages of a carried exchange: `protos/http.proto`.

Heads are those of the mesh's links, made and read by the same functions, which check them and remember those that are
used over and over. What arrives was written by another process: what does not fit is an error, never a guess.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from google.protobuf.message import DecodeError

from ...core.errors import DodiciError, SocketError
from ...wire.mesh.heads import RequestHead, decode_request
from ..protos import http_pb2 as pb

HTTP: Final = "~http"
"""The method of a service that is an HTTP origin: one carried exchange, of kind stream_stream."""
UNARY: Final = "~http.unary"
"""The same, of kind unary_unary: for a request that is at hand and small. What of the response is not, is promised."""
REST: Final = "~http.rest"
"""What was promised, of kind unary_stream."""
LEAVE: Final = "~http.leave"
"""Nobody wants what was promised, of kind unary_unary."""
TOKEN: Final = 16
"""Bytes of a promise's name: too many to guess."""
HANDLED_BY: Final = b"x-dodici-handled-by"
"""The field of a response that names the collector by which it was served."""
PIECE: Final = 64 * 1024
"""Bytes of a body in one message."""


class MalformedError(SocketError):
    """The other collector has sent what is no carried exchange."""

    code = "DODICI_ERR_LINK"


def read_request(payload: object) -> pb.Request:
    """A message of the request.

    Raises:
        MalformedError: it is none.
    """
    try:
        return pb.Request.FromString(payload)  # type: ignore[arg-type]
    except (DecodeError, TypeError) as error:
        raise MalformedError(f"not a message of a carried request: {error}") from error


def read_response(payload: bytes) -> pb.Response:
    """A message of the response.

    Raises:
        MalformedError: it is none.
    """
    try:
        return pb.Response.FromString(payload)
    except DecodeError as error:
        raise MalformedError(f"not a message of a carried response: {error}") from error


def read_head(request: pb.Request) -> RequestHead:
    """The head of a request, from its first message.

    Raises:
        MalformedError: it is none.
    """
    try:
        return decode_request(request.head)
    except DodiciError as error:
        raise MalformedError(error.message) from error


def pieces(data: bytes | memoryview) -> Iterator[bytes]:
    """A piece of a body in such as fit into messages."""
    if len(data) <= PIECE:
        yield data if type(data) is bytes else bytes(data)
        return
    view = memoryview(data)
    for start in range(0, len(view), PIECE):
        yield bytes(view[start : start + PIECE])

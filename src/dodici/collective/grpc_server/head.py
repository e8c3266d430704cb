"""What a request head says to a gRPC server, and the header blocks of its answers.

A client's calls of a method have the same head mostly, and the same block of bytes with it: what was read out of one
serves for the next.

Source: grpc/doc/PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import re
from typing import Any, Final

from ...core.errors import InvalidArgumentError
from ...core.grpc_status import GrpcStatus
from ...wire.grpc.compression import ACCEPTED, ENCODINGS
from ...wire.grpc.metadata import decode_binary, encode_binary
from ...wire.grpc.status import encode_message
from ...wire.grpc.timeout import parse_timeout
from ...wire.h2.hpack import encode_fields
from ...wire.h2.requests import RequestSection
from ..contracts import Pairs

_PROTOCOL: Final = frozenset(
    {
        b"te",
        b"content-type",
        b"content-length",
        b"grpc-timeout",
        b"grpc-encoding",
        b"grpc-accept-encoding",
        b"grpc-message-type",
        b"host",
    }
)
"""What is the protocol's, and not the call's metadata."""
_CONTENT_TYPE = re.compile(rb"application/grpc(?:[+;].*)?").fullmatch
_NAME = re.compile(r"[0-9a-z_.\-]+").fullmatch
_VALUE = re.compile(rb"[\x20-\x7e]*").fullmatch
_NOT_METADATA: Final = frozenset({"grpc-status", "grpc-message", "grpc-encoding"}) | {
    "connection",
    "content-length",
    "content-type",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
}
"""What would change the meaning of an answer, or make it one that HTTP/2 does not allow."""
_KEPT: Final = 1024
"""Bytes of a block that is kept for the next answer that ends alike."""
_MOST_KEPT: Final = 256
_HEAD: Final = (
    (b":status", b"200"),
    (b"content-type", b"application/grpc"),
    (b"grpc-accept-encoding", ACCEPTED),
)
HEAD: Final = encode_fields(_HEAD)
"""The head of an answer without metadata."""
SUCCESS: Final = encode_fields([(b"grpc-status", b"0")])
"""The end of one that has succeeded, without metadata."""
_ends: dict[tuple[int, str, Pairs, bool], bytes] = {}


class RequestHead:
    """A request head, read. `refusal` is what the call is ended with instead of being run."""

    __slots__ = ("encoding", "memo", "metadata", "path", "refusal", "timeout")

    def __init__(self, section: RequestSection) -> None:
        self.path = section.path.decode("latin-1")
        self.encoding: str | None = None
        """Of messages that are compressed."""
        self.timeout: float | None = None
        """Seconds."""
        self.refusal: tuple[bytes, bytes] | tuple[GrpcStatus, str] | None = None
        """An HTTP status with a reason in plain text, or a status of gRPC."""
        self.memo: Any = None
        """For the face: what it has found out about calls with this head."""
        pairs: list[tuple[str, str | bytes]] = []
        content_type = b""
        for name, value in section.fields:
            if name in _PROTOCOL:
                if name == b"content-type":
                    content_type = value
                elif name == b"grpc-timeout":
                    self._read_timeout(value)
                elif name == b"grpc-encoding":
                    self._read_encoding(value)
            elif name.endswith(b"-bin"):
                text = name.decode("ascii")
                pairs.extend((text, one) for one in decode_binary(value))
            else:
                pairs.append((name.decode("ascii"), value.decode("latin-1")))
        self.metadata: Pairs = tuple(pairs)
        if section.oversized:
            self.refusal = (
                GrpcStatus.RESOURCE_EXHAUSTED,
                "the call's metadata is larger than this server takes",
            )
        elif section.method != b"POST":
            self.refusal = b"405", b"gRPC calls are POST requests"
        elif _CONTENT_TYPE(content_type) is None:
            self.refusal = b"415", b"this is a gRPC server: content-type must begin with application/grpc"

    def _read_timeout(self, value: bytes) -> None:
        try:
            self.timeout = parse_timeout(value)
        except InvalidArgumentError as error:
            self.refusal = GrpcStatus.INTERNAL, str(error)

    def _read_encoding(self, value: bytes) -> None:
        self.encoding = value.decode("latin-1")
        if self.encoding not in ENCODINGS:
            text = (
                f"messages cannot be read in grpc-encoding {self.encoding[:40]!r}; {', '.join(ENCODINGS)} can"
            )
            self.refusal = GrpcStatus.UNIMPLEMENTED, text


def head_of(section: RequestSection) -> RequestHead:
    """What a head says; the same object for the same section."""
    head: RequestHead | None = section.parsed
    if head is None:
        head = section.parsed = RequestHead(section)
    return head


def head_block(initial: Pairs) -> bytes:
    """The header block of an answer's beginning.

    Raises:
        InvalidArgumentError: metadata that cannot be sent.
    """
    return encode_fields((*_HEAD, *_encoded(initial))) if initial else HEAD


def end_block(status: GrpcStatus, message: str, trailing: Pairs, *, alone: bool) -> bytes:
    """The header block of an answer's end. `alone`: nothing came before it.

    Raises:
        InvalidArgumentError: metadata that cannot be sent.
    """
    key = int(status), message, trailing, alone
    block = _ends.get(key)
    if block is None:
        fields: list[tuple[bytes, bytes]] = [*_HEAD] if alone else []
        fields.append((b"grpc-status", b"%d" % status))
        if message:
            fields.append((b"grpc-message", encode_message(message)))
        block = encode_fields((*fields, *_encoded(trailing)))
        if len(block) <= _KEPT:
            if len(_ends) >= _MOST_KEPT:
                _ends.clear()
            _ends[key] = block
    return block


def plain_block(status: bytes, length: int) -> bytes:
    """The head of an answer to what is no gRPC at all."""
    return encode_fields(
        [(b":status", status), (b"content-type", b"text/plain"), (b"content-length", b"%d" % length)]
    )


def _encoded(pairs: Pairs) -> list[tuple[bytes, bytes]]:
    fields = []
    for given, value in pairs:
        name = given.lower()
        if _NAME(name) is None or name in _NOT_METADATA:
            raise InvalidArgumentError(f"{given!r} cannot be the name of metadata")
        if isinstance(value, bytes):
            if not name.endswith("-bin"):
                raise InvalidArgumentError(f"metadata {name!r} is bytes: its name has to end in '-bin'")
            raw = encode_binary(value)
        elif name.endswith("-bin"):
            raise InvalidArgumentError(f"metadata {name!r} is text: what ends in '-bin' has to be bytes")
        else:
            raw = value.encode("utf-8", "replace")
            if _VALUE(raw) is None:
                raise InvalidArgumentError(f"metadata {name!r} has characters that are not printable ASCII")
            raw = raw.strip(b" ")  # RFC 9113 section 8.2.1 allows none at the ends
        fields.append((name.encode("ascii"), raw))
    return fields

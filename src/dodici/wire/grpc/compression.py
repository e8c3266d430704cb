"""Compression of single messages: `grpc-encoding` and `grpc-accept-encoding`.

Each message is compressed by itself, so a message can be decompressed when somebody wants it and not when it
arrives: what waits in memory is what came over the wire. A message may not be larger than the limit once it
is decompressed, and the decompressor stops there.

Source: grpc/doc/compression.md.
"""

from __future__ import annotations

import zlib

from ...core.errors import GrpcError
from ...core.grpc_status import GrpcStatus

_WINDOW_BITS = {"gzip": 31, "deflate": 15}  # zlib's way to say which header and trailer
ENCODINGS = ("identity", "deflate", "gzip")
"""What can be read and written."""
ACCEPTED = ", ".join(ENCODINGS).encode()


def compress(encoding: str, message: bytes) -> bytes:
    """Compress a message with one of `ENCODINGS` that is not `identity`."""
    return zlib.compress(message, wbits=_WINDOW_BITS[encoding])


def decompress(encoding: str | None, message: bytes, limit: int) -> bytes:
    """Decompress a message that its prefix calls compressed.

    Raises:
        GrpcError: INTERNAL if `encoding` is none that can be read, or the data are broken;
            RESOURCE_EXHAUSTED if there are more than `limit` bytes.
    """
    bits = _WINDOW_BITS.get(encoding or "identity")
    if bits is None:
        if encoding is None or encoding == "identity":
            raise GrpcError(
                "a message is marked as compressed, but grpc-encoding names no compression",
                status=GrpcStatus.INTERNAL,
            )
        raise GrpcError(
            f"a message is compressed with {encoding!r}; supported are {', '.join(ENCODINGS)}",
            status=GrpcStatus.INTERNAL,
        )
    decompressor = zlib.decompressobj(bits)
    try:
        plain = decompressor.decompress(message, limit + 1)
    except zlib.error as error:
        raise GrpcError(f"broken {encoding} message: {error}", status=GrpcStatus.INTERNAL) from error
    if len(plain) > limit:
        raise GrpcError(
            f"received message larger than max ({limit} bytes) once decompressed",
            status=GrpcStatus.RESOURCE_EXHAUSTED,
        )
    if not decompressor.eof or decompressor.unused_data:
        raise GrpcError(f"broken {encoding} message: not one whole stream", status=GrpcStatus.INTERNAL)
    return plain

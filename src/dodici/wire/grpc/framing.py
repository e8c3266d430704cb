"""Messages in a body: a flag, four bytes of length, and the message.

DATA frames and messages share no boundaries, so `MessageDecoder` takes whatever pieces come and gives whole
messages in their order. It keeps the pieces of an incomplete message in a list and joins them once: a large
message that arrives in a thousand pieces costs one copy and not a thousand.

What is refused is refused from the prefix, before any of the message is kept. Decompression happens in
`take()`, so a compressed message costs its compressed size until somebody wants it.

Source: grpc/doc/PROTOCOL-HTTP2.md, "Length-Prefixed-Message".
"""

from __future__ import annotations

from collections import deque

from ...core.errors import GrpcError, InvalidArgumentError
from ...core.grpc_status import GrpcStatus
from .compression import compress, decompress

PREFIX = 5
LARGEST = 2**32 - 1
"""Bytes of a message that its prefix can announce."""


def encode_message(message: bytes | bytearray | memoryview, encoding: str | None = None) -> bytes:
    """A message with its prefix, compressed with `encoding` if that is not None or ``"identity"``.

    Raises:
        InvalidArgumentError: the message is not bytes, or has 4 GiB or more.
    """
    if not isinstance(message, bytes):
        if not isinstance(message, bytearray | memoryview):
            raise InvalidArgumentError(
                f"a gRPC message must be bytes, not {type(message).__name__}: pass a serializer"
            )
        message = bytes(message)
    flag = b"\0"
    if encoding is not None and encoding != "identity":
        flag = b"\1"
        message = compress(encoding, message)
    if len(message) > LARGEST:
        raise InvalidArgumentError(f"a gRPC message has at most {LARGEST} bytes, not {len(message)}")
    return flag + len(message).to_bytes(4, "big") + message


class MessageDecoder:
    """Bytes in, messages out. `encoding` is that of the response's `grpc-encoding`."""

    __slots__ = ("_have", "_need", "_parts", "_ready", "encoding", "limit", "waiting")

    def __init__(self, limit: int, encoding: str | None = None) -> None:
        self.limit = limit
        self.encoding = encoding
        self.waiting = 0
        """Bytes of the whole messages that nobody has taken yet, prefixes included: empty ones count, too."""
        self._ready: deque[tuple[int, bytes]] = deque()
        self._parts: list[bytes] = []
        self._have = 0
        self._need = PREFIX

    def __len__(self) -> int:
        """Whole messages that wait to be taken."""
        return len(self._ready)

    def feed(self, data: bytes) -> None:
        """Take a piece of the body, of any size.

        Raises:
            GrpcError: RESOURCE_EXHAUSTED for a message beyond the limit, INTERNAL for an impossible flag.
                Messages before it can still be taken; nothing may be fed any more.
        """
        if self._have:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._need:
                return
            data = b"".join(self._parts)
            self._parts = []
            self._have = 0
        start, end = 0, len(data)
        self._need = PREFIX
        while end - start >= PREFIX:
            flag = data[start]
            size = int.from_bytes(data[start + 1 : start + PREFIX], "big")
            if flag > 1:
                raise GrpcError(f"impossible message flag {flag}", status=GrpcStatus.INTERNAL)
            if size > self.limit:
                raise GrpcError(
                    f"received message larger than max ({size} vs. {self.limit} bytes)",
                    status=GrpcStatus.RESOURCE_EXHAUSTED,
                )
            stop = start + PREFIX + size
            if stop > end:
                self._need = PREFIX + size
                break
            self._ready.append((flag, data[start + PREFIX : stop]))
            self.waiting += PREFIX + size
            start = stop
        if start < end:
            self._parts.append(data[start:] if start else data)
            self._have = end - start

    def take(self) -> bytes:
        """The next message, decompressed. There must be one.

        Raises:
            GrpcError: it cannot be decompressed, or is beyond the limit once it is.
        """
        flag, payload = self._ready.popleft()
        self.waiting -= PREFIX + len(payload)
        return decompress(self.encoding, payload, self.limit) if flag else payload

    def finish(self) -> None:
        """The body has ended.

        Raises:
            GrpcError: INTERNAL: it ended inside a message.
        """
        if self._have:
            raise GrpcError(
                f"the response ended inside a message: {self._have} of {self._need} bytes arrived",
                status=GrpcStatus.INTERNAL,
            )

    def clear(self) -> None:
        """Drop everything."""
        self._ready.clear()
        self._parts = []
        self._have = self.waiting = 0

"""What may be sent over a WebSocket, and what its other arguments may be."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping
from typing import Any, TypeAlias

from ..core.errors import InvalidArgumentError

Piece: TypeAlias = "str | bytes | bytearray | memoryview"
Message: TypeAlias = "Piece | Iterable[Piece] | AsyncIterable[Piece]"


def http_url(url: str) -> str:
    """The URL of the handshake's request: of ``ws`` that is ``http`` (RFC 6455 section 3)."""
    if isinstance(url, str):
        start = url.lstrip(" ")
        if start[:2].lower() == "ws" and start.lower().startswith(("ws://", "wss://")):
            return f"http{start[2:]}"
    return url


def check_number(name: str, value: Any, *, optional: bool) -> None:
    """Refuse what is neither a number above 0 nor, where that is allowed, None."""
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise InvalidArgumentError(
            f"{name} must be a number above 0{' or None' if optional else ''}, not {value!r}"
        )


def check_close(code: Any, reason: Any) -> None:
    """Refuse what no close frame may say (RFC 6455 sections 5.5 and 7.4)."""
    allowed = isinstance(code, int) and (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999)
    if not allowed:
        raise InvalidArgumentError(
            f"invalid close code {code!r}: it must be 1000 to 1003, 1007 to 1014, or 3000 to 4999"
        )
    if not isinstance(reason, str) or len(reason.encode("utf-8", "replace")) > 123:
        raise InvalidArgumentError("a close reason must be a str of at most 123 bytes in UTF-8")


def size_of(message: str | bytes) -> int:
    """Bytes of a message on the wire."""
    return len(message) if isinstance(message, bytes) or message.isascii() else len(message.encode("utf-8"))


def plain_message(message: Any) -> str | bytes | None:
    """A whole message as what channels take; None for what may be pieces."""
    if isinstance(message, str | bytes):
        return message
    if isinstance(message, bytearray | memoryview):
        return bytes(message)
    return None


async def pieces_of(message: Any) -> AsyncGenerator[str | bytes, None]:
    """The pieces of a message, from a plain or an async iterable."""
    if isinstance(message, Mapping) or not isinstance(message, AsyncIterable | Iterable):
        raise InvalidArgumentError(
            f"a message must be str, bytes-like, or an iterable of them, not {type(message).__name__}"
        )
    if isinstance(message, AsyncIterable):
        async for piece in message:
            yield _piece(piece)
    else:
        for piece in message:
            yield _piece(piece)


def _piece(piece: Any) -> str | bytes:
    plain = plain_message(piece)
    if plain is None:
        raise InvalidArgumentError(
            f"a piece of a message must be str or bytes-like, not {type(piece).__name__}"
        )
    return plain

"""Frames: numbers, and the bytes of those that a client sends (RFC 9113 section 4, 6 and 7)."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from struct import Struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)

ACK = END_STREAM = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY_FLAG = 0x20

MAX_WINDOW = 2**31 - 1
MAX_STREAM_ID = 2**31 - 1
DEFAULT_WINDOW = 65_535
MIN_MAX_FRAME = 16_384
MAX_MAX_FRAME = 2**24 - 1

HEAD = Struct(">IBI")
"""Length and type in one number, flags, stream: 9 bytes."""
LONG = Struct(">I")
TWO_LONGS = Struct(">II")
SETTING = Struct(">HI")


class ErrorCode(IntEnum):
    """RFC 9113 section 7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


_NAMES = {code.value: code.name for code in ErrorCode}


def error_name(code: int) -> str:
    """`PROTOCOL_ERROR` and the like; unknown codes in hexadecimal."""
    return _NAMES.get(code) or f"0x{code:x}"


class ConnectionFault(Exception):
    """The peer broke the protocol in a way that ends the connection (RFC 9113 section 5.4.1)."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def unpadded(payload: bytes) -> bytes:
    """The payload of a PADDED frame without its padding (6.1).

    Raises:
        ConnectionFault: there is no length of the padding, or it is more than the frame's.
    """
    if not payload:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a padded frame without the padding's length")
    if payload[0] >= len(payload):
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "padding longer than the frame")
    return payload[1 : len(payload) - payload[0]]


def settings_frame(pairs: Iterable[tuple[int, int]]) -> bytes:
    """SETTINGS (6.5)."""
    payload = b"".join([SETTING.pack(number, value) for number, value in pairs])
    return HEAD.pack(len(payload) << 8 | SETTINGS, 0, 0) + payload


SETTINGS_ACK = HEAD.pack(SETTINGS, ACK, 0)


def window_update(stream_id: int, increment: int) -> bytes:
    """WINDOW_UPDATE (6.9); stream 0 is the connection."""
    return HEAD.pack(4 << 8 | WINDOW_UPDATE, 0, stream_id) + LONG.pack(increment)


def rst_stream(stream_id: int, code: int) -> bytes:
    """RST_STREAM (6.4)."""
    return HEAD.pack(4 << 8 | RST_STREAM, 0, stream_id) + LONG.pack(code)


def ping(payload: bytes, *, ack: bool = False) -> bytes:
    """PING (6.7), of 8 bytes."""
    return HEAD.pack(8 << 8 | PING, ACK if ack else 0, 0) + payload


def goaway(last_stream_id: int, code: int, debug: bytes = b"") -> bytes:
    """GOAWAY (6.8)."""
    return HEAD.pack((8 + len(debug)) << 8 | GOAWAY, 0, 0) + TWO_LONGS.pack(last_stream_id, code) + debug


def headers_frames(stream_id: int, block: bytes, end_stream: bool, max_frame: int) -> bytes:
    """A HEADERS frame, and CONTINUATION frames behind it where the block is larger than a frame."""
    flags = END_STREAM if end_stream else 0
    if len(block) <= max_frame:
        return HEAD.pack(len(block) << 8 | HEADERS, flags | END_HEADERS, stream_id) + block
    parts = [HEAD.pack(max_frame << 8 | HEADERS, flags, stream_id), block[:max_frame]]
    for start in range(max_frame, len(block), max_frame):
        piece = block[start : start + max_frame]
        last = start + max_frame >= len(block)
        parts += HEAD.pack(len(piece) << 8 | CONTINUATION, END_HEADERS if last else 0, stream_id), piece
    return b"".join(parts)

"""SETTINGS, both ways (RFC 9113 section 6.5, RFC 8441 section 3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .frames import (
    DEFAULT_WINDOW,
    MAX_MAX_FRAME,
    MAX_WINDOW,
    MIN_MAX_FRAME,
    SETTING,
    ConnectionFault,
    ErrorCode,
)

HEADER_TABLE_SIZE = 0x1
ENABLE_PUSH = 0x2
MAX_CONCURRENT_STREAMS = 0x3
INITIAL_WINDOW_SIZE = 0x4
MAX_FRAME_SIZE = 0x5
MAX_HEADER_LIST_SIZE = 0x6
ENABLE_CONNECT_PROTOCOL = 0x8

UNLIMITED = 2**32 - 1


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """What we tell the peer. Bytes.

    Args:
        stream_window: what the peer may send on one stream before we have taken it.
        connection_window: the same for all streams together.
        max_frame_size: the largest frame that we accept, 16,384 to 16,777,215.
        max_header_list_size: of one head or trailer section, counted as RFC 9113 6.5.2 says.
        max_concurrent_streams: how many the peer may have open at a time.
    """

    stream_window: int
    connection_window: int
    max_header_list_size: int
    max_frame_size: int = MIN_MAX_FRAME
    header_table_size: int = 4096
    max_concurrent_streams: int = UNLIMITED

    def pairs(self) -> Iterable[tuple[int, int]]:
        """What differs from the protocol's defaults, and the table's size in any case: nginx, which adds every
        field of every response to its table otherwise, then uses none, and equal heads come as equal blocks.
        """
        yield HEADER_TABLE_SIZE, self.header_table_size
        yield ENABLE_PUSH, 0
        yield INITIAL_WINDOW_SIZE, self.stream_window
        if self.max_frame_size != MIN_MAX_FRAME:
            yield MAX_FRAME_SIZE, self.max_frame_size
        yield MAX_HEADER_LIST_SIZE, self.max_header_list_size
        if self.max_concurrent_streams != UNLIMITED:
            yield MAX_CONCURRENT_STREAMS, self.max_concurrent_streams


class PeerSettings:
    """What the peer told us last; the protocol's defaults before.

    Args:
        push: whether it may say that it takes pushed streams: a client may.
    """

    __slots__ = (
        "connect_protocol",
        "header_table_size",
        "initial_window_size",
        "least_table_size",
        "max_concurrent_streams",
        "max_frame_size",
        "max_header_list_size",
        "push",
        "received",
    )

    def __init__(self, *, push: bool = False) -> None:
        self.push = push
        self.received = False
        """Whether a SETTINGS frame has come."""
        self.header_table_size = self.least_table_size = 4096
        self.max_concurrent_streams = UNLIMITED
        self.initial_window_size = DEFAULT_WINDOW
        self.max_frame_size = MIN_MAX_FRAME
        self.max_header_list_size = UNLIMITED
        self.connect_protocol = False

    def apply(self, payload: bytes) -> None:
        """Take the payload of a SETTINGS frame, a multiple of 6 bytes, in its order.

        Raises:
            ConnectionFault: a value that RFC 9113 section 6.5.2 does not allow.
        """
        self.received = True
        for number, value in SETTING.iter_unpack(payload):
            if number == HEADER_TABLE_SIZE:
                self.header_table_size = value
                self.least_table_size = min(value, self.least_table_size)
            elif number == ENABLE_PUSH:
                if value > self.push:
                    who = "client" if self.push else "server"
                    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"a {who} sent ENABLE_PUSH={value}")
            elif number == MAX_CONCURRENT_STREAMS:
                self.max_concurrent_streams = value
            elif number == INITIAL_WINDOW_SIZE:
                if value > MAX_WINDOW:
                    raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE={value}")
                self.initial_window_size = value
            elif number == MAX_FRAME_SIZE:
                if not MIN_MAX_FRAME <= value <= MAX_MAX_FRAME:
                    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"MAX_FRAME_SIZE={value}")
                self.max_frame_size = value
            elif number == MAX_HEADER_LIST_SIZE:
                self.max_header_list_size = value
            elif number == ENABLE_CONNECT_PROTOCOL:
                if value > 1 or (self.connect_protocol and not value):
                    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"ENABLE_CONNECT_PROTOCOL={value}")
                self.connect_protocol = bool(value)

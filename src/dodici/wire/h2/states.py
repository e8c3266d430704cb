"""The states of a stream, as tables (RFC 9113 section 5.1 and 8.1).

A stream of a client is two machines side by side. What it may still send is one of SENDING and SENT. What
it has received follows this table; a pair that is missing is an error, whose kind `fault` tells:

    state      HEAD       HEAD_END  DATA   DATA_END
    AWAITING   RECEIVING  ENDED     -      -            1xx heads leave it AWAITING
    RECEIVING  -          ENDED     self   ENDED        HEAD_END here is a trailer section
    ENDED      -          -         -      -

"open" is SENDING and not ENDED, "half-closed (local)" SENT and not ENDED, "half-closed (remote)" SENDING and
ENDED, "closed" the rest; "idle" and "reserved" streams have no object.
"""

from __future__ import annotations

from .frames import ErrorCode

AWAITING, RECEIVING, ENDED = range(3)
ON_HEAD, ON_HEAD_END, ON_DATA, ON_DATA_END = range(4)
ILLEGAL = -1

NEXT: tuple[tuple[int, int, int, int], ...] = (
    (RECEIVING, ENDED, ILLEGAL, ILLEGAL),
    (ILLEGAL, ENDED, RECEIVING, ENDED),
    (ILLEGAL, ILLEGAL, ILLEGAL, ILLEGAL),
)
"""`NEXT[state][event]`."""


def fault(state: int) -> tuple[ErrorCode, str]:
    """What an ILLEGAL event in `state` is. It ends the stream, not the connection, but for ENDED."""
    if state == AWAITING:
        return ErrorCode.PROTOCOL_ERROR, "DATA before the response head"
    if state == RECEIVING:
        return ErrorCode.PROTOCOL_ERROR, "a second response head, or trailers that do not end the stream"
    return ErrorCode.STREAM_CLOSED, "a frame after END_STREAM"

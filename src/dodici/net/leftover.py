"""What a peer had sent before a write to it failed.

An event loop drops a transport whose write fails, with everything that the kernel still holds for it: the answer to a
request that was refused before its end, or the last responses of a peer that has left in order.
"""

from __future__ import annotations

import asyncio
import os
import socket

_PLAIN = ("asyncio.selector_events", "uvloop.loop")


def read_leftover(transport: asyncio.BaseTransport, limit: int) -> bytes:
    """What the socket of a lost transport still holds, up to `limit` bytes; for `connection_lost()`.

    Empty where the transport is none of the event loop's own over a plain socket: TLS's would be ciphertext.
    """
    if type(transport).__module__ not in _PLAIN:
        return b""
    parts: list[bytes] = []
    try:
        with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as left:
            while limit > 0 and (data := left.recv(limit)):
                parts.append(data)
                limit -= len(data)
    except OSError:
        pass
    return b"".join(parts)

"""The layout of frames between two members of a mesh, and their limits.

    length u32 | type u8 | stream u32 | payload           little endian; `length` counts the payload alone

Both ends may send requests, and each numbers its own, 1, 2, 3, ...: the type tells whose number a frame carries.

    of the sender's request              of the receiver's request
    REQUEST   head, and a whole body     INFO      head of an interim response
    REQ_DATA  a piece of the body        HEAD      head, and a whole body with END
    REQ_END   the body is complete       DATA      a piece of the body
    REQ_RESET given up                   END       trailers; the body is complete
    REQ_CREDIT for DATA                  RESET     why, and a text
    REQ_TEXT, REQ_BINARY, REQ_CLOSE      CREDIT    for REQ_DATA
    TRACE     before REQUEST: its trace  ACCEPT    head of the opening
                                         TEXT, BINARY, CLOSE

and, of neither: HELLO (first each way), BYE, BARRIER, BARRIER_ACK. The two upper bits of the type are flags.
"""

from __future__ import annotations

import re
import struct

from ...core.errors import LinkError
from ...core.trace import Trace, parse

FRAME = struct.Struct("<IBI")
HEADED = struct.Struct("<IBII")
"""The frame of REQUEST and HEAD: the length of the head follows, and the rest of the payload is the body."""
KIND = struct.Struct("<IB")
U32 = struct.Struct("<I")
CREDITED = struct.Struct("<IBII")

REQUEST, REQ_DATA, REQ_END, REQ_RESET, REQ_CREDIT, REQ_TEXT, REQ_BINARY, REQ_CLOSE, TRACE = range(1, 10)
INFO, HEAD, DATA, END, RESET, CREDIT, TEXT, BINARY, CLOSE, ACCEPT = range(16, 26)
HELLO, BYE, BARRIER, BARRIER_ACK = range(32, 36)

FINAL = 0x80
"""Of REQUEST and HEAD: this is all, there is no body or it is in here."""
WEBSOCKET = 0x40
"""Of REQUEST: it opens a WebSocket."""
MORE = 0x80
"""Of messages: the next frame of this stream goes on with the same message."""

MAX_DATA = 64 * 1024
"""Bytes of one piece of a body or message, and of the text of a RESET."""
MAX_HEAD = 256 * 1024
INLINE = 32 * 1024
"""Bytes of a body that may travel in the frame of its head."""
WINDOW = 256 * 1024
"""Bytes of a body, or of messages, that may be on their way without having been consumed."""
PORTION = WINDOW // 2
"""Bytes that have to be consumed before their credit is given back."""
MAX_STREAM = 2**32 - 1
MESSAGE_COST = FRAME.size
"""What a frame of a message takes of the window beside its bytes, so that empty ones are not free."""

MAX_FRAME = FRAME.size + 4 + MAX_HEAD + INLINE

REFUSED, EXITED, APP_ERROR, ABORTED = range(1, 5)
"""Kinds of RESET: no app has seen the request; the worker gives it up; the app raised before its head; the body
was given up.
"""

LIMITS: list[int] = [-1] * 256
"""The longest payload of each type, flags included; -1 where there is no such frame."""
for _kind in (
    REQ_DATA,
    DATA,
    RESET,
    *(k | more for k in (REQ_TEXT, REQ_BINARY, TEXT, BINARY) for more in (0, MORE)),
):
    LIMITS[_kind] = MAX_DATA
for _kind in (INFO, END, ACCEPT):
    LIMITS[_kind] = MAX_HEAD
for _kind in (REQUEST, REQUEST | FINAL, REQUEST | WEBSOCKET, HEAD, HEAD | FINAL):
    LIMITS[_kind] = 4 + MAX_HEAD + INLINE
for _kind in (REQ_END, REQ_RESET, BYE, BARRIER, BARRIER_ACK):
    LIMITS[_kind] = 0
for _kind in (REQ_CREDIT, CREDIT):
    LIMITS[_kind] = 4
for _kind in (REQ_CLOSE, CLOSE):
    LIMITS[_kind] = 2 + 123  # RFC 6455 section 5.5.1
LIMITS[HELLO] = 512
_PARENT, _SPAN, _LONGEST_STATE = 55, 16, 4096
_SPAN_AT = 36
"""Where the id of a span begins in a `traceparent`."""
_FIELD = re.compile(r"[\t\x20-\x7e]*").fullmatch
LIMITS[TRACE] = _PARENT + _SPAN + _LONGEST_STATE

_MAGIC = b"dodici mesh\0"
VERSION = 2
_U16 = struct.Struct("<H")


def hello(member_id: str) -> bytes:
    """The frame that says who speaks."""
    payload = _MAGIC + _U16.pack(VERSION) + member_id.encode()
    return FRAME.pack(len(payload), HELLO, 0) + payload


def read_hello(payload: bytes) -> str:
    """The member id in a HELLO.

    Raises:
        LinkError: it is none, or speaks another version.
    """
    size = len(_MAGIC)
    if payload[:size] != _MAGIC or len(payload) < size + 2:
        raise LinkError(f"the peer does not speak the protocol of the mesh: {payload[:32]!r}")
    (version,) = _U16.unpack_from(payload, size)
    if version != VERSION:
        raise LinkError(
            f"the peer speaks version {version} of the mesh's protocol, this is version {VERSION}"
        )
    try:
        return payload[size + 2 :].decode()
    except UnicodeDecodeError:
        raise LinkError("the peer's member id is not UTF-8") from None


def reset(kind: int, texts: tuple[str, ...]) -> bytes:
    """The payload of a RESET. Texts that are too long lose their beginning: a traceback's end says what happened."""
    encoded = [text.replace("\0", "\\0").encode("utf-8", "backslashreplace") for text in texts]
    room = (MAX_DATA - 1) // max(1, len(encoded)) - 1
    return bytes((kind,)) + b"\0".join([text[-room:] for text in encoded])


def read_reset(payload: bytes) -> tuple[int, list[str]]:
    """Its kind and texts.

    Raises:
        LinkError: there is no such kind.
    """
    kind = payload[0] if payload else 0
    if not REFUSED <= kind <= ABORTED:
        raise LinkError(f"RESET of unknown kind {kind}")
    return kind, payload[1:].decode("utf-8", "replace").split("\0")


def trace(traceparent: str, span_id: str, tracestate: str) -> bytes:
    """The payload of a TRACE: what the app sees, and the span of the member that asks. A `tracestate` that is too long
    (section 3.3.1.5 of W3C Trace Context), or no value of a field, is left out.
    """
    state = tracestate if len(tracestate) <= _LONGEST_STATE and _FIELD(tracestate) else ""
    return f"{traceparent}{span_id}{state}".encode("ascii")


def trace_of(traceparent: bytes, tracestate: bytes) -> bytes | None:
    """The payload of a TRACE that says what two fields do, to the letter; None if it cannot."""
    parent, state = traceparent.decode("latin-1"), tracestate.decode("latin-1")
    if len(parent) != _PARENT or parse(parent) is None or len(state) > _LONGEST_STATE or not _FIELD(state):
        return None
    return trace(parent, parent[_SPAN_AT : _SPAN_AT + _SPAN], state)


def read_trace(payload: bytes) -> Trace:
    """The place of the member that asks.

    Raises:
        LinkError: it is none.
    """
    text = payload.decode("latin-1")
    carried, span_id, state = text[:_PARENT], text[_PARENT : _PARENT + _SPAN], text[_PARENT + _SPAN :]
    found = parse(carried, state)
    if found is None or len(span_id) != _SPAN or _FIELD(state) is None:
        raise LinkError(f"malformed TRACE {payload[:80]!r}")
    return Trace(found.trace_id, span_id, found.flags, found.tracestate, None, carried)


def close(code: int, reason: str) -> bytes:
    """The payload of a CLOSE (RFC 6455 section 5.5.1)."""
    return _U16.pack(code) + reason.encode("utf-8", "replace")[:123]


def read_close(payload: bytes) -> tuple[int, str]:
    """Its code and reason.

    Raises:
        LinkError: it has no code.
    """
    if len(payload) < 2:
        raise LinkError("CLOSE without a code")
    return _U16.unpack_from(payload)[0], payload[2:].decode("utf-8", "ignore")

"""The engine of a link: bytes in, calls to streams and to a sink; and an outbox of bytes.

It owns the two tables of streams, `ours` and `theirs`, and with them what a frame may mean at this moment. A number
that is in no table is that of a stream which has ended, if it is not above the highest that was used: its frames
were on their way, and are ignored. Everything else that is not as `frames` says is a `LinkError`. It ends the
link, and the engine does nothing more.

Frames are read out of one buffer that holds the longest of them. What is given to streams are copies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from ...core.errors import LinkError
from ...core.trace import Trace
from . import frames as f
from .frames import CREDITED, FRAME, HEADED, LIMITS, PORTION, U32, WINDOW
from .heads import RequestHead, decode_request, decode_response, decode_trailers
from .outbox import Outbox
from .streams import Stream

_HEADED_SIZE = 4
_CAPACITY = max(f.MAX_FRAME, 256 * 1024) + 64 * 1024
"""Of the buffer: pages of it that were never written to take no memory."""

_Handler: TypeAlias = Callable[[int, int, memoryview, int, int], None]


class LinkSink(Protocol):
    """What an engine tells of the link as a whole."""

    def on_hello(self, member_id: str) -> None: ...
    def stream_for(self, number: int, head: RequestHead, *, websocket: bool) -> Stream:
        """A request has arrived. Returns the stream that takes it, which is told with `on_request`."""

    def on_barrier(self, number: int) -> None: ...
    def on_barrier_ack(self, number: int) -> None: ...
    def on_bye(self) -> None: ...


class Engine:
    """The protocol of one link, for one of its ends."""

    __slots__ = (
        "_buffer",
        "_end",
        "_handlers",
        "_sink",
        "_trace",
        "closed",
        "last",
        "last_heard",
        "ours",
        "outbox",
        "theirs",
    )

    def __init__(self, sink: LinkSink) -> None:
        self._sink = sink
        self._buffer = memoryview(bytearray(_CAPACITY))
        self._end = 0
        self._trace: Trace | None = None
        self.ours: dict[int, Stream] = {}
        self.theirs: dict[int, Stream] = {}
        self.last = 0
        """The number of the latest request of ours."""
        self.last_heard = 0
        self.outbox = Outbox()
        self.closed = False
        self._handlers: list[_Handler] = [self._before_hello] * 256
        self._handlers[f.HELLO] = self._on_hello

    # -- reading ---------------------------------------------------------------------------------------

    def get_buffer(self) -> memoryview:
        """Where to put what arrives; never empty."""
        return self._buffer[self._end :]

    def received(self, count: int) -> None:
        """So much was put into the buffer.

        Raises:
            LinkError: the peer broke the protocol; the link is to be closed.
        """
        end = self._end + count
        buffer = self._buffer
        done = self._parse(buffer, end)
        self._end = left = end - done
        if left and done:
            buffer[:left] = buffer[done:end]

    def feed(self, data: bytes | memoryview) -> None:
        """Take bytes that are in memory already.

        Raises:
            LinkError: as `received`.
        """
        view = memoryview(data)
        if not self._end:
            view = view[self._parse(view, len(view)) :]
        while view and not self.closed:
            room = self.get_buffer()
            count = min(len(room), len(view))
            room[:count] = view[:count]
            view = view[count:]
            self.received(count)

    def finish(self) -> None:
        """The peer has ended the connection.

        Raises:
            LinkError: in the middle of a frame.
        """
        if self._end:
            raise LinkError("the link was cut in the middle of a frame")

    def close(self) -> None:
        """Do nothing more."""
        self.closed = True
        for stream in (*self.ours.values(), *self.theirs.values()):
            stream.gone = True
        self.ours.clear()
        self.theirs.clear()

    def _parse(self, view: memoryview, end: int) -> int:
        """Read whole frames; how far that went."""
        unpack, limits, handlers = FRAME.unpack_from, LIMITS, self._handlers
        start = 0
        while end - start >= 9 and not self.closed:
            length, kind, number = unpack(view, start)
            if length > limits[kind]:
                raise _bad_length(kind, length)
            body = start + 9
            start = body + length
            if start > end:
                return body - 9
            handlers[kind](kind, number, view, body, start)
        return start

    def _before_hello(self, kind: int, number: int, view: memoryview, start: int, stop: int) -> None:
        raise LinkError(f"frame of type {kind:#04x} before HELLO")

    def _on_hello(self, kind: int, number: int, view: memoryview, start: int, stop: int) -> None:
        member_id = f.read_hello(bytes(view[start:stop]))
        handlers = self._handlers
        handlers[:] = [self._second_hello] * 256
        handlers[f.REQUEST] = handlers[f.REQUEST | f.WEBSOCKET] = self._on_request
        handlers[f.REQUEST | f.FINAL] = self._on_whole_request
        handlers[f.TRACE] = self._on_trace
        handlers[f.REQ_DATA] = self._on_request_data
        handlers[f.REQ_END] = self._on_request_end
        handlers[f.REQ_RESET] = self._on_request_reset
        handlers[f.REQ_CREDIT] = handlers[f.CREDIT] = self._on_credit
        handlers[f.INFO] = self._on_info
        handlers[f.HEAD] = self._on_head
        handlers[f.HEAD | f.FINAL] = self._on_whole_response
        handlers[f.DATA] = self._on_data
        handlers[f.END] = self._on_end
        handlers[f.RESET] = self._on_reset
        handlers[f.ACCEPT] = self._on_accept
        for base in (f.REQ_TEXT, f.REQ_BINARY, f.TEXT, f.BINARY):
            handlers[base] = handlers[base | f.MORE] = self._on_message
        handlers[f.REQ_CLOSE] = handlers[f.CLOSE] = self._on_close
        handlers[f.BARRIER] = self._on_barrier
        handlers[f.BARRIER_ACK] = self._on_barrier_ack
        handlers[f.BYE] = self._on_bye
        self._sink.on_hello(member_id)

    def _second_hello(self, kind: int, number: int, view: memoryview, start: int, stop: int) -> None:
        raise LinkError("a second HELLO")

    # -- requests of the peer's ------------------------------------------------------------------------

    def _on_request(self, kind: int, number: int, view: memoryview, start: int, stop: int) -> None:
        if _split(view, start, stop) != stop:
            raise LinkError("a REQUEST whose head is not the whole of it")
        self._open(number, bytes(view[start + 4 : stop]), None, bool(kind & f.WEBSOCKET))

    def _on_whole_request(self, kind: int, number: int, view: memoryview, start: int, stop: int) -> None:
        body = _split(view, start, stop)
        self._open(number, bytes(view[start + 4 : body]), bytes(view[body:stop]), False)

    def _on_trace(self, kind: int, number: int, view: memoryview, start: int, stop: int) -> None:
        if number != self.last_heard + 1 or self._trace is not None:
            raise LinkError(f"TRACE of request {number} after request {self.last_heard}")
        self._trace = f.read_trace(bytes(view[start:stop]))

    def _open(self, number: int, block: bytes, body: bytes | None, websocket: bool) -> None:
        if number != self.last_heard + 1:
            raise LinkError(f"request {number} after request {self.last_heard}")
        head = decode_request(block)
        self.last_heard = number
        self.theirs[number] = stream = self._sink.stream_for(number, head, websocket=websocket)
        if self._trace is not None:
            stream.trace = self._trace
            self._trace = None
        if body is not None:
            stream.heard = 1
        stream.on_request(body)

    def _on_request_data(self, kind: int, number: int, view: memoryview, start: int, stop: int) -> None:
        stream = self._their(number)
        if stream is not None:
            if stream.heard:
                raise LinkError(f"body of request {number} behind its end")
            self._take(stream, stop - start)
            stream.on_data(bytes(view[start:stop]))

    def _on_request_end(self, kind: int, number: int, view: memoryview, start: int, stop: int) -> None:
        stream = self._their(number)
        if stream is not None:
            if stream.heard:
                raise LinkError(f"request {number} ends twice")
            stream.heard = 1
            if stream.sent:
                self.forget(stream)
            stream.on_request_end()

    def _on_request_reset(self, kind: int, number: int, view: memoryview, start: int, stop: int) -> None:
        stream = self._their(number)
        if stream is not None:
            self.forget(stream)
            stream.on_cancelled()

    def _their(self, number: int) -> Stream | None:
        stream = self.theirs.get(number)
        if stream is None and not 0 < number <= self.last_heard:
            raise LinkError(f"request {number} was never made")
        return stream

    # -- requests of ours ------------------------------------------------------------------------------

    def _on_info(self, kind: int, number: int, view: memoryview, start: int, stop: int) -> None:
        stream = self._our(number)
        if stream is not None:
            head = decode_response(bytes(view[start:stop]))
            if stream.heard or not 100 <= head.status_code < 200:
                raise LinkError(f"an interim response {head.status_code} to request {number}")
            stream.on_informational(head)

    def _on_head(self, kind: int, number: int, view: memoryview, start: int, stop: int) -> None:
        stream = self._our(number)
        if stream is not None:
            if _split(view, start, stop) != stop:
                raise LinkError("a HEAD that is longer than its head")
            head = decode_response(bytes(view[start + 4 : stop]))
            self._answered(stream, head.status_code)
            stream.on_head(head)

    def _on_whole_response(self, kind: int, number: int, view: memoryview, start: int, stop: int) -> None:
        stream = self._our(number)
        if stream is not None:
            body = _split(view, start, stop)
            head = decode_response(bytes(view[start + 4 : body]))
            self._answered(stream, head.status_code)
            self._ended(stream)
            stream.on_response(head, bytes(view[body:stop]))

    def _on_data(self, kind: int, number: int, view: memoryview, start: int, stop: int) -> None:
        stream = self._our(number)
        if stream is not None:
            if not stream.heard:
                raise LinkError(f"body of response {number} before its head")
            self._take(stream, stop - start)
            stream.on_data(bytes(view[start:stop]))

    def _on_end(self, kind: int, number: int, view: memoryview, start: int, stop: int) -> None:
        stream = self._our(number)
        if stream is not None:
            if not stream.heard:
                raise LinkError(f"response {number} ends before its head")
            trailers = decode_trailers(bytes(view[start:stop]))
            self._ended(stream)
            stream.on_end(trailers)

    def _on_reset(self, kind: int, number: int, view: memoryview, start: int, stop: int) -> None:
        why, texts = f.read_reset(bytes(view[start:stop]))
        stream = self._our(number)
        if stream is not None:
            self.forget(stream)
            stream.on_reset(why, texts)

    def _on_accept(self, kind: int, number: int, view: memoryview, start: int, stop: int) -> None:
        stream = self._our(number)
        if stream is not None:
            head = decode_response(bytes(view[start:stop]))
            if head.status_code != 101:
                raise LinkError(f"a WebSocket accepted with {head.status_code}")
            self._answered(stream, 101)
            stream.on_accept(head)

    def _our(self, number: int) -> Stream | None:
        stream = self.ours.get(number)
        if stream is None and not 0 < number <= self.last:
            raise LinkError(f"an answer to request {number}, which was never made")
        return stream

    def _answered(self, stream: Stream, status: int) -> None:
        if stream.heard or (100 <= status < 200 and status != 101):
            raise LinkError(f"response {status} to request {stream.id}, which has {stream.heard or 'none'}")
        stream.heard = status

    def _ended(self, stream: Stream) -> None:
        # The peer waits for the end of a request even if it has answered.
        if not stream.sent:
            self.outbox.write(f.REQ_RESET, stream.id)
        self.forget(stream)

    # -- of both ---------------------------------------------------------------------------------------

    def _on_credit(self, kind: int, number: int, view: memoryview, start: int, stop: int) -> None:
        stream = self._our(number) if kind == f.CREDIT else self._their(number)
        if stop - start != 4:
            raise LinkError("CREDIT without a number")
        if stream is not None:
            stream.credit += U32.unpack_from(view, start)[0]
            if stream.credit > WINDOW:
                raise LinkError(f"credit for more than was sent of request {number}")
            self.outbox.schedule(stream)
            stream.on_credit()

    def _on_message(self, kind: int, number: int, view: memoryview, start: int, stop: int) -> None:
        base = kind & 0x3F
        stream = self._their(number) if base in (f.REQ_TEXT, f.REQ_BINARY) else self._our(number)
        if stream is not None:
            self._take(stream, stop - start + f.MESSAGE_COST)
            text = base in (f.REQ_TEXT, f.TEXT)
            stream.on_message(bytes(view[start:stop]), text=text, more=bool(kind & f.MORE))

    def _on_close(self, kind: int, number: int, view: memoryview, start: int, stop: int) -> None:
        code, reason = f.read_close(bytes(view[start:stop]))
        stream = self._their(number) if kind == f.REQ_CLOSE else self._our(number)
        if stream is not None:
            stream.on_close(code, reason)

    def _take(self, stream: Stream, size: int) -> None:
        stream.inbound -= size
        if stream.inbound < 0 or not size:
            raise LinkError(
                f"request {stream.id}: {-stream.inbound} bytes beyond its credit"
                if size
                else "an empty piece of a body"
            )

    def _on_barrier(self, kind: int, number: int, view: memoryview, start: int, stop: int) -> None:
        self._sink.on_barrier(number)

    def _on_barrier_ack(self, kind: int, number: int, view: memoryview, start: int, stop: int) -> None:
        self._sink.on_barrier_ack(number)

    def _on_bye(self, kind: int, number: int, view: memoryview, start: int, stop: int) -> None:
        self._sink.on_bye()

    # -- writing ---------------------------------------------------------------------------------------

    def open(
        self, stream: Stream, prefix: bytes, rest: bytes, *, whole: bool, trace: bytes | None = None
    ) -> None:
        """Send a request whose frame was made by `request_frame`; the stream has the next number.

        `trace` is made by `frames.trace`: a frame of its own, since the request's is remembered and sent again.
        """
        self.last = stream.id
        self.ours[stream.id] = stream
        stream.sent = whole
        outbox = self.outbox
        frame = prefix + U32.pack(stream.id) + rest
        if trace is not None:
            frame = FRAME.pack(len(trace), f.TRACE, stream.id) + trace + frame
        outbox.parts.append(frame)
        outbox.size += len(frame)

    def end(self, stream: Stream, trailers: bytes = b"") -> None:
        """Our body is complete."""
        if not stream.gone:
            self.outbox.end(stream, trailers)
            if stream.sent:
                self.body_sent(stream)

    def body_sent(self, stream: Stream) -> None:
        """The end of our body is on its way."""
        if not stream.ours and stream.heard:
            self.forget(stream)

    def head(self, stream: Stream, block: bytes) -> None:
        """Send the head of a response whose body follows."""
        size = len(block)
        outbox = self.outbox
        outbox.parts.append(HEADED.pack(size + 4, f.HEAD, stream.id, size) + block)
        outbox.size += size + 13

    def respond(self, stream: Stream, block: bytes, body: bytes) -> None:
        """Send a whole response in one frame."""
        size = len(block)
        frame = HEADED.pack(size + 4 + len(body), f.HEAD | f.FINAL, stream.id, size) + block + body
        outbox = self.outbox
        outbox.parts.append(frame)
        outbox.size += len(frame)
        stream.sent = True
        if stream.heard:
            stream.gone = True
            del self.theirs[stream.id]

    def reset(self, stream: Stream, kind: int, *texts: str) -> None:
        """Give a request of the peer's up."""
        if not stream.gone:
            self.forget(stream)
            self.outbox.write(f.RESET, stream.id, f.reset(kind, texts))

    def cancel(self, stream: Stream) -> None:
        """Give a request of ours up."""
        if not stream.gone:
            self.forget(stream)
            self.outbox.write(f.REQ_RESET, stream.id)

    def consumed(self, stream: Stream, count: int) -> bool:
        """Bytes that had arrived were used. True if credit for them was written."""
        stream.consumed += count
        if stream.consumed < PORTION or stream.gone:
            return False
        grant, stream.consumed = stream.consumed, 0
        stream.inbound += grant
        frame = CREDITED.pack(4, f.REQ_CREDIT if stream.ours else f.CREDIT, stream.id, grant)
        self.outbox.parts.append(frame)
        self.outbox.size += len(frame)
        return True

    def forget(self, stream: Stream) -> None:
        """The stream is over for both sides."""
        stream.gone = True
        stream.queue = None
        stream.queued = 0
        (self.ours if stream.ours else self.theirs).pop(stream.id, None)


def request_frame(
    block: bytes, body: bytes | memoryview | None, *, websocket: bool = False
) -> tuple[bytes, bytes]:
    """What comes before and behind the number in the frame of a request: all that can be kept for the next time.

    Args:
        block: the head.
        body: the whole body, at most INLINE bytes; None if it follows.
        websocket: whether it opens a WebSocket.
    """
    kind = f.REQUEST | f.WEBSOCKET if websocket else f.REQUEST if body is None else f.REQUEST | f.FINAL
    rest = U32.pack(len(block)) + block + (body or b"")
    return f.KIND.pack(len(rest), kind), rest


def _split(view: memoryview, start: int, stop: int) -> int:
    """Where the head ends that begins a payload."""
    if stop - start >= _HEADED_SIZE:
        end: int = start + 4 + U32.unpack_from(view, start)[0]
        if end <= stop and stop - end <= f.INLINE:
            return end
    raise LinkError("a frame that is shorter than its head, or a body too long for it")


def _bad_length(kind: int, length: int) -> LinkError:
    if LIMITS[kind] < 0:
        return LinkError(f"unknown frame type {kind:#04x}")
    return LinkError(f"a frame of type {kind:#04x} with {length} bytes, {LIMITS[kind]} are allowed")

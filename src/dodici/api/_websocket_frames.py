"""`FrameChannel`: a WebSocket's messages as RFC 6455 frames on the transport that an upgrade hands over.

The channel is the transport's protocol, without a task; `Engine` knows the frames. It owns three bounds:

* What waits unread. Arrived bytes are fed to the engine in small steps, and no further once `HIGH_WATER` is reached;
  then the transport is paused. A step of compressed bytes is so small that what it can inflate to is bounded, too.
* What waits unsent. A send waits until the transport is below its mark, then writes its whole message. So a send that
  is cancelled has sent nothing.
* Pongs. A peer that pings and does not read is not read from either.

How it ends: `close_code` is set once, by the peer's close frame, by a failure here, or by the loss of the connection.
From then on the transport has `close_timeout` seconds to be closed by the peer, as a client should wait for (RFC 6455
section 7.1.1), before it is aborted; the peer of an HTTP/2 stream has a second. After `close()` nothing is kept of what comes, so a peer cannot delay its answer.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final, NamedTuple

from websockets.protocol import State

from ..core.errors import InvalidArgumentError, WebSocketClosedError, socket_error
from ..core.headers import Headers
from ._websocket_engine import Engine, negotiate

if TYPE_CHECKING:
    from websockets.extensions import Extension

    from ..net.upgraded import UpgradedSocket

__all__ = ["ChannelSettings", "FrameChannel", "negotiate"]

HIGH_WATER: Final = 64 * 1024
"""Bytes of messages that may wait unread before the peer is held up; a message is taken whole all the same."""
_LOW_WATER = HIGH_WATER // 2
_OVERHEAD = 256  # bytes that each waiting message counts for besides its own
_STEP = 64 * 1024
_COMPRESSED_STEP = 4096  # deflate inflates up to a thousandfold
_ECHO_LIMIT = 64 * 1024
_STREAM_PATIENCE = 1.0  # seconds for the peer to read a close frame and end the stream; then it is reset
_ANSWERED_PATIENCE = 0.1  # seconds to end the stream, for a peer that has answered a close frame


class ChannelSettings(NamedTuple):
    """What `websocket()` was told; seconds and bytes."""

    max_message_size: int | None
    ping_interval: float | None
    ping_timeout: float | None
    close_timeout: float


class FrameChannel(asyncio.Protocol):
    """See `MessageChannel`, whose promises it keeps over a network."""

    def __init__(
        self,
        socket: UpgradedSocket,
        headers: Headers,
        subprotocol: str | None,
        extensions: list[Extension],
        settings: ChannelSettings,
        loop: asyncio.AbstractEventLoop,
        *,
        tunnel: bool = False,
    ) -> None:
        """`tunnel`: the transport is a stream of a connection that goes on."""
        self.headers = headers
        self.subprotocol = subprotocol
        self.close_code: int | None = None
        self.close_reason = ""
        self._settings = settings
        self._tunnel = tunnel
        self._loop = loop
        self._socket = socket  # its StreamWriter would close the transport if it went first
        self._transport = socket.transport
        self._engine = Engine(extensions, settings.max_message_size, self._on_message, self._on_pong)
        self._step = _COMPRESSED_STEP if extensions else _STEP

        self._messages: deque[str | bytes] = deque()
        self._unread = 0
        self._unfed = bytearray()
        self._eof = False
        self._held = False  # the transport is paused
        self._reader: asyncio.Future[None] | None = None

        self._may_send = asyncio.Event()
        self._may_send.set()
        self._congested = False
        self._echoed = 0
        self._pieces_sent: asyncio.Event | None = None

        self._pings: dict[bytes, tuple[asyncio.Future[float], float]] = {}
        self._heard_at = self._pinged_at = loop.time()
        self._keepalive: asyncio.TimerHandle | None = None
        self._patience: asyncio.TimerHandle | None = None

        self._close_called = self._dropping = False
        self._failure: BaseException | None = None
        self._lost = False
        self._gone = asyncio.Event()
        self._begin()

    def _begin(self) -> None:
        self._transport.set_protocol(self)
        self._unfed += _read_ahead(self._socket.reader)
        self._eof = self._socket.reader.at_eof()
        self._pump()
        if self._settings.ping_interval is not None and self.close_code is None:
            self._keepalive = self._loop.call_later(self._settings.ping_interval, self._send_keepalive)

    # -- the transport's side --------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        if self._unfed or len(data) > self._step or self._full:
            self._unfed += data
        else:
            self._engine.receive_data(data)
            self._flush(echo=True)
        self._pump()

    def eof_received(self) -> None:
        self._eof = True
        self._pump()

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = self._eof = True
        self._congested = False
        self._echoed = 0
        if self.close_code is None:
            self._failure = error
        for timer in (self._patience, self._keepalive):
            if timer is not None:
                timer.cancel()
        self._pump()
        self._may_send.set()
        self._gone.set()

    def pause_writing(self) -> None:
        self._congested = True
        self._may_send.clear()

    def resume_writing(self) -> None:
        self._congested = False
        self._echoed = 0
        self._may_send.set()
        self._go_on()

    # -- reading ---------------------------------------------------------------------------------------

    @property
    def _full(self) -> bool:
        if self._echoed > _ECHO_LIMIT:
            return True
        return self._unread >= HIGH_WATER and not self._dropping

    def _pump(self) -> None:
        """Feed the engine as far as there is room, and then the end if it has come."""
        engine, unfed, step = self._engine, self._unfed, self._step
        while unfed and not self._full:
            engine.receive_data(unfed[:step])
            del unfed[:step]
            self._flush(echo=True)
        if self._eof and not unfed:
            engine.receive_eof()
            self._flush()
        self._settle()
        if not self._lost and self._held != (full := self._full) and not self._transport.is_closing():
            self._held = full
            if full:
                self._transport.pause_reading()
            else:
                self._heard_at = self._loop.time()  # nothing could be heard meanwhile
                self._transport.resume_reading()

    def _go_on(self) -> None:
        if self._held or self._unfed:
            self._pump()

    def _on_message(self, message: str | bytes) -> None:
        if self._dropping:
            return
        self._messages.append(message)
        self._unread += len(message) + _OVERHEAD
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def receive(self) -> str | bytes:
        """See `MessageChannel.receive`."""
        while not self._messages:
            if self.close_code is not None:
                raise self._closed_error()
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        message = self._messages.popleft()
        self._unread -= len(message) + _OVERHEAD
        if self._unread <= _LOW_WATER:
            self._go_on()
        return message

    # -- writing ---------------------------------------------------------------------------------------

    def _flush(self, *, echo: bool = False) -> None:
        for data in self._engine.data_to_send():
            if self._lost or self._transport.is_closing():
                continue
            if not data:
                self._transport.close()
                continue
            self._transport.write(data)
            if echo and self._congested:
                self._echoed += len(data)

    async def _ready(self) -> None:
        """Wait for room.

        Raises:
            WebSocketClosedError: closed, by whomever.
        """
        while not self._may_send.is_set() and self.close_code is None:
            await self._may_send.wait()
        if self.close_code is not None or self._lost or self._engine.state is not State.OPEN:
            raise self._closed_error()

    async def send(self, message: str | bytes) -> None:
        """See `MessageChannel.send`."""
        await self._ready()
        if isinstance(message, str):
            self._engine.send_text(message.encode())
        else:
            self._engine.send_binary(message)
        self._flush()

    async def send_pieces(self, pieces: AsyncIterator[str | bytes]) -> None:
        """One message in as many frames as there are pieces. If it cannot be finished, the connection fails (1011).

        Raises:
            InvalidArgumentError: `str` and `bytes` in one message.
            WebSocketClosedError: closed, by whomever.
        """
        kind: type | None = None
        self._pieces_sent = asyncio.Event()
        try:
            async for piece in pieces:
                await self._ready()
                data = piece.encode() if isinstance(piece, str) else piece
                if kind is None:
                    (self._engine.send_text if isinstance(piece, str) else self._engine.send_binary)(
                        data, False
                    )
                    kind = str if isinstance(piece, str) else bytes
                elif isinstance(piece, kind):
                    self._engine.send_continuation(data, False)
                else:
                    raise InvalidArgumentError("the pieces of a message must be all str or all bytes")
                self._flush()
            if kind is not None:
                await self._ready()
                self._engine.send_continuation(b"", True)
                self._flush()
        except BaseException:
            if kind is not None:
                self._fail(1011, "a message was not finished")
            raise
        finally:
            self._pieces_sent.set()
            self._pieces_sent = None

    async def ping(self) -> float:
        """The seconds that a ping and its pong take."""
        await self._ready()
        payload = os.urandom(4)
        future: asyncio.Future[float] = self._loop.create_future()
        self._pings[payload] = future, self._loop.time()
        self._engine.send_ping(payload)
        self._flush()
        try:
            return await future
        finally:
            self._pings.pop(payload, None)

    def _on_pong(self, payload: bytes) -> None:
        if payload not in self._pings:
            return
        # A peer may leave out the answers to all pings but the latest (RFC 6455 section 5.5.3).
        now = self._loop.time()
        for sent, (future, sent_at) in list(self._pings.items()):
            if not future.done():
                future.set_result(now - sent_at)
            if sent == payload:
                return

    # -- the end ---------------------------------------------------------------------------------------

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """See `MessageChannel.close`."""
        if not self._close_called and self.close_code is None:
            self._close_called = True
            self._await_end()
            if self._pieces_sent is not None:
                # In the middle of a message a close frame would be the peer's to puzzle over.
                await self._pieces_sent.wait()
            self._dropping = True
            if self._engine.state is State.OPEN:
                self._engine.send_close(code, reason)
                self._flush()
            self._may_send.set()
            self._go_on()
        await self._gone.wait()

    def abort(self) -> None:
        """See `MessageChannel.abort`."""
        self._messages.clear()
        self._unfed.clear()
        self._unread = 0
        self._conclude(1006, "")
        self._transport.abort()

    def _await_end(self) -> None:
        """Give the peer time to close the connection; a stream less, once it is of no more use."""
        if self._patience is not None:
            self._patience.cancel()
        if not self._lost:
            patience = self._settings.close_timeout
            if self._tunnel and self.close_code is not None:
                # Some servers never end the stream, and fall over the client's end of it; a reset is none to them.
                patience = min(patience, _ANSWERED_PATIENCE if self._close_called else _STREAM_PATIENCE)
            self._patience = self._loop.call_later(patience, self._give_up)

    def _give_up(self) -> None:
        self._conclude(1006, "")
        self._transport.abort()
        self._gone.set()

    def _fail(self, code: int, reason: str) -> None:
        if self._engine.state is State.OPEN:
            self._engine.fail(code, reason)
            self._flush()
            self._conclude(code, reason)

    def _settle(self) -> None:
        """Look whether this is the end now, and how it came."""
        engine = self._engine
        error = engine.parser_exc
        if self.close_code is not None:
            return
        if error is not None and not isinstance(error, EOFError):
            sent = engine.close_sent
            self._failure = error
            ours = sent is not None and not self._close_called
            self._conclude(*((int(sent.code), sent.reason) if ours and sent is not None else (1006, "")))
        elif engine.close_rcvd is not None:
            self._conclude(int(engine.close_rcvd.code), engine.close_rcvd.reason)
        elif error is not None:
            self._conclude(1006, "")

    def _conclude(self, code: int, reason: str) -> None:
        if self.close_code is not None:
            return
        self.close_code = code
        self.close_reason = reason
        self._dropping = True
        if self._keepalive is not None:
            self._keepalive.cancel()
        self._await_end()
        self._may_send.set()
        self._wake()
        for future, _ in self._pings.values():
            if not future.done():
                future.set_exception(self._closed_error())

    def _closed_error(self) -> WebSocketClosedError:
        """A new one each time: one that is raised twice has a tangled traceback."""
        code, reason = self.close_code, self.close_reason
        engine = self._engine
        if code is None:
            sent = engine.close_sent
            code, reason = (int(sent.code), sent.reason) if sent is not None else (1006, "")
            text = "the WebSocket is being closed"
        elif engine.close_rcvd is not None and engine.parser_exc is None:
            text = "the WebSocket was closed"
        elif code == 1006:
            text = "the WebSocket's connection was lost"
        else:
            text = "the WebSocket has failed"
        error = WebSocketClosedError(
            f"{text}: {code} {reason}".rstrip(), close_code=code, close_reason=reason
        )
        cause = self._failure
        error.__cause__ = socket_error(cause, "connection lost") if isinstance(cause, OSError) else cause
        return error

    # -- is anybody there? -----------------------------------------------------------------------------

    def _send_keepalive(self) -> None:
        interval, timeout = self._settings.ping_interval, self._settings.ping_timeout
        if interval is None or self._engine.state is not State.OPEN:
            return
        self._pinged_at = self._loop.time()
        if not self._congested or timeout is not None:
            self._engine.send_ping(os.urandom(4))
            self._flush()
        if timeout is None:
            self._keepalive = self._loop.call_later(interval, self._send_keepalive)
        else:
            self._keepalive = self._loop.call_later(timeout, self._check_keepalive, interval, timeout)

    def _check_keepalive(self, interval: float, timeout: float) -> None:
        # Anything that has come shows that the peer lives; while nothing is read, nothing can be known.
        if self._heard_at < self._pinged_at and not self._held:
            self._fail(1011, "keepalive ping timeout")
            return
        self._keepalive = self._loop.call_later(max(interval - timeout, 0), self._send_keepalive)


def _read_ahead(reader: asyncio.StreamReader) -> bytes:
    """What a reader holds. Its `read()` returns without a pause as long as there is something."""
    held = b""
    while not reader.at_eof():
        reading = reader.read(1 << 20)
        try:
            reading.send(None)
        except StopIteration as done:
            held += done.value
        except OSError:
            break  # the transport will say so itself
        else:
            reading.close()
            break
    return held

"""Transports that do not leave the machine: a connected socket, or a pair of queues inside one process.

`queue_pair` joins two event loops, of one thread or of two, by two queues of bytes. Each end looks like an asyncio
transport to its protocol. What one end writes lies in the other's inbox until the other's loop takes all of it at
once: so a batch of writes costs one wake-up. The inbox is the only thing that two threads touch; its lock guards
the bytes, their count, and whether a wake-up is under way. Who writes into an inbox above its high-water mark is
told to pause, and to resume when it was emptied; a reader that pauses leaves its inbox as it is.

An end is for the thread of its loop. `abort()` alone may be called from any.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from ..core.trace import current

if TYPE_CHECKING:
    import socket

_HIGH_WATER = 128 * 1024

Loop = asyncio.AbstractEventLoop


class LocalProtocol(Protocol):
    """What reads from either kind of transport."""

    def connection_made(self, transport: Any) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def eof_received(self) -> bool | None: ...
    def data_received(self, data: bytes) -> None:
        """Of queues alone: sockets read into the protocol's buffer."""

    def get_buffer(self, sizehint: int) -> memoryview: ...
    def buffer_updated(self, nbytes: int) -> None: ...


async def open_local(
    sock: socket.socket, protocol_factory: Callable[[], LocalProtocol], loop: Loop
) -> asyncio.Transport:
    """Take over a connected unix stream socket, such as one of `socket.socketpair()`; it is closed if that fails.

    Raises:
        OSError: the loop does not take it.
    """
    try:
        sock.setblocking(False)
        transport, _ = await loop.create_unix_connection(protocol_factory, sock=sock)  # type: ignore[type-var]
    except BaseException:
        sock.close()
        raise
    transport.set_write_buffer_limits(high=_HIGH_WATER)
    return transport


def queue_pair(loop_a: Loop, loop_b: Loop) -> tuple[QueueTransport, QueueTransport]:
    """Two joined ends; `start()` each on its loop."""
    a, b = QueueTransport(loop_a), QueueTransport(loop_b)
    a._peer, b._peer = b, a
    return a, b


class QueueTransport(asyncio.Transport):
    """One end of a queue pair."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self._loop = loop
        self._peer: QueueTransport = self
        self._protocol: LocalProtocol | None = None
        self._thread: int | None = None
        self._context: contextvars.Context | None = None
        # Guarded by the lock: what the peer's thread touches, too.
        self._lock = threading.Lock()
        self._inbox: list[bytes | bytearray | memoryview] = []
        self._waiting = 0
        self._woken = False
        self._eof = False
        self._peer_paused = False
        # Of our own thread.
        self._reading = True
        self._closing = False
        self._lost = False
        self._high = _HIGH_WATER

    def start(self, protocol: LocalProtocol) -> None:
        """Begin: `protocol.connection_made()`, and what has arrived already. On the loop that this end is for."""
        self._thread = threading.get_ident()
        # What is read is none of the affairs of who wrote it, or of the request for which the link was made.
        self._context = contextvars.copy_context()
        self._context.run(current.set, None)
        self._protocol = protocol
        protocol.connection_made(self)
        if self._closing:  # aborted before it began
            self._loop.call_soon(protocol.connection_lost, None)
        else:
            self._loop.call_soon(self._deliver, context=self._context)

    # -- writing ---------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writelines((data,))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        if self._closing:
            return
        peer = self._peer
        with peer._lock:
            if not peer._eof:
                before = len(peer._inbox)
                peer._inbox += list_of_data
                peer._waiting += sum(map(len, peer._inbox[before:]))
            full = peer._waiting > self._high and not peer._peer_paused
            if full:
                peer._peer_paused = True
            wake = not peer._woken
            peer._woken = True
        if full and self._protocol is not None:
            self._protocol.pause_writing()
        if wake and not peer._schedule(peer._deliver):
            self._lose(ConnectionResetError("the event loop at the other end is closed"))

    def _schedule(self, action: Callable[[], None]) -> bool:
        """Call `action` on our loop, from whatever thread; False if the loop is closed."""
        try:
            if self._thread == threading.get_ident():
                self._loop.call_soon(action, context=self._context)
            else:
                self._loop.call_soon_threadsafe(action, context=self._context)
        except RuntimeError:
            return False
        return True

    def _end(self) -> None:
        """The peer will write no more."""
        with self._lock:
            if self._eof:
                return
            self._eof = True
            wake, self._woken = not self._woken, True
        if wake:
            self._schedule(self._deliver)

    def get_write_buffer_size(self) -> int:
        return self._peer._waiting

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return 0, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = _HIGH_WATER if high is None else high

    def can_write_eof(self) -> bool:
        return False

    # -- reading ---------------------------------------------------------------------------------------

    def _deliver(self) -> None:
        protocol = self._protocol
        with self._lock:
            if protocol is None or not self._reading or self._closing:
                self._woken = False
                return
            self._woken = False
            inbox, self._inbox = self._inbox, []
            self._waiting = 0
            eof = self._eof
            resume, self._peer_paused = self._peer_paused, False
        if resume:
            self._peer._schedule(self._peer._go_on)
        if inbox:
            protocol.data_received(
                b"".join(inbox) if len(inbox) > 1 or type(inbox[0]) is not bytes else inbox[0]
            )
        if eof and not self._closing:
            protocol.eof_received()
            self.close()

    def _go_on(self) -> None:
        if self._protocol is not None and not self._closing:
            self._protocol.resume_writing()

    def is_reading(self) -> bool:
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            self._loop.call_soon(self._deliver, context=self._context)

    # -- the end ---------------------------------------------------------------------------------------

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._lose(None)

    def abort(self) -> None:
        """Close now. From any thread."""
        if self._thread is None or self._thread == threading.get_ident():
            self._lose(None)
        elif not self._schedule(self.close):
            self._peer._end()

    def _lose(self, error: Exception | None) -> None:
        if self._closing:
            return
        self._closing = True
        with self._lock:
            self._inbox.clear()
            self._waiting = 0
        # What was written lies in the peer's inbox already, before the end.
        self._peer._end()
        if self._protocol is not None and not self._lost:
            self._lost = True
            try:
                self._loop.call_soon(self._protocol.connection_lost, error)
            except RuntimeError:
                pass  # the loop is closed: there is nobody to tell

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol  # type: ignore[assignment]  # what is given here reads as LocalProtocol says

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol  # type: ignore[return-value]

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

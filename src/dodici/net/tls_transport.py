"""TLS over a transport: the client's side of it, with the ssl module's own engine between two memory buffers.

        protocol (H1Connection, a StreamReader's, ...)
           |  write(plaintext)          ^ data_received(plaintext)
        TLSTransport: SSLObject between `incoming` and `outgoing`
           |  raw.write(records)        ^ data_received(records)
        raw transport: TCP of the event loop, or a TLSTransport again

Towards the protocol this is a transport, towards the raw transport a protocol. What makes it cheap is what it
leaves out: whatever the raw transport read at once is decrypted at once and delivered in one call, so no
plaintext is ever left behind that a pause would have to remember, and a write is one call of the engine and one
of the raw transport, which gathers. Flow control is the raw transport's both ways: pausing stops the reading of
records, and the water marks count encrypted bytes.

Everything goes through `SSLContext.wrap_bio`, so that contexts with a verification, sessions or a key log of
their own do what they promise.

How it ends:

    close()                      what was written, then close_notify; the peer's is not waited for (RFC 8446 6.1)
    abort()                      at once, without a word
    the peer's close_notify      `eof_received`, then close(); what the protocol answers does not keep it open
    an end without close_notify  `eof_received`, and reading `ssl_object` raises SSLEOFError: anybody on the way
                                 could have ended it, so what only the end delimits may be cut short
    a bad record, an alert       `connection_lost` with the ssl.SSLError, after all that was decrypted before it
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

_HANDSHAKE, _OPEN, _CLOSING, _CLOSED = range(4)
_RECORD = 16 * 1024
"""Bytes of plaintext in a record at most (RFC 8446 5.1)."""
_SLICE = 64 * 1024
"""Bytes passed through a memory buffer at a time: it keeps the size that it once had, for each connection."""
_ANSWERS = 16 * 1024
"""Bytes that a peer may make the engine say, to key updates mostly, while it does not read what was written."""


class TLSTransport(asyncio.Transport, asyncio.Protocol):
    """A transport that encrypts; `handshake` is done once its protocol's `connection_made` was called.

    Args:
        loop: the running loop.
        context: what to verify and offer.
        server_name: for SNI (RFC 6066) and the certificate.
        shutdown_timeout: seconds without progress after which close() gives up on unsent data.

    Raises: ValueError: the server name cannot be one.
    """

    __slots__ = (
        "__weakref__",
        "_answers",
        "_backlog",
        "_context",
        "_decrypt",
        "_deliver",
        "_drain",
        "_encrypt",
        "_error",
        "_full",
        "_held",
        "_incoming",
        "_loop",
        "_outgoing",
        "_protocol",
        "_raw",
        "_reading",
        "_shutdown_timeout",
        "_state",
        "_timer",
        "handshake",
        "ssl_object",
    )
    _start_tls_compatible = True  # what loop.start_tls() of asyncio asks for

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: ssl.SSLContext,
        server_name: str,
        shutdown_timeout: float,
    ) -> None:
        super().__init__()
        self._loop = loop
        self._context = context
        self._shutdown_timeout = shutdown_timeout
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.ssl_object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
        self._decrypt = self.ssl_object.read
        self._encrypt = self.ssl_object.write
        self._drain = self._outgoing.read
        self._raw: asyncio.Transport = None  # type: ignore[assignment]  # until connection_made
        self._protocol: asyncio.BaseProtocol | None = None
        self._deliver: Callable[[bytes], None] | None = None
        self._state = _HANDSHAKE
        self._reading = True
        self._full = False
        self._held = False
        self._answers = 0
        self._backlog: list[bytes | memoryview] = []
        self._error: Exception | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.handshake: asyncio.Future[None] = loop.create_future()

    # -- a transport, for the protocol -----------------------------------------------------------------

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol
        if isinstance(protocol, asyncio.BufferedProtocol):
            self._deliver = self._fill
        else:
            self._deliver = protocol.data_received  # type: ignore[attr-defined]

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol  # type: ignore[return-value]

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self.ssl_object
        if name == "sslcontext":
            return self._context
        if name in {"cipher", "compression"}:
            return getattr(self.ssl_object, name)()
        if name == "peercert":
            return self.ssl_object.getpeercert()
        return default if self._raw is None else self._raw.get_extra_info(name, default)

    def is_closing(self) -> bool:
        # Beneath, a write may have failed already; the loss is told a turn of the loop later.
        return self._state >= _CLOSING or (self._raw is not None and self._raw.is_closing())

    def is_reading(self) -> bool:
        return self._reading and self._state == _OPEN

    def pause_reading(self) -> None:
        if self._state == _OPEN and self._reading:
            self._reading = False
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        if self._state == _OPEN and not self._reading:
            self._reading = True
            self._raw.resume_reading()
            if self._incoming.pending:
                self._loop.call_soon(self._catch_up_later)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._raw.set_write_buffer_limits(high, low)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._raw.get_write_buffer_limits()

    def get_write_buffer_size(self) -> int:
        size = self._raw.get_write_buffer_size()
        return size + sum(map(len, self._backlog)) if self._backlog else size

    def can_write_eof(self) -> bool:
        return False

    def write_eof(self) -> None:
        raise NotImplementedError("TLS cannot be half-closed")

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._state != _OPEN or not data:
            return
        if self._backlog:
            self._backlog.append(bytes(data))
            return
        if len(data) > _SLICE:
            self._backlog.append(memoryview(data).cast("B"))
            self._work_off()
            return
        try:
            self._encrypt(data)
        except ssl.SSLWantReadError:
            self._backlog.append(bytes(data))
            self._hold()
        except ssl.SSLError as error:
            self._fatal(error)
        else:
            self._raw.write(self._drain())

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        if self._state == _HANDSHAKE:
            self.abort()
        elif self._state == _OPEN:
            try:
                self.ssl_object.unwrap()
            except ssl.SSLError:
                pass  # what it had to say is in `outgoing`
            self._close_raw()

    def abort(self) -> None:
        if self._state == _HANDSHAKE:
            self._state = _CLOSED  # its protocol was never told of a connection, and shall not be
            self.handshake.cancel()
            self._protocol = self._deliver = None
        elif self._state == _OPEN:
            self._state = _CLOSING
        if self._raw is not None:
            self._raw.abort()

    # -- a protocol, for the raw transport -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = transport  # type: ignore[assignment]
        if self._state == _CLOSED:
            self._raw.abort()
        else:
            self._shake_hands()

    def data_received(self, data: bytes) -> None:
        if self._state == _OPEN and len(data) <= _SLICE:
            # The usual read: one record. A second look, which costs an exception, is only for what is left.
            incoming = self._incoming
            incoming.write(data)
            try:
                plain = self._decrypt(_RECORD)
            except ssl.SSLWantReadError:
                self._after_read()
                return
            except ssl.SSLError as error:
                self._fatal(error)
                return
            if plain and not incoming.pending and not self._outgoing.pending and not self._backlog:
                self._deliver(plain)  # type: ignore[misc]  # set while open
            else:
                self._read_records([plain])
        elif self._state == _OPEN:
            self._read_slices(data)
        elif self._state == _HANDSHAKE:
            self._incoming.write(data)
            self._shake_hands()

    def eof_received(self) -> bool:
        self._catch_up()
        if self._state == _OPEN:
            # Whoever wants to know whether this end can be trusted reads the SSL object, which now says so.
            self._incoming.write_eof()
            self._state = _CLOSING
            self._protocol.eof_received()  # type: ignore[union-attr]
            self._close_raw()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        state, self._state = self._state, _CLOSED
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        protocol = self._protocol
        self._protocol = self._deliver = None
        self._backlog.clear()
        if state == _HANDSHAKE:
            self._fail_handshake(exc or ConnectionResetError("the peer closed during the TLS handshake"))
        elif protocol is not None:
            protocol.connection_lost(self._error or exc)

    def pause_writing(self) -> None:
        self._full = True
        if self._state in {_OPEN, _CLOSING} and not self._held:
            self._protocol.pause_writing()  # type: ignore[union-attr]

    def resume_writing(self) -> None:
        self._full = False
        self._answers = 0
        if self._state in {_OPEN, _CLOSING} and not self._held:
            self._protocol.resume_writing()  # type: ignore[union-attr]

    # -- the engine ------------------------------------------------------------------------------------

    def _shake_hands(self) -> None:
        try:
            self.ssl_object.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except Exception as error:
            # Not SSLError alone: contexts may verify in ways of their own.
            self._flush()  # the alert, which tells the peer why
            self._state = _CLOSED
            self._protocol = self._deliver = None
            self._raw.close()
            self._fail_handshake(error)
            return
        self._flush()
        self._state = _OPEN
        if not self.handshake.done():
            self.handshake.set_result(None)
        self._protocol.connection_made(self)  # type: ignore[union-attr]
        if self._full and self._state == _OPEN:
            self._protocol.pause_writing()  # type: ignore[union-attr]  # it may be another one by now
        self._catch_up()

    def _fail_handshake(self, error: Exception) -> None:
        if not self.handshake.done():
            self.handshake.set_exception(error)
            self.handshake.exception()  # whoever waits is told; nobody need

    def _catch_up(self) -> None:
        """Read what lies in `incoming`: a server may speak behind its side of the handshake."""
        if self._state == _OPEN and self._reading and self._incoming.pending:
            self._read_records([])

    def _catch_up_later(self) -> None:
        try:
            self._catch_up()
        except Exception as error:
            # In `data_received` the raw transport would do this.
            self._error = error
            self._loop.call_exception_handler(
                {"message": "data_received() failed", "exception": error, "transport": self}
            )
            self.abort()

    def _read_slices(self, data: bytes) -> None:
        parts: list[bytes] = []
        view = memoryview(data)
        for at in range(0, len(data), _SLICE):
            self._incoming.write(view[at : at + _SLICE])
            error = self._collect(parts)
            if error is not None or (parts and not parts[-1]):
                break
        else:
            error = None
        self._pass_on(parts, error)

    def _read_records(self, parts: list[bytes]) -> None:
        error = None if parts and not parts[-1] else self._collect(parts)
        self._pass_on(parts, error)

    def _collect(self, parts: list[bytes]) -> ssl.SSLError | None:
        """Decrypt all there is; an empty last part stands for close_notify."""
        decrypt = self._decrypt
        incoming = self._incoming
        try:
            while incoming.pending:
                part = decrypt(_RECORD)
                parts.append(part)
                if not part:
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            return error
        return None

    def _pass_on(self, parts: list[bytes], error: ssl.SSLError | None) -> None:
        """Deliver what was decrypted, then what became of the connection."""
        ended = bool(parts) and not parts[-1]
        plain = parts[0] if len(parts) == 1 else b"".join(parts)
        if error is None:
            self._after_read()
        if plain and self._deliver is not None:
            self._deliver(plain)
        if self._state != _OPEN:
            return
        if error is not None:
            self._fatal(error)
        elif ended:
            self._protocol.eof_received()  # type: ignore[union-attr]
            self.close()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._raw.write(self._drain())

    def _after_read(self) -> None:
        """Send what reading made the engine want to say, and what a renegotiation (TLS 1.2) held up."""
        if self._full and self._outgoing.pending:
            self._answers += self._outgoing.pending
            if self._answers > _ANSWERS:
                self._fatal(ssl.SSLError(1, "the peer keeps asking for answers that it does not read"))
                return
        self._flush()
        if self._backlog:
            self._work_off()

    def _work_off(self) -> None:
        """Encrypt the backlog. A write from inside `pause_writing` finds a backlog, and queues behind it."""
        backlog = self._backlog
        while backlog:
            view = memoryview(backlog[0])
            try:
                self._encrypt(view[:_SLICE])
            except ssl.SSLWantReadError:
                backlog[0] = bytes(view)
                self._hold()
                return
            except ssl.SSLError as error:
                backlog.clear()
                self._fatal(error)
                return
            backlog[0] = view[_SLICE:]
            self._flush()
            if self._state != _OPEN:
                backlog.clear()
                return
            if not backlog[0]:
                del backlog[0]
        if self._held:
            self._held = False
            if not self._full:
                self._protocol.resume_writing()  # type: ignore[union-attr]

    def _hold(self) -> None:
        """Nothing can be written until the peer has had its say: let the protocol not pile it up."""
        self._flush()
        if not self._held:
            self._held = True
            if not self._full:
                self._protocol.pause_writing()  # type: ignore[union-attr]

    def _fill(self, data: bytes) -> None:
        """Deliver to a protocol that brings its buffer."""
        view = memoryview(data)
        while view and isinstance(protocol := self._protocol, asyncio.BufferedProtocol):
            space = memoryview(protocol.get_buffer(len(view))).cast("B")
            count = min(len(space), len(view))
            if not count:
                raise RuntimeError("get_buffer() returned an empty buffer")
            space[:count] = view[:count]
            view = view[count:]
            protocol.buffer_updated(count)
        if view and self._deliver is not None:
            self._deliver(bytes(view))

    # -- the way out -----------------------------------------------------------------------------------

    def _fatal(self, error: Exception) -> None:
        self._error = error
        if self._raw.get_write_buffer_size():
            self._state = _CLOSING
            self._raw.abort()
        else:
            self._close_raw()  # there is room for the alert, which tells the peer why

    def _close_raw(self) -> None:
        self._state = _CLOSING
        self._flush()
        unsent = self._raw.get_write_buffer_size()
        self._raw.close()
        if unsent:
            self._timer = self._loop.call_later(self._shutdown_timeout, self._overdue, unsent)

    def _overdue(self, before: int) -> None:
        unsent = self._raw.get_write_buffer_size()
        if unsent < before:
            self._timer = self._loop.call_later(self._shutdown_timeout, self._overdue, unsent)
        else:
            self._timer = None
            self._raw.abort()

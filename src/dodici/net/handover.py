"""Messages with descriptors over a connected unix stream socket (unix(7), SCM_RIGHTS).

    length u32 | descriptors u8 | payload           little endian

The descriptors of a message travel with its first byte. A stream keeps bytes and descriptors in order but not
together, so received ones wait in a queue until the frame that announces them is complete.

Ownership: `send()` takes the descriptors, and closes them once they are on their way or can no longer be. What is
received belongs to `on_message`. Whatever is in between is closed with the socket. Readiness callbacks of the loop
are used rather than a transport: no loop's transports can carry descriptors.

A forked child of this process inherits every descriptor, and would keep connections open that their peers wait to
see closed. `guard()` names those that a fork must not keep; in the child each becomes /dev/null, so that the number
stays taken for the object that will close it.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence

from ..core.errors import InvalidArgumentError, LinkError
from .loop import Loop

MAX_MESSAGE = 16 * 1024 * 1024
"""Bytes of payload."""
MAX_DESCRIPTORS = 8
"""Per message."""
MAX_UNSENT = 64 * 1024 * 1024
"""Bytes that wait for a peer that does not read."""

_HEAD = struct.Struct("<IB")
_CHUNK = 65536
_ANCILLARY = socket.CMSG_SPACE(4 * MAX_DESCRIPTORS * 4)
_CLOEXEC: int = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_NOSIGNAL: int = getattr(socket, "MSG_NOSIGNAL", 0)
_READS_PER_TURN = 16

_guarded: dict[int, tuple[int, int]] = {}


def guard(descriptor: int) -> None:
    """A forked child of this process is not to keep this descriptor."""
    status = os.fstat(descriptor)
    _guarded[descriptor] = (status.st_dev, status.st_ino)


def unguard(descriptor: int) -> None:
    """The descriptor is about to be closed, or belongs to somebody else now."""
    _guarded.pop(descriptor, None)


def _let_go_in_child() -> None:
    if not _guarded:
        return
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor, identity in _guarded.items():
        try:
            status = os.fstat(descriptor)
            if (status.st_dev, status.st_ino) == identity:
                os.dup2(null, descriptor, inheritable=False)
        except OSError:
            continue  # closed meanwhile
    os.close(null)
    _guarded.clear()


os.register_at_fork(after_in_child=_let_go_in_child)


class _Unsent:
    __slots__ = ("data", "descriptors", "key")

    def __init__(self, data: memoryview, descriptors: Sequence[int], key: str | None) -> None:
        self.data = data
        self.descriptors = descriptors
        self.key = key


class Handover:
    """One end of a connection that carries messages and descriptors.

    Args:
        sock: a connected ``AF_UNIX`` stream socket; owned from here on.
        loop: whose thread calls everything here and is called back on.
        on_message: `(payload, descriptors)`. What it raises ends the connection.
        on_lost: `(error)`, once, never from inside a call of yours: None if the peer closed in order. Not called
            after `close()` or `abort()`.
    """

    def __init__(
        self,
        sock: socket.socket,
        loop: Loop,
        on_message: Callable[[bytes, list[int]], None],
        on_lost: Callable[[BaseException | None], None],
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = loop
        self._on_message = on_message
        self._on_lost = on_lost
        self._unsent: deque[_Unsent] = deque()
        self._unsent_bytes = 0
        self._buffer = bytearray()
        self._descriptors: deque[int] = deque()
        self._closed = False
        self._closing = False
        self._write_broken = False
        self._writing = False
        self._fd = sock.fileno()
        guard(self._fd)

    def start(self) -> None:
        """Begin to read."""
        self._loop.add_reader(self._fd, self._readable)

    @property
    def closed(self) -> bool:
        """Whether nothing more can be sent."""
        return self._closed or self._closing

    # ------------------------------------------------------------------------------------ sending

    def send(self, payload: bytes, descriptors: Sequence[int] = (), *, key: str | None = None) -> None:
        """Send a message. With a `key` it replaces an unsent one of the same key.

        A connection that is closed takes it, and drops it: the loss is reported by `on_lost`.

        Raises:
            InvalidArgumentError: too long, or too many descriptors; they are closed all the same.
        """
        if len(payload) > MAX_MESSAGE or len(descriptors) > MAX_DESCRIPTORS:
            _close_all(descriptors)
            raise InvalidArgumentError(
                f"a message has up to {MAX_MESSAGE} bytes and {MAX_DESCRIPTORS} descriptors, "
                f"not {len(payload)} and {len(descriptors)}"
            )
        if self._closed or self._closing or self._write_broken:
            _close_all(descriptors)
            return
        if key is not None:
            self._drop_unsent(key)
        data = memoryview(_HEAD.pack(len(payload), len(descriptors)) + payload)
        self._unsent.append(_Unsent(data, descriptors, key))
        self._unsent_bytes += len(data)
        if self._unsent_bytes > MAX_UNSENT:
            error = LinkError(f"the peer does not read: {self._unsent_bytes} bytes wait for it")
            self._loop.call_soon(self._lose, error)
        elif not self._writing:
            self._write()

    def _drop_unsent(self, key: str) -> None:
        # The first may be half sent, and is then part of the stream.
        for position in range(1, len(self._unsent)):
            unsent = self._unsent[position]
            if unsent.key == key:
                self._unsent_bytes -= len(unsent.data)
                _close_all(unsent.descriptors)
                del self._unsent[position]
                return

    def _write(self) -> None:
        while self._unsent:
            first = self._unsent[0]
            try:
                if first.descriptors:
                    rights = array.array("i", first.descriptors)
                    control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
                    sent = self._sock.sendmsg([first.data], control, _NOSIGNAL)
                else:
                    sent = self._sock.send(first.data, _NOSIGNAL)
            except (BlockingIOError, InterruptedError):
                self._watch_writes(True)
                return
            except OSError:
                # The peer is gone, but what it sent before may still be here to be read; its end is what
                # the reader reports.
                self._write_broken = True
                self._drop_all_unsent()
                break
            _close_all(first.descriptors)
            first.descriptors = ()
            self._unsent_bytes -= sent
            if sent == len(first.data):
                self._unsent.popleft()
            else:
                first.data = first.data[sent:]
        self._watch_writes(False)
        if self._closing:
            self._release()

    def _watch_writes(self, wanted: bool) -> None:
        if wanted != self._writing:
            self._writing = wanted
            if wanted:
                self._loop.add_writer(self._fd, self._write)
            else:
                self._loop.remove_writer(self._fd)

    # ---------------------------------------------------------------------------------- receiving

    def read_rest(self) -> None:
        """Take in what has arrived: for a peer that is known to have ended."""
        while not self._closed and not self._closing and self._read_once():
            pass

    def _readable(self) -> None:
        for _ in range(_READS_PER_TURN):
            if self._closed or self._closing or not self._read_once():
                return

    def _read_once(self) -> bool:
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(_CHUNK, _ANCILLARY, _CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self._lose(error)
            return False
        for level, kind, rights in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array.array("i")
                received.frombytes(rights[: len(rights) - len(rights) % received.itemsize])
                if not _CLOEXEC:
                    for descriptor in received:
                        os.set_inheritable(descriptor, False)
                self._descriptors.extend(received)
        if flags & socket.MSG_CTRUNC:
            self._lose(LinkError("descriptors were lost on the way: the process has too many open"))
            return False
        if not data:
            self._lose(LinkError("the connection ended inside a message") if self._buffer else None)
            return False
        self._buffer += data
        try:
            self._take_messages()
        except Exception as error:
            self._lose(error)
            return False
        return True

    def _take_messages(self) -> None:
        buffer = self._buffer
        position = 0
        try:
            while len(buffer) - position >= _HEAD.size and not self._closed and not self._closing:
                length, count = _HEAD.unpack_from(buffer, position)
                if length > MAX_MESSAGE or count > MAX_DESCRIPTORS:
                    raise LinkError(f"malformed message: {length} bytes with {count} descriptors")
                end = position + _HEAD.size + length
                if len(buffer) < end:
                    break
                if len(self._descriptors) < count:
                    raise LinkError(f"a message came without its {count} descriptors")
                payload = bytes(buffer[position + _HEAD.size : end])
                position = end
                self._on_message(payload, [self._descriptors.popleft() for _ in range(count)])
        finally:
            del buffer[:position]

    # ------------------------------------------------------------------------------------- ending

    def close(self) -> None:
        """Send what waits, then close. Nothing more is received."""
        if self.closed:
            return
        self._closing = True
        self._loop.remove_reader(self._fd)
        if not self._writing:
            self._write()

    def abort(self) -> None:
        """Close now."""
        if not self._closed:
            self._drop_all_unsent()
            self._release()

    def _lose(self, error: BaseException | None) -> None:
        if not self._closed:
            told = self._closing
            self.abort()
            if not told:
                self._loop.call_soon(self._on_lost, error)

    def _release(self) -> None:
        self._closed = True
        self._loop.remove_reader(self._fd)
        self._watch_writes(False)
        _close_all(self._descriptors)
        self._descriptors.clear()
        unguard(self._fd)
        self._sock.close()

    def _drop_all_unsent(self) -> None:
        for unsent in self._unsent:
            _close_all(unsent.descriptors)
        self._unsent.clear()
        self._unsent_bytes = 0


def _close_all(descriptors: Sequence[int] | deque[int]) -> None:
    for descriptor in descriptors:
        try:
            os.close(descriptor)
        except OSError:
            pass  # of a peer's making, such as a device that is gone

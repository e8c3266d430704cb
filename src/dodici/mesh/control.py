"""Control channels: JSON messages between the coordinator and one member, with what is handed over attached.

A process worker is reached over a unix socket, where an attachment is a socket; a member in this process through a
queue, where it is any object with `close()`. Both keep the order, call back on the loop of their end only, and say
once that the other end is gone. A message that cannot be understood ends the channel: two versions of dodici in one
mesh, or a worker that writes on descriptors that are not its own, must not be guessed at.
"""

from __future__ import annotations

import contextvars
import json
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from ..core.errors import LinkError
from ..net.handover import Handover
from ..net.loop import Loop

Message: TypeAlias = "dict[str, Any]"
OnMessage: TypeAlias = "Callable[[Message, list[Any]], None]"
OnLost: TypeAlias = "Callable[[BaseException | None], None]"

MAX_QUEUED = 10_000
"""Messages that wait in a queue channel for a loop that is blocked."""


class Channel(Protocol):
    """One end of a control channel. Used on its loop's thread alone."""

    @property
    def closed(self) -> bool:
        """Whether nothing more can be sent."""

    def start(self, on_message: OnMessage, on_lost: OnLost) -> None:
        """Begin to receive. `on_message` gets `(message, attachments)`, and whatever it raises ends the channel;
        `on_lost` the error, or None if the other end closed in order. Neither is called after `close()`.
        """

    def send(
        self, message: Mapping[str, Any], attachments: Sequence[Any] = (), *, key: str | None = None
    ) -> None:
        """Send a message; the attachments are the receiver's from now on. An unsent one of the same `key` is dropped.
        A closed channel drops it.
        """

    def read_rest(self) -> None:
        """Take in what has arrived already: the other end is known to have ended."""

    def close(self) -> None:
        """Send what waits, then close."""


class SocketChannel:
    """A channel to another process."""

    def __init__(self, sock: socket.socket, loop: Loop) -> None:
        self._loop = loop
        self._handover = Handover(sock, loop, self._received, self._lost)
        self._on_message: OnMessage | None = None
        self._on_lost: OnLost | None = None

    @property
    def closed(self) -> bool:
        return self._handover.closed

    def start(self, on_message: OnMessage, on_lost: OnLost) -> None:
        self._on_message = on_message
        self._on_lost = on_lost
        self._handover.start()

    def send(
        self, message: Mapping[str, Any], attachments: Sequence[Any] = (), *, key: str | None = None
    ) -> None:
        payload = json.dumps(message, separators=(",", ":")).encode()
        self._handover.send(payload, [attachment.detach() for attachment in attachments], key=key)

    def read_rest(self) -> None:
        self._handover.read_rest()

    def close(self) -> None:
        self._handover.close()

    def _received(self, payload: bytes, descriptors: list[int]) -> None:
        attachments: list[Any] = []
        try:
            while descriptors:
                # socket.socket() asks the kernel what it is; that fails for what is no socket.
                attachments.append(socket.socket(fileno=descriptors[0]))
                descriptors.pop(0)
            message = json.loads(payload)
            if not isinstance(message, dict) or not isinstance(message.get("type"), str):
                raise LinkError("malformed control message: no type")
            if self._on_message is not None:
                deliver(self._on_message, message, attachments)
        except BaseException as error:
            close_attachments(attachments)
            for descriptor in descriptors:
                os.close(descriptor)
            if isinstance(error, UnicodeDecodeError | json.JSONDecodeError | OSError):
                raise LinkError(f"malformed control message: {error}") from error
            raise

    def _lost(self, error: BaseException | None) -> None:
        if self._on_lost is not None:
            self._on_lost(error)


class QueueChannel:
    """One end of a channel inside this process; made by `queue_channels()`."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._inbox: deque[tuple[Message, Sequence[Any], str | None]] = deque()
        self._ended = False  # the other end sends no more
        self._scheduled = False
        self._context: contextvars.Context | None = None
        self._peer: QueueChannel | None = None
        self._on_message: OnMessage | None = None
        self._on_lost: OnLost | None = None
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    def start(self, on_message: OnMessage, on_lost: OnLost) -> None:
        self._on_message = on_message
        self._on_lost = on_lost
        # The sender's context variables are none of the receiver's business.
        self._context = contextvars.copy_context()
        self._loop.call_soon(self._receive)

    def send(
        self, message: Mapping[str, Any], attachments: Sequence[Any] = (), *, key: str | None = None
    ) -> None:
        peer = self._peer
        if peer is None or self.closed or not peer._put(dict(message), attachments, key):
            close_attachments(attachments)

    def read_rest(self) -> None:
        self._receive()

    def close(self) -> None:
        self._close()

    def _close(self) -> None:
        self._closed = True
        peer, self._peer = self._peer, None
        if peer is not None:
            peer._end()
        with self._lock:
            waiting = list(self._inbox)
            self._inbox.clear()
        for _, attachments, _ in waiting:
            close_attachments(attachments)

    def _put(self, message: Message, attachments: Sequence[Any], key: str | None) -> bool:
        with self._lock:
            if self.closed or self._ended:
                return False
            if len(self._inbox) >= MAX_QUEUED:
                self._ended = True  # it is told when it wakes up, and so is this end
                return False
            if key is not None:
                for position, queued in enumerate(self._inbox):
                    if queued[2] == key:
                        del self._inbox[position]
                        break
            self._inbox.append((message, attachments, key))
        return self._wake()

    def _end(self) -> None:
        with self._lock:
            self._ended = True
        self._wake()

    def _wake(self) -> bool:
        with self._lock:
            if self._scheduled:
                return True
            self._scheduled = True
        try:
            self._loop.call_soon_threadsafe(self._receive, context=self._context)
        except RuntimeError:  # its loop is closed
            self._closed = True
            return False
        return True

    def _receive(self) -> None:
        on_message, on_lost = self._on_message, self._on_lost
        with self._lock:
            self._scheduled = False
        if on_message is None or on_lost is None:
            return
        while not self.closed:
            with self._lock:
                if not self._inbox:
                    break
                message, attachments, _ = self._inbox.popleft()
            try:
                deliver(on_message, message, attachments)
            except Exception as error:
                close_attachments(attachments)
                self._close()
                on_lost(error)
                return
        if self._ended and not self.closed:
            self._close()
            on_lost(None)


def queue_channels(one: Loop, other: Loop) -> tuple[QueueChannel, QueueChannel]:
    """Two connected ends, the first for code on loop `one`, the second for code on `other`."""
    here, there = QueueChannel(one), QueueChannel(other)
    here._peer, there._peer = there, here
    return here, there


def deliver(on_message: OnMessage, message: Message, attachments: Sequence[Any]) -> None:
    """Call `on_message`; a message that lacks something, or has it of another kind, is a `LinkError`."""
    try:
        on_message(message, list(attachments))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        text = f"malformed control message {message.get('type')!r}: {type(error).__name__}: {error}"
        raise LinkError(text) from error


def close_attachments(attachments: Sequence[Any]) -> None:
    """Close what was to be handed over and will not be."""
    for attachment in attachments:
        close = getattr(attachment, "abort", None) or getattr(attachment, "close", None)
        if close is not None:
            close()

"""The controller of a dispatch: pause, resume or abort it at any moment, from any thread.

`DispatchController` is what handlers see. `Exchange` is one dispatch on its way through a layer: the
controller of its handler, and the record that the layer keeps of it. Whoever works on an exchange at the
moment (a queue, a connection, a mesh link) is its `carrier`, and is told of abort, pause and resume on the
event loop's thread. An exchange without a carrier has ended, and everything on it is harmless.
"""

from __future__ import annotations

import inspect
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

from . import diagnostics
from .errors import RequestAbortedError, RequestTimeoutError, annotate
from .options import BYTES, DispatchOptions
from .timers import Timer, Timers

_get_ident = threading.get_ident
_first_reason_wins = threading.Lock()


class DispatchController(ABC):
    """Pauses, resumes and aborts one exchange. Every method may be called from any thread, at any time,
    any number of times, and does nothing after the end.
    """

    __slots__ = ()

    http_version: str = "1.1"
    """What the response came by: ``"1.0"``, ``"1.1"``, ``"2"``; known from the response's head on."""

    @property
    @abstractmethod
    def aborted(self) -> bool:
        """Whether `abort()` was called."""

    @property
    @abstractmethod
    def paused(self) -> bool:
        """Whether data is being held back."""

    @property
    @abstractmethod
    def reason(self) -> BaseException | None:
        """What `abort()` was given, or the `RequestAbortedError` made in its place; None before."""

    @abstractmethod
    def abort(self, reason: BaseException | str | None = None) -> None:
        """End the exchange now: `on_response_error(controller, reason)`. The first reason wins."""

    @abstractmethod
    def pause(self) -> None:
        """No `on_response_data` until `resume()`. Nothing more is read; no body timeout runs."""

    @abstractmethod
    def resume(self) -> None:
        """Go on after `pause()`. What had been read is delivered first, in order, in a later loop turn."""


class LoopLike(Protocol):
    """The part of an asyncio event loop that the core uses."""

    def time(self) -> float: ...
    def call_soon(self, callback: Callable[..., Any], *args: Any) -> Any: ...
    def call_soon_threadsafe(self, callback: Callable[..., Any], *args: Any) -> Any: ...
    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> Any: ...
    def create_task(self, coroutine: Any) -> Any: ...
    def call_exception_handler(self, context: dict[str, Any]) -> None: ...


class Carrier(Protocol):
    """Whoever works on an exchange. Called on the loop's thread."""

    def abort_exchange(self, exchange: Exchange, error: BaseException) -> None:
        """Stop the work and `exchange.fail(error)`."""

    def pause_exchange(self, exchange: Exchange) -> None: ...
    def resume_exchange(self, exchange: Exchange) -> None: ...


def as_reason(reason: BaseException | str | None) -> BaseException:
    """The exception that an abort is reported as."""
    if isinstance(reason, BaseException):
        return reason
    return RequestAbortedError(str(reason)) if reason is not None else RequestAbortedError("Request aborted")


async def close_source(source: Any) -> None:
    """Close a body source that will not be asked again. What it raises then is nobody's business."""
    try:
        if callable(getattr(source, "aclose", None)):
            await source.aclose()
        elif callable(getattr(source, "close", None)):
            closing = source.close()
            if inspect.isawaitable(closing):
                await closing
    except Exception:
        logging.getLogger("dodici").debug("closing a request body raised", exc_info=True)


def discard_source(source: Any, loop: LoopLike) -> None:
    """Close a body source of which nothing was asked."""
    if callable(getattr(source, "aclose", None)) or callable(getattr(source, "close", None)):
        task = loop.create_task(close_source(source))
        _closing.add(task)
        task.add_done_callback(_closing.discard)


_closing: set[Any] = set()  # the loop keeps only weak references to tasks


class Exchange(DispatchController):
    """One dispatch: its handler's controller and its layer's record."""

    __slots__ = (
        "_paused",
        "_reason",
        "attempt",
        "bytes_read",
        "bytes_sent",
        "carrier",
        "context",
        "deadline",
        "done",
        "handler",
        "http_version",
        "loop",
        "options",
        "retried",
        "source_taken",
        "status_code",
        "thread",
    )

    def __init__(self, handler: Any, options: DispatchOptions, loop: LoopLike, thread: int) -> None:
        self.handler = handler
        self.options = options
        self.loop = loop
        self.thread = thread
        self.carrier: Carrier | None = None
        self.done = False
        self._paused = False
        self._reason: BaseException | None = None
        self.attempt = 0
        self.retried = False
        self.source_taken = False
        self.bytes_read = 0
        self.bytes_sent = 0
        self.status_code = 0
        self.http_version = "1.1"
        self.deadline: Timer | None = None
        self.context: dict[str, Any] | None = None

    @property
    def aborted(self) -> bool:
        return self._reason is not None

    @property
    def paused(self) -> bool:
        return self._paused

    @property
    def reason(self) -> BaseException | None:
        return self._reason

    def abort(self, reason: BaseException | str | None = None) -> None:
        with _first_reason_wins:
            if self._reason is not None:
                return
            self._reason = as_reason(reason)
        self._on_loop(self._abort)

    def pause(self) -> None:
        if not self._paused and not self.done:
            self._paused = True
            self._on_loop(self._pause)

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._on_loop(self._resume)

    def _on_loop(self, action: Callable[[], None]) -> None:
        if _get_ident() == self.thread:
            action()
            return
        try:
            self.loop.call_soon_threadsafe(action)
        except RuntimeError:
            # The loop is closed: the exchange has ended with it.
            self.done = True

    def _abort(self) -> None:
        if not self.done and self._reason is not None:
            if self.carrier is not None:
                self.carrier.abort_exchange(self, self._reason)
            else:
                self.fail(self._reason)

    def _pause(self) -> None:
        if self._paused and not self.done and self.carrier is not None:
            self.carrier.pause_exchange(self)

    def _resume(self) -> None:
        if not self._paused and not self.done and self.carrier is not None:
            self.carrier.resume_exchange(self)

    def start_deadline(self, timers: Timers, seconds: float) -> None:
        """Begin the total deadline of the exchange."""
        self.deadline = timers.timer(self._on_deadline)
        self.deadline.arm(seconds)

    def _on_deadline(self) -> None:
        with _first_reason_wins:
            if self._reason is None:
                seconds = self.options.timeout
                self._reason = RequestTimeoutError(f"request did not end within {seconds:g} s (timeout)")
        self._abort()

    def end(self) -> None:
        """Mark the exchange as ended. The caller then makes the terminal callback."""
        self.done = True
        self.carrier = None
        if self.deadline is not None:
            self.deadline.close()
            self.deadline = None

    def fail(self, error: BaseException) -> None:
        """Report `error` as the one terminal callback; nothing if the exchange has ended."""
        if self.done:
            return
        self.end()
        if self.options.body_kind > BYTES and not self.source_taken:
            self.source_taken = True
            discard_source(self.options.body, self.loop)
        annotate(
            error,
            origin=self.options.origin,
            attempt=self.attempt,
            bytes_sent=self.bytes_sent,
            bytes_read=self.bytes_read,
            status_code=self.status_code or None,
        )
        if diagnostics.REQUEST_ERROR.subscribers:
            diagnostics.REQUEST_ERROR.publish({"request": self, "error": error})
        try:
            self.handler.on_response_error(self, error)
        except Exception as raised:
            self.report(raised, "on_response_error")

    def report(self, error: BaseException, where: str) -> None:
        """Tell the loop's exception handler of a callback that raised where nobody is left to be told."""
        self.loop.call_exception_handler(
            {"message": f"{where} of {self.handler!r} raised", "exception": error, "exchange": self}
        )

    def __repr__(self) -> str:
        state = (
            "ended" if self.done else "paused" if self._paused else "aborted" if self._reason else "running"
        )
        return f"<Exchange {self.options.method} {self.options.path} {state}>"


class EndedController(DispatchController):
    """The controller of a dispatch that was refused before it began."""

    __slots__ = ()

    @property
    def aborted(self) -> bool:
        return False

    @property
    def paused(self) -> bool:
        return False

    @property
    def reason(self) -> None:
        return None

    def abort(self, reason: BaseException | str | None = None) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


def refuse(handler: Any, error: BaseException) -> bool:
    """Report that a dispatch cannot begin. Returns False, as `dispatch()` then does."""
    try:
        handler.on_response_error(EndedController(), error)
    except Exception:
        logging.getLogger("dodici").exception("on_response_error of %r raised", handler)
    return False

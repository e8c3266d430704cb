"""One controller for a handler, whichever inner exchange works for it at the moment.

An interceptor that repeats, replaces or outlives the exchange below it gives its handler a `Relay`. It
forwards pause, resume and abort to the controller that is attached, and remembers them while there is none
(during a back-off, or while the next exchange waits in a queue). All state changes of the inner controller
that come from another thread are settled on the event loop's thread, so that the last word wins.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from .controller import DispatchController, LoopLike, as_reason

_get_ident = threading.get_ident
_first_reason_wins = threading.Lock()


class Relay(DispatchController):
    """The lasting controller of an exchange that is made of several, or of none for a while.

    Args:
        loop: the event loop of the exchange; the constructor is called on its thread.
        on_abort: called on the loop's thread, with the reason, when the exchange is aborted while no inner
            controller is attached. With one attached, that one is aborted and its handler hears of it.
    """

    __slots__ = ("_closed", "_inner", "_loop", "_on_abort", "_paused", "_reason", "_thread")

    def __init__(self, loop: LoopLike, on_abort: Callable[[BaseException], None]) -> None:
        self._loop = loop
        self._thread = _get_ident()
        self._on_abort: Callable[[BaseException], None] | None = on_abort
        self._inner: DispatchController | None = None
        self._paused = False
        self._closed = False
        self._reason: BaseException | None = None

    @property
    def aborted(self) -> bool:
        """Whether `abort()` was called."""
        return self._reason is not None

    @property
    def paused(self) -> bool:
        """Whether data is being held back."""
        return self._paused

    @property
    def reason(self) -> BaseException | None:
        """What `abort()` was given, or the error made in its place; None before."""
        return self._reason

    @property
    def inner(self) -> DispatchController | None:
        """The controller that is attached."""
        return self._inner

    @property
    def http_version(self) -> str:  # type: ignore[override]
        """What the response came by."""
        return "1.1" if self._inner is None else self._inner.http_version

    def attach(self, inner: DispatchController) -> None:
        """Forward to `inner` from now on. On the loop's thread."""
        self._inner = inner
        # Written before `_paused` is read, as pause() writes before it reads `_inner`: one of the two sees
        # the other, whatever thread it is on.
        if self._paused:
            inner.pause()

    def detach(self) -> None:
        """There is no inner exchange for now. On the loop's thread."""
        self._inner = None

    def close(self) -> None:
        """The exchange has ended: all that follows is harmless, and nothing is kept alive."""
        self._closed = True
        self._inner = None
        self._on_abort = None

    def abort(self, reason: BaseException | str | None = None) -> None:
        """End the exchange now; the first reason wins."""
        with _first_reason_wins:
            if self._reason is not None:
                return
            self._reason = as_reason(reason)
        self._on_loop(self._forward_abort)

    def pause(self) -> None:
        """No data until `resume()`."""
        if self._paused or self._closed:
            return
        self._paused = True
        inner = self._inner
        if inner is not None:
            inner.pause()
        if _get_ident() != self._thread:
            # resume() may have run on the loop's thread between the two lines above.
            self._on_loop(self._settle)

    def resume(self) -> None:
        """Go on after `pause()`."""
        if self._paused:
            self._paused = False
            self._on_loop(self._settle)

    def _on_loop(self, action: Callable[[], None]) -> None:
        if _get_ident() == self._thread:
            action()
            return
        try:
            self._loop.call_soon_threadsafe(action)
        except RuntimeError:
            # The loop is closed, and the exchange has ended with it.
            self.close()

    def _settle(self) -> None:
        inner = self._inner
        if inner is not None:
            if self._paused:
                inner.pause()
            else:
                self._resume_inner(inner)

    def _resume_inner(self, inner: DispatchController) -> None:
        """Overridden by those who have something to deliver before the inner exchange goes on."""
        inner.resume()

    def _forward_abort(self) -> None:
        if self._closed or self._reason is None:
            return
        if self._inner is not None:
            self._inner.abort(self._reason)
        elif self._on_abort is not None:
            self._on_abort(self._reason)

    def __repr__(self) -> str:
        state = (
            "ended"
            if self._closed
            else "aborted"
            if self._reason
            else "paused"
            if self._paused
            else "running"
        )
        return f"<Relay {state}>"

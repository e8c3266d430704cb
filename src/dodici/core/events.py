"""Events of dispatchers: connect, disconnect, connection_error, drain."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeAlias

from .errors import InvalidArgumentError

Listener: TypeAlias = Callable[..., Any]

EVENTS = ("connect", "disconnect", "connection_error", "drain", "error")
_ALIASES = {"connectionError": "connection_error"}
_log = logging.getLogger("dodici")


class EventEmitter:
    """`on`, `once`, `off`; listeners are called in the order of their registration.

    connect(origin, targets); disconnect(origin, targets, error); connection_error(origin, targets, error);
    drain(origin). `targets` are the dispatchers concerned, outermost first.
    """

    _listeners: dict[str, tuple[tuple[Listener, bool], ...]] | None = None

    def on(self, event: str, listener: Listener) -> Listener:
        """Call `listener` on every `event`. Returns it, so that it works as `lambda`'s decorator, too."""
        return self._listen(event, listener, False)

    def once(self, event: str, listener: Listener) -> Listener:
        """Call `listener` on the next `event` only."""
        return self._listen(event, listener, True)

    def off(self, event: str, listener: Listener) -> bool:
        """Stop calling `listener`; False if it was not registered."""
        event = _known(event)
        for entry in (self._listeners or {}).get(event, ()):
            if entry[0] == listener:
                self._forget(event, entry)
                return True
        return False

    def _forget(self, event: str, entry: tuple[Listener, bool]) -> None:
        assert self._listeners is not None
        entries = list(self._listeners.get(event, ()))
        if entry in entries:
            entries.remove(entry)
            self._listeners[event] = tuple(entries)

    def _listen(self, event: str, listener: Listener, once: bool) -> Listener:
        event = _known(event)
        if not callable(listener):
            raise InvalidArgumentError(f"listener must be callable, not {listener!r}")
        if self._listeners is None:
            self._listeners = {}
        self._listeners[event] = (*self._listeners.get(event, ()), (listener, once))
        return listener

    def emit(self, event: str, *args: Any) -> bool:
        """Call the listeners of `event`; False if there are none. One that raises is logged."""
        entries = (self._listeners or {}).get(event, ())
        for entry in entries:
            listener, once = entry
            if once:
                self._forget(event, entry)
            try:
                listener(*args)
            except Exception:
                _log.exception("listener of %r raised", event)
        return bool(entries)


def _known(event: str) -> str:
    event = _ALIASES.get(event, event)
    if event not in EVENTS:
        raise InvalidArgumentError(f"unknown event {event!r}; there are: {', '.join(EVENTS)}")
    return event

"""What a dispatch tells, and to whom: the handler protocol.

Promises that every layer keeps: exactly one terminal callback (`on_response_end`, `on_response_error` or
`on_request_upgrade`), none after it; callbacks run on the dispatcher's event loop, never inside
`dispatch()` save for an argument error; a callback that raises aborts the exchange and its exception is
the error.

A handler may also have `on_dispatch(controller)`: called inside `dispatch()`, as soon as the controller
exists, it lets a caller abort an exchange that is still queued.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from .controller import DispatchController
from .errors import InvalidArgumentError
from .headers import Headers


@runtime_checkable
class Handler(Protocol):
    """The callbacks of one exchange. All are plain functions and must not block."""

    def on_request_start(self, controller: DispatchController, context: dict[str, Any], /) -> None: ...
    def on_response_start(
        self, controller: DispatchController, status_code: int, headers: Headers, status_message: str, /
    ) -> None: ...
    def on_response_data(self, controller: DispatchController, chunk: bytes, /) -> None: ...
    def on_response_end(self, controller: DispatchController, trailers: Headers, /) -> None: ...
    def on_response_error(self, controller: DispatchController, error: BaseException, /) -> None: ...


class DispatchHandler:
    """A handler whose callbacks do nothing: override those that you need."""

    def on_request_start(self, controller: DispatchController, context: dict[str, Any]) -> None:
        """The request is about to be written; called again on each retry, whose state is in `context`."""

    def on_response_start(
        self, controller: DispatchController, status_code: int, headers: Headers, status_message: str
    ) -> None:
        """A response head arrived: each 1xx, then the final one."""

    def on_response_data(self, controller: DispatchController, chunk: bytes) -> None:
        """A piece of the body: bytes, never empty."""

    def on_response_end(self, controller: DispatchController, trailers: Headers) -> None:
        """The body is complete."""

    def on_response_error(self, controller: DispatchController, error: BaseException) -> None:
        """The exchange failed: a `DodiciError`, what a callback or body source raised, or the reason
        that was given to `abort()`. May not raise.
        """

    def on_request_upgrade(
        self, controller: DispatchController, status_code: int, headers: Headers, socket: Any
    ) -> None:
        """`upgrade` or CONNECT succeeded; `socket` is an `UpgradedSocket` and now yours."""
        raise InvalidArgumentError(f"{type(self).__name__} does not handle upgrades")


class DecoratorHandler(DispatchHandler):
    """A handler that passes everything on to another: the base of an interceptor's handlers."""

    def __init__(self, handler: Any) -> None:
        self.handler = handler

    def on_dispatch(self, controller: DispatchController) -> None:
        if hasattr(self.handler, "on_dispatch"):
            self.handler.on_dispatch(controller)

    def on_request_start(self, controller: DispatchController, context: dict[str, Any]) -> None:
        self.handler.on_request_start(controller, context)

    def on_response_start(
        self, controller: DispatchController, status_code: int, headers: Headers, status_message: str
    ) -> None:
        self.handler.on_response_start(controller, status_code, headers, status_message)

    def on_response_data(self, controller: DispatchController, chunk: bytes) -> None:
        self.handler.on_response_data(controller, chunk)

    def on_response_end(self, controller: DispatchController, trailers: Headers) -> None:
        self.handler.on_response_end(controller, trailers)

    def on_response_error(self, controller: DispatchController, error: BaseException) -> None:
        self.handler.on_response_error(controller, error)

    def on_request_upgrade(
        self, controller: DispatchController, status_code: int, headers: Headers, socket: Any
    ) -> None:
        self.handler.on_request_upgrade(controller, status_code, headers, socket)


_MANDATORY = (
    "on_request_start",
    "on_response_start",
    "on_response_data",
    "on_response_end",
    "on_response_error",
)
known_handlers: dict[type, bool] = {}
"""Classes that passed `check_handler`, and whether they have the optional `on_dispatch`."""
_KNOWN_LIMIT = 1024  # classes made at run time must not pile up here


def check_handler(handler: Any, upgrading: bool) -> None:
    """Refuse a handler that lacks a callback it will need.

    Raises:
        InvalidArgumentError: names the missing method.
    """
    kind = type(handler)
    if kind not in known_handlers:
        for name in _MANDATORY:
            if not callable(getattr(handler, name, None)):
                raise InvalidArgumentError(f"invalid handler: {kind.__name__} has no method {name}()")
        if all(hasattr(kind, name) for name in _MANDATORY):
            if len(known_handlers) >= _KNOWN_LIMIT:
                known_handlers.clear()
            known_handlers[kind] = hasattr(kind, "on_dispatch")
    if upgrading and not callable(getattr(handler, "on_request_upgrade", None)):
        raise InvalidArgumentError(f"invalid handler: {kind.__name__} has no method on_request_upgrade()")

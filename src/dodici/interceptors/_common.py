"""What the built-in interceptors share: the running loop, and telling a handler."""

from __future__ import annotations

import asyncio
from typing import Any

from ..core.controller import DispatchController, LoopLike
from ..core.errors import LoopMismatchError
from ..core.headers import Headers


def running_loop() -> LoopLike:
    """The event loop that dispatches.

    Raises:
        LoopMismatchError: there is none in this thread.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise LoopMismatchError(
            "dispatch() must be called inside a running event loop; none runs in this thread"
        ) from None


def tell_dispatch(handler: Any, controller: DispatchController) -> None:
    """Make the optional `on_dispatch` callback."""
    if hasattr(handler, "on_dispatch"):
        handler.on_dispatch(controller)


def notify_error(handler: Any, controller: DispatchController, error: BaseException) -> None:
    """Make the terminal `on_response_error`; one that raises is reported to the loop's exception handler."""
    try:
        handler.on_response_error(controller, error)
    except Exception as raised:
        running_loop().call_exception_handler(
            {
                "message": f"on_response_error of {handler!r} raised",
                "exception": raised,
                "controller": controller,
            }
        )


def content_length(headers: Headers) -> int | None:
    """The `content-length` of a response; None if there is none that can be read."""
    value = headers.get("content-length", "")
    return int(value) if value.isascii() and value.isdigit() and len(value) < 20 else None

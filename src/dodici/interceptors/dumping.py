"""`dump()`: take the heads of responses and throw their bodies away, within bounds.

For health checks and cache warmers. A body is read, so that its connection serves again, and an abort while
it is being read is kept until the end for the same reason; both within `max_size` and, after an abort, one
second.
"""

from __future__ import annotations

from typing import Any

from ..core.controller import DispatchController
from ..core.dispatcher import DispatchFunction, Interceptor
from ..core.errors import RequestAbortedError
from ..core.headers import Headers
from ..core.options import DispatchOptions, check_count
from ..core.relay import Relay
from ._common import content_length, notify_error, running_loop, tell_dispatch

GRACE_SECONDS = 1.0
"""How long a body may still be read for the sake of its connection after an abort."""


def dump(*, max_size: int = 1024 * 1024) -> Interceptor:
    """Swallow response bodies.

    Args:
        max_size: bytes of a body that are read. A response that announces more, or sends more, fails with
            `RequestAbortedError`.

    Raises:
        InvalidArgumentError: a value out of its range.
    """
    check_count("max_size", max_size, minimum=1)

    def interceptor(dispatch: DispatchFunction) -> DispatchFunction:
        def dispatch_and_dump(options: DispatchOptions, handler: Any) -> bool:
            return dispatch(options, _DumpHandler(options, handler, max_size))

        dispatch_and_dump.__wrapped__ = dispatch  # type: ignore[attr-defined]
        return dispatch_and_dump

    return interceptor


class _DumpRelay(Relay):
    """A controller whose abort waits for the end of a body that is being dumped."""

    __slots__ = ("_timer", "dumping")

    def __init__(self, handler: _DumpHandler) -> None:
        super().__init__(running_loop(), handler.fail)
        self.dumping = False
        self._timer: Any = None

    def close(self) -> None:
        super().close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _forward_abort(self) -> None:
        if self.dumping and not self.paused and self.inner is not None:
            self._timer = self._loop.call_later(GRACE_SECONDS, super()._forward_abort)
        else:
            super()._forward_abort()


class _DumpHandler:
    __slots__ = ("_handler", "_left", "_max_size", "_options", "_relay")

    def __init__(self, options: DispatchOptions, handler: Any, max_size: int) -> None:
        self._options = options
        self._handler = handler
        self._max_size = max_size
        self._left = max_size
        self._relay = _DumpRelay(self)

    def fail(self, error: BaseException) -> None:
        self._relay.close()
        notify_error(self._handler, self._relay, error)

    def on_dispatch(self, controller: DispatchController) -> None:
        self._relay.attach(controller)
        tell_dispatch(self._handler, self._relay)

    def on_request_start(self, controller: DispatchController, context: dict[str, Any]) -> None:
        self._relay.attach(controller)
        self._handler.on_request_start(self._relay, context)

    def on_response_start(
        self, controller: DispatchController, status_code: int, headers: Headers, status_message: str
    ) -> None:
        if status_code >= 200:
            announced = content_length(headers) or 0
            if announced > self._max_size and self._options.method != "HEAD" and status_code != 304:
                controller.abort(self._too_large(announced))
                return
            self._relay.dumping = True
        self._handler.on_response_start(self._relay, status_code, headers, status_message)

    def on_response_data(self, controller: DispatchController, chunk: bytes) -> None:
        self._left -= len(chunk)
        if self._left < 0:
            controller.abort(self._relay.reason or self._too_large(self._max_size - self._left))

    def on_response_end(self, controller: DispatchController, trailers: Headers) -> None:
        reason = self._relay.reason
        if reason is not None:
            self.fail(reason)
            return
        self._handler.on_response_end(self._relay, trailers)
        self._relay.close()

    def on_response_error(self, controller: DispatchController, error: BaseException) -> None:
        self.fail(self._relay.reason or error)

    def on_request_upgrade(
        self, controller: DispatchController, status_code: int, headers: Headers, socket: Any
    ) -> None:
        self._handler.on_request_upgrade(self._relay, status_code, headers, socket)
        self._relay.close()

    def _too_large(self, size: int) -> RequestAbortedError:
        return RequestAbortedError(
            f"response of {size} bytes or more is larger than max_size ({self._max_size})"
        )

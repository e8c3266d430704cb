"""`response_error()`: a response with status 400 or more becomes one `ResponseError`.

The error carries `status_code`, `headers` and `body`, decoded by its content type: JSON to what it stands for,
other text to `str`, the rest stays bytes. No more than `max_size` bytes of it are read.
"""

from __future__ import annotations

import json
from email.message import Message
from typing import Any

from ..core.controller import DispatchController
from ..core.dispatcher import DispatchFunction, Interceptor
from ..core.errors import ResponseError
from ..core.handler import DecoratorHandler
from ..core.headers import EMPTY, Headers
from ..core.options import DispatchOptions, check_count
from ._common import notify_error


def response_error(*, max_size: int = 128 * 1024) -> Interceptor:
    """Turn responses with status 400 or more into errors.

    Put it outside `retry` and `decompress` (later in `compose`): the one then sees the statuses that it
    retries, and the other has decoded the body.

    Args:
        max_size: bytes of the body that the error keeps. A longer body is cut there, and its exchange
            aborted.

    Raises:
        InvalidArgumentError: a value out of its range.
    """
    check_count("max_size", max_size)

    def interceptor(dispatch: DispatchFunction) -> DispatchFunction:
        def dispatch_with_errors(options: DispatchOptions, handler: Any) -> bool:
            return dispatch(options, _ErrorHandler(handler, options, max_size))

        dispatch_with_errors.__wrapped__ = dispatch  # type: ignore[attr-defined]
        return dispatch_with_errors

    return interceptor


class _ErrorHandler(DecoratorHandler):
    def __init__(self, handler: Any, options: DispatchOptions, max_size: int) -> None:
        super().__init__(handler)
        self.options = options
        self.max_size = max_size
        self.error: ResponseError | None = None
        self.body = bytearray()

    def on_response_start(
        self, controller: DispatchController, status_code: int, headers: Headers, status_message: str
    ) -> None:
        if status_code < 400:
            self.handler.on_response_start(controller, status_code, headers, status_message)
            return
        options = self.options
        self.error = ResponseError(
            f"{options.method} {options.origin or ''}{options.path} was answered {status_code} {status_message}".rstrip(),
            status_code=status_code,
            headers=headers,
            origin=options.origin,
        )

    def on_response_data(self, controller: DispatchController, chunk: bytes) -> None:
        if self.error is None:
            self.handler.on_response_data(controller, chunk)
            return
        room = self.max_size - len(self.body)
        self.body += chunk[:room]
        if len(chunk) > room:
            controller.abort(self._complete(self.error))

    def on_response_end(self, controller: DispatchController, trailers: Headers) -> None:
        if self.error is None:
            self.handler.on_response_end(controller, trailers)
        else:
            notify_error(self.handler, controller, self._complete(self.error))

    def on_response_error(self, controller: DispatchController, error: BaseException) -> None:
        if self.error is not None and error is not self.error and not controller.aborted:
            # The connection broke in the body: the status is still what went wrong first.
            self._complete(self.error).__cause__ = error
            error = self.error
        self.handler.on_response_error(controller, error)

    def _complete(self, error: ResponseError) -> ResponseError:
        error.body = decode_body(bytes(self.body), error.headers)
        error.bytes_read = len(self.body)
        self.body.clear()
        return error


def decode_body(body: bytes, headers: Headers | None) -> Any:
    """What a body says, by its content type; the bytes themselves where that is unknown or a lie."""
    fields = EMPTY if headers is None else headers
    if fields.get("content-encoding", "identity").strip().lower() != "identity":
        return body
    content = Message()
    content["content-type"] = fields.get("content-type", "application/octet-stream")
    kind = content.get_content_type()
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            return body.decode("utf-8", "replace")
    if content.get_content_maintype() != "text":
        return body
    try:
        return body.decode(content.get_content_charset("utf-8"), "replace")
    except LookupError:
        return body.decode("utf-8", "replace")

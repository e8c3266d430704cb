"""`retry()`: repeat what failed and may be repeated, and go on with a download that broke.

What is repeated: a request whose body can be sent again, when a response with one of `status_codes` came or
an error with one of `error_codes`, and the method is one of `methods`; and whatever its method, a request
that the server cannot have acted on (`error.request_not_processed`). Once the handler has a response head,
only a GET of something recognisable goes on, by Range from the next byte: the handler sees one body.

A refused response is not shown: its body is read unseen up to 64 KiB and one second, so that the connection
serves again; a larger one is aborted. A response that would be refused but cannot be retried (a POST, a body
that can be sent once only) is delivered as it is.
"""

from __future__ import annotations

from typing import Any

from ..core.dispatcher import DispatchFunction, Interceptor
from ..core.errors import DodiciError, InvalidArgumentError, InvalidReturnValueError, RequestRetryError
from ..core.headers import Headers
from ..core.options import DispatchOptions
from ._ranges import Download
from ._retry_policy import RetryPolicy, RetryState, parse_retry_after
from ._series import Attempt, Series

__all__ = ["RetryPolicy", "RetryState", "retry"]


def retry(policy: RetryPolicy | None = None, /, **options: Any) -> Interceptor:
    """Retry failed requests. Give a `RetryPolicy`, or its options.

    The handler's `on_request_start` is called for every attempt until it has a response head, with the
    same controller and a `RetryState` in `context["retry"]`. `timeout` of the request is the time of all
    attempts and the waits between them; a retry that it leaves no time for is not waited for.

    Raises:
        InvalidArgumentError: an unknown option, or a value out of its range.
    """
    if policy is None:
        unknown = options.keys() - RetryPolicy.__dataclass_fields__.keys()
        if unknown:
            raise InvalidArgumentError(f"unknown option {min(unknown)!r} of retry()")
        policy = RetryPolicy(**options)
    elif options or not isinstance(policy, RetryPolicy):
        raise InvalidArgumentError("retry() takes one RetryPolicy, or the options of one")

    def interceptor(dispatch: DispatchFunction) -> DispatchFunction:
        def dispatch_with_retries(options: DispatchOptions, handler: Any) -> bool:
            return _Retries(dispatch, options, handler, policy).begin()

        dispatch_with_retries.__wrapped__ = dispatch  # type: ignore[attr-defined]
        return dispatch_with_retries

    return interceptor


class _Retries(Series):
    __slots__ = ("delivered", "download", "original", "policy", "retries")

    def __init__(
        self, dispatch: DispatchFunction, options: DispatchOptions, handler: Any, policy: RetryPolicy
    ) -> None:
        super().__init__(dispatch, options, handler)
        self.policy = policy
        self.original = options
        self.retries = 0
        self.delivered = 0
        self.download: Download | None = None

    def context(self, context: dict[str, Any]) -> dict[str, Any]:
        return {**context, "retry": RetryState(self.attempts, self.retries, self.original)}

    def on_data(self, chunk: bytes) -> None:
        self.delivered += len(chunk)
        if self.download is not None:
            self.download.position += len(chunk)

    def on_head(self, attempt: Attempt, status_code: int, headers: Headers, status_message: str) -> None:
        policy = self.policy
        listed = status_code in policy.status_codes
        eligible = listed and self.options.method in policy.methods and self.options.replayable
        if listed or (status_code >= 400 and policy.retry is not None):
            error = self._error(
                status_code, headers, f"request failed: {status_code} {status_message}".rstrip()
            )
            try:
                delay = self._decide(error, eligible, status_code, headers)
            except Exception as raised:
                attempt.discard(headers, None)
                self.fail(raised)
                return
            if delay is not None:
                attempt.discard(headers, lambda: self._wait(delay))
                return
            if self.delivering or (eligible and policy.throw_on_error):
                attempt.discard(headers, None)
                self.fail(error)
                return
        if not self.delivering:
            self.download = Download.of(self.options, status_code, headers)
            attempt.deliver(status_code, headers, status_message)
            return
        # Only a download that can be resumed comes here.
        mismatch = "not resumable" if self.download is None else self.download.mismatch(status_code, headers)
        if mismatch is not None:
            attempt.discard(headers, None)
            self.fail(self._error(status_code, headers, mismatch))

    def on_failure(self, error: BaseException) -> None:
        if self.delivering and (self.download is None or self.download.complete):
            self.fail(error)
            return
        try:
            eligible = self.policy.retries_error(error, self.options.method)
            headers = getattr(error, "headers", None)
            delay = self._decide(error, eligible, getattr(error, "status_code", None), headers)
        except Exception as raised:
            self.fail(raised)
            return
        if delay is not None:
            self._wait(delay)
            return
        if isinstance(error, DodiciError):
            error.attempt = self.attempts
        self.fail(error)

    def _error(self, status_code: int, headers: Headers, message: str) -> RequestRetryError:
        return RequestRetryError(
            message if self.attempts == 1 else f"{message} (attempt {self.attempts})",
            status_code=status_code,
            headers=headers,
            count=self.attempts,
            attempt=self.attempts,
            origin=self.options.origin,
            bytes_read=self.delivered,
        )

    def _decide(
        self, error: BaseException, eligible: bool, status_code: int | None, headers: Headers | None
    ) -> float | None:
        """Seconds to wait before the next attempt; None if there shall be none."""
        if not self.options.replayable:
            return None
        policy = self.policy
        delay: float | None = None
        if eligible and self.retries < policy.max_retries:
            delay = self._proposal(headers)
        if policy.retry is not None:
            state = RetryState(
                self.attempts, self.retries, self.original, delay, status_code, headers, self.delivered
            )
            answer = policy.retry(error, state)
            if answer is True:
                delay = self._proposal(headers) if delay is None else delay
            elif answer is False or answer is None:
                delay = None
            elif isinstance(answer, int | float) and 0 <= answer < float("inf"):
                delay = float(answer)
            else:
                raise InvalidReturnValueError(
                    f"retry hook must return seconds, True, False or None, not {answer!r}"
                )
        left = self.time_left()
        # Better the true cause now than a timeout later.
        return None if delay is None or (left is not None and delay >= left) else delay

    def _proposal(self, headers: Headers | None) -> float:
        asked = parse_retry_after(headers) if self.policy.retry_after and headers else None
        if asked is None:
            return self.policy.backoff(self.retries + 1)
        return self.policy.stretch(min(asked, self.policy.max_timeout))

    def _wait(self, delay: float) -> None:
        self.retries += 1
        if self.delivering and self.download is not None:
            try:
                self.options = self.download.rest(self.original)
            except DodiciError as error:
                self.fail(error)
                return
        self.after(delay, self.begin_again)

"""What to retry, and after how long: the policy of `retry()`, and what is said of its progress.

Source: RFC 9110 §9.2.2 (idempotent methods), §10.2.3 (Retry-After), RFC 6585 §4 (429).
"""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

from ..core.errors import InvalidArgumentError, ResponseError
from ..core.headers import Headers
from ..core.options import DispatchOptions, check_count, check_seconds

METHODS = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE", "QUERY"})
STATUS_CODES = frozenset({429, 500, 502, 503, 504})
ERROR_CODES = frozenset(
    {
        "ECONNABORTED",
        "ECONNREFUSED",
        "ECONNRESET",
        "EHOSTDOWN",
        "EHOSTUNREACH",
        "ENETDOWN",
        "ENETUNREACH",
        "ENOTFOUND",
        "EPIPE",
        "ETIMEDOUT",
        "DODICI_ERR_BODY_ABORTED",
        "DODICI_ERR_CONNECT",
        "DODICI_ERR_HTTP2",
        "DODICI_ERR_HTTP2_STREAM",
        "DODICI_ERR_LINK",
        "DODICI_ERR_WORKER_EXITED",
        "UND_ERR_CONNECT_TIMEOUT",
        "UND_ERR_RES_CONTENT_LENGTH_MISMATCH",
        "UND_ERR_SOCKET",
    }
)

# Nothing was processed, and nothing would be the next time.
_HOPELESS = frozenset(
    {
        "DODICI_ERR_LOOP_MISMATCH",
        "DODICI_ERR_TLS",
        "UND_ERR_BPL_MISSING_UPSTREAM",
        "UND_ERR_CLOSED",
        "UND_ERR_DESTROYED",
        "UND_ERR_INVALID_ARG",
        "UND_ERR_MAX_ORIGINS_REACHED",
        "UND_ERR_REQ_CONTENT_LENGTH_MISMATCH",
    }
)


@dataclass(frozen=True, slots=True)
class RetryState:
    """Where a series of attempts stands: `context["retry"]`, and what the `retry` hook is given.

    Attributes:
        attempt: the number of this attempt, 1 for the first; for the hook, of the one that failed.
        counter: how many retries were made before.
        options: the request.
        delay: for the hook: the seconds that the policy would wait; None if it would not retry.
        status_code: for the hook: of the refused response, if it was one.
        headers: for the hook: those of the refused response.
        bytes_delivered: body bytes that the handler has.
    """

    attempt: int
    counter: int
    options: DispatchOptions
    delay: float | None = None
    status_code: int | None = None
    headers: Headers | None = None
    bytes_delivered: int = 0


RetryHook = Callable[[BaseException, RetryState], "bool | float | None"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When to retry, and after how long.

    Args:
        max_retries: how often at most, after the first attempt.
        min_timeout: seconds before the first retry.
        max_timeout: seconds that a wait is at most, jitter aside; `Retry-After` is cut to it.
        timeout_factor: what each wait is longer than the one before by.
        jitter: the share of a wait by which it is stretched at random, so that many clients that failed
            together do not come back together. 0.1 makes 1 s into 1.0 to 1.1 s; 0 switches it off.
        retry_after: obey the `Retry-After` of a refused response (seconds or a date; 0 means at once).
        methods: which methods may be repeated.
        status_codes: which responses are refused.
        error_codes: which errors are retried, by their `code`, or the name of their `errno`.
        throw_on_error: when the retries are exhausted, raise `RequestRetryError`; False delivers the last
            response.
        retry: a hook that decides, `retry(error, state)`: a number of seconds to wait, True for the
            policy's own wait, False or None to give up. Asked for every failure, also one that the policy
            would not retry (`state.delay` is None), but not if the request cannot be sent again.

    Raises:
        InvalidArgumentError: a value out of its range.
    """

    max_retries: int = 5
    min_timeout: float = 0.5
    max_timeout: float = 30.0
    timeout_factor: float = 2.0
    jitter: float = 0.1
    retry_after: bool = True
    methods: Collection[str] = METHODS
    status_codes: Collection[int] = STATUS_CODES
    error_codes: Collection[str] = ERROR_CODES
    throw_on_error: bool = True
    retry: RetryHook | None = None

    def __post_init__(self) -> None:
        check_count("max_retries", self.max_retries)
        check_seconds("min_timeout", self.min_timeout)
        check_seconds("max_timeout", self.max_timeout)
        if check_seconds("timeout_factor", self.timeout_factor) < 1:
            raise InvalidArgumentError(f"timeout_factor must be 1 or more, not {self.timeout_factor!r}")
        if check_seconds("jitter", self.jitter) > 1:
            raise InvalidArgumentError(f"jitter must be a share from 0 to 1, not {self.jitter!r}")
        for name in ("retry_after", "throw_on_error"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidArgumentError(f"{name} must be True or False, not {getattr(self, name)!r}")
        for name, kind in (("methods", str), ("status_codes", int), ("error_codes", str)):
            object.__setattr__(self, name, _frozen(name, getattr(self, name), kind))
        if self.retry is not None and not callable(self.retry):
            raise InvalidArgumentError(f"retry must be callable, not {self.retry!r}")

    def backoff(self, number: int) -> float:
        """Seconds to wait before the retry of that number, 1 for the first."""
        try:
            wait = self.min_timeout * self.timeout_factor ** (number - 1)
        except OverflowError:
            wait = self.max_timeout
        return self.stretch(min(wait, self.max_timeout))

    def stretch(self, wait: float) -> float:
        """A wait with its jitter. Never shorter, so that `Retry-After` is kept."""
        return wait * (1 + self.jitter * random.random())  # noqa: S311 - no secret depends on it

    def retries_error(self, error: BaseException, method: str) -> bool:
        """Whether this error of a request with this method is one to retry."""
        code = getattr(error, "code", None)
        number = getattr(error, "errno", None)
        name = errno.errorcode.get(number) if isinstance(number, int) else None
        if method in self.methods:
            if isinstance(error, ResponseError):
                return error.status_code in self.status_codes
            if code in self.error_codes or name in self.error_codes:
                return True
        return getattr(error, "request_not_processed", False) is True and code not in _HOPELESS


def _frozen(name: str, values: Any, kind: type) -> frozenset[Any]:
    if isinstance(values, str | bytes) or not isinstance(values, Collection):
        raise InvalidArgumentError(f"{name} must be a collection of {kind.__name__}, not {values!r}")
    for value in values:
        if not isinstance(value, kind) or isinstance(value, bool):
            raise InvalidArgumentError(f"{name} must hold {kind.__name__} only, not {value!r}")
    return frozenset(values)


def parse_retry_after(headers: Headers) -> float | None:
    """Seconds that a response's `Retry-After` asks for; None if it does not, or cannot be understood.

    A date is taken relative to the response's own `Date`, so that a wrong clock on either side does not
    matter. Source: RFC 9110 §10.2.3.
    """
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    if value.isascii() and value.isdigit():
        return float(value[:9])
    then = _http_date(value)
    if then is None:
        return None
    now = _http_date(headers.get("date", ""))
    return max(0.0, then - (time.time() if now is None else now))


def _http_date(value: str) -> float | None:
    try:
        date = parsedate_to_datetime(value)
        # The two obsolete formats (RFC 9110 §5.6.7) do not say that they are in GMT.
        return (date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None

"""`redirect()`: follow 300, 301, 302, 303, 307 and 308.

The handler sees the last response only. A redirect that cannot be followed is delivered as it is: one beyond
the limit, one that would need a body that can be sent once only, one without a single `location`. One that
must not be followed is an `InvalidArgumentError`: a loop, a scheme other than http and https, a location
that is not a URL, another origin for a dispatcher that knows one.

Credentials (`authorization`, `cookie`, `proxy-authorization`) and a `server_name` stay with the origin that
they were meant for; https to http is another origin, and so is http to https. The body of a redirect is read
unseen up to 64 KiB and one second, so that its connection serves again.

Source: RFC 9110 §15.4 (redirection), §10.2.2 (Location), RFC 3986 §5 (resolution).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from ..core.dispatcher import Dispatcher, DispatchFunction, Interceptor
from ..core.errors import DodiciError, InvalidArgumentError, ResponseError
from ..core.headers import Headers
from ..core.options import NO_BODY, DispatchOptions, check_count
from ._series import Attempt, Series

_STATUS_CODES = frozenset({300, 301, 302, 303, 307, 308})
_CREDENTIALS = ("authorization", "cookie", "proxy-authorization")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_URL_CHARACTERS = "!#$%&'()*+,/:;=?@[]~"
_HOST_DELIMITERS = frozenset(' "#%/<>?@[\\]^`{|}')


def redirect(
    max_redirections: int | None = 10,
    *,
    throw_on_max_redirect: bool = False,
    strip_headers_on_redirect: Iterable[str] = (),
    strip_headers_on_cross_origin_redirect: Iterable[str] = (),
) -> Interceptor:
    """Follow redirects.

    `on_request_start` is called for every request; `context["history"]` is one list for all of them, of the
    URLs that have answered, in order. At the end its last item is where the response came from.

    Args:
        max_redirections: how many are followed; the response to the last one is delivered, whatever it is.
            0 or None follows none. The default is ours: undici follows none unless told to.
        throw_on_max_redirect: a redirect beyond the limit is a `ResponseError` instead of the response.
        strip_headers_on_redirect: fields that are for the first request only.
        strip_headers_on_cross_origin_redirect: fields that are for the first origin only, besides the
            credentials.

    Raises:
        InvalidArgumentError: a value out of its range.
    """
    limit = 0 if max_redirections is None else check_count("max_redirections", max_redirections)
    if not isinstance(throw_on_max_redirect, bool):
        raise InvalidArgumentError(
            f"throw_on_max_redirect must be True or False, not {throw_on_max_redirect!r}"
        )
    always = ("host", *_names("strip_headers_on_redirect", strip_headers_on_redirect))
    across = (
        *_CREDENTIALS,
        *_names("strip_headers_on_cross_origin_redirect", strip_headers_on_cross_origin_redirect),
    )

    def interceptor(dispatch: DispatchFunction) -> DispatchFunction:
        if limit == 0:
            return dispatch
        bound = _bound_origin(dispatch)

        def dispatch_with_redirects(options: DispatchOptions, handler: Any) -> bool:
            series = _Redirects(dispatch, options, handler)
            series.limit, series.throw, series.bound = limit, throw_on_max_redirect, bound
            series.always, series.across = always, across
            return series.begin()

        dispatch_with_redirects.__wrapped__ = dispatch  # type: ignore[attr-defined]
        return dispatch_with_redirects

    return interceptor


def _names(option: str, names: Iterable[str]) -> list[str]:
    if isinstance(names, str | bytes) or not isinstance(names, Iterable):
        raise InvalidArgumentError(f"{option} must be a list of field names, not {names!r}")
    return [name for name, _ in Headers([(name, "") for name in names]).multi_items()]


def _bound_origin(dispatch: Any) -> str | None:
    """The origin of the one-origin dispatcher at the bottom, where it can be found."""
    while hasattr(dispatch, "__wrapped__"):
        dispatch = dispatch.__wrapped__
    owner = getattr(dispatch, "__self__", None)
    return owner.origin if isinstance(owner, Dispatcher) else None


class _Redirects(Series):
    __slots__ = ("across", "always", "bound", "history", "limit", "seen", "throw")

    limit: int
    throw: bool
    bound: str | None
    always: tuple[str, ...]
    across: tuple[str, ...]

    def __init__(self, dispatch: DispatchFunction, options: DispatchOptions, handler: Any) -> None:
        super().__init__(dispatch, options, handler)
        self.history: list[str] = []
        # The method belongs to what is repeated: a form may be answered by 303 to its own URL.
        self.seen = {(options.method, _url(options))}

    def context(self, context: dict[str, Any]) -> dict[str, Any]:
        return {**context, "history": self.history}

    def on_head(self, attempt: Attempt, status_code: int, headers: Headers, status_message: str) -> None:
        options = self.options
        self.history.append(_url(options))
        if status_code not in _STATUS_CODES or options.method == "CONNECT" or options.upgrade is not None:
            attempt.deliver(status_code, headers, status_message)
            return
        locations = set(headers.get_list("location"))
        keeps_body = options.body_kind != NO_BODY and _method(options.method, status_code) == options.method
        if len(locations) != 1 or (keeps_body and not options.replayable):
            attempt.deliver(status_code, headers, status_message)
            return
        if len(self.history) > self.limit:
            if not self.throw:
                attempt.deliver(status_code, headers, status_message)
                return
            self._refuse(
                attempt,
                headers,
                ResponseError(
                    f"max redirects: more than {self.limit}", status_code=status_code, headers=headers
                ),
            )
            return
        try:
            self.options = self._next(options, status_code, locations.pop())
        except (DodiciError, ValueError) as error:
            self._refuse(attempt, headers, error)
            return
        attempt.discard(headers, self.begin_again)

    def _refuse(self, attempt: Attempt, headers: Headers, error: BaseException) -> None:
        attempt.discard(headers, None)
        self.fail(error)

    def _next(self, options: DispatchOptions, status_code: int, location: str) -> DispatchOptions:
        """The request that a redirect asks for.

        Raises:
            InvalidArgumentError: one that must not be made.
        """
        here = urlsplit(_url(options))
        there = resolve(here.geturl(), location)
        method = _method(options.method, status_code)
        changes: dict[str, Any] = {}
        headers = Headers(options.headers).without(*self.always)
        if _origin(there) != _origin(here):
            if self.bound is not None and _origin(urlsplit(self.bound)) != _origin(there):
                raise InvalidArgumentError(
                    f"redirect to another origin, {_netloc(there)}: this dispatcher serves {self.bound} only, use an Agent"
                )
            headers = headers.without(*self.across)
            changes["server_name"] = None
        if method != options.method or status_code == 303:
            content = [name for name in headers if name.startswith("content-")]
            headers = headers.without(*content)
            # What these were for the old method says nothing about the new one.
            changes |= {"method": method, "body": None, "expect_continue": False}
            changes |= {"idempotent": None, "blocking": None, "reset": None}
        path = (there.path or "/") + (f"?{there.query}" if there.query else "")
        if "://" in options.path.partition("?")[0]:
            # Absolute form: the request goes to a proxy, which stays.
            path = f"{there.scheme}://{_netloc(there)}{path}"
        elif there.netloc:
            changes["origin"] = f"{there.scheme}://{_netloc(there)}"
        options = options.replace(path=path, headers=headers, **changes)
        step = (options.method, _url(options))
        if step in self.seen:
            raise InvalidArgumentError(f"redirect loop: {step[0]} {step[1]} was answered before")
        self.seen.add(step)
        return options


def _method(method: str, status_code: int) -> str:
    if (status_code == 303 and method != "HEAD") or (status_code in {301, 302} and method == "POST"):
        return "GET"
    return method


def _url(options: DispatchOptions) -> str:
    """The URL that a request is for."""
    if "://" in options.path.partition("?")[0] or options.origin is None:
        return options.path
    return options.origin.rstrip("/") + (options.path if options.path.startswith("/") else "/")


def _origin(url: SplitResult) -> tuple[str, str | None, int | None]:
    return url.scheme, url.hostname, url.port or _DEFAULT_PORTS.get(url.scheme)


def _netloc(url: SplitResult) -> str:
    """Host and port without credentials."""
    host = url.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return host if url.port is None else f"{host}:{url.port}"


def resolve(base: str, location: str) -> SplitResult:
    """The URL that a `location` field means at `base`.

    Raises:
        InvalidArgumentError: it is none, or not of http or https.
    """
    encoding = "utf-8"
    try:
        # Servers send UTF-8 where only ASCII is allowed; header fields were decoded as latin-1.
        location = location.encode("latin-1").decode("utf-8")
    except UnicodeError:
        encoding = "latin-1"
    try:
        url = urlsplit(urljoin(base, location.strip()))
        port = url.port
    except ValueError as error:
        raise InvalidArgumentError(f"invalid location {location[:200]!r}: {error}") from None
    if url.scheme not in _DEFAULT_PORTS and (url.scheme or url.netloc):
        raise InvalidArgumentError(f"redirect to {url.scheme or 'no'} scheme refused: {location[:200]!r}")
    if (url.scheme and not url.hostname) or port == 0 or not _HOST_DELIMITERS.isdisjoint(url.hostname or ""):
        raise InvalidArgumentError(f"invalid location {location[:200]!r}: no host")
    return url._replace(
        path=quote(url.path, _URL_CHARACTERS, encoding=encoding),
        query=quote(url.query, _URL_CHARACTERS, encoding=encoding),
        fragment="",
    )

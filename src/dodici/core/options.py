"""What to dispatch: `DispatchOptions`, checked once and reusable for ever.

This module is the request-side guard against request smuggling (RFC 9112 §11.2): a path, method or header
that could be read as anything but itself never becomes a `DispatchOptions`, so serializers may trust them.
Framing belongs to dodici: `transfer-encoding`, `keep-alive` and `upgrade` fields are refused,
`content-length` must be true, `connection` may only say `close`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, NoReturn, final
from urllib.parse import urlencode

from .errors import (
    DodiciError,
    InvalidArgumentError,
    NotSupportedError,
    RequestContentLengthMismatchError,
)
from .headers import EMPTY, TOKEN, Headers, HeadersInput

# Kinds of request body, in DispatchOptions.body_kind.
NO_BODY, BYTES, FILE, ITERABLE, ASYNC_ITERABLE = range(5)

_PATH = re.compile(r"[\x21\x22\x24-\x7e\x80-\xff]+").fullmatch
_METHOD = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_AUTHORITY = re.compile(
    r"(?:\[[0-9A-Fa-f:.]+\]|[^\s/?#@\[\]:\x00-\x20\x7f-\U0010ffff]+):[0-9]{1,5}"
).fullmatch
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]+").fullmatch
_REFUSED_FIELDS = frozenset({b"transfer-encoding", b"keep-alive", b"upgrade"})
_SPECIAL_FIELDS = _REFUSED_FIELDS | {b"content-length", b"host", b"connection", b"expect"}
_IDEMPOTENT = frozenset({"GET", "HEAD", "QUERY"})
_METHODS = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"}
)  # spared the pattern
_WITHOUT_PAYLOAD = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "CONNECT"})


class _Draft:
    """The layout of `DispatchOptions`, writable until `DispatchOptions.__new__` turns it into one.

    Plain stores cost a fifth of `object.__setattr__`, which is what a frozen dataclass would do here.
    """

    __slots__ = (
        "_asked",
        "blocking",
        "body",
        "body_kind",
        "body_timeout",
        "content_length",
        "expect_continue",
        "fields",
        "headers",
        "headers_timeout",
        "host",
        "idempotent",
        "method",
        "origin",
        "path",
        "payload",
        "plain",
        "query",
        "repeatable",
        "reset",
        "server_name",
        "timeout",
        "upgrade",
        "wire_cache",
    )

    origin: str | None
    path: str
    method: str
    headers: Headers
    body: Any
    query: None
    """Always None: it has become part of `path`."""
    idempotent: bool
    blocking: bool
    upgrade: str | None
    reset: bool | None
    expect_continue: bool
    headers_timeout: float | None
    body_timeout: float | None
    timeout: float | None
    server_name: str | None

    # Derived once; what serializers and connections read.
    fields: Headers
    """The caller's fields less `host`, `content-length` and `connection`."""
    host: bytes | None
    content_length: int | None
    body_kind: int
    payload: bytes | memoryview | None
    repeatable: bool
    """Idempotent, with a body that can be sent again."""
    plain: bool
    """No upgrade, no CONNECT, no streamed body, no expectation: may share a pipeline."""
    wire_cache: Any
    """Whatever the last serializer wants to remember."""
    _asked: tuple[bool | None, bool | None, bool | None]
    """`idempotent`, `blocking` and `reset` as they were given, for `replace()` to derive anew."""


@final
class DispatchOptions(_Draft):
    """One request, as `Dispatcher.dispatch()` takes it. Immutable; may be dispatched any number of times.

    Args:
        origin: scheme, host and port, such as ``"https://example.com:8443"``. An `Agent` needs it; a
            `Client` or `Pool` ignores it.
        path: begins with ``/`` (or is an absolute ``http(s)`` URL for a proxy, ``*`` for OPTIONS,
            ``host:port`` for CONNECT). Not percent-encoded further; blanks and controls are refused.
        method: any token (RFC 9110 §9.1); the case is kept.
        headers: see `Headers`.
        body: ``None``, `str` (UTF-8), bytes-like, a binary file, an iterable or async iterable of bytes.
            Pulled: the next chunk is asked for when the transport can take it. One-shot sources make the
            options one-shot.
        query: a mapping or pairs, encoded and appended to a path that has no query yet.
        idempotent: whether the request may be repeated; by default GET, HEAD and QUERY may.
        blocking: whether pipelined requests behind this one wait for its response head; by default all
            but HEAD do.
        upgrade: the protocol to upgrade to, such as ``"websocket"``.
        reset: True closes the connection afterwards, False keeps it where dodici would not.
        expect_continue: send ``expect: 100-continue`` and hold the body until the server agrees
            (RFC 9110 §10.1.1).
        headers_timeout: seconds from the request written to the final response head; 0 disables.
        body_timeout: seconds between two pieces of the response body; 0 disables.
        timeout: seconds for the whole exchange, queueing included; 0 or None disables.
        server_name: TLS SNI and the name that the certificate must have, instead of the origin's host.

    Raises:
        InvalidArgumentError: anything malformed. RequestContentLengthMismatchError: a `content-length`
        field that is not the body's length. NotSupportedError: an `expect` field.
    """

    __slots__ = ()

    names: ClassVar[frozenset[str]]
    """What may be given."""

    def __new__(
        cls,
        *,
        origin: str | None = None,
        path: str = "/",
        method: str = "GET",
        headers: HeadersInput = None,
        body: Any = None,
        query: Any = None,
        idempotent: bool | None = None,
        blocking: bool | None = None,
        upgrade: str | None = None,
        reset: bool | None = None,
        expect_continue: bool = False,
        headers_timeout: float | None = None,
        body_timeout: float | None = None,
        timeout: float | None = None,
        server_name: str | None = None,
    ) -> DispatchOptions:
        if type(method) is not str or method not in _METHODS:
            method = _checked_method(method)
        if query is not None:
            path = with_query(path, query)
        if type(path) is not str or path[:1] != "/" or method == "CONNECT" or _PATH(path) is None:
            path = _checked_path(path, method)
        if origin is not None and not isinstance(origin, str):
            raise InvalidArgumentError(f"origin must be a str such as 'https://example.com', not {origin!r}")

        self = object.__new__(_Draft)
        self.origin = origin
        self.path = path
        self.method = method
        self.query = None
        self.upgrade = upgrade
        self.expect_continue = expect_continue
        self.headers_timeout = headers_timeout
        self.body_timeout = body_timeout
        self.timeout = timeout
        self.server_name = server_name
        self.wire_cache = None
        self.reset = reset
        if idempotent is None and blocking is None and reset is None:
            self._asked = _NOTHING_ASKED
        else:
            self._asked = idempotent, blocking, reset

        self.body = body
        self.payload = None
        self.body_kind = kind = NO_BODY if body is None else _classify_body(self, body)

        self.host = None
        self.content_length = None
        if headers is None:
            self.headers = self.fields = EMPTY
        else:
            self.headers = headers = Headers(headers)
            _take_fields(self, headers)
            if self.content_length is not None:
                _check_length(self)

        # Few requests have any of these: looking at each by itself would cost more than making the options.
        if (
            headers_timeout is not None
            or body_timeout is not None
            or timeout is not None
            or server_name is not None
            or upgrade is not None
            or expect_continue is not False
            or self._asked is not _NOTHING_ASKED
        ):
            _check_extras(self)

        self.idempotent = idempotent = method in _IDEMPOTENT if idempotent is None else idempotent
        self.blocking = method != "HEAD" if blocking is None else blocking
        if kind == NO_BODY:
            self.repeatable = idempotent
        else:
            self.repeatable = idempotent and (kind == BYTES or isinstance(body, list | tuple))
            if self.reset is None and method in _WITHOUT_PAYLOAD:
                # A server that does not expect a body here may take it for the next request.
                self.reset = True
        self.plain = kind <= BYTES and upgrade is None and method != "CONNECT" and not expect_continue
        self.__class__ = cls
        return self  # type: ignore[return-value]

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"DispatchOptions are immutable: use replace({name}=...)")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("DispatchOptions are immutable")

    @property
    def replayable(self) -> bool:
        """Whether the body can be sent a second time."""
        return self.body_kind <= BYTES or isinstance(self.body, list | tuple)

    def replace(self, **changes: Any) -> DispatchOptions:
        """A copy with some fields changed, checked again. What was derived is derived anew: a GET that
        becomes a POST is not idempotent any more.

        Raises:
            InvalidArgumentError: as the constructor, and for a name that is not an option.
        """
        unknown = changes.keys() - self.names
        if unknown:
            raise _unknown_option(min(unknown))
        return DispatchOptions(**(self._given() | changes))

    def _given(self) -> dict[str, Any]:
        given = {name: getattr(self, name) for name in self.names}
        given["idempotent"], given["blocking"], given["reset"] = self._asked
        return given

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._given(),)

    def __repr__(self) -> str:
        shown = []
        for name, value in self._given().items():
            if name in {"origin", "path", "method"} or (
                value is not None and value is not False and value != EMPTY
            ):
                if name == "body" and self.payload is not None:
                    value = f"<{len(self.payload)} bytes>"
                shown.append(f"{name}={value!r}")
        return f"DispatchOptions({', '.join(sorted(shown))})"


DispatchOptions.names = frozenset(DispatchOptions.__new__.__kwdefaults__ or ())
_NOTHING_ASKED = (None, None, None)


def _rebuild(given: dict[str, Any]) -> DispatchOptions:
    return DispatchOptions(**given)


def _classify_body(draft: _Draft, body: Any) -> int:
    if isinstance(body, str):
        try:
            return _set_payload(draft, str.encode(body, "utf-8"))
        except UnicodeEncodeError as error:
            raise InvalidArgumentError(f"body cannot be encoded as UTF-8: {error.reason}") from None
    if isinstance(body, bytes):
        return _set_payload(draft, body)
    if isinstance(body, bytearray | memoryview):
        view = memoryview(body)
        return _set_payload(draft, view.cast("B") if view.c_contiguous else view.tobytes())
    if isinstance(body, Mapping):
        raise InvalidArgumentError("body must not be a mapping: use json=, form= or data= of request()")
    if hasattr(body, "__aiter__"):
        return ASYNC_ITERABLE
    if callable(getattr(body, "read", None)):
        return FILE
    if hasattr(body, "__iter__"):
        return ITERABLE
    raise InvalidArgumentError(
        "body must be None, str, bytes-like, a file, an iterable or an async iterable of bytes, "
        f"not {type(body).__name__}"
    )


def _set_payload(draft: _Draft, payload: bytes | memoryview) -> int:
    if len(payload) == 0:
        return NO_BODY
    draft.payload = payload
    return BYTES


def _take_fields(draft: _Draft, headers: Headers) -> None:
    """Take out of the caller's fields those that dodici writes itself, and refuse those that lie."""
    kept = []
    special = False
    for pair in headers.raw:
        name = pair[0].lower()
        if name not in _SPECIAL_FIELDS:
            kept.append(pair)
            continue
        special = True
        value = pair[1]
        if name == b"host":
            if draft.host is not None:
                raise InvalidArgumentError("duplicate host header")
            draft.host = value
        elif name == b"content-length":
            if draft.content_length is not None:
                raise InvalidArgumentError("duplicate content-length header")
            if not value.isdigit() or len(value) > 18:
                raise InvalidArgumentError(f"invalid content-length header {value.decode('latin-1')!r}")
            draft.content_length = int(value)
        elif name == b"connection":
            for token in value.split(b","):
                token = token.strip(b" \t")
                if TOKEN(token) is None:
                    raise InvalidArgumentError(f"invalid connection header {value.decode('latin-1')!r}")
                if token.lower() == b"close" and draft.reset is None:
                    draft.reset = True
        elif name == b"expect":
            raise NotSupportedError("expect header not supported: use expect_continue=True")
        else:
            hint = ": use upgrade=" if name == b"upgrade" else ": dodici frames and keeps alive by itself"
            raise InvalidArgumentError(f"invalid {name.decode()} header{hint}")
    draft.fields = Headers.from_raw(tuple(kept)) if special else headers


def _check_length(draft: _Draft) -> None:
    if draft.body_kind > BYTES:
        return  # what a source gives is counted while it is sent
    stated = draft.content_length
    actual = 0 if draft.payload is None else len(draft.payload)
    if stated != actual:
        raise RequestContentLengthMismatchError(
            f"content-length is {stated} but the body has {actual} bytes",
            phase="queue",
            request_not_processed=True,
        )


def _check_extras(draft: _Draft) -> None:
    for name in ("headers_timeout", "body_timeout", "timeout"):
        value = getattr(draft, name)
        if value is not None:
            check_seconds(name, value)
    for name, flag in zip(("idempotent", "blocking", "reset"), draft._asked, strict=True):
        if flag is not None and not isinstance(flag, bool):
            raise InvalidArgumentError(f"{name} must be True, False or None, not {flag!r}")
    if not isinstance(draft.expect_continue, bool):
        raise InvalidArgumentError(f"expect_continue must be True or False, not {draft.expect_continue!r}")
    server_name = draft.server_name
    if server_name is not None and (not isinstance(server_name, str) or not server_name):
        raise InvalidArgumentError(f"server_name must be a host name, not {server_name!r}")
    upgrade = draft.upgrade
    if upgrade is not None:
        if not isinstance(upgrade, str) or _FIELD_VALUE(upgrade) is None or draft.method == "CONNECT":
            raise InvalidArgumentError(f"invalid upgrade {upgrade!r}: name a protocol, such as 'websocket'")
        draft.upgrade = str.__str__(upgrade)


def _checked_method(method: Any) -> str:
    if not isinstance(method, str) or _METHOD(method) is None:
        raise InvalidArgumentError(f"invalid method {method!r}: it must be a token such as 'GET'")
    return str.__str__(method)  # of an enum or another subclass: what was checked is what will be written


def coerce_options(options: Any) -> DispatchOptions:
    """Make `DispatchOptions` of what `dispatch()` was given.

    Raises:
        InvalidArgumentError: not a mapping, or a key that is not an option.
    """
    if isinstance(options, DispatchOptions):
        return options
    if not isinstance(options, Mapping):
        raise InvalidArgumentError(
            f"options must be DispatchOptions or a mapping, not {type(options).__name__}"
        )
    unknown = [key for key in options if key not in DispatchOptions.names]
    if unknown:
        raise _unknown_option(unknown[0])
    return DispatchOptions(**options)


def _unknown_option(name: object) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"unknown dispatch option {name!r}; there are: {', '.join(sorted(DispatchOptions.names))}"
    )


def check_seconds(name: str, value: Any) -> float:
    """A duration in seconds: a finite number, 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise InvalidArgumentError(f"{name} must be a number of seconds, 0 or more, not {value!r}")
    return float(value)


def check_count(name: str, value: Any, *, minimum: int = 0) -> int:
    """A whole number of `minimum` or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise InvalidArgumentError(f"{name} must be a whole number, {minimum} or more, not {value!r}")
    return value


def _checked_path(given: Any, method: str) -> str:
    if not isinstance(given, str):
        raise InvalidArgumentError(f"path must be a str, not {type(given).__name__}")
    path = str.__str__(given)  # as for methods
    if _PATH(path) is None:
        raise InvalidArgumentError(
            f"invalid path {path[:80]!r}: blanks, controls, '#' and characters beyond latin-1 must be percent-encoded"
        )
    if method == "CONNECT":
        if _AUTHORITY(path) is None:
            raise InvalidArgumentError(f"CONNECT wants path='host:port', not {path[:80]!r}")
    elif path == "*":
        if method != "OPTIONS":
            raise InvalidArgumentError("path '*' goes with OPTIONS alone")
    elif path[0] != "/" and not path.lower().startswith(("http://", "https://")):
        raise InvalidArgumentError(
            f"path must begin with '/' or be an absolute http(s) URL, not {path[:80]!r}"
        )
    return path


def with_query(path: Any, query: Any) -> str:
    """Append an encoded query to a path.

    Raises:
        InvalidArgumentError: the path has a query or fragment already.
    """
    if not isinstance(path, str):
        raise InvalidArgumentError(f"path must be a str, not {type(path).__name__}")
    if "?" in path or "#" in path:
        raise InvalidArgumentError("query cannot be passed when path already contains '?' or '#'")
    encoded = encode_query(query)
    return f"{path}?{encoded}" if encoded else path


def encode_query(query: Any) -> str:
    """`application/x-www-form-urlencoded` of a mapping (values may be lists; None is dropped) or pairs."""
    if isinstance(query, str):
        return query.lstrip("?")
    pairs: list[tuple[Any, Any]] = []
    items = query.items() if isinstance(query, Mapping) else query
    try:
        for key, value in items:
            if not isinstance(key, str | bytes | int | float):
                raise InvalidArgumentError(f"query name {key!r} must be a str, bytes or number")
            for one in value if isinstance(value, list | tuple) else (value,):
                if one is None:
                    continue
                if isinstance(one, bool):
                    one = "true" if one else "false"
                elif not isinstance(one, str | bytes | int | float):
                    raise InvalidArgumentError(
                        f"query value of {key!r} must be a str, bytes, number or bool, not {one!r}"
                    )
                pairs.append((key, one))
        return urlencode(pairs)
    except (TypeError, ValueError) as error:
        if isinstance(error, DodiciError):
            raise
        raise InvalidArgumentError(
            f"query must be a mapping or pairs that can be encoded, not {query!r}"
        ) from None

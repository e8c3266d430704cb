"""What to dispatch: `DispatchOptions`, checked once and reusable for ever.

This module is the request-side guard against request smuggling (RFC 9112 §11.2): a path, method or header
that could be read as anything but itself never becomes a `DispatchOptions`, so serializers may trust them.
Framing belongs to dodici: `transfer-encoding`, `keep-alive` and `upgrade` fields are refused,
`content-length` must be true, `connection` may only say `close`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, ClassVar
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
_AUTHORITY = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s/?#@\[\]:\x00-\x20\x7f-\U0010ffff]+):[0-9]{1,5}").fullmatch
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]+").fullmatch
_REFUSED_FIELDS = frozenset({b"transfer-encoding", b"keep-alive", b"upgrade"})
_SPECIAL_FIELDS = _REFUSED_FIELDS | {b"content-length", b"host", b"connection", b"expect"}
_IDEMPOTENT = frozenset({"GET", "HEAD", "QUERY"})
_WITHOUT_PAYLOAD = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "CONNECT"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DispatchOptions:
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

    origin: str | None = None
    path: str = "/"
    method: str = "GET"
    headers: HeadersInput = None
    body: Any = None
    query: Any = None
    idempotent: bool | None = None
    blocking: bool | None = None
    upgrade: str | None = None
    reset: bool | None = None
    expect_continue: bool = False
    headers_timeout: float | None = None
    body_timeout: float | None = None
    timeout: float | None = None
    server_name: str | None = None

    # Derived once; what serializers and connections read.
    fields: Headers = dataclasses.field(init=False, repr=False, default=EMPTY)
    """The caller's fields less `host`, `content-length` and `connection`."""
    host: bytes | None = dataclasses.field(init=False, repr=False, default=None)
    content_length: int | None = dataclasses.field(init=False, repr=False, default=None)
    body_kind: int = dataclasses.field(init=False, repr=False, default=NO_BODY)
    payload: bytes | memoryview | None = dataclasses.field(init=False, repr=False, default=None)
    repeatable: bool = dataclasses.field(init=False, repr=False, default=True)
    """Idempotent, with a body that can be sent again."""
    plain: bool = dataclasses.field(init=False, repr=False, default=True)
    """No upgrade, no CONNECT, no streamed body, no expectation: may share a pipeline."""
    wire_cache: Any = dataclasses.field(init=False, repr=False, default=None)
    """Whatever the last serializer wants to remember."""

    names: ClassVar[frozenset[str]]

    def __post_init__(self) -> None:
        put = object.__setattr__
        method = self.method
        if not isinstance(method, str) or _METHOD(method) is None:
            raise InvalidArgumentError(f"invalid method {method!r}: it must be a token such as 'GET'")
        if self.query is not None:
            put(self, "path", with_query(self.path, self.query))
            put(self, "query", None)
        _check_path(self.path, method)
        if self.origin is not None and not isinstance(self.origin, str):
            raise InvalidArgumentError(f"origin must be a str such as 'https://example.com', not {self.origin!r}")
        put(self, "body_kind", self._classify_body())
        if self.headers is not None:
            headers = Headers(self.headers)
            put(self, "headers", headers)
            self._take_fields(headers)
        else:
            put(self, "headers", EMPTY)
        self._check_lengths()
        for name in ("headers_timeout", "body_timeout", "timeout"):
            value = getattr(self, name)
            if value is not None:
                check_seconds(name, value)
        self._check_flags()
        if self.upgrade is not None and (
            not isinstance(self.upgrade, str) or _FIELD_VALUE(self.upgrade) is None or method == "CONNECT"
        ):
            raise InvalidArgumentError(f"invalid upgrade {self.upgrade!r}: name a protocol, such as 'websocket'")
        kind = self.body_kind
        idempotent = method in _IDEMPOTENT if self.idempotent is None else self.idempotent
        put(self, "idempotent", idempotent)
        if self.blocking is None:
            put(self, "blocking", method != "HEAD")
        put(self, "repeatable", idempotent and self.replayable)
        put(self, "plain", kind <= BYTES and self.upgrade is None and method != "CONNECT" and not self.expect_continue)
        if self.reset is None and kind != NO_BODY and method in _WITHOUT_PAYLOAD:
            # A server that does not expect a body here may take it for the next request.
            put(self, "reset", True)

    def _check_flags(self) -> None:
        for name in ("idempotent", "blocking", "reset"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, bool):
                raise InvalidArgumentError(f"{name} must be True, False or None, not {value!r}")
        if not isinstance(self.expect_continue, bool):
            raise InvalidArgumentError(f"expect_continue must be True or False, not {self.expect_continue!r}")
        if self.server_name is not None and (not isinstance(self.server_name, str) or not self.server_name):
            raise InvalidArgumentError(f"server_name must be a host name, not {self.server_name!r}")

    @property
    def replayable(self) -> bool:
        """Whether the body can be sent a second time."""
        return self.body_kind <= BYTES or isinstance(self.body, list | tuple)

    def _classify_body(self) -> int:
        body = self.body
        if body is None:
            return NO_BODY
        if isinstance(body, str):
            return self._set_payload(body.encode("utf-8"))
        if isinstance(body, bytes):
            return self._set_payload(body)
        if isinstance(body, bytearray | memoryview):
            view = memoryview(body)
            return self._set_payload(view.cast("B") if view.c_contiguous else view.tobytes())
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

    def _set_payload(self, payload: bytes | memoryview) -> int:
        if len(payload) == 0:
            return NO_BODY
        object.__setattr__(self, "payload", payload)
        return BYTES

    def _take_fields(self, headers: Headers) -> None:
        put = object.__setattr__
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
                if self.host is not None:
                    raise InvalidArgumentError("duplicate host header")
                put(self, "host", value)
            elif name == b"content-length":
                if self.content_length is not None:
                    raise InvalidArgumentError("duplicate content-length header")
                if not value.isdigit() or len(value) > 19:
                    raise InvalidArgumentError(f"invalid content-length header {value.decode('latin-1')!r}")
                put(self, "content_length", int(value))
            elif name == b"connection":
                for token in value.split(b","):
                    token = token.strip()
                    if TOKEN(token) is None:
                        raise InvalidArgumentError(f"invalid connection header {value.decode('latin-1')!r}")
                    if token.lower() == b"close" and self.reset is None:
                        put(self, "reset", True)
            elif name == b"expect":
                raise NotSupportedError("expect header not supported: use expect_continue=True")
            else:
                hint = ": use upgrade=" if name == b"upgrade" else ": dodici frames and keeps alive by itself"
                raise InvalidArgumentError(f"invalid {name.decode()} header{hint}")
        put(self, "fields", Headers.from_raw(tuple(kept)) if special else headers)

    def _check_lengths(self) -> None:
        stated = self.content_length
        if stated is None or self.body_kind > BYTES:
            return
        actual = 0 if self.payload is None else len(self.payload)
        if stated != actual:
            raise RequestContentLengthMismatchError(
                f"content-length is {stated} but the body has {actual} bytes", phase="queue", request_not_processed=True
            )

    def replace(self, **changes: Any) -> DispatchOptions:
        """A copy with some fields changed, checked again."""
        if "query" not in changes and "path" in changes:
            changes["query"] = None
        return dataclasses.replace(self, **changes)


DispatchOptions.names = frozenset(field.name for field in dataclasses.fields(DispatchOptions) if field.init)


def coerce_options(options: Any) -> DispatchOptions:
    """Make `DispatchOptions` of what `dispatch()` was given.

    Raises:
        InvalidArgumentError: not a mapping, or a key that is not an option.
    """
    if isinstance(options, DispatchOptions):
        return options
    if not isinstance(options, Mapping):
        raise InvalidArgumentError(f"options must be DispatchOptions or a mapping, not {type(options).__name__}")
    unknown = [key for key in options if key not in DispatchOptions.names]
    if unknown:
        raise InvalidArgumentError(
            f"unknown dispatch option {unknown[0]!r}; there are: {', '.join(sorted(DispatchOptions.names))}"
        )
    try:
        return DispatchOptions(**options)
    except DodiciError:
        raise
    except TypeError as error:
        raise InvalidArgumentError(str(error)) from error


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


def _check_path(path: Any, method: str) -> None:
    if not isinstance(path, str):
        raise InvalidArgumentError(f"path must be a str, not {type(path).__name__}")
    if _PATH(path) is None:
        raise InvalidArgumentError(
            f"invalid path {path[:80]!r}: blanks, controls, '#' and characters beyond latin-1 must be percent-encoded"
        )
    if path[0] == "/" and method != "CONNECT":
        return
    if method == "CONNECT":
        if _AUTHORITY(path) is None:
            raise InvalidArgumentError(f"CONNECT wants path='host:port', not {path[:80]!r}")
    elif path == "*":
        if method != "OPTIONS":
            raise InvalidArgumentError("path '*' goes with OPTIONS alone")
    elif not path.lower().startswith(("http://", "https://")):
        raise InvalidArgumentError(f"path must begin with '/' or be an absolute http(s) URL, not {path[:80]!r}")


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
    pairs: list[tuple[str, Any]] = []
    items = query.items() if isinstance(query, Mapping) else query
    try:
        for key, value in items:
            for one in value if isinstance(value, list | tuple) else (value,):
                if one is None:
                    continue
                if isinstance(one, bool):
                    one = "true" if one else "false"
                elif not isinstance(one, str | bytes | int | float):
                    raise InvalidArgumentError(f"query value of {key!r} must be a str, bytes, number or bool, not {one!r}")
                pairs.append((key, one))
    except (TypeError, ValueError) as error:
        if isinstance(error, DodiciError):
            raise
        raise InvalidArgumentError(f"query must be a mapping or pairs, not {query!r}") from None
    return urlencode(pairs)



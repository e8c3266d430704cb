"""From the arguments of `request()` to `DispatchOptions`.

A request without a body, headers or credentials is wholly described by immutable values, and its
`DispatchOptions` are too: those are remembered, so that a repeated request costs one look-up (and gives
the serializer below a chance to remember its bytes). Nothing that holds a body, headers or a password is
ever kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias, TypedDict

from ..core.errors import InvalidArgumentError
from ..core.headers import EMPTY, Headers, HeadersInput
from ..core.options import DispatchOptions, encode_query
from .auth import Auth, apply, basic_value, check_auth
from .payload import UNSET, make_payload
from .url import CACHE_SIZE, Target, escape_query, normal_origin, split_url

_URL_LIMIT: Final = 2048
"""Longer URLs are not worth remembering."""


class PrepareOptions(TypedDict, total=False):
    """What describes a request besides method and URL. `dodici.request` says what each means."""

    params: Any
    query: Any
    headers: HeadersInput
    body: Any
    data: Any
    json: Any
    form: Any
    files: Any
    auth: Auth | None
    timeout: float | None
    headers_timeout: float | None
    body_timeout: float | None
    idempotent: bool | None
    blocking: bool | None
    reset: bool | None
    expect_continue: bool
    server_name: str | None


Settings: TypeAlias = tuple[
    float | None, float | None, float | None, bool | None, bool | None, bool | None, bool, str | None
]
"""The immutable arguments, in the order of `SETTINGS`."""
SETTINGS: Final = (
    "timeout",
    "headers_timeout",
    "body_timeout",
    "idempotent",
    "blocking",
    "reset",
    "expect_continue",
    "server_name",
)
NO_SETTINGS: Final[Settings] = (None, None, None, None, None, None, False, None)

_remembered: dict[tuple[object, ...], DispatchOptions] = {}

recall = _remembered.get
"""What is remembered for (None, method, absolute URL, *settings), where the caller compares origins, and for
(the dispatcher's origin, method, path, *settings).
"""


def prepare_plain(
    own: str | None, method: str | None, url: str, settings: Settings | None = None
) -> DispatchOptions:
    """The options of a request that is nothing but a method, a URL and perhaps settings.

    Args:
        own: the origin of the dispatcher, if it has just one.
        method: None for GET.
        url: see `dodici.request`.
        settings: see `Settings`.

    Raises:
        InvalidArgumentError: the URL or method is malformed or not for this dispatcher.
    """
    target = resolve(own, url)
    if target.userinfo is not None or target.path == "*":
        return prepare(own, url, method, **_named(settings))
    key: tuple[object, ...] = (own if url[:1] == "/" else None, method, url)
    if settings is None:
        options = _retarget("GET" if method is None else method, target)
    else:
        options = prepare(own, url, method, **_named(settings))
        key += settings
    if len(url) <= _URL_LIMIT and (url[:1] == "/" or "://" in url):
        if len(_remembered) >= CACHE_SIZE:
            _remembered.clear()
        _remembered[key] = options
    return options


def _named(settings: Settings | None) -> Any:
    return {} if settings is None else dict(zip(SETTINGS, settings, strict=True))


def _retarget(method: str, target: Target) -> DispatchOptions:
    refuse_connect(method)
    return DispatchOptions(origin=target.origin, path=target.path, method=method)


def prepare(
    own: str | None,
    url: str,
    method: str | None,
    *,
    params: Any = None,
    query: Any = None,
    headers: HeadersInput = None,
    body: Any = None,
    data: Any = None,
    json: Any = UNSET,
    form: Any = None,
    files: Any = None,
    auth: Auth | None = None,
    timeout: float | None = None,
    headers_timeout: float | None = None,
    body_timeout: float | None = None,
    idempotent: bool | None = None,
    blocking: bool | None = None,
    reset: bool | None = None,
    expect_continue: bool = False,
    server_name: str | None = None,
    upgrade: str | None = None,
) -> DispatchOptions:
    """The options of a request. The arguments are those of `dodici.request`.

    Raises:
        InvalidArgumentError: what is malformed or contradictory, and why.
        TypeError, ValueError: `json` has something that JSON cannot express.
    """
    target = resolve(own, url)
    path = _with_params(target.path, params, query)
    fields = Headers(headers) if headers is not None else EMPTY
    payload = make_payload(body=body, data=data, json=json, form=form, files=files, headers=fields)
    method = payload.method if method is None else method
    if isinstance(method, str):
        refuse_connect(method)
    if payload.content_type is not None and "content-type" not in fields:
        fields = _with(fields, b"content-type", payload.content_type)
    if payload.length is not None and "content-length" not in fields:
        fields = _with(fields, b"content-length", str(payload.length))
    authorization, function = _credentials(auth, target, fields)
    if authorization is not None:
        fields = _with(fields, b"authorization", authorization)
    options = DispatchOptions(
        origin=target.origin,
        path=path,
        method=method,
        headers=fields or None,
        body=payload.body,
        idempotent=idempotent,
        blocking=blocking,
        upgrade=upgrade,
        reset=reset,
        expect_continue=expect_continue,
        headers_timeout=headers_timeout,
        body_timeout=body_timeout,
        timeout=timeout,
        server_name=server_name,
    )
    return options if function is None else apply(function, options)


def prepare_connect(
    own: str | None,
    url: str,
    path: str,
    *,
    headers: HeadersInput = None,
    auth: Auth | None = None,
    timeout: float | None = None,
    headers_timeout: float | None = None,
    server_name: str | None = None,
) -> DispatchOptions:
    """The options of a CONNECT to `path`, a ``host:port``, by way of the origin of `url`."""
    target = resolve(own, url)
    fields = Headers(headers)
    authorization, function = _credentials(auth, target, fields)
    if authorization is not None:
        fields = _with(fields, b"authorization", authorization)
    options = DispatchOptions(
        origin=target.origin,
        path=path,
        method="CONNECT",
        headers=fields,
        timeout=timeout,
        headers_timeout=headers_timeout,
        server_name=server_name,
    )
    return options if function is None else apply(function, options)


def _with(fields: Headers, name: bytes, value: str) -> Headers:
    """`fields` and one more, of ours, which needs no check."""
    return Headers.from_raw((*fields.raw, (name, value.encode("ascii"))))


def refuse_connect(method: str) -> None:
    """A tunnel is no response: CONNECT has a verb of its own."""
    if method == "CONNECT":
        raise InvalidArgumentError("method CONNECT goes with connect(), not with request() or stream()")


def resolve(own: str | None, url: str) -> Target:
    """Where `url` points for a dispatcher whose one origin is `own`, or which takes any (None).

    Raises:
        InvalidArgumentError: a path alone without an origin of the dispatcher's, or another origin than that.
    """
    if not isinstance(url, str):
        raise InvalidArgumentError(f"url must be a str, not {type(url).__name__}")
    if own is None:
        return split_url(url)
    if url == "*":
        return Target(own, url)
    if url[:1] in {"/", "?"}:
        return split_url(own.rstrip("/") + url)
    target = split_url(url)
    if target.origin not in {own, normal_origin(own)}:
        raise InvalidArgumentError(
            f"url is of origin {target.origin}, but this dispatcher serves {own} alone"
        )
    return target


def _with_params(path: str, params: Any, query: Any) -> str:
    if params is not None and query is not None:
        raise InvalidArgumentError("params= and query= contradict each other: they are the same")
    given = query if params is None else params
    if given is None:
        return path
    encoded = encode_query(given)
    if isinstance(given, str):
        encoded = escape_query(encoded)
    if not encoded:
        return path
    if "?" not in path:
        return f"{path}?{encoded}"
    return f"{path}{encoded}" if path[-1] in "?&" else f"{path}&{encoded}"


def _credentials(
    auth: Auth | None, target: Target, fields: Headers
) -> tuple[str | None, Callable[[DispatchOptions], DispatchOptions] | None]:
    """The authorization field, or the callable that will set it. What is closest to the call wins."""
    if auth is None:
        pair = target.credentials
        return (None if pair is None or "authorization" in fields else basic_value(*pair)), None
    check_auth(auth)
    if isinstance(auth, tuple):
        if "authorization" in fields:
            raise InvalidArgumentError(
                "auth= and an authorization header contradict each other: give one of them"
            )
        return basic_value(*auth), None
    return None, auth

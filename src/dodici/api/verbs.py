"""The calls: `request`, `stream`, `pipeline`, `connect`, `upgrade`, and one per method.

Each is a module-level function that goes through the global dispatcher, or through `dispatcher=`; the
methods of `Dispatcher` are these same functions.

`request` and its kin are plain functions that return a coroutine: calling them does nothing, awaiting does.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Unpack

from ..core.errors import InvalidArgumentError
from ..core.headers import HeadersInput
from .auth import Auth
from .duplex import pipeline
from .exchange import StreamContext, exchange_plain, exchange_with, global_dispatcher
from .payload import UNSET
from .prepare import NO_SETTINGS, PrepareOptions, Settings, prepare, prepare_plain
from .receiver import InfoCallback
from .response import Response
from .upgrades import connect, upgrade

if TYPE_CHECKING:
    from ..core.dispatcher import Dispatcher

__all__ = [
    "connect",
    "delete",
    "get",
    "head",
    "options",
    "patch",
    "pipeline",
    "post",
    "put",
    "request",
    "stream",
    "upgrade",
]


class RequestOptions(PrepareOptions, total=False):
    """The keyword arguments of `request`, but for the method."""

    raise_for_status: bool
    on_info: InfoCallback | None
    dispatcher: Dispatcher | None


def request(
    url: str,
    *,
    method: str | None = None,
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
    raise_for_status: bool = False,
    on_info: InfoCallback | None = None,
    dispatcher: Dispatcher | None = None,
) -> Coroutine[Any, Any, Response]:
    """Send one request and return when the head of its response has arrived.

    Cancelling the awaiting task, here or while the body is read, ends the exchange at once.

    Args:
        url: an absolute ``http`` or ``https`` URL. With a dispatcher of one origin (`Client`, `Pool`) also a
            path. A user and password in it are sent as Basic credentials. The fragment is dropped.
        method: any token but CONNECT, in the case given. By default GET; PUT with `body`; POST with `data`,
            `json`, `form` or `files`.
        params: appended to the URL's query: a mapping (values may be lists; None is dropped), pairs, or an
            encoded `str`.
        query: the same as `params`.
        headers: a mapping, pairs or `Headers`.
        body: `str` (UTF-8), bytes-like, a binary file, an iterable or async iterable of bytes.
        data: a mapping or list of pairs is sent as a form, anything else as `body`.
        json: any value, None included, sent as compact JSON in UTF-8.
        form: a mapping or pairs, sent as ``application/x-www-form-urlencoded``.
        files: a mapping or pairs from field name to content or ``(filename, content[, content_type[,
            headers]])``, streamed as ``multipart/form-data`` with the fields of `data` or `form`.
        auth: ``(user, password)``, or a callable from `DispatchOptions` to `DispatchOptions` such as
            `dodici.api.auth.bearer` makes.
        timeout: seconds for the whole exchange, queueing and body included; 0 or None disables.
        headers_timeout: seconds from the request written to the response head; 0 disables. By default the
            dispatcher's.
        body_timeout: seconds between two pieces of the response body; 0 disables. By default the dispatcher's.
        idempotent: whether the request may be repeated; by default GET, HEAD and QUERY may.
        blocking: whether pipelined requests behind this one wait for its head; by default for all but HEAD.
        reset: True closes the connection afterwards.
        expect_continue: hold the body back until the server asks for it.
        server_name: the TLS server name, instead of the URL's host.
        raise_for_status: raise for a status of 400 or above, with the decoded body in the error.
        on_info: called with ``(status_code, headers)`` for each 1xx head.
        dispatcher: instead of the global one.

    Raises:
        InvalidArgumentError: an argument is malformed, or two contradict each other. Nothing was sent.
        ResponseError: the status is 400 or above and `raise_for_status` is set.
        DodiciError: the exchange failed; see `dodici.errors`.

    Source: undici's ``request()``; RFC 9110.
    """
    # A plain function, so that the many parameters do not make the coroutine's frame. All else, the checks
    # included, happens when the coroutine is awaited.
    if (
        headers is None
        and params is None
        and query is None
        and body is None
        and data is None
        and json is UNSET
        and form is None
        and files is None
        and auth is None
    ):
        settings: Settings | None = (
            timeout,
            headers_timeout,
            body_timeout,
            idempotent,
            blocking,
            reset,
            expect_continue,
            server_name,
        )
        if settings == NO_SETTINGS:
            settings = None
        return exchange_plain(dispatcher, method, url, raise_for_status, on_info, settings)
    return exchange_with(
        dispatcher,
        method,
        url,
        raise_for_status,
        on_info,
        {
            "params": params,
            "query": query,
            "headers": headers,
            "body": body,
            "data": data,
            "json": json,
            "form": form,
            "files": files,
            "auth": auth,
            "timeout": timeout,
            "headers_timeout": headers_timeout,
            "body_timeout": body_timeout,
            "idempotent": idempotent,
            "blocking": blocking,
            "reset": reset,
            "expect_continue": expect_continue,
            "server_name": server_name,
        },
    )


def stream(
    method: str,
    url: str,
    *,
    raise_for_status: bool = False,
    on_info: InfoCallback | None = None,
    dispatcher: Dispatcher | None = None,
    **options: Unpack[PrepareOptions],
) -> StreamContext:
    """Send a request and read its body as it comes, in an ``async with`` block.

    At most 64 KiB of the body wait in memory. Leaving the block ends the exchange: a body that has arrived
    leaves its connection for others, one that has not is aborted.

    Args:
        method: any token but CONNECT.
        url: as for `request`, and so are all others.
        raise_for_status: as for `request`.
        on_info: as for `request`.
        dispatcher: instead of the global one.
        **options: the other arguments of `request`.

    Raises:
        InvalidArgumentError: an argument is malformed, or two contradict each other. Nothing was sent.
        DodiciError: on entering the block: the exchange failed before the head of the response.
    """
    if dispatcher is None:
        dispatcher = global_dispatcher()
    if not isinstance(method, str):
        raise InvalidArgumentError(f"stream() wants the method first, such as 'GET', not {method!r}")
    own = dispatcher.origin
    prepared = prepare(own, url, method, **options) if options else prepare_plain(own, method, url)
    return StreamContext(dispatcher, prepared, raise_for_status, on_info)


def get(url: str, **options: Unpack[RequestOptions]) -> Coroutine[Any, Any, Response]:
    """`request` with method GET."""
    return request(url, method="GET", **options)


def head(url: str, **options: Unpack[RequestOptions]) -> Coroutine[Any, Any, Response]:
    """`request` with method HEAD."""
    return request(url, method="HEAD", **options)


def options(url: str, **options: Unpack[RequestOptions]) -> Coroutine[Any, Any, Response]:
    """`request` with method OPTIONS; the path ``*`` asks about the server itself."""
    return request(url, method="OPTIONS", **options)


def delete(url: str, **options: Unpack[RequestOptions]) -> Coroutine[Any, Any, Response]:
    """`request` with method DELETE."""
    return request(url, method="DELETE", **options)


def post(url: str, **options: Unpack[RequestOptions]) -> Coroutine[Any, Any, Response]:
    """`request` with method POST."""
    return request(url, method="POST", **options)


def put(url: str, **options: Unpack[RequestOptions]) -> Coroutine[Any, Any, Response]:
    """`request` with method PUT."""
    return request(url, method="PUT", **options)


def patch(url: str, **options: Unpack[RequestOptions]) -> Coroutine[Any, Any, Response]:
    """`request` with method PATCH."""
    return request(url, method="PATCH", **options)

"""`upgrade()` and `connect()`: requests whose good end is a socket."""

from __future__ import annotations

from asyncio import Future, get_running_loop
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ..core.controller import DispatchController
from ..core.errors import RequestAbortedError, SocketError
from ..core.headers import Headers, HeadersInput
from ..core.options import DispatchOptions
from .auth import Auth
from .exchange import give_way, global_dispatcher
from .prepare import prepare, prepare_connect

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from ..core.dispatcher import Dispatcher
    from ..net.upgraded import UpgradedSocket
    from .receiver import InfoCallback


class UpgradeResult(NamedTuple):
    """The server speaks the other protocol now."""

    headers: Headers
    socket: UpgradedSocket
    """Yours: close it when done."""
    status_code: int = 101


class ConnectResult(NamedTuple):
    """The tunnel is open."""

    status_code: int
    headers: Headers
    socket: UpgradedSocket
    """Yours: close it when done."""


class UpgradeHandler:
    """Waits for the socket; any other final response is refused and its exchange aborted."""

    __slots__ = (
        "_on_info",
        "_refused",
        "abandoned",
        "controller",
        "error",
        "headers",
        "socket",
        "status_code",
        "waiter",
    )

    def __init__(
        self, loop: AbstractEventLoop, refused: Callable[[int, str], str], on_info: InfoCallback | None
    ) -> None:
        self._refused = refused
        self._on_info = on_info
        self.waiter: Future[None] = loop.create_future()
        self.controller: DispatchController | None = None
        self.error: BaseException | None = None
        self.status_code = 0
        self.headers: Headers | None = None
        self.socket: Any = None
        self.abandoned = False

    def on_dispatch(self, controller: DispatchController) -> None:
        """The dispatcher has accepted the exchange: from now on it can be aborted, even while it waits."""
        self.controller = controller

    def on_request_start(self, controller: DispatchController, context: dict[str, Any]) -> None:
        self.controller = controller
        if self.abandoned:
            controller.abort()

    def on_response_start(
        self, controller: DispatchController, status_code: int, headers: Headers, status_message: str
    ) -> None:
        if status_code < 200:
            if self._on_info is not None:
                self._on_info(status_code, headers)
            return
        error = SocketError(
            self._refused(status_code, status_message), status_code=status_code, headers=headers
        )
        self.error = error
        self._wake()
        controller.abort(error)

    def on_response_data(self, controller: DispatchController, chunk: bytes) -> None:
        """Nobody wants the body of a refusal."""

    def on_response_end(self, controller: DispatchController, trailers: Headers) -> None:
        self.controller = None
        self._wake()

    def on_response_error(self, controller: DispatchController, error: BaseException) -> None:
        self.controller = None
        if self.error is None:
            self.error = error
        self._wake()

    def on_request_upgrade(
        self, controller: DispatchController, status_code: int, headers: Headers, socket: UpgradedSocket
    ) -> None:
        self.controller = None
        if self.abandoned:
            socket.abort()
            return
        self.status_code = status_code
        self.headers = headers
        self.socket = socket
        self._wake()

    def _wake(self) -> None:
        if not self.waiter.done():
            self.waiter.set_result(None)

    def abandon(self) -> None:
        """Nobody waits any more: abort the exchange, or close the socket that came too late."""
        self.abandoned = True
        if self.socket is not None:
            self.socket.abort()
            self.socket = None
        if self.controller is not None:
            self.controller.abort()

    def take_error(self) -> BaseException:
        """The error, to be raised once."""
        error = self.error
        self.error = None
        return RequestAbortedError("Request aborted") if error is None else error


async def _run(
    dispatcher: Dispatcher,
    options: DispatchOptions,
    refused: Callable[[int, str], str],
    on_info: InfoCallback | None,
) -> tuple[int, Headers, UpgradedSocket]:
    """Dispatch; give status, headers and socket. `refused` words the error for an ordinary response.

    Raises:
        SocketError: the server gave an ordinary response; has its `status_code` and `headers`.
    """
    handler = UpgradeHandler(get_running_loop(), refused, on_info)
    dispatcher.dispatch(options, handler)
    try:
        await handler.waiter
    except BaseException:
        handler.abandon()
        raise
    if handler.headers is None:
        await give_way()
        raise handler.take_error()
    return handler.status_code, handler.headers, handler.socket


async def upgrade(
    url: str,
    protocol: str = "websocket",
    *,
    method: str = "GET",
    params: Any = None,
    query: Any = None,
    headers: HeadersInput = None,
    auth: Auth | None = None,
    timeout: float | None = None,
    headers_timeout: float | None = None,
    server_name: str | None = None,
    on_info: InfoCallback | None = None,
    dispatcher: Dispatcher | None = None,
) -> UpgradeResult:
    """Ask the server to speak another protocol on the connection.

    Args:
        url: as for `request`, and so are all not named here.
        protocol: what to upgrade to.
        method: any token but CONNECT.
        params: as for `request`.
        query: as for `request`.
        headers: as for `request`; what a handshake needs, such as ``sec-websocket-key``.
        auth: as for `request`.
        timeout: seconds until the server has agreed, queueing included.
        headers_timeout: seconds from the request written to the answer.
        server_name: as for `request`.
        on_info: as for `request`; the 101 itself is not passed to it.
        dispatcher: instead of the global one.

    Returns:
        The headers of the answer and a socket, which is then yours to close.

    Raises:
        InvalidArgumentError: an argument is malformed.
        SocketError: "bad upgrade": the server gave an ordinary response; has its `status_code` and `headers`.
        DodiciError: the exchange failed.

    Source: RFC 9110 section 7.8.
    """
    if dispatcher is None:
        dispatcher = global_dispatcher()
    options = prepare(
        dispatcher.origin,
        url,
        method,
        params=params,
        query=query,
        headers=headers,
        auth=auth,
        timeout=timeout,
        headers_timeout=headers_timeout,
        server_name=server_name,
        upgrade=protocol,
    )
    status_code, fields, socket = await _run(
        dispatcher,
        options,
        lambda status, reason: f"bad upgrade: the server answered {status} {reason}".rstrip(),
        on_info,
    )
    return UpgradeResult(fields, socket, status_code)


async def connect(
    url: str,
    path: str,
    *,
    headers: HeadersInput = None,
    auth: Auth | None = None,
    timeout: float | None = None,
    headers_timeout: float | None = None,
    server_name: str | None = None,
    on_info: InfoCallback | None = None,
    dispatcher: Dispatcher | None = None,
) -> ConnectResult:
    """Open a tunnel through the server at `url` to another one.

    Args:
        url: the server that is to open the tunnel; ``"/"`` with a dispatcher of one origin.
        path: where to, as ``host:port``.
        headers: as for `request`, such as ``proxy-authorization``.
        auth: as for `request`; makes an authorization field, which proxies do not look at.
        timeout: seconds until the tunnel is open, queueing included.
        headers_timeout: seconds from the request written to the answer.
        server_name: as for `request`.
        on_info: as for `request`.
        dispatcher: instead of the global one.

    Returns:
        Status and headers of the answer and a socket, which is then yours to close.

    Raises:
        InvalidArgumentError: an argument is malformed.
        SocketError: the answer was not a 2xx; has its `status_code` and `headers`.
        DodiciError: the exchange failed.

    Source: RFC 9110 section 9.3.6.
    """
    if dispatcher is None:
        dispatcher = global_dispatcher()
    options = prepare_connect(
        dispatcher.origin,
        url,
        path,
        headers=headers,
        auth=auth,
        timeout=timeout,
        headers_timeout=headers_timeout,
        server_name=server_name,
    )
    return ConnectResult(
        *await _run(
            dispatcher,
            options,
            lambda status, reason: (
                f"CONNECT to {path} refused: the server answered {status} {reason}".rstrip()
            ),
            on_info,
        )
    )

"""`websocket()`: messages both ways, over whatever a dispatcher leads to.

    WebSocket (here)         what people hold: one receive at a time, sends one behind the other, iteration, closing
    MessageChannel (here)    what carries it: a `FrameChannel` over a socket, or a stream of the mesh or the collective
    _websocket_frames.py     `FrameChannel`: the transport that an upgrade hands over, with the frames of
    _websocket_engine.py     `Engine`, which is sans-IO
    _websocket_handshake.py  the fields of request and response, and the handler that waits for the outcome

A dispatch with ``upgrade="websocket"`` ends in `on_request_upgrade`, whose last argument decides: a byte socket gets a
`FrameChannel`, anything with `receive` is a channel already, and then no frame and no key is of any meaning.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Coroutine, Generator, Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from ..core.errors import InvalidArgumentError, NotSupportedError, WebSocketClosedError, WebSocketError
from ..core.headers import Headers, HeadersInput
from ._websocket_messages import (
    Message,
    check_close,
    check_number,
    http_url,
    pieces_of,
    plain_message,
    size_of,
)
from .auth import Auth
from .exchange import give_way, global_dispatcher
from .prepare import prepare

if TYPE_CHECKING:
    from types import TracebackType

    from ..core.dispatcher import Dispatcher

MAX_MESSAGE_SIZE: Final = 1 << 20
"""Bytes of a message that is taken by default, as in `websockets`."""

ORDERLY: Final = frozenset({1000, 1001, 1005})
"""Close codes that end an iteration: normal closure, going away, and a close frame that names no code."""


class MessageChannel(Protocol):
    """A WebSocket below its public face: whole messages, one `send` and one `receive` at a time.

    `WebSocket` sees to that, and checks every argument before. A dispatcher that carries messages by itself hands an
    object like this to `on_request_upgrade` in place of a socket. The request's fields are those of any WebSocket
    (``sec-websocket-protocol`` among them); such a dispatcher ignores key, version and extensions.

    A channel may also have:

        max_message_size: int | None      set by `WebSocket` before the first `receive`: a longer message, in bytes, is
                                          answered with 1009
        async ping() -> float             the seconds that a round trip took
        async send_pieces(pieces)         one message from an async iterator of `str` or of `bytes`
    """

    subprotocol: str | None
    """What the server has chosen of the subprotocols that were offered."""
    headers: Headers
    """The server's answer to the handshake."""
    close_code: int | None
    """None until it is known how the WebSocket ends (RFC 6455 section 7.1.5); 1006 without a closing handshake."""
    close_reason: str

    async def send(self, message: str | bytes) -> None:
        """Send a message, having waited until there is room for it. Cancelled, it has sent all of it or nothing.

        Raises:
            WebSocketClosedError: closed, by whomever.
            UnicodeEncodeError: text with a lone surrogate; nothing was sent.
        """

    async def receive(self) -> str | bytes:
        """The next message. Cancelled, it has taken none. What waits unread is bounded: the peer is then held up.

        Raises:
            WebSocketClosedError: closed, and all that came before was taken. `close_code` is set.
        """

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Say that this is the end, and return when the peer has said so, too. Messages that come meanwhile are
        dropped. Again, or after the peer's: only waits.
        """

    def abort(self) -> None:
        """Close now and tell nobody. A `receive` that waits ends with 1006."""


class WebSocket:
    """An open WebSocket; `websocket()` makes it. Yours to close, however the dispatcher that it came by ends.

        async with dodici.websocket("wss://example.com/chat") as ws:
            await ws.send("hello")
            async for message in ws:
                ...

    One task receives, any number may send: messages do not interleave. Both sides are held up by a reader that is
    slow: what waits unread and unsent is bounded. Every method may be cancelled: `receive` then loses no message,
    and `send` has sent the whole message or nothing.
    """

    def __init__(
        self,
        channel: MessageChannel,
        *,
        max_message_size: int | None = MAX_MESSAGE_SIZE,
        close_timeout: float = 10.0,
    ) -> None:
        self._channel = channel
        self._max_message_size = max_message_size
        self._close_timeout = close_timeout
        self._loop = asyncio.get_running_loop()
        self._sending = asyncio.Lock()
        self._receiving = False
        self._closing = False
        if hasattr(channel, "max_message_size"):
            channel.max_message_size = max_message_size

    @property
    def headers(self) -> Headers:
        """The server's answer to the handshake."""
        return self._channel.headers

    @property
    def subprotocol(self) -> str | None:
        """What the server has chosen of the subprotocols that were offered."""
        return self._channel.subprotocol

    @property
    def close_code(self) -> int | None:
        """How it ended; None before. What the peer gave (1005: nothing), or why it failed here; 1006 if the connection
        ended without a closing handshake (RFC 6455 section 7.1.5).
        """
        return self._channel.close_code

    @property
    def close_reason(self) -> str:
        """The text that came with the code; mostly empty."""
        return self._channel.close_reason

    async def send(self, message: Message) -> None:
        """Send one message, having waited until there is room for it.

        Args:
            message: a `str` is sent as text, bytes-like as binary. Of an iterable or async iterable of either, each
                piece is sent as it comes, as a fragment of one message. If that is cancelled or raises after the
                first piece, the WebSocket fails (1011), for what was begun cannot be taken back.

        Raises:
            InvalidArgumentError: neither of these, or pieces of both kinds.
            WebSocketClosedError: it is closed, or being closed.

        Source: RFC 6455 sections 5.4 and 6.1.
        """
        plain = plain_message(message)
        async with self._sending:
            try:
                if plain is not None:
                    await self._channel.send(plain)
                else:
                    async with aclosing(pieces_of(message)) as pieces:
                        await self._send_pieces(pieces)
            except UnicodeEncodeError as error:
                raise InvalidArgumentError(f"the text of a message cannot be encoded: {error}") from None

    async def _send_pieces(self, pieces: AsyncIterator[str | bytes]) -> None:
        if hasattr(self._channel, "send_pieces"):
            await self._channel.send_pieces(pieces)
            return
        whole = [piece async for piece in pieces]
        if all(isinstance(piece, str) for piece in whole):
            if whole:
                await self._channel.send("".join(whole))  # type: ignore[arg-type]
        elif all(isinstance(piece, bytes) for piece in whole):
            await self._channel.send(b"".join(whole))  # type: ignore[arg-type]
        else:
            raise InvalidArgumentError("the pieces of a message must be all str or all bytes")

    async def receive(self) -> str | bytes:
        """The next message: `str` for text, `bytes` for binary.

        Raises:
            WebSocketClosedError: it is closed, and all that came before was taken. `close_code`, `close_reason`.
            WebSocketError: another task is receiving.
        """
        if self._receiving:
            raise WebSocketError("another task is receiving from this WebSocket")
        self._receiving = True
        try:
            message = await self._channel.receive()
        finally:
            self._receiving = False
        limit = self._max_message_size
        if limit is not None and len(message) * 4 > limit and size_of(message) > limit:
            # A channel of frames has refused it long before; this is for those that count nothing.
            await self.close(1009, f"over {limit} bytes")
            raise WebSocketClosedError(
                f"the WebSocket has failed: 1009 a message was over {limit} bytes", close_code=1009
            )
        return message

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | bytes:
        """The next message; the end when the peer closed in order (1000, 1001, or without a code).

        Raises:
            WebSocketClosedError: it ended in another way.
        """
        try:
            return await self.receive()
        except WebSocketClosedError as error:
            if error.close_code in ORDERLY:
                raise StopAsyncIteration from None
            raise

    async def ping(self) -> float:
        """Send a ping and wait for its pong.

        Returns:
            The seconds between them.

        Raises:
            WebSocketClosedError: it is closed, or was before the pong came.
            NotSupportedError: it goes to a worker of the mesh, where there is nothing to ping.

        Source: RFC 6455 sections 5.5.2 and 5.5.3.
        """
        if not hasattr(self._channel, "ping"):
            raise NotSupportedError("this WebSocket goes over no network: there is nobody to answer a ping")
        latency: float = await self._channel.ping()
        return latency

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close in order: tell the peer, wait for its answer, and for the connection to end.

        That takes `close_timeout` seconds at most; then the connection is cut. What comes meanwhile is dropped, and
        what was not received before may be. Closing again only waits. A cancelled `close` goes on.

        Args:
            code: 1000 to 1003, 1007 to 1014, or 3000 to 4999.
            reason: at most 123 bytes in UTF-8.

        Raises:
            InvalidArgumentError: another code, or a longer reason.

        Source: RFC 6455 sections 5.5.1, 7.1.1 and 7.4.
        """
        check_close(code, reason)
        self._closing = True
        try:
            async with asyncio.timeout(self._close_timeout):
                await self._channel.close(code, reason)
        except TimeoutError:
            self._channel.abort()

    def abort(self) -> None:
        """Close now and tell nobody, whatever is unsent or unread."""
        self._closing = True
        self._channel.abort()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.close()
        else:
            await self.close(1001 if issubclass(kind, asyncio.CancelledError) else 1011)

    def __del__(self) -> None:
        if getattr(self, "_closing", True) or self._channel.close_code is not None:
            return
        # The collector runs anywhere, in any thread: nothing is touched here but by way of the loop.
        try:
            self._loop.call_soon_threadsafe(self._channel.abort)
        except RuntimeError:
            return  # the loop is closed, and the connection with it
        warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)

    def __repr__(self) -> str:
        return f"<WebSocket {'open' if self.close_code is None else f'closed: {self.close_code}'}>"


class WebSocketOpening(Coroutine[Any, Any, WebSocket]):
    """What `websocket()` returns: to be awaited, or entered with ``async with``."""

    __slots__ = ("_coroutine", "_websocket")

    def __init__(self, coroutine: Coroutine[Any, Any, WebSocket]) -> None:
        self._coroutine = coroutine
        self._websocket: WebSocket | None = None

    def send(self, value: Any) -> Any:
        """As of every coroutine."""
        return self._coroutine.send(value)

    def throw(self, *args: Any) -> Any:
        """As of every coroutine."""
        return self._coroutine.throw(*args)

    def close(self) -> None:
        """As of every coroutine."""
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, WebSocket]:
        return (yield from self._coroutine.__await__())

    async def __aenter__(self) -> WebSocket:
        self._websocket = await self._coroutine
        return self._websocket

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._websocket is not None:
            await self._websocket.__aexit__(kind, error, trace)


def websocket(
    url: str,
    *,
    subprotocols: Iterable[str] = (),
    headers: HeadersInput = None,
    auth: Auth | None = None,
    timeout: float | None = None,
    max_message_size: int | None = MAX_MESSAGE_SIZE,
    compression: str | None = "deflate",
    ping_interval: float | None = 20.0,
    ping_timeout: float | None = 20.0,
    close_timeout: float = 10.0,
    server_name: str | None = None,
    dispatcher: Dispatcher | None = None,
) -> WebSocketOpening:
    """Open a WebSocket, as in ``async with dodici.websocket(url) as ws`` or ``ws = await dodici.websocket(url)``.

    It goes over whatever the dispatcher leads to: HTTP/1.1, HTTP/2 where the server offers that (RFC 8441), a worker of
    the mesh, whose app gets a ``websocket`` scope, or an origin of the collective. Over a network it needs
    ``dodici[websocket]``.

    Args:
        url: ``ws``, ``wss``, ``http`` or ``https``; with a dispatcher of one origin also a path.
        subprotocols: what to offer, the favourite first. `WebSocket.subprotocol` is what was chosen, or None.
        headers: more fields for the handshake, such as ``origin``.
        auth: as for `request`.
        timeout: seconds until it is open, queueing included.
        max_message_size: bytes of a message, uncompressed, that is taken; a longer one fails with 1009. None disables.
        compression: ``"deflate"`` offers permessage-deflate (RFC 7692), None offers nothing.
        ping_interval: seconds between pings that see whether the peer lives; None disables. The mesh needs none.
        ping_timeout: seconds after a ping in which something must come, or the WebSocket fails with 1011; None
            disables. While messages wait unread nothing is read, and nobody is declared dead.
        close_timeout: seconds for the closing handshake and for the peer to close the connection.
        server_name: as for `request`.
        dispatcher: instead of the global one.

    Raises:
        InvalidArgumentError: an argument is malformed. Nothing was sent.
        WebSocketError: the server refused (has its `status_code`, `headers` and the beginning of its `body`), or
            answered with something that is no handshake.
        NotSupportedError: the package `websockets` is not installed, or HTTP/2 in the clear to a server without
            RFC 8441.
        DodiciError: the exchange failed.

    Source: RFC 6455, RFC 7692, RFC 8441.
    """
    return WebSocketOpening(
        _open(
            dispatcher,
            url,
            subprotocols,
            compression,
            {"headers": headers, "auth": auth, "timeout": timeout, "server_name": server_name},
            {
                "max_message_size": max_message_size,
                "ping_interval": ping_interval,
                "ping_timeout": ping_timeout,
                "close_timeout": close_timeout,
            },
        )
    )


async def _open(
    dispatcher: Dispatcher | None,
    url: str,
    subprotocols: Any,
    compression: str | None,
    arguments: dict[str, Any],
    settings: dict[str, Any],
) -> WebSocket:
    from ._websocket_handshake import (
        OpeningHandler,
        check_answer,
        check_subprotocols,
        chosen_subprotocol,
        request_fields,
    )

    if dispatcher is None:
        dispatcher = global_dispatcher()
    for name, value in settings.items():
        check_number(name, value, optional=name != "close_timeout")
    offered = check_subprotocols(subprotocols)
    fields, key = request_fields(arguments.pop("headers"), offered, compression)
    options = prepare(
        dispatcher.origin, http_url(url), None, headers=fields, upgrade="websocket", **arguments
    )
    loop = asyncio.get_running_loop()

    def take(status_code: int, answer: Headers, socket: Any) -> MessageChannel:
        if hasattr(socket, "receive"):
            channel: MessageChannel = socket
            if channel.subprotocol is not None and channel.subprotocol not in offered:
                raise WebSocketError(
                    f"the app chose the subprotocol {channel.subprotocol!r} of {list(offered)}",
                    headers=answer,
                )
            return channel
        check_answer(status_code, answer, key)
        subprotocol = chosen_subprotocol(answer, offered)
        frames = _frames()
        made: MessageChannel = frames.FrameChannel(
            socket,
            answer,
            subprotocol,
            frames.negotiate(answer, compression is not None),
            frames.ChannelSettings(**settings),
            loop,
            tunnel=status_code != 101,
        )
        return made

    handler = OpeningHandler(loop, take)
    dispatcher.dispatch(options, handler)
    try:
        await handler.waiter
    except BaseException:
        handler.abandon()
        raise
    if handler.socket is None:
        await give_way()
        raise handler.take_error()
    return WebSocket(
        handler.socket,
        max_message_size=settings["max_message_size"],
        close_timeout=settings["close_timeout"],
    )


def _frames() -> Any:
    try:
        from . import _websocket_frames
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "websockets":
            raise
        raise NotSupportedError(
            "WebSocket over a network needs the package websockets: pip install 'dodici[websocket]'"
        ) from error
    return _websocket_frames

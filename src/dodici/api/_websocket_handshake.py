"""The opening handshake of a WebSocket: what is asked for, and whether the answer is what was asked for.

Source: RFC 6455 sections 4.1 and 4.2.2; RFC 8441 for HTTP/2, where status 200 takes the place of 101 and there is
neither a key nor an accept.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from ..core.controller import DispatchController
from ..core.errors import InvalidArgumentError, WebSocketError
from ..core.headers import TOKEN, Headers, HeadersInput
from .upgrades import UpgradeHandler

if TYPE_CHECKING:
    from .websocket import MessageChannel

DEFLATE_OFFER: Final = "permessage-deflate; client_max_window_bits"
"""RFC 7692 section 7.1: the server may choose windows for both sides."""

_ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_OWN_FIELDS = {
    "sec-websocket-key": "it is made for each handshake",
    "sec-websocket-version": "it is 13",
    "sec-websocket-extensions": "use compression=",
    "sec-websocket-protocol": "use subprotocols=",
}
_REFUSAL_SIZE = 4096
_REFUSAL_WAIT = 1.0  # seconds: an explanation is worth that, and not a body timeout


def request_fields(
    given: HeadersInput, subprotocols: Sequence[str], compression: str | None
) -> tuple[Headers, str]:
    """The fields of the request, the caller's first, and the key among them.

    Raises:
        InvalidArgumentError: the caller's fields have one of the handshake's own; a subprotocol is not a token, or is
            named twice; a compression that does not exist.
    """
    fields = Headers(given)
    for name, hint in _OWN_FIELDS.items():
        if name in fields:
            raise InvalidArgumentError(f"invalid header {name}: it is the handshake's own: {hint}")
    key = b64encode(os.urandom(16)).decode("ascii")
    own = [(b"sec-websocket-key", key.encode("ascii")), (b"sec-websocket-version", b"13")]
    if compression == "deflate":
        own.append((b"sec-websocket-extensions", DEFLATE_OFFER.encode("ascii")))
    elif compression is not None:
        raise InvalidArgumentError(f"compression must be 'deflate' or None, not {compression!r}")
    if subprotocols:
        own.append((b"sec-websocket-protocol", ", ".join(subprotocols).encode("ascii")))
    return Headers.from_raw((*fields.raw, *own)), key


def check_subprotocols(given: Any) -> tuple[str, ...]:
    """The subprotocols to offer.

    Raises:
        InvalidArgumentError: not a sequence of different tokens.
    """
    if isinstance(given, str | bytes):
        raise InvalidArgumentError(f"subprotocols must be a sequence of str, such as [{given!r}]")
    names = tuple(given or ())
    for name in names:
        if not isinstance(name, str) or not name.isascii() or TOKEN(name.encode("ascii")) is None:
            raise InvalidArgumentError(
                f"invalid subprotocol {name!r}: it must be a token (RFC 6455 section 4.1)"
            )
    if len(set(names)) != len(names):
        raise InvalidArgumentError("subprotocols must differ from each other (RFC 6455 section 4.1)")
    return names


def check_answer(status_code: int, headers: Headers, key: str) -> None:
    """Whether the server has agreed to this very handshake.

    Raises:
        WebSocketError: a field is missing or wrong.
    """
    if status_code != 101:
        return  # an extended CONNECT: the status says it all
    if [value.strip().lower() for value in headers.get_list("upgrade")] != ["websocket"]:
        raise _bad(f"its upgrade field is {headers.get('upgrade')!r}, not 'websocket'", headers)
    options = {option.strip().lower() for option in headers.get("connection", "").split(",")}
    if "upgrade" not in options:
        raise _bad(f"its connection field is {headers.get('connection')!r}, not 'Upgrade'", headers)
    digest = hashlib.sha1(key.encode("ascii") + _ACCEPT_GUID, usedforsecurity=False).digest()
    accepts = headers.get_list("sec-websocket-accept")
    if accepts != [b64encode(digest).decode("ascii")]:
        raise _bad(
            f"its sec-websocket-accept {', '.join(accepts) or None!r} does not belong to the key", headers
        )


def chosen_subprotocol(headers: Headers, offered: Sequence[str]) -> str | None:
    """What the server has chosen.

    Raises:
        WebSocketError: several, or one that was not offered.
    """
    values = headers.get_list("sec-websocket-protocol")
    if not values:
        return None
    if len(values) > 1 or values[0] not in offered:
        raise _bad(f"it chose the subprotocol {', '.join(values)!r} of {list(offered)}", headers)
    return values[0]


def _bad(what: str, headers: Headers) -> WebSocketError:
    return WebSocketError(f"the answer to the WebSocket handshake is invalid: {what}", headers=headers)


class OpeningHandler(UpgradeHandler):
    """Waits for the channel, or for the beginning of what the server says instead.

    Args:
        loop: that of the dispatch.
        take: makes the channel of what is handed over, at once: no byte may reach the socket's own reader in between.
    """

    __slots__ = ("_body", "_loop", "_patience", "_take")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, take: Callable[[int, Headers, Any], MessageChannel]
    ) -> None:
        super().__init__(loop, lambda _status, _reason: "", None)
        self._loop = loop
        self._take = take
        self._body = bytearray()
        self._patience: asyncio.TimerHandle | None = None

    def on_response_start(
        self, controller: DispatchController, status_code: int, headers: Headers, status_message: str
    ) -> None:
        if status_code < 200:
            return
        self.error = WebSocketError(
            f"the server refused the WebSocket: it answered {status_code} {status_message}".rstrip(),
            status_code=status_code,
            headers=headers,
        )
        self._patience = self._loop.call_later(_REFUSAL_WAIT, self._enough)

    def on_response_data(self, controller: DispatchController, chunk: bytes) -> None:
        self._body += chunk[: _REFUSAL_SIZE - len(self._body)]
        if len(self._body) >= _REFUSAL_SIZE:
            self._enough()

    def _enough(self) -> None:
        controller = self.controller
        self._wake()
        if controller is not None:
            controller.abort(self.error)

    def _wake(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        if self._body and isinstance(self.error, WebSocketError):
            self.error.body = self._body.decode("utf-8", "replace")
        super()._wake()

    def on_request_upgrade(
        self, controller: DispatchController, status_code: int, headers: Headers, socket: Any
    ) -> None:
        if self.abandoned:
            self.controller = None
            socket.abort()
            return
        try:
            channel: Any = self._take(status_code, headers, socket)
        except Exception as error:
            self.controller = None
            socket.abort()
            self.error = error
            self._wake()
            return
        super().on_request_upgrade(controller, status_code, headers, channel)

    def abandon(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
        super().abandon()

"""WebSockets over a link, as messages: nothing is masked, and no frame of RFC 6455 is written.

    WebSocketStream   the worker's side: ASGI's `websocket` scope
    ClientChannel     the client's side: what `on_request_upgrade` hands over

Both are a `MessagePipe` with a face.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..core.errors import InvalidArgumentError, WebSocketClosedError
from ..core.headers import Headers
from ..wire.mesh import frames
from ..wire.mesh.heads import encode_response
from .messages import MessagePipe
from .server_stream import AWAITING, FINISHED, STARTED, ServerStream, as_bytes

if TYPE_CHECKING:
    from .client_stream import ClientStream
    from .contracts import Scope, StreamOwner
    from .link import Link

_NORMAL = 1000
_INTERNAL_ERROR = 1011
_RESTART = 1012
_EMPTY_BODY = ((b"content-length", b"0"),)


class ClientChannel(MessagePipe):
    """The client's side: `dodici.api.websocket.MessageChannel` describes it."""

    __slots__ = ("headers", "subprotocol")

    def __init__(self, link: Link, stream: ClientStream, headers: Headers) -> None:
        super().__init__(link, stream)
        self.headers = headers
        self.subprotocol: str | None = headers.get("sec-websocket-protocol")

    @property
    def max_message_size(self) -> int | None:
        """Bytes of the longest message that is taken; a longer one is answered with 1009."""
        return self.limit

    @max_message_size.setter
    def max_message_size(self, size: int | None) -> None:
        self.limit = size

    @property
    def close_code(self) -> int | None:
        """None until it is known how the WebSocket ends."""
        return self.closed[0] if self.closed is not None else None

    @property
    def close_reason(self) -> str:
        """What came with the code."""
        return self.closed[1] if self.closed is not None else ""

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Say that this is the end, and return when the peer has said so, too."""
        self.begin_close(code, reason)
        while self._arrived:
            self._consumed(self._arrived.popleft()[1])
        self._pay()
        await self.ended()

    def abort(self) -> None:
        """Close now and tell nobody but the peer's side of the link."""
        if not self._stream.gone:
            self._link.engine.cancel(self._stream)
            self._link.stage()
            self.lost()
            self._link.ended()
        else:
            self.lost()


class WebSocketStream(ServerStream):
    """The worker's side of a WebSocket: `receive()` and `send()` of ASGI's ``websocket`` scope."""

    __slots__ = ("_accepted", "_connect_told", "_pipe")

    websocket = True

    def __init__(self, link: Link, number: int, head: Any) -> None:
        super().__init__(link, number, head)
        self._pipe = MessagePipe(link, self)
        self._connect_told = False
        self._accepted = False

    def _complete(self, scope: Scope) -> None:
        scope["type"] = "websocket"
        scope["scheme"] = "wss" if scope["scheme"] == "https" else "ws"
        del scope["method"]
        scope["subprotocols"] = [
            token.strip()
            for name, value in self.head.fields
            if name == b"sec-websocket-protocol"
            for token in value.decode("latin-1").split(",")
            if token.strip()
        ]
        scope["extensions"] = {
            "websocket.http.response": {},
            "dodici.mesh": {"worker": self._link.peer.id},
        }

    # -- the engine's side -----------------------------------------------------------------------------

    def on_data(self, data: bytes) -> None:
        raise self.misplaced()

    def on_message(self, data: bytes, *, text: bool, more: bool) -> None:
        self._pipe.on_message(data, text=text, more=more)

    def on_close(self, code: int, reason: str) -> None:
        self._pipe.on_close(code, reason)

    def on_credit(self) -> None:
        if self._accepted:
            self._pipe.pump()
        else:
            super().on_credit()

    def on_lost(self) -> None:
        self._pipe.lost()
        super().on_lost()

    # -- the host's side -------------------------------------------------------------------------------

    def abort(self, reason: str) -> None:
        if not self._accepted or self.given_up:
            super().abort(reason)
        elif self._pipe.closed is None:
            self._pipe.fail(_RESTART, reason[:120])

    def _returned(self) -> None:
        if not self._accepted:
            super()._returned()
        else:
            self._pipe.begin_close(_NORMAL, "")

    def _answer_failure(self, error: BaseException, host: StreamOwner) -> None:
        if not self._accepted:
            super()._answer_failure(error, host)
        else:
            self._pipe.begin_close(_INTERNAL_ERROR, "")

    # -- the app's side --------------------------------------------------------------------------------

    async def _drained(self) -> None:
        await self._pipe.drained()

    async def receive(self) -> dict[str, Any]:
        """ASGI's `receive`."""
        if not self._connect_told:
            self._connect_told = True
            return {"type": "websocket.connect"}
        try:
            message = await self._pipe.receive()
        except WebSocketClosedError as closed:
            return {"type": "websocket.disconnect", "code": closed.close_code, "reason": closed.close_reason}
        if isinstance(message, str):
            return {"type": "websocket.receive", "text": message}
        return {"type": "websocket.receive", "bytes": message}

    async def send(self, message: Mapping[str, Any]) -> None:
        """ASGI's `send`.

        Raises:
            SocketError, WebSocketClosedError: OSErrors both: the client has gone. InvalidArgumentError: the message
            is wrong, or is not to be sent now.
        """
        kind = message["type"]
        if self._accepted:
            if kind == "websocket.send":
                await self._send_message(message)
            elif kind == "websocket.close":
                if self._pipe.closing and self._pipe.closed is None:
                    raise InvalidArgumentError("websocket.close for a second time")
                self._pipe.begin_close(_close_code(message), str(message.get("reason") or ""))
            else:
                raise InvalidArgumentError(
                    f"unknown ASGI message {kind!r}, or one that does not come behind websocket.accept"
                )
            return
        if self.given_up:
            raise self._gone()
        if kind == "websocket.accept" and self._progress == AWAITING:
            self._accept(message)
        elif kind == "websocket.close" and self._progress == AWAITING:
            self._start({"type": "websocket.http.response.start", "status": 403, "headers": _EMPTY_BODY})
            await self._send_body({"type": "websocket.http.response.body"})
            self._pipe.lost()
        elif kind == "websocket.http.response.start":
            self._start(message)
        elif kind == "websocket.http.response.body":
            await self._send_body(message)
            if self._progress == FINISHED:
                self._pipe.lost()
        else:
            raise InvalidArgumentError(
                f"unknown ASGI message {kind!r}, or one that does not come before websocket.accept"
            )

    def _accept(self, message: Mapping[str, Any]) -> None:
        headers = [*message.get("headers", ())]
        subprotocol = message.get("subprotocol")
        if subprotocol is not None:
            headers.append((b"sec-websocket-protocol", subprotocol.encode("latin-1")))
        block = encode_response(101, headers)
        host = self._host
        assert host is not None
        host.on_response(self._scope, 101, headers)
        self._accepted = True
        self._progress = STARTED
        if self._span is not None:
            self._span.status = 101
        self._link.engine.outbox.write(frames.ACCEPT, self.id, block)
        self._link.stage()

    async def _send_message(self, message: Mapping[str, Any]) -> None:
        text, data = message.get("text"), message.get("bytes")
        if (text is None) is (data is None):
            raise InvalidArgumentError("websocket.send needs either text or bytes")
        if text is not None and not isinstance(text, str):
            raise InvalidArgumentError(f"text must be a str, not {type(text).__name__}")
        try:
            await self._pipe.send(text if text is not None else as_bytes(data))
        except WebSocketClosedError as error:
            self._error = error
            raise


def _close_code(message: Mapping[str, Any]) -> int:
    code = message.get("code", _NORMAL)
    if code is None:
        return _NORMAL
    if not isinstance(code, int) or not 1000 <= code <= 4999:  # RFC 6455 section 7.4.2
        raise InvalidArgumentError(f"websocket.close needs a code from 1000 to 4999, not {code!r}")
    return code

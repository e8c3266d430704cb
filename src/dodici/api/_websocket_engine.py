"""The frames of a WebSocket, sans-IO: RFC 6455 after the handshake, seen from the client.

The rules are those of `websockets`' protocol: masks, opcodes, reserved bits, control frames, the closing handshake,
permessage-deflate. `Engine` adds what that leaves to its caller: fragments are put together, and text is checked frame
by frame, so that bad UTF-8 fails the connection where it stands.
"""

from __future__ import annotations

import codecs
import io
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from websockets.exceptions import InvalidHandshake
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.headers import parse_extension
from websockets.protocol import Protocol, Side, State

from ..core.errors import WebSocketError
from ..core.headers import Headers

if TYPE_CHECKING:
    from websockets.extensions import Extension

_logger = logging.getLogger("dodici.websocket")


def negotiate(headers: Headers, offered: bool) -> list[Extension]:
    """The extensions that the server has agreed to: permessage-deflate or none.

    Raises:
        WebSocketError: one that was not offered, or with parameters that were not.

    Source: RFC 6455 section 9.1, RFC 7692 section 7.1.
    """
    factory = ClientPerMessageDeflateFactory(compress_settings={"memLevel": 5})
    accepted: list[Extension] = []
    try:
        for value in headers.get_list("sec-websocket-extensions"):
            for name, parameters in parse_extension(value):
                if not offered or name != factory.name:
                    raise WebSocketError(
                        f"the server chose the extension {str(name)!r}, which was not offered",
                        headers=headers,
                    )
                accepted.append(factory.process_response_params(parameters, accepted))
    except (InvalidHandshake, ValueError) as error:
        raise WebSocketError(
            f"the server's sec-websocket-extensions are invalid: {error}", headers=headers
        ) from error
    return accepted


class Engine(Protocol):
    """The sans-IO protocol of a client whose handshake is done, with whole messages at its upper end."""

    def __init__(
        self,
        extensions: list[Extension],
        max_message_size: int | None,
        on_message: Callable[[str | bytes], None],
        on_pong: Callable[[bytes], None],
    ) -> None:
        super().__init__(Side.CLIENT, state=State.OPEN, max_size=max_message_size, logger=_logger)
        self.extensions = extensions
        self._on_message = on_message
        self._on_pong = on_pong
        self._text: io.StringIO | None = None
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._binary = bytearray()

    def recv_frame(self, frame: Frame) -> None:
        """Take a frame. What is raised here fails the connection with the close code that belongs to it."""
        super().recv_frame(frame)
        self.events.clear()
        opcode, data = frame.opcode, frame.data
        if opcode is Opcode.TEXT:
            if frame.fin:
                self._on_message(str(data, "utf-8"))
            else:
                self._text = io.StringIO(newline="")
                self._text.write(self._decode(data))
        elif opcode is Opcode.BINARY:
            if frame.fin:
                self._on_message(bytes(data))
            else:
                self._binary += data
        elif opcode is Opcode.CONT:
            self._continue(data, frame.fin)
        elif opcode is Opcode.PONG:
            self._on_pong(bytes(data))

    def _continue(self, data: Any, fin: bool) -> None:
        if self._text is not None:
            self._text.write(self._decode(data, fin))
            if fin:
                text, self._text = self._text.getvalue(), None
                self._on_message(text)
        else:
            self._binary += data
            if fin:
                message = bytes(self._binary)
                self._binary = bytearray()
                self._on_message(message)

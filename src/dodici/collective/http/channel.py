"""A carried WebSocket at the caller's end: what `on_request_upgrade` hands over where the origin takes whole messages.

`CarriedChannel` is a `dodici.api.websocket.MessageChannel`. The task of the exchange gives it the parts that arrive, and
is held up while messages wait unread; the call's own flow control holds up the origin then.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Iterable

from ...core.errors import WebSocketClosedError
from ...core.headers import Headers
from ...wire.mesh.frames import close as close_payload
from ..protos import http_pb2 as pb
from .framing import MalformedError
from .parts import ABNORMAL, HIGH_WATER, Assembly, Outgoing, UnfitError, closing_of, cost_of, parts_of


class CarriedChannel:
    """See the module's text.

    Args:
        headers: the origin's answer to the handshake.
        out: what is sent is put there.
        cut: ends the call.
    """

    def __init__(self, headers: Headers, out: Outgoing, cut: Callable[[], None]) -> None:
        self.headers = headers
        self.subprotocol: str | None = headers.get("sec-websocket-protocol")
        self.close_code: int | None = None
        self.close_reason = ""
        self._out = out
        self._cut = cut
        self._assembly = Assembly()
        self._arrived: deque[str | bytes] = deque()
        self._unread = 0
        self._reader: asyncio.Future[None] | None = None
        self._held: asyncio.Future[None] | None = None
        self._said = False
        self._heard = False
        self._ended = asyncio.Event()
        self._failure: BaseException | None = None
        self._pings: dict[bytes, asyncio.Future[float]] = {}

    @property
    def max_message_size(self) -> int | None:
        """Bytes of the longest message that is taken; a longer one is answered with 1009."""
        return self._assembly.limit

    @max_message_size.setter
    def max_message_size(self, size: int | None) -> None:
        self._assembly.limit = size

    # -- the person's side -----------------------------------------------------------------------------

    async def send(self, message: str | bytes) -> None:
        """See `MessageChannel.send`."""
        parts = list(parts_of(message))
        await self._out.room()
        self._check_open()
        self._out.put(parts)

    async def receive(self) -> str | bytes:
        """See `MessageChannel.receive`."""
        while not self._arrived:
            if self.close_code is not None:
                raise self._closed_error()
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        message = self._arrived.popleft()
        self._unread -= cost_of(message)
        self._go_on()
        return message

    async def ping(self) -> float:
        """The seconds to the collector of the origin and back."""
        await self._out.room()
        self._check_open()
        loop = asyncio.get_running_loop()
        payload = os.urandom(8)
        answer: asyncio.Future[float] = loop.create_future()
        self._pings[payload] = answer
        began = loop.time()
        self._out.put([pb.Part(kind=pb.Part.PING, data=payload)])
        try:
            return await answer - began
        finally:
            self._pings.pop(payload, None)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """See `MessageChannel.close`."""
        if self.close_code is None:
            self._say_close(code, reason)
            self._go_on()
        await self._ended.wait()

    def abort(self) -> None:
        """See `MessageChannel.abort`."""
        self._arrived.clear()
        self._end(ABNORMAL, "")
        if not self._heard:  # else the call ends by itself, in order
            self._cut()

    # -- the exchange's side ---------------------------------------------------------------------------

    async def take(self, parts: Iterable[pb.Part]) -> None:
        """What has arrived. Returns when there is room for more.

        Raises:
            MalformedError: it is nothing that comes from an origin.
        """
        for part in parts:
            if self._heard:
                raise MalformedError("a WebSocket goes on after its end")
            if part.kind == pb.Part.CLOSE:
                self._heard = True
                self._end(*closing_of(part))
            elif part.kind == pb.Part.PONG:
                answer = self._pings.pop(part.data, None)
                if answer is not None and not answer.done():
                    answer.set_result(asyncio.get_running_loop().time())
            elif part.kind == pb.Part.PING:
                raise MalformedError("a ping from an origin's end")
            elif not self._dropping:
                self._add(part)
        while self._unread >= HIGH_WATER and not self._dropping:
            self._held = asyncio.get_running_loop().create_future()
            await self._held

    def lost(self, error: BaseException | None) -> None:
        """The call has ended."""
        if self.close_code is None:
            self._failure = error
        self._end(ABNORMAL, "")

    def _add(self, part: pb.Part) -> None:
        try:
            message = self._assembly.add(part)
        except UnfitError as error:
            self._say_close(error.code, error.reason)
            self._end(error.code, error.reason)
            return
        if message is not None:
            self._arrived.append(message)
            self._unread += cost_of(message)
            _wake(self._reader)

    @property
    def _dropping(self) -> bool:
        """Whether messages that come are nobody's."""
        return self._said or self.close_code is not None

    def _say_close(self, code: int, reason: str) -> None:
        if self._said:
            return
        self._said = True
        self._out.put([pb.Part(kind=pb.Part.CLOSE, data=close_payload(code, reason))])
        self._out.close()

    def _end(self, code: int, reason: str) -> None:
        if self.close_code is None:
            self.close_code, self.close_reason = code, reason
        self._out.close()
        self._ended.set()
        _wake(self._reader)
        self._go_on()
        for answer in self._pings.values():
            if not answer.done():
                answer.set_exception(self._closed_error())

    def _go_on(self) -> None:
        if self._unread < HIGH_WATER or self._dropping:
            _wake(self._held)

    def _check_open(self) -> None:
        if self._dropping or self._out.closed:
            raise self._closed_error()

    def _closed_error(self) -> WebSocketClosedError:
        code, reason = self.close_code, self.close_reason
        if code is None:
            why = "is being closed" if self._said else "is lost: only what had come can be received"
            return WebSocketClosedError(f"the WebSocket {why}")
        text = f"the WebSocket is closed ({code}{': ' + reason if reason else ''})"
        if self._failure is not None:
            text = f"{text}: {self._failure}"
        error = WebSocketClosedError(text, close_code=code, close_reason=reason)
        error.__cause__ = self._failure
        return error


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)

"""A carried connection at the caller's end: asyncio's transport over the parts of a call.

It is what the `UpgradedSocket` reads and writes that `on_request_upgrade` hands over where the origin has given a
connection of its own. The task of the exchange gives it the parts that arrive, and is held up while reading is paused.

`write_eof()` is CLOSE; `close()` is that, too, and what the origin still sends then is read for `_LINGERING` seconds and
dropped; `abort()` ends the call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from ...net.virtual import VirtualTransport
from ..protos import http_pb2 as pb
from .framing import MalformedError
from .parts import Outgoing, parts_of

_LINGERING: Final = 5.0


class CarriedTransport(VirtualTransport):
    """See the module's text.

    Args:
        out: what is sent is put there.
        cut: ends the call.
    """

    def __init__(self, out: Outgoing, cut: Callable[[], None]) -> None:
        super().__init__()
        out.on_taken = self._taken
        out.on_abandoned = self._abandoned
        self._out = out
        self._cut = cut
        self._loop = asyncio.get_running_loop()
        self._held: asyncio.Future[None] | None = None
        self._heard_end = False
        self._lingering: asyncio.TimerHandle | None = None

    # -- the exchange's side ---------------------------------------------------------------------------

    async def take(self, parts: Iterable[pb.Part]) -> None:
        """What has arrived. Returns when it has been read, and reading goes on.

        Raises:
            MalformedError: it is nothing that comes from an origin.
        """
        for part in parts:
            if self._heard_end or part.kind not in (pb.Part.BINARY, pb.Part.CLOSE):
                raise MalformedError("a connection goes on after its end, or as something else")
            self._heard_end = part.kind == pb.Part.CLOSE
            await self._reading()
            if self._closing:
                continue
            if self._heard_end:
                if not self._protocol.eof_received():  # type: ignore[attr-defined]
                    self.close()
            elif part.data:
                self._protocol.data_received(part.data)  # type: ignore[attr-defined]
        await self._reading()

    async def _reading(self) -> None:
        while self._paused and not self._closing:
            self._held = self._loop.create_future()
            await self._held

    def lost(self, error: BaseException | None) -> None:
        """The call has ended."""
        if self._lingering is not None:
            self._lingering.cancel()
        self._lose(error if isinstance(error, Exception) else None)

    def _lose(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = self._closing = True
            self._out.close()
            self._go_on()
            self._loop.call_soon(self._protocol.connection_lost, error)

    def _taken(self) -> None:
        self._sent()
        if self._closing and not self._out.waiting:
            self._lose(None)

    def _abandoned(self) -> None:
        self._lose(ConnectionResetError("the connection was lost"))

    def _go_on(self) -> None:
        if self._held is not None and not self._held.done():
            self._held.set_result(None)

    # -- asyncio's side --------------------------------------------------------------------------------

    def resume_reading(self) -> None:
        self._paused = False
        self._go_on()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or not data:
            return
        self._out.put(parts_of(bytes(data)))
        self._queued()

    def write_eof(self) -> None:
        self._out.put([pb.Part(kind=pb.Part.CLOSE)])
        self._out.close()

    def get_write_buffer_size(self) -> int:
        return self._out.waiting

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self.write_eof()
        self._lingering = self._loop.call_later(_LINGERING, self._cut)
        self._go_on()
        if not self._out.waiting:
            self._lose(None)

    def abort(self) -> None:
        self._lose(None)
        self._cut()

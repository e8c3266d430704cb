"""One client's connection to a gRPC server.

Answers of one turn of the loop leave in one write. The `tick` of all connections, twice a second, is what sees that a
client is silent, a deadline has passed, or the connection is as old as it may be: a call costs no timer.

How it ends: `retire` asks the client for no more calls and goes on with those that there are; when the client has
answered a PING, and so has seen that, the last number is told, and when the last call has ended the connection is
closed. `lose` ends it now, whatever runs on it. In both cases what was written is given time to arrive: a socket
that is closed while bytes wait in it that nobody has read resets its connection, and the client's last answers are
lost with it. So our side is shut, and the client closes (`_part`).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final

from ...core.timers import Timer
from ...net.loop import services
from ...wire.h2.frames import ConnectionFault, ErrorCode
from ...wire.h2.requests import RequestSection
from ...wire.h2.server import ServerEngine
from ...wire.h2.streams import Stream
from ..contracts import Identity
from .call import ServerCall
from .head import head_of

if TYPE_CHECKING:
    from .server import Server, ServerFace

_PORTION: Final = 256 * 1024
"""Bytes of answers that are written in one turn."""
_UNREAD: Final = 16 * 1024 * 1024
"""Bytes that may wait for a client that does not read: bodies wait elsewhere, so these are heads and the like."""
_GREETING: Final = 20.0
"""Seconds that a client has for its first frames."""
_FAREWELL: Final = 1.0
"""Seconds in which a client answers the PING behind GOAWAY, and reads our last words."""
_LINGER: Final = 5.0
"""Seconds in which one that lives reads its last answers: some may be with the system still."""
_RETIRING: Final = b"retiring"
_PROBE: Final = b"are you?"

_log = logging.getLogger("dodici.collective")


class Connection(asyncio.Protocol):
    """See the module's text. `over` says that nothing more happens on it, `gone` is done when its transport is closed."""

    def __init__(self, server: Server) -> None:
        self.face: ServerFace = server.face
        self.message = server.message
        self.loop = loop = asyncio.get_running_loop()
        self.gone: asyncio.Future[None] = loop.create_future()
        self.over = False
        self.peer = ""
        self.identity = Identity()
        self.blocked = False
        """Whether the transport has enough to write."""
        self.engine = ServerEngine(
            self, server.settings, server.heads, server.metadata, loop.time, strict=False
        )
        self._server = server
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # until connection_made
        self._staged = False
        self._retiring = self._told = False
        self._since = self.heard = loop.time()
        self._asked = 0.0
        """When PING was sent, or 0."""
        self._timer: Timer | None = None
        self._aging: asyncio.TimerHandle | None = None

    @property
    def calls(self) -> list[ServerCall]:
        """Those that run, or whose answers are not all sent."""
        return [stream for stream in self.engine.streams.values() if isinstance(stream, ServerCall)]

    def run(self, step: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a call's handler."""
        task = self.loop.create_task(step)
        self._server.tasks.add(task)
        task.add_done_callback(self._server.tasks.discard)
        return task

    # -- the transport's side --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's are none of asyncio's classes
        self.peer = peer_of(transport.get_extra_info("peername"))
        self.identity = self._server.identity(transport)
        self._timer = services(self.loop).timers.timer(self._tick)
        self._timer.deadline = 0.0  # at every tick
        if self._server.max_age is not None:
            # By its own number, so that connections of one moment do not all end in one.
            seconds = self._server.max_age[0] * (0.9 + (id(self) >> 4) % 1000 / 10_000)
            self._aging = self.loop.call_later(seconds, self._aged, self._server.max_age[1])
        self.engine.start()
        self.stage()
        self._server.arrived(self)

    def data_received(self, data: bytes) -> None:
        self.heard = self.loop.time()
        self._asked = 0.0
        engine = self.engine
        try:
            engine.receive(data)
        except ConnectionFault as fault:
            _log.debug("%s broke the protocol: %s", self.peer, fault)
            self._flush()
            self.lose()
            return
        if engine.outbox.parts or engine.outbox.ready or self._retiring:
            self.stage()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        if not self.gone.done():
            self.gone.set_result(None)
        self.lose()

    def pause_writing(self) -> None:
        self.blocked = True

    def resume_writing(self) -> None:
        self.blocked = False
        self.stage()

    # -- writing ---------------------------------------------------------------------------------------

    def stage(self) -> None:
        """Write what there is to be written when this turn's work is done."""
        if not self._staged and not self.over:
            self._staged = True
            self.loop.call_soon(self._flush_staged)

    def _flush_staged(self) -> None:
        self._staged = False
        if not self.over:
            self._flush()
            if self._retiring and not self.engine.streams:
                self._leave()

    def _flush(self) -> None:
        engine, transport = self.engine, self._transport
        if transport.is_closing():
            return
        if not self.blocked:
            engine.fill(_PORTION)
        if engine.outbox.parts:
            transport.write(engine.outbox.take())
            if self.blocked and transport.get_write_buffer_size() > _UNREAD:
                _log.warning("%s does not read what it is sent, and was cut off", self.peer)
                self.lose()
                return
        if engine.outbox.ready and not self.blocked:
            self.stage()

    # -- the engine's side -----------------------------------------------------------------------------

    def on_request(self, section: RequestSection) -> ServerCall:
        return ServerCall(self, head_of(section))

    def on_settings(self) -> None:
        """Nothing follows from them here."""

    def on_goaway(self, code: int, debug: bytes, unprocessed: list[Stream]) -> None:
        if code != ErrorCode.NO_ERROR:
            _log.debug("%s says goodbye: %r", self.peer, debug)

    def on_pong(self, payload: bytes) -> None:
        if payload == _RETIRING and self._retiring:
            self._told = True
            self.engine.refuse_more()
            self.stage()

    # -- the end ---------------------------------------------------------------------------------------

    def retire(self, *, at_once: bool = False) -> None:
        """Ask for no more calls, and end when those that there are have ended. `at_once`: take none that come."""
        if self.over:
            return
        if at_once:
            self._retiring = True
            self._refuse_more()
        elif not self._retiring:
            self._retiring = True
            self.engine.retire()
            self.engine.ping(_RETIRING)
            self.stage()
            self.loop.call_later(_FAREWELL, self._refuse_more)

    def _refuse_more(self) -> None:
        if not self.over:
            self.engine.refuse_more()
            self.stage()

    def _leave(self) -> None:
        """Close in order, once the client knows that nothing more is taken."""
        if not self.engine.accepting:
            self.engine.close()
            self._flush()
            self._part(_LINGER if self._told else _FAREWELL)

    def lose(self) -> None:
        """End it now. What runs is cancelled."""
        if self.over:
            return
        self.engine.closed = True
        for call in self.calls:
            self.engine.streams.pop(call.id, None)
            call.gone = True
            call.abandon()
        self._part(_FAREWELL)

    def _part(self, seconds: float) -> None:
        """Say nothing more; the client has so long for what was said."""
        self.over = True
        if self._timer is not None:
            self._timer.close()
        if self._aging is not None:
            self._aging.cancel()
        transport = self._transport
        if transport is None or self.gone.done():
            return
        try:
            if transport.can_write_eof() and not transport.is_closing():
                transport.write_eof()
            else:
                transport.close()
        except OSError:  # it was reset
            transport.abort()
        self.loop.call_later(seconds, transport.abort)

    # -- time ------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        if self._timer is not None:
            self._timer.deadline = 0.0
        now = self.loop.time()
        for call in self.calls:
            if call.deadline is not None and call.deadline <= now:
                call.expire()
        interval, timeout = self._server.keepalive
        if not self.engine.begun:
            if now - self._since > _GREETING:
                _log.debug("%s has said nothing", self.peer)
                self.lose()
        elif self._asked:
            if now - self._asked > timeout:
                _log.debug("%s has not answered for %g s", self.peer, timeout)
                self.lose()
        elif now - self.heard > interval:
            self._asked = now
            self.engine.ping(_PROBE)
            self.stage()

    def _aged(self, grace: float) -> None:
        self.retire()
        self._aging = self.loop.call_later(grace, self.lose)


def peer_of(name: Any) -> str:
    """The address of a socket's other end, as gRPC writes it."""
    if not isinstance(name, tuple):
        return "unix:" + (name if isinstance(name, str) else "")
    host, port = str(name[0]), name[1]
    address = ipaddress.ip_address(host.partition("%")[0])
    if address.version == 4:
        return f"ipv4:{host}:{port}"
    mapped = address.ipv4_mapped
    return f"ipv4:{mapped}:{port}" if mapped is not None else f"ipv6:[{host}]:{port}"

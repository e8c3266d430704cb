"""An exchange that asks for another protocol (RFC 9110 section 7.8), carried to the collector of a service's origin.

It is a call of `~http` like others until the origin agrees. Then the exchange ends with what is handed over, a
`CarriedChannel` or an `UpgradedSocket`, and its task goes on as theirs: it gives them what arrives, whatever becomes of the
dispatcher. Deadlines and timeouts are those of the opening; the call has none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, Any, Final

from ...core import diagnostics
from ...core.errors import BodyAbortedError, DodiciError, RequestTimeoutError
from ...core.headers import Headers
from ...net.upgraded import UpgradedSocket
from ...wire.body import NO_LENGTH
from ...wire.mesh.heads import decode_response, encode_request
from ..context import current
from ..errors import CollectiveError
from ..protos import http_pb2 as pb
from .channel import CarriedChannel
from .failures import heard
from .framing import MalformedError, read_response
from .parts import Outgoing
from .transport import CarriedTransport
from .tunnel import FOREVER, Tunnel

if TYPE_CHECKING:
    from ..collector import Collector
    from ..contracts import Call
    from ..names import CallKind
    from .hosts import Place
    from .passage import CarriedExchange

_ENDING: Final = 5.0
"""Seconds that the call may go on after a WebSocket is closed."""


class Opening(Tunnel):
    """See the module's text. One of these is made for each exchange."""

    def __init__(self, exchange: CarriedExchange, timers: Any, collector: Collector, place: Place) -> None:
        super().__init__(exchange, timers, collector, place)
        self._out = Outgoing(pb.Request)
        self._open: CarriedChannel | CarriedTransport | None = None
        self._expiry: asyncio.TimerHandle | None = None

    async def travel(self) -> None:
        failure: BaseException | None = None
        try:
            await self._streamed()
        except CollectiveError as error:
            failure = heard(error, begun=self.exchange.status_code >= 200)
            raise failure from error
        except Exception as error:
            failure = error
            raise
        finally:
            if self._expiry is not None:
                self._expiry.cancel()
            if self._open is not None:
                self._open.lost(failure)

    def _call(self, method: str, kind: CallKind, target: str | None = None) -> Call:
        call = super()._call(method, kind, target)
        around = current.get()
        if around is not None and around.deadline is not None:
            loop = asyncio.get_running_loop()
            self._expiry = loop.call_later(around.deadline - time.monotonic(), self._expired)
        call.deadline = time.monotonic() + FOREVER
        return call

    def _expired(self) -> None:
        self.give_up(
            RequestTimeoutError("the call in which the connection is opened has reached its deadline")
        )

    def outgoing(self) -> AsyncIterator[bytes]:
        """As `Tunnel`."""
        return self._out

    def send_body(self) -> None:
        """As `Passage`: there is none, and what is sent goes on."""
        options = self.options
        head = pb.Request(head=encode_request(options, NO_LENGTH), upgrade=options.upgrade)
        self._out.put_head(head.SerializeToString())
        self._all_sent()

    async def _receive(self, answers: AsyncIterator[bytes]) -> None:
        async for payload in answers:
            response = read_response(payload)
            if response.upgraded:
                before = pb.Response(informational=response.informational)
                if await self._tell_of(before) and self._hand_over(response):
                    await self._go_through(response, answers)
                return
            if response.head:
                await super()._receive(_chained(payload, answers))
                return
            if not await self._tell_of(response):
                return
        if not self.exchange.done:
            raise BodyAbortedError("the response ended in the middle of it")

    def _hand_over(self, response: pb.Response) -> bool:
        """End the exchange by what it has become. False if the handler did not want it."""
        exchange = self.exchange
        try:
            found = decode_response(response.head)
        except DodiciError as error:
            raise MalformedError(error.message) from error
        status = found.status_code
        if status != 101 and not 200 <= status < 300:
            raise MalformedError(f"an upgrade with status {status}")
        if exchange.done:
            return False
        self._timer.close()
        if self._expiry is not None:
            self._expiry.cancel()
        exchange.status_code = status
        headers = found.headers
        opened: CarriedChannel | CarriedTransport
        given: Any
        if response.upgraded == pb.Response.MESSAGES:
            given = opened = CarriedChannel(headers, self._out, self._cut)
        else:
            if status == 101:
                # These belong to one hop, and were left out; a handshake is not complete without them.
                protocol = response.protocol or self.options.upgrade or ""
                if not protocol.isascii() or not protocol.isprintable():
                    raise MalformedError(f"an upgrade to {protocol!r}")
                own = ((b"connection", b"Upgrade"), (b"upgrade", protocol.encode()))
                headers = Headers.from_raw((*own, *headers.raw))
            opened = CarriedTransport(self._out, self._cut)
            given = UpgradedSocket(opened, b"", asyncio.get_running_loop())
        self._open = opened
        if diagnostics.REQUEST_HEADERS.subscribers:
            told = {"status_code": status, "headers": headers, "status_text": ""}
            diagnostics.REQUEST_HEADERS.publish({"request": exchange, "response": told})
        exchange.branch.lasts(self.task)
        exchange.end()
        try:
            exchange.handler.on_request_upgrade(exchange, status, headers, given)
        except Exception as error:
            given.abort()
            exchange.done = False
            exchange.fail(error)
            return False
        return True

    async def _go_through(self, first: pb.Response, answers: AsyncIterator[bytes]) -> None:
        """Give on what arrives, to the end of the call."""
        opened = self._open
        assert opened is not None
        await opened.take(first.parts)
        async for payload in answers:
            await opened.take(read_response(payload).parts)
            if self._ending is None and isinstance(opened, CarriedChannel) and opened.close_code is not None:
                self._ending = asyncio.get_running_loop().call_later(_ENDING, self.task.cancel)

    def _cut(self) -> None:
        self.task.cancel()


async def _chained(first: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    yield first
    async for payload in rest:
        yield payload

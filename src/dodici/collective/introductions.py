"""Connecting to an address: the part of `Peers` by which a collector gets to know another that it dials.

Connect is waited for. Where there is no connection at first, the reason is told in the log at once, and in the error when
time is up.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final

from ..core.errors import InvalidArgumentError
from ..core.grpc_status import GrpcStatus
from .addresses import split_address
from .arrivals import MOST_PEERS
from .data_plane import KEEPALIVE, Channel
from .errors import CollectiveError, call_error
from .greeting import greet
from .names import LocalServices, checked_name
from .peer import ConnectResult, Peer
from .protos import collector_pb2

log = logging.getLogger("dodici.collective")

_DIALLED_BACK: Final = 2.0
"""Seconds that `connect_to` waits for the other end to dial back. One that cannot is used all the same."""


class Introductions:
    """Makes peers of those who answer at an address."""

    running: bool
    address: str
    """Where this collector can be dialled."""
    epoch: int
    """Of this start of it."""
    _own_id: str
    _services: LocalServices
    _causes: dict[str, str]
    """Why there was no connection to an address the last time."""

    def __iter__(self) -> Iterator[Peer]:
        raise NotImplementedError

    def channel(self, address: str, keepalive: tuple[float, float] = KEEPALIVE) -> Channel:
        """A channel as all of this collector's are."""
        raise NotImplementedError

    def forget(self, peer: Peer) -> None:
        """Close the connection to a peer."""
        raise NotImplementedError

    def shared(self, peer: Peer) -> tuple[str, ...]:
        """The namespaces whose calls may go to a peer."""
        raise NotImplementedError

    def adopt(
        self,
        answer: collector_pb2.ConnectResponse,
        channel: Channel,
        offer: frozenset[str] | None,
        *,
        wanted: bool = True,
    ) -> Peer:
        """The peer that has answered on a channel."""
        raise NotImplementedError

    async def connect_to(
        self, address: str, namespaces: Iterable[str] | None, timeout: float, *, wanted: bool = True
    ) -> ConnectResult:
        """Connect to the collector at an address. See `Collector.connect_to`.

        One that is not `wanted` is given up after a minute of silence, as if it had come by itself.

        Raises:
            ItselfError: it is this collector.
        """
        host, port = split_address(address)
        if host is not None and not port:
            raise InvalidArgumentError(f"{address} cannot be connected to: name its port")
        offer = self._offered(namespaces)
        deadline = time.monotonic() + timeout
        before = {peer.id for peer in self}
        known = self._at(address)
        channel = known.channel if known else self.channel(address)
        try:
            peer = await self._introduce(channel, offer, deadline, wanted)
        except CollectiveError:
            if known is None or not (known.closed or channel.given_up):
                raise
            # The other end, or this one, has closed that connection meanwhile.
            peer = await self._introduce(self.channel(address), offer, deadline, wanted)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await peer.ready.wait()
        except TimeoutError:
            pass
        if peer.closed or not peer.ready.is_set():
            why = f": {peer.failure.message}" if peer.failure is not None else ""
            if peer.id not in before and not peer.closed:
                self.forget(peer)
            raise call_error(
                GrpcStatus.UNAVAILABLE, f"{peer.id} at {address} has opened no link{why}", peer=address
            ) from peer.failure
        await self._met(peer, deadline)
        return ConnectResult(peer.connection, self.shared(peer), peer.id)

    def _at(self, address: str) -> Peer | None:
        for peer in self:
            if peer.source.up and address in (peer.channel.address, peer.advertised):
                return peer
        return None

    async def _introduce(
        self, channel: Channel, offer: frozenset[str] | None, deadline: float, wanted: bool
    ) -> Peer:
        """Call Connect, and make a peer of whoever answers. A channel that nobody then needs is closed."""
        peer: Peer | None = None
        patience = max(0.0, deadline - time.monotonic())
        epoch = self.epoch
        try:
            answer = await self.greet(
                channel, offer, patience, partial(self._waits, channel, patience) if wanted else None
            )
            if not self.running or self.epoch != epoch:
                raise call_error(GrpcStatus.UNAVAILABLE, f"{self._own_id} was stopped meanwhile")
            channel.check()
            self._causes.pop(channel.address, None)
            peer = self.adopt(answer, channel, offer, wanted=wanted)
        finally:
            if not any(known.channel is channel for known in self):
                await channel.close()
        return peer

    async def _met(self, peer: Peer, deadline: float) -> None:
        """Wait until the peer can call this collector, too."""
        if peer.source.open:
            return
        patience = min(_DIALLED_BACK, max(0.0, deadline - time.monotonic()))
        try:
            async with asyncio.timeout(patience):
                await peer.met.wait()
                if peer.session is not None:
                    await peer.session.told(1)
        except TimeoutError:
            log.warning(
                "%s: %s has not dialled back to %s yet: it cannot send calls here",
                self._own_id,
                peer.id,
                self.address,
            )

    def _offered(self, namespaces: Iterable[str] | None) -> frozenset[str] | None:
        if namespaces is None:
            return None
        if isinstance(namespaces, str | bytes) or not isinstance(namespaces, Iterable):
            raise InvalidArgumentError(f"namespaces must be a list of str, not {namespaces!r}")
        asked = [checked_name("namespace", name) for name in namespaces]
        lacking = [name for name in asked if name not in self._services.namespaces]
        if lacking:
            log.warning("%s is not in %s: not shared", self._own_id, ", ".join(map(repr, lacking)))
        return frozenset(asked)

    def _waits(self, channel: Channel, patience: float, cause: str) -> None:
        # Whoever tries again and again is told what is new.
        level = logging.DEBUG if self._causes.get(channel.address) == cause else logging.WARNING
        if len(self._causes) >= MOST_PEERS:
            self._causes.clear()
        self._causes[channel.address] = cause
        log.log(
            level,
            "%s: no connection to %s yet, for %.2g s it may come: %s",
            self._own_id,
            channel.address,
            patience,
            cause,
        )

    async def greet(
        self,
        channel: Channel,
        offer: frozenset[str] | None,
        timeout: float,
        on_cause: Callable[[str], None] | None = None,
    ) -> collector_pb2.ConnectResponse:
        """Call Connect; see `greeting.greet`."""
        request = collector_pb2.ConnectRequest(
            collector_id=self._own_id,
            address=self.address,
            namespaces=[n for n in self._services.namespaces if offer is None or n in offer],
            epoch=self.epoch,
        )
        return await greet(channel, request, timeout, on_cause)

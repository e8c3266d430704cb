"""The collectors that this one is connected to.

`Peers` owns them, one `Peer` for each id, with one channel; how it gets to know them is in `introductions.py` for those
that it dials, and in `arrivals.py` for those that come. Connect is mutual: who is called dials back, so that each of the
two ends has a channel and a link of its own, and either of them finds the other again after a restart.

Each peer has one task (see `keeper.py`): Connect, then the link until that ends, then again, after a wait that grows and
is drawn at random. A peer that this collector has asked for is dialled for as long as it runs; one that has come by
itself is given up after a minute of silence. Nobody calls a peer whose link is down.

Who is believed. Connect hands out an id for the connection, which the other end sends with its calls: with TLS it
counts together with the certificate that asked for it, without TLS it is all there is. An id that is in use is not
given to another address (409): the first to come keeps it, and its routes.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

from ..core.errors import MeshTimeoutError
from ..core.grpc_status import GrpcStatus
from .announce import RouteTable
from .arrivals import Arrivals
from .balance import Picker
from .contracts import TransportSecurity
from .data_plane import KEEPALIVE, Channel
from .errors import call_error
from .introductions import Introductions
from .keeper import Keeper
from .link import hello
from .peer import Connection, Peer
from .protos import collector_pb2, link_pb2
from .tls import TLS
from .trunk_port import carries, dial

if TYPE_CHECKING:
    from .names import LocalServices
    from .trunk import Trunk

log = logging.getLogger("dodici.collective")

ACKNOWLEDGED_IN: Final = 5.0
"""Seconds in which peers acknowledge what is announced."""
_SILENT: Final = 0.5
"""Seconds without a link after which nobody waits for what a peer acknowledges: one that only began anew is back by then."""
_LOOK: Final = 0.25
"""Seconds between two looks at who is to be waited for."""


class Peers(Introductions):
    """The peers of a collector. Implements `Announcer`; its `arrivals` is the `PeerBook`.

    Args:
        own_id: of the collector.
        services: what it serves, and the namespaces that it is in.
        table: what peers announce.
        picker: chooses among them.
        run: runs a call that has come on a peer's link.
        security: credentials of its channels; None: plaintext.
        message: bytes that a message may have.
    """

    def __init__(
        self,
        own_id: str,
        services: LocalServices,
        table: RouteTable,
        picker: Picker,
        run: Callable[[Peer, link_pb2.LinkCall, link_pb2.LinkAnswer], Any],
        *,
        security: TransportSecurity | None = None,
        message: int = 16 * 1024 * 1024,
    ) -> None:
        self.draining = False
        self._own_id = own_id
        self._services = services
        self._table = table
        self._picker = picker
        self._security = security
        self.message = message
        self._peers: dict[str, Peer] = {}
        self._tokens: dict[str, Peer] = {}
        self._causes: dict[str, str] = {}
        self.address = ""
        self.epoch = 0
        self.version = 1
        """Of what is announced; grows with each change."""
        self.running = False
        """Between the collector's start and its stop."""
        self._leaving: list[asyncio.Task[None]] = []
        self._disposals: set[asyncio.Task[None]] = set()
        self._keeper = Keeper(self, own_id, table, picker, vouching=security is not None)
        self.arrivals = Arrivals(
            self, self._keeper, own_id, services, run, tls=security is not None, message=message
        )
        table.on_change(self._changed)

    # -- life ----------------------------------------------------------------------------------------------

    def start(self, address: str, epoch: int) -> None:
        """The collector listens, at that address."""
        self.address, self.epoch = address, epoch
        self.draining = False
        self.running = True

    async def leave(self, patience: float) -> None:
        """Tell the peers that this collector takes no more calls, and let the links end with the calls on them.

        Waits for acknowledgements, but not longer than `patience` seconds.
        """
        try:
            await self.announce(draining=True, timeout=patience)
        except MeshTimeoutError as error:
            log.info("%s: %s", self._own_id, error)
        sessions = [peer.session for peer in self._peers.values() if peer.session is not None]
        self._leaving = [asyncio.create_task(session.finish()) for session in sessions]

    async def stop(self) -> None:
        """Close every connection."""
        self.running = False
        for peer in list(self._peers.values()):
            self.forget(peer)
        for task in self._leaving:
            task.cancel()
        await asyncio.gather(*self._leaving, *self._disposals, return_exceptions=True)
        self._leaving = []

    # -- who there is --------------------------------------------------------------------------------------

    def get(self, collector: str) -> Peer | None:
        """The peer of that id."""
        return self._peers.get(collector)

    def of_token(self, token: str) -> Peer | None:
        """The peer whose connection has that id."""
        return self._tokens.get(token)

    def renew_token(self, peer: Peer) -> None:
        """Give the connection another id: what the one before it was told is worth nothing any more."""
        self._tokens.pop(peer.token, None)
        peer.token = secrets.token_urlsafe(24)
        self._tokens[peer.token] = peer

    @property
    def count(self) -> int:
        """How many there are, the lost ones included."""
        return len(self._peers)

    def __iter__(self) -> Iterator[Peer]:
        return iter(tuple(self._peers.values()))

    def shared(self, peer: Peer) -> tuple[str, ...]:
        """The namespaces whose calls may go to a peer."""
        return tuple(name for name in self._services.namespaces if peer.source.shares(name))

    @property
    def connections(self) -> tuple[Connection, ...]:
        """All of them, those included that are lost and dialled again."""
        return tuple(
            Connection(
                peer.connection or peer.token,
                peer.id,
                peer.channel.address,
                self.shared(peer),
                _state(peer),
                peer.source.up and not peer.source.open,
                peer.since,
                peer.last_activity,
            )
            for peer in self._peers.values()
        )

    # -- connecting ----------------------------------------------------------------------------------------

    def adopt(
        self,
        answer: collector_pb2.ConnectResponse,
        channel: Channel,
        offer: frozenset[str] | None,
        *,
        wanted: bool = True,
    ) -> Peer:
        """The peer that has answered on a channel. The channel becomes its own, unless it has one that works."""
        peer = self._peers.get(answer.target_collector_id)
        if peer is None:
            peer = self.add(
                Peer(answer.target_collector_id, self._own_id, channel, answer.address or channel.address)
            )
            self._keeper.keep_to(peer, answer)
        elif peer.channel is not channel and not (
            peer.source.up or (peer.linking and peer.wanted) or peer.identity.tls
        ):
            # Dialled back at the address that it advertises, which may not be one that can be reached.
            self.redial(peer, channel, answer)
        peer.wanted |= wanted
        if peer.source.offer != offer:
            peer.source.offer = offer
            self._table.changed()
        return peer

    def add(self, peer: Peer) -> Peer:
        """Know a peer from now on."""
        self._peers[peer.id] = peer
        self._tokens[peer.token] = peer
        self._table.add(peer.source)
        return peer

    def trunk_to(
        self, channel: Channel, answer: collector_pb2.ConnectResponse
    ) -> Callable[[], Awaitable[Trunk]] | None:
        """What dials a connection for the link to who has answered on a channel; None if there can be none."""
        if not 0 < answer.link_port < 65536 or not carries(self._security):
            return None
        return partial(dial, channel.address, answer.link_port, security=self._security, message=self.message)

    @property
    def age(self) -> tuple[Callable[[], int], float | None] | None:
        """What tells that the certificate has changed, and the seconds that one connection may last; None: no TLS."""
        security = self._security
        return (security.generation, security.max_age) if isinstance(security, TLS) else None

    def channel(self, address: str, keepalive: tuple[float, float] = KEEPALIVE) -> Channel:
        return Channel(address, security=self._security, message=self.message, keepalive=keepalive)

    def redial(
        self, peer: Peer, channel: Channel, answer: collector_pb2.ConnectResponse | None = None
    ) -> None:
        keeper, old = peer.keeper, peer.channel
        self._keeper.down(peer)
        peer.channel = channel
        self._dispose(keeper, old)
        self._keeper.keep_to(peer, answer)

    def disconnect(self, name: str) -> None:
        """Close the connection of that id, or to the collector of that id.

        Raises:
            CollectiveError: NOT_FOUND: there is none.
        """
        for peer in self._peers.values():
            if name in (peer.id, peer.connection, peer.token):
                self.forget(peer)
                return
        raise call_error(GrpcStatus.NOT_FOUND, f"no connection to {name!r}, and none of that id")

    def forget(self, peer: Peer) -> None:
        if peer.closed:
            return
        del self._peers[peer.id]
        self._tokens.pop(peer.token, None)
        peer.closed = True
        peer.ready.set()
        if peer.session is not None:
            peer.session.end(call_error(GrpcStatus.ABORTED, f"{self._own_id} has closed the connection"))
        self._table.remove(peer.source)
        self._picker.left(peer.id)
        self._dispose(peer.keeper, peer.channel)

    def _dispose(self, keeper: asyncio.Task[None] | None, channel: Channel) -> None:
        channel.given_up = True

        async def dispose() -> None:
            if keeper is not None:
                keeper.cancel()
                await asyncio.gather(keeper, return_exceptions=True)
            await channel.close()

        task = asyncio.create_task(dispose())
        self._disposals.add(task)
        task.add_done_callback(self._disposals.discard)

    async def disposed(self) -> None:
        """Return when what was closed has gone."""
        await asyncio.gather(*self._disposals, return_exceptions=True)

    def hello(self) -> link_pb2.Hello:
        return hello(self._own_id, self.address, self.epoch, self._services.namespaces, self.message)

    # -- Announcer -----------------------------------------------------------------------------------------

    async def announce(self, *, draining: bool = False, timeout: float = ACKNOWLEDGED_IN) -> None:
        """See `Announcer.announce`. Draining lasts until the collector is started again."""
        await self.acknowledged(self.publish(draining=draining), timeout)

    def publish(self, *, draining: bool = False) -> int:
        """Have every connected peer told the state, as it is when there is room. Returns its version."""
        self.draining |= draining
        self.version += 1
        for peer in self._peers.values():
            if peer.session is not None:
                peer.session.tell(self.version, certainly=True)
        return self.version

    async def acknowledged(self, version: int, timeout: float = ACKNOWLEDGED_IN) -> None:
        """Return when the connected peers have applied that version of the state.

        Nobody waits for a peer that cannot be called any more: pings have found that it does not answer.

        Raises:
            MeshTimeoutError: some have not within `timeout` seconds; it names them, and where they are.
        """
        deadline = time.monotonic() + timeout
        # Again where a session has a successor meanwhile, which is told the same.
        while late := [
            peer.session
            for peer in self._peers.values()
            if peer.session is not None and not peer.session.knows(version) and not _is_silent(peer)
        ]:
            patience = min(deadline - time.monotonic(), _LOOK)
            if patience <= 0:
                break
            waits = [asyncio.create_task(session.told(version)) for session in late]
            try:
                await asyncio.wait(waits, timeout=patience)
            finally:
                for task in waits:
                    task.cancel()
        silent = self.silent(version)
        if silent:
            raise silence(silent, f" within {timeout:g} s" if late else "")

    def silent(self, version: int) -> tuple[tuple[str, str, int], ...]:
        """The connected peers that have not applied that version: id, address and 0, as `MeshTimeoutError.members`."""
        return tuple(
            (peer.id, peer.advertised, 0)
            for peer in self._peers.values()
            if peer.session is not None and not peer.session.knows(version)
        )

    def _changed(self) -> None:
        if not self.running:
            return
        self.version += 1
        for peer in self._peers.values():
            if peer.session is not None:
                peer.session.tell(self.version)

    def state(self, peer: Peer) -> link_pb2.Announcement:
        offer = peer.source.offer
        return link_pb2.Announcement(
            collector_id=self._own_id,
            epoch=self.epoch,
            namespaces=[n for n in self._services.namespaces if offer is None or n in offer],
            routes=self._table.export(peer.source),
            draining=self.draining,
        )


def _is_silent(peer: Peer) -> bool:
    return peer.lost_at is not None and time.monotonic() - peer.lost_at > _SILENT


def _state(peer: Peer) -> Literal["connected", "draining", "lost"]:
    source = peer.source
    if not source.up:
        return "lost"
    takes_none = bool(source.unwell) and source.unwell >= source.theirs
    return "draining" if source.draining or takes_none else "connected"


def silence(members: tuple[tuple[str, str, int], ...], when: str = "") -> MeshTimeoutError:
    """The error of a change that these peers have not acknowledged."""
    names = ", ".join(f"{name} ({address})" for name, address, _ in members)
    return MeshTimeoutError(
        f"not acknowledged{when} by {names}; it is applied everywhere else", members=members
    )

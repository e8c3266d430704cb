"""The collectors that this one is connected to.

`Peers` owns them, one `Peer` for each id, with one channel. Connect is mutual: who is called dials back, so that each
of the two ends has a channel and a link of its own, and either of them finds the other again after a restart.

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
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError

from ..core.errors import InvalidArgumentError, MeshTimeoutError
from ..core.grpc_status import GrpcStatus
from .announce import RouteTable
from .balance import Picker
from .codes import from_envelope
from .contracts import Connected, Connecting, Identity, TransportSecurity
from .data_plane import Channel, split_address
from .errors import CollectiveError, call_error
from .identity import check_connecting, is_collector
from .keeper import Keeper
from .link import Session, hello
from .names import checked_name
from .peer import Connection, ConnectResult, Peer
from .protos import collector_pb2, link_pb2

if TYPE_CHECKING:
    from .names import LocalServices

log = logging.getLogger("dodici.collective")

MOST_PEERS: Final = 1024
"""Collectors that may connect."""
ACKNOWLEDGED_IN: Final = 5.0
"""Seconds in which peers acknowledge what is announced."""
_DIALLED_BACK: Final = 2.0
"""Seconds that `connect_to` waits for the other end to dial back. One that cannot is used all the same."""
_CONNECT: Final = "/collector.CollectiveDispatcher/Connect"
_ID = re.compile(r"[A-Za-z0-9_.:@+~-]{1,128}").fullmatch


class ItselfError(CollectiveError):
    """The collector that was dialled is the one that dials."""

    grpc_status = GrpcStatus.INVALID_ARGUMENT


class Peers:
    """The peers of a collector. Implements `PeerBook` and `Announcer`.

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
        self._run = run
        self._security = security
        self._message = message
        self._peers: dict[str, Peer] = {}
        self._tokens: dict[str, Peer] = {}
        self._address = ""
        self._epoch = 0
        self._version = 1
        self._running = False
        self._leaving: list[asyncio.Task[None]] = []
        self._disposals: set[asyncio.Task[None]] = set()
        self._keeper = Keeper(self, own_id, table, picker, vouching=security is not None)
        table.on_change(self._changed)

    # -- life ----------------------------------------------------------------------------------------------

    def start(self, address: str, epoch: int) -> None:
        """The collector listens, at that address."""
        self._address, self._epoch = address, epoch
        self.draining = False
        self._running = True

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
        self._running = False
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

    def __iter__(self) -> Any:
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
                ("draining" if peer.source.draining else "connected") if peer.source.up else "lost",
                peer.source.up and not peer.source.open,
                peer.since,
                peer.last_activity,
            )
            for peer in self._peers.values()
        )

    # -- connecting ----------------------------------------------------------------------------------------

    async def connect_to(
        self, address: str, namespaces: Iterable[str] | None, timeout: float, *, wanted: bool = True
    ) -> ConnectResult:
        """Connect to the collector at an address. See `Collector.connect_to`.

        One that is not `wanted` is given up after a minute of silence, as if it had come by itself.

        Raises:
            ItselfError: it is this collector.
        """
        split_address(address)
        offer = self._offered(namespaces)
        deadline = time.monotonic() + timeout
        before = set(self._peers)
        known = self._at(address)
        try:
            channel = known.channel if known else self.channel(address)
            peer = await self._introduce(channel, offer, deadline, wanted)
        except CollectiveError:
            if known is None or not known.closed:
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
        for peer in self._peers.values():
            if peer.source.up and address in (peer.channel.address, peer.advertised):
                return peer
        return None

    async def _introduce(
        self, channel: Channel, offer: frozenset[str] | None, deadline: float, wanted: bool
    ) -> Peer:
        """Call Connect, and make a peer of whoever answers. A channel that nobody then needs is closed."""
        peer: Peer | None = None
        patience = max(0.0, deadline - time.monotonic())
        try:
            answer = await self.greet(channel, offer, patience)
            peer = self.adopt(answer, channel, offer, wanted=wanted)
        except CollectiveError as error:
            if error.grpc_status is GrpcStatus.DEADLINE_EXCEEDED:
                raise call_error(
                    GrpcStatus.UNAVAILABLE,
                    f"no collector has answered at {channel.address} for {patience:.3g} s",
                    peer=channel.address,
                ) from error
            raise
        finally:
            if not any(known.channel is channel for known in self._peers.values()):
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
                self._address,
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

    async def greet(
        self, channel: Channel, offer: frozenset[str] | None, timeout: float
    ) -> collector_pb2.ConnectResponse:
        request = collector_pb2.ConnectRequest(
            collector_id=self._own_id,
            address=self._address,
            namespaces=[n for n in self._services.namespaces if offer is None or n in offer],
            epoch=self._epoch,
        )
        data = await channel.unary(
            _CONNECT, request.SerializeToString(), timeout=timeout, wait_for_ready=True
        )
        try:
            answer = collector_pb2.ConnectResponse.FromString(data)
        except DecodeError as error:
            raise call_error(
                GrpcStatus.INTERNAL, f"{channel.address} has answered with no ConnectResponse: {error}"
            ) from error
        if (answer.target_collector_id, answer.address, answer.epoch) == (
            self._own_id,
            self._address,
            self._epoch,
        ):
            raise ItselfError(f"{channel.address} is {self._own_id} itself")
        status = answer.status
        if status.code != 200:
            details = dict(status.details)
            found = from_envelope(status.code, details.pop("grpc-status", None))
            raise call_error(found, status.message, details=details, peer=channel.address)
        if not answer.target_collector_id:
            raise call_error(GrpcStatus.INTERNAL, f"{channel.address} does not say its id")
        if answer.target_collector_id == self._own_id:
            raise call_error(GrpcStatus.ALREADY_EXISTS, f"{channel.address} has the same id: {self._own_id}")
        return answer

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
            peer = self._add(
                Peer(answer.target_collector_id, self._own_id, channel, answer.address or channel.address)
            )
            self._keeper.keep_to(peer, answer)
        elif peer.channel is not channel and not (
            peer.source.up or (peer.linking and peer.wanted) or peer.identity.tls
        ):
            # Dialled back at the address that it advertises, which may not be one that can be reached.
            self._redial(peer, channel, answer)
        peer.wanted |= wanted
        if peer.source.offer != offer:
            peer.source.offer = offer
            self._table.changed()
        return peer

    def _add(self, peer: Peer) -> Peer:
        self._peers[peer.id] = peer
        self._tokens[peer.token] = peer
        self._table.add(peer.source)
        return peer

    def channel(self, address: str, keepalive: tuple[float, float] = (1.0, 0.5)) -> Channel:
        return Channel(address, security=self._security, message=self._message, keepalive=keepalive)

    def _redial(
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

    # -- PeerBook ------------------------------------------------------------------------------------------

    def recognise(self, connection: str | None, peer: str, identity: Identity) -> str | None:
        """See `PeerBook.recognise`."""
        found = None if connection is None else self._tokens.get(connection)
        if found is None or (identity.tls and not is_collector(identity, found.id)):
            return None
        return found.id

    async def connect(self, request: Connecting) -> Connected:
        """See `PeerBook.connect`.

        Raises:
            CollectiveError: ALREADY_EXISTS (409): the id is in use at another address. INVALID_ARGUMENT: a bad id or
                address. RESOURCE_EXHAUSTED: there are too many peers. UNAVAILABLE: this collector is about to end.
        """
        self._check(request)
        peer = self._peers.get(request.collector_id)
        if peer is None:
            if len(self._peers) >= MOST_PEERS:
                raise call_error(GrpcStatus.RESOURCE_EXHAUSTED, f"{self._own_id} has {MOST_PEERS} peers")
            peer = Peer(request.collector_id, self._own_id, self.channel(request.address), request.address)
            self._add(peer)
            peer.epoch = request.epoch
            self._keeper.keep_to(peer)
        elif request.address != peer.advertised and peer.live and not request.identity.tls:
            raise call_error(
                GrpcStatus.ALREADY_EXISTS,
                f"{request.collector_id} is connected, from {peer.advertised}",
                details={"address": peer.advertised},
            )
        else:
            self._met_again(peer, request)
        peer.identity = request.identity
        if not peer.source.up:
            peer.source.theirs = frozenset(request.namespaces)
        if peer.held is not None:
            held, peer.held = peer.held, None
            self._keeper.apply(peer, held)
        shared = tuple(
            name
            for name in self._services.namespaces
            if name in request.namespaces and (peer.source.offer is None or name in peer.source.offer)
        )
        return Connected(peer.token, shared)

    def _check(self, request: Connecting) -> None:
        if not self._running:
            raise call_error(GrpcStatus.UNAVAILABLE, f"{self._own_id} takes no connections now")
        if _ID(request.collector_id) is None:
            raise call_error(GrpcStatus.INVALID_ARGUMENT, "collector_id is no id of a collector")
        try:
            host, port = split_address(request.address)
        except InvalidArgumentError as error:
            raise call_error(GrpcStatus.INVALID_ARGUMENT, str(error)) from error
        if host is not None and not port:
            raise call_error(GrpcStatus.INVALID_ARGUMENT, f"{request.address} cannot be dialled: port 0")
        if request.collector_id == self._own_id:
            raise call_error(GrpcStatus.ALREADY_EXISTS, f"{self._own_id} is the id of this collector")
        if self._security is not None:
            check_connecting(request.identity, request.collector_id, request.namespaces)

    def _met_again(self, peer: Peer, request: Connecting) -> None:
        moved = request.address != peer.advertised
        if request.epoch != peer.epoch:
            # It has started anew: what the one before it was given is worth nothing any more.
            if peer.epoch:
                del self._tokens[peer.token]
                peer.token = secrets.token_urlsafe(24)
                self._tokens[peer.token] = peer
                if peer.session is not None:
                    peer.session.end()
            peer.epoch = request.epoch
        peer.advertised = request.address
        if moved and peer.channel.address != request.address:
            self._redial(peer, self.channel(request.address))

    async def link(
        self, connection: str | None, peer: str, identity: Identity, frames: AsyncIterator[bytes]
    ) -> AsyncIterator[bytes]:
        """See `PeerBook.link`."""
        found = self._peers.get(self.recognise(connection, peer, identity) or "")
        if found is None:
            raise call_error(GrpcStatus.UNAUTHENTICATED, "the connection is not known: call Connect first")
        session = Session(
            found.id,
            self.hello(),
            lambda: self._state(found),
            lambda call, answer: self._run(found, call, answer),
            self._message,
        )
        before, found.session = found.session, session
        if before is not None:
            before.end()
        session.tell(self._version, certainly=True)
        found.met.set()
        sending: Any = session.frames(frames)
        try:
            async for frame in sending:
                yield frame
        finally:
            await sending.aclose()
            if found.session is session:
                found.session = None
                found.met.clear()

    def hello(self) -> link_pb2.Hello:
        return hello(self._own_id, self._address, self._epoch, self._services.namespaces)

    # -- Announcer -----------------------------------------------------------------------------------------

    async def announce(self, *, draining: bool = False, timeout: float = ACKNOWLEDGED_IN) -> None:
        """See `Announcer.announce`. Draining lasts until the collector is started again."""
        self.draining |= draining
        self._version += 1
        version = self._version
        sessions = {peer: peer.session for peer in self._peers.values() if peer.session is not None}
        for session in sessions.values():
            session.tell(version, certainly=True)
        waits = {asyncio.create_task(session.told(version)): peer for peer, session in sessions.items()}
        if not waits:
            return
        try:
            _, silent = await asyncio.wait(waits, timeout=timeout)
        finally:
            for task in waits:
                task.cancel()
        if silent:
            members = tuple((waits[task].id, waits[task].advertised, 0) for task in silent)
            names = ", ".join(f"{name} ({address})" for name, address, _ in members)
            raise MeshTimeoutError(
                f"not acknowledged within {timeout:g} s by {names}; it is applied everywhere else",
                members=members,
            )

    async def set_share(self, namespace: str, service: str, share: float) -> None:
        """Say how much of what serves a local service accepts calls: 0.0 none, 1.0 all; peers choose it as often.

        Returns when the connected peers have applied it.

        Raises:
            InvalidArgumentError: not a share.
            MeshTimeoutError: as `announce`.
        """
        if not 0.0 <= share <= 1.0:
            raise InvalidArgumentError(f"share must be a number from 0 to 1, not {share!r}")
        shares = self._table.shares
        if shares.get((namespace, service), 1.0) == share:
            return
        if share == 1.0:
            del shares[namespace, service]
        else:
            shares[namespace, service] = share
        await self.announce()

    def _changed(self) -> None:
        if not self._running:
            return
        self._version += 1
        for peer in self._peers.values():
            if peer.session is not None:
                peer.session.tell(self._version)

    def _state(self, peer: Peer) -> link_pb2.Announcement:
        offer = peer.source.offer
        return link_pb2.Announcement(
            collector_id=self._own_id,
            epoch=self._epoch,
            namespaces=[n for n in self._services.namespaces if offer is None or n in offer],
            routes=self._table.export(peer.source),
            draining=self.draining,
        )

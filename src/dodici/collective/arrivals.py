"""What other collectors ask of this one: Connect, and the link that they open after it.

`Arrivals` is the `PeerBook` of the collector's server. It makes peers of those who come, which `Peers` then owns like
those that were dialled, and answers the streams that they keep open (see `link.py`).
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from ..core.errors import InvalidArgumentError
from ..core.grpc_status import GrpcStatus
from .addresses import split_address
from .contracts import Connected, Connecting, Identity
from .errors import call_error
from .identity import check_connecting, is_collector
from .link import Session, batches
from .peer import Peer

if TYPE_CHECKING:
    from .keeper import Keeper
    from .names import LocalServices
    from .peers import Peers
    from .protos import link_pb2
    from .trunk import Trunk

MOST_PEERS: Final = 1024
"""Collectors that may connect."""
_ID = re.compile(r"[A-Za-z0-9_.:@+~-]{1,128}").fullmatch


class Arrivals:
    """The peers that come by themselves. Implements `PeerBook`.

    Args:
        peers: whose they become.
        keeper: keeps to them.
        own_id: of the collector.
        services: the namespaces that it is in.
        run: runs a call that has come on a peer's link.
        tls: who connects has to show a certificate with its id.
        message: bytes that a message may have.
    """

    def __init__(
        self,
        peers: Peers,
        keeper: Keeper,
        own_id: str,
        services: LocalServices,
        run: Callable[[Peer, link_pb2.LinkCall, link_pb2.LinkAnswer], Any],
        *,
        tls: bool,
        message: int,
    ) -> None:
        self._peers = peers
        self._keeper = keeper
        self._own_id = own_id
        self._services = services
        self._run = run
        self._tls = tls
        self._message = message

    def recognise(self, connection: str | None, peer: str, identity: Identity) -> str | None:
        """See `PeerBook.recognise`."""
        found = None if connection is None else self._peers.of_token(connection)
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
            if self._peers.count >= MOST_PEERS:
                raise call_error(GrpcStatus.RESOURCE_EXHAUSTED, f"{self._own_id} has {MOST_PEERS} peers")
            peer = Peer(
                request.collector_id, self._own_id, self._peers.channel(request.address), request.address
            )
            self._peers.add(peer)
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
        if not self._peers.running:
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
        if self._tls:
            check_connecting(request.identity, request.collector_id, request.namespaces)

    def _met_again(self, peer: Peer, request: Connecting) -> None:
        moved = request.address != peer.advertised
        if request.epoch != peer.epoch:
            # It has started anew: what the one before it was given is worth nothing any more.
            if peer.epoch:
                self._peers.renew_token(peer)
                if peer.session is not None:
                    peer.session.end()
            peer.epoch = request.epoch
        peer.advertised = request.address
        if moved and peer.channel.address != request.address:
            self._peers.redial(peer, self._peers.channel(request.address))

    async def link(
        self, connection: str | None, peer: str, identity: Identity, frames: AsyncIterator[bytes]
    ) -> AsyncIterator[bytes]:
        """See `PeerBook.link`."""
        with self._session(connection, peer, identity, calls=batches(self._message)) as session:
            sending: Any = session.frames(frames)
            try:
                async for frame in sending:
                    yield frame
            finally:
                await sending.aclose()

    async def trunk(self, hello: link_pb2.Hello, identity: Identity, trunk: Trunk) -> None:
        """Take over a connection of its own for a link, and return when it has ended.

        Raises:
            CollectiveError: UNAUTHENTICATED: it is not from whom this collector knows.
        """
        with self._session(hello.connection_id, "", identity, successor=hello.successor) as session:
            await session.on_trunk(trunk, hello.message)

    @contextmanager
    def _session(
        self,
        connection: str | None,
        peer: str,
        identity: Identity,
        *,
        successor: bool = False,
        calls: bool = True,
    ) -> Iterator[Session]:
        found = self._peers.get(self.recognise(connection, peer, identity) or "")
        if found is None:
            raise call_error(GrpcStatus.UNAUTHENTICATED, "the connection is not known: call Connect first")
        hello = self._peers.hello()
        if not calls:
            hello.max_calls = 0
        session = Session(
            found.id,
            hello,
            lambda: self._peers.state(found),
            lambda call, answer: self._run(found, call, answer),
            self._message,
            lambda: found.lately_lost,
        )
        before, found.session = found.session, session
        if before is not None and successor:
            before.supersede()
        elif before is not None:
            before.end()
        session.tell(self._peers.version, certainly=True)
        found.met.set()
        try:
            yield session
        finally:
            if found.session is session:
                found.session = None
                found.met.clear()

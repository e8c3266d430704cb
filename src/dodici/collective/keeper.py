"""Keeping to a peer: Connect, the link, and again.

One task for each peer, as long as the peer is known. It makes the peer's `Source` rise when the first announcement is
there (or, for a peer without links, when it has answered) and fall when the link ends; nobody else does.

With TLS, the certificate of a server that was dialled is not seen here, so that its id is only what it says. What it
announces is held back until a collector with that id in its certificate has called Connect.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ..core.grpc_status import GrpcStatus
from .balance import Backoff
from .errors import CollectiveError
from .identity import collector_names
from .link import batches, follow
from .peer_health import PeerHealth
from .policies import Reconnect
from .renewal import renewed

if TYPE_CHECKING:
    from .announce import RouteTable
    from .balance import Picker
    from .peer import Peer
    from .peers import Peers
    from .protos import collector_pb2, link_pb2

log = logging.getLogger("dodici.collective")

_GIVEN_UP: Final = 60.0
"""Seconds after which a lost peer is forgotten that nobody here has asked for."""
_GREETING: Final = 5.0
_STEADY: Final = 1.0
"""Seconds after which a link counts as one that works."""
_RECONNECT: Final = Reconnect(initial=0.1, cap=1.0)
_RARE_PINGS: Final = (360.0, 20.0)
"""A stock server answers more frequent pings with GOAWAY."""
_PROBED: Final = 0.5
"""Seconds in which a server that runs has answered a connection's first bytes."""


class Keeper:
    """Keeps to the peers of a collector.

    Args:
        peers: whose they are.
        own_id: of the collector.
        table: what peers announce.
        picker: chooses among them.
        vouching: hold back what a peer announces until its certificate was seen.
    """

    def __init__(
        self, peers: Peers, own_id: str, table: RouteTable, picker: Picker, *, vouching: bool
    ) -> None:
        self._peers = peers
        self._own_id = own_id
        self._table = table
        self._picker = picker
        self._vouching = vouching

    def keep_to(self, peer: Peer, answer: collector_pb2.ConnectResponse | None = None) -> None:
        """Begin to; `answer` is what it has said to Connect, if it was called already."""
        peer.keeper = asyncio.create_task(
            self._keep(peer, answer), name=f"collector {self._own_id} to {peer.id}"
        )

    async def _keep(self, peer: Peer, answer: collector_pb2.ConnectResponse | None) -> None:
        backoff = Backoff(_RECONNECT)
        peer.linking = answer is not None
        while True:
            begun = time.monotonic()
            try:
                if answer is None:
                    answer = await self._peers.greet(peer.channel, peer.source.offer, _GREETING)
                if peer.closed:
                    return
                if answer.target_collector_id != peer.id:
                    self._replace(peer, answer)
                    return
                peer.linking = True
                await self._attend(peer, answer)
            except CollectiveError as error:
                peer.failure = error
                log.info("%s: %s cannot be called: %s", self._own_id, peer.id, error.message)
                if error.grpc_status is GrpcStatus.ABORTED:
                    self._peers.forget(peer)
                    return
            finally:
                # Not if another has taken over, on another channel.
                if peer.keeper is asyncio.current_task():
                    self.down(peer)
            answer = None
            if not peer.wanted and peer.session is None and time.time() - peer.since > _GIVEN_UP:
                self._peers.forget(peer)
                return
            if time.monotonic() - begun > _STEADY and peer.failure is None:
                backoff.reset()
            await asyncio.sleep(backoff.next())

    def _replace(self, peer: Peer, answer: collector_pb2.ConnectResponse) -> None:
        """At a peer's address there is another collector now."""
        wanted, address, offer = peer.wanted, peer.channel.address, peer.source.offer
        log.warning("%s: at %s is %s now, not %s", self._own_id, address, answer.target_collector_id, peer.id)
        self._peers.forget(peer)
        if wanted and self._peers.get(answer.target_collector_id) is None:
            self._peers.adopt(answer, self._peers.channel(address), offer)

    async def _attend(self, peer: Peer, answer: collector_pb2.ConnectResponse) -> None:
        peer.connection = answer.connection_id
        peer.advertised = answer.address or peer.advertised
        peer.source.theirs = frozenset(answer.shared_namespaces)

        trunk = self._peers.trunk_to(peer.channel, answer)
        newest: Callable[[], None] | None = None
        keeper = asyncio.current_task()

        async def link(ready: Callable[[], None], successor: bool) -> None:
            calls: Any = None
            begun = False

            def opened(_: link_pb2.Hello, batch: Any) -> None:
                nonlocal calls
                calls = batch

            def announced(news: link_pb2.Announcement) -> None:
                nonlocal newest, begun
                if not begun:
                    begun, newest = True, ready
                    peer.batch = calls
                    ready()
                if newest is not ready:
                    return  # its successor tells now
                if self._vouching and not peer.identity.tls:
                    peer.held = news
                else:
                    self.apply(peer, news)

            def ended() -> None:
                # In the turn in which its calls fail: whoever looks then finds the peer lost.
                if newest is ready and peer.keeper is keeper:
                    self.down(peer)

            try:
                await follow(
                    peer.channel,
                    peer.connection,
                    peer.id,
                    self._peers.hello(),
                    on_open=opened,
                    on_announcement=announced,
                    on_end=ended,
                    trunk=trunk,
                    successor=successor,
                    batches=batches(self._peers.message),
                )
            finally:
                ended()

        try:
            await renewed(link, None if trunk is None else self._peers.age)
        except CollectiveError as error:
            if error.silent:
                await self._reconnect(peer)
            if error.grpc_status is not GrpcStatus.UNIMPLEMENTED:
                raise
        else:
            return
        await self._attend_unlinked(peer, answer)

    async def _reconnect(self, peer: Peer) -> None:
        """What still runs on the connections of a peer that is silent would wait for it until their deadlines."""
        old, peer.channel = peer.channel, self._peers.channel(peer.channel.address)
        await old.close()

    def apply(self, peer: Peer, news: link_pb2.Announcement) -> None:
        """Route by what a peer announces."""
        if peer.identity.tls:
            allowed = {name.namespace for name in collector_names(peer.identity) if name.id == peer.id}
            told = [name for name in news.namespaces if name in allowed]
            del news.namespaces[:]
            news.namespaces.extend(told)
        if not peer.source.up:
            peer.source.up = True
            self._rises(peer)
        self._table.apply(peer.source, news)
        peer.ready.set()

    async def _attend_unlinked(self, peer: Peer, answer: collector_pb2.ConnectResponse) -> None:
        """A peer without links: it is there while its connection is, and while it answers."""
        address = peer.channel.address
        old, peer.channel = peer.channel, self._peers.channel(address, _RARE_PINGS)
        await old.close()
        await peer.channel.ready(_GREETING)

        async def runs() -> bool:
            beside = self._peers.channel(address, _RARE_PINGS)
            try:
                await beside.ready(_PROBED)
            except CollectiveError:
                return False
            finally:
                await beside.close()
            return True

        def changed() -> None:
            peer.source.unwell = health.unwell
            if peer.source.up:
                self._table.changed()

        health = PeerHealth(peer.channel, peer.id, self._peers.shared(peer), changed, runs)
        await health.first()
        peer.source.open = peer.source.up = True
        peer.source.theirs = frozenset(answer.shared_namespaces)
        self._rises(peer)
        self._table.changed()
        peer.ready.set()
        watching = asyncio.ensure_future(health.run())
        there = asyncio.ensure_future(peer.channel.changed(True))
        try:
            await asyncio.wait([watching, there], return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                # Calls on that connection would wait for who does not answer until their deadlines.
                old, peer.channel = peer.channel, self._peers.channel(address)
                await old.close()
                await watching
        finally:
            for task in (watching, there):
                task.cancel()
            await asyncio.gather(watching, there, return_exceptions=True)

    def _rises(self, peer: Peer) -> None:
        peer.since = time.time()
        peer.lost_at = None
        peer.failure = None
        self._picker.joined(peer.id)

    def down(self, peer: Peer) -> None:
        """The peer cannot be called any more."""
        peer.linking = False
        peer.batch = None
        peer.held = None
        if not peer.closed:
            peer.ready.clear()
        if peer.source.up and not peer.closed:
            peer.since = time.time()
            peer.lost_at = time.monotonic()
            self._table.lost(peer.source)
        peer.source.up = peer.source.open = False
        peer.source.unwell = frozenset()

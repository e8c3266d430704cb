"""Discovery, joined to a collector: its record is published, and the members that it may call are connected to.

`Neighbours` owns the discovery, one task that compares who is listed with who is connected, and one task for each
member that is being dialled. Whatever changes, on either side, wakes the first: what was missed is seen the next time.

Who dials. Connect is mutual, so one of two is enough: the one with the lesser id dials at once, the other if it has
not been called shortly after. A peer that is connected is kept by its keeper, and dialled from here again when that
has given up, for as long as discovery tells of it; so one that was disconnected by hand comes back.

Who is let go. A member that is listed no more has left, or died, or has lost its way to etcd alone. A link that works
says that it lives, and is kept: discovery opens links and never closes one. Who has neither link nor record is dialled
no more, unless `connect_to` has asked for it: at once if the link went first, or if it was drained; else after the
minute that each lost peer has, which may only have blinked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from ..core.errors import DodiciError
from .balance import Backoff
from .contracts import Discovery, MemberRecord, MembersChanged
from .discovery import CombinedDiscovery, StaticDiscovery, discovery_of
from .errors import CollectiveError
from .greeting import ItselfError
from .policies import Reconnect

if TYPE_CHECKING:
    from .announce import RouteTable
    from .names import LocalServices
    from .peer import Peer
    from .peers import Peers

log = logging.getLogger("dodici.collective.discovery")

_YIELD: Final = 0.25
"""Seconds that the collector with the greater id leaves to the other for dialling."""
_PATIENCE: Final = 5.0
"""Seconds that one try may take."""
_RECONNECT: Final = Reconnect(initial=0.1, cap=2.0)
_DIALLING: Final = 64
"""Members that are dialled at a time."""
_STOP: Final = 5.0
"""Seconds that a discovery may take to end."""


class Neighbours:
    """The members of a collective, and the connections to them.

    Args:
        discovery: who tells of them; see `discovery_of`.
        own_id: of the collector.
        services: what it serves, and the namespaces that it is in.
        table: says when that, or a peer, has changed.
        peers: the connections.

    Raises:
        InvalidArgumentError: `discovery` is nothing that can be used.
    """

    def __init__(
        self, discovery: Any, own_id: str, services: LocalServices, table: RouteTable, peers: Peers
    ) -> None:
        self.discovery: Discovery = discovery_of(discovery)
        self._lists = tuple(_lists(self.discovery))
        self._own_id = own_id
        self._services = services
        self._peers = peers
        self._record = MemberRecord(own_id, "")
        self._running = False
        self._withdrawn = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._removed: set[str] = set()
        """Those who are listed no more, and had a link when they went."""
        self._dials: dict[tuple[str, str], asyncio.Task[None]] = {}
        """By key and address of the member."""
        self._room = asyncio.Semaphore(_DIALLING)
        table.on_change(self._look)

    @property
    def members(self) -> tuple[MemberRecord, ...]:
        """The other collectors that discovery knows, and how; none while it is not started."""
        return tuple(self.discovery.members.values()) if self._running else ()

    def lists(self, collector: str) -> bool:
        """Whether discovery knows a collector of that id, connected or not."""
        return self._running and any(record.id == collector for record in self.discovery.members.values())

    async def start(self, address: str, epoch: int) -> None:
        """Publish the record, and begin to connect. Waits neither for who keeps the list nor for members.

        Raises:
            InvalidArgumentError: the discovery is in use by another collector, or the address cannot be published.
        """
        self._record = MemberRecord(
            self._own_id, address, self._services.namespaces, epoch, time.time(), last_seen=time.time()
        )
        self._withdrawn = False
        self._wake, self._room = asyncio.Event(), asyncio.Semaphore(_DIALLING)
        await self.discovery.start(self._record, self._changed)
        self._running = True
        self._look()
        self._task = asyncio.create_task(self._run(), name=f"collector {self._own_id}: members")

    async def update(self) -> None:
        """Publish the namespaces as they are now."""
        namespaces = self._services.namespaces
        if self._withdrawn or not self._running or namespaces == self._record.namespaces:
            return
        self._record = replace(self._record, namespaces=namespaces)
        try:
            await self.discovery.update(self._record)
        except Exception:
            log.exception("%s: its record could not be changed", self._own_id)

    async def withdraw(self) -> None:
        """Take the record back: nobody is to find this collector any more. Who is connected stays so."""
        if not self._running:
            return
        self._withdrawn = True
        try:
            await self.discovery.withdraw()
        except Exception:
            log.exception("%s: its record could not be withdrawn", self._own_id)

    async def stop(self) -> None:
        """Take the record back, and end. Connections stay. It may be started again."""
        if not self._running:
            return
        self._running = False
        tasks = [task for task in (self._task, *self._dials.values()) if task is not None]
        self._task = None
        self._dials.clear()
        self._removed.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(_STOP):
                await self.discovery.stop()
        except Exception:
            log.exception("%s: its discovery could not be stopped", self._own_id)

    # -- who is listed, and who is connected ---------------------------------------------------------------

    def _look(self) -> None:
        self._wake.set()

    def _changed(self, change: MembersChanged) -> None:
        self._look()
        for record in change.removed:
            peer = self._peers.get(record.id)
            if peer is None or peer.wanted or not self._running:
                continue
            if peer.live:
                self._removed.add(peer.id)
            else:
                self._peers.forget(peer)

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.update()
            try:
                self._compare()
            except Exception:
                log.exception("%s: the members could not be looked at", self._own_id)

    def _compare(self) -> None:
        for each in self._lists:
            self._report(each)
        members = dict(self.discovery.members)
        self._let_go(members)
        due = {
            (key, record.address)
            for key, record in members.items()
            if self._concerns(record) and not self._found(record)
        }
        # Those that are due no more end by themselves: one cut off in the middle would not know whom it has met.
        for key, address in due - self._dials.keys():
            name = f"collector {self._own_id}: dial {key}"
            self._dials[key, address] = task = asyncio.create_task(self._dial(key, address), name=name)
            task.add_done_callback(self._ended((key, address)))

    def _let_go(self, members: Mapping[str, MemberRecord]) -> None:
        for name in tuple(self._removed):
            peer = self._peers.get(name)
            if peer is None or name in members:
                self._removed.discard(name)
            elif peer.source.draining and not peer.source.up and not peer.wanted:
                self._removed.discard(name)
                self._peers.forget(peer)

    def _ended(self, place: tuple[str, str]) -> Callable[[asyncio.Task[None]], None]:
        def ended(task: asyncio.Task[None]) -> None:
            if self._dials.get(place) is task:
                del self._dials[place]
                # It may have been lost again before this one had ended.
                self._look()

        return ended

    def _concerns(self, record: MemberRecord) -> bool:
        if record.id == self._own_id or record.address == self._record.address:
            return False
        if self._withdrawn:
            return False  # nobody new gets to know a collector that is about to go
        # What is in a list of addresses was put there to be connected to. Its namespaces are not known before.
        return record.source == "static" or not set(record.namespaces).isdisjoint(self._services.namespaces)

    def _found(self, record: MemberRecord) -> bool:
        """Whether it is connected, or being dialled where its record says."""
        peer = self._peer(record)
        return peer is not None and (peer.source.up or peer.channel.address == record.address)

    def _peer(self, record: MemberRecord) -> Peer | None:
        if record.id:
            return self._peers.get(record.id)
        for peer in self._peers:
            if record.address in (peer.channel.address, peer.advertised):
                found: Peer = peer
                return found
        return None

    def _report(self, addresses: StaticDiscovery) -> None:
        """Tell a list of addresses who answers there: nobody else does."""
        for record in tuple(addresses.members.values()):
            peer = self._peer(record)
            if peer is None or not peer.source.up:
                if record.alive:
                    addresses.lost(record.id or record.address)
                continue
            if not record.alive or record.namespaces != _namespaces(peer):
                addresses.seen(record.address, _as_record(peer))

    # -- dialling ------------------------------------------------------------------------------------------

    async def _dial(self, key: str, address: str) -> None:
        """Connect to a member, as often as it takes."""
        backoff = Backoff(_RECONNECT)
        first = self.discovery.members.get(key)
        if first is not None and first.id and self._own_id > first.id:
            await asyncio.sleep(_YIELD)
        while True:
            record = self.discovery.members.get(key)
            if record is None or record.address != address or not self._concerns(record):
                return
            if self._found(record):
                return
            try:
                async with self._room:
                    await self._connect(record)
            except ItselfError:
                if not self._is_self(record):
                    return
            except DodiciError as error:
                level = logging.DEBUG if backoff.failures else logging.INFO
                log.log(level, "%s: cannot connect to %s yet: %s", self._own_id, key, error)
            except Exception:
                log.exception("%s: connecting to %s failed", self._own_id, key)
            else:
                return
            await asyncio.sleep(backoff.next())

    def _is_self(self, record: MemberRecord) -> bool:
        """A list has this collector's own address, under another name. True if none of the lists knows of it."""
        for each in self._lists:
            each.seen(record.address, self._record)
        return any(other.address == record.address for other in self.discovery.members.values())

    async def _connect(self, record: MemberRecord) -> None:
        known = self._peer(record)
        before = {peer.id for peer in self._peers}
        offer = None if known is None else known.source.offer
        result = await self._peers.connect_to(record.address, offer, _PATIENCE, wanted=False)
        found = result.target_collector_id
        peer = self._peers.get(found)
        if record.source == "static":
            # Whoever it is: the address is what was asked for.
            if peer is not None:
                for each in self._lists:
                    each.seen(record.address, _as_record(peer))
            return
        if not record.id or found == record.id:
            return
        if (
            peer is not None
            and not peer.wanted
            and found not in before
            and found not in self.discovery.members
        ):
            # A port that another got, maybe of another collective.
            self._peers.forget(peer)
        raise CollectiveError(f"at {record.address} is {found}, and not {record.id}", peer=record.address)


def _namespaces(peer: Peer) -> tuple[str, ...]:
    return tuple(sorted(peer.source.theirs))


def _as_record(peer: Peer) -> MemberRecord:
    return MemberRecord(peer.id, peer.advertised, _namespaces(peer), peer.epoch)


def _lists(discovery: Discovery) -> Iterator[StaticDiscovery]:
    if isinstance(discovery, StaticDiscovery):
        yield discovery
    elif isinstance(discovery, CombinedDiscovery):
        for part in discovery.parts:
            yield from _lists(part)

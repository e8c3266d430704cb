"""Membership by way of etcd: who the collectors are, kept by themselves.

Each collector has a key PREFIX/members/ID with its record, and a lease on it. Two tasks run here: `Registration` keeps
the collector's own key, `follow()` tells all keys to a `Roster`. Neither is on the way of a call: what is known stays
known while etcd is away, and `start()` waits for nothing.

Somebody is removed when etcd says that the key is gone, and never because etcd says nothing. And in the `ttl` + 1
seconds after trouble with etcd (no answer to the watch or to a renewal, or our own key is gone) not even then: see
`roster.py`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from ...core.errors import ClientClosedError, InvalidArgumentError
from ..addresses import split_address
from ..contracts import MemberRecord, MembersChanged
from ..errors import CollectiveError
from ..names import checked_name
from ..protos import etcd_pb2 as pb
from .etcd import EtcdClient
from .records import Claim, key_part
from .registration import Registration
from .roster import Roster
from .url import EtcdConfig, parse_etcd_url
from .watch import Interrupted, Listing, Told, follow

if TYPE_CHECKING:
    from ..contracts import TransportSecurity

_log = logging.getLogger("dodici.collective.discovery")
_BACK = 1.0
"""Seconds beyond the ttl in which collectors register again after etcd was away."""


class EtcdDiscovery:
    """A `Discovery` whose list is in etcd.

    Args:
        where: the URL, ``"etcd://host:port[,host:port][/prefix][?ttl=5]"``, or a configuration.
        security: credentials for etcd, instead of those that the configuration names.
        place: what only one process at a time can have; who has the place of a dead one may take over its id before
            its lease has run out. The host's name and the collector's address if None.
        wait: whether to go on trying while another collector has the id. False: once refused, it stays unregistered.

    Raises:
        InvalidArgumentError: the URL or one of its options cannot be used, or a TLS file cannot be read.
    """

    def __init__(
        self,
        where: str | EtcdConfig,
        *,
        security: TransportSecurity | None = None,
        place: str | None = None,
        wait: bool = True,
    ) -> None:
        self.config = where if isinstance(where, EtcdConfig) else parse_etcd_url(where)
        self._security = security if security is not None else self.config.security()
        self._place = place
        self._wait = wait
        self._client: EtcdClient | None = None
        self._registration: Registration | None = None
        self._roster: Roster | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._on_change: Callable[[MembersChanged], None] = _ignore
        self._watching: asyncio.Timeout | None = None
        self._down: set[str] = set()
        self._release: asyncio.TimerHandle | None = None

    @property
    def members(self) -> Mapping[str, MemberRecord]:
        """The others, by id; made anew for each look.

        Not `alive`: gone from etcd, and given time to come back since etcd was away, too.
        """
        return {} if self._roster is None else self._roster.members()

    @property
    def record(self) -> MemberRecord | None:
        """This collector's record as it is in etcd, with the epoch of its registration; None while it is not."""
        return None if self._registration is None else self._registration.record

    @property
    def problem(self) -> CollectiveError | None:
        """Why this collector is not registered, or why its registration cannot be renewed; None if all is well."""
        return None if self._registration is None else self._registration.problem

    @property
    def reachable(self) -> bool:
        """Whether etcd has answered the last time that it was asked."""
        return self._client is not None and not self._down

    async def start(self, self_record: MemberRecord, on_change: Callable[[MembersChanged], None]) -> None:
        """Begin to register and to tell about the others. Returns at once, whether there is an etcd or not.

        Raises:
            InvalidArgumentError: it was started already, or the record has no id or no address that others can use.
        """
        if self._client is not None:
            raise InvalidArgumentError("this discovery was started already: each collector needs its own")
        record = _checked(self_record)
        prefix = f"{self.config.prefix}/members/".encode()
        key = prefix + key_part(record.id)
        claim = Claim(
            replace(record, started=record.started or time.time()),
            instance=secrets.token_hex(8),
            place=self._place or f"{socket.gethostname()} {record.address}",
        )
        self._client = client = EtcdClient(self.config, security=self._security)
        self._roster = Roster(prefix, key)
        self._on_change = on_change
        self._down.clear()
        self._registration = registration = Registration(
            client,
            key,
            claim,
            wait=self._wait,
            on_contact=lambda answered: self._contact("lease", answered),
            on_lost=self._lost,
        )
        self._run("register", registration.run)
        self._run("follow", lambda: self._follow(client, prefix, key))

    async def update(self, self_record: MemberRecord) -> None:
        """Another record for this collector: written soon, or when etcd is back. Its id stays.

        Raises:
            InvalidArgumentError: the id is another, or the address cannot be used.
            ClientClosedError: it is not started, or stopped.
        """
        registration, before = self._registration, self._claimed()
        record = _checked(self_record)
        if record.id != before.id:
            raise InvalidArgumentError(f"the id of a collector stays: {before.id!r}, not {record.id!r}")
        assert registration is not None
        registration.update(replace(record, started=record.started or before.started))

    async def registered(self, *, even_if_taken: bool = False) -> MemberRecord:
        """Wait until this collector is registered; its record, with the epoch.

        With `even_if_taken` it waits, too, while another collector has the id.

        Raises:
            IdTakenError: another collector has the id. It is tried again all the same, if `wait`.
            ClientClosedError: it is not started, or stopped.
        """
        self._claimed()
        assert self._registration is not None
        return await self._registration.registered(even_if_taken=even_if_taken)

    async def withdraw(self) -> None:
        """Take this collector's record back, and go on telling about the others: it drains.

        Takes at most `config.timeout`. Without an answer of etcd the record goes with its lease.
        """
        registration = self._registration
        if registration is None:
            return
        await self._end("register")
        try:
            async with asyncio.timeout(self.config.timeout):
                await registration.withdraw()
        except TimeoutError:
            pass  # the lease runs out by itself
        self._contact("lease", True)

    async def stop(self) -> None:
        """Take this collector's record back, and end. It may be started again."""
        client = self._client
        if client is None:
            return
        await self.withdraw()
        await self._end("follow")
        if self._release is not None:
            self._release.cancel()
            self._release = None
        self._client = self._registration = self._roster = None
        self._on_change = _ignore
        await client.close()

    # -- the watch

    async def _follow(self, client: EtcdClient, prefix: bytes, own: bytes) -> None:
        while True:
            watching = asyncio.timeout(None)
            try:
                async with watching, aclosing(follow(client, prefix)) as told:  # type: ignore[type-var]
                    self._watching = watching
                    async for each in told:
                        self._apply(each, own)
            except TimeoutError:
                if not watching.expired():
                    raise
            finally:
                self._watching = None

    def _lost(self) -> None:
        # We live, and our record is gone: maybe with those of others who live. That is trouble, and as such makes
        # `holding`; and an etcd that lost its data, and got as far again as the watch had been, shows in no other
        # way, so the keys are listed anew.
        self._contact("lease", False)
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.reschedule(asyncio.get_running_loop().time())

    def _apply(self, told: Told, own: bytes) -> None:
        roster, registration = self._roster, self._registration
        assert roster is not None
        assert registration is not None
        if isinstance(told, Interrupted):
            if "watch" not in self._down:
                _log.warning(
                    "the watch of etcd broke: %s; going on with the members that are known", told.error
                )
            self._contact("watch", False)
            return
        roster.last_seen = time.time()
        change: MembersChanged | None
        if isinstance(told, Listing):
            mine = next((key for key in told.keys if key.key == own), None)
            self._own_key(registration, mine, told.revision)
            change = roster.listed(told.keys)
        else:
            for event in told.events:
                if event.kv.key == own:
                    deleted = event.type == pb.Event.DELETE
                    self._own_key(registration, None if deleted else event.kv, event.kv.mod_revision)
            change = roster.changed(told.events)
        # Who is missing has gone before this: whether etcd was in trouble then is what counted.
        self._contact("watch", True)
        self._tell(change)

    def _own_key(self, registration: Registration, there: pb.KeyValue | None, revision: int) -> None:
        if there is None and registration.record is not None:
            # Maybe in one breath with the keys of others who live: before they are looked at.
            self._contact("lease", False)
        registration.observe(there, revision)

    def _tell(self, change: MembersChanged | None) -> None:
        if change is None:
            return
        try:
            self._on_change(change)
        except Exception:
            _log.exception("a callback for changes of the members failed")

    # -- whether etcd is there

    def _contact(self, part: Literal["watch", "lease"], answered: bool) -> None:
        if self._roster is None:
            return
        if not answered:
            self._down.add(part)
            self._roster.holding = True
            if self._release is not None:
                self._release.cancel()
                self._release = None
            return
        if self._down == {part}:
            _log.info("etcd answers again")
        self._down.discard(part)
        if self._roster.holding and not self._down and self._release is None:
            loop = asyncio.get_running_loop()
            self._release = loop.call_later(self.config.ttl + _BACK, self._let_go)

    def _let_go(self) -> None:
        self._release = None
        if self._roster is not None:
            self._tell(self._roster.release())

    # -- tasks

    def _run(self, name: str, main: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            while True:
                try:
                    await main()
                    return
                except Exception:
                    # Not to be: what etcd answers is dealt with. Membership must not end in silence, though.
                    _log.exception("discovery failed to %s; trying again", name)
                    await asyncio.sleep(1.0)

        self._tasks[name] = asyncio.create_task(run(), name=f"dodici discovery: {name}")

    async def _end(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def _claimed(self) -> MemberRecord:
        if self._registration is None:
            raise ClientClosedError("this discovery is not started")
        return self._registration.wanted


def _checked(record: MemberRecord) -> MemberRecord:
    checked_name("id", record.id)
    _, port = split_address(record.address)
    if port == 0 and not record.address.startswith("unix:"):
        raise InvalidArgumentError(
            f"others cannot reach port 0: {record.address!r}; start the collector first"
        )
    namespaces = tuple(dict.fromkeys(checked_name("namespace", each) for each in record.namespaces))
    return replace(record, namespaces=namespaces, source="etcd", alive=True, last_seen=0.0)


def _ignore(change: MembersChanged) -> None:
    pass

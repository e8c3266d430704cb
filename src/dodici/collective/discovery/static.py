"""Collectors whose addresses are given: a list that does not change.

A member is known by its address alone until it answers. Who dials says what came of it (`seen`, `lost`), or gives
`ask`, which is then called for each address until it answers, and again after each `lost`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace

from ...core.errors import DodiciError, InvalidArgumentError
from ..addresses import split_address
from ..contracts import MemberRecord, MembersChanged
from .backoff import Backoff
from .records import difference

_log = logging.getLogger("dodici.collective.discovery")


class StaticDiscovery:
    """A `Discovery` of a list of addresses.

    Args:
        addresses: ``"host:port"`` or ``"unix:path"``. The collector's own is passed over, so that all may be given
            the same list.
        ask: dials an address, and returns what answered; raises `DodiciError` or `OSError` if nothing did.
        initial: seconds before the second try; then twice as many each time.
        cap: most seconds between two tries.

    Raises:
        InvalidArgumentError: one of them is not an address, or has port 0.
    """

    def __init__(
        self,
        addresses: Iterable[str],
        *,
        ask: Callable[[str], Awaitable[MemberRecord]] | None = None,
        initial: float = 0.1,
        cap: float = 5.0,
    ) -> None:
        if isinstance(addresses, str):
            raise InvalidArgumentError(f"addresses are a list of str: [{addresses!r}]")
        self._addresses = tuple(dict.fromkeys(addresses))
        for address in self._addresses:
            if split_address(address)[1] == 0 and not address.startswith("unix:"):
                raise InvalidArgumentError(f"a collector's address needs its port: {address!r}")
        self._ask = ask
        self._waits = initial, cap
        self._members: dict[str, MemberRecord] = {}
        """By address."""
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._own: MemberRecord | None = None
        self._on_change: Callable[[MembersChanged], None] | None = None

    @property
    def members(self) -> Mapping[str, MemberRecord]:
        """The others, by id; by address while it has not answered yet."""
        return {record.id or record.address: record for record in self._members.values()}

    async def start(self, self_record: MemberRecord, on_change: Callable[[MembersChanged], None]) -> None:
        """Tell the addresses, and begin to ask if there is `ask`.

        Raises:
            InvalidArgumentError: it was started already.
        """
        if self._on_change is not None:
            raise InvalidArgumentError("this discovery was started already: each collector needs its own")
        self._own, self._on_change = self_record, on_change
        before = self.members
        self._members = {
            address: MemberRecord("", address, alive=False)
            for address in self._addresses
            if address != self_record.address
        }
        self._tell(before)
        for address in self._members:
            self._keep_asking(address)

    async def update(self, self_record: MemberRecord) -> None:
        """Nothing to do: nobody else reads this list."""

    async def withdraw(self) -> None:
        """Nothing to do: this collector is in no list."""

    async def stop(self) -> None:
        """End. It may be started again."""
        tasks, self._tasks = list(self._tasks.values()), {}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._on_change = None
        self._members = {}

    def seen(self, address: str, record: MemberRecord) -> None:
        """The collector at that address has answered, and says who it is. Other addresses are passed over."""
        if address not in self._members:
            return
        before = self.members
        if self._own is not None and record.id == self._own.id:
            # Our own address, under another name.
            del self._members[address]
        else:
            # The address stays the one that was given: that is the one that is known to work from here.
            self._members[address] = replace(
                record, address=address, source="static", alive=True, last_seen=time.time()
            )
        self._tell(before)

    def lost(self, key: str) -> None:
        """The collector with that id or address does not answer any more."""
        for address, record in self._members.items():
            if key in {record.id, address}:
                before = self.members
                self._members[address] = replace(record, alive=False)
                self._tell(before)
                self._keep_asking(address)
                return

    def _tell(self, before: Mapping[str, MemberRecord]) -> None:
        change = difference(before, self.members)
        if change is None or self._on_change is None:
            return
        try:
            self._on_change(change)
        except Exception:
            _log.exception("a callback for changes of the members failed")

    def _keep_asking(self, address: str) -> None:
        running = self._tasks.get(address)
        if self._ask is not None and (running is None or running.done()):
            name = f"dodici discovery: ask {address}"
            self._tasks[address] = asyncio.create_task(self._asking(self._ask, address), name=name)

    async def _asking(self, ask: Callable[[str], Awaitable[MemberRecord]], address: str) -> None:
        backoff = Backoff(*self._waits)
        while True:
            try:
                record = await ask(address)
            except (DodiciError, OSError) as error:
                _log.debug("%s does not answer yet: %s", address, error)
            except Exception:
                _log.exception("asking %s failed", address)
            else:
                self.seen(address, record)
                return
            await asyncio.sleep(backoff.next())

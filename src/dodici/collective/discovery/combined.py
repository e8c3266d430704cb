"""Several discoveries as one: a list of addresses beside an etcd, say."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping

from ...core.errors import InvalidArgumentError
from ..contracts import Discovery, MemberRecord, MembersChanged
from .records import difference

_log = logging.getLogger("dodici.collective.discovery")


class CombinedDiscovery:
    """A `Discovery` that tells what its parts tell, each collector once.

    Where two parts know a collector, by its id or by its address, the later one counts, unless it thinks the
    collector dead and the earlier one does not.

    Raises:
        InvalidArgumentError: there are no parts.
    """

    def __init__(self, parts: Iterable[Discovery]) -> None:
        self.parts = tuple(parts)
        if not self.parts:
            raise InvalidArgumentError("no discovery is given to combine")
        self._told: Mapping[str, MemberRecord] = {}
        self._on_change: Callable[[MembersChanged], None] | None = None

    @property
    def members(self) -> Mapping[str, MemberRecord]:
        """The others, by id; by address while the id is not known."""
        named: dict[str, MemberRecord] = {}
        unnamed: dict[str, MemberRecord] = {}
        for part in self.parts:
            for record in part.members.values():
                if not record.id:
                    unnamed[record.address] = record
                elif record.id not in named or record.alive or not named[record.id].alive:
                    named[record.id] = record
        known = {record.address for record in named.values()}
        return {**{key: record for key, record in unnamed.items() if key not in known}, **named}

    async def start(self, self_record: MemberRecord, on_change: Callable[[MembersChanged], None]) -> None:
        """Start all parts. If one cannot be started, the others are stopped again."""
        self._on_change, self._told = on_change, {}
        started: list[Discovery] = []
        try:
            for part in self.parts:
                await part.start(self_record, self._changed)
                started.append(part)
        except BaseException:
            self._on_change = None
            for part in started:
                await part.stop()
            raise

    async def update(self, self_record: MemberRecord) -> None:
        """Tell all parts."""
        for part in self.parts:
            await part.update(self_record)

    async def withdraw(self) -> None:
        """Take this collector's record back from all parts, and go on telling about the others."""
        await asyncio.gather(*(part.withdraw() for part in self.parts))

    async def stop(self) -> None:
        """Stop all parts."""
        self._on_change = None
        results = await asyncio.gather(*(part.stop() for part in self.parts), return_exceptions=True)
        for failure in results:
            if isinstance(failure, BaseException):
                raise failure

    def _changed(self, change: MembersChanged) -> None:
        # Not the part's own change: what it adds, another part may have told before.
        now = self.members
        merged = difference(self._told, now)
        self._told = now
        if merged is not None and self._on_change is not None:
            self._on_change(merged)

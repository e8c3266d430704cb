"""The other collectors, as the keys of etcd tell them. No loop and no clock: what it is told, it applies.

A key that disappears means that its collector left, or that its lease ended because it died. After trouble with etcd
it may mean neither: leases run out while etcd is stopped, and all keys go at once when it goes on, though every
collector is alive and about to register again. For such times there is `holding`: whoever disappears is kept, marked
as not alive, until its key is back, or `release()` says that it had long enough.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import replace

from ...core.errors import InvalidArgumentError
from ..contracts import MemberRecord, MembersChanged
from ..protos import etcd_pb2 as pb
from .records import decode, difference, key_part

_log = logging.getLogger("dodici.collective.discovery")


class Roster:
    """What is known about the collectors whose keys begin with `prefix`, but for the one whose key is `own`."""

    def __init__(self, prefix: bytes, own: bytes) -> None:
        self._prefix = prefix
        self._own = own
        self._records: dict[bytes, MemberRecord] = {}
        self._held: set[bytes] = set()
        self.holding = False
        """Whether those whose key disappears are kept for now."""
        self.last_seen = 0.0
        """When etcd last told anything, a POSIX time."""

    def listed(self, keys: Iterable[pb.KeyValue]) -> MembersChanged | None:
        """These are all the keys that there are."""
        before = self._by_id(self._records)
        missing = set(self._records)
        for key in keys:
            self._put(key)
            missing.discard(key.key)
        for gone in missing:
            self._gone(gone)
        return difference(before, self._by_id(self._records))

    def changed(self, events: Collection[pb.Event]) -> MembersChanged | None:
        """These changes have happened."""
        touched = {event.kv.key for event in events}
        before = self._by_id(touched)
        for event in events:
            if event.type == pb.Event.DELETE:
                self._gone(event.kv.key)
            else:
                self._put(event.kv)
        return difference(before, self._by_id(touched))

    def release(self) -> MembersChanged | None:
        """Give up those that were kept and have not come back. Ends `holding`."""
        self.holding = False
        before = self._by_id(self._held)
        for key in self._held:
            del self._records[key]
        self._held.clear()
        return difference(before, {})

    def members(self) -> dict[str, MemberRecord]:
        """All of them, by id. Those whose key is there were last seen when etcd last told anything."""
        return {
            record.id: record if key in self._held else replace(record, last_seen=self.last_seen)
            for key, record in self._records.items()
        }

    def _by_id(self, keys: Iterable[bytes]) -> dict[str, MemberRecord]:
        # Being kept is nobody's business but that of who reads `members`: it may pass.
        found = (self._records[key] for key in keys if key in self._records)
        return {record.id: replace(record, alive=True) for record in found}

    def _put(self, key: pb.KeyValue) -> None:
        if key.key == self._own:
            return
        try:
            record = decode(key.value).record
            if self._prefix + key_part(record.id) != key.key:
                raise InvalidArgumentError(f"it is the record of {record.id!r}")
        except InvalidArgumentError as error:
            _log.warning("ignored what etcd has at %r: %s", key.key, error)
            self._gone(key.key)
            return
        self._held.discard(key.key)
        self._records[key.key] = record

    def _gone(self, key: bytes) -> None:
        if key not in self._records:
            return
        if self.holding:
            if key not in self._held:
                self._held.add(key)
                self._records[key] = replace(self._records[key], alive=False, last_seen=self.last_seen)
        else:
            self._held.discard(key)
            del self._records[key]

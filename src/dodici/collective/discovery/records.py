"""Records of collectors: how they are written into etcd, and what has changed between two sets of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import quote

from ...core.errors import InvalidArgumentError
from ..addresses import split_address
from ..contracts import MemberRecord, MembersChanged
from ..names import checked_name

_MOST_EPOCH = 2**62
"""Epochs travel in 64 bits, and there is to be a next one."""
_MOST_TIME = 2.5e11
"""The year 9892: `datetime` ends with 9999."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What the key of a collector holds: its record, and who wrote it."""

    record: MemberRecord
    instance: str
    """Random, of one run of a collector: what has it was written by ourselves."""
    place: str
    """What only one process at a time can have, such as host and address: its holder's predecessor is dead."""

    def encode(self) -> bytes:
        """As JSON, with the names of the fields as keys."""
        record = self.record
        return json.dumps(
            {
                "id": record.id,
                "address": record.address,
                "namespaces": list(record.namespaces),
                "epoch": record.epoch,
                "started": record.started,
                "instance": self.instance,
                "place": self.place,
            },
            separators=(",", ":"),
        ).encode()


def decode(value: bytes) -> Claim:
    """Read what a key holds. Unknown fields are passed over: a newer version may have more.

    Raises:
        InvalidArgumentError: it is not the record of a collector.
    """
    try:
        found = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"not the record of a collector: {error}") from None
    if not isinstance(found, dict):
        raise InvalidArgumentError("not the record of a collector: no JSON object")
    namespaces, epoch, started = found.get("namespaces", []), found.get("epoch", 0), found.get("started", 0.0)
    if not isinstance(namespaces, list):
        raise InvalidArgumentError("not the record of a collector: namespaces is no list")
    if type(epoch) is not int or type(started) not in {int, float}:
        raise InvalidArgumentError("not the record of a collector: epoch or started is no number")
    # Also refuses infinity and NaN, which JSON as Python reads it may have.
    if not (0 <= epoch < _MOST_EPOCH and 0 <= started < _MOST_TIME):
        raise InvalidArgumentError("not the record of a collector: epoch or started is out of range")
    address = found.get("address")
    split_address(address)
    return Claim(
        MemberRecord(
            id=checked_name("id", found.get("id")),
            address=str(address),
            namespaces=tuple(dict.fromkeys(checked_name("namespace", each) for each in namespaces)),
            epoch=epoch,
            started=float(started),
            source="etcd",
        ),
        instance=str(found.get("instance", "")),
        place=str(found.get("place", "")),
    )


def key_part(collector_id: str) -> bytes:
    """A collector's id as the last part of its key."""
    return quote(collector_id, safe="").encode()


def difference(
    before: Mapping[str, MemberRecord], after: Mapping[str, MemberRecord]
) -> MembersChanged | None:
    """What has changed; None if nothing has. When a member was last seen is no change.

    A member that was known by its address alone, and whose id is known now, is `changed`, and not another one.
    """
    added = {key: record for key, record in after.items() if key not in before}
    removed = {key: record for key, record in before.items() if key not in after}
    changed = [
        record
        for key, record in after.items()
        if key in before and replace(record, last_seen=0.0) != replace(before[key], last_seen=0.0)
    ]
    unnamed = {record.address: key for key, record in removed.items() if not record.id}
    for key, record in list(added.items()):
        if record.address in unnamed:
            del removed[unnamed.pop(record.address)], added[key]
            changed.append(record)
    if not (added or changed or removed):
        return None
    return MembersChanged(tuple(added.values()), tuple(changed), tuple(removed.values()))

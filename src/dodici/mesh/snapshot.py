"""What the mesh is at one moment: its members, and which of them answer to which name.

The coordinator makes a new snapshot for every change, with the next version. Members apply what is newer than what
they have, and ignore the rest. A snapshot is a value: it crosses process borders as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberInfo:
    """One worker, or the coordinator, as the others know it."""

    id: str
    """Unique in the mesh, never used again."""
    name: str
    """What people call it: the `name` of its `Worker`, or its target."""
    pid: int
    kind: str
    """``"process"``, ``"thread"``, ``"loop"``, ``"address"`` or ``"coordinator"``."""
    app: bool = False
    """Whether it has an app, and its start-up has ended."""
    accepting: bool = True
    """What it says of itself: `set_accepting()`."""
    paused: bool = False
    """What the coordinator says of it: `pause_worker()`."""
    address: str | None = None
    """Where its requests go instead of over a link: ``"http://host:port"`` or ``"unix:/path"``."""

    @property
    def available(self) -> bool:
        """Whether it may be chosen: three flags, none of which overwrites another."""
        return self.app and self.accepting and not self.paused


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshSnapshot:
    """A version of the mesh.

    `members` has every member by id. `routes` has, by lower-case name without the domain, the ids of its workers in
    the order of their routing; a name whose workers are all gone is not in it.
    """

    version: int = 0
    members: Mapping[str, MemberInfo] = field(default_factory=dict)
    routes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def names_of(self, member_id: str) -> tuple[str, ...]:
        """The names that a worker answers to."""
        return tuple(name for name, ids in self.routes.items() if member_id in ids)

    def to_json(self) -> dict[str, Any]:
        """As JSON knows it."""
        return {
            "version": self.version,
            "members": [asdict(member) for member in self.members.values()],
            "routes": {name: list(ids) for name, ids in self.routes.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MeshSnapshot:
        """The reverse of `to_json`. Raises `KeyError`, `TypeError` or `ValueError` for anything else."""
        members = [MemberInfo(**member) for member in data["members"]]
        return cls(
            version=int(data["version"]),
            members={member.id: member for member in members},
            routes={str(name): tuple(map(str, ids)) for name, ids in data["routes"].items()},
        )

"""Who is in the mesh, as a state machine: no sockets, no loop, no clock of its own.

The coordinator feeds it with what happens (`join`, `gone`, `update`, `route`, `acknowledge`, `tick`) and carries out
what it says: `Publish` (this member is to get its snapshot), `Answer` (this ticket is settled) and `MeshEvent`.

Invariants:

- Each change makes the next version, and every member that has a client is sent it. Versions, and not the order of
  acknowledgements, decide what holds.
- A ticket waits for the version in which its change was made. Whom it waits for is fixed when it is taken: clients
  that were there before that version and have not acknowledged it. Later ones got it with their first snapshot; those
  that die are struck off. So each ticket is answered exactly once, at its deadline at the latest.
- A change that is none, because the value is that already, takes a ticket for the version that made it so: who asks
  twice does not hear "done" while the first answer is outstanding.
- Acknowledgements are cumulative: channels keep the order, so version n says that all before n have been seen.
- Members whose names may not be joined (`allow`) do not see each other, and neither waits for the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from ..core.errors import InvalidArgumentError
from .capacity import Named
from .snapshot import MemberInfo, MeshSnapshot

_FLAG_EVENTS = {
    ("app", True): "ready",
    ("app", False): "unready",
    ("accepting", True): "accepting",
    ("accepting", False): "refusing",
    ("paused", True): "paused",
    ("paused", False): "resumed",
}


@dataclass(frozen=True, slots=True)
class MeshEvent:
    """Something that happened in the mesh.

    `kind` is one of ``joined``, ``ready``, ``unready``, ``accepting``, ``refusing``, ``paused``, ``resumed``,
    ``address``, ``routed``, ``unrouted``, ``leaving``, ``gone``, ``timeout``. `member` is whom it happened to, as it
    is since; `name` is set for ``routed`` and ``unrouted``; `version` is the snapshot's that shows it.
    """

    kind: str
    member: MemberInfo
    version: int
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Publish:
    """Send the present snapshot to this member."""

    member_id: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The ticket is settled: every client has applied its change, but for those in `silent`.

    `beyond` names those outside the mesh, `(id, name, pid)`, whom a client has told of it in vain.
    """

    ticket: int
    silent: tuple[MemberInfo, ...] = ()
    beyond: tuple[Named, ...] = ()


Output: TypeAlias = Publish | Answer | MeshEvent
_Key: TypeAlias = tuple[str, str, str]


@dataclass(slots=True)
class _Record:
    info: MemberInfo
    client: bool
    joined: int
    acked: int
    leaving: bool = False


@dataclass(slots=True)
class _Ticket:
    number: int
    version: int
    deadline: float
    waiting: set[str] = field(default_factory=set)
    beyond: dict[Named, None] = field(default_factory=dict)


class Membership:
    """The state of one mesh.

    Args:
        timeout: seconds that a ticket waits for acknowledgements; 0 is for ever.
        allow: whether workers of these two names may be joined; asked in both orders, once for each pair.
    """

    def __init__(self, *, timeout: float = 5.0, allow: Callable[[str, str], bool] | None = None) -> None:
        self.version = 0
        self.outputs: list[Output] = []
        """What is to be done, in order; whoever called an input empties it."""
        self._timeout = timeout
        self._allow = allow
        self._members: dict[str, _Record] = {}
        self._routes: dict[str, list[str]] = {}
        self._changed: dict[_Key, int] = {}
        self._tickets: dict[int, _Ticket] = {}
        self._last_ticket = 0
        self._verdicts: dict[tuple[str, str], bool] = {}

    # ------------------------------------------------------------------------------------ looking

    def __contains__(self, member_id: object) -> bool:
        return member_id in self._members

    def info(self, member_id: str) -> MemberInfo:
        """Raises `InvalidArgumentError` for one that is not (any longer) in the mesh."""
        return self._record(member_id).info

    def names_of(self, member_id: str) -> tuple[str, ...]:
        return tuple(name for name, ids in self._routes.items() if member_id in ids)

    def ids_of(self, name: str) -> tuple[str, ...]:
        """The workers of a name."""
        return tuple(self._routes.get(name, ()))

    def snapshot(self) -> MeshSnapshot:
        """Everything."""
        return self._snapshot(self._members)

    def snapshot_for(self, member_id: str) -> MeshSnapshot:
        """What this member may see."""
        if self._allow is None:
            return self.snapshot()
        return self._snapshot([other for other in self._members if not self.forbidden(member_id, other)])

    def forbidden(self, one: str, other: str) -> bool:
        """Whether these two members are never joined."""
        if self._allow is None or one == other:
            return False
        return any(
            not self._verdict(name, another)
            for name in self.names_of(one)
            for another in self.names_of(other)
        )

    def next_deadline(self) -> float | None:
        """When `tick` has something to do; None while no ticket can expire."""
        if not self._timeout or not self._tickets:
            return None
        return min(ticket.deadline for ticket in self._tickets.values())

    # ------------------------------------------------------------------------------------- inputs

    def join(self, info: MemberInfo, *, client: bool = True) -> None:
        """A member has arrived. A client is to be sent `snapshot_for` it as its first; it is not published to it."""
        if info.id in self._members:
            raise InvalidArgumentError(f"{info.id} is in the mesh already")
        self.version += 1
        self._members[info.id] = _Record(info, client, joined=self.version, acked=self.version)
        self._publish(without=info.id)
        self._tell("joined", info)
        if info.app:
            self._tell("ready", info)

    def gone(self, member_id: str) -> None:
        """A member has ended, in whatever way. Nothing for one that is not here."""
        record = self._members.pop(member_id, None)
        if record is None:
            return
        self.version += 1
        for name in self._drop_routes(member_id):
            self._tell("unrouted", record.info, name)
        self._changed = {key: version for key, version in self._changed.items() if key[1] != member_id}
        self._publish()
        self._tell("gone", record.info)
        self._strike(member_id, None)

    def update(self, member_id: str, now: float, **values: Any) -> int:
        """Set `app`, `accepting`, `paused` or `address` of a member. Returns the ticket."""
        record = self._record(member_id)
        if record.leaving and values.get("app"):
            raise InvalidArgumentError(f"{record.info.name} is leaving the mesh")
        different = {key: value for key, value in values.items() if getattr(record.info, key) != value}
        if different:
            self.version += 1
            record.info = replace(record.info, **different)
            for key in different:
                self._changed["flag", member_id, key] = self.version
            self._publish()
            for key, value in different.items():
                self._tell(_FLAG_EVENTS.get((key, value), key), record.info)
        return self._ticket([("flag", member_id, key) for key in values], now)

    def leave(self, member_id: str, now: float) -> int:
        """A worker is about to end: it loses its names and is not chosen again, but is a client still."""
        record = self._record(member_id)
        if not record.leaving:
            record.leaving = True
            self.version += 1
            record.info = replace(record.info, app=False)
            names = self._drop_routes(member_id)
            self._changed["leave", member_id, ""] = self.version
            self._publish()
            self._tell("leaving", record.info)
            for name in names:
                self._tell("unrouted", record.info, name)
        return self._ticket([("leave", member_id, "")], now)

    def route(self, name: str, member_ids: Iterable[str], now: float) -> int:
        """These workers answer to `name`, behind those that do so already."""
        ids = list(dict.fromkeys(member_ids))
        for member_id in ids:
            if self._record(member_id).leaving:
                raise InvalidArgumentError(f"{self._record(member_id).info.name} is leaving the mesh")
        self._judge(name)  # before anything has changed: `allow` is a caller's, and may raise
        present = self._routes.get(name, [])
        added = [member_id for member_id in ids if member_id not in present]
        if added:
            self.version += 1
            self._routes[name] = [*present, *added]
            for member_id in added:
                self._changed["route", member_id, name] = self.version
            self._publish()
            for member_id in added:
                self._tell("routed", self._members[member_id].info, name)
        return self._ticket([("route", member_id, name) for member_id in ids], now)

    def unroute(self, pairs: Iterable[tuple[str, str]], now: float) -> int:
        """These `(name, member id)` end. One that does not exist counts as ended."""
        pairs = list(pairs)
        removed = [(name, member_id) for name, member_id in pairs if member_id in self._routes.get(name, ())]
        if removed:
            self.version += 1
            for name, member_id in removed:
                self._remove(name, member_id)
                self._changed["route", member_id, name] = self.version
            self._publish()
            for name, member_id in removed:
                self._tell("unrouted", self._members[member_id].info, name)
        return self._ticket([("route", member_id, name) for name, member_id in pairs], now)

    def acknowledge(self, member_id: str, version: int, silent: Iterable[Named] = ()) -> None:
        """A client has applied, or seen and ignored, every snapshot up to this one.

        Args:
            member_id: the client.
            version: of the snapshot.
            silent: those beyond the mesh whom the client has told of it, and who have not applied it.

        Raises:
            ValueError: that version does not exist yet.
        """
        record = self._members.get(member_id)
        if record is None:
            return
        if version > self.version:
            raise ValueError(f"version {version} was never published")
        if version > record.acked:
            record.acked = version
            self._strike(member_id, version, silent)
            # What everybody has seen can be waited for no longer.
            seen = min(
                (member.acked for member in self._members.values() if member.client), default=self.version
            )
            if self._changed:
                self._changed = {key: made for key, made in self._changed.items() if made > seen}

    def tick(self, now: float) -> None:
        """Answer the tickets whose time is over."""
        if not self._timeout:
            return
        for ticket in [ticket for ticket in self._tickets.values() if ticket.deadline <= now]:
            del self._tickets[ticket.number]
            silent = tuple(record.info for key, record in self._members.items() if key in ticket.waiting)
            for info in silent:
                self._tell("timeout", info)
            self.outputs.append(Answer(ticket.number, silent, tuple(ticket.beyond)))

    # ------------------------------------------------------------------------------------- inside

    def _record(self, member_id: str) -> _Record:
        record = self._members.get(member_id)
        if record is None:
            raise InvalidArgumentError(f"no member {member_id} in the mesh")
        return record

    def _snapshot(self, visible: Iterable[str]) -> MeshSnapshot:
        members = {member_id: self._members[member_id].info for member_id in visible}
        routes = {}
        for name, ids in self._routes.items():
            seen = tuple(member_id for member_id in ids if member_id in members)
            if seen:
                routes[name] = seen
        return MeshSnapshot(version=self.version, members=members, routes=routes)

    def _publish(self, without: str | None = None) -> None:
        self.outputs += [
            Publish(member_id)
            for member_id, record in self._members.items()
            if record.client and member_id != without
        ]

    def _tell(self, kind: str, info: MemberInfo, name: str | None = None) -> None:
        self.outputs.append(MeshEvent(kind, info, self.version, name))

    def _remove(self, name: str, member_id: str) -> None:
        ids = self._routes[name]
        ids.remove(member_id)
        if not ids:
            del self._routes[name]
            self._verdicts = {pair: verdict for pair, verdict in self._verdicts.items() if name not in pair}

    def _drop_routes(self, member_id: str) -> tuple[str, ...]:
        names = self.names_of(member_id)
        for name in names:
            self._remove(name, member_id)
        return names

    def _ticket(self, keys: list[_Key], now: float) -> int:
        self._last_ticket += 1
        waiting: set[str] = set()
        version = 0
        for key in keys:
            made = self._changed.get(key, 0)
            version = max(version, made)
            waiting.update(
                member_id
                for member_id, record in self._members.items()
                if record.client
                and record.joined < made
                and record.acked < made
                and not self.forbidden(member_id, key[1])
            )
        if waiting:
            number = self._last_ticket
            self._tickets[number] = _Ticket(number, version, now + self._timeout, waiting)
        else:
            self.outputs.append(Answer(self._last_ticket))
        return self._last_ticket

    def _strike(self, member_id: str, version: int | None, silent: Iterable[Named] = ()) -> None:
        for ticket in list(self._tickets.values()):
            if member_id in ticket.waiting and (version is None or ticket.version <= version):
                ticket.waiting.discard(member_id)
                ticket.beyond.update(dict.fromkeys(silent))
                if not ticket.waiting:
                    del self._tickets[ticket.number]
                    self.outputs.append(Answer(ticket.number, beyond=tuple(ticket.beyond)))

    def _judge(self, name: str) -> None:
        for other in [*self._routes, name]:
            self._verdict(name, other)

    def _verdict(self, name: str, other: str) -> bool:
        if self._allow is None:
            return True
        pair = (name, other) if name < other else (other, name)
        verdict = self._verdicts.get(pair)
        if verdict is None:
            verdict = self._allow(*pair) and (name == other or self._allow(pair[1], pair[0]))
            self._verdicts[pair] = verdict
        return verdict

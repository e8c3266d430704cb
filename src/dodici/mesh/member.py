"""A member of the mesh: one process, thread or loop that takes part.

It owns the member's end of the control channel, its links, and its `MeshClient`; a worker's `Wired` adds the app.
The coordinator is a member like any other, joined by a queue to itself.

What crosses the control channel (JSON, `type` says which):

    to the member      snapshot(snapshot)             apply it, and acknowledge its version
                       done(op, silent) failed(op, error)   the answer to `set` or `leave`
                       link(serial, peer) + one end   there is a link with that peer
                       unlinked(peer, reason)         the link that was asked for cannot be made
                       gone(peer)                     it has died: its link ends, whoever still holds it open
                       call(call, do, ...)            to be answered by `reply`
    to the coordinator joined()                       about to begin; `failed(error, traceback)` if it cannot
                       ack(version, silent)           `silent`: watchers beyond the mesh who have not applied it
                       set(op, values) leave(op)
                       connect(peer, after)           make a link, unless one newer than serial `after` is under way
                       reply(call, result | error)
                       closed()                       left in order; the channel is closed next

Invariants: one link per peer is used for new requests, the one with the highest serial. Older ones live on until what
runs on them has ended. Acknowledgements are cumulative, so that one which waits for watchers (`capacity.py`) holds back
those behind it; none waits longer than `WATCHERS` of the propagation timeout, so that it is in time.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ..core.errors import DodiciError, LinkError, MeshError, MeshTimeoutError
from ..net.handover import guard, unguard
from ..net.loop import Loop
from .capacity import Change, settled
from .client import MeshClient
from .hooks import ClientHooks
from .snapshot import MemberInfo, MeshSnapshot
from .tracing import SPANS, tell

if TYPE_CHECKING:
    from ..core.controller import Exchange
    from .contracts import PeerLink, ServerStream
    from .control import Channel, Message

WATCHERS = 0.8
"""What of the propagation timeout those have who watch capacity."""
BARRIER = 1.0
"""Seconds that a peer has to answer a barrier."""
ORPHAN = 0.5
"""Seconds that the link with a dead peer has to end by itself, so that what had arrived is still delivered."""

_log = logging.getLogger("dodici.mesh")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshSettings:
    """What all members of a mesh have in common. Times are in seconds."""

    domain: str = ".local"
    timeout: float | None = None
    body_timeout: float | None = None
    unknown: str = "error"
    propagation_timeout: float = 5.0
    trace: bool = True

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def client(self, home: Any, hooks: ClientHooks | None = None) -> MeshClient:
        """A client for a member."""
        return MeshClient(
            home,
            domain=self.domain,
            timeout=self.timeout,
            body_timeout=self.body_timeout,
            unknown=self.unknown,
            trace=self.trace,
            hooks=hooks,
        )


class Door:
    """The sink of all links of a member. Where it leads may change while they exist."""

    __slots__ = ("accept",)

    def __init__(self) -> None:
        self.accept: Callable[[ServerStream], None] = self.shut

    @staticmethod
    def shut(stream: ServerStream) -> None:
        """Send it back."""
        stream.refuse("no app is here")


@dataclass(slots=True)
class _Due:
    """An acknowledgement that waits."""

    version: int
    changes: list[Change]
    until: float


@dataclass(slots=True)
class _Held:
    """What a link stands on."""

    descriptor: int | None
    gone: asyncio.TimerHandle | None = field(default=None)


class Member:
    """One member, on the event loop that it was made on. It is the `ClientHome` and the `LinkOwner`.

    Args:
        info: who it is.
        channel: its end of the control channel, not yet started by anybody else.
        loop: the running loop.
        settings: the mesh's.
        client: a client that exists already (the coordinator's); else one is made.
    """

    def __init__(
        self,
        info: MemberInfo,
        channel: Channel,
        loop: Loop,
        settings: MeshSettings,
        client: MeshClient | None = None,
    ) -> None:
        self.info = info
        self.member_id = info.id
        self.settings = settings
        self.loop = loop
        self.channel = channel
        self.client = client if client is not None else settings.client(self)
        self.door = Door()
        """Where the requests of others go; a member without an app sends them back."""
        self.calls: dict[str, Callable[[Message], Awaitable[Mapping[str, Any] | None]]] = {SPANS: tell}
        """What the coordinator may ask for, by name."""
        self.on_orphaned: Callable[[], None] | None = None
        """The coordinator is gone."""
        self.orphaned = False
        self._links: dict[PeerLink, _Held] = {}
        self._serials: dict[str, int] = {}
        self._operations: dict[int, asyncio.Future[None]] = {}
        self._last_operation = 0
        self._due: deque[_Due] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._applied = asyncio.Event()
        self._closed = False

    # ------------------------------------------------------------------- towards the coordinator

    async def joined(self) -> None:
        """Join; return when the first snapshot is applied."""
        self.channel.send({"type": "joined"})
        await self._applied.wait()

    async def set(self, **values: Any) -> None:
        """Change what this member says of itself; return when every client has applied it.

        Raises:
            MeshTimeoutError: some have not; it holds everywhere else.
            MeshError: it cannot be done, or there is no coordinator any more.
        """
        await self._operation({"type": "set", "values": values})

    async def leave(self) -> None:
        """Lose all names; return and raise as `set()`."""
        await self._operation({"type": "leave"})

    async def _operation(self, message: dict[str, Any]) -> None:
        if self.orphaned or self._closed:
            raise MeshError("there is no coordinator any more")
        self._last_operation = operation = self._last_operation + 1
        self._operations[operation] = answered = self.loop.create_future()
        self.channel.send({**message, "op": operation})
        patience = self.settings.propagation_timeout
        try:
            # The coordinator answers in time, or is itself the one that is silent.
            async with asyncio.timeout(patience + 1.0 if patience else None):
                await answered
        except TimeoutError as error:
            if isinstance(error, MeshTimeoutError):
                raise
            raise MeshTimeoutError(
                f"the coordinator did not answer within {patience + 1.0:g} s", members=()
            ) from None
        finally:
            self._operations.pop(operation, None)

    def receive(self, message: Message, attachments: list[Any]) -> None:
        """One message of the coordinator's. Raises what `deliver()` turns into a `LinkError`."""
        kind = message["type"]
        if kind == "snapshot":
            snapshot = MeshSnapshot.from_json(message["snapshot"])
            changes = self.client.apply(snapshot)
            self.info = snapshot.members.get(self.member_id, self.info)
            self._acknowledge(changes)
            self._applied.set()
        elif kind == "done":
            self._answered(message["op"], silence_error(message["silent"], self.settings))
        elif kind == "failed":
            self._answered(message["op"], MeshError(str(message["error"])))
        elif kind == "link":
            self._task(self._adopt(int(message["serial"]), MemberInfo(**message["peer"]), attachments.pop(0)))
        elif kind == "unlinked":
            peer = str(message["peer"])
            self.client.link_failed(peer, LinkError(f"no link to {peer}: {message['reason']}"))
        elif kind == "gone":
            self._forsake(str(message["peer"]))
        elif kind == "call":
            self._task(self._reply(int(message["call"]), str(message["do"]), message))
        else:
            raise ValueError(f"unknown message {kind!r}")

    def _acknowledge(self, changes: list[Change]) -> None:
        version = self.client.snapshot.version
        due = self._due
        if not changes and not due:
            # Of the newest: this message may take the place of one that is still on its way.
            self.channel.send({"type": "ack", "version": version}, key="ack")
        elif not changes and not due[-1].changes:
            due[-1].version = version
        else:
            due.append(
                _Due(version, changes, self.loop.time() + WATCHERS * self.settings.propagation_timeout)
            )
            if len(due) == 1:
                self._task(self._acknowledge_due())

    async def _acknowledge_due(self) -> None:
        me = (self.info.id, self.info.name, self.info.pid)
        while self._due:
            due = self._due[0]
            patience = due.until - self.loop.time() if self.settings.propagation_timeout else None
            silent = await settled(due.changes, patience, me)
            self._due.popleft()
            message = {"type": "ack", "version": due.version, "silent": silent}
            self.channel.send(message, key=None if silent else "ack")

    def lost(self, error: BaseException | None) -> None:
        """The coordinator is gone."""
        self.orphaned = True
        if error is not None:
            _log.error("%s lost its coordinator: %s", self.info.name, error)
        for answered in self._operations.values():
            if not answered.done():
                answered.set_exception(MeshError("the coordinator is gone"))
        if self.on_orphaned is not None:
            self.on_orphaned()

    def _answered(self, operation: int, error: BaseException | None) -> None:
        answered = self._operations.get(operation)
        if answered is None or answered.done():
            return
        if error is None:
            answered.set_result(None)
        else:
            answered.set_exception(error)

    async def _reply(self, call: int, name: str, message: Message) -> None:
        answer: dict[str, Any] = {"type": "reply", "call": call}
        try:
            action = self.calls.get(name)
            if action is None:
                raise MeshError(f"{self.info.name} cannot {name}")
            answer["result"] = dict(await action(message) or {})
        except DodiciError as error:
            answer["error"] = str(error)
        except Exception as error:
            _log.exception("%s failed in %s", name, self.info.name)
            answer["error"] = f"{type(error).__name__}: {error}"
        self.channel.send(answer)

    # ------------------------------------------------------------------------------------- links

    def connect(self, member_id: str) -> None:
        if member_id == self.member_id:
            self._task(self._connect_self())
        elif self.orphaned or self._closed:
            error = LinkError(f"no link to {member_id}: there is no coordinator any more")
            self.loop.call_soon(self.client.link_failed, member_id, error)
        else:
            after = self._serials.get(member_id, 0)
            self.channel.send({"type": "connect", "peer": member_id, "after": after})

    async def _connect_self(self) -> None:
        from ..net.local import queue_pair

        here, there = queue_pair(self.loop, self.loop)
        # The second end is where the requests arrive; only the first is offered any.
        await self._open(self.info, there)
        self.client.linked(await self._open(self.info, here))

    async def _adopt(self, serial: int, peer: MemberInfo, end: Any) -> None:
        if self._closed:
            getattr(end, "abort", end.close)()
            return
        try:
            link = await self._open(peer, end)
        except OSError as error:
            # The coordinator makes another only for who has seen this one.
            self._serials[peer.id] = max(serial, self._serials.get(peer.id, 0))
            self.client.link_failed(peer.id, error)
            return
        if serial > self._serials.get(peer.id, 0):
            self._serials[peer.id] = serial
            self.client.linked(link)

    async def _open(self, peer: MemberInfo, end: Any) -> PeerLink:
        from .link import open_link

        descriptor: int | None = end.fileno() if hasattr(end, "fileno") else None
        link = await open_link(
            end,
            member_id=self.member_id,
            peer=peer,
            sink=self.door,
            owner=self,
            headers_timeout=self.client.headers_timeout,
            body_timeout=self.client.body_timeout,
        )
        if descriptor is not None:
            guard(descriptor)
        self._links[link] = _Held(descriptor)
        return link

    def _forsake(self, peer: str) -> None:
        self._serials.pop(peer, None)
        for link, held in self._links.items():
            if link.peer.id == peer and held.gone is None:
                error = LinkError(f"{link.peer.name} (pid {link.peer.pid}) has ended")
                held.gone = self.loop.call_later(ORPHAN, link.abort, error)

    def link_lost(self, link: PeerLink, error: BaseException | None, unsent: list[Exchange]) -> None:
        held = self._links.pop(link, None)
        if held is not None:
            if held.descriptor is not None:
                unguard(held.descriptor)
            if held.gone is not None:
                held.gone.cancel()
        self.client.link_lost(link, error, unsent)

    def refused(self, link: PeerLink, exchange: Exchange, reason: str) -> None:
        self.client.refused(link, exchange, reason)

    def link_idle(self, link: PeerLink) -> None:
        self.client.link_idle(link)

    async def barrier(self) -> None:
        """Return when all that peers had sent before has arrived; no peer is waited for longer than `BARRIER`."""
        await self._answers([link for link in self._links if not link.lost], BARRIER)

    async def written(self, patience: float) -> None:
        """Return when peers that read slowly have read what was sent to them, after `patience` seconds at the latest.

        What the kernel has taken outlives this process, and needs no waiting.
        """
        await self._answers([link for link in self._links if link.unwritten], patience)

    async def _answers(self, links: list[PeerLink], patience: float) -> None:
        waiting = [self.loop.create_task(link.barrier()) for link in links]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=patience)
            for task in late:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    # --------------------------------------------------------------------------------------- end

    async def close(self) -> None:
        """Close the links and the channel. Exchanges that still run fail."""
        if self._closed:
            return
        self._closed = True
        await self.client.destroy(MeshError(f"{self.info.name} has left the mesh"))
        self.channel.send({"type": "closed"})
        self.cut(None)
        await self.ended()

    def cut(self, error: BaseException | None) -> None:
        """Close everything now: in order without an error, by force with one."""
        self._closed = True
        for link, held in list(self._links.items()):
            if held.gone is not None:
                held.gone.cancel()
            if error is None:
                link.close()
            else:
                link.abort(error)
        self.channel.close()

    async def ended(self) -> None:
        """Return when nothing that this member started runs any more."""
        me = asyncio.current_task()
        while others := [task for task in self._tasks if task is not me]:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    def _task(self, coroutine: Any) -> None:
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.loop.call_exception_handler(
                {"message": f"{self.info.name}: a control message failed", "exception": error, "task": task}
            )


def silence_error(silent: Iterable[Iterable[Any]], settings: MeshSettings) -> MeshTimeoutError | None:
    """The error for members `(id, name, pid)` that did not acknowledge in time; None if there are none.

    Those beyond the mesh have an address for their name, and the pid 0.
    """
    members = tuple((str(key), str(name), int(pid)) for key, name, pid in silent)
    if not members:
        return None
    names = ", ".join(
        f"{name} ({key}, pid {pid})" if pid else f"{key} ({name})" for key, name, pid in members
    )
    return MeshTimeoutError(
        f"not acknowledged within {settings.propagation_timeout:g} s by {names}; it is applied everywhere else",
        members=members,
    )


def named(silent: Iterable[MemberInfo]) -> list[tuple[str, str, int]]:
    """Members as `silence_error` takes them."""
    return [(info.id, info.name, info.pid) for info in silent]


def info_json(info: MemberInfo) -> dict[str, Any]:
    """A member as JSON knows it."""
    return asdict(info)

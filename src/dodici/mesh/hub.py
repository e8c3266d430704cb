"""The hub of the star: the coordinator's end of every control channel, the membership, and who is joined to whom.

`Membership` decides; the hub carries out: it sends snapshots, answers tickets, keeps the one timer that tickets need,
makes links for pairs of members, and asks members for things (`call`). Requests never pass through here.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..core.errors import InvalidArgumentError, LinkError, MeshError
from ..net.loop import Loop
from .capacity import Named
from .member import MeshSettings, info_json, named, silence_error
from .membership import Answer, Membership, MeshEvent, Publish
from .snapshot import MemberInfo

if TYPE_CHECKING:
    from .control import Channel, Message

_log = logging.getLogger("dodici.mesh")
_FLAGS: dict[str, Any] = {"app": bool, "accepting": bool, "address": (str, type(None))}


class Connection:
    """One member, as the hub sees it.

    `loop` is the member's event loop where that is in this process, else None. The callbacks are whose it is.
    """

    def __init__(self, info: MemberInfo, channel: Channel, loop: Loop | None) -> None:
        self.info = info
        self.channel = channel
        self.loop = loop
        self.joined = False
        self.left = False
        """It has said that it left in order."""
        self.calls: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.on_failed: Callable[[str, str], None] | None = None
        """It cannot begin: what and why, and the traceback."""
        self.on_lost: Callable[[BaseException | None], None] | None = None
        """Its channel is over."""


class Hub:
    """Everything that the coordinator knows, on its loop."""

    def __init__(
        self,
        loop: Loop,
        settings: MeshSettings,
        *,
        allow: Callable[[str, str], bool] | None = None,
        on_event: Callable[[MeshEvent], None],
        version: int = 0,
    ) -> None:
        self.loop = loop
        self.settings = settings
        self.membership = Membership(timeout=settings.propagation_timeout, allow=allow)
        self.membership.version = version
        self._on_event = on_event
        self._connections: dict[str, Connection] = {}
        self._tickets: dict[int, Callable[[tuple[Named, ...]], None]] = {}
        self._pairs: dict[frozenset[str], int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._last_call = 0

    # -------------------------------------------------------------------------------- connections

    def connect(self, connection: Connection) -> None:
        """Begin to listen to a member. It is in the mesh when it says `joined`."""
        self._connections[connection.info.id] = connection
        connection.channel.start(
            lambda message, attachments: self._received(connection, message, attachments),
            lambda error: self._lost(connection, error),
        )

    def adopt(self, connection: Connection) -> None:
        """`connect()`, for a member that is in the mesh at once: the coordinator's own."""
        self.connect(connection)
        self._joined(connection)

    def add(self, info: MemberInfo) -> None:
        """A member that is no client: a worker that is only an address."""
        self.membership.join(info, client=False)
        self._carry_out()

    def remove(self, member_id: str) -> None:
        """A member has ended: tell all. Nothing if it is known."""
        connection = self._connections.pop(member_id, None)
        if connection is not None:
            connection.channel.close()
            for answered in connection.calls.values():
                if not answered.done():
                    answered.set_exception(LinkError(f"{connection.info.name} has ended"))
        self.membership.gone(member_id)
        self._carry_out()
        for pair in [pair for pair in self._pairs if member_id in pair]:
            del self._pairs[pair]
            (other,) = pair - {member_id}
            if other in self._connections:
                self._connections[other].channel.send({"type": "gone", "peer": member_id})

    def change(self, make: Callable[[float], int]) -> asyncio.Future[None]:
        """Make a change of the membership: `make(now)` returns its ticket. The future is for the acknowledgements;
        it raises `MeshTimeoutError`. What `make` raises is raised here.
        """
        settled: asyncio.Future[None] = self.loop.create_future()

        def settle(silent: tuple[Named, ...]) -> None:
            if not settled.done():
                error = silence_error(silent, self.settings)
                if error is None:
                    settled.set_result(None)
                else:
                    settled.set_exception(error)

        self._take(make, settle)
        return settled

    async def call(
        self, member_id: str, name: str, timeout: float | None, **arguments: Any
    ) -> dict[str, Any]:
        """Ask a member for something; `timeout` in seconds.

        Raises:
            MeshError: it says no, or does not answer in time.
            LinkError: it has ended.
        """
        connection = self._connections.get(member_id)
        if connection is None:
            raise LinkError(f"{member_id} has ended")
        self._last_call = call = self._last_call + 1
        connection.calls[call] = answered = self.loop.create_future()
        connection.channel.send({"type": "call", "call": call, "do": name, **arguments})
        try:
            async with asyncio.timeout(timeout):
                answer: dict[str, Any] = await answered
                return answer
        except TimeoutError:
            info = connection.info
            raise MeshError(f"{info.name} (pid {info.pid}) did not {name} within {timeout:g} s") from None
        finally:
            connection.calls.pop(call, None)

    def processes(self) -> list[MemberInfo]:
        """The members that live in processes of their own."""
        members = self._connections.values()
        return [each.info for each in members if each.info.kind == "process" and each.joined]

    def close(self) -> None:
        """Stop the timer and close the channels. Nobody is left who could acknowledge: what waits for that is done."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for connection in list(self._connections.values()):
            connection.channel.close()
        self._connections.clear()
        tickets, self._tickets = self._tickets, {}
        for settle in tickets.values():
            settle(())

    # ------------------------------------------------------------------------- what members say

    def _received(self, connection: Connection, message: Message, attachments: list[Any]) -> None:
        if attachments:
            raise ValueError("a member hands nothing over")
        kind = message["type"]
        member_id = connection.info.id
        if kind == "ack":
            silent = [(str(key), str(name), int(pid)) for key, name, pid in message.get("silent", ())]
            self.membership.acknowledge(member_id, int(message["version"]), silent)
            self._carry_out()
        elif kind == "connect":
            self._join_pair(connection, str(message["peer"]), int(message["after"]))
        elif kind == "reply":
            answered = connection.calls.get(int(message["call"]))
            if answered is not None and not answered.done():
                if "error" in message:
                    answered.set_exception(MeshError(str(message["error"])))
                else:
                    answered.set_result(dict(message["result"]))
        elif kind == "set":
            values = dict(message["values"])
            for flag, value in values.items():
                if flag not in _FLAGS or not isinstance(value, _FLAGS[flag]):
                    raise ValueError(f"{flag}={value!r} cannot be set")
            self._operate(
                connection, message["op"], lambda now: self.membership.update(member_id, now, **values)
            )
        elif kind == "leave":
            self._operate(connection, message["op"], lambda now: self.membership.leave(member_id, now))
        elif kind == "joined":
            self._joined(connection)
        elif kind == "failed":
            if connection.on_failed is not None:
                connection.on_failed(str(message["error"]), str(message["traceback"]))
        elif kind == "closed":
            connection.left = True
        else:
            raise ValueError(f"unknown message {kind!r}")

    def _joined(self, connection: Connection) -> None:
        if connection.joined:
            raise ValueError("joined twice")
        connection.joined = True
        self.membership.join(connection.info)
        self._send_snapshot(connection)
        self._carry_out()

    def _operate(self, connection: Connection, operation: int, make: Callable[[float], int]) -> None:
        def settle(silent: tuple[Named, ...]) -> None:
            connection.channel.send({"type": "done", "op": operation, "silent": silent})

        try:
            self._take(make, settle)
        except InvalidArgumentError as error:
            connection.channel.send({"type": "failed", "op": operation, "error": str(error)})

    def _lost(self, connection: Connection, error: BaseException | None) -> None:
        if isinstance(error, LinkError):  # anything else is only how its end looks from here
            _log.error("control channel of %s: %s", connection.info.name, error)
        self.remove(connection.info.id)
        if connection.on_lost is not None:
            connection.on_lost(error)

    # -------------------------------------------------------------------------------- carrying out

    def _take(self, make: Callable[[float], int], settle: Callable[[tuple[Named, ...]], None]) -> None:
        self._tickets[make(self.loop.time())] = settle
        self._carry_out()

    def _carry_out(self) -> None:
        membership = self.membership
        while membership.outputs:
            outputs, membership.outputs = membership.outputs, []
            published: set[str] = set()
            for output in outputs:
                if type(output) is Publish:
                    connection = self._connections.get(output.member_id)
                    if connection is not None and output.member_id not in published:
                        published.add(output.member_id)
                        self._send_snapshot(connection)
                elif type(output) is Answer:
                    settle = self._tickets.pop(output.ticket, None)
                    if settle is not None:
                        settle((*named(output.silent), *output.beyond))
                elif type(output) is MeshEvent:
                    self._on_event(output)
        self._set_timer()

    def _send_snapshot(self, connection: Connection) -> None:
        snapshot = self.membership.snapshot_for(connection.info.id)
        connection.channel.send({"type": "snapshot", "snapshot": snapshot.to_json()}, key="snapshot")

    def _set_timer(self) -> None:
        deadline = self.membership.next_deadline()
        timer = self._timer
        if timer is not None and (deadline is None or timer.when() != deadline):
            timer.cancel()
            timer = self._timer = None
        if deadline is not None and timer is None:
            self._timer = self.loop.call_at(deadline, self._tick, deadline)

    def _tick(self, deadline: float) -> None:
        self._timer = None
        # A loop's timers may fire a clock's tick early.
        self.membership.tick(max(deadline, self.loop.time()))
        self._carry_out()

    # --------------------------------------------------------------------------------------- links

    def _join_pair(self, connection: Connection, peer_id: str, after: int) -> None:
        peer = self._connections.get(peer_id)
        if peer is None or not peer.joined:
            self._unlinked(connection, peer_id, "it has ended")
            return
        if self.membership.forbidden(connection.info.id, peer_id):
            self._unlinked(connection, peer_id, "on_channel forbids it")
            return
        pair = frozenset((connection.info.id, peer_id))
        serial = self._pairs.get(pair, 0)
        if after < serial:
            return  # the other one has asked, too, and the link is on its way
        one: Any
        other: Any
        try:
            if connection.loop is not None and peer.loop is not None:
                from ..net.local import queue_pair

                one, other = queue_pair(connection.loop, peer.loop)
            else:
                one, other = socket.socketpair()
        except OSError as error:
            self._unlinked(connection, peer_id, str(error))
            return
        self._pairs[pair] = serial = serial + 1
        for here, there, end in ((connection, peer, one), (peer, connection, other)):
            here.channel.send({"type": "link", "serial": serial, "peer": info_json(there.info)}, (end,))

    def _unlinked(self, connection: Connection, peer_id: str, reason: str) -> None:
        connection.channel.send({"type": "unlinked", "peer": peer_id, "reason": reason})

"""The client side of a mesh: from an origin to the worker that serves this request.

A member has one `MeshClient`. It applies the coordinator's snapshots, keeps one rotation per name, and owns the
links to its peers. Each dispatcher that is composed with the mesh gets a `MeshBranch` of its own, whose exchanges
end with that dispatcher.

A worker is chosen inside `dispatch()`, so that concurrent requests spread exactly. The exchange is then handed to
the link with that worker, or waits here until there is one. What was never handed to a link, and what a worker
sent back unseen, is routed again, each time without the workers that it has tried; what was handed over is not.

Invariants: an exchange is either refused at once, waits in `_waiting`, or is carried by a link (or by the next
dispatcher, for a worker that is an address); after `apply()` nothing goes to a worker that the snapshot does not
list as available, not even what was waiting for its link.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..core.controller import Exchange, refuse
from ..core.dispatcher import Branch, CapacityListener, Dispatcher, DispatchFunction
from ..core.errors import (
    ClientClosedError,
    ConnectTimeoutError,
    DodiciError,
    InvalidArgumentError,
    NoTargetError,
    WorkerExitedError,
    twin,
)
from ..core.handler import Handler, check_handler, known_handlers
from ..core.options import DispatchOptions, check_seconds
from ..core.trace import here
from ..pool.base import BaseDispatcher
from .capacity import Change, Watches
from .hooks import ClientHooks, HookedHandler
from .hosts import Domain
from .snapshot import MemberInfo, MeshSnapshot
from .tracing import MeshSpan, fields_for, span_for

if TYPE_CHECKING:
    from .contracts import ClientHome, PeerLink

SILENCE = 300.0
"""Seconds without a head, or without a piece of the body, where nothing else is said."""
CONNECT = 10.0
"""Seconds that a link may take to be made."""
_ALIASES = 1024
"""Origins whose names are remembered."""
_OUTSIDE = ""
"""Stands for the name of an origin outside the mesh."""


class Rotation:
    """The workers of one name that may be chosen, in turns."""

    __slots__ = ("_cursor", "available", "known", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.known: tuple[MemberInfo, ...] = ()
        self.available: tuple[MemberInfo, ...] = ()
        # Clients that begin at the same time do not all begin with the same worker.
        self._cursor = random.randrange(1 << 16)  # noqa: S311

    def update(self, known: tuple[MemberInfo, ...]) -> None:
        self.known = known
        self.available = tuple(member for member in known if member.available)

    def next(self) -> MemberInfo | None:
        """The next one in turn; None if there is none."""
        available = self.available
        if not available:
            return None
        self._cursor = cursor = self._cursor + 1
        return available[cursor % len(available)]

    def next_of(self, allowed: Callable[[MemberInfo], bool]) -> MemberInfo | None:
        """The next one in turn that is allowed; each is asked at most once."""
        for _ in range(len(self.available)):
            member = self.next()
            if member is not None and allowed(member):
                return member
        return None

    def why_none(self) -> str:
        """Why no worker can be chosen, in words."""
        if not self.known:
            return "no worker has this name"
        counts = (
            (sum(not member.app for member in self.known), "not ready"),
            (sum(not member.accepting for member in self.known), "not accepting"),
            (sum(member.paused for member in self.known), "paused"),
        )
        states = ", ".join(f"{count} {state}" for count, state in counts if count)
        return f"of {len(self.known)} workers {states}" if states else "every worker was tried or refused"


class MeshExchange(Exchange):
    """One request to a worker."""

    __slots__ = ("_branch", "rotation", "span", "target_id", "tried")

    def __init__(
        self, branch: MeshBranch, handler: Any, options: DispatchOptions, rotation: Rotation
    ) -> None:
        super().__init__(handler, options, branch.loop, branch.thread)
        self._branch = branch
        self.rotation = rotation
        self.target_id = ""
        self.tried: set[str] | None = None
        self.span: MeshSpan | None = None

    def end(self) -> None:
        super().end()
        if self.span is not None:
            self.span.end(f"{self.rotation.name} {self.target_id}", self.status_code)
        self._branch.ended(self)

    def fail(self, error: BaseException) -> None:
        if self.span is not None and not self.done:
            self.span.failure = type(error).__name__
        super().fail(error)


class MeshClient:
    """Chooses workers for requests and keeps the links to them.

    Args:
        home: the member that this is part of.
        domain: the suffix of the mesh's hosts.
        timeout: seconds without a response head, for requests that do not say; None for 300, 0 for ever.
        body_timeout: the same between two pieces of a response body.
        unknown: what becomes of hosts in the domain that no worker ever had: ``"error"`` for `NoTargetError`,
            ``"pass"`` for the next dispatcher.
        trace: whether requests join the trace of what sends them.
        hooks: see `hooks.py`.

    Raises:
        InvalidArgumentError: any of these is malformed.
    """

    def __init__(
        self,
        home: ClientHome,
        *,
        domain: str = ".local",
        timeout: float | None = None,
        body_timeout: float | None = None,
        unknown: str = "error",
        trace: bool = True,
        hooks: ClientHooks | None = None,
    ) -> None:
        if unknown not in ("error", "pass"):
            raise InvalidArgumentError(f"unknown must be 'error' or 'pass', not {unknown!r}")
        self.domain = Domain(domain)
        self.headers_timeout = SILENCE if timeout is None else check_seconds("timeout", timeout)
        self.body_timeout = SILENCE if body_timeout is None else check_seconds("body_timeout", body_timeout)
        self.hooks = hooks or ClientHooks()
        self.closed = False
        self.trace = trace
        self.snapshot = MeshSnapshot()
        self.watches = Watches(self._share)
        self._home = home
        self._pass_unknown = unknown == "pass"
        self._rotations: dict[str, Rotation] = {}
        self._gone: set[str] = set()
        self._names: dict[str, str] = {}
        self._links: dict[str, PeerLink] = {}
        self._waiting: dict[str, list[MeshExchange]] = {}
        self._patience: dict[str, Any] = {}
        self._branches: set[MeshBranch] = set()
        self._unix: dict[str, Dispatcher] = {}

    def interceptor(self, dispatch: DispatchFunction) -> MeshBranch:
        """What `compose()` calls: `interceptor(dispatch) -> dispatch`."""
        branch = MeshBranch(self, dispatch)
        self._branches.add(branch)
        return branch

    @property
    def running(self) -> int:
        """Requests that have not ended."""
        return sum(len(branch.exchanges) for branch in self._branches)

    def name_of(self, origin: str) -> str:
        """The name that an origin asks for; empty if it is outside the mesh. Raises `InvalidArgumentError`."""
        name = self._names.get(origin)
        if name is None:
            name = self.domain.name_in(origin) or _OUTSIDE
            if len(self._names) >= _ALIASES:
                self._names.clear()
            self._names[origin] = name
        return name

    # -- what the member tells -------------------------------------------------------------------------

    def apply(self, snapshot: MeshSnapshot) -> list[Change]:
        """Apply a snapshot that is newer than the present one; ignore any other.

        Returns what has to end before it holds for those, too, who watch the capacity of a name.
        """
        if snapshot.version <= self.snapshot.version:
            return []
        self.snapshot = snapshot
        members = snapshot.members
        for name in {*self._rotations, *snapshot.routes}:
            ids = snapshot.routes.get(name, ())
            rotation = self._rotations.get(name)
            if rotation is None:
                rotation = self._rotations[name] = Rotation(name)
            rotation.update(tuple(members[one] for one in ids if one in members))
            if not rotation.known and self._pass_unknown:
                del self._rotations[name]
                if self.watches.of(name):
                    self._gone.add(name)
        changes = self.watches.refresh()
        for member_id in list(self._waiting):
            # The worker may still be offered under another of its names.
            stay: list[MeshExchange] = []
            leave: list[MeshExchange] = []
            for exchange in self._waiting.get(member_id, ()):
                (stay if self._still_offered(exchange) else leave).append(exchange)
            if stay:
                self._waiting[member_id] = stay
            else:
                self._stop_waiting(member_id)
            self._route_again(leave)
        return changes

    def _share(self, name: str) -> float:
        """The share of a name's workers that may be chosen."""
        if self.closed:
            return 0.0
        rotation = self._rotations.get(name)
        if rotation is None:
            # What is passed on is unlimited; but not what was the workers' a moment ago.
            return 1.0 if self._pass_unknown and name not in self._gone else 0.0
        return len(rotation.available) / len(rotation.known) if rotation.available else 0.0

    def _still_offered(self, exchange: MeshExchange) -> bool:
        return any(member.id == exchange.target_id for member in exchange.rotation.available)

    def linked(self, link: PeerLink) -> None:
        """There is a link with a peer, whoever asked for it."""
        peer = link.peer.id
        self._links[peer] = link
        for exchange in self._stop_waiting(peer):
            if not exchange.done:
                link.offer(exchange)

    def link_failed(self, member_id: str, error: BaseException) -> None:
        """The link that was asked for cannot be made."""
        self._route_again(self._stop_waiting(member_id), error)

    def link_lost(self, link: PeerLink, error: BaseException | None, unsent: list[Exchange]) -> None:
        """A link is over. What it had not begun to send is routed again."""
        if self._links.get(link.peer.id) is link:
            del self._links[link.peer.id]
        reason = WorkerExitedError(
            f"{link.peer.name} (pid {link.peer.pid}) went away before the request was sent",
            request_not_processed=True,
        )
        reason.__cause__ = error
        self._route_again(unsent, reason)

    def refused(self, link: PeerLink, exchange: Exchange, reason: str) -> None:
        """A worker sent a request back that no app has seen."""
        self._route_again([exchange])

    def link_idle(self, link: PeerLink) -> None:
        """Links are kept for as long as both members live."""

    def _stop_waiting(self, member_id: str) -> list[MeshExchange]:
        timer = self._patience.pop(member_id, None)
        if timer is not None:
            timer.cancel()
        return self._waiting.pop(member_id, [])

    # -- choosing --------------------------------------------------------------------------------------

    def _route_again(self, exchanges: list[Any], error: BaseException | None = None) -> None:
        for exchange in exchanges:
            if exchange.done:
                continue
            if exchange.tried is None:
                exchange.tried = set()
            exchange.tried.add(exchange.target_id)
            exchange.carrier = None
            target = self._choose_again(exchange)
            if target is None:
                exchange.fail(
                    error or no_target(exchange.options.origin, exchange.rotation.name, exchange.rotation)
                )
            elif target.address is not None:
                # The exchange began here and must end here; only a link, or nobody, can take it over.
                exchange.fail(no_target(exchange.options.origin, exchange.rotation.name, exchange.rotation))
            else:
                self.carry(exchange, target)

    def _choose_again(self, exchange: MeshExchange) -> MemberInfo | None:
        tried = exchange.tried or ()
        handler = exchange.handler
        hooked = handler if type(handler) is HookedHandler else None

        def allowed(member: MemberInfo) -> bool:
            return member.id not in tried and (hooked is None or hooked.allows(member))

        try:
            return exchange.rotation.next_of(allowed)
        except Exception as error:  # of a hook
            exchange.fail(error)
            return None

    def carry(self, exchange: MeshExchange, target: MemberInfo) -> None:
        """Hand an exchange to the link with its worker, or let it wait for that link."""
        exchange.target_id = member_id = target.id
        link = self._links.get(member_id)
        if link is not None and not link.lost:
            link.offer(exchange)
            return
        exchange.carrier = self
        waiting = self._waiting.get(member_id)
        if waiting is not None:
            waiting.append(exchange)
            return
        self._waiting[member_id] = [exchange]
        self._patience[member_id] = exchange.loop.call_later(CONNECT, self._too_slow, target)
        self._home.connect(member_id)

    def _too_slow(self, target: MemberInfo) -> None:
        self.link_failed(
            target.id,
            ConnectTimeoutError(f"no link to {target.name} (pid {target.pid}) within {CONNECT:g} s"),
        )

    def dispatcher_of(self, address: str) -> Dispatcher:
        """Who dispatches to a ``unix:/path``."""
        found = self._unix.get(address)
        if found is None:
            from ..pool.pool import Pool

            found = self._unix[address] = Pool("http://localhost", socket_path=address.removeprefix("unix:"))
        return found

    # -- as the carrier of those that wait -------------------------------------------------------------

    def abort_exchange(self, exchange: Exchange, error: BaseException) -> None:
        exchange.fail(error)

    def pause_exchange(self, exchange: Exchange) -> None: ...
    def resume_exchange(self, exchange: Exchange) -> None: ...

    # -- the end ---------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Refuse what is dispatched from now on (`ClientClosedError`) and return when all that runs has ended."""
        self.closed = True
        self.watches.refresh()
        for branch in list(self._branches):
            await branch.idle()
        for dispatcher in self._unix.values():
            await dispatcher.close()

    async def destroy(self, error: BaseException) -> None:
        """Fail all that runs with `error`."""
        self.closed = True
        self.watches.refresh()
        for branch in list(self._branches):
            branch.fail_running(error)
        for dispatcher in self._unix.values():
            await dispatcher.destroy(error)
        for member_id in list(self._waiting):
            self._stop_waiting(member_id)

    def reopen(self) -> None:
        """Dispatch again after `drain()` or `destroy()`."""
        self.closed = False
        self._unix.clear()

    def forget(self, branch: MeshBranch) -> None:
        """A branch is closed."""
        self._branches.discard(branch)
        self.watches.end(branch)


class MeshBranch(BaseDispatcher, Branch):
    """The mesh in front of one dispatcher.

    Args:
        client: the member's client.
        pass_on: the dispatch function for everything that is not the mesh's.
    """

    def __init__(self, client: MeshClient, pass_on: DispatchFunction) -> None:
        super().__init__()
        self._client = client
        self._pass_on = pass_on
        self.exchanges: set[MeshExchange] = set()

    @property
    def loop(self) -> Any:
        """The loop that it is bound to."""
        return self._loop

    @property
    def thread(self) -> int:
        """The thread of that loop."""
        return self._services.thread  # type: ignore[union-attr]

    def __call__(self, options: DispatchOptions, handler: Any) -> bool:
        client = self._client
        origin = options.origin
        name = client._names.get(origin)  # type: ignore[arg-type]
        if name is None:
            if origin is None:
                return self._pass_on(options, handler)
            try:
                name = client.name_of(origin)
            except InvalidArgumentError:
                return self._pass_on(options, handler)  # whose error it is
        if name == _OUTSIDE:
            return self._pass_on(options, handler)
        rotation = client._rotations.get(name)
        if rotation is None and client._pass_unknown:
            return self._pass_on(options, handler)
        services = self._services
        if services is None or not self._loop.is_running():  # type: ignore[union-attr]
            services = self._bind()
        if self._closed or client.closed:
            return refuse(
                handler, self._closed_error() if self._closed else ClientClosedError("the mesh is closed")
            )
        if client.hooks:
            return self._with_hooks(options, handler, name)
        target = rotation.next() if rotation is not None else None
        if target is None:
            return self._refuse(options, handler, no_target(origin, name, rotation), name)
        return self._begin(options, handler, rotation, target)  # type: ignore[arg-type]

    def _refuse(self, options: DispatchOptions, handler: Any, error: NoTargetError, name: str) -> bool:
        above = here() if self._client.trace else None
        if above is not None:
            MeshSpan(above, options).refused(name, error)
        return refuse(handler, error)

    def dispatch(self, options: DispatchOptions | Mapping[str, Any], handler: Handler) -> bool:
        checked = self._check(options, handler)
        return self(checked, handler) if checked is not None else False

    def watch_capacity(self, origin: str, on_change: CapacityListener) -> Callable[[], None] | None:
        client = self._client
        try:
            name = client.name_of(origin)
        except InvalidArgumentError:
            return None
        if name == _OUTSIDE:
            return None
        self._bind()
        return client.watches.add(name, on_change, self, ended=self._closed)

    def _with_hooks(self, options: DispatchOptions, handler: Any, name: str) -> bool:
        client = self._client
        hooked = HookedHandler(handler, client.hooks, options)
        try:
            options = hooked.change()
            name = client.name_of(options.origin or "")
            rotation = client._rotations.get(name)
            if name == _OUTSIDE:
                return self._pass_on(options, hooked)
            target = rotation.next_of(hooked.allows) if rotation is not None else None
        except Exception as error:
            return refuse(hooked, error)
        if target is None:
            return self._refuse(options, hooked, no_target(options.origin, name, rotation), name)
        return self._begin(options, hooked, rotation, target)  # type: ignore[arg-type]

    def _begin(self, options: DispatchOptions, handler: Any, rotation: Rotation, target: MemberInfo) -> bool:
        if target.address is not None:
            return self._over_network(options, handler, target.address)
        exchange = MeshExchange(self, handler, options, rotation)
        if self._client.trace and (above := here()) is not None:
            exchange.span = span_for(above, options)
        self.exchanges.add(exchange)
        wants_controller = known_handlers.get(type(handler))
        if wants_controller is None:
            check_handler(handler, False)
            wants_controller = hasattr(handler, "on_dispatch")
        if not self._tell(exchange, handler, wants_controller):
            return False
        self._client.carry(exchange, target)
        return True

    def _over_network(self, options: DispatchOptions, handler: Any, address: str) -> bool:
        client = self._client
        changes: dict[str, Any] = {}
        if options.headers_timeout is None:
            changes["headers_timeout"] = client.headers_timeout
        if options.body_timeout is None:
            changes["body_timeout"] = client.body_timeout
        origin = options.origin or ""
        headers = options.headers | {"host": origin.partition("://")[2]}
        if client.trace and (above := here()) is not None:
            headers |= fields_for(above, options)
        try:
            if address.startswith("unix:"):
                options = options.replace(origin="http://localhost", headers=headers, **changes)
                return client.dispatcher_of(address).dispatch(options, handler)
            return self._pass_on(options.replace(origin=address, headers=headers, **changes), handler)
        except DodiciError as error:
            return refuse(handler, error)

    # -- lifecycle -------------------------------------------------------------------------------------

    def ended(self, exchange: MeshExchange) -> None:
        """One of its exchanges has ended."""
        self.exchanges.discard(exchange)
        if not self.exchanges and self._waiters:
            self._wake()

    async def idle(self) -> None:
        """Return when nothing runs."""
        while self.exchanges:
            await self._drained()

    def fail_running(self, error: BaseException) -> None:
        """Abort all that runs with `error`."""
        for exchange in list(self.exchanges):
            exchange.abort(twin(error) if isinstance(error, DodiciError) else error)

    async def _close(self) -> None:
        await self.idle()
        self._client.forget(self)
        self._destroyed = True

    def _fail_all(self, error: BaseException) -> None:
        self.fail_running(error)
        self._client.forget(self)

    async def _gone(self) -> None:
        """Nothing is left once all have failed."""


def no_target(origin: str | None, name: str, rotation: Rotation | None) -> NoTargetError:
    """The error of a request that no worker can take."""
    why = rotation.why_none() if rotation is not None else "no worker has this name"
    return NoTargetError(f"No target found for {origin}: {why}", name=name, origin=origin)

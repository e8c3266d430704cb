"""What a worker has to say: `wire()`, `current()`, and `Wired`, the worker's view of itself.

A `Worker("module:app")` is wired before its app is loaded, and `current()` gives app code its `Wired`. A
`Worker.entry("module:main")` has a member without an app, and its `main()` wires it by `wire()`.

Order matters in what a worker says. An app that is added is there before it is announced; one that is taken away is
announced first, acknowledged by every client, followed by a barrier on each link, and only then gone. So a request
that was sent in good faith meets an app.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextvars import ContextVar, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

from ..core.errors import InvalidArgumentError, MeshError, MeshTimeoutError
from .hooks import ClientHooks, Hooks
from .member import BARRIER, Member

if TYPE_CHECKING:
    from ..api.response import Response
    from ..core.dispatcher import Dispatcher, DispatchFunction
    from .host import AppHost

DRAIN = 30.0
"""Seconds that running requests have, where nothing else is said."""

_log = logging.getLogger("dodici.mesh")


class Place:
    """Where `wire()` and `current()` find what is theirs: one per worker."""

    __slots__ = ("make_host", "member", "wired")

    def __init__(self, member: Member, make_host: Callable[..., AppHost]) -> None:
        self.member = member
        self.make_host = make_host
        self.wired: Wired | None = None


_context: ContextVar[Place | None] = ContextVar("dodici.mesh.place", default=None)
_process: Place | None = None


def settle(place: Place, *, whole_process: bool) -> None:
    """Make this the worker of the present context, and of the process if it has no other."""
    global _process
    _context.set(place)
    if whole_process:
        _process = place


class Wired:
    """A worker's part in the mesh. Made by `wire()`; `current()` returns it."""

    def __init__(self, member: Member, host: AppHost) -> None:
        self._member = member
        self._host = host
        self._accepting = True
        self._agent: Dispatcher | None = None
        self._replacing = asyncio.Lock()
        self._closing: asyncio.Task[None] | None = None
        self.closed = asyncio.Event()
        """Set when `close()` is done."""

    @property
    def worker_id(self) -> str:
        """This worker's id in the mesh."""
        return self._member.member_id

    @property
    def accepting(self) -> bool:
        """What `set_accepting()` said last."""
        return self._accepting

    @property
    def interceptor(self) -> Callable[[DispatchFunction], DispatchFunction]:
        """The mesh as an interceptor: `Agent().compose(wired.interceptor)`."""
        return self._member.client.interceptor

    @property
    def agent(self) -> Dispatcher:
        """An `Agent` with the mesh in front. In a process worker it is the global dispatcher, too."""
        if self._agent is None:
            from ..pool.agent import Agent

            self._agent = Agent().compose(self.interceptor)
        return self._agent

    def request(self, url: str, **options: Any) -> Coroutine[Any, Any, Response]:
        """`await wired.request("http://other.local/")`: as `dodici.request`, through `agent`."""
        return self.agent.request(url, **options)

    async def set_accepting(self, accepting: bool) -> None:
        """Say whether this worker takes requests; return when every client of the mesh has applied it.

        After `False` no request arrives any more. What was sent before is served.

        Raises:
            InvalidArgumentError: not a bool.
            MeshTimeoutError: members did not acknowledge it in time; it holds for all others.
            MeshError: the worker is closed, or its coordinator gone.
        """
        if not isinstance(accepting, bool):
            raise InvalidArgumentError(f"accepting must be True or False, not {accepting!r}")
        self._refuse_if_closing()
        self._accepting = accepting
        try:
            await self._member.set(accepting=accepting)
        finally:
            if not accepting:
                await self._member.barrier()

    async def replace_server(self, server: Any, /) -> None:
        """Put another app in the place of the present one, or none (`None`): return when every client knows.

        The new app's start-up comes first; the old one serves what was sent to it and is shut down then. If the new
        one fails, the old one stays. Several calls take effect in their order.

        Args:
            server: an app, ``"module:app"``, an address, or None.

        Raises:
            InvalidArgumentError, WorkerStartError: it is no app, or does not start.
            MeshTimeoutError, MeshError: as for `set_accepting()`.
        """
        async with self._replacing:
            self._refuse_if_closing()
            if server is None or is_address(server):
                # The app stays until nothing can arrive for it any more.
                address = resolved(server) if server is not None else None
                try:
                    await self._member.set(app=server is not None, address=address)
                finally:
                    await self._member.barrier()
                    await self._host.replace(server)
            else:
                await self._host.replace(server)
                await self._member.set(app=True, address=None)

    async def close(self, drain_timeout: float = DRAIN) -> None:
        """Leave the mesh: take no more requests, serve those that were sent, end the app, close all links.

        In a process worker the process ends then. Any number of calls, at once or one after another, are one. A request
        that awaits it is itself waited for, until its time is over: let a task do it.

        Args:
            drain_timeout: seconds that running requests have; then they are aborted.

        Raises:
            InvalidArgumentError: `drain_timeout` is negative.
        """
        from .worker import check_grace

        check_grace("drain_timeout", drain_timeout)
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close(drain_timeout))
        await asyncio.shield(self._closing)

    @property
    def closing(self) -> bool:
        """Whether `close()` was called."""
        return self._closing is not None

    def _refuse_if_closing(self) -> None:
        if self._closing is not None:
            raise MeshError("the worker is closed")

    async def _close(self, drain_timeout: float) -> None:
        member = self._member
        try:
            if not member.orphaned:
                try:
                    await member.leave()
                except MeshError as error:
                    _log.warning("%s leaves: %s", member.info.name, error)
            await member.barrier()
            until = member.loop.time() + drain_timeout
            await self._host.close(drain_timeout)
            if not member.orphaned:
                await member.written(max(BARRIER, until - member.loop.time()))
            if self._agent is not None:
                await self._agent.destroy()
            await member.close()
        finally:
            self.closed.set()

    async def abandon(self) -> None:
        """End the app although the worker did not leave in order: nothing of it may stay in this process."""
        if self._closing is None:
            await self._host.close(0)
            if self._agent is not None:
                await self._agent.destroy()

    async def drain(self, hosts: list[str], timeout: float) -> None:
        """Return when what was sent to these hosts has ended, after `timeout` seconds at the latest."""
        await self._member.barrier()
        try:
            async with asyncio.timeout(timeout):
                await self._host.drained(hosts)
        except TimeoutError:
            _log.warning("requests for %s run on after %g s", ", ".join(hosts), timeout)


async def wire(
    server: Any = None,
    *,
    accepting: bool = True,
    lifespan: str | None = None,
    interface: str | None = None,
    app_errors: str | None = None,
    wsgi_threads: int | None = None,
    on_server_request: Hooks = None,
    on_server_response: Hooks = None,
    on_server_error: Hooks = None,
    on_request: Hooks = None,
    allow_target: Hooks = None,
    on_response: Hooks = None,
    on_response_end: Hooks = None,
    on_error: Hooks = None,
) -> Wired:
    """Take part in the mesh of the coordinator that started this worker. For `Worker.entry()`.

    Returns when the app has started and every client knows of it; those that do not acknowledge it in time are logged,
    and do not keep this worker from beginning. In a process worker `Wired.agent` becomes the
    global dispatcher, so that `dodici.request("http://other.local/")` goes through the mesh; in a thread or loop
    worker it does not, because the process is not the worker's alone.

    Args:
        server: an ASGI or WSGI app, ``"module:app"``, an address such as ``"http://127.0.0.1:8000"``, or None: not
            ready yet, see `Wired.replace_server()`.
        accepting: the first value of `Wired.accepting`.
        lifespan: as for `Worker`, whose value it replaces.
        interface: the same.
        app_errors: the same.
        wsgi_threads: the same.
        on_server_request: `hook(scope)`, before the app is called.
        on_server_response: `hook(scope, status_code, headers)`, when it has given its head.
        on_server_error: `hook(scope, error)`, when it raised.
        on_request: this and the following are the hooks of this worker as a client, as for `WorkerInterceptor`.
        allow_target: the same.
        on_response: the same.
        on_response_end: the same.
        on_error: the same.

    Raises:
        InvalidArgumentError: not in a worker, or wired already; no app; not as above; a hook is no plain function.
        WorkerStartError: the app's start-up failed.
        MeshError: there is no coordinator any more.
    """
    place = _here()
    if place is None:
        raise InvalidArgumentError(
            'wire() belongs into a worker: start it with Worker.entry("module:main") and route() it'
        )
    if place.wired is not None:
        raise InvalidArgumentError(
            "this worker is wired already: dodici.mesh.current() is its Wired, and replace_server() changes its app"
        )
    if not isinstance(accepting, bool):
        raise InvalidArgumentError(f"accepting must be True or False, not {accepting!r}")
    hooks = ClientHooks.checked(
        on_request=on_request,
        allow_target=allow_target,
        on_response=on_response,
        on_response_end=on_response_end,
        on_error=on_error,
    )
    host = place.make_host(
        lifespan=lifespan,
        interface=interface,
        app_errors=app_errors,
        wsgi_threads=wsgi_threads,
        on_server_request=on_server_request,
        on_server_response=on_server_response,
        on_server_error=on_server_error,
    )
    place.member.client.hooks = hooks
    return await attach(place, host, server, accepting)


async def attach(place: Place, host: AppHost, server: Any, accepting: bool) -> Wired:
    """Give a worker its app; return when every client knows of it."""
    member = place.member
    place.wired = wired = Wired(member, host)
    wired._accepting = accepting
    member.door.accept = host.accept
    if member.info.kind != "process":
        # Requests begin in the worker's context, and not in that of whoever woke its loop up.
        member.door.accept = partial(copy_context().run, host.accept)  # type: ignore[call-arg]
    if member.info.kind == "process":
        from ..pool.default import set_global_dispatcher

        set_global_dispatcher(wired.agent)
    if server is not None:
        await host.replace(server)
    try:
        await member.set(app=host.has_app, accepting=accepting, address=host.address)
    except MeshTimeoutError as error:
        # Others are silent; that is no reason for this one not to begin. They hear of it when they wake.
        _log.warning("%s begins: %s", member.info.name, error)
    return wired


def current() -> Wired:
    """The `Wired` of the worker in which this is called: from its app, from tasks and threads that it started.

    Raises:
        LookupError: not in a worker, or in one that is not wired yet.
    """
    place = _here()
    if place is None or place.wired is None:
        raise LookupError("dodici.mesh.current() is for code that runs in a worker")
    return place.wired


def _here() -> Place | None:
    return _context.get() or _process


def is_address(server: Any) -> bool:
    """Whether an app is only the address of one."""
    return isinstance(server, str) and server.startswith(("http://", "https://", "unix:"))


def resolved(server: Any) -> str | None:
    """An address in the form in which it is passed on. Raises `InvalidArgumentError`."""
    from .loading import resolve

    return resolve(server).address

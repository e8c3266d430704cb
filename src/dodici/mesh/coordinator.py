"""`WorkerInterceptor`: the coordinator of a mesh, and the mesh as an interceptor.

It owns the workers that it started and the hub through which they learn of each other. It is a member of the mesh,
too, without an app: its `MeshClient` is what `compose()` puts in front of a dispatcher. It may be made before there
is a loop; hub and member exist from the first `route()` on, on the loop of that call, until `close()`.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import weakref
from collections import deque
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any, Self

from ..core.errors import (
    ClientClosedError,
    InvalidArgumentError,
    LoopMismatchError,
    MeshError,
    MeshTimeoutError,
)
from ..core.options import check_seconds
from ..core.spans import MOST, Span, spans
from .control import queue_channels
from .hooks import ClientHooks, Hooks, hook_list
from .hub import Connection, Hub
from .member import Member, MeshSettings
from .membership import MeshEvent
from .running import Running
from .snapshot import MemberInfo, MeshSnapshot
from .tracing import collect
from .wired import DRAIN
from .worker import Worker, check_grace

if TYPE_CHECKING:
    from ..core.dispatcher import DispatchFunction

MAX_EVENTS = 1024
"""Events that wait for a slow reader of `events()`; older ones are dropped."""
_ANSWER = 7.0
"""Seconds more than its drain that a worker has to answer `unroute()`: its barrier, and the way."""

_ids = itertools.count(1)


class WorkerInterceptor:
    """Coordinates workers and, composed with a dispatcher, routes requests to them.

        interceptor = WorkerInterceptor()
        await interceptor.route("api", [Worker("shop.api:app"), Worker("shop.api:app")])
        agent = Agent().compose(interceptor)
        response = await agent.request("http://api.local/")

    Args:
        domain: the suffix of the mesh's hosts.
        timeout: seconds without a response head, for requests that do not say; None for 300, 0 for ever.
        body_timeout: the same between two pieces of a response body.
        propagation_timeout: seconds that members have to acknowledge a change; 0 for ever.
        unknown: what becomes of hosts in the domain that no worker ever had: ``"error"`` for `NoTargetError`,
            ``"pass"`` for the next dispatcher.
        trace: requests that are sent while a request of a trace is served join that trace, and the members keep spans of
            them: see `spans()`. With False, fields pass as they are given, and nothing is kept.
        on_request: `hook(options, ctx)`, before a worker is chosen; may return changed options. Here and below one
            function or a list of them; plain ones.
        allow_target: `hook(options, target, ctx)`, for each candidate; False means the next one.
        on_response: `hook(options, head, ctx)`.
        on_response_end: `hook(options, head, ctx)`.
        on_error: `hook(options, error, ctx)`, once for each request that fails.
        on_channel: `hook(name, other)`, whether workers of these names (lower-case, without the domain) may reach each
            other; False forbids it, both ways, and they do not see each other.

    Raises:
        InvalidArgumentError: an argument is not as above.
        TypeError: `can_accept=` or `meta=`, which are gone.
    """

    def __init__(
        self,
        *,
        domain: str = ".local",
        timeout: float | None = None,
        body_timeout: float | None = None,
        propagation_timeout: float = 5.0,
        unknown: str = "error",
        trace: bool = True,
        on_request: Hooks = None,
        allow_target: Hooks = None,
        on_response: Hooks = None,
        on_response_end: Hooks = None,
        on_error: Hooks = None,
        on_channel: Hooks = None,
        **gone: Any,
    ) -> None:
        refuse_gone("WorkerInterceptor", gone)
        self._settings = MeshSettings(
            domain=domain,
            timeout=timeout,
            body_timeout=body_timeout,
            unknown=unknown,
            propagation_timeout=check_seconds("propagation_timeout", propagation_timeout),
            trace=bool(trace),
        )
        self._client = self._settings.client(
            self,
            ClientHooks.checked(
                on_request=on_request,
                allow_target=allow_target,
                on_response=on_response,
                on_response_end=on_response_end,
                on_error=on_error,
            ),
        )
        self._on_channel = hook_list("on_channel", on_channel)
        self._version = 0
        self._hub: Hub | None = None
        self._member: Member | None = None
        self._runs: dict[str, Running] = {}
        self._streams: weakref.WeakSet[EventStream] = weakref.WeakSet()
        self._closed = False
        self._closing: asyncio.Task[None] | None = None

    def __call__(self, dispatch: DispatchFunction) -> DispatchFunction:
        return self._client.interceptor(dispatch)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ------------------------------------------------------------------------------------- routes

    async def route(self, name: str, worker: Worker | Iterable[Worker], **gone: Any) -> None:
        """Let workers answer to a name; start those that do not run. Returns when all are ready and every client knows.

        Several workers of a name take turns; a worker may have several names; the same again changes nothing. With
        several workers it is all or none: if one fails, those that this call has started are stopped. So they are if
        the call is cancelled.

        Args:
            name: ``"api"``; ``"api.local"`` and ``"API.local."`` are the same.
            worker: one or several.
            gone: nothing: `can_accept=` and `meta=` are refused by name.

        Raises:
            InvalidArgumentError: no name; no worker; a worker of another mesh, or one that is ending.
            WorkerStartError: a worker did not start.
            MeshTimeoutError: members did not acknowledge it in time; it holds for all others.
            ClientClosedError: the mesh is closed.
        """
        refuse_gone("route", gone)
        label = self._client.domain.name(name)
        if isinstance(worker, Worker):
            workers = [worker]
        else:
            workers = list(worker) if isinstance(worker, Iterable) else []
        if not workers or not all(isinstance(each, Worker) for each in workers):
            raise InvalidArgumentError(f"route() takes a Worker or a list of them, not {worker!r}")
        hub = self._bind()
        started: list[Running] = []
        try:
            runs = [self._run(hub, each, started) for each in dict.fromkeys(workers)]
            for run in started:
                run.start()
            await asyncio.gather(*(asyncio.shield(run.ready) for run in runs))
            if self._closed:
                raise ClientClosedError("the mesh was closed meanwhile")
            before = hub.membership.ids_of(label)
            settled = hub.change(lambda now: hub.membership.route(label, [run.id for run in runs], now))
        except BaseException:
            await self._undo(started)
            raise
        try:
            await settled
        except asyncio.CancelledError:
            if self._hub is hub:
                added = [run.id for run in runs if run.id not in before]
                undone = hub.change(
                    lambda now: hub.membership.unroute([(label, each) for each in added], now)
                )
                undone.add_done_callback(lambda done: done.exception())  # who is silent was told of before
            await self._undo(started)
            raise

    @staticmethod
    async def _undo(started: list[Running]) -> None:
        await asyncio.shield(asyncio.gather(*(run.stop(0) for run in started), return_exceptions=True))

    def _run(self, hub: Hub, worker: Worker, started: list[Running]) -> Running:
        run = worker.running
        if run is not None and not run.exited.done():
            if self._runs.get(run.id) is not run:
                raise InvalidArgumentError(f"{worker!r} belongs to another WorkerInterceptor")
            if run.closing:
                raise InvalidArgumentError(f"{worker!r} is ending; route it again when wait() has returned")
            return run
        run = Running(worker, hub, f"w{next(_ids)}", self._settings)
        self._runs[run.id] = run
        run.exited.add_done_callback(lambda _: self._runs.pop(run.id, None))
        worker.begun(run)
        started.append(run)
        return run

    async def unroute(self, name: str | None, worker: Worker | None = None) -> None:
        """Take a name from a worker, or from all of its workers; with None as the name, all names of the worker.

        Returns when every client knows and what was sent under the name has ended, after 30 s at the latest. The
        worker goes on running: see `Worker.stop()`.

        Raises:
            InvalidArgumentError: no name; neither name nor worker; not a worker of this mesh.
            MeshTimeoutError: members did not acknowledge it in time; it holds for all others.
        """
        if name is None and worker is None:
            raise InvalidArgumentError("unroute() needs a name, or a worker")
        label = None if name is None else self._client.domain.name(name)
        hub = self._hub
        if hub is None:
            return
        self._check_loop(hub)
        membership = hub.membership
        if worker is not None:
            member_id = self._member_id(worker)
            names = (label,) if label is not None else membership.names_of(member_id)
            pairs = [(each, member_id) for each in names]
        else:
            assert label is not None
            pairs = [(label, member_id) for member_id in membership.ids_of(label)]
        silent: MeshTimeoutError | None = None
        try:
            await hub.change(lambda now: membership.unroute(pairs, now))
        except MeshTimeoutError as error:
            silent = error
        await asyncio.gather(*(self._drain(hub, pairs, each) for each in {pair[1] for pair in pairs}))
        if silent is not None:
            raise silent

    async def _drain(self, hub: Hub, pairs: list[tuple[str, str]], member_id: str) -> None:
        run = self._runs.get(member_id)
        if run is None or run.worker.kind == "address":
            return
        hosts = [f"{name}{self._client.domain.suffix}" for name, owner in pairs if owner == member_id]
        try:
            await hub.call(member_id, "drain", DRAIN + _ANSWER, hosts=hosts, seconds=DRAIN)
        except (MeshError, OSError):
            pass  # it has ended, and nothing of it runs any more; or it does not answer, and is not waited for

    # ------------------------------------------------------------------------------------ pausing

    async def pause_worker(self, worker: Worker) -> None:
        """Choose this worker no more, under any of its names; return when every client of the mesh has applied it.

        What was sent to it is served, and it may send requests itself.

        Raises:
            InvalidArgumentError: not a worker of this mesh, or not any longer.
            MeshTimeoutError: members did not acknowledge it in time; it holds for all others.
        """
        await self._pause(worker, True)

    async def resume_worker(self, worker: Worker) -> None:
        """Undo `pause_worker()`; returns and raises as that does."""
        await self._pause(worker, False)

    async def _pause(self, worker: Worker, paused: bool) -> None:
        member_id = self._member_id(worker)
        hub = self._hub
        assert hub is not None
        await hub.change(lambda now: hub.membership.update(member_id, now, paused=paused))

    def _member_id(self, worker: Any) -> str:
        if not isinstance(worker, Worker):
            raise InvalidArgumentError(f"a Worker is needed, not {worker!r}")
        if self._hub is None or worker.id not in self._runs or worker.id not in self._hub.membership:
            raise InvalidArgumentError(f"{worker!r} is not in this mesh")
        self._check_loop(self._hub)
        return worker.id

    # ------------------------------------------------------------------------------------ looking

    def snapshot(self) -> MeshSnapshot:
        """What the mesh is at this moment: every member, and the names."""
        return (
            self._hub.membership.snapshot() if self._hub is not None else MeshSnapshot(version=self._version)
        )

    def events(self) -> AsyncIterator[MeshEvent]:
        """What happens from this call on, until `close()`. A reader that is slow misses the oldest of 1024."""
        stream = EventStream()
        if self._closed:
            stream.end()
        self._streams.add(stream)
        return stream

    async def spans(
        self, trace_id: str | None = None, *, most: int = MOST, timeout: float = 1.0
    ) -> tuple[list[Span], list[str]]:
        """What this process and those of the workers remember of a trace, or of all.

        Args:
            trace_id: 32 hexadecimal digits; None for the newest spans.
            most: how many of each process.
            timeout: seconds that a worker has to answer.

        Returns:
            The spans, and which workers did not tell and why.
        """
        found = spans(trace_id, most)
        if self._hub is None:
            return found, []
        self._check_loop(self._hub)
        told, silent = await collect(self._hub, trace_id, most, timeout)
        return found + told, silent

    def _on_event(self, event: MeshEvent) -> None:
        run = self._runs.get(event.member.id)
        if run is not None:
            run.on_event(event)
        for stream in self._streams:
            stream.put(event)

    # --------------------------------------------------------------------------------- its members

    @property
    def member_id(self) -> str:
        """The coordinator's id in the mesh."""
        return self._member.member_id if self._member is not None else "coordinator"

    def connect(self, member_id: str) -> None:
        """For its `MeshClient`: see `ClientHome`."""
        if self._member is not None:
            self._member.connect(member_id)

    def _bind(self) -> Hub:
        if self._closed:
            raise ClientClosedError("the mesh is closed; restart() makes it usable again")
        loop = asyncio.get_running_loop()
        if self._hub is not None:
            self._check_loop(self._hub)
            return self._hub
        self._hub = hub = Hub(
            loop,
            self._settings,
            allow=self._allow if self._on_channel else None,
            on_event=self._on_event,
            version=self._version,
        )
        info = MemberInfo(id=f"c{next(_ids)}", name="coordinator", pid=os.getpid(), kind="coordinator")
        ours, theirs = queue_channels(loop, loop)
        self._member = member = Member(info, theirs, loop, self._settings, self._client)
        theirs.start(member.receive, member.lost)
        hub.adopt(Connection(info, ours, loop))
        return hub

    @staticmethod
    def _check_loop(hub: Hub) -> None:
        if hub.loop is not asyncio.get_running_loop():
            raise LoopMismatchError(
                "this WorkerInterceptor is in use on another event loop: call it through "
                "asyncio.run_coroutine_threadsafe()"
            )

    def _allow(self, name: str, other: str) -> bool:
        return all(hook(name, other) is not False for hook in self._on_channel)

    # ---------------------------------------------------------------------------------------- end

    async def close(self, drain_timeout: float = DRAIN) -> None:
        """End all workers, side by side: each leaves the mesh, serves what was sent to it, and exits.

        Returns when all have. Any number of calls, at once or one after another, are one.

        Args:
            drain_timeout: seconds that running requests have before they are aborted.

        Raises:
            LoopMismatchError: its workers were started on another event loop.
            ExceptionGroup: of `MeshError`, one for each worker that had to be killed. It is closed all the same.
        """
        check_grace("drain_timeout", drain_timeout)
        if self._hub is not None:
            self._check_loop(self._hub)
        self._closed = True
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close(drain_timeout))
        await asyncio.shield(self._closing)

    async def _close(self, drain_timeout: float) -> None:
        errors: list[Exception] = []
        while self._runs:  # one may have been started while the others ended
            runs = list(self._runs.values())
            results = await asyncio.gather(*(run.stop(drain_timeout) for run in runs), return_exceptions=True)
            for run, result in zip(runs, results, strict=True):
                self._runs.pop(run.id, None)
                if isinstance(result, Exception):
                    errors.append(result)
                elif run.was_killed:
                    errors.append(MeshError(f"{run.worker.name} (pid {run.pid}) had to be killed"))
        hub, member = self._hub, self._member
        if hub is not None and member is not None:
            self._hub = self._member = None
            self._version = hub.membership.version
            await member.close()
            hub.close()
        for stream in self._streams:
            stream.end()
        if errors:
            raise ExceptionGroup("the mesh is closed, but not all of its workers ended in order", errors)

    def restart(self) -> None:
        """Make a closed mesh usable again; its workers may be routed again. Nothing for one that is not closed.

        Raises:
            InvalidArgumentError: it is still closing.
        """
        if not self._closed:
            return
        if self._closing is not None and not self._closing.done():
            raise InvalidArgumentError("the mesh is still closing: await close() first")
        self._closed = False
        self._closing = None
        self._client.reopen()


class EventStream(AsyncIterator[MeshEvent]):
    """Events for one reader."""

    def __init__(self) -> None:
        self._events: deque[MeshEvent] = deque(maxlen=MAX_EVENTS)
        self._there = asyncio.Event()
        self._ended = False

    def put(self, event: MeshEvent) -> None:
        if not self._ended:
            self._events.append(event)
            self._there.set()

    def end(self) -> None:
        self._ended = True
        self._there.set()

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> MeshEvent:
        while not self._events:
            if self._ended:
                raise StopAsyncIteration
            self._there.clear()
            await self._there.wait()
        return self._events.popleft()


def refuse_gone(function: str, arguments: dict[str, Any]) -> None:
    """Raises `TypeError` for arguments that there are not; for those that there were, it says what there is now."""
    for name in arguments:
        if name in ("can_accept", "meta"):
            raise TypeError(
                f"{function}() has no {name}=: a worker says that it takes no requests by set_accepting(), and the "
                "coordinator takes one out by pause_worker()"
            )
        raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")

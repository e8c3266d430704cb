"""`Worker`: an app and how it is to be run. It runs from the first `WorkerInterceptor.route()` on."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..core.errors import InvalidArgumentError, MeshError

if TYPE_CHECKING:
    from .hooks import Hooks
    from .running import Running
    from .snapshot import MemberInfo

KINDS = ("process", "thread", "loop")
STATS_TIMEOUT = 5.0
"""Seconds that a worker has to answer `stats()`."""

OnOutput: TypeAlias = "Callable[[Worker, str, str], None]"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """What a `Worker` was made with."""

    target: Any
    entry: bool
    args: tuple[Any, ...]
    env: Mapping[str, str] | None
    cwd: str | None
    lifespan: str
    accepting: bool
    wsgi_threads: int
    interface: str
    app_errors: str
    start_timeout: float | None
    on_output: OnOutput | None
    hooks: Mapping[str, Hooks]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStats:
    """What a worker is doing."""

    requests: int
    """Requests that have arrived."""
    errors: int
    """Requests in which the app, or a hook, raised."""
    running: int
    """Requests that have not ended."""
    websockets: int
    """Those of them that are websockets."""
    rss: int
    """Bytes of memory that its process has in RAM; of the whole process for thread and loop workers."""
    loop_lag: float
    """How late its event loop is, in seconds: the worst of the last second."""
    uptime: float
    """Seconds since it began."""


class Worker:
    """An app in a process, a thread, or the coordinator's loop; or the address of one that runs elsewhere.

    Args:
        target: ``"module:app"``, ``"module:factory()"``, an app object (not for processes), or an address:
            ``"http://host:port"``, ``"https://host:port"``, ``"unix:/path"``.
        kind: ``"process"``, ``"thread"`` or ``"loop"``. An address is of the kind ``"address"``.
        name: what people call it; the target if None.
        args: what an entry's `main()` is called with; for a process, things that JSON knows.
        env: what is added to the environment of a process.
        cwd: the working directory of a process, and where it imports from first. For the others only the latter.
        lifespan: ``"auto"``, ``"on"`` or ``"off"``.
        accepting: whether it takes requests from the start, see `Wired.set_accepting()`.
        wsgi_threads: requests that a WSGI app works on at once.
        interface: ``"auto"``, ``"asgi"`` or ``"wsgi"``.
        app_errors: ``"500"``, or ``"raise"``: the client gets `RemoteAppError` of an app that raises before its head.
        start_timeout: seconds that it may take to be ready; None is for ever.
        on_output: `on_output(worker, stream, line)` for each line that a process writes on ``"stdout"`` or
            ``"stderr"``; None lets it write to this process's.
        on_server_request: `hook(scope)`, `hook(scope, status_code, headers)` and `hook(scope, error)`, as for `wire()`,
            which is where those of a process are given: here, only for the other kinds.
        on_server_response: see above.
        on_server_error: see above.

    Raises:
        InvalidArgumentError: an argument is not as above.
    """

    def __init__(
        self,
        target: Any,
        *,
        kind: str = "process",
        name: str | None = None,
        args: Sequence[Any] = (),
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        lifespan: str = "auto",
        accepting: bool = True,
        wsgi_threads: int = 8,
        interface: str = "auto",
        app_errors: str = "500",
        start_timeout: float | None = None,
        on_output: OnOutput | None = None,
        on_server_request: Hooks = None,
        on_server_response: Hooks = None,
        on_server_error: Hooks = None,
        _entry: bool = False,
    ) -> None:
        if kind not in KINDS:
            raise InvalidArgumentError(f"kind must be 'process', 'thread' or 'loop', not {kind!r}")
        from .hooks import hook_list
        from .wired import is_address, resolved

        if is_address(target) and not _entry:
            kind = "address"
            target = resolved(target)
        elif isinstance(target, str):
            if ":" not in target or not all(target.split(":", 1)):
                raise InvalidArgumentError(
                    f'target must be "module:app", "module:factory()", an app or an address, not {target!r}'
                )
        elif not callable(target):
            raise InvalidArgumentError(f"target must be an app, not {target!r}")
        elif kind == "process":
            raise InvalidArgumentError(
                f"a process imports its app: give {target!r} by name (\"module:app\"), or choose kind='thread'"
            )
        _check_choice("lifespan", lifespan, ("auto", "on", "off"))
        _check_choice("interface", interface, ("auto", "asgi", "wsgi"))
        _check_choice("app_errors", app_errors, ("500", "raise"))
        if not isinstance(wsgi_threads, int) or isinstance(wsgi_threads, bool) or wsgi_threads < 1:
            raise InvalidArgumentError(f"wsgi_threads must be a positive number, not {wsgi_threads!r}")
        if not isinstance(accepting, bool):
            raise InvalidArgumentError(f"accepting must be True or False, not {accepting!r}")
        if start_timeout is not None:
            check_grace("start_timeout", start_timeout)
            if not start_timeout:
                raise InvalidArgumentError("start_timeout must be more than 0 seconds")
        if on_output is not None and not callable(on_output):
            raise InvalidArgumentError(f"on_output must be a function, not {on_output!r}")
        if not isinstance(args, Sequence) or isinstance(args, str | bytes) or (args and not _entry):
            raise InvalidArgumentError(f"args are a list, and for Worker.entry() alone, not {args!r}")
        if name is not None and not (isinstance(name, str) and name):
            raise InvalidArgumentError(f"name must be a text, not {name!r}")
        if kind == "process" and args:
            _check_json(args)
        hooks = {
            "on_server_request": on_server_request,
            "on_server_response": on_server_response,
            "on_server_error": on_server_error,
        }
        given = {hook: value for hook, value in hooks.items() if hook_list(hook, value)}
        if given and (kind not in ("thread", "loop") or _entry):
            raise InvalidArgumentError(
                f"{', '.join(given)}: functions do not cross into a process, and an entry gives its own to wire()"
            )
        self.kind = kind
        """``"process"``, ``"thread"``, ``"loop"`` or ``"address"``."""
        self.name = name if name is not None else target if isinstance(target, str) else _name_of(target)
        """What people call it."""
        self.config = WorkerConfig(
            target=target,
            entry=_entry,
            args=tuple(args),
            env=None if env is None else _environment(env),
            cwd=None if cwd is None else _folder(cwd),
            lifespan=lifespan,
            accepting=accepting,
            wsgi_threads=wsgi_threads,
            interface=interface,
            app_errors=app_errors,
            start_timeout=start_timeout,
            on_output=on_output,
            hooks=given,
        )
        self._running: Running | None = None
        self._started: asyncio.Event | None = None

    @classmethod
    def entry(cls, target: Any, **options: Any) -> Worker:
        """A worker that decides by itself: ``"module:main"`` names an async function that awaits `wire()`.

        The worker is ready when it is wired with an app, and ends when `main()` returns. `options` are those of
        `Worker`.
        """
        return cls(target, **options, _entry=True)

    @property
    def id(self) -> str:
        """Its id in the mesh; empty before its first start. A worker that is started again gets another."""
        return self._running.id if self._running is not None else ""

    @property
    def pid(self) -> int | None:
        """The process that it runs in; None before its start, and for an address."""
        return (self._running.pid or None) if self._running is not None else None

    @property
    def state(self) -> str:
        """``"starting"``, ``"ready"``, ``"paused"``, ``"closing"`` or ``"exited"``."""
        running = self._running
        if running is None:
            return "starting"
        if running.exited.done():
            return "exited"
        if running.closing:
            return "closing"
        info = self._info()
        if info is None or not info.app:
            return "starting"
        return "paused" if info.paused else "ready"

    @property
    def accepting(self) -> bool:
        """What it said by `set_accepting()`, as far as the coordinator knows."""
        info = self._info()
        return info.accepting if info is not None else self.config.accepting

    @property
    def paused(self) -> bool:
        """Whether `WorkerInterceptor.pause_worker()` holds."""
        info = self._info()
        return info is not None and info.paused

    @property
    def exit_code(self) -> int | None:
        """With what it exited, minus the number of a signal; None while it runs."""
        running = self._running
        return running.exited.result() if running is not None and running.exited.done() else None

    async def stop(self, grace: float = 30.0) -> int | None:
        """Let it leave the mesh, serve what was sent to it, and end. Returns the exit code, None if it never ran.

        Args:
            grace: seconds that running requests have before they are aborted. A worker that is not gone some
                seconds after that is killed.

        Raises:
            InvalidArgumentError: `grace` is negative.
        """
        check_grace("grace", grace)
        return await self._running.stop(grace) if self._running is not None else None

    def kill(self) -> None:
        """End it now: SIGKILL for a process; a thread or loop worker loses its links, and what it runs is cancelled."""
        if self._running is not None:
            self._running.kill()

    async def wait(self) -> int:
        """Return the exit code when it has ended: minus the signal's number if one ended it.

        Waits for the first start of a worker that was not started.
        """
        if self._running is None:
            if self._started is None:
                self._started = asyncio.Event()
            await self._started.wait()
        assert self._running is not None
        return await asyncio.shield(self._running.exited)

    async def stats(self) -> WorkerStats:
        """Ask it what it is doing.

        Raises:
            InvalidArgumentError: it does not run, or is only an address.
            MeshError: it does not answer.
        """
        running = self._running
        if running is None or running.exited.done() or self.kind == "address":
            raise InvalidArgumentError(f"{self.name} has no figures: it does not run here")
        answer = await running.hub.call(running.id, "stats", STATS_TIMEOUT)
        try:
            return WorkerStats(**answer)
        except TypeError as error:
            raise MeshError(f"{self.name} answered with other figures: {error}") from error

    def begun(self, running: Running) -> None:
        """A `WorkerInterceptor` has started it."""
        self._running = running
        if self._started is not None:
            self._started.set()
            self._started = None

    @property
    def running(self) -> Running | None:
        """Its present, or last, life; for `WorkerInterceptor`."""
        return self._running

    def _info(self) -> MemberInfo | None:
        running = self._running
        if running is None or running.id not in running.hub.membership:
            return None
        return running.hub.membership.info(running.id)

    def __repr__(self) -> str:
        where = f" {self.id} pid {self.pid}" if self._running is not None else ""
        return f"<Worker {self.name} {self.kind} {self.state}{where}>"


def check_grace(name: str, seconds: Any) -> None:
    """Raises `InvalidArgumentError` for what are no seconds."""
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not seconds >= 0:
        raise InvalidArgumentError(f"{name} must be seconds, 0 or more, not {seconds!r}")


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidArgumentError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")


def _environment(env: Any) -> dict[str, str]:
    if not isinstance(env, Mapping):
        raise InvalidArgumentError(f"env must be a mapping of names to values, not {env!r}")
    made = {str(key): str(value) for key, value in env.items()}
    for key, value in made.items():
        if not key or "=" in key or "\0" in key or "\0" in value:
            raise InvalidArgumentError(f"env has a name or a value that no environment can have: {key!r}")
    return made


def _folder(cwd: Any) -> str:
    try:
        return str(Path(cwd).resolve())
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"cwd must be the path of a folder, not {cwd!r}") from error


def _check_json(args: Sequence[Any]) -> None:
    try:
        json.dumps(list(args))
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"args of a process must be what JSON knows: {error}") from error


def _name_of(target: Any) -> str:
    return str(getattr(target, "__qualname__", None) or type(target).__qualname__)

"""`dodici up`: everything put together, from the first socket to the last.

Start: the sockets are opened, so that an address in use ends it before anything else begins and early clients wait in
their queue; then the workers, side by side; when each service's workers are ready or have failed, connections are
taken. When no service can be started, it ends with status 1, unless files are watched for changes.

Stop (SIGTERM, SIGINT, `dodici stop`): no more connections are taken, idle ones are closed, running requests have
`drain_timeout` to end, then the workers are drained and end. A second signal ends all of it now.

SIGHUP reads the configuration again and replaces workers one by one. A configuration with a mistake in it changes
nothing. SIGUSR1 and SIGUSR2 are ignored, here and in the workers, which inherit that: log rotation shall end nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict, replace
from typing import Any, Final

from .. import __version__
from ..core.errors import DodiciError, InvalidArgumentError
from .address import Address
from .commands import ControlCommands
from .config import Config, GatewayConfig, ServiceConfig, load
from .control import ControlServer, socket_path
from .forwarded import Forwarding
from .frontend import Frontend, open_sockets
from .gateway import Gateway
from .output import LogToOutput, Output
from .reloader import changes
from .routing import Router
from .schema import ConfigError
from .status import service_status
from .supervisor import ServiceSupervisor

_ADMIN: Final = GatewayConfig(max_connections=100, keep_alive=15.0)


class Application:
    """One running `dodici up`.

    Args:
        config: what to run.
        name: of its control socket.
        output: where its own words and those of the workers go.
    """

    def __init__(self, config: Config, *, name: str, output: Output) -> None:
        self.config = config
        self.output = output
        self.state = "starting"
        """``"starting"``, ``"running"`` or ``"stopping"``."""
        self.listening: list[Address] = []
        """Where the gateway listens, with the ports that the system gave."""
        self.admin_listening: Address | None = None
        self._name = name
        self._began = time.time()
        self._stop = asyncio.Event()
        self._cut = asyncio.Event()
        self._on_terminal = sys.stdin is not None and sys.stdin.isatty()
        self._supervisors: dict[str, ServiceSupervisor] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._started = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._reload_is_due = False
        self._frontend: Frontend | None = None
        self._admin: Frontend | None = None

    async def run(self) -> int:
        """Serve until a signal or `stop`. Returns the exit status.

        Raises:
            OSError: an address is in use, or not ours. ControlError: another one of this name runs.
        """
        loop = asyncio.get_running_loop()
        control = ControlServer(socket_path(self._name), ControlCommands(self))
        await control.start()
        try:
            sockets = open_sockets(self.config.gateway.listen, self.config.gateway.backlog)
            self.listening = [address for address, _ in sockets]
            try:
                admin = self._open_admin()
                self._handle_signals(loop)
                try:
                    return await self._serve([listener for _, listener in sockets], admin)
                finally:
                    self._restore_signals(loop)
                    self._close_admin(admin)
            finally:
                for address, listener in sockets:
                    listener.close()
                    address.release()
        finally:
            await control.stop()

    def _open_admin(self) -> list[socket.socket]:
        if self.config.admin.listen is None:
            return []
        [(self.admin_listening, listener)] = open_sockets((self.config.admin.listen,), 64)
        return [listener]

    def _close_admin(self, listeners: list[socket.socket]) -> None:
        for listener in listeners:
            listener.close()
        if self.admin_listening is not None:
            self.admin_listening.release()

    async def _serve(self, sockets: list[socket.socket], admin: list[socket.socket]) -> int:
        from .. import Agent
        from ..mesh import WorkerInterceptor

        config = self.config
        mesh = WorkerInterceptor(
            domain=config.mesh.domain,
            timeout=config.mesh.timeout or None,
            body_timeout=config.mesh.body_timeout or None,
            propagation_timeout=config.mesh.propagation_timeout,
        )
        agent = Agent().compose(mesh)
        gateway = self._make_gateway(agent)
        drain = max(service.drain_timeout for service in config.services)
        self._frontend = Frontend(gateway, config.gateway, drain)
        self._gateway = gateway
        self._mesh = mesh
        try:
            if admin:
                from .admin import Admin

                where = self.config.admin.listen
                # A web page cannot make a name point at a unix socket.
                local = where is not None and where.loopback and where.path is None
                self._admin = Frontend(Admin(self.status, gateway.tallies, local=local), _ADMIN, 1.0)
                await self._admin.start(admin)
            status = await self._run_services(sockets)
        finally:
            await self._end(mesh, drain)
            await agent.destroy()
        return status

    async def _run_services(self, sockets: list[socket.socket]) -> int:
        config = self.config
        self.output.align(service.name for service in config.services)
        for service in config.services:
            self._supervisors[service.name] = self._supervise(service)
        where = ", ".join(address.url for address in self.listening)
        self.output.say(f"dodici {__version__}, process {os.getpid()}, listening at {where}")
        starting = asyncio.gather(*(each.start() for each in self._supervisors.values()))
        if not await self._unless_stopped(starting):
            return 0
        self._started.set()
        if not config.reload.enabled and not any(each.started_once for each in self._supervisors.values()):
            self.output.say("no service could be started")
            return 1
        assert self._frontend is not None
        await self._frontend.start(sockets)
        self.state = "running"
        self.output.say(f"ready: {self._routes()}")
        if config.reload.enabled:
            self.spawn(self._watch())
        await self._stop.wait()
        return 0

    def _supervise(self, service: ServiceConfig) -> ServiceSupervisor:
        return ServiceSupervisor(service, self._mesh, make_worker, self.output)

    def _make_gateway(self, agent: Any) -> Gateway:
        config = self.config
        return Gateway(
            agent,
            Router(config.gateway, config.mesh, config.services),
            Forwarding(config.gateway.trusted_proxies),
            websocket_size=config.gateway.websocket_size,
            access_log=self._log_access if config.gateway.access_log else None,
        )

    def _log_access(
        self, scope: dict[str, Any], service: str, status: int, size: int, seconds: float
    ) -> None:
        client = scope.get("client")
        path = scope["raw_path"].decode("latin-1")
        if scope["query_string"]:
            path += "?" + scope["query_string"].decode("latin-1")
        self.output.say(
            f"{client[0] if client else 'unix'} {scope.get('method', 'WEBSOCKET')} {path} {status} {size} B "
            f"{seconds * 1000:.1f} ms",
            service=service if service != "-" else "dodici",
        )

    def _routes(self) -> str:
        found = []
        for service in self.config.services:
            hosts = service.host or ("",)
            paths = service.path or (("/",) if service.host else ())
            where = ", ".join(f"{host}{path}" for host in hosts for path in paths)
            found.append(f"{where or 'only for the other services'} -> {service.name}")
        return "; ".join(found)

    async def _unless_stopped(self, work: asyncio.Future[Any]) -> bool:
        """Wait for `work`, or for the end. Returns whether it was done."""
        stopped = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait((work, stopped), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
                return False
            await work
            return True
        finally:
            stopped.cancel()

    # ----------------------------------------------------------------------------------------------- the end

    async def _end(self, mesh: Any, drain: float) -> None:
        self.state = "stopping"
        for task in list(self._tasks):
            task.cancel()
        for supervisor in self._supervisors.values():
            supervisor.release()
        draining = asyncio.ensure_future(self._drain(mesh, drain))
        cut = asyncio.ensure_future(self._cut.wait())
        await asyncio.wait((draining, cut), return_when=asyncio.FIRST_COMPLETED)
        if not draining.done():
            self.output.say("stopping now")
            for frontend in filter(None, (self._frontend, self._admin)):
                frontend.cut()
            for supervisor in self._supervisors.values():
                supervisor.kill()
        cut.cancel()
        try:
            await draining
        except* (DodiciError, OSError) as errors:
            for error in errors.exceptions:
                self.output.say(f"while stopping: {error}")
        self.output.say("stopped")

    async def _drain(self, mesh: Any, drain: float) -> None:
        if self._frontend is not None:
            running = sum(tally.running for tally in self._gateway.tallies.values())
            if running:
                self.output.say(f"stopping; {running} requests are running, they have {drain:g} s")
            await self._frontend.stop()
        try:
            await mesh.close(drain_timeout=drain)
        finally:
            await asyncio.gather(*(each.stop() for each in self._supervisors.values()))
            if self._admin is not None:
                await self._admin.stop()

    def stop(self, *, now: bool = False) -> None:
        """Drain and end; or end now."""
        if now:
            self._cut.set()
        self._stop.set()

    def _signalled(self) -> None:
        self.stop(now=self._stop.is_set())

    # --------------------------------------------------------------------------------------------- signals

    def _handle_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        handlers: dict[int, Callable[[], None]] = {
            signal.SIGTERM: self._signalled,
            signal.SIGINT: self._signalled,
            signal.SIGHUP: self._hung_up,
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)

    def _restore_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)

    def _hung_up(self) -> None:
        # A terminal that was closed sends the same signal as a person who wants a reload.
        if self._on_terminal and _terminal_is_gone():
            self.stop()
        else:
            self.output.say("SIGHUP: reloading")
            # One that has not begun yet does what this one is about.
            if not self._reload_is_due:
                self._reload_is_due = True
                self.spawn(self.reload())

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something beside, that ends with the application."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._spawned_ended)
        return task

    def _spawned_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.output.say(f"{type(error).__name__}: {error}")

    # ----------------------------------------------------------------------------------------------- reload

    async def _watch(self) -> None:
        async for paths in changes(self.config, self._stop):
            shown = ", ".join(path.name for path in paths[:3])
            self.output.say(f"{shown}{' and others' if len(paths) > 3 else ''} changed: reloading")
            await self.reload()

    async def reload(self, service: str | None = None) -> list[str]:
        """Read the configuration again, and replace the workers of all services, or of one.

        Returns what went wrong, in lines; the workers that it is about run on as they were.

        Raises:
            InvalidArgumentError: no service of that name.
        """
        await self._started.wait()
        async with self._reloading:
            self._reload_is_due = False
            config = self.config
            if config.file is not None:
                try:
                    config = self._follow(load(config.file))
                except ConfigError as error:
                    problems = [str(problem) for problem in error.problems]
                    for problem in problems:
                        self.output.say(problem)
                    self.output.say("the configuration has mistakes; nothing was changed")
                    return problems
            if service is not None:
                return await self._reload_one(config, service)
            return await self._reload_all(config)

    async def _reload_one(self, config: Config, name: str) -> list[str]:
        supervisor, found = self._supervisors.get(name), config.service(name)
        if supervisor is None or found is None:
            raise InvalidArgumentError(f"no service {name!r}; there are: {', '.join(self._supervisors)}")
        error = await supervisor.reload(found)
        services = tuple(supervisor.service if each.name == name else each for each in self.config.services)
        self._use(replace(self.config, services=services))
        return [] if error is None else [f"{name}: {error}"]

    async def _reload_all(self, config: Config) -> list[str]:
        added = [each for each in config.services if each.name not in self._supervisors]
        gone = [name for name in self._supervisors if config.service(name) is None]
        for service in added:
            self._supervisors[service.name] = self._supervise(service)
        work = [self._supervisors[each.name].start() for each in added]
        kept = [each for each in config.services if each not in added]
        reloads = [self._supervisors[each.name].reload(each) for each in kept]
        results, _ = await asyncio.gather(asyncio.gather(*reloads), asyncio.gather(*work))
        # A service whose reload was given up runs on with what it had.
        services = tuple(self._supervisors[each.name].service for each in config.services)
        self._use(replace(config, services=services))
        await asyncio.gather(*(self._supervisors.pop(name).stop() for name in gone))
        errors = {each.name: error for each, error in zip(kept, results, strict=True)}
        errors |= {each.name: self._supervisors[each.name].error for each in added}
        problems = [f"{name}: {error}" for name, error in errors.items() if error is not None]
        self.output.say("reloaded" if not problems else "reloaded in part")
        return problems

    def _use(self, config: Config) -> None:
        self.config = config
        self._gateway.router = Router(config.gateway, config.mesh, config.services)

    def _follow(self, config: Config) -> Config:
        """A new configuration, less what only a restart can change, which is told."""
        for section in ("gateway", "admin", "mesh"):
            before, now = getattr(self.config, section), getattr(config, section)
            if before != now:
                names = [name for name, value in asdict(now).items() if asdict(before)[name] != value]
                self.output.say(f"[{section}] {', '.join(names)}: a restart is needed for this to change")
        return replace(
            config,
            gateway=self.config.gateway,
            admin=self.config.admin,
            mesh=self.config.mesh,
            reload=self.config.reload,
        )

    # ---------------------------------------------------------------------------------------------- looking

    @property
    def supervisors(self) -> Mapping[str, ServiceSupervisor]:
        """The services, by name."""
        return self._supervisors

    def status(self) -> dict[str, Any]:
        """What runs: see `status`."""
        return {
            "name": self._name,
            "pid": os.getpid(),
            "version": __version__,
            "state": self.state,
            "uptime": round(time.time() - self._began, 3),
            "file": None if self.config.file is None else str(self.config.file),
            "listening": [str(address) for address in self.listening],
            "admin": None if self.admin_listening is None else str(self.admin_listening),
            "connections": 0 if self._frontend is None else self._frontend.connections,
            "services": [
                service_status(each, self._gateway.tallies.get(name))
                for name, each in self._supervisors.items()
            ],
        }


def make_worker(service: ServiceConfig, on_output: Callable[[Any, str, str], None]) -> Any:
    """A worker of a service, as the mesh starts it."""
    from ..mesh import Worker

    if service.is_address:
        return Worker(service.app, name=service.name)
    return Worker(
        service.app,
        kind=service.kind,
        name=service.name,
        env=service.env or None,
        cwd=service.cwd,
        lifespan=service.lifespan,
        interface=service.interface,
        wsgi_threads=service.wsgi_threads,
        start_timeout=service.start_timeout,
        on_output=on_output if service.kind == "process" else None,
    )


def _terminal_is_gone() -> bool:
    try:
        os.tcgetpgrp(sys.stdin.fileno())
    except (OSError, ValueError):
        return True
    return False


def run(config: Config, *, name: str, output: Output | None = None) -> int:
    """Run `dodici up` to its end, on uvloop where it is installed. Returns the exit status.

    Raises:
        OSError: an address is in use, or not ours. ControlError: another one of this name runs.
    """
    # What the gateway's server has to say of a request that failed is in the answer, and in the metrics.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    shown = output or Output.in_background()

    async def main() -> int:
        log, handler = logging.getLogger("dodici"), LogToOutput(shown)
        log.addHandler(handler)
        try:
            return await Application(config, name=name, output=shown).run()
        finally:
            log.removeHandler(handler)

    make_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):
        from uvloop import new_event_loop as make_loop
    try:
        with asyncio.Runner(loop_factory=make_loop) as runner:
            return runner.run(main())
    finally:
        shown.close()

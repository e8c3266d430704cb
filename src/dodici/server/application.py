"""`dodici up`: everything put together, from the first socket to the last.

Start: the sockets are opened, so that an address in use ends it before anything else begins and early clients wait in
their queue; then the workers, side by side; when each service's workers are ready or have failed, connections are
taken, and the collector connects to its peers. When no service can be started, it ends with status 1, unless files are watched for changes.

Stop (SIGTERM, SIGINT, `dodici stop`): the collector's peers are told, so that they send nothing more; no more
connections are taken, idle ones are closed, running calls and requests have their `drain_timeout` to end; then the
workers are drained and end, and the collector last, because requests may need it until then. A second signal ends all
of it now.

SIGHUP reads the configuration again and replaces workers one by one. A configuration with a mistake in it changes
nothing. SIGUSR1 and SIGUSR2 are ignored, here and in the workers, which inherit that: log rotation shall end nobody.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from .. import __version__
from ..core.errors import DodiciError
from .address import Address
from .commands import ControlCommands
from .config import Config, GatewayConfig, ServiceConfig
from .control import ControlServer, socket_path
from .forwarded import Forwarding
from .frontend import Frontend, open_sockets
from .gateway import Gateway
from .output import Output
from .reconfigure import Reconfiguration
from .reloader import changes
from .routing import Router, describe_routes
from .signals import Signals
from .status import service_status
from .supervisor import ServiceSupervisor
from .tracing import Traces, in_trace

if TYPE_CHECKING:
    from ..collective import Collector
    from ..core.dispatcher import Dispatcher
    from .collector.node import CollectorNode
    from .collector.shortcuts import Shortcuts

_ADMIN: Final = GatewayConfig(max_connections=100, keep_alive=15.0)


class Application:
    """One running `dodici up`.

    Args:
        config: what to run.
        name: of its control socket.
        output: where its own words and those of the workers go.
        collector: of the configuration's `[collector]`, as `collector.build` makes it.
    """

    def __init__(
        self, config: Config, *, name: str, output: Output, collector: Collector | None = None
    ) -> None:
        self.config = config
        self.output = output
        self.state = "starting"
        """``"starting"``, ``"running"`` or ``"stopping"``."""
        self.listening: list[Address] = []
        """Where the gateway listens, with the ports that the system gave."""
        self.admin_listening: Address | None = None
        self.supervisors: dict[str, ServiceSupervisor] = {}
        """The services, by name."""
        self.started = asyncio.Event()
        """The workers of all services are ready or have failed, for the first time."""
        self.traces: Traces | None = None
        """Finds what is remembered of requests; None until there is a mesh."""
        self.node: CollectorNode | None = None
        """The collector, where there is one."""
        self._name = name
        self._collector = collector
        self._began = time.time()
        self._stop = asyncio.Event()
        self._cut = asyncio.Event()
        self._signals = Signals(self._signalled, self._hung_up)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._reconfiguration = Reconfiguration(self)
        self._frontend: Frontend | None = None
        self._shortcuts: Shortcuts | None = None
        self._admin: Frontend | None = None

    async def run(self) -> int:
        """Serve until a signal or `stop`. Returns the exit status.

        Raises:
            OSError: an address is in use, or not ours. ControlError: another one of this name runs.
            DodiciError: the collector cannot be started. ConfigError: it cannot serve what it should.
        """
        loop = asyncio.get_running_loop()
        control = ControlServer(socket_path(self._name), ControlCommands(self))
        await control.start()
        try:
            sockets = open_sockets(self.config.gateway.listen, self.config.gateway.backlog)
            self.listening = [address for address, _ in sockets]
            try:
                admin = self._open_admin()
                self._signals.handle(loop)
                try:
                    return await self._serve([listener for _, listener in sockets], admin)
                finally:
                    self._signals.restore(loop)
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
            trace=config.gateway.trace,
        )
        agent: Dispatcher = Agent().compose(mesh)
        front = agent
        if self._collector is not None:
            agent = self._join(self._collector, agent)
            front = self._shorten(agent)
        self._agent = agent
        gateway = self._make_gateway(front)
        drain = max(service.drain_timeout for service in config.services)
        self._frontend = Frontend(gateway, config.gateway, drain)
        self._gateway = gateway
        self._mesh = mesh
        self.traces = Traces(self._name, mesh, None if self.node is None else self.node.collector)
        try:
            if self.node is not None:
                # Before the workers: an address in use is an error at once, and what they cannot do yet is not asked of them.
                await self.node.start()
            if admin:
                await self._start_admin(admin)
            status = await self._run_services(sockets)
        finally:
            await self._end(mesh, drain)
            await agent.destroy()
        return status

    def _join(self, collector: Collector, agent: Dispatcher) -> Dispatcher:
        """Make the collector a part of this. Returns what reaches the services here and in the collective."""
        from ..collective import CollectiveInterceptor
        from .collector.check import DOMAIN
        from .collector.node import CollectorNode

        config = self.config.collector
        assert config is not None
        self.node = CollectorNode(config, collector, agent)
        return agent.compose(CollectiveInterceptor(collector, domain=DOMAIN))

    def _shorten(self, agent: Dispatcher) -> Dispatcher:
        """What the gateway dispatches with."""
        from .collector.shortcuts import Shortcuts

        self._shortcuts = Shortcuts(agent, self.config.mesh.domain)
        self._shortcuts.follow(self.config.services)
        return agent.compose(self._shortcuts)

    async def _start_admin(self, sockets: list[socket.socket]) -> None:
        from .admin import Admin

        where = self.config.admin.listen
        # A web page cannot make a name point at a unix socket.
        local = where is not None and where.loopback and where.path is None
        admin = Admin(self.status, self._gateway.tallies, local=local, collector=self._collector)
        self._admin = Frontend(admin, _ADMIN, 1.0)
        await self._admin.start(sockets)

    async def _run_services(self, sockets: list[socket.socket]) -> int:
        config = self.config
        self.output.align(service.name for service in config.services)
        for service in config.services:
            self.supervisors[service.name] = self.supervise(service)
        where = ", ".join(address.url for address in self.listening)
        self.output.say(f"dodici {__version__}, process {os.getpid()}, listening at {where}")
        if self.node is not None:
            self.output.say(self.node.line)
        starting = asyncio.gather(*(each.start() for each in self.supervisors.values()))
        if not await self._unless_stopped(starting):
            return 0
        self.started.set()
        if not config.reload.enabled and not any(each.started_once for each in self.supervisors.values()):
            self.output.say("no service could be started")
            return 1
        assert self._frontend is not None
        await self._frontend.start(sockets)
        if self.node is not None:
            self.node.connect()
        self.state = "running"
        self.output.say(f"ready: {describe_routes(self.config.services)}")
        if config.reload.enabled:
            self.spawn(self._watch())
        await self._stop.wait()
        return 0

    def supervise(self, service: ServiceConfig) -> ServiceSupervisor:
        """What keeps the workers of a service running; not started."""
        return ServiceSupervisor(service, self._mesh, self._make_worker, self.output)

    def _make_worker(self, service: ServiceConfig, on_output: Callable[[Any, str, str], None]) -> Any:
        """A worker of a service, as the mesh starts it."""
        from ..mesh import Worker

        if service.is_collective:
            from .collector.egress import Egress

            app = Egress(self._agent, service, self.config.gateway)
            return Worker(app, kind="loop", name=service.name, lifespan="off", interface="asgi")
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

    def _make_gateway(self, agent: Any) -> Gateway:
        config = self.config
        return Gateway(
            agent,
            Router(config.gateway, config.mesh, config.services),
            Forwarding(config.gateway.trusted_proxies),
            websocket_size=config.gateway.websocket_size,
            access_log=self._log_access if config.gateway.access_log else None,
            trace=config.gateway.trace,
            traces_per_second=config.gateway.traces_per_second,
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
            f"{seconds * 1000:.1f} ms{in_trace()}",
            service=service if service != "-" else "dodici",
        )

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
        for supervisor in self.supervisors.values():
            supervisor.release()
        draining = asyncio.ensure_future(self._drain(mesh, drain))
        cut = asyncio.ensure_future(self._cut.wait())
        await asyncio.wait((draining, cut), return_when=asyncio.FIRST_COMPLETED)
        if not draining.done():
            self.output.say("stopping now")
            for frontend in filter(None, (self._frontend, self._admin)):
                frontend.cut()
            for supervisor in self.supervisors.values():
                supervisor.kill()
            if self.node is not None:
                self.node.cut()
        cut.cancel()
        try:
            await draining
        except* (DodiciError, OSError) as errors:
            for error in errors.exceptions:
                self.output.say(f"while stopping: {error}")
        self.output.say("stopped")

    async def _drain(self, mesh: Any, drain: float) -> None:
        if self._frontend is not None:
            self._frontend.refuse()
            running = sum(tally.running for tally in self._gateway.tallies.values())
            if running:
                self.output.say(f"stopping; {running} requests are running, they have {drain:g} s")
        try:
            # Both at once: a call from a peer may wait for a request of the gateway's, and the reverse.
            draining = [] if self.node is None else [self.node.drain()]
            if self._frontend is not None:
                draining.append(self._frontend.stop())
            await asyncio.gather(*draining)
            await mesh.close(drain_timeout=drain)
        finally:
            await asyncio.gather(*(each.stop() for each in self.supervisors.values()))
            if self.node is not None:
                await self.node.stop()
            if self._admin is not None:
                await self._admin.stop()

    def stop(self, *, now: bool = False) -> None:
        """Drain and end; or end now."""
        if now:
            self._cut.set()
        self._stop.set()

    def _signalled(self) -> None:
        self.stop(now=self._stop.is_set())

    def _hung_up(self) -> None:
        self.output.say("SIGHUP: reloading")
        self._reconfiguration.begin()

    # ------------------------------------------------------------------------------------------------ beside

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
        return await self._reconfiguration.reload(service)

    def use(self, config: Config) -> None:
        """Have requests follow a configuration, whose workers are there."""
        self.config = config
        self._gateway.router = Router(config.gateway, config.mesh, config.services)
        if self._shortcuts is not None:
            self._shortcuts.follow(config.services)

    # ---------------------------------------------------------------------------------------------- looking

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
            "collector": None if self.node is None else self.node.status(),
            "connections": 0 if self._frontend is None else self._frontend.connections,
            "services": [
                service_status(each, self._gateway.tallies.get(name))
                for name, each in self.supervisors.items()
            ],
        }

"""A collector: one process of a collective, its methods, and its way to the methods of others.

    async with Collector("collector-001", "127.0.0.1:50051", namespaces=["orders"]) as collector:
        collector.register_service("orders", "OrderService", "CreateOrder", create_order)
        result = await collector.dispatch("orders", "OrderService", "CreateOrder", {"sku": "a-1"})

The parts that a collector joins are said in `contracts.py`. It owns all of them, and lives on the event loop on which
it was started. What is here is what it is made of, and its life; how methods are registered is in `offering.py`, how
they are called in `calling.py`, and what it has to do with other collectors in `joining.py`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self

from ..core.errors import InvalidArgumentError, MeshTimeoutError
from ..core.grpc_status import GrpcStatus
from .addresses import advertised, is_any, split_address
from .admission import Admission
from .arguments import check_collector, checked_seconds, needed_seconds
from .calling import Calling
from .contracts import (
    Announcer,
    Authorizer,
    CollectorSecurity,
    Router,
)
from .deadline import Expired, Until
from .errors import call_error
from .grpc_server import Server
from .health import Health
from .history import History
from .inspection import Inspection, snapshot
from .joining import Joining
from .local import LocalExecutor
from .names import LocalServices
from .neighbours import Neighbours
from .offering import Offering
from .origin.served import Origins
from .policies import Breaker, Limits, Retry
from .reflection import Reflection
from .registry.attached import AttachedRegistry
from .registry.server import SERVICE as REGISTRY
from .router import CollectiveRouter
from .service import CollectiveService
from .stats import CollectorStats
from .tls import as_security, authenticates
from .tracing import Tracing
from .trunk_port import TrunkPort

if TYPE_CHECKING:
    from .registry.registry import Registry
    from .xds.members import Members
    from .xds.server import XdsServer


log = logging.getLogger("dodici.collective")
_TOLD_WITHIN = 1.0
"""Seconds that `stop()` waits for peers to stop choosing this collector."""


class Collector(Offering, Calling, Joining):
    """One process of a collective.

    Args:
        id: names the collector in its collective: letters, digits and ``_.:@+~-``, at most 128.
        address: where it listens: ``"host:port"`` (port 0: any), ``"[::1]:port"`` or ``"unix:/path"``.
        namespaces: those that it is in. Registering a method joins its namespace.
        validator: see `set_registry_validator`.
        registry: where its services are registered: ``"sqlite:path"``, ``"memory"``, ``"etcd://host:port"``, the address of
            another registry, a Store or a Registry; None for none. Answers of types that only its descriptors tell
            are messages of them.
        discovery: how other collectors are found: ``"etcd://host:port"``, a list of addresses, or a `Discovery`; None: only
            by `connect_to` and by being connected to. Members that share a namespace are connected to.
        balance: how a peer is chosen: ``"p2c"``, ``"round_robin"``, ``"least_request"``, ``"weighted"`` or ``"hash"``.
        retry, breaker, limits: see `dodici.collective.policies`; None: their defaults.
        tls: the credentials of this collector, for both directions: a `TLS`, or a mapping of its arguments; None: plaintext.
        insecure: allow plaintext on an address that other machines can reach.
        policy: who may call what; None: everybody everything.
        default_timeout: seconds that a call may take whose caller says nothing; None: any time.
        max_hops: how many collectors a call may pass on its way.
        local_first: run the collector's own methods here while there is room; False: it is one among the peers.
        reflection: answer server reflection.
        advertise: the address that others are told, where they reach it by another than it listens on: it listens on
            ``0.0.0.0``, or in a container. Port 0 is the port that it listens on. None: `address`.
        link_port: another port on the host of `address`, where other collectors' links come in: several times faster than
            on `address`, which they use where this one cannot be reached. 0: any; None: there is none.

    Raises:
        InvalidArgumentError: an argument is wrong, or the address is not loopback and neither `tls` nor `insecure`
            is given.
    """

    def __init__(
        self,
        id: str,  # noqa: A002
        address: str,
        namespaces: Iterable[str] = (),
        *,
        validator: Any = None,
        registry: Any = None,
        discovery: Any = None,
        balance: str = "p2c",
        retry: Retry | None = None,
        breaker: Breaker | None = None,
        limits: Limits | None = None,
        tls: CollectorSecurity | Mapping[str, Any] | None = None,
        insecure: bool = False,
        policy: Authorizer | None = None,
        default_timeout: float | None = 30.0,
        max_hops: int = 4,
        local_first: bool = True,
        reflection: bool = True,
        advertise: str | None = None,
        link_port: int | None = 0,
    ) -> None:
        tls = as_security(tls)
        check_collector(
            id, address, namespaces, balance, tls, insecure, policy, max_hops, advertise, link_port
        )
        for name, given, due in (
            ("retry", retry, Retry),
            ("breaker", breaker, Breaker),
            ("limits", limits, Limits),
        ):
            if given is not None and not isinstance(given, due):
                raise InvalidArgumentError(f"{name} must be a {due.__name__}, not {type(given).__name__}")
        self._default_timeout = checked_seconds("default_timeout", default_timeout)
        self._id = id
        self._asked_address = self._address = address
        self._advertise = advertise
        self._tls = tls
        self._max_hops = max_hops
        self._limits = Limits() if limits is None else limits
        self._services = LocalServices(namespaces)
        self._admission = Admission(policy)
        self._admission.set_validator(validator)
        self._local = LocalExecutor(id, self._services, self._limits)
        routing = CollectiveRouter(
            id,
            self._services,
            self._local,
            self._admission,
            limits=self._limits,
            balance=balance,
            retry=retry,
            breaker=breaker,
            max_hops=max_hops,
            local_first=local_first,
            security=tls,
        )
        self._router: Router = routing
        self._table = routing.table
        self._peers = routing.peers
        self._announcer: Announcer = routing.peers
        self._health = Health(self._services)
        self._service = CollectiveService(
            id,
            self._services,
            self._local,
            self._admission,
            self._router,
            default_timeout=self._default_timeout,
            max_hops=max_hops,
            tls=tls is not None and authenticates(tls),
        )
        self._service.peers = self._peers.arrivals
        self._origins = Origins(self._services, self._peers, self._limits.message, self._local.keep)
        self._trunks = TrunkPort(
            self._peers.arrivals.trunk, link_port, security=tls, message=self._limits.message
        )
        self._routing = routing
        self._figures = self._local.recorder = routing.figures = self._service.figures
        self._service.add_handlers(
            Inspection(self.stats, self.history, policy, self._limits.message).handlers()
        )
        self.tracing = Tracing(id, self.history, routing.peers, policy)
        """Finds what the collective knows of a trace."""
        self._service.add_handlers(self.tracing.handlers())
        self._service.add_handlers(self._health.handlers())
        self._registry: AttachedRegistry | None = None
        if registry is not None:
            self._registry = AttachedRegistry(registry, self._services, authorizer=policy, security=tls)
            self._service.add_handlers(self._registry.handlers())
        if reflection:
            reflected = Reflection(self._services)
            if self._registry is not None and self._registry.handlers():
                reflected.own.append(REGISTRY)
            self._service.add_handlers(reflected.handlers())
        self._neighbours: Neighbours | None = None
        if discovery is not None:
            self._neighbours = Neighbours(discovery, id, self._services, self._table, self._peers)
            routing.listed = self._neighbours.lists
        self._insecure = insecure
        self._members: Members | None = None
        self._xds_servers: list[XdsServer] = []
        self._server: Server | None = None
        self._changing = asyncio.Lock()

    # -- facts ---------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The name in the collective."""
        return self._id

    @property
    def address(self) -> str:
        """Where it listens: after `start()` with the real port."""
        return self._address

    @property
    def advertised(self) -> str:
        """The address that others are told; see `advertise`."""
        return advertised(self._advertise, self._address)

    @property
    def namespaces(self) -> tuple[str, ...]:
        """The namespaces that it is in."""
        return self._services.namespaces

    @property
    def registry(self) -> Registry | None:
        """Where its services are registered; None if that was not said."""
        return None if self._registry is None else self._registry.registry

    @property
    def started(self) -> bool:
        """Between `start()` and `stop()`."""
        return self._server is not None

    def stats(self) -> CollectorStats:
        """The figures of this moment: calls, failures, peers, routes."""
        state = "stopped" if self._server is None else "draining" if self._peers.draining else "serving"
        return snapshot(
            self._id,
            self._address,
            state,
            self._service.epoch / 1000 if self.started else 0.0,
            self._services,
            self._local,
            self._routing,
            self._figures,
            self.members,
        )

    @property
    def history(self) -> History:
        """The last calls, the newest at the end: a bounded sequence of `DispatchRecord`."""
        return self._figures.history

    def __repr__(self) -> str:
        return f"<Collector {self._id} {self._address}{'' if self.started else ' (not started)'}>"

    # -- life ----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen and serve.

        Raises:
            SocketError: the address cannot be listened on.
            CollectiveError: it is started already, or its registry cannot be opened.
            InvalidArgumentError: its discovery cannot be started: it is in use by another collector, say.
        """
        async with self._changing:
            if self._server is not None:
                raise call_error(GrpcStatus.FAILED_PRECONDITION, f"collector {self._id} is started already")
            if self._registry is not None:
                await self._registry.start()
            try:
                server = Server(
                    self._service, self._asked_address, security=self._tls, message=self._limits.message
                )
                try:
                    await server.listen()
                    self._service.link_port = await self._trunks.open(server.address)
                except BaseException:
                    await server.stop(None)
                    raise
            except BaseException:
                if self._registry is not None:
                    await self._registry.stop()
                raise
            self._address = server.address
            self._service.address = self.advertised
            self._service.router = self._router
            self._service.epoch = time.time_ns() // 1_000_000
            self._origins.start()
            self._peers.start(self.advertised, self._service.epoch)
            host, _ = split_address(self.advertised)
            if host is not None and is_any(host):
                log.warning(
                    "%s: others are told %s, which only this machine can dial: give advertise=",
                    self._id,
                    self.advertised,
                )
            await server.start()
            self._server = server
            self._health.set_serving(True)
            await self._router.start()
            if self._neighbours is not None:
                try:
                    await self._neighbours.start(self.advertised, self._service.epoch)
                except BaseException:
                    await self._end(0.0)
                    raise

    async def stop(self, grace: float = 5.0) -> None:
        """Refuse new calls, wait up to `grace` seconds for those that run, and end. Harmless when it is not started."""
        needed_seconds("grace", grace, zero=True)
        async with self._changing:
            await self._end(grace)

    async def _end(self, grace: float) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        self._health.set_serving(False)
        if self._members is not None:
            self._members.changed()
        try:
            # Links last as long as their peers: the server would wait for them.
            leaving = self._peers.leave(min(grace, _TOLD_WITHIN))
            if self._neighbours is None:
                await leaving
            else:
                await asyncio.gather(self._neighbours.stop(), leaving)
            self._origins.stop()
            self._origins.part()
            await asyncio.gather(server.stop(grace), self._trunks.close(grace))
            await self._router.stop()
            if self._registry is not None:
                await self._registry.stop()
        finally:
            while self._xds_servers:
                await self._xds_servers.pop().stop()
            self._address = self._asked_address

    async def drain(self, grace: float = 30.0) -> None:
        """Have no more calls sent here, and return when those that run have ended, or after `grace` seconds.

        Health says NOT_SERVING, discovery and the peers are told first; what arrives before they have applied it is served. The
        collector goes on listening: `stop()` ends it. WebSockets to its origins are closed with 1012.

        Raises:
            CollectiveError: it is not started.
            MeshTimeoutError: some peers have not answered within 5 s; it names them. What runs has ended all the same.
        """
        needed_seconds("grace", grace, zero=True)
        self._check_started()
        deadline = time.monotonic() + grace
        self._health.set_serving(False)
        self._peers.draining = True
        if self._members is not None:
            self._members.changed()
        # An etcd that does not answer keeps nobody from being told.
        withdrawing = None if self._neighbours is None else asyncio.create_task(self._neighbours.withdraw())
        silence: MeshTimeoutError | None = None
        try:
            await self._announcer.announce(draining=True)
        except MeshTimeoutError as error:
            silence = error  # the calls of the others have to end
        finally:
            if withdrawing is not None:
                await withdrawing
        self._origins.part()
        try:
            with Until(deadline):
                await self._local.idle()
                await self._routing.idle()
        except Expired:
            if self._local.in_flight:
                log.warning(
                    "%s: %d calls still run after a grace of %g s", self._id, self._local.in_flight, grace
                )
        if silence is not None:
            raise silence

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _reached(self) -> str | None:
        return self.advertised if self.started else None

    def _check_started(self) -> None:
        if self._server is None:
            raise call_error(GrpcStatus.FAILED_PRECONDITION, f"collector {self._id} is not started")

"""A collector: one process of a collective, its methods, and its way to the methods of others.

    async with Collector("collector-001", "127.0.0.1:50051", namespaces=["orders"]) as collector:
        collector.register_service("orders", "OrderService", "CreateOrder", create_order)
        result = await collector.dispatch("orders", "OrderService", "CreateOrder", {"sku": "a-1"})

The parts that a collector joins are said in `contracts.py`. It owns all of them, and lives on the event loop on which
it was started.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import re
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage

from ..core.errors import InvalidArgumentError
from ..core.grpc_status import GrpcStatus
from ..wire.grpc.metadata import MetadataInput
from . import metadata as _metadata
from .admission import Admission
from .context import CallContext, current
from .contracts import (
    Announcer,
    Authorizer,
    Call,
    Executor,
    MemberRecord,
    Pairs,
    Router,
    TransportSecurity,
)
from .data_plane import Server, is_loopback, split_address
from .deadline import Expired, Until
from .errors import CollectiveError, call_error
from .health import Health
from .history import History
from .inspection import Inspection, snapshot
from .local import LocalExecutor
from .names import CallKind, LocalServices, MethodSpec, RouteKey, checked_name
from .neighbours import Neighbours
from .peer import Connection, ConnectResult
from .policies import Breaker, Limits, Retry
from .reflection import Reflection
from .registry.attached import AttachedRegistry
from .registry.server import SERVICE as REGISTRY
from .results import OK, DispatchResult, DispatchStream, Status
from .router import CollectiveRouter
from .service import CollectiveService
from .servicer import specs_of
from .stats import CollectorStats, Passing
from .tls import as_security, authenticates
from .values import from_any, parse_any, to_any

if TYPE_CHECKING:
    from google.protobuf.descriptor import ServiceDescriptor

    from .registry.registry import Registry
    from .xds.members import Members
    from .xds.server import XdsServer


log = logging.getLogger("dodici.collective")
_H = TypeVar("_H", bound=Callable[..., Any])
_ID = re.compile(r"[A-Za-z0-9_.:@+~-]{1,128}").fullmatch
_TOLD_WITHIN = 1.0
"""Seconds that `stop()` waits for peers to stop choosing this collector."""
BALANCE = ("p2c", "round_robin", "least_request", "weighted", "hash")


class Collector:
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

    Raises:
        InvalidArgumentError: an argument is wrong, or the address is not loopback and neither `tls` nor `insecure`
            is given.
    """

    def __init__(
        self,
        id: str,  # noqa: A002
        address: str,
        *,
        namespaces: Iterable[str] = (),
        validator: Any = None,
        registry: Any = None,
        discovery: Any = None,
        balance: str = "p2c",
        retry: Retry | None = None,
        breaker: Breaker | None = None,
        limits: Limits | None = None,
        tls: TransportSecurity | Mapping[str, Any] | None = None,
        insecure: bool = False,
        policy: Authorizer | None = None,
        default_timeout: float | None = 30.0,
        max_hops: int = 4,
        local_first: bool = True,
        reflection: bool = True,
    ) -> None:
        if not isinstance(id, str) or _ID(id) is None:
            raise InvalidArgumentError(f"id must be 1 to 128 letters, digits or '_.:@+~-': not {id!r}")
        split_address(address)
        if isinstance(namespaces, str | bytes) or not isinstance(namespaces, Iterable):
            raise InvalidArgumentError(f"namespaces must be a list of str, not {namespaces!r}")
        if balance not in BALANCE:
            raise InvalidArgumentError(f"balance must be one of {', '.join(BALANCE)}; not {balance!r}")
        tls = as_security(tls)
        if tls is None and not insecure and not is_loopback(address):
            raise InvalidArgumentError(
                f"{address} can be reached by other machines, and there is no tls=: give it, or spell out insecure=True"
            )
        for name, policy_given, due in (
            ("retry", retry, Retry),
            ("breaker", breaker, Breaker),
            ("limits", limits, Limits),
        ):
            if policy_given is not None and not isinstance(policy_given, due):
                raise InvalidArgumentError(
                    f"{name} must be a {due.__name__}, not {type(policy_given).__name__}"
                )
        if policy is not None and not callable(getattr(policy, "check", None)):
            raise InvalidArgumentError(f"policy must be a Policy, not {type(policy).__name__}")
        if isinstance(max_hops, bool) or not isinstance(max_hops, int) or not 1 <= max_hops <= 32:
            raise InvalidArgumentError(f"max_hops must be 1 to 32, not {max_hops!r}")
        self._default_timeout = _seconds("default_timeout", default_timeout)
        self._id = id
        self._asked_address = self._address = address
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
        self._service.peers = self._peers
        self._routing = routing
        self._figures = self._local.recorder = routing.figures = self._service.figures
        self._service.add_handlers(Inspection(self.stats, self.history, policy).handlers())
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

    # -- what it serves ------------------------------------------------------------------------------------

    def register_service(
        self,
        namespace: str,
        service: str,
        method: str,
        handler: Callable[..., Any],
        *,
        idempotent: bool = False,
        kind: str = "unary_unary",
    ) -> None:
        """Serve a method, from now on; the collector joins the namespace.

        Args:
            namespace: where it is called.
            service: the name under which it is called, exactly as given here.
            method: likewise.
            handler: takes (`CallContext`, input). Async, or a plain function that does not block; an async generator for the
                kinds that stream their output. A streaming input is an async iterator.
            idempotent: calling it twice does no harm: a call that may have reached a peer which then failed is repeated.
            kind: ``"unary_unary"``, ``"unary_stream"``, ``"stream_unary"`` or ``"stream_stream"``.

        Raises:
            InvalidArgumentError: a name is empty, impossible or taken, or the handler does not fit the kind.
        """
        chosen = _kind(kind)
        if not callable(handler):
            raise InvalidArgumentError(f"handler must be callable, not {type(handler).__name__}")
        if _is_generator(handler) and not chosen.streams_out:
            raise InvalidArgumentError(
                f"the handler of {namespace}/{service}.{method} is a generator: give kind='unary_stream' or 'stream_stream'"
            )
        self._services.add([MethodSpec(namespace, service, method, handler, chosen, bool(idempotent))])

    def method(
        self,
        namespace: str,
        service: str,
        method: str,
        *,
        idempotent: bool = False,
        kind: str = "unary_unary",
    ) -> Callable[[_H], _H]:
        """The decorator form of `register_service`."""

        def register(handler: _H) -> _H:
            self.register_service(namespace, service, method, handler, idempotent=idempotent, kind=kind)
            return handler

        return register

    def add_service(self, namespace: str, servicer: Any, descriptor: ServiceDescriptor) -> None:
        """Serve all methods of a servicer whose base protoc has generated.

        They are found under the service's full name and, if no other in the namespace has it, under its short one.
        Idempotent are the methods whose option `idempotency_level` says so.

        Args:
            namespace: where it is served.
            servicer: has a method for each of the service's, which takes (request, context).
            descriptor: such as ``shop_pb2.DESCRIPTOR.services_by_name["OrderService"]``.

        Raises:
            InvalidArgumentError: the servicer lacks a method, or a name is taken.
        """
        checked_name("namespace", namespace)
        self._services.add(specs_of(namespace, servicer, descriptor), descriptor=descriptor)

    def set_registry_validator(self, validator: Any) -> None:
        """Ask a validator about each call that begins from now on; None: ask nobody.

        Args:
            validator: an object with `validate_service_method(namespace, service, method)`, or a callable with these
                arguments; async or not. Raising, or returning anything but True or None, refuses the call with NOT_FOUND.

        Raises:
            InvalidArgumentError: it is neither.
        """
        self._admission.set_validator(validator)

    async def join(self, namespace: str) -> None:
        """Enter a namespace; returns when the connected peers have applied it.

        Raises:
            InvalidArgumentError: it is no name.
            MeshTimeoutError: some peers have not answered within 5 s; it names them. The change stays.
        """
        if self._services.join(namespace):
            await self._announcer.announce()

    async def leave(self, namespace: str) -> None:
        """Leave a namespace: its methods are not found any more, until it is joined again. Calls that run go on.

        Raises:
            MeshTimeoutError: see `join`.
        """
        if self._services.leave(namespace):
            await self._announcer.announce()

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
            except BaseException:
                if self._registry is not None:
                    await self._registry.stop()
                raise
            self._address = self._service.address = server.address
            self._service.router = self._router
            self._service.epoch = time.time_ns() // 1_000_000
            self._peers.start(server.address, self._service.epoch)
            await server.start()
            self._server = server
            self._health.set_serving(True)
            await self._router.start()
            if self._neighbours is not None:
                try:
                    await self._neighbours.start(server.address, self._service.epoch)
                except BaseException:
                    await self._end(0.0)
                    raise

    async def stop(self, grace: float = 5.0) -> None:
        """Refuse new calls, wait up to `grace` seconds for those that run, and end. Harmless when it is not started."""
        _seconds("grace", grace, zero=True)
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
            await server.stop(grace)
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
        collector goes on listening: `stop()` ends it.

        Raises:
            CollectiveError: it is not started.
            MeshTimeoutError: some peers have not answered within 5 s; it names them.
        """
        _seconds("grace", grace, zero=True)
        self._check_started()
        deadline = time.monotonic() + grace
        self._health.set_serving(False)
        self._peers.draining = True
        if self._members is not None:
            self._members.changed()
        # An etcd that does not answer keeps nobody from being told.
        withdrawing = None if self._neighbours is None else asyncio.create_task(self._neighbours.withdraw())
        try:
            await self._announcer.announce(draining=True)
        finally:
            if withdrawing is not None:
                await withdrawing
        try:
            with Until(deadline):
                await self._local.idle()
                await self._routing.idle()
        except Expired:
            if self._local.in_flight:
                log.warning(
                    "%s: %d calls still run after a grace of %g s", self._id, self._local.in_flight, grace
                )

    async def xds_server(self, address: str = "127.0.0.1:0") -> XdsServer:
        """Tell service meshes who the members are: a server of xDS, for `xds:///` targets and Envoy.

        There is a listener, a route configuration and a cluster for each namespace that this collector is in, named after
        it. Its endpoints are those members that accept calls for it, as far as this collector is connected to them. It ends
        with the collector, and has the same credentials.

        Args:
            address: where it listens; its `address` has the real port.

        Raises:
            CollectiveError: the collector is not started.
            InvalidArgumentError: the address is not loopback, and the collector has neither `tls` nor `insecure`.
            NotSupportedError: xds-protos is not installed.
            SocketError: the address cannot be listened on.
        """
        from .xds.members import Members
        from .xds.server import XdsServer

        self._check_started()
        if self._members is None:
            self._members = Members(
                self._services, self._table, self._peers, lambda: self._address if self.started else None
            )
        server = XdsServer(self._members, address, security=self._tls, insecure=self._insecure)
        await server.start()
        self._xds_servers.append(server)
        return server

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _check_started(self) -> None:
        if self._server is None:
            raise call_error(GrpcStatus.FAILED_PRECONDITION, f"collector {self._id} is not started")

    # -- other collectors ----------------------------------------------------------------------------------

    async def connect_to(
        self, address: str, namespaces: Iterable[str] | None = None, *, timeout: float = 10.0
    ) -> ConnectResult:
        """Connect to another collector. It dials back, and each of the two can send calls to the other.

        The connection is kept: it is made anew when it is lost, by whichever of the two finds the other first. To connect
        to a collector that is connected already changes its namespaces, and nothing else.

        Args:
            address: where it listens.
            namespaces: those to share with it, of the collector's own; None: all, also those that it joins later.
            timeout: seconds.

        Raises:
            InvalidArgumentError: not an address, or no names.
            CollectiveError: UNAVAILABLE: nobody has answered in time. What the other end says, if it refuses. In either case
                there is no connection.
        """
        seconds = _seconds("timeout", timeout)
        assert seconds is not None
        self._check_started()
        return await self._peers.connect_to(address, namespaces, seconds)

    async def disconnect(self, name: str) -> None:
        """Close a connection, at both ends. Calls on it fail. A member that discovery tells of is connected again.

        Args:
            name: id of the connection, or of the collector at the other end.

        Raises:
            CollectiveError: NOT_FOUND: there is none.
        """
        self._peers.disconnect(name)
        await self._peers.disposed()

    @property
    def connections(self) -> tuple[Connection, ...]:
        """The connections to other collectors, those included that are lost and dialled again."""
        return self._peers.connections

    @property
    def members(self) -> tuple[MemberRecord, ...]:
        """The other collectors that discovery knows, connected or not, and how; none before `start()`."""
        return () if self._neighbours is None else self._neighbours.members

    # -- calls ---------------------------------------------------------------------------------------------

    async def dispatch(
        self,
        namespace: str,
        service: str,
        method: str,
        input: Any = None,  # noqa: A002
        *,
        target: str | None = None,
        timeout: float | None = None,
        metadata: MetadataInput = None,
    ) -> DispatchResult:
        """Call a unary method, wherever the collective has it. A failure is told in the result's status.

        Args:
            namespace: with `service` and `method`, what is called.
            service: see there.
            method: see there.
            input: None, bool, int, float, str, bytes, dict, list, or a protobuf message.
            target: id of the collector that has to run it; None: this one or a peer.
            timeout: seconds; None: the collector's `default_timeout`. Within a handler never more than is left of its call.
            metadata: sent with the call: a mapping, or pairs; values are bytes under names in ``-bin``.

        Raises:
            InvalidArgumentError: an argument of a wrong type, or an input that has no form on the wire.
            CollectiveError: the collector is not started.
        """
        call = self._call(namespace, service, method, target, timeout, metadata)
        return await self._unary(call, to_any(input))

    async def serve(
        self,
        namespace: str,
        service: str,
        method: str,
        input: Any = None,  # noqa: A002
        *,
        timeout: float | None = None,
        metadata: MetadataInput = None,
    ) -> DispatchResult:
        """As `dispatch`, of a method of this collector alone."""
        call = self._call(namespace, service, method, None, timeout, metadata)
        call.forwardable = False
        return await self._unary(call, to_any(input))

    def dispatch_stream(
        self,
        namespace: str,
        service: str,
        method: str,
        input: Any = None,  # noqa: A002
        *,
        kind: str | None = None,
        target: str | None = None,
        timeout: float | None = None,
        metadata: MetadataInput = None,
    ) -> DispatchStream:
        """Call a method of any kind.

        Args:
            namespace: with `service` and `method`, what is called.
            service: see there.
            method: see there.
            input: a value as for `dispatch`; for kinds that stream their input an iterable or async iterable of such
                values.
            kind: needed only for a method that neither this collector nor a peer has told of.
            target: as for `dispatch`.
            timeout: as for `dispatch`; of the whole call.
            metadata: as for `dispatch`.

        Raises:
            InvalidArgumentError: as for `dispatch`.
            CollectiveError: the collector is not started.
        """
        return self._streamed(self._call(namespace, service, method, target, timeout, metadata), input, kind)

    def serve_stream(
        self,
        namespace: str,
        service: str,
        method: str,
        input: Any = None,  # noqa: A002
        *,
        timeout: float | None = None,
        metadata: MetadataInput = None,
    ) -> DispatchStream:
        """As `dispatch_stream`, of a method of this collector alone."""
        call = self._call(namespace, service, method, None, timeout, metadata)
        call.forwardable = False
        return self._streamed(call, input, None)

    def _call(
        self,
        namespace: str,
        service: str,
        method: str,
        target: str | None,
        timeout: float | None,
        metadata: MetadataInput,
    ) -> Call:
        for name, value in (("namespace", namespace), ("service", service), ("method", method)):
            if not isinstance(value, str):
                raise InvalidArgumentError(f"{name} must be a str, not {type(value).__name__}")
        if target is not None and not isinstance(target, str):
            raise InvalidArgumentError(f"target must be a collector's id, not {type(target).__name__}")
        pairs = _metadata.given(metadata)
        seconds = self._default_timeout if timeout is None else _seconds("timeout", timeout)
        self._check_started()
        deadline = None if seconds is None else time.monotonic() + seconds
        around = current.get()
        caller = None
        if around is not None:
            caller = around._call.caller
            if around.deadline is not None:
                deadline = around.deadline if deadline is None else min(deadline, around.deadline)
        pairs = (*pairs, *self._carried(around, {name for name, _ in pairs}))
        return Call(
            RouteKey(namespace, service, method),
            metadata=pairs,
            deadline=deadline,
            encoding="any",
            target=target or None,
            caller=caller,
        )

    def _carried(self, around: CallContext | None, given: set[str]) -> Pairs:
        """What a call made now carries of the trace that it belongs to, where the caller has not said it."""
        found: Pairs = () if self._local.spans is None else self._local.spans.carried()
        if around is not None and not any(name == "traceparent" for name, _ in found):
            trace = around.trace
            found = (("traceparent", trace.traceparent),)
            if trace.tracestate:
                found = (*found, ("tracestate", trace.tracestate))
        if around is not None and not any(name == "baggage" for name, _ in found):
            found = (*found, *(each for each in around._call.metadata if each[0] == "baggage"))
        if "traceparent" in given:
            return tuple(each for each in found if each[0] == "baggage" and "baggage" not in given)
        return tuple(each for each in found if each[0] not in given)

    async def _executor(self, call: Call) -> Executor:
        for name, value in zip(("namespace", "service", "method"), call.key, strict=True):
            if not value:
                raise call_error(GrpcStatus.INVALID_ARGUMENT, f"{name} is empty")
        if not self._admission.free:
            await self._admission.check(call)
        if not call.forwardable or self._router.runs_here(call):
            return self._local
        return await self._router.route(call)

    async def _unary(self, call: Call, given: AnyMessage) -> DispatchResult:
        call.kind = CallKind.UNARY_UNARY
        try:
            with Passing(self._figures, call):
                executor = await self._executor(call)
                answer = await executor.unary(call, given.SerializeToString())
                output = await self._output(call, answer)
        except CollectiveError as error:
            return _result(call, error, None)
        return _result(call, None, output)

    async def _output(self, call: Call, answer: bytes) -> Any:
        output = from_any(parse_any(answer, GrpcStatus.INTERNAL))
        if self._registry is not None and isinstance(output, AnyMessage):
            return await self._registry.unpack(call.key, output)
        return output

    def _streamed(self, call: Call, given: Any, kind: str | None) -> DispatchStream:
        known = self._router.kind_of(call.key) if kind is None else _kind(kind)
        if known is None:
            known = CallKind.STREAM_STREAM if isinstance(given, AsyncIterable) else CallKind.UNARY_STREAM
        call.kind = known
        if known.streams_in:
            if not isinstance(given, AsyncIterable | Iterable) or isinstance(given, str | bytes | Mapping):
                raise InvalidArgumentError(
                    f"the input of {call.key} is a stream: give an iterable of values, not {type(given).__name__}"
                )
            payloads = _payloads(given)
        else:
            payloads = _payloads([to_any(given)])

        def finish(error: CollectiveError | None, last: Any) -> DispatchResult:
            return _result(call, error, last)

        return DispatchStream(self._outputs(call, payloads), finish)

    async def _outputs(self, call: Call, payloads: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        answers: Any = None
        try:
            with Passing(self._figures, call):
                executor = await self._executor(call)
                answers = executor.stream(call, payloads)
                async for answer in answers:
                    yield await self._output(call, answer)
        finally:
            for stream in (answers, payloads):
                close = getattr(stream, "aclose", None)
                if close is not None:
                    await close()


async def _payloads(values: AsyncIterable[Any] | Iterable[Any]) -> AsyncIterator[bytes]:
    try:
        if isinstance(values, AsyncIterable):
            async for value in values:
                yield to_any(value).SerializeToString()
        else:
            for value in values:
                yield to_any(value).SerializeToString()
    finally:
        close = getattr(values, "aclose", None)
        if close is not None:
            await close()


def _result(call: Call, error: CollectiveError | None, output: Any) -> DispatchResult:
    metadata = _metadata.as_mapping(call.trailing)
    if error is None:
        return DispatchResult(OK, output, call.handled_by, metadata)
    status = Status(
        error.grpc_status, error.message, {**error.details, "grpc-status": error.grpc_status.name}
    )
    return DispatchResult(status, None, call.handled_by, metadata, error)


def _seconds(name: str, value: Any, *, zero: bool = False) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidArgumentError(f"{name} must be seconds, not {value!r}")
    if value < 0 or (value == 0 and not zero):
        raise InvalidArgumentError(f"{name} must be more than 0 seconds, not {value!r}")
    return float(value)


def _kind(kind: Any) -> CallKind:
    try:
        return CallKind(kind)
    except ValueError:
        raise InvalidArgumentError(f"kind must be one of {', '.join(CallKind)}; not {kind!r}") from None


def _is_generator(handler: Callable[..., Any]) -> bool:
    function = getattr(handler, "__call__", handler) if not inspect.isroutine(handler) else handler  # noqa: B004
    return inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function)

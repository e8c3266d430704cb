"""What the parts of a collector promise each other.

    CollectiveService (service.py)   the gRPC face: makes a `Call` of what arrives, and answers
    LocalExecutor (local.py)         runs a method of this collector
    Router (router.py)               says who runs a call: this collector, or the way to another
    Balancer (balance/picker.py)     chooses one of the peers that could
    Announcer (announce.py)          tells the peers what this collector serves
    Discovery (discovery/)           says which collectors there are
    Validator, Authorizer            say what may be called at all, and by whom

Everything happens on the event loop of the collector. Only `data_plane` knows grpc, only the router knows peers.
A payload between these parts is bytes: a message of the method's own type, or, where `Call.encoding` is "any", a
serialized `google.protobuf.Any`. Nothing on the way to another collector decodes it.

A failure is a `CollectiveError`, whose `grpc_status` is the one that the caller sees.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

from ..core.grpc_status import GrpcStatus
from .errors import call_error
from .names import RouteKey

if TYPE_CHECKING:
    import ssl

    from ..wire.grpc.metadata import GrpcMetadata
    from .names import CallKind
    from .trace import Trace

Encoding: TypeAlias = Literal["raw", "any"]
Pairs: TypeAlias = "tuple[tuple[str, str | bytes], ...]"
"""Metadata as grpc takes and gives it: values are bytes under names in -bin."""


@dataclass(slots=True, eq=False)
class Call:
    """A call on its way: from a face of this collector, or from `dispatch()`, to whoever runs it.

    `metadata` is the application's own: hop metadata was taken out of it, into the fields here. What follows
    `forwardable` is filled in on the way, and is complete when the call has ended, also when it has failed.
    """

    key: RouteKey
    kind: CallKind | None = None
    """None if nobody has said: what arrives on the transparent face does not say it."""
    metadata: Pairs = ()
    deadline: float | None = None
    """On the clock of `time.monotonic()`."""
    encoding: Encoding = "raw"
    """Of its payloads, and of those of its answer."""
    target: str | None = None
    path: tuple[str, ...] = ()
    """Ids of the collectors that it has passed, the entry first; without this one."""
    attempt: int = 0
    """How often the entry collector had tried it before."""
    caller: Identity | None = None
    """The end caller: authenticated here, or vouched for by an authenticated peer."""
    peer: str = ""
    """Address of whoever sent it here; empty for calls of this process."""
    from_collector: str | None = None
    """Id of the collector that sent it here; None if a client did."""
    forwardable: bool = True
    """False for Serve: run it here or fail."""

    initial: Pairs = ()
    trailing: Pairs = ()
    handled_by: str = ""
    via: str = ""
    """Id of the peer that it was last sent to."""
    trace: Trace | None = None
    """That of the handler which runs it here, if it was asked for."""
    parent: str = ""
    """Id of the span that asked for it, where that is not the one which `traceparent` names."""
    span: Trace | None = None
    """This collector's part in it: see `trace.passing`."""
    named: tuple[Pairs, Trace | None] | None = None
    """The trace that a state of `metadata` names: see `trace.named`."""


class Executor(Protocol):
    """Runs a call: here, or by sending it on."""

    async def unary(self, call: Call, payload: bytes) -> bytes:
        """Run a call with one message in and one out.

        Raises:
            CollectiveError: it failed; `call.trailing` is filled in all the same.
        """

    def stream(self, call: Call, payloads: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Run a call of any kind. Ending the iteration early cancels it.

        Raises:
            CollectiveError: it failed, from the iteration; what came before it was delivered.
        """


class Router(Protocol):
    """Says who runs a call. See `router.py`."""

    def runs_here(self, call: Call) -> bool:
        """Whether this collector runs it, at once: the fast path, without a task or a future.

        False where that is not certain: `route()` then decides.
        """

    async def route(self, call: Call) -> Executor:
        """The executor for the call. May wait for room, but not beyond `call.deadline`.

        Raises:
            CollectiveError: nobody can run it (NOT_FOUND, UNIMPLEMENTED), nobody can now (UNAVAILABLE), or the path is a loop
                or too long (FAILED_PRECONDITION, with `details["path"]`).
        """

    def kind_of(self, key: RouteKey) -> CallKind | None:
        """The kind of a method, as far as local services or announcements tell."""

    def known_as(self, key: RouteKey) -> RouteKey | None:
        """The name under which a method is served or announced: its own, that of all methods of its service, or None."""

    async def start(self) -> None: ...

    async def stop(self) -> None:
        """Give up every peer. Calls that run elsewhere fail with UNAVAILABLE."""


class PeerBook(Protocol):
    """Knows which calls come from collectors, so that their hop metadata is believed."""

    def recognise(self, connection: str | None, peer: str, identity: Identity) -> str | None:
        """The id of the collector that sent this, or None: a client.

        `connection` is what the sender gives as its connection's id, `peer` its address.
        """

    async def connect(self, request: Connecting) -> Connected:
        """A collector has called Connect: share namespaces, and dial it back.

        Raises:
            CollectiveError: refused.
        """

    def link(
        self, connection: str | None, peer: str, identity: Identity, frames: AsyncIterator[bytes]
    ) -> AsyncIterator[bytes]:
        """A collector has opened its Link stream: serialized frames in, serialized frames out.

        Raises:
            CollectiveError: refused, from the iteration.
        """


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is at the other end of a connection, as its certificate says. All empty without TLS."""

    names: tuple[str, ...] = ()
    """URIs first, then DNS names, then the common name. Only a name that is an URI in the certificate looks like one."""
    tls: bool = False

    @property
    def name(self) -> str | None:
        """The first of the names."""
        return self.names[0] if self.names else None


@dataclass(frozen=True, slots=True)
class Connecting:
    """What a collector says in Connect, and where it comes from."""

    collector_id: str
    address: str
    namespaces: tuple[str, ...]
    epoch: int = 0
    peer: str = ""
    identity: Identity = field(default_factory=Identity)


@dataclass(frozen=True, slots=True)
class Connected:
    """The answer to Connect."""

    connection_id: str
    shared_namespaces: tuple[str, ...]


class NoPeers:
    """The peer book of a collector that nobody may connect to."""

    def recognise(self, connection: str | None, peer: str, identity: Identity) -> str | None:
        return None

    async def connect(self, request: Connecting) -> Connected:
        raise call_error(GrpcStatus.UNIMPLEMENTED, "this collector takes no connections of others")

    async def link(
        self, connection: str | None, peer: str, identity: Identity, frames: AsyncIterator[bytes]
    ) -> AsyncIterator[bytes]:
        raise call_error(GrpcStatus.UNIMPLEMENTED, "this collector has no links")
        yield b""


class Announcer(Protocol):
    """Tells the peers what this collector serves."""

    async def announce(self, *, draining: bool = False) -> None:
        """Publish the state as it is now, and return when every connected peer has applied it.

        Raises:
            MeshTimeoutError: some have not within 5 s; it names them.
        """


class Balancer(Protocol):
    """Chooses a peer. See `balance/picker.py`; sans-IO, its clock is injected."""

    def pick(
        self, candidates: Any, *, excluded: Collection[str] = (), key: str | bytes | None = None
    ) -> Any | None:
        """One of the candidates that may be chosen now, or None."""

    def started(self, peer: Any) -> Any:
        """A call is sent to what `pick()` has returned. Returns the ticket that `finished()` wants."""

    def finished(self, ticket: Any, outcome: Any, seconds: float) -> None:
        """A call has ended."""


@runtime_checkable
class Validator(Protocol):
    """Says whether a method may be called at all. A plain callable with the same arguments will do, too."""

    def validate_service_method(
        self, namespace: str, service: str, method: str
    ) -> bool | Awaitable[bool | None] | None:
        """Raise, or return False, to refuse. Failing to answer refuses."""


class Authorizer(Protocol):
    """Says who may call what."""

    def check(self, identity: Identity | str | None, namespace: str, service: str, method: str) -> None:
        """Return if the identity may call it.

        Raises:
            CollectiveError: PERMISSION_DENIED, or UNAUTHENTICATED where there is no identity.
        """


class AllowAll:
    """The authorizer where no policy is given."""

    def check(self, identity: Identity | str | None, namespace: str, service: str, method: str) -> None:
        pass


@dataclass(frozen=True, slots=True)
class MemberRecord:
    """A collector as discovery knows it."""

    id: str
    """Empty while only its address is known."""
    address: str
    namespaces: tuple[str, ...] = ()
    epoch: int = 0
    started: float = 0.0
    """POSIX time."""
    source: str = "static"
    """``"static"`` or ``"etcd"``."""
    alive: bool = True
    last_seen: float = 0.0
    """POSIX time."""


@dataclass(frozen=True, slots=True)
class MembersChanged:
    """What has changed among the members since the last time."""

    added: tuple[MemberRecord, ...] = ()
    changed: tuple[MemberRecord, ...] = ()
    removed: tuple[MemberRecord, ...] = ()


@runtime_checkable
class Discovery(Protocol):
    """Says which collectors there are."""

    async def start(self, self_record: MemberRecord, on_change: Callable[[MembersChanged], None]) -> None:
        """Make this collector known, and begin to tell about the others. Never waits for whoever keeps the list."""

    async def update(self, self_record: MemberRecord) -> None:
        """This collector's record has changed: it has joined or left a namespace."""

    async def withdraw(self) -> None:
        """Take this collector's record back, and go on telling about the others: it drains."""

    @property
    def members(self) -> Mapping[str, MemberRecord]:
        """The others, by id (by address while the id is not known)."""

    async def stop(self) -> None:
        """Take this collector's record back, and end."""


@runtime_checkable
class TransportSecurity(Protocol):
    """Makes the credentials of a client. See `tls.py`."""

    def channel_credentials(self) -> Any: ...

    def channel_options(self) -> Iterable[tuple[str, Any]]: ...


@runtime_checkable
class RenewedSecurity(Protocol):
    """What a `TransportSecurity` has, too, whose certificates change while channels are open."""

    def generation(self) -> int:
        """Grows with each change. Asked for each call."""


@runtime_checkable
class ServerSecurity(Protocol):
    """What a `TransportSecurity` has, too, that is for servers."""

    def server_context(self, alpn: tuple[str, ...]) -> ssl.SSLContext:
        """For a connection that begins now."""

    def connection_age(self) -> tuple[float, float] | None:
        """Seconds after which a connection has to be made anew, and seconds that calls have then; None: never."""


@runtime_checkable
class CollectorSecurity(TransportSecurity, ServerSecurity, Protocol):
    """What a collector needs: it is both."""


class Span(Protocol):
    """A call that runs here, for a system of traces."""

    trace: Trace | None

    def enter(self) -> Any:
        """Its handler, or a step of it, begins. Returns what `leave` wants."""

    def leave(self, token: Any) -> None: ...

    def end(self, status: GrpcStatus) -> None:
        """The call has ended."""


class Spans(Protocol):
    """A system of traces. See `telemetry.py`."""

    def begin(self, call: Call) -> Span:
        """A call is about to be run here."""

    def carried(self) -> Pairs:
        """Metadata of the trace that a call made now belongs to; empty for none."""


class Recorder(Protocol):
    """Is told of every call, for `stats()`, history and metrics."""

    def ended(
        self,
        call: Call,
        role: Literal["entry", "forward", "serve"],
        status: GrpcStatus,
        seconds: float,
        metadata: GrpcMetadata | None = None,
    ) -> None: ...

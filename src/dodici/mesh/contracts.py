"""What the parts of the mesh promise each other.

    MeshClient (client.py)      chooses a worker for an exchange and hands it to the link with that worker
    Link (link.py)              carries exchanges to the peer, and the peer's requests to the AppHost
    AppHost (host.py)           owns the app: starts what arrives, counts what runs, drains
    Member (member.py)          one per process, thread or loop: joins the three, and speaks with the coordinator

Everything here happens on the event loop of its member. Only `AppHost` knows ASGI apps, only `Link` knows frames,
only `MeshClient` knows names, and only `Member` and the coordinator know who exists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from ..core.controller import Exchange
    from .capacity import Change
    from .snapshot import MemberInfo, MeshSnapshot

Scope: TypeAlias = "dict[str, Any]"
ASGIApp: TypeAlias = "Callable[[Scope, Any, Any], Any]"


class ServerStream(Protocol):
    """A request that arrived over a link, on its way to the app. See `server_stream.py`."""

    authority: str
    """The host that the request was sent to, such as ``"api.local"``, lower-case, without a port."""
    websocket: bool
    given_up: bool
    """The client has aborted it, or its link is lost. One that was not begun is then not begun."""

    def run(self, app: ASGIApp, state: Mapping[str, Any] | None, host: StreamOwner) -> None:
        """Make the scope and start the app on it, in a task. `state` is the lifespan's; each request gets a copy.

        `host.ended(stream)` is called once: when the app has returned and what it sent was handed to the link, or
        the client is gone.
        """

    def refuse(self, reason: str) -> None:
        """Send it back: nothing of it was seen by an app. The client may choose another worker."""

    def abort(self, reason: str) -> None:
        """End it now: the client gets `WorkerExitedError` or `BodyAbortedError` with `reason`; the app,
        `http.disconnect`, and OSError from `send()`.
        """


class StreamOwner(Protocol):
    """What a running stream tells its host, and asks of it."""

    app_errors: str
    """``"500"`` or ``"raise"``: what the client gets of an app that raises before its head."""
    trace: bool
    """Whether requests that belong to a trace are recorded, and what their apps send joins it."""

    def on_request(self, scope: Scope) -> None:
        """`on_server_request`: before the app is called. What it raises is the request's error."""

    def on_response(self, scope: Scope, status_code: int, headers: Any) -> None:
        """`on_server_response`: the app has given its head."""

    def on_error(self, scope: Scope, error: BaseException) -> None:
        """`on_server_error`: the app raised, or broke the rules of ASGI. It is logged here."""

    def ended(self, stream: ServerStream) -> None: ...


class RequestSink(Protocol):
    """Who takes the requests that arrive over links."""

    def accept(self, stream: ServerStream) -> None:
        """A request's head has arrived. Called by the reader: only queues it, in order."""


class PeerLink(Protocol):
    """A link, as `MeshClient` and `Member` see it."""

    peer: MemberInfo
    lost: bool
    """Nothing more can be sent or received."""
    running: int
    """Exchanges of ours on it."""

    @property
    def unwritten(self) -> int:
        """Bytes that were sent, and that the kernel has not taken yet."""

    def offer(self, exchange: Exchange) -> None:
        """Carry an exchange: from now on the link's stream is its carrier. Nothing is called back in here."""

    async def barrier(self) -> None:
        """Return when everything that the peer had sent before has arrived here: its answer comes behind it.
        Also when the link is lost.
        """

    def close(self) -> None:
        """Send what is pending, then close. Exchanges that run on it fail."""

    def abort(self, error: BaseException) -> None:
        """Close now. Exchanges that run on it fail with WorkerExitedError or BodyAbortedError, caused by `error`;
        the peer's requests see a disconnect.
        """


class LinkOwner(Protocol):
    """What a link tells the member that made it."""

    def link_lost(self, link: PeerLink, error: BaseException | None, unsent: list[Exchange]) -> None:
        """The link is over; called once. `unsent` were never handed to the transport: they may be sent elsewhere.
        All others have been failed.
        """

    def refused(self, link: PeerLink, exchange: Exchange, reason: str) -> None:
        """The peer did not take it, and no app has seen it. It is without a carrier now; its body was not asked for."""

    def link_idle(self, link: PeerLink) -> None:
        """Neither side has a request on it any more."""


class ClientHome(Protocol):
    """What `MeshClient` asks of the member that it belongs to."""

    member_id: str

    def connect(self, member_id: str) -> None:
        """Make a link to that member. `MeshClient.linked()` or `link_failed()` follows, never from inside."""


class SnapshotReader(Protocol):
    """Who applies snapshots: `MeshClient`."""

    def apply(self, snapshot: MeshSnapshot) -> list[Change]:
        """Apply it if it is newer than the present one. From then on no request is sent to a worker that it does
        not list as available. Returns what has to end before it may be acknowledged.
        """

    def linked(self, link: PeerLink) -> None: ...
    def link_failed(self, member_id: str, error: BaseException) -> None: ...

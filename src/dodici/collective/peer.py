"""Another collector, as this one sees it: what it is, and how a call gets there.

A unary call goes on the link where the peer takes calls there and the payload is small; else, as every other kind, it is
a call of its own on the same connection, of raw bytes. A peer without links that is asked by a caller of the envelope
is asked with Serve, which is all that such a peer need know.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from google.protobuf.message import DecodeError

from ..core.grpc_status import GrpcStatus
from . import metadata as _metadata
from .announce import Source
from .codes import from_envelope
from .contracts import Call, Identity, Pairs
from .errors import CollectiveError, call_error
from .protos import collector_pb2

if TYPE_CHECKING:
    from .balance import Candidates, Picker
    from .batch import BatchCaller
    from .data_plane import Channel
    from .link import Session
    from .protos.link_pb2 import Announcement

_LATELY = 10.0
_SERVE = "/collector.CollectiveDispatcher/Serve"


@dataclass(frozen=True, slots=True)
class ConnectResult:
    """What `connect_to` has made.

    Attributes:
        connection_id: names the connection; `disconnect` takes it.
        shared_namespaces: those whose calls may go there.
        target_collector_id: who is there.
    """

    connection_id: str
    shared_namespaces: tuple[str, ...]
    target_collector_id: str


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection to another collector.

    Attributes:
        connection_id: names it; `disconnect` takes it.
        collector_id: who is at the other end.
        address: where it is dialled.
        shared_namespaces: those whose calls may go there.
        state: ``"connected"``, ``"draining"``: it takes no new calls, or ``"lost"``: it is dialled again.
        linked: announcements come, and calls go, on a link; False for a peer that knows no links.
        since: when it was connected, or lost; POSIX time.
        last_activity: when a call last went there; POSIX time, 0.0 for never.
    """

    connection_id: str
    collector_id: str
    address: str
    shared_namespaces: tuple[str, ...]
    state: Literal["connected", "draining", "lost"]
    linked: bool
    since: float
    last_activity: float


class Peer:
    """Another collector. `Peers` owns it, and its connection.

    Args:
        id: of the other collector.
        own_id: of this one.
        channel: to it.
        advertised: where it says that it can be dialled.
    """

    def __init__(self, id: str, own_id: str, channel: Channel, advertised: str) -> None:  # noqa: A002
        self.id = id
        self.own_id = own_id
        self.channel = channel
        self.advertised = advertised
        self.source = Source(id)
        self.token = secrets.token_urlsafe(24)
        """The connection's id for the peer: what it sends with its calls, so that it is recognised."""
        self.connection = ""
        """The connection's id for this collector, given by the peer."""
        self.epoch = 0
        self.identity = Identity()
        self.wanted = False
        """This collector has asked for the connection, and keeps to it."""
        self.linking = False
        """It has answered, and its link is being opened."""
        self.session: Session | None = None
        self.batch: BatchCaller | None = None
        self.held: Announcement | None = None
        """What it has announced before it was known who it is."""
        self.keeper: asyncio.Task[None] | None = None
        self.ready = asyncio.Event()
        self.met = asyncio.Event()
        self.closed = False
        self.failure: CollectiveError | None = None
        """Why it could not be called the last time."""
        self.since = time.time()
        self.lost_at: float | None = None
        """When its link was lost, on the monotonic clock; None while it is up, or if it never was."""
        self.last_activity = 0.0
        self._lanes: dict[str, Candidates] = {}

    @property
    def live(self) -> bool:
        """It can be called, or keeps its link here open."""
        return self.source.up or self.session is not None

    @property
    def lately_lost(self) -> bool:
        """Its link was up until a moment ago. What it says, or does not say, on other ways is looked at with that in mind.

        One that cannot be dialled for longer than that may be there all the same, behind a firewall.
        """
        return self.lost_at is not None and time.monotonic() - self.lost_at < _LATELY

    def lane(self, picker: Picker, namespace: str) -> Any:
        """What the picker counts calls by that have to go to this peer."""
        lane = self._lanes.get(namespace)
        candidate = None if lane is None else lane.get(self.id)
        if candidate is None or candidate.load.gone:
            lane = self._lanes[namespace] = picker.candidates(namespace, [self.id])
            candidate = lane.get(self.id)
        return candidate

    # -- calls ---------------------------------------------------------------------------------------------

    async def unary(self, call: Call, payload: bytes, timeout: float | None) -> bytes:
        """Send a call with one message in and one out.

        Raises:
            CollectiveError: it failed; `request_not_processed` if the peer has certainly not begun it.
        """
        self.last_activity = time.time()
        call.via = self.id
        if self.source.open and call.encoding == "any":
            return await self._serve(call, payload, timeout)
        batch = self.batch
        size = len(payload)
        for name, value in call.metadata:
            size += len(name) + len(value)
        linked = batch is not None and batch.takes(size)
        carrier: Any = batch if linked else self.channel
        # On a link it is known whose the calls are.
        metadata = _metadata.outgoing(call, self.own_id, None if linked else self.connection)
        path = f"/{call.key.service}/{call.key.method}"
        hop: dict[str, str] = {}
        try:
            answer: bytes = await carrier.unary(
                path, payload, timeout=timeout, metadata=metadata, on_metadata=partial(_take, call, hop)
            )
        except CollectiveError as error:
            self._mark(error, hop)
            raise
        return answer

    async def stream(
        self, call: Call, payloads: AsyncIterator[bytes], timeout: float | None
    ) -> AsyncIterator[bytes]:
        """Send a call of any kind. Ending the iteration early cancels it.

        Raises:
            CollectiveError: as for `unary`, from the iteration.
        """
        self.last_activity = time.time()
        call.via = self.id
        metadata = _metadata.outgoing(call, self.own_id, self.connection)
        path = f"/{call.key.service}/{call.key.method}"
        hop: dict[str, str] = {}
        answers: Any = self.channel.stream(
            path, payloads, timeout=timeout, metadata=metadata, on_metadata=partial(_take, call, hop)
        )
        try:
            async for answer in answers:
                yield answer
        except CollectiveError as error:
            self._mark(error, hop)
            raise
        finally:
            await answers.aclose()

    async def _serve(self, call: Call, payload: bytes, timeout: float | None) -> bytes:
        request = collector_pb2.ServeRequest(namespace=call.key.namespace, method_name=call.key.method)
        request.service.namespace, request.service.service_name = call.key.namespace, call.key.service
        request.input.ParseFromString(payload)
        hop: dict[str, str] = {}
        try:
            data = await self.channel.unary(
                _SERVE,
                request.SerializeToString(),
                timeout=timeout,
                metadata=_metadata.outgoing(call, self.own_id, self.connection),
                on_metadata=partial(_take, call, hop),
            )
            answer = collector_pb2.ServeResponse.FromString(data)
        except DecodeError as error:
            raise call_error(
                GrpcStatus.INTERNAL, f"{self.id} has answered with no ServeResponse: {error}", peer=self.id
            ) from error
        call.handled_by = answer.executor_id or self.id
        status = answer.status
        if status.code != 200:
            details = dict(status.details)
            found = from_envelope(status.code, details.pop("grpc-status", None))
            raise call_error(found, status.message, details=details, peer=self.id)
        return answer.output.SerializeToString()

    def _mark(self, error: CollectiveError, hop: dict[str, str]) -> None:
        if _metadata.UNSENT in hop:
            error.request_not_processed = error.refused = True
        error.behind = _metadata.BEHIND in hop


def _take(call: Call, hop: dict[str, str], when: Literal["initial", "trailing"], pairs: Pairs) -> None:
    if when == "initial":
        call.initial = _metadata.split(pairs)[1] if pairs else ()
        return
    found, call.trailing = _metadata.split(pairs)
    hop.update(found)
    call.handled_by = found.get(_metadata.HANDLED_BY, call.handled_by)

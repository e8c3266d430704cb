"""Whether a peer without links is well: what its grpc.health.v1 says of each namespace, and that it answers at all.

Such a peer announces nothing, and a server with default options answers frequent pings with GOAWAY. So it is asked:

    liveness       Check of "", twice a second. Any answer is a sign of life, "no such method" included.
    the peer       Watch of "", and of each shared namespace; where it has no Watch, Check once a second
    a namespace    is served unless the peer, or that name, says NOT_SERVING. A name that it does not know says nothing.

A Check without an answer takes the peer out of rotation, and no more: a server whose threads are all busy is silent as
well, and its calls are to end well. Whether the process still runs, a connection of its own tells: a stopped one
accepts it (its kernel does), and never says a word of HTTP/2. Only then the peer counts as lost.

Source: grpc/doc/health-checking.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from ..core.grpc_status import GrpcStatus
from .errors import CollectiveError, call_error
from .health import NOT_SERVING, SERVICE

if TYPE_CHECKING:
    from .data_plane import Channel

_INTERVAL: Final = 0.5
"""Seconds between two signs of life."""
_PATIENCE: Final = 1.0
"""Seconds that one may take."""
_LONGER_PATIENCE: Final = 5.0
"""Seconds that one may take of a peer which is out of rotation anyway."""
_POLLED: Final = 1.0
"""Seconds between two questions to a peer without Watch, and before a Watch that has ended is made again."""


class PeerHealth:
    """The health of one peer, as long as it is connected.

    Args:
        channel: to it.
        peer: its id.
        namespaces: the shared ones.
        changed: called when `unwell` has changed.
        runs: tells by another connection whether the peer's process runs.
    """

    def __init__(
        self,
        channel: Channel,
        peer: str,
        namespaces: Iterable[str],
        changed: Callable[[], None],
        runs: Callable[[], Awaitable[bool]],
    ) -> None:
        self.unwell: frozenset[str] = frozenset()
        """The namespaces that it does not serve now."""
        self._channel = channel
        self._peer = peer
        self._namespaces = tuple(namespaces)
        self._changed = changed
        self._runs = runs
        self._statuses: dict[str, int | None] = {}
        self._silent = False

    async def first(self) -> None:
        """Ask for everything once.

        Raises:
            CollectiveError: UNAVAILABLE: the peer does not answer.
        """
        names = ("", *self._namespaces)
        try:
            found = await asyncio.gather(*(self._check(name, _LONGER_PATIENCE) for name in names))
        except CollectiveError as error:
            raise self._lost(error) from error
        self._statuses.update(zip(names, found, strict=True))
        self._look()

    async def run(self) -> None:
        """Go on asking, until the peer is lost.

        Raises:
            CollectiveError: UNAVAILABLE: it is.
        """
        watches = [asyncio.create_task(self._follow(name)) for name in ("", *self._namespaces)]
        try:
            await self._live()
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)

    async def _live(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL)
            try:
                await self._check("", _LONGER_PATIENCE if self._silent else _PATIENCE)
            except CollectiveError as error:
                if error.grpc_status is not GrpcStatus.DEADLINE_EXCEEDED:
                    raise self._lost(error) from error
                self._silent = True
                self._look()
                if not await self._runs():
                    raise self._lost(error) from error
            else:
                self._silent = False
                self._look()

    def _lost(self, error: CollectiveError) -> CollectiveError:
        return call_error(
            GrpcStatus.UNAVAILABLE, f"{self._peer} gives no sign of life: {error.message}", peer=self._peer
        )

    async def _follow(self, name: str) -> None:
        watched = True
        while True:
            try:
                if watched:
                    await self._watch(name)
                else:
                    self._told(name, await self._check(name, _LONGER_PATIENCE))
            except CollectiveError as error:
                # Of one that cannot be asked now, the signs of life tell what there is to know.
                watched = watched and error.grpc_status is not GrpcStatus.UNIMPLEMENTED
            await asyncio.sleep(_POLLED)

    async def _watch(self, name: str) -> None:
        answers: Any = self._channel.stream(f"/{SERVICE}/Watch", _one(_request(name)))
        try:
            async for answer in answers:
                self._told(name, _status(answer))
        finally:
            await answers.aclose()

    async def _check(self, name: str, timeout: float) -> int | None:
        """What the peer says of a name; None if it says nothing.

        Raises:
            CollectiveError: UNAVAILABLE, DEADLINE_EXCEEDED: it does not answer.
        """
        try:
            return _status(await self._channel.unary(f"/{SERVICE}/Check", _request(name), timeout=timeout))
        except CollectiveError as error:
            if error.grpc_status in {GrpcStatus.UNAVAILABLE, GrpcStatus.DEADLINE_EXCEEDED}:
                raise
            return None

    def _told(self, name: str, status: int | None) -> None:
        self._statuses[name] = status
        self._look()

    def _look(self) -> None:
        if self._silent or self._statuses.get("") == NOT_SERVING:
            unwell = frozenset(self._namespaces)
        else:
            unwell = frozenset(name for name in self._namespaces if self._statuses.get(name) == NOT_SERVING)
        if unwell != self.unwell:
            self.unwell = unwell
            self._changed()


async def _one(message: bytes) -> AsyncIterator[bytes]:
    yield message


def _request(name: str) -> bytes:
    request: bytes = health_pb2.HealthCheckRequest(service=name).SerializeToString()
    return request


def _status(answer: bytes) -> int | None:
    try:
        status: int = health_pb2.HealthCheckResponse.FromString(answer).status
    except DecodeError:
        return None
    return status

"""A client of etcd (API version 3.4 and later), over the data plane's channels.

Endpoints are members of one cluster, and any of them serves any call. One of them is used until it does not answer;
the next call goes to another. A call is repeated at another one only where that is safe: reads always, writes if they
were certainly never sent. A write that may have been done raises, and the caller looks what came of it.

Keepalive pings are `PING` seconds apart: an etcd with default options answers pings that come more often than each
5 s with GOAWAY (too_many_pings).

Where etcd wants a user, its token is asked for when it is first needed, and again when etcd refuses it: tokens age,
and do not survive a restart.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import Message

from ...core.errors import ClientClosedError
from ...core.grpc_status import GrpcStatus
from ..data_plane import Channel
from ..errors import CollectiveError, call_error
from ..protos import etcd_pb2 as pb

if TYPE_CHECKING:
    from ..contracts import Pairs, TransportSecurity
    from .url import EtcdConfig

PING = 6.0
_PONG = 2.0
PAGE = 500
"""Keys of one answer: with records of some hundred bytes, far below the size that a message may have."""
_NOT_ANSWERED = frozenset({GrpcStatus.UNAVAILABLE, GrpcStatus.DEADLINE_EXCEEDED})

_Answer = TypeVar("_Answer", bound=Message)


class EtcdClient:
    """Key-value store, transactions and leases of an etcd.

    All methods raise `CollectiveError`: UNAVAILABLE if no endpoint answers, and otherwise etcd's own status and text.
    Times are seconds, revisions are etcd's: each change of any key makes the next one.

    Raises:
        InvalidArgumentError: a TLS file of the configuration cannot be read.
    """

    def __init__(self, config: EtcdConfig, *, security: TransportSecurity | None = None) -> None:
        self.config = config
        self._security = security if security is not None else config.security()
        self._channels: dict[str, Channel] = {}
        self._current = 0
        self._token: str | None = None
        self._closed = False

    # -- keys

    async def get(self, key: bytes) -> tuple[pb.KeyValue | None, int]:
        """A key, and the revision at which this was so. Linearizable."""
        answer = await self._read("KV/Range", pb.RangeRequest(key=key), pb.RangeResponse)
        return (answer.kvs[0] if answer.kvs else None), answer.header.revision

    async def list(self, prefix: bytes) -> tuple[list[pb.KeyValue], int]:
        """All keys that begin with `prefix`, sorted, as they were at the revision that is returned."""
        found: list[pb.KeyValue] = []
        request = pb.RangeRequest(key=prefix, range_end=prefix_end(prefix), limit=PAGE)
        while True:
            answer = await self._read("KV/Range", request, pb.RangeResponse)
            found += answer.kvs
            # Further pages are of the same revision, whatever has changed since.
            request.revision = request.revision or answer.header.revision
            if not answer.more:
                return found, request.revision
            request.key = answer.kvs[-1].key + b"\0"

    async def put(self, key: bytes, value: bytes, *, lease: int = 0) -> int:
        """Set a key; the revision of the change."""
        request = pb.PutRequest(key=key, value=value, lease=lease)
        return (await self._write("KV/Put", request, pb.PutResponse)).header.revision

    async def delete(self, key: bytes, *, range_end: bytes = b"") -> int:
        """Delete a key, or those from `key` up to `range_end`; how many there were."""
        request = pb.DeleteRangeRequest(key=key, range_end=range_end)
        return (await self._write("KV/DeleteRange", request, pb.DeleteRangeResponse)).deleted

    async def put_if(
        self, key: bytes, value: bytes, *, revision: int, lease: int = 0
    ) -> tuple[int, pb.KeyValue | None]:
        """Set a key if its last change was at `revision`; 0: only if there is no such key.

        Returns the revision of the change, or 0 and what the key is instead (None if it is not there).
        """
        mine = pb.Compare(target=pb.Compare.MOD, result=pb.Compare.EQUAL, key=key, mod_revision=revision)
        put = pb.RequestOp(request_put=pb.PutRequest(key=key, value=value, lease=lease))
        get = pb.RequestOp(request_range=pb.RangeRequest(key=key))
        answer = await self.txn(pb.TxnRequest(compare=[mine], success=[put], failure=[get]))
        if answer.succeeded:
            return answer.header.revision, None
        there = answer.responses[0].response_range.kvs
        return 0, (there[0] if there else None)

    async def txn(self, request: pb.TxnRequest) -> pb.TxnResponse:
        """Run a transaction."""
        return await self._write("KV/Txn", request, pb.TxnResponse)

    async def compact(self, revision: int) -> None:
        """Forget what keys were before `revision`."""
        await self._write("KV/Compact", pb.CompactionRequest(revision=revision), pb.CompactionResponse)

    # -- leases

    async def grant(self, ttl: int) -> tuple[int, int]:
        """A new lease, and the seconds for which it was granted: maybe more than `ttl`."""
        answer = await self._write("Lease/LeaseGrant", pb.LeaseGrantRequest(TTL=ttl), pb.LeaseGrantResponse)
        return answer.ID, answer.TTL

    async def renew(self, lease: int) -> bool:
        """Let a lease begin anew. False if there is no such lease any more."""

        async def once() -> AsyncIterator[bytes]:
            yield pb.LeaseKeepAliveRequest(ID=lease).SerializeToString()

        # A stream for each renewal, and not one for all: then it has a deadline, and moves to another endpoint.
        last: CollectiveError | None = None
        for _ in self._tries():
            endpoint = self.endpoint
            try:
                metadata = await self.metadata(endpoint)
                answers = self.channel(endpoint).stream(
                    path("Lease/LeaseKeepAlive"), once(), timeout=self.config.timeout, metadata=metadata
                )
                async with aclosing(answers):  # type: ignore[type-var]
                    async for answer in answers:
                        return pb.LeaseKeepAliveResponse.FromString(answer).TTL > 0
                raise call_error(GrpcStatus.UNAVAILABLE, f"etcd at {endpoint} did not renew a lease")
            except CollectiveError as error:
                last = error
                if error.grpc_status is GrpcStatus.NOT_FOUND:
                    return False
                if not self.failed(endpoint, error):
                    raise
        raise self._no_answer(last)

    async def revoke(self, lease: int) -> None:
        """End a lease: its keys are deleted. One that is not there any more is no error."""
        try:
            # As good as a read: done twice, it is done.
            await self._read("Lease/LeaseRevoke", pb.LeaseRevokeRequest(ID=lease), pb.LeaseRevokeResponse)
        except CollectiveError as error:
            if error.grpc_status is not GrpcStatus.NOT_FOUND:
                raise

    # -- what calls are made of; for `watch` too

    @property
    def endpoint(self) -> str:
        """The endpoint that the next call goes to."""
        return self.config.endpoints[self._current]

    def channel(self, endpoint: str) -> Channel:
        """The channel to an endpoint.

        Raises:
            ClientClosedError: the client was closed.
        """
        if self._closed:
            raise ClientClosedError(f"the client of {self.config} is closed")
        channel = self._channels.get(endpoint)
        if channel is None:
            # By its name the least wait between attempts, it is also the least time that one attempt has.
            attempt = ("grpc.min_reconnect_backoff_ms", int(self.config.timeout * 1000))
            channel = Channel(endpoint, security=self._security, keepalive=(PING, _PONG), options=[attempt])
            self._channels[endpoint] = channel
        return channel

    def failed(self, endpoint: str, error: CollectiveError) -> bool:
        """Draw the conclusions from a failed call. True if trying again, maybe elsewhere, has a point."""
        if _token_refused(error):
            again = self._token is not None
            self._token = None
            return again
        if error.grpc_status not in _NOT_ANSWERED:
            return False
        if endpoint == self.endpoint:
            self._current = (self._current + 1) % len(self.config.endpoints)
        return True

    async def metadata(self, endpoint: str) -> Pairs:
        """What a call carries: the token of the user, if there is one.

        Raises:
            CollectiveError: etcd refuses the user, or does not answer.
        """
        if self.config.user is None:
            return ()
        if self._token is None:
            request = pb.AuthenticateRequest(name=self.config.user, password=self.config.password)
            answer = await self.channel(endpoint).unary(
                path("Auth/Authenticate"), request.SerializeToString(), timeout=self.config.timeout
            )
            self._token = pb.AuthenticateResponse.FromString(answer).token
        return (("token", self._token),)

    async def close(self) -> None:
        """Close all connections."""
        self._closed = True
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close()

    async def _read(self, method: str, request: Message, answer: type[_Answer]) -> _Answer:
        return await self._call(method, request, answer, repeatable=True)

    async def _write(self, method: str, request: Message, answer: type[_Answer]) -> _Answer:
        return await self._call(method, request, answer, repeatable=False)

    async def _call(
        self, method: str, request: Message, answer: type[_Answer], *, repeatable: bool
    ) -> _Answer:
        payload = request.SerializeToString()
        last: CollectiveError | None = None
        for _ in self._tries():
            endpoint = self.endpoint
            authenticated = False
            try:
                metadata = await self.metadata(endpoint)
                authenticated = True
                return answer.FromString(
                    await self.channel(endpoint).unary(
                        path(method), payload, timeout=self.config.timeout, metadata=metadata
                    )
                )
            except CollectiveError as error:
                last = error
                if not self.failed(endpoint, error):
                    raise
                not_done = error.request_not_processed or not authenticated or _token_refused(error)
                if not (repeatable or not_done):
                    break
        raise self._no_answer(last)

    def _tries(self) -> range:
        # One more for a token that has aged.
        return range(len(self.config.endpoints) + (self._token is not None))

    def _no_answer(self, last: CollectiveError | None) -> CollectiveError:
        endpoints = ", ".join(self.config.endpoints)
        return call_error(
            GrpcStatus.UNAVAILABLE,
            f"etcd at {endpoints} does not answer: {last}",
            peer=endpoints,
            request_not_processed=last is not None and last.request_not_processed,
        )


def _token_refused(error: CollectiveError) -> bool:
    # The second is what etcd says when users or roles have changed since the token was made.
    return error.grpc_status is GrpcStatus.UNAUTHENTICATED or "auth store is old" in error.message


def path(method: str) -> str:
    """The full name of one of etcd's methods, such as ``KV/Range``."""
    return f"/etcdserverpb.{method}"


def prefix_end(prefix: bytes) -> bytes:
    """The end of the range of all keys that begin with `prefix`, as etcd wants it."""
    kept = prefix.rstrip(b"\xff")
    # A range that ends with a zero byte has no end.
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else b"\0"

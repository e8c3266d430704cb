"""The store in etcd.

    PREFIX/registry/KIND/NAMESPACE/NAME   the content of an entry; namespace and name are quoted as in a URL

What etcd says of a key is the entry's version (how often it was written) and order (the revision that made it). A
watch fills the catalogue. Nothing that is asked waits for etcd, except at the very beginning, and what is known stays
known while etcd is away. What is not known then is UNAVAILABLE, since another process may have registered it.

Writing is a transaction on the condition that its keys are what they are known to be, repeated with what they are
instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from ...core.grpc_status import GrpcStatus
from ..discovery.etcd import EtcdClient
from ..discovery.watch import Changes, Interrupted, Listing, Told, follow
from ..errors import CollectiveError, call_error
from ..protos import etcd_pb2 as pb
from .catalogue import Catalogue, Draft, Entry, Kind

if TYPE_CHECKING:
    from ..contracts import TransportSecurity
    from ..discovery.url import EtcdConfig

log = logging.getLogger("dodici.collective")
_TRIES = 16
_AT_ONCE = 128
"""What etcd allows in one transaction, unless it is told otherwise."""


class EtcdStore:
    """Keeps entries in an etcd.

    Raises:
        InvalidArgumentError: a TLS file of the configuration cannot be read.
    """

    def __init__(self, config: EtcdConfig, *, security: TransportSecurity | None = None) -> None:
        self.config = config
        self._security = security
        self._prefix = f"{config.prefix}/registry/".encode()
        self._catalogue = Catalogue()
        self._keys: dict[bytes, pb.KeyValue] = {}
        self._watched = 0
        self._loaded = asyncio.Event()
        self._interrupted: CollectiveError | None = None
        self._client: EtcdClient | None = None
        self._follower: asyncio.Task[None] | None = None

    @property
    def catalogue(self) -> Catalogue:
        return self._catalogue

    @property
    def current(self) -> bool:
        return self._loaded.is_set()

    async def start(self) -> None:
        if self._client is None:
            self._client = EtcdClient(self.config, security=self._security)
            self._follower = asyncio.get_running_loop().create_task(self._follow(self._client))

    async def stop(self) -> None:
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await follower
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def refresh(self) -> None:
        if not self._loaded.is_set() and self._follower is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.config.timeout):
                    await self._loaded.wait()
        if self._follower is None or not self._loaded.is_set() or self._interrupted is not None:
            raise call_error(
                GrpcStatus.UNAVAILABLE,
                f"the registry in {self.config} cannot be asked: {self._interrupted or 'no answer yet'}",
            )

    async def put(self, drafts: Sequence[Draft]) -> tuple[Entry, ...]:
        if self._client is None:
            raise call_error(GrpcStatus.UNAVAILABLE, f"the registry in {self.config} is not open")
        if len(drafts) > _AT_ONCE:
            raise call_error(
                GrpcStatus.RESOURCE_EXHAUSTED,
                f"etcd takes {_AT_ONCE} entries at once, and here are {len(drafts)}: register them in parts",
            )
        wanted = {self._key(draft): draft for draft in drafts}
        for _ in range(_TRIES):
            request = self._transaction(wanted)
            if request.success:
                answer = await self._client.txn(request)
                if not answer.succeeded:
                    for key, response in zip(wanted, answer.responses, strict=True):
                        there = response.response_range.kvs
                        if there:
                            self._take(there[0])
                        else:
                            self._forget(key)
                    continue
                for operation in request.success:
                    self._take(self._written(operation.request_put, answer.header.revision))
            return tuple(self._entry(self._keys[key]) for key in wanted)
        raise call_error(GrpcStatus.ABORTED, "too many register the same at once: it has to be tried again")

    # -- writing -------------------------------------------------------------------------------------------

    def _transaction(self, wanted: dict[bytes, Draft]) -> pb.TxnRequest:
        request = pb.TxnRequest()
        for key, draft in wanted.items():
            known = self._keys.get(key)
            content = draft.over(None if known is None else known.value)
            request.compare.add(
                target=pb.Compare.MOD,
                result=pb.Compare.EQUAL,
                key=key,
                mod_revision=0 if known is None else known.mod_revision,
            )
            if known is None or known.value != content:
                request.success.add(request_put=pb.PutRequest(key=key, value=content))
            request.failure.add(request_range=pb.RangeRequest(key=key))
        return request

    def _written(self, put: pb.PutRequest, revision: int) -> pb.KeyValue:
        before = self._keys.get(put.key)
        return pb.KeyValue(
            key=put.key,
            value=put.value,
            mod_revision=revision,
            create_revision=revision if before is None else before.create_revision,
            version=1 if before is None else before.version + 1,
        )

    # -- following -----------------------------------------------------------------------------------------

    async def _follow(self, client: EtcdClient) -> None:
        async with aclosing(follow(client, self._prefix)) as told:  # type: ignore[type-var]
            async for each in told:
                self._hear(each)

    def _hear(self, told: Told) -> None:
        if isinstance(told, Interrupted):
            if self._interrupted is None:
                log.warning("the registry's etcd does not answer: %s", told.error)
            self._interrupted = told.error
            return
        self._interrupted = None
        if isinstance(told, Listing):
            self._replace(told)
            self._loaded.set()
        elif isinstance(told, Changes):
            for event in told.events:
                self._watched = max(self._watched, event.kv.mod_revision)
                known = self._keys.get(event.kv.key)
                if event.type == pb.Event.PUT:
                    self._take(event.kv)
                elif known is not None and known.mod_revision < event.kv.mod_revision:
                    self._forget(event.kv.key)

    def _replace(self, listing: Listing) -> None:
        # An etcd that has lost its data counts anew: then nothing that was known says anything.
        lost = listing.revision < self._watched
        there = {key.key for key in listing.keys}
        for key, known in list(self._keys.items()):
            # What was written here in the meantime is not in the list yet.
            if lost or (key not in there and known.mod_revision <= listing.revision):
                self._forget(key)
        self._watched = listing.revision
        self._take_all(listing.keys)

    def _take_all(self, keys: Iterable[pb.KeyValue]) -> None:
        for key in keys:
            self._take(key)

    def _take(self, key: pb.KeyValue) -> None:
        known = self._keys.get(key.key)
        if known is not None:
            if known.mod_revision >= key.mod_revision:
                return
            if known.create_revision != key.create_revision:  # deleted and made again: versions begin anew
                self._forget(key.key)
        self._keys[key.key] = key
        try:
            self._catalogue.apply([self._entry(key)])
        except (CollectiveError, ValueError) as error:
            log.warning("the registry passes over a key in etcd, %r: %s", key.key, error)

    def _forget(self, key: bytes) -> None:
        known = self._keys.pop(key, None)
        if known is not None:
            with contextlib.suppress(ValueError):
                self._catalogue.remove(*self._entry(known)[:3])

    # -- keys ----------------------------------------------------------------------------------------------

    def _key(self, draft: Draft) -> bytes:
        names = f"{draft.kind}/{quote(draft.namespace, safe='')}/{quote(draft.name, safe='')}"
        return self._prefix + names.encode()

    def _entry(self, key: pb.KeyValue) -> Entry:
        """The entry of a key. ValueError if it is none."""
        kind, namespace, name = key.key[len(self._prefix) :].decode().split("/")
        return Entry(
            Kind(kind), unquote(namespace), unquote(name), key.value, key.version, key.create_revision
        )

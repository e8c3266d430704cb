"""Keeps a collector's own record in etcd.

The record is a key with a lease: it lives while the lease is renewed. An id belongs to who creates its key
(a transaction: only if there is none). `Registration` is in one of these states, and goes on by itself:

    unregistered -> claims the key -> registered        renews the lease each third of the ttl
                                   -> refused           another has the id: waits until its key is gone, tries again
    registered   -> lost                                lease ended, key deleted, or a later claim: -> unregistered

Who finds its id taken may take it over in two cases: the key was written by itself (the answer was lost, or its
lease could not be given back), or by a process that had the same place, host and address: two cannot listen there, so
the other is dead, and its lease has not run out yet. Who was taken over steps back: it waits as one refused.

Epochs. Each registration has a higher epoch than every one before under this id, also over restarts and without
anything being kept: the revision of etcd, which every earlier registration has raised, is its least value.

Answers may be lost. A write of which nobody knows whether it was done is followed by a look: the instance, random for
each run, tells whether it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from ...core.errors import InvalidArgumentError
from ...core.grpc_status import GrpcStatus
from ..contracts import MemberRecord
from ..errors import CollectiveError
from ..protos import etcd_pb2 as pb
from .backoff import Backoff
from .etcd import EtcdClient
from .records import Claim, decode

_log = logging.getLogger("dodici.collective.discovery")


class IdTakenError(CollectiveError):
    """Another collector has this id.

    Attributes:
        holder: its record; None if what is there cannot be read.
    """

    grpc_status = GrpcStatus.ALREADY_EXISTS
    holder: MemberRecord | None = None


class _LostError(CollectiveError):
    """The registration is no more."""


class Registration:
    """One collector's record in etcd.

    Args:
        client: whom to speak to.
        key: the record's key.
        claim: the record, who writes it, and from where.
        wait: whether to go on trying while another has the id.
        on_contact: told True after each answer of etcd, False after each failure to get one.
        on_lost: told that the registration was lost, before the next is tried.
    """

    def __init__(
        self,
        client: EtcdClient,
        key: bytes,
        claim: Claim,
        *,
        wait: bool = True,
        on_contact: Callable[[bool], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._client = client
        self._key = key
        self._wanted = claim
        self._wait = wait
        self._on_contact = on_contact
        self._on_lost = on_lost
        self._lease = 0
        self._revision = 0
        self._written: Claim | None = None
        self._epoch = 0
        self._usurped = False
        self._seen_gone = 0
        self._seen_other = 0
        self._wake = asyncio.Event()
        self._settled = asyncio.Condition()
        self.problem: CollectiveError | None = None
        """Why the record is not in etcd; None if it is, or nothing was tried yet."""

    @property
    def record(self) -> MemberRecord | None:
        """The record as it is in etcd, with its epoch; None while it is not there."""
        return None if self._written is None else self._written.record

    @property
    def wanted(self) -> MemberRecord:
        """The record as it is to be in etcd, but for the epoch."""
        return self._wanted.record

    def update(self, record: MemberRecord) -> None:
        """Another record is to be in etcd: at once if there is one, else from the next registration on."""
        self._wanted = replace(self._wanted, record=record)
        self._wake.set()

    def observe(self, there: pb.KeyValue | None, revision: int) -> None:
        """What a watch has seen of the key: that it is `there`, or, at `revision`, that it is not."""
        if there is None:
            self._seen_gone = max(self._seen_gone, revision)
        elif not self._by_us(there):
            self._seen_other = max(self._seen_other, there.mod_revision)
        self._wake.set()

    async def registered(self, *, even_if_taken: bool = False) -> MemberRecord:
        """Wait until the record is in etcd; with `even_if_taken`, also while another has the id.

        Raises:
            IdTakenError: another has the id.
        """
        async with self._settled:
            while self._written is None:
                if isinstance(self.problem, IdTakenError) and not even_if_taken:
                    raise IdTakenError(self.problem.message, holder=self.problem.holder)
                await self._settled.wait()
            return self._written.record

    async def run(self) -> None:
        """Keep the record in etcd until cancelled. Returns only if another has the id and it is not to wait."""
        backoff = Backoff()
        while True:
            try:
                await self._register()
                backoff.reset()
                await self._note(None)
                await self._keep()
            except _LostError as error:
                _log.warning("%s; registering again", error)
                self._on_lost()
                await self._note(error)
                await self._give_back()
            except IdTakenError as error:
                if not isinstance(self.problem, IdTakenError):
                    _log.error("%s", error)
                await self._note(error)
                await self._give_back()
                if not self._wait:
                    return
                # The watch tells when the key is gone; the time is for a watch that is broken.
                await self._woken(self._client.config.ttl)
            except CollectiveError as error:
                if self.problem is None:
                    _log.warning("not registered yet: %s", error)
                self._on_contact(False)
                await self._note(error)
                # It may have run out when etcd is back; and what was claimed with it, nobody knows, goes with it.
                await self._give_back()
                await asyncio.sleep(backoff.next())

    async def withdraw(self) -> None:
        """Take the record out of etcd, as far as etcd answers; else it goes with its lease. `run` must have ended."""
        self._written = None
        await self._give_back()

    # -- becoming registered

    async def _register(self) -> None:
        self._wake.clear()
        # What was seen of earlier registrations counts no more, least of all if etcd has begun its revisions anew.
        self._seen_gone = self._seen_other = 0
        there, revision = await self._client.get(self._key)
        self._on_contact(True)
        known = None if there is None else self._may_take(there)
        if not self._lease:
            self._lease, _ = await self._client.grant(self._client.config.ttl)
        wanted = self._wanted
        epoch = max(wanted.record.epoch, self._epoch + 1, revision + 1, 0 if known is None else known + 1)
        claim = replace(wanted, record=replace(wanted.record, epoch=epoch))
        before = 0 if there is None else there.mod_revision
        written, other = await self._client.put_if(
            self._key, claim.encode(), revision=before, lease=self._lease
        )
        if not written:
            if other is not None and not self._by_us(other):
                raise self._taken(other)
            raise _LostError(f"the key of collector {claim.record.id!r} changed while it was claimed")
        self._revision, self._epoch, self._written = written, epoch, claim
        self._usurped = False

    def _may_take(self, there: pb.KeyValue) -> int:
        """The epoch of the present registration if we may take it over."""
        try:
            claim = decode(there.value)
        except InvalidArgumentError:
            raise self._taken(there) from None
        ours = claim.instance == self._wanted.instance
        if ours or (claim.place == self._wanted.place and not self._usurped):
            return claim.record.epoch
        raise self._taken(there)

    def _taken(self, there: pb.KeyValue) -> IdTakenError:
        collector_id = self._wanted.record.id
        try:
            holder = decode(there.value).record
        except InvalidArgumentError as error:
            text = f"the key of collector {collector_id!r} in etcd holds something else: {error}"
            return IdTakenError(text)
        since = datetime.fromtimestamp(holder.started, UTC).isoformat(timespec="seconds")
        return IdTakenError(
            f"collector id {collector_id!r} is taken: the collector at {holder.address} has it, epoch {holder.epoch},"
            f" started {since}; give this one another id, or stop that one",
            holder=holder,
            peer=holder.address,
        )

    # -- staying registered

    async def _keep(self) -> None:
        """Renew the lease and write what is new, until the registration is lost."""
        loop = asyncio.get_running_loop()
        third = self._client.config.ttl / 3
        backoff = Backoff(0.1, third / 2)
        due = loop.time() + third
        while True:
            self._check_observed()
            try:
                asked = await self._write_if_new()
                if loop.time() >= due:
                    if not await self._client.renew(self._lease):
                        self._lease = 0
                        raise _LostError(f"the lease of collector {self._wanted.record.id!r} has ended")
                    due = loop.time() + third
                    asked = True
            except _LostError:
                raise
            except CollectiveError as error:
                # Whether the lease outlives this is for etcd to say, when it is back.
                self._on_contact(False)
                await self._note(error)
                await asyncio.sleep(backoff.next())
                continue
            if asked:
                backoff.reset()
                self._on_contact(True)
                if self.problem is not None:
                    await self._note(None)
            await self._woken(due - loop.time())

    def _check_observed(self) -> None:
        collector_id = self._wanted.record.id
        if self._seen_other > self._revision:
            self._usurped = True
            raise _LostError(f"another has taken over the id of collector {collector_id!r}")
        if self._seen_gone > self._revision:
            raise _LostError(f"the record of collector {collector_id!r} was deleted")

    async def _write_if_new(self) -> bool:
        """Write the record if another one is wanted than is there. Whether there was something to write."""
        assert self._written is not None
        claim = replace(self._wanted, record=replace(self._wanted.record, epoch=self._epoch))
        if claim.record == self._written.record:
            return False
        written, other = await self._client.put_if(
            self._key, claim.encode(), revision=self._revision, lease=self._lease
        )
        if written:
            self._revision, self._written = written, claim
        elif other is not None and self._by_us(other):
            # An earlier write whose answer was lost. Write upon that one.
            self._revision = other.mod_revision
            self._wake.set()
        else:
            self._usurped = other is not None
            raise _LostError(f"the record of collector {self._wanted.record.id!r} was deleted or replaced")
        return True

    # -- small things

    def _by_us(self, there: pb.KeyValue) -> bool:
        try:
            return decode(there.value).instance == self._wanted.instance
        except InvalidArgumentError:
            return False

    async def _woken(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    async def _note(self, problem: CollectiveError | None) -> None:
        self.problem = problem
        if isinstance(problem, (IdTakenError, _LostError)):
            self._written = None
        async with self._settled:
            self._settled.notify_all()

    async def _give_back(self) -> None:
        lease, self._lease = self._lease, 0
        if lease:
            try:
                await self._client.revoke(lease)
            except CollectiveError as error:
                _log.info("a lease was not given back, and runs out by itself: %s", error)

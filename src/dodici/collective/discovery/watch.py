"""Following the keys of a prefix: what they are, then each change, for as long as one likes.

What is seen is exact. A broken watch is taken up at the revision after the last one that was seen, so no change
is lost and none is told twice. Where that is impossible, the keys are listed anew and given as a `Listing`, which
replaces all that was told before:

- etcd has compacted that revision away;
- etcd's own revision or term is less than what was seen: it has lost its data, and a watch would wait in silence
  until it gets there. Data that were lost while it got as far again cannot be told apart from here.

Progress. etcd's own notifications (`progress_notify`, for our watch id) are in order with the events, so the watch
may be taken up after them. Answers to a progress *request* are not: up to 3.4.24 and 3.5.7 they may overtake events.
They serve as a heartbeat alone: without one, a stopped etcd would be noticed by nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeAlias

from ...core.grpc_status import GrpcStatus
from ..errors import CollectiveError, call_error
from ..protos import etcd_pb2 as pb
from .backoff import Backoff
from .etcd import EtcdClient, path, prefix_end

IDLE = 5.0
"""Seconds between two heartbeats."""
PATIENCE = 2.5
"""Seconds that a heartbeat may take."""


@dataclass(frozen=True, slots=True)
class Listing:
    """All keys of the prefix, as they were at `revision`."""

    keys: tuple[pb.KeyValue, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class Changes:
    """What has changed since the last time, in order; nothing, if this only shows that etcd is there."""

    events: tuple[pb.Event, ...]


@dataclass(frozen=True, slots=True)
class Interrupted:
    """etcd does not answer, or has not kept what the watch needs; what was told before stays as true as it was.

    It is tried again in `wait` seconds.
    """

    error: CollectiveError
    wait: float


Told: TypeAlias = Listing | Changes | Interrupted


class _NotResumableError(CollectiveError):
    """The revisions that are missing are not to be had: the keys have to be listed."""


async def follow(
    client: EtcdClient,
    prefix: bytes,
    *,
    idle: float = IDLE,
    patience: float = PATIENCE,
    backoff: Backoff | None = None,
) -> AsyncIterator[Told]:
    """Tell the keys that begin with `prefix`, and their changes, forever. To be closed with `aclose()`.

    Args:
        client: whom to ask.
        prefix: what the keys begin with.
        idle: seconds between two heartbeats.
        patience: seconds that a heartbeat may take.
        backoff: waits after a failure.
    """
    backoff = backoff or Backoff()
    seen = term = 0
    while True:
        try:
            if not seen:
                keys, seen = await client.list(prefix)
                yield Listing(tuple(keys), seen)
            async with aclosing(_watch(client, prefix, seen, term, idle, patience)) as answers:  # type: ignore[type-var]
                async for answer in answers:
                    backoff.reset()
                    term = answer.header.raft_term
                    if answer.events:
                        # All events of one revision come in one answer: without `fragment`, etcd does not split it.
                        seen = max(seen, answer.events[-1].kv.mod_revision)
                    elif answer.watch_id >= 0 and not answer.created:
                        seen = max(seen, answer.header.revision)
                    yield Changes(tuple(answer.events))
        except CollectiveError as error:
            if isinstance(error, _NotResumableError):
                seen = term = 0
            wait = backoff.next()
            yield Interrupted(error, wait)
            await asyncio.sleep(wait)


async def _watch(
    client: EtcdClient, prefix: bytes, seen: int, term: int, idle: float, patience: float
) -> AsyncIterator[pb.WatchResponse]:
    """The answers to one watch for what came after revision `seen`, of `term`, until it breaks."""
    create = pb.WatchCreateRequest(
        key=prefix, range_end=prefix_end(prefix), start_revision=seen + 1, progress_notify=True
    )

    async def requests() -> AsyncIterator[bytes]:
        yield pb.WatchRequest(create_request=create).SerializeToString()
        heartbeat = pb.WatchRequest(progress_request=pb.WatchProgressRequest()).SerializeToString()
        while True:
            await asyncio.sleep(idle)
            yield heartbeat

    endpoint = client.endpoint
    try:
        # With `hasleader`, a member that was cut off from the others ends the watch, and does not keep silent.
        metadata = (*await client.metadata(endpoint), ("hasleader", "true"))
        answers = client.channel(endpoint).stream(path("Watch/Watch"), requests(), metadata=metadata)
        async with aclosing(answers):  # type: ignore[type-var]
            allowed = client.config.timeout
            while True:
                answer = pb.WatchResponse.FromString(await _next(answers, allowed, endpoint))
                _check(answer, seen, term, endpoint)
                yield answer
                allowed = idle + patience
    except _NotResumableError:
        raise
    except CollectiveError as error:
        client.failed(endpoint, error)
        raise


async def _next(answers: AsyncIterator[bytes], allowed: float, endpoint: str) -> bytes:
    try:
        async with asyncio.timeout(allowed):
            return await anext(answers)
    except TimeoutError:
        text = f"etcd at {endpoint} has not answered for {allowed:g} s"
        raise call_error(GrpcStatus.UNAVAILABLE, text, peer=endpoint) from None
    except StopAsyncIteration:
        text = f"etcd at {endpoint} has ended a watch"
        raise call_error(GrpcStatus.UNAVAILABLE, text, peer=endpoint) from None


def _check(answer: pb.WatchResponse, seen: int, term: int, endpoint: str) -> None:
    if answer.compact_revision:
        raise _NotResumableError(f"etcd has compacted up to revision {answer.compact_revision}")
    if answer.canceled:
        reason = answer.cancel_reason or "it does not say why"
        # The reason is text, and what it says where the token has aged depends on the version.
        refused = any(words in reason for words in ("permission denied", "auth token", "auth store"))
        status = GrpcStatus.UNAUTHENTICATED if refused else GrpcStatus.UNAVAILABLE
        raise call_error(status, f"etcd at {endpoint} has ended a watch: {reason}", peer=endpoint)
    if answer.created and (answer.header.revision < seen or answer.header.raft_term < term):
        at, of = answer.header.revision, answer.header.raft_term
        raise _NotResumableError(f"etcd is at revision {at} of term {of}, and was at {seen} of {term}")

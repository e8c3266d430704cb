"""What dispatchers count. Snapshots: they do not change."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClientStats:
    """Of one client.

    Attributes:
        connected: whether its connection is open (1 or 0).
        pending: exchanges that wait for the connection.
        running: exchanges on the connection.
        size: pending and running.
        retries: exchanges sent again silently, because a reused connection turned out to be closed.
    """

    connected: int
    pending: int
    running: int
    size: int
    retries: int


@dataclass(frozen=True, slots=True)
class PoolStats:
    """Of one pool.

    Attributes:
        connected: open connections.
        free: connections open and idle.
        pending: exchanges that wait, in the pool's queue or for a client's connection.
        queued: of those, the ones in the pool's queue.
        running: exchanges on connections.
        size: pending and running.
        retries: exchanges sent again silently, because a reused connection turned out to be closed.
    """

    connected: int
    free: int
    pending: int
    queued: int
    running: int
    size: int
    retries: int

"""`Pool`: one origin, several connections.

Choosing costs the same however many connections there are: clients that can take more lie on a stack, those
that cannot are told of again by `client_free`. When all are busy and no more may be made, exchanges wait in
one queue, first come, first served. While something waits there, no client is on the stack.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any

from ..core.controller import Exchange
from ..core.handler import Handler
from ..core.options import DispatchOptions, check_count, check_seconds
from ..net.connection import Connection
from .base import BaseDispatcher, Origin
from .client import Client, goodbye, initial_limit
from .fallback import Fallback
from .options import client_options
from .queue import ExchangeQueue
from .stats import PoolStats

DEFAULT_CONNECTIONS = 256
"""Connections per origin. Enough for any one server; few enough not to run out of ports or descriptors."""


class Pool(BaseDispatcher):
    """Dispatches to one origin over at most `connections` connections, made as they are needed.

    Args:
        origin: such as ``"http://example.com:8080"``.
        connections: how many at most; None or 0 for no limit.
        client_ttl: seconds after which a connection is replaced when it is next chosen; None for never.
        options: see `ClientOptions`.

    Raises:
        InvalidArgumentError: a malformed origin, an unknown option, a bad value.
    """

    def __init__(
        self,
        origin: str,
        *,
        connections: int | None = DEFAULT_CONNECTIONS,
        client_ttl: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if connections is not None:
            check_count("connections", connections)
        self._max = connections or 1 << 62
        self._ttl = check_seconds("client_ttl", client_ttl) if client_ttl is not None else 0.0
        self._place = Origin(origin)
        self.origin = self._place.text
        self._options = client_options(options)
        self._settings = self._options.settings(self._place.scheme, self._place.netloc)
        self._expected = initial_limit(self._options, self._place.scheme)
        self._connect = self._options.connector()
        self._clients: dict[Client, None] = {}
        self._ending: list[Client] = []
        self.sockets: set[Connection] = set()
        self._free: deque[Client] = deque()
        self._queue = ExchangeQueue()
        self._needs_drain = False
        self._retries = 0
        self._fallback = Fallback(self, self._options)
        self.parent: Any = None
        """An agent that is told of events and of an empty pool."""

    @property
    def stats(self) -> PoolStats:
        """A snapshot of the counts."""
        each = [client.stats for client in self._clients]
        queued = self._queue.waiting
        pending = queued + sum(stats.pending for stats in each)
        running = sum(stats.running for stats in each)
        return PoolStats(
            connected=sum(stats.connected for stats in each),
            free=sum(1 for stats in each if stats.connected and not stats.size),
            pending=pending,
            queued=queued,
            running=running,
            size=pending + running,
            retries=self._retries + sum(stats.retries for stats in each),
        )

    @property
    def busy(self) -> bool:
        """Whether every connection that may be made has all that it may carry."""
        return not self._free and len(self._clients) >= self._max

    def dispatch(self, options: DispatchOptions | Mapping[str, Any], handler: Handler) -> bool:
        exchange = self._accept(options, handler)
        if exchange is None:
            return False
        self.take(exchange)
        if self._free or len(self._clients) < self._max:
            return True
        self._needs_drain = True
        return False

    def take(self, exchange: Exchange) -> None:
        """Own an exchange from now on."""
        free = self._free
        expired: list[Client] | None = None
        while free:
            client = self._choose()
            if not client.in_free_list:
                continue  # it left the pool while it lay here
            if self._ttl and client.replaceable and self._expired(client):
                client.in_free_list = False
                expired = [*(expired or ()), client]
                continue
            client.take(exchange)
            if client.busy:
                client.in_free_list = False
            else:
                self._put_back(client)
            break
        else:
            if len(self._clients) < self._max:
                self._take_new(exchange)
            else:
                exchange.carrier = self
                self._queue.push(exchange)
        if expired is not None:
            for client in expired:
                # Only now: a pool that stood empty in between would have been let go by its agent.
                client.retire("client_ttl")

    # -- choosing --------------------------------------------------------------------------------------

    def _choose(self) -> Client:
        # The last one used is the likeliest to be warm, and lets the others go idle and away.
        return self._free.pop()

    def _put_back(self, client: Client) -> None:
        self._free.append(client)

    def _take_new(self, exchange: Exchange) -> Client:
        client = Client.in_pool(
            self._place, self._options, self._settings, self._connect, self, self._expected
        )
        client._bind()
        self._clients[client] = None
        client.take(exchange)
        if not client.busy:
            client.in_free_list = True
            self._free.append(client)
        return client

    def _expired(self, client: Client) -> bool:
        assert self._loop is not None
        return self._loop.time() - client.connected_at >= self._ttl

    # -- what clients tell -----------------------------------------------------------------------------

    def client_free(self, client: Client) -> None:
        if not self._queue.waiting and not client.in_free_list and client in self._clients:
            client.in_free_list = True
            self._free.append(client)

    def client_refilled(self, client: Client) -> None:
        queue = self._queue
        if queue.waiting:
            if client in self._clients:
                while not client.busy:
                    exchange = queue.pop()
                    if exchange is None:
                        break
                    client.take(exchange)
            self._grow()
        if not client.busy and not client.in_free_list:
            self.client_free(client)
        if self._needs_drain and not queue.waiting and (self._free or len(self._clients) < self._max):
            self._needs_drain = False
            if self._listeners is not None or self.parent is not None:
                self.forward("drain", self.origin or "", [])
        if self._waiters and self._is_drained():
            self._wake()

    def client_gone(self, client: Client, *, failed: bool) -> None:
        if failed or not client.size:
            self._drop(client)
            if (
                self.parent is not None
                and not self._clients
                and not self._queue.waiting
                and not self._fallback.used
            ):
                self.parent.pool_empty(self)

    def client_learned(self, limit: int, again: list[Exchange]) -> None:
        self._expected = max(1, limit)
        for exchange in again:
            exchange.carrier = self
        self._queue.push_front(again)
        self._grow()

    def over_http1(self, exchange: Exchange) -> None:
        self._fallback.take(exchange)

    def _drop(self, client: Client) -> None:
        if client in self._clients:
            del self._clients[client]
            client.in_free_list = False
            self._retries += client.stats.retries

    def _grow(self) -> None:
        """Make clients for what waits, where some may be made again."""
        while self._queue.waiting and len(self._clients) < self._max and not self._destroyed:
            exchange = self._queue.pop()
            if exchange is not None:
                client = self._take_new(exchange)
                while not client.busy and (exchange := self._queue.pop()) is not None:
                    client.take(exchange)

    def forward(self, event: str, origin: str, targets: list[Any], *args: Any) -> None:
        targets = [self, *targets]
        self.emit(event, origin, targets, *args)
        if self.parent is not None:
            self.parent.forward(event, origin, targets, *args)

    # -- exchanges in the queue ------------------------------------------------------------------------

    def abort_exchange(self, exchange: Exchange, error: BaseException) -> None:
        self._queue.withdraw(exchange, error)
        if self._waiters and self._is_drained():
            self._wake()

    def pause_exchange(self, exchange: Exchange) -> None:
        """Nothing to hold back while queued."""

    def resume_exchange(self, exchange: Exchange) -> None:
        """Nothing was held back while queued."""

    # -- closing ---------------------------------------------------------------------------------------

    def _is_drained(self) -> bool:
        return not self._queue.waiting and not any(client.size for client in self._clients)

    async def _close(self) -> None:
        while not self._is_drained():
            await self._drained()
        await self._fallback.close()
        self._destroyed = True
        self._ending = list(self._clients)
        await self._gone()

    def _fail_all(self, error: BaseException) -> None:
        for exchange in self._queue.clear():
            exchange.fail(error)
        self._ending = list(self._clients)
        for client in self._ending:
            client.fail_all(error)
        self._fallback.fail_all(error)
        self._wake()

    async def _gone(self) -> None:
        await asyncio.gather(self._fallback.gone(), *(client.shut() for client in self._ending))
        await goodbye(self.sockets)

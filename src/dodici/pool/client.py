"""`Client`: one origin, one connection at a time.

A client owns its exchanges from `take` until `release`, and each is in exactly one place: its queue, or its
connection. `size` counts both, and nothing awaits in between, so cancelling a task that waits for a response
cannot leave a slot taken: the exchange is aborted, whoever carries it fails it, and `release` is called once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from ..core.controller import Exchange
from ..core.errors import (
    ClientDestroyedError,
    ConnectError,
    DodiciError,
    InformationalError,
    InvalidArgumentError,
    SocketError,
    TLSError,
    annotate,
    connect_error,
    twin,
)
from ..core.handler import Handler
from ..core.options import DispatchOptions
from ..net.connection import Connection, ConnectionSettings, Failure
from ..net.connector import Connect, ConnectTarget
from ..net.h1_conn import H1Connection
from ..net.h2_conn import H2Connection
from ..net.negotiation import Negotiation
from .base import BaseDispatcher, Origin
from .fallback import Fallback
from .options import ClientOptions, client_options
from .queue import ExchangeQueue
from .stats import ClientStats

_GOODBYE_SECONDS = 3.0
"""How long closing waits for a connection's shutdown before it is cut."""


async def goodbye(connections: set[Connection]) -> None:
    """Wait until these connections are closed, and cut those that take too long."""
    closing = [connection.closed for connection in connections if connection.transport is not None]
    if closing:
        _, late = await asyncio.wait(closing, timeout=_GOODBYE_SECONDS)
        if late:
            for connection in list(connections):
                connection.transport.abort()
            await asyncio.wait(late, timeout=_GOODBYE_SECONDS)


class Parent(Protocol):
    """A pool, as its clients see it."""

    sockets: set[Connection]
    """Every connection of the pool that is not closed yet."""

    def client_free(self, client: Client) -> None:
        """The client can take more. Called before the terminal callback of the exchange that made room."""

    def client_refilled(self, client: Client) -> None:
        """The client has taken what it could from its own queue."""

    def client_gone(self, client: Client, *, failed: bool) -> None:
        """The client's connection is gone, or could not be made (`failed`)."""

    def client_learned(self, limit: int, again: list[Exchange]) -> None:
        """Connections to this origin carry `limit` exchanges, fewer than the client had taken: `again`."""

    def over_http1(self, exchange: Exchange) -> None:
        """Take an exchange that the client's server does not do over HTTP/2."""

    def forward(self, event: str, origin: str, targets: list[Any], *args: Any) -> None:
        """An event of the client."""


def initial_limit(options: ClientOptions, scheme: str) -> int:
    """How many exchanges a client takes before its connection has told how many it carries."""
    if options.pipelining and "h2" in options.protocols(scheme):
        return options.max_concurrent_streams
    return max(1, options.pipelining)


class Client(BaseDispatcher):
    """Dispatches to one origin over one connection, with pipelining.

    Args:
        origin: such as ``"http://example.com:8080"``.
        options: see `ClientOptions`.

    Raises:
        InvalidArgumentError: a malformed origin, an unknown option, a bad value.
    """

    def __init__(self, origin: str, **options: Any) -> None:
        super().__init__()
        checked = client_options(options)
        place = Origin(origin)
        settings = checked.settings(place.scheme, place.netloc)
        self._setup(place, checked, settings, checked.connector(), None, initial_limit(checked, place.scheme))

    @classmethod
    def in_pool(
        cls,
        origin: Origin,
        options: ClientOptions,
        settings: ConnectionSettings,
        connect: Connect,
        parent: Parent,
        limit: int,
    ) -> Client:
        """A client that shares what its pool has made once."""
        self = cls.__new__(cls)
        BaseDispatcher.__init__(self)
        self._setup(origin, options, settings, connect, parent, limit)
        return self

    def _setup(
        self,
        origin: Origin,
        options: ClientOptions,
        settings: ConnectionSettings,
        connect: Connect,
        parent: Parent | None,
        limit: int,
    ) -> None:
        self.origin = origin.text
        self._place = origin
        self._tls = origin.scheme == "https"
        self._protocols = options.protocols(origin.scheme)
        self._pipelining = options.pipelining
        self.limit = limit
        self._leaving = 0
        self._left: set[Connection] = set()
        self._most = limit
        self.single_use = options.pipelining == 0
        self._settings = settings
        self._connect = connect
        self._parent = parent
        self._fallback = Fallback(self, options) if parent is None else None
        self._queue = ExchangeQueue()
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self.sockets: set[Connection] = set() if parent is None else parent.sockets
        self._size = 0
        self._retries = 0
        self._fruitless = 0
        """How many connections in a row were lost before anything was written to them."""
        self._drain_due = False
        self._destroy_error: BaseException | None = None
        self.busy = False
        """Whether as many exchanges are accepted as may be on the connection.

        `_most` is the limit and those `_leaving`: on connections that take no more and are not done yet.
        """
        self.in_free_list = False
        self.connected_at = 0.0

    # -- what users see --------------------------------------------------------------------------------

    @property
    def pipelining(self) -> int:
        """Requests on the connection at a time. May be changed while in use."""
        return self._pipelining

    @pipelining.setter
    def pipelining(self, value: int) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise InvalidArgumentError(f"pipelining must be a whole number, 0 or more, not {value!r}")
        self._pipelining = value
        self.single_use = value == 0
        if self._connection is None or not self._connection.multiplexed:
            self._set_limit(max(1, value))
        self.refill()

    @property
    def stats(self) -> ClientStats:
        """A snapshot of the counts."""
        pending = self._queue.waiting
        return ClientStats(
            connected=int(self.connected),
            pending=pending,
            running=self._size - pending,
            size=self._size,
            retries=self._retries,
        )

    @property
    def connected(self) -> bool:
        """Whether the connection is open."""
        return self._connection is not None

    @property
    def size(self) -> int:
        """Exchanges pending and running."""
        return self._size

    def dispatch(self, options: DispatchOptions | Mapping[str, Any], handler: Handler) -> bool:
        exchange = self._accept(options, handler)
        if exchange is None:
            return False
        self.take(exchange)
        return not self.busy

    # -- the way of an exchange ------------------------------------------------------------------------

    def take(self, exchange: Exchange) -> None:
        """Own an exchange from now on."""
        size = self._size = self._size + 1
        most = self._most
        if size >= most:
            self.busy = True
        connection = self._connection
        if (
            connection is not None
            and size <= most
            and not self._queue.waiting
            and (connection.offer(exchange) if not self._tls else self._offer(connection, exchange))
        ):
            return
        exchange.carrier = self
        self._queue.push(exchange)
        if connection is None:
            self._start_connecting(exchange)
        else:
            self.refill()

    def _offer(self, connection: Connection, exchange: Exchange) -> bool:
        if self._tls and self._server_name(exchange.options) != connection.server_name:
            if connection.idle:
                connection.kill(InformationalError("server name changed"))
            return False
        return connection.offer(exchange)

    def release(self, exchange: Exchange, *, left: bool = False) -> None:
        self._size -= 1
        if left:
            self._count_leaving(-1)
            if not (self._size or self._connection or self._connecting) and self._parent is not None:
                self._parent.client_gone(self, failed=False)
        if self.busy and self._size < self._most:
            self._has_room()

    def _count_leaving(self, change: int) -> None:
        self._leaving += change
        self._most += change
        if not self._leaving:
            self._left.clear()

    def _set_limit(self, limit: int) -> None:
        """From now on `limit` exchanges at a time. A pool takes back what is too much."""
        self._most += limit - self.limit
        self.limit = limit
        queue = self._queue
        if self._parent is not None and self._size > self._most and queue.waiting:
            waiting = queue.clear()
            kept = max(0, len(waiting) - (self._size - self._most))
            for exchange in waiting:
                exchange.carrier = self
            queue.push_front(waiting[:kept])
            self._size -= len(waiting) - kept
            self._parent.client_learned(limit, waiting[kept:])
        elif self._parent is not None:
            self._parent.client_learned(limit, [])
        if self.busy and self._size < self._most:
            self._has_room()
        self.busy = self._size >= self._most

    def needs_http1(self, exchange: Exchange) -> None:
        self.release(exchange)
        if self._parent is not None:
            self._parent.over_http1(exchange)
        elif self._fallback is not None:
            self._fallback.take(exchange)
        self.refill()

    def limit_changed(self, connection: Connection) -> None:
        if connection is self._connection and connection.limit is not None:
            self._set_limit(connection.limit)
            self.refill()
            connection.rest()

    def starved(self, error: DodiciError) -> None:
        waiting = self._queue.clear()
        self._size -= len(waiting)
        if self.busy and self._size < self._most:
            self._has_room()
        for exchange in waiting:
            exchange.fail(twin(error))

    def _has_room(self) -> None:
        self.busy = False
        self._drain_due = True
        if self._parent is not None:
            self._parent.client_free(self)

    def refill(self) -> None:
        queue = self._queue
        while queue.waiting:
            connection = self._connection
            if connection is None:
                first = queue.peek()
                if first is not None:
                    self._start_connecting(first)
                break
            if self._size - queue.waiting >= self._most:
                break
            exchange = queue.peek()
            if exchange is None or not self._offer(connection, exchange):
                if self._connection is not connection:
                    continue
                break
            queue.pop()
        if self._parent is not None:
            self._parent.client_refilled(self)
        elif self._drain_due and not self.busy:
            self._drain_due = False
            self.emit("drain", self.origin, [self])
        if self._waiters and not self._size:
            self._wake()

    def abort_exchange(self, exchange: Exchange, error: BaseException) -> None:
        self.release(exchange)
        self._queue.withdraw(exchange, error)
        if not self._queue.waiting and self._connecting is not None:
            # Nobody waits for the connection any more.
            self._connecting.cancel()
            self._connecting = None
            if self._parent is not None:
                self._parent.client_gone(self, failed=False)
        self.refill()

    def pause_exchange(self, exchange: Exchange) -> None:
        """Nothing to hold back while queued."""

    def resume_exchange(self, exchange: Exchange) -> None:
        """Nothing was held back while queued."""

    # -- connecting ------------------------------------------------------------------------------------

    def _server_name(self, options: DispatchOptions) -> str:
        if options.server_name is not None:
            return options.server_name
        configured = getattr(self._connect, "server_name", None)
        if configured is not None:
            return str(configured)
        if options.host is not None:
            name = options.host.decode("latin-1")
            return name[1 : name.find("]")] if name.startswith("[") else name.partition(":")[0]
        return self._place.host

    def _start_connecting(self, exchange: Exchange) -> None:
        if self._connecting is None and not self._destroyed:
            assert self._loop is not None
            name = self._server_name(exchange.options) if self._tls else None
            self._connecting = self._loop.create_task(self._make_connection(name))
            self._connecting.add_done_callback(self._connect_ended)

    async def _make_connection(self, server_name: str | None) -> None:
        place = self._place
        target = ConnectTarget(
            place.text, place.scheme, place.host, place.port, server_name, alpn=self._protocols
        )
        made: list[Connection] = []
        task = asyncio.current_task()
        try:
            await self._connect(target, lambda: self._protocol(made))
            if not made or made[0].transport is None:
                raise InvalidArgumentError("connect= must connect the protocol that it was given")
        except Exception as error:
            for connection in made:
                connection.give_up(InformationalError("connect failed"))
            if self._connecting is task:
                self._connecting = None
                failure = connect_error(error, f"{place.host}:{place.port}", origin=self.origin)
                self._connect_failed(failure, server_name)
            return
        except BaseException:
            for connection in made:
                connection.give_up(InformationalError("connect cancelled"))
            raise
        connection = made[0]
        if self._connecting is not task:
            connection.kill(InformationalError("no longer wanted"))
            return
        self._connecting = None
        if connection.dead and not self._fruitless:
            # A server that is told to go may say so to a connection that it has just taken.
            self._fruitless += 1
            self.refill()
            return
        if connection.dead:
            closed = SocketError(
                "other side closed", phase="connect", origin=self.origin, request_not_processed=True
            )
            self._connect_failed(closed, server_name)
            return
        connection.server_name = server_name
        self._connection = connection
        assert self._loop is not None
        self.connected_at = self._loop.time()
        if not connection.multiplexed:
            self._set_limit(max(1, self._pipelining))
        elif connection.limit is not None:
            self._set_limit(connection.limit)
        self.forward("connect", self.origin, [])
        self.refill()
        connection.rest()

    def _protocol(self, made: list[Connection]) -> asyncio.Protocol:
        def make(protocol: str | None) -> Connection:
            assert self._services is not None
            assert self._loop is not None
            kind = H2Connection if protocol == "h2" else H1Connection
            connection: Connection = kind(self, self._settings, self._services, self._loop)
            made.append(connection)
            self.sockets.add(connection)
            connection.closed.add_done_callback(lambda _: self.sockets.discard(connection))
            return connection

        if self._tls and "h2" in self._protocols:
            return Negotiation(make)
        return make(self._protocols[0])  # type: ignore[return-value]

    def _connect_ended(self, task: asyncio.Task[None]) -> None:
        if self._connecting is task:
            # Somebody else has cancelled it: nobody may wait for it any longer.
            self._connecting = None
            self._connect_failed(ConnectError("connecting was cancelled", origin=self.origin), None)

    def _connect_failed(self, error: DodiciError, server_name: str | None) -> None:
        waiting = self._queue.clear()
        spared: list[Exchange] = []
        if isinstance(error, TLSError):
            # A certificate says something of the name that was asked for, and nothing of other names.
            spared = [each for each in waiting if self._server_name(each.options) != server_name]
            waiting = [each for each in waiting if each not in spared]
            for exchange in spared:
                exchange.carrier = self
            self._queue.push_front(spared)
        self._size -= len(waiting)
        self._drain_due = self._drain_due or (self.busy and self._size < self._most)
        self.busy = self._size >= self._most
        if self._parent is not None:
            # First out of the pool, so that what the callbacks dispatch does not come here.
            self._parent.client_gone(self, failed=not spared)
        for index, exchange in enumerate(waiting):
            exchange.fail(error if index == 0 else twin(error))
        self.forward("connection_error", self.origin, [], error)
        self.refill()

    def requeue(self, exchanges: list[Exchange], *, retries: int = 0, left: bool = False) -> None:
        self._retries += retries
        if left:
            self._count_leaving(-len(exchanges))
        for exchange in exchanges:
            exchange.carrier = self
            exchange.status_code = exchange.bytes_sent = exchange.bytes_read = 0
        self._queue.push_front(exchanges)

    def connection_gone(
        self,
        connection: Connection,
        reason: DodiciError,
        again: list[Exchange],
        failed: list[Failure],
        *,
        retries: int = 0,
        left: int = 0,
    ) -> None:
        known = self._connection is connection
        if known:
            self._connection = None
        if left > 0:
            self._left.add(connection)
        if left:
            self._count_leaving(left)
        if connection.served:
            self._fruitless = 0
        elif again and not (failed or retries or left or isinstance(reason, InformationalError)):
            # The server said something else than an answer, or went, before anything was written to it. That may
            # have been an accident once; for ever it would be a loop.
            self._fruitless += 1
            if self._fruitless > 1:
                failed, again = [(exchange, twin(reason)) for exchange in again], []
                for _, error in failed:
                    annotate(error, request_not_processed=True)
        self.requeue(again, retries=retries)
        for exchange, error in failed:
            self.release(exchange)
            exchange.fail(error)
        if self._destroyed:
            self._fail_queue()
        if known:
            self.forward("disconnect", self.origin, [], reason)
            if self._parent is not None:
                self._parent.client_gone(self, failed=False)
        self.refill()

    def forward(self, event: str, origin: str | None, targets: list[Any], *args: Any) -> None:
        assert origin is not None
        targets = [self, *targets]
        self.emit(event, origin, targets, *args)
        if self._parent is not None:
            self._parent.forward(event, origin, targets, *args)

    # -- closing ---------------------------------------------------------------------------------------

    @property
    def replaceable(self) -> bool:
        """Whether the connection can be replaced now: it is idle, or goes on beside its successor."""
        return self._connection is not None and (not self._size or self._connection.multiplexed)

    def retire(self, reason: str) -> None:
        """Let go of the connection if that hurts nobody; the next exchange makes a new one."""
        connection = self._connection
        if connection is None:
            return
        if connection.idle:
            connection.kill(InformationalError(reason))
        elif isinstance(connection, H2Connection):
            connection.leave(InformationalError(reason))

    async def _close(self) -> None:
        while self._size:
            await self._drained()
        if self._fallback is not None:
            await self._fallback.close()
        self._destroyed = True
        await self.shut()
        await goodbye(self.sockets)

    async def shut(self) -> None:
        """Begin to close the idle connection, or give up making one."""
        self.retire("closed")
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
            await asyncio.wait((connecting,))

    def _fail_queue(self) -> None:
        error = self._destroy_error or ClientDestroyedError()
        waiting = self._queue.clear()
        self._size -= len(waiting)
        for exchange in waiting:
            exchange.fail(error)

    def fail_all(self, error: BaseException) -> None:
        """Destroy: fail everything with `error`, now."""
        self._closed = self._destroyed = True
        self._fail_all(error)

    def _fail_all(self, error: BaseException) -> None:
        self._destroy_error = error
        self._fail_queue()
        kind = error if isinstance(error, DodiciError) else ClientDestroyedError()
        if self._connection is not None:
            self._connection.kill(kind)
        for connection in list(self._left):
            connection.kill(kind)
        if self._fallback is not None:
            self._fallback.fail_all(error)
        self._wake()

    async def _gone(self) -> None:
        if self._fallback is not None:
            await self._fallback.gone()
        await self.shut()
        await goodbye(self.sockets)


class H2CClient(Client):
    """A `Client` that speaks HTTP/2 to an `http` origin, which must understand it (RFC 9113 §3.3)."""

    def __init__(self, origin: str, **options: Any) -> None:
        super().__init__(origin, **{**options, "use_h2c": True})
        if self._tls:
            raise InvalidArgumentError(
                f"H2CClient is for http origins, not {origin!r}: Client negotiates HTTP/2 where there is TLS"
            )

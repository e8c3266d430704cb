"""`Client`: one origin, one connection at a time.

A client owns its exchanges from `take` until `release`, and each is in exactly one place: its queue, or its
connection. `size` counts both, and nothing awaits in between, so cancelling a task that waits for a response
cannot leave a slot taken: the exchange is aborted, whoever carries it fails it, and `release` is called once.
"""

from __future__ import annotations

import asyncio
import copy
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
    connect_error,
)
from ..core.handler import Handler
from ..core.options import DispatchOptions
from ..net.connector import Connect, ConnectTarget
from ..net.h1_conn import ConnectionSettings, H1Connection
from .base import BaseDispatcher, Origin
from .options import ClientOptions, client_options
from .queue import ExchangeQueue
from .stats import ClientStats

_GOODBYE_SECONDS = 3.0
"""How long closing waits for a connection's shutdown before it is cut."""


async def goodbye(connections: set[H1Connection]) -> None:
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

    sockets: set[H1Connection]
    """Every connection of the pool that is not closed yet."""

    def client_free(self, client: Client) -> None:
        """The client can take more. Called before the terminal callback of the exchange that made room."""

    def client_refilled(self, client: Client) -> None:
        """The client has taken what it could from its own queue."""

    def client_gone(self, client: Client, *, failed: bool) -> None:
        """The client's connection is gone, or could not be made (`failed`)."""

    def forward(self, event: str, origin: str, targets: list[Any], *args: Any) -> None:
        """An event of the client."""


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
        self._setup(place, checked, checked.settings(place.netloc), checked.connector(), None)

    @classmethod
    def in_pool(
        cls,
        origin: Origin,
        options: ClientOptions,
        settings: ConnectionSettings,
        connect: Connect,
        parent: Parent,
    ) -> Client:
        """A client that shares what its pool has made once."""
        self = cls.__new__(cls)
        BaseDispatcher.__init__(self)
        self._setup(origin, options, settings, connect, parent)
        return self

    def _setup(
        self,
        origin: Origin,
        options: ClientOptions,
        settings: ConnectionSettings,
        connect: Connect,
        parent: Parent | None,
    ) -> None:
        self.origin = origin.text
        self._place = origin
        self._tls = origin.scheme == "https"
        self._pipelining = options.pipelining
        self.limit = max(1, options.pipelining)
        self.single_use = options.pipelining == 0
        self._settings = settings
        self._connect = connect
        self._parent = parent
        self._queue = ExchangeQueue()
        self._connection: H1Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self.sockets: set[H1Connection] = set() if parent is None else parent.sockets
        self._size = 0
        self._retries = 0
        self._drain_due = False
        self._destroy_error: BaseException | None = None
        self.busy = False
        """Whether as many exchanges are accepted as may be on the connection."""
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
        self.limit = max(1, value)
        self.single_use = value == 0
        if self.busy and self._size < self.limit:
            self._has_room()
        self.busy = self._size >= self.limit
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
        if size >= self.limit:
            self.busy = True
        connection = self._connection
        if (
            connection is not None
            and size <= self.limit
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

    def _offer(self, connection: H1Connection, exchange: Exchange) -> bool:
        if self._tls and self._server_name(exchange.options) != connection.server_name:
            if connection.idle:
                connection.kill(InformationalError("server name changed"))
            return False
        return connection.offer(exchange)

    def release(self, exchange: Exchange) -> None:
        self._size -= 1
        if self.busy and self._size < self.limit:
            self._has_room()

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
            if self._size - queue.waiting >= self.limit:
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
        target = ConnectTarget(place.text, place.scheme, place.host, place.port, server_name)
        made: list[H1Connection] = []
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
        if connection.dead:
            closed = SocketError("other side closed", phase="connect", origin=self.origin)
            self._connect_failed(closed, server_name)
            return
        connection.server_name = server_name
        self._connection = connection
        assert self._loop is not None
        self.connected_at = self._loop.time()
        self._forward("connect", self.origin, [])
        self.refill()
        connection.rest()

    def _protocol(self, made: list[H1Connection]) -> H1Connection:
        assert self._services is not None
        assert self._loop is not None
        connection = H1Connection(self, self._settings, self._services, self._loop)
        made.append(connection)
        self.sockets.add(connection)
        connection.closed.add_done_callback(lambda _: self.sockets.discard(connection))
        return connection

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
        self._drain_due = self._drain_due or (self.busy and self._size < self.limit)
        self.busy = self._size >= self.limit
        if self._parent is not None:
            # First out of the pool, so that what the callbacks dispatch does not come here.
            self._parent.client_gone(self, failed=not spared)
        for index, exchange in enumerate(waiting):
            exchange.fail(error if index == 0 else _copy(error))
        self._forward("connection_error", self.origin, [], error)
        self.refill()

    def requeue(self, exchanges: list[Exchange]) -> None:
        for exchange in exchanges:
            exchange.carrier = self
            exchange.status_code = exchange.bytes_sent = exchange.bytes_read = 0
        self._queue.push_front(exchanges)

    def connection_gone(
        self,
        connection: H1Connection,
        reason: DodiciError,
        again: list[Exchange],
        failed: tuple[Exchange, BaseException] | None,
        stale: bool,
    ) -> None:
        known = self._connection is connection
        if known:
            self._connection = None
        if stale and again:
            again[0].retried = True
            self._retries += 1
        self.requeue(again)
        if failed is not None:
            exchange, error = failed
            self.release(exchange)
            exchange.fail(error)
        if self._destroyed:
            self._fail_queue()
        if known:
            self._forward("disconnect", self.origin, [], reason)
            if self._parent is not None:
                self._parent.client_gone(self, failed=False)
        self.refill()

    def _forward(self, event: str, origin: str | None, targets: list[Any], *args: Any) -> None:
        assert origin is not None
        targets = [self, *targets]
        self.emit(event, origin, targets, *args)
        if self._parent is not None:
            self._parent.forward(event, origin, targets, *args)

    # -- closing ---------------------------------------------------------------------------------------

    def retire(self, reason: str) -> None:
        """Close the connection if it is idle; the next exchange makes a new one."""
        if self._connection is not None and self._connection.idle:
            self._connection.kill(InformationalError(reason))

    async def _close(self) -> None:
        while self._size:
            await self._drained()
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
        if self._connection is not None:
            kind = error if isinstance(error, DodiciError) else ClientDestroyedError()
            self._connection.kill(kind)
        self._wake()

    async def _gone(self) -> None:
        await self.shut()
        await goodbye(self.sockets)


def _copy(error: DodiciError) -> DodiciError:
    """Each handler gets an exception of its own: raising one twice would tangle the tracebacks."""
    twin = copy.copy(error)
    twin.__cause__ = error.__cause__
    return twin

"""`CollectiveInterceptor`: the services of a collective as hosts, for any dispatcher.

    agent = Agent().compose(CollectiveInterceptor(collector))
    response = await agent.request("http://OrderService.shop.collective/orders/7")

Each dispatcher that is composed with it gets a `CollectiveBranch` of its own, whose exchanges end with that dispatcher;
the collector is not theirs, and goes on. A request goes one of two ways: where its service is an HTTP origin somewhere
(`Collector.register_origin`), the exchange itself is carried there (`tunnel.py`; upgrades: `opening.py`); else it is a call of the method that
its path names (`rpc.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from ...core.controller import refuse
from ...core.dispatcher import Branch, DispatchFunction
from ...core.errors import (
    DodiciError,
    InvalidArgumentError,
    NoTargetError,
    NotSupportedError,
    twin,
)
from ...core.handler import Handler, check_handler, known_handlers
from ...core.options import DispatchOptions, check_seconds
from ...net.connection import Patience
from ...pool.base import BaseDispatcher
from .hosts import Hosts
from .opening import Opening
from .passage import CarriedExchange
from .rpc import MethodCall
from .tunnel import Tunnel

if TYPE_CHECKING:
    import asyncio

    from ..collector import Collector
    from .hosts import Place

SILENCE: Final = 300.0
"""Seconds without a head, or without a piece of the body, where nothing else is said."""


class CollectiveInterceptor:
    """Routes requests for hosts of the collective through a collector of this process.

    Args:
        collector: carries them. It need not be started yet.
        domain: the suffix of the collective's hosts: `SERVICE.NAMESPACE.collective`.
        timeout: seconds without a response head, for requests that do not say; None for 300, 0 for ever.
        body_timeout: the same between two pieces of a response body.
        unknown: what becomes of hosts in the domain whose service nobody serves: ``"error"`` for `NoTargetError`,
            ``"pass"`` for the next dispatcher.

    Raises:
        InvalidArgumentError: any of these is malformed.
    """

    def __init__(
        self,
        collector: Collector,
        *,
        domain: str = ".collective",
        timeout: float | None = None,
        body_timeout: float | None = None,
        unknown: str = "error",
    ) -> None:
        if unknown not in ("error", "pass"):
            raise InvalidArgumentError(f"unknown must be 'error' or 'pass', not {unknown!r}")
        if not hasattr(collector, "dispatch_stream"):
            raise InvalidArgumentError(f"collector must be a Collector, not {type(collector).__name__}")
        self.collector = collector
        self.patience = Patience(
            SILENCE if timeout is None else check_seconds("timeout", timeout),
            SILENCE if body_timeout is None else check_seconds("body_timeout", body_timeout),
        )
        self.pass_unknown = unknown == "pass"
        self.lasting: set[asyncio.Task[None]] = set()
        """The tasks of what was handed over: the loop keeps only weak references to them."""
        self.hosts = Hosts(domain, collector._services, collector._table)

    def __call__(self, dispatch: DispatchFunction) -> CollectiveBranch:
        """What `compose()` calls: `interceptor(dispatch) -> dispatch`."""
        return CollectiveBranch(self, dispatch)

    def __repr__(self) -> str:
        return f"<CollectiveInterceptor *{self.hosts.suffix} through {self.collector.id}>"


class CollectiveBranch(BaseDispatcher, Branch):
    """The collective in front of one dispatcher.

    Args:
        interceptor: says how.
        pass_on: the dispatch function for everything that is not the collective's.
    """

    def __init__(self, interceptor: CollectiveInterceptor, pass_on: DispatchFunction) -> None:
        super().__init__()
        self._interceptor = interceptor
        self._pass_on = pass_on
        self._exchanges: set[CarriedExchange] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def loop(self) -> Any:
        """The loop that it is bound to."""
        return self._loop

    @property
    def thread(self) -> int:
        """The thread of that loop."""
        return self._services.thread  # type: ignore[union-attr]

    @property
    def running(self) -> int:
        """Requests that have not ended."""
        return len(self._exchanges)

    @property
    def patience(self) -> Patience:
        """How long the parts of a response may take."""
        return self._interceptor.patience

    def __call__(self, options: DispatchOptions, handler: Any) -> bool:
        origin = options.origin
        if origin is None:
            return self._pass_on(options, handler)
        interceptor = self._interceptor
        try:
            place = interceptor.hosts.find(origin)
        except InvalidArgumentError as error:
            if interceptor.hosts.suffix not in origin.lower():
                return self._pass_on(options, handler)  # whose error it is
            return refuse(handler, error)
        if place is None:
            return self._pass_on(options, handler)
        services = self._services
        if services is None or not self._loop.is_running():  # type: ignore[union-attr]
            services = self._bind()
        if not place.known and not interceptor.hosts.may_be(place):
            if interceptor.pass_unknown:
                return self._pass_on(options, handler)
            if not self._closed:
                return refuse(handler, _no_target(origin, place))
        if self._closed:
            return refuse(handler, self._closed_error())
        if options.method == "CONNECT" or (options.upgrade is not None and place.known and not place.carried):
            why = (
                "CONNECT cannot go through the collective: there is no proxy in it"
                if options.upgrade is None
                else f"no upgrade to {options.upgrade} through the collective: the methods of {place.service!r} are "
                "called, and only a service that is an HTTP origin can be upgraded"
            )
            return refuse(handler, NotSupportedError(why, origin=origin, request_not_processed=True))
        return self._begin(options, handler, place)

    def dispatch(self, options: DispatchOptions | Mapping[str, Any], handler: Handler) -> bool:
        checked = self._check(options, handler)
        return self(checked, handler) if checked is not None else False

    def _begin(self, options: DispatchOptions, handler: Any, place: Place) -> bool:
        timers = self._services.timers  # type: ignore[union-attr]
        exchange = CarriedExchange(handler, options, self)
        self._exchanges.add(exchange)
        wants_controller = known_handlers.get(type(handler))
        if wants_controller is None:
            check_handler(handler, options.upgrade is not None)
            wants_controller = hasattr(handler, "on_dispatch")
        if not self._tell(exchange, handler, wants_controller):
            return False
        way: type[MethodCall | Tunnel] = MethodCall
        if options.upgrade is not None:
            way = Opening
        elif place.carried:
            way = Tunnel
        task = way(exchange, timers, self._interceptor.collector, place).task
        self._tasks.add(task)
        task.add_done_callback(self._over)
        return True

    # -- lifecycle -------------------------------------------------------------------------------------

    def ended(self, exchange: CarriedExchange) -> None:
        """One of its exchanges has ended."""
        self._exchanges.discard(exchange)
        self._look()

    def lasts(self, task: asyncio.Task[None]) -> None:
        """The task of an exchange goes on as that of what was handed over, which does not end with this dispatcher."""
        self._tasks.discard(task)
        self._interceptor.lasting.add(task)
        task.add_done_callback(self._interceptor.lasting.discard)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._look()

    def _look(self) -> None:
        if not self._exchanges and not self._tasks and self._waiters:
            self._wake()

    async def _close(self) -> None:
        await self._gone()
        self._destroyed = True

    def _fail_all(self, error: BaseException) -> None:
        for exchange in list(self._exchanges):
            exchange.abort(twin(error) if isinstance(error, DodiciError) else error)

    async def _gone(self) -> None:
        while self._exchanges or self._tasks:
            await self._drained()


def _no_target(origin: str, place: Place) -> NoTargetError:
    return NoTargetError(
        f"No target found for {origin}: nobody serves {place.service!r} in namespace {place.namespace!r}",
        name=f"{place.service}.{place.namespace}",
        origin=origin,
    )

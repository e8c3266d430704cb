"""The dispatcher that is used where none is named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from ..core.dispatcher import Dispatcher
from ..core.errors import InvalidArgumentError
from .agent import Agent

_chosen: Dispatcher | None = None
_by_loop: dict[asyncio.AbstractEventLoop, tuple[Agent, AsyncGenerator[None, None]]] = {}


def set_global_dispatcher(dispatcher: Dispatcher | None) -> None:
    """Use `dispatcher` wherever none is named; None goes back to the default.

    Raises:
        InvalidArgumentError: not a Dispatcher.
    """
    global _chosen
    if dispatcher is not None and not isinstance(dispatcher, Dispatcher):
        raise InvalidArgumentError(f"the global dispatcher must be a Dispatcher, not {dispatcher!r}")
    _chosen = dispatcher


def get_global_dispatcher() -> Dispatcher:
    """What `set_global_dispatcher()` was given, else an `Agent` of the running event loop, made at first use.

    There is one such agent per loop, so that `asyncio.run()` may be called any number of times. It is
    destroyed when `asyncio.run()` ends.
    """
    if _chosen is not None:
        return _chosen
    loop = asyncio.get_running_loop()
    found = _by_loop.get(loop)
    if found is None or found[0].closed:
        for closed in [other for other in list(_by_loop) if other.is_closed()]:
            _by_loop.pop(closed, None)
        agent = Agent()
        guard = _destroyed_with_the_loop(agent)
        try:
            guard.__anext__().send(None)
        except StopIteration:
            pass  # it has begun, and the loop knows of it
        found = _by_loop[loop] = (agent, guard)
    return found[0]


async def _destroyed_with_the_loop(agent: Agent) -> AsyncGenerator[None, None]:
    # Nobody closes a default. A loop that ends closes its asynchronous generators, and that is the one moment
    # at which sockets can still be closed in order.
    try:
        yield
    finally:
        await agent.destroy()

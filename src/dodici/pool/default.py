"""The dispatcher that is used where none is named."""

from __future__ import annotations

import asyncio

from ..core.dispatcher import Dispatcher
from ..core.errors import InvalidArgumentError
from .agent import Agent

_chosen: Dispatcher | None = None
_by_loop: dict[asyncio.AbstractEventLoop, Agent] = {}


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

    There is one such agent per loop, so that `asyncio.run()` may be called any number of times.
    """
    if _chosen is not None:
        return _chosen
    loop = asyncio.get_running_loop()
    agent = _by_loop.get(loop)
    if agent is None or agent.closed:
        for closed in [other for other in list(_by_loop) if other.is_closed()]:
            _by_loop.pop(closed, None)
        agent = _by_loop[loop] = Agent()
    return agent

"""One app of a host, from its start-up to its shutdown, and how many requests are its own meanwhile."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from .lifespan import Lifespan
from .wsgi import WSGIBridge

if TYPE_CHECKING:
    from .contracts import ASGIApp
    from .loading import App

_log = logging.getLogger("dodici.mesh")


class Generation:
    """One app, or an address in its place. Made, `start()`ed, and `end()`ed once.

    Raises:
        InvalidArgumentError: `mode` or `wsgi_threads` is impossible.
        NotSupportedError: it is a WSGI app, and a2wsgi is not installed.
    """

    __slots__ = ("app", "call", "address", "lifespan", "state", "open", "idle")

    def __init__(self, app: App, mode: str, wsgi_threads: int) -> None:
        self.app = app
        self.address = app.address
        self.call: ASGIApp | None = app.call
        if app.interface == "wsgi":
            assert app.call is not None
            self.call = WSGIBridge(app.call, threads=wsgi_threads)
        self.lifespan: Lifespan | None = None
        if app.interface == "asgi":
            assert app.call is not None
            self.lifespan = Lifespan(app.call, mode, name=app.name)
        self.state: dict[str, Any] = {}
        self.open = 0
        self.idle: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Raises `WorkerStartError`."""
        if self.lifespan is not None:
            self.state = await self.lifespan.startup()

    def done(self) -> None:
        """One of its requests is over."""
        self.open -= 1
        if not self.open and self.idle is not None and not self.idle.done():
            self.idle.set_result(None)

    async def end(self) -> None:
        """Wait for its last request, then shut it down."""
        if self.open:
            self.idle = asyncio.get_running_loop().create_future()
            await self.idle
        try:
            if self.lifespan is not None:
                await self.lifespan.shutdown()
        except Exception:
            _log.exception("shutdown of %s failed", self.app.name)
        if isinstance(self.call, WSGIBridge):
            self.call.close()

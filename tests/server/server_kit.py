"""What the tests of the application server share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from dodici.core.controller import Exchange
from dodici.core.dispatcher import Dispatcher
from dodici.core.headers import Headers
from dodici.core.options import DispatchOptions
from dodici.server.config import GatewayConfig, MeshConfig, ServiceConfig
from dodici.server.routing import Router


def service(name: str = "shop", **keys: Any) -> ServiceConfig:
    return ServiceConfig(name=name, app="shop:app", **keys)


def router(*services: ServiceConfig, **gateway: Any) -> Router:
    return Router(GatewayConfig(**gateway), MeshConfig(), services)


class Scripted(Dispatcher):
    """Hands every dispatch to a script: `script(exchange)`, called in a later turn, with the handler's controller.

    The exchange is real, so that pause, resume and abort are what they are anywhere; the script is its carrier's
    peer, and finds what was done to it in `paused` and `aborted`.
    """

    closed = destroyed = False

    def __init__(self, script: Callable[[Scripted, Exchange], Any]) -> None:
        super().__init__()
        self.script = script
        self.options: list[DispatchOptions] = []
        self.aborted: list[BaseException] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.flow = asyncio.Event()
        self.flow.set()

    def dispatch(self, options: Any, handler: Any) -> bool:
        loop = asyncio.get_running_loop()
        exchange = Exchange(handler, options, loop, threading.get_ident())
        exchange.carrier = self
        self.options.append(options)
        if hasattr(handler, "on_dispatch"):
            handler.on_dispatch(exchange)
        self.tasks.append(loop.create_task(self._run(exchange)))
        return True

    async def _run(self, exchange: Exchange) -> None:
        exchange.handler.on_request_start(exchange, {})
        result = self.script(self, exchange)
        if result is not None:
            await result

    # ------------------------------------------------------------------------------------------ carrier

    def abort_exchange(self, exchange: Exchange, error: BaseException) -> None:
        self.aborted.append(error)
        exchange.fail(error)

    def pause_exchange(self, exchange: Exchange) -> None:
        self.flow.clear()

    def resume_exchange(self, exchange: Exchange) -> None:
        self.flow.set()

    async def close(self) -> None: ...
    async def destroy(self, error: BaseException | None = None) -> None: ...


def respond(
    exchange: Exchange, status: int = 200, body: bytes = b"", *fields: tuple[bytes, bytes], trailers: Any = ()
) -> None:
    """A whole response in one turn."""
    handler = exchange.handler
    handler.on_response_start(exchange, status, Headers.from_raw(tuple(fields)), "")
    if body:
        handler.on_response_data(exchange, body)
    exchange.end()
    handler.on_response_end(exchange, Headers.from_raw(tuple(trailers)))


class Call:
    """One request to an ASGI app, driven by hand."""

    def __init__(self, app: Any, **scope: Any) -> None:
        headers = scope.pop("headers", [])
        raw_path = scope.pop("raw_path", b"/")
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": raw_path.decode("latin-1"),
            "raw_path": raw_path,
            "query_string": b"",
            "client": ("192.0.2.7", 5000),
            "headers": [(b"host", b"shop.example"), *headers],
            "extensions": {},
            **scope,
        }
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: list[dict[str, Any]] = []
        self.arrived = asyncio.Event()
        self.writable = asyncio.Event()
        self.writable.set()
        self.task = asyncio.ensure_future(app(self.scope, self.inbox.get, self._send))

    async def _send(self, message: dict[str, Any]) -> None:
        await self.writable.wait()
        self.sent.append(message)
        self.arrived.set()

    def body(self, piece: bytes, *, more: bool = False) -> Call:
        self.inbox.put_nowait({"type": "http.request", "body": piece, "more_body": more})
        return self

    def leave(self) -> None:
        self.inbox.put_nowait({"type": "http.disconnect"})

    async def until(self, count: int) -> list[dict[str, Any]]:
        """The messages, when there are `count` of them."""
        while len(self.sent) < count:
            self.arrived.clear()
            arrival = asyncio.ensure_future(self.arrived.wait())
            await asyncio.wait((self.task, arrival), return_when=asyncio.FIRST_COMPLETED)
            arrival.cancel()
            if self.task.done():
                break
        assert len(self.sent) >= count, self.sent
        return self.sent

    async def end(self) -> tuple[int, dict[bytes, bytes], bytes]:
        """Status, fields and body, when the app has returned."""
        await self.task
        start = self.sent[0]
        body = b"".join(each.get("body", b"") for each in self.sent[1:])
        return start["status"], dict(start["headers"]), body

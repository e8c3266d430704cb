"""A Dispatcher without a network: each dispatch plays a script, one step in a turn of the loop."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from dodici.core.controller import Exchange, refuse
from dodici.core.dispatcher import Dispatcher
from dodici.core.headers import EMPTY, Headers
from dodici.core.options import DispatchOptions, coerce_options
from dodici.testing import RecordingHandler, run_virtual

ORIGIN = "http://a.test"

Step = tuple[Any, ...]


def start() -> Step:
    return ("start",)


def head(status: int = 200, headers: Any = None, message: str = "") -> Step:
    return ("head", status, Headers(headers), message)


def data(chunk: bytes) -> Step:
    return ("data", chunk)


def end(trailers: Any = None) -> Step:
    return ("end", Headers(trailers) if trailers else EMPTY)


def fail(error: BaseException) -> Step:
    return ("fail", error)


def gate(event: asyncio.Event) -> Step:
    """Go on when the event is set."""
    return ("gate", event)


def hang() -> Step:
    return ("hang",)


def refused(error: BaseException) -> Step:
    """Refuse inside dispatch()."""
    return ("refused", error)


def upgrade(socket: Any = "socket") -> Step:
    return ("upgrade", socket)


def answer(status: int = 200, headers: Any = None, body: bytes = b"", message: str = "") -> list[Step]:
    """A whole exchange."""
    return [start(), head(status, headers, message), *([data(body)] if body else []), end()]


class Player:
    """Plays the script of one exchange: its carrier."""

    def __init__(self, dispatcher: ScriptedDispatcher, exchange: Exchange, steps: list[Step]) -> None:
        self.dispatcher = dispatcher
        self.exchange = exchange
        self.steps = list(steps)
        self.outcome: Any = None
        self.started = False
        exchange.carrier = self
        self._soon()

    def abort_exchange(self, exchange: Exchange, error: BaseException) -> None:
        self.outcome = error
        exchange.fail(error)

    def pause_exchange(self, exchange: Exchange) -> None:
        pass

    def resume_exchange(self, exchange: Exchange) -> None:
        self._soon()

    def _soon(self) -> None:
        asyncio.get_running_loop().call_soon(self._play)

    def _play(self) -> None:
        exchange = self.exchange
        if exchange.done or not self.steps:
            return
        kind, *args = self.steps[0]
        if exchange.paused and kind in {"data", "end"}:
            return
        if kind == "hang":
            return
        if kind == "gate":
            if args[0].is_set():
                del self.steps[0]
                self._soon()
            else:
                waiting = asyncio.ensure_future(args[0].wait())
                waiting.add_done_callback(lambda _: self._play())
                self.dispatcher.tasks.append(waiting)
            return
        del self.steps[0]
        handler = exchange.handler
        try:
            if kind == "start":
                self.started = True
                exchange.attempt += 1
                handler.on_request_start(exchange, {})
            elif kind == "head":
                exchange.status_code = args[0]
                handler.on_response_start(exchange, *args)
            elif kind == "data":
                exchange.bytes_read += len(args[0])
                handler.on_response_data(exchange, args[0])
            elif kind == "fail":
                self.outcome = args[0]
                exchange.fail(args[0])
            else:
                self._end(kind, args[0])
        except Exception as error:
            self.outcome = error
            exchange.done = False
            exchange.fail(error)
        if not exchange.done:
            self._soon()

    def _end(self, kind: str, arg: Any) -> None:
        self.outcome = kind
        self.exchange.end()
        if kind == "end":
            self.exchange.handler.on_response_end(self.exchange, arg)
        else:
            self.exchange.handler.on_request_upgrade(self.exchange, 101, EMPTY, arg)


class ScriptedDispatcher(Dispatcher):
    """Plays one script for each dispatch, the last one for all that follow.

    `early` says whether handlers get their controller inside dispatch().
    """

    def __init__(
        self,
        *scripts: list[Step] | Callable[[DispatchOptions], list[Step]],
        origin: str | None = None,
        early: bool = True,
    ) -> None:
        self.scripts = list(scripts)
        self.origin = origin
        self.early = early
        self.requests: list[DispatchOptions] = []
        self.players: list[Player | None] = []
        self.times: list[float] = []
        self.tasks: list[Any] = []

    def dispatch(self, options: Any, handler: Any) -> bool:
        loop = asyncio.get_running_loop()
        options = coerce_options(options)
        script = self.scripts[min(len(self.requests), len(self.scripts) - 1)]
        self.requests.append(options)
        self.times.append(loop.time())
        steps = script(options) if callable(script) else script
        if steps and steps[0][0] == "refused":
            self.players.append(None)
            return refuse(handler, steps[0][1])
        exchange = Exchange(handler, options, loop, threading.get_ident())
        if self.early and hasattr(handler, "on_dispatch"):
            handler.on_dispatch(exchange)
            if exchange.done:
                self.players.append(None)
                return False
        self.players.append(Player(self, exchange, steps))
        return True

    @property
    def waits(self) -> list[float]:
        """Seconds between the dispatches."""
        return [round(after - before, 6) for before, after in zip(self.times, self.times[1:], strict=False)]

    @property
    def outcomes(self) -> list[Any]:
        """How each exchange ended: "end", "upgrade", an error, or None."""
        return [player and player.outcome for player in self.players]

    async def close(self) -> None:
        pass

    async def destroy(self, error: BaseException | None = None) -> None:
        pass

    @property
    def closed(self) -> bool:
        return False

    @property
    def destroyed(self) -> bool:
        return False


def virtual(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test in virtual time."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        run_virtual(test(*args, **kwargs))  # type: ignore[arg-type]

    return run


async def play(
    interceptor: Any,
    *scripts: Any,
    options: dict[str, Any] | None = None,
    base: ScriptedDispatcher | None = None,
    **hooks: Any,
) -> tuple[RecordingHandler, ScriptedDispatcher]:
    """Dispatch once through an interceptor, and wait for the end."""
    base = ScriptedDispatcher(*scripts) if base is None else base
    recorder = RecordingHandler(**hooks)
    recorder.dispatch(base.compose(interceptor), {"origin": ORIGIN, **(options or {})})
    await recorder.wait()
    return recorder, base

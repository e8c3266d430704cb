"""A dispatcher in memory: it plays scripts, one step per loop turn, and keeps the promises of the contract."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from typing import Any

from dodici.core.controller import Exchange
from dodici.core.dispatcher import Dispatcher
from dodici.core.handler import check_handler
from dodici.core.headers import Headers
from dodici.core.options import DispatchOptions, coerce_options

Step = tuple[Any, ...]

START: Step = ("start",)
HOLD: Step = ("hold",)


def info(status: int, headers: Any = None) -> Step:
    return ("head", status, headers, "Info")


def head(status: int = 200, headers: Any = None, message: str = "OK") -> Step:
    return ("head", status, headers, message)


def data(chunk: bytes) -> Step:
    return ("data", chunk)


def end(trailers: Any = None) -> Step:
    return ("end", trailers)


def fail(error: BaseException) -> Step:
    return ("fail", error)


def upgraded(status: int, headers: Any, socket: Any) -> Step:
    return ("upgrade", status, headers, socket)


def reply(body: bytes = b"", status: int = 200, headers: Any = None, message: str = "OK") -> list[Step]:
    """A whole response."""
    return [START, head(status, headers, message), *([data(body)] if body else []), end()]


class Play:
    """One exchange and the rest of its script."""

    def __init__(self, exchange: Exchange, steps: Iterable[Step]) -> None:
        self.exchange = exchange
        self.steps = list(steps)
        self.held = False
        self.released = False
        self.scheduled = False
        self.aborted_with: BaseException | None = None
        self.pauses = 0
        self.resumes = 0
        exchange.carrier = self

    @property
    def options(self) -> DispatchOptions:
        return self.exchange.options

    def schedule(self) -> None:
        if not self.scheduled:
            self.scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def go(self, *steps: Step) -> None:
        """Go on after HOLD, with more steps if any."""
        self.steps.extend(steps)
        self.released = not self.held  # HOLD may not have been played yet: then it does not hold
        self.held = False
        self.schedule()

    def _turn(self) -> None:
        self.scheduled = False
        exchange = self.exchange
        if exchange.done or self.held or not self.steps or exchange.paused:
            return
        kind, *args = self.steps.pop(0)
        try:
            self._do(kind, args)
        except Exception as error:
            exchange.fail(error)
        if self.steps and not exchange.done:
            self.schedule()

    def _do(self, kind: str, args: list[Any]) -> None:
        exchange, handler = self.exchange, self.exchange.handler
        if kind == "start":
            handler.on_request_start(exchange, exchange.context or {})
        elif kind == "head":
            handler.on_response_start(exchange, args[0], Headers(args[1]), args[2])
        elif kind == "data":
            exchange.bytes_read += len(args[0])
            handler.on_response_data(exchange, args[0])
        elif kind == "end":
            exchange.end()
            handler.on_response_end(exchange, Headers(args[0]))
        elif kind == "fail":
            exchange.fail(args[0])
        elif kind == "upgrade":
            exchange.end()
            handler.on_request_upgrade(exchange, args[0], Headers(args[1]), args[2])
        else:
            self.held = not self.released
            self.released = False

    def abort_exchange(self, exchange: Exchange, error: BaseException) -> None:
        self.aborted_with = error
        exchange.fail(error)

    def pause_exchange(self, exchange: Exchange) -> None:
        self.pauses += 1

    def resume_exchange(self, exchange: Exchange) -> None:
        self.resumes += 1
        self.schedule()


class FakeDispatcher(Dispatcher):
    """Plays `script` for every dispatch: a list of steps, or a function from options to one."""

    def __init__(
        self,
        script: list[Step] | Callable[[DispatchOptions], list[Step]] | None = None,
        *,
        origin: str | None = None,
        early: bool = True,
    ) -> None:
        self.script = reply(b"hello") if script is None else script
        self.origin = origin
        self.early = early
        self.plays: list[Play] = []

    def dispatch(self, options: Any, handler: Any) -> bool:
        options = coerce_options(options)
        check_handler(handler, options.upgrade is not None or options.method == "CONNECT")
        loop: Any = asyncio.get_running_loop()
        exchange = Exchange(handler, options, loop, threading.get_ident())
        script = self.script(options) if callable(self.script) else self.script
        play = Play(exchange, script)
        self.plays.append(play)
        if self.early:
            handler.on_dispatch(exchange)
        play.schedule()
        return True

    @property
    def options(self) -> DispatchOptions:
        """What was dispatched last."""
        return self.plays[-1].options

    async def close(self) -> None: ...
    async def destroy(self, error: BaseException | None = None) -> None: ...

    @property
    def closed(self) -> bool:
        return False

    @property
    def destroyed(self) -> bool:
        return False


async def turns(count: int = 10) -> None:
    """Let the loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)

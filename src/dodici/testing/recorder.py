"""A handler that records what it is told, and holds the teller to its promises.

What every layer promises (`dodici.core.handler`) is checked at each callback: the order of the callbacks,
exactly one terminal one, the event loop's thread, chunks that are non-empty `bytes`, no data while paused,
nothing inside `dispatch()` but the refusal of an argument. A broken promise is noted and not raised where it
happens, since an exception there would become the error of the exchange; `wait()` and `check()` raise it.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..core.errors import InvalidArgumentError
from ..core.headers import Headers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..core.controller import DispatchController
    from ..core.dispatcher import Dispatcher
    from ..core.options import DispatchOptions

START: Final = "on_request_start"
RESPONSE: Final = "on_response_start"
DATA: Final = "on_response_data"
END: Final = "on_response_end"
ERROR: Final = "on_response_error"
UPGRADE: Final = "on_request_upgrade"
DISPATCH: Final = "on_dispatch"

CALLBACKS: Final = (START, RESPONSE, DATA, END, ERROR, UPGRADE)
_TERMINAL = frozenset({END, ERROR, UPGRADE})


class PromiseError(AssertionError):
    """A dispatch broke a promise of the handler contract."""


class Call(NamedTuple):
    """One callback: its name and its arguments after the controller."""

    name: str
    args: tuple[Any, ...]


async def settle(turns: int = 30) -> None:
    """Let everything that is ready happen: some turns of the event loop.

    For asserting that something does *not* happen. What must happen is awaited, never hoped for.
    """
    for _ in range(turns):
        await asyncio.sleep(0)


class RecordingHandler:
    """Records every callback in order. Make it where the event loop runs.

    Args:
        hooks: functions by callback name (``on_response_data=lambda controller, chunk: ...``), called with
            the callback's own arguments after it was recorded. What a hook raises, the callback raises.
        keep_body: False keeps the size and the digest of the body only.
        threaded: True where another thread pauses: a chunk that crosses its `pause()` is then no fault.

    Raises:
        InvalidArgumentError: a hook for a callback that does not exist.
    """

    def __init__(
        self, *, keep_body: bool = True, threaded: bool = False, **hooks: Callable[..., Any]
    ) -> None:
        unknown = set(hooks) - {*CALLBACKS, DISPATCH}
        if unknown:
            raise InvalidArgumentError(
                f"no callback {min(unknown)!r}; there are: {', '.join(CALLBACKS)}, {DISPATCH}"
            )
        self.loop = asyncio.get_running_loop()
        self.calls: list[Call] = []
        """Every callback in order."""
        self.violations: list[str] = []
        """Promises that were broken."""
        self.controller: Any = None
        """The controller, from the first callback on (from `dispatch()` on, where a layer gives it)."""
        self.accepted: bool | None = None
        """What `dispatch()` returned."""
        self.synchronous = False
        """Whether the error was reported inside `dispatch()`."""
        self.contexts: list[dict[str, Any]] = []
        self.informational: list[tuple[int, Headers]] = []
        self.status_code: int | None = None
        self.status_message: str | None = None
        self.headers: Headers | None = None
        self.chunks: list[bytes] = []
        self.body_size = 0
        self.trailers: Headers | None = None
        self.error: BaseException | None = None
        self.socket: Any = None
        self.ended: asyncio.Future[RecordingHandler] = self.loop.create_future()
        """Done at the first terminal callback."""
        self._hooks = hooks
        self._keep_body = keep_body
        self._threaded = threaded
        self._thread = threading.get_ident()
        self._digest = hashlib.sha256(usedforsecurity=False)
        self._inside_dispatch = False
        self._end_raised = False
        self._waiters: list[tuple[Callable[[RecordingHandler], Any], asyncio.Future[None]]] = []

    # ------------------------------------------------------------------------------- what to ask it

    @property
    def names(self) -> list[str]:
        """The callbacks in order, without the `on_`; data that follows data is one entry."""
        names: list[str] = []
        for call in self.calls:
            name = call.name.removeprefix("on_")
            if name != "response_data" or not names or names[-1] != name:
                names.append(name)
        return names

    @property
    def body(self) -> bytes:
        """What arrived of the body."""
        return b"".join(self.chunks)

    @property
    def digest(self) -> str:
        """SHA-256 of what arrived of the body, in hexadecimal."""
        return self._digest.hexdigest()

    @property
    def starts(self) -> int:
        """How often the request was begun."""
        return len(self.contexts)

    def count(self, name: str) -> int:
        """How often a callback was called, such as ``"on_response_data"``."""
        return sum(call.name == name for call in self.calls)

    # ------------------------------------------------------------------------------------ using it

    def dispatch(
        self, dispatcher: Dispatcher, options: DispatchOptions | Mapping[str, Any] | None = None
    ) -> bool:
        """Dispatch `options` on `dispatcher` with this handler, watching what happens inside the call.

        Returns:
            What `dispatch()` returned; `accepted` keeps it.
        """
        self._inside_dispatch = True
        try:
            self.accepted = dispatcher.dispatch({} if options is None else options, self)
        finally:
            self._inside_dispatch = False
        if not isinstance(self.accepted, bool):
            self._violation(f"dispatch() returned {self.accepted!r} and not a bool")
        if self.synchronous and self.accepted:
            self._violation("dispatch() reported an error inside the call and returned True")
        return self.accepted

    async def wait(self, timeout: float = 10.0) -> RecordingHandler:
        """Wait for the terminal callback, then a few turns for what must not follow. `timeout` is in seconds.

        Raises:
            PromiseError: a promise was broken. TimeoutError: no terminal callback; the text says what there was.
        """
        await self._within(asyncio.shield(self.ended), timeout, "the terminal callback")
        await settle(3)
        self.check()
        return self

    async def until(
        self,
        condition: Callable[[RecordingHandler], Any],
        timeout: float = 10.0,
        what: str = "the condition",
    ) -> RecordingHandler:
        """Wait until `condition(recorder)` holds after some callback.

        Raises:
            PromiseError: the exchange ended first. TimeoutError: it never held.
        """
        if condition(self):
            return self
        if not self.ended.done():
            waiter: asyncio.Future[None] = self.loop.create_future()
            self._waiters.append((condition, waiter))
            await self._within(waiter, timeout, what)
        if not condition(self):
            raise PromiseError(f"the exchange ended before {what}: {self.summary()}")
        return self

    async def reached(self, name: str, count: int = 1, timeout: float = 10.0) -> RecordingHandler:
        """Wait until a callback, such as ``"on_response_start"``, was called `count` times."""
        return await self.until(lambda recorder: recorder.count(name) >= count, timeout, f"{name} ({count})")

    async def received(self, size: int, timeout: float = 10.0) -> RecordingHandler:
        """Wait until `size` bytes of the body have arrived."""
        return await self.until(lambda recorder: recorder.body_size >= size, timeout, f"{size} bytes of body")

    def check(self) -> None:
        """Assert that no promise was broken so far.

        Raises:
            PromiseError: names every broken one, and what was recorded.
        """
        if self.violations:
            raise PromiseError("; ".join(self.violations) + f": {self.summary()}")

    def summary(self) -> str:
        """What was recorded, in one line."""
        parts = []
        for call in self.calls[:20]:
            shown = (
                f"{len(call.args[0])} bytes"
                if call.name == DATA
                else ", ".join(repr(arg)[:120] for arg in call.args)
            )
            parts.append(f"{call.name}({shown})")
        if len(self.calls) > 20:
            parts.append(f"... {len(self.calls) - 20} more")
        return " -> ".join(parts) or "no callback at all"

    def __repr__(self) -> str:
        return f"<RecordingHandler {' '.join(self.names) or 'untouched'}>"

    async def _within(self, future: asyncio.Future[Any], timeout: float, what: str) -> None:
        if getattr(self.loop, "virtual", False):
            # Seconds of that loop say nothing about how long a test has hung; `run_virtual` has a limit.
            await future
            return
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            raise TimeoutError(f"{what} did not come within {timeout:g} s: {self.summary()}") from None

    # ----------------------------------------------------------------------------------- callbacks

    def on_dispatch(self, controller: DispatchController) -> None:
        """Where a layer hands out the controller inside `dispatch()`."""
        self.controller = controller
        hook = self._hooks.get(DISPATCH)
        if hook is not None:
            hook(controller)

    def on_request_start(self, controller: DispatchController, context: dict[str, Any]) -> None:
        self._record(START, controller, context)
        if self.status_code is not None:
            self._violation("on_request_start after the final response head")
        if not isinstance(context, dict):
            self._violation(f"the context is {type(context).__name__}, not dict")
        self.contexts.append(context)
        self._done(START, controller, context)

    def on_response_start(
        self, controller: DispatchController, status_code: int, headers: Headers, status_message: str
    ) -> None:
        self._record(RESPONSE, controller, status_code, headers, status_message)
        if not self.contexts:
            self._violation("on_response_start before on_request_start")
        if self.status_code is not None:
            self._violation(f"on_response_start({status_code}) after the final response head")
        if type(status_code) is not int or not 100 <= status_code <= 999:
            self._violation(f"status_code is {status_code!r}")
        if not isinstance(headers, Headers):
            self._violation(f"headers are {type(headers).__name__}, not Headers")
        if not isinstance(status_message, str):
            self._violation(f"status_message is {type(status_message).__name__}, not str")
        if isinstance(status_code, int) and 100 <= status_code < 200:
            self.informational.append((status_code, headers))
        else:
            self.status_code, self.headers, self.status_message = status_code, headers, status_message
        self._done(RESPONSE, controller, status_code, headers, status_message)

    def on_response_data(self, controller: DispatchController, chunk: bytes) -> None:
        self._record(DATA, controller, chunk)
        if self.status_code is None:
            self._violation("on_response_data before the final response head")
        if type(chunk) is not bytes or not chunk:
            self._violation(f"a chunk is {chunk[:20]!r}, not non-empty bytes")
        if controller.paused and not self._threaded:
            self._violation("on_response_data while paused")
        if self._keep_body:
            self.chunks.append(chunk)
        self.body_size += len(chunk)
        self._digest.update(chunk)
        self._done(DATA, controller, chunk)

    def on_response_end(self, controller: DispatchController, trailers: Headers) -> None:
        self._record(END, controller, trailers)
        if self.status_code is None:
            self._violation("on_response_end before the final response head")
        if not isinstance(trailers, Headers):
            self._violation(f"trailers are {type(trailers).__name__}, not Headers")
        self.trailers = trailers
        try:
            self._done(END, controller, trailers)
        except BaseException:
            self._end_raised = True
            raise

    def on_response_error(self, controller: DispatchController, error: BaseException) -> None:
        self._record(ERROR, controller, error)
        if not isinstance(error, BaseException):
            self._violation(f"the error is {error!r}, not an exception")
        self.error = error
        self._done(ERROR, controller, error)

    def on_request_upgrade(
        self, controller: DispatchController, status_code: int, headers: Headers, socket: Any
    ) -> None:
        self._record(UPGRADE, controller, status_code, headers, socket)
        if not self.contexts:
            self._violation("on_request_upgrade before on_request_start")
        self.status_code, self.headers, self.socket = status_code, headers, socket
        self._done(UPGRADE, controller, status_code, headers, socket)

    # ------------------------------------------------------------------------------------ checking

    def _violation(self, text: str) -> None:
        self.violations.append(text)

    def _record(self, name: str, controller: DispatchController, *args: Any) -> None:
        if threading.get_ident() != self._thread:
            self._violation(f"{name} on another thread than the event loop's")
        elif asyncio.get_running_loop() is not self.loop:
            self._violation(f"{name} on another event loop")
        # An `on_response_end` that raised may be followed by the error that it raised.
        if self.ended.done() and not (name == ERROR and self._end_raised):
            self._violation(f"{name} after the terminal callback")
        if self._inside_dispatch:
            if name == ERROR:
                self.synchronous = True
            else:
                self._violation(f"{name} inside dispatch()")
        if self.controller is None:
            self.controller = controller
        elif controller is not self.controller and not self._inside_dispatch:
            self._violation(f"{name} with another controller")
        if not self.calls and name not in (START, ERROR):
            self._violation(f"{name} was the first callback")
        self.calls.append(Call(name, args))

    def _done(self, name: str, *args: Any) -> None:
        terminal = name in _TERMINAL
        if terminal and not self.ended.done():
            self.ended.set_result(self)
        if self._waiters:
            left = []
            for condition, waiter in self._waiters:
                if waiter.done():
                    continue
                if terminal or condition(self):
                    waiter.set_result(None)
                else:
                    left.append((condition, waiter))
            self._waiters = left
        hook = self._hooks.get(name)
        if hook is not None:
            hook(*args)

"""The hooks of a client of the mesh: synchronous functions that see every request to it.

    on_request(options, ctx) -> options | None      before a worker is chosen; may return changed options
    allow_target(options, target, ctx) -> bool      per candidate; False means the next one
    on_response(options, head, ctx)                 each response head, 1xx included
    on_response_end(options, head, ctx)             the body is complete
    on_error(options, error, ctx)                   the exchange failed, however; exactly once, and never after the end

`ctx` is one private dict per request: it never leaves this process. Hooks run in the context (`contextvars`) of
whoever dispatched. One that raises makes its exception the request's error.
"""

from __future__ import annotations

import contextvars
import inspect
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from ..core.controller import DispatchController
from ..core.errors import InvalidArgumentError
from ..core.handler import DecoratorHandler
from ..core.headers import Headers
from ..core.options import DispatchOptions

Hook: TypeAlias = "Callable[..., Any]"
Hooks: TypeAlias = "Hook | Iterable[Hook] | None"


class ResponseHead(NamedTuple):
    """What `on_response` is given."""

    status_code: int
    headers: Headers
    status_message: str


def hook_list(name: str, hooks: Hooks) -> tuple[Hook, ...]:
    """One hook or several, as a tuple.

    Raises:
        InvalidArgumentError: (a `TypeError`, too) one is not callable, or is asynchronous.
    """
    if hooks is None:
        return ()
    found = tuple(hooks) if isinstance(hooks, list | tuple) else (hooks,)
    for hook in found:
        if not callable(hook):
            raise HookError(f"{name} must be a function or a list of functions, not {hook!r}")
        if _is_async(hook):
            raise HookError(f"{name} must be a plain function, and {hook!r} is asynchronous")
    return found


class HookError(InvalidArgumentError, TypeError):
    """A hook cannot be called."""


def _is_async(hook: Any) -> bool:
    while hasattr(hook, "func") and not inspect.isfunction(hook):
        hook = hook.func  # of a functools.partial
    call = hook if inspect.isroutine(hook) else getattr(type(hook), "__call__", hook)  # noqa: B004
    return any(
        test(one)
        for one in (hook, call)
        for test in (inspect.iscoroutinefunction, inspect.isasyncgenfunction)
    )


@dataclass(frozen=True, slots=True)
class ClientHooks:
    """All hooks of one client."""

    on_request: tuple[Hook, ...] = ()
    allow_target: tuple[Hook, ...] = ()
    on_response: tuple[Hook, ...] = ()
    on_response_end: tuple[Hook, ...] = ()
    on_error: tuple[Hook, ...] = ()

    @classmethod
    def checked(cls, **hooks: Hooks) -> ClientHooks:
        """Of what a constructor was given. Raises `InvalidArgumentError`."""
        return cls(**{name: hook_list(name, given) for name, given in hooks.items()})

    def __bool__(self) -> bool:
        return bool(
            self.on_request or self.allow_target or self.on_response or self.on_response_end or self.on_error
        )


class HookedHandler(DecoratorHandler):
    """One request's handler behind the hooks."""

    def __init__(self, handler: Any, hooks: ClientHooks, options: DispatchOptions) -> None:
        super().__init__(handler)
        self._hooks = hooks
        self.options = options
        self._context = contextvars.copy_context()
        self.ctx: dict[str, Any] = {}
        self._head: ResponseHead | None = None

    def change(self) -> DispatchOptions:
        """Run `on_request`.

        Raises:
            InvalidArgumentError: one returned something that is not options. Whatever a hook raises.
        """
        for hook in self._hooks.on_request:
            changed = self._context.run(hook, self.options, self.ctx)
            if changed is None:
                continue
            if not isinstance(changed, DispatchOptions):
                raise InvalidArgumentError(
                    f"on_request must return None or DispatchOptions (options.replace(...)), not {changed!r}"
                )
            self.options = changed
        return self.options

    def allows(self, target: Any) -> bool:
        """Run `allow_target` for one candidate; any False refuses it."""
        for hook in self._hooks.allow_target:
            if self._context.run(hook, self.options, target, self.ctx) is False:
                return False
        return True

    def on_response_start(
        self, controller: DispatchController, status_code: int, headers: Headers, status_message: str
    ) -> None:
        self._head = head = ResponseHead(status_code, headers, status_message)
        for hook in self._hooks.on_response:
            self._context.run(hook, self.options, head, self.ctx)
        self.handler.on_response_start(controller, status_code, headers, status_message)

    def on_response_end(self, controller: DispatchController, trailers: Headers) -> None:
        for hook in self._hooks.on_response_end:
            self._context.run(hook, self.options, self._head, self.ctx)
        self.handler.on_response_end(controller, trailers)

    def on_response_error(self, controller: DispatchController, error: BaseException) -> None:
        for hook in self._hooks.on_error:
            try:
                self._context.run(hook, self.options, error, self.ctx)
            except Exception:
                # The request has failed already, and its caller must hear of that.
                logging.getLogger("dodici.mesh").exception("on_error hook %r raised", hook)
        self.handler.on_response_error(controller, error)

    def on_request_upgrade(
        self, controller: DispatchController, status_code: int, headers: Headers, socket: Any
    ) -> None:
        self._head = head = ResponseHead(status_code, headers, "")
        try:
            for hook in self._hooks.on_response:
                self._context.run(hook, self.options, head, self.ctx)
        except BaseException:
            socket.abort()
            raise
        self.handler.on_request_upgrade(controller, status_code, headers, socket)

"""What every dispatcher over a network shares: its loop, its lifecycle, and accepting an exchange."""

from __future__ import annotations

import asyncio
from asyncio import get_running_loop
from collections.abc import Mapping
from threading import get_ident
from typing import Any
from urllib.parse import urlsplit

from ..core import diagnostics
from ..core.controller import Exchange, refuse
from ..core.dispatcher import Dispatcher
from ..core.errors import (
    ClientClosedError,
    ClientDestroyedError,
    DodiciError,
    InvalidArgumentError,
    LoopMismatchError,
)
from ..core.handler import Handler, check_handler, known_handlers
from ..core.options import DispatchOptions, coerce_options
from ..net.loop import LoopServices, services

_DEFAULT_PORTS = {"http": 80, "https": 443}


class BaseDispatcher(Dispatcher):
    """A dispatcher bound to the event loop of its first use."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._services: LoopServices | None = None
        self._closed = False
        self._destroyed = False
        self._closing: asyncio.Future[None] | None = None
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def destroyed(self) -> bool:
        return self._destroyed

    def _bind(self) -> LoopServices:
        """The services of the running loop, which is this dispatcher's from now on.

        Raises:
            LoopMismatchError: it is in use on another loop.
        """
        try:
            loop = get_running_loop()
        except RuntimeError:
            raise LoopMismatchError(
                f"{type(self).__name__} must be used inside a running event loop; none runs in this thread"
            ) from None
        if self._loop is None:
            self._loop = loop
            self._services = services(loop)
        elif self._loop is not loop:
            state = "closed" if self._loop.is_closed() else "another"
            raise LoopMismatchError(
                f"{type(self).__name__} belongs to {state} event loop {self._loop!r} and was used on {loop!r}: "
                "make one dispatcher per loop, or call through asyncio.run_coroutine_threadsafe()"
            )
        assert self._services is not None
        return self._services

    def _accept(self, options: DispatchOptions | Mapping[str, Any], handler: Handler) -> Exchange | None:
        """Check what `dispatch()` was given. None if it was refused, which the handler has been told."""
        services = self._services
        # A loop that runs, and in this thread, is the running one: asyncio's own answer costs a system call before 3.12.
        if services is None or get_ident() != services.thread or not self._loop.is_running():  # type: ignore[union-attr]
            services = self._bind()
        wants_controller = known_handlers.get(type(handler))
        if wants_controller is None or type(options) is not DispatchOptions or not options.plain:
            checked = self._check(options, handler)
            if checked is None:
                return None
            options = checked
            wants_controller = hasattr(handler, "on_dispatch")
        if self._closed:
            refuse(handler, self._closed_error())
            return None
        exchange = Exchange(handler, options, self._loop, services.thread)  # type: ignore[arg-type]
        return exchange if self._tell(exchange, handler, wants_controller) else None

    def _tell(self, exchange: Exchange, handler: Any, wants_controller: bool) -> bool:
        """Tell of a new exchange, whose time begins. False if the handler has ended it at once."""
        seconds = exchange.options.timeout
        if seconds:
            exchange.start_deadline(self._services.timers, seconds)  # type: ignore[union-attr]
        if diagnostics.REQUEST_CREATE.subscribers:
            diagnostics.REQUEST_CREATE.publish({"request": exchange})
        if wants_controller:
            try:
                handler.on_dispatch(exchange)
            except Exception as error:
                exchange.fail(error)
            return not exchange.done
        return True

    def _check(
        self, options: DispatchOptions | Mapping[str, Any], handler: Handler
    ) -> DispatchOptions | None:
        try:
            checked = coerce_options(options)
        except DodiciError as error:
            check_handler(handler, False)
            refuse(handler, error)
            return None
        check_handler(handler, checked.upgrade is not None or checked.method == "CONNECT")
        return checked

    def _closed_error(self) -> DodiciError:
        return ClientDestroyedError() if self._destroyed else ClientClosedError()

    # -- closing: subclasses say what there is to wait for ---------------------------------------------

    async def close(self) -> None:
        if self._loop is not None:
            self._bind()
        if self._destroyed and self._closing is None:
            raise ClientDestroyedError
        if self._closing is None:
            self._closed = True
            self._closing = asyncio.ensure_future(self._close())
        # One caller's cancellation is not the others'.
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        raise NotImplementedError

    async def destroy(self, error: BaseException | None = None) -> None:
        if self._loop is not None:
            self._bind()
        self._closed = True
        if not self._destroyed:
            self._destroyed = True
            self._fail_all(error if error is not None else ClientDestroyedError())
        await self._gone()

    def _fail_all(self, error: BaseException) -> None:
        raise NotImplementedError

    async def _gone(self) -> None:
        raise NotImplementedError

    async def _drained(self) -> None:
        """Wait for `_wake`."""
        assert self._loop is not None
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        await waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class Origin:
    """A parsed origin."""

    __slots__ = ("host", "netloc", "port", "scheme", "text")

    def __init__(self, text: Any) -> None:
        if not isinstance(text, str):
            raise InvalidArgumentError(f"origin must be a str such as 'https://example.com', not {text!r}")
        hint = (
            f"invalid origin {text!r}: it must be scheme, host and port, such as 'https://example.com:8443'"
        )
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise InvalidArgumentError(f"{hint} ({error})") from None
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or any(map(str.isspace, text)):
            raise InvalidArgumentError(hint)
        if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username or parts.password:
            raise InvalidArgumentError(f"{hint}; no path, query or credentials")
        self.scheme = parts.scheme
        self.host = _ascii_host(parts.hostname, hint)
        self.port = port if port is not None else _DEFAULT_PORTS[self.scheme]
        shown = f"[{self.host}]" if ":" in self.host else self.host
        default = self.port == _DEFAULT_PORTS[self.scheme]
        self.netloc = shown if default else f"{shown}:{self.port}"
        self.text = f"{self.scheme}://{self.netloc}"


def _ascii_host(host: str, hint: str) -> str:
    if host.isascii():
        if any(character in host for character in '\\^|<>"{}`%'):
            raise InvalidArgumentError(hint)
        return host
    import idna

    try:
        return idna.encode(host, uts46=True).decode("ascii")
    except idna.IDNAError as error:
        raise InvalidArgumentError(f"{hint} ({error})") from None

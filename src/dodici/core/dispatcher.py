"""The one contract: `Dispatcher.dispatch(options, handler) -> bool`.

Pools, retries, meshes and collectives are Dispatchers that wrap or choose other Dispatchers. The verbs that
people call (`request`, `stream`, ...) stand on `dispatch` alone; they live in `dodici.api`, above this
layer, and are loaded at their first use.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from .controller import refuse
from .errors import ClientClosedError, DodiciError, InvalidArgumentError
from .events import EventEmitter, Listener
from .handler import Handler, check_handler
from .options import DispatchOptions, coerce_options

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType
    from typing import Self, Unpack

    from ..api.duplex import PipelineContext
    from ..api.exchange import StreamContext
    from ..api.response import Response
    from ..api.upgrades import ConnectResult, UpgradeResult
    from ..api.verbs import RequestOptions
    from ..api.websocket import WebSocketOpening

DispatchFunction: TypeAlias = "Callable[[DispatchOptions, Any], bool]"
Interceptor: TypeAlias = "Callable[[DispatchFunction], DispatchFunction]"
CapacityListener: TypeAlias = "Callable[[float], Awaitable[None] | None]"
"""Is told the share of an origin's capacity that accepts requests, 0.0 to 1.0; may return what is to be waited for."""

_api: Any = None


def _verbs() -> Any:
    global _api
    if _api is None:
        _api = importlib.import_module("dodici.api.verbs")
    return _api


class Dispatcher(EventEmitter, ABC):
    """Dispatches requests. See `DispatchHandler` for what a dispatch tells."""

    origin: str | None = None
    """The one origin of a `Client` or `Pool`; None where each dispatch names its own."""

    @abstractmethod
    def dispatch(self, options: DispatchOptions | Mapping[str, Any], handler: Handler) -> bool:
        """Begin one exchange, whose course `handler` is told.

        Returns:
            False if the dispatcher is now busy: the request is queued all the same, and `drain` will be
            emitted. Also False if the request was refused, which the handler has then been told.

        Raises:
            InvalidArgumentError: the handler lacks a method. Nothing else is raised: what is wrong with the
                options, and all that depends on the network, reaches `handler.on_response_error`.
            LoopMismatchError: this dispatcher is in use on another event loop.
        """

    @abstractmethod
    async def close(self) -> None:
        """Refuse new dispatches (`ClientClosedError`) and return when the accepted ones have ended."""

    @abstractmethod
    async def destroy(self, error: BaseException | None = None) -> None:
        """Fail everything pending and running with `error` or `ClientDestroyedError`; close sockets now."""

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether `close()` or `destroy()` was called."""

    @property
    @abstractmethod
    def destroyed(self) -> bool:
        """Whether `destroy()` was called, or `close()` has finished."""

    def watch_capacity(self, origin: str, on_change: CapacityListener) -> Callable[[], None] | None:
        """Be told how much of what serves an origin accepts requests: the one flow-control signal between layers.

        `on_change(share)` is called before this returns, and at each change, in the loop turn in which no request is
        dispatched there any more, or one may be again. What it returns is awaited before whoever made the change
        (`set_accepting()`, `pause_worker()`) hears that it is applied. That is cancelled when it takes too long; a
        `MeshTimeoutError` that it raises, then or before, names in its `members` who has not applied the change.

        Args:
            origin: ``"http://host"``, as in options.
            on_change: a plain function that does not block; called on the dispatcher's loop.

        Returns:
            What ends it. None: nothing is known of that origin's capacity, and it counts as 1.0.
        """
        return None

    def compose(self, *interceptors: Interceptor | Iterable[Interceptor | None] | None) -> ComposedDispatcher:
        """Wrap `dispatch` in interceptors. The last one is the outermost and sees a request first.

        Each is called once with the `dispatch` function that it wraps and returns its own. Lists are
        flattened, `None` is skipped. One that returns a `Branch` makes it part of the composed dispatcher,
        which closes and destroys it.

        Raises:
            InvalidArgumentError: something that is not callable.
        """
        dispatch: DispatchFunction = self.dispatch
        branches = []
        for interceptor in _flatten(interceptors):
            if not callable(interceptor):
                raise InvalidArgumentError(f"interceptor must be callable, not {interceptor!r}")
            dispatch = interceptor(dispatch)
            if not callable(dispatch):
                raise InvalidArgumentError(
                    f"interceptor {interceptor!r} must return a dispatch function, not {dispatch!r}"
                )
            if isinstance(dispatch, Branch):
                branches.append(dispatch)
        return ComposedDispatcher(self, dispatch, tuple(branches))

    def request(
        self, url: str, *, method: str | None = None, **options: Unpack[RequestOptions]
    ) -> Coroutine[Any, Any, Response]:
        """`await dispatcher.request(url, method="GET", ...)`: see `dodici.request`."""
        verbs = _api or _verbs()
        if options:
            return verbs.request(url, method=method, dispatcher=self, **options)  # type: ignore[no-any-return]
        # The same by a shorter way: filling in two dozen defaults takes 0.8 us.
        return verbs.exchange_plain(self, method, url)  # type: ignore[no-any-return]

    def stream(self, method: str, url: str, **options: Unpack[RequestOptions]) -> StreamContext:
        """`async with dispatcher.stream("GET", url) as response`: see `dodici.stream`."""
        return _verbs().stream(method, url, dispatcher=self, **options)  # type: ignore[no-any-return]

    def pipeline(
        self, url: str, *, method: str = "POST", **options: Unpack[RequestOptions]
    ) -> PipelineContext:
        """`async with dispatcher.pipeline(url, method="POST") as duplex`: see `dodici.pipeline`."""
        return _verbs().pipeline(url, method=method, dispatcher=self, **options)  # type: ignore[no-any-return]

    def connect(self, url: str, path: str, **options: Any) -> Coroutine[Any, Any, ConnectResult]:
        """`await dispatcher.connect(url, "host:port")`: see `dodici.connect`."""
        return _verbs().connect(url, path, dispatcher=self, **options)  # type: ignore[no-any-return]

    def upgrade(
        self, url: str, protocol: str = "websocket", **options: Any
    ) -> Coroutine[Any, Any, UpgradeResult]:
        """`await dispatcher.upgrade(url, "websocket")`: see `dodici.upgrade`."""
        return _verbs().upgrade(url, protocol, dispatcher=self, **options)  # type: ignore[no-any-return]

    def websocket(self, url: str, **options: Any) -> WebSocketOpening:
        """`async with dispatcher.websocket(url) as ws`, or `await` it: see `dodici.websocket`."""
        websocket = importlib.import_module("dodici.api.websocket").websocket
        return websocket(url, dispatcher=self, **options)  # type: ignore[no-any-return]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.destroyed:
            await self.close()


def _flatten(interceptors: Iterable[Any]) -> Iterable[Any]:
    for item in interceptors:
        if item is None:
            continue
        if isinstance(item, list | tuple):
            yield from _flatten(item)
        else:
            yield item


class Branch(ABC):
    """The dispatch function of an interceptor whose exchanges do not run on the dispatcher that it wraps.

    They are the composed dispatcher's all the same: its `close()` waits for them, and its `destroy()` fails them.
    """

    @abstractmethod
    def __call__(self, options: DispatchOptions, handler: Any, /) -> bool: ...

    @abstractmethod
    async def close(self) -> None:
        """As `Dispatcher.close`."""

    @abstractmethod
    async def destroy(self, error: BaseException | None = None) -> None:
        """As `Dispatcher.destroy`."""

    def watch_capacity(self, origin: str, on_change: CapacityListener) -> Callable[[], None] | None:
        """As `Dispatcher.watch_capacity`, for the origins whose exchanges are its own."""
        return None


class ComposedDispatcher(Dispatcher):
    """A dispatcher seen through interceptors. All but `dispatch` is the wrapped dispatcher's."""

    def __init__(
        self, base: Dispatcher, dispatch: DispatchFunction, branches: tuple[Branch, ...] = ()
    ) -> None:
        self.base = base
        self._dispatch = dispatch
        self._branches = branches
        self._closing = False
        self._filled_in: tuple[DispatchOptions, DispatchOptions] | None = None

    @property
    def origin(self) -> str | None:  # type: ignore[override]
        return self.base.origin

    def dispatch(self, options: DispatchOptions | Mapping[str, Any], handler: Handler) -> bool:
        try:
            if type(options) is not DispatchOptions:
                options = coerce_options(options)
        except DodiciError as error:
            check_handler(handler, False)
            return refuse(handler, error)
        check_handler(handler, options.upgrade is not None or options.method == "CONNECT")
        if options.origin is None and self.base.origin is not None:
            options = self._fill_in(options, self.base.origin)
        if self._closing and not self.base.closed:
            return refuse(handler, ClientClosedError())
        return self._dispatch(options, handler)

    def _fill_in(self, options: DispatchOptions, origin: str) -> DispatchOptions:
        # Options that are dispatched again and again keep what the serializer remembers with them; a body is
        # not kept alive for that.
        if self._filled_in is not None and self._filled_in[0] is options:
            return self._filled_in[1]
        filled = options.replace(origin=origin)
        if options.body is None:
            self._filled_in = (options, filled)
        return filled

    def watch_capacity(self, origin: str, on_change: CapacityListener) -> Callable[[], None] | None:
        for branch in reversed(self._branches):  # the last one sees a request first
            end = branch.watch_capacity(origin, on_change)
            if end is not None:
                return end
        return self.base.watch_capacity(origin, on_change)

    async def close(self) -> None:
        self._closing = True
        for branch in self._branches:
            await branch.close()
        await self.base.close()

    async def destroy(self, error: BaseException | None = None) -> None:
        for branch in self._branches:
            await branch.destroy(error)
        await self.base.destroy(error)

    @property
    def closed(self) -> bool:
        return self._closing or self.base.closed

    @property
    def destroyed(self) -> bool:
        return self.base.destroyed

    @property
    def stats(self) -> Any:
        return getattr(self.base, "stats", None)

    def on(self, event: str, listener: Listener) -> Listener:
        return self.base.on(event, listener)

    def once(self, event: str, listener: Listener) -> Listener:
        return self.base.once(event, listener)

    def off(self, event: str, listener: Listener) -> bool:
        return self.base.off(event, listener)

"""One exchange from dispatch to response: what `request`, `stream` and the other verbs share."""

from __future__ import annotations

from asyncio import get_running_loop, sleep
from typing import TYPE_CHECKING, Any

from ..core.controller import Exchange
from .prepare import PrepareOptions, Settings, prepare, prepare_plain, recall
from .receiver import InfoCallback, Receiver
from .response import Response, refuse_error_status

if TYPE_CHECKING:
    from ..core.dispatcher import Dispatcher
    from ..core.options import DispatchOptions


async def give_way() -> None:
    """Let the loop turn before a failure is raised.

    A dispatch may fail at once, without having waited for anything. Whoever tries again and again would otherwise keep
    the loop from whatever is to end the failure, such as connecting anew.
    """
    await sleep(0)


def global_dispatcher() -> Dispatcher:
    """The dispatcher of those who name none."""
    from ..pool.default import get_global_dispatcher

    return get_global_dispatcher()


async def exchange_plain(
    dispatcher: Dispatcher | None,
    method: str | None,
    url: str,
    raise_for_status: bool = False,
    on_info: InfoCallback | None = None,
    settings: Settings | None = None,
) -> Response:
    """Send what is nothing but a method, a URL and perhaps settings; return when the head has arrived."""
    if dispatcher is None:
        dispatcher = global_dispatcher()
    own = dispatcher.origin
    base = own if url[:1] == "/" else None
    options = recall((base, method, url) if settings is None else (base, method, url, *settings))
    if options is None or (own is not None and options.origin != own):
        options = prepare_plain(own, method, url, settings)
    # From here on as in `exchange`, written out: a coroutine less saves 0.17 of the 4.7 us that a request
    # costs here, its task switch included.
    receiver = Receiver(None, options, on_info)
    dispatcher.dispatch(options, receiver)
    controller = receiver.controller
    # A dispatcher has made sure that its exchange's loop runs here; asking once more is a system call before 3.12.
    loop: Any = controller.loop if isinstance(controller, Exchange) else get_running_loop()
    receiver.loop = loop
    if receiver.status_code == 0 and receiver.error is None:
        waiter = receiver.waiter = loop.create_future()
        try:
            await waiter
        except BaseException:
            receiver.abandon()
            raise
    if receiver.status_code == 0:
        await give_way()
        raise receiver.take_error()
    response = Response(receiver)
    if raise_for_status:
        await refuse_error_status(response)
    return response


async def exchange_with(
    dispatcher: Dispatcher | None,
    method: str | None,
    url: str,
    raise_for_status: bool,
    on_info: InfoCallback | None,
    arguments: PrepareOptions,
) -> Response:
    """Send what needs preparing, and return the response when its head has arrived."""
    if dispatcher is None:
        dispatcher = global_dispatcher()
    options = prepare(dispatcher.origin, url, method, **arguments)
    return await exchange(dispatcher, options, raise_for_status, on_info)


async def exchange(
    dispatcher: Dispatcher, options: DispatchOptions, raise_for_status: bool, on_info: InfoCallback | None
) -> Response:
    """Dispatch, and return the response when its head has arrived."""
    receiver = Receiver(get_running_loop(), options, on_info)
    waiter = receiver.waiter
    dispatcher.dispatch(options, receiver)
    try:
        await waiter  # type: ignore[misc]
    except BaseException:
        receiver.abandon()
        raise
    if receiver.status_code == 0:
        await give_way()
        raise receiver.take_error()
    response = Response(receiver)
    if raise_for_status:
        await refuse_error_status(response)
    return response


class StreamContext:
    """``async with`` around a `Response`. Leaving the block before the body has ended aborts the exchange."""

    __slots__ = ("_dispatcher", "_on_info", "_options", "_raise_for_status", "_response")

    def __init__(
        self,
        dispatcher: Dispatcher,
        options: DispatchOptions,
        raise_for_status: bool,
        on_info: InfoCallback | None,
    ) -> None:
        self._dispatcher = dispatcher
        self._options = options
        self._raise_for_status = raise_for_status
        self._on_info = on_info
        self._response: Response | None = None

    async def __aenter__(self) -> Response:
        self._response = await exchange(
            self._dispatcher, self._options, self._raise_for_status, self._on_info
        )
        return self._response

    async def __aexit__(self, *_: object) -> None:
        if self._response is not None:
            await self._response.aclose()

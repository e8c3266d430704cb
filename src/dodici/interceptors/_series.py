"""One exchange for the handler, made of several inner ones, one after another: what retry and redirect are.

A `Series` owns the handler, its lasting controller (a `Relay`), the total deadline and the next options. An
`Attempt` is the handler of one inner exchange. It is in one of three modes:

    LIVE       the series' present attempt: what it is told reaches the handler, or a hook of the series
    DRAINING   its response is not wanted: the body is read unseen, within bounds, so that the connection
               can serve again; beyond them the inner exchange is aborted
    ENDED      anything that still comes is ignored, and an exchange that only now starts is aborted

Invariants: the series makes one terminal callback; an exception of the handler's own is never taken for a
failure of the network; the relay has an inner controller only while a live attempt has begun.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..core.controller import DispatchController, discard_source
from ..core.dispatcher import DispatchFunction
from ..core.errors import InformationalError, RequestTimeoutError
from ..core.headers import Headers
from ..core.options import BYTES, DispatchOptions
from ..core.relay import Relay
from ..core.trace import current
from ._common import content_length, notify_error, running_loop, tell_dispatch

DRAIN_BYTES = 64 * 1024
"""Bytes of an unwanted body that are read for the sake of the connection."""
DRAIN_SECONDS = 1.0
"""Seconds that it may take."""

LIVE, DRAINING, ENDED = range(3)


class Series:
    """The base of an exchange that is repeated or continued elsewhere. Hooks: `context`, `on_head`, `on_failure`."""

    __slots__ = (
        "_deadline",
        "_place",
        "_timeout",
        "_timer",
        "attempt",
        "attempts",
        "delivering",
        "dispatch",
        "handler",
        "loop",
        "options",
        "over",
        "relay",
    )

    def __init__(self, dispatch: DispatchFunction, options: DispatchOptions, handler: Any) -> None:
        self.loop = running_loop()
        self.dispatch = dispatch
        self.handler = handler
        self.options = options
        self.relay = Relay(self.loop, self.fail)
        self.attempt: Attempt | None = None
        self.attempts = 0
        self.delivering = False
        """Whether the handler has been given a final response head."""
        self.over = False
        self._place = current.get()
        self._timer: Any = None
        self._timeout = options.timeout
        self._deadline = self.loop.time() + options.timeout if options.timeout else None

    # Hooks.

    def context(self, context: dict[str, Any]) -> dict[str, Any]:
        """What the handler's `on_request_start` is given."""
        return context

    def on_head(self, attempt: Attempt, status_code: int, headers: Headers, status_message: str) -> None:
        """A final response head came: `attempt.deliver(...)`, or `attempt.discard(...)` and go on."""
        raise NotImplementedError

    def on_data(self, chunk: bytes) -> None:
        """Body was delivered."""

    def on_failure(self, error: BaseException) -> None:
        """The inner exchange failed by itself."""
        self.fail(error)

    # Steps.

    def time_left(self) -> float | None:
        """Seconds until the total deadline; None without one."""
        return None if self._deadline is None else self._deadline - self.loop.time()

    def begin(self) -> bool:
        """Dispatch the first attempt."""
        tell_dispatch(self.handler, self.relay)
        if self.over:
            # Aborted before anything had begun: nobody else will close the source of the body.
            if self.options.body_kind > BYTES:
                discard_source(self.options.body, self.loop)
            return False
        return self._dispatch()

    def _dispatch(self) -> bool:
        self.attempts += 1
        self.attempt = attempt = Attempt(self)
        return self.dispatch(self.options, attempt)

    def begin_again(self) -> None:
        """Dispatch a later attempt, in what is left of the total time."""
        self._timer = None
        if self.over:
            return
        left = self.time_left()
        if left is not None and left <= 0:
            self.fail(RequestTimeoutError("request did not end in time", origin=self.options.origin))
            return
        # This is called from whatever reads the response before: later attempts belong to the trace of the first.
        token = current.set(self._place)
        try:
            if left is not None:
                self.options = self.options.replace(timeout=left)
            self._dispatch()
        except Exception as error:
            self.fail(error)
        finally:
            current.reset(token)

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Call `action` in `seconds`, unless the series ends before."""
        self.clear_timer()
        self._timer = self.loop.call_later(seconds, action) if seconds > 0 else self.loop.call_soon(action)

    def clear_timer(self) -> None:
        """Forget what `after()` was to do."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def fail(self, error: BaseException) -> None:
        """End the series with `error`."""
        if self.over:
            return
        self.finish()
        if isinstance(error, RequestTimeoutError) and self.attempts > 1 and self._timeout:
            # The inner exchange knows of no more than the rest of the time, and would say so.
            error.args = (
                f"request did not end within {self._timeout:g} s (timeout, {self.attempts} exchanges)",
            )
        notify_error(self.handler, self.relay, error)

    def finish(self) -> None:
        """Mark the series as ended; the caller makes the terminal callback."""
        self.over = True
        self.clear_timer()
        attempt, self.attempt = self.attempt, None
        self.relay.close()
        if attempt is not None:
            attempt.leave()


class Attempt:
    """The handler of one inner exchange of a series."""

    __slots__ = ("_left", "_mode", "_raised", "_then", "_timer", "controller", "options", "series")

    def __init__(self, series: Series) -> None:
        self.series = series
        self.options = series.options
        self.controller: DispatchController | None = None
        self._mode = LIVE
        self._raised = False
        self._left = 0
        self._then: Callable[[], None] | None = None
        self._timer: Any = None

    def deliver(self, status_code: int, headers: Headers, status_message: str) -> None:
        """Give the handler this response."""
        self.series.delivering = True
        self._tell(self.series.handler.on_response_start, status_code, headers, status_message)

    def discard(self, headers: Headers, then: Callable[[], None] | None) -> None:
        """Do without the rest of this response, then call `then` (unless the series is over by then).

        `then` comes in a later turn of the loop, when the connection has been given back.
        """
        series = self.series
        controller = self.controller
        assert controller is not None
        self._mode = DRAINING
        self._then = then
        self._left = DRAIN_BYTES
        # From here on an abort ends the series and not just this exchange, and a pause is about data that
        # the handler will get and not about this body.
        series.relay.detach()
        if controller.paused:
            controller.resume()
        if self.options.method != "HEAD" and (content_length(headers) or 0) > DRAIN_BYTES:
            self._give_up()
        else:
            self._timer = series.loop.call_later(DRAIN_SECONDS, self._give_up)

    def leave(self) -> None:
        """The series is over. A body that is being drained goes on for the sake of its connection."""
        self._then = None
        if self._mode == DRAINING:
            if self.series.relay.aborted:
                self._give_up()
        elif self._mode == LIVE:
            self._mode = ENDED
            self.controller = None

    def _give_up(self) -> None:
        controller = self.controller
        self._drained()
        if controller is not None:
            controller.abort(InformationalError("the rest of this response is not wanted"))

    def _drained(self) -> None:
        self._mode = ENDED
        # Else it and the inner exchange would keep each other alive until the cyclic collector runs.
        self.controller = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        then, self._then = self._then, None
        if then is not None:
            self.series.after(0, then)

    def _tell(self, callback: Callable[..., None], *args: Any) -> None:
        try:
            callback(self.series.relay, *args)
        except BaseException:
            self._raised = True
            raise

    def on_dispatch(self, controller: DispatchController) -> None:
        """Attach the inner controller, so that an exchange that waits in a queue can be aborted."""
        self.controller = controller
        self.series.relay.attach(controller)

    def on_request_start(self, controller: DispatchController, context: dict[str, Any]) -> None:
        """Attach the inner controller; abort an exchange that nobody waits for any more."""
        series = self.series
        if self._mode != LIVE:
            controller.abort(series.relay.reason)
            return
        self.controller = controller
        series.relay.attach(controller)
        if not series.delivering:
            self._tell(series.handler.on_request_start, series.context(context))

    def on_response_start(
        self, controller: DispatchController, status_code: int, headers: Headers, status_message: str
    ) -> None:
        """Pass a 1xx on; let the series judge a final head."""
        if self._mode != LIVE:
            return
        series = self.series
        if status_code >= 200:
            series.on_head(self, status_code, headers, status_message)
        elif not series.delivering:
            self._tell(series.handler.on_response_start, status_code, headers, status_message)

    def on_response_data(self, controller: DispatchController, chunk: bytes) -> None:
        """Pass body on, or count what is thrown away."""
        if self._mode == LIVE:
            self.series.on_data(chunk)
            self._tell(self.series.handler.on_response_data, chunk)
        elif self._mode == DRAINING:
            self._left -= len(chunk)
            if self._left < 0:
                self._give_up()

    def on_response_end(self, controller: DispatchController, trailers: Headers) -> None:
        """End the series, or the draining."""
        if self._mode == LIVE:
            self._tell(self.series.handler.on_response_end, trailers)
            self.series.finish()
        elif self._mode == DRAINING:
            self._drained()

    def on_response_error(self, controller: DispatchController, error: BaseException) -> None:
        """Let the series judge a failure, unless it was made by the handler."""
        if self._mode == DRAINING:
            self._drained()
        elif self._mode == LIVE:
            self._mode = ENDED
            self.controller = None
            series = self.series
            series.relay.detach()
            if series.relay.reason is not None:
                series.fail(series.relay.reason)
            elif self._raised:
                series.fail(error)
            else:
                series.on_failure(error)

    def on_request_upgrade(
        self, controller: DispatchController, status_code: int, headers: Headers, socket: Any
    ) -> None:
        """End the series with the handler in possession of the socket."""
        if self._mode == LIVE:
            self._tell(self.series.handler.on_request_upgrade, status_code, headers, socket)
            self.series.finish()

"""`Exchange`: pause, resume and abort from anywhere, the deadline, and the one terminal callback."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from dodici.core import diagnostics
from dodici.core.controller import EndedController, Exchange, as_reason, close_source, discard_source, refuse
from dodici.core.errors import RequestAbortedError, RequestTimeoutError, SocketError
from dodici.core.handler import DispatchHandler
from dodici.core.options import DispatchOptions


class Recorder(DispatchHandler):
    def __init__(self) -> None:
        self.errors: list[BaseException] = []

    def on_response_error(self, controller: Any, error: BaseException) -> None:
        self.errors.append(error)


class Loop:
    """A loop whose turns are taken by hand."""

    def __init__(self) -> None:
        self.ready: list[Callable[[], None]] = []
        self.closed = False
        self.problems: list[dict[str, Any]] = []

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        if self.closed:
            raise RuntimeError("Event loop is closed")
        self.ready.append(callback)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.problems.append(context)

    def run(self) -> None:
        while self.ready:
            self.ready.pop(0)()


class Carrier:
    def __init__(self) -> None:
        self.calls: list[Any] = []

    def abort_exchange(self, exchange: Exchange, error: BaseException) -> None:
        self.calls.append(error)
        exchange.fail(error)

    def pause_exchange(self, exchange: Exchange) -> None:
        self.calls.append("pause")

    def resume_exchange(self, exchange: Exchange) -> None:
        self.calls.append("resume")


class Timers:
    def __init__(self) -> None:
        self.callback: Any = None
        self.seconds: float | None = None

    def timer(self, callback: Callable[[], None]) -> Timers:
        self.callback = callback
        return self

    def arm(self, seconds: float) -> None:
        self.seconds = seconds

    def close(self) -> None:
        self.seconds = None


def make(carried: bool = True, **given: Any) -> tuple[Exchange, Recorder, Carrier, Loop]:
    handler, carrier, loop = Recorder(), Carrier(), Loop()
    exchange = Exchange(handler, DispatchOptions(**given), loop, threading.get_ident())  # type: ignore[arg-type]
    if carried:
        exchange.carrier = carrier
    return exchange, handler, carrier, loop


def elsewhere(call: Callable[[], Any]) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


def test_abort() -> None:
    exchange, handler, carrier, _ = make()
    assert (exchange.aborted, exchange.reason) == (False, None)
    first = SocketError("first")
    exchange.abort(first)
    exchange.abort(SocketError("second"))
    assert (exchange.aborted, exchange.reason) == (True, first)
    assert carrier.calls == handler.errors == [first]


def test_2_2_abort_without_a_reason() -> None:
    exchange, handler, _, _ = make()
    exchange.abort()
    assert isinstance(exchange.reason, RequestAbortedError)
    assert handler.errors == [exchange.reason]
    assert handler.errors[0].code == "UND_ERR_ABORTED"  # type: ignore[attr-defined]


def test_reasons() -> None:
    error = KeyError("x")
    assert as_reason(error) is error
    assert str(as_reason("because")) == "because"
    assert str(as_reason(None)) == "Request aborted"


def test_abort_before_anybody_carries_it() -> None:
    exchange, handler, _, _ = make(carried=False)
    exchange.abort("no")
    assert handler.errors == [exchange.reason]
    assert exchange.done


def test_2_2_abort_after_the_end_does_nothing_but_say_so() -> None:
    exchange, handler, carrier, _ = make()
    exchange.end()
    exchange.abort()
    exchange.pause()
    exchange.resume()
    assert (exchange.aborted, exchange.paused, exchange.carrier) == (True, False, None)
    assert handler.errors == carrier.calls == []


def test_abort_from_another_thread() -> None:
    exchange, handler, _, loop = make()
    elsewhere(lambda: exchange.abort("there"))
    assert exchange.aborted
    assert handler.errors == []
    loop.run()
    assert handler.errors == [exchange.reason]


def test_the_first_of_many_threads_wins() -> None:
    for _ in range(50):
        exchange, handler, _, loop = make()
        barrier = threading.Barrier(8)

        def abort(number: int, exchange: Exchange = exchange, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            exchange.abort(str(number))

        threads = [threading.Thread(target=abort, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(loop.ready) == 1
        loop.run()
        assert handler.errors == [exchange.reason]


def test_an_abort_that_comes_too_late() -> None:
    exchange, handler, _, loop = make()
    elsewhere(exchange.abort)
    exchange.end()
    loop.run()
    assert handler.errors == []


def test_pause_and_resume() -> None:
    exchange, _, carrier, _ = make()
    exchange.resume()
    exchange.pause()
    exchange.pause()
    assert exchange.paused
    exchange.resume()
    exchange.resume()
    assert not exchange.paused
    assert carrier.calls == ["pause", "resume"]


def test_pause_before_anybody_carries_it() -> None:
    exchange, _, carrier, _ = make(carried=False)
    exchange.pause()
    assert exchange.paused
    exchange.resume()
    assert not exchange.paused
    assert carrier.calls == []


def test_the_last_word_of_another_thread_wins() -> None:
    exchange, _, carrier, loop = make()
    elsewhere(lambda: (exchange.pause(), exchange.resume()))
    assert carrier.calls == []
    loop.run()
    assert carrier.calls == ["resume"]
    elsewhere(lambda: (exchange.pause(), exchange.resume(), exchange.pause()))
    loop.run()
    assert carrier.calls == ["resume", "pause", "pause"]


def test_a_closed_loop_has_ended_everything() -> None:
    for action in ("abort", "pause"):
        exchange, handler, carrier, loop = make()
        loop.closed = True
        elsewhere(getattr(exchange, action))
        assert exchange.done
        assert handler.errors == carrier.calls == []


@pytest.mark.parametrize("carried", [True, False])
def test_deadline(carried: bool) -> None:
    exchange, handler, carrier, _ = make(carried, timeout=2.5)
    timers = Timers()
    exchange.start_deadline(timers, 2.5)  # type: ignore[arg-type]
    assert timers.seconds == 2.5
    timers.callback()
    assert isinstance(exchange.reason, RequestTimeoutError)
    assert "2.5 s" in str(exchange.reason)
    assert handler.errors == [exchange.reason]
    assert carrier.calls == ([exchange.reason] if carried else [])
    assert timers.seconds is None
    timers.callback()
    assert len(handler.errors) == 1


def test_an_abort_on_its_way_wins_over_the_deadline() -> None:
    exchange, handler, _, loop = make(timeout=1)
    timers = Timers()
    exchange.start_deadline(timers, 1)  # type: ignore[arg-type]
    elsewhere(lambda: exchange.abort("first"))
    timers.callback()
    loop.run()
    assert [str(error) for error in handler.errors] == ["first"]


def test_fail_tells_once_and_adds_facts() -> None:
    exchange, handler, _, _ = make(origin="http://a")
    exchange.attempt, exchange.bytes_sent, exchange.bytes_read, exchange.status_code = 2, 10, 20, 200
    error = SocketError("x", bytes_read=5)
    exchange.fail(error)
    exchange.fail(SocketError("y"))
    assert handler.errors == [error]
    assert (error.origin, error.attempt, error.bytes_sent, error.bytes_read) == ("http://a", 2, 10, 5)
    assert error.status_code == 200


def test_fail_publishes() -> None:
    seen: list[Any] = []

    def subscriber(message: dict[str, Any], name: str) -> None:
        seen.append((name, message["error"], message["request"]))

    exchange, _, _, _ = make()
    error = SocketError("x")
    diagnostics.REQUEST_ERROR.subscribe(subscriber)
    try:
        exchange.fail(error)
    finally:
        diagnostics.REQUEST_ERROR.unsubscribe(subscriber)
    assert seen == [("undici:request:error", error, exchange)]


def test_a_handler_that_raises_in_on_response_error() -> None:
    exchange, handler, _, loop = make()
    problem = ValueError("oops")
    handler.on_response_error = _raiser(problem)  # type: ignore[method-assign]
    exchange.fail(SocketError("x"))
    assert loop.problems[0]["exception"] is problem
    assert "on_response_error" in loop.problems[0]["message"]


def _raiser(error: BaseException) -> Any:
    def raises(*args: object) -> None:
        raise error

    return raises


def test_refuse(caplog: pytest.LogCaptureFixture) -> None:
    handler = Recorder()
    error = SocketError("x")
    assert refuse(handler, error) is False
    assert handler.errors == [error]
    handler.on_response_error = _raiser(ValueError("oops"))  # type: ignore[method-assign]
    with caplog.at_level(logging.ERROR, "dodici"):
        assert refuse(handler, error) is False
    assert "raised" in caplog.text


def test_ended_controllers_are_harmless() -> None:
    controller = EndedController()
    controller.abort()
    controller.pause()
    controller.resume()
    assert (controller.aborted, controller.paused, controller.reason) == (False, False, None)


def test_repr() -> None:
    exchange, _, _, _ = make(path="/x")
    assert repr(exchange) == "<Exchange GET /x running>"
    exchange.pause()
    assert "paused" in repr(exchange)
    exchange.resume()
    exchange._reason = SocketError()
    assert "aborted" in repr(exchange)
    exchange.end()
    assert "ended" in repr(exchange)


# -- body sources --------------------------------------------------------------------------------------


class Source:
    def __init__(self, error: Exception | None = None) -> None:
        self.closed = 0
        self.error = error

    def __iter__(self) -> Source:
        return self

    def __next__(self) -> bytes:
        return b"x"

    def close(self) -> None:
        self.closed += 1
        if self.error is not None:
            raise self.error


class AsyncSource(Source):
    async def aclose(self) -> None:
        self.closed += 10


class AwaitableSource(Source):
    async def close(self) -> None:  # type: ignore[override]
        self.closed += 100


@pytest.mark.parametrize(("source", "closed"), [(Source(), 1), (AsyncSource(), 10), (AwaitableSource(), 100)])
async def test_close_source(source: Source, closed: int) -> None:
    await close_source(source)
    assert source.closed == closed


async def test_close_source_keeps_quiet() -> None:
    source = Source(ValueError("oops"))
    await close_source(source)
    assert source.closed == 1
    await close_source([b"x"])


async def test_a_source_of_which_nothing_was_asked_is_closed_once() -> None:
    loop = asyncio.get_running_loop()
    source = Source()
    exchange = Exchange(Recorder(), DispatchOptions(method="POST", body=source), loop, threading.get_ident())
    exchange.fail(SocketError("x"))
    exchange.fail(SocketError("x"))
    await asyncio.sleep(0)
    assert source.closed == 1
    taken = Source()
    exchange = Exchange(Recorder(), DispatchOptions(method="POST", body=taken), loop, threading.get_ident())
    exchange.source_taken = True
    exchange.fail(SocketError("x"))
    discard_source([b"x"], loop)
    await asyncio.sleep(0)
    assert taken.closed == 0

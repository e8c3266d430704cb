"""What every interceptor keeps of the handler contract, and the controller that they share."""

from __future__ import annotations

import asyncio
import gc
import gzip
import itertools
import threading
import weakref

import pytest
from tests.unit.interceptor_kit import (
    ORIGIN,
    ScriptedDispatcher,
    answer,
    data,
    end,
    fail,
    hang,
    head,
    play,
    refused,
    start,
    upgrade,
    virtual,
)

import dodici.interceptors as interceptors
from dodici.core.errors import InvalidArgumentError, LoopMismatchError, RequestAbortedError, SocketError
from dodici.core.handler import DispatchHandler
from dodici.core.options import DispatchOptions
from dodici.core.relay import Relay
from dodici.interceptors import decompress, dump, redirect, response_error, retry
from dodici.testing import RecordingHandler, settle

ALL = {
    "retry": retry(),
    "redirect": redirect(),
    "response_error": response_error(),
    "dump": dump(),
    "decompress": decompress(),
    "gzip": decompress(),
    "all": [decompress(), retry(), redirect(), response_error()],
}
every = pytest.mark.parametrize("name", ALL)
WITH_BODY = [name for name in ALL if name != "dump"]
every_with_body = pytest.mark.parametrize("name", WITH_BODY)

BODY = [bytes([65 + i]) * 1000 for i in range(5)]


def response(name: str) -> list:
    """A response in five pieces, coded for the interceptor that decodes."""
    if name != "gzip":
        return [head(200, {"x": "1"}), *map(data, BODY), end({"t": "2"})]
    # One member for each piece, so that each piece decodes by itself.
    return [
        head(200, {"x": "1", "content-encoding": "gzip"}),
        *(data(gzip.compress(p)) for p in BODY),
        end({"t": "2"}),
    ]


@every
@virtual
async def test_a_response_passes_with_its_1xx_and_trailers(name):
    recorder, base = await play(ALL[name], [start(), head(103, {"link": "l"}), head(102), *response(name)])
    assert [status for status, _ in recorder.informational] == [103, 102]
    assert recorder.informational[0][1]["link"] == "l"
    assert (recorder.status_code, recorder.headers["x"], recorder.trailers["t"]) == (200, "1", "2")
    assert recorder.body == (b"" if name == "dump" else b"".join(BODY))
    assert base.outcomes == ["end"]


@every
@virtual
async def test_early_dispatchers_give_a_controller_that_stays(name):
    for early in (True, False):
        recorder, _ = await play(ALL[name], base=ScriptedDispatcher([start(), *response(name)], early=early))
        assert recorder.error is None


@every
@virtual
async def test_upgrade(name):
    recorder, _ = await play(ALL[name], [start(), head(103), upgrade("the socket")], options={"upgrade": "x"})
    assert recorder.socket == "the socket"
    recorder.controller.abort()
    await settle()
    recorder.check()


@every
@virtual
async def test_abort_inside_dispatch_sends_nothing(name):
    base = ScriptedDispatcher([start(), *response(name)])
    reason = ValueError("never mind")
    recorder = RecordingHandler(on_dispatch=lambda controller: controller.abort(reason))
    assert recorder.dispatch(base.compose(ALL[name]), {"origin": ORIGIN}) is False
    await settle()
    assert recorder.error is reason
    assert not any(base.players)


@every
@virtual
async def test_abort_while_queued(name):
    base = ScriptedDispatcher([hang()])
    recorder = RecordingHandler()
    recorder.dispatch(base.compose(ALL[name]), {"origin": ORIGIN})
    await settle()
    recorder.controller.abort()
    await recorder.wait()
    assert isinstance(recorder.error, RequestAbortedError)
    assert recorder.names == ["response_error"]
    assert base.outcomes == [recorder.error]


@every
@virtual
async def test_abort_in_on_request_start(name):
    recorder, base = await play(
        ALL[name], [start(), *response(name)], on_request_start=lambda controller, _: controller.abort("no")
    )
    assert str(recorder.error) == "no"
    assert recorder.names == ["request_start", "response_error"]
    assert base.outcomes == [recorder.error]


@every_with_body
@virtual
async def test_abort_in_the_body(name):
    recorder, base = await play(
        ALL[name],
        [start(), *response(name)],
        on_response_data=lambda controller, _: controller.abort("enough"),
    )
    assert recorder.body == BODY[0]
    assert str(recorder.error) == "enough"
    assert recorder.controller.aborted
    assert recorder.controller.reason is recorder.error
    assert base.outcomes == [recorder.error]
    assert len(base.requests) == 1


@every
@virtual
async def test_abort_after_the_end_is_harmless(name):
    recorder, _ = await play(ALL[name], [start(), *response(name)])
    recorder.controller.abort()
    recorder.controller.pause()
    recorder.controller.resume()
    await settle()
    recorder.check()


@every
@pytest.mark.parametrize(
    "callback", ["on_request_start", "on_response_start", "on_response_data", "on_response_end"]
)
@virtual
async def test_a_callback_that_raises(name, callback):
    if name == "dump" and callback == "on_response_data":
        pytest.skip("has none")

    # One that would be retried if the network had raised it.
    mistake = SocketError("mine", request_not_processed=True)

    def raises(*args):
        raise mistake

    recorder, base = await play(ALL[name], [start(), *response(name)], **{callback: raises})
    assert recorder.error is mistake
    assert recorder.count("on_response_error") == 1
    assert len(base.requests) == 1


@every
@virtual
async def test_on_response_error_that_raises_is_reported(name):
    reports = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context["exception"]))
    mistake = ValueError("mine")

    def raises(*args):
        raise mistake

    recorder, _ = await play(
        ALL[name], [start(), head(200), data(b"x"), fail(LookupError("theirs"))], on_response_error=raises
    )
    assert isinstance(recorder.error, LookupError)
    assert reports == [mistake]


@every
@virtual
async def test_an_error_of_the_network_passes(name):
    error = LookupError("not one to retry")
    recorder, _ = await play(ALL[name], [start(), head(200), data(b"x"), fail(error)])
    assert recorder.error is error


@every
@virtual
async def test_a_refusal_is_told_inside_dispatch(name):
    error = InvalidArgumentError("bad")
    recorder, _ = await play(ALL[name], [refused(error)])
    assert recorder.error is error
    assert recorder.synchronous
    assert recorder.accepted is False


@every_with_body
@virtual
async def test_pause_and_resume_between_pieces(name):
    base = ScriptedDispatcher([start(), *response(name)])
    recorder = RecordingHandler(on_response_data=lambda controller, _: controller.pause())
    recorder.dispatch(base.compose(ALL[name]), {"origin": ORIGIN})
    for count in range(1, 6):
        await recorder.received(count * 1000)
        await settle()
        assert recorder.body_size == count * 1000
        assert recorder.controller.paused
        recorder.controller.resume()
    await recorder.wait()
    assert recorder.body == b"".join(BODY)


@every_with_body
@virtual
async def test_pause_from_the_first_callback_on(name):
    base = ScriptedDispatcher([start(), *response(name)])
    recorder = RecordingHandler(on_request_start=lambda controller, _: controller.pause())
    recorder.dispatch(base.compose(ALL[name]), {"origin": ORIGIN})
    await settle()
    assert recorder.body_size == 0
    recorder.controller.resume()
    await recorder.wait()
    assert recorder.body == b"".join(BODY)


@every_with_body
@virtual
async def test_abort_while_paused(name):
    base = ScriptedDispatcher([start(), *response(name)])
    recorder = RecordingHandler(on_response_data=lambda controller, _: controller.pause())
    recorder.dispatch(base.compose(ALL[name]), {"origin": ORIGIN})
    await recorder.received(1)
    await settle()
    recorder.controller.abort()
    await recorder.wait()
    assert isinstance(recorder.error, RequestAbortedError)
    assert recorder.body == BODY[0]


@every_with_body
async def test_pause_resume_and_abort_from_another_thread(name):
    base = ScriptedDispatcher([start(), *response(name)])
    recorder = RecordingHandler(threaded=True, on_response_data=lambda controller, _: controller.pause())
    recorder.dispatch(base.compose(ALL[name]), {"origin": ORIGIN})
    await recorder.received(1000)
    await asyncio.to_thread(recorder.controller.resume)
    await recorder.received(2000)
    await asyncio.to_thread(recorder.controller.abort, "from afar")
    await recorder.wait()
    assert str(recorder.error) == "from afar"


@every
def test_without_a_loop(name):
    base = ScriptedDispatcher([])

    class Handler:
        on_request_start = on_response_start = on_response_data = on_response_end = on_response_error = None

    dispatch = base.dispatch
    wrapping = ALL[name] if isinstance(ALL[name], list) else [ALL[name]]
    for interceptor in wrapping:
        dispatch = interceptor(dispatch)
    with pytest.raises((LoopMismatchError, RuntimeError)):
        dispatch(DispatchOptions(origin=ORIGIN), Handler())


@every
@virtual
async def test_a_requeued_request_starts_twice(name):
    recorder, _ = await play(ALL[name], [start(), start(), *response(name)])
    assert recorder.starts == 2
    assert recorder.status_code == 200


@virtual
async def test_interceptors_in_any_order_give_one_result():
    coded = answer(200, {"content-encoding": "gzip"}, gzip.compress(b"body"))
    for order in itertools.permutations([decompress(), retry(jitter=0), redirect(), response_error()]):
        recorder, base = await play(
            list(order), answer(302, {"location": "/b"}), answer(503, body=b"later"), coded
        )
        assert recorder.error is None
        assert recorder.body == b"body"
        assert len(base.requests) == 3


@every
@virtual
async def test_nothing_is_kept_alive_by_cycles(name):
    # The scripted dispatcher keeps nothing that has ended, apart from what it records.
    base = ScriptedDispatcher([start(), *response(name)])
    handler = DispatchHandler()
    gone = weakref.ref(handler)
    gc.disable()
    try:
        base.compose(ALL[name]).dispatch({"origin": ORIGIN}, handler)
        await settle(60)
        assert base.outcomes == ["end"]
        base.players.clear()
        del handler
        assert gone() is None
    finally:
        gc.enable()


def test_lazy_names():
    assert set(interceptors.__all__) <= set(dir(interceptors))
    with pytest.raises(AttributeError):
        _ = interceptors.nothing
    for name in interceptors.__all__:
        assert callable(getattr(interceptors, name))


class Inner:
    """A controller that notes what it is told."""

    def __init__(self):
        self.told = []

    def pause(self):
        self.told.append("pause")

    def resume(self):
        self.told.append("resume")

    def abort(self, reason=None):
        self.told.append(reason)


async def test_relay_remembers_while_nothing_is_attached():
    aborted = []
    relay = Relay(asyncio.get_running_loop(), aborted.append)
    relay.pause()
    first, second = Inner(), Inner()
    relay.attach(first)
    relay.resume()
    relay.resume()
    relay.detach()
    relay.pause()
    relay.pause()
    relay.attach(second)
    assert (first.told, second.told) == (["pause", "resume"], ["pause"])
    relay.detach()
    relay.abort("first")
    relay.abort("second")
    assert [str(reason) for reason in aborted] == ["first"]
    assert relay.reason is aborted[0]
    assert "aborted" in repr(relay)


async def test_relay_after_its_end():
    aborted = []
    relay = Relay(asyncio.get_running_loop(), aborted.append)
    inner = Inner()
    relay.attach(inner)
    relay.close()
    relay.pause()
    relay.abort()
    assert relay.aborted
    assert not relay.paused
    assert (inner.told, aborted) == ([], [])


async def test_relay_forwards_from_threads_on_the_loop():
    relay = Relay(asyncio.get_running_loop(), lambda reason: None)
    threads = []

    class Noting(Inner):
        def resume(self):
            threads.append(threading.get_ident())

        abort = resume

    def elsewhere():
        relay.pause()
        relay.resume()
        relay.abort()

    relay.attach(Noting())
    await asyncio.to_thread(elsewhere)
    await settle()
    assert set(threads) == {threading.get_ident()}


def test_relay_of_a_closed_loop():
    async def make():
        return Relay(asyncio.get_running_loop(), lambda reason: None)

    relay = asyncio.run(make())
    relay.attach(Inner())
    thread = threading.Thread(target=relay.abort)
    thread.start()
    thread.join()
    assert relay.aborted
    assert relay.inner is None

"""dump(): heads only, and bodies within bounds."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.interceptor_kit import (
    ORIGIN,
    ScriptedDispatcher,
    answer,
    data,
    end,
    fail,
    gate,
    hang,
    head,
    play,
    start,
    virtual,
)

from dodici.core.errors import InvalidArgumentError, RequestAbortedError
from dodici.interceptors import dump
from dodici.testing import RecordingHandler, settle


@virtual
async def test_bodies_are_swallowed():
    recorder, base = await play(
        dump(), [start(), head(103), head(200, {"x": "1"}), data(b"a" * 100_000), data(b"b"), end({"t": "2"})]
    )
    assert recorder.names == ["request_start", "response_start", "response_start", "response_end"]
    assert (recorder.headers["x"], recorder.trailers["t"]) == ("1", "2")
    assert base.outcomes == ["end"]


@virtual
async def test_a_body_that_announces_too_much():
    recorder, base = await play(
        dump(), [start(), head(200, {"content-length": str(1024 * 1024 + 1)}), hang()]
    )
    assert isinstance(recorder.error, RequestAbortedError)
    assert "1048577" in str(recorder.error)
    assert recorder.names == ["request_start", "response_error"]
    assert base.players[0].exchange.aborted
    recorder, _ = await play(dump(max_size=10), answer(200, {"content-length": "10"}, bytes(10)))
    assert recorder.status_code == 200


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 304)])
@virtual
async def test_a_length_without_a_body(method, status):
    recorder, _ = await play(
        dump(max_size=1), answer(status, {"content-length": "5"}), options={"method": method}
    )
    assert recorder.error is None


@virtual
async def test_a_body_that_is_too_much():
    recorder, base = await play(dump(max_size=10), [start(), head(200), data(bytes(10)), data(b"x"), hang()])
    assert isinstance(recorder.error, RequestAbortedError)
    assert base.players[0].exchange.aborted
    recorder, _ = await play(dump(max_size=10), [start(), head(200), data(bytes(10)), end()])
    assert recorder.error is None


@virtual
async def test_abort_waits_for_the_end_of_the_body():
    go = asyncio.Event()
    base = ScriptedDispatcher([start(), head(200), data(b"x"), gate(go), data(b"y"), end()])
    recorder = RecordingHandler(on_response_start=lambda controller, *_: controller.abort("seen enough"))
    recorder.dispatch(base.compose(dump()), {"origin": ORIGIN})
    await recorder.reached("on_response_start")
    await settle()
    assert recorder.error is None
    assert recorder.controller.aborted
    go.set()
    await recorder.wait()
    assert str(recorder.error) == "seen enough"
    # The connection can be used again.
    assert base.outcomes == ["end"]
    assert recorder.count("on_response_end") == 0


@virtual
async def test_abort_does_not_wait_for_ever():
    base = ScriptedDispatcher([start(), head(200), data(b"x"), hang()])
    recorder = RecordingHandler(on_response_start=lambda controller, *_: controller.abort("seen enough"))
    recorder.dispatch(base.compose(dump()), {"origin": ORIGIN})
    await recorder.wait()
    assert 1 <= asyncio.get_running_loop().time() < 2
    assert base.players[0].exchange.aborted
    assert str(recorder.error) == "seen enough"


@virtual
async def test_abort_does_not_wait_for_a_large_body():
    base = ScriptedDispatcher([start(), head(200), *[data(bytes(100))] * 10, hang()])
    recorder = RecordingHandler(on_response_start=lambda controller, *_: controller.abort("seen enough"))
    recorder.dispatch(base.compose(dump(max_size=500)), {"origin": ORIGIN})
    await recorder.wait()
    assert str(recorder.error) == "seen enough"
    assert asyncio.get_running_loop().time() < 1


@virtual
async def test_abort_while_paused_does_not_wait():
    base = ScriptedDispatcher([start(), head(200), data(b"x"), end()])
    recorder = RecordingHandler(on_response_start=lambda controller, *_: controller.pause())
    recorder.dispatch(base.compose(dump()), {"origin": ORIGIN})
    await recorder.reached("on_response_start")
    await settle()
    assert recorder.count("on_response_end") == 0
    recorder.controller.abort("enough")
    assert str(recorder.error) == "enough"


@virtual
async def test_pause_and_resume():
    base = ScriptedDispatcher([start(), head(200), data(b"x"), end()])
    recorder = RecordingHandler(on_response_start=lambda controller, *_: controller.pause())
    recorder.dispatch(base.compose(dump()), {"origin": ORIGIN})
    await recorder.reached("on_response_start")
    await settle()
    recorder.controller.resume()
    await recorder.wait()
    assert recorder.error is None


@virtual
async def test_a_failure_after_an_abort_is_the_abort():
    recorder, _ = await play(
        dump(),
        [start(), head(200), data(b"x"), fail(LookupError())],
        on_response_start=lambda controller, *_: controller.abort("enough"),
    )
    assert str(recorder.error) == "enough"


def test_invalid_arguments():
    for size in (0, -1, 1.5, None):
        with pytest.raises(InvalidArgumentError):
            dump(max_size=size)

"""Conformance: callbacks that raise, pause and resume."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ...core.errors import (
    RequestAbortedError,
)
from ..app import pattern
from ..recorder import DATA, ERROR, RESPONSE, START, settle
from ..target import ENDLESS, DeliberateError, LoopComplaints, Target, raising


class ControlTests:
    """What a handler does while it is told."""

    # ---------------------------------------------------------------------------- callbacks that raise

    async def test_raising_in_request_start_sends_nothing(self, target: Target) -> None:
        """The exception is the error; the app never hears of the request."""
        token, error = target.token(), DeliberateError("start")
        recorder = await target.send(
            f"/echo?token={token}", target.recorder(on_request_start=raising(error))
        ).wait()
        assert recorder.names == ["request_start", "response_error"]
        assert recorder.error is error
        await target.usable()
        assert await target.count(token) == 0

    @pytest.mark.parametrize("callback", [RESPONSE, DATA])
    async def test_raising_aborts_the_exchange(self, target: Target, callback: str) -> None:
        """The exception is the error, the app hears of the end, the dispatcher serves on."""
        token, error = target.token(), DeliberateError(callback)
        recorder = target.recorder(**{callback: raising(error)})
        await target.send(f"/hang-body?token={token}", recorder).wait()
        assert recorder.error is error
        assert recorder.count(callback) == 1
        if "disconnect" in target.features:
            await target.seen(f"{token}:disconnected")
        await target.usable()

    async def test_raising_at_an_informational_response(self, target: Target) -> None:
        """As at the final one; what follows is told to nobody."""
        target.need("informational")
        error = DeliberateError("103")
        recorder = await target.send("/hints", target.recorder(on_response_start=raising(error))).wait()
        assert recorder.names == ["request_start", "response_start", "response_error"]
        assert recorder.error is error
        await target.usable()

    async def test_raising_at_the_end(self, target: Target) -> None:
        """The exception is not lost: the handler is told, or the loop's exception handler."""
        error = DeliberateError("end")
        recorder = target.recorder(on_response_end=raising(error))
        with LoopComplaints() as complaints:
            await target.send("/empty", recorder).wait()
            await settle()
        told = [context["exception"] for context in complaints]
        assert (recorder.error is error) != (error in told)
        await target.usable()

    async def test_raising_in_the_error_callback(self, target: Target) -> None:
        """The loop's exception handler is told; nothing else happens."""
        error = DeliberateError("error")
        recorder = target.recorder(
            on_response_error=raising(error), on_response_start=lambda controller, *_: controller.abort()
        )
        with LoopComplaints() as complaints:
            await target.send("/empty", recorder).wait()
            await settle()
        assert error in [context["exception"] for context in complaints]
        assert recorder.count(ERROR) == 1
        await target.usable()

    # --------------------------------------------------------------------------------- pause, resume

    async def test_pause_at_the_head_holds_the_body_back(self, target: Target) -> None:
        """No data until resume(); then all of it, in order, and the end."""
        recorder = target.recorder(on_response_start=lambda controller, *_: controller.pause())
        target.send("/bytes/300000", recorder)
        await recorder.reached(RESPONSE)
        assert recorder.controller.paused
        await settle(100)
        assert recorder.names == ["request_start", "response_start"]
        recorder.controller.resume()
        assert not recorder.controller.paused
        await recorder.wait()
        assert recorder.body == pattern(300_000)

    async def test_pause_of_a_small_response_holds_its_end_back(self, target: Target) -> None:
        """Even what arrived together with the head waits."""
        recorder = target.recorder(on_response_start=lambda controller, *_: controller.pause())
        target.send("/bytes/10", recorder)
        await recorder.reached(RESPONSE)
        await settle(100)
        assert recorder.count(DATA) == 0
        recorder.controller.resume()
        assert (await recorder.wait()).body == pattern(10)
        await target.usable()

    async def test_pause_at_every_chunk(self, target: Target) -> None:
        """A body read pause by pause is the same body."""
        loop = asyncio.get_running_loop()

        def hold(controller: Any, _: bytes) -> None:
            controller.pause()
            loop.call_soon(loop.call_soon, controller.resume)

        recorder = await target.send("/stream/1000000", target.recorder(on_response_data=hold)).wait()
        assert recorder.error is None
        assert recorder.body == pattern(1_000_000)

    async def test_resume_delivers_later(self, target: Target) -> None:
        """resume() itself calls no callback: whoever calls it is not re-entered."""
        recorder = target.recorder(on_response_start=lambda controller, *_: controller.pause())
        target.send("/bytes/10", recorder)
        await recorder.reached(RESPONSE)
        await settle(100)
        recorder.controller.resume()
        assert recorder.count(DATA) == 0
        await recorder.wait()

    async def test_pause_and_resume_are_idempotent(self, target: Target) -> None:
        """Repeated, in vain, and after the end: all harmless."""
        recorder = target.recorder(on_request_start=lambda controller, _: controller.resume())
        target.send("/bytes/1000", recorder)
        await recorder.reached(START)
        controller = recorder.controller
        for action in (controller.pause, controller.pause, controller.resume, controller.resume):
            action()
        await recorder.wait()
        assert recorder.body == pattern(1000)
        controller.pause()
        controller.resume()
        await recorder.wait()
        await target.usable()

    async def test_pause_bounds_what_is_held(self, target: Target) -> None:
        """While paused the app's send() stops being served: memory holds a window, not the body."""
        target.need("backpressure")
        token = target.token()
        recorder = target.recorder(keep_body=False, on_response_data=lambda controller, _: controller.pause())
        target.send(f"/stream/{ENDLESS}?token={token}", recorder)
        await recorder.received(1)
        sent = await target.steady(lambda: target.count(token, "sent"))
        assert sent < ENDLESS // 2
        assert recorder.count(DATA) == 1
        recorder.controller.abort()
        assert isinstance((await recorder.wait()).error, RequestAbortedError)
        await target.usable()

    async def test_pause_from_another_thread(self, target: Target) -> None:
        """From the next turn of the loop on there is no data; resume() from a thread goes on."""
        token = target.token()
        recorder = target.recorder(threaded=True)
        target.send(f"/gated?parts=3&token={token}", recorder)
        await target.open(token, "head", "0")
        await recorder.received(7)
        await asyncio.to_thread(recorder.controller.pause)
        await settle()
        await target.open(token, "1")
        await target.seen(f"{token}:sent:1")
        await settle(100)
        assert recorder.body == b"part-0;"
        await asyncio.to_thread(recorder.controller.resume)
        await recorder.received(14)
        await target.open(token, "2")
        assert (await recorder.wait()).body == b"part-0;part-1;part-2;"

"""Conformance: abort at every stage."""

from __future__ import annotations

import asyncio
import json

import pytest

from ...core.errors import (
    RequestAbortedError,
)
from ..recorder import DATA, RESPONSE, settle
from ..target import DeliberateError, Target


class AbortTests:
    """Exchanges that are given up."""

    # ----------------------------------------------------------------------------------------- abort

    async def test_abort_in_request_start_sends_nothing(self, target: Target) -> None:
        """The app never hears of it; the reason is the very object that was given."""
        token, reason = target.token(), DeliberateError("never mind")
        recorder = target.recorder(on_request_start=lambda controller, _: controller.abort(reason))
        await target.send(f"/echo?token={token}", recorder).wait()
        assert recorder.names == ["request_start", "response_error"]
        assert recorder.error is reason
        await target.usable()
        assert await target.count(token) == 0

    async def test_abort_before_the_request_begins(self, target: Target) -> None:
        """Whoever has the controller from dispatch() on may abort at once."""
        target.need("on-dispatch")
        token = target.token()
        recorder = target.send(f"/echo?token={token}")
        assert recorder.controller is not None
        recorder.controller.abort()
        await recorder.wait()
        assert recorder.names == ["response_error"]
        assert isinstance(recorder.error, RequestAbortedError)
        await target.usable()
        assert await target.count(token) == 0

    async def test_abort_before_the_head(self, target: Target) -> None:
        """The exchange ends now; the app is told."""
        token = target.token()
        recorder = target.send(f"/hang?token={token}")
        await target.seen(f"{token}:started")
        recorder.controller.abort()
        assert recorder.controller.aborted
        await recorder.wait()
        assert recorder.names == ["request_start", "response_error"]
        assert isinstance(recorder.error, RequestAbortedError)
        assert recorder.error.code == "UND_ERR_ABORTED"
        assert recorder.controller.reason is recorder.error
        if "disconnect" in target.features:
            await target.seen(f"{token}:disconnected")
        await target.usable()

    @pytest.mark.parametrize("callback", [RESPONSE, DATA])
    async def test_abort_in_a_callback(self, target: Target, callback: str) -> None:
        """Nothing follows but the error."""
        token, reason = target.token(), DeliberateError(callback)
        recorder = target.recorder(**{callback: lambda controller, *_: controller.abort(reason)})
        await target.send(f"/hang-body?token={token}", recorder).wait()
        assert recorder.error is reason
        assert recorder.calls[-2].name == callback
        if "disconnect" in target.features:
            await target.seen(f"{token}:disconnected")
        await target.usable()

    async def test_abort_in_mid_body(self, target: Target) -> None:
        """Between two chunks."""
        token = target.token()
        recorder = target.send(f"/gated?parts=2&token={token}")
        await target.open(token, "head", "0")
        await recorder.received(7)
        recorder.controller.abort("enough")
        await recorder.wait()
        assert isinstance(recorder.error, RequestAbortedError)
        assert str(recorder.error) == "enough"
        assert recorder.body == b"part-0;"
        await target.open(token, "1")
        await target.usable()

    async def test_abort_while_paused(self, target: Target) -> None:
        """What was held back is dropped."""
        recorder = target.recorder(on_response_start=lambda controller, *_: controller.pause())
        target.send("/bytes/100000", recorder)
        await recorder.reached(RESPONSE)
        await settle(100)
        recorder.controller.abort()
        await recorder.wait()
        recorder.controller.resume()
        await recorder.wait()
        assert recorder.names == ["request_start", "response_start", "response_error"]
        await target.usable()

    async def test_abort_in_the_last_callback(self, target: Target) -> None:
        """At the end, and after it, an abort is harmless."""
        recorder = target.recorder(on_response_end=lambda controller, _: controller.abort())
        await target.send("/empty", recorder).wait()
        recorder.controller.abort(DeliberateError())
        await recorder.wait()
        assert recorder.names == ["request_start", "response_start", "response_end"]
        await target.usable()

    async def test_first_reason_wins(self, target: Target) -> None:
        """A second abort changes nothing."""
        first, second = DeliberateError("first"), DeliberateError("second")
        token = target.token()
        recorder = target.send(f"/hang?token={token}")
        await target.seen(f"{token}:started")
        recorder.controller.abort(first)
        recorder.controller.abort(second)
        await recorder.wait()
        assert recorder.error is first
        assert recorder.controller.reason is first

    async def test_abort_from_another_thread(self, target: Target) -> None:
        """The error comes on the loop's thread."""
        token, reason = target.token(), DeliberateError("thread")
        recorder = target.recorder(threaded=True)
        target.send(f"/hang-body?token={token}", recorder)
        await recorder.received(5)
        await asyncio.to_thread(recorder.controller.abort, reason)
        assert (await recorder.wait()).error is reason
        await target.usable()

    async def test_abort_of_one_among_many(self, target: Target) -> None:
        """The others are answered."""
        recorders = [
            target.recorder(on_request_start=lambda controller, _: controller.abort())
            if number % 3 == 1
            else target.recorder(on_response_start=lambda controller, *_: controller.abort())
            if number % 3 == 2
            else target.recorder()
            for number in range(30)
        ]
        for number, recorder in enumerate(recorders):
            target.send(f"/echo?n={number}", recorder)
        for number, recorder in enumerate(recorders):
            await recorder.wait()
            if number % 3:
                assert isinstance(recorder.error, RequestAbortedError)
            else:
                assert recorder.error is None
                assert json.loads(recorder.body)["query"] == f"n={number}"

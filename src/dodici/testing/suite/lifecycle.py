"""Conformance: timeouts, the dispatcher's end, and the verbs above dispatch()."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from ...core.dispatcher import ComposedDispatcher
from ...core.errors import (
    BodyTimeoutError,
    ClientClosedError,
    ClientDestroyedError,
    HeadersTimeoutError,
    RequestTimeoutError,
)
from ..app import pattern
from ..recorder import RESPONSE, START, settle

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...core.options import DispatchOptions

from ..target import BIG, TIMEOUT, DeliberateError, Target


class LifecycleTests:
    """Ends, of exchanges and of dispatchers."""

    # --------------------------------------------------------------------------------------- timeouts

    async def test_headers_timeout(self, target: Target) -> None:
        """No head in time."""
        target.need("timeouts")
        recorder = await target.send("/hang", headers_timeout=0.05).wait()
        assert isinstance(recorder.error, HeadersTimeoutError)
        assert isinstance(recorder.error, TimeoutError)
        await target.usable()

    async def test_body_timeout(self, target: Target) -> None:
        """A body that stalls."""
        target.need("timeouts")
        recorder = await target.send("/hang-body", body_timeout=0.05).wait()
        assert isinstance(recorder.error, BodyTimeoutError)
        assert recorder.body == b"begun"
        await target.usable()

    async def test_body_timeout_does_not_run_while_paused(self, target: Target) -> None:
        """Who pauses may take their time."""
        target.need("timeouts")
        token = target.token()
        recorder = target.recorder(on_response_data=lambda controller, _: controller.pause())
        target.send(f"/gated?parts=2&token={token}", recorder, body_timeout=0.3)
        await target.open(token, "head", "0")
        await recorder.received(7)
        await asyncio.sleep(0.5)  # longer than the timeout that must not fire
        assert not recorder.ended.done()
        await target.open(token, "1")
        recorder.controller.resume()
        await recorder.received(14)
        recorder.controller.resume()
        await recorder.wait()
        assert recorder.error is None

    async def test_total_timeout(self, target: Target) -> None:
        """The deadline of the whole exchange, whatever it is doing."""
        for path in ("/hang", "/hang-body"):
            recorder = await target.send(path, timeout=0.05).wait()
            assert isinstance(recorder.error, RequestTimeoutError)
            assert isinstance(recorder.error, TimeoutError)
        await target.usable()

    # --------------------------------------------------------------------------------------- lifecycle

    async def test_close_drains(self, target: Target) -> None:
        """close() refuses what is new and waits for what is there."""
        tokens = [target.token(), target.token()]
        recorders = [target.send(f"/gated?token={token}") for token in tokens]
        await recorders[0].reached(START)
        closing = asyncio.ensure_future(target.dispatcher.close())
        await settle()
        assert target.dispatcher.closed
        assert not closing.done()
        refused = target.send("/empty")
        assert refused.synchronous
        assert refused.accepted is False
        assert isinstance(refused.error, ClientClosedError)
        for token in tokens:
            await target.open(token, "head", "0")
        for recorder in recorders:
            assert (await recorder.wait()).body == b"part-0;"
            assert recorder.error is None
        async with asyncio.timeout(TIMEOUT):
            await closing
            await target.dispatcher.close()
        assert target.dispatcher.destroyed

    async def test_context_manager_closes(self, target: Target) -> None:
        """`async with` is close()."""
        async with target.dispatcher as entered:
            assert entered is target.dispatcher
            await target.usable()
        assert target.dispatcher.closed

    @pytest.mark.parametrize("given", [None, DeliberateError("gone")], ids=["default", "error"])
    async def test_destroy_fails_everything(self, target: Target, given: BaseException | None) -> None:
        """What runs and what waits gets the error; what comes later is refused."""
        token = target.token()
        first = target.send(f"/hang-body?token={token}")
        await first.received(5)
        others = [target.send("/hang") for _ in range(3)]
        async with asyncio.timeout(TIMEOUT):
            await target.dispatcher.destroy(given)
        for recorder in (first, *others):
            await recorder.wait()
            if given is None:
                assert isinstance(recorder.error, ClientDestroyedError)
            else:
                assert recorder.error is given
        assert target.dispatcher.destroyed
        assert target.dispatcher.closed
        refused = target.send("/empty")
        assert refused.synchronous
        assert isinstance(refused.error, ClientDestroyedError)
        async with asyncio.timeout(TIMEOUT):
            await target.dispatcher.destroy()
        if "disconnect" in target.features:
            await target.seen(f"{token}:disconnected")

    async def test_destroy_while_paused(self, target: Target) -> None:
        """A paused exchange is told, too."""
        recorder = target.recorder(on_response_start=lambda controller, *_: controller.pause())
        target.send("/bytes/100000", recorder)
        await recorder.reached(RESPONSE)
        await target.dispatcher.destroy()
        assert isinstance((await recorder.wait()).error, ClientDestroyedError)

    async def test_compose_keeps_the_contract(self, target: Target) -> None:
        """An interceptor that does nothing changes nothing."""
        seen: list[DispatchOptions] = []

        def interceptor(
            dispatch: Callable[[DispatchOptions, Any], bool],
        ) -> Callable[[DispatchOptions, Any], bool]:
            def watch(options: DispatchOptions, handler: Any) -> bool:
                seen.append(options)
                return dispatch(options, handler)

            return watch

        composed = target.dispatcher.compose(interceptor)
        assert isinstance(composed, ComposedDispatcher)
        recorder = target.recorder()
        recorder.dispatch(composed, target.options("/bytes/1000"))
        assert (await recorder.wait()).body == pattern(1000)
        assert seen[0].path == "/bytes/1000"
        await composed.close()
        assert target.dispatcher.closed

    # ------------------------------------------------------------------------------------------- verbs

    async def test_request(self, target: Target) -> None:
        """request() over it."""
        target.need("verbs")
        url = target.origin + "/echo"
        response = await target.dispatcher.request(url, method="POST", body=b"verb", query={"q": "1"})
        assert response.status_code == 200
        told = await response.json()
        assert (told["method"], told["query"], told["size"]) == ("POST", "q=1", 4)

    async def test_stream(self, target: Target) -> None:
        """stream() over it, to the end and left early."""
        target.need("verbs")
        digest = hashlib.sha256()
        async with target.dispatcher.stream("GET", f"{target.origin}/stream/{BIG}") as response:
            async for chunk in response.body:
                digest.update(chunk)
        assert digest.hexdigest() == hashlib.sha256(pattern(BIG)).hexdigest()
        async with target.dispatcher.stream("GET", f"{target.origin}/stream/{BIG}") as response:
            async for _ in response.body:
                break
        await target.usable()

    async def test_cancelling_a_request_aborts_it(self, target: Target) -> None:
        """A cancelled task leaves nothing behind."""
        target.need("verbs")
        token = target.token()
        task = asyncio.ensure_future(target.dispatcher.request(f"{target.origin}/hang?token={token}"))
        await target.seen(f"{token}:started")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if "disconnect" in target.features:
            await target.seen(f"{token}:disconnected")
        await target.usable()

    async def test_asyncio_timeout_aborts_a_request(self, target: Target) -> None:
        """asyncio.timeout() works around a request and inside its body."""
        target.need("verbs")
        token = target.token()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await target.dispatcher.request(f"{target.origin}/hang?token={token}")
        response = await target.dispatcher.request(f"{target.origin}/hang-body")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await response.bytes()
        await target.usable()

    async def test_cancelling_in_the_callbacks_of_many(self, target: Target) -> None:
        """Tasks cancelled at various moments leave the dispatcher as it was."""
        target.need("verbs")
        tasks = [
            asyncio.ensure_future(target.dispatcher.request(f"{target.origin}/empty")) for _ in range(40)
        ]
        for number, task in enumerate(tasks):
            for _ in range(number % 5):
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await target.usable()

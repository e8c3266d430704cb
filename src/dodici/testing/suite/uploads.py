"""Conformance: bodies that are pulled from a source, and sources that are closed."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from ...core.errors import (
    DodiciError,
    RequestContentLengthMismatchError,
)
from ..app import pattern
from ..recorder import RESPONSE, settle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

from ..target import ENDLESS, SOURCES, TIMEOUT, DeliberateError, FileSource, Target


class UploadTests:
    """Streamed bodies."""

    # -------------------------------------------------------------------------------- streamed bodies

    @SOURCES
    async def test_source_is_pulled(self, target: Target, source_class: Any) -> None:
        """A body that the app does not read is not asked for; giving up closes it, once."""
        target.need("streamed-requests", "backpressure")
        token, chunk = target.token(), pattern(65536)
        source = source_class(endless=chunk)
        recorder = target.send(f"/late-read?token={token}", method="POST", body=source)
        await target.seen(f"{token}:started")
        pulled = await target.steady(lambda: source.pulled)
        assert pulled * len(chunk) < ENDLESS
        recorder.controller.abort()
        await recorder.wait()
        await target.open(token, "read-now")
        await settle()
        assert source.closed == 1
        assert source.pulled <= pulled + 1
        await target.usable()

    @SOURCES
    async def test_source_that_raises(self, target: Target, source_class: Any) -> None:
        """Its own exception is the error, wrapped by nothing, after it was closed."""
        target.need("streamed-requests")
        error = DeliberateError("source")
        source = source_class(b"some", b"thing", error=error)
        closed: list[int] = []
        recorder = target.recorder(on_response_error=lambda *_: closed.append(source.closed))
        await target.send("/echo", recorder, method="POST", body=source).wait()
        assert recorder.error is error
        assert closed == [1]
        assert source.closed == 1
        await target.usable()

    @SOURCES
    async def test_source_that_raises_at_once(self, target: Target, source_class: Any) -> None:
        """Before there is a first chunk."""
        target.need("streamed-requests")
        error = DeliberateError("at once")
        source = source_class(error=error)
        recorder = await target.send("/echo", method="POST", body=source).wait()
        assert recorder.error is error
        assert source.closed == 1
        await target.usable()

    @SOURCES
    async def test_source_of_wrong_chunks(self, target: Target, source_class: Any) -> None:
        """A chunk that is no bytes is an error of ours."""
        target.need("streamed-requests")
        source = source_class(b"good", 7)
        recorder = await target.send("/echo", method="POST", body=source).wait()
        assert isinstance(recorder.error, DodiciError | TypeError)
        assert source.closed == 1
        await target.usable()

    async def test_generators_are_closed(self, target: Target) -> None:
        """Their `finally` runs, on the loop, when the exchange is given up."""
        target.need("streamed-requests")
        token, closed = target.token(), asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            try:
                yield b"one"
                await asyncio.Event().wait()
            finally:
                closed.set()

        recorder = target.send(f"/echo?token={token}", method="POST", body=body())
        await target.seen(f"{token}:read")
        recorder.controller.abort()
        await recorder.wait()
        async with asyncio.timeout(TIMEOUT):
            await closed.wait()
        await target.usable()

    @SOURCES
    async def test_source_of_a_request_that_never_began(self, target: Target, source_class: Any) -> None:
        """Closed as well, and never asked."""
        target.need("streamed-requests")
        source = source_class(b"never")
        recorder = target.recorder(on_request_start=lambda controller, _: controller.abort())
        await target.send("/echo", recorder, method="POST", body=source).wait()
        await settle()
        assert source.closed == 1

    async def test_file_of_an_early_end_is_closed(self, target: Target) -> None:
        """Once. A file that was sent whole may be left open."""
        target.need("streamed-requests")
        file = FileSource(b"x" * 200_000)
        told = json.loads((await target.fetch("/echo", method="POST", body=file)).body)
        assert told["size"] == 200_000
        assert file.closings <= 1
        file, token = FileSource(bytes(ENDLESS // 2)), target.token()
        recorder = target.send(f"/late-read?token={token}", method="POST", body=file)
        await target.seen(f"{token}:started")
        recorder.controller.abort()
        await recorder.wait()
        await target.open(token, "read-now")
        await settle()
        assert file.closings == 1

    @SOURCES
    async def test_early_response_ends_the_upload(self, target: Target, source_class: Any) -> None:
        """A response that does not wait for the body is delivered, and the source closed."""
        target.need("streamed-requests")
        source = source_class(endless=pattern(65536))
        recorder = await target.send("/early", method="POST", body=source).wait()
        assert recorder.error is None
        assert (recorder.status_code, recorder.body) == (413, b"too large")
        await settle()
        assert source.closed == 1
        await target.usable()

    @SOURCES
    @pytest.mark.parametrize("stated", [4, 6])
    async def test_length_mismatch_of_a_source(self, target: Target, source_class: Any, stated: int) -> None:
        """More or fewer bytes than stated fail the request, and the app never takes it for whole."""
        target.need("streamed-requests")
        source = source_class(b"ab", b"cde")
        recorder = target.send("/echo", method="POST", body=source, headers={"content-length": str(stated)})
        await recorder.wait()
        assert isinstance(recorder.error, RequestContentLengthMismatchError)
        assert recorder.error.code == "UND_ERR_REQ_CONTENT_LENGTH_MISMATCH"
        assert recorder.count(RESPONSE) == 0
        assert source.closed <= 1
        await target.usable()

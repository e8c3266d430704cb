"""Conformance: what a dispatch tells when all goes well, and when the app fails."""

from __future__ import annotations

import hashlib

import pytest

from ...core.errors import (
    DodiciError,
)
from ..app import pattern
from ..target import BIG, Target


class ResponseTests:
    """Responses of every kind."""

    # --------------------------------------------------------------------- a dispatch that goes well

    async def test_callbacks_come_in_order(self, target: Target) -> None:
        """Start, head, data, end: each at its time and the last one once."""
        recorder = await target.fetch("/bytes/1000")
        assert recorder.names == ["request_start", "response_start", "response_data", "response_end"]
        assert recorder.body == pattern(1000)
        assert recorder.headers is not None
        assert recorder.headers["content-length"] == "1000"
        assert recorder.status_code == 200
        assert recorder.trailers is not None
        assert not recorder.trailers
        assert recorder.starts == 1
        assert not recorder.controller.aborted
        assert not recorder.controller.paused
        assert recorder.controller.reason is None

    async def test_nothing_is_told_inside_dispatch(self, target: Target) -> None:
        """Even an idle, connected dispatcher tells nothing before dispatch() has returned."""
        await target.fetch("/empty")
        recorder = target.send("/empty")
        assert recorder.calls == []
        await recorder.wait()

    async def test_empty_body_has_no_data(self, target: Target) -> None:
        """A body of length 0 ends without on_response_data."""
        recorder = await target.fetch("/empty")
        assert recorder.names == ["request_start", "response_start", "response_end"]

    async def test_streamed_response_of_unknown_length(self, target: Target) -> None:
        """A body without content-length arrives whole."""
        recorder = await target.fetch("/stream/300000?chunk=10007")
        assert recorder.body == pattern(300_000)

    async def test_large_body(self, target: Target) -> None:
        """8 MiB arrive whole and in order."""
        recorder = target.recorder(keep_body=False)
        await target.send(f"/bytes/{BIG}", recorder).wait()
        assert recorder.error is None
        assert recorder.body_size == BIG
        assert recorder.digest == hashlib.sha256(pattern(BIG)).hexdigest()

    @pytest.mark.parametrize("status", [200, 201, 301, 400, 404, 418, 500, 503])
    async def test_status_is_told_and_judged_by_nobody(self, target: Target, status: int) -> None:
        """Every final status ends with on_response_end."""
        recorder = await target.fetch(f"/status/{status}")
        assert recorder.status_code == status
        assert recorder.body == b"status %d" % status

    @pytest.mark.parametrize("status", [204, 304])
    async def test_statuses_without_a_body(self, target: Target, status: int) -> None:
        """204 and 304 end at their head."""
        recorder = await target.fetch(f"/status/{status}")
        assert recorder.status_code == status
        assert recorder.body == b""
        await target.usable()

    async def test_304_with_a_length_has_no_body(self, target: Target) -> None:
        """The content-length of a 304 is that of another response."""
        target.need("bodiless-length")
        recorder = await target.fetch("/status/304?length=10")
        assert (recorder.status_code, recorder.body) == (304, b"")
        await target.usable()

    async def test_head(self, target: Target) -> None:
        """A HEAD has no body, whatever its content-length says."""
        recorder = await target.fetch("/empty", method="HEAD")
        assert recorder.names == ["request_start", "response_start", "response_end"]
        if "bodiless-length" in target.features:
            recorder = await target.fetch("/status/200?length=1000", method="HEAD")
            assert recorder.headers is not None
            assert recorder.headers["content-length"] == "1000"
            assert recorder.body == b""
        await target.usable()

    async def test_repeated_headers(self, target: Target) -> None:
        """Repeated fields stay apart in their order; set-cookie is joined by nobody."""
        headers = (await target.fetch("/repeated")).headers
        assert headers is not None
        assert headers.get_list("set-cookie") == ["a=1", "b=2, c"]
        assert headers["SET-cookie"] == "a=1"
        assert headers.get_list("x-many") == ["one", "two"]
        assert headers["x-many"] == "one, two"

    async def test_informational_responses_precede_the_final_one(self, target: Target) -> None:
        """A 103 is one on_response_start of its own, without data or end."""
        target.need("informational")
        recorder = await target.fetch("/hints")
        assert [status for status, _ in recorder.informational] == [103]
        assert recorder.informational[0][1]["link"] == "</style.css>; rel=preload"
        assert (recorder.status_code, recorder.body) == (200, b"hinted")
        assert recorder.names[:3] == ["request_start", "response_start", "response_start"]

    async def test_trailers(self, target: Target) -> None:
        """Trailers reach on_response_end, repeated ones too."""
        target.need("trailers")
        recorder = await target.fetch("/trailers")
        assert recorder.body == b"body"
        assert recorder.trailers is not None
        assert recorder.trailers["x-sum"] == "42"
        assert recorder.trailers.get_list("x-many") == ["one", "two"]

    # -------------------------------------------------------------------------------------- app errors

    async def test_app_that_raises(self, target: Target) -> None:
        """Before the head: a 500."""
        target.need("app-errors")
        assert (await target.fetch("/raise")).status_code == 500
        await target.usable()

    async def test_app_that_raises_late(self, target: Target) -> None:
        """After the head: an error, never an end."""
        target.need("app-errors")
        recorder = await target.send("/raise-late").wait()
        assert recorder.status_code == 200
        assert isinstance(recorder.error, DodiciError)
        assert recorder.trailers is None
        await target.usable()

"""The contract of `dispatch()` as a test suite that any `Dispatcher` can be put through.

A subclass says how to reach one; pytest does the rest:

    class TestMyDispatcher(DispatcherConformance):
        @pytest_asyncio.fixture
        async def target(self):
            async with serve_somewhere(conformance_app) as origin:
                dispatcher = MyDispatcher()
                yield Target(dispatcher, origin, features=FEATURES - {"trailers"})
                await dispatcher.destroy()

The origin serves `dodici.testing.conformance_app`, by whatever means: nothing here knows of sockets. What a
layer cannot do it leaves out of `features`, and the tests that need it skip and say so. Needs pytest and
pytest-asyncio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .suite.aborts import AbortTests
from .suite.control import ControlTests
from .suite.lifecycle import LifecycleTests
from .suite.requests import RequestTests
from .suite.responses import ResponseTests
from .suite.uploads import UploadTests
from .target import FEATURES, Target

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FEATURES", "DispatcherConformance", "Target"]


@pytest.mark.asyncio
class DispatcherConformance(
    ResponseTests, RequestTests, UploadTests, ControlTests, AbortTests, LifecycleTests
):
    """Inherit and give the fixture `target`: see the module's text."""

    @pytest.fixture
    def target(self) -> Target:
        """What to test: a `Target`. Override it."""
        raise NotImplementedError("a subclass of DispatcherConformance overrides the fixture 'target'")

    @pytest.fixture(autouse=True)
    def _promises(self, target: Target) -> Iterator[None]:
        yield
        for recorder in target.recorders:
            recorder.check()

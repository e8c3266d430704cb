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

from typing import TYPE_CHECKING, ClassVar, Literal

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


class DispatcherConformance(
    ResponseTests, RequestTests, UploadTests, ControlTests, AbortTests, LifecycleTests
):
    """Inherit and give the fixture `target`: see the module's text."""

    pytestmark: ClassVar[list[pytest.MarkDecorator]]
    loop_scope: ClassVar[Literal["function", "class", "module"]] = "function"
    """The event loop that the tests run on: one for each test, or one for all of a class or a module, for a layer
    that takes long to make. Then `target` needs the same `loop_scope`."""

    def __init_subclass__(cls) -> None:
        # The closest mark is that of the class furthest from the test: a subclass could not overrule one made here.
        super().__init_subclass__()
        marks = vars(cls).get("pytestmark", [])
        own = marks if isinstance(marks, list) else [marks]
        cls.pytestmark = [pytest.mark.asyncio(loop_scope=cls.loop_scope), *own]

    @pytest.fixture
    def target(self) -> Target:
        """What to test: a `Target`. Override it."""
        raise NotImplementedError("a subclass of DispatcherConformance overrides the fixture 'target'")

    @pytest.fixture(autouse=True)
    def _promises(self, target: Target) -> Iterator[None]:
        yield
        for recorder in target.recorders:
            recorder.check()

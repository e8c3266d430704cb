"""A mesh for each test that asks for one, and a count of what every module leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import pytest
import pytest_asyncio

from .kit import Census, Mesh, no_tasks_left

try:
    from uvloop import new_event_loop as fast_loop
except ImportError:
    fast_loop = asyncio.new_event_loop

_ON_ASYNCIO = {"test_errors", "test_hooks", "test_routing", "test_start"}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    # Both loops are used, each by some modules: with both in all, the folder would take twice its time.
    if item.path.stem in _ON_ASYNCIO:
        return {"asyncio": asyncio.SelectorEventLoop}
    return {"fast": fast_loop}


@pytest.fixture(scope="module", autouse=True)
def census() -> Iterator[None]:
    """Descriptors, threads and child processes are as many after a module as before it."""
    asyncio.SelectorEventLoop().close()  # what is loaded and opened once is not a leak
    fast_loop().close()
    before = Census()
    yield
    before.check()


@pytest_asyncio.fixture
async def mesh() -> AsyncIterator[Mesh]:
    """A mesh of the test's own."""
    tasks = asyncio.all_tasks()
    async with Mesh() as mesh:
        yield mesh
    await no_tasks_left(tasks)


@pytest_asyncio.fixture
async def brisk() -> AsyncIterator[Mesh]:
    """A mesh that waits half a second for acknowledgements, for tests with members that give none."""
    tasks = asyncio.all_tasks()
    async with Mesh(propagation_timeout=0.5) as mesh:
        yield mesh
    await no_tasks_left(tasks)

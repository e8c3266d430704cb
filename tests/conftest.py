"""What holds for the whole suite."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from tests.conformance import table

_results = table.Results()


@pytest.fixture(scope="module")
def frozen_heap() -> Iterator[None]:
    """What is alive before the module's tests is passed over by the garbage collector.

    For tests that collect garbage again and again: after thousands of tests each collection takes half a second.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """What the conformance suite says of a layer is what the documentation's table says of it."""
    report = yield
    table.judge(item, report)
    return report


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get(table.WRITING):
        others = [item for item in items if not table.belongs(item)]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if table.belongs(item)]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _results.take(report)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write the table, where `make conformance` runs."""
    if os.environ.get(table.WRITING) and not hasattr(session.config, "workerinput") and exitstatus == 0:
        _results.write()

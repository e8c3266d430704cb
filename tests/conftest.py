"""What holds for the whole suite.

Hypothesis has two profiles: `ci` repeats the same examples every time; `HYPOTHESIS_PROFILE=hunt` looks for more.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from tests.conformance import table

# A deadline would measure the machine.
_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
settings.register_profile("ci", max_examples=60, derandomize=True, database=None, **_COMMON)
settings.register_profile("hunt", max_examples=5000, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

_results = table.Results()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`-m perf` reads the files that have such tests, and no others: there are few, and collecting takes long."""
    if config.option.markexpr != "perf" or not collection_path.match("test_*.py"):
        return None
    return None if b"pytest.mark.perf" in collection_path.read_bytes() else True


def pytest_collection_finish(session: pytest.Session) -> None:
    _freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is not None and nextitem.path != item.path:
        _freeze()


def _freeze() -> None:
    """Let the garbage collector pass over what is alive now.

    All tests and what pytest remembers of them live until the end: to look at that takes 0.4 s, each time, and a
    thousand tests collect garbage to see what they leave behind.
    """
    gc.collect()
    gc.freeze()


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

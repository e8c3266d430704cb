"""How often the garbage collector looks in dodici's own processes."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from dodici.core.garbage import look_rarely


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


@pytest.mark.parametrize(
    ("before", "after"),
    [((700, 10, 10), (10_000, 10, 10)), ((0, 10, 10), (0, 10, 10)), ((50_000, 5, 7), (50_000, 5, 7))],
    ids=["default", "never", "more rarely"],
)
def test_it_looks_more_rarely_and_never_more_often(
    before: tuple[int, int, int], after: tuple[int, int, int]
) -> None:
    gc.set_threshold(*before)
    look_rarely()
    look_rarely()
    assert gc.get_threshold() == after

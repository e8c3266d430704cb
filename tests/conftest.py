"""What holds for the whole suite."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def frozen_heap() -> Iterator[None]:
    """What is alive before the module's tests is passed over by the garbage collector.

    For tests that collect garbage again and again: after thousands of tests each collection takes half a second.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()

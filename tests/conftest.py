"""What holds for the whole suite."""

from __future__ import annotations

import gc


def pytest_collection_finish() -> None:
    # Tests that look for leaks collect garbage many times. Twelve thousand collected tests are none, and looking at
    # them each time took a minute of the suite.
    gc.collect()
    gc.freeze()

"""What the properties of HTTP/2 need of the `h2` library."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from h2.windows import WindowManager


@pytest.fixture(scope="module")
def empty_frames_need_no_window() -> Iterator[None]:
    """h2 takes an empty frame for too large where the window is negative (RFC 9113 section 6.9 does not)."""
    consumed = WindowManager.window_consumed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            WindowManager, "window_consumed", lambda self, size: consumed(self, size) if size else None
        )
        yield

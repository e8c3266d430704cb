"""The asynchronous tests of this room run on asyncio's own loop and, where it is installed, on uvloop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

_FACTORIES: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.SelectorEventLoop}
try:
    import uvloop
except ImportError:
    pass
else:
    _FACTORIES["uvloop"] = uvloop.new_event_loop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    # What measures takes its time, and once is enough.
    return {"asyncio": _FACTORIES["asyncio"]} if item.path.stem == "test_memory" else _FACTORIES

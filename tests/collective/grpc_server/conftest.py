"""Tests of transports run on asyncio's own loop and, where it is installed, on uvloop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

_OWN: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.SelectorEventLoop}
_BOTH = dict(_OWN)
try:
    import uvloop
except ImportError:
    pass
else:
    _BOTH["uvloop"] = uvloop.new_event_loop
_OF_TRANSPORTS = {"test_flow", "test_life", "test_listening"}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return _BOTH if item.path.stem in _OF_TRANSPORTS else _OWN

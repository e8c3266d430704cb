"""Which event loops the tests of this room run on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

_PLAIN = {"asyncio": asyncio.SelectorEventLoop}
try:
    import uvloop
except ImportError:
    _BOTH = _FAST = _PLAIN
else:
    _FAST = {"uvloop": uvloop.new_event_loop}
    _BOTH = _PLAIN | _FAST

# Those that touch descriptors run on both. Whole meshes take long to start: each of their files has one loop.
_LOOPS = {"test_handover": _BOTH, "test_control": _BOTH, "test_coordinator": _FAST, "test_propagation": _FAST}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return _LOOPS.get(item.path.stem, _PLAIN)

"""The fixtures of the tests of the application server."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.server.supervisor_kit import FakeWorker, Kit

from dodici.server import supervisor as module


@pytest.fixture
async def kits(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    FakeWorker.numbers = itertools.count(1)
    monkeypatch.setattr(module, "CHECK_SECONDS", 3600.0)
    monkeypatch.setattr("dodici.server.restarts.FIRST_DELAY", 0.001)
    made: list[Kit] = []

    def make(**keys: Any) -> Kit:
        made.append(Kit(**keys))
        return made[-1]

    yield make
    for kit in made:
        kit.mesh.may_start.set()
        kit.mesh.may_stop.set()
        await kit.supervisor.stop()
        assert not kit.mesh.workers
    await asyncio.sleep(0)

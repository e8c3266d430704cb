"""Reloads that meet something else: a start under way, a service that changes its kind, the end."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from dodici.core.errors import WorkerStartError


async def test_worker_that_is_starting_is_started_anew(kits: Any) -> None:
    kit = kits(workers=1)
    kit.mesh.may_start.clear()
    starting = asyncio.ensure_future(kit.supervisor.start())
    await kit.mesh.routed(1)
    changed = replace(kit.service, max_requests=5)
    reloading = asyncio.ensure_future(kit.supervisor.reload(changed))
    await kit.mesh.routed(2)
    kit.mesh.may_start.set()
    assert await reloading is None
    await starting
    assert kit.worker().service is changed
    assert len(kit.mesh.workers) == 1


async def test_worker_that_waits_for_its_next_start_is_started_at_once(kits: Any) -> None:
    kit = kits(workers=1, crash_limit=1)
    kit.mesh.fail = [WorkerStartError("no"), WorkerStartError("still not")]
    await kit.supervisor.start()
    assert kit.supervisor.error == "no"
    assert await kit.supervisor.reload() == "still not"
    assert await kit.supervisor.reload() is None
    assert kit.pids == [3]


async def test_error_of_one_worker_is_not_hidden_by_its_sibling(kits: Any) -> None:
    kit = kits(workers=2, crash_limit=1)
    kit.mesh.fail = [WorkerStartError("no")]
    await kit.supervisor.start()
    assert kit.pids == [None, 2]
    assert kit.supervisor.error == "no"
    kit.mesh.fail = [WorkerStartError("still not")]
    kit.mesh.may_stop.clear()
    reloading = asyncio.ensure_future(kit.supervisor.reload())
    await kit.mesh.routed(4)
    kit.mesh.may_stop.set()
    assert await reloading == "still not"


@pytest.mark.parametrize("workers", [1, 3])
async def test_reload_that_is_given_up_leaves_as_many_workers_as_before(workers: int, kits: Any) -> None:
    kit = kits(workers=2)
    await kit.supervisor.start()
    kit.mesh.fail = [WorkerStartError("no")]
    assert await kit.supervisor.reload(replace(kit.service, workers=workers)) == "no"
    await asyncio.gather(*kit.supervisor._leaving)
    assert kit.pids == [1, 2]
    assert {worker.pid for worker in kit.mesh.workers} == {1, 2}
    assert kit.supervisor.state == "running"


async def test_service_that_was_at_an_address_is_kept_from_then_on(kits: Any) -> None:
    kit = kits()
    app, kit.supervisor.service = kit.service, replace(kit.service, app="http://127.0.0.1:1")
    await kit.supervisor.start()
    assert await kit.supervisor.reload(app) is None
    kit.worker().end(-9)
    await kit.mesh.routed(3)
    await kit.filled()
    assert kit.pids == [3]


@pytest.mark.parametrize("cancelled", [False, True])
async def test_worker_that_was_replaced_and_drains_is_killed_with_the_others(
    cancelled: bool, kits: Any
) -> None:
    kit = kits()
    await kit.supervisor.start()
    kit.mesh.may_stop.clear()
    reloading = asyncio.ensure_future(kit.supervisor.reload())
    while "stop 1 30" not in kit.mesh.log:
        await asyncio.sleep(0)
    assert {worker.pid for worker in kit.mesh.workers} == {1, 2}
    if cancelled:
        reloading.cancel()
        await asyncio.gather(reloading, return_exceptions=True)
    kit.supervisor.kill()
    assert not kit.mesh.workers
    kit.mesh.may_stop.set()
    await asyncio.gather(reloading, return_exceptions=True)


async def test_reload_does_not_bring_back_what_ends(kits: Any) -> None:
    kit = kits(workers=1)
    await kit.supervisor.start()
    kit.supervisor.release()
    await asyncio.gather(*(slot.keeper for slot in kit.supervisor.slots), return_exceptions=True)
    assert await kit.supervisor.reload() is None
    assert all(slot.keeper.done() for slot in kit.supervisor.slots)

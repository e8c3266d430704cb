"""The supervisor against a mesh of fakes: starting, crashing, replacing, pausing, and how long it waits."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.server.supervisor_kit import Stats

from dodici.core.errors import InvalidArgumentError, MeshTimeoutError, WorkerStartError
from dodici.server.restarts import FIRST_DELAY, LONGEST_DELAY, SLOW_RETRY, Restarts
from dodici.server.slots import how_it_ended
from dodici.server.status import find_slots, service_status


def test_first_crash_is_free_and_the_next_ones_wait_longer() -> None:
    restarts = Restarts(limit=6, window=60.0)
    delays = [restarts.crashed(float(now)) for now in range(5)]
    assert delays == [0.0, FIRST_DELAY, FIRST_DELAY * 2, FIRST_DELAY * 4, FIRST_DELAY * 8]
    assert not restarts.failed
    assert restarts.crashed(5.0) == SLOW_RETRY
    assert restarts.failed


def test_delay_has_a_limit_and_old_crashes_are_forgotten() -> None:
    restarts = Restarts(limit=100, window=60.0)
    assert max(restarts.crashed(0.0) for _ in range(50)) == LONGEST_DELAY
    assert restarts.crashed(60.0) == 0.0


def test_failure_ends_after_a_quiet_window() -> None:
    restarts = Restarts(limit=1, window=10.0)
    assert restarts.crashed(0.0) == SLOW_RETRY
    assert not restarts.steady(9.0)
    assert restarts.failed
    assert restarts.steady(10.0)
    assert not restarts.failed
    assert not restarts.steady(11.0)


async def test_workers_start_side_by_side(kits: Any) -> None:
    kit = kits(workers=3)
    kit.mesh.may_start.clear()
    starting = asyncio.ensure_future(kit.supervisor.start())
    await kit.mesh.routed(3)
    assert kit.supervisor.state == "starting"
    kit.mesh.may_start.set()
    await starting
    assert kit.supervisor.state == "running"
    assert kit.pids == [1, 2, 3]


async def test_start_returns_when_a_worker_has_failed(kits: Any) -> None:
    kit = kits(workers=2, crash_limit=1)
    kit.mesh.fail = [WorkerStartError("no module", remote_traceback="Traceback: line 3")]
    await kit.supervisor.start()
    assert kit.pids == [None, 2]
    assert kit.supervisor.state == "failed"
    assert kit.supervisor.started_once
    assert "worker did not start: no module\nTraceback: line 3" in kit.said
    assert "next try is in 30 s, or with `dodici reload shop`" in kit.said


async def test_no_error_ends_a_keeper(kits: Any) -> None:
    kit = kits()
    kit.mesh.fail = [ZeroDivisionError("a slip of ours")]
    await kit.supervisor.start()
    assert "worker did not start: a slip of ours" in kit.said
    await kit.mesh.routed(2)
    await kit.filled()


async def test_crashed_worker_is_started_again(kits: Any) -> None:
    kit = kits()
    await kit.supervisor.start()
    kit.worker().end(-9)
    await kit.mesh.routed(2)
    await kit.filled()
    assert kit.pids == [2]
    assert kit.supervisor.slots[0].restarts == 1
    assert "worker 1 was killed by SIGKILL" in kit.said
    kit.worker().end(3)
    await kit.mesh.routed(3)
    assert "worker 2 exited with 3" in kit.said


async def test_crash_loop_is_noticed_with_its_last_words(kits: Any) -> None:
    kit = kits(crash_limit=2)
    await kit.supervisor.start()
    kit.worker().end(1)
    await kit.mesh.routed(2)
    await kit.filled()
    kit.supervisor._take_output(kit.worker(), "stderr", "segfault in libfoo")
    kit.worker().end(-11)
    while kit.supervisor.state != "failed":
        await asyncio.sleep(0)
    assert kit.supervisor.error == "was killed by SIGSEGV"
    assert "the last that it printed:\n  segfault in libfoo" in kit.said
    # A reload does not wait for the slow retry.
    assert await kit.supervisor.reload() is None
    assert kit.pids == [3]
    assert kit.supervisor.state == "running"


async def test_reload_starts_the_new_one_before_it_stops_the_old_one(kits: Any) -> None:
    kit = kits(workers=2, drain_timeout=7.0)
    await kit.supervisor.start()
    kit.mesh.log.clear()
    assert await kit.supervisor.reload() is None
    assert kit.mesh.log == ["route 3", "stop 1 7", "route 4", "stop 2 7"]
    assert kit.pids == [3, 4]
    assert kit.supervisor.slots[0].restarts == 0


async def test_reload_whose_worker_does_not_start_leaves_the_others(kits: Any) -> None:
    kit = kits(workers=2)
    await kit.supervisor.start()
    kit.mesh.fail = [WorkerStartError("no")]
    assert await kit.supervisor.reload(replace(kit.service, max_requests=5)) == "no"
    assert kit.pids == [1, 2]
    assert kit.supervisor.service is kit.service
    assert "the workers before run on: no" in kit.said


async def test_reload_with_more_and_with_fewer_workers(kits: Any) -> None:
    kit = kits(workers=1)
    await kit.supervisor.start()
    assert await kit.supervisor.reload(replace(kit.service, workers=3)) is None
    assert len(kit.pids) == 3
    assert 1 not in kit.pids
    assert await kit.supervisor.reload(replace(kit.service, workers=1)) is None
    await asyncio.gather(*kit.supervisor._leaving)
    assert len(kit.mesh.workers) == 1


async def test_worker_that_crashes_while_it_is_replaced(kits: Any) -> None:
    kit = kits()
    await kit.supervisor.start()
    kit.mesh.may_start.clear()
    reloading = asyncio.ensure_future(kit.supervisor.reload())
    await kit.mesh.routed(2)
    kit.worker().end(-9)
    kit.mesh.may_start.set()
    assert await reloading is None
    # One successor, and not a second one from the keeper.
    for _ in range(5):
        await asyncio.sleep(0)
    assert kit.pids == [2]
    assert len(kit.mesh.workers) == 1


async def test_slow_acknowledgement_is_no_failed_start(kits: Any) -> None:
    kit = kits()
    kit.mesh.fail = [MeshTimeoutError("w9 does not acknowledge")]
    await kit.supervisor.start()
    assert kit.pids == [1]
    assert "w9 does not acknowledge" in kit.said


async def test_successors_of_paused_workers_are_paused(kits: Any) -> None:
    kit = kits(workers=2)
    await kit.supervisor.start()
    await kit.supervisor.pause(kit.supervisor.slots[:1])
    kit.worker(0).end(-9)
    await kit.mesh.routed(3)
    while not kit.supervisor.slots[0].worker or not kit.worker(0).paused:
        await asyncio.sleep(0)
    assert [kit.worker(index).paused for index in (0, 1)] == [True, False]
    await kit.supervisor.reload()
    assert [kit.worker(index).paused for index in (0, 1)] == [True, False]
    await kit.supervisor.resume(kit.supervisor.slots)
    await kit.supervisor.reload()
    assert not kit.worker(0).paused


async def test_old_workers_are_replaced_one_at_a_time(kits: Any) -> None:
    kit = kits(workers=2, max_requests=10, max_rss=1000)
    await kit.supervisor.start()
    kit.worker(0).figures = Stats(requests=10)
    kit.worker(1).figures = Stats(rss=1001)
    kit.mesh.log.clear()
    await kit.supervisor.check()
    assert kit.mesh.log == ["route 3", "stop 1 30", "route 4", "stop 2 30"]
    assert "replacing worker 1: it has served 10 requests (max_requests)" in kit.said
    await kit.supervisor.check()
    assert kit.pids == [3, 4]


async def test_jitter_is_between_its_bounds(kits: Any) -> None:
    kit = kits(workers=50, max_requests=10, max_requests_jitter=5)
    await kit.supervisor.start()
    limits = {slot.request_limit for slot in kit.supervisor.slots}
    assert limits <= set(range(10, 16))
    assert len(limits) > 1


async def test_worker_that_does_not_answer_keeps_its_figures(kits: Any) -> None:
    kit = kits()
    await kit.supervisor.start()
    kit.worker().figures = Stats(requests=3)
    await kit.supervisor.check()

    async def busy() -> Stats:
        raise InvalidArgumentError("busy")

    kit.worker().stats = busy  # type: ignore[method-assign]
    await kit.supervisor.check()
    assert kit.supervisor.slots[0].stats.requests == 3
    kit.worker().stats = asyncio.Event().wait  # type: ignore[method-assign,assignment]
    await kit.supervisor.refresh(0.01)
    assert kit.supervisor.slots[0].stats.requests == 3


async def test_status_and_who_is_meant(kits: Any) -> None:
    kit = kits(workers=2)
    await kit.supervisor.start()
    await kit.supervisor.check()
    status = service_status(kit.supervisor, None)
    assert (status["state"], status["requests"]) == ("running", 0)
    assert [slot["pid"] for slot in status["slots"]] == [1, 2]
    supervisors = {"shop": kit.supervisor}
    for target, count in (("shop", 2), ("1", 1), ("w2", 1), ("3", 0)):
        assert sum(len(slots) for _, slots in find_slots(supervisors, target)) == count


async def test_service_at_an_address_is_routed_and_not_kept(kits: Any) -> None:
    kit = kits()
    kit.supervisor.service = replace(kit.service, app="http://127.0.0.1:1")
    await kit.supervisor.start()
    assert kit.mesh.log == ["route 1"]
    assert kit.supervisor.state == "running"


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "exited with 0"), (-15, "was killed by SIGTERM"), (-99, "was killed by signal 99"), (None, "ended")],
)
def test_exit_codes_in_words(code: int | None, words: str) -> None:
    assert how_it_ended(code) == words

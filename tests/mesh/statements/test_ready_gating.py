"""No request before a worker is ready: apps that come late, start slowly, fail to start, go and are replaced."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from tests.peers.asgi import AsgiServer

from dodici import NoTargetError, WorkerStartError

from .apps import MeshApp
from .kit import HERE, LATE, Mesh, OrderError, within


@pytest.mark.statement(1)
async def test_route_waits_for_an_app_while_a_sibling_serves(mesh: Mesh) -> None:
    [ready] = await mesh.start("api")
    late = mesh.worker(LATE)
    routing = asyncio.ensure_future(mesh.interceptor.route("api", late))
    desk = await mesh.desk(late)
    assert set(await mesh.spread("http://api.local/whoami", 40)) == {str(ready.pid)}
    assert not routing.done()
    await desk.call("replace", label="late")
    await within(routing, "route() of the late one")
    assert set(await mesh.spread("http://api.local/whoami", 4)) == {str(ready.pid), str(late.pid)}


@pytest.mark.statement(1)
async def test_a_name_whose_only_worker_has_no_app_is_no_target(mesh: Mesh) -> None:
    late = mesh.worker(LATE)
    routing = asyncio.ensure_future(mesh.interceptor.route("api", late))
    desk = await mesh.desk(late)
    assert await mesh.spread("http://api.local/whoami", 3) == ["!NoTargetError"] * 3
    assert not routing.done()
    await desk.call("replace", label="late")
    await within(routing, "route()")
    assert await mesh.text("http://api.local/label") == "late"


@pytest.mark.statement(2)
async def test_no_request_before_the_start_up_has_ended(mesh: Mesh) -> None:
    [ready] = await mesh.start("api")
    slow = mesh.worker(f"{HERE}:slow_start")
    routing = asyncio.ensure_future(mesh.interceptor.route("api", slow))
    desk = await mesh.desk(slow)
    await desk.heard("starting")
    assert slow.state == "starting"
    assert set(await mesh.spread("http://api.local/whoami", 40)) == {str(ready.pid)}
    assert not routing.done()
    await desk.call("set", name="start")
    await within(routing, "route() of the slow one")
    assert slow.state == "ready"
    assert set(await mesh.spread("http://api.local/whoami", 4)) == {str(ready.pid), str(slow.pid)}
    assert await desk.call("attribute", name="early") == 0
    assert await desk.call("attribute", name="startups") == 1


FAILURES = {
    "no-module": ("tests.mesh.statements.nowhere:app", "ModuleNotFoundError", None),
    "import": ("tests.mesh.statements.broken:app", "ZeroDivisionError", None),
    "factory": (f"{HERE}:failing_factory()", "the factory is closed", None),
    "start-up": (f"{HERE}:unwilling", "the database is on fire", None),
    "os-exit": (f"{HERE}:exiting_factory()", "", 3),
    "sys-exit": (f"{HERE}:leaving_factory()", "", 4),
    "entry": (f"{HERE}:failing_main", "main has given up", None),
}


@pytest.mark.perf
@pytest.mark.statement(3)
@pytest.mark.parametrize("case", FAILURES)
async def test_a_worker_that_does_not_start_fails_route_within_a_second(
    mesh: Mesh, case: str, tmp_path: Path
) -> None:
    target, text, exit_code = FAILURES[case]
    cause = tmp_path / "cause"
    worker = mesh.worker(target, env={"MESH_TEST_CAUSE": str(cause)})
    with pytest.raises(WorkerStartError) as caught:
        await mesh.route("api", worker)
    failed = time.monotonic()
    error = caught.value
    if cause.exists():
        assert failed - float(cause.read_text()) < 1.0
    assert text in error.remote_traceback
    assert text in str(error)
    if exit_code is not None:
        assert error.exit_code == exit_code
    else:
        assert "Traceback" in error.remote_traceback or case == "start-up"
    assert mesh.interceptor.snapshot().routes == {}
    assert await mesh.outcome("http://api.local/") == "!NoTargetError"
    await within(worker.wait(), "the worker's end")
    assert worker.state == "exited"


@pytest.mark.statement(3)
async def test_routing_several_is_all_or_nothing(mesh: Mesh, tmp_path: Path) -> None:
    good = mesh.worker()
    bad = mesh.worker(f"{HERE}:failing_factory()", env={"MESH_TEST_CAUSE": str(tmp_path / "cause")})
    with pytest.raises(WorkerStartError, match="the factory is closed"):
        await mesh.route("api", [good, bad])
    assert mesh.interceptor.snapshot().routes == {}
    assert await mesh.outcome("http://api.local/") == "!NoTargetError"


@pytest.mark.statement(3)
async def test_a_failed_start_leaves_the_siblings_alone(mesh: Mesh, tmp_path: Path) -> None:
    [ready] = await mesh.start("api")
    bad = mesh.worker(f"{HERE}:failing_factory()", env={"MESH_TEST_CAUSE": str(tmp_path / "cause")})
    with pytest.raises(WorkerStartError):
        await mesh.route("api", bad)
    assert await mesh.spread("http://api.local/whoami", 4) == [str(ready.pid)] * 4


@pytest.mark.statement(4)
async def test_without_an_app_there_is_no_target_and_what_runs_ends_on_the_old_one(mesh: Mesh) -> None:
    [api] = await mesh.start("api")
    [other] = await mesh.start("other")
    desk, client = await mesh.desks([api, other])
    held = mesh.send("http://api.local", "/gated?token=held")
    await desk.seen("held:started")
    await desk.call("replace", label=None)
    with pytest.raises(NoTargetError, match=r"No target found for http://api\.local"):
        await mesh.agent.request("http://api.local/whoami")
    assert await client.call("spread", url="http://api.local/whoami", count=3) == ["!NoTargetError"] * 3
    assert not held.ended.done()
    await desk.call("set", name="held:head")
    await desk.call("set", name="held:0")
    await held.wait()
    assert (held.status_code, held.body) == (200, b"part-0;")
    await desk.call("replace", label="again")
    assert await mesh.text("http://api.local/label") == "again"


@pytest.mark.statement(5)
async def test_an_address_is_forgotten_when_an_app_replaces_it(mesh: Mesh) -> None:
    outside: Any = MeshApp("outside")
    [client_worker] = await mesh.start("client")
    client = await mesh.desk(client_worker)
    async with AsgiServer(outside) as server:
        late = mesh.worker(LATE)
        routing = asyncio.ensure_future(mesh.interceptor.route("api", late))
        desk = await mesh.desk(late)
        await desk.call("replace", label=server.origin)
        await within(routing, "route() of an address")
        assert await mesh.spread("http://api.local/label", 3) == ["outside"] * 3
        assert await client.call("spread", url="http://api.local/label", count=3) == ["outside"] * 3
        assert server.requests == 6
        await desk.call("replace", label="inside")
        assert await mesh.spread("http://api.local/label", 5) == ["inside"] * 5
        assert await client.call("spread", url="http://api.local/label", count=5) == ["inside"] * 5
        assert server.requests == 6
        await desk.call("replace", label=server.origin)
        assert await mesh.spread("http://api.local/label", 2) == ["outside"] * 2


@pytest.mark.statement(6)
async def test_a_worker_that_was_wired_before_it_was_routed(mesh: Mesh) -> None:
    [worker] = await mesh.start("first")
    [other] = await mesh.start("other")
    desk, client = await mesh.desks([worker, other])
    held = mesh.send("http://first.local", "/gated?token=held")
    await desk.seen("held:started")
    version = mesh.interceptor.snapshot().version
    await mesh.route("second", worker)
    assert mesh.interceptor.snapshot().version > version
    assert await mesh.text("http://second.local/whoami") == str(worker.pid)
    assert await client.call("spread", url="http://second.local/whoami", count=2) == [str(worker.pid)] * 2
    await desk.call("set", name="held:head")
    await desk.call("set", name="held:0")
    assert (await held.wait()).body == b"part-0;"
    assert await mesh.text("http://first.local/whoami") == str(worker.pid)


@pytest.mark.statement(6)
async def test_routing_the_same_pair_again_changes_nothing(mesh: Mesh) -> None:
    [worker] = await mesh.start("api")
    await mesh.route("API.local.", worker)
    await mesh.route("api.local", worker)
    snapshot = mesh.interceptor.snapshot()
    assert snapshot.routes == {"api": (worker.id,)}
    assert await mesh.text("http://api.local/whoami") == str(worker.pid)


@pytest.mark.statement(1)
async def test_a_second_wire_in_one_worker_names_replace_server(mesh: Mesh) -> None:
    [worker] = await mesh.start("api")
    desk = await mesh.desk(worker)
    with pytest.raises(OrderError, match="replace_server") as caught:
        await desk.call("wire_again")
    assert caught.value.kind == "InvalidArgumentError"

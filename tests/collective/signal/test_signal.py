"""From a worker to every peer: three nodes in processes of their own, two workers each, under load from every entry.

Whatever takes workers out of rotation, traffic moves, nothing fails, and not one request arrives where the change was
acknowledged.
"""

from __future__ import annotations

import time

import pytest
from tests.collective.signal.three import Three, three

RATE = 40.0
"""Calls a second, from each of the three."""


async def paused_one_by_one(nodes: Three, name: str) -> None:
    node = nodes[name]
    await node.ask("pause", worker=0)
    assert await nodes.peers_see(name) == [0.5, 0.5]
    await nodes.flows(5)
    change = await node.ask("pause", worker=1)
    assert await nodes.peers_see(name) == [0.0, 0.0]
    await nodes.flows(20)
    # What was sent to a worker before is served; nothing is sent there after.
    assert [each for each in nodes.arrivals(name, change["called"]) if each.sent > change["returned"]] == []
    await node.ask("resume", worker=1)
    assert await nodes.peers_see(name) == [0.5, 0.5]
    await node.ask("resume", worker=0)
    assert await nodes.peers_see(name) == [1.0, 1.0]
    await nodes.flows(3, at=name)


async def closed_by_its_workers(nodes: Three, name: str) -> None:
    """Each says so itself, within a request that has come through the collective."""
    entry = nodes["a" if name != "a" else "b"]
    await entry.ask("close", target=name)
    assert await nodes.peers_see(name) == [0.5, 0.5]
    change = await entry.ask("close", target=name)
    assert await nodes.peers_see(name) == [0.0, 0.0]
    await nodes.flows(10)
    assert nodes.arrivals(name, change["returned"], nodes.open()) == []
    await nodes.agreed(name, 1.0)
    await nodes.flows(3, at=name)


async def unrouted(nodes: Three, name: str) -> None:
    node = nodes[name]
    await node.ask("unroute", worker=0)
    assert await nodes.peers_see(name) == [1.0, 1.0]  # one of one
    change = await node.ask("unroute", worker=1)
    assert await nodes.peers_see(name) == [0.0, 0.0]
    await nodes.flows(10)
    assert nodes.arrivals(name, change["returned"]) == []
    await node.ask("route", worker=0)
    await node.ask("route", worker=1)
    assert await nodes.peers_see(name) == [1.0, 1.0]
    await nodes.flows(3, at=name)


async def killed(nodes: Three, name: str) -> float:
    """All workers, one after the other; each is replaced. Returns since when everybody knew."""
    node = nodes[name]
    await node.ask("kill", worker=0)
    await nodes.flows(5)
    last = await node.ask("kill", worker=1)
    await nodes.agreed(name, 0.0)
    known = time.monotonic()
    await nodes.flows(10)
    assert nodes.arrivals(name, last) == []
    await node.ask("replace", worker=0)
    await node.ask("replace", worker=1)
    assert await nodes.peers_see(name) == [1.0, 1.0]
    await nodes.flows(3, at=name)
    return known


@pytest.mark.timeout(150)
async def test_traffic_moves_and_nothing_fails() -> None:
    async with three() as nodes:
        await nodes.everywhere("load", rate=RATE)
        await nodes.flows(10)
        for name in ("a", "b"):
            await paused_one_by_one(nodes, name)
        await closed_by_its_workers(nodes, "c")
        await unrouted(nodes, "b")
        calls, failed = await nodes.finish()
        assert calls > 200
        assert failed == []

        await nodes.everywhere("load", rate=RATE)
        await nodes.flows(5)
        known = await killed(nodes, "c")
        _, failed = await nodes.finish()
        # What a killed worker had been given is lost, unless it may be repeated.
        assert {each["method"] for each in failed} <= {"Who", "Large", "Chat"}
        assert all(each["status"] in (503, -1) and each["began"] < known for each in failed), failed

        await silent_peer(nodes)


async def silent_peer(nodes: Three) -> None:
    """One that is stopped keeps nobody waiting beyond the propagation timeout: it is named, or given up before."""
    nodes["c"].stop()
    try:
        change = await nodes["a"].ask("pause", worker=0)
    finally:
        nodes["c"].go_on()
    assert change["silent"] in (["c"], [])
    assert change["returned"] - change["called"] < 5.0
    await nodes.agreed("a", 0.5)  # c hears of it when it wakes
    assert (await nodes["a"].ask("resume", worker=0))["silent"] == []
    await nodes.agreed("a", 1.0)

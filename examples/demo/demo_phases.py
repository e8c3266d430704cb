"""What the demo does to the shop while the traffic goes on, phase by phase.

A phase returns what happened and how many orders it may cost; it raises `Broken` where something else than failures
is not as promised. Every command in here is one that can be typed.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import signal
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from demo_cluster import Broken, Cluster, Node
from demo_traffic import CALLERS, ITEM, Tally, Traffic

import dodici


class Told(NamedTuple):
    """What happened; and how many orders may have failed by it: those that ran on what was killed, one of a caller."""

    text: str
    allowed: int = 0


@dataclass
class Stage:
    """What the phases work with.

    Attributes:
        hold: how long, in seconds, each state lasts.
        say: tells of a command.
        inventory: the processes that serve it, or did, by node.
    """

    cluster: Cluster
    traffic: Traffic
    hold: float
    say: Callable[[str], None]
    inventory: dict[str, set[int]] = field(default_factory=dict)

    @property
    def nodes(self) -> tuple[Node, Node]:
        first, second = self.cluster.processes
        return first, second

    async def learn(self) -> None:
        """Ask the nodes which processes are theirs."""
        asked = await asyncio.gather(*(node.workers("inventory") for node in self.nodes))
        for node, workers in zip(self.nodes, asked, strict=True):
            self.inventory.setdefault(node.name, set()).update(workers)

    async def warm_up(self) -> None:
        """Until every way has led to both nodes: the demo's collector has to hear of them first.

        Raises:
            Broken: one has not within half a minute.
        """
        await self.learn()
        if await self.traffic.until(self._everywhere, 30) is None:
            reasons = {each for tally in self.traffic.tallies.values() for each in tally.failures}
            raise Broken(f"not every way leads to both nodes; failures: {sorted(reasons)}")

    def _everywhere(self, tallies: dict[str, Tally]) -> bool:
        ways = [{way: tally} for way, tally in tallies.items()]
        return all(served_by(way, workers) for way in ways for workers in self.inventory.values())

    async def run(self, node: Node, *words: str) -> str:
        self.say(f"$ dodici {' '.join(words)} --name {node.name}")
        return await node.run(*words)


def served_by(tallies: dict[str, Tally], workers: Iterable[int]) -> int:
    """How many calls took from the stock, or looked at it, in these processes."""
    workers = set(workers)
    return sum(tally.workers[each] for tally in tallies.values() for each in workers)


def _by_all(workers: Iterable[int]) -> Callable[[dict[str, Tally]], bool]:
    return lambda tallies: all(served_by(tallies, [each]) for each in workers)


async def steady(stage: Stage) -> Told:
    await asyncio.sleep(2 * stage.hold)
    return Told("two nodes, each with two workers of orders and two of inventory")


async def pause_a_worker(stage: Stage) -> Told:
    first, _ = stage.nodes
    one, other = stage.inventory[first.name]
    await stage.run(first, "pause", str(one))
    stage.traffic.forbid([one])
    await asyncio.sleep(stage.hold)
    if stage.traffic.late:
        raise Broken(f"{stage.traffic.late} calls came to worker {one} after the pause had returned")
    return Told(f"worker {one} of node1 is paused: not one call came after; {other} and node2 serve")


async def pause_a_service(stage: Stage) -> Told:
    first, second = stage.nodes
    began = time.perf_counter()
    await stage.run(first, "pause", "inventory")
    took = time.perf_counter() - began
    stage.traffic.forbid(stage.inventory[first.name])
    await asyncio.sleep(stage.hold)
    if stage.traffic.late:
        raise Broken(f"{stage.traffic.late} calls came to node1's inventory after the pause had returned")
    if not served_by(stage.traffic.tallies, stage.inventory[second.name]):
        raise Broken("nobody was served by node2")
    await _show_path(stage)
    return Told(f"node1's inventory is paused within {took:.1f} s: not one call came after, node2 serves all")


async def _show_path(stage: Stage) -> None:
    """Where one order goes that comes in at node1 now, as `dodici trace` tells it."""
    first, _ = stage.nodes
    trace = secrets.token_hex(16)
    async with dodici.Client(first.gateway) as client:
        order = await client.request(
            "/orders",
            method="POST",
            json={"item": ITEM, "amount": 1},
            headers={"traceparent": f"00-{trace}-{secrets.token_hex(8)}-01"},
        )
        await order.dump()
    path = await stage.run(first, "trace", trace)
    for line in path.splitlines():
        stage.say(f"  {line}")


async def resume(stage: Stage) -> Told:
    first, _ = stage.nodes
    await stage.run(first, "resume", "inventory")
    workers = stage.inventory[first.name]
    took = await stage.traffic.until(_by_all(workers), 10)
    if took is None:
        raise Broken(f"not all of node1's workers {workers} were asked again")
    await asyncio.sleep(stage.hold)
    return Told(f"both workers of node1 serve again, {took:.1f} s after the command")


async def kill_a_worker(stage: Stage) -> Told:
    first, _ = stage.nodes
    one, other = await first.workers("orders")
    stage.say(f"$ kill -9 {one}")
    os.kill(one, signal.SIGKILL)
    began = time.perf_counter()
    await asyncio.sleep(stage.hold)
    now = await first.workers("orders")
    while one in now or len(now) != 2:
        if time.perf_counter() - began > 20:
            raise Broken(f"the workers of orders were {one} and {other}, and are {now}")
        now = await first.workers("orders")
    if other not in now:
        raise Broken(f"the other worker, {other}, has gone, too")
    return Told(f"worker {one} of node1's orders was killed; {other} went on, a new one was started", CALLERS)


async def reload_a_service(stage: Stage) -> Told:
    first, _ = stage.nodes
    before = await first.workers("orders")
    file = stage.cluster.folder / "orders.py"
    text = file.read_text()
    changed = re.sub(r"return \{\*\*order", 'return {"edition": 2, **order', text)
    if changed == text:
        raise Broken("orders.py is not what the demo knows")
    file.write_text(changed)
    began = time.perf_counter()
    await stage.run(first, "reload", "orders")
    took = time.perf_counter() - began
    now = await first.workers("orders")
    if set(before) & set(now):
        raise Broken(f"the workers of orders were {before}, and are {now}")
    if await stage.traffic.until(lambda tallies: tallies["order"].editions[2], 10) is None:
        raise Broken("no order was answered by the new code")
    await asyncio.sleep(stage.hold)
    return Told(f"new code in orders.py: both workers of node1 replaced in {took:.1f} s")


async def kill_a_node(stage: Stage) -> Told:
    _, second = stage.nodes
    stage.say("$ kill -9 node2, its workers and its collector")
    await second.kill()
    await asyncio.sleep(2 * stage.hold)
    return Told("node2 is gone without a word; node1 serves all", CALLERS)


async def bring_it_back(stage: Stage) -> Told:
    _, second = stage.nodes
    # Its sockets are open before its apps are ready, so whoever came early would wait. A balancer asks /healthz.
    stage.traffic.gateways.remove_upstream(second.gateway)
    stage.say("$ dodici up node2.toml --name node2")
    started = await second.up()
    ready = time.perf_counter()
    stage.traffic.gateways.add_upstream(second.gateway)
    gone = set(stage.inventory[second.name])
    await stage.learn()
    workers = stage.inventory[second.name] - gone
    on_every_way = stage.traffic.until(
        lambda tallies: all(served_by({way: tallies[way]}, workers) for way in tallies), 10
    )
    if await on_every_way is None:
        raise Broken("node2's inventory was not asked again")
    took = time.perf_counter() - ready
    await asyncio.sleep(stage.hold)
    return Told(f"node2 was up in {started:.1f} s, and served on every way within {took:.1f} s more")


Phase = Callable[[Stage], Awaitable[Told]]

PHASES: dict[str, Phase] = {
    "steady": steady,
    "a worker is paused": pause_a_worker,
    "a service is paused": pause_a_service,
    "it is resumed": resume,
    "a worker is killed": kill_a_worker,
    "a service is reloaded": reload_a_service,
    "a node is killed": kill_a_node,
    "it comes back": bring_it_back,
}

"""Peers without links that are not well: by what their health service says, and by their silence."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health_aio
from tests.collective.fleet import fleet, until
from tests.collective.peers.stock_kit import stock, stock_process

from dodici.collective import Collector
from dodici.collective.names import RouteKey

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class OnlyCheck(health_aio.HealthServicer):
    """A health service of the time before Watch."""

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no Watch")


class Silent(health_aio.HealthServicer):
    """Answers no Check while it is told so: all of its threads are busy."""

    def __init__(self) -> None:
        super().__init__()
        self.speaks = asyncio.Event()
        self.speaks.set()

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self.speaks.wait()
        return await super().Check(request, context)


def chosen(by: Collector, namespace: str = "shop") -> set[str]:
    group = by._router.table.group(RouteKey(namespace, "Orders", "Create"))  # type: ignore[attr-defined]
    return {each.peer for tier in group.tiers for each in tier.candidates} if group else set()


@pytest.mark.parametrize(
    ("kind", "name"),
    [(health_aio.HealthServicer, "shop"), (health_aio.HealthServicer, ""), (OnlyCheck, "shop")],
)
async def test_one_that_does_not_serve_is_out_until_it_does(kind: Any, name: str) -> None:
    health = kind()
    await health.set("", SERVING)
    await health.set("shop", SERVING)
    async with stock(health=health) as (own, _), fleet(a={}) as (a,):
        await a.connect_to(own.address)
        assert (await a.dispatch("shop", "Orders", "Create")).status == 200
        await health.set(name, NOT_SERVING)
        await until(lambda: not chosen(a))
        answer = await a.dispatch("shop", "Orders", "Create")
        assert (answer.status, answer.status.message) == (503, "no healthy collector for shop/Orders.Create")
        assert a.connections[0].state == "draining"
        # Who asks for it by name has not been misled by anybody.
        assert (await a.dispatch("shop", "Orders", "Create", target="stock")).status == 200
        await health.set(name, SERVING)
        await until(lambda: chosen(a) == {"stock"})
        assert (await a.dispatch("shop", "Orders", "Create")).status == 200
        assert (a.connections[0].state, len(own.connects)) == ("connected", 1)


async def test_each_namespace_has_a_health_of_its_own() -> None:
    health = health_aio.HealthServicer()
    await health.set("shop", SERVING)
    await health.set("other", NOT_SERVING)
    namespaces = {"namespaces": ["shop", "other"]}
    async with stock(health=health, shared=("shop", "other")) as (own, _), fleet(a=namespaces) as (a,):
        await a.connect_to(own.address)
        # Not once has it been chosen for what it does not serve.
        assert (chosen(a), chosen(a, "other")) == ({"stock"}, set())
        assert a.connections[0].state == "connected"
        await health.set("other", SERVING)
        await until(lambda: chosen(a, "other") == {"stock"})


async def test_a_server_whose_threads_are_busy_is_out_and_its_calls_go_on() -> None:
    health = Silent()
    await health.set("", SERVING)
    async with stock(health=health) as (own, _), fleet(a={}) as (a,), aio.insecure_channel(a.address) as near:
        await a.connect_to(own.address)
        call = near.unary_unary("/Raw/Late")(b"", metadata=(("x-dodici-namespace", "shop"),), timeout=20)
        await own.late.started.wait()
        health.speaks.clear()
        await until(lambda: not chosen(a))
        # Long enough for another question, and for a probe of the process, which runs.
        await asyncio.sleep(0.7)
        health.speaks.set()
        await until(lambda: chosen(a) == {"stock"})
        own.late.released.set()
        assert await call == b"late"
        assert len(own.connects) == 1


@pytest.mark.perf
async def test_one_that_is_stopped_is_out_within_two_seconds() -> None:
    async with (
        stock_process("far") as (process, address),
        stock(name="near") as (near, _),
        fleet(a={}) as (a,),
    ):
        await a.connect_to(address)
        await a.connect_to(near.address)
        assert chosen(a) == {"far", "near"}
        calling = asyncio.create_task(a.dispatch("shop", "Orders", "Hold", target="far"))
        await asyncio.sleep(0.3)
        os.kill(process.pid, signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            await until(lambda: chosen(a) == {"near"})
            assert time.monotonic() - stopped < 2.0
            # What was sent there is not left to its deadline.
            assert (await calling).status == 503
            assert time.monotonic() - stopped < 4.0
        finally:
            os.kill(process.pid, signal.SIGCONT)
        await until(lambda: chosen(a) == {"far", "near"})

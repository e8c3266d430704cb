"""Real Envoy in front of collectors, fed by the same server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.collective.xds.xds_kit import HERE, WAIT, client, collectors, envoy, envoy_program

from dodici.collective import Collector
from dodici.collective.xds import Endpoints, XdsServer, envoy_bootstrap

pytestmark = pytest.mark.interop


@contextlib.asynccontextmanager
async def proxy(server: Any, folder: Path, protocol: str = "GRPC") -> AsyncIterator[str]:
    """Envoy on a port of its own; its address."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        address = f"127.0.0.1:{found.getsockname()[1]}"
    configuration = envoy_bootstrap(server.address, {address: "orders"})
    configuration["dynamic_resources"]["ads_config"]["api_type"] = protocol
    async with envoy(configuration, folder):
        yield address


@pytest.mark.parametrize("protocol", ["GRPC", "DELTA_GRPC"])
async def test_envoy_follows_the_members(tmp_path: Path, protocol: str) -> None:
    envoy_program()
    async with (
        collectors("a", "b") as (a, b),
        Collector("gate", "127.0.0.1:0", namespaces=["orders"]) as gate,
    ):
        await gate.connect_to(a.address)
        async with proxy(await gate.xds_server(), tmp_path, protocol) as address, client(address) as asking:
            await asking.until("a")
            await gate.connect_to(b.address)
            await asking.until("a", "b")
            counts = [answer["who"] for answer in await asking.ask(40)]
            assert counts.count("a") == counts.count("b") == 20
            # Clients need not say which namespace they mean: Envoy does.
            assert {answer["code"] for answer in await asking.ask(4, "bare")} == {"OK"}
            (failed,) = await asking.ask(1, "fail")
            assert (failed["code"], failed["details"], failed["binary"]) == (
                "ALREADY_EXISTS",
                "taken",
                "00ff",
            )
            await b.drain(5)
            await asking.until("a")
            assert {answer["code"] for answer in await asking.ask(40)} == {"OK"}


async def test_envoy_finds_out_by_itself_that_one_of_two_was_killed(tmp_path: Path) -> None:
    envoy_program()
    source = Endpoints()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(HERE / "serving.py"),
        "b",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(WAIT):
            other = (await process.stdout.readline()).decode().strip()
        async with collectors("a") as (a,), XdsServer(source) as server:
            source.set("orders", [a.address, other])
            async with proxy(server, tmp_path) as address, client(address) as asking:
                await asking.until("a", "b")
                os.kill(process.pid, signal.SIGKILL)
                await process.wait()
                # The endpoints are as they were: what was never sent is sent to the other one.
                codes = [answer["code"] for answer in await asking.ask(60)]
                assert codes.count("OK") >= 57
                assert {answer["who"] for answer in await asking.ask(20)} == {"a"}
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()

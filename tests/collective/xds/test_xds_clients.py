"""gRPC's own client, with `xds:///` targets."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.collective.security.certs import Authority
from tests.collective.xds.xds_kit import client, collectors

from dodici.collective import CollectiveError, Collector
from dodici.collective.data_plane import Channel
from dodici.collective.xds import Endpoints, XdsServer, grpc_bootstrap
from dodici.core.errors import ClientClosedError, InvalidArgumentError, SocketError
from dodici.core.grpc_status import GrpcStatus

ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"


async def test_a_client_follows_the_endpoints() -> None:
    source = Endpoints()
    async with collectors("a", "b") as (a, b), XdsServer(source) as server:
        source.set("orders", [a.address, b.address])
        async with client("xds:///orders", grpc_bootstrap(server.address)) as asking:
            await asking.until("a", "b")
            counts = [answer["who"] for answer in await asking.ask(40)]
            assert counts.count("a") == counts.count("b") == 20
            source.set("orders", [a.address])
            await asking.until("a")
            source.set("orders", [a.address, b.address])
            await asking.until("a", "b")
            source.set("orders", [b.address, "unix:/nowhere", "0.0.0.0:1"])
            await asking.until("b")
            source.set("orders", [f"localhost:{a.address.rpartition(':')[2]}"])
            await asking.until("a")
            source.set("orders", [])
            await asking.until("")
            assert server.clients == 1


async def test_changes_lose_no_call_and_failures_pass_unchanged() -> None:
    source = Endpoints()
    async with collectors("a", "b") as (a, b), XdsServer(source) as server:
        source.set("orders", [a.address])
        async with client("xds:///orders", grpc_bootstrap(server.address)) as asking:
            for number in range(10):
                source.set("orders", [a.address, b.address] if number % 2 else [a.address])
                assert {answer["code"] for answer in await asking.ask(20)} == {"OK"}
            (failed,) = await asking.ask(1, "fail")
            assert (failed["code"], failed["details"], failed["binary"]) == (
                "ALREADY_EXISTS",
                "taken",
                "00ff",
            )


async def test_a_client_goes_on_without_its_server_and_comes_back_to_it() -> None:
    source = Endpoints()
    async with collectors("a", "b") as (a, b):
        source.set("orders", [a.address])
        server = XdsServer(source)
        await server.start()
        address = server.address
        async with client("xds:///orders", grpc_bootstrap(address)) as asking:
            await asking.until("a")
            await server.stop()
            await server.stop()
            assert {answer["who"] for answer in await asking.ask(50)} == {"a"}
            source.set("orders", [b.address])
            async with XdsServer(source, address):
                await asking.until("b")


async def test_the_members_of_a_collective() -> None:
    async with (
        collectors("a", "b") as (a, b),
        Collector("gate", "127.0.0.1:0", namespaces=["orders"]) as gate,
    ):
        server = await gate.xds_server()
        async with client("xds:///orders", grpc_bootstrap(server.address)) as asking:
            await asking.until("")
            await gate.connect_to(a.address)
            await asking.until("a")
            await gate.connect_to(b.address)
            await asking.until("a", "b")
            # Draining and leaving are told before anything is refused: no call fails.
            await b.drain(5)
            await asking.until("a")
            await gate.connect_to(b.address)
            async with asyncio.timeout(10):
                await b.stop()
            assert {answer["code"] for answer in await asking.ask(30)} == {"OK"}
            await a.stop()
            await asking.until("")


async def test_a_collector_tells_of_itself_until_it_drains() -> None:
    async with collectors("a", "b") as (a, b):
        server = await a.xds_server()
        async with client("xds:///orders", grpc_bootstrap(server.address)) as asking:
            await asking.until("a")
            await b.connect_to(a.address)
            await asking.until("a", "b")
            await a.drain(5)
            await asking.until("b")
        await a.stop()
        assert server.clients == 0
        with pytest.raises(CollectiveError):
            await a.xds_server()


async def test_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    secure = authority.collector("gate", "orders")
    mine = authority.tls("client")
    async with (
        collectors("a") as (a,),
        Collector("gate", "127.0.0.1:0", namespaces=["orders"], tls=secure) as gate,
    ):
        source = Endpoints()
        source.set("orders", [a.address])
        async with XdsServer(source, security=secure) as server:
            async with client("xds:///orders", grpc_bootstrap(server.address, tls=mine)) as asking:
                await asking.until("a")
            stranger = Channel(server.address)
            try:
                with pytest.raises(CollectiveError) as refused:
                    await _first(stranger.stream(ADS, _nothing(), timeout=5))
                assert refused.value.grpc_status is GrpcStatus.UNAVAILABLE
            finally:
                await stranger.close()
        own = await gate.xds_server()
        channel = Channel(own.address, security=mine)
        try:
            await channel.ready(10)
        finally:
            await channel.close()


async def test_wrong_clients_and_wrong_arguments() -> None:
    source = Endpoints()
    async with XdsServer(source) as server:
        channel = Channel(server.address)
        try:
            for path, status in (
                (ADS, GrpcStatus.INVALID_ARGUMENT),
                ("/other/Method", GrpcStatus.UNIMPLEMENTED),
            ):
                # A request without a type.
                with pytest.raises(CollectiveError) as refused:
                    await _first(channel.stream(path, _one(b""), timeout=5))
                assert refused.value.grpc_status is status
        finally:
            await channel.close()
        with pytest.raises(ClientClosedError):
            await server.start()
        with pytest.raises(SocketError):
            await XdsServer(source, server.address).start()
    for address in ("0.0.0.0:0", "nowhere"):
        with pytest.raises(InvalidArgumentError):
            XdsServer(source, address)
    XdsServer(source, "0.0.0.0:0", insecure=True)
    with pytest.raises(InvalidArgumentError):
        grpc_bootstrap("nowhere")


async def test_who_stops_reading_holds_up_nobody() -> None:
    source = Endpoints()
    async with collectors("a", "b") as (a, b), XdsServer(source) as server:
        silent = Channel(server.address)
        try:
            stream = silent.stream(ADS, _forever(), timeout=30)
            waiting = asyncio.ensure_future(_first(stream))
            async with client("xds:///orders", grpc_bootstrap(server.address)) as asking:
                for number in range(300):
                    source.set("orders", [f"10.0.0.1:{number + 1}"])
                    await asyncio.sleep(0)
                source.set("orders", [a.address, b.address])
                await asking.until("a", "b")
            waiting.cancel()
            await asyncio.wait([waiting])
        finally:
            await silent.close()


async def _first(answers: Any) -> Any:
    try:
        return await anext(answers)
    finally:
        await answers.aclose()


async def _nothing() -> Any:
    return
    yield b""


async def _one(payload: bytes) -> Any:
    yield payload
    await asyncio.Event().wait()


async def _forever() -> Any:
    await asyncio.Event().wait()
    yield b""

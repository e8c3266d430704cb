"""A peer of another make: see `stock_kit.py`."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc import aio
from tests.collective.fleet import fleet, until
from tests.collective.peers.stock_kit import DISPATCHER, stock

from dodici.collective.protos import collector_pb2 as pb


async def test_it_is_asked_with_serve() -> None:
    async with stock() as (own, _), fleet(a={}) as (a,):
        result = await a.connect_to(own.address)
        assert (result.target_collector_id, result.shared_namespaces) == ("stock", ("shop",))
        assert own.connects[0].address == a.address
        answer = await a.dispatch("shop", "Orders", "Create", "x")
        assert (answer.status, answer.output, answer.handled_by_collector_id) == (
            200,
            "Orders.Create",
            "stock",
        )
        request = own.served[0]
        assert (request.namespace, request.service.service_name, request.method_name) == (
            "shop",
            "Orders",
            "Create",
        )
        answer = await a.dispatch("shop", "Orders", "Sold", target="stock")
        assert (answer.status, answer.status.message) == (409, "sold")
        assert answer.status.grpc_status.name == "ABORTED"
        assert answer.status.details["sku"] == "a-1"
        assert [connection.linked for connection in a.connections] == [False]


async def test_a_stub_reaches_it_over_the_transparent_face() -> None:
    async with stock() as (own, _), fleet(a={}, b={}) as (a, b):
        await a.connect_to(own.address)
        await b.connect_to(a.address)
        async with aio.insecure_channel(a.address) as channel:
            reverse = channel.unary_unary("/Raw/Reverse")
            assert await reverse(b"abc", metadata=(("x-dodici-namespace", "shop"), ("x-mine", "1"))) == b"cba"
        assert own.metadata["x-dodici-namespace"] == "shop"
        assert own.metadata["x-mine"] == "1"


async def test_other_namespaces_are_not_its_business() -> None:
    async with stock() as (own, _), fleet(a={"namespaces": ["shop", "more"]}) as (a,):
        await a.connect_to(own.address)
        assert (await a.dispatch("more", "Orders", "Create")).status == 404
        assert (await a.dispatch("more", "Orders", "Create", target="stock")).status == 404
        assert own.served == []


async def test_it_is_lost_and_found_again() -> None:
    async with fleet(a={}) as (a,):
        async with stock() as (own, server):
            await a.connect_to(own.address)
            address = own.address
            await server.stop(None)
            await until(lambda: a.connections[0].state == "lost")
            answer = await a.dispatch("shop", "Orders", "Create")
            assert answer.status == 503
        async with stock(address) as (again, _):
            await until(lambda: a.connections[0].state == "connected")
            assert (await a.dispatch("shop", "Orders", "Create")).status == 200
            assert len(again.connects) == 1


async def test_a_refusal_of_connect_is_told() -> None:
    from dodici.collective import CollectiveError

    async with stock() as (own, _), fleet(a={}) as (a,):

        async def refuse(request: Any, context: Any) -> pb.ConnectResponse:
            return pb.ConnectResponse(
                status=pb.Status(code=403, message="not you", details={"grpc-status": "PERMISSION_DENIED"})
            )

        own.connect = refuse  # type: ignore[method-assign]
        other = aio.server()
        other.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    DISPATCHER,
                    {
                        "Connect": grpc.unary_unary_rpc_method_handler(
                            refuse, pb.ConnectRequest.FromString, pb.ConnectResponse.SerializeToString
                        )
                    },
                ),
            )
        )
        port = other.add_insecure_port("127.0.0.1:0")
        await other.start()
        try:
            with pytest.raises(CollectiveError, match="not you") as caught:
                await a.connect_to(f"127.0.0.1:{port}")
            assert caught.value.status == 403
            assert a.connections == ()
        finally:
            await other.stop(None)


async def test_a_connection_that_stays_is_not_cut_by_a_stock_server() -> None:
    """Which answers pings that come too often with GOAWAY, after the third."""
    async with stock() as (own, _), fleet(a={}) as (a,):
        await a.connect_to(own.address)
        await asyncio.sleep(4.2)
        assert a.connections[0].state == "connected"
        assert len(own.connects) == 1

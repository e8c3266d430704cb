"""A peer of another make: it knows Connect and Serve, no links, and the options of a stock server.

Run as a program (`python stock_kit.py NAME [ADDRESS]`) it prints its address, and serves until its stdin closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue
from grpc import aio
from grpc_health.v1 import health_pb2_grpc

from dodici.collective.protos import collector_pb2 as pb

DISPATCHER = "collector.CollectiveDispatcher"


class Late:
    """A call that ends when it is told to."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.released = asyncio.Event()


class Stock:
    """A server that answers Connect and Serve, and the transparent face of one method."""

    def __init__(self, name: str = "stock", shared: Iterable[str] = ("shop",)) -> None:
        self.name = name
        self.shared = shared
        self.late = Late()
        self.connects: list[pb.ConnectRequest] = []
        self.served: list[pb.ServeRequest] = []
        self.metadata: dict[str, Any] = {}
        self.address = ""

    async def connect(self, request: pb.ConnectRequest, context: Any) -> pb.ConnectResponse:
        self.connects.append(request)
        return pb.ConnectResponse(
            status=pb.Status(code=200),
            connection_id="one",
            shared_namespaces=self.shared,
            target_collector_id=self.name,
        )

    async def serve(self, request: pb.ServeRequest, context: Any) -> pb.ServeResponse:
        self.served.append(request)
        if request.method_name == "Hold":
            await self.late.released.wait()
        if request.method_name == "Sold":
            return pb.ServeResponse(
                status=pb.Status(code=409, message="sold", details={"grpc-status": "ABORTED", "sku": "a-1"}),
                executor_id=self.name,
            )
        answer = pb.ServeResponse(status=pb.Status(code=200), executor_id=self.name)
        answer.output.Pack(StringValue(value=f"{request.service.service_name}.{request.method_name}"))
        return answer

    async def hold(self, request: bytes, context: Any) -> bytes:
        """Answer when it is told to."""
        self.late.started.set()
        await self.late.released.wait()
        return b"late"

    async def raw(self, request: bytes, context: Any) -> bytes:
        self.metadata = dict(context.invocation_metadata())
        return request[::-1]


@contextlib.asynccontextmanager
async def stock(
    address: str = "127.0.0.1:0",
    name: str = "stock",
    health: Any = None,
    shared: Iterable[str] = ("shop",),
) -> AsyncIterator[tuple[Stock, aio.Server]]:
    """A server; `health` is a servicer of grpc.health.v1, if it has any."""
    own = Stock(name, shared)
    server = aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                DISPATCHER,
                {
                    "Connect": grpc.unary_unary_rpc_method_handler(
                        own.connect, pb.ConnectRequest.FromString, pb.ConnectResponse.SerializeToString
                    ),
                    "Serve": grpc.unary_unary_rpc_method_handler(
                        own.serve, pb.ServeRequest.FromString, pb.ServeResponse.SerializeToString
                    ),
                },
            ),
            grpc.method_handlers_generic_handler(
                "Raw",
                {
                    "Reverse": grpc.unary_unary_rpc_method_handler(own.raw),
                    "Late": grpc.unary_unary_rpc_method_handler(own.hold),
                },
            ),
        )
    )
    if health is not None:
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
    own.address = f"127.0.0.1:{server.add_insecure_port(address)}"
    await server.start()
    try:
        yield own, server
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def stock_process(
    name: str, address: str = "127.0.0.1:0"
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The same in a process of its own, and its address."""
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).resolve()),
        name,
        address,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert started.stdout is not None
        yield started, (await started.stdout.readline()).decode().strip()
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()
        started._transport.close()  # type: ignore[attr-defined]


async def _serve(name: str, address: str = "127.0.0.1:0") -> None:
    async with stock(address, name) as (own, _):
        print(own.address, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))

"""A collector for the tests, here or in a process of its own, and what speaks with it.

Run as a program (`python kit.py [ADDRESS [PEER]]`) it serves the same until its stdin closes, and prints its address.
With a PEER it serves nothing itself, and is connected to the collector at that address.
"""

from __future__ import annotations

import asyncio
import importlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto, MethodOptions
from google.protobuf.message_factory import GetMessageClass

from dodici.collective import CollectiveError, Collector

HERE = Path(__file__).resolve().parent
PROTOS = Path(importlib.import_module("dodici.collective.protos").__file__ or "").parent
NAMESPACE = (("x-dodici-namespace", "shop"),)
SERVICE = "kit.shop.OrderService"


# -- a typed service, without a file for it ------------------------------------------------------------------


@cache
def _file() -> Any:
    file = FileDescriptorProto(name="dodici_tests/shop.proto", package="kit.shop", syntax="proto3")
    order = file.message_type.add(name="Order")
    order.field.add(name="sku", number=1, type="TYPE_STRING", label="LABEL_OPTIONAL")
    order.field.add(name="count", number=2, type="TYPE_INT64", label="LABEL_OPTIONAL")
    service = file.service.add(name="OrderService")
    for name, streams_in, streams_out in (
        ("Create", False, False),
        ("List", False, True),
        ("Sum", True, False),
        ("Chat", True, True),
        ("Fail", False, False),
        ("Hold", False, False),
    ):
        method = service.method.add(name=name, input_type=".kit.shop.Order", output_type=".kit.shop.Order")
        method.client_streaming, method.server_streaming = streams_in, streams_out
    service.method[1].options.idempotency_level = MethodOptions.NO_SIDE_EFFECTS
    return descriptor_pool.Default().AddSerializedFile(file.SerializeToString())


def descriptor() -> Any:
    """The ServiceDescriptor of kit.shop.OrderService."""
    _file()
    return descriptor_pool.Default().FindServiceByName(SERVICE)


def order_class() -> Any:
    """The class of kit.shop.Order."""
    _file()
    return GetMessageClass(descriptor_pool.Default().FindMessageTypeByName("kit.shop.Order"))


def order(sku: str = "", count: int = 0) -> Any:
    """An Order."""
    return order_class()(sku=sku, count=count)


class OrderServicer:
    """As somebody would write it over a generated base; `notes` are what happened, by name."""

    def __init__(self) -> None:
        self.notes: dict[str, asyncio.Event] = {}

    def note(self, name: str) -> asyncio.Event:
        return self.notes.setdefault(name, asyncio.Event())

    async def Create(self, request: Any, context: Any) -> Any:  # noqa: N802
        context.set_trailing_metadata(
            (("x-seen", context.metadata.get("x-sent", "")), ("x-bin", b"\x00\xff"))
        )
        return order(request.sku.upper(), request.count + 1)

    async def List(self, request: Any, context: Any) -> Any:  # noqa: N802
        for number in range(request.count):
            yield order(request.sku, number)

    async def Sum(self, requests: Any, context: Any) -> Any:  # noqa: N802
        return order("sum", sum([each.count async for each in requests]))

    async def Chat(self, requests: Any, context: Any) -> Any:  # noqa: N802
        sku = ""
        try:
            async for each in requests:
                sku = each.sku
                yield order(sku, -each.count)
        except (asyncio.CancelledError, GeneratorExit):
            self.note(f"{sku} cancelled").set()
            raise

    async def Fail(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.sku == "abort":
            context.set_trailing_metadata((("x-why", "sold out"),))
            context.call.abort(request.count, "no such thing: ü", {"sku": "a-1"})
        if request.sku == "code":
            context.set_code(_StatusCode("DATA_LOSS", 15))
            context.set_details("lost")
            return order()
        if request.sku == "collective":
            raise CollectiveError("told to all")
        raise ValueError("a secret")

    async def Hold(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Wait for ever; `sku` names the notes "SKU started" and "SKU cancelled". "wait NOTE" waits for a note."""
        if request.sku.startswith("wait "):
            await self.note(request.sku.removeprefix("wait ")).wait()
            return order("noted")
        self.note(f"{request.sku} started").set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.note(f"{request.sku} cancelled").set()
            raise


class _StatusCode:
    """What grpc.StatusCode looks like."""

    def __init__(self, name: str, number: int) -> None:
        self.name, self.value = name, (number, name.lower())


async def echo(context: Any, given: Any) -> Any:
    """A handler of values."""
    context.set_trailing_metadata({"x-trailing": "t", "x-trailing-bin": b"\x01"})
    if given == "abort":
        context.abort(409, "taken", {"by": "somebody"})
    if given == "collective":
        raise CollectiveError("told to all")
    if given == "bug":
        raise ValueError("a secret")
    return given


def make(address: str = "127.0.0.1:0", **options: Any) -> tuple[Collector, OrderServicer]:
    """A collector in "shop" and "plain", not started."""
    collector = Collector("kit-1", address, namespaces=["shop", "plain"], **options)
    servicer = OrderServicer()
    collector.add_service("shop", servicer, descriptor())
    collector.register_service("plain", "Echo", "Say", echo)

    @collector.method("plain", "Echo", "Count", kind="unary_stream")
    async def count(context: Any, given: Any) -> Any:
        for number in range(given):
            yield number

    return collector, servicer


@contextmanager
def process(*arguments: str) -> Iterator[str]:
    """The same collector as a process of its own; gives its address."""
    started = subprocess.Popen(
        [sys.executable, str(HERE / "kit.py"), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert started.stdout is not None
        address = started.stdout.readline().decode().strip()
        assert address, "the collector ended before it listened"
        yield address
    finally:
        started.kill()
        started.communicate()


# -- stubs as anybody would make them ------------------------------------------------------------------------


def published_stubs(folder: Path) -> dict[str, Any]:
    """Compile the published schemas as a user does, beside dodici's own in the same process; modules by name."""
    from grpc_tools import protoc

    known = str(Path(importlib.import_module("grpc_tools").__file__ or "").parent / "_proto")
    names = ("link", "collector", "registry")
    arguments = [f"-I{PROTOS}", f"-I{known}", f"--python_out={folder}", *(f"{name}.proto" for name in names)]
    assert protoc.main(["protoc", *arguments]) == 0
    sys.path.insert(0, str(folder))
    try:
        return {name: importlib.import_module(f"{name}_pb2") for name in names}
    finally:
        sys.path.remove(str(folder))


async def _serve(address: str = "127.0.0.1:0", peer: str = "") -> None:
    collector = Collector("gate", address, namespaces=["shop", "plain"]) if peer else make(address)[0]
    async with collector:
        if peer:
            await collector.connect_to(peer)
        print(collector.address, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))

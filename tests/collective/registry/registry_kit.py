"""Descriptors, stores and servers for the tests of the registry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

pytest.importorskip("grpc", reason="grpcio is not installed")

from google.protobuf.descriptor_pb2 import FileDescriptorProto, ServiceDescriptorProto

from dodici.collective.errors import CollectiveError
from dodici.collective.grpc_server import Server
from dodici.collective.registry import LocalRegistry, Registry, RegistryServer, Store
from dodici.core.grpc_status import GrpcStatus


def service(name: str = "UserService", *methods: str, types: str = "") -> ServiceDescriptorProto:
    """A service whose methods take and give `types`, a full name with its dot in front."""
    made = ServiceDescriptorProto(name=name)
    for method in methods or ("GetUser",):
        made.method.add(name=method, input_type=types, output_type=types)
    return made


def file(
    name: str = "users.proto",
    package: str = "a",
    messages: Sequence[str] = ("User",),
    *,
    imports: Iterable[str] = (),
    fields: dict[str, str] | None = None,
    services: Iterable[ServiceDescriptorProto] = (),
) -> FileDescriptorProto:
    """A file; each message has a string `name`, and `fields` of message types by name."""
    made = FileDescriptorProto(name=name, package=package, syntax="proto3", dependency=imports)
    for message in messages:
        added = made.message_type.add(name=message)
        added.field.add(name="name", number=1, type="TYPE_STRING", label="LABEL_OPTIONAL", json_name="name")
        for number, (field, kind) in enumerate((fields or {}).items(), 2):
            added.field.add(
                name=field,
                number=number,
                type="TYPE_MESSAGE",
                type_name=kind,
                label="LABEL_OPTIONAL",
                json_name=field,
            )
    made.service.extend(services)
    return made


@asynccontextmanager
async def running(store: Store | None = None, **options: Any) -> AsyncIterator[LocalRegistry]:
    registry = LocalRegistry(store, **options)
    await registry.start()
    try:
        yield registry
    finally:
        await registry.stop()


class Face:
    """A server face with nothing but the registry."""

    def __init__(self, handlers: dict[str, Any]) -> None:
        self.handlers = handlers
        self.calls = 0

    def method(self, head: Any) -> Any:
        self.calls += 1
        return self.handlers.get(head.path)


@asynccontextmanager
async def serving(registry: Registry, authorizer: Any = None) -> AsyncIterator[tuple[str, Face]]:
    """The address of a server of the registry, and its face, which counts calls."""
    face = Face(RegistryServer(registry, authorizer).handlers())
    server = Server(face, "127.0.0.1:0", message=64 * 1024 * 1024)
    await server.start()
    try:
        yield server.address, face
    finally:
        await server.stop(None)


async def failing(awaitable: Any) -> CollectiveError:
    """The CollectiveError that something fails with."""
    with pytest.raises(CollectiveError) as caught:
        await awaitable
    return caught.value


async def status_of(awaitable: Any) -> GrpcStatus:
    return (await failing(awaitable)).grpc_status

"""What a registry can be given as, and what a collector tells it."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from tests.collective.kit import OrderServicer, descriptor
from tests.collective.registry.registry_kit import failing, file, running, service, serving

from dodici.collective.errors import call_error
from dodici.collective.names import CallKind, LocalServices, MethodSpec
from dodici.collective.protos import registry_pb2 as pb
from dodici.collective.registry import (
    EtcdStore,
    LocalRegistry,
    MemoryStore,
    Publisher,
    RemoteRegistry,
    SQLiteStore,
    open_registry,
    publish,
)
from dodici.collective.servicer import specs_of
from dodici.core.errors import InvalidArgumentError
from dodici.core.grpc_status import GrpcStatus


def store_of(given: Any) -> Any:
    registry = open_registry(given)
    assert isinstance(registry, LocalRegistry)
    return registry.store


def test_what_a_registry_can_be_given_as(tmp_path: Path) -> None:
    assert isinstance(store_of("memory"), MemoryStore)
    for given, path in (
        ("sqlite:registry.db", Path("registry.db")),
        ("sqlite:/var/lib/r.db", Path("/var/lib/r.db")),
        (tmp_path / "r.db", tmp_path / "r.db"),
    ):
        store = store_of(given)
        assert isinstance(store, SQLiteStore)
        assert store.path == path
    etcd = store_of("etcd://one,two:2380/shop")
    assert isinstance(etcd, EtcdStore)
    assert (etcd.config.endpoints, etcd.config.prefix) == (("one:2379", "two:2380"), "/shop")
    for address in ("127.0.0.1:50051", "[::1]:50051", "unix:/run/registry.sock"):
        remote = open_registry(address)
        assert isinstance(remote, RemoteRegistry)
        assert remote.address == address
        assert open_registry(remote) is remote
    memory = MemoryStore()
    assert store_of(memory) is memory


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("", "not a registry: ''; use 'sqlite:path', 'memory', 'etcd://host:port', or"),
        ("disk", "not a registry: 'disk'"),
        ("sqlite:", "a file is needed"),
        ("sqlite::memory:", "a file is needed"),
        ("sqlite:///r.db", "a path follows the colon: sqlite:/path/to/file"),
        ("127.0.0.1:0", "needs its port"),
        ("etcd://", "no host"),
        ("http://localhost:1", "not a registry"),
        (3, "not a registry: int"),
        (None, "not a registry: NoneType"),
    ],
    ids=["empty", "word", "no path", "in memory", "slashes", "port 0", "no host", "http", "int", "none"],
)
def test_what_is_none(given: Any, text: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        open_registry(given)
    assert text in caught.value.message


# -- publishing ------------------------------------------------------------------------------------------


def local() -> LocalServices:
    """Services as a collector has them: one typed, with its short name, and one of plain handlers."""
    services = LocalServices()
    services.add(specs_of("shop", OrderServicer(), descriptor()), descriptor=descriptor())
    add(services, "Say")
    return services


def add(services: LocalServices, method: str, service: str = "Echo", **facts: Any) -> None:
    services.add([MethodSpec("plain", service, method, print, **facts)])


async def test_what_a_collector_serves_is_registered_with_its_types() -> None:
    services = local()
    add(services, "Count", kind=CallKind.UNARY_STREAM, idempotent=True)
    async with running() as registry:
        await publish(registry, services)
        assert [(each.namespace, each.service_name) for each in await registry.services()] == [
            ("plain", "Echo"),
            ("shop", "kit.shop.OrderService"),
        ]
        types = await registry.types("shop", "OrderService")
        assert types.pack("Create", {"sku": "a"}).type_url == "type.googleapis.com/kit.shop.Order"
        plain = await registry.types("plain", "Echo")
        assert plain.methods["Count"] == (None, None, CallKind.UNARY_STREAM, True)
        await publish(registry, services)
        assert {each.version for each in await registry.services()} == {1}


async def test_two_collectors_may_each_serve_some_methods_of_a_service() -> None:
    one, two = LocalServices(), LocalServices()
    add(one, "Say")
    add(two, "Sing")
    async with running() as registry, serving(registry) as (address, _):
        remotes = [RemoteRegistry(address), RemoteRegistry(address)]
        try:
            await publish(remotes[0], one)
            await publish(remotes[1], two)
            assert sorted((await registry.lookup("plain", "Echo")).method_names) == ["Say", "Sing"]
        finally:
            for remote in remotes:
                await remote.stop()


class Overwriting(LocalRegistry):
    """A registry that knows of no additions, and whose first lookup is answered with what was there before another's."""

    def __init__(self) -> None:
        super().__init__()
        self.registered = asyncio.Event()
        self.looked = asyncio.Event()

    async def lookup(self, namespace: str, service: str) -> Any:
        try:
            return await super().lookup(namespace, service)
        finally:
            if not self.looked.is_set():
                self.looked.set()
                await self.registered.wait()

    async def register_service(self, *arguments: Any, add: bool = False) -> pb.RegisteredService:
        return await super().register_service(*arguments)


async def test_what_another_has_overwritten_is_registered_again() -> None:
    one, two = LocalServices(), LocalServices()
    add(one, "Say")
    add(two, "Sing")
    registry = Overwriting()
    await registry.start()
    publishers = [Publisher(registry, services, look_again=(0.01,)) for services in (one, two)]
    try:
        publishers[0].start()
        await registry.looked.wait()
        publishers[1].start()
        await publishers[1].settled()
        registry.registered.set()
        await publishers[0].settled()
        async with asyncio.timeout(5):
            while sorted((await registry.lookup("plain", "Echo")).method_names) != ["Say", "Sing"]:
                await asyncio.sleep(0.01)
    finally:
        for publisher in publishers:
            await publisher.stop()
        await registry.stop()


async def test_a_method_that_a_registered_descriptor_lacks_is_not_added() -> None:
    services = LocalServices()
    add(services, "Extra", service="a.UserService")
    async with running() as registry:
        await registry.register_service("plain", service(types=".a.User"), file())
        error = await failing(publish(registry, services))
        assert error.grpc_status is GrpcStatus.FAILED_PRECONDITION
        assert "is registered by its descriptor, which does not have Extra" in error.message
        assert (await registry.lookup("plain", "a.UserService")).version == 1


class Sometimes(LocalRegistry):
    """A registry that refuses with the statuses it was given, one after the other, before it works."""

    def __init__(self, *statuses: GrpcStatus) -> None:
        super().__init__()
        self.statuses = list(statuses)

    async def register_service(self, *arguments: Any, **options: Any) -> pb.RegisteredService:
        if self.statuses:
            raise call_error(self.statuses.pop(0), "not now")
        return await super().register_service(*arguments, **options)


async def test_a_publisher_keeps_the_registry_told() -> None:
    services = local()
    async with running() as registry:
        publisher = Publisher(registry, services)
        publisher.start()
        try:
            await asyncio.wait_for(publisher.settled(), 10)
            assert (await registry.validate("plain", "Echo", "Say")).valid
            add(services, "Late")
            await asyncio.wait_for(publisher.settled(), 10)
            assert (await registry.validate("plain", "Echo", "Late")).valid
        finally:
            await publisher.stop()
        add(services, "Later")
        assert not (await registry.validate("plain", "Echo", "Later")).valid
        publisher.start()
        try:
            await asyncio.wait_for(publisher.settled(), 10)
            assert (await registry.validate("plain", "Echo", "Later")).valid
        finally:
            await publisher.stop()


async def test_a_publisher_tries_again_where_that_has_a_point(caplog: pytest.LogCaptureFixture) -> None:
    services = local()
    registry = Sometimes(GrpcStatus.UNAVAILABLE, GrpcStatus.DEADLINE_EXCEEDED)
    publisher = Publisher(registry, services)
    publisher.start()
    try:
        await asyncio.wait_for(publisher.settled(), 10)
        assert (await registry.validate("plain", "Echo", "Say")).valid
        assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2

        caplog.clear()
        registry.statuses = [GrpcStatus.PERMISSION_DENIED]
        add(services, "Late")
        await asyncio.wait_for(publisher.settled(), 10)
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        add(services, "Later")
        await asyncio.wait_for(publisher.settled(), 10)
        assert (await registry.validate("plain", "Echo", "Late")).valid
    finally:
        await publisher.stop()


async def test_a_publisher_that_was_stopped_half_way_begins_again() -> None:
    class Held(LocalRegistry):
        arrived, proceed = asyncio.Event(), asyncio.Event()

        async def register_service(self, *arguments: Any, **options: Any) -> pb.RegisteredService:
            self.arrived.set()
            await self.proceed.wait()
            return await super().register_service(*arguments, **options)

    registry = Held()
    publisher = Publisher(registry, local())
    publisher.start()
    await asyncio.wait_for(registry.arrived.wait(), 10)
    await publisher.stop()
    registry.proceed.set()
    publisher.start()
    try:
        await asyncio.wait_for(publisher.settled(), 10)
        assert (await registry.validate("plain", "Echo", "Say")).valid
    finally:
        await publisher.stop()

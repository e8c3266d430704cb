"""Methods that several add to one service at the same moment: none of them is lost."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.collective.discovery.etcd_kit import etcd
from tests.collective.registry.registry_kit import failing, file, running, service, serving

from dodici.collective.errors import CollectiveError
from dodici.collective.names import LocalServices, MethodSpec
from dodici.collective.protos import registry_pb2 as pb
from dodici.collective.registry import (
    EtcdStore,
    LocalRegistry,
    Registry,
    RemoteRegistry,
    SQLiteStore,
    publish,
)
from dodici.core.errors import InvalidArgumentError
from dodici.core.grpc_status import GrpcStatus

EVERY = [f"M{number}" for number in range(12)]


@pytest.fixture(params=["memory", "sqlite", pytest.param("etcd", marks=pytest.mark.interop), "remote"])
async def four(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[list[Registry]]:
    """Four registries of one place."""
    async with contextlib.AsyncExitStack() as stack:
        if request.param == "memory":
            yield [await stack.enter_async_context(running())] * 4
        elif request.param == "sqlite":
            path = tmp_path / "registry.db"
            yield [await stack.enter_async_context(running(SQLiteStore(path))) for _ in range(4)]
        elif request.param == "etcd":
            server = stack.enter_context(etcd(tmp_path))
            yield [await stack.enter_async_context(running(EtcdStore(server.config("/p")))) for _ in range(4)]
        else:
            kept = await stack.enter_async_context(running())
            address, _ = await stack.enter_async_context(serving(kept))
            remotes = [RemoteRegistry(address) for _ in range(4)]
            for remote in remotes:
                stack.push_async_callback(remote.stop)
            yield [*remotes]


async def test_what_is_added_at_the_same_moment_is_all_there(four: list[Registry]) -> None:
    added = await asyncio.gather(
        *(
            four[number % 4].register_service("n", service("S", name, "Common"), add=True)
            for number, name in enumerate(EVERY)
        )
    )
    assert {each.service_name for each in added} == {"S"}
    last = max(added, key=lambda each: each.version)
    assert last.version == 12
    assert sorted(last.method_names) == sorted([*EVERY, "Common"])
    # What is there already is no new version.
    again = await four[0].register_service("n", service("S", "M3", "M4"), add=True)
    assert (again.version, sorted(again.method_names)) == (12, sorted([*EVERY, "Common"]))
    # Without `add` it is the whole.
    whole = await four[1].register_service("n", service("S", "Only"))
    assert (whole.version, [*whole.method_names]) == (13, ["Only"])


async def test_collectors_that_publish_at_the_same_moment_are_all_there(four: list[Registry]) -> None:
    tables = [LocalServices() for _ in range(4)]
    for number, name in enumerate(EVERY):
        tables[number % 4].add([MethodSpec("n", "S", name, print)])
    await asyncio.gather(*(publish(*each) for each in zip(four, tables, strict=True)))
    async with asyncio.timeout(10):  # etcd's watch
        for registry in four:
            while len((await registry.lookup("n", "S")).method_names) < len(EVERY):
                await asyncio.sleep(0.01)


async def test_what_cannot_be_added_is_refused_and_nothing_else(tmp_path: Path) -> None:
    async with running(SQLiteStore(tmp_path / "registry.db"), max_file=1500) as registry:
        await registry.register_service("n", service("a.Users", types=".a.User"), file())
        await registry.register_service("n", service("Full", "M"), add=True)
        # In one commit: those that are in order are not held up by those that are not.
        done = await asyncio.gather(
            registry.register_service("n", service("Good"), add=True),
            registry.register_service("n", service("a.Users", "Extra"), add=True),
            registry.register_service("n", service("Full", "x" * 900), add=True),
            registry.register_service("n", service("Full", "y" * 900), add=True),
            registry.register_service("n", service("Better"), add=True),
            return_exceptions=True,
        )
        statuses = [each.grpc_status if isinstance(each, CollectiveError) else type(each) for each in done]
        ok = pb.RegisteredService
        assert statuses == [ok, GrpcStatus.FAILED_PRECONDITION, ok, GrpcStatus.RESOURCE_EXHAUSTED, ok]
        assert "is registered by its descriptor, which does not have Extra" in str(done[1])
        assert "more than 1500" in str(done[3])
        assert [each.service_name for each in await registry.services("n")] == [
            "Better",
            "Full",
            "Good",
            "a.Users",
        ]
        assert (await registry.lookup("n", "a.Users")).version == 1
        assert [*(await registry.lookup("n", "Full")).method_names] == ["M", "x" * 900]
        with pytest.raises(InvalidArgumentError, match="without a file"):
            await registry.register_service("n", service("a.Users", types=".a.User"), file(), add=True)


async def test_an_entry_that_cannot_be_read_is_not_added_to(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    async with running(SQLiteStore(path)) as registry:
        await registry.register_service("n", service("S", "M"))
        with contextlib.closing(sqlite3.connect(path)) as other, other:
            other.execute("UPDATE entries SET content = x'ff'")
        error = await failing(registry.register_service("n", service("S", "More"), add=True))
        assert error.grpc_status is GrpcStatus.DATA_LOSS
        assert (await registry.register_service("n", service("Other"), add=True)).version == 1


async def test_a_registry_that_knows_of_no_additions_gets_the_whole() -> None:
    class Foreign(LocalRegistry):
        async def register_service(self, *arguments: object, **options: object) -> object:  # type: ignore[override]
            options.pop("add", None)
            return await super().register_service(*arguments, **options)  # type: ignore[arg-type]

    registry = Foreign()
    for name in ("Say", "Sing"):
        services = LocalServices()
        services.add([MethodSpec("n", "S", name, print)])
        await publish(registry, services)
    assert sorted((await registry.lookup("n", "S")).method_names) == ["Say", "Sing"]

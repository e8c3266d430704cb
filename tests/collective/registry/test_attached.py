"""A collector with a registry: opened and closed with it, told of its services, served to others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from tests.collective.kit import SERVICE, make, order
from tests.collective.registry.registry_kit import failing, file, running, service, serving

from dodici.collective import CollectiveError, Collector
from dodici.collective.names import LocalServices, RouteKey
from dodici.collective.registry import (
    AttachedRegistry,
    LocalRegistry,
    LocalValidator,
    RemoteRegistry,
    RemoteValidator,
    SQLiteStore,
)
from dodici.core.errors import InvalidArgumentError, SocketError
from dodici.core.grpc_status import GrpcStatus


async def settled(collector: Collector) -> None:
    attached = collector._registry
    assert attached is not None
    await asyncio.wait_for(attached.settled(), 10)


async def names(registry: Any) -> list[str]:
    return [f"{each.namespace}/{each.service_name}" for each in await registry.services()]


ALL = ["plain/Echo", f"shop/{SERVICE}"]


async def test_its_services_are_registered_and_stay_so_when_it_ends(tmp_path: Path) -> None:
    given = f"sqlite:{tmp_path / 'registry.db'}"
    collector, _ = make(registry=given)
    assert collector.registry is not None
    async with collector:
        await settled(collector)
        assert await names(collector.registry) == ALL
        collector.register_service("late", "Later", "Get", lambda context, given: given)
        await settled(collector)
        assert await names(collector.registry) == ["late/Later", *ALL]
    async with running(SQLiteStore(tmp_path / "registry.db")) as registry:
        assert await names(registry) == ["late/Later", *ALL]
        assert {each.version for each in await registry.services()} == {1}
    async with collector:  # and again
        await settled(collector)
        assert len(await collector.registry.services()) == 3


async def test_others_use_it_at_the_collectors_address() -> None:
    collector, _ = make(registry="memory")
    async with collector:
        await settled(collector)
        remote = RemoteRegistry(collector.address)
        other, _ = make(registry=collector.address)
        try:
            assert await names(remote) == ALL
            types = await remote.types("shop", "OrderService")
            assert types.pack("Create", {"sku": "a"}).value == order("a").SerializeToString()
            async with other:
                other.register_service("far", "Away", "Get", lambda context, given: given)
                await settled(other)
                assert await names(collector.registry) == ["far/Away", *ALL]
                # Only who keeps a registry serves it.
                elsewhere = RemoteRegistry(other.address)
                error = await failing(elsewhere.services())
                assert error.grpc_status is not GrpcStatus.OK
                await elsewhere.stop()
        finally:
            await remote.stop()


async def test_a_collector_validates_by_its_own_registry_or_anothers() -> None:
    keeper, _ = make(registry="memory")
    async with keeper:
        await settled(keeper)
        assert isinstance(keeper.registry, LocalRegistry)
        keeper.set_registry_validator(LocalValidator(keeper.registry))
        asking, _ = make(validator=(validator := RemoteValidator(keeper.address)))
        asking.register_service("plain", "Hidden", "Get", lambda context, given: given)
        try:
            async with asking:
                for collector in (keeper, asking):
                    assert (await collector.dispatch("plain", "Echo", "Say", "x")).output == "x"
                    refused = await collector.dispatch("plain", "Hidden", "Get")
                    assert refused.status == 404
                    assert "'Hidden' is not registered in namespace 'plain'" in refused.status.message
        finally:
            await validator.close()


@pytest.fixture
async def kept() -> AsyncIterator[LocalRegistry]:
    async with running() as registry:
        await registry.register_service("plain", service("Echo", "Say", types=".a.User"), file())
        yield registry


ANSWER = AnyMessage(type_url="type.googleapis.com/a.User", value=b"\x0a\x01n")


@pytest.mark.parametrize("form", ["local", "remote"])
async def test_answers_are_messages_of_registered_types(kept: LocalRegistry, form: str) -> None:
    async with serving(kept) as (address, face):
        collector, _ = make(registry=kept if form == "local" else address)

        @collector.method("plain", "Echo", "Many", kind="unary_stream")
        async def many(context: Any, given: Any) -> AsyncIterator[Any]:
            yield given
            yield AnyMessage(type_url="type.googleapis.com/b.Unknown", value=b"")

        async with collector:
            first = (await collector.dispatch("plain", "Echo", "Say", ANSWER)).output
            assert (first.DESCRIPTOR.full_name, first.name) == ("a.User", "n")
            outputs = [each async for each in collector.dispatch_stream("plain", "Echo", "Many", ANSWER)]
            assert (outputs[0].name, type(outputs[1])) == ("n", AnyMessage)
            calls = face.calls
            for _ in range(5):
                assert (await collector.dispatch("plain", "Echo", "Say", ANSWER)).output.name == "n"
            assert face.calls == calls  # what another process said is remembered
        # Who made the registry closes it.
        assert (await kept.lookup("plain", "Echo")).version >= 1


async def test_without_a_registry_or_its_answer_they_stay_any(kept: LocalRegistry) -> None:
    async with serving(kept) as (address, _):
        pass
    attached = AttachedRegistry(address, LocalServices())
    try:
        assert await attached.unpack(RouteKey("plain", "Echo", "Say"), ANSWER) is ANSWER
    finally:
        await attached.stop()
    attached = AttachedRegistry(kept, LocalServices())
    assert await attached.unpack(RouteKey("plain", "Other", "Say"), ANSWER) is ANSWER
    assert await attached.unpack(RouteKey("pl/ain", "", ""), ANSWER) is ANSWER
    broken = AnyMessage(type_url="type.googleapis.com/a.User", value=b"\xff")
    with pytest.raises(CollectiveError, match=r"not a a\.User"):
        await attached.unpack(RouteKey("plain", "Echo", "Say"), broken)


async def test_types_from_afar_age_and_are_limited(
    kept: LocalRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dodici.collective.registry.attached._TYPES_KEPT", 3)
    now = 0.0
    async with serving(kept) as (address, face):
        attached = AttachedRegistry(address, LocalServices(), clock=lambda: now)
        try:
            for calls in (1, 1, 2):
                assert (await attached.unpack(RouteKey("plain", "Echo", "Say"), ANSWER)).name == "n"
                assert face.calls == calls
                now += 20
            for number in range(5):
                await attached.unpack(RouteKey("plain", f"S{number}", "Say"), ANSWER)
            assert len(attached._types) == 3
        finally:
            await attached.stop()


async def test_a_registry_that_cannot_be_opened_keeps_the_collector_from_starting(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    path.write_text("no database at all, " * 100)
    collector, _ = make(registry=f"sqlite:{path}")
    error = await failing(collector.start())
    assert (error.grpc_status, collector.started) == (GrpcStatus.DATA_LOSS, False)
    path.unlink()
    async with collector:
        await settled(collector)


async def test_an_address_in_use_closes_the_registry_again(tmp_path: Path) -> None:
    first, _ = make()
    async with first:
        second, _ = make(first.address, registry=f"sqlite:{tmp_path / 'registry.db'}")
        with pytest.raises(SocketError):
            await second.start()
        assert isinstance(second.registry, LocalRegistry)
        assert (await failing(second.registry.store.refresh())).message.endswith("is not open")


def test_what_is_no_registry() -> None:
    with pytest.raises(InvalidArgumentError, match="not a registry: 'disk'"):
        make(registry="disk")
    assert make()[0].registry is None


async def test_a_registry_stays_open_for_whoever_made_it(tmp_path: Path) -> None:
    async with running(SQLiteStore(tmp_path / "registry.db")) as registry:
        for name in ("One", "Two"):
            collector, _ = make(registry=registry)
            collector.register_service("extra", name, "Get", lambda context, given: given)
            async with collector:
                await settled(collector)
        assert await names(registry) == ["extra/One", "extra/Two", *ALL]
        assert (await registry.register_service("extra", service("Three"))).version == 1

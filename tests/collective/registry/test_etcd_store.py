"""The store in etcd, against a real one that is killed, wiped and written to by others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.collective.registry.registry_kit import failing, file, running, service, status_of

pytest.importorskip("grpc", reason="grpcio is not installed")

from tests.collective.discovery.etcd_kit import Etcd, client_of, etcd

from dodici.collective.discovery import EtcdConfig
from dodici.collective.discovery.watch import Listing
from dodici.collective.protos import etcd_pb2 as pb
from dodici.collective.registry import EtcdStore, LocalRegistry, LocalValidator, validate_route
from dodici.collective.registry.catalogue import Draft, Kind, service_content
from dodici.core.grpc_status import GrpcStatus

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    with etcd(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture
def store(shared: Etcd, request: pytest.FixtureRequest) -> Callable[[], EtcdStore]:
    """Makes stores of one prefix, which is the test's own."""
    return lambda: EtcdStore(shared.config(f"/{request.node.name}"))


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Etcd]:
    with etcd(tmp_path) as server:
        yield server


async def until(check: Callable[[], Any]) -> None:
    """Wait for what a watch brings."""
    async with asyncio.timeout(20):
        while not check():
            await asyncio.sleep(0.01)


async def test_registered_in_one_process_and_known_in_another(store: Callable[[], EtcdStore]) -> None:
    async with running(store()) as one, running(store()) as two:
        assert (await one.services(), one.known("users", "a.UserService", "GetUser")) == ((), False)
        made = await one.register_service("users", service(types=".a.User"), file())
        assert (made.version, one.known("users", "a.UserService", "GetUser")) == (1, True)
        await until(lambda: two.known("users", "UserService", "GetUser"))
        assert await two.lookup("users", "a.UserService") == made
        assert (await two.register_service("users", service("UserService", "Other"), file())).version == 2
        await until(lambda: one.known("users", "UserService", "Other"))
        assert (await one.types("users", "UserService")).message("a.User") is not None
    async with running(store()) as three:
        assert (await three.lookup("users", "UserService")).version == 2
        assert (await three.register_service("users", service("UserService", "Other"), file())).version == 2


async def test_what_is_asked_before_the_first_answer_waits_for_it(store: Callable[[], EtcdStore]) -> None:
    async with running(store()) as one:
        await one.register_service("users", service())
    for ask in (
        lambda registry: registry.lookup("users", "UserService"),
        lambda registry: registry.services("users"),
        lambda registry: validate_route(LocalValidator(registry), "users", "UserService", "GetUser"),
    ):
        async with running(store()) as two:
            assert not two.store.current
            await ask(two)
            assert two.store.current


async def test_names_with_anything_in_them(store: Callable[[], EtcdStore]) -> None:
    async with running(store()) as one, running(store()) as two:
        await one.register_proto("a%b", file("dir/sub/x y.proto"))
        await one.register_service("a%b", service("S%2F.x"))
        await until(lambda: two.known("a%b", "S%2F.x", "GetUser"))
        assert two.store.catalogue.keys() == one.store.catalogue.keys()


async def test_many_register_the_same_at_once(store: Callable[[], EtcdStore]) -> None:
    async with running(store()) as one, running(store()) as two:
        done = await asyncio.gather(
            *((one, two)[n % 2].register_service("n", service("S", f"M{n // 2}")) for n in range(6))
        )
        last = max(each.version for each in done)
        for registry in (one, two):
            await until(lambda: registry.store.catalogue.service("n", "S").message.version == last)  # noqa: B023
        assert await one.lookup("n", "S") == await two.lookup("n", "S")
        drafts = [Draft(Kind.FILE, "n", f"{n}.proto", b"") for n in range(129)]
        assert await status_of(one.store.put(drafts)) is GrpcStatus.RESOURCE_EXHAUSTED


async def test_keys_that_others_delete_make_again_or_spoil(
    store: Callable[[], EtcdStore], shared: Etcd, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(store()) as registry, client_of(shared.config()) as client:
        await registry.register_service("n", service("S", "Old"))
        await registry.register_service("n", service("S", "Newer"))
        (key,) = registry.store._keys  # type: ignore[attr-defined]
        await client.delete(key)
        await until(lambda: registry.store.catalogue.service("n", "S") is None)
        assert (await registry.register_service("n", service("S", "Again"))).version == 1
        await client.put(key, b"\xff")
        await client.put(key.rpartition(b"/")[0] + b"/x/y", b"")
        await registry.register_service("n", service("Other"))

        # grpc has words of its own there, of loops that other tests have closed.
        def told() -> list[str]:
            return [each.getMessage() for each in caplog.records if each.name == "dodici.collective"]

        await until(lambda: len(told()) >= 2)
        assert registry.known("n", "Other", "GetUser")
        assert all("passes over a key in etcd" in text for text in told())


async def test_a_list_after_a_gap_replaces_what_was_known() -> None:
    store = EtcdStore(EtcdConfig(("127.0.0.1:1",)))

    def key(method: str, *, made: int, changed: int, version: int) -> pb.KeyValue:
        return pb.KeyValue(
            key=b"/dodici/registry/service/n/S",
            value=service_content("n", service("S", method), None),
            create_revision=made,
            mod_revision=changed,
            version=version,
        )

    def methods() -> list[str]:
        found = store.catalogue.service("n", "S")
        return [] if found is None else list(found.message.method_names)

    store._hear(Listing((key("Old", made=2, changed=5, version=3),), 5))
    # Deleted and made again while nobody watched: its version is less than the one that was known.
    store._hear(Listing((key("New", made=7, changed=7, version=1),), 8))
    assert methods() == ["New"]
    # Written here after the list was made.
    store._take(key("Own", made=7, changed=10, version=2))
    store._hear(Listing((), 9))
    assert methods() == ["Own"]
    store._hear(Listing((), 10))
    assert methods() == []


async def test_while_etcd_is_away_what_is_known_stays_known(own: Etcd) -> None:
    async with running(EtcdStore(own.config())) as registry:
        await registry.register_service("users", service())
        validator = LocalValidator(registry)
        await until(lambda: registry.store.current)
        own.kill()
        await until(lambda: registry.store._interrupted is not None)  # type: ignore[attr-defined]
        for _ in range(3):
            assert validator.validate_service_method("users", "UserService", "GetUser") is True
            assert (await registry.lookup("users", "UserService")).version == 1
            assert len(await registry.services()) == 1
        # What is not known may have been registered by somebody else.
        assert await status_of(validate_route(validator, "users", "Other", "Get")) is GrpcStatus.UNAVAILABLE
        assert await status_of(registry.register_service("users", service("Other"))) in {
            GrpcStatus.UNAVAILABLE,
            GrpcStatus.DEADLINE_EXCEEDED,
        }
        own.restart()
        await until(lambda: registry.store._interrupted is None)  # type: ignore[attr-defined]
        assert (await registry.register_service("users", service("Other"))).version == 1
        assert (await registry.register_service("users", service("UserService", "New"))).version == 2


async def test_an_etcd_that_lost_its_data(own: Etcd) -> None:
    async with running(EtcdStore(own.config())) as registry:
        for number in range(5):
            await registry.register_service("users", service(f"S{number}"))
        await until(lambda: registry.store._watched >= 5)  # type: ignore[attr-defined]
        own.restart(wipe=True)
        await until(lambda: not registry.store.catalogue.keys())
        assert (await registry.register_service("users", service("S1"))).version == 1


async def test_an_etcd_that_is_not_there_at_the_start(own: Etcd) -> None:
    own.kill()
    registry = LocalRegistry(EtcdStore(own.config(timeout=0.3)))
    await registry.start()  # returns at once
    try:
        error = await failing(validate_route(LocalValidator(registry), "users", "UserService", "GetUser"))
        assert (error.grpc_status, "cannot be asked" in error.message) == (GrpcStatus.UNAVAILABLE, True)
        assert await status_of(registry.services()) is GrpcStatus.UNAVAILABLE
        own.restart()
        await until(lambda: registry.store.current)
        assert (await registry.register_service("users", service())).version == 1
        await validate_route(LocalValidator(registry), "users", "UserService", "GetUser")
    finally:
        await registry.stop()
    assert await status_of(registry.store.put([])) is GrpcStatus.UNAVAILABLE

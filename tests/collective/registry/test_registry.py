"""What a registry takes, refuses and answers, whatever keeps it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, ServiceDescriptorProto
from tests.collective.registry.registry_kit import failing, file, running, service, status_of

from dodici.collective.registry import LocalRegistry, MemoryStore, SQLiteStore
from dodici.core.errors import InvalidArgumentError
from dodici.core.grpc_status import GrpcStatus


@pytest.fixture(params=["memory", "sqlite"])
async def registry(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LocalRegistry]:
    store = MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "registry.db")
    async with running(store) as made:
        yield made


async def test_a_service_is_found_with_what_it_was_registered_with(registry: LocalRegistry) -> None:
    made = await registry.register_service("users", service("UserService", "GetUser", "PutUser"), file())
    assert (made.id, made.namespace, made.service_name) == ("users/a.UserService", "users", "a.UserService")
    assert (list(made.method_names), made.version) == (["GetUser", "PutUser"], 1)
    assert await registry.lookup("users", "a.UserService") == made
    assert await registry.lookup("users", "UserService") == made
    assert list(await registry.services("users")) == list(await registry.services()) == [made]
    assert await registry.services("orders") == ()


@pytest.mark.weak_spot(24)
async def test_a_changed_service_is_an_update_with_the_next_version(registry: LocalRegistry) -> None:
    versions = [
        (await registry.register_service("users", service("UserService", *methods))).version
        for methods in (["Get"], ["Get"], ["Get", "Put"], ["Put"], ["Put"])
    ]
    assert versions == [1, 1, 2, 3, 3]
    assert (await registry.validate("users", "UserService", "Put")).valid
    assert not (await registry.validate("users", "UserService", "Get")).valid
    assert len(await registry.services("users")) == 1


@pytest.mark.weak_spot(17)
async def test_registering_one_of_two_packages_does_not_admit_the_other(registry: LocalRegistry) -> None:
    await registry.register_service("users", service(), file(package="a"))
    assert (await registry.validate("users", "a.UserService", "GetUser")).valid
    refused = await registry.validate("users", "b.UserService", "GetUser")
    assert (refused.valid, refused.message) == (
        False,
        "service 'b.UserService' is not registered in namespace 'users'",
    )
    await registry.register_service("users", service("UserService", "Other"), file("b.proto", "b"))
    assert not (await registry.validate("users", "a.UserService", "Other")).valid
    assert not (await registry.validate("users", "b.UserService", "GetUser")).valid
    # The short name stays with the first that had it, as in a collector.
    assert (await registry.validate("users", "UserService", "GetUser")).valid
    assert not (await registry.validate("users", "UserService", "Other")).valid


async def test_an_exact_name_wins_over_a_short_one(registry: LocalRegistry) -> None:
    await registry.register_service("users", service(), file())
    await registry.register_service("users", service("UserService", "Exact"))
    assert (await registry.lookup("users", "UserService")).service_name == "UserService"
    assert (await registry.lookup("users", "a.UserService")).service_name == "a.UserService"


@pytest.mark.weak_spot(18)
async def test_asking_changes_nothing(registry: LocalRegistry) -> None:
    for _ in range(2):
        assert not (await registry.validate("users", "UserService", "GetUser")).valid
        assert await status_of(registry.lookup("users", "UserService")) is GrpcStatus.NOT_FOUND
        assert await status_of(registry.types("users", "UserService")) is GrpcStatus.NOT_FOUND
    assert await registry.services() == ()
    assert registry.store.catalogue.keys() == set()


async def test_a_refusal_says_which_part_is_unknown(registry: LocalRegistry) -> None:
    await registry.register_service("users", service())
    assert [
        (await registry.validate(*key)).message
        for key in (("x", "UserService", "GetUser"), ("users", "x", "GetUser"), ("users", "UserService", "x"))
    ] == [
        "no service is registered in namespace 'x'",
        "service 'x' is not registered in namespace 'users'",
        "service 'UserService' in namespace 'users' is registered without a method 'x'",
    ]


async def test_namespaces_are_kept_apart(registry: LocalRegistry) -> None:
    await registry.register_service("one", service("S", "A", types=".a.User"), file(messages=["User"]))
    await registry.register_service("two", service("S", "B", types=".a.User"), file(messages=["User", "X"]))
    assert not (await registry.validate("two", "S", "A")).valid
    one, two = await registry.types("one", "S"), await registry.types("two", "S")
    assert (one.message("a.X"), two.message("a.X") is None) == (None, False)


@pytest.mark.parametrize(
    "wrong",
    [
        ("", service(), None, "namespace is empty"),
        ("a/b", service(), None, "namespace may have"),
        ("users", ServiceDescriptorProto(), None, "service_descriptor.name is empty"),
        ("users", service("S", "A/B"), None, "a method of S may have"),
    ],
    ids=["no namespace", "slash", "no name", "method"],
)
async def test_names_that_cannot_be(registry: LocalRegistry, wrong: tuple[str, ...]) -> None:
    namespace, given, defined, text = wrong
    with pytest.raises(InvalidArgumentError, match=text):
        await registry.register_service(namespace, given, defined)  # type: ignore[arg-type]
    assert await registry.services() == ()


@pytest.mark.parametrize(
    ("given", "defined", "text"),
    [
        (service("S", "A", "A"), None, "S has two methods 'A'"),
        (service("b.S"), file(), "service 'b.S' is not of the package of its file, 'a'"),
        (service(), file(""), "file_descriptor.name is empty"),
        (service("S", "A"), file(services=[service("S", "B")]), "service 'S' has other methods"),
        (service(), file(imports=["users.proto"]), "users.proto imports itself"),
        (service(), file(fields={"other": ".a.Missing"}), "users.proto is not a valid file descriptor"),
    ],
    ids=["twice", "package", "unnamed", "differs", "circle", "broken"],
)
async def test_services_that_are_wrong(
    registry: LocalRegistry, given: ServiceDescriptorProto, defined: FileDescriptorProto | None, text: str
) -> None:
    error = await failing(registry.register_service("users", given, defined))
    assert error.grpc_status is GrpcStatus.INVALID_ARGUMENT
    assert text in error.message
    assert registry.store.catalogue.keys() == set()


async def test_a_file_is_registered_with_its_imports(registry: LocalRegistry) -> None:
    base = file("base.proto", "base", ["Base"])
    users = file(imports=["base.proto"], fields={"base": ".base.Base"})
    error = await failing(registry.register_proto("users", users))
    assert (error.grpc_status, "not registered, here or as a dependency: base.proto" in error.message) == (
        GrpcStatus.INVALID_ARGUMENT,
        True,
    )
    made = await registry.register_proto("users", users, [base])
    assert (made.id, made.messages, made.version) == ("users/users.proto", ("a.User",), 1)
    assert (await registry.register_proto("users", base)).version == 1
    # Its import is there now, and in this namespace alone.
    assert (await registry.register_proto("users", users)).version == 1
    assert await status_of(registry.register_proto("orders", users)) is GrpcStatus.INVALID_ARGUMENT


async def test_a_changed_file_is_an_update_unless_others_need_what_it_had(registry: LocalRegistry) -> None:
    base = file("base.proto", "base", ["Base", "Spare"])
    await registry.register_proto(
        "users", file(imports=["base.proto"], fields={"base": ".base.Base"}), [base]
    )
    assert (await registry.register_proto("users", file("base.proto", "base", ["Base"]))).version == 2
    error = await failing(registry.register_proto("users", file("base.proto", "base", ["Spare"])))
    assert error.grpc_status is GrpcStatus.FAILED_PRECONDITION
    assert error.message.startswith("users.proto, which is registered, could not import this any more")
    assert (await registry.register_proto("users", file("base.proto", "base", ["Base"]))).version == 2


async def test_comments_are_no_new_version(registry: LocalRegistry) -> None:
    commented = file()
    commented.source_code_info.location.add(leading_comments="said")
    assert (await registry.register_proto("users", file())).version == 1
    assert (await registry.register_proto("users", commented)).version == 1


async def test_files_of_protobuf_itself_need_not_be_registered_and_may_be(registry: LocalRegistry) -> None:
    from google.protobuf import timestamp_pb2

    stamp = FileDescriptorProto.FromString(timestamp_pb2.DESCRIPTOR.serialized_pb)
    imports = ["google/protobuf/timestamp.proto"]
    users = file(imports=imports, fields={"at": ".google.protobuf.Timestamp"})
    await registry.register_proto("users", users)
    await registry.register_proto("users", users, [stamp])
    made = await registry.register_proto("users", stamp)
    assert (made.messages, made.version) == (("google.protobuf.Timestamp",), 1)


async def test_what_others_can_make_grow_is_limited(tmp_path: Path) -> None:
    async with running(max_services=2, max_file=100) as registry:
        for name in ("A", "B", "A"):
            await registry.register_service("n", service(name))
        error = await failing(registry.register_service("n", service("C")))
        assert (error.grpc_status, error.message) == (
            GrpcStatus.RESOURCE_EXHAUSTED,
            "the registry is full: it has 2 services",
        )
        await registry.register_service("n", service("B", "Changed"))
        for name in ("1.proto", "2.proto"):
            await registry.register_proto("n", file(name))
        assert await status_of(registry.register_proto("n", file("3.proto"))) is GrpcStatus.RESOURCE_EXHAUSTED
        large = file("1.proto", messages=["M" * 200])
        assert (await failing(registry.register_proto("n", large))).message.startswith("file 1.proto has ")
        assert len(await registry.services()) == 2


async def test_concurrent_registrations_of_one_service_end_with_one_of_them(registry: LocalRegistry) -> None:
    done = await asyncio.gather(
        *(registry.register_service("n", service("S", f"M{number}")) for number in range(50))
    )
    assert {each.service_name for each in done} == {"S"}
    found = await registry.lookup("n", "S")
    assert found.version == 50
    assert list(found.method_names) == ["M49"]


async def test_what_is_said_and_what_goes_without_saying_is_the_same(registry: LocalRegistry) -> None:
    brief, wordy = ServiceDescriptorProto(name="S"), ServiceDescriptorProto(name="S")
    brief.method.add(name="Get")
    wordy.method.add(
        name="Get", input_type="", output_type="", client_streaming=False, server_streaming=False
    )
    versions = [(await registry.register_service("n", each)).version for each in (brief, wordy, brief)]
    assert versions == [1, 1, 1]

"""Typed conversion by registered descriptors."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import StringValue
from tests.collective.kit import descriptor, order
from tests.collective.registry.registry_kit import failing, file, running, service

from dodici.collective.names import CallKind
from dodici.collective.registry import LocalRegistry, ServiceTypes, register_descriptor
from dodici.collective.registry.catalogue import Draft, Kind, file_content
from dodici.core.errors import InvalidArgumentError
from dodici.core.grpc_status import GrpcStatus


async def types_of(registry: LocalRegistry, **options: Any) -> ServiceTypes:
    await registry.register_service("users", service(types=".a.User"), file(**options))
    return await registry.types("users", "UserService")


async def test_dicts_become_messages_and_messages_become_dicts() -> None:
    async with running() as registry:
        types = await types_of(registry)
        packed = types.pack("GetUser", {"name": "n"})
        assert (packed.type_url, packed.value) == ("type.googleapis.com/a.User", b"\x0a\x01n")
        user = types.unpack(packed)
        assert (user.name, types.types.to_json(user)) == ("n", {"name": "n"})
        assert types.pack("GetUser", None).value == b""
        assert types.pack("GetUser", user) == packed
        assert types.pack("GetUser", packed) is packed
        assert types.output("GetUser", {"name": "n"}) == user


async def test_types_that_nobody_registered_stay_any() -> None:
    async with running() as registry:
        types = await types_of(registry)
        unknown = AnyMessage(type_url="type.googleapis.com/b.User", value=b"\x0a\x01n")
        assert types.unpack(unknown) is unknown
        await registry.register_service("users", service("Plain", "Say"))
        plain = await registry.types("users", "Plain")
        assert plain.methods["Say"] == (None, None, CallKind.UNARY_UNARY, False)
        assert plain.unpack(plain.pack("Say", {"name": "n"})) == {"name": "n"}
        # Another service's types are known in its namespace, and in no other.
        assert plain.unpack(types.pack("GetUser", {"name": "n"})).name == "n"
        await registry.register_service("orders", service("Plain", "Say"))
        other = await registry.types("orders", "Plain")
        assert isinstance(other.unpack(types.pack("GetUser", {})), AnyMessage)


async def test_types_of_one_name_in_two_namespaces_never_meet() -> None:
    async with running() as registry:
        for namespace, message in (("one", "old"), ("two", "new")):
            defined = file()
            defined.message_type[0].field[0].name = defined.message_type[0].field[0].json_name = message
            await registry.register_service(namespace, service(types=".a.User"), defined)
        one, two = await registry.types("one", "UserService"), await registry.types("two", "UserService")
        assert one.pack("GetUser", {"old": "x"}).value == two.pack("GetUser", {"new": "x"}).value
        assert (await failing(_packing(one, {"new": "x"}))).grpc_status is GrpcStatus.INVALID_ARGUMENT


async def _packing(types: ServiceTypes, value: Any) -> Any:
    return types.pack("GetUser", value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"nobody": 1}, "no a.User: "),
        ({"name": 1}, "no a.User: "),
        ("n", "a a.User is due, not a google.protobuf.StringValue"),
        (Struct(), "a a.User is due, not a google.protobuf.Struct"),
    ],
    ids=["field", "kind", "value", "message"],
)
async def test_values_that_do_not_fit(value: Any, text: str) -> None:
    async with running() as registry:
        error = await failing(_packing(await types_of(registry), value))
        assert (error.grpc_status, error.message.startswith(text)) == (GrpcStatus.INVALID_ARGUMENT, True)


async def test_a_broken_payload_and_a_method_that_is_none() -> None:
    async with running() as registry:
        types = await types_of(registry)

        async def unpack() -> None:
            types.unpack(AnyMessage(type_url="t/a.User", value=b"\xff"))

        assert (await failing(unpack())).message.startswith("not a a.User")
        with pytest.raises(InvalidArgumentError, match="no such method: 'X'; there are GetUser"):
            types.input("X", None)


async def test_protobufs_own_types_need_no_registration() -> None:
    async with running() as registry:
        types = await types_of(
            registry,
            imports=["google/protobuf/timestamp.proto", "google/protobuf/any.proto", "google/protobuf/struct.proto"],
            fields={
                "at": ".google.protobuf.Timestamp",
                "what": ".google.protobuf.Any",
                "free": ".google.protobuf.Struct",
            },
        )  # fmt: skip
        value = {
            "at": "2026-01-02T03:04:05Z",
            "what": {"@type": "type.googleapis.com/a.User", "name": "inner"},
            "free": {"x": [1.0, None]},
        }
        user = types.unpack(types.pack("GetUser", value))
        assert user.at.seconds == 1767323045
        assert types.types.to_json(user) == value
        assert types.unpack(AnyMessage(type_url="t/google.protobuf.StringValue", value=b"\x0a\x01x")) == "x"
        text = service("Texts", types=".google.protobuf.StringValue")
        defined = file("texts.proto", "a", [], imports=["google/protobuf/wrappers.proto"])
        await registry.register_service("users", text, defined)
        texts = await registry.types("users", "Texts")
        assert StringValue.FromString(texts.pack("GetUser", "x").value).value == "x"


async def test_imports_that_come_later() -> None:
    async with running() as registry:
        types = await types_of(registry, imports=["base.proto"], fields={"base": ".base.Base"})
        assert types.types.missing == ("base.proto",)
        assert types.methods["GetUser"].input is None
        await registry.register_proto("users", file("base.proto", "base", ["Base"]))
        types = await registry.types("users", "UserService")
        assert types.types.missing == ()
        assert types.pack("GetUser", {"base": {"name": "b"}}).value == b"\x12\x03\x0a\x01b"


async def test_classes_stay_while_their_files_do() -> None:
    async with running() as registry:
        before = (await types_of(registry)).methods["GetUser"].input
        await registry.register_proto("users", file("other.proto", "other"))
        assert (await registry.types("users", "UserService")).methods["GetUser"].input is before
        await registry.register_proto("users", file(messages=["User", "More"]))
        assert (await registry.types("users", "UserService")).methods["GetUser"].input is not before


async def test_files_of_several_writers_that_do_not_fit_together(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as registry:
        await types_of(registry)
        broken = file(fields={"x": ".a.Missing"})
        await registry.store.put([Draft(Kind.FILE, "users", "users.proto", file_content(broken))])
        types = await registry.types("users", "UserService")
        assert types.methods["GetUser"].input is None
        assert "no types of users.proto in namespace users" in caplog.text


async def test_relative_names_of_types() -> None:
    async with running() as registry:
        defined = file(package="shop.v1")
        for name, kind in (("Own", "User"), ("Part", "v1.User"), ("Full", "shop.v1.User"), ("None", "Other")):
            await registry.register_service("users", service(name, types=kind), defined)
        found = {
            name: (await registry.types("users", name)).methods["GetUser"].input is not None
            for name in ("Own", "Part", "Full", "None")
        }
        assert found == {"Own": True, "Part": True, "Full": True, "None": False}


async def test_a_service_by_the_descriptor_of_its_stubs() -> None:
    async with running() as registry:
        made = await register_descriptor(registry, "shop", descriptor())
        assert (made.service_name, made.version) == ("kit.shop.OrderService", 1)
        assert (await register_descriptor(registry, "shop", descriptor())).version == 1
        types = await registry.types("shop", "OrderService")
        assert {name: (each.kind, each.idempotent) for name, each in types.methods.items()} == {
            "Create": (CallKind.UNARY_UNARY, False),
            "List": (CallKind.UNARY_STREAM, True),
            "Sum": (CallKind.STREAM_UNARY, False),
            "Chat": (CallKind.STREAM_STREAM, False),
            "Fail": (CallKind.UNARY_UNARY, False),
            "Hold": (CallKind.UNARY_UNARY, False),
        }
        packed = types.pack("Create", {"sku": "a", "count": 3})
        assert packed.value == order("a", 3).SerializeToString()
        # Classes of the registry's pool and of the program's own understand each other.
        assert types.pack("Create", order("a", 3)) == packed
        assert descriptor().methods[1].GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS
        with pytest.raises(InvalidArgumentError, match="must be a ServiceDescriptor"):
            await register_descriptor(registry, "shop", "OrderService")

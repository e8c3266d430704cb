"""The five RPCs: from stubs of the published schema, and through RemoteRegistry."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.collective.kit import published_stubs
from tests.collective.registry.registry_kit import (
    Face,
    failing,
    file,
    running,
    service,
    serving,
    status_of,
)

from dodici.collective.data_plane import Channel
from dodici.collective.errors import call_error
from dodici.collective.grpc_server import Server, unary_unary
from dodici.collective.protos import collector_pb2, registry_pb2 as pb
from dodici.collective.registry import LocalRegistry, Registry, RegistryServer, RemoteRegistry, Verdict
from dodici.core.errors import InvalidArgumentError
from dodici.core.grpc_status import GrpcStatus


@pytest.fixture
async def registry() -> AsyncIterator[LocalRegistry]:
    async with running() as made:
        yield made


@pytest.fixture
async def remote(registry: LocalRegistry) -> AsyncIterator[RemoteRegistry]:
    async with serving(registry) as (address, _):
        made = RemoteRegistry(address)
        await made.start()
        try:
            yield made
        finally:
            await made.stop()


async def test_stubs_made_of_the_published_files(registry: LocalRegistry, tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    theirs = published_stubs(tmp_path)["registry"]
    async with serving(registry) as (address, _):
        channel = Channel(address)

        async def ask(method: str, **fields: Any) -> Any:
            request = getattr(theirs, f"{method}Request")(**fields)
            payload = await channel.unary(
                f"/collector.CollectorRegistry/{method}", request.SerializeToString(), timeout=5
            )
            return getattr(theirs, f"{method}Response").FromString(payload)

        try:
            made = await ask("RegisterProto", namespace="users", file_descriptor=file())
            assert (made.status.code, made.proto_id) == (200, "users/users.proto")
            assert list(made.registered_messages) == ["a.User"]

            made = await ask(
                "RegisterService",
                namespace="users",
                service_descriptor=service(types=".a.User"),
                file_descriptor=file(),
            )
            assert (made.status.code, made.service_id) == (200, "users/a.UserService")
            assert list(made.registered_methods) == ["GetUser"]

            found = await ask("LookupService", namespace="users", service_name="UserService")
            assert (found.status.code, found.service.service_name) == (200, "a.UserService")
            assert [each.name for each in found.service.files] == ["users.proto"]

            valid = await ask(
                "ValidateMethod", namespace="users", service_name="a.UserService", method_name="GetUser"
            )
            assert (valid.status.code, valid.is_valid, valid.message) == (200, True, "")
            invalid = await ask(
                "ValidateMethod", namespace="users", service_name="b.UserService", method_name="GetUser"
            )
            assert (invalid.status.code, invalid.is_valid) == (200, False)
            assert "'b.UserService' is not registered" in invalid.message

            listed = await ask("ListServices")
            assert [each.service_name for each in listed.services] == ["a.UserService"]
            assert (await ask("ListServices", namespace="orders")).status.code == 200
        finally:
            await channel.close()


@pytest.mark.parametrize(
    ("method", "request_", "code", "name", "message"),
    [
        ("LookupService", pb.LookupServiceRequest(namespace="n", service_name="S"), 404, "NOT_FOUND", "service 'S'"),
        ("LookupService", pb.LookupServiceRequest(service_name="S"), 400, "INVALID_ARGUMENT", "namespace is empty"),
        ("ValidateMethod", pb.ValidateMethodRequest(namespace="n"), 400, "INVALID_ARGUMENT", "service is empty"),
        ("RegisterService", pb.RegisterServiceRequest(namespace="n"), 400, "INVALID_ARGUMENT", "service_descriptor.name is empty"),
        ("RegisterProto", pb.RegisterProtoRequest(namespace="n"), 400, "INVALID_ARGUMENT", "file_descriptor.name is empty"),
        ("ListServices", pb.ListServicesRequest(namespace="a/b"), 400, "INVALID_ARGUMENT", "namespace may have"),
    ],
    ids=["unknown", "no namespace", "no service", "no descriptor", "no file", "slash"],
)  # fmt: skip
async def test_failures_are_in_the_status_of_the_answer(
    registry: LocalRegistry, method: str, request_: Any, code: int, name: str, message: str
) -> None:
    async with serving(registry) as (address, _):
        channel = Channel(address)
        try:
            payload = await channel.unary(
                f"/collector.CollectorRegistry/{method}", request_.SerializeToString(), timeout=5
            )
        finally:
            await channel.close()
    status = getattr(pb, f"{method}Response").FromString(payload).status
    assert (status.code, status.details["grpc-status"]) == (code, name)
    assert status.message.startswith(message)


async def test_a_remote_registry_is_like_a_local_one(registry: LocalRegistry, remote: RemoteRegistry) -> None:
    assert isinstance(remote, Registry)
    assert isinstance(registry, Registry)
    base = file("base.proto", "base", ["Base"])
    users = file(imports=["base.proto"], fields={"base": ".base.Base"})
    assert await remote.register_proto("users", users, [base]) == await registry.register_proto(
        "users", users
    )
    for given, defined in ((service(types=".a.User"), users), (service("Plain"), None)):
        made = await remote.register_service("users", given, defined)
        kept = await registry.lookup("users", made.service_name)
        assert (made.id, made.service_name, made.version) == (kept.id, kept.service_name, kept.version)
        assert list(made.method_names) == list(kept.method_names)
    found = await remote.lookup("users", "UserService")
    assert [each.name for each in found.files] == ["base.proto", "users.proto"]
    assert await remote.services() == await registry.services()
    for key in (("users", "UserService", "GetUser"), ("users", "x", "y")):
        assert await remote.validate(*key) == await registry.validate(*key)
    error = await failing(remote.lookup("users", "x"))
    assert (error.grpc_status, error.status, error.peer) == (GrpcStatus.NOT_FOUND, 404, remote.address)
    with pytest.raises(InvalidArgumentError, match="method is empty"):
        await remote.validate("users", "x", "")


async def test_types_travel(registry: LocalRegistry, remote: RemoteRegistry) -> None:
    base = file("base.proto", "base", ["Base"])
    users = file(imports=["base.proto"], fields={"base": ".base.Base"})
    await registry.register_proto("users", users, [base])
    await registry.register_service("users", service(types=".a.User"), users)
    here, there = await registry.types("users", "UserService"), await remote.types("users", "UserService")
    value = {"name": "n", "base": {"name": "b"}}
    assert there.pack("GetUser", value) == here.pack("GetUser", value)
    assert there.types.to_json(there.unpack(here.pack("GetUser", value))) == value


async def test_asking_from_far_changes_nothing(registry: LocalRegistry, remote: RemoteRegistry) -> None:
    for _ in range(2):
        assert not (await remote.validate("n", "S", "M")).valid
        assert await status_of(remote.lookup("n", "S")) is GrpcStatus.NOT_FOUND
    assert registry.store.catalogue.keys() == set()


class Guard:
    """Lets list and look up "open", and nothing else."""

    def check(self, identity: Any, namespace: str, service: str, method: str) -> None:
        assert service == "collector.CollectorRegistry"
        if namespace != "open" or method.startswith("Register"):
            raise call_error(GrpcStatus.PERMISSION_DENIED, f"not {method} in {namespace}")


async def test_an_authorizer_is_asked_and_lists_are_filtered(registry: LocalRegistry) -> None:
    await registry.register_service("open", service())
    await registry.register_service("shut", service())
    async with serving(registry, Guard()) as (address, _):
        remote = RemoteRegistry(address)
        try:
            assert [each.namespace for each in await remote.services()] == ["open"]
            assert (await remote.lookup("open", "UserService")).version == 1
            refused = [
                remote.services("shut"),
                remote.lookup("shut", "UserService"),
                remote.validate("shut", "UserService", "GetUser"),
                remote.register_service("open", service("New")),
                remote.register_proto("open", file()),
            ]
            for asked in refused:
                error = await failing(asked)
                assert (error.grpc_status, error.status) == (GrpcStatus.PERMISSION_DENIED, 403)
        finally:
            await remote.stop()
    assert len(await registry.services("open")) == 1
    assert registry.store.catalogue.file_count == 0


async def test_what_goes_wrong_inside_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(LocalRegistry):
        async def validate(self, namespace: str, service: str, method: str) -> Verdict:
            raise ValueError("a secret")

    async with serving(Broken()) as (address, _):
        remote = RemoteRegistry(address)
        try:
            error = await failing(remote.validate("n", "S", "M"))
        finally:
            await remote.stop()
    assert (error.grpc_status, error.message) == (
        GrpcStatus.INTERNAL,
        "the registry has failed at ValidateMethod",
    )
    assert "a secret" in caplog.text


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        (b"\xff", GrpcStatus.INTERNAL, "answers what is none"),
        (b"", GrpcStatus.UNKNOWN, "answers 0"),
        (
            pb.ValidateMethodResponse(status=collector_pb2.Status(code=200 + 303)).SerializeToString(),
            GrpcStatus.UNAVAILABLE,
            "answers 503",
        ),
        (
            pb.ValidateMethodResponse(
                status=collector_pb2.Status(code=500, details={"grpc-status": "OK"}), is_valid=True
            ).SerializeToString(),
            GrpcStatus.UNKNOWN,
            "answers 500",
        ),
    ],
    ids=["garbage", "empty", "unavailable", "contradiction"],
)
async def test_an_answer_that_is_no_clear_yes(answer: bytes, status: GrpcStatus, message: str) -> None:
    async def reply(_: Any, call: Any) -> bytes:
        return answer

    server = Server(Face({"/collector.CollectorRegistry/ValidateMethod": unary_unary(reply)}), "127.0.0.1:0")
    await server.start()
    remote = RemoteRegistry(server.address)
    try:
        error = await failing(remote.validate("n", "S", "M"))
    finally:
        await remote.stop()
        await server.stop(None)
    assert (error.grpc_status, message in error.message) == (status, True)


async def test_a_server_that_has_no_registry() -> None:
    server = Server(Face({}), "127.0.0.1:0")
    await server.start()
    remote = RemoteRegistry(server.address)
    try:
        assert await status_of(remote.services()) is GrpcStatus.UNIMPLEMENTED
    finally:
        await remote.stop()
        await server.stop(None)


def test_the_server_has_the_five_methods() -> None:
    assert set(RegistryServer(LocalRegistry()).handlers()) == {
        f"/collector.CollectorRegistry/{name}"
        for name in ("RegisterProto", "RegisterService", "LookupService", "ValidateMethod", "ListServices")
    }


def test_arguments_of_a_remote_registry() -> None:
    with pytest.raises(InvalidArgumentError, match="not an address"):
        RemoteRegistry("nowhere")
    with pytest.raises(InvalidArgumentError, match="timeout"):
        RemoteRegistry("127.0.0.1:1", timeout=0)

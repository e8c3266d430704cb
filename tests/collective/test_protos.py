"""The schemas: the bytes that are promised, the code made of them, and stubs of other people in the same process."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor_pb2 import FileDescriptorProto, ServiceDescriptorProto
from tests.collective.kit import PROTOS, published_stubs

from dodici.collective.protos import collector_pb2, etcd_pb2, link_pb2, published, registry_pb2

ROOT = Path(__file__).resolve().parent.parent.parent
ANY = AnyMessage(type_url="t/x", value=b"\x01")
ANY_BYTES = b"\x0a\x03t/x\x12\x01\x01"
REF = collector_pb2.ServiceTypeRef(namespace="n", service_name="s")
REF_BYTES = b"\x0a\x01n\x12\x01s"
OK = collector_pb2.Status(code=200)
OK_BYTES = b"\x08\xc8\x01"
SERVICE = registry_pb2.RegisteredService(
    id="i",
    namespace="n",
    service_name="s",
    service_descriptor=ServiceDescriptorProto(name="d"),
    method_names=["m"],
)
SERVICE_BYTES = b"\x0a\x01i\x12\x01n\x1a\x01s\x22\x03\x0a\x01d\x2a\x01m"
FILE = FileDescriptorProto(name="f")


def part(tag: int, content: bytes) -> bytes:
    return bytes([tag, len(content)]) + content


GOLDEN: dict[str, tuple[Any, bytes]] = {
    "ServiceTypeRef": (REF, REF_BYTES),
    "Status": (
        collector_pb2.Status(code=404, message="no", details={"k": "v"}),
        b"\x08\x94\x03\x12\x02no\x1a\x06\x0a\x01k\x12\x01v",
    ),
    "ConnectRequest": (
        collector_pb2.ConnectRequest(collector_id="c", address="a", namespaces=["n", "o"]),
        b"\x0a\x01c\x12\x01a\x1a\x01n\x1a\x01o",
    ),
    "ConnectRequest.epoch": (collector_pb2.ConnectRequest(epoch=5), b"\x80\x01\x05"),
    "ConnectResponse": (
        collector_pb2.ConnectResponse(
            status=OK, connection_id="i", shared_namespaces=["n"], target_collector_id="t"
        ),
        part(0x0A, OK_BYTES) + b"\x12\x01i\x1a\x01n\x22\x01t",
    ),
    "ConnectResponse.added": (
        collector_pb2.ConnectResponse(epoch=5, address="a"),
        b"\x80\x01\x05\x8a\x01\x01a",
    ),
    "ServeRequest": (
        collector_pb2.ServeRequest(namespace="n", service=REF, method_name="m", input=ANY),
        b"\x0a\x01n" + part(0x12, REF_BYTES) + b"\x1a\x01m" + part(0x22, ANY_BYTES),
    ),
    "ServeResponse": (
        collector_pb2.ServeResponse(status=OK, output=ANY, executor_id="e"),
        part(0x0A, OK_BYTES) + part(0x12, ANY_BYTES) + b"\x1a\x01e",
    ),
    "DispatchRequest": (
        collector_pb2.DispatchRequest(
            namespace="n", service=REF, method_name="m", input=ANY, target_collector_id="t"
        ),
        b"\x0a\x01n" + part(0x12, REF_BYTES) + b"\x1a\x01m" + part(0x22, ANY_BYTES) + b"\x2a\x01t",
    ),
    "DispatchResponse": (
        collector_pb2.DispatchResponse(status=OK, output=ANY, handled_by_collector_id="h"),
        part(0x0A, OK_BYTES) + part(0x12, ANY_BYTES) + b"\x1a\x01h",
    ),
    "RegisterProtoRequest": (
        registry_pb2.RegisterProtoRequest(namespace="n", file_descriptor=FILE, dependencies=[FILE]),
        b"\x0a\x01n\x12\x03\x0a\x01f\x1a\x03\x0a\x01f",
    ),
    "RegisterProtoResponse": (
        registry_pb2.RegisterProtoResponse(status=OK, proto_id="i", registered_messages=["m"]),
        part(0x0A, OK_BYTES) + b"\x12\x01i\x1a\x01m",
    ),
    "RegisterServiceRequest": (
        registry_pb2.RegisterServiceRequest(
            namespace="n", service_descriptor=ServiceDescriptorProto(name="d"), file_descriptor=FILE
        ),
        b"\x0a\x01n\x12\x03\x0a\x01d\x1a\x03\x0a\x01f",
    ),
    "RegisterServiceRequest.added": (
        registry_pb2.RegisterServiceRequest(add_methods=True),
        b"\x80\x01\x01",
    ),
    "RegisterServiceResponse": (
        registry_pb2.RegisterServiceResponse(status=OK, service_id="i", registered_methods=["m"]),
        part(0x0A, OK_BYTES) + b"\x12\x01i\x1a\x01m",
    ),
    "LookupServiceRequest": (
        registry_pb2.LookupServiceRequest(namespace="n", service_name="s"),
        b"\x0a\x01n\x12\x01s",
    ),
    "LookupServiceResponse": (
        registry_pb2.LookupServiceResponse(status=OK, service=SERVICE),
        part(0x0A, OK_BYTES) + part(0x12, SERVICE_BYTES),
    ),
    "ValidateMethodRequest": (
        registry_pb2.ValidateMethodRequest(namespace="n", service_name="s", method_name="m"),
        b"\x0a\x01n\x12\x01s\x1a\x01m",
    ),
    "ValidateMethodResponse": (
        registry_pb2.ValidateMethodResponse(status=OK, is_valid=True, message="m"),
        part(0x0A, OK_BYTES) + b"\x10\x01\x1a\x01m",
    ),
    "ListServicesRequest": (registry_pb2.ListServicesRequest(namespace="n"), b"\x0a\x01n"),
    "ListServicesResponse": (
        registry_pb2.ListServicesResponse(status=OK, services=[SERVICE]),
        part(0x0A, OK_BYTES) + part(0x12, SERVICE_BYTES),
    ),
    "RegisteredService": (SERVICE, SERVICE_BYTES),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_bytes(name: str) -> None:
    message, expected = GOLDEN[name]
    assert message.SerializeToString(deterministic=True) == expected
    assert type(message).FromString(expected) == message


@pytest.mark.weak_spot(30)
def test_every_published_message_has_golden_bytes() -> None:
    pool = published()
    names = {
        name
        for file in ("collector.proto", "registry.proto")
        for name in pool.FindFileByName(file).message_types_by_name
    }
    assert names == {name.partition(".")[0] for name in GOLDEN}


def test_published_methods_and_their_types() -> None:
    pool = published()
    methods = {
        f"{service}.{method.name}": (method.input_type.name, method.output_type.name)
        for service in ("CollectiveDispatcher", "CollectorRegistry")
        for method in pool.FindServiceByName(f"collector.{service}").methods
    }
    assert methods.pop("CollectiveDispatcher.Link") == ("LinkFrame", "LinkFrame")
    assert methods.pop("CollectiveDispatcher.Inspect") == ("Empty", "Struct")
    assert methods.pop("CollectiveDispatcher.Barrier") == ("Empty", "Empty")
    assert set(methods) == {
        *(f"CollectiveDispatcher.{name}" for name in ("Connect", "Serve", "Dispatch")),
        *(
            f"CollectorRegistry.{name}"
            for name in (
                "RegisterProto",
                "RegisterService",
                "LookupService",
                "ValidateMethod",
                "ListServices",
            )
        ),
    }
    for name, types in methods.items():
        verb = name.rpartition(".")[2]
        assert types == (f"{verb}Request", f"{verb}Response")


def test_additions_begin_at_16_and_what_is_free_below_is_reserved() -> None:
    pool = published()
    for file in ("collector.proto", "registry.proto"):
        proto = FileDescriptorProto.FromString(pool.FindFileByName(file).serialized_pb)
        for message in proto.message_type:
            used = {field.number for field in message.field}
            kept = {number for span in message.reserved_range for number in range(span.start, span.end)}
            assert kept == set(range(1, 16)) - used, message.name


def test_field_numbers_of_etcd() -> None:
    compare = etcd_pb2.Compare(
        result=etcd_pb2.Compare.EQUAL,
        target=etcd_pb2.Compare.CREATE,
        key=b"k",
        create_revision=7,
        range_end=b"l",
    )
    assert compare.SerializeToString() == b"\x10\x01\x1a\x01k\x28\x07\x82\x04\x01l"
    event = etcd_pb2.Event(type=etcd_pb2.Event.DELETE, kv=etcd_pb2.KeyValue(key=b"k", lease=9))
    response = etcd_pb2.WatchResponse(watch_id=1, compact_revision=3, events=[event])
    assert response.SerializeToString() == b"\x10\x01\x28\x03\x5a\x09\x08\x01\x12\x05\x0a\x01k\x30\x09"
    put = etcd_pb2.RequestOp(request_put=etcd_pb2.PutRequest(key=b"k", value=b"v", lease=9))
    assert put.SerializeToString() == b"\x12\x08\x0a\x01k\x12\x01v\x18\x09"


def test_link_frames_carry_calls_beside_what_else_is_told() -> None:
    frame = link_pb2.LinkFrame(
        acknowledgement=link_pb2.Acknowledgement(epoch=1, version=2),
        calls=[link_pb2.LinkCall(id=1, path="/a/b", payload=b"x", timeout_us=5)],
        cancelled=[3],
    )
    again = link_pb2.LinkFrame.FromString(frame.SerializeToString())
    assert again.WhichOneof("frame") == "acknowledgement"
    assert (again.calls[0].path, list(again.cancelled)) == ("/a/b", [3])


def test_stubs_of_other_people_live_in_the_same_process(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    theirs = published_stubs(tmp_path)
    request = theirs["collector"].ServeRequest(namespace="n", method_name="m", input=ANY)
    assert request.DESCRIPTOR.full_name == "collector.ServeRequest"
    ours = collector_pb2.ServeRequest.FromString(request.SerializeToString())
    assert ours.SerializeToString() == request.SerializeToString()
    assert theirs["registry"].ListServicesRequest(namespace="n").SerializeToString() == b"\x0a\x01n"


def test_the_made_code_is_of_these_schemas(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    spec = importlib.util.spec_from_file_location("make_protos", ROOT / "scripts" / "make_protos.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    made = script.make(tmp_path)
    assert {path.name for path in made} == {
        path.name for path in PROTOS.iterdir() if path.name.endswith(("_pb2.py", "_pb2.pyi"))
    }
    for path in made:
        if path.suffix == ".py":  # the .pyi differ with the version of protoc, not with the schema
            assert descriptors(path) == descriptors(PROTOS / path.name), path.name


def descriptors(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.startswith("DESCRIPTOR = ")]

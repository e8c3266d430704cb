"""Both faces of a collector in another process, as programs see them that know nothing of dodici."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct
from tests.collective.kit import (
    HERE,
    NAMESPACE,
    PROTOS,
    SERVICE,
    order,
    order_class,
    process,
    published_stubs,
)

MODULES = HERE.parent / "peers" / "node_modules"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with process() as running:
        yield running


# -- stubs for blocking programs, made of the published schemas ------------------------------------------------


def test_the_envelope_from_stubs_of_the_published_schema(address: str, tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    theirs = published_stubs(tmp_path)["collector"]
    given = Struct()
    given.update({"a": [1, None]})
    request = theirs.DispatchRequest(
        namespace="plain", service=theirs.ServiceTypeRef(service_name="Echo"), method_name="Say"
    )
    request.input.Pack(given)
    with grpc.insecure_channel(address) as channel:
        dispatch = channel.unary_unary(
            "/collector.CollectiveDispatcher/Dispatch",
            request_serializer=theirs.DispatchRequest.SerializeToString,
            response_deserializer=theirs.DispatchResponse.FromString,
        )
        answer, call = dispatch.with_call(request, timeout=10)
        assert (answer.status.code, answer.handled_by_collector_id) == (200, "kit-1")
        said = Struct()
        assert answer.output.Unpack(said)
        assert said == given
        assert ("x-trailing", "t") in {(each.key, each.value) for each in call.trailing_metadata()}
        request.method_name = "Nothing"
        refused = dispatch(request, timeout=10)
        assert (refused.status.code, refused.status.details["grpc-status"]) == (404, "UNIMPLEMENTED")


def test_the_transparent_face_from_a_blocking_stub(address: str) -> None:
    kind = order_class()
    with grpc.insecure_channel(address) as channel:
        create = channel.unary_unary(f"/{SERVICE}/Create", kind.SerializeToString, kind.FromString)
        assert create(order("a", 1), metadata=NAMESPACE, timeout=10) == order("A", 2)
        listing = channel.unary_stream(f"/{SERVICE}/List", kind.SerializeToString, kind.FromString)
        assert [one.count for one in listing(order("x", 3), metadata=NAMESPACE, timeout=10)] == [0, 1, 2]
        chat = channel.stream_stream(f"/{SERVICE}/Chat", kind.SerializeToString, kind.FromString)
        assert [one.count for one in chat(iter([order("a", 1)]), metadata=NAMESPACE, timeout=10)] == [-1]
        fail = channel.unary_unary(f"/{SERVICE}/Fail", kind.SerializeToString, kind.FromString)
        with pytest.raises(grpc.RpcError) as caught:
            fail(order("abort", 404), metadata=NAMESPACE, timeout=10)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_over_a_unix_socket(tmp_path: Path) -> None:
    kind = order_class()
    with process(f"unix:{tmp_path}/c.sock") as address, grpc.insecure_channel(address) as channel:
        create = channel.unary_unary(f"/{SERVICE}/Create", kind.SerializeToString, kind.FromString)
        assert create(order("a", 1), metadata=NAMESPACE, timeout=10) == order("A", 2)


# -- grpc-js ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gate(address: str) -> Iterator[str]:
    """A collector that sends on all that comes to it."""
    with process("127.0.0.1:0", address) as running:
        yield running


@pytest.fixture(scope="module", params=["direct", "hop"])
def saw(request: pytest.FixtureRequest, address: str) -> Any:
    """What a client of grpc-js has seen of the collector, or of one in front of it."""
    if request.param == "hop":
        address = request.getfixturevalue("gate")
    node = shutil.which("node")
    said = None
    if node is None:
        said = "node is not installed: apt-get install nodejs"
    elif not (MODULES / "@grpc" / "grpc-js").is_dir():
        said = "@grpc/grpc-js is not installed: sh scripts/node_packages.sh"
    if said is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(said)
        pytest.skip(said)
    done = subprocess.run(
        [str(node), str(HERE / "faces_client.js"), address, str(PROTOS)],
        env={**os.environ, "NODE_PATH": str(MODULES)},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.interop
def test_grpc_js_calls_all_four_kinds(saw: Any) -> None:
    assert saw["create"]["answer"] == {"sku": "A", "count": 2}
    assert saw["create"]["trailing"]["x-seen"] == "from js"
    assert saw["create"]["trailing"]["x-dodici-handled-by"] == "kit-1"
    assert saw["create"]["trailing"]["x-bin"]["data"] == [0, 255]
    assert [each["count"] for each in saw["list"]] == [0, 1, 2]
    assert saw["sum"] == {"sku": "sum", "count": 3}
    assert [each["count"] for each in saw["chat"]] == [-1, -2]


@pytest.mark.interop
def test_grpc_js_sees_codes(saw: Any) -> None:
    assert (saw["abort"]["code"], saw["abort"]["details"]) == (5, "no such thing: ü")
    assert saw["abort"]["metadata"]["x-why"] == "sold out"
    assert "grpc-status-details-bin" in saw["abort"]["metadata"]
    assert (saw["bug"]["code"], saw["bug"]["details"]) == (13, f"shop/{SERVICE}.Fail failed")
    assert (saw["nowhere"]["code"], saw["target"]["code"], saw["nameless"]["code"]) == (5, 5, 3)


@pytest.mark.interop
def test_grpc_js_deadlines_and_cancellation_reach_the_handler(saw: Any) -> None:
    assert saw["late"]["code"] == 4
    assert saw["lateSeen"]["answer"]["sku"] == "noted"
    assert saw["cancel"]["code"] == 1
    assert saw["cancelSeen"]["answer"]["sku"] == "noted"
    assert (saw["cancelChat"]["code"], saw["cancelChatSeen"]["answer"]["sku"]) == (1, "noted")


@pytest.mark.interop
def test_grpc_js_sees_why_a_stream_is_refused(saw: Any) -> None:
    """While it writes: the status is the collector's, and not of a stream that was cut."""
    assert [each["code"] for each in saw["refused"]] == [5] * 10
    assert {each["details"] for each in saw["refused"]} == {"no such collector: 'elsewhere'"}


@pytest.mark.interop
def test_grpc_js_speaks_the_envelope(saw: Any, request: pytest.FixtureRequest) -> None:
    served = saw["serve"]["answer"]
    if "hop" in request.node.callspec.id:
        assert served["status"]["code"] == 404  # Serve is never sent on
    else:
        assert (served["status"]["code"], served["executor_id"]) == (200, "kit-1")
        assert bytes(served["output"]["value"]["data"]) == b"\x0a\x02hi"
    assert saw["dispatch"]["answer"]["handled_by_collector_id"] == "kit-1"
    assert saw["unknown"]["answer"]["status"]["code"] == 404
    assert saw["unknown"]["answer"]["status"]["details"] == {"grpc-status": "UNIMPLEMENTED"}

"""Status codes, details, and the errors that carry them."""

from __future__ import annotations

import pickle
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import error_details_pb2, status_pb2

from dodici.collective import (
    CollectiveError,
    DeadlineExceededError,
    DispatchResult,
    PeerUnavailableError,
    Status,
)
from dodici.collective.codes import chosen, from_envelope, from_wire, http_status
from dodici.collective.details import aborted, binary, texts
from dodici.collective.errors import call_error
from dodici.core.errors import DodiciError, InvalidArgumentError
from dodici.core.grpc_status import GrpcStatus

TABLE = {
    200: ["OK"],
    400: ["INVALID_ARGUMENT", "FAILED_PRECONDITION", "OUT_OF_RANGE"],
    403: ["UNAUTHENTICATED", "PERMISSION_DENIED"],
    404: ["NOT_FOUND", "UNIMPLEMENTED"],
    409: ["ALREADY_EXISTS", "ABORTED"],
    429: ["RESOURCE_EXHAUSTED"],
    499: ["CANCELLED"],
    500: ["UNKNOWN", "INTERNAL", "DATA_LOSS"],
    503: ["UNAVAILABLE"],
    504: ["DEADLINE_EXCEEDED"],
}


def test_every_grpc_code_has_its_number_and_comes_back() -> None:
    assert {name for names in TABLE.values() for name in names} == set(GrpcStatus.__members__)
    for number, names in TABLE.items():
        for name in names:
            assert http_status(GrpcStatus[name]) == number
            assert from_envelope(number, name) is GrpcStatus[name]
        assert from_envelope(number, None).name in names
        assert from_envelope(number, "NO_SUCH").name in names
    assert from_envelope(299, None) is GrpcStatus.UNKNOWN
    assert from_wire(14) is GrpcStatus.UNAVAILABLE
    assert from_wire(99) is GrpcStatus.UNKNOWN


@pytest.mark.parametrize("number", [number for number in TABLE if number != 200])
def test_a_handler_may_name_a_number(number: int) -> None:
    assert http_status(chosen(number)) == number


@pytest.mark.parametrize(
    "code", [code for code in grpc.StatusCode if code.name != "OK"], ids=lambda code: code.name
)
def test_a_handler_may_name_a_status_code_of_grpc(code: grpc.StatusCode) -> None:
    assert chosen(code) is GrpcStatus[code.name]
    assert chosen(GrpcStatus[code.name]) is GrpcStatus[code.name]


@pytest.mark.parametrize("code", [200, grpc.StatusCode.OK, 418, 5, "NOT_FOUND", None, True, 4.04], ids=repr)
def test_anything_else_is_no_status(code: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        chosen(code)


def test_errors_are_what_python_catches() -> None:
    late = call_error(GrpcStatus.DEADLINE_EXCEEDED, "late", peer="b")
    assert isinstance(late, DeadlineExceededError)
    assert isinstance(late, TimeoutError)
    assert (late.status, late.peer) == (504, "b")
    gone = call_error(GrpcStatus.UNAVAILABLE, "gone")
    assert isinstance(gone, PeerUnavailableError)
    assert isinstance(gone, ConnectionError)
    assert isinstance(gone, DodiciError)
    assert CollectiveError("plain").grpc_status is GrpcStatus.INTERNAL


def test_errors_survive_pickling() -> None:
    error = call_error(GrpcStatus.NOT_FOUND, "no", details={"a": "b"}, path=("x", "y"))
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.grpc_status) == (CollectiveError, "no", GrpcStatus.NOT_FOUND)
    assert (again.details, again.path) == ({"a": "b"}, ("x", "y"))


def test_a_status_is_a_number_that_knows_more() -> None:
    status = Status(GrpcStatus.NOT_FOUND, "no", {"a": "b"})
    assert status == 404
    assert (status.code, status.message, status.details, status.ok) == (404, "no", {"a": "b"}, False)
    again = pickle.loads(pickle.dumps(status))
    assert (again, again.message, again.grpc_status) == (404, "no", GrpcStatus.NOT_FOUND)
    assert f"{status}" == "404"
    assert Status().ok


def test_raise_for_status() -> None:
    good = DispatchResult(Status(), "out")
    assert good.raise_for_status() is good
    with pytest.raises(DeadlineExceededError, match="late"):
        DispatchResult(Status(GrpcStatus.DEADLINE_EXCEEDED, "late")).raise_for_status()


def test_texts_cross_the_transparent_face_in_a_google_rpc_status() -> None:
    error = aborted(GrpcStatus.NOT_FOUND, "no", {"sku": "a-1", "n": 5})
    assert error.details == {"sku": "a-1", "n": "5"}
    sent = binary(error)
    assert sent is not None
    status = status_pb2.Status.FromString(sent)
    assert (status.code, status.message) == (5, "no")
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert dict(info.metadata) == texts(sent) == {"sku": "a-1", "n": "5"}
    assert binary(aborted(GrpcStatus.NOT_FOUND, "no", None)) is None


def test_binary_details_are_the_handlers_own() -> None:
    given = status_pb2.Status(code=5, message="no")
    for details in (given, given.SerializeToString()):
        assert binary(aborted(GrpcStatus.NOT_FOUND, "no", details)) == given.SerializeToString()
    sent = binary(aborted(GrpcStatus.NOT_FOUND, "no", [StringValue(value="x")]))
    assert sent is not None
    held = StringValue()
    assert status_pb2.Status.FromString(sent).details[0].Unpack(held)
    assert held.value == "x"
    assert texts(b"\xff not a status") == {}
    with pytest.raises(InvalidArgumentError, match="not int"):
        aborted(GrpcStatus.NOT_FOUND, "no", 5)
    with pytest.raises(InvalidArgumentError, match="not str"):
        aborted(GrpcStatus.NOT_FOUND, "no", "text")

"""The table of failures, row by row."""

from __future__ import annotations

import email.utils
import json
import time
from typing import Any

import pytest

from dodici.collective.errors import CallAbortedError, call_error
from dodici.collective.origin.failures import from_error, from_response, grpc_of_http, pushback
from dodici.core import errors
from dodici.core.grpc_status import GrpcStatus as S
from dodici.core.headers import Headers

WHERE = "http://orders.local"
JSON = Headers({"content-type": "application/json"})

STATUSES = {
    200: S.OK, 201: S.OK, 204: S.OK, 299: S.OK,
    300: S.FAILED_PRECONDITION, 301: S.FAILED_PRECONDITION, 304: S.FAILED_PRECONDITION, 308: S.FAILED_PRECONDITION,
    400: S.INVALID_ARGUMENT, 401: S.UNAUTHENTICATED, 402: S.FAILED_PRECONDITION, 403: S.PERMISSION_DENIED,
    404: S.NOT_FOUND, 405: S.UNIMPLEMENTED, 406: S.INVALID_ARGUMENT, 407: S.UNAUTHENTICATED,
    408: S.DEADLINE_EXCEEDED, 409: S.ALREADY_EXISTS, 410: S.NOT_FOUND, 411: S.FAILED_PRECONDITION,
    412: S.FAILED_PRECONDITION, 413: S.RESOURCE_EXHAUSTED, 415: S.INVALID_ARGUMENT, 416: S.OUT_OF_RANGE,
    418: S.FAILED_PRECONDITION, 422: S.INVALID_ARGUMENT, 423: S.FAILED_PRECONDITION, 424: S.FAILED_PRECONDITION,
    425: S.UNAVAILABLE, 426: S.FAILED_PRECONDITION, 428: S.FAILED_PRECONDITION, 429: S.RESOURCE_EXHAUSTED,
    431: S.RESOURCE_EXHAUSTED, 451: S.PERMISSION_DENIED, 499: S.CANCELLED,
    500: S.INTERNAL, 501: S.UNIMPLEMENTED, 502: S.UNAVAILABLE, 503: S.UNAVAILABLE, 504: S.DEADLINE_EXCEEDED,
    505: S.INTERNAL, 507: S.INTERNAL, 599: S.INTERNAL, 600: S.INTERNAL, 999: S.INTERNAL,
}  # fmt: skip


@pytest.mark.parametrize(("status", "due"), STATUSES.items())
def test_a_status_of_http_is_one_of_grpc(status: int, due: S) -> None:
    assert grpc_of_http(status) is due


UNSENT = (
    errors.NoTargetError,
    errors.TargetChangedError,
    errors.ConnectTimeoutError,
    errors.ConnectError,
    errors.ConnectionRefused,
    errors.NameResolutionError,
    errors.TLSError,
    errors.ClientClosedError,
    errors.MaxOriginsReachedError,
    errors.BalancedPoolMissingUpstreamError,
)
SENT = {
    errors.WorkerExitedError: S.UNAVAILABLE,
    errors.BodyAbortedError: S.UNAVAILABLE,
    errors.SocketError: S.UNAVAILABLE,
    errors.LinkError: S.UNAVAILABLE,
    errors.HTTP2Error: S.UNAVAILABLE,
    errors.StreamResetError: S.UNAVAILABLE,
    errors.ClientDestroyedError: S.UNAVAILABLE,
    errors.HeadersTimeoutError: S.DEADLINE_EXCEEDED,
    errors.BodyTimeoutError: S.DEADLINE_EXCEEDED,
    errors.RequestTimeoutError: S.DEADLINE_EXCEEDED,
    errors.RequestAbortedError: S.CANCELLED,
    errors.ResponseExceededMaxSizeError: S.RESOURCE_EXHAUSTED,
    errors.HeadersOverflowError: S.RESOURCE_EXHAUSTED,
    errors.RemoteAppError: S.INTERNAL,
    errors.HTTPParserError: S.INTERNAL,
    errors.ResponseContentLengthMismatchError: S.INTERNAL,
    errors.RequestContentLengthMismatchError: S.INTERNAL,
    errors.DecompressionError: S.INTERNAL,
    errors.InvalidArgumentError: S.INTERNAL,
    errors.NotSupportedError: S.INTERNAL,
}


@pytest.mark.parametrize("kind", UNSENT)
def test_what_was_never_sent_is_unavailable_here_and_may_go_elsewhere(kind: type[errors.DodiciError]) -> None:
    cause = kind("why")
    error = from_error(cause, WHERE)
    assert (error.grpc_status, error.request_not_processed) == (S.UNAVAILABLE, True)
    assert error.message == f"{WHERE}: why"
    assert error.__cause__ is cause
    assert isinstance(error, CallAbortedError)


@pytest.mark.parametrize(("kind", "due"), SENT.items())
def test_what_may_have_been_begun_is_said_to_be(kind: type[errors.DodiciError], due: S) -> None:
    error = from_error(kind("why"), WHERE)
    assert (error.grpc_status, error.request_not_processed) == (due, False)


def test_an_error_that_says_itself_that_nothing_was_begun_is_believed() -> None:
    error = from_error(errors.SocketError("refused stream", request_not_processed=True), WHERE)
    assert (error.grpc_status, error.request_not_processed) == (S.UNAVAILABLE, True)


def test_a_failure_of_the_collective_stays_what_it_is() -> None:
    own = call_error(S.DATA_LOSS, "lost")
    assert from_error(own, WHERE) is own


def test_a_refused_response_counts_by_its_status() -> None:
    refused = errors.ResponseError("no", status_code=404, headers=JSON, body={"detail": "no such order"})
    error = from_error(refused, WHERE)
    assert (error.grpc_status, error.message) == (S.NOT_FOUND, "no such order")
    tired = errors.RequestRetryError("still", status_code=503, headers=Headers(), count=3)
    assert from_error(tired, WHERE).grpc_status is S.UNAVAILABLE
    assert from_error(errors.RequestRetryError("still"), WHERE).grpc_status is S.INTERNAL
    assert from_error(errors.GrpcError("lost", status=S.DATA_LOSS), WHERE).grpc_status is S.DATA_LOSS


def failure(status: int, body: Any, kind: str = "application/json", **headers: str) -> CallAbortedError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return from_response(status, Headers({"content-type": kind, **headers}), raw, WHERE)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"detail": "why", "title": "what"}, "why"),
        ({"title": "what"}, "what"),
        ({"error": "why"}, "why"),
        ({"error": {"message": "why", "code": 3}}, "why"),
        ({"error": {"code": 3}}, '{"code":3}'),
        ({"message": "why"}, "why"),
        ({"detail": [{"loc": ["body", "sku"], "msg": "Field required"}, {"loc": ["body"], "msg": "no"}]},
         "body.sku: Field required; body: no"),
        ({"detail": ["a", {"b": 1}]}, '["a",{"b":1}]'),
        ({"detail": ""}, f"{WHERE} answered with 400"),
        ({}, f"{WHERE} answered with 400"),
        ("why", "why"),
        (None, f"{WHERE} answered with 400"),
        (b"{broken", f"{WHERE} answered with 400"),
        (b"[" * 100_000, f"{WHERE} answered with 400"),
        ({"detail": "x" * 5000}, "x" * 512),
        ({"detail": "\ud800"}, "?"),
    ],
    ids=range(16),
)  # fmt: skip
def test_a_body_of_json_says_why(body: Any, message: str) -> None:
    assert failure(400, body).message == message


def test_a_problem_gives_its_plain_members_as_details() -> None:
    problem = {
        "type": "https://shop.example/sold-out", "title": "sold out", "status": 409, "sku": "a-1", "left": 0,
        "more": {"x": 1}, "yes": True, "none": None,
    }  # fmt: skip
    error = failure(409, problem, "application/problem+json; charset=utf-8")
    assert error.message == "sold out"
    assert error.details == {
        "http-status": "409", "type": "https://shop.example/sold-out", "title": "sold out", "sku": "a-1", "left": "0",
    }  # fmt: skip
    many = failure(409, {f"n{number:03}": "v" * 10 for number in range(1000)})
    assert len(many.details) == 1 + 1024 // 22
    assert len(failure(409, {"x": "v" * 5000}).details["x"]) == 512
    assert failure(409, {"x": "ü" * 5000}).details["x"] == "ü" * 256


def test_a_body_may_name_the_status_that_its_number_stands_for() -> None:
    assert failure(409, {"grpc-status": "ABORTED"}).grpc_status is S.ABORTED
    assert failure(400, {"grpc-status": "OUT_OF_RANGE"}).grpc_status is S.OUT_OF_RANGE
    assert failure(409, {"grpc-status": "OK"}).grpc_status is S.ALREADY_EXISTS
    assert failure(409, {"grpc-status": "NOT_FOUND"}).grpc_status is S.ALREADY_EXISTS
    assert failure(409, {"grpc-status": 10}).grpc_status is S.ALREADY_EXISTS


def test_text_is_a_message_and_markup_is_not() -> None:
    assert failure(500, b" no stock \n", "text/plain").message == "no stock"
    assert (
        failure(500, b"<h1>Internal Server Error</h1>", "text/html").message == f"{WHERE} answered with 500"
    )
    assert failure(500, b"<h1>Oh</h1>", "text/plain").message == f"{WHERE} answered with 500"
    assert failure(500, b"\xff\xfe", "image/png").message == f"{WHERE} answered with 500"


def test_a_redirect_names_where_it_points() -> None:
    error = failure(307, b"", "text/plain", location="http://else.where/Create")
    assert error.grpc_status is S.FAILED_PRECONDITION
    assert error.details == {"http-status": "307", "location": "http://else.where/Create"}
    assert error.message == f"{WHERE} redirects to http://else.where/Create: call what it points to"
    assert failure(304, b"", "text/plain").message == f"{WHERE} answered with 304"


def test_a_retry_after_is_a_pushback() -> None:
    def given(status: int, value: str) -> Any:
        return pushback(status, Headers({"retry-after": value}))

    assert given(503, "2") == (("grpc-retry-pushback-ms", "2000"),)
    assert given(429, " 0 ") == (("grpc-retry-pushback-ms", "0"),)
    assert given(503, "9" * 30) == (("grpc-retry-pushback-ms", "3600000"),)
    assert given(500, "2") == given(503, "soon") == given(503, "-1") == given(503, "") == ()
    assert pushback(503, Headers()) == ()
    later = email.utils.formatdate(time.time() + 10, usegmt=True)
    assert 8000 <= int(given(503, later)[0][1]) <= 10_000
    assert given(503, email.utils.formatdate(0, usegmt=True)) == (("grpc-retry-pushback-ms", "0"),)

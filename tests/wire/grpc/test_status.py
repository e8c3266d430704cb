"""How a call ended: by what the peer said, and by what stands for it when the peer said nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from dodici.core import errors
from dodici.core.grpc_status import GrpcStatus
from dodici.core.headers import Headers
from dodici.wire.grpc.status import (
    Verdict,
    decode_message,
    encode_message,
    read_verdict,
    status_of_error,
    status_of_h2_code,
    status_of_http,
)


def test_the_codes_are_grpcs() -> None:
    grpc = pytest.importorskip("grpc")
    assert {code.name: code.value[0] for code in grpc.StatusCode} == {
        status.name: status.value for status in GrpcStatus
    }


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("plain text!", b"plain text!"),
        ("100 %", b"100 %25"),
        ("a\nb\t", b"a%0Ab%09"),
        ("€ ü", b"%E2%82%AC %C3%BC"),
        ("\x7f~", b"%7F~"),
        ("\ud800", b"?"),
        ("", b""),
    ],
)
def test_encoding_messages(text: str, field: bytes) -> None:
    assert encode_message(text) == field


@pytest.mark.parametrize(
    ("field", "text"),
    [
        (b"%E2%82%AC", "€"),
        (b"%e2%82%ac", "€"),
        (b"100%", "100%"),
        (b"%zz%4", "%zz%4"),
        (b"%FFx", "\ufffdx"),
        (b"a+b", "a+b"),
        ("ü".encode(), "ü"),
        (b"\xfc", "\ufffd"),
    ],
)
def test_decoding_messages_never_fails(field: bytes, text: str) -> None:
    assert decode_message(field) == text


@given(st.text())
def test_messages_round_trip(text: str) -> None:
    field = encode_message(text)
    assert all(0x20 <= byte <= 0x7E for byte in field)
    assert decode_message(field) == text.encode("utf-8", "replace").decode()


@given(st.binary())
def test_any_message_decodes(field: bytes) -> None:
    assert isinstance(decode_message(field), str)


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({}, None),
        ({"grpc-message": "lost"}, None),
        ({"grpc-status": "0"}, Verdict(GrpcStatus.OK)),
        ({"Grpc-Status": "5", "Grpc-Message": "no%20such"}, Verdict(GrpcStatus.NOT_FOUND, "no such")),
        ({"grpc-status": "0", "grpc-message": "fine"}, Verdict(GrpcStatus.OK, "fine")),
        ({"grpc-status": "16"}, Verdict(GrpcStatus.UNAUTHENTICATED)),
        (
            {"grpc-status": "3", "grpc-status-details-bin": "CAM"},
            Verdict(GrpcStatus.INVALID_ARGUMENT, "", b"\x08\x03"),
        ),
        ({"grpc-status": "3", "grpc-status-details-bin": "*"}, Verdict(GrpcStatus.INVALID_ARGUMENT)),
        ({"grpc-status": "17"}, Verdict(GrpcStatus.UNKNOWN, "unknown grpc-status '17'")),
        (
            {"grpc-status": "99", "grpc-message": "odd"},
            Verdict(GrpcStatus.UNKNOWN, "unknown grpc-status '99': odd"),
        ),
        ({"grpc-status": "-1"}, Verdict(GrpcStatus.UNKNOWN, "unknown grpc-status '-1'")),
        ({"grpc-status": ""}, Verdict(GrpcStatus.UNKNOWN, "unknown grpc-status ''")),
        ({"grpc-status": ["5", "0"]}, Verdict(GrpcStatus.NOT_FOUND)),
    ],
)
def test_verdicts(fields: dict[str, str], verdict: Verdict | None) -> None:
    assert read_verdict(Headers(fields)) == verdict


HTTP = {
    400: "INTERNAL",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "UNIMPLEMENTED",
    429: "UNAVAILABLE",
    431: "INTERNAL",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "UNAVAILABLE",
    200: "UNKNOWN",
    302: "UNKNOWN",
    418: "UNKNOWN",
    500: "UNKNOWN",
}


@pytest.mark.parametrize("status_code", HTTP)
def test_http_statuses(status_code: int) -> None:
    assert status_of_http(status_code).name == HTTP[status_code]


H2 = ["INTERNAL"] * 7 + [
    "UNAVAILABLE",
    "CANCELLED",
    "INTERNAL",
    "INTERNAL",
    "RESOURCE_EXHAUSTED",
    "PERMISSION_DENIED",
]


@pytest.mark.parametrize(("code", "name"), [*enumerate(H2), (0xD, "INTERNAL"), (0xFFFF, "INTERNAL")])
def test_http2_codes(code: int, name: str) -> None:
    assert status_of_h2_code(code).name == name
    assert status_of_error(errors.StreamResetError("reset", error_code=code)) is GrpcStatus[name]


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (errors.RequestTimeoutError(request_not_processed=True), "DEADLINE_EXCEEDED"),
        (errors.RequestAbortedError(), "CANCELLED"),
        (errors.SocketError(), "UNAVAILABLE"),
        (errors.HTTP2Error(error_code=0xB), "UNAVAILABLE"),
        (errors.ConnectionRefused(), "UNAVAILABLE"),
        (errors.TLSError(), "UNAVAILABLE"),
        (errors.ProxyConnectionError(), "UNAVAILABLE"),
        (errors.ConnectTimeoutError(), "UNAVAILABLE"),
        (errors.HeadersTimeoutError(), "UNAVAILABLE"),
        (errors.BodyTimeoutError(), "UNAVAILABLE"),
        (errors.ClientClosedError(), "UNAVAILABLE"),
        (errors.ClientDestroyedError(), "UNAVAILABLE"),
        (errors.MaxOriginsReachedError(), "UNAVAILABLE"),
        (errors.BalancedPoolMissingUpstreamError(), "UNAVAILABLE"),
        (errors.ResponseError(status_code=404), "UNIMPLEMENTED"),
        (errors.RequestRetryError(status_code=503), "UNAVAILABLE"),
        (errors.HeadersOverflowError(), "RESOURCE_EXHAUSTED"),
        (errors.ResponseExceededMaxSizeError(), "RESOURCE_EXHAUSTED"),
        (errors.HTTPParserError(), "INTERNAL"),
        (errors.ResponseContentLengthMismatchError(), "INTERNAL"),
        (errors.DecompressionError(), "INTERNAL"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_errors_of_the_exchange(error: Exception, name: str) -> None:
    assert status_of_error(error) is GrpcStatus[name]


def test_the_last_failure_counts_after_retries() -> None:
    error = errors.RequestRetryError("gave up")
    error.__cause__ = errors.SocketError()
    assert status_of_error(error) is GrpcStatus.UNAVAILABLE


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidArgumentError(),
        errors.NotSupportedError(),
        errors.BodyUnusableError(),
        ValueError("yours"),
        KeyError(),
    ],
)
def test_the_callers_own_errors_stay_what_they_are(error: Exception) -> None:
    assert status_of_error(error) is None

"""Metadata as fields, and fields as metadata: what no call of a test brings about."""

from __future__ import annotations

import time
from typing import Any

import pytest

from dodici.collective import CallContext, CollectiveError
from dodici.collective.contracts import Call, Identity
from dodici.collective.names import RouteKey
from dodici.collective.origin.fields import metadata_of, request_fields
from dodici.core.grpc_status import GrpcStatus
from dodici.core.headers import Headers

KEY = RouteKey("shop", "Orders", "Create")


def fields(**more: Any) -> Headers:
    return request_fields(CallContext(Call(KEY, **more)), ((b"accept", b"a/b"),))


def test_the_end_caller_is_named_and_nobody_else_can_say_so() -> None:
    caller = Identity(("spiffe://corp/ns/shop/collector/a b,ü", "second"), tls=True)
    assert fields(caller=caller)["x-dodici-caller"] == "spiffe://corp/ns/shop/collector/a%20b%2C%C3%BC"
    assert "x-dodici-caller" not in fields(caller=Identity(()))
    assert "x-dodici-caller" not in fields()


def test_what_is_left_of_the_deadline_is_rounded_up() -> None:
    assert "grpc-timeout" not in fields()
    assert fields(deadline=time.monotonic() - 5)["grpc-timeout"] == "1m"
    assert fields(deadline=time.monotonic() + 10)["grpc-timeout"] in {"10000m", "9999m"}
    assert fields(deadline=time.monotonic() + 10**6)["grpc-timeout"].endswith("S")


def test_a_call_without_a_trace_begins_one() -> None:
    assert fields()["traceparent"].startswith("00-")
    assert len(fields().get_list("traceparent")) == 1


@pytest.mark.parametrize("name", ["host", "content-length", "transfer-encoding", "connection", "te", "upgrade",
                                  "expect", "forwarded", "x-forwarded-for", "grpc-encoding", "content-type"])  # fmt: skip
def test_what_belongs_to_the_request_cannot_be_said_by_metadata(name: str) -> None:
    assert name not in fields(metadata=((name, "1"),))


def test_metadata_that_no_field_can_hold_is_refused() -> None:
    with pytest.raises(CollectiveError, match="metadata: header 'x-a' has CR, LF") as caught:
        fields(metadata=(("x-a", "1\r\nx-b: 2"),))
    assert caught.value.grpc_status is GrpcStatus.INVALID_ARGUMENT


def test_what_is_no_metadata_stays_behind() -> None:
    head = Headers([("X-One", "1"), ("x!", "no name"), ("x-umlaut", "\xfc"), ("grpc-status", "0"), ("te", "x"),
                    ("x-dodici-path", "a"), ("x-bad-bin", "***"), ("connection", "close, X-Hop"), ("x-hop", "1")])  # fmt: skip
    assert metadata_of(head) == (("x-one", "1"),)
    assert metadata_of(Headers(), Headers([("x-trailer", "2")])) == (("x-trailer", "2"),)

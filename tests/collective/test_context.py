"""What a handler knows of its call; traces; and the metadata of hops."""

from __future__ import annotations

import time
from typing import Any

import pytest

from dodici.collective import CallAbortedError, CallContext, CollectiveError, Trace
from dodici.collective.contracts import Call, Identity
from dodici.collective.metadata import answered, believe, check_path, given, of_answer, outgoing, split
from dodici.collective.names import RouteKey
from dodici.collective.trace import new_trace, parse
from dodici.core.errors import InvalidArgumentError
from dodici.core.grpc_status import GrpcStatus

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def call(**fields: Any) -> Call:
    return Call(RouteKey("n", "S", "m"), **fields)


def test_what_a_context_says() -> None:
    context = CallContext(
        call(peer="ipv4:1.2.3.4:5", caller=Identity(("spiffe://x/y",), tls=True), path=("a", "b"))
    )
    assert (context.namespace, context.service, context.method) == ("n", "S", "m")
    assert (context.peer, context.identity, context.path) == ("ipv4:1.2.3.4:5", "spiffe://x/y", ("a", "b"))
    assert context.deadline is None
    assert context.time_remaining() is None


def test_time_remaining_shrinks_and_stops_at_zero() -> None:
    context = CallContext(call(deadline=time.monotonic() + 5))
    first = context.time_remaining()
    second = context.time_remaining()
    assert first is not None
    assert second is not None
    assert 0 < second <= first <= 5
    assert CallContext(call(deadline=time.monotonic() - 1)).time_remaining() == 0.0


def test_metadata_is_a_multi_mapping() -> None:
    context = CallContext(call(metadata=(("a", "1"), ("b-bin", b"\x00\xff"), ("a", "2"))))
    assert context.metadata["a"] == "1"
    assert context.metadata.get_list("a") == ["1", "2"]
    assert context.metadata["b-bin"] == b"\x00\xff"
    assert context.metadata.get("c") is None


def test_abort_raises_with_the_status() -> None:
    context = CallContext(call())
    with pytest.raises(CallAbortedError, match="gone") as caught:
        context.abort(404, "gone", {"a": "b"})
    assert (caught.value.status, caught.value.details) == (404, {"a": "b"})
    with pytest.raises(CallAbortedError) as caught:
        context.abort(503)
    assert str(caught.value) == ""
    with pytest.raises(InvalidArgumentError):
        context.abort(200, "fine")


def test_trailing_metadata_is_checked_and_replaced() -> None:
    held = call()
    context = CallContext(held)
    context.set_trailing_metadata({"a": "1"})
    context.set_trailing_metadata([("b", "2"), ("c-bin", b"\x01")])
    assert held.trailing == (("b", "2"), ("c-bin", b"\x01"))
    for wrong in ({"x-dodici-path": "a"}, {"grpc-status": "0"}, {"a": b"bytes"}, {"a": "line\nbreak"}, 5):
        with pytest.raises(InvalidArgumentError):
            context.set_trailing_metadata(wrong)  # type: ignore[arg-type]
    assert held.trailing == (("b", "2"), ("c-bin", b"\x01"))


# -- traces --------------------------------------------------------------------------------------------------


def test_the_trace_is_the_callers_with_a_span_of_its_own() -> None:
    context = CallContext(
        call(metadata=(("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")))
    )
    trace = context.trace
    assert trace is context.trace
    assert (trace.trace_id, trace.parent_id) == ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
    assert (trace.flags, trace.tracestate) == (1, "a=1,b=2")
    assert trace.span_id != trace.parent_id
    assert parse(trace.traceparent) == Trace(trace.trace_id, trace.span_id, 1)


def test_without_one_there_is_a_new_trace() -> None:
    trace = CallContext(call()).trace
    assert parse(trace.traceparent) is not None
    assert trace.parent_id is None


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "00",
        PARENT.upper(),
        PARENT + "-more",
        "ff" + PARENT[2:],
        "00-" + "0" * 32 + "-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01",
        b"bytes",
        None,
    ],
    ids=["empty", "short", "upper", "longer", "version", "trace", "span", "bytes", "none"],
)
def test_what_is_no_traceparent(wrong: Any) -> None:
    assert parse(wrong) is None


def test_a_later_version_may_say_more() -> None:
    assert parse("01" + PARENT[2:] + "-more") is not None


# -- hops ----------------------------------------------------------------------------------------------------

ARRIVED = (
    ("x-dodici-namespace", "n"),
    ("user-agent", "grpc"),
    ("x-mine", "1"),
    ("x-mine", "2"),
    ("y-bin", b"\x00"),
    ("x-dodici-path", "a,b"),
    ("x-dodici-unheard-of", "x"),
    ("x-dodici-namespace", "other"),
    ("grpc-previous-rpc-attempts", "1"),
    ("authorization", "Bearer x"),
)


def test_the_applications_part_is_kept_and_the_hops_is_not() -> None:
    hop, rest = split(ARRIVED)
    assert rest == (("x-mine", "1"), ("x-mine", "2"), ("y-bin", b"\x00"), ("authorization", "Bearer x"))
    assert (hop["x-dodici-namespace"], hop["x-dodici-path"]) == ("n", "a,b")


def test_what_goes_out_is_what_the_next_believes() -> None:
    sent = call(
        metadata=(("x-mine", "1"), ("traceparent", PARENT)),
        encoding="any",
        target="z",
        path=("a",),
        attempt=2,
        caller=Identity(("spiffe://x/ns/y, with a comma ü", "y.example"), tls=True),
    )
    hop, rest = split(outgoing(sent, "b", "secret"))
    assert rest == sent.metadata
    got = call()
    believe(got, hop)
    assert (got.path, got.attempt, got.caller) == (("a", "b"), 2, sent.caller)
    assert (hop["x-dodici-connection"], hop["x-dodici-payload"], hop["x-dodici-target"]) == (
        "secret",
        "any",
        "z",
    )


def test_what_goes_out_always_belongs_to_a_trace() -> None:
    sent = call(metadata=(("a", "b"),))
    first = dict(outgoing(sent, "b"))["traceparent"]
    assert parse(first) is not None
    assert dict(outgoing(sent, "b"))["traceparent"] == first


@pytest.mark.parametrize(
    "hop",
    [
        {"x-dodici-path": "a,,b"},
        {"x-dodici-path": ",".join("abcdefgh" * 9)},
        {"x-dodici-attempt": "-1"},
        {"x-dodici-attempt": "1e9"},
        {"x-dodici-attempt": "9999999"},
    ],
    ids=["gap", "long", "negative", "float", "huge"],
)
def test_what_no_collector_says(hop: dict[str, str]) -> None:
    with pytest.raises(CollectiveError) as caught:
        believe(call(), hop)
    assert caught.value.grpc_status is GrpcStatus.INVALID_ARGUMENT


def test_a_path_that_comes_back_or_is_too_long_is_refused_with_the_path() -> None:
    check_path(call(), "me", 1)
    check_path(call(path=("a", "b")), "me", 2)
    for path, hops in ((("a", "me"), 4), (("a", "b", "c"), 2)):
        with pytest.raises(CollectiveError) as caught:
            check_path(call(path=path), "me", hops)
        assert caught.value.grpc_status is GrpcStatus.FAILED_PRECONDITION
        assert caught.value.details["path"] == ",".join((*path, "me"))


def test_answers_say_who_has_made_them() -> None:
    ran = call(trailing=(("a", "b"),), handled_by="c")
    got = call()
    answered(got, (*of_answer(ran), ("x-dodici-other", "x")))
    assert (got.trailing, got.handled_by) == ((("a", "b"),), "c")
    assert of_answer(call()) == ()


def test_callers_may_not_set_a_hops_metadata() -> None:
    assert given({"a": ["1", "2"]}) == (("a", "1"), ("a", "2"))
    assert given(None) == ()
    with pytest.raises(InvalidArgumentError, match="dodici's own"):
        given({"X-Dodici-Path": "a"})


def test_new_traces_differ() -> None:
    assert new_trace().trace_id != new_trace().trace_id

"""Values as bodies, and bodies as values."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.wrappers_pb2 import StringValue
from tests.collective.kit import order, order_class

from dodici.collective import CollectiveError
from dodici.collective.origin.bodies import (
    DELIMITED,
    NDJSON,
    Form,
    Items,
    body_type,
    decode_one,
    encode_item,
    encode_one,
)
from dodici.core.grpc_status import GrpcStatus
from dodici.core.headers import Headers

WHERE = "http://orders.local"
VALUES: list[Any] = [True, 5, -1.5, "ü", "", {}, {"a": [1, None, {"b": "c"}]}, [], [1]]


def typed(kind: str | None, streams: bool = False, **headers: str) -> Any:
    return body_type(Headers({"content-type": kind, **headers}), streams, WHERE)


def read(body: bytes, kind: str | None, of: Any = None, streams: bool = False) -> Any:
    return decode_one(body, typed(kind, streams), of, WHERE)


def failing(status: GrpcStatus, function: Any, *arguments: Any) -> str:
    with pytest.raises(CollectiveError) as caught:
        function(*arguments)
    assert caught.value.grpc_status is status
    return caught.value.message


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_plain_values_are_json_both_ways(value: Any) -> None:
    kind, body = encode_one(value, "any", False)
    assert (kind, json.loads(body)) == (b"application/json", value)
    assert read(body, "application/json; charset=utf-8") == value
    assert encode_item(value, NDJSON) == body + b"\n"


def test_none_is_no_body() -> None:
    assert encode_one(None, "any", False) == (None, b"")
    for kind in ("application/json", "text/plain", "application/x-protobuf", None):
        assert read(b"", kind) is None
    assert read(b"null", "application/json") is None
    assert encode_item(None, NDJSON) == b"null\n"


def test_bytes_are_octets_or_a_message_of_a_type_that_is_not_known() -> None:
    assert encode_one(b"\x00", "any", False) == (b"application/octet-stream", b"\x00")
    assert encode_one(b"\x00", "raw", False) == (b"application/x-protobuf", b"\x00")
    assert read(b"\x00\xff", "application/octet-stream") == b"\x00\xff"
    assert read(b"\x89PNG", "image/png") == b"\x89PNG"
    assert read(b"x", None) == b"x"


def test_messages_are_json_or_protobuf() -> None:
    kind, body = encode_one(order("a", 0), "raw", False)
    assert (kind, json.loads(body)) == (b"application/json", {"sku": "a", "count": "0"})
    assert encode_one(order("a", 2), "raw", True) == (
        b"application/x-protobuf",
        order("a", 2).SerializeToString(),
    )
    assert read(body, "application/json", order_class()) == order("a", 0)
    assert read(b'{"sku": "a", "new": 1}', "application/json", order_class()) == order("a")
    assert read(b" null ", "application/json", order_class()) is None
    for kind_ in ("application/x-protobuf", "application/protobuf", "application/vnd.google.protobuf"):
        assert read(order("a", 2).SerializeToString(), kind_, order_class()) == order("a", 2)
        assert read(b"raw", kind_) == b"raw"


def test_well_known_messages_have_their_own_json() -> None:
    assert encode_one(Timestamp(seconds=0), "raw", False)[1] == b'"1970-01-01T00:00:00Z"'
    assert read(b'"1970-01-01T00:00:01Z"', "application/json", Timestamp) == Timestamp(seconds=1)
    assert read(b'"x"', "application/json", StringValue) == StringValue(value="x")


def test_an_any_of_an_unknown_type_keeps_its_name() -> None:
    packed = AnyMessage(type_url="type.googleapis.com/far.Away", value=b"\x08\x01")
    kind, body = encode_one(packed, "any", False)
    assert (kind, body) == (b'application/x-protobuf; messageType="far.Away"', b"\x08\x01")
    assert read(body, kind.decode()) == packed


def test_text_is_a_str() -> None:
    assert read("ü".encode(), "text/plain") == "ü"
    assert read("ü".encode("latin-1"), "text/csv; charset=latin-1") == "ü"


@pytest.mark.parametrize(
    ("body", "kind", "of", "says"),
    [
        (b"{broken", "application/json", None, "with what is no JSON: "),
        (b"NaN", "application/json", None, "NaN is no number"),
        (b"[-Infinity]", "application/json", None, "-Infinity is no number"),
        (b"\xff", "application/json", None, "no JSON"),
        (b"[" * 200_000, "application/json", None, "no JSON"),
        (b'{"count": "x"}', "application/json", "Order", "no kit.shop.Order in JSON"),
        (b"[1]", "application/json", "Order", "no kit.shop.Order in JSON"),
        (b"\xff", "application/json", "Order", "no kit.shop.Order in JSON"),
        (b"\xff\xff", "application/x-protobuf", "Order", "no kit.shop.Order: "),
    ],
    ids=range(9),
)
def test_an_answer_that_is_broken_is_internal(body: bytes, kind: str, of: str | None, says: str) -> None:
    message = failing(GrpcStatus.INTERNAL, read, body, kind, order_class() if of else None)
    assert message.startswith(f"{WHERE} answered with ")
    assert says in message
    assert len(message) <= 1024


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (float("nan"), "cannot be written as JSON"),
        ([float("inf")], "cannot be written as JSON"),
        (AnyMessage(), None),
    ],
    ids=range(3),
)
def test_an_input_without_a_form_is_refused(value: Any, says: str | None) -> None:
    if says is not None:
        assert says in failing(GrpcStatus.INVALID_ARGUMENT, encode_one, value, "any", False)
    else:
        assert "an empty Any" in failing(GrpcStatus.INVALID_ARGUMENT, encode_item, value, NDJSON)


def test_bytes_have_no_place_among_lines_nor_values_among_messages() -> None:
    assert "bytes cannot be written" in failing(GrpcStatus.INVALID_ARGUMENT, encode_item, b"x", NDJSON)
    packed = AnyMessage(type_url="type.googleapis.com/far.Away")
    assert "far.Away cannot be" in failing(GrpcStatus.INVALID_ARGUMENT, encode_item, packed, NDJSON)
    assert "a dict has no place" in failing(GrpcStatus.INVALID_ARGUMENT, encode_item, {}, DELIMITED)


def test_what_streams_says_so() -> None:
    forms = {
        ("application/x-ndjson", False): Form.LINES,
        ("application/jsonl", False): Form.LINES,
        ("application/json", True): Form.JSON,
        ("application/problem+json", False): Form.JSON,
        ("application/x-protobuf", False): Form.MESSAGE,
        ("application/x-protobuf", True): Form.DELIMITED,
        ("application/x-protobuf; delimited=true", False): Form.DELIMITED,
        ('application/vnd.google.protobuf; proto=a.B; encoding="delimited"', False): Form.DELIMITED,
        ("text/csv", True): Form.TEXT,
    }
    assert {given: typed(*given).form for given in forms} == forms


def test_an_encoded_answer_and_one_of_events_are_refused() -> None:
    def encoded() -> Any:
        return body_type(
            Headers({"content-type": "application/json", "content-encoding": "gzip"}), False, WHERE
        )

    assert "compose the dispatcher with decompress()" in failing(GrpcStatus.INTERNAL, encoded)
    assert "has to be application/x-ndjson" in failing(GrpcStatus.INTERNAL, typed, "text/event-stream")
    assert typed("application/json", **{"content-encoding": "identity"}).form is Form.JSON


# -- streams -------------------------------------------------------------------------------------------------


def cut(data: bytes, size: int, kind: str, limit: int = 1000) -> list[bytes]:
    items = Items(typed(kind, True), limit, WHERE)
    found = [item for start in range(0, len(data), size) for item in items.feed(data[start : start + size])]
    return [*found, *items.end()]


LINES = b'1\n\n{"a": "b"}\r\n  \n"last"'
MESSAGES = [b"", b"\x08\x01", b"x" * 127, b"y" * 128, b"z" * 300]
FRAMED = b"".join(encode_item(message, DELIMITED) for message in MESSAGES)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
def test_streams_are_cut_the_same_wherever_their_pieces_end(size: int) -> None:
    assert [json.loads(line) for line in cut(LINES, size, "application/x-ndjson")] == [1, {"a": "b"}, "last"]
    assert cut(FRAMED, size, "application/x-protobuf") == MESSAGES


def test_a_stream_of_messages_may_not_end_within_one() -> None:
    whole = {0}
    for message in MESSAGES:
        whole.add(max(whole) + len(encode_item(message, DELIMITED)))
    for end in range(len(FRAMED) + 1):
        if end in whole:
            assert cut(FRAMED[:end], 7, "application/x-protobuf") == MESSAGES[: sorted(whole).index(end)]
        else:
            says = failing(GrpcStatus.INTERNAL, cut, FRAMED[:end], 7, "application/x-protobuf")
            assert says == f"{WHERE} ended in the middle of a message"


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_an_item_that_is_too_large_is_refused_before_it_is_there(size: int) -> None:
    for kind, data in (
        ("application/x-ndjson", b"1\n" + b"x" * 5000),
        ("application/x-ndjson", b"1\n" + b"x" * 5000 + b"\n"),
        ("application/x-protobuf", b"\x011" + b"\xff\xff\x03" + b"x" * 200),
    ):
        items = Items(typed(kind, True), 1000, WHERE)
        found = []

        def feed(data: bytes = data, items: Items = items, found: list[bytes] = found) -> None:
            for start in range(0, len(data), size):
                found.extend(items.feed(data[start : start + size]))

        assert "more than 1000 bytes" in failing(GrpcStatus.RESOURCE_EXHAUSTED, feed)
        if size < 10_000:
            assert found == [b"1"]


def test_a_length_without_an_end_is_none() -> None:
    assert "a length of a message that is none" in failing(
        GrpcStatus.INTERNAL, cut, b"\xff" * 20, 3, "application/x-protobuf"
    )


def test_messages_in_lines() -> None:
    line = encode_item(order("a\nb", 2), NDJSON)
    assert line.count(b"\n") == 1
    assert read(line, "application/x-ndjson", order_class()) == order("a\nb", 2)
    assert encode_item(order("a", 2), DELIMITED) == b"\x05\x0a\x01a\x10\x02"

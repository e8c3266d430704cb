"""Metadata: what may be sent, what is read, and that what was read may be sent on."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given, strategies as st

from dodici.core.errors import InvalidArgumentError
from dodici.core.headers import Headers
from dodici.wire.grpc.metadata import GrpcMetadata, decode_binary, encode_binary, encode_metadata


def received(*pairs: tuple[bytes, bytes]) -> GrpcMetadata:
    return GrpcMetadata.from_headers(Headers.from_raw(pairs))


def test_forms_of_input() -> None:
    pairs = [("a", "1"), ("b", "2"), ("b", "3"), ("c-bin", b"\0\xff")]
    metadata = GrpcMetadata(pairs)
    assert metadata.multi_items() == pairs
    assert GrpcMetadata({"a": "1", "b": ["2", "3"], "c-bin": b"\0\xff"}) == metadata
    assert GrpcMetadata(iter(pairs)) == metadata
    assert GrpcMetadata(metadata) == metadata
    assert GrpcMetadata(metadata).raw is metadata.raw
    assert metadata.raw == ((b"a", b"1"), (b"b", b"2"), (b"b", b"3"), (b"c-bin", b"AP8"))
    assert GrpcMetadata() == GrpcMetadata(None) == GrpcMetadata({}) == GrpcMetadata([])


def test_a_mapping() -> None:
    metadata = GrpcMetadata([("A", "1"), ("b", "2"), ("b", "3"), ("c-bin", bytearray(b"x"))])
    assert metadata["a"] == metadata["A"] == "1"
    assert metadata["b"] == "2"
    assert metadata.get_list("B") == ["2", "3"]
    assert metadata["c-bin"] == b"x"
    assert metadata.get("d") is None
    assert metadata.get_list("d") == []
    assert "A" in metadata
    assert "d" not in metadata
    assert 5 not in metadata
    assert list(metadata) == ["a", "b", "c-bin"]
    assert len(metadata) == 3
    assert metadata != {"a": "1"}
    assert hash(metadata) == hash(GrpcMetadata(metadata.multi_items()))
    assert pickle.loads(pickle.dumps(metadata)) == metadata
    assert repr(GrpcMetadata({"a": "1"})) == "GrpcMetadata([('a', '1')])"


def test_values_are_stripped_of_blanks_and_may_be_empty() -> None:
    assert encode_metadata([("a", " x y "), ("b", "")]) == ((b"a", b"x y"), (b"b", b""))


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ({"a b": "x"}, "invalid metadata name"),
        ({"": "x"}, "invalid metadata name"),
        ({":path": "x"}, "invalid metadata name"),
        ({"a!": "x"}, "invalid metadata name"),
        ({"é": "x"}, "invalid metadata name"),
        ({5: "x"}, "must be a str, not int"),
        ({"grpc-status": "0"}, "belongs to the protocol"),
        ({"Grpc-Timeout": "1S"}, "belongs to the protocol"),
        ({"grpc-anything": "x"}, "belongs to the protocol"),
        ({"te": "x"}, "belongs to the protocol"),
        ({"content-type": "x"}, "belongs to the protocol"),
        ({"user-agent": "x"}, "belongs to the protocol"),
        ({"connection": "x"}, "belongs to the protocol"),
        ({"a": "é"}, "printable ASCII"),
        ({"a": "x\n"}, "printable ASCII"),
        ({"a": "x\ty"}, "printable ASCII"),
        ({"a": 5}, "must be a str, not int"),
        ({"a": None}, "must be a str, not NoneType"),
        ({"a": b"x"}, "names of binary values end in '-bin'"),
        ({"a-bin": "x"}, "must be bytes, not str"),
        (["ab"], "pairs, not 'ab'"),
        ([("a", "b", "c")], "must be .* pairs"),
        ("ab", "not str"),
        (5, "not int"),
    ],
)
def test_what_may_not_be_sent(source: Any, text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=text):
        GrpcMetadata(source)


def test_tracing_libraries_may_use_their_reserved_names() -> None:
    assert encode_metadata({"grpc-trace-bin": b"\1"}) == ((b"grpc-trace-bin", b"AQ"),)


@given(st.binary(max_size=40))
def test_binary_round_trip(value: bytes) -> None:
    assert b"=" not in encode_binary(value)
    assert decode_binary(encode_binary(value)) == [value]


@pytest.mark.parametrize(
    ("field", "values"),
    [
        (b"YQ", [b"a"]),
        (b"YQ==", [b"a"]),
        (b"", [b""]),
        (b"YQ,Yg==, Yw", [b"a", b"b", b"c"]),
        (b"YQ,,Yg", [b"a", b"", b"b"]),
        (b"+/8", [b"\xfb\xff"]),
        (b"Y", []),
        (b"Y*Q=,YQ", [b"a"]),
        (b"Y=Q=", []),
        (b"\xff\xff", []),
    ],
)
def test_binary_fields(field: bytes, values: list[bytes]) -> None:
    assert decode_binary(field) == values


def test_what_is_received() -> None:
    metadata = received(
        (b"content-type", b"application/grpc"),
        (b"Grpc-Status", b"0"),
        (b"grpc-message", b""),
        (b"grpc-encoding", b"gzip"),
        (b"grpc-accept-encoding", b"gzip"),
        (b"X-A", b"1"),
        (b"x-a", b"2"),
        (b"b-bin", b"YQ,Yg"),
        (b"b-bin", b"Yw=="),
        (b"grpc-server-stats-bin", b"AA"),
        (b"odd", b"\xe9\xe8\t!"),
    )
    assert metadata.multi_items() == [
        ("x-a", "1"),
        ("x-a", "2"),
        ("b-bin", b"a"),
        ("b-bin", b"b"),
        ("b-bin", b"c"),
        ("grpc-server-stats-bin", b"\0"),
        ("odd", "\xe9\xe8\t!"),
    ]


def test_what_was_received_can_be_sent_on() -> None:
    metadata = received((b"odd", b"\xe9\xe8"), (b"x-bin", b"YQ=="), (b"grpc-status", b"0"))
    assert encode_metadata(metadata) == ((b"odd", b"\xe9\xe8"), (b"x-bin", b"YQ=="))


@given(
    st.lists(
        st.tuples(
            st.from_regex(r"x[0-9a-z_.\-]{0,8}", fullmatch=True).filter(
                lambda name: not name.endswith("-bin")
            ),
            st.text("".join(map(chr, range(0x20, 0x7F))), max_size=20).map(lambda text: text.strip(" ")),
        )
        | st.tuples(st.from_regex(r"x[0-9a-z_.]{0,5}-bin", fullmatch=True), st.binary(max_size=20)),
        max_size=6,
    )
)
def test_round_trip(pairs: list[tuple[str, Any]]) -> None:
    assert received(*encode_metadata(pairs)).multi_items() == pairs

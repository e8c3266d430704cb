"""Messages in a body: every way to cut it, limits before memory, compression when somebody asks."""

from __future__ import annotations

import gzip
import itertools
import zlib

import pytest
from hypothesis import given, strategies as st

from dodici.core.errors import GrpcError, InvalidArgumentError
from dodici.core.grpc_status import GrpcStatus
from dodici.wire.grpc.compression import ENCODINGS, compress, decompress
from dodici.wire.grpc.framing import PREFIX, MessageDecoder, encode_message

LIMIT = 1000


def taken(decoder: MessageDecoder) -> list[bytes]:
    return [decoder.take() for _ in range(len(decoder))]


def test_the_prefix() -> None:
    assert encode_message(b"abc") == b"\0\0\0\0\3abc"
    assert encode_message(b"") == b"\0\0\0\0\0"
    assert encode_message(bytearray(b"abc")) == encode_message(memoryview(b"abc")) == encode_message(b"abc")
    assert encode_message(b"abc", "identity") == encode_message(b"abc", None) == encode_message(b"abc")
    compressed = encode_message(b"abc", "gzip")
    assert compressed[0] == 1
    assert int.from_bytes(compressed[1:5], "big") == len(compressed) - 5
    assert gzip.decompress(compressed[5:]) == b"abc"


@pytest.mark.parametrize("message", ["text", None, 5, ["a"]])
def test_a_message_is_bytes(message: object) -> None:
    with pytest.raises(InvalidArgumentError, match="must be bytes"):
        encode_message(message)  # type: ignore[arg-type]


MESSAGES = [b"", b"a", b"bc" * 20, b"", b"x" * 7]
WIRE = b"".join(map(encode_message, MESSAGES))


@pytest.mark.parametrize("size", range(1, len(WIRE) + 1))
def test_pieces_of_every_size(size: int) -> None:
    decoder = MessageDecoder(LIMIT)
    for start in range(0, len(WIRE), size):
        decoder.feed(WIRE[start : start + size])
    decoder.finish()
    assert decoder.waiting == len(WIRE)
    assert taken(decoder) == MESSAGES
    assert decoder.waiting == 0


@pytest.mark.parametrize("cut", range(len(WIRE) + 1))
def test_every_cut_in_two(cut: int) -> None:
    decoder = MessageDecoder(LIMIT)
    got = []
    for part in (WIRE[:cut], WIRE[cut:]):
        decoder.feed(part)
        got += taken(decoder)
    decoder.finish()
    assert got == MESSAGES


@given(st.lists(st.binary(max_size=60), max_size=6), st.lists(st.integers(0, 400), max_size=8), st.data())
def test_round_trip(messages: list[bytes], cuts: list[int], data: st.DataObject) -> None:
    encoding = data.draw(st.sampled_from(ENCODINGS))
    wire = b"".join(encode_message(message, encoding) for message in messages)
    decoder = MessageDecoder(LIMIT, encoding)
    edges = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    for start, stop in itertools.pairwise(edges):
        decoder.feed(wire[start:stop])
    decoder.finish()
    assert taken(decoder) == messages


@pytest.mark.parametrize(
    "length", [length for length in range(1, len(WIRE)) if length not in (5, 11, 56, 61)]
)
def test_an_end_inside_a_message(length: int) -> None:
    decoder = MessageDecoder(LIMIT)
    decoder.feed(WIRE[:length])
    with pytest.raises(GrpcError, match="ended inside a message") as caught:
        decoder.finish()
    assert caught.value.status is GrpcStatus.INTERNAL


def test_the_limit_is_inclusive() -> None:
    decoder = MessageDecoder(10)
    decoder.feed(encode_message(bytes(10)))
    assert taken(decoder) == [bytes(10)]


def test_a_message_beyond_the_limit_is_refused_from_its_prefix() -> None:
    decoder = MessageDecoder(10)
    with pytest.raises(GrpcError, match=r"larger than max \(11 vs. 10 bytes\)") as caught:
        decoder.feed(encode_message(b"fine") + b"\0\0\0\0\x0b")
    assert caught.value.status is GrpcStatus.RESOURCE_EXHAUSTED
    assert taken(decoder) == [b"fine"]


def test_an_impossible_flag() -> None:
    with pytest.raises(GrpcError, match="flag 2") as caught:
        MessageDecoder(10).feed(b"\2\0\0\0\0")
    assert caught.value.status is GrpcStatus.INTERNAL


def test_a_large_message_in_small_pieces_is_joined_once() -> None:
    message = bytes(range(256)) * 4096
    wire = encode_message(message)
    decoder = MessageDecoder(len(message))
    for start in range(0, len(wire), 1024):
        assert len(decoder) == 0
        decoder.feed(wire[start : start + 1024])
    assert taken(decoder) == [message]


def test_what_waits_is_compressed_and_counted_with_its_prefix() -> None:
    bomb = encode_message(bytes(LIMIT), "gzip")
    decoder = MessageDecoder(LIMIT, "gzip")
    decoder.feed(bomb * 3)
    assert decoder.waiting == 3 * len(bomb)
    assert len(bomb) < PREFIX + 50
    assert taken(decoder) == [bytes(LIMIT)] * 3


def test_clear() -> None:
    decoder = MessageDecoder(LIMIT)
    decoder.feed(WIRE[:-1])
    decoder.clear()
    assert (len(decoder), decoder.waiting) == (0, 0)
    decoder.finish()


# -- compression ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", [one for one in ENCODINGS if one != "identity"])
def test_compressed_messages_are_limited_once_decompressed(encoding: str) -> None:
    assert decompress(encoding, compress(encoding, bytes(LIMIT)), LIMIT) == bytes(LIMIT)
    with pytest.raises(GrpcError, match="once decompressed") as caught:
        decompress(encoding, compress(encoding, bytes(LIMIT + 1)), LIMIT)
    assert caught.value.status is GrpcStatus.RESOURCE_EXHAUSTED


def test_an_empty_message_compresses_too() -> None:
    assert decompress("gzip", compress("gzip", b""), 0) == b""


@pytest.mark.parametrize(
    ("encoding", "data", "text"),
    [
        ("gzip", b"not gzip", "broken gzip"),
        ("gzip", b"", "not one whole stream"),
        ("gzip", gzip.compress(b"abc", mtime=0)[:-1], "not one whole stream"),
        ("gzip", gzip.compress(b"abc", mtime=0) + b"x", "not one whole stream"),
        ("gzip", zlib.compress(b"abc"), "broken gzip"),
        ("deflate", gzip.compress(b"abc", mtime=0), "broken deflate"),
        ("snappy", b"abc", "compressed with 'snappy'; supported are identity, deflate, gzip"),
        ("identity", b"abc", "grpc-encoding names no compression"),
        (None, b"abc", "grpc-encoding names no compression"),
    ],
)
def test_what_cannot_be_decompressed(encoding: str | None, data: bytes, text: str) -> None:
    decoder = MessageDecoder(LIMIT, encoding)
    decoder.feed(b"\1" + len(data).to_bytes(4, "big") + data)
    with pytest.raises(GrpcError, match=text) as caught:
        decoder.take()
    assert caught.value.status is GrpcStatus.INTERNAL

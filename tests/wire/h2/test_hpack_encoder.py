"""HPACK, the encoding side: integers, which representation is chosen, and that nothing is added to a table."""

from __future__ import annotations

import pytest

from dodici.core.errors import InvalidArgumentError
from dodici.wire.h2.hpack import (
    Decoder,
    Field,
    decode_integer,
    encode_fields,
    encode_integer,
    table_size_update,
)
from dodici.wire.h2.tables import SENSITIVE, STATIC_TABLE

# ---------------------------------------------------------------------------------------- integers


@pytest.mark.parametrize(
    ("value", "bits", "coded"),
    [
        pytest.param(10, 5, "0a", id="C.1.1"),
        pytest.param(1337, 5, "1f9a0a", id="C.1.2"),
        pytest.param(42, 8, "2a", id="C.1.3"),
        (0, 5, "00"),
        (30, 5, "1e"),
        (31, 5, "1f00"),
        (158, 5, "1f7f"),
        (159, 5, "1f8001"),
        (127, 7, "7f00"),
        (2**31 - 1, 7, "7f80ffffff07"),
    ],
)
def test_integers(value: int, bits: int, coded: str) -> None:
    data = bytes.fromhex(coded)
    assert encode_integer(value, bits) == data
    full = (1 << bits) - 1
    if value < full:
        assert data == bytes((value,))
    else:
        assert decode_integer(b"..." + data + b"...", 4, full) == (value, 3 + len(data))


def test_flags_of_the_first_octet() -> None:
    assert encode_integer(1, 5, 0x20) == b"\x21"
    assert encode_integer(1337, 5, 0xE0) == b"\xff\x9a\x0a"


def test_negative_integers() -> None:
    with pytest.raises(InvalidArgumentError, match="negative"):
        encode_integer(-1, 7)
    with pytest.raises(InvalidArgumentError, match="negative"):
        table_size_update(-1)


@pytest.mark.parametrize(("size", "coded"), [(0, "20"), (30, "3e"), (31, "3f00"), (4096, "3fe11f")])
def test_size_updates(size: int, coded: str) -> None:
    assert table_size_update(size).hex() == coded
    assert Decoder().decode(table_size_update(size) + b"\x82") == [(b":method", b"GET")]


# ------------------------------------------------------------------------------------------ fields


@pytest.mark.parametrize(
    ("field", "coded"),
    [
        pytest.param((b":method", b"GET"), "82", id="C.2.4, the whole field is in the static table"),
        pytest.param((b":path", b"/sample/path"), "040c2f73616d706c652f70617468", id="C.2.2, its name is"),
        pytest.param((b"user-agent", b"x"), "0f2b0178", id="a name of two octets"),
        pytest.param((b"x-ab", b"1"), "0083f2b0e3" + "0131", id="neither, and Huffman is shorter"),
        pytest.param((b"~~", b"1"), "00027e7e0131", id="neither, and Huffman is longer"),
        pytest.param((b"", b""), "000000", id="empty"),
        pytest.param((b"cookie", b"a=b"), "1f1103613d62", id="never indexed, name in the static table"),
        pytest.param((b"cookie", b""), "1f1100", id="never indexed, even though the table has it"),
    ],
)
def test_representations(field: Field, coded: str) -> None:
    assert encode_fields([field]).hex() == coded
    assert Decoder().decode(bytes.fromhex(coded)) == [field]


def test_appendix_c23_never_indexed() -> None:
    block = encode_fields([(b"password", b"secret")], {b"password"})
    assert block[0] == 0x10
    assert Decoder().decode(block) == [(b"password", b"secret")]


def test_sensitive_names_may_be_any() -> None:
    fields = [(b":method", b"GET"), (b"cookie", b"a")]
    assert encode_fields(fields, frozenset()) == b"\x82\x0f\x11\x01a"
    assert encode_fields(fields, {b":method"}) == b"\x12\x03GET\x0f\x11\x01a"


@pytest.mark.parametrize("name", sorted(SENSITIVE))
@pytest.mark.parametrize("shorten", [False, True])
def test_secrets_are_never_indexed(name: bytes, shorten: bool) -> None:
    assert encode_fields([(name, b"secret")], shorten=shorten)[0] & 0xF0 == 0x10


def test_every_field_of_the_static_table() -> None:
    for index, field in enumerate(STATIC_TABLE[1:], 1):
        block = encode_fields([field], ())
        assert block == bytes((0x80 | index,))
        assert Decoder().decode(block) == [field]


def test_names_take_their_lowest_index() -> None:
    assert encode_fields([(b":status", b"201")])[0] == 8
    assert encode_fields([(b":method", b"PUT")])[0] == 2


@pytest.mark.parametrize("length", [0, 1, 126, 127, 128, 254, 255, 16384])
@pytest.mark.parametrize("shorten", [False, True])
def test_lengths_of_values(length: int, shorten: bool) -> None:
    field = (b"x-long", b"a" * length)
    assert Decoder(max_list_size=20000).decode(encode_fields([field], shorten=shorten)) == [field]


def test_shortened_values() -> None:
    assert encode_fields([(b":authority", b"www.example.com")], shorten=True).hex() == (
        "018cf1e3c2e5f23a6ba0ab90f4ff"  # C.4.1, without indexing
    )
    assert encode_fields([(b":authority", b"\xff\xfe")], shorten=True) == b"\x01\x02\xff\xfe"


def test_blocks_may_be_joined_and_add_nothing() -> None:
    first = [(b":method", b"POST"), (b"x-a", b"1"), (b"authorization", b"Bearer t")]
    second = iter([(b"content-length", b"12"), (b"x-a", b"1")])
    decoder = Decoder()
    block = encode_fields(first) + encode_fields(second)
    assert decoder.decode(block) == [*first, (b"content-length", b"12"), (b"x-a", b"1")]
    assert decoder.pure
    assert decoder.version == 0


def test_no_fields() -> None:
    assert encode_fields([]) == b""

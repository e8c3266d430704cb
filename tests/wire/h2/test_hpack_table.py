"""HPACK's dynamic table: sizes and eviction, what a block depends on, and the limits."""

from __future__ import annotations

import tracemalloc

import pytest
from tests.wire.h2.hpack_blocks import indexed, literal, table

from dodici.wire.h2 import huffman
from dodici.wire.h2.hpack import Decoder, HeaderListTooLarge, HPACKError, encode_integer

GET = (b":method", b"GET")

# --------------------------------------------------------------------------------------- the table


def test_the_oldest_entries_go_first() -> None:
    decoder = Decoder(max_table_size=3 * 34)
    for name in (b"a", b"b", b"c", b"d"):
        decoder.decode(literal(name, b"1"))
    assert table(decoder) == [(b"d", b"1"), (b"c", b"1"), (b"b", b"1")]


def test_an_entry_of_exactly_the_table_fits_and_one_more_byte_empties_it() -> None:
    decoder = Decoder(max_table_size=40)
    exact = (b"abcd", b"1234")
    assert decoder.decode(literal(*exact) + indexed(62)) == [exact, exact]
    assert decoder.decode(literal(b"abcd", b"12345")) == [(b"abcd", b"12345")]
    assert table(decoder) == []


def test_a_name_may_come_from_the_entry_that_it_evicts() -> None:
    decoder = Decoder(max_table_size=40)
    decoder.decode(literal(b"abcd", b"1234"))
    assert decoder.decode(b"\x7e\x041234") == [(b"abcd", b"1234")]
    assert decoder.decode(b"\x7e\x045678" + indexed(62)) == [(b"abcd", b"5678")] * 2


def test_a_smaller_size_evicts_and_a_larger_one_brings_nothing_back() -> None:
    decoder = Decoder()
    decoder.decode(literal(b"a", b"1") + literal(b"b", b"2") + literal(b"c", b"3"))
    assert decoder.decode(encode_integer(69, 5, 0x20)) == []  # two entries of 34 and a byte
    assert decoder.decode(encode_integer(4096, 5, 0x20) + indexed(62) + indexed(63)) == [
        (b"c", b"3"),
        (b"b", b"2"),
    ]
    with pytest.raises(HPACKError, match="index 64"):
        decoder.decode(indexed(64))


def test_two_updates_in_one_block() -> None:
    decoder = Decoder()
    decoder.decode(literal(b"a", b"1"))
    assert decoder.decode(b"\x20" + encode_integer(4096, 5, 0x20) + literal(b"b", b"2")) == [(b"b", b"2")]
    assert table(decoder) == [(b"b", b"2")]


def test_a_larger_table_takes_an_update() -> None:
    big = literal(b"n" * 32, b"v" * 4000)  # 4064 bytes as an entry
    decoder = Decoder(max_table_size=8192)
    decoder.decode(big + big)
    assert len(table(decoder)) == 1  # the peer, too, has 4096 bytes until it says otherwise
    decoder = Decoder(max_table_size=8192)
    decoder.decode(encode_integer(8192, 5, 0x20) + big + big)
    assert len(table(decoder)) == 2


def test_a_lowered_limit_has_to_be_confirmed() -> None:
    decoder = Decoder()
    decoder.decode(literal(b"a", b"1"))
    decoder.set_max_table_size(100)
    with pytest.raises(HPACKError, match="no table size update"):
        decoder.decode(b"\x82")


def test_a_lowered_limit_that_is_confirmed() -> None:
    decoder = Decoder()
    decoder.set_max_table_size(100)
    assert decoder.decode(encode_integer(100, 5, 0x20) + b"\x82") == [GET]
    assert decoder.decode(b"\x82") == [GET]
    with pytest.raises(HPACKError, match="table size 101"):
        decoder.decode(encode_integer(101, 5, 0x20))


def test_lowered_and_raised_before_the_next_block() -> None:
    def changed() -> Decoder:
        decoder = Decoder()
        for size in (10, 50, 4096):
            decoder.set_max_table_size(size)
        return decoder

    with pytest.raises(HPACKError, match="at most 10 was due"):
        changed().decode(encode_integer(50, 5, 0x20))
    assert changed().decode(encode_integer(10, 5, 0x20) + encode_integer(4096, 5, 0x20) + b"\x82") == [GET]


def test_a_limit_above_the_table_needs_no_confirmation() -> None:
    decoder = Decoder()
    decoder.decode(b"\x20")
    decoder.set_max_table_size(100)
    assert decoder.decode(b"\x82") == [GET]


# ---------------------------------------------------------------------------------- pure, version


@pytest.mark.parametrize(
    ("block", "pure", "changes"),
    [
        pytest.param(b"", True, 0, id="empty"),
        pytest.param(b"\x82\x88", True, 0, id="static"),
        pytest.param(b"\x01\x01a", True, 0, id="static name"),
        pytest.param(literal(b"a", b"1", 0x00), True, 0, id="not added"),
        pytest.param(literal(b"a", b"1", 0x10), True, 0, id="never added"),
        pytest.param(b"\xbe", False, 0, id="reads an entry"),
        pytest.param(b"\x0f\x2f\x01a", False, 0, id="reads a name"),
        pytest.param(literal(b"a", b"1"), False, 1, id="adds"),
        pytest.param(literal(b"a", b"1" * 5000), False, 1, id="empties the table"),
        pytest.param(b"\x20", False, 1, id="sets the size"),
        pytest.param(b"\x3f\xe1\x1f", False, 0, id="sets the size that it has"),
        pytest.param(b"\x20\x3f\xe1\x1f", False, 2, id="sets the size twice"),
    ],
)
def test_what_a_block_depends_on(block: bytes, pure: bool, changes: int) -> None:
    decoder = Decoder()
    decoder.decode(literal(b"x-known", b"1"))
    version = decoder.version
    decoder.decode(block)
    assert decoder.pure is pure
    assert decoder.version == version + changes


def test_adding_to_a_table_of_no_size_changes_nothing() -> None:
    decoder = Decoder(max_table_size=0)
    assert decoder.decode(literal(b"a", b"1")) == [(b"a", b"1")]
    assert (decoder.version, decoder.pure) == (0, False)


# ------------------------------------------------------------------------------------------ limits


def test_the_limit_counts_32_bytes_for_each_field() -> None:
    block = b"\x82" + literal(b"abc", b"defg")  # 42 + 39
    assert len(Decoder(max_list_size=81).decode(block)) == 2
    with pytest.raises(HeaderListTooLarge, match="81 bytes, 80 are") as caught:
        Decoder(max_list_size=80).decode(block)
    assert caught.value.size == 81


def test_a_list_that_is_too_large_leaves_the_table_in_step() -> None:
    decoder = Decoder(max_list_size=100)
    with pytest.raises(HeaderListTooLarge):
        decoder.decode(literal(b"a", b"1" * 100) + literal(b"b", b"2"))
    assert decoder.decode(b"\xbe") == [(b"b", b"2")]
    assert decoder.version == 2


def test_an_error_after_the_limit_is_still_an_error() -> None:
    with pytest.raises(HPACKError, match="index 0"):
        Decoder(max_list_size=100).decode(literal(b"a", b"1" * 100) + b"\x80")


def test_references_to_a_large_entry_cost_no_memory() -> None:
    decoder = Decoder()
    decoder.decode(literal(b"a", b"x" * 4000))
    bomb = b"\xbe" * 65536
    tracemalloc.start()
    try:
        with pytest.raises(HeaderListTooLarge) as caught:
            decoder.decode(bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.size == 65536 * 4033
    assert peak < 16384


def test_known_strings_are_bounded_and_hold_no_secret() -> None:
    def field(first: bytes, value: bytes) -> bytes:
        coded = huffman.encode(value)
        return first + encode_integer(len(coded), 7, 0x80) + coded

    decoder = Decoder()
    openings = {
        b"\x5f": False,  # content-type, added
        b"\x0f\x10": False,  # content-type, not added
        b"\x1f\x10": True,  # content-type, never
        b"\x0f\x08": True,  # authorization
        b"\x0f\x11": True,  # cookie
        b"\x77": True,  # set-cookie, added
    }
    for number, (opening, secret) in enumerate(openings.items()):
        value = b"value-%d" % number
        assert decoder.decode(field(opening, value))[0][1] == value
        assert (value in decoder._known.values()) is not secret
    long = b"a" * 104  # 65 octets in the code
    decoder.decode(field(b"\x0f\x10", long))
    assert long not in decoder._known.values()
    for number in range(1000):
        decoder.decode(field(b"\x0f\x10", b"%d" % number))
        assert len(decoder._known) <= 128

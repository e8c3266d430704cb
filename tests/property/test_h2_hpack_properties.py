"""HPACK under generated fields and bytes, with hpack (Python) and jh2 (Rust) for oracles."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import hpack
import pytest
from hypothesis import given, strategies as st
from jh2._hazmat import Decoder as RustDecoder, Encoder as RustEncoder

from dodici.wire.h2 import huffman
from dodici.wire.h2.hpack import (
    Decoder,
    Field,
    HeaderListTooLarge,
    HPACKError,
    encode_fields,
    encode_integer,
    table_size_update,
)
from dodici.wire.h2.tables import SENSITIVE, STATIC_TABLE

UNLIMITED = 1 << 30

_tokens = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=12).map(str.encode)
_names = st.one_of(st.sampled_from([name for name, _ in STATIC_TABLE[1:]]), _tokens)
_values = st.one_of(st.text(max_size=20).map(str.encode), st.binary(max_size=40), st.just(b"v" * 300))
_few = st.tuples(st.sampled_from([b"x-a", b"date", b"cookie", b":status"]), st.sampled_from([b"1", b"200"]))
fields = st.lists(st.one_of(st.sampled_from(STATIC_TABLE[1:]), _few, st.tuples(_names, _values)), max_size=8)
sizes = st.sampled_from([0, 33, 64, 100, 300, 1000, 4095, 4096])
connections = st.lists(st.tuples(st.none() | sizes, fields, st.booleans()), min_size=1, max_size=8)

# ------------------------------------------------------------- blocks by hand: valid, nearly, not at all


def _string(data: bytes, coded: bool) -> bytes:
    if coded:
        data = huffman.encode(data)
    return encode_integer(len(data), 7, 0x80 if coded else 0) + data


_strings = st.builds(
    _string, st.sampled_from([b"", b"a", b"date", b"x" * 60]) | st.binary(max_size=9), st.booleans()
)
_prefixes = st.sampled_from([(6, 0x40), (4, 0x00), (4, 0x10)])
_literals = st.one_of(
    st.builds(
        lambda prefix, name, value: encode_integer(0, *prefix) + name + value, _prefixes, _strings, _strings
    ),
    st.builds(
        lambda prefix, index, value: encode_integer(index, *prefix) + value,
        _prefixes,
        st.integers(1, 66),
        _strings,
    ),
)
_indexed = st.integers(1, 66).map(lambda index: encode_integer(index, 7, 0x80))
_updates = st.lists(sizes.map(table_size_update), max_size=2).map(b"".join)
_pieces = st.lists(_literals | _indexed, max_size=8).map(b"".join)
blocks = st.builds(lambda update, rest: update + rest, st.just(b"") | _updates, _pieces)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    block = bytearray(draw(blocks))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(block)))
        block[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(block)


anything = st.binary(max_size=60) | damaged()


def state(decoder: Decoder) -> Any:
    return decoder._table_size, list(decoder._entries)


# --------------------------------------------------------------------------------------- round trips


@given(connections)
def test_what_hpack_encodes(connection: list[tuple[int | None, list[Field], bool]]) -> None:
    encoder = hpack.Encoder()
    decoder = Decoder(max_list_size=UNLIMITED)
    for size, pairs, coded in connection:
        if size is not None:
            encoder.header_table_size = size
        block = encoder.encode([(*pair, pair[0] in SENSITIVE) for pair in pairs], huffman=coded)
        assert decoder.decode(block) == pairs
        assert all(type(part) is bytes for pair in decoder.decode(b"") + pairs for part in pair)
        assert decoder._entries[::-1] == [tuple(entry) for entry in encoder.header_table.dynamic_entries]


@given(connections)
def test_what_jh2_encodes(connection: list[tuple[int | None, list[Field], bool]]) -> None:
    encoder = RustEncoder()
    decoder = Decoder(max_list_size=UNLIMITED)
    for size, pairs, coded in connection:
        if size is not None:
            encoder.header_table_size = size
        block = encoder.encode([(*pair, pair[0] in SENSITIVE) for pair in pairs], coded)
        assert decoder.decode(block) == pairs


@given(connections)
def test_others_decode_what_we_encode(connection: list[tuple[int | None, list[Field], bool]]) -> None:
    python = hpack.Decoder(max_header_list_size=UNLIMITED)
    rust = RustDecoder(UNLIMITED)
    ours = Decoder(max_list_size=UNLIMITED)
    for size, pairs, shorten in connection:
        block = b"" if size is None else table_size_update(size)
        block += encode_fields(pairs, shorten=shorten)
        version = ours.version
        assert ours.decode(block) == pairs
        assert ours.pure is (size is None)
        assert ours.version == version or size is not None
        expected = [(*pair, pair[0] in SENSITIVE) for pair in pairs]
        assert [
            (*pair, isinstance(pair, hpack.NeverIndexedHeaderTuple))
            for pair in python.decode(block, raw=True)
        ] == expected
        assert rust.decode(block, True) == expected


@given(st.binary(max_size=200))
def test_huffman_there_and_back(plain: bytes) -> None:
    assert huffman.decode(huffman.encode(plain)) == plain


@given(st.binary(max_size=12))
def test_huffman_strings_have_one_form(coded: bytes) -> None:
    # What decodes encodes to the same octets: the padding rules leave no second spelling.
    with suppress(HPACKError):
        assert huffman.encode(huffman.decode(coded)) == coded


# ------------------------------------------------------------------------------------------- any bytes


@given(st.lists(anything, max_size=8))
def test_any_bytes_raise_our_errors_only_and_hpack_agrees(connection: list[bytes]) -> None:
    ours = Decoder(max_list_size=UNLIMITED)
    theirs = hpack.Decoder(max_header_list_size=UNLIMITED)
    for block in connection:
        expected: list[Field] | None
        try:
            expected = [tuple(pair) for pair in theirs.decode(block, raw=True)]
        except hpack.HPACKError:
            expected = None
        try:
            found: list[Field] | None = ours.decode(block)
        except HPACKError:
            found = None
        assert found == expected
        if found is None:
            break
        assert ours._entries[::-1] == [tuple(entry) for entry in theirs.header_table.dynamic_entries]


@given(st.lists(anything, max_size=8), st.integers(0, 400), sizes)
def test_the_table_is_in_step_whatever_the_limit(
    connection: list[bytes], limit: int, table_size: int
) -> None:
    bounded = Decoder(table_size, limit)
    unbounded = Decoder(table_size, UNLIMITED)
    for block in connection:
        try:
            pairs = unbounded.decode(block)
        except HPACKError:
            with pytest.raises(HPACKError):  # the limit hides no error
                bounded.decode(block)
            break
        size = sum(len(name) + len(value) + 32 for name, value in pairs)
        if size > limit:
            with pytest.raises(HeaderListTooLarge) as caught:
                bounded.decode(block)
            assert caught.value.size == size
        else:
            assert bounded.decode(block) == pairs
        assert state(bounded) == state(unbounded)
        assert (bounded.version, bounded.pure) == (unbounded.version, unbounded.pure)


@given(st.lists(blocks, max_size=12), sizes)
def test_what_may_be_remembered(connection: list[bytes], table_size: int) -> None:
    decoder = Decoder(table_size, UNLIMITED)
    for block in connection:
        before, version = state(decoder), decoder.version
        try:
            pairs = decoder.decode(block)
        except HPACKError:
            break
        pure = decoder.pure
        assert decoder.version >= version
        if state(decoder) != before:
            assert decoder.version > version
        if decoder.version == version:
            assert state(decoder) == before
            assert decoder.decode(block) == pairs
            assert (decoder.version, decoder.pure) == (version, pure)
        if pure:
            assert decoder.version == version
            assert Decoder(0, UNLIMITED).decode(block) == pairs


@given(st.lists(blocks, max_size=30))
def test_a_memory_of_blocks_changes_nothing(connection: list[bytes]) -> None:
    """An owner that keeps both kinds of memory sees what one without sees."""
    plain = Decoder(max_list_size=UNLIMITED)
    saving = Decoder(max_list_size=UNLIMITED)
    pure: dict[bytes, list[Field]] = {}
    still: dict[tuple[int, bytes], list[Field]] = {}
    for block in [*connection, *connection]:
        try:
            expected = plain.decode(block)
        except HPACKError:
            break
        found = pure.get(block)
        if found is None:
            found = still.get((saving.version, block))
        if found is None:
            version = saving.version
            found = saving.decode(block)
            if saving.pure:
                pure[block] = found
            elif saving.version == version:
                still[version, block] = found
        assert found == expected
        assert state(saving) == state(plain)
        assert saving.version == plain.version

"""HPACK (RFC 7541): field blocks of HTTP/2 to lists of fields, and back.

The two directions differ in what they remember. `Decoder` belongs to one connection and keeps the table that the
peer builds; a block that failed leaves it out of step, so an `HPACKError` ends the connection. `encode_fields` has
no table of its own: it uses the static one and adds nothing to the peer's, so that an encoded head is the same on
every connection, may be kept with the request that it belongs to, and may be joined from parts.

Invariants of the decoder, which let its owner remember whole blocks by their bytes:

- A block after which `pure` is true gives the same fields at any time, on any connection.
- A block that left `version` as it was gives the same fields as long as `version` stands still, and to leave out
  its decoding then changes nothing: not the table, not what later blocks mean.

What the peer can make grow: the table by the size that we announced, the list by `max_list_size`, beyond which
fields are decoded (the table has to stay in step) and dropped. A field that refers to the table costs a reference
and not a copy. The memory of Huffman strings holds 128 strings of up to 64 octets and no secrets.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from functools import lru_cache
from typing import Final

from ...core.errors import InvalidArgumentError
from . import huffman
from .huffman import HPACKError
from .tables import SENSITIVE, STATIC_TABLE

__all__ = ["SENSITIVE", "Decoder", "HPACKError", "HeaderListTooLarge", "encode_fields", "table_size_update"]

Field = tuple[bytes, bytes]

DEFAULT_TABLE_SIZE: Final = 4096
"""Bytes of SETTINGS_HEADER_TABLE_SIZE until SETTINGS say otherwise (RFC 9113 §6.5.2)."""

_STATIC: Final = len(STATIC_TABLE) - 1
_OVERHEAD: Final = 32  # of each entry and of each field of a list (RFC 7541 §4.1, RFC 9113 §6.5.2)
_MAX_INTEGER: Final = (1 << 31) - 1

_KNOWN_STRINGS: Final = 128
_KNOWN_LENGTH: Final = 64


class HeaderListTooLarge(Exception):
    """The list of a block is larger than `max_list_size`. The table is in step: the connection can go on."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"header list of {size} bytes, {limit} are allowed")
        self.size = size
        """Bytes of the whole list, 32 for each field included (RFC 9113 §6.5.2)."""


def decode_integer(block: bytes, pos: int, prefix: int) -> tuple[int, int]:
    """An integer whose prefix was full: its value, and the position behind it (RFC 7541 §5.1).

    Args:
        block: where it is.
        pos: of the octet after the prefix.
        prefix: the full prefix's value, 2**N - 1.

    Raises:
        HPACKError: it is 2**31 or more, or takes more than five octets after the prefix.
        IndexError: the block ends before it does.
    """
    value = prefix
    for shift in range(0, 35, 7):
        octet = block[pos]
        pos += 1
        value += (octet & 0x7F) << shift
        if octet < 0x80:
            if value > _MAX_INTEGER:
                break
            return value, pos
    raise HPACKError("integer out of bounds")


def encode_integer(value: int, bits: int, flags: int = 0) -> bytes:
    """`value` with a prefix of `bits` bits, the rest of whose octet is `flags` (RFC 7541 §5.1).

    Raises:
        InvalidArgumentError: a negative value.
    """
    if value < 0:
        raise InvalidArgumentError("HPACK integers are not negative")
    full = (1 << bits) - 1
    if value < full:
        return bytes((flags | value,))
    out = [flags | full]
    value -= full
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Decoder:
    """One connection's decoding side: the dynamic table, and blocks to fields."""

    __slots__ = (
        "_entries",
        "_held",
        "_known",
        "_max_table_size",
        "_owed",
        "_table_size",
        "max_list_size",
        "pure",
        "version",
    )

    def __init__(self, max_table_size: int = DEFAULT_TABLE_SIZE, max_list_size: int = 16384) -> None:
        """Make one with an empty table.

        Args:
            max_table_size: bytes that the peer's updates may give the table: what we announced as
                SETTINGS_HEADER_TABLE_SIZE. Above the default it takes an update to get there.
            max_list_size: bytes of one block's list, 32 for each field included.
        """
        self.max_list_size = max_list_size
        self.version = 0
        """Grows when the table changes: an entry comes or goes, its size is another one."""
        self.pure = False
        """The last block neither used the table nor tried to change it. False after a block that failed."""
        self._entries: list[Field] = []  # the newest is last, so that index 62 is [-1]
        self._held = 0
        self._table_size = min(max_table_size, DEFAULT_TABLE_SIZE)
        self._max_table_size = max_table_size
        self._owed: int | None = None
        self._known: dict[bytes, bytes] = {}

    def set_max_table_size(self, size: int) -> None:
        """The peer has acknowledged a SETTINGS_HEADER_TABLE_SIZE of `size` bytes.

        If the table is larger than that, the next block has to begin with an update that says so (RFC 9113 §4.3.1).
        Blocks that are remembered by their bytes are to be forgotten then, lest they hide that there was none.
        """
        self._max_table_size = size
        if size < self._table_size:
            self._owed = size if self._owed is None else min(size, self._owed)

    def decode(self, block: bytes) -> list[Field]:
        """The fields of one complete block, in order.

        Raises:
            HPACKError: it is not one (RFC 7541), or the peer owes an update of the table's size. The decoder
                is of no further use.
            HeaderListTooLarge: its list exceeds `max_list_size`. The block took effect on the table.
        """
        self.pure = False
        try:
            return self._decode(block)
        except IndexError:
            raise HPACKError("block ends within a field") from None

    def _decode(self, block: bytes) -> list[Field]:
        static = STATIC_TABLE
        entries = self._entries
        known = self._known
        limit = self.max_list_size
        fields: list[Field] = []
        append = fields.append
        size = 0
        end = len(block)
        pos = self._updates(block)
        pure = not pos
        while pos < end:
            first = block[pos]
            pos += 1
            if first >= 0x80:  # indexed (§6.1)
                index = first & 0x7F
                if index == 0x7F:
                    index, pos = decode_integer(block, pos, 0x7F)
                if index > _STATIC:
                    pure = False
                    if index - _STATIC > len(entries):
                        raise HPACKError(f"index {index} is beyond the table")
                    field = entries[_STATIC - index]
                elif index:
                    field = static[index]
                else:
                    raise HPACKError("index 0")
                size += len(field[0]) + len(field[1]) + _OVERHEAD
            else:  # a literal: added (§6.2.1), not added (§6.2.2), never (§6.2.3)
                if first >= 0x40:
                    pure = False
                    mask = 0x3F
                elif first >= 0x20:
                    raise HPACKError("table size update after a field")
                else:
                    mask = 0x0F
                index = first & mask
                if index == mask:
                    index, pos = decode_integer(block, pos, mask)
                if index == 0:
                    name, pos = self._string(block, pos)
                elif index <= _STATIC:
                    name = static[index][0]
                else:
                    pure = False
                    if index - _STATIC > len(entries):
                        raise HPACKError(f"index {index} is beyond the table")
                    name = entries[_STATIC - index][0]

                length = block[pos]
                if length < 0x7F:  # a call saved for the short literal, and for the one decoded before
                    value = block[pos + 1 : pos + 1 + length]
                    pos += 1 + length
                    if pos > end:
                        raise IndexError
                elif (
                    0x80 <= length < 0xFF
                    and (string := known.get(block[pos + 1 : pos - 0x7F + length])) is not None
                    and pos - 0x7F + length <= end
                ):
                    value = string
                    pos += length - 0x7F
                else:
                    value, pos = self._string(block, pos, first & 0xF0 == 0x10 or name in SENSITIVE)

                field = (name, value)
                need = len(name) + len(value) + _OVERHEAD
                if first >= 0x40:
                    self._insert(field, need)
                size += need
            append(field)
            if size > limit:
                fields.clear()
        self.pure = pure
        if size > limit:
            raise HeaderListTooLarge(size, limit)
        return fields

    def _updates(self, block: bytes) -> int:
        """Apply the size updates with which `block` begins (§6.3); the position behind them."""
        pos = 0
        end = len(block)
        while pos < end and block[pos] & 0xE0 == 0x20:
            size = block[pos] & 0x1F
            pos += 1
            if size == 0x1F:
                size, pos = decode_integer(block, pos, 0x1F)
            if size > self._max_table_size:
                raise HPACKError(f"table size {size}, {self._max_table_size} are allowed")
            if self._owed is not None:
                if size > self._owed:
                    raise HPACKError(f"table size {size} where at most {self._owed} was due")
                self._owed = None
            if size != self._table_size:
                self._table_size = size
                self.version += 1
                self._evict(size)
        if self._owed is not None:
            raise HPACKError("no table size update after the limit was lowered")
        return pos

    def _string(self, block: bytes, pos: int, secret: bool = False) -> tuple[bytes, int]:
        """The string literal at `pos` (§5.2), and the position behind it."""
        first = block[pos]
        pos += 1
        length = first & 0x7F
        if length == 0x7F:
            length, pos = decode_integer(block, pos, 0x7F)
        stop = pos + length
        if stop > len(block):
            raise IndexError
        data = block[pos:stop]
        if first < 0x80:
            return data, stop
        known = self._known
        string = known.get(data)
        if string is None:
            string = huffman.decode(data)
            if length <= _KNOWN_LENGTH and not secret:
                if len(known) >= _KNOWN_STRINGS:
                    known.clear()
                known[data] = string
        return string, stop

    def _insert(self, field: Field, need: int) -> None:
        """Add an entry of `need` bytes (§4.4). One that is larger than the table empties it."""
        room = self._table_size - need
        if room < 0:
            if not self._entries:
                return  # as with every literal of a peer that set the size to 0 and adds nevertheless
            self._entries.clear()
            self._held = 0
        else:
            if self._held > room:
                self._evict(room)
            self._entries.append(field)
            self._held += need
        self.version += 1

    def _evict(self, room: int) -> None:
        """Drop the oldest entries until the others fit into `room` bytes (§4.3)."""
        held = self._held
        count = 0
        for name, value in self._entries:
            if held <= room:
                break
            held -= len(name) + len(value) + _OVERHEAD
            count += 1
        if count:
            del self._entries[:count]
            self._held = held


_INDEXED: Final = {field: encode_integer(index, 7, 0x80) for index, field in enumerate(STATIC_TABLE) if index}
# The lowest index of a name (reversed: the first one stays).
_NAMES: Final = {STATIC_TABLE[index][0]: index for index in range(_STATIC, 0, -1)}
_OPENINGS: Final = {name: encode_integer(index, 4) for name, index in _NAMES.items()}


@lru_cache(512)
def _opening(name: bytes, flags: int) -> bytes:
    """A literal up to its value. Worth remembering: callers have few names, and Huffman costs 0.1 us an octet."""
    index = _NAMES.get(name)
    if index is not None:
        return encode_integer(index, 4, flags)
    return bytes((flags,)) + _literal(name, True)


def _literal(data: bytes, shorten: bool) -> bytes:
    """A string literal (§5.2), in the Huffman code where that is asked for and shorter."""
    if shorten:
        coded = huffman.encode(data)
        if len(coded) < len(data):
            return encode_integer(len(coded), 7, 0x80) + coded
    return encode_integer(len(data), 7) + data


def encode_fields(
    fields: Iterable[Field], sensitive: Container[bytes] = SENSITIVE, *, shorten: bool = False
) -> bytes:
    """Encode a list of fields, or a part of one, without adding to the peer's table.

    Names are in the Huffman code where it is shorter; values only if `shorten`, because that costs 0.1 us an
    octet, which is more than everything else here, to save a quarter of the octet. It pays where the result is
    used often.

    Args:
        fields: lower-case names with their values.
        sensitive: names whose values are marked never-indexed (RFC 7541 §7.1.3).
        shorten: values in the Huffman code, too, where it is shorter.
    """
    out = bytearray()
    for field in fields:
        name, value = field
        if name in sensitive:
            out += _opening(name, 0x10)
        else:
            indexed = _INDEXED.get(field)
            if indexed is not None:
                out += indexed
                continue
            out += _OPENINGS.get(name) or _opening(name, 0)
        length = len(value)
        if length < 0x7F and not shorten:
            out.append(length)
            out += value
        else:
            out += _literal(value, shorten)
    return bytes(out)


def table_size_update(size: int) -> bytes:
    """What begins the first block after the peer lowered SETTINGS_HEADER_TABLE_SIZE to `size` bytes (RFC 7541 §4.2).

    Raises:
        InvalidArgumentError: a negative size.
    """
    return encode_integer(size, 5, 0x20)

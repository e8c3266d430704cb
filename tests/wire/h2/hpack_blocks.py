"""Field blocks by hand, and a look into a decoder's table."""

from __future__ import annotations

from dodici.wire.h2.hpack import Decoder, Field, HPACKError, encode_integer


def literal(name: bytes, value: bytes, first: int = 0x40) -> bytes:
    """A field with a new name, plain; `first` is 0x40 added, 0x00 not added, 0x10 never."""
    return bytes((first,)) + encode_integer(len(name), 7) + name + encode_integer(len(value), 7) + value


def indexed(index: int) -> bytes:
    return encode_integer(index, 7, 0x80)


def table(decoder: Decoder) -> list[Field]:
    """The dynamic table, newest first, as its peer can see it."""
    fields: list[Field] = []
    while True:
        try:
            fields += decoder.decode(indexed(62 + len(fields)))
        except HPACKError:
            return fields

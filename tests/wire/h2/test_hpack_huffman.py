"""The Huffman code: every octet, and how a string may end."""

from __future__ import annotations

import pytest
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from dodici.wire.h2 import huffman
from dodici.wire.h2.hpack import HPACKError
from dodici.wire.h2.tables import HUFFMAN_CODE


def padded(bits: str, pad: str = "1") -> bytes:
    length = -(-len(bits) // 8)
    return int(bits.ljust(length * 8, pad), 2).to_bytes(length, "big")


@pytest.mark.parametrize("octet", range(256))
def test_each_octet(octet: int) -> None:
    bits = format(REQUEST_CODES[octet], f"0{REQUEST_CODES_LENGTH[octet]}b")
    for count in (1, 2, 3, 8):  # eight of any code end on a whole octet
        plain = bytes((octet,)) * count
        assert huffman.encode(plain) == padded(bits * count)
        assert huffman.decode(padded(bits * count)) == plain


def test_the_code_has_each_octet_once() -> None:
    assert sorted(b"".join(HUFFMAN_CODE.values())) == list(range(256))


def test_empty() -> None:
    assert huffman.encode(b"") == b""
    assert huffman.decode(b"") == b""


@pytest.mark.parametrize(
    ("plain", "coded"),
    [
        (b"www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"),
        (b"no-cache", "a8eb10649cbf"),
        (b"custom-key", "25a849e95ba97d7f"),
        (b"custom-value", "25a849e95bb8e8b4bf"),
        (b"302", "6402"),
        (b"private", "aec3771a4b"),
        (b"Mon, 21 Oct 2013 20:13:21 GMT", "d07abe941054d444a8200595040b8166e082a62d1bff"),
        (b"https://www.example.com", "9d29ad171863c78f0b97c8e9ae82ae43d3"),
        (b"307", "640eff"),
        (b"gzip", "9bd9ab"),
        (
            b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
            "94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
        ),
    ],
)
def test_appendix_c(plain: bytes, coded: str) -> None:
    assert huffman.encode(plain).hex() == coded
    assert huffman.decode(bytes.fromhex(coded)) == plain


ZERO = "00000"  # "0"
PERCENT = "010101"  # "%"
COLON = "1011100"  # ":"
AMPERSAND = "11111000"  # "&"


@pytest.mark.parametrize("bits", [ZERO * 3, ZERO * 2, PERCENT, COLON, ZERO + PERCENT, ZERO * 5])
def test_up_to_seven_ones_of_padding(bits: str) -> None:
    assert 1 <= -len(bits) % 8 <= 7
    huffman.decode(padded(bits))


@pytest.mark.parametrize("bits", [ZERO, PERCENT, COLON, ZERO * 5])
def test_padding_is_all_ones(bits: str) -> None:
    with pytest.raises(HPACKError, match="padding"):
        huffman.decode(padded(bits, "0") if bits != ZERO * 5 else padded(bits + "1111110"))


@pytest.mark.parametrize("bits", [ZERO + "1" * 11, COLON + "1" * 9, AMPERSAND + "1" * 8, "1" * 8, "1" * 24])
def test_padding_of_more_than_seven_bits(bits: str) -> None:
    assert len(bits) % 8 == 0
    with pytest.raises(HPACKError, match="padding"):
        huffman.decode(padded(bits))


@pytest.mark.parametrize("before", ["", ZERO, COLON, AMPERSAND * 3])
@pytest.mark.parametrize("after", ["", ZERO * 2])
def test_eos(before: str, after: str) -> None:
    with pytest.raises(HPACKError, match="EOS"):
        huffman.decode(padded(before + "1" * 30 + after))


def test_a_code_that_is_cut() -> None:
    with pytest.raises(HPACKError, match="padding"):
        huffman.decode(b"\xff\xff\xff")  # the beginning of many codes
    with pytest.raises(HPACKError, match="padding"):
        huffman.decode(b"\xff\xc0")  # "\0" is 13 bits of 1111111111000; the three bits behind it are zeros

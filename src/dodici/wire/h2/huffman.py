"""HPACK's Huffman code (RFC 7541 §5.2, Appendix B), octet by octet.

A code's bits behind a leading 1 are its *node*: 1 is the root, `node << 1 | bit` its child. Decoding is a state
machine over whole octets: a state is the node where the last octet ended, a step leads from there to the next
state and says which octets it completed, at most two. Steps are worked out when they are first met, since the
strings of one peer need a few hundred of the 65 281 that exist; if somebody asks for all of them, they hold 8 MB
for the whole process. A state machine over half octets is a tenth of that and takes twice the time.
"""

from __future__ import annotations

from typing import Any, Final

from .tables import HUFFMAN_CODE


class HPACKError(Exception):
    """A block that RFC 7541 calls a decoding error. The connection ends with COMPRESSION_ERROR (RFC 9113 §4.3)."""


# From octet to (next row, octets completed); -1 is the row's own node.
_Row = dict[int, Any]

_NODE = -1
_PADDING = frozenset((1 << bits) * 2 - 1 for bits in range(8))
"""Nodes in which a string may end: nothing, or up to seven ones (§5.2)."""


def _assign() -> tuple[list[str], dict[int, bytes]]:
    bits = [""] * 256
    leaves = {}
    code = 0
    before = 0
    for length, octets in HUFFMAN_CODE.items():
        code <<= length - before
        before = length
        for octet in octets:
            bits[octet] = format(code, f"0{length}b")
            leaves[1 << length | code] = bytes((octet,))
            code += 1
    return bits, leaves


_BITS, _LEAVES = _assign()
_EOS: Final = (1 << 31) - 1
_ROOT: _Row = {_NODE: 1}
_rows: dict[int, _Row] = {1: _ROOT}


def _step(row: _Row, octet: int) -> tuple[_Row, bytes]:
    node = row[_NODE]
    done = b""
    for shift in range(7, -1, -1):
        node = node << 1 | octet >> shift & 1
        leaf = _LEAVES.get(node)
        if leaf is not None:
            done += leaf
            node = 1
        elif node == _EOS:
            raise HPACKError("Huffman string contains EOS")
    following = _rows.get(node)
    if following is None:
        following = _rows.setdefault(node, {_NODE: node})
    row[octet] = step = (following, done)
    return step


def decode(data: bytes) -> bytes:
    """The octets that `data` stands for.

    Raises:
        HPACKError: EOS within it, padding of more than seven bits or not all ones (RFC 7541 §5.2).
    """
    row = _ROOT
    out: list[bytes] = []
    append = out.append
    for octet in data:
        try:
            row, done = row[octet]
        except KeyError:
            row, done = _step(row, octet)
        append(done)
    if row[_NODE] not in _PADDING:
        raise HPACKError("Huffman string with wrong padding")
    return b"".join(out)


def encode(data: bytes) -> bytes:
    """`data` in the code, padded with ones."""
    if not data:
        return b""
    code = _BITS
    bits = "".join([code[octet] for octet in data])
    length = len(bits) + 7 >> 3
    return int(bits.ljust(length << 3, "1"), 2).to_bytes(length, "big")

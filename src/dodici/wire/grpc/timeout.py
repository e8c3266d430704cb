"""The `grpc-timeout` field: at most eight digits and a unit.

A server that gives up before the caller does would turn a late answer into an error, so what has to be
rounded is rounded up. Where several units are exact the coarsest is written: `5S` is the same bytes for every
call with that timeout, which header compression likes.

Source: grpc/doc/PROTOCOL-HTTP2.md, "Timeout".
"""

from __future__ import annotations

import math
import re

from ...core.errors import InvalidArgumentError

_UNITS = (
    (b"H", 3_600_000_000_000),
    (b"M", 60_000_000_000),
    (b"S", 1_000_000_000),
    (b"m", 1_000_000),
    (b"u", 1_000),
    (b"n", 1),
)
_NANOSECONDS = dict(_UNITS)
_MOST = 99_999_999
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])").fullmatch


def format_timeout(seconds: float) -> bytes:
    """The field's value, never shorter than `seconds`, and not longer than eight digits can say.

    Raises:
        InvalidArgumentError: not a finite number above 0.
    """
    if not 0 < seconds < math.inf:
        raise InvalidArgumentError(f"a timeout must be a finite number of seconds above 0, not {seconds!r}")
    # The inner rounding takes away what binary fractions add: 0.07 is 70000000.00000001 ns.
    nanoseconds = math.ceil(round(seconds * 1e9, 3)) or 1
    for unit, size in _UNITS:
        if nanoseconds % size == 0 and nanoseconds // size <= _MOST:
            return b"%d%b" % (nanoseconds // size, unit)
    for unit, size in reversed(_UNITS):
        count = -(-nanoseconds // size)
        if count <= _MOST:
            return b"%d%b" % (count, unit)
    return b"%dH" % _MOST


def parse_timeout(value: bytes) -> float:
    """Seconds.

    Raises:
        InvalidArgumentError: not one to eight digits and a unit.
    """
    match = _TIMEOUT(value)
    if match is None:
        raise InvalidArgumentError(f"malformed grpc-timeout {value[:40].decode('latin-1')!r}")
    return int(match[1]) * _NANOSECONDS[match[2]] / 1e9

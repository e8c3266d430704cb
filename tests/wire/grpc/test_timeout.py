"""`grpc-timeout`: eight digits, a unit, and never shorter than asked."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given, strategies as st

from dodici.core.errors import InvalidArgumentError
from dodici.wire.grpc.timeout import format_timeout, parse_timeout


@pytest.mark.parametrize(
    ("seconds", "field"),
    [
        (1, b"1S"),
        (5.0, b"5S"),
        (60, b"1M"),
        (90, b"90S"),
        (7200, b"2H"),
        (0.25, b"250m"),
        (0.07, b"70m"),
        (1.1, b"1100m"),
        (0.000_001, b"1u"),
        (1e-9, b"1n"),
        (1e-12, b"1n"),
        (0.123_456_789, b"123457u"),
        (1234.567_891, b"1234568m"),
        (99_999_999.5, b"1666667M"),
        (1e30, b"99999999H"),
    ],
)
def test_format(seconds: float, field: bytes) -> None:
    assert format_timeout(seconds) == field


@given(st.floats(1e-9, 3e11))
def test_never_shorter_and_hardly_longer(seconds: float) -> None:
    field = format_timeout(seconds)
    assert re.fullmatch(rb"[1-9][0-9]{0,7}[HMSmun]", field)
    back = parse_timeout(field)
    # A picosecond is what the correction of binary fractions may take.
    assert back >= seconds * (1 - 1e-15) - 1e-12
    assert back - seconds <= max(1e-9, seconds * 3.6e-3)


@pytest.mark.parametrize("seconds", [0, -1, math.inf, -math.inf, math.nan])
def test_what_is_no_timeout(seconds: float) -> None:
    with pytest.raises(InvalidArgumentError, match="finite number of seconds above 0"):
        format_timeout(seconds)


@pytest.mark.parametrize(
    ("field", "seconds"),
    [
        (b"1H", 3600),
        (b"2M", 120),
        (b"3S", 3),
        (b"4m", 0.004),
        (b"5u", 5e-6),
        (b"6n", 6e-9),
        (b"0S", 0),
        (b"00000012S", 12),
        (b"99999999n", 0.099_999_999),
    ],
)
def test_parse(field: bytes, seconds: float) -> None:
    assert parse_timeout(field) == seconds


@pytest.mark.parametrize(
    "field", [b"", b"S", b"1", b"1s", b"1h", b"-1S", b"+1S", b"1.5S", b"1 S", b"123456789n", b"1SS"]
)
def test_malformed(field: bytes) -> None:
    with pytest.raises(InvalidArgumentError, match="malformed grpc-timeout"):
        parse_timeout(field)

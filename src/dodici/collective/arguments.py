"""What a collector and its callers may be given: checks of arguments that more than one place has."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any, Final

from ..core.errors import InvalidArgumentError
from .addresses import check_advertised, is_loopback, split_address
from .names import CallKind

BALANCE = ("p2c", "round_robin", "least_request", "weighted", "hash")
_ID = re.compile(r"[A-Za-z0-9_.:@+~-]{1,128}").fullmatch

LONGEST: Final = 1e9
"""Seconds, some thirty years. What is longer is cut to that: not every carrier of calls can say it."""


def checked_seconds(name: str, value: Any, *, zero: bool = False) -> float | None:
    """Seconds above 0, or not below it where `zero` is allowed, and not above `LONGEST`; None stays None.

    Raises:
        InvalidArgumentError: it is none of them.
    """
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or (isinstance(value, float) and not math.isfinite(value)):
        raise InvalidArgumentError(f"{name} must be seconds, not {value!r}")
    if value < 0 or (value == 0 and not zero):
        raise InvalidArgumentError(f"{name} must be more than 0 seconds, not {value!r}")
    return float(min(value, LONGEST))


def needed_seconds(name: str, value: Any, *, zero: bool = False) -> float:
    """As `checked_seconds`, where there have to be some.

    Raises:
        InvalidArgumentError: see there, or it is None.
    """
    seconds = checked_seconds(name, value, zero=zero)
    if seconds is None:
        raise InvalidArgumentError(f"{name} must be seconds, not None")
    return seconds


def checked_kind(kind: Any) -> CallKind:
    """The kind of that name.

    Raises:
        InvalidArgumentError: there is none.
    """
    try:
        return CallKind(kind)
    except ValueError:
        raise InvalidArgumentError(f"kind must be one of {', '.join(CallKind)}; not {kind!r}") from None


def check_collector(
    id: object,  # noqa: A002
    address: str,
    namespaces: object,
    balance: object,
    tls: object,
    insecure: object,
    policy: object,
    max_hops: object,
    advertise: str | None,
    link_port: object,
) -> None:
    """Check what a collector is made of; what they mean is in `Collector`.

    Raises:
        InvalidArgumentError: one of them is wrong, or they contradict each other.
    """
    if not isinstance(id, str) or _ID(id) is None:
        raise InvalidArgumentError(f"id must be 1 to 128 letters, digits or '_.:@+~-': not {id!r}")
    split_address(address)
    if advertise is not None:
        check_advertised(advertise, address)
    if isinstance(namespaces, str | bytes) or not isinstance(namespaces, Iterable):
        raise InvalidArgumentError(f"namespaces must be a list of str, not {namespaces!r}")
    if balance not in BALANCE:
        raise InvalidArgumentError(f"balance must be one of {', '.join(BALANCE)}; not {balance!r}")
    if tls is None and not insecure and not is_loopback(address):
        raise InvalidArgumentError(
            f"{address} can be reached by other machines, and there is no tls=: give it, or spell out insecure=True"
        )
    if policy is not None and not callable(getattr(policy, "check", None)):
        raise InvalidArgumentError(f"policy must be a Policy, not {type(policy).__name__}")
    if isinstance(max_hops, bool) or not isinstance(max_hops, int) or not 1 <= max_hops <= 32:
        raise InvalidArgumentError(f"max_hops must be 1 to 32, not {max_hops!r}")
    if link_port is not None and (type(link_port) is not int or not 0 <= link_port <= 65535):
        raise InvalidArgumentError(f"link_port must be a port, 0 for any or None, not {link_port!r}")

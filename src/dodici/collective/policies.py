"""What an operator may set about choosing and surviving: frozen values, checked once, in seconds and shares.

The machines that follow them are in `balance/`. A policy knows neither time nor peers, so that one can be shared by
all of them; `replace()` makes a changed one.

Sources of the defaults: Envoy's outlier detection (five errors, ejections of 30 s that grow, at most so many hosts),
Linkerd's and Finagle's retry budgets (a fifth of the calls, and ten a second), gRPC's retry design (proposal A6).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from ..core.errors import InvalidArgumentError
from ..core.grpc_status import GrpcStatus
from ..core.options import check_count, check_seconds
from .codes import chosen

Jitter = Literal["full", "decorrelated", "none"]


def _number(name: str, value: Any, *, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise InvalidArgumentError(f"{name} must be a number from 0 to {most:g}, not {value!r}")
    return float(value)


def _above_zero(name: str, value: Any) -> float:
    if check_seconds(name, value) == 0:
        raise InvalidArgumentError(f"{name} must be more than 0 seconds")
    return float(value)


def _statuses(given: Any) -> frozenset[GrpcStatus]:
    if isinstance(given, str) or not isinstance(given, Collection):
        raise InvalidArgumentError(f"on must be a collection of statuses, not {given!r}")
    statuses = set()
    for code in given:
        if isinstance(code, str):
            if code not in GrpcStatus.__members__:
                raise InvalidArgumentError(f"on: there is no status {code!r}")
            code = GrpcStatus[code]
        if code in (GrpcStatus.OK, GrpcStatus.CANCELLED):
            raise InvalidArgumentError(f"on: {GrpcStatus(code).name} is not a failure to try again after")
        statuses.add(chosen(code))
    return frozenset(statuses)


class _Replaceable:
    __slots__ = ()

    def replace(self, **changes: Any) -> Self:
        """This policy with other values.

        Raises:
            InvalidArgumentError: an unknown name, or a bad value.
        """
        names = [field.name for field in dataclasses.fields(self)]  # type: ignore[arg-type]
        for name in changes:
            if name not in names:
                raise InvalidArgumentError(
                    f"{type(self).__name__} has no {name!r}; there are: {', '.join(names)}"
                )
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker(_Replaceable):
    """When a peer is left alone for a while, for one namespace.

    Attributes:
        failures: how many transport failures in a row open it; 0 never opens it.
        open_for: seconds until it is tried again.
        half_open: how many calls may try it then, at a time.

    Raises:
        InvalidArgumentError: a value out of its range.
    """

    failures: int = 5
    open_for: float = 10.0
    half_open: int = 1

    def __post_init__(self) -> None:
        check_count("failures", self.failures)
        _above_zero("open_for", self.open_for)
        check_count("half_open", self.half_open, minimum=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget(_Replaceable):
    """How many calls may be repeated, so that retries do not double the load on peers that have too much of it.

    Attributes:
        ratio: retries for each call begun in the window.
        min_per_second: retries that are allowed beside these, in any second.
        window: seconds.

    Raises:
        InvalidArgumentError: a value out of its range.
    """

    ratio: float = 0.2
    min_per_second: float = 10
    window: float = 10.0

    def __post_init__(self) -> None:
        _number("ratio", self.ratio, most=10.0)
        # Each of a second's retries is remembered.
        _number("min_per_second", self.min_per_second, most=10_000.0)
        _above_zero("window", self.window)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry(_Replaceable):
    """What is tried again. Only the collector that a call enters at retries it.

    A call that was never sent goes to another peer whatever this says. One that was sent is repeated only if its
    method is declared idempotent, and the status is in `on`.

    Attributes:
        attempts: how often a call may be sent, the first time included; 1 never repeats one.
        per_try_timeout: seconds that one attempt may take; None leaves it the whole deadline.
        on: statuses to try again after: `GrpcStatus`, `grpc.StatusCode`, their names, or numbers of the envelope.
        budget: how many calls may be repeated, of all.
        initial: the longest wait before the second attempt, in seconds; it doubles with each further one.
        cap: the longest wait of all.

    Raises:
        InvalidArgumentError: a value out of its range.
    """

    attempts: int = 3
    per_try_timeout: float | None = None
    on: Collection[GrpcStatus] = (GrpcStatus.UNAVAILABLE,)
    budget: Budget = Budget()
    initial: float = 0.02
    cap: float = 1.0

    def __post_init__(self) -> None:
        check_count("attempts", self.attempts, minimum=1)
        if self.per_try_timeout is not None:
            _above_zero("per_try_timeout", self.per_try_timeout)
        object.__setattr__(self, "on", _statuses(self.on))
        if not isinstance(self.budget, Budget):
            raise InvalidArgumentError(f"budget must be a Budget, not {self.budget!r}")
        check_seconds("initial", self.initial)
        if check_seconds("cap", self.cap) < self.initial:
            raise InvalidArgumentError(f"cap must be initial or more, not {self.cap!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlier(_Replaceable):
    """When a peer that answers badly is taken out of rotation, for all namespaces.

    Attributes:
        consecutive: how many failures in a row eject it.
        sweep: seconds in rotation after which one earlier ejection is forgiven.
        base: seconds of the first ejection; the second lasts twice as long, the third three times.
        max_ejected: the share of the peers that may be ejected at a time, rounded down; 0 ejects none.
        cap: seconds that an ejection lasts at most.

    Raises:
        InvalidArgumentError: a value out of its range.
    """

    consecutive: int = 5
    sweep: float = 10.0
    base: float = 30.0
    max_ejected: float = 0.5
    cap: float = 300.0

    def __post_init__(self) -> None:
        check_count("consecutive", self.consecutive, minimum=1)
        _above_zero("sweep", self.sweep)
        _above_zero("base", self.base)
        _number("max_ejected", self.max_ejected, most=1.0)
        if check_seconds("cap", self.cap) < self.base:
            raise InvalidArgumentError(f"cap must be base or more, not {self.cap!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(_Replaceable):
    """How much a collector takes on.

    Attributes:
        in_flight: calls that run at a time.
        queued: calls that wait for room; what comes beyond them is refused with RESOURCE_EXHAUSTED (429).
        message: bytes of the longest message, either way.
        per_namespace: calls of one namespace that run or wait here at a time, so that none takes the room of all; None:
            as many as there is room for. Those beyond go to peers, or are refused.
        per_peer: calls of this collector that one peer has at a time; None: any number. A peer that has so many is not
            chosen.

    Raises:
        InvalidArgumentError: a value out of its range.
    """

    in_flight: int = 1024
    queued: int = 1024
    message: int = 16 * 1024 * 1024
    per_namespace: int | None = None
    per_peer: int | None = None

    def __post_init__(self) -> None:
        check_count("in_flight", self.in_flight, minimum=1)
        for name in ("per_namespace", "per_peer"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), minimum=1)
        check_count("queued", self.queued)
        check_count("message", self.message, minimum=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconnect(_Replaceable):
    """How long to wait before a lost peer is dialled again.

    Attributes:
        initial: seconds that the first wait is at most; it doubles with each failure.
        cap: seconds that any wait is at most.
        jitter: ``"full"`` waits anything between nothing and that; ``"decorrelated"`` anything between `initial` and
            three times the wait before; ``"none"`` waits exactly that long, and lets all come back at once.

    Raises:
        InvalidArgumentError: a value out of its range.
    """

    initial: float = 0.1
    cap: float = 5.0
    jitter: Jitter = "full"

    def __post_init__(self) -> None:
        _above_zero("initial", self.initial)
        if check_seconds("cap", self.cap) < self.initial:
            raise InvalidArgumentError(f"cap must be initial or more, not {self.cap!r}")
        if self.jitter not in get_args(Jitter):
            raise InvalidArgumentError(
                f"jitter must be one of {', '.join(get_args(Jitter))}, not {self.jitter!r}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowStart(_Replaceable):
    """How a peer that joined or came back gets its share: its weight grows in a straight line.

    Attributes:
        window: seconds until it has its whole weight; 0 gives it at once.
        floor: the share of its weight that it begins with.

    Raises:
        InvalidArgumentError: a value out of its range.
    """

    window: float = 10.0
    floor: float = 0.1

    def __post_init__(self) -> None:
        check_seconds("window", self.window)
        if _number("floor", self.floor, most=1.0) == 0:
            raise InvalidArgumentError("floor must be more than 0: a peer without calls would never be known")

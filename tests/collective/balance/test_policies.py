from __future__ import annotations

import dataclasses
import enum
from typing import Any

import pytest

from dodici.collective.policies import Breaker, Budget, Limits, Outlier, Reconnect, Retry, SlowStart
from dodici.core.errors import InvalidArgumentError
from dodici.core.grpc_status import GrpcStatus

POLICIES = [Breaker, Budget, Retry, Outlier, Limits, Reconnect, SlowStart]


def test_defaults_are_those_of_the_design() -> None:
    assert Breaker() == Breaker(failures=5, open_for=10.0, half_open=1)
    assert Budget() == Budget(ratio=0.2, min_per_second=10, window=10.0)
    assert Retry() == Retry(attempts=3, per_try_timeout=None, on=(GrpcStatus.UNAVAILABLE,), budget=Budget())
    assert Outlier() == Outlier(consecutive=5, sweep=10.0, base=30.0, max_ejected=0.5)
    assert Limits() == Limits(in_flight=1024, queued=1024, message=16_777_216)
    assert Reconnect() == Reconnect(initial=0.1, cap=5.0, jitter="full")
    assert SlowStart() == SlowStart(window=10.0, floor=0.1)


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_are_frozen_and_hashable(policy: type) -> None:
    made = policy()
    assert hash(made) == hash(policy())
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, dataclasses.fields(policy)[0].name, 1)


def test_replace_makes_a_changed_one() -> None:
    before = Breaker(failures=3)
    assert before.replace(open_for=2.0) == Breaker(failures=3, open_for=2.0)
    assert before == Breaker(failures=3)


@pytest.mark.parametrize("policy", POLICIES)
def test_replace_checks_names_and_values(policy: type) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{policy.__name__} has no 'tries'; there are: "):
        policy().replace(tries=1)
    with pytest.raises(InvalidArgumentError):
        policy().replace(**{dataclasses.fields(policy)[0].name: -1})


@pytest.mark.parametrize(
    ("policy", "values"),
    [
        (Breaker, {"failures": -1}),
        (Breaker, {"failures": True}),
        (Breaker, {"failures": 1.5}),
        (Breaker, {"open_for": 0}),
        (Breaker, {"open_for": float("inf")}),
        (Breaker, {"half_open": 0}),
        (Budget, {"ratio": -0.1}),
        (Budget, {"ratio": float("nan")}),
        (Budget, {"min_per_second": 1e9}),
        (Budget, {"window": 0}),
        (Retry, {"attempts": 0}),
        (Retry, {"per_try_timeout": 0}),
        (Retry, {"on": "UNAVAILABLE"}),
        (Retry, {"on": ["NO_SUCH"]}),
        (Retry, {"on": [GrpcStatus.OK]}),
        (Retry, {"on": ["CANCELLED"]}),
        (Retry, {"on": [14]}),
        (Retry, {"on": 5}),
        (Retry, {"budget": 0.2}),
        (Retry, {"initial": 2.0, "cap": 1.0}),
        (Outlier, {"consecutive": 0}),
        (Outlier, {"sweep": 0}),
        (Outlier, {"base": 0}),
        (Outlier, {"max_ejected": 1.5}),
        (Outlier, {"base": 10.0, "cap": 5.0}),
        (Limits, {"in_flight": 0}),
        (Limits, {"queued": -1}),
        (Limits, {"message": 0}),
        (Reconnect, {"initial": 0}),
        (Reconnect, {"initial": 6.0}),
        (Reconnect, {"jitter": "some"}),
        (Reconnect, {"jitter": []}),
        (SlowStart, {"window": -1}),
        (SlowStart, {"floor": 0}),
        (SlowStart, {"floor": 1.1}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value),
)
def test_bad_values_are_refused_by_name(policy: type, values: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match=next(reversed(values))):
        policy(**values)


class StatusCode(enum.Enum):
    """Shaped as grpc's is."""

    ABORTED = (10, "aborted")


def test_statuses_may_be_given_in_any_of_their_forms() -> None:
    retry = Retry(on=["UNAVAILABLE", GrpcStatus.INTERNAL, StatusCode.ABORTED, 429])  # type: ignore[list-item]
    assert retry.on == {
        GrpcStatus.UNAVAILABLE,
        GrpcStatus.INTERNAL,
        GrpcStatus.ABORTED,
        GrpcStatus.RESOURCE_EXHAUSTED,
    }
    assert retry.replace(attempts=2).on == retry.on

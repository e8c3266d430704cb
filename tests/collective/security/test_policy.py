"""Who may call what."""

from __future__ import annotations

import dataclasses

import pytest

from dodici.collective import CollectiveError, Identity, Policy
from dodici.core.errors import InvalidArgumentError
from dodici.core.grpc_status import GrpcStatus

ORDERS = Identity(("spiffe://corp/ns/orders/collector/a", "a.example"), tls=True)


def refusal(policy: Policy, identity: Identity | str | None, *called: str) -> GrpcStatus | None:
    try:
        policy.check(identity, *called)
    except CollectiveError as error:
        return error.grpc_status
    return None


def test_what_no_rule_allows_is_refused() -> None:
    get = ("users", "UserService", "Get")
    assert refusal(Policy(), ORDERS, *get) is GrpcStatus.PERMISSION_DENIED
    policy = Policy().allow("spiffe://corp/ns/orders/*", "users", "UserService.G*")
    assert refusal(policy, ORDERS, *get) is None
    assert refusal(policy, ORDERS.names[0], *get) is None
    assert refusal(policy, ORDERS, "users", "UserService", "Put") is GrpcStatus.PERMISSION_DENIED
    assert refusal(policy, ORDERS, "users", "OtherService", "Get") is GrpcStatus.PERMISSION_DENIED
    assert refusal(policy, ORDERS, "orders", "UserService", "Get") is GrpcStatus.PERMISSION_DENIED
    assert refusal(policy, "spiffe://corp/ns/stock/a", *get) is GrpcStatus.PERMISSION_DENIED
    assert refusal(policy, "xspiffe://corp/ns/orders/a", *get) is GrpcStatus.PERMISSION_DENIED


def test_any_of_the_names_counts() -> None:
    assert refusal(Policy().allow("a.example", "*"), ORDERS, "users", "S", "M") is None
    assert (
        refusal(Policy().allow("a.EXAMPLE", "*"), ORDERS, "users", "S", "M") is GrpcStatus.PERMISSION_DENIED
    )


def test_who_has_no_name_is_refused_whatever_is_allowed() -> None:
    policy = Policy().allow("*", "*")
    for nobody in (None, Identity(), Identity(tls=True)):
        assert refusal(policy, nobody, "users", "S", "M") is GrpcStatus.UNAUTHENTICATED
    assert refusal(policy, ORDERS, "users", "S", "M") is None


def test_what_is_remembered_of_callers_is_bounded() -> None:
    policy = Policy().allow("caller-7", "users", "S.M")
    for number in range(10_000):
        assert policy.allows(Identity((f"caller-{number}",)), "users", "S", "M") is (number == 7)
    assert policy.allows(Identity(("caller-7",)), "users", "S", "M")
    assert len(policy._decisions) <= 4096


def test_a_policy_does_not_change() -> None:
    first = Policy().allow("a", "users")
    second = first.allow("b", "users", "S.*")
    assert (len(first.rules), len(second.rules)) == (1, 2)
    assert refusal(first, "b", "users", "S", "M") is GrpcStatus.PERMISSION_DENIED
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.rules = ()  # type: ignore[misc]
    assert first == Policy().allow("a", "users")


@pytest.mark.parametrize(
    "wrong",
    [("", "n"), ("a", ""), ("a", "n/x"), ("a", "n-*"), ("a", "n", ""), (None, "n"), ("a", 5)],
    ids=repr,
)
def test_wrong_rules(wrong: tuple[str, ...]) -> None:
    with pytest.raises(InvalidArgumentError):
        Policy().allow(*wrong)


def test_wrong_policies() -> None:
    with pytest.raises(InvalidArgumentError):
        Policy(["users"])  # type: ignore[arg-type]

"""What certificates say, and who may connect as what."""

from __future__ import annotations

import pytest

from dodici.collective import CollectiveError, Identity
from dodici.collective.identity import (
    CollectorName,
    check_connecting,
    collector_name,
    identity_of,
    is_collector,
)
from dodici.core.grpc_status import GrpcStatus

ORDERS, USERS = "spiffe://corp/ns/orders/collector/a-1", "spiffe://corp/ns/users/collector/a-1"


def known(*names: str) -> Identity:
    return Identity(names, tls=True)


def test_names_of_collectors() -> None:
    assert collector_name(ORDERS) == CollectorName("corp", "orders", "a-1")
    assert CollectorName("corp", "orders", "a-1").uri == ORDERS
    for other in (
        "spiffe://corp/ns/orders/sa/a-1",
        "spiffe://corp/ns/orders/collector/a-1/more",
        "spiffe://corp/ns/orders/collector/",
        "spiffe://corp/ns//collector/a-1",
        "spiffe:///ns/orders/collector/a-1",
        "spiffe://corp/ns/orders/collector/a-1?x",
        "spiffe://corp/ns/orders/collector/a-1#x",
        "SPIFFE://corp/ns/orders/collector/a-1",
        "https://corp/ns/orders/collector/a-1",
        f"x{ORDERS}",
        f"{ORDERS}\n",
    ):
        assert collector_name(other) is None, other


def test_a_collector_connects_as_what_its_certificate_says() -> None:
    check_connecting(known(ORDERS), "a-1", ["orders"])
    check_connecting(known(ORDERS, USERS), "a-1", ["users", "orders"])
    check_connecting(known(ORDERS), "a-1", [])
    assert is_collector(known("other.example", ORDERS), "a-1")
    assert not is_collector(known(ORDERS), "a-2")


@pytest.mark.parametrize(
    ("identity", "claimed", "namespaces"),
    [
        (known(ORDERS), "a-2", ["orders"]),
        (known(ORDERS), "a-1", ["users"]),
        (known(ORDERS), "a-1", ["orders", "users"]),
        (known("spiffe://corp/ns/orders/collector/a-2", USERS), "a-1", ["orders"]),
        (known("a-1"), "a-1", ["orders"]),
        (known(), "a-1", ["orders"]),
        (Identity((ORDERS,)), "a-1", ["orders"]),
    ],
    ids=[
        "other id",
        "other namespace",
        "one too many",
        "pairs do not mix",
        "dns name",
        "nobody",
        "without tls",
    ],
)
def test_nobody_connects_as_anything_else(identity: Identity, claimed: str, namespaces: list[str]) -> None:
    with pytest.raises(CollectiveError) as refused:
        check_connecting(identity, claimed, namespaces)
    assert refused.value.grpc_status is GrpcStatus.PERMISSION_DENIED
    assert claimed in refused.value.message


def test_kinds_of_names_are_kept_apart() -> None:
    got = identity_of(
        {
            "subject": ((("commonName", ORDERS),),),
            "subjectAltName": (("DNS", "a.example"), ("DNS", ORDERS), ("URI", USERS)),
        }
    )
    assert got == Identity((USERS, "a.example"), tls=True)
    assert identity_of({"subject": ((("commonName", "client"),),)}).name == "client"
    assert identity_of({}) == Identity((), tls=True)

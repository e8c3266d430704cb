"""The table of local methods."""

from __future__ import annotations

import contextlib
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from tests.collective.kit import OrderServicer, descriptor, order_class

from dodici.collective.health import SERVING, UNKNOWN, Health
from dodici.collective.names import ANY, CallKind, LocalServices, MethodSpec, RouteKey
from dodici.collective.servicer import specs_of
from dodici.core.errors import InvalidArgumentError
from dodici.core.grpc_status import GrpcStatus


def spec(namespace: str, service: str, method: str = "Do", **more: Any) -> MethodSpec:
    return MethodSpec(namespace, service, method, print, **more)


class _Named:
    """All that the table reads of a ServiceDescriptor."""

    def __init__(self, full_name: str) -> None:
        self.full_name = full_name


def test_a_service_matches_exactly_as_registered() -> None:
    services = LocalServices(["n"])
    services.add([spec("n", "a.b.Users")])
    assert services.find("n", "a.b.Users", "Do") is not None
    for missed in (
        ("n", "Users", "Do"),
        ("n", "a.b.users", "Do"),
        ("m", "a.b.Users", "Do"),
        ("n", "a.b.Users", "do"),
    ):
        assert services.find(*missed) is None


def test_with_a_descriptor_the_short_name_is_found_too() -> None:
    services = LocalServices()
    added = spec("n", "a.Users")
    services.add([added], descriptor=_Named("a.Users"))  # type: ignore[arg-type]
    assert services.find("n", "a.Users", "Do") is services.find("n", "Users", "Do") is added
    assert services.services("n") == ("a.Users", "Users")
    assert {route.key for route in services.routes()} == {
        RouteKey("n", "a.Users", "Do"),
        RouteKey("n", "Users", "Do"),
    }


def test_the_first_keeps_a_short_name_and_the_second_does_not_admit_the_first() -> None:
    services = LocalServices()
    first, second = spec("n", "a.Users"), spec("n", "b.Users", "Other")
    services.add([first], descriptor=_Named("a.Users"))  # type: ignore[arg-type]
    services.add([second], descriptor=_Named("b.Users"))  # type: ignore[arg-type]
    assert services.find("n", "Users", "Do") is first
    assert services.find("n", "Users", "Other") is None
    assert services.find("n", "a.Users", "Other") is None
    assert services.find("n", "b.Users", "Other") is second


def test_an_exact_name_wins_over_a_short_one() -> None:
    services = LocalServices()
    services.add([spec("n", "a.Users")], descriptor=_Named("a.Users"))  # type: ignore[arg-type]
    exact = spec("n", "Users")
    services.add([exact])
    assert services.find("n", "Users", "Do") is exact


def test_the_same_service_in_two_namespaces_is_two() -> None:
    services = LocalServices()
    one, two = spec("n", "S"), spec("m", "S")
    services.add([one, two])
    assert services.find("n", "S", "Do") is one
    assert services.find("m", "S", "Do") is two
    assert services.namespaces == ("n", "m")


def test_a_name_that_is_taken_is_refused_and_nothing_is_registered() -> None:
    services = LocalServices()
    services.add([spec("n", "S")])
    with pytest.raises(InvalidArgumentError, match=r"n/S\.Do is registered already"):
        services.add([spec("n", "S", "New"), spec("n", "S")])
    assert services.find("n", "S", "New") is None


@pytest.mark.parametrize("name", ["", "a/b", "a b", "a\n", "ü", 5, None], ids=repr)
@pytest.mark.parametrize("part", ["namespace", "service", "method"])
def test_impossible_names(part: str, name: Any) -> None:
    names: dict[str, Any] = {"namespace": "n", "service": "s", "method": "m"} | {part: name}
    with pytest.raises(InvalidArgumentError, match=part):
        LocalServices().add([MethodSpec(**names, handler=print)])


def test_names_have_a_length() -> None:
    services = LocalServices()
    services.add([spec("n" * 1024, "s" * 1024, "m" * 1024)])
    with pytest.raises(InvalidArgumentError, match="method may have 1024 characters, not 1025"):
        services.add([spec("n", "s", "m" * 1025)])


def test_duplicates_among_namespaces_are_one() -> None:
    assert LocalServices(["a", "b", "a"]).namespaces == ("a", "b")


def test_what_was_left_is_not_found_until_it_is_joined_again() -> None:
    services = LocalServices()
    changes: list[tuple[str, ...]] = []
    services.on_change(lambda: changes.append(services.namespaces))
    services.add([spec("n", "S")])
    assert services.leave("n")
    assert not services.leave("n")
    assert services.find("n", "S", "Do") is None
    assert services.services("n") == ()
    assert list(services.routes()) == []
    assert services.join("n")
    assert not services.join("n")
    assert services.find("n", "S", "Do") is not None
    assert changes == [("n",), (), ("n",)]


def test_what_is_missing_is_told_apart() -> None:
    services = LocalServices()
    services.add([spec("n", "S")])
    told = [services.missing(*key) for key in (("x", "S", "Do"), ("n", "T", "Do"), ("n", "S", "No"))]
    assert [error.grpc_status for error in told] == [
        GrpcStatus.NOT_FOUND,
        GrpcStatus.NOT_FOUND,
        GrpcStatus.UNIMPLEMENTED,
    ]
    assert ["namespace: 'x'" in str(told[0]), "service" in str(told[1]), "method" in str(told[2])] == [
        True
    ] * 3
    assert len({str(error) for error in told}) == 3


def test_kinds() -> None:
    assert [CallKind.of(kind.streams_in, kind.streams_out) for kind in CallKind] == list(CallKind)


def test_the_methods_of_a_servicer() -> None:
    specs = {each.method: each for each in specs_of("shop", OrderServicer(), descriptor())}
    assert {name: str(each.kind) for name, each in specs.items()} == {
        "Create": "unary_unary",
        "List": "unary_stream",
        "Sum": "stream_unary",
        "Chat": "stream_stream",
        "Fail": "unary_unary",
        "Hold": "unary_unary",
    }
    assert [name for name, each in specs.items() if each.idempotent] == ["List"]
    assert specs["Create"].service == "kit.shop.OrderService"
    assert specs["Create"].input_type is specs["Create"].output_type is order_class()


def test_a_servicer_must_be_whole() -> None:
    with pytest.raises(
        InvalidArgumentError, match=r"object lacks methods of kit\.shop\.OrderService: Create, List"
    ):
        specs_of("shop", object(), descriptor())
    with pytest.raises(InvalidArgumentError, match="ServiceDescriptor"):
        specs_of("shop", OrderServicer(), "kit.shop.OrderService")


def test_what_is_removed_is_not_found_any_more_and_its_short_name_is_inherited() -> None:
    services = LocalServices()
    changes: list[int] = []
    first, other, second = spec("n", "a.Users"), spec("n", "a.Users", "Other"), spec("n", "b.Users")
    services.add([first, other], descriptor=_Named("a.Users"))  # type: ignore[arg-type]
    services.add([second], descriptor=_Named("b.Users"))  # type: ignore[arg-type]
    services.on_change(lambda: changes.append(1))
    assert services.remove("n", "a.Users", "Other") == (other,)
    assert services.find("n", "a.Users", "Other") is None
    assert services.find("n", "Users", "Do") is first
    assert services.remove("n", "a.Users") == (first,)
    assert services.find("n", "Users", "Do") is second
    assert (set(services.descriptors), services.services("n")) == ({"b.Users"}, ("b.Users", "Users"))
    assert services.remove("n", "b.Users", "Do") == (second,)
    assert (services.services("n"), services.namespaces, len(changes)) == ((), ("n",), 3)
    assert services.remove("n", "b.Users") == services.remove("m", "b.Users") == ()
    assert len(changes) == 3


def test_a_wildcard_is_found_for_what_is_not_there_by_itself() -> None:
    services = LocalServices()
    wildcard, exact = spec("n", "Users", ANY), spec("n", "Users", "Do")
    services.add([wildcard])
    assert services.find("n", "Users", "Do") is services.find("n", "Users", "Other") is wildcard
    services.add([exact, spec("n", "Users", "~http")])
    assert services.find("n", "Users", "Do") is exact
    assert services.find("n", "Users", "~other") is None
    assert services.find("n", "Others", "Do") is None
    assert {route.key.method for route in services.routes()} == {ANY, "Do", "~http"}
    services.leave("n")
    assert services.find("n", "Users", "Other") is None
    with pytest.raises(InvalidArgumentError, match="registered already"):
        services.add([wildcard])


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "add", "add", "described", "remove", "join", "leave"]),
            st.sampled_from(["n", "m"]),
            st.sampled_from(["Users", "a.Users", "b.Users", "Other"]),
            st.sampled_from(["Do", "Go", ANY]),
        ),
        max_size=30,
    )
)
def test_what_is_added_is_found_as_if_all_were_looked_at_anew(steps: list[tuple[str, str, str, str]]) -> None:
    services = LocalServices(["n"])
    for what, namespace, service, method in steps:
        with contextlib.suppress(InvalidArgumentError):  # it is there already
            match what:
                case "add":
                    services.add([spec(namespace, service, method)])
                case "described":
                    services.add([spec(namespace, service, method)], descriptor=_Named(service))  # type: ignore[arg-type]
                case "remove":
                    services.remove(namespace, service)
                case "join":
                    services.join(namespace)
                case "leave":
                    services.leave(namespace)
        found, wildcards, namespaces = services._found, services._wildcards, services.namespaces
        services._changed()
        assert (found, wildcards, namespaces) == (services._found, services._wildcards, services.namespaces)


def test_many_registrations_are_one_pass_each() -> None:
    """Twenty thousand took minutes when each looked at all of those before it."""
    services = LocalServices(["n"])
    health = Health(services)
    visited = 0

    class Counting(dict[Any, Any]):
        def items(self) -> Any:
            nonlocal visited
            visited += len(self)
            return super().items()

    services._found = Counting(services._found)
    for number in range(500):
        services.add([spec("n", f"S{number % 20}", f"M{number}")])
    assert (visited, len(list(services.routes()))) == (0, 500)
    assert health.status("n/S7") is not None


def test_the_health_of_what_was_there_is_unknown_and_of_what_was_not_nothing() -> None:
    services = LocalServices(["n"])
    health = Health(services)
    health.set_serving(True)
    services.add([spec("n", "a.Users")], descriptor=_Named("a.Users"))  # type: ignore[arg-type]
    services.add([spec("m", "Gone")])
    services.remove("m", "Gone")
    services.leave("m")
    # Nobody has asked before, and all the same it is known that they were there.
    assert [health.status(name) for name in ("", "n", "n/a.Users", "n/Users")] == [SERVING] * 4
    assert [health.status(name) for name in ("m", "m/Gone")] == [UNKNOWN] * 2
    assert health.status("n/Never") is None

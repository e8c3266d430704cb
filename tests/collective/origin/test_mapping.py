"""What request stands for a call."""

from __future__ import annotations

from typing import Any

import pytest
from tests.collective.kit import descriptor, order, order_class

from dodici.collective import CollectiveError, OriginMethod
from dodici.collective.names import ANY, CallKind, RouteKey
from dodici.collective.origin.mapping import PathTemplate, ask
from dodici.collective.origin.specs import OriginSpecs, checked_origin
from dodici.core.errors import InvalidArgumentError
from dodici.core.grpc_status import GrpcStatus

KEY = RouteKey("shop", "kit.Orders", "Create")


def asked(path: str, given: Any, verb: str = "POST", key: RouteKey = KEY) -> tuple[str, Any]:
    return tuple(ask(PathTemplate(path), verb, key, given))  # type: ignore[return-value]


def refused(path: str, given: Any, verb: str = "POST", key: RouteKey = KEY) -> str:
    with pytest.raises(CollectiveError) as caught:
        asked(path, given, verb, key)
    assert caught.value.grpc_status is GrpcStatus.INVALID_ARGUMENT
    return caught.value.message


def test_names_of_the_call_are_filled_in_and_the_input_is_the_body() -> None:
    assert asked("/{method}", 5) == ("/Create", 5)
    assert asked("/rpc/{namespace}/{service}/{method}.json", None) == (
        "/rpc/shop/kit.Orders/Create.json",
        None,
    )


def test_fields_go_into_the_path_and_the_rest_into_the_body() -> None:
    given = {"item": "hat", "amount": 2}
    assert asked("/inventory/{item}/take", given) == ("/inventory/hat/take", {"amount": 2})
    assert given == {"item": "hat", "amount": 2}
    assert asked("/inventory/{item}", {"item": "hat"}) == ("/inventory/hat", None)
    assert asked("/{a}-{b}", {"a": 1, "b": True}) == ("/1-true", None)


def test_without_a_body_the_rest_is_the_query() -> None:
    given = {"item": "a hat", "page": 2, "tags": ["a", "b&c"], "none": None, "all": False}
    assert asked("/i/{item}", given, "GET") == ("/i/a%20hat?page=2&tags=a&tags=b%26c&all=false", None)
    assert asked("/i", None, "DELETE") == ("/i", None)
    assert asked("/i", {}, "HEAD") == ("/i", None)


def test_fields_of_a_message_have_their_names_of_json_or_of_their_own() -> None:
    assert asked("/o/{sku}", order("a/1", 2)) == ("/o/a%2F1", {"count": "2"})
    assert asked("/o/{sku}", order("a", 0), "GET") == ("/o/a?count=0", None)


@pytest.mark.parametrize("value", ["..", ".", "", None, [1], {"a": 1}], ids=str)
def test_a_value_that_would_lead_elsewhere_is_refused(value: Any) -> None:
    refused("/i/{item}", {"item": value})


@pytest.mark.parametrize(
    ("value", "due"),
    [("a/../b", "a%2F..%2Fb"), ("%2e%2e", "%252e%252e"), ("a?b#c", "a%3Fb%23c"), ("ü", "%C3%BC")],
)
def test_a_value_stays_within_its_segment(value: str, due: str) -> None:
    assert asked("/i/{item}/x", {"item": value}) == (f"/i/{due}/x", None)


def test_names_of_methods_lead_nowhere_else_either() -> None:
    assert asked("/{method}", None, key=KEY._replace(method="a?b=c#%2e")) == ("/a%3Fb%3Dc%23%252e", None)
    assert asked("/x/{method}", None, key=KEY._replace(method="..."))[0] == "/x/..."
    for name in (".", ".."):
        assert "no path" in refused("/{method}", None, key=KEY._replace(method=name))


def test_what_is_missing_is_named() -> None:
    assert refused("/i/{item}", {"other": 1}) == "the input lacks 'item', which is in the path"
    assert refused("/i/{item}", 5) == "the input must be a dict, not int"
    assert refused("/i", 5, "GET") == "the input must be a dict, not int"
    assert refused("/i", {"a": {"b": 1}}, "GET") == "'a' goes into the URL, and must be plain, not dict"


@pytest.mark.parametrize(
    "path", ["", "x", None, "/a b", "/a?b", "/a#b", "/{", "/{a b}", "/a/../b", "/.", "/ü"], ids=str
)
def test_a_path_that_is_none_is_refused(path: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        PathTemplate(path)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"verb": "get"}, "verb"),
        ({"verb": "CONNECT"}, "verb"),
        ({"verb": 1}, "verb"),
        ({"kind": "unary"}, "kind must be one of unary_unary"),
        ({"idempotent": 1}, "idempotent"),
        ({"input_type": dict}, "input_type must be a class of protobuf messages"),
        ({"output_type": "Order"}, "output_type"),
        ({"verb": "GET", "kind": "stream_unary"}, "GET has no body"),
        ({"path": "/{a}", "kind": "stream_stream"}, "its path has fields of the input"),
        ({"path": "orders"}, "must begin with '/'"),
    ],
    ids=range(10),
)
def test_an_origin_method_that_makes_no_sense_is_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidArgumentError, match=says):
        OriginMethod(**arguments)


def test_what_reads_is_idempotent_unless_said_otherwise() -> None:
    assert [OriginMethod(verb=verb).repeatable for verb in ("GET", "HEAD", "POST", "PUT", "DELETE")] == [
        True, True, False, False, False,
    ]  # fmt: skip
    assert OriginMethod(idempotent=True).repeatable
    assert not OriginMethod(verb="GET", idempotent=False).repeatable


# -- specs ---------------------------------------------------------------------------------------------------


def specs(methods: Any = None, path: str = "/{method}", service: str = "Orders", **more: Any) -> Any:
    arguments: Any = {"dispatcher": None, "codec": "json", "limit": 1000, **more}
    maker = OriginSpecs("shop", service, "http://orders.local", path=path, **arguments)
    return maker.make(methods)


def test_none_is_all_methods() -> None:
    (spec,) = specs()
    assert (spec.method, spec.wildcard, spec.kind, spec.idempotent) == (
        ANY,
        True,
        CallKind.UNARY_UNARY,
        False,
    )


def test_names_and_mappings() -> None:
    assert [spec.key.method for spec in specs(["A", "B"])] == ["A", "B"]
    a, b, c = specs(
        {
            "A": None,
            "B": OriginMethod(verb="GET", path="/b"),
            "C": {"path": "/c", "kind": "unary_stream", "idempotent": True},
        }
    )
    assert [(each.kind, each.idempotent) for each in (a, b, c)] == [
        ("unary_unary", False), ("unary_unary", True), ("unary_stream", True),
    ]  # fmt: skip


def test_a_descriptor_gives_kinds_and_types() -> None:
    found = {spec.method: spec for spec in specs(descriptor(), service="OrderService")}
    assert {name: str(spec.kind) for name, spec in found.items()} == {
        "Create": "unary_unary", "List": "unary_stream", "Sum": "stream_unary", "Chat": "stream_stream",
        "Fail": "unary_unary", "Hold": "unary_unary",
    }  # fmt: skip
    assert found["List"].idempotent
    assert not found["Create"].idempotent
    assert {spec.service for spec in found.values()} == {"kit.shop.OrderService"}
    assert all(spec.input_type is order_class() is spec.output_type for spec in found.values())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"methods": "Create"}, "methods must be names"),
        ({"methods": 5}, "methods must be names"),
        ({"methods": []}, "methods is empty"),
        ({"methods": ["*"]}, r"'\*' has a meaning of its own"),
        ({"methods": ["~http"]}, "'~http' has a meaning of its own"),
        ({"methods": [5]}, "method must be a str"),
        ({"methods": {"A": 5}}, "method 'A' must be an OriginMethod, not int"),
        ({"methods": {"A": {"verbs": "GET"}}}, "method 'A' has no 'verbs'; there are: verb, path"),
        ({"methods": {"A": {"verb": "get"}}}, "method 'A': verb must be"),
        ({"path": "/rpc"}, "must have {method} in it"),
        ({"path": "/{method}/{item}"}, "has item, which only the path of an OriginMethod may have"),
        ({"path": "/rpc", "methods": {"A": None}}, "must have {method} in it"),
        ({"codec": "xml"}, "codec must be one of json, protobuf"),
        ({"dispatcher": 5}, "dispatcher must be a Dispatcher, not int"),
    ],
    ids=range(14),
)
def test_arguments_that_are_wrong_are_named(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidArgumentError, match=says):
        specs(**arguments)


def test_a_descriptor_of_another_service_is_refused() -> None:
    with pytest.raises(
        InvalidArgumentError, match=r"describes kit\.shop\.OrderService, and the service is 'Orders'"
    ):
        specs(descriptor())


def test_methods_with_paths_of_their_own_need_no_default() -> None:
    assert len(specs({"A": {"path": "/a"}}, path="/rpc")) == 1


@pytest.mark.parametrize(
    ("given", "due"),
    [
        ("http://orders.local", "http://orders.local"),
        ("HTTP://Orders.LOCAL:80/", "http://orders.local"),
        ("https://[::1]:8443", "https://[::1]:8443"),
    ],
)
def test_an_origin_is_normal(given: str, due: str) -> None:
    assert checked_origin(given) == due


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (None, "origin must be a str"),
        ("orders.local", "must begin with http"),
        ("ftp://orders.local", "must begin with http"),
        ("http://", "no host"),
        ("http://orders.local:99999", "port"),
        ("http://a:b@orders.local", "may not have a user"),
        ("http://orders.local/api/", r"goes without a path: give it as path='/api/\{method\}'"),
        ("http://orders.local?x=1", "goes without a path"),
        ("http://orders.local/#x", "goes without a path"),
        ("http://orders local", "host"),
    ],
)
def test_an_origin_that_is_none_is_refused(given: Any, says: str) -> None:
    with pytest.raises(InvalidArgumentError, match=says):
        checked_origin(given)

"""The protocols of aggregated discovery, message by message."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from dodici.collective import CollectiveError
from dodici.collective.xds import Endpoint, Endpoints
from dodici.collective.xds.resources import (
    CLUSTER,
    ENDPOINTS,
    LISTENER,
    NEVER_SENT,
    ROUTES,
    Snapshot,
    messages,
)
from dodici.collective.xds.source import Offer
from dodici.collective.xds.streams import MOST_NAMES, DeltaStream, WorldStream
from dodici.core.errors import InvalidArgumentError
from dodici.core.grpc_status import GrpcStatus

HOSTS = {"10.0.0.1": "10.0.0.1", "10.0.0.2": "10.0.0.2", "db.example": "10.0.0.3", "gone.example": None}


def snapshot(**namespaces: list[str]) -> Snapshot:
    return Snapshot(
        {name: Offer(tuple(Endpoint(each) for each in addresses)) for name, addresses in namespaces.items()},
        HOSTS,
    )


def asks(type_url: str, *names: str, nonce: str = "", error: str = "") -> Any:
    request = messages().discovery.DiscoveryRequest(
        type_url=type_url, resource_names=names, response_nonce=nonce
    )
    if error:
        request.error_detail.message = error
    return request


def subscribes(type_url: str, *names: str, drop: tuple[str, ...] = (), nonce: str = "", **had: str) -> Any:
    return messages().discovery.DeltaDiscoveryRequest(
        type_url=type_url,
        resource_names_subscribe=names,
        resource_names_unsubscribe=drop,
        response_nonce=nonce,
        initial_resource_versions=had,
    )


def only(responses: Any) -> Any:
    (response,) = list(responses)
    return response


def addresses(assignment: Any) -> list[tuple[str, int, int]]:
    return [
        (
            each.endpoint.address.socket_address.address,
            each.endpoint.address.socket_address.port_value,
            each.load_balancing_weight.value,
        )
        for group in assignment.endpoints
        for each in group.lb_endpoints
    ]


def unpacked(resource: Any, kind: Any) -> Any:
    return kind.FromString(resource.value)


# -- what there is -------------------------------------------------------------------------------------------


def test_a_namespace_as_resources() -> None:
    made = messages()
    offer = Offer(
        (
            Endpoint("10.0.0.1:1", 100),
            Endpoint("db.example:2"),
            Endpoint("gone.example:3"),
            Endpoint("unix:/x"),
        ),
        ("/shop.S/List",),
    )
    there = Snapshot({"orders": offer}, HOSTS)
    assert [set(there.get(each)) for each in (LISTENER, ROUTES, CLUSTER, ENDPOINTS)] == [{"orders"}] * 4
    assert there.get("type.googleapis.com/other") == {}

    assignment = unpacked(there.get(ENDPOINTS)["orders"].message, made.endpoint.ClusterLoadAssignment)
    assert assignment.cluster_name == "orders"
    assert addresses(assignment) == [("10.0.0.1", 1, 100), ("10.0.0.3", 2, 1)]
    assert assignment.endpoints[0].load_balancing_weight.value == 1

    cluster = unpacked(there.get(CLUSTER)["orders"].message, made.cluster.Cluster)
    assert (cluster.name, cluster.eds_cluster_config.service_name) == ("orders", "orders")
    outlier = cluster.outlier_detection
    assert (outlier.consecutive_5xx.value, outlier.max_ejection_percent.value) == (3, 60)

    listener = unpacked(there.get(LISTENER)["orders"].message, made.listener.Listener)
    manager = made.http.HttpConnectionManager()
    assert listener.api_listener.api_listener.Unpack(manager)
    assert (listener.name, manager.rds.route_config_name) == ("orders", "orders")

    (host,) = unpacked(there.get(ROUTES)["orders"].message, made.route.RouteConfiguration).virtual_hosts
    header = host.request_headers_to_add[0].header
    assert (header.key, header.value) == ("x-dodici-namespace", "orders")
    listed, rest = host.routes
    assert (listed.match.path, rest.match.prefix) == ("/shop.S/List", "/")
    assert {route.route.cluster for route in host.routes} == {"orders"}
    # What may have been sent is repeated only if it was declared to do no harm.
    assert "unavailable" in listed.route.retry_policy.retry_on.split(",")
    assert rest.route.retry_policy.retry_on == NEVER_SENT


def test_nobody_serves_it() -> None:
    there = snapshot(orders=[])
    assignment = unpacked(there.get(ENDPOINTS)["orders"].message, messages().endpoint.ClusterLoadAssignment)
    assert list(assignment.endpoints) == []


def test_versions_are_those_of_the_contents() -> None:
    first, again = snapshot(orders=["10.0.0.1:1"]), snapshot(orders=["10.0.0.1:1"], users=[])
    other = snapshot(orders=["10.0.0.1:2"])
    for type_url in (LISTENER, ROUTES, CLUSTER, ENDPOINTS):
        assert first.get(type_url)["orders"].version == again.get(type_url)["orders"].version
    assert first.get(ENDPOINTS)["orders"].version != other.get(ENDPOINTS)["orders"].version
    assert first.get(CLUSTER)["orders"].version == other.get(CLUSTER)["orders"].version


def test_a_source_that_is_told() -> None:
    source, calls = Endpoints(), []
    stop = source.on_change(lambda: calls.append(dict(source.offers())))
    source.set("orders", ["10.0.0.1:1", "10.0.0.1:1"], ["/b", "/a", "/a"])
    source.set("orders", [Endpoint("10.0.0.1:1")], ["/a", "/b"])
    assert calls == [{"orders": Offer((Endpoint("10.0.0.1:1"),), ("/a", "/b"))}]
    source.remove("orders")
    source.remove("orders")
    assert calls[1:] == [{}]
    stop()
    stop()
    source.set("users", [])
    assert len(calls) == 2
    for wrong in ("", "a/b"):
        with pytest.raises(InvalidArgumentError):
            source.set(wrong, [])
    with pytest.raises(InvalidArgumentError):
        source.set("orders", ["nowhere"])
    with pytest.raises(InvalidArgumentError):
        Endpoint("10.0.0.1:1", 0)


# -- state of the world --------------------------------------------------------------------------------------


def test_world_tells_what_is_asked_and_what_changes() -> None:
    stream, there = WorldStream(), snapshot(orders=["10.0.0.1:1"], users=[])
    assert list(stream.due(there)) == []
    stream.request(asks(ENDPOINTS, "orders"))
    first = only(stream.due(there))
    assert (first.type_url, len(first.resources)) == (ENDPOINTS, 1)
    assert list(stream.due(there)) == []
    stream.request(asks(ENDPOINTS, "orders", nonce=first.nonce))
    assert list(stream.due(there)) == []
    # Of what nobody asked for, nothing is told.
    assert list(stream.due(snapshot(orders=["10.0.0.1:1"], users=["10.0.0.2:1"], more=[]))) == []
    second = only(stream.due(snapshot(orders=["10.0.0.1:2"])))
    assert second.nonce != first.nonce
    assert second.version_info != first.version_info


def test_world_of_everything() -> None:
    stream, there = WorldStream(), snapshot(orders=[], users=[])
    stream.request(asks(CLUSTER))
    everything = only(stream.due(there))
    assert len(everything.resources) == 2
    stream.request(asks(CLUSTER, nonce=everything.nonce))
    gone = only(stream.due(snapshot(orders=[])))
    assert len(gone.resources) == 1
    # Once it has named something, no names are none; that is the same stream with nothing to be told.
    stream.request(asks(CLUSTER, "orders", nonce=gone.nonce))
    one = only(stream.due(snapshot(orders=[])))
    assert len(one.resources) == 1
    stream.request(asks(CLUSTER, nonce=one.nonce))
    assert list(only(stream.due(there)).resources) == []
    assert list(stream.due(snapshot(users=[]))) == []


def test_world_of_everything_by_name() -> None:
    stream = WorldStream()
    stream.request(asks(CLUSTER, "*", "orders"))
    assert len(only(stream.due(snapshot(orders=[], users=[]))).resources) == 2


def test_world_answers_more_names_with_all_of_them() -> None:
    stream, there = WorldStream(), snapshot(orders=["10.0.0.1:1"], users=["10.0.0.2:1"])
    stream.request(asks(ENDPOINTS, "orders"))
    first = only(stream.due(there))
    stream.request(asks(ENDPOINTS, "orders", "users", nonce=first.nonce))
    assert len(only(stream.due(there)).resources) == 2


def test_world_waits_for_what_is_not_there_yet() -> None:
    stream = WorldStream()
    stream.request(asks(LISTENER, "orders"))
    # A listener that is not there is told to be missing; endpoints are told when they are there.
    assert list(only(stream.due(snapshot())).resources) == []
    stream.request(asks(ENDPOINTS, "orders"))
    assert list(stream.due(snapshot())) == []
    assert [each.type_url for each in stream.due(snapshot(orders=[]))] == [ENDPOINTS, LISTENER]


def test_world_keeps_the_order_that_leaves_nothing_dangling() -> None:
    stream = WorldStream()
    for type_url in (ROUTES, LISTENER, ENDPOINTS, CLUSTER):
        stream.request(asks(type_url, "orders"))
    told = [each.type_url for each in stream.due(snapshot(orders=[]))]
    assert told == [CLUSTER, ENDPOINTS, LISTENER, ROUTES]


def test_world_passes_over_what_was_said_too_early() -> None:
    stream = WorldStream()
    stream.request(asks(ENDPOINTS, "orders"))
    first = only(stream.due(snapshot(orders=["10.0.0.1:1"])))
    second = only(stream.due(snapshot(orders=["10.0.0.1:2"])))
    stream.request(asks(ENDPOINTS, "orders", "users", nonce=first.nonce))
    there = snapshot(orders=["10.0.0.1:2"], users=[])
    assert list(stream.due(there)) == []
    stream.request(asks(ENDPOINTS, "orders", "users", nonce=second.nonce))
    assert len(only(stream.due(there)).resources) == 2


def test_what_a_client_refuses_is_not_told_again(caplog: pytest.LogCaptureFixture) -> None:
    stream, there = WorldStream("ipv4:10.0.0.9:1"), snapshot(orders=["10.0.0.1:1"])
    stream.request(asks(ENDPOINTS, "orders"))
    first = only(stream.due(there))
    with caplog.at_level(logging.WARNING):
        stream.request(asks(ENDPOINTS, "orders", nonce=first.nonce, error="no such thing"))
    assert "10.0.0.9" in caplog.text
    assert "no such thing" in caplog.text
    assert list(stream.due(there)) == []
    assert only(stream.due(snapshot(orders=["10.0.0.1:2"]))).nonce != first.nonce


@pytest.mark.parametrize("protocol", ["world", "delta"])
def test_wrong_requests(protocol: str) -> None:
    stream, ask = (WorldStream(), asks) if protocol == "world" else (DeltaStream(), subscribes)
    with pytest.raises(CollectiveError) as refused:
        stream.request(ask("type.googleapis.com/envoy.config.other"))
    assert refused.value.grpc_status is GrpcStatus.INVALID_ARGUMENT
    with pytest.raises(CollectiveError) as refused:
        stream.request(ask(ENDPOINTS, *(str(number) for number in range(MOST_NAMES + 1))))
    assert refused.value.grpc_status is GrpcStatus.RESOURCE_EXHAUSTED


# -- incremental ---------------------------------------------------------------------------------------------


def test_delta_tells_only_what_is_new_and_what_is_gone() -> None:
    stream, there = DeltaStream(), snapshot(orders=["10.0.0.1:1"], users=[])
    stream.request(subscribes(CLUSTER))
    stream.request(subscribes(ENDPOINTS, "orders", "users", "unknown"))
    clusters, endpoints = stream.due(there)
    assert [each.name for each in clusters.resources] == ["orders", "users"]
    assert [each.name for each in endpoints.resources] == ["orders", "users"]
    assert list(endpoints.removed_resources) == ["unknown"]
    assert list(stream.due(there)) == []
    changed = only(stream.due(snapshot(orders=["10.0.0.1:2"], users=[])))
    assert [each.name for each in changed.resources] == ["orders"]
    assert list(changed.removed_resources) == []
    gone = list(stream.due(snapshot(orders=["10.0.0.1:2"])))
    assert [(each.type_url, list(each.resources), list(each.removed_resources)) for each in gone] == [
        (CLUSTER, [], ["users"]),
        (ENDPOINTS, [], ["users"]),
    ]
    back = list(stream.due(snapshot(orders=["10.0.0.1:2"], users=[], unknown=[])))
    assert [[each.name for each in response.resources] for response in back] == [
        ["unknown", "users"],
        ["unknown", "users"],
    ]


def test_delta_goes_on_where_another_stream_ended() -> None:
    there = snapshot(orders=["10.0.0.1:1"], users=[])
    version = there.get(ENDPOINTS)["orders"].version
    stream = DeltaStream()
    stream.request(subscribes(ENDPOINTS, "orders", "users", orders=version, users="old"))
    assert [each.name for each in only(stream.due(there)).resources] == ["users"]


def test_delta_subscriptions_change() -> None:
    there = snapshot(orders=["10.0.0.1:1"], users=[])
    stream = DeltaStream()
    stream.request(subscribes(ENDPOINTS, "orders"))
    first = only(stream.due(there))
    # Told again, since the client has asked again: it has forgotten it, perhaps.
    stream.request(subscribes(ENDPOINTS, "orders", nonce=first.nonce))
    assert [each.name for each in only(stream.due(there)).resources] == ["orders"]
    # It may be said on top of a response that is not the last one, and counts all the same.
    stream.request(subscribes(ENDPOINTS, "users", drop=("orders",), nonce=first.nonce))
    assert [each.name for each in only(stream.due(there)).resources] == ["users"]
    assert list(stream.due(snapshot(orders=["10.0.0.1:2"], users=[]))) == []
    stream.request(subscribes(ENDPOINTS, "*"))
    assert [each.name for each in only(stream.due(there)).resources] == ["orders"]


def test_delta_of_everything_is_answered_even_if_that_is_nothing() -> None:
    stream = DeltaStream()
    stream.request(subscribes(LISTENER))
    assert list(only(stream.due(snapshot())).resources) == []
    assert list(stream.due(snapshot())) == []

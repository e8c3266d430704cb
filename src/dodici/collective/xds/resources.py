"""Namespaces as resources of xDS: one listener, route configuration, cluster and load assignment each, named after it.

All are made for two kinds of readers. gRPC's clients (proposals A27, A28, A44, A50) take from them what they know
and pass over the rest; Envoy has its listeners from its own bootstrap, and takes routes, clusters and endpoints.

Repeating calls is kept to what is safe. A request that certainly never reached a collector is repeated always; one
that may have is repeated only where the method is declared idempotent, which then has a route of its own. Sources:
Envoy's `retry_on` conditions, which for gRPC's clients are the five statuses alone.

Outlier detection: Envoy ejects at most a tenth of the hosts as it comes, which of two is none; with 60 % the one of
two that was killed is out after three failures.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final

from ...core.errors import NotSupportedError
from ..addresses import split_address
from ..metadata import NAMESPACE
from .source import Endpoint, Offer

_PREFIX: Final = "type.googleapis.com/"
LISTENER: Final = f"{_PREFIX}envoy.config.listener.v3.Listener"
ROUTES: Final = f"{_PREFIX}envoy.config.route.v3.RouteConfiguration"
CLUSTER: Final = f"{_PREFIX}envoy.config.cluster.v3.Cluster"
ENDPOINTS: Final = f"{_PREFIX}envoy.config.endpoint.v3.ClusterLoadAssignment"
IN_ORDER: Final = (CLUSTER, ENDPOINTS, LISTENER, ROUTES)
"""In which changes are told, so that nothing is named before it is there."""

NEVER_SENT: Final = "connect-failure,refused-stream,reset-before-request"
IDEMPOTENT: Final = f"{NEVER_SENT},reset,unavailable"


@functools.cache
def messages() -> Any:
    """The messages of xds-protos that are used here.

    Raises:
        NotSupportedError: it is not installed.
    """
    modules = {
        "cluster": "config.cluster.v3.cluster_pb2",
        "discovery": "service.discovery.v3.discovery_pb2",
        "endpoint": "config.endpoint.v3.endpoint_pb2",
        "http": "extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2",
        "listener": "config.listener.v3.listener_pb2",
        "protocol": "extensions.upstreams.http.v3.http_protocol_options_pb2",
        "route": "config.route.v3.route_pb2",
        "router": "extensions.filters.http.router.v3.router_pb2",
    }
    try:
        return SimpleNamespace(
            **{name: importlib.import_module(f"envoy.{module}") for name, module in modules.items()}
        )
    except ImportError as error:
        raise NotSupportedError("an xDS server needs xds-protos: pip install 'dodici[xds]'") from error


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource, and what tells one state of it from another."""

    message: Any
    """A `google.protobuf.Any`."""
    version: str


class Snapshot:
    """All resources at one time: by type, then by name."""

    def __init__(self, offers: Mapping[str, Offer], addresses: Mapping[str, str | None]) -> None:
        """`addresses` are the hosts of the endpoints as numbers; those without are left out."""
        self._types: dict[str, dict[str, Resource]] = {type_url: {} for type_url in IN_ORDER}
        for namespace, offer in sorted(offers.items()):
            self._add(LISTENER, namespace, _listener(namespace))
            self._add(ROUTES, namespace, _routes(namespace, offer.idempotent))
            self._add(CLUSTER, namespace, _cluster(namespace))
            self._add(ENDPOINTS, namespace, _assignment(namespace, offer.endpoints, addresses))

    def get(self, type_url: str) -> Mapping[str, Resource]:
        """The resources of a type, by name; none of a type that is not served."""
        return self._types.get(type_url, {})

    def _add(self, type_url: str, name: str, message: Any) -> None:
        discovery = messages().discovery
        packed = discovery.Resource().resource
        packed.type_url = type_url
        packed.value = message.SerializeToString(deterministic=True)
        self._types[type_url][name] = Resource(packed, version_of([packed.value]))


def version_of(parts: Iterable[bytes]) -> str:
    """Equal for equal parts, in every process: a client may change its server, and finds nothing changed."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:16]


def _listener(namespace: str) -> Any:
    made = messages()
    manager = made.http.HttpConnectionManager(stat_prefix=namespace)
    manager.rds.route_config_name = namespace
    _over_ads(manager.rds.config_source)
    manager.http_filters.add(name="envoy.filters.http.router").typed_config.Pack(made.router.Router())
    listener = made.listener.Listener(name=namespace)
    listener.api_listener.api_listener.Pack(manager)
    return listener


def _routes(namespace: str, idempotent: Iterable[str]) -> Any:
    routes = messages().route.RouteConfiguration(name=namespace)
    host = routes.virtual_hosts.add(name=namespace, domains=["*"])
    # Envoy says for its clients which namespace they mean; gRPC's clients pass this over, and say it themselves.
    header = host.request_headers_to_add.add(append_action="OVERWRITE_IF_EXISTS_OR_ADD").header
    header.key, header.value = NAMESPACE, namespace
    for path in idempotent:
        route = host.routes.add()
        route.match.path = path
        _to(route.route, namespace, IDEMPOTENT)
    route = host.routes.add()
    route.match.prefix = "/"
    _to(route.route, namespace, NEVER_SENT)
    return routes


def _to(action: Any, namespace: str, retry_on: str) -> None:
    action.cluster = namespace
    # Deadlines are the caller's: without this Envoy ends every call after 15 s.
    action.timeout.seconds = 0
    action.max_stream_duration.grpc_timeout_header_max.seconds = 0
    retry = action.retry_policy
    retry.retry_on = retry_on
    retry.num_retries.value = 2
    retry.retry_back_off.base_interval.nanos = 25_000_000
    retry.retry_back_off.max_interval.nanos = 250_000_000
    retry.retry_host_predicate.add(
        name="envoy.retry_host_predicates.previous_hosts"
    ).typed_config.type_url = f"{_PREFIX}envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    retry.host_selection_retry_max_attempts = 3


def _cluster(namespace: str) -> Any:
    made = messages()
    cluster = made.cluster.Cluster(name=namespace, type="EDS", lb_policy="ROUND_ROBIN")
    cluster.eds_cluster_config.service_name = namespace
    _over_ads(cluster.eds_cluster_config.eds_config)
    cluster.connect_timeout.seconds = 1
    options = made.protocol.HttpProtocolOptions()
    keepalive = options.explicit_http_config.http2_protocol_options.connection_keepalive
    keepalive.interval.seconds = 1
    keepalive.timeout.seconds = 2  # pings are answered by an event loop, which may be busy
    cluster.typed_extension_protocol_options["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"].Pack(
        options
    )
    outlier = cluster.outlier_detection
    outlier.consecutive_5xx.value = 3
    outlier.interval.seconds = 1
    outlier.base_ejection_time.seconds = 5
    outlier.max_ejection_percent.value = 60
    return cluster


def _assignment(namespace: str, endpoints: Iterable[Endpoint], addresses: Mapping[str, str | None]) -> Any:
    assignment = messages().endpoint.ClusterLoadAssignment(cluster_name=namespace)
    group = None
    for endpoint in endpoints:
        host, port = split_address(endpoint.address)
        number = None if host is None else addresses.get(host)
        if number is None:
            continue
        if group is None:
            # gRPC's clients leave out localities without a weight.
            group = assignment.endpoints.add()
            group.locality.region = "collective"
            group.load_balancing_weight.value = 1
        member = group.lb_endpoints.add()
        member.load_balancing_weight.value = endpoint.weight
        socket = member.endpoint.address.socket_address
        socket.address, socket.port_value = number, port
    return assignment


def _over_ads(source: Any) -> None:
    source.ads.SetInParent()
    source.resource_api_version = "V3"

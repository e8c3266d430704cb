"""What clients have to know before they can ask an xDS server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..addresses import split_address
from ..tls import TLS

_HTTP = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "envoy.extensions.filters.http.router.v3.Router"
_HTTP2 = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_TYPE = "type.googleapis.com/"


def grpc_bootstrap(address: str, *, node: str = "dodici", tls: TLS | None = None) -> dict[str, Any]:
    """The bootstrap of gRPC's clients: as JSON in the environment variable GRPC_XDS_BOOTSTRAP_CONFIG, or in a file that
    GRPC_XDS_BOOTSTRAP names. Source: gRPC proposals A27, A65.

    Args:
        address: of the xDS server.
        node: the client's name, for the server's log.
        tls: the files with which the client connects to the server; None: plaintext.

    Raises:
        InvalidArgumentError: the address is not one.
    """
    split_address(address)
    credentials: dict[str, Any] = {"type": "insecure"}
    if tls is not None:
        files = {
            "ca_certificate_file": tls.ca,
            "certificate_file": tls.cert,
            "private_key_file": tls.key,
        }
        credentials = {
            "type": "tls",
            "config": {name: path for name, path in files.items() if path is not None},
        }
    return {
        "xds_servers": [
            {"server_uri": address, "channel_creds": [credentials], "server_features": ["xds_v3"]}
        ],
        "node": {"id": node},
    }


def envoy_bootstrap(
    address: str, listen: Mapping[str, str], *, admin: str | None = None, node: str = "dodici"
) -> dict[str, Any]:
    """A configuration of Envoy that takes routes, clusters and endpoints from an xDS server; Envoy reads it as JSON.

    Args:
        address: of the xDS server, reached in plaintext: Envoy runs beside it, or a mesh encrypts. The host is a
            number or a name.
        listen: where Envoy listens, and the namespace that is served there: ``{"127.0.0.1:9000": "orders"}``.
        admin: where it listens for its operator; None: nowhere.
        node: its name, for the server's log.

    Raises:
        InvalidArgumentError: an address is not one.
    """
    ads = {"ads": {}, "resource_api_version": "V3"}
    configuration: dict[str, Any] = {
        "node": {"id": node, "cluster": node},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "dodici_xds"}}],
            },
            "cds_config": ads,
        },
        "static_resources": {
            "listeners": [
                {
                    "name": f"{namespace} {at}",
                    "address": _socket(at),
                    "filter_chains": [{"filters": [_manager(namespace, ads)]}],
                }
                for at, namespace in listen.items()
            ],
            "clusters": [_control_plane(address)],
        },
    }
    if admin is not None:
        configuration["admin"] = {"address": _socket(admin)}
    return configuration


def _manager(namespace: str, ads: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": _TYPE + _HTTP,
            "stat_prefix": namespace,
            "codec_type": "AUTO",
            "rds": {"route_config_name": namespace, "config_source": ads},
            "http_filters": [
                {"name": "envoy.filters.http.router", "typed_config": {"@type": _TYPE + _ROUTER}}
            ],
        },
    }


def _control_plane(address: str) -> dict[str, Any]:
    return {
        "name": "dodici_xds",
        "type": "STRICT_DNS",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": "dodici_xds",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket(address)}}]}],
        },
        "typed_extension_protocol_options": {
            _HTTP2: {
                "@type": _TYPE + _HTTP2,
                "explicit_http_config": {
                    "http2_protocol_options": {"connection_keepalive": {"interval": "5s", "timeout": "2s"}}
                },
            }
        },
    }


def _socket(address: str) -> dict[str, Any]:
    host, port = split_address(address)
    if host is None:
        return {"pipe": {"path": address.removeprefix("unix:")}}
    return {"socket_address": {"address": host.strip("[]"), "port_value": port}}

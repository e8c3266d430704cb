"""An xDS control plane that is fed by a collector: clients with `xds:///` targets and Envoy follow its members.

    source.py       what there is: endpoints by namespace
    resources.py    the same as listeners, routes, clusters and endpoints of xDS
    streams.py      the two protocols in which they are told, sans-IO
    server.py       the server
    bootstrap.py    how clients are told of it

Names are loaded on first use (PEP 562), xds-protos too: `pip install 'dodici[xds]'`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...core.lazy import lazy

if TYPE_CHECKING:
    from .bootstrap import envoy_bootstrap as envoy_bootstrap, grpc_bootstrap as grpc_bootstrap
    from .server import XdsServer as XdsServer
    from .source import (
        Endpoint as Endpoint,
        Endpoints as Endpoints,
        EndpointSource as EndpointSource,
        Offer as Offer,
    )

_HOMES = {
    "Endpoint": "source",
    "EndpointSource": "source",
    "Endpoints": "source",
    "Offer": "source",
    "XdsServer": "server",
    "envoy_bootstrap": "bootstrap",
    "grpc_bootstrap": "bootstrap",
}

__all__ = [*sorted(_HOMES)]  # noqa: PLE0604


if not TYPE_CHECKING:  # a checker would take every misspelling for a name that is found here
    __getattr__, __dir__ = lazy(__name__, _HOMES)

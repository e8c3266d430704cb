"""The application server behind `dodici up`: services as supervised workers, and a gateway in front of them.

    config      the TOML file, as values
    supervisor  keeps the workers of every service running, through a `WorkerInterceptor`
    gateway     an ASGI app that finds the service of a request and dispatches it into the mesh
    frontend    the HTTP server that runs the gateway
    control     the local socket that `dodici ps` and its siblings talk to
    admin       metrics and status over HTTP, where they are asked for
    collector   a collector beside the gateway, and services that are somewhere in the collective
    application puts them together, and listens to signals

Nothing in here is needed to use the mesh from a program of one's own. Needs the extra `server`.
"""

from __future__ import annotations

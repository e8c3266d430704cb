"""Which service a request is for: by its host, then by the longest prefix of its path.

A prefix matches on a segment's boundary: ``/api`` is for ``/api`` and ``/api/7``, not for ``/apiary``. A service that
names hosts is for these hosts alone; ``*.example.com`` is every host below it; an exact host wins over a wildcard,
the longer wildcard over the shorter, and any named host over a service without one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ..core.errors import InvalidArgumentError
from .config import GatewayConfig, MeshConfig, ServiceConfig

_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{0,5})?").fullmatch
_HOSTS_KEPT: Final = 1024


@dataclass(frozen=True, slots=True)
class Route:
    """A service, as the gateway knows it."""

    service: str
    origin: str
    """Where the mesh has it: ``http://NAME.local``."""
    prefix: str
    """What the path begins with; ``""`` for everything."""
    strip: int
    """Characters to take off the path."""
    request_size: int
    """Bytes of a request's body; 0 for no limit."""
    request_timeout: float
    """Seconds to the response's head; 0 for no limit."""
    body_timeout: float
    """Seconds between two pieces of the response; 0 for no limit."""


class Router:
    """The routes of a configuration."""

    def __init__(self, gateway: GatewayConfig, mesh: MeshConfig, services: tuple[ServiceConfig, ...]) -> None:
        self._exact: dict[str, list[Route]] = {}
        self._below: dict[str, list[Route]] = {}
        self._any: list[Route] = []
        for service in services:
            for path in service.path or (("/",) if service.host else ()):
                route = _route(gateway, mesh, service, path)
                for host in service.host or ("*",):
                    self._routes_of(host).append(route)
        for routes in (*self._exact.values(), *self._below.values(), self._any):
            routes.sort(key=lambda route: len(route.prefix), reverse=True)
        self._found: dict[str, tuple[Route, ...]] = {}

    def _routes_of(self, host: str) -> list[Route]:
        if host == "*":
            return self._any
        if host.startswith("*."):
            return self._below.setdefault(host[1:], [])
        return self._exact.setdefault(host, [])

    def find(self, authority: str, path: str) -> Route | None:
        """The route for a Host field (or ``""``) and a raw path; None if there is none.

        Raises:
            InvalidArgumentError: the field names no host.
        """
        routes = self._found.get(authority)
        if routes is None:
            routes = self._for_host(authority)
        for route in routes:
            prefix = route.prefix
            if not prefix or (
                path.startswith(prefix) and (len(path) == len(prefix) or path[len(prefix)] in "/?")
            ):
                return route
        return None

    def _for_host(self, authority: str) -> tuple[Route, ...]:
        found = _AUTHORITY(authority)
        if found is None and authority:
            raise InvalidArgumentError("the Host field names no host")
        host = found[1].lower().rstrip(".") if found else ""
        routes = list(self._exact.get(host, ()))
        rest = host
        while (dot := rest.find(".")) >= 0:
            routes += self._below.get(rest[dot:], ())
            rest = rest[dot + 1 :]
        # A host that somebody has named is that service's alone where it has a route, and anybody's where not.
        routes += self._any
        if len(self._found) >= _HOSTS_KEPT:
            self._found.clear()  # hosts are whatever clients write
        self._found[authority] = tuple(routes)
        return self._found[authority]


def _route(gateway: GatewayConfig, mesh: MeshConfig, service: ServiceConfig, path: str) -> Route:
    size, timeout = service.request_size, service.request_timeout
    return Route(
        service=service.name,
        origin=f"http://{service.name}{mesh.domain}",
        prefix="" if path == "/" else path,
        strip=len(path) if service.strip_path and path != "/" else 0,
        request_size=gateway.request_size if size is None else size,
        request_timeout=gateway.request_timeout if timeout is None else timeout,
        body_timeout=gateway.body_timeout,
    )


def describe_routes(services: tuple[ServiceConfig, ...]) -> str:
    """Which service gets what, in a line for people."""
    found = []
    for service in services:
        hosts = service.host or ("",)
        paths = service.path or (("/",) if service.host else ())
        where = ", ".join(f"{host}{path}" for host in hosts for path in paths)
        found.append(f"{where or 'only for the other services'} -> {service.name}")
    return "; ".join(found)

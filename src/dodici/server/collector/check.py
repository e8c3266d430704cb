"""What the tables of one file say of each other: services that are in the collective, and origins that are services.

Nothing here needs the extra `collective`: a file without a collector may name one by mistake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from ..schema import Problems

if TYPE_CHECKING:
    from ..config import Config
    from .config import CollectorConfig
    from .served import ServedConfig

DOMAIN: Final = ".collective"
"""What hosts end with that are services of the collective: ``SERVICE.NAMESPACE.collective``."""


def host_of(url: str) -> str:
    """The host of an origin, lower-case and without a trailing dot; empty if there is none."""
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def is_collective(url: str) -> bool:
    """Whether an origin is a service of the collective."""
    return host_of(url).endswith(DOMAIN)


def check_collective(config: Config, problems: Problems) -> None:
    """Note what does not fit together."""
    for service in config.services:
        if service.is_collective:
            _check_service(service.name, service.app, config.collector, problems)
    if config.collector is not None:
        for served in config.collector.services:
            if served.origin is not None:
                _check_origin(served, config, problems)


def _check_service(name: str, app: str, collector: CollectorConfig | None, problems: Problems) -> None:
    path = ("services", name, "app")
    target, dot, namespace = host_of(app).removesuffix(DOMAIN).rpartition(".")
    parts = urlsplit(app)
    if not dot or not target or not namespace:
        problems.add(path, f"a service of the collective is 'http://SERVICE.NAMESPACE{DOMAIN}', not {app!r}")
    elif parts.scheme != "http" or parts.port is not None or parts.path.strip("/") or parts.query:
        problems.add(
            path,
            f"must be 'http://{target}.{namespace}{DOMAIN}': a service of the collective has neither port nor path, "
            "and TLS is the collectors' affair",
        )
    elif collector is None:
        problems.add(path, "is in the collective, and there is no collector here: add a table [collector]")
    else:
        known = {*collector.namespaces, *(served.namespace for served in collector.services)}
        if namespace not in {each.lower() for each in known}:
            problems.add(
                path,
                f"the collector is not in the namespace {namespace!r}: add it to collector.namespaces "
                f"({', '.join(sorted(known)) or 'there is none yet'})",
            )


def _check_origin(served: ServedConfig, config: Config, problems: Problems) -> None:
    assert served.origin is not None
    host, path = host_of(served.origin), (*served.table, "origin")
    if host.endswith(DOMAIN):
        problems.add(path, "is in the collective itself: a call would go round in circles")
    elif host.endswith(config.mesh.domain):
        service = config.service(host.removesuffix(config.mesh.domain))
        if service is None:
            known = ", ".join(each.name for each in config.services)
            problems.add(path, f"there is no service of this name in the file; there are: {known}")
        elif service.is_collective:
            problems.add(
                path, f"the service {service.name!r} is in the collective: a call would go round in circles"
            )

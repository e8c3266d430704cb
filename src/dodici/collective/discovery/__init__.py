"""Who the other collectors are: a list of addresses, etcd, or whatever has the methods of `Discovery`.

Names are loaded on first use (PEP 562).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .choose import discovery_of as discovery_of
    from .combined import CombinedDiscovery as CombinedDiscovery
    from .etcd import EtcdClient as EtcdClient
    from .membership import EtcdDiscovery as EtcdDiscovery
    from .registration import IdTakenError as IdTakenError
    from .static import StaticDiscovery as StaticDiscovery
    from .url import EtcdConfig as EtcdConfig, parse_etcd_url as parse_etcd_url

_HOMES = {
    "CombinedDiscovery": "combined",
    "EtcdClient": "etcd",
    "EtcdConfig": "url",
    "EtcdDiscovery": "membership",
    "IdTakenError": "registration",
    "StaticDiscovery": "static",
    "discovery_of": "choose",
    "parse_etcd_url": "url",
}

__all__ = [*sorted(_HOMES)]  # noqa: PLE0604


if not TYPE_CHECKING:  # a checker would take every misspelling for a name that is found here

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Who the other collectors are: a list of addresses, etcd, or whatever has the methods of `Discovery`.

Names are loaded on first use (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...core.lazy import lazy

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
    __getattr__, __dir__ = lazy(__name__, _HOMES)

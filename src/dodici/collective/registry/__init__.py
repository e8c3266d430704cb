"""Which services there are: the registry, its stores, and the validators and conversions that are made of it.

Names are loaded on first use (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...core.lazy import lazy

if TYPE_CHECKING:
    from .attached import AttachedRegistry as AttachedRegistry
    from .client import RemoteRegistry as RemoteRegistry
    from .etcd import EtcdStore as EtcdStore
    from .interceptor import ValidationInterceptor as ValidationInterceptor
    from .open import open_registry as open_registry
    from .publisher import Publisher as Publisher, publish as publish
    from .registry import (
        LocalRegistry as LocalRegistry,
        RegisteredProto as RegisteredProto,
        Registry as Registry,
        Verdict as Verdict,
        register_descriptor as register_descriptor,
    )
    from .server import RegistryServer as RegistryServer
    from .sqlite import SQLiteStore as SQLiteStore
    from .store import MemoryStore as MemoryStore, Store as Store
    from .types import ServiceTypes as ServiceTypes
    from .validators import (
        LocalValidator as LocalValidator,
        RemoteValidator as RemoteValidator,
        validate_route as validate_route,
        validator_of as validator_of,
    )

_HOMES = {
    "AttachedRegistry": "attached",
    "EtcdStore": "etcd",
    "LocalRegistry": "registry",
    "LocalValidator": "validators",
    "MemoryStore": "store",
    "Publisher": "publisher",
    "RegisteredProto": "registry",
    "Registry": "registry",
    "RegistryServer": "server",
    "RemoteRegistry": "client",
    "RemoteValidator": "validators",
    "SQLiteStore": "sqlite",
    "ServiceTypes": "types",
    "Store": "store",
    "ValidationInterceptor": "interceptor",
    "Verdict": "registry",
    "open_registry": "open",
    "publish": "publisher",
    "register_descriptor": "registry",
    "validate_route": "validators",
    "validator_of": "validators",
}

__all__ = [*sorted(_HOMES)]  # noqa: PLE0604


if not TYPE_CHECKING:  # a checker would take every misspelling for a name that is found here
    __getattr__, __dir__ = lazy(__name__, _HOMES)

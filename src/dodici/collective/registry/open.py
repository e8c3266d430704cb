"""Which registry a text means."""

from __future__ import annotations

import os
from typing import Any

from ...core.errors import InvalidArgumentError
from ..addresses import split_address
from ..contracts import TransportSecurity
from .client import RemoteRegistry
from .registry import LocalRegistry, Registry
from .sqlite import SQLiteStore
from .store import MemoryStore, Store

FORMS = "'sqlite:path', 'memory', 'etcd://host:port', or the address of a registry, 'host:port'"


def open_registry(given: Any, *, security: TransportSecurity | None = None) -> Registry:
    """The registry that is meant; it is not started.

    Args:
        given: ``"sqlite:path"`` or a path, ``"memory"``, ``"etcd://..."`` (see `discovery/url.py`), the address of a
            registry, a `Store`, or a `Registry`, which is returned as it is.
        security: what connections to an address are made with.

    Raises:
        InvalidArgumentError: it is none of them.
    """
    if isinstance(given, str):
        scheme, colon, rest = given.partition(":")
        if given == "memory":
            return LocalRegistry(MemoryStore())
        if colon and scheme == "sqlite":
            if rest.startswith("//"):
                raise InvalidArgumentError(
                    f"not a registry: {given!r}; a path follows the colon: sqlite:/path/to/file"
                )
            return LocalRegistry(SQLiteStore(rest))
        if colon and scheme.lower() in {"etcd", "etcds"}:
            from ..discovery.url import parse_etcd_url
            from .etcd import EtcdStore

            return LocalRegistry(EtcdStore(parse_etcd_url(given)))
        try:
            _, port = split_address(given)
        except InvalidArgumentError:
            raise InvalidArgumentError(f"not a registry: {given!r}; use {FORMS}") from None
        if not port and not given.startswith("unix:"):
            raise InvalidArgumentError(f"the address of a registry needs its port: {given!r}")
        return RemoteRegistry(given, security=security)
    if isinstance(given, os.PathLike):
        return LocalRegistry(SQLiteStore(given))
    if isinstance(given, Store):
        return LocalRegistry(given)
    if isinstance(given, Registry):
        return given
    raise InvalidArgumentError(f"not a registry: {type(given).__name__}; use {FORMS}, a Store or a Registry")

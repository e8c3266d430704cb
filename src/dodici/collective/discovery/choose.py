"""What may be given as a collector's `discovery`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from ...core.errors import InvalidArgumentError
from ..contracts import Discovery
from .combined import CombinedDiscovery
from .membership import EtcdDiscovery
from .static import StaticDiscovery
from .url import FORM

_FORMS = f"{FORM}, 'module:object', a list of addresses and these, or an object with the methods of Discovery"


def discovery_of(given: str | Discovery | Sequence[str | Discovery]) -> Discovery:
    """The discovery that is meant.

    Args:
        given: the URL of an etcd; ``"module:object"``, imported here: a Discovery, or a class or function without
            arguments that makes one; a Discovery; or a list of any of these and of addresses of collectors.

    Raises:
        InvalidArgumentError: it is none of these, or cannot be imported or made.
    """
    if isinstance(given, str):
        if "://" in given:
            return EtcdDiscovery(given)
        if _is_address(given):
            raise InvalidArgumentError(f"addresses of collectors are given as a list: discovery=[{given!r}]")
        return _imported(given)
    if isinstance(given, Sequence):
        return _combined(given)
    return _discovery(given, "discovery")


def _combined(given: Sequence[Any]) -> Discovery:
    addresses = [each for each in given if isinstance(each, str) and _is_address(each)]
    others = [discovery_of(each) for each in given if each not in addresses]
    parts = [StaticDiscovery(addresses), *others] if addresses or not others else others
    return parts[0] if len(parts) == 1 else CombinedDiscovery(parts)


def _is_address(text: str) -> bool:
    # What is after the colon of an import is a name, and a port is a number.
    return text.startswith("unix:") or ("://" not in text and text.rpartition(":")[2].isdecimal())


def _imported(target: str) -> Discovery:
    module_name, colon, path = target.partition(":")
    names = path.split(".")
    if not colon or not all(part.isidentifier() for part in (*module_name.split("."), *names)):
        raise InvalidArgumentError(f"not a discovery: {target!r}; use {_FORMS}")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        text = f"cannot import {module_name!r} for the discovery {target!r}: {type(error).__name__}: {error}"
        raise InvalidArgumentError(text) from error
    for name in names:
        if not hasattr(found, name):
            raise InvalidArgumentError(f"{module_name!r} has no {path!r}, which is to be the discovery")
        found = getattr(found, name)
    if isinstance(found, type) or (callable(found) and not isinstance(found, Discovery)):
        try:
            found = found()
        except Exception as error:
            text = f"the discovery {target!r} cannot be made: {type(error).__name__}: {error}"
            raise InvalidArgumentError(text) from error
    return _discovery(found, target)


def _discovery(found: Any, name: str) -> Discovery:
    # Looked up on the class: an instance's property `members` need not work before start().
    missing = [
        each for each in ("start", "update", "withdraw", "members", "stop") if not hasattr(type(found), each)
    ]
    if missing:
        raise InvalidArgumentError(
            f"{name} is {type(found).__name__}, which has no {', no '.join(missing)}; use {_FORMS}"
        )
    return found  # type: ignore[no-any-return]

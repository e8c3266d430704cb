"""The tables `[collector.services."NAMESPACE.Service"]`: what a collector serves, and what runs it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ...collective.names import checked_name
from ...core.errors import InvalidArgumentError
from ..schema import Problems, boolean, each, key, one_of, read_table, string, toml_type

_OBJECT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*(?:\(\))?").fullmatch
_URL = re.compile(r"https?://[A-Za-z0-9_.\[\]:-]+/?").fullmatch
_KINDS: Final = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


def read_object(value: Any) -> str:
    """``"module:object"`` or ``"module:factory()"``."""
    text = string(value)
    if _OBJECT(text) is None:
        raise InvalidArgumentError(f"must be 'module:object' or 'module:factory()', not {text!r}")
    return text


def _origin(value: Any) -> str:
    text = string(value)
    found = _URL(text)
    if found is None:
        raise InvalidArgumentError(
            f"must be the origin of a server, such as 'http://orders.local' or 'http://127.0.0.1:8080', not {text!r}"
        )
    return text.rstrip("/")


def _pattern(value: Any) -> str:
    text = string(value)
    if not text.startswith("/"):
        raise InvalidArgumentError(f"must be a path, such as '/rpc/{{method}}', not {text!r}")
    return text


def _methods(value: Any) -> dict[str, dict[str, Any]]:
    """A list of names, or a table of them with what is known of each."""
    if isinstance(value, list):
        return {checked_name("method", string(name)): {} for name in value}
    return {
        checked_name("method", name): _method(name, entry)
        for name, entry in _dict(value, "an array of names, or a table of tables").items()
    }


def _method(name: str, value: Any) -> dict[str, Any]:
    readers = {"verb": string, "path": _pattern, "kind": one_of(*_KINDS), "idempotent": boolean}
    given = {}
    for key_name, item in _dict(value).items():
        if key_name not in readers:
            raise InvalidArgumentError(f"{name} has no {key_name!r}; there are: {', '.join(readers)}")
        try:
            given[key_name] = readers[key_name](item)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"{name}.{key_name} {error.message}") from None
    return given


def _dict(value: Any, due: str = "a table") -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidArgumentError(f"must be {due}, not {toml_type(value)}")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedConfig:
    """`[collector.services."NAMESPACE.Service"]`: a service, and what runs it."""

    namespace: str
    service: str
    handler: str | None = key(read_object, None, shown="none")
    origin: str | None = key(_origin, None, shown="none")
    methods: Mapping[str, Mapping[str, Any]] = key(_methods, dict, shown="all")
    path: str = key(_pattern, "/{method}")
    codec: str = key(one_of("json", "protobuf"), "json")
    descriptor: str | None = key(read_object, None, shown="none")
    idempotent: tuple[str, ...] = key(each(string, "method"), (), shown="[]")
    kinds: Mapping[str, str] = key(
        lambda value: {
            checked_name("method", name): one_of(*_KINDS)(kind) for name, kind in _dict(value).items()
        },
        dict,
        shown="{}",
    )

    @property
    def table(self) -> tuple[str, ...]:
        """The path of its table in the file."""
        return ("collector", "services", f"{self.namespace}.{self.service}")

    def __post_init__(self) -> None:
        if self.handler is None and self.origin is None:
            raise InvalidArgumentError(
                "a handler, such as 'shop.orders:Orders', or an origin, such as 'http://orders.local', is missing"
            )
        if self.handler is not None and self.origin is not None:
            raise InvalidArgumentError("has a handler and an origin: one of them serves it")
        if self.descriptor is not None and (self.idempotent or self.kinds or self.methods):
            raise InvalidArgumentError("methods, idempotent and kinds are in the descriptor")
        if self.origin is None:
            for name, given in (
                ("methods", bool(self.methods)),
                ("path", self.path != "/{method}"),
                ("codec", self.codec != "json"),
            ):
                if given:
                    raise InvalidArgumentError(f"{name} goes with an origin; a handler has its own methods")
        elif self.descriptor is None:
            for name, methods in (("idempotent", self.idempotent), ("kinds", tuple(self.kinds))):
                for method in methods:
                    if method not in self.methods:
                        raise InvalidArgumentError(
                            f"{name} names {method!r}, which is not in methods: of an origin whose methods are not "
                            "named nothing is known"
                        )


def read_services(tables: Any, problems: Problems) -> tuple[ServedConfig, ...]:
    """What the tables say; what is wrong with one is in `problems`, and the others are read."""
    path: tuple[str, ...] = ("collector", "services")
    if not isinstance(tables, dict):
        problems.add(path, 'must be tables such as [collector.services."orders.OrderService"]')
        return ()
    services = []
    for name, table in tables.items():
        namespace, dot, service = name.partition(".")
        try:
            if not dot:
                raise InvalidArgumentError(
                    "is named NAMESPACE.Service, in quotes: the dot would else begin a table of its own"
                )
            checked_name("namespace", namespace)
            checked_name("service", service)
        except InvalidArgumentError as error:
            # A name without quotes stands in the file with what follows its dot.
            inner = [each for each in table if not dot] if isinstance(table, dict) else []
            problems.add((*path, name, *inner[:1]), error.message)
            continue
        served = read_table(
            ServedConfig, table, (*path, name), problems, namespace=namespace, service=service
        )
        if served is not None:
            services.append(served)
    return tuple(services)

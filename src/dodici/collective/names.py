"""What a collector can serve by itself: methods by (namespace, service, method).

A service matches exactly as it was registered. A service that was added with its descriptor is found under its full
name ("shop.v1.OrderService") and, if nobody in the namespace had it before, under the short one ("OrderService").
A name that was registered exactly always wins over a short one.

A service may also be registered for all of its methods at once, by a spec whose method is `ANY`: whatever name is asked
for and not registered exactly is found there (a wildcard). Names that begin with "~" are the collective's own: no
wildcard has them, and no application registers them.

Namespaces are kept apart from what is registered in them: one that was left keeps its methods, unseen, until it is
joined again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..core.errors import InvalidArgumentError
from ..core.grpc_status import GrpcStatus
from .errors import CollectiveError, call_error

if TYPE_CHECKING:
    from google.protobuf.descriptor import ServiceDescriptor
    from google.protobuf.message import Message


ANY: Final = "*"
"""The method of a spec, and of a route, that stands for all methods of a service."""
OWN: Final = "~"
"""What the names of the collective's own methods begin with."""
_LONGEST: Final = 1024
"""Characters of a name: a path of two of them is far below what a head of HTTP/2 may have."""
_NAME = re.compile(r"[!-.0-~]+").fullmatch


class CallKind(StrEnum):
    """How many messages go in and come out."""

    UNARY_UNARY = "unary_unary"
    UNARY_STREAM = "unary_stream"
    STREAM_UNARY = "stream_unary"
    STREAM_STREAM = "stream_stream"

    @property
    def streams_in(self) -> bool:
        """The input is a stream."""
        return self.startswith("stream_")

    @property
    def streams_out(self) -> bool:
        """The output is a stream."""
        return self.endswith("_stream")

    @classmethod
    def of(cls, streams_in: bool, streams_out: bool) -> CallKind:
        """The kind with those streams."""
        return cls(f"{'stream' if streams_in else 'unary'}_{'stream' if streams_out else 'unary'}")


class RouteKey(NamedTuple):
    """What a call asks for."""

    namespace: str
    service: str
    method: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.service}.{self.method}"


class Capacity:
    """How much of what serves some methods accepts calls; whoever changes it calls `LocalServices.touched()`."""

    __slots__ = ("share",)

    def __init__(self) -> None:
        self.share = 1.0
        """From 0.0, nothing, to 1.0, all of it."""


@dataclass(frozen=True, slots=True, eq=False)
class MethodSpec:
    """A method that can be run here.

    `handler` takes (context, input). `input_type` and `output_type` are the classes of its messages where a
    descriptor names them, else None: then its values are those of `values.py`, or bytes on the transparent face.
    `capacity` is that of the origin that serves it, which may also refuse a call unseen; None: the handler takes all.
    """

    namespace: str
    service: str
    method: str
    handler: Callable[..., Any]
    kind: CallKind = CallKind.UNARY_UNARY
    idempotent: bool = False
    input_type: type[Message] | None = None
    output_type: type[Message] | None = None
    capacity: Capacity | None = None
    key: RouteKey = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", RouteKey(self.namespace, self.service, self.method))

    @property
    def wildcard(self) -> bool:
        """It serves all methods of its service; what kind a call of it has is for the caller to say."""
        return self.method == ANY


class LocalRoute(NamedTuple):
    """One of the names under which a method is announced."""

    key: RouteKey
    kind: CallKind
    idempotent: bool


class LocalServices:
    """The table of local methods, and the namespaces that the collector is in.

    `on_change(callback)`: called, without arguments, after each change that a peer would see.
    """

    def __init__(self, namespaces: Iterable[str] = ()) -> None:
        self._joined: dict[str, None] = {}
        self._methods: dict[str, dict[str, dict[str, MethodSpec]]] = {}
        self._short: dict[str, dict[str, str]] = {}
        self._found: dict[tuple[str, str, str], MethodSpec] = {}
        self._wildcards: dict[tuple[str, str], MethodSpec] = {}
        self._callbacks: list[Callable[[], None]] = []
        self.descriptors: dict[str, ServiceDescriptor] = {}
        """Descriptors by full name, of what was added with one."""
        self.known: dict[tuple[str, str], None] = {}
        """Every (namespace, service) that there was, also if it is no more; the service of a namespace itself is empty."""
        for namespace in namespaces:
            self._joined[checked_name("namespace", namespace)] = None
            self.known[namespace, ""] = None
        self._namespaces = tuple(self._joined)

    # -- what is there -------------------------------------------------------------------------------------

    @property
    def namespaces(self) -> tuple[str, ...]:
        """The namespaces that the collector is in, in the order in which they were joined."""
        return self._namespaces

    def find(self, namespace: str, service: str, method: str) -> MethodSpec | None:
        """The method of that name, the wildcard of its service, or None: also if its namespace was left.

        The names that a wildcard answers to are the callers' to choose, without end: what is kept by method is kept by
        `MethodSpec.key`.
        """
        spec = self._found.get((namespace, service, method))
        if spec is None and self._wildcards and method[:1] != OWN:
            return self._wildcards.get((namespace, service))
        return spec

    def services(self, namespace: str) -> tuple[str, ...]:
        """The names of services in a namespace, short ones included; none if it was left."""
        if namespace not in self._joined:
            return ()
        exact = self._methods.get(namespace, {})
        return (*exact, *(short for short in self._short.get(namespace, {}) if short not in exact))

    def routes(self) -> Iterator[LocalRoute]:
        """Every name under which a method can be called now."""
        for name, spec in self._found.items():
            yield LocalRoute(RouteKey(*name), spec.kind, spec.idempotent)
        for service, spec in self._wildcards.items():
            yield LocalRoute(RouteKey(*service, ANY), spec.kind, spec.idempotent)

    def share(self, key: RouteKey) -> float:
        """How much of what serves a method here accepts calls, from 0 to 1; 0 if it is not here."""
        spec = self.find(*key)
        if spec is None:
            return 0.0
        return 1.0 if spec.capacity is None else spec.capacity.share

    def missing(self, namespace: str, service: str, method: str) -> CollectiveError:
        """The error that says which part of a name is unknown here."""
        if namespace not in self._joined:
            return call_error(GrpcStatus.NOT_FOUND, f"no such namespace: {namespace!r}")
        if service not in self.services(namespace):
            return call_error(
                GrpcStatus.NOT_FOUND, f"no such service in namespace {namespace!r}: {service!r}"
            )
        return call_error(
            GrpcStatus.UNIMPLEMENTED, f"no such method of {service!r} in namespace {namespace!r}: {method!r}"
        )

    # -- changes -------------------------------------------------------------------------------------------

    def on_change(self, callback: Callable[[], None]) -> None:
        """Have `callback` called after each change."""
        self._callbacks.append(callback)

    def add(self, specs: Iterable[MethodSpec], *, descriptor: ServiceDescriptor | None = None) -> None:
        """Register methods, and join their namespaces. With a descriptor the short name is registered too.

        Raises:
            InvalidArgumentError: a name is empty, or is registered already. Nothing is then registered.
        """
        added = list(specs)
        for spec in added:
            for part in ("namespace", "service", "method"):
                checked_name(part, getattr(spec, part))
            if spec.method in self._methods.get(spec.namespace, {}).get(spec.service, {}):
                raise InvalidArgumentError(f"{spec.key} is registered already")
        back = any(spec.namespace in self._methods and spec.namespace not in self._joined for spec in added)
        for spec in added:
            self._methods.setdefault(spec.namespace, {}).setdefault(spec.service, {})[spec.method] = spec
            self._joined.setdefault(spec.namespace)
            self.known[spec.namespace, ""] = self.known[spec.namespace, spec.service] = None
            if descriptor is not None:
                shorts = self._short.setdefault(spec.namespace, {})
                short = spec.service.rpartition(".")[2]
                shorts.setdefault(short, spec.service)
                self.known[spec.namespace, short] = None
        if descriptor is not None:
            self.descriptors[descriptor.full_name] = descriptor
        if back:
            self._changed()
        else:
            # What was found before still is: to look for it anew would make many registrations a matter of minutes.
            for spec in added:
                self._find(spec)
            if descriptor is not None:
                # The short name is one of the methods that were there before, too.
                for namespace, service in {(spec.namespace, spec.service) for spec in added}:
                    for spec in self._methods[namespace][service].values():
                        self._find(spec)
            self._namespaces = tuple(self._joined)
            self.touched()

    def _find(self, spec: MethodSpec) -> None:
        """Have a method that was added found, under its own name and the short one."""
        namespace, service, method = spec.key
        names = [service]
        short = service.rpartition(".")[2]
        if self._short.get(namespace, {}).get(short) == service:
            exact = self._methods[namespace].get(short, {})
            names += [short] if method not in exact else []
        for name in names:
            if spec.wildcard:
                self._wildcards[namespace, name] = spec
            else:
                self._found[namespace, name, method] = spec

    def remove(self, namespace: str, service: str, method: str | None = None) -> tuple[MethodSpec, ...]:
        """Take back a method, or all of a service, under the name with which it was added; what was there.

        The collector stays in the namespace.
        """
        services = self._methods.get(namespace, {})
        methods = services.get(service, {})
        gone = [
            methods.pop(name) for name in (list(methods) if method is None else [method]) if name in methods
        ]
        if not gone:
            return ()
        if not methods:
            del services[service]
            shorts = self._short.get(namespace, {})
            if not any(service in others for others in self._methods.values()):
                self.descriptors.pop(service, None)
            for short in [short for short, full in shorts.items() if full == service]:
                heirs = (
                    name for name in services if name.rpartition(".")[2] == short and name in self.descriptors
                )
                heir = next(heirs, None)
                if heir is None:
                    del shorts[short]
                else:
                    shorts[short] = heir
        self._changed()
        return tuple(gone)

    def join(self, namespace: str) -> bool:
        """Enter a namespace. False if the collector is in it already."""
        if checked_name("namespace", namespace) in self._joined:
            return False
        self._joined[namespace] = None
        self.known[namespace, ""] = None
        self._changed()
        return True

    def leave(self, namespace: str) -> bool:
        """Leave a namespace: its methods are not found any more. False if the collector is not in it."""
        if namespace not in self._joined:
            return False
        del self._joined[namespace]
        self._changed()
        return True

    def _changed(self) -> None:
        found: dict[tuple[str, str, str], MethodSpec] = {}
        wildcards: dict[tuple[str, str], MethodSpec] = {}

        def take(namespace: str, service: str, methods: dict[str, MethodSpec]) -> None:
            for method, spec in methods.items():
                if spec.wildcard:
                    wildcards[namespace, service] = spec
                else:
                    found[namespace, service, method] = spec

        for namespace in self._joined:
            exact = self._methods.get(namespace, {})
            for short, full in self._short.get(namespace, {}).items():
                take(namespace, short, exact.get(full, {}))
            for service, methods in exact.items():
                take(namespace, service, methods)
        self._wildcards = wildcards
        self._found = found
        self._namespaces = tuple(self._joined)
        self.touched()

    def touched(self) -> None:
        """Something has changed that peers would see, and that is not kept here: a `Capacity`."""
        for callback in tuple(self._callbacks):
            callback()


def checked_name(part: str, name: object) -> str:
    """A name that can be a part of a route.

    Raises:
        InvalidArgumentError: it is no text, is empty or too long, or has "/" or what metadata cannot hold.
    """
    if not isinstance(name, str):
        raise InvalidArgumentError(f"{part} must be a str, not {type(name).__name__}")
    if not name:
        raise InvalidArgumentError(f"{part} is empty")
    if _NAME(name) is None:
        raise InvalidArgumentError(
            f"{part} may have visible ASCII characters, and no '/': not {name[:100]!r}"
        )
    if len(name) > _LONGEST:
        raise InvalidArgumentError(f"{part} may have {_LONGEST} characters, not {len(name)}")
    return name


def served_name(method: object) -> str:
    """The name of a method that an application may register.

    Raises:
        InvalidArgumentError: it is no name, or one of the collective's own.
    """
    name = checked_name("method", method)
    if name == ANY or name.startswith(OWN):
        raise InvalidArgumentError(f"method {name!r} has a meaning of its own here: call it otherwise")
    return name

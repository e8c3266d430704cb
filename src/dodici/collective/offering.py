"""What a collector serves: the part of `Collector` by which methods are registered and taken back."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from ..core.errors import InvalidArgumentError
from .arguments import checked_kind
from .names import LocalServices, MethodSpec, checked_name, served_name
from .servicer import specs_of

if TYPE_CHECKING:
    from google.protobuf.descriptor import ServiceDescriptor

    from ..core.dispatcher import Dispatcher
    from .admission import Admission
    from .origin import OriginMethod
    from .origin.served import Origins

_H = TypeVar("_H", bound=Callable[..., Any])


class Offering:
    """Registers methods: handlers, servicers, and origins."""

    _services: LocalServices
    _admission: Admission
    _origins: Origins

    def register_service(
        self,
        namespace: str,
        service: str,
        method: str,
        handler: Callable[..., Any],
        *,
        idempotent: bool = False,
        kind: str = "unary_unary",
    ) -> None:
        """Serve a method, from now on; the collector joins the namespace.

        Args:
            namespace: where it is called.
            service: the name under which it is called, exactly as given here.
            method: likewise.
            handler: takes (`CallContext`, input). Async, or a plain function that does not block; an async generator for the
                kinds that stream their output. A streaming input is an async iterator.
            idempotent: calling it twice does no harm: a call that may have reached a peer which then failed is repeated.
            kind: ``"unary_unary"``, ``"unary_stream"``, ``"stream_unary"`` or ``"stream_stream"``.

        Raises:
            InvalidArgumentError: a name is empty, impossible or taken, or the handler does not fit the kind.
        """
        served_name(method)
        chosen = checked_kind(kind)
        if not callable(handler):
            raise InvalidArgumentError(f"handler must be callable, not {type(handler).__name__}")
        if _is_generator(handler) and not chosen.streams_out:
            raise InvalidArgumentError(
                f"the handler of {namespace}/{service}.{method} is a generator: give kind='unary_stream' or 'stream_stream'"
            )
        self._services.add([MethodSpec(namespace, service, method, handler, chosen, bool(idempotent))])

    def method(
        self,
        namespace: str,
        service: str,
        method: str,
        *,
        idempotent: bool = False,
        kind: str = "unary_unary",
    ) -> Callable[[_H], _H]:
        """The decorator form of `register_service`."""

        def register(handler: _H) -> _H:
            self.register_service(namespace, service, method, handler, idempotent=idempotent, kind=kind)
            return handler

        return register

    def add_service(self, namespace: str, servicer: Any, descriptor: ServiceDescriptor) -> None:
        """Serve all methods of a servicer whose base protoc has generated.

        They are found under the service's full name and, if no other in the namespace has it, under its short one.
        Idempotent are the methods whose option `idempotency_level` says so.

        Args:
            namespace: where it is served.
            servicer: has a method for each of the service's, which takes (request, context).
            descriptor: such as ``shop_pb2.DESCRIPTOR.services_by_name["OrderService"]``.

        Raises:
            InvalidArgumentError: the servicer lacks a method, or a name is taken.
        """
        checked_name("namespace", namespace)
        self._services.add(specs_of(namespace, servicer, descriptor), descriptor=descriptor)

    def register_origin(
        self,
        namespace: str,
        service: str,
        origin: str,
        *,
        dispatcher: Dispatcher | None = None,
        methods: ServiceDescriptor
        | Mapping[str, OriginMethod | Mapping[str, Any] | None]
        | Iterable[str]
        | None = None,
        path: str = "/{method}",
        codec: str = "json",
        http: bool = True,
    ) -> None:
        """Serve a service from an origin: a route of a mesh, or any server of HTTP. Before or after `start()`.

        A call becomes ``POST /METHOD`` with the input as JSON, and what the origin answers is the output; see
        docs/collective.md. How much of the origin accepts requests, where the dispatcher knows, is told to the peers.

        Args:
            namespace: where it is called; the collector joins it.
            service: the name under which it is called.
            origin: such as ``"http://orders.local"``.
            dispatcher: reaches the origin; None: the global one, of the moment of each call.
            methods: what the origin serves: names, `OriginMethod`s by name (or mappings of their fields), or a descriptor, by
                which messages and JSON are turned into each other. None: whatever method is called (but one that is
                registered by itself, here or at a peer, comes first).
            path: of a method's requests, with ``{method}``, and perhaps ``{service}`` and ``{namespace}``.
            codec: how protobuf messages go to the origin: ``"json"`` or ``"protobuf"``.
            http: serve the whole of the origin's HTTP, too, as ``http://SERVICE.NAMESPACE.collective``.

        Raises:
            InvalidArgumentError: an argument is wrong, or a name is taken.
        """
        self._origins.register(
            namespace,
            service,
            origin,
            dispatcher=dispatcher,
            methods=methods,
            path=path,
            codec=codec,
            http=http,
        )

    def unregister_service(self, namespace: str, service: str, method: str | None = None) -> None:
        """Serve a method no more, or nothing of a service, whatever it was registered by. Calls that run go on.

        Args:
            namespace: that of the service; the collector stays in it.
            service: its name as it was registered: the full one of what has a descriptor.
            method: that method alone; None: all of them.

        Raises:
            InvalidArgumentError: nothing of that name is registered here.
        """
        checked_name("namespace", namespace)
        checked_name("service", service)
        if method is not None:
            checked_name("method", method)
        gone = self._services.remove(namespace, service, method)
        if not gone:
            what = service if method is None else f"{service}.{method}"
            raise InvalidArgumentError(f"{namespace}/{what} is not registered")
        self._origins.removed(gone)

    def set_registry_validator(self, validator: Any) -> None:
        """Ask a validator about each call that begins from now on; None: ask nobody.

        Args:
            validator: an object with `validate_service_method(namespace, service, method)`, or a callable with these
                arguments; async or not. Raising, or returning anything but True or None, refuses the call with NOT_FOUND.

        Raises:
            InvalidArgumentError: it is neither.
        """
        self._admission.set_validator(validator)


def _is_generator(handler: Callable[..., Any]) -> bool:
    function = getattr(handler, "__call__", handler) if not inspect.isroutine(handler) else handler  # noqa: B004
    return inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function)

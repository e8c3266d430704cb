"""From `register_origin`'s arguments to the methods that a collector then serves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.descriptor import ServiceDescriptor

from ...api.url import split_url
from ...core.dispatcher import Dispatcher
from ...core.errors import InvalidArgumentError
from ..names import ANY, CallKind, MethodSpec, served_name
from ..servicer import described
from .exchange import OriginHandler
from .mapping import OriginMethod, PathTemplate

if TYPE_CHECKING:
    from google.protobuf.message import Message

CODECS: Final = ("json", "protobuf")


def checked_origin(origin: object) -> str:
    """An origin in its normal form.

    Raises:
        InvalidArgumentError: it is none, or more than one.
    """
    if not isinstance(origin, str):
        raise InvalidArgumentError(f"origin must be a str such as 'http://orders.local', not {origin!r}")
    target = split_url(origin)
    if target.userinfo is not None:
        raise InvalidArgumentError(
            f"origin {target.origin} may not have a user: give the dispatcher credentials"
        )
    if target.path != "/" or "#" in origin:
        raise InvalidArgumentError(
            f"origin {target.origin} goes without a path: give it as path='{target.path.rstrip('/')}/{{method}}'"
        )
    return target.origin


class OriginSpecs:
    """Makes the specs of the methods that an origin serves.

    Args:
        namespace: where they are called.
        service: under which name.
        origin: normal; see `checked_origin`.
        dispatcher: reaches it; None: the global one.
        path: of methods that have none of their own.
        codec: ``"json"`` or ``"protobuf"``: how messages are sent.
        limit: bytes of a message of the origin's.

    Raises:
        InvalidArgumentError: one of them is wrong.
    """

    def __init__(
        self,
        namespace: str,
        service: str,
        origin: str,
        *,
        dispatcher: Dispatcher | None,
        path: str,
        codec: str,
        limit: int,
    ) -> None:
        if dispatcher is not None and not isinstance(dispatcher, Dispatcher):
            raise InvalidArgumentError(f"dispatcher must be a Dispatcher, not {type(dispatcher).__name__}")
        if codec not in CODECS:
            raise InvalidArgumentError(f"codec must be one of {', '.join(CODECS)}; not {codec!r}")
        self.descriptor: ServiceDescriptor | None = None
        """Of the service, if `methods` was one."""
        self._namespace = namespace
        self._service = service
        self._origin = origin
        self._dispatcher = dispatcher
        self._path = PathTemplate(path)
        self._codec = codec
        self._limit = limit
        if self._path.fields:
            raise InvalidArgumentError(
                f"path {path!r} has {', '.join(self._path.fields)}, which only the path of an OriginMethod may have"
            )

    def make(self, methods: Any) -> list[MethodSpec]:
        """The specs.

        Raises:
            InvalidArgumentError: `methods` is none of what it may be, or a method is wrong; the text says which.
        """
        if methods is None:
            self._check_default_path()
            handler = self._handler(OriginMethod(), None, None)
            return [MethodSpec(self._namespace, self._service, ANY, handler)]
        if isinstance(methods, ServiceDescriptor):
            return self._described(methods)
        if isinstance(methods, Mapping):
            given = dict(methods)
        elif isinstance(methods, Iterable) and not isinstance(methods, str | bytes):
            given = dict.fromkeys(served_name(name) for name in methods)
        else:
            raise InvalidArgumentError(
                "methods must be names, a mapping of names to OriginMethods, a ServiceDescriptor, or None for all; "
                f"not {type(methods).__name__}"
            )
        if not given:
            raise InvalidArgumentError(
                "methods is empty: name some, or give None for all that the origin has"
            )
        return [self._named(served_name(name), _method(name, asked)) for name, asked in given.items()]

    def _named(self, name: str, method: OriginMethod) -> MethodSpec:
        if method.path is None:
            self._check_default_path()
        return MethodSpec(
            self._namespace,
            self._service,
            name,
            self._handler(method, CallKind(method.kind), method.output_type),
            CallKind(method.kind),
            method.repeatable,
            method.input_type,
            method.output_type,
        )

    def _described(self, descriptor: ServiceDescriptor) -> list[MethodSpec]:
        if self._service not in {descriptor.name, descriptor.full_name}:
            raise InvalidArgumentError(
                f"methods describes {descriptor.full_name}, and the service is {self._service!r}"
            )
        self._check_default_path()
        self.descriptor = descriptor
        specs = []
        for method in descriptor.methods:
            plain = described(self._namespace, descriptor, method, _unset)
            asked = OriginMethod(
                kind=plain.kind,
                idempotent=plain.idempotent,
                input_type=plain.input_type,
                output_type=plain.output_type,
            )
            handler = self._handler(asked, plain.kind, plain.output_type)
            specs.append(described(self._namespace, descriptor, method, handler))
        return specs

    def _handler(
        self, method: OriginMethod, kind: CallKind | None, output_type: type[Message] | None
    ) -> OriginHandler:
        return OriginHandler(
            self._origin,
            self._dispatcher,
            verb=method.verb,
            path=self._path if method.path is None else PathTemplate(method.path),
            kind=kind,
            idempotent=method.repeatable,
            output_type=output_type,
            typed_input=method.input_type is not None,
            protobuf=self._codec == "protobuf",
            limit=self._limit,
        )

    def _check_default_path(self) -> None:
        if not self._path.names_method:
            raise InvalidArgumentError(
                f"path {self._path.text!r} must have {{method}} in it: else all methods would be the same"
            )


def _method(name: object, asked: Any) -> OriginMethod:
    if asked is None:
        return OriginMethod()
    if isinstance(asked, OriginMethod):
        return asked
    if isinstance(asked, Mapping):
        known = OriginMethod.__dataclass_fields__
        for key in asked:
            if key not in known:
                raise InvalidArgumentError(f"method {name!r} has no {key!r}; there are: {', '.join(known)}")
        try:
            return OriginMethod(**asked)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"method {name!r}: {error.message}") from None
    raise InvalidArgumentError(f"method {name!r} must be an OriginMethod, not {type(asked).__name__}")


def _unset(*_: Any) -> Any:
    raise AssertionError("replaced before it is called")

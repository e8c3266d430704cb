"""Message types made of registered descriptors.

Each set of types has a descriptor pool of its own, which holds one file and what it imports: what two namespaces mean
by one name, or what a program means that has stubs of its own, never meets. Messages of different sets are of
different classes, and understand each other's bytes.

Only protobuf's own files (google/protobuf/*.proto) come from this process; all others have to be registered.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from google.protobuf import json_format
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import (
    FileDescriptorProto,
    MethodDescriptorProto,
    MethodOptions,
    ServiceDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from ...core.errors import InvalidArgumentError, InvalidReturnValueError
from ...core.grpc_status import GrpcStatus
from ..errors import call_error
from ..names import CallKind
from ..values import from_any, of_json, to_any

_WELL_KNOWN = "google/protobuf/"
_SAFE = {MethodOptions.IDEMPOTENT, MethodOptions.NO_SIDE_EFFECTS}
Finder = Callable[[str], FileDescriptorProto | None]


class Files(NamedTuple):
    """A file with its imports."""

    found: tuple[FileDescriptorProto, ...]
    """Each after what it imports."""
    missing: tuple[str, ...]
    """Imports that are not registered."""


def with_imports(names: Iterator[str] | list[str], find: Finder) -> Files:
    """Files and what they import, at whatever distance. protobuf's own are not among them.

    Raises:
        CollectiveError: INVALID_ARGUMENT: the imports go in a circle.
    """
    found: dict[str, FileDescriptorProto] = {}
    missing: dict[str, None] = {}
    open_: set[str] = set()
    # Its own stack: how deep imports go is for others to say. A name comes twice, first to be opened, then closed.
    stack = [(name, False) for name in reversed(list(names))]
    while stack:
        name, done = stack.pop()
        if done:
            open_.discard(name)
            file = find(name)
            assert file is not None
            found[name] = file
            continue
        if name in found or name in missing:
            continue
        if name in open_:
            raise call_error(
                GrpcStatus.INVALID_ARGUMENT, f"{name} imports itself, directly or through others"
            )
        if is_well_known(name):
            continue
        file = find(name)
        if file is None:
            missing[name] = None
            continue
        open_.add(name)
        stack.append((name, True))
        stack += [(imported, False) for imported in file.dependency]
    return Files(tuple(found.values()), tuple(missing))


class TypeSet:
    """The types of a file and its imports.

    Raises:
        CollectiveError: INVALID_ARGUMENT: the files contradict each other, or themselves.
    """

    def __init__(self, files: Files) -> None:
        self.missing = files.missing
        self._pool = DescriptorPool()
        self._classes: dict[str, type[Message] | None] = {}
        self._added: set[str] = set()
        for file in files.found:
            for imported in file.dependency:
                self._add_well_known(imported)
            # One whose imports are missing is unknown, and so is what imports it.
            if self._added.issuperset(file.dependency):
                try:
                    self._pool.AddSerializedFile(file.SerializeToString())
                except TypeError as error:
                    raise call_error(
                        GrpcStatus.INVALID_ARGUMENT, f"{file.name} is not a valid file descriptor: {error}"
                    ) from error
                self._added.add(file.name)

    def message(self, name: str) -> type[Message] | None:
        """The class of a full name, or None."""
        try:
            return self._classes[name]
        except KeyError:
            pass
        found: type[Message] | None = None
        try:
            descriptor: Descriptor = self._pool.FindMessageTypeByName(name)
            found = GetMessageClass(descriptor)
        except KeyError:
            pass
        if found is not None:  # what is not there has endless names
            self._classes[name] = found
        return found

    def from_json(self, kind: type[Message], value: Any) -> Message:
        """A message of what JSON gives: a dict, mostly.

        Raises:
            CollectiveError: INVALID_ARGUMENT: it has no such form.
        """
        try:
            # The parser takes a class's own pool for nothing else than Any.
            return of_json(value, kind, self._pool)
        except InvalidReturnValueError as error:
            raise call_error(GrpcStatus.INVALID_ARGUMENT, error.message) from error

    def to_json(self, message: Message) -> Any:
        """What a message is in JSON: a dict, mostly.

        Raises:
            CollectiveError: INVALID_ARGUMENT: it holds an `Any` of a type that is not known here.
        """
        try:
            return json_format.MessageToDict(message, descriptor_pool=self._pool)
        except (TypeError, ValueError, json_format.SerializeToJsonError) as error:
            raise call_error(
                GrpcStatus.INVALID_ARGUMENT, f"no JSON for a {message.DESCRIPTOR.full_name}: {error}"
            ) from error

    def _add_well_known(self, name: str) -> None:
        if name in self._added or not is_well_known(name):
            return
        module = importlib.import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2")
        for imported in module.DESCRIPTOR.dependencies:
            self._add_well_known(imported.name)
        self._pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
        self._added.add(name)


def is_well_known(name: str) -> bool:
    """Whether a file is one of protobuf's own, which nobody has to register."""
    return name in _OWN_FILES


_OWN_FILES = frozenset(
    f"{_WELL_KNOWN}{name}.proto"
    for name in (
        "any",
        "api",
        "descriptor",
        "duration",
        "empty",
        "field_mask",
        "source_context",
        "struct",
        "timestamp",
        "type",
        "wrappers",
    )
)


class MethodTypes(NamedTuple):
    """What a registered method takes and gives."""

    input: type[Message] | None
    """None where the type is not known."""
    output: type[Message] | None
    kind: CallKind
    idempotent: bool


class ServiceTypes:
    """Typed conversion for the methods of one registered service.

    `methods` has what they take and give. A value becomes the method's own type where that is known; an answer
    becomes a message where its type is known in the namespace, a value where it stands for one, and stays an `Any`
    otherwise.
    """

    def __init__(
        self,
        service: ServiceDescriptorProto,
        package: str,
        types: TypeSet,
        find: Callable[[str], type[Message] | None],
    ) -> None:
        self.types = types
        self._find = find
        self.methods: Mapping[str, MethodTypes] = {
            method.name: MethodTypes(
                _resolved(method.input_type, package, types),
                _resolved(method.output_type, package, types),
                CallKind.of(method.client_streaming, method.server_streaming),
                method.options.idempotency_level in _SAFE,
            )
            for method in service.method
        }

    def message(self, name: str) -> type[Message] | None:
        """The class of a full name: of the service's file, or of another in its namespace."""
        return self.types.message(name) or self._find(name)

    def input(self, method: str, value: Any) -> Any:
        """A value as the method takes it: a dict becomes a message of its input type, None an empty one.

        All else, and everything for a method whose type is not known, stays as it is.

        Raises:
            InvalidArgumentError: there is no such method.
            CollectiveError: INVALID_ARGUMENT: the dict does not fit the type.
        """
        return self._typed(self._method(method).input, value)

    def output(self, method: str, value: Any) -> Any:
        """The same for what a handler of the method has returned."""
        return self._typed(self._method(method).output, value)

    def pack(self, method: str, value: Any) -> AnyMessage:
        """A value as the method's input, in an `Any`; one that is an `Any` goes as it is.

        Raises:
            InvalidArgumentError: there is no such method, or the value has no place on the wire.
            CollectiveError: INVALID_ARGUMENT: the value does not fit the type.
        """
        packed = to_any(self.input(method, value))
        due = self._method(method).input
        if due is not None and not isinstance(value, AnyMessage):
            name, given = due.DESCRIPTOR.full_name, packed.type_url.rpartition("/")[2]
            if given != name:
                raise call_error(GrpcStatus.INVALID_ARGUMENT, f"a {name} is due, not a {given}")
        return packed

    def unpack(self, packed: AnyMessage) -> Any:
        """What an `Any` holds: a message of the namespace's types, a value, or the `Any` itself if its type is unknown.

        Raises:
            CollectiveError: INVALID_ARGUMENT: it is broken.
        """
        name = packed.type_url.rpartition("/")[2]
        kind = None if name.startswith("google.protobuf.") else self.message(name)
        if kind is None:
            return from_any(packed)
        try:
            return kind.FromString(packed.value)
        except DecodeError as error:
            raise call_error(GrpcStatus.INVALID_ARGUMENT, f"not a {name}: {error}") from error

    def _typed(self, due: type[Message] | None, value: Any) -> Any:
        if due is not None:
            if value is None:
                return due()
            if isinstance(value, dict):
                return self.types.from_json(due, value)
        return value

    def _method(self, name: str) -> MethodTypes:
        found = self.methods.get(name)
        if found is None:
            raise InvalidArgumentError(
                f"no such method: {name!r}; there are {', '.join(self.methods) or 'none'}"
            )
        return found


def _resolved(name: str, package: str, types: TypeSet) -> type[Message] | None:
    """The type that a method names: fully with a leading dot, or relative to its package, innermost first."""
    if name.startswith("."):
        return types.message(name[1:])
    scope = package
    while name:
        found = types.message(f"{scope}.{name}" if scope else name)
        if found is not None or not scope:
            return found
        scope = scope.rpartition(".")[0]
    return None


def unnamed_service(name: str, methods: Mapping[str, tuple[CallKind, bool]]) -> ServiceDescriptorProto:
    """The descriptor of a service whose types nobody has said: kind and idempotency of its methods, by name."""
    service = ServiceDescriptorProto(name=name)
    for method, (kind, idempotent) in methods.items():
        proto: MethodDescriptorProto = service.method.add(name=method)
        if kind.streams_in:
            proto.client_streaming = True
        if kind.streams_out:
            proto.server_streaming = True
        if idempotent:
            proto.options.idempotency_level = MethodOptions.IDEMPOTENT
    return service

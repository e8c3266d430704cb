"""What a registry knows: files and services by namespace and name, in memory.

A store keeps entries, which are all alike: a kind, a namespace, a name, and bytes whose meaning only this module
knows. The catalogue is their readable form. It is filled from entries alone, by its store, and answers at once: no
question of a caller waits for a disk or for another machine.

A service is found by its full name ("shop.v1.OrderService"), and by the short one ("OrderService") if it was the
first in its namespace to have it, as with the services of a collector (see `names.py`). Of two services that differ
in their package, neither stands for the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import NamedTuple

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, ServiceDescriptorProto
from google.protobuf.message import DecodeError

from ...core.grpc_status import GrpcStatus
from ..errors import call_error
from ..names import ANY, OWN
from ..protos import registry_pb2 as pb


class Kind(StrEnum):
    """What an entry holds."""

    FILE = "file"
    """A serialized FileDescriptorProto."""
    SERVICE = "service"
    """A serialized RegisterServiceRequest, whose file_descriptor has a name and a package and nothing else."""


class Draft(NamedTuple):
    """An entry that shall be written."""

    kind: Kind
    namespace: str
    name: str
    content: bytes
    merge: Callable[[bytes], bytes] | None = None
    """Makes the content where there is an entry already, of that one's, in the step that writes it; None: `content`.

    It may be called more than once, and in another thread. A CollectiveError of it refuses what is put, and nothing else.
    """

    @property
    def key(self) -> tuple[Kind, str, str]:
        """What names the entry."""
        return self[:3]

    def over(self, known: bytes | None) -> bytes:
        """What is to be written over an entry's content; None: there is none."""
        return self.content if known is None or self.merge is None else self.merge(known)


class Entry(NamedTuple):
    """An entry as a store keeps it."""

    kind: Kind
    namespace: str
    name: str
    content: bytes
    version: int
    """1 at first, one more with each write that changed the content."""
    order: int
    """Grows from one entry to the next; the same for all versions of one."""


class FileRecord(NamedTuple):
    """A registered file."""

    descriptor: FileDescriptorProto
    version: int
    messages: tuple[str, ...]
    """Full names of what it defines, nested ones included."""


class ServiceRecord(NamedTuple):
    """A registered service."""

    message: pb.RegisteredService
    """Its public form. Shared: not to be changed."""
    methods: frozenset[str]
    file: str
    """Name of the file that defines it; empty if none was given."""
    package: str
    order: int


class Catalogue:
    """Files and services, by namespace and name. `revision` grows with every change of a file."""

    def __init__(self) -> None:
        self.revision = 0
        self.service_count = 0
        self.file_count = 0
        self._services: dict[str, dict[str, ServiceRecord]] = {}
        self._short: dict[str, dict[str, str]] = {}
        self._files: dict[str, dict[str, FileRecord]] = {}
        self._definers: dict[str, dict[str, str]] = {}

    # -- reading -------------------------------------------------------------------------------------------

    def service(self, namespace: str, name: str) -> ServiceRecord | None:
        """The service of that full or short name, or None."""
        exact = self._services.get(namespace)
        if exact is None:
            return None
        found = exact.get(name)
        return exact.get(self._short[namespace].get(name, "")) if found is None else found

    def has(self, namespace: str, service: str, method: str) -> bool:
        """Whether the method is registered."""
        found = self.service(namespace, service)
        if found is None:
            return False
        return method in found.methods or ANY in found.methods or method.startswith(OWN)

    def refusal(self, namespace: str, service: str, method: str) -> str:
        """The text that says which part of a name is not registered."""
        if namespace not in self._services:
            return f"no service is registered in namespace {namespace!r}"
        if self.service(namespace, service) is None:
            return f"service {service!r} is not registered in namespace {namespace!r}"
        return f"service {service!r} in namespace {namespace!r} is registered without a method {method!r}"

    def services(self, namespace: str = "") -> Iterator[pb.RegisteredService]:
        """Every service of a namespace, or of all, by namespace and name."""
        for each in [namespace] if namespace else sorted(self._services):
            records = self._services.get(each, {})
            for name in sorted(records):
                yield records[name].message

    def namespaces(self) -> tuple[str, ...]:
        """The namespaces with a service."""
        return tuple(sorted(self._services))

    def file(self, namespace: str, name: str) -> FileRecord | None:
        """The file of that name, or None."""
        return self._files.get(namespace, {}).get(name)

    def file_of(self, namespace: str, message: str) -> str | None:
        """The name of the file that was the last to define a message."""
        return self._definers.get(namespace, {}).get(message)

    def importers(self, namespace: str, names: Iterable[str]) -> set[str]:
        """The files that import one of these, at whatever distance; without these themselves."""
        files = self._files.get(namespace, {})
        given = set(names)
        reached, grown = set(given), True
        while grown:
            more = {
                name for name, record in files.items() if not reached.isdisjoint(record.descriptor.dependency)
            }
            grown = not more <= reached
            reached |= more
        return reached - given

    # -- filling -------------------------------------------------------------------------------------------

    def apply(self, entries: Iterable[Entry]) -> None:
        """Take over entries of the store. One that is older than what is known is passed over.

        Raises:
            CollectiveError: DATA_LOSS: an entry cannot be read.
        """
        for entry in entries:
            try:
                if entry.kind is Kind.FILE:
                    self._apply_file(entry)
                else:
                    self._apply_service(entry)
            except DecodeError as error:
                raise call_error(
                    GrpcStatus.DATA_LOSS,
                    f"the registry's {entry.kind} {entry.name!r} in {entry.namespace!r} cannot be read: {error}",
                ) from error

    def remove(self, kind: Kind, namespace: str, name: str) -> None:
        """Forget an entry, which somebody has taken out of the store."""
        if kind is Kind.FILE:
            if self._files.get(namespace, {}).pop(name, None) is None:
                return
            self.file_count -= 1
            self.revision += 1
            for message in [m for m, file in self._definers[namespace].items() if file == name]:
                self._lose_definer(namespace, message, name)
        else:
            records = self._services.get(namespace, {})
            if records.pop(name, None) is None:
                return
            self.service_count -= 1
            shorts = self._short[namespace]
            short = name.rpartition(".")[2]
            if shorts.get(short) == name:
                del shorts[short]
                heirs = [other for other in records if other.rpartition(".")[2] == short]
                if heirs:
                    shorts[short] = min(heirs, key=lambda heir: records[heir].order)
            if not records:
                del self._services[namespace], self._short[namespace]

    def holds(self, draft: Draft) -> bool:
        """Whether there is an entry of that kind and exact name."""
        kept = self._files if draft.kind is Kind.FILE else self._services
        return draft.name in kept.get(draft.namespace, {})

    def keys(self) -> set[tuple[Kind, str, str]]:
        """What there is an entry of."""
        found = {(Kind.FILE, namespace, name) for namespace, each in self._files.items() for name in each}
        return found | {
            (Kind.SERVICE, namespace, name) for namespace, each in self._services.items() for name in each
        }

    def _apply_file(self, entry: Entry) -> None:
        files = self._files.setdefault(entry.namespace, {})
        known = files.get(entry.name)
        if known is not None and known.version >= entry.version:
            return
        descriptor = FileDescriptorProto.FromString(entry.content)
        messages = tuple(message_names(descriptor))
        files[entry.name] = FileRecord(descriptor, entry.version, messages)
        self.file_count += known is None
        self.revision += 1
        definers = self._definers.setdefault(entry.namespace, {})
        if known is not None:
            for gone in set(known.messages) - set(messages):
                self._lose_definer(entry.namespace, gone, entry.name)
        definers.update(dict.fromkeys(messages, entry.name))

    def _lose_definer(self, namespace: str, message: str, file: str) -> None:
        definers = self._definers[namespace]
        if definers.get(message) == file:
            del definers[message]
            for other, record in self._files[namespace].items():
                if message in record.messages:
                    definers[message] = other

    def _apply_service(self, entry: Entry) -> None:
        known = self._services.get(entry.namespace, {}).get(entry.name)
        if known is not None and known.message.version >= entry.version:
            return
        stored = pb.RegisterServiceRequest.FromString(entry.content)
        methods = [method.name for method in stored.service_descriptor.method]
        message = pb.RegisteredService(
            id=f"{entry.namespace}/{entry.name}",
            namespace=entry.namespace,
            service_name=entry.name,
            service_descriptor=stored.service_descriptor,
            method_names=methods,
            version=entry.version,
        )
        file = stored.file_descriptor
        record = ServiceRecord(message, frozenset(methods), file.name, file.package, entry.order)
        records = self._services.setdefault(entry.namespace, {})
        records[entry.name] = record
        self.service_count += known is None
        # By order and not by arrival: every process that reads the store gives a short name to the same service.
        shorts = self._short.setdefault(entry.namespace, {})
        short = entry.name.rpartition(".")[2]
        holder = records.get(shorts.get(short, ""))
        if holder is None or holder.order > entry.order:
            shorts[short] = entry.name


def message_names(file: FileDescriptorProto) -> Iterator[str]:
    """Full names of the messages of a file, nested ones included, without those that stand for map entries."""

    def walk(prefix: str, messages: Iterable[DescriptorProto]) -> Iterator[str]:
        for message in messages:
            if not message.options.map_entry:
                name = f"{prefix}{message.name}"
                yield name
                yield from walk(f"{name}.", message.nested_type)

    return walk(f"{file.package}." if file.package else "", file.message_type)


def service_content(
    namespace: str, service: ServiceDescriptorProto, file: FileDescriptorProto | None
) -> bytes:
    """The content of a service's entry."""
    stored = pb.RegisterServiceRequest(namespace=namespace, service_descriptor=service)
    for method in stored.service_descriptor.method:
        # Some say what is so anyway, and mean the same as those who do not.
        for field in ("input_type", "output_type", "client_streaming", "server_streaming"):
            if not getattr(method, field):
                method.ClearField(field)
    if file is not None:
        stored.file_descriptor.name = file.name
        stored.file_descriptor.package = file.package
    return stored.SerializeToString(deterministic=True)


def with_methods(known: bytes, service: ServiceDescriptorProto) -> bytes:
    """The content of a service's entry with the methods added that it lacks.

    Raises:
        CollectiveError: FAILED_PRECONDITION: it was registered by its descriptor, which does not have them.
            DATA_LOSS: the entry cannot be read.
    """
    try:
        stored = pb.RegisterServiceRequest.FromString(known)
    except DecodeError as error:
        raise call_error(
            GrpcStatus.DATA_LOSS, f"the registered {service.name} cannot be read: {error}"
        ) from error
    whole = added(stored.service_descriptor, service, stored.namespace)
    file = stored.file_descriptor if stored.HasField("file_descriptor") else None
    return service_content(stored.namespace, whole, file)


def added(
    known: ServiceDescriptorProto, more: ServiceDescriptorProto, namespace: str
) -> ServiceDescriptorProto:
    """A registered service with the methods added that it lacks.

    Raises:
        CollectiveError: FAILED_PRECONDITION: it was registered by its descriptor, which does not have them.
    """
    names = {method.name for method in known.method}
    lacking = [method for method in more.method if method.name not in names]
    if lacking and any(method.input_type for method in known.method):
        raise call_error(
            GrpcStatus.FAILED_PRECONDITION,
            f"{more.name} in namespace {namespace} is registered by its descriptor, which does not have "
            + ", ".join(sorted(method.name for method in lacking)),
        )
    whole = ServiceDescriptorProto()
    whole.CopyFrom(known)
    whole.method.extend(lacking)
    return whole


def file_content(file: FileDescriptorProto) -> bytes:
    """The content of a file's entry. Comments are left out: a change of theirs is no new version."""
    bare = FileDescriptorProto()
    bare.CopyFrom(file)
    bare.ClearField("source_code_info")
    return bare.SerializeToString(deterministic=True)
